"""The render desk: a model along a camera path, as videos or folders of pictures; the command line's and the viewer's.

Finished frames lie in a folder beside the output until all are there, so a render that was stopped can go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from .errors import UserError
from .files import atomic_write, read_json, write_json
from .folders import atomic_folder, check_replaceable
from .io import pictures as draw
from .io.exr import write_exr
from .model import DynamicGaussians
from .paths import CameraPath
from .rendering import RenderOutput, render
from .truth import Truth
from .video_out import check_fps, check_picture_size, check_video_path, write_video

Layout = Literal["row", "grid", "files"]

# What an EXR picture calls the numbers of a buffer. `A` and `Z` mean alpha and depth to all readers.
_CHANNELS = {
    "rgb": ("R", "G", "B"), "alpha": ("A",), "depth": ("Z",), "normal": ("normal.X", "normal.Y", "normal.Z"),
    "flow": ("flow.X", "flow.Y"), "velocity": ("velocity.X", "velocity.Y", "velocity.Z"), "lifetime": ("lifetime.Y",),
}  # fmt: skip
_SCALE_SAMPLES = 5


@dataclasses.dataclass(frozen=True)
class Shot:
    """What is drawn of every camera of a path."""

    buffers: tuple[str, ...] = ("rgb",)
    """Of `io.pictures.PICTURE_BUFFERS`."""
    layout: Layout = "row"
    """Several buffers side by side, as a grid, or each in its own file."""
    background: tuple[float, float, float] | None = None
    """Behind the Gaussians; None takes the model's own, black without one."""
    transparent: bool = False
    """Pictures with alpha instead of a background."""
    truth: bool = False
    """Put the recorded picture first; the path's cameras must be recorded ones."""
    exr: bool = False
    """Floats instead of pictures: one EXR file per frame with all buffers as channels."""
    backend: str = "auto"

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of the files' different contents; one, "", unless each buffer has a file."""
        if self.layout != "files" or self.exr:
            return ("",)
        return (*(("truth",) if self.truth else ()), *self.buffers)


