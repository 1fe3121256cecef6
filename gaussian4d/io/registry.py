"""The table of file formats of Gaussians: which ending means which format, and what reads and writes it.

To add one, write a module with its reader and writer and add a line to `FORMATS`. Readers and writers of still formats
take and give `Splats`, those of moving ones a model. Nothing is imported before it is used.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from ..model import DynamicGaussians
    from .splats import Splats


@dataclasses.dataclass(frozen=True)
class Format:
    """One file format."""

    name: str
    endings: tuple[str, ...]
    title: str
    moves: bool
    """Whether it holds motion; otherwise a moving model is written as one instant, or as a folder of frames."""
    exact: bool
    """Whether Gaussians read back are drawn the same, for still formats at their instant."""
    module: str
    reader: str | None
    writer: str | None
    options: tuple[str, ...] = ()
    """What the writer takes besides: `vertical_axis`, `comments`, `version`, `times`."""
    frames: bool = False
    """Whether players take a folder of such files as a clip."""
    parts: str | None = None
    """Of a still format that moves rigid parts: the module whose `read_moving` and `write_moving` take models."""

    def read(self, path: str | os.PathLike[str]) -> Any:
        """Returns what the format's reader returns: `Splats`, or a model when it `moves`."""
        if self.reader is None:
            raise UserError(f"{Path(path).name}: {self.title} is written, not read")
        return self._function(self.reader)(path)

    def write(self, path: str | os.PathLike[str], content: Any, **options: Any) -> None:
        """Writes `Splats`, or a model when it `moves`; options that the format has no room for are dropped."""
        if self.writer is None:
            raise UserError(f"{Path(path).name}: {self.title} is read, not written; choose one of {_names(True)}")
        self._function(self.writer)(path, content, **self.known(options))

    def known(self, options: dict[str, Any]) -> dict[str, Any]:
        """Returns those of `options` that the writer takes."""
        return {name: value for name, value in options.items() if name in self.options and value is not None}

    def _function(self, name: str, module: str | None = None) -> Callable[..., Any]:
        return getattr(importlib.import_module(f".{module or self.module}", __package__), name)


FORMATS = (
    Format("g4d", (".g4d",), "our own file", True, True, "model_files", "read_model", "write_model"),
    Format(
        "compressed-ply",
        (".compressed.ply",),
        "PlayCanvas' compressed .ply",
        False,
        False,
        "compressed_ply",
        "read_compressed_ply",
        "write_compressed_ply",
        ("comments",),
        True,
    ),
    Format(
        "ply",
        (".ply",),
        "3DGS .ply",
        False,
        True,
        "ply",
        "read_any_ply",
        "write_ply",
        ("vertical_axis", "comments"),
        True,
    ),
    Format("splat", (".splat",), "antimatter15's .splat", False, False, "splat", "read_splat", "write_splat", (), True),
    Format("spz", (".spz",), "Niantic's .spz", False, False, "spz", "read_spz", "write_spz", ("version",), True),
    Format("sog", (".sog",), "PlayCanvas' .sog", False, False, "sog", "read_sog", "write_sog", (), True),
    Format("ksplat", (".ksplat",), "mkkellogg's .ksplat", False, False, "ksplat", "read_ksplat", None),
    Format("splatv", (".splatv",), "antimatter15's .splatv", True, False, "splatv", "read_splatv", "write_splatv"),
    Format("4dgs", (".4dgs",), "the open .4dgs container", True, False, "four_dgs", "read_4dgs", "write_4dgs"),
    Format(
        "glb",
        (".glb",),
        "glTF with Gaussians",
        False,
        True,
        "gltf",
        "read_gltf",
        "write_glb",
        ("vertical_axis",),
        parts="gltf_motion",
    ),
    Format("gltf", (".gltf",), "glTF with Gaussians", False, True, "gltf", "read_gltf", None, parts="gltf_motion"),
    Format(
        "usd", (".usda", ".usdz"), "OpenUSD", True, False, "usd", "read_usd", "write_usd", ("vertical_axis", "times")
    ),
    Format(
        "checkpoint", (".pt", ".ckpt"), "a trainer's checkpoint", True, True, "checkpoints", "read_checkpoint", None
    ),
)
"""Every format. A longer ending stands before the shorter one that it ends with."""


def format_of(path: str | os.PathLike[str]) -> Format:
    """Returns the format that the ending of `path` means; raises `UserError` that lists the endings there are."""
    name = Path(path).name.lower()
    for format in FORMATS:
        if name.endswith(format.endings):
            return format
    known = ", ".join(ending for format in FORMATS for ending in format.endings)
    raise UserError(f"{path}: the ending {Path(path).suffix!r} is not known; expected one of {known}")


def format_named(name: str) -> Format:
    """Returns the format `name`; raises `UserError` that lists the names there are."""
    for format in FORMATS:
        if format.name == name:
            return format
    raise UserError(f"the format {name!r} is not known; expected one of {_names(False)}")


def frame_formats() -> dict[str, Format]:
    """Returns the formats that can be written as a folder of frames, by `NAME-sequence`."""
    return {f"{format.name}-sequence": format for format in FORMATS if format.frames}


def read_model(path: str | os.PathLike[str]) -> DynamicGaussians:
    """Returns the model of a file of any format; one without motion is `static`."""
    format = format_of(path)
    if format.parts is not None:
        return format._function("read_moving", format.parts)(path)
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
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> int:
    """Writes a model in any format, by the ending of `path`; a still format gets the instant `time`.

    Returns the number of Gaussians written. `options` are those of the formats; one that a format has no room for
    is dropped. `say` is called with what there is to say of how the motion was written.
    """
    import torch

    from .sequence import ply_columns

    format = format or format_of(path)
    if not str(path).lower().endswith(format.endings):
        raise UserError(f"{Path(path).name}: {format.title} is named {' or '.join(format.endings)}; rename it")
    if format.moves:
        format.write(path, model, **options)
        return len(model)
    if format.parts is not None and not model.motion.still:
        known = format.known(options)
        return format._function("write_moving", format.parts)(path, model, time=time, say=say, **known)
    if model.motion.still:
        splats = _columns_of(model)
        options = {"comments": model.meta.get("ply_comments"), **options}
    else:
        with torch.no_grad():
            splats = ply_columns(model.at(time))
    format.write(path, splats, **options)
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

    meta: dict[str, Any] = {}
    if format.name in ("ply", "compressed-ply"):
        from .ply import read_ply_header

        comments = list(read_ply_header(path).comments)
        meta = {"ply_comments": comments} if comments else {}
    params = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in splats.items()}
    return DynamicGaussians(params, Static(), meta=meta)


def _names(written: bool) -> str:
    return ", ".join(format.name for format in FORMATS if format.writer or not written)
