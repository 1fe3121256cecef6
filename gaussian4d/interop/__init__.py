"""Our cameras and Gaussians as the objects of other libraries, and back. Start with the module of the library you use.

`gsplat` (dictionaries of parameters), `pytorch3d` and `open3d` (cameras, point clouds), `trimesh` (point clouds, meshes
of ellipsoids). Each imports its library when one of its functions is called, none is needed by anything else. Gaussians
of a moving model are handed over at one instant: `gsplat.to_gsplat(model.at(0.5))`.
"""