class Desk:
    """Draws the frames of a shot.

    Args:
        model: what is drawn.
        path: cameras and clip times.
        shot: how.
        truth: recorded pictures, for `shot.truth`.
        lock: held while a picture is drawn, by those that share the processor.

    Raises:
        UserError: for a shot that cannot be drawn, before any frame is.
    """

    def __init__(
        self,
        model: DynamicGaussians,
        path: CameraPath,
        shot: Shot,
        truth: Truth | None = None,
        lock: contextlib.AbstractContextManager[Any] | None = None,
    ) -> None:
        self.model, self.path, self.shot, self._truth = model, path, shot, truth
        self._lock = lock or contextlib.nullcontext()
        for width, height in {(camera.width, camera.height) for camera, _ in path}:
            check_picture_size("a render", width, height)
        self._names = draw.buffers_for(shot.buffers)
        if shot.transparent or shot.exr:
            self._names = tuple(dict.fromkeys([*self._names, "alpha"]))
        if shot.truth:
            self._check_truth()
        picks = sorted(set(np.linspace(0, len(path) - 1, _SCALE_SAMPLES).round().astype(int).tolist()))
        fixed = [name for name in self._names if name in ("depth", "flow", "velocity", "alpha")]
        # One scale for all frames, from a few of them, so that the path need not be drawn twice.
        sampled = picks if set(fixed) - {"alpha"} and not shot.exr else []
        self.scales = draw.Scales.measured(self._render(index, fixed) for index in sampled)

    def frame(self, index: int) -> dict[str, np.ndarray]:
        """Returns the pictures uint8 [H, W, 3 or 4] of frame `index`, by stream."""
        camera, time = self.path[index]
        output = self._render(index, self._names)
        tiles = {name: self._picture(output, name) for name in self.shot.buffers}
        if self.shot.truth:
            assert self._truth is not None
            recorded = self._truth.picture(camera, time, self._behind())
            assert recorded is not None
            tiles = {"truth": _opaque(recorded) if self.shot.transparent else recorded, **tiles}
        if self.shot.layout == "files":
            return tiles
        join = draw.grid if self.shot.layout == "grid" else draw.side_by_side
        return {"": join(list(tiles.values()))}

    def floats(self, index: int) -> dict[str, np.ndarray]:
        """Returns the channels float32 [H, W] of frame `index`; colours linear, times alpha, as EXR means them."""
        output = self._render(index, self._names)
        channels: dict[str, np.ndarray] = {}
        for name in self._names:
            value = getattr(output, name).detach().cpu().numpy()
            if name == "rgb":
                alpha = 1.0 if output.alpha is None or not self.shot.transparent else output.alpha.cpu().numpy()
                straight = np.clip(value / np.maximum(alpha, 1e-6), 0.0, None)
                value = np.where(straight <= 0.04045, straight / 12.92, ((straight + 0.055) / 1.055) ** 2.4) * alpha
            channels |= {label: value[..., k] for k, label in enumerate(_CHANNELS[name])}
        if not self.shot.transparent and "alpha" not in self.shot.buffers:
            del channels["A"]
        return channels

    def fingerprint(self) -> str:
        """Returns a hash of everything the frames depend on."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self.shot)).encode())
        for camera, time in self.path:
            digest.update(camera.viewmat.tobytes() + camera.K.tobytes())
            digest.update(f"{camera.width} {camera.height} {camera.model} {time!r}".encode())
        digest.update(f"{self.model.motion.name} {self.model.motion.config_dict()} {self.model.near!r}".encode())
        for name, value in sorted({**self.model.params, "background": self._behind_tensor()}.items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _render(self, index: int, names: Sequence[str]) -> RenderOutput:
        camera, time = self.path[index]
        background = (0.0, 0.0, 0.0) if self.shot.transparent else self.shot.background
        with self._lock:
            return render(self.model, camera, time, names, background=background, backend=self.shot.backend)

    def _picture(self, output: RenderOutput, name: str) -> np.ndarray:
        if not self.shot.transparent:
            return draw.buffer_picture(output, name, self.scales)
        assert output.alpha is not None
        if name == "alpha":
            return _opaque(draw.buffer_picture(output, name, self.scales))
        alpha = output.alpha.clamp(0.0, 1.0)
        # What is drawn over black is colour times alpha; files hold the colour itself.
        if name == "rgb":
            assert output.rgb is not None
            colours = draw.rgb_picture((output.rgb / alpha.clamp_min(1e-4)).cpu().numpy())
        else:
            solid = dataclasses.replace(output, alpha=torch.ones_like(alpha))
            colours = draw.buffer_picture(solid, name, self.scales)
        return np.concatenate([colours, draw.rgb_picture(alpha.cpu().numpy())], axis=2)

    def _behind_tensor(self) -> torch.Tensor:
        return torch.tensor(self._behind())

    def _behind(self) -> tuple[float, float, float]:
        behind = self.shot.background
        if behind is None:
            own = self.model.background
            behind = (0.0, 0.0, 0.0) if own is None else tuple(own.tolist())  # type: ignore[assignment]
        return behind  # type: ignore[return-value]

    def _check_truth(self) -> None:
        if self._truth is None:
            raise UserError("a recorded picture beside the rendering needs the scene of the run, and there is none")
        for camera, time in self.path:
            if self._truth.frame(camera, time) is None:
                raise UserError(
                    "only recorded cameras have recorded pictures to lay beside; take the path dataset or still"
                )


def check_target(out: Path, shot: Shot) -> None:
    """Raises `UserError` when `render_to` could not write `shot` to `out`. Cheap: ask before anything is read."""
    if shot.exr:
        if out.suffix:
            raise UserError(f"{out}: EXR pictures go into a folder; expected a name without an ending")
        check_replaceable(out)
        return
    for target in targets(out, shot):
        check_video_path(target, shot.transparent)


def targets(out: Path, shot: Shot) -> list[Path]:
    """Returns the files or folders that `render_to` writes, one per stream: `name_depth.mp4` beside `name_rgb.mp4`."""
    return [out.with_name(f"{out.stem}_{stream}{out.suffix}") if stream else out for stream in shot.streams]


def frames_folder(out: Path) -> Path:
    """Returns the folder beside `out` that holds finished frames until all are there."""
    return out.with_name(f".{out.name}.frames")


def render_to(
    out: Path,
    desk: Desk,
    fps: float,
    *,
    resume: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Path]:
    """Returns the files or folders written; empty when `stop` said so. Finished frames then stay for `resume`.

    Args:
        out: a video file, or a folder for pictures; see `targets`.
        desk: what is drawn.
        fps: frames per second of a video.
        resume: keep the frames that an earlier call with the same model, path and shot has finished.
        progress: called with the number of finished frames, and of all.
        stop: asked before every frame.

    Raises:
        UserError: when `out` cannot be written.
    """
    check_target(out, desk.shot)
    if out.suffix:
        check_fps(fps)
    folder = _prepare(frames_folder(out), desk, resume)
    ending, total = ".exr" if desk.shot.exr else ".png", len(desk.path)
    for index in range(total):
        files = {stream: folder / f"{stream}_{index:05d}{ending}" for stream in desk.shot.streams}
        if not all(file.exists() for file in files.values()):
            if stop():
                return []
            if desk.shot.exr:
                write_exr(files[""], desk.floats(index))
            else:
                pictures = desk.frame(index)
                if index == 0:
                    _check_sizes(out, desk.shot, pictures, folder)
                for stream, picture in pictures.items():
                    with atomic_write(files[stream]) as temporary:
                        Image.fromarray(picture).save(temporary, compress_level=1)
        progress(index + 1, total)
    written = targets(out, desk.shot)
    for stream, target in zip(desk.shot.streams, written):
        files = [folder / f"{stream}_{index:05d}{ending}" for index in range(total)]
        if target.suffix:
            write_video(target, _read(files), fps)
        else:
            with atomic_folder(target) as temporary:
                for index, file in enumerate(files):
                    file.replace(temporary / f"frame_{index:04d}{ending}")
    shutil.rmtree(folder)
    return written


def _check_sizes(out: Path, shot: Shot, pictures: dict[str, np.ndarray], folder: Path) -> None:
    """Raises `UserError` for pictures that are too large for their files, which nobody can go on with."""
    try:
        for target, picture in zip(targets(out, shot), pictures.values()):
            check_picture_size(target, picture.shape[1], picture.shape[0])
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _prepare(folder: Path, desk: Desk, resume: bool) -> Path:
    """Returns the folder of finished frames, emptied unless they are wanted and were drawn from the same."""
    mark: dict[str, Any] = {"fingerprint": desk.fingerprint()}
    file = folder / "shot.json"
    if not (resume and file.exists() and read_json(file) == mark):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(file, mark)
    return folder


def _read(files: Sequence[Path]) -> Iterator[np.ndarray]:
    for file in files:
        with Image.open(file) as picture:
            yield np.asarray(picture)


def _opaque(picture: np.ndarray) -> np.ndarray:
    return np.concatenate([picture, np.full((*picture.shape[:2], 1), 255, np.uint8)], axis=2)
