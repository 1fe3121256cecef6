"""What `export` writes of a run besides its Gaussians: meshes, point tracks, cameras with or without their pictures.

To add one, write a function that takes an `Opened`, the path and an `Export`, and add a line to `SCENE_FORMATS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..offsets import offset_of, text_of
from .placing import told

if TYPE_CHECKING:
    from ..scene import Scene
    from .export import Export
    from .opened import Opened


@dataclasses.dataclass(frozen=True)
class SceneFormat:
    """One kind of file; without an ending it is a folder, asked for by `--format`."""

    name: str
    ending: str
    """What chooses the format; with `--format` its last part is enough."""
    title: str
    write: Callable[[Opened, Path, Export], None]


def find_scene_format(path: Path, format: str | None) -> SceneFormat | None:
    """Returns the format that `format`, or else the ending of `path`, means; None when it is one of Gaussians.

    Raises `UserError` when both are given and disagree.
    """
    for known in SCENE_FORMATS:
        ends = bool(known.ending) and path.name.lower().endswith(known.ending)
        if format is None and ends:
            return known
        if format == known.name:
            last = Path(known.ending).suffix or known.ending
            if known.ending and path.suffix.lower() != last:
                raise UserError(f"{path.name}: {known.title} is named {last}; rename it")
            if not known.ending and path.suffix and not path.is_dir():
                raise UserError(f"{path}: {known.title} is a folder; expected a name without an ending")
            return known
    return None


def scene_formats() -> list[str]:
    """Returns the names that `--format` takes."""
    return [known.name for known in SCENE_FORMATS]


def scene_format_names() -> list[str]:
    """Returns the names and endings, with their dots, of all of them."""
    return [name for known in SCENE_FORMATS for name in (known.name, known.ending) if name]


def _mesh(opened: Opened, path: Path, options: Export) -> None:
    from ..mesh import fuse, write_mesh

    time, device = _time(opened, options), told(opened.placement)
    mesh = fuse(opened.model, time, opened.cameras, detail=options.mesh_detail, device=device)
    write_mesh(path, mesh, vertical_axis=opened.vertical_axis, offset=offset_of(opened.model))
    _say_offset(opened)
    print(f"wrote {path}: {len(mesh.faces):,} triangles, the instant {time:g} of the clip")


def _mesh_sequence(opened: Opened, path: Path, options: Export) -> None:
    from ..folders import atomic_folder
    from ..mesh import fuse, write_mesh
    from .console import track

    times, cameras, device = _times(opened, options), opened.cameras, told(opened.placement)
    faces = 0
    with atomic_folder(path, r"frame_\d+\.glb") as folder:
        for index, time in enumerate(track(times, "meshes", len(times))):
            mesh = fuse(opened.model, float(time), cameras, detail=options.mesh_detail, device=device)
            write_mesh(
                folder / f"frame_{index:04d}.glb",
                mesh,
                vertical_axis=opened.vertical_axis,
                offset=offset_of(opened.model),
            )
            faces += len(mesh.faces)
    _say_offset(opened)
    print(f"wrote {len(times)} meshes {path / 'frame_0000.glb'} ..., {faces // len(times):,} triangles each on average")


def _mesh_morph(opened: Opened, path: Path, options: Export) -> None:
    from ..mesh import followed_mesh, write_followed_mesh

    time = _time(opened, options)
    followed = followed_mesh(
        opened.model,
        time,
        _times(opened, options),
        opened.cameras,
        detail=options.mesh_detail,
        device=told(opened.placement),
    )
    write_followed_mesh(
        path,
        followed,
        opened.length.seconds or 1.0,
        vertical_axis=opened.vertical_axis,
        offset=offset_of(opened.model),
    )
    _say_offset(opened)
    faces, targets = len(followed.mesh.faces), len(followed.times)
    print(f"wrote {path}: {faces:,} triangles of the instant {time:g}, followed to {targets} instants")


def _time(opened: Opened, options: Export) -> float:
    """Returns the instant that was asked for, the first that was recorded where none was."""
    from ..clip_length import played_span

    return played_span(opened.model)[0] if options.time is None else options.time


def _times(opened: Opened, options: Export) -> Sequence[float]:
    from ..clip_length import played_span
    from ..io.cubic import written_instants
    from ..paths import clip_times

    span = played_span(opened.model)
    return (clip_times(options.count, span) if options.count else written_instants(opened.model)).tolist()


def _tracks(opened: Opened, path: Path, options: Export) -> None:
    from ..io.track_file import write_tracks

    times = None if options.count is None else _times(opened, options)
    time = _time(opened, options)
    xyz = write_tracks(path, opened.model, count=options.points, start=time, times=times)
    _say_offset(opened)
    print(
        f"wrote {path}: {xyz.shape[1]:,} points at {len(xyz)} instants, chosen at clip time {_time(opened, options):g}"
    )


def _transforms(opened: Opened, path: Path, options: Export) -> None:
    from ..io.camera_files import write_transforms
    from ..io.track_file import points_of
    from .console import track

    scene = _scene(opened)
    points = points_of(opened.model, _time(opened, options))
    count = write_transforms(path, scene, points=points, pictures=options.pictures, watch=track)
    _say(f"wrote {path}: {count:,} frames of {len(scene.cameras)} cameras", path.parent, options)


def _colmap(opened: Opened, path: Path, options: Export) -> None:
    from ..io.camera_files import write_colmap
    from ..io.track_file import points_of
    from .console import track

    scene = _scene(opened)
    points = points_of(opened.model, _time(opened, options))
    count = write_colmap(path, scene, points=points, pictures=options.pictures, watch=track)
    _say(f"wrote {path / 'sparse' / '0'}: {count:,} images, {len(points):,} points", path, options)


def _say_offset(opened: Opened) -> None:
    """Prints where a scene far from the origin stands, for files that keep that beside their positions."""
    if (offset := offset_of(opened.model)).any():
        print(f"positions are relative to {text_of(offset)} of the recorded world, which the file stores")


def _say(line: str, folder: Path, options: Export) -> None:
    print(line)
    if options.pictures:
        print(f"images are in {folder / 'images'}: {folder} is a scene")
    else:
        print("images are referenced but not written; --pictures writes them")


def _scene(opened: Opened) -> Scene:
    if opened.scene is None:
        raise UserError(
            f"the cameras that {opened.path} was fitted to are not known; expected a run folder whose scene can be"
            " found"
        )
    return opened.scene


SCENE_FORMATS = (
    SceneFormat("mesh", ".mesh.glb", "a mesh", _mesh),
    SceneFormat("mesh-morph", ".morph.glb", "a moving mesh", _mesh_morph),
    SceneFormat("mesh-sequence", "", "a sequence of meshes", _mesh_sequence),
    SceneFormat("tracks", ".npz", "a file of point tracks", _tracks),
    SceneFormat("nerfstudio", ".json", "nerfstudio's transforms.json", _transforms),
    SceneFormat("colmap", "", "a COLMAP model", _colmap),
)
"""Every format, in the order of the documentation."""
