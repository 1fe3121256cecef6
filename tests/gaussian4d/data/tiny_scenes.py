"""Tiny datasets of every format: a bright dot at a known 3D place, drawn where an independent projection puts it.

Nothing here uses the loaders' own maths, so that a wrong axis, half pixel or sign in a loader moves the dot away from
where the loaded camera expects it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT, FOCAL = 64, 48, 70.0

# Clip frames; the dot moves along x with the frame number.
COUNT = 5


def dot(k: int) -> np.ndarray:
    """Returns the dot's world position [3] at frame `k`."""
    return np.array([0.25 - 0.12 * k, 0.1, -0.15])


def poses(count: int = 3) -> list[np.ndarray]:
    """Returns world-to-camera matrices [4, 4], x right, y down, z forward, of cameras around the origin."""
    result = []
    for c in range(count):
        angle = 0.9 * c + 0.2
        place = np.array([3.0 * math.cos(angle), 3.0 * math.sin(angle), 0.8 - 0.5 * c])
        forward = -place / np.linalg.norm(place)
        up = np.array([0.1 * c, 0.0, 1.0])
        right = np.cross(forward, up)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        pose[:3, 3] = -pose[:3, :3] @ place
        result.append(pose)
    return result


def normalised(pose: np.ndarray, point: np.ndarray) -> tuple[float, float]:
    """Returns x / z, y / z of a world point [3] in the camera."""
    x, y, z = pose[:3, :3] @ point + pose[:3, 3]
    assert z > 0
    return x / z, y / z


def pixel(pose: np.ndarray, point: np.ndarray, cx: float = WIDTH / 2, cy: float = HEIGHT / 2) -> tuple[float, float]:
    """Returns the pixel, centres at +0.5, of a world point in an undistorted picture."""
    x, y = normalised(pose, point)
    return FOCAL * x + cx, FOCAL * y + cy


def picture(u: float, v: float, width: int = WIDTH, height: int = HEIGHT, background: int = 40) -> np.ndarray:
    """Returns uint8 [H, W, 3] with a soft white dot whose centre of mass is at pixel (u, v), centres at +0.5."""
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    blob = np.exp(-0.5 * (((x[None] - u) / 1.7) ** 2 + ((y[:, None] - v) / 1.7) ** 2))
    gray = background + (255 - background) * blob
    return np.repeat(np.round(gray).astype(np.uint8)[..., None], 3, axis=-1)


def find_dot(image: np.ndarray) -> tuple[float, float]:
    """Returns the pixel, centres at +0.5, of the dot in a picture."""
    level = image[..., :3].astype(np.float64).mean(-1)
    weight = np.clip(level - np.median(level) - 25, 0, None)
    assert weight.sum() > 0, "no dot in the picture"
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return float((weight * x).sum() / weight.sum()), float((weight * y).sum() / weight.sum())


def expected(frame, k: int) -> tuple[float, float]:
    """Returns where the loaded camera of a frame projects the dot of frame `k`."""
    x, y, z = frame.camera.viewmat[:3, :3] @ dot(k) + frame.camera.viewmat[:3, 3]
    K = frame.camera.K
    return K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]


def assert_dots(scene, tolerance: float = 0.15, index: Callable = lambda frame: frame.time_index) -> None:
    """Asserts that every frame shows the dot where its camera expects it."""
    assert scene.frames("all")
    for frame in scene.frames("all"):
        error = np.subtract(find_dot(frame.image), expected(frame, index(frame)))
        assert np.abs(error).max() < tolerance, (frame, error)


def opengl(pose: np.ndarray) -> list[list[float]]:
    """Returns the camera-to-world matrix with y up and z backwards."""
    return (np.linalg.inv(pose) @ np.diag([1.0, -1.0, -1.0, 1.0])).tolist()


