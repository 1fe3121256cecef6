"""A procedural moving world with exact ground truth: textured meshes, ray-cast, never Gaussians.

    world = make_world(seed=0)                # textured parts in motion; Z up, within 1.3 of the origin
    view = world.render(camera, time=0.5)     # rgb, alpha, depth, normal, flow, xyz
    write_scene("toy", seed=0)                # a D-NeRF folder that `load_scene` reads
    toy = make_toy(7, split="test")           # one toy within the unit sphere, and its caption
    views = render_views(toy.world, cameras, times)

Where to look: `shapes` makes meshes, `textures` colours points, `motions` moves frames, `raycast` asks embree, `world`
puts parts together, `drawing` turns a view into buffers and `batch` many views into pictures, `pieces` draws shapes and
textures at random, `build` a world of several toys, `objects` a single toy, `captions` says what it is.
"""

from __future__ import annotations

from .batch import ToyViews, render_views
from .build import make_world
from .drawing import ToyBuffers
from .folder import ring_cameras, write_scene
from .objects import Toy, make_toy
from .world import Part, ToyWorld

__all__ = [
    "Part",
    "Toy",
    "ToyBuffers",
    "ToyViews",
    "ToyWorld",
    "make_toy",
    "make_world",
    "render_views",
    "ring_cameras",
    "write_scene",
]
