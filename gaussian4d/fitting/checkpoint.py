"""Checkpoints: one safetensors file per step, with the state that is not tensors as JSON in its header."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..files import atomic_write

SCHEMA_VERSION = 1
_NAME = re.compile(r"step_(\d+)\.safetensors")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Returns the file of the checkpoint after `step` steps."""
    return folder / f"step_{step:09d}.safetensors"


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int
) -> Path:
    """Writes a checkpoint whole or not at all, then removes all but the newest `keep`; returns its path."""
    path = checkpoint_path(folder, step)
    header = {"schema_version": str(SCHEMA_VERSION), "state": json.dumps({"step": step, **state})}
    # The library writes to a name of its own first, which stays where a process is killed; only this one writes here.
    for left in folder.glob(".tmp*"):
        left.unlink(missing_ok=True)
    with atomic_write(path) as temporary:
        try:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary, metadata=header
            )
        except SafetensorError as error:
            # Its text is the system's own, such as that no space is left.
            raise UserError(
                f"the checkpoint {path} cannot be written ({error}); make room or name another place, then go on with"
                " --resume: the earlier checkpoints are kept"
            ) from error
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints of `folder`, oldest first."""
    found = [(int(match.group(1)), path) for path in folder.glob("*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def step_of(path: Path) -> int:
    """Returns the number of steps that a checkpoint was written after, by its name."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, "a file of list_checkpoints"
    return int(match.group(1))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the tensors and the state of a checkpoint; raises `UserError` when it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it to go on from the checkpoint before") from None
    if header.get("schema_version") != str(SCHEMA_VERSION):
        got = header.get("schema_version")
        raise UserError(f"{path} has schema version {got}, expected {SCHEMA_VERSION}; fit the scene anew")
    return tensors, json.loads(header["state"])
