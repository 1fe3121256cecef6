"""A toy world as a data set: RGBA pictures and cameras in D-NeRF's layout."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ..cameras import Camera
from ..conventions import frame_times, opengl_from_opencv
from ..errors import UserError
from ..files import write_json
from ..folders import atomic_folder, check_replaceable
from .build import RADIUS, make_world
from .world import ToyWorld

# Elevations of the rings of training cameras, in degrees; test cameras stand halfway between.
_RINGS = (14.0, 42.0)


def ring_cameras(
    train: int = 10,
    test: int = 2,
    *,
    width: int = 200,
    height: int = 200,
    focal: float | None = None,
    distance: float = 4.0,
) -> tuple[list[Camera], list[Camera]]:
    """Returns training and test cameras around the upper hemisphere, all looking at the origin.

    Training cameras go round at even azimuths, low and high in turn. Test cameras stand halfway between two training
    neighbours, spread around the circle, at the middle elevation. Ids count through: training first.

    Args:
        focal: In pixels; None frames the sphere that holds every toy world.
        distance: From the origin.
    """
    if train < 1 or test < 0 or test > train:
        raise UserError(f"expected at least 1 training camera and at most as many test cameras, got {train} and {test}")
    if width < 1 or height < 1:
        raise UserError(f"expected a picture of at least 1x1 pixels, got {width}x{height}")
    if distance <= RADIUS:
        raise UserError(f"expected cameras outside the world (distance above {RADIUS}), got {distance}")
    pixels = 0.5 * min(width, height) / np.tan(np.arcsin(RADIUS / distance)) if focal is None else focal

    def at(index: int, azimuth: float, elevation: float) -> Camera:
        a, e = np.radians(azimuth), np.radians(elevation)
        eye = distance * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        up = np.array([0.0, 0.0, 1.0])
        return Camera.look_at(eye, np.zeros(3), up, width=width, height=height, focal=pixels, id=str(index))

    step = 360.0 / train
    trains = [at(k, k * step, _RINGS[k % 2]) for k in range(train)]
    between = [(int((k + 0.5) * train / test) + 0.5) * step for k in range(test)]
    return trains, [at(train + k, azimuth, sum(_RINGS) / 2) for k, azimuth in enumerate(between)]


def write_scene(
    path: str | os.PathLike[str],
    seed: int = 0,
    train_cameras: int = 10,
    test_cameras: int = 2,
    instants: int = 24,
    *,
    width: int = 200,
    height: int = 200,
    focal: float | None = None,
    samples: int = 4,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    world: ToyWorld | None = None,
) -> Path:
    """Returns `path` after writing a toy world there as a D-NeRF data set, or nothing at all on an error.

    The folder holds `transforms_train.json`, `transforms_test.json` and RGBA pictures (straight alpha) under `train/`
    and `test/`. The same arguments give the same bytes.

    Args:
        path: A folder that does not exist yet, or is empty.
        seed: Of the world, as in `make_world`.
        focal: In pixels; None frames the whole world.
        samples: Rays per pixel along edges.
        threads: Pictures rendered at once; None for the machine's cores, at most 8.
        progress: Called with (pictures done, pictures in all) from the calling thread.
        world: Written instead of `make_world(seed)`.

    Raises:
        UserError: `path` holds something, or a count is out of range.
    """
    target = Path(path)
    if instants < 1:
        raise UserError(f"expected at least 1 instant, got {instants}")
    check_replaceable(target)
    trains, tests = ring_cameras(train_cameras, test_cameras, width=width, height=height, focal=focal)
    subject = make_world(seed, instants=instants) if world is None else world
    times = frame_times(instants)
    jobs = [(split, camera, k) for split, cameras in (("train", trains), ("test", tests)) for camera in cameras
            for k in range(instants)]  # fmt: skip

    with atomic_folder(target) as folder:
        for split in ("train", "test"):
            (folder / split).mkdir()

        def write(job: tuple[str, Camera, int]) -> None:
            split, camera, k = job
            view = subject.render(camera, float(times[k]), ("rgb", "alpha"), samples=samples)
            assert view.rgb is not None and view.alpha is not None
            rgba = np.concatenate([view.rgb, view.alpha], axis=-1)
            picture = Image.fromarray((rgba * 255 + 0.5).astype(np.uint8), mode="RGBA")
            picture.save(folder / f"{_name(split, camera, k)}.png", compress_level=4)

        workers = threads or min(os.cpu_count() or 1, 8)
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            try:
                for done, _ in enumerate(pool.map(write, jobs), start=1):
                    if progress is not None:
                        progress(done, len(jobs))
            except BaseException:
                # Without this, leaving the pool would first render everything still queued.
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        for split, cameras in (("train", trains), ("test", tests)):
            write_json(folder / f"transforms_{split}.json", _transforms(split, cameras, trains[0], times))
    return target


def _name(split: str, camera: Camera, k: int) -> str:
    return f"{split}/c{int(camera.id):02d}_t{k:02d}"


def _transforms(split: str, cameras: list[Camera], lens: Camera, times: np.ndarray) -> dict:
    """Returns the JSON of one split: the common lens, then a frame per camera and instant."""
    return {
        "camera_angle_x": float(2 * np.arctan(0.5 * lens.width / lens.K[0, 0])),
        "w": lens.width,
        "h": lens.height,
        "fl_x": float(lens.K[0, 0]),
        "fl_y": float(lens.K[1, 1]),
        "cx": float(lens.K[0, 2]),
        "cy": float(lens.K[1, 2]),
        "frames": [
            {
                "file_path": f"./{_name(split, camera, k)}",
                "time": float(time),
                "transform_matrix": opengl_from_opencv(camera.T_world_camera).tolist(),
                "camera_id": int(camera.id),
                "time_index": k,
            }
            for camera in cameras
            for k, time in enumerate(times)
        ],
    }
