"""Surfaces of a moving model: `fuse.py` makes a mesh of one instant from rendered depth, `follow.py` of the whole clip.

`surface.py` takes the surface out of a grid of distances; `glb.py` writes meshes as glTF.
"""

from __future__ import annotations

from .follow import FollowedMesh, followed_mesh
from .fuse import fuse
from .glb import write_followed_mesh, write_mesh
from .surface import Mesh, surface

__all__ = ["FollowedMesh", "Mesh", "followed_mesh", "fuse", "surface", "write_followed_mesh", "write_mesh"]
