"""Tiny scenes in the exact layouts of published datasets, all of them of the same cameras and the same moving dot.

Every writer spells its format's conventions out on its own; none uses the loaders' code.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation
from tiny_scenes import FOCAL, HEIGHT, WIDTH, dot, picture, pixel, poses, write_video

# Enough that a tenth frame follows the ninth.
FRAMES = 12

# The one point that every loader must put on the same pixel; beside all axes and all dots.
POINT = np.array([0.31, -0.17, 0.23])


@dataclasses.dataclass(frozen=True)
class Layout:
    """A format and what its loader must find in the tiny scene."""

    name: str
    write: Callable[[Path], object]
    format: str
    cameras: tuple[str, ...]
    """Camera ids, in the order of `poses()`; ids of moving cameras start with them."""
    test: tuple[str, ...]
    """Cameras held out as test; empty: instants are held out."""
    downscale: float = 1.0
    fps: float | None = None
    tolerance: float = 0.15
    """Pixels, of the drawn dots; the projection itself is exact."""


def shot(c: int, k: int) -> np.ndarray:
    """Returns the picture of camera `c` at frame `k`, uint8 [H, W, 3]."""
    return picture(*pixel(poses()[c], dot(k)))


def save(path: Path, image: np.ndarray) -> None:
    """Writes a picture, with all its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **({"quality": 97} if path.suffix == ".jpg" else {}))


def save_clip(path: Path, c: int, count: int = FRAMES) -> None:
    """Writes the video of camera `c`."""
    write_video(path, [shot(c, k) for k in range(count)], fps=30)


def llff_rows() -> np.ndarray:
    """Returns `poses_bounds` [3, 17]: axes down, right, back; place; height, width, focal length; near, far."""
    rows = []
    for pose in poses():
        right, down, forward = pose[:3, :3]
        place = -pose[:3, :3].T @ pose[:3, 3]
        matrix = np.stack([down, right, -forward, place, [HEIGHT, WIDTH, FOCAL]], axis=1)
        rows.append(np.concatenate([matrix.ravel(), [0.5, 9.0]]))
    return np.array(rows)


def write_n3dv(folder: Path) -> None:
    """Videos of cameras 0, 2 and 10 (others were filtered out), and `poses_bounds.npy`."""
    for c, number in enumerate((0, 2, 10)):
        save_clip(folder / f"cam{number:02d}.mp4", c)
    np.save(folder / "poses_bounds.npy", llff_rows())


def write_n3dv_unpacked(folder: Path) -> None:
    """The layout 4DGaussians makes of it."""
    for c in range(3):
        for k in range(FRAMES):
            save(folder / f"cam{c:02d}" / "images" / f"{k}.png", shot(c, k))
    np.save(folder / "poses_bounds.npy", llff_rows())


def ply(path: Path, points: list[tuple[float, float, float, int, int, int]]) -> None:
    """Writes points and their colours as an ASCII PLY."""
    header = f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz")
    header += "".join(f"property uchar {channel}\n" for channel in ("red", "green", "blue")) + "end_header\n"
    path.write_text(header + "".join(" ".join(map(str, point)) + "\n" for point in points))


def colmap_images(first: int = 0) -> list[tuple[int, str, np.ndarray, np.ndarray]]:
    """Returns (id, number, quaternion wxyz, translation) of the registered images, in an order of COLMAP's own."""
    rows = []
    for c in (2, 0, 1):
        x, y, z, w = Rotation.from_matrix(poses()[c][:3, :3]).as_quat()
        rows.append((10 + c, f"{c + first:02d}", np.array([w, x, y, z]), poses()[c][:3, 3]))
    return rows


def write_colmap_text(
    model: Path,
    camera: str = f"PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}",
    name: str = "cam{}.png",
) -> None:
    """Writes a text model; the images have no 2D points but for the first."""
    model.mkdir(parents=True, exist_ok=True)
    (model / "cameras.txt").write_text(f"# Camera list\n# Number of cameras: 1\n7 {camera}\n")
    lines = ["# Image list with two lines of data per image:", "# Number of images: 3, mean observations per image: 1"]
    for id, stem, quat, place in colmap_images():
        numbers = " ".join(repr(float(x)) for x in (*quat, *place))
        lines += [f"{id} {numbers} 7 {name.format(stem)}", "10.5 20.5 1" if id == 12 else ""]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    x, y, z = POINT
    (model / "points3D.txt").write_text(f"# Number of points: 1, mean track length: 1\n1 {x} {y} {z} 9 8 7 0.5 12 0\n")


