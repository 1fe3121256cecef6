"""What a run leaves for people to look at: an orbit video, a file for each instant, a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussian4d.files import atomic_write

from ..cameras import FRAMED_RADIUS, orbit_camera, orbit_cameras
from .detail import resized

if TYPE_CHECKING:
    from gaussian4d.model import DynamicGaussians

ORBIT_SECONDS = 4.0
ORBIT_FPS = 24.0
ORBIT_SIZE = 320
SHEET_SIZE = 128
SHEET_COLUMNS = 8
SHEET_AZIMUTHS = (0, 90, 180, 270)
BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}


def over(image: Float[Tensor, "4 H W"], background: tuple[float, float, float]) -> np.ndarray:
    """Returns a premultiplied picture before a background, uint8 [H, W, 3]."""
    behind = torch.tensor(background)[:, None, None]
    rgb = image[:3].cpu() + (1.0 - image[3:].cpu()) * behind
    return (rgb.clamp(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def captioned(picture: np.ndarray, text: str) -> np.ndarray:
    """Returns the picture uint8 [H, W, 3] with a line of text in its upper left corner."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    draw.rectangle(draw.textbbox((2, 1), text), fill=(255, 255, 255))
    draw.text((2, 1), text, fill=(0, 0, 0))
    return np.asarray(image)


def write_orbit(
    path: Path, model: DynamicGaussians, *, elevation: float, fov: float, background: str, backend: str
) -> int:
    """Returns the number of frames of the video: once round the object while the clip plays once."""
    from gaussian4d.cli.console import track
    from gaussian4d.cli.render import pictures
    from gaussian4d.paths import clip_times
    from gaussian4d.video_out import write_video

    count = round(ORBIT_SECONDS * ORBIT_FPS)
    cameras = orbit_cameras(count, elevation=elevation, fov=fov, size=ORBIT_SIZE, radius=room(model))
    route = list(zip(cameras, clip_times(count).tolist()))
    frames = pictures(model, route, ("rgb",), background=BACKGROUNDS[background], backend=backend)
    return write_video(path, track(frames, "orbit", total=count), ORBIT_FPS)


def room(model: DynamicGaussians) -> float:
    """Returns the radius of a sphere around the origin in which the asset stays: what moves may leave the usual one."""
    farthest = FRAMED_RADIUS
    for time in [0.0] if model.times is None else model.times:
        state = model.at(float(time))
        reach = (state.means.norm(dim=-1) + state.scales.amax(dim=-1))[state.opacities > 0.1]
        if len(reach):
            # A few stray ones do not count.
            farthest = max(farthest, float(reach.quantile(0.995)))
    return farthest


def write_plys(folder: Path, model: DynamicGaussians) -> int:
    """Returns the number of files `frame_0000.ply`, ...: one for each instant of the model, Z up."""
    from gaussian4d.cli.console import track
    from gaussian4d.io.sequence import ply_sequence

    times = [0.0] if model.times is None else [float(time) for time in model.times]
    return sum(1 for _ in track(ply_sequence(folder, model, times, vertical_axis="z"), "export", total=len(times)))


def write_sheet(
    path: Path,
    model: DynamicGaussians,
    frames: Float[Tensor, "T 4 S S"],
    times: Sequence[float],
    *,
    elevation: float,
    fov: float,
    background: str,
    backend: str,
) -> None:
    """Writes rows over time: what the asset was made from, and the asset from four sides, the input's first."""
    from PIL import Image

    from gaussian4d.cli.render import pictures
    from gaussian4d.io.pictures import contact_sheet

    columns = np.linspace(0, len(times) - 1, min(SHEET_COLUMNS, len(times))).round().astype(int).tolist()
    behind = BACKGROUNDS[background]
    rows = [[over(picture, behind) for picture in resized(frames[columns], SHEET_SIZE)]]
    rows[0][0] = captioned(rows[0][0], "input")
    radius = room(model)
    for azimuth in SHEET_AZIMUTHS:
        camera = orbit_camera(azimuth, elevation, fov=fov, size=SHEET_SIZE, radius=radius)
        route = [(camera, float(times[column])) for column in columns]
        row = list(pictures(model, route, ("rgb",), background=behind, backend=backend))
        rows.append([captioned(row[0], f"{azimuth} degrees"), *row[1:]])
    with atomic_write(path) as temporary:
        Image.fromarray(contact_sheet(rows)).save(temporary)
