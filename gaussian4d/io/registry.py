"""Which file format an ending means, and models in and out of any of them.

The formats are in `gaussian4d.plugins.FORMATS`; `formats.py` says what one is.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..offsets import meta_of, offset_of, recentred, relative, text_of
from ..plugins import FORMATS
from .formats import Format, function, guarded

if TYPE_CHECKING:
    from ..model import DynamicGaussians
    from .splats import Splats


_Y_DOWN = ("ply", "compressed-ply", "splat", "spz", "sog", "ksplat", "splatv", "4dgs")
"""Formats whose other programs take y as down."""


def format_of(path: str | os.PathLike[str]) -> Format:
    """Returns the format that the ending of `path` means; raises `UserError` that lists the endings there are.

    Of several endings that fit the longest wins, of equal ones our own.
    """
    name = Path(path).name.lower()
    # What a .sog is made of, and what it is called where a program or a mail gateway does not know its ending.
    if name == "meta.json" or name.endswith(".zip"):
        return FORMATS.get("sog")
    formats = FORMATS.working().values()
    fitting = [(len(end), format) for format in formats for end in format.endings if name.endswith(end.lower())]
    if fitting:
        return max(fitting, key=lambda found: found[0])[1]
    known = ", ".join(ending for format in formats for ending in format.endings)
    raise UserError(f"{path}: the ending {Path(path).suffix!r} is unknown; expected one of {known}")


def format_named(name: str) -> Format:
    """Returns the format `name`; raises `UserError` that lists the names there are."""
    if name not in FORMATS:
        raise UserError(f"the format {name!r} is not known; expected one of {', '.join(FORMATS)}")
    return FORMATS.get(name)


def frame_formats() -> dict[str, Format]:
    """Returns the formats that can be written as a folder of frames, by `NAME-sequence`."""
    return {f"{format.name}-sequence": format for format in FORMATS.working().values() if format.frames}


def read_model(path: str | os.PathLike[str]) -> DynamicGaussians:
    """Returns the model of a file of any format; one without motion is `static`.

    What the file says about how to look at it is in the model's `meta` (see `view_block`).
    """
    format = format_of(path)
    return with_axes(_read(path, format), format)


def _read(path: str | os.PathLike[str], format: Format) -> DynamicGaussians:
    if format.moving_reader is not None:
        return recentred(guarded(function(format.moving_reader), path, format.title))
    if format.moves:
        model = format.read(path)
        # Our own file says where it stands; what it does not say is so.
        return model if format.keeps_offset else recentred(model)
    return _still(path, format)


def read_still(path: str | os.PathLike[str], format: Format | None = None) -> tuple[Splats, np.ndarray]:
    """Returns the Gaussians of a file without motion, float32 and near the origin, and their offset [3]."""
    format = format or format_of(path)
    splats = format.read(path)
    stated = None if format.offset_reader is None else function(format.offset_reader)(path)
    if stated is not None:
        return {**splats, "means": splats["means"].astype(np.float32)}, stated
    return relative(splats, path)


def write_model(
    path: str | os.PathLike[str],
    model: DynamicGaussians,
    *,
    format: Format | None = None,
    time: float | None = None,
    turn: np.ndarray | None = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> int:
    """Writes a model in any format, by the ending of `path`.

    A still format gets the instant `time`, by default the first that was recorded. Returns the number of Gaussians
    written. `options` are those of the formats; one that a format has no room for is dropped. Still formats are turned
    by the rotation `turn` [3, 3]. `say` is called with what there is to say of how the motion was written, and where
    the model stands when that is far from the origin; without it, a format that cannot hold where is warned of.
    """
    import torch

    from ..clip_length import played_span
    from .orient import rotated
    from .sequence import ply_columns

    format = format or format_of(path)
    time = played_span(model)[0] if time is None else time
    line = offset_line(model, format, turn)
    if line is not None and say is not None:
        say(line)
    elif line is not None and not format.keeps_offset:
        warnings.warn(f"{path}: {line}", stacklevel=2)
    if (line := antialias_line(model, format)) is not None:
        warnings.warn(f"{path}: {line}", stacklevel=2)
    say = say or (lambda line: None)
    if not str(path).lower().endswith(format.endings):
        raise UserError(f"{Path(path).name}: {format.title} is named {' or '.join(format.endings)}; rename it")
    if format.name != "g4d":
        model = _writable(path, model)
    if format.moves:
        format.write(path, model, **options)
        return len(model)
    if model.motion.still:
        options = {"comments": model.meta.get("ply_comments"), **options}
    moves = format.moving_writer is not None and not model.motion.still
    options = {**options, **stating_options(model, format, None if moves else turn, options.get("comments") or ())}
    if moves:
        assert format.moving_writer is not None
        return function(format.moving_writer)(path, model, time=time, say=say, **format.known(options))
    if model.motion.still:
        splats = _columns_of(model)
    else:
        with torch.no_grad():
            splats = ply_columns(model.at(time))
    format.write(path, splats if turn is None else rotated(splats, turn), **options)
    return len(splats["means"])


def _writable(path: str | os.PathLike[str], model: DynamicGaussians) -> DynamicGaussians:
    """Returns the model without rows that are no Gaussians, which would make files that nobody can read."""
    from .splats import only_gaussians

    rows = {name: value.detach().cpu().numpy() for name, value in model.params.items() if len(value) == len(model)}
    numbered = {**{n: v for n, v in rows.items() if not n.startswith("shared.")}, "extra.row": np.arange(len(model))}
    kept = only_gaussians(f"writing {Path(path).name}", numbered)["extra.row"]
    if len(kept) == len(model):
        return model
    params = {name: value[kept] if name in numbered else value for name, value in model.params.items()}
    return dataclasses.replace(model, params=params)


def stating_options(
    model: DynamicGaussians, format: Format, turn: np.ndarray | None = None, comments: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the options with which a still `format` states where `model` stands and how it is drawn.

    `comments` are further ones. Its Gaussians are turned by `turn` [3, 3], and so is the world of the offset.
    """
    from .ply import RENDER_MODE, WORLD_OFFSET

    offset = _turned(offset_of(model), turn)
    if "comments" not in format.options:
        return {**({"offset": offset} if np.any(offset) else {}), "antialiased": model.antialiased or None}
    stated = {WORLD_OFFSET: text_of(offset)} if np.any(offset) else {}
    stated |= {RENDER_MODE: "mip"} if model.antialiased else {}
    replaced = {key.lower() for key in (WORLD_OFFSET, *stated)}
    others = [line for line in comments if line.partition(":")[0].strip().lower() not in replaced]
    return {"comments": [*others, *(f"{key}: {value}" for key, value in stated.items())]}


