"""A scene format: `flipbook.json` and a folder of pictures for each camera, `CAMERA/0000.png`, `CAMERA/0001.png`, ...

    {"fps": 10, "cameras": [{"id": "left", "width": 640, "height": 480, "focal": 600, "split": "train",
                             "world_to_camera": [[...], [...], [...], [...]]}, ...]}

A reader is a module (or an object) with `recognises` and `read`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import gaussian4d as g4
from gaussian4d.data import FrameRecord, ImagePicture, Lens, ProblemList, SceneRecord

looked_for = "flipbook.json (flipbook)"


def recognises(folder: Path) -> bool:
    """Returns whether the folder holds this format; every folder is asked about, so it only looks for a file."""
    return (folder / "flipbook.json").is_file()


def read(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene as its files state it: pictures are opened when they are needed, not here."""
    stated_in = folder / "flipbook.json"
    try:
        stated = json.loads(stated_in.read_text(encoding="utf-8"))
        frames = [frame for camera in stated["cameras"] for frame in _frames(folder, camera, problems)]
        fps = float(stated["fps"]) if "fps" in stated else None
    except (KeyError, TypeError, ValueError) as error:
        raise g4.UserError(f"{stated_in} is not a flipbook: {type(error).__name__}: {error}") from None
    longest = max((len(list((folder / frame.camera_id).glob("*.png"))) for frame in frames), default=1)
    return SceneRecord("flipbook", frames, fps=fps, duration=(longest - 1) / fps if fps and longest > 1 else None)


def _frames(folder: Path, camera: dict, problems: ProblemList) -> list[FrameRecord]:
    width, height, focal = int(camera["width"]), int(camera["height"]), float(camera["focal"])
    # Pixel centres are at +0.5, so the middle of the picture is at half its size.
    lens = Lens(focal, focal, width / 2, height / 2, width, height)
    pictures = sorted((folder / camera["id"]).glob("*.png"))
    if not pictures:
        # Noted, not raised: `gaussian4d info` then lists everything that is wrong at once.
        problems.error(folder / camera["id"], "expected pictures 0000.png, 0001.png, ..., found none")
    return [
        FrameRecord(
            camera_id=camera["id"],
            viewmat=np.array(camera["world_to_camera"], dtype=np.float64),
            lens=lens,
            picture=ImagePicture(path),
            time=index / max(len(pictures) - 1, 1),
            split=camera.get("split", "train"),
            stated_in=str(folder / "flipbook.json"),
        )
        for index, path in enumerate(pictures)
    ]
