"""What a file format of Gaussians is, and our own ones. `registry.py` finds the one that an ending means.

To add one to the package, write a module with its reader and writer, describe it here and name it in
`gaussian4d.plugins.FORMATS`; a format of another package is a `Format` under the entry-point group
`gaussian4d.formats`. Readers and writers of still formats take and give `Splats`, those of moving ones a model.
Nothing is imported before it is used.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import STUMBLES, UserError, unforeseen
from ..plugins import FORMATS
from .contents import head_of, other_kind
from .splats import only_gaussians

Function = str | Callable[..., Any]
"""`module:function`, imported when it is called, or the function itself."""


@dataclasses.dataclass(frozen=True)
class Format:
    """One file format."""

    name: str
    """The name it is registered under."""
    endings: tuple[str, ...]
    """With their dots; of several formats whose endings fit a file the longest ending wins."""
    title: str
    """As it is called in messages: "Niantic's .spz"."""
    moves: bool
    """Whether it holds motion; otherwise a moving model is written as one instant, or as a folder of frames."""
    exact: bool
    """Whether Gaussians read back are drawn the same, for still formats at their instant."""
    reader: Function | None
    """Called with the path; returns `Splats` (`gaussian4d.io.splats`), or a model when the format `moves`."""
    writer: Function | None
    """Called with the path, `Splats` or a model, and those of `options` that are given."""
    options: tuple[str, ...] = ()
    """What the writer takes besides: `vertical_axis`, `comments`, `version`, `times`, `offset`, `antialiased`."""
    frames: bool = False
    """Whether players take a folder of such files as a clip."""
    moving_reader: Function | None = None
    """Of a still format that moves rigid parts: like `reader`, but returns a model."""
    moving_writer: Function | None = None
    """The same: called with the path, a moving model, `time`, `say` and options; returns how many Gaussians."""
    near: bool = False
    """Whether it keeps how near to a camera nothing is drawn; without, `export` leaves out what stands there."""
    offset_reader: Function | None = None
    """Called with the path; returns the offset [3] that the file states (`gaussian4d.offsets`), or None. Its writer
    takes the option `offset`, or writes it as one of `comments`."""
    keeps_offset: bool = False
    """Whether files state the offset of the model they were written of."""
    antialias_reader: Function | None = None
    """Called with the path; returns whether the file says that its Gaussians were fitted with antialiasing. Its writer
    takes the option `antialiased`, or `comments`."""

    def read(self, path: str | os.PathLike[str]) -> Any:
        """Returns what the format's reader returns: `Splats`, or a model when it `moves`."""
        if self.reader is None:
            raise UserError(f"{Path(path).name}: {self.title} cannot be read back")
        return guarded(function(self.reader), path, self.title)

    def write(self, path: str | os.PathLike[str], content: Any, **options: Any) -> None:
        """Writes `Splats`, or a model when it `moves`; options that the format has no room for are dropped."""
        if self.writer is None:
            written = ", ".join(name for name, format in FORMATS.working().items() if format.writer)
            raise UserError(f"{Path(path).name}: {self.title} can only be read; choose one of {written}")
        if isinstance(content, dict):
            content = only_gaussians(f"writing {Path(path).name}", content)
        function(self.writer)(path, content, **self.known(options))

    def known(self, options: dict[str, Any]) -> dict[str, Any]:
        """Returns those of `options` that the writer takes."""
        return {name: value for name, value in options.items() if name in self.options and value is not None}


def guarded(reader: Callable[..., Any], path: str | os.PathLike[str], title: str) -> Any:
    """Returns `reader(path)`; raises `UserError` whatever is wrong with the content."""
    try:
        return reader(path)
    except UserError as error:
        head = head_of(Path(path))
        if head is not None and (other := other_kind(Path(path), head)):
            raise UserError(f"{path}: expected {title}, but {other}") from error
        raise
    except STUMBLES as error:
        raise unforeseen(path, title, error) from error


