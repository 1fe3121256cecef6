"""A procedural moving world with exact ground truth: textured meshes, ray-cast, never Gaussians.

    world = make_world(seed=0)                # textured parts in motion; Z up, within 1.3 of the origin
    view = world.render(camera, time=0.5)     # rgb, alpha, depth, normal, flow, xyz
    write_scene("toy", seed=0)                # a D-NeRF folder that `load_scene` reads

Where to look: `shapes` makes meshes, `textures` colours points, `motions` moves frames, `raycast` asks embree,
`world` puts parts together, `drawing` turns a view into buffers, `build` draws a world from a seed, `folder` writes it.
"""

from __future__ import annotations

from .build import make_world
from .drawing import ToyBuffers
from .folder import ring_cameras, write_scene
from .world import Part, ToyWorld

__all__ = ["Part", "ToyBuffers", "ToyWorld", "make_world", "ring_cameras", "write_scene"]
