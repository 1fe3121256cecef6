"""The cameras of a scene for other programs: nerfstudio's `transforms.json` and COLMAP's sparse model as text.

Cameras are those of the pictures that `scene` serves: pinholes without distortion, downscaled as the fit saw them.
Their places, and those of the points, are of the recorded world, in doubles. With `pictures` those pictures are written
too, and the result is a scene that `gaussian4d.load_scene`, nerfstudio or COLMAP reads; without, the names are those
that the pictures would have.

Pictures are named `images/CAMERA/INSTANT.png`, of cameras with a single picture `images/CAMERA_INSTANT.png`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from ..conventions import opengl_from_opencv
from ..data.point_files import write_points
from ..errors import UserError
from ..files import atomic_write, write_json
from ..folders import atomic_folder
from ..offsets import moved_camera

if TYPE_CHECKING:
    from ..data.records import PointCloud
    from ..scene import Frame, Scene

Watch = Callable[[Iterable[Any], str, int], Iterator[Any]]
"""Shows how far a loop is: takes its parts, a label and their number, and yields the parts."""

IMAGES = "images"


def write_transforms(
    path: str | os.PathLike[str],
    scene: Scene,
    *,
    points: PointCloud | None = None,
    pictures: bool = False,
    watch: Watch = lambda parts, label, total: iter(parts),
) -> int:
    """Returns the number of frames of the nerfstudio file written to `path`, all splits.

    Beyond nerfstudio's keys every frame has `camera_id` and `time` (clip time in [0, 1]). The file is written last, so
    that it never names what is not there yet.

    Args:
        path: The file; its folder takes `points.ply` and, with `pictures`, `images`, which must not hold anything.
        scene: Where cameras, times and pictures come from.
        points: World positions and colours, or None to name no points.
        pictures: Write the pictures too.
        watch: Shows progress.
    """
    target = Path(path)
    names = picture_names(scene.frames("all"))
    if pictures:
        write_pictures(target.parent / IMAGES, scene, names, watch)
    entries, listed = [], {}
    for frame, name in zip(scene.frames("all"), names):
        camera = moved_camera(frame.camera, scene.offset)
        entries.append(
            {
                "file_path": f"{IMAGES}/{name}",
                "camera_id": camera.id,
                "time": float(frame.time),
                "w": camera.width,
                "h": camera.height,
                "fl_x": float(camera.K[0, 0]),
                "fl_y": float(camera.K[1, 1]),
                "cx": float(camera.K[0, 2]),
                "cy": float(camera.K[1, 2]),
                "transform_matrix": opengl_from_opencv(camera.T_world_camera).tolist(),
            }
        )
        listed.setdefault(f"{frame.split}_filenames", []).append(f"{IMAGES}/{name}")
    content: dict[str, Any] = {"camera_model": "PINHOLE"}
    content |= {key: float(value) for key, value in (("fps", scene.fps), ("duration_seconds", scene.duration)) if value}
    if points is not None:
        write_points(target.parent / "points.ply", _recorded(points, scene))
        content["ply_file_path"] = "points.ply"
    write_json(target, content | {"frames": entries} | listed)
    return len(entries)


def write_colmap(
    folder: str | os.PathLike[str],
    scene: Scene,
    *,
    points: PointCloud | None = None,
    pictures: bool = False,
    watch: Watch = lambda parts, label, total: iter(parts),
) -> int:
    """Returns the number of images registered in `folder/sparse/0`, one per frame of all splits.

    COLMAP's files know neither times nor splits: the instant is the number in the name. The folder appears whole or not
    at all; one that stands there is replaced when it holds nothing but such a model. See `write_transforms`.
    """
    frames = scene.frames("all")
    names = picture_names(frames)
    lenses: dict[tuple[Any, ...], int] = {}
    images = []
    for number, (frame, name) in enumerate(zip(frames, names), start=1):
        camera = moved_camera(frame.camera, scene.offset)
        lens = (camera.width, camera.height, *(float(camera.K[place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2))))
        id = lenses.setdefault(lens, len(lenses) + 1)
        x, y, z, w = Rotation.from_matrix(camera.viewmat[:3, :3]).as_quat()
        pose = " ".join(repr(float(value)) for value in (w, x, y, z, *camera.viewmat[:3, 3]))
        # The empty line is that of the image's 2D points.
        images.append(f"{number} {pose} {id} {name}\n\n")
    cameras = [
        f"{id} PINHOLE {width} {height} {' '.join(map(repr, rest))}\n" for (width, height, *rest), id in lenses.items()
    ]
    rows = []
    if points is not None:
        points = _recorded(points, scene)
        for number, (place, color) in enumerate(zip(points.xyz.tolist(), points.rgb.tolist()), start=1):
            rows.append(f"{number} {' '.join(map(repr, place))} {' '.join(map(str, color))} 0\n")
    with atomic_folder(folder, rf"sparse|{IMAGES}") as temporary:
        model = temporary / "sparse" / "0"
        model.mkdir(parents=True)
        _write_table(model / "cameras.txt", "CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]", "cameras", cameras)
        _write_table(model / "images.txt", "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", "images", images)
        _write_table(model / "points3D.txt", "POINT3D_ID X Y Z R G B ERROR TRACK[]", "points", rows)
        if pictures:
            write_pictures(temporary / IMAGES, scene, names, watch)
    return len(images)


def _recorded(points: PointCloud, scene: Scene) -> PointCloud:
    """Returns points of the scene as places in the recorded world, doubles where these are far from the origin."""
    if not np.any(scene.offset):
        return points
    return dataclasses.replace(points, xyz=points.xyz.astype(np.float64) + scene.offset)


def picture_names(frames: Iterable[Frame]) -> list[str]:
    """Returns a file name, below the folder of pictures, for each frame; the last number in it is the instant.

    Raises `UserError` when two frames would get one name.
    """
    listed = list(frames)
    counts = Counter(frame.camera_id for frame in listed)
    names = []
    for frame in listed:
        camera = re.sub(r"[^A-Za-z0-9_.-]", "_", frame.camera_id).lstrip(".") or "camera"
        # With a folder of its own a picture would look like the recording of a fixed camera: its number would count
        # instants of that camera, of which there is one.
        between = "/" if counts[frame.camera_id] > 1 else "_"
        names.append(f"{camera}{between}{frame.time_index:05d}.png")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"two frames of the scene would both be named {twice[0]}; rename one of their cameras")
    return names


def write_pictures(
    folder: Path,
    scene: Scene,
    names: Sequence[str],
    watch: Watch = lambda parts, label, total: iter(parts),
) -> None:
    """Writes the pictures of all frames, named `names`, into a new `folder`, which appears whole or not at all."""
    frames = scene.frames("all")
    scene.prefetch(frames)
    with atomic_folder(folder) as temporary:
        for frame, name in watch(zip(frames, names), "pictures", len(names)):
            path = temporary / name
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.asarray(frame.image)).save(path)


def _write_table(path: Path, columns: str, things: str, rows: list[str]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(f"# {columns}\n# Number of {things}: {len(rows)}\n{''.join(rows)}", encoding="utf-8")
