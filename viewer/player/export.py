"""`gaussian4d export RUN --to scene.html`. Registered under the entry-point group `gaussian4d.exporters`."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gaussian4d import __version__
from gaussian4d.clip_length import clip_length, recorded_span
from gaussian4d.errors import UserError
from gaussian4d.files import atomic_write
from gaussian4d.io.bake import Tolerances, bake
from gaussian4d.io.cubic import own_instants
from gaussian4d.io.segments import Segments, after, direct_segments, part_of, shown_as
from gaussian4d.io.series import Series, series_of
from gaussian4d.rendering import render

from .columns import series_bytes
from .packing import ROW_BYTES, Packed, pack, unpack

if TYPE_CHECKING:
    from gaussian4d.cameras import Camera
    from gaussian4d.cli.opened import Opened
    from gaussian4d.framing import Framing
    from gaussian4d.model import DynamicGaussians

PAGE = Path(__file__).with_name("page.html")
VERSION = 2
GOAL = 45.5
"""dB against the model, at the worst view that is looked at."""

_CHUNK = 3 << 18  # a multiple of 3, so that every chunk is base64 of its own
_COMPARED = 6
_TRIES = ((1.0, 1.0), (0.6, 1.0), (0.4, 2.0))  # factor of the tolerances for cutting, how much finer the steps are
_COMPARED_WIDTH = 640


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How a page differs from its model: PSNR in dB inside the union of the alphas, both drawn by our rasterizer."""

    mean: float
    worst: float
    views: int


def export_html(opened: Opened, path: Path) -> None:
    """Writes the page and prints what it is and how much it differs from the model."""
    from gaussian4d.cli.console import size

    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"expected a file name ending in .html, got {path.name}")
    model, cameras = opened.model, opened.cameras
    background = opened.background
    if background is None:
        assert model.background is not None
        red, green, blue = (float(c) for c in model.background)
        background = (red, green, blue)
    if not model.motion.is_cubic:
        print(f"a page plays cubic motion: {model.motion.name} is cut into windows of time ...", flush=True)
    content = page_content(model, cameras, background)
    header = {**page_header(model, opened.framing, background), "title": path.stem}
    write_page(path, content, header)
    print(f"wrote {path}: {_contents(model, content.packed)}, {size(path.stat().st_size)}")
    for note in opened.notes:
        print(f"note  {note}")
    if model.antialiased:
        print("note  these Gaussians were fitted antialiased, which a page does not draw: small ones look thicker")
    loss = fidelity(model, unpack(content.packed), cameras, background)
    if loss is not None:
        print(
            f"loss  {loss.mean:.1f} dB PSNR on average, {loss.worst:.1f} dB at worst, against the model: "
            f"{loss.views} views where something is drawn, both by our rasterizer"
        )


@dataclasses.dataclass(frozen=True)
class Content:
    """What a page plays."""

    packed: Packed
    """All rows that are drawn."""
    plain: int
    """How many of them are stored as rows; the page makes those that follow from `series`."""
    series: Series | None


def page_content(model: DynamicGaussians, cameras: Sequence[Camera], background: Sequence[float]) -> Content:
    """Returns `model` as a page plays it: the cubics that it is, else a series where it is one and cut rows elsewhere.

    A series is cut more finely, and its steps become finer, until the page is within `GOAL` dB of the model.
    """
    if model.motion.is_cubic:
        packed = pack(direct_segments(model))
        return Content(packed, len(packed.words), None)
    if not model.motion.connected:
        packed = pack(bake(model, cameras))
        return Content(packed, len(packed.words), None)
    rest: Segments | None = None
    for factor, finer in _TRIES:
        series, rows = series_of(model, cameras, tolerances=Tolerances().times(factor), finer=finer)
        if not len(series):
            packed = pack(bake(model, cameras))
            return Content(packed, len(packed.words), None)
        if rest is None:
            others = np.setdiff1d(np.arange(len(model)), rows)
            rest = bake(part_of(model, others), cameras)
        content = Content(pack(after(rest, series.expanded())), len(rest), series)
        loss = fidelity(model, unpack(content.packed), cameras, background)
        if loss is None or loss.worst >= GOAL:
            break
    return content


def page_header(model: DynamicGaussians, framing: Framing, background: Sequence[float]) -> dict[str, Any]:
    """Returns what a page says about the scene, besides its rows; see docs/player.md."""
    length, times = clip_length(model), own_instants(model)
    return {
        "near": model.near,
        "background": [float(c) for c in background],
        "seconds": length.seconds,
        "span": [length.start, length.end],
        "frames": 1 if model.motion.still else 31 if times is None else len(times),
        "about": f"{len(model):,} Gaussians, motion {model.motion.name}. Made with gaussian4d {__version__}.",
        "up": [float(c) for c in framing.up],
        "center": [float(c) for c in framing.center],
        "first": _stand(framing.first),
        "views": [_stand(camera) for camera in framing.view.cameras],
    }


