"""Offsets between cameras that came with a recording: EasyVolcap's `sync.json`, seconds by camera."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..data.videos import match_names
from ..errors import UserError
from ..files import read_json

FILES = ("sync.json", "t_offsets.json")


def offsets_beside(folders: Sequence[Path], cameras: Sequence[str]) -> tuple[dict[str, float], Path | None]:
    """Returns the start of every camera in seconds and the file that states them; empty and None without one.

    A number is taken as what is to be added to the camera's own time: the moment of its first frame.

    Raises `UserError` when the file is not numbers by camera, or lacks a camera.
    """
    path = next((folder / name for folder in folders for name in FILES if (folder / name).is_file()), None)
    if path is None:
        return {}, None
    content = read_json(path)
    mend = "correct it, take it away, or give --offsets"
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected an object of seconds by camera; {mend}")
    for name, value in content.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{path}: the offset of {name} must be a number of seconds, got {value!r}; {mend}")
    pairs = match_names(list(content), list(cameras))
    by_camera = {camera: float(content[name]) for name, camera in pairs.items()}
    missing = [name for name in cameras if name not in by_camera]
    if missing:
        raise UserError(f"{path}: states no offset for {', '.join(missing)}; {mend}")
    return {name: by_camera[name] for name in cameras}, path