def function(source: Function) -> Callable[..., Any]:
    """Returns the function that `source` is or names."""
    if not isinstance(source, str):
        return source
    module, name = source.split(":")
    return getattr(importlib.import_module(module), name)


_HERE = __package__

G4D = Format(
    "g4d",
    (".g4d",),
    "our own file",
    True,
    True,
    f"{_HERE}.model_files:read_model",
    f"{_HERE}.model_files:write_model",
    near=True,
    keeps_offset=True,
)
COMPRESSED_PLY = Format(
    "compressed-ply",
    (".compressed.ply",),
    "PlayCanvas' compressed .ply",
    False,
    False,
    f"{_HERE}.compressed_ply:read_compressed_ply",
    f"{_HERE}.compressed_ply:write_compressed_ply",
    ("comments",),
    True,
    offset_reader=f"{_HERE}.ply:stated_offset",
    keeps_offset=True,
    antialias_reader=f"{_HERE}.ply:states_antialiasing",
)
PLY = Format(
    "ply",
    (".ply",),
    "3DGS .ply",
    False,
    True,
    f"{_HERE}.ply:read_any_ply",
    f"{_HERE}.ply:write_ply",
    ("vertical_axis", "comments"),
    True,
    offset_reader=f"{_HERE}.ply:stated_offset",
    keeps_offset=True,
    antialias_reader=f"{_HERE}.ply:states_antialiasing",
)
SPLAT = Format(
    "splat",
    (".splat",),
    "antimatter15's .splat",
    False,
    False,
    f"{_HERE}.splat:read_splat",
    f"{_HERE}.splat:write_splat",
    (),
    True,
)
SPZ = Format(
    "spz",
    (".spz",),
    "Niantic's .spz",
    False,
    False,
    f"{_HERE}.spz:read_spz",
    f"{_HERE}.spz:write_spz",
    ("version", "antialiased"),
    True,
    antialias_reader=f"{_HERE}.spz:states_antialiasing",
)
SOG = Format(
    "sog",
    (".sog",),
    "PlayCanvas' .sog",
    False,
    False,
    f"{_HERE}.sog:read_sog",
    f"{_HERE}.sog:write_sog",
    ("antialiased",),
    True,
    antialias_reader=f"{_HERE}.sog:states_antialiasing",
)
KSPLAT = Format("ksplat", (".ksplat",), "mkkellogg's .ksplat", False, False, f"{_HERE}.ksplat:read_ksplat", None)
SPLATV = Format(
    "splatv",
    (".splatv",),
    "antimatter15's .splatv",
    True,
    False,
    f"{_HERE}.splatv:read_splatv",
    f"{_HERE}.splatv:write_splatv",
)
FOUR_DGS = Format(
    "4dgs",
    (".4dgs",),
    "the open .4dgs container",
    True,
    False,
    f"{_HERE}.four_dgs:read_4dgs",
    f"{_HERE}.four_dgs:write_4dgs",
)
GLB = Format(
    "glb",
    (".glb",),
    "glTF with Gaussians",
    False,
    True,
    f"{_HERE}.gltf:read_gltf",
    f"{_HERE}.gltf:write_glb",
    ("vertical_axis", "offset"),
    keeps_offset=True,
    moving_reader=f"{_HERE}.gltf_motion:read_moving",
    moving_writer=f"{_HERE}.gltf_motion:write_moving",
)
GLTF = Format(
    "gltf",
    (".gltf",),
    "glTF with Gaussians",
    False,
    True,
    f"{_HERE}.gltf:read_gltf",
    None,
    moving_reader=f"{_HERE}.gltf_motion:read_moving",
)
USD = Format(
    "usd",
    (".usda", ".usdz"),
    "OpenUSD",
    True,
    False,
    f"{_HERE}.usd:read_usd",
    f"{_HERE}.usd:write_usd",
    ("vertical_axis", "times"),
    keeps_offset=True,
)
CHECKPOINT = Format(
    "checkpoint",
    (".pt", ".ckpt"),
    "a trainer's checkpoint",
    True,
    True,
    f"{_HERE}.checkpoints:read_checkpoint",
    None,
)
