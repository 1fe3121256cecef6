"""`gaussian4d export`: a fitted scene for other programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, arg

from ..devices import choose_device
from ..errors import UserError
from ..offsets import offset_of, text_of
from ..plugins import FORMATS
from .choices import Unset, Up, listed
from .scene_exports import scene_formats

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from ..cameras import Camera
    from ..devices import Placement
    from ..io.formats import Format
    from ..io.near_plane import NearSpace
    from ..model import DynamicGaussians
    from .opened import Opened

FormatName = Annotated[Unset[str], arg(metavar=listed(FORMATS, "NAME-sequence", *scene_formats()))]

_TIMED = ("4dgs", "glb", "usd")
"""Formats with a clock, which have to say how long the clip lasts."""
_FOR_VIEWERS = ("compressed-ply", "splat", "spz", "sog")
"""Formats that are there to be looked at, in programs that take y as down; `.ply` goes with the cameras too."""


@dataclasses.dataclass
class Export:
    """Export a fitted scene to other programs: one file with its motion, one instant, or one file per instant."""

    WRITES: ClassVar[dict[str, bool | None]] = {"to": None}
    EXAMPLES: ClassVar[str] = """
        gaussian4d export runs/fox --to runs/fox/exports/frames       (frame_0000.ply, frame_0001.ply, ...)
        gaussian4d export runs/fox --to frames --format sog-sequence  (frame_0000.sog, ...)
        gaussian4d export runs/fox --to fox.ply --time 0.5            (also .compressed.ply .splat .spz .sog .glb)
        gaussian4d export runs/fox --to fox.splatv                    (with the motion; also .4dgs .usda .usdz .g4d)
        gaussian4d export runs/fox --to fox.html                      (opens in any browser, nothing to install)
        gaussian4d export runs/fox --to part.g4d --crop runs/fox/crop.json
        gaussian4d export runs/fox --to fox.mesh.glb --time 0.5       (a mesh; .morph.glb is one that moves)
        gaussian4d export runs/fox --to tracks.npz --points 500       (paths of points on the surface)
        gaussian4d export runs/fox --to fox/transforms.json --pictures   (cameras and images for nerfstudio)
        gaussian4d export runs/fox --to fox --format colmap           (cameras as COLMAP's text files)
    """

    source: Positional[Path]
    """Run folder, folder of frames, or Gaussian file."""
    to: Path
    """File to write, or folder for a sequence; the file ending selects the format."""
    format: FormatName = None
    """Output format. Default: from the ending of --to, ply-sequence if it has none. See docs/splat_formats.md."""
    time: Unset[float] = None
    """Clip time in [0, 1] for formats that hold a single instant. Default: the first recorded one."""
    count: Unset[int] = None
    """Number of instants to write for sequences, USD, tracks and moving meshes. Default: every recorded instant."""
    axes: Literal["auto", "upright", "recorded"] = "auto"
    """Still formats: upright turns up to -y for viewers, recorded keeps the cameras' axes; auto: recorded for .ply."""
    spz_version: Literal[2, 3, 4] = 4
    """Version of a .spz file: 3 or 2 for older programs."""
    up: Unset[Up] = None
    """Up axis of the scene. Default: the one stored in the run or file."""
    scene: Unset[Path] = None
    """Scene folder of the run. Only needed if it was moved and is not beside the run folder."""
    crop: Unset[Path] = None
    """Keep only the Gaussians inside the crop box of this file (RUN/crop.json, saved in the viewer)."""
    points: int = 2000
    """For tracks: number of points to follow."""
    mesh_detail: int = 128
    """For meshes: grid points along the longest side."""
    keep_near: bool = False
    """Also write Gaussians in front of the near plane of a recorded camera; other programs will show them."""
    pictures: bool = False
    """With nerfstudio or colmap: also write the images, undistorted and downscaled as in the fit."""
    device: str = "auto"
    """Device for rendering meshes and comparisons: auto takes a GPU if a backend works on it, else cpu."""

    def run(self) -> None:
        """Exports, and prints what was written."""
        from ..clip_length import outside
        from .exporters import find_exporter
        from .opened import open_model
        from .scene_exports import find_scene_format, scene_format_names

        of_scene = find_scene_format(self.to, self.format)
        exporter = find_exporter(self.to) if self.format is None and of_scene is None else None
        if exporter is None and of_scene is None:
            check_target(self.to, self.format, scene_format_names())
        if self.time is not None and not 0.0 <= self.time <= 1.0:
            raise UserError(f"--time is clip time in [0, 1], got {self.time}")
        if self.count is not None and self.count < 1:
            raise UserError(f"--count must be at least 1, got {self.count}")
        placement = choose_device(self.device)
        opened = dataclasses.replace(open_model(self.source, scene=self.scene, up=self.up), placement=placement)
        if self.crop is not None:
            from ..crop import CropBox, crop_model

            opened = dataclasses.replace(opened, model=crop_model(opened.model, CropBox.load(self.crop)))
        if self.time is not None and (note := outside(opened.model, [self.time])) is not None:
            print(f"note: {note}")
        if of_scene is not None:
            of_scene.write(opened, self.to, self)
            return
        if exporter is not None:
            exporter(opened, self.to)
            if (offset := offset_of(opened.model)).any():
                print(f"positions are relative to {text_of(offset)}, which {self.to.name} does not store")
            return
        if (opened.length.note is not None) and check_target(self.to, self.format)[0].name in _TIMED:
            print(opened.length.note)
        save_model(
            opened.model,
            self.to,
            format=self.format,
            time=self.time,
            count=self.count,
            cameras=opened.cameras,
            space=opened.near_space,
            keep_near=self.keep_near,
            turn=self._turn(opened),
            vertical_axis=opened.vertical_axis,
            placement=placement,
            version=self.spz_version,
        )

    def _turn(self, opened: Opened) -> np.ndarray | None:
        """Returns the rotation [3, 3] that brings the scene's up to where viewers have it, None for none; says it."""
        from ..framing import name_of
        from ..io.orient import to_y_down

        format, _ = check_target(self.to, self.format)
        if format.name not in (*_FOR_VIEWERS, "ply"):
            if self.axes != "auto":
                raise UserError(
                    f"--axes is for .ply .compressed.ply .splat .spz .sog; {format.title} stores its own up axis, or"
                    " keeps the axes of the cameras"
                )
            return None
        framing = opened.framing
        if self.axes == "recorded" or (self.axes == "auto" and framing.guessed):
            return None
        turn = to_y_down(framing.up)
        if turn is None:
            return None
        up = name_of(framing.up)
        if self.axes == "auto" and format.name not in _FOR_VIEWERS:
            print(f"axes are those of the recorded cameras, up is {up}; --axes upright rotates it for viewers (y down)")
            return None
        print(f"rotated upright: up, {up} in the scene, is -y in the file, as viewers expect; --axes recorded keeps it")
        return turn


def check_target(path: Path, format: str | None, besides: Sequence[str] = ()) -> tuple[Format, bool]:
    """Returns the format to write and whether as a folder of frames; raises `UserError` before anything is read.

    `besides` are the names and endings, with their dots, of formats not of Gaussians that the message lists too.
    """
    from ..io.registry import format_named, format_of, frame_formats
    from .exporters import registered_endings

    if format is None and path.suffix == "":
        format = "ply-sequence"
    elif format is None:
        try:
            format = format_of(path).name
        except UserError as error:
            others = [name for name in besides if name.startswith(".")]
            raise UserError(", ".join([str(error), *others, *registered_endings()])) from None
    if format in frame_formats():
        if path.suffix and not path.is_dir():
            raise UserError(f"{path}: {format} is a folder of frames; expected a name without an ending")
        return frame_formats()[format], True
    try:
        chosen = format_named(format)
    except UserError as error:
        others = [*frame_formats(), *(name for name in besides if not name.startswith("."))]
        raise UserError(f"{error}, {', '.join(others)}") from None
    if chosen.writer is None:
        raise UserError(f"{path.name}: {chosen.title} can only be read; choose another format")
    if not path.name.lower().endswith(chosen.endings):
        raise UserError(f"{path.name}: {chosen.title} is named {' or '.join(chosen.endings)}; rename it")
    return chosen, False


def save_model(
    model: DynamicGaussians,
    path: Path,
    *,
    format: str | None = None,
    time: float | None = None,
    count: int | None = None,
    cameras: Sequence[Camera] = (),
    space: NearSpace | None = None,
    keep_near: bool = False,
    turn: np.ndarray | None = None,
    placement: Placement | None = None,
    **options: Any,
) -> None:
    """Writes a model in any format and prints what was written, and what was lost.

    What stands in `space`, which the model does not draw, is kept out of formats that would have it drawn, unless
    `keep_near`. Still formats are turned by the rotation `turn` [3, 3]. Pictures of what was lost are drawn where
    `placement` says.
    """
    from ..clip_length import played_span
    from ..io.cubic import own_instants, written_instants
    from ..io.registry import write_model
    from ..paths import clip_times
    from .console import size

    chosen, as_frames = check_target(path, format)
    moves = not model.motion.still
    span = played_span(model)
    time = span[0] if time is None else time
    times = (clip_times(count, span) if count else written_instants(model)).tolist()
    if moves and not count and (as_frames or "times" in chosen.options) and own_instants(model) is None:
        print(f"the model does not state its instants: {len(times)} evenly spaced ones are written")
    whole, fog = model, False
    if space is not None and not chosen.near:
        holds_motion = as_frames or chosen.moves or chosen.moving_writer is not None
        model, fog = _without_near(model, space, times if holds_motion else [time], chosen.title, keep_near)
    if turn is not None:
        # What was said of the axes holds no more.
        options |= {"vertical_axis": None, "comments": _without_axis(model.meta.get("ply_comments") or [])}
    if as_frames:
        _sequence(model, path, chosen, times, turn, options)
        return
    if "times" in chosen.options and count:
        options["times"] = times
    written = write_model(path, model, format=chosen, time=time, turn=turn, say=print, **options)
    if moves and not chosen.moves and chosen.moving_writer is None:
        print(f"{chosen.title} holds no motion: this is the instant at {time:g} of the clip", flush=True)
    motion = f", motion {model.motion.name}" if chosen.moves else ""
    print(f"wrote {path}: {written:,} Gaussians{motion}, {size(path.stat().st_size)}")
    if not chosen.exact or (moves and chosen.moving_writer is not None) or fog:
        # Separate instants are what they are at their own times.
        kept = times if "times" in options else None
        _print_difference(whole, model, path, chosen, time, cameras, kept, placement, turn, space is not None)


def _without_near(
    model: DynamicGaussians, space: NearSpace, times: Sequence[float], title: str, keep: bool
) -> tuple[DynamicGaussians, bool]:
    """Returns (model without what `space` has at `times`, or itself with `keep`; whether there is any), and says it."""
    from ..io.near_plane import emptied

    without, found = emptied(model, space, times)
    if found.total == 0:
        return model, False
    what = f"{found.total:,} Gaussians are closer than {space.near:.4g} to a recorded camera and in its view"
    if keep:
        print(f"{what}; the model does not draw them, but {title} cannot store the near plane, so others will")
        return model, True
    done = []
    if found.moved:
        done.append(f"{found.moved:,} are moved behind the camera ({found.distance:.2g} on average)")
    if found.removed:
        done.append(f"{found.removed:,} are left out")
    print(
        f"{what}, in front of the near plane, which {title} cannot store: {', '.join(done)}; --keep-near"
        " keeps them in place"
    )
    return without, True


def _without_axis(comments: Sequence[str]) -> list[str]:
    """Returns the comments of a `.ply` but for what they say of its axes."""
    from ..io.ply import vertical_axis_of

    return [line for line in comments if vertical_axis_of([line]) is None]


def _sequence(
    model: DynamicGaussians,
    path: Path,
    format: Format,
    times: Sequence[float],
    turn: np.ndarray | None,
    options: dict[str, Any],
) -> None:
    from ..io.registry import offset_line
    from ..io.sequence import ply_sequence
    from .console import size, track

    if (line := offset_line(model, format, turn)) is not None:
        print(line)
    frames = ply_sequence(path, model, times, vertical_axis=options.get("vertical_axis"), turn=turn, format=format)
    written = list(track(frames, "export", total=len(times)))
    total = sum(file.stat().st_size for file in written)
    print(f"wrote {len(written)} files {written[0]} ... {written[-1].name}, {size(total)}")


def _turned(model: DynamicGaussians, rotation: np.ndarray) -> DynamicGaussians:
    """Returns a model without motion turned by the rotation [3, 3]."""
    import torch

    from ..io.orient import rotated

    columns = {name: model.params[name].numpy() for name in ("means", "quats", "scales", "opacities", "sh0", "shN")}
    turned = {name: torch.from_numpy(value) for name, value in rotated(columns, rotation).items()}
    return dataclasses.replace(model, params={**model.params, **turned})


def shown_instants(model: DynamicGaussians) -> list[float]:
    """Returns the first, the middle and the last clip time of a model: some formats hold its own instants only."""
    from ..io.cubic import own_instants

    own = own_instants(model)
    times = [0.0, 0.5, 1.0] if own is None else own.tolist()
    return sorted({times[0], times[len(times) // 2], times[-1]})


def _print_difference(
    model: DynamicGaussians,
    written: DynamicGaussians,
    path: Path,
    format: Format,
    time: float,
    cameras: Sequence[Camera],
    kept: Sequence[float] | None = None,
    placement: Placement | None = None,
    turn: np.ndarray | None = None,
    recorded: bool = False,
) -> None:
    """Prints how the file differs from the model to the eye, in dB: from which cameras, and for what reason.

    `written` is the model without what was kept out of the file, `recorded` whether `cameras` are the recorded ones.
    """
    from ..clip_length import recorded_span
    from ..io.difference import difference_db
    from ..io.registry import read_model
    from ..paths import cameras_around
    from .placing import told

    back, device = read_model(path), told(placement)
    if turn is not None:
        back = _turned(back, turn.T)
    held = format.moves or not back.motion.still
    if format.exact and not held and written is model and back.near == model.near:
        return
    instants = shown_instants(model) if kept is None else sorted({kept[0], kept[len(kept) // 2], kept[-1]})
    # A file plays from its own beginning to its end, which is what was recorded.
    first, last = recorded_span(model)
    moments = [(t, (t - first) / (last - first)) for t in instants] if held else [(time, 0.0)]
    views = list(cameras) or cameras_around(model.at(time).means.detach().cpu().double().numpy())
    views = views[:: max(1, len(views) // 4)][:4]
    found = difference_db(model, back, views, moments, device=device)
    seen_by = (
        f"recorded cameras {', '.join(view.id for view in views)}" if recorded else f"{len(views)} views around it"
    )
    print(f"rendered from the file, it matches the model at {found:.1f} dB PSNR ({seen_by}; covered pixels)")
    if back.near < model.near:
        # The same distance for both shows the format alone, the same Gaussians for both the distance alone.
        near = {**written.meta, "near": back.near}
        alone = difference_db(dataclasses.replace(written, meta=near), back, views, moments, device=device)
        if alone > found + 1.0:
            print(
                f"the format alone gives {alone:.1f} dB; the rest is because such files are drawn from"
                f" {back.near:g} on, the model from {model.near:.4g} on"
            )
