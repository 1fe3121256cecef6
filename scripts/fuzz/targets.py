"""What is fuzzed: a small valid sample of every file format and of every dataset reader, and what reading it means."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
# The tests' writers of tiny scenes spell out each format on their own; they are what a stranger's folder looks like.
for folder in ("tests/gaussian4d/data", "tests/gaussian4d/io", "tests"):
    sys.path.append(str(ROOT / folder))


@dataclasses.dataclass(frozen=True)
class Target:
    """One thing that is fuzzed."""

    name: str
    write: Callable[[Path], Path]
    """Writes a valid sample into an empty folder; returns the path that is read: a file, or a folder to change."""
    read: Callable[[Path], None]
    """Reads it, and all in it that a command would use. Raises `UserError` to refuse, `Wrong` for a silent lie."""


class Wrong(Exception):
    """What was read cannot be used, and nothing was said."""


def targets() -> dict[str, Target]:
    """Returns all targets by name: `format/NAME`, `reader/NAME`."""
    return {target.name: target for target in [*_formats(), *_readers()]}


def _formats() -> list[Target]:
    from test_hostile_files import write_sample
    from test_hostile_scenes import moving

    from gaussian4d.io.registry import write_model
    from gaussian4d.plugins import FORMATS

    def of(name: str) -> Callable[[Path], Path]:
        return lambda folder: write_sample(folder, name)

    def g4d(motion: str) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            write_model(folder / "a.g4d", moving(motion))
            return folder / "a.g4d"

        return write

    found = [Target(f"format/{name}", of(name), read_file) for name in FORMATS.names() if name != "g4d"]
    motions = ("static", "free-time", "dual-domain", "spacetime", "hexplane", "rigid-parts")
    found += [Target(f"format/g4d-{motion}", g4d(motion), read_file) for motion in motions]
    return [*found, Target("format/sequence", _sequence, read_file)]


def _sequence(folder: Path) -> Path:
    from test_hostile_files import write_sample

    (folder / "clip").mkdir()
    for k in range(3):
        write_sample(folder, "ply").rename(folder / "clip" / f"frame_{k:04d}.ply")
    return folder / "clip"


def read_file(path: Path) -> None:
    """Reads a file of Gaussians and draws it at three times; what was read must be numbers and draw as numbers."""
    from gaussian4d.cameras import Camera
    from gaussian4d.model import load_model
    from gaussian4d.rendering import render

    model = load_model(path)
    for name, value in model.params.items():
        if torch.isnan(value).any():
            raise Wrong(f"NaN in {name}")
    camera = Camera.look_at(
        np.array([3.0, 0.0, 1.0]), np.zeros(3), np.array([0.0, 0.0, 1.0]), width=24, height=16, focal=20.0, id="c"
    )
    for time in (0.0, 0.37, 1.0):
        output = render(model, camera, time)
        assert output.rgb is not None
        if not torch.isfinite(output.rgb).all():
            raise Wrong(f"the picture at {time} is not finite")


def _readers() -> list[Target]:
    from layouts import LAYOUTS, write_colmap_text
    from tiny_scenes import nerfstudio, nerfstudio_images, write_dnerf, write_panoptic

    def dnerf(folder: Path) -> Path:
        write_dnerf(folder / "scene", count=3)
        return folder / "scene"

    def panoptic(folder: Path) -> Path:
        write_panoptic(folder / "scene", count=3)
        return folder / "scene"

    def transforms(folder: Path) -> Path:
        (folder / "scene").mkdir()
        frames = nerfstudio_images(folder / "scene")
        nerfstudio(folder / "scene", frames)
        return folder / "scene"

    def colmap_text(folder: Path) -> Path:
        from layouts import save, shot

        write_colmap_text(folder / "scene" / "sparse" / "0")
        for c in range(3):
            save(folder / "scene" / "images" / f"cam{c:02d}.png", shot(c, 0))
        return folder / "scene"

    def llff(folder: Path) -> Path:
        from layouts import llff_rows, save, shot

        for c in range(3):
            save(folder / "scene" / "images" / f"IMG_{c}.png", shot(c, 0))
        np.save(folder / "scene" / "poses_bounds.npy", llff_rows())
        return folder / "scene"

    def videos(folder: Path) -> Path:
        from test_formats import write_qualisys

        return write_qualisys(folder / "scene")

    def layout(write: Callable[[Path], object]) -> Callable[[Path], Path]:
        def into(folder: Path) -> Path:
            (folder / "scene").mkdir()
            write(folder / "scene")
            return folder / "scene"

        return into

    own = {
        "dnerf": dnerf, "panoptic": panoptic, "nerfstudio": transforms, "colmap_text": colmap_text, "llff": llff,
        "videos": videos,
    }  # fmt: skip
    found = [Target(f"reader/{name}", write, read_scene) for name, write in own.items()]
    return found + [Target(f"reader/{item.name}", layout(item.write), read_scene) for item in LAYOUTS]


def read_scene(path: Path) -> None:
    """Inspects a scene folder and decodes the pictures of its first and last frames, as `info` and `fit` do."""
    from gaussian4d.errors import UserError
    from gaussian4d.scene import inspect

    scene, problems = inspect(path)
    broken = [problem for problem in problems if problem.severity == "error"]
    if scene is None or broken:
        if not broken:
            raise Wrong("no scene, and no problem named")
        raise UserError("; ".join(str(problem)[:500] for problem in broken[:3]))
    for camera in scene.cameras.values():
        if not (np.isfinite(camera.viewmat).all() and np.isfinite(camera.K).all()):
            raise Wrong(f"camera {camera.id} is not finite")
        if np.abs(camera.viewmat[:3, :3] @ camera.viewmat[:3, :3].T - np.eye(3)).max() > 1e-2:
            raise Wrong(f"camera {camera.id} has no rotation")
    if not np.isfinite(scene.times).all() or scene.times.min() < 0 or scene.times.max() > 1:
        raise Wrong(f"clip times {scene.times}")
    if scene.points is not None and not np.isfinite(scene.points.xyz).all():
        raise Wrong("points that are not finite")
    frames = list(scene.frames("all"))
    for frame in [*frames[:2], *frames[-1:]]:
        size = (frame.camera.height, frame.camera.width)
        if frame.image.shape[:2] != size or (frame.mask is not None and frame.mask.shape != size):
            raise Wrong(f"{frame.source} is {frame.image.shape}, its camera says {size}")


def quiet(read: Callable[[Path], None], path: Path) -> None:
    """Reads without showing warnings, which are how a reader says what it left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read(path)
