"""Anchors: what a multi-view prior says the other sides look like, at every instant of the input.

STAG4D (Zeng et al., ECCV 2024), section 3.2: every instant is sampled from the same noise, and its attention is fused
with the first instant's, so that the views agree over time. A stage folder keeps them:

    FOLDER/anchors.json            what they were made from; cameras; times
    FOLDER/t0003_v2.png            instant 3 from camera 2: RGBA, colour not multiplied by alpha
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.files import atomic_write, read_json, write_json

from ..priors.base import CleanViewsHook, Fusion, MultiViewPrior, StepCallback

SCHEMA_VERSION = 1
_FILE = "anchors.json"
APART = 100_003
"""Between the seeds of several samples for one asset, so that neighbouring seeds share none."""


@dataclasses.dataclass
class Anchors:
    """What V cameras see of the object at T instants, according to a prior."""

    views: Float[Tensor, "T V 4 h w"]
    """Premultiplied colour and alpha in 0..1."""
    cameras: list[Camera]
    """[V], pixel size of the views."""
    times: list[float]
    """[T] clip times."""

    def save(self, folder: Path, about: dict[str, Any] | None = None) -> None:
        """Writes the stage folder; `about` is what the anchors were made from."""
        folder.mkdir(parents=True, exist_ok=True)
        _write_header(folder, about or {}, self.cameras, self.times)
        for t, row in enumerate(self.views):
            _write_instant(folder, t, row)


def load_anchors(folder: Path) -> Anchors:
    """Returns the anchors of a stage folder.

    Raises:
        UserError: no such folder, or one that is not complete.
    """
    values = read_json(folder / _FILE)
    if not isinstance(values, dict) or values.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{folder / _FILE} is not the list of anchors of this version; make them anew")
    cameras = [_camera_from(entry) for entry in values["cameras"]]
    rows = [_read_instant(folder, t, len(cameras)) for t in range(len(values["times"]))]
    missing = [t for t, row in enumerate(rows) if row is None]
    if missing:
        raise UserError(f"{folder} lacks the anchors of instant {missing[0]}; make them again to complete them")
    return Anchors(torch.stack([row for row in rows if row is not None]), cameras, [float(t) for t in values["times"]])


def make_anchors(
    frames: Float[Tensor, "T 4 H W"],
    times: Sequence[float],
    input_camera: Camera,
    prior: MultiViewPrior,
    cameras: Sequence[Camera],
    fusion: Fusion | None = None,
    seed: int = 0,
    progress: StepCallback | None = None,
    *,
    caption: str | None = None,
    folder: Path | None = None,
    chunk: int | None = None,
    hook: CleanViewsHook | None = None,
) -> Anchors:
    """Returns what `cameras` see of the object at every instant of the input.

    Args:
        frames: The input's pictures, premultiplied.
        times: [T] their clip times.
        input_camera: Where they were taken from.
        cameras: Square cameras; they are resized to what the prior makes.
        fusion: Ties the instants to the first; None treats them apart.
        seed: Of the one noise of all instants; priors that say so are asked with several, and the mean is taken.
        progress: Called with denoising steps done and in all, over all chunks.
        caption: What the object is, for priors that listen.
        folder: Stage folder: instants already there are kept, and each chunk is written as it is done. What comes back
            is then what the folder holds: 8 bits.
        chunk: Instants per call of the prior; None is all. The first instant goes along with each, for the fusion.
        hook: What clean views go through while they are sampled, such as `feedback.RenderFeedback`.

    Raises:
        UserError: `folder` holds anchors of another input, camera, prior or seed.
    """
    T = len(frames)
    if len(times) != T or T == 0:
        raise UserError(f"expected a time for each of at least one picture, got {T} pictures and {len(times)} times")
    cameras = [camera.resized(prior.info.size, prior.info.size) for camera in cameras]
    times = [float(time) for time in times]
    done: dict[int, Tensor] = {}
    if folder is not None:
        about = _about(frames, input_camera, prior, fusion, seed, caption, hook)
        done = _resumed(folder, about, cameras, times)
    todo = [t for t in range(T) if t not in done]
    made: dict[int, Tensor] = {}
    # Fusion with the frame before needs the whole row of instants, in order.
    whole = fusion is not None and fusion.previous > 0.0
    size = T if chunk is None or whole else max(int(chunk), 1)
    rows = [list(range(T))] if whole and todo else [todo[k : k + size] for k in range(0, len(todo), size)]
    for index, row in enumerate(rows):
        lead = [] if fusion is None or row[0] == 0 else [0]
        asked = [*lead, *row]

        total = torch.zeros(())
        for sample in range(prior.info.samples):

            def tell(step: int, steps: int, done: int = index * prior.info.samples + sample) -> None:
                if progress is not None:
                    progress(done * steps + step, len(rows) * prior.info.samples * steps)

            total = total + prior.sample_views(
                frames[asked],
                input_camera,
                cameras,
                caption=caption,
                times=[times[t] for t in asked],
                seed=seed + sample * APART,
                fusion=fusion,
                hook=hook,
                progress=tell,
            )
        for t, view in zip(row, (total / prior.info.samples)[len(lead) :]):
            made[t] = view.detach().float()
            if folder is not None:
                _write_instant(folder, t, made[t])
    if folder is not None:
        return load_anchors(folder)
    return Anchors(torch.stack([made[t] for t in range(T)]), cameras, times)


def angles_to(camera: Camera, cameras: Sequence[Camera]) -> np.ndarray:
    """Returns [V] the angles in degrees between the directions from the origin to `camera` and to `cameras`."""
    own = camera.position / np.linalg.norm(camera.position)
    others = np.stack([other.position / np.linalg.norm(other.position) for other in cameras])
    return np.degrees(np.arccos(np.clip(others @ own, -1.0, 1.0)))


def _about(
    frames: Tensor,
    camera: Camera,
    prior: MultiViewPrior,
    fusion: Fusion | None,
    seed: int,
    caption: str | None,
    hook: CleanViewsHook | None,
) -> dict[str, Any]:
    """Returns what decides the anchors, as JSON values."""
    pixels = (frames.detach().clamp(0, 1) * 255.0 + 0.5).to(torch.uint8).contiguous().cpu().numpy()
    return {
        "pictures": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "input_camera": _camera_dict(camera),
        "prior": [prior.info.name, prior.info.source, prior.info.size, prior.info.samples],
        "fusion": None if fusion is None else [fusion.anchor, fusion.previous, fusion.layers, list(fusion.steps)],
        "seed": seed,
        "caption": caption,
        "hook": None if hook is None else str(hook),
    }


def _resumed(folder: Path, about: dict[str, Any], cameras: list[Camera], times: list[float]) -> dict[int, Tensor]:
    """Returns the instants that `folder` holds; writes its header when it is new."""
    if not (folder / _FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("t*_v*.png")):
            raise UserError(f"{folder} holds pictures but no {_FILE}; name a new folder, or empty this one")
        _write_header(folder, about, cameras, times)
        return {}
    values = read_json(folder / _FILE)
    wanted = _header(about, cameras, times)
    differs = [name for name, value in wanted.items() if values.get(name) != value]
    differs += [
        name for name in about if "about" in differs and (values.get("about") or {}).get(name) != about[name]
    ]  # fmt: skip
    if differs:
        raise UserError(
            f"{folder} holds anchors of something else ({', '.join(d for d in differs if d != 'about')} differ); name a"
            " new folder, or remove this one"
        )
    rows = {t: _read_instant(folder, t, len(cameras)) for t in range(len(times))}
    return {t: row for t, row in rows.items() if row is not None}


def _header(about: dict[str, Any], cameras: Sequence[Camera], times: Sequence[float]) -> dict[str, Any]:
    fusion = about.get("fusion")
    if fusion is not None:
        about = {**about, "fusion": [list(item) if isinstance(item, tuple) else item for item in fusion]}
    return {
        "schema_version": SCHEMA_VERSION,
        "about": about,
        "cameras": [_camera_dict(camera) for camera in cameras],
        "times": [float(time) for time in times],
    }


def _write_header(folder: Path, about: dict[str, Any], cameras: Sequence[Camera], times: Sequence[float]) -> None:
    write_json(folder / _FILE, _header(about, cameras, times))


def _camera_dict(camera: Camera) -> dict[str, Any]:
    return {
        "id": camera.id,
        "viewmat": camera.viewmat.tolist(),
        "K": camera.K.tolist(),
        "width": camera.width,
        "height": camera.height,
    }


def _camera_from(values: dict[str, Any]) -> Camera:
    return Camera(values["id"], np.array(values["viewmat"]), np.array(values["K"]), values["width"], values["height"])


def _picture(folder: Path, t: int, v: int) -> Path:
    return folder / f"t{t:04d}_v{v}.png"


def _write_instant(folder: Path, t: int, row: Float[Tensor, "V 4 h w"]) -> None:
    for v, view in enumerate(row):
        write_rgba(_picture(folder, t, v), view)


def _read_instant(folder: Path, t: int, count: int) -> Float[Tensor, "V 4 h w"] | None:
    """Returns the views of an instant, None when one is missing or cannot be read."""
    views = []
    for v in range(count):
        try:
            views.append(read_rgba(_picture(folder, t, v)))
        except OSError:
            return None
    return torch.stack(views)


def write_rgba(path: Path, picture: Float[Tensor, "4 H W"]) -> None:
    """Writes a premultiplied picture as an RGBA PNG, whose colours are not multiplied."""
    straight = torch.cat([picture[:3] / picture[3:].clamp_min(1e-6), picture[3:]]).clamp(0, 1)
    pixels = (straight.permute(1, 2, 0) * 255.0 + 0.5).to(torch.uint8).cpu().numpy()
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary)


def read_rgba(path: Path) -> Float[Tensor, "4 H W"]:
    """Returns the RGBA picture of a file, premultiplied."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255.0
    picture = torch.from_numpy(pixels).permute(2, 0, 1)
    return torch.cat([picture[:3] * picture[3:], picture[3:]])