def _stand(camera: Camera) -> dict[str, Any]:
    """Returns where a camera stands and how much it sees, as a page says it."""
    return {
        "viewmat": [round(float(value), 9) for value in camera.viewmat.reshape(-1)],
        "tangents": [camera.width / (2 * camera.K[0, 0]), camera.height / (2 * camera.K[1, 1])],
    }


def write_page(path: Path, content: Content, header: dict[str, Any]) -> None:
    """Writes the built player with a scene in it. `header` is `page_header`'s with a `title`."""
    packed, plain = content.packed, content.plain
    template = PAGE.read_text(encoding="ascii")
    before, after_header = template.split("<!--g4d:header-->")
    between, end = after_header.split("<!--g4d:rows-->")
    # Equal words of all rows lie together: what is constant, such as the motion of what stands still, compresses away.
    data = np.ascontiguousarray(packed.words[:plain].T).astype("<u4", copy=False).tobytes()
    facts = {"version": VERSION, **packed.header(plain)}
    if content.series is not None:
        facts["series"], more = series_bytes(content.series, packed, plain)
        data += more
    compressed = gzip.compress(data, compresslevel=9, mtime=0)
    chunks = math.ceil(len(compressed) / _CHUNK)
    facts |= {**header, "bytes": len(compressed), "chunks": chunks}
    # "<" could end the element that holds the text.
    text = json.dumps(facts, allow_nan=False).replace("<", "\\u003c")
    title = html.escape(header["title"]).encode("ascii", "xmlcharrefreplace").decode("ascii")
    with atomic_write(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        file.write(before.replace("<!--g4d:title-->", title))
        file.write(text + between)
        for index in range(chunks):
            data = base64.b64encode(compressed[index * _CHUNK : (index + 1) * _CHUNK]).decode("ascii")
            file.write(f'<script type="text/plain" id="rows-{index}">{data}</script>\n')
        file.write(end)


def fidelity(
    model: DynamicGaussians, segments: Segments, cameras: Sequence[Camera], background: Sequence[float]
) -> Fidelity | None:
    """Returns how `segments` look beside `model` from some of `cameras`, over the clip; None where nothing is drawn."""
    page = shown_as(model, segments)
    chosen = spread(list(cameras), _COMPARED)
    # Between the frames too, and not at the ends of windows, where a fit is best.
    first, last = recorded_span(model)
    times = first + (last - first) * (np.arange(len(chosen)) + 0.37) / len(chosen)
    figures = []
    for camera, time in zip(chosen, times):
        if camera.width > _COMPARED_WIDTH:
            camera = camera.resized(_COMPARED_WIDTH, max(1, round(camera.height * _COMPARED_WIDTH / camera.width)))
        pictures = [render(m, camera, float(time), ("rgb", "alpha"), background=background) for m in (model, page)]
        value = union_psnr(*((p.rgb, p.alpha) for p in pictures))  # type: ignore[arg-type]
        if value is not None:
            figures.append(value)
    return Fidelity(float(np.mean(figures)), min(figures), len(figures)) if figures else None


def union_psnr(first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]) -> float | None:
    """Returns the PSNR in dB of two (rgb [H, W, 3], alpha [H, W, 1]) where either alpha is at least 1/255, or None."""
    inside = torch.maximum(first[1], second[1])[..., 0] >= 1.0 / 255.0
    if not bool(inside.any()):
        return None
    error = (first[0].clamp(0, 1) - second[0].clamp(0, 1))[inside].double().square().mean()
    return float(-10.0 * torch.log10(error.clamp_min(1e-10)))


def spread(cameras: Sequence[Camera], count: int) -> list[Camera]:
    """Returns at most `count` of the cameras, evenly taken, the first among them."""
    index = np.unique(np.linspace(0, len(cameras) - 1, min(count, len(cameras))).round().astype(int))
    return [cameras[i] for i in index]


def _contents(model: DynamicGaussians, packed: Packed) -> str:
    rows = len(packed.words)
    if model.motion.is_cubic:
        left_out = f" ({len(model) - rows:,} never seen left out)" if rows < len(model) else ""
        return f"{rows:,} Gaussians of {ROW_BYTES} bytes{left_out}"
    windows = len({(group.start, group.end) for group in packed.groups})
    return f"{len(model):,} Gaussians as {rows:,} pieces of {ROW_BYTES} bytes in {windows} windows of time"