def antialias_line(model: DynamicGaussians, format: Format) -> str | None:
    """Returns the sentence that a file cannot say how its Gaussians are drawn, None where it can or need not."""
    if not model.antialiased or format.name == "g4d" or (format.antialias_reader and not format.moves):
        return None
    return f"{format.title} cannot say that these Gaussians were fitted antialiased: small ones look thicker in it"


def offset_line(model: DynamicGaussians, format: Format, turn: np.ndarray | None = None) -> str | None:
    """Returns the sentence on where a far model stands and whether the file says so; None for one at the origin."""
    offset = _turned(offset_of(model), turn if not format.moves else None)
    if not np.any(offset):
        return None
    room = "the file states" if format.keeps_offset else f"{format.title} cannot store: note it"
    return f"positions are relative to {text_of(offset)} of the recorded world, which {room}"


def _turned(offset: np.ndarray, turn: np.ndarray | None) -> np.ndarray:
    return offset if turn is None else turn @ offset


def _columns_of(model: DynamicGaussians) -> Splats:
    """Returns the columns of a still model as they are, with those that its file had besides."""
    from .splats import EXTRA

    names = ["means", "quats", "scales", "opacities", "sh0", "shN", *(n for n in model.params if n.startswith(EXTRA))]
    return {name: model.params[name].detach().cpu().numpy() for name in names}


def _still(path: str | os.PathLike[str], format: Format) -> DynamicGaussians:
    import torch

    from ..model import DynamicGaussians
    from ..motion import Spacetime, Static
    from .ply_dialects import spacetime

    splats, offset = read_still(path, format)
    moving = spacetime(Path(path), splats)
    params = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in (moving or splats).items()}
    return DynamicGaussians(
        params, Spacetime() if moving else Static(), meta={**stated_by(path, format), **meta_of(offset)}
    )


def stated_by(path: str | os.PathLike[str], format: Format) -> dict[str, Any]:
    """Returns what a file without motion says besides its Gaussians and their offset, for a model's `meta`."""
    antialiased = format.antialias_reader is not None and function(format.antialias_reader)(path)
    return {**comments_of(path, format), **({"antialiased": True} if antialiased else {})}


def comments_of(path: str | os.PathLike[str], format: Format) -> dict[str, Any]:
    """Returns what a `.ply` says in its comments, for a model's `meta`: the comments, and which way is up."""
    from ..view_block import ViewBlock
    from .ply import read_ply_header, vertical_axis_of

    if format.name not in ("ply", "compressed-ply"):
        return {}
    comments = list(read_ply_header(path).comments)
    stated = vertical_axis_of(comments)
    up = None if stated is None else np.array([axis == stated for axis in "xyz"], float)
    return {
        **({"ply_comments": comments} if comments else {}),
        **({} if up is None else {"view": ViewBlock(up=up).to_dict()}),
    }


def with_axes(model: DynamicGaussians, format: Format) -> DynamicGaussians:
    """Returns the model with what other programs take for granted about a format's axes, if it says nothing itself."""
    view = model.meta.get("view") or {}
    if format.name not in _Y_DOWN or "up" in view or "cameras" in view:
        return model
    # A convention, no statement: whoever looks at it says that it is a guess.
    return dataclasses.replace(model, meta={**model.meta, "axes": "y down"})