def write_video(
    path: Path, frames: Sequence[np.ndarray], fps: int = 25, codec: str = "libx264", **options: str
) -> Path:
    """Writes uint8 frames [H, W, 3] as a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = ({"crf": "8"} if codec == "libx264" else {}) | options
        if codec == "mpeg4":
            stream.bit_rate = 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def dot_video(path: Path, pose: np.ndarray, count: int = COUNT, fps: int = 25, **options: str) -> Path:
    """Writes a video of the moving dot as an undistorted camera at `pose` sees it."""
    return write_video(path, [picture(*pixel(pose, dot(k))) for k in range(count)], fps, **options)


def write_dnerf(folder: Path, count: int = COUNT, cameras: int = 3) -> Path:
    """Writes a D-NeRF scene with camera ids; the last camera is the test."""
    for split, chosen in (("train", range(cameras - 1)), ("test", [cameras - 1])):
        frames = []
        (folder / split).mkdir(parents=True, exist_ok=True)
        for c in chosen:
            pose = poses(cameras)[c]
            for k in range(count):
                name = f"{split}/c{c}_t{k}"
                image = picture(*pixel(pose, dot(k)))
                alpha = np.where(image[..., :1] > 60, 255, 0).astype(np.uint8)
                Image.fromarray(np.concatenate([image, alpha], -1)).save(folder / f"{name}.png")
                frames.append(
                    {
                        "file_path": f"./{name}",
                        "time": k / (count - 1),
                        "transform_matrix": opengl(pose),
                        "camera_id": c,
                        "time_index": k,
                    }
                )
        angle = 2 * math.atan(0.5 * WIDTH / FOCAL)
        (folder / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    return folder


def write_panoptic(folder: Path, count: int = COUNT) -> Path:
    """Writes a PanopticSports scene: two training cameras with masks, one test camera without; 12 px off centre."""
    K = [[FOCAL, 0, WIDTH / 2 - 3], [0, FOCAL, HEIGHT / 2 + 2], [0, 0, 1]]
    for split, chosen in (("train", [0, 1]), ("test", [2])):
        meta: dict = {"w": WIDTH, "h": HEIGHT, "k": [], "w2c": [], "fn": [], "cam_id": []}
        for k in range(count):
            for key in ("k", "w2c", "fn", "cam_id"):
                meta[key].append([])
            for c in chosen:
                pose = poses()[c]
                name = f"{c}/{k:06d}.jpg"
                image = picture(*pixel(pose, dot(k), WIDTH / 2 - 3, HEIGHT / 2 + 2))
                (folder / "ims" / str(c)).mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(folder / "ims" / name, quality=97)
                if split == "train":
                    (folder / "seg" / str(c)).mkdir(parents=True, exist_ok=True)
                    Image.fromarray(image[..., 0] > 100).save(folder / "seg" / f"{c}/{k:06d}.png")
                for key, value in (("k", K), ("w2c", pose.tolist()), ("fn", name), ("cam_id", c)):
                    meta[key][k].append(value)
        (folder / f"{split}_meta.json").write_text(json.dumps(meta))
    return folder


def spoil(path: Path) -> None:
    """Overwrites the middle of a file with zeros; its beginning and end stay whole."""
    data = bytearray(path.read_bytes())
    low, high = int(0.4 * len(data)), int(0.8 * len(data))
    data[low:high] = bytes(high - low)
    path.write_bytes(data)


def nerfstudio(folder: Path, frames: list[dict], **extra: object) -> Path:
    """Writes a nerfstudio `transforms.json`."""
    content = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT}
    (folder / "transforms.json").write_text(json.dumps(content | extra | {"frames": frames}))
    return folder


def nerfstudio_images(folder: Path, cameras: int = 2, **each: object) -> list[dict]:
    """Writes a folder of pictures per camera, numbered from 7 on; returns the entries for `transforms.json`."""
    frames = []
    for c, pose in enumerate(poses(cameras)):
        (folder / f"cam{c}").mkdir()
        for k in range(COUNT):
            name = f"cam{c}/frame_{k + 7}.png"
            Image.fromarray(picture(*pixel(pose, dot(k)))).save(folder / name)
            frames.append({"file_path": name, "transform_matrix": opengl(pose)} | each)
    return frames


def qualisys_text(
    cameras: Sequence[np.ndarray], names: Sequence[str], distortion: Sequence[float] = (0, 0, 0, 0)
) -> str:
    """Returns a Qualisys calibration: camera axes with y up and z backwards, 64ths of pixels counted from centres."""
    rows = []
    for pose, name in zip(cameras, names):
        R = np.diag([1.0, -1.0, -1.0]) @ pose[:3, :3]
        x, y, z = np.linalg.inv(pose)[:3, 3]
        r = " ".join(f'r{i + 1}{j + 1}="{R[i, j]!r}"' for i in range(3) for j in range(3)).replace("np.float64", "")
        r = r.replace("(", "").replace(")", "")
        k1, k2, p1, p2 = distortion
        rows.append(
            f'<camera active="1" serial="{name}">'
            f'<fov_video left="0" top="0" right="{WIDTH - 1}" bottom="{HEIGHT - 1}"/>'
            f'<transform {r} x="{x}" y="{y}" z="{z}"/>'
            f'<intrinsic focalLengthU="{FOCAL * 64}" focalLengthV="{FOCAL * 64}" skew="0"'
            f' centerPointU="{(WIDTH / 2 - 0.5) * 64}" centerPointV="{(HEIGHT / 2 - 0.5) * 64}"'
            f' radialDistortion1="{k1}" radialDistortion2="{k2}"'
            f' radialDistortion3="0" tangentalDistortion1="{p1}" tangentalDistortion2="{p2}"/></camera>'
        )
    return "<?xml version='1.0' encoding='ASCII'?><calibration><cameras>" + "".join(rows) + "</cameras></calibration>"


def opencv_xml(pose: np.ndarray, distortion: Sequence[float] = (0.0,) * 5, rotation: np.ndarray | None = None) -> str:
    """Returns an OpenCV FileStorage XML of one camera; the rotation is 3x3 unless given."""
    K = [[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]]
    matrices = {
        "CameraMatrix": np.array(K),
        "DistortionCoeffs": np.array([distortion], dtype=float),
        "Rotation": pose[:3, :3] if rotation is None else rotation,
        "Translation": pose[:3, 3:],
    }
    body = "".join(
        f'<{name} type_id="opencv-matrix"><rows>{m.shape[0]}</rows><cols>{m.shape[1]}</cols><dt>d</dt>'
        f"<data>\n  {' '.join(format(x, '.17g') for x in m.ravel())}</data></{name}>\n"
        for name, m in matrices.items()
    )
    return f'<?xml version="1.0"?>\n<opencv_storage>\n{body}</opencv_storage>\n'


def brown(distortion: Sequence[float], x: float, y: float) -> tuple[float, float]:
    """Returns the distorted coordinates of Brown's model, k1 k2 p1 p2 k3."""
    k1, k2, p1, p2, k3 = distortion
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )
