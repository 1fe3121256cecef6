"""Which file format an ending means, and models in and out of any of them.

The formats are in `gaussian4d.plugins.FORMATS`; `formats.py` says what one is.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..plugins import FORMATS
from .formats import Format, function, guarded

if TYPE_CHECKING:
    import numpy as np

    from ..model import DynamicGaussians
    from .splats import Splats


_Y_DOWN = ("ply", "compressed-ply", "splat", "spz", "sog", "ksplat", "splatv", "4dgs")
"""Formats whose other programs take y as down."""


def format_of(path: str | os.PathLike[str]) -> Format:
    """Returns the format that the ending of `path` means; raises `UserError` that lists the endings there are.

    Of several endings that fit the longest wins, of equal ones our own.
    """
    name = Path(path).name.lower()
    formats = FORMATS.working().values()
    fitting = [(len(end), format) for format in formats for end in format.endings if name.endswith(end.lower())]
    if fitting:
        return max(fitting, key=lambda found: found[0])[1]
    known = ", ".join(ending for format in formats for ending in format.endings)
    raise UserError(f"{path}: the ending {Path(path).suffix!r} is not known; expected one of {known}")


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
        return guarded(function(format.moving_reader), path, format.title)
    content = format.read(path)
    if format.moves:
        return content
    return _still(content, path, format)


def write_model(
    path: str | os.PathLike[str],
    model: DynamicGaussians,
    *,
    format: Format | None = None,
    time: float = 0.0,
    turn: np.ndarray | None = None,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> int:
    """Writes a model in any format, by the ending of `path`; a still format gets the instant `time`.

    Returns the number of Gaussians written. `options` are those of the formats; one that a format has no room for
    is dropped. Still formats are turned by the rotation `turn` [3, 3]. `say` is called with what there is to say of how
    the motion was written.
    """
    import torch

    from .orient import rotated
    from .sequence import ply_columns

    format = format or format_of(path)
    if not str(path).lower().endswith(format.endings):
        raise UserError(f"{Path(path).name}: {format.title} is named {' or '.join(format.endings)}; rename it")
    if format.moves:
        format.write(path, model, **options)
        return len(model)
    if format.moving_writer is not None and not model.motion.still:
        return function(format.moving_writer)(path, model, time=time, say=say, **format.known(options))
    if model.motion.still:
        splats = _columns_of(model)
        options = {"comments": model.meta.get("ply_comments"), **options}
    else:
        with torch.no_grad():
            splats = ply_columns(model.at(time))
    format.write(path, splats if turn is None else rotated(splats, turn), **options)
    return len(splats["means"])


def _columns_of(model: DynamicGaussians) -> Splats:
    """Returns the columns of a still model as they are, with those that its file had besides."""
    from .splats import EXTRA

    names = ["means", "quats", "scales", "opacities", "sh0", "shN", *(n for n in model.params if n.startswith(EXTRA))]
    return {name: model.params[name].detach().cpu().numpy() for name in names}


def _still(splats: Splats, path: str | os.PathLike[str], format: Format) -> DynamicGaussians:
    import numpy as np
    import torch

    from ..model import DynamicGaussians
    from ..motion import Static

    params = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in splats.items()}
    return DynamicGaussians(params, Static(), meta=comments_of(path, format))


def comments_of(path: str | os.PathLike[str], format: Format) -> dict[str, Any]:
    """Returns what a `.ply` says in its comments, for a model's `meta`: the comments, and which way is up."""
    import numpy as np

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
    if format.name not in _Y_DOWN or "view" in model.meta:
        return model
    # A convention, no statement: whoever looks at it says that it is a guess.
    return dataclasses.replace(model, meta={**model.meta, "axes": "y down"})