def write_colmap_binary(model: Path, name: str = "cam{}.png", first: int = 0) -> None:
    """Writes a binary model."""
    model.mkdir(parents=True, exist_ok=True)
    data = struct.pack("<QIiQQ4d", 1, 7, 1, WIDTH, HEIGHT, FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
    (model / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", 3)
    for id, stem, quat, place in colmap_images(first):
        data += struct.pack("<I7dI", id, *quat, *place, 7) + name.format(stem).encode() + b"\0"
        data += struct.pack("<Q2dq", 1, 10.5, 20.5, 1)
    (model / "images.bin").write_bytes(data)
    (model / "points3D.bin").write_bytes(struct.pack("<QQ3d3BdQII", 1, 1, *POINT, 9, 8, 7, 0.5, 1, 12, 0))


def write_colmap_videos(folder: Path) -> None:
    """A binary model of one instant and a video per camera."""
    write_colmap_binary(folder / "sparse" / "0")
    for c in range(3):
        save_clip(folder / "videos" / f"cam{c:02d}.mp4", c)


def write_colmap_folders(folder: Path) -> None:
    """A text model of each camera's first picture, and a folder of pictures per camera (FreeTimeGS's layout)."""
    write_colmap_text(folder / "sparse", name="cam{}/0.png")
    for c in range(3):
        for k in range(FRAMES):
            save(folder / "images" / f"cam{c:02d}" / f"{k}.png", shot(c, k))


def write_colmap_frames(folder: Path) -> None:
    """A text model of one instant, and a folder per frame."""
    write_colmap_text(folder / "sparse" / "0")
    for c in range(3):
        for k in range(FRAMES):
            save(folder / "images" / f"frame_{k}" / f"cam{c:02d}.png", shot(c, k))


def write_nerfies_pictures(folder: Path, names: dict[tuple[int, int], str], factor: int = 2) -> None:
    """Writes `camera/` and `rgb/Fx/` for pictures {(camera, frame): id}; cameras are stated for `rgb/1x`."""
    (folder / "camera").mkdir(parents=True)
    for (c, k), id in names.items():
        pose = poses()[c]
        camera = {
            "orientation": pose[:3, :3].tolist(),
            "position": (-pose[:3, :3].T @ pose[:3, 3]).tolist(),
            "focal_length": FOCAL * factor,
            "principal_point": [WIDTH / 2 * factor, HEIGHT / 2 * factor],
            "skew": 0.0,
            "pixel_aspect_ratio": 1.0,
            "radial_distortion": [0.0, 0.0, 0.0],
            "tangential_distortion": [0.0, 0.0],
            "image_size": [WIDTH * factor, HEIGHT * factor],
        }
        (folder / "camera" / f"{id}.json").write_text(json.dumps(camera))
        save(folder / "rgb" / f"{factor}x" / f"{id}.png", shot(c, k))
    np.save(folder / "points.npy", POINT[None].astype(np.float32))
    (folder / "scene.json").write_text(json.dumps({"scale": 0.02, "center": [1, 2, 3], "near": 0.1, "far": 2.0}))


def write_nerfies(folder: Path) -> None:
    """HyperNeRF's validation rig: cameras 0 and 1 train, camera 2 is `val_ids`."""
    names = {(c, k): f"{['left', 'right', 'val'][c]}_{k}" for k in range(FRAMES) for c in range(3)}
    write_nerfies_pictures(folder, names)
    metadata = {id: {"warp_id": k, "appearance_id": k, "camera_id": c} for (c, k), id in names.items()}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    ids = {"ids": list(names.values()), "count": len(names), "num_exemplars": 2 * FRAMES}
    ids["train_ids"] = [id for (c, _), id in names.items() if c < 2]
    ids["val_ids"] = [id for (c, _), id in names.items() if c == 2]
    (folder / "dataset.json").write_text(json.dumps(ids))


def write_dycheck(folder: Path) -> None:
    """DyCheck: camera 0 trains, cameras 1 and 2 are `val` with masks of what was seen: the left half."""
    names = {(c, k): f"{c}_{k:05d}" for k in range(FRAMES) for c in range(3)}
    write_nerfies_pictures(folder, names)
    metadata = {id: {"warp_id": k, "appearance_id": k, "camera_id": c} for (c, k), id in names.items()}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    (folder / "dataset.json").write_text(json.dumps({"ids": list(names.values()), "count": len(names)}))
    (folder / "extra.json").write_text(json.dumps({"factor": 2, "fps": 30, "bbox": [[-1] * 3, [1] * 3]}))
    (folder / "splits").mkdir()
    for split, chosen in (("train", (0,)), ("val", (1, 2))):
        rows = [(id, c, k) for (c, k), id in names.items() if c in chosen]
        columns = dict(zip(("frame_names", "camera_ids", "time_ids"), map(list, zip(*rows))))
        (folder / "splits" / f"{split}.json").write_text(json.dumps(columns))
    seen = np.zeros((HEIGHT, WIDTH), np.uint8)
    seen[:, : WIDTH // 2] = 255
    for (c, _), id in names.items():
        if c:
            save(folder / "covisible" / "2x" / "val" / f"{id}.png", seen)


def write_technicolor(folder: Path) -> None:
    """Pictures of cameras 0, 3 and 10 of a rig of 11; frames numbered from 95 on, without zeros in front."""
    rows = ["f cu cv ar sk qw qx qy qz tx ty tz"]
    for row in range(11):
        pose = poses()[{0: 0, 3: 1, 10: 2}.get(row, 0)]
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        numbers = (FOCAL, WIDTH / 2, HEIGHT / 2, 1.0, 0.0, w, x, y, z, *pose[:3, 3])
        rows.append(" ".join(repr(float(number)) for number in numbers))
    (folder / "cameras_parameters.txt").write_text("\n".join(rows) + "\n")
    for c, camera in enumerate((0, 3, 10)):
        for k in range(FRAMES):
            save(folder / f"Painter_undist_{95 + k}_{camera:02d}.png", shot(c, k))


def write_easyvolcap(folder: Path, *, videos: bool = False) -> None:
    """`intri.yml`, `extri.yml`, pictures (or videos) and masks per camera; pixel centres at +0.5, t_ is a time."""

    def entry(name: str, values: np.ndarray) -> str:
        rows, cols = values.shape
        data = ", ".join(repr(float(x)) for x in values.ravel())
        return f"{name}: !!opencv-matrix\n   rows: {rows}\n   cols: {cols}\n   dt: d\n   data: [ {data} ]\n"

    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])
    intri = extri = '%YAML:1.0\n---\nnames:\n   - "00"\n   - "01"\n   - "02"\n'
    for c, pose in enumerate(poses()):
        name = f"{c:02d}"
        intri += (
            entry(f"K_{name}", K) + f"H_{name}: {HEIGHT}.\nW_{name}: {WIDTH}.\n" + entry(f"D_{name}", np.zeros((5, 1)))
        )
        extri += entry(f"R_{name}", Rotation.from_matrix(pose[:3, :3]).as_rotvec()[:, None])
        extri += entry(f"Rot_{name}", pose[:3, :3]) + entry(f"T_{name}", pose[:3, 3:]) + f"t_{name}: 0.\n"
        if videos:
            save_clip(folder / "videos" / f"{name}.mp4", c)
            continue
        for k in range(FRAMES):
            save(folder / "images" / name / f"{k}.jpg", shot(c, k))
            save(folder / "masks" / name / f"{k}.png", np.where(shot(c, k)[..., 0] > 100, 255, 0).astype(np.uint8))
    (folder / "intri.yml").write_text(intri)
    (folder / "extri.yml").write_text(extri)


def write_multipleview(folder: Path) -> None:
    """4DGaussians' own: cameras and frames counted from 1, a binary model of one instant, points, a path."""
    write_colmap_binary(folder / "sparse_", name="image{}.png", first=1)
    for c in range(3):
        for k in range(FRAMES):
            save(folder / f"cam{c + 1:02d}" / f"frame_{k + 1:05d}.jpg", shot(c, k))
    ply(folder / "points3D_multipleview.ply", [(*POINT, 200, 100, 50)])
    np.save(folder / "poses_bounds_multipleview.npy", llff_rows())


CAMERAS = ("cam00", "cam01", "cam02")

LAYOUTS = [
    Layout("n3dv", write_n3dv, "n3dv", ("cam00", "cam02", "cam10"), ("cam00",), downscale=2, fps=30),
    Layout("n3dv_unpacked", write_n3dv_unpacked, "n3dv", CAMERAS, ("cam00",), downscale=2, fps=30),
    Layout("colmap_videos", write_colmap_videos, "colmap", CAMERAS, (), fps=30),
    Layout("colmap_folders", write_colmap_folders, "colmap", CAMERAS, ()),
    Layout("colmap_frames", write_colmap_frames, "colmap", CAMERAS, ()),
    Layout("nerfies", write_nerfies, "nerfies", ("0", "1", "2"), ("2",)),
    Layout("dycheck", write_dycheck, "dycheck", ("0", "1", "2"), ("1", "2"), fps=30),
    Layout("technicolor", write_technicolor, "technicolor", ("00", "03", "10"), ("10",)),
    Layout("easyvolcap", write_easyvolcap, "easyvolcap", ("00", "01", "02"), ()),
    Layout(
        "easyvolcap_videos",
        lambda folder: write_easyvolcap(folder, videos=True),
        "easyvolcap",
        ("00", "01", "02"),
        (),
        fps=30,
    ),
    Layout("multipleview", write_multipleview, "multipleview", ("cam01", "cam02", "cam03"), ()),
]


def rewrite_json(path: Path, change: Callable[[dict], object]) -> None:
    """Changes a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
