"""How well a model predicts frames it has not seen, beside what trivial predictions reach."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .cameras import Camera
from .devices import choose_device
from .errors import UserError
from .files import atomic_write, write_json
from .fitting.normalise import Normalisation
from .metrics import (
    MASKED_SSIM_DEFINITION,
    MOVING_THRESHOLD,
    SSIM_DEFINITION,
    ChosenMetrics,
    Metric,
    masked_ssim,
    mean_or_none,
    moving_mask,
    psnr,
    ssim,
)
from .model import DynamicGaussians, load_model
from .offsets import aligned
from .rendering import render
from .run_folder import RunFolder
from .scene import Frame, Scene

_SAMPLES_PER_CAMERA = 3
_MAX_SAMPLES = 12

# Figures that only data with covisibility masks has; metrics.json holds them for such data.
_COVISIBLE = ("mpsnr", "mssim")


def evaluate(
    run_or_model: str | Path | DynamicGaussians,
    scene: Scene | None = None,
    split: str = "test",
    out: str | Path | None = None,
    *,
    backend: str = "auto",
    device: str | torch.device | None = None,
    metrics: Sequence[str | Metric] | None = None,
) -> dict[str, Any]:
    """Returns the figures of the model on a split; writes metrics.json and pictures (truth | render | difference).

    Args:
        run_or_model: A run folder, a model file, or a model.
        scene: The scene; None loads the one the run folder names.
        split: `test` or `train`.
        out: Folder for metrics.json and pictures; None is RUN/eval for a run folder, and nowhere for a model.
        backend: Rasterizer backend.
        device: Where to draw; None is where a given model is, and `auto` for one that is read (see
            `devices.choose_device`). Figures are always taken on the CPU.
        metrics: Further metrics by name or as functions (see `metrics.Metric`), for each view and as a mean; None takes
            those of installed packages that are on by default.

    Raises:
        UserError: without a scene, when the split is empty, or for a device that cannot be used.
    """
    if device is not None or not isinstance(run_or_model, DynamicGaussians):
        placement = choose_device(device, backend)
        device, backend = placement.device, placement.backend
    run = Path(run_or_model) if not isinstance(run_or_model, DynamicGaussians) else None
    model = run_or_model if isinstance(run_or_model, DynamicGaussians) else load_model(run_or_model)
    model = model if device is None else model.to(device)
    if scene is None:
        scene = _scene_of(run)
    model = aligned(model, scene.offset)
    if out is None and run is not None and run.is_dir():
        out = run / "eval"
    frames = list(scene.frames(split))  # type: ignore[arg-type]
    if not frames:
        raise UserError(f"{scene.path} has no {split} frames; choose another split or hold some out")
    judge = _Judge(scene, frames, _background(model, scene), ChosenMetrics(metrics))
    views, seconds, samples = [], [], _sample_rows(frames)
    for row, frame in enumerate(frames):
        began = time.perf_counter()
        image = render(model, frame.camera, frame.time, background=judge.background, backend=backend).rgb
        assert image is not None
        # A GPU has drawn nothing yet until its picture is there.
        image = image.cpu()
        seconds.append(time.perf_counter() - began)
        views.append(judge.figures(frame, image))
        if out is not None and row in samples:
            _save_sample(Path(out), frame, image, judge.truth(frame))
    result = {
        "split": split,
        "views": [
            {"camera": frame.camera_id, "time": float(frame.time), "psnr": view["psnr"], "ssim": view["ssim"]}
            | {key: view[key] for key in (*_COVISIBLE, "metrics") if key in view}
            for frame, view in zip(frames, views)
        ],
        **judge.means(views),
        "lpips": None,
        "num_gaussians": len(model),
        "fit_seconds": (model.meta.get("fit") or {}).get("seconds"),
        "render_fps": round(1.0 / statistics.median(seconds), 2),
        "baselines": judge.baselines(),
        "protocol": judge.protocol(),
        **judge.besides(),
    }
    if out is not None:
        write_json(Path(out) / "metrics.json", result)
    return result


class _Judge:
    """The truth of a split and the figures of any prediction against it."""

    def __init__(
        self, scene: Scene, frames: Sequence[Frame], background: Float[Tensor, "3"], chosen: ChosenMetrics
    ) -> None:
        self.scene, self.frames, self.background, self.chosen = scene, frames, background, chosen
        self._rows: dict[str, list[Frame]] = {}
        for frame in frames:
            self._rows.setdefault(frame.camera_id, []).append(frame)
        self._means: dict[str, Tensor] = {}
        self._from_masks = False
        self._reach: float | None = None

    def truth(self, frame: Frame) -> Float[Tensor, "H W 3"]:
        """Returns the picture in 0..1, over the background where it has alpha."""
        return _composed(frame.image, self.background)

    def temporal_mean(self, camera_id: str) -> Tensor | None:
        """Returns the mean of the split's pictures of a camera; None when there is only one."""
        rows = self._rows[camera_id]
        if len(rows) < 2:
            return None
        if camera_id not in self._means:
            total = torch.zeros_like(self.truth(rows[0]))
            for frame in rows:
                total += self.truth(frame)
            self._means[camera_id] = total / len(rows)
        return self._means[camera_id]

    def figures(self, frame: Frame, image: Tensor) -> dict[str, Any]:
        """Returns PSNR over all, foreground and moving pixels, and SSIM, of a prediction of `frame`.

        Where the data says which pixels training frames saw, also both over those (`mpsnr`, `mssim`); where further
        metrics are chosen, a dict of them (`metrics`).
        """
        truth = self.truth(frame)
        mask, mean = frame.mask, self.temporal_mean(frame.camera_id)
        foreground = None if mask is None else torch.from_numpy(mask > 127)
        moving = None if mean is None else moving_mask(truth, mean)
        self._from_masks |= mask is not None and not self.scene.has_alpha
        figures: dict[str, Any] = {
            "psnr": psnr(image, truth),
            "ssim": ssim(image, truth),
            "psnr_foreground": None if foreground is None else psnr(image, truth, foreground),
            "psnr_moving": None if moving is None else psnr(image, truth, moving),
        }
        seen = None
        if self.covisible:
            stated = frame.covisible
            seen = None if stated is None else torch.from_numpy(stated > 127)
            figures["mpsnr"] = None if seen is None else psnr(image, truth, seen)
            figures["mssim"] = None if seen is None else masked_ssim(image, truth, seen)
        if self.chosen:
            masks = {"foreground": foreground, "moving": moving, "covisible": seen}
            figures["metrics"] = self.chosen.of(image, truth, masks)
        return figures

    def means(self, views: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Returns the mean over `views` of what `figures` returned."""
        keys = ("psnr", "ssim", "psnr_foreground", "psnr_moving", *(key for key in _COVISIBLE if key in views[0]))
        means: dict[str, Any] = {key: mean_or_none([view[key] for view in views]) for key in keys}
        if self.chosen:
            means["metrics"] = self.chosen.means([view["metrics"] for view in views])
        return means

    def besides(self) -> dict[str, Any]:
        """Returns what there is to say of the further metrics, nothing where there are none."""
        return {"metric_info": self.chosen.info()} if self.chosen else {}

    @functools.cached_property
    def covisible(self) -> bool:
        """True when the data has covisibility masks for frames of the split."""
        return any(frame.has_covisible for frame in self.frames)

    def baselines(self) -> dict[str, dict[str, Any] | None]:
        """Returns the figures of the camera's own temporal mean, and of the nearest training frame."""
        static = None
        if all(self.temporal_mean(camera_id) is not None for camera_id in self._rows):
            static = self.means([self.figures(frame, self._mean_of(frame)) for frame in self.frames])
        training = list(self.scene.frames("train"))
        nearest = None
        if training:
            nearest = self.means([self.figures(frame, self._nearest(frame, training)) for frame in self.frames])
        return {"static": static, "nearest_view": nearest}

    def protocol(self) -> dict[str, str]:
        """Returns what the figures depend on."""
        sizes = {(frame.camera.width, frame.camera.height) for frame in self.frames}
        color = str([round(float(c), 4) for c in self.background])
        background = {"[1.0, 1.0, 1.0]": "white", "[0.0, 0.0, 0.0]": "black"}.get(color, f"model {color}")
        source = "alpha" if self.scene.has_alpha else ("masks of the data" if self._from_masks else "none")
        protocol = {
            "resolution": ", ".join(f"{w}x{h}" for w, h in sorted(sizes)),
            "background": background if self.scene.has_alpha else f"{background}, behind the Gaussians only",
            "ssim": SSIM_DEFINITION,
            "mask": f"foreground: {source} > 0.5; moving: further than {MOVING_THRESHOLD} off the camera's temporal"
            " mean of the split, largest channel; PSNR per view, mean over views",
            "colour_correction": "none",
        }
        if self.covisible:
            masked = sum(frame.has_covisible for frame in self.frames)
            protocol["covisible"] = (
                f"mpsnr, mssim: pixels of the data's covisibility masks ({masked} of {len(self.frames)} views have"
                f" one); mssim: {MASKED_SSIM_DEFINITION}; mean over views"
            )
        return protocol

    def _mean_of(self, frame: Frame) -> Tensor:
        mean = self.temporal_mean(frame.camera_id)
        assert mean is not None
        return mean

    def _distance(self, a: Frame, b: Frame) -> float:
        if self._reach is None:
            self._reach = 1.0 / Normalisation.from_cameras([row.camera for row in self.scene.frames("train")]).scale
        # Rounded, so that equal places at different times tie and the time decides.
        return round(camera_distance(a.camera, b.camera, self._reach), 6)

    def _nearest(self, frame: Frame, training: Sequence[Frame]) -> Tensor:
        """Returns the picture of the nearest training camera at the time nearest to the frame's."""
        other = min(training, key=lambda row: (self._distance(frame, row), abs(row.time - frame.time)))
        image = other.image
        size = (frame.camera.width, frame.camera.height)
        if image.shape[1::-1] != size:
            image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
        return _composed(image, self.background)


def camera_distance(a: Camera, b: Camera, reach: float) -> float:
    """Returns the angle between two viewing directions in radians plus the distance between the places over `reach`.

    `reach` is how far cameras stand from what they look at; around a subject both terms are then about equal.
    """
    angle = float(np.arccos(np.clip(a.forward @ b.forward, -1.0, 1.0)))
    return angle + float(np.linalg.norm(a.position - b.position)) / reach


def _composed(image: np.ndarray, background: Float[Tensor, "3"]) -> Float[Tensor, "H W 3"]:
    pixels = torch.from_numpy(image.astype(np.float32)) / 255.0
    if pixels.shape[-1] == 3:
        return pixels
    return torch.lerp(background.expand(*pixels.shape[:2], 3), pixels[..., :3], pixels[..., 3:])


def _background(model: DynamicGaussians, scene: Scene) -> Float[Tensor, "3"]:
    """Returns the colour figures are taken over: the model's own, else white for pictures with alpha, else black."""
    if model.background is not None:
        return model.background.cpu().float()
    return torch.full((3,), 1.0 if scene.has_alpha else 0.0)


def _scene_of(run: Path | None) -> Scene:
    if run is None or not RunFolder(run).exists:
        raise UserError("evaluating a model needs a scene; pass one, or a run folder that names its own")
    return RunFolder(run).scene()


def _sample_rows(frames: Sequence[Frame]) -> set[int]:
    """Returns the rows whose pictures are kept: first, middle and last of some cameras."""
    by_camera: dict[str, list[int]] = {}
    for row, frame in enumerate(frames):
        by_camera.setdefault(frame.camera_id, []).append(row)
    kept: list[int] = []
    for rows in by_camera.values():
        picks = np.unique(np.linspace(0, len(rows) - 1, min(_SAMPLES_PER_CAMERA, len(rows))).round().astype(int))
        kept.extend(rows[pick] for pick in picks)
    spread = np.unique(np.linspace(0, len(kept) - 1, min(_MAX_SAMPLES, len(kept))).round().astype(int))
    return {kept[k] for k in spread}


def _save_sample(out: Path, frame: Frame, image: Tensor, truth: Tensor) -> None:
    """Writes truth, rendering and their difference (brighter is further off) side by side."""
    image = image.clamp(0.0, 1.0)
    difference = ((image - truth).abs() * 3.0).clamp(0.0, 1.0)
    row = torch.cat([truth, image, difference], dim=1)
    pixels = (row * 255.0 + 0.5).to(torch.uint8).numpy()
    with atomic_write(out / f"camera_{frame.camera_id.replace('/', '_')}_frame_{frame.time_index:04d}.png") as path:
        Image.fromarray(pixels).save(path)
