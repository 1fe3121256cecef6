"""What can be told of a folder of weights without loading it: what it is, what is missing, how much memory it takes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gaussian4d.errors import UserError
from gaussian4d.files import read_json

_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# The header of a safetensors file is smaller; a number beyond means that the file is something else.
_LARGEST_HEADER = 100_000_000


def read_index(folder: Path) -> dict[str, Any]:
    """Returns model_index.json, with `_class_name` as one name; raises `UserError` where the folder has none."""
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder} holds no model_index.json; expected a folder in the layout of diffusers (model_index.json beside"
            " unet/, vae/ and so on), as save_pretrained writes it and the hub keeps it"
        )
    index = read_json(folder / "model_index.json")
    if not isinstance(index, dict):
        raise UserError(f"{folder}/model_index.json: expected an object of components, got {type(index).__name__}")
    name = index.get("_class_name")
    # Pipelines with code of their own are listed as [file, class]; that code is never run.
    index["_class_name"] = name[-1] if isinstance(name, list) and name else name
    return index


def check_components(folder: Path, names: Sequence[str], weights: Sequence[str]) -> dict[str, list[Path]]:
    """Returns the safetensors files of each component with weights.

    Args:
        names: All components that must be there.
        weights: Those among them that have weights.

    Raises:
        UserError: a component, its configuration or a file of its weights is missing, or they are pickles.
    """
    files: dict[str, list[Path]] = {}
    for name in names:
        part = folder / name
        if not part.is_dir() or not any(part.iterdir()):
            raise UserError(f"{folder}: the component {name}/ is missing; copy the whole folder, or download it again")
        if name not in weights:
            continue
        if not (part / "config.json").is_file():
            raise UserError(f"{part} holds no config.json; copy the whole folder, or download it again")
        files[name] = _weight_files(part)
    return files


def variant_of(files: dict[str, list[Path]]) -> str | None:
    """Returns `fp16` where all components have only such weights, else None.

    Raises:
        UserError: some components have only the one kind and some only the other.
    """
    halves = {name: ".fp16" in found[0].name for name, found in files.items()}
    if len(set(halves.values())) > 1:
        half = next(name for name, is_half in halves.items() if is_half)
        raise UserError(
            f"{files[half][0].parent} has only .fp16 weights and another component has none; download one variant whole"
        )
    return "fp16" if any(halves.values()) else None


def _weight_files(part: Path) -> list[Path]:
    found = sorted(part.glob("*.safetensors"))
    plain = [path for path in found if ".fp16" not in path.name and ".non_ema" not in path.name]
    chosen = plain or [path for path in found if ".fp16" in path.name]
    if not chosen:
        pickles = [path.name for path in sorted(part.iterdir()) if path.suffix in _PICKLES]
        if pickles:
            raise UserError(
                f"{part / pickles[0]} is a pickle, which can run code when it is loaded; expected .safetensors weights;"
                " download that variant, or convert the file where you trust it"
            )
        raise UserError(f"{part} holds no weights (*.safetensors); copy the whole folder, or download it again")
    listed: set[str] = set()
    for path in part.glob("*.safetensors.index.json"):
        if (".fp16" in path.name) == (not plain):
            listed |= set(read_json(path).get("weight_map", {}).values())
    lost = sorted(name for name in listed if not (part / name).is_file())
    if lost:
        raise UserError(f"{part}: {lost[0]} is missing, one of {len(listed)} files of its weights; download it again")
    return [part / name for name in sorted(listed)] if listed else chosen


def parameters(path: Path) -> int:
    """Returns the number of values in a safetensors file, from its header alone."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(_LARGEST_HEADER, max(size - 8, 0)):
            # Weights that were cloned without git-lfs are a few lines of text.
            raise UserError(
                f"{path} is no safetensors file ({size:,} bytes); was it cloned without git-lfs? download it again"
            )
        try:
            header = json.loads(file.read(length))
        except ValueError:
            raise UserError(f"{path}: its header is damaged; download it again") from None
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    end = max((entry["data_offsets"][1] for entry in tensors), default=0)
    if 8 + length + end > size:
        raise UserError(f"{path}: expected {8 + length + end:,} bytes, got {size:,}; download it again")
    return sum(math.prod(entry["shape"]) for entry in tensors)


def free_memory() -> int:
    """Returns the bytes of main memory that can still be taken; a very large number where the system does not say."""
    free = 1 << 62
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = 1024 * int(line.split()[1])
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free
