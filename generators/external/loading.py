"""The way in to published weights: a folder or hub id becomes a prior, or one message says why not.

Everything that can be told from file names and headers is told before anything heavy is imported or read. Code that
comes with weights is never run, and pickles are never opened.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaussian4d.devices import compute_device
from gaussian4d.devices import free_memory as free_on
from gaussian4d.errors import UserError

from ..priors.base import PriorInfo, Role
from .checks import check_components, free_memory, parameters, read_index, variant_of
from .licences import licence_of

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a pipeline of diffusers is to us."""

    family: str
    role: Role
    prior: str
    """`module:class` in this package, with a classmethod `load`."""
    weights: tuple[str, ...]
    """Components with weights."""
    others: tuple[str, ...] = ("tokenizer", "scheduler")
    optional: tuple[str, ...] = ()
    """Components with weights that model_index.json may leave out."""
    size: int = 512
    """Edge of its pictures where its files do not say."""
    half: str = "float16"
    """Its dtype on a GPU."""


_SD = ("unet", "vae", "text_encoder")
_WAN = ("vae", "text_encoder")
KINDS: dict[str, Kind] = {
    "Zero123PlusPipeline": Kind(
        "Zero123++", "multi-view", "zero123pp:Zero123PlusPlus", (*_SD, "vision_encoder"),
        ("tokenizer", "scheduler", "feature_extractor_clip", "feature_extractor_vae"), size=320,
    ),
    "I2VGenXLPipeline": Kind(
        "I2VGen-XL with VideoMV's cameras", "multi-view", "videomv:VideoMV", (*_SD, "image_encoder"),
        ("tokenizer", "scheduler", "feature_extractor"), size=256,
    ),
    "TextToVideoSDPipeline": Kind(
        "ModelScope text-to-video with VideoMV's cameras", "multi-view", "videomv:VideoMV", _SD, size=256
    ),
    "StableVideoDiffusionPipeline": Kind(
        "Stable Video Diffusion", "video", "svd:StableVideoDiffusion", ("unet", "vae", "image_encoder"),
        ("feature_extractor", "scheduler"), size=576,
    ),
    "WanImageToVideoPipeline": Kind(
        "Wan image-to-video", "video", "wan:Wan", _WAN,
        optional=("transformer", "transformer_2", "image_encoder"), size=480, half="bfloat16",
    ),
    "WanPipeline": Kind(
        "Wan text-to-video", "video", "wan:Wan", _WAN,
        optional=("transformer", "transformer_2"), size=480, half="bfloat16",
    ),
    "AnimateDiffPipeline": Kind(
        "AnimateDiff", "video", "animatediff:AnimateDiff", (*_SD, "motion_adapter"), optional=("image_encoder",)
    ),
    "StableDiffusionPipeline": Kind(
        "Stable Diffusion", "image", "stable_diffusion:StableDiffusion", _SD,
        optional=("safety_checker", "image_encoder"),
    ),
    "StableDiffusionXLPipeline": Kind(
        "Stable Diffusion XL", "image", "stable_diffusion:StableDiffusion", (*_SD, "text_encoder_2"),
        ("tokenizer", "tokenizer_2", "scheduler"), optional=("image_encoder",), size=1024,
    ),
}  # fmt: skip
KINDS["Zero123PlusPlusPipeline"] = KINDS["Zero123PlusPipeline"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where weights go and as what."""

    device: str
    dtype: torch.dtype
    offload: bool = False
    """Each component goes to the GPU only while it runs."""
    variant: str | None = None


def open_external(
    source: str, role: Role, *, device: str = "auto", dtype: torch.dtype | None = None, size: int | None = None
) -> Any:
    """Returns the prior in a folder or hub id in the layout of diffusers; what it is, its files say.

    Args:
        source: A folder, or `owner/name` on the hub (its cache serves without a network).
        role: What it is wanted for.
        device: `auto` takes a GPU where there is one (see `gaussian4d.devices.compute_device`).
        dtype: None is half precision on a GPU, float32 on a CPU.
        size: Edge of the pictures in pixels; None is the model's own. Ignored where the model has only one.

    Raises:
        UserError: no such folder, no network, another architecture or role, something missing, pickles, too little
            memory.
    """
    folder, index, kind = _found(source, role)
    files = _checked(folder, index, kind)
    placement = _placement(source, files, kind, device, dtype)
    licence = licence_of(kind.family, source, str(index.get("_name_or_path", "")))
    info = PriorInfo(
        name=licence.name if licence.match else kind.family,
        source=source,
        licence=licence.licence,
        notice=licence.notice,
        size=size or kind.size,
    )
    module, name = kind.prior.split(":")
    prior = getattr(importlib.import_module(f".{module}", __package__), name)
    try:
        return prior.load(folder, index, info, placement)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        # What a library says of a configuration that is not the weights' ends with its first line.
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{source}: expected weights of {kind.family}; loading them failed: {first[:300]}") from error


def _found(source: str, role: Role) -> tuple[Path, dict[str, Any], Kind]:
    path = Path(source).expanduser()
    if path.is_file():
        raise UserError(f"{source} is a file; expected a folder in the layout of diffusers, or a hub id (owner/name)")
    if path.is_dir():
        index = read_index(path)
        return path, index, _kind(source, index, role)
    if not _HUB_ID.fullmatch(source):
        raise UserError(f"there is no folder {source}, and it is no hub id (owner/name); check the path")
    # The index is a few lines: a wrong architecture is known before its gigabytes are fetched.
    index = read_index(_from_hub(source, ["model_index.json"]))
    kind = _kind(source, index, role)
    parts = _names(index, kind)
    wanted = [f"{part}/{ending}" for part in parts for ending in ("*.json", "*.txt", "*.model", "*.safetensors")]
    return _from_hub(source, ["model_index.json", "camera_embedding.safetensors", *wanted]), index, kind


def _from_hub(source: str, patterns: list[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(f"{source}: fetching from the hub needs: pip install 'gaussian4d[generators]'") from None
    try:
        return Path(snapshot_download(source, allow_patterns=patterns, ignore_patterns=["*.fp16.*", "*.non_ema.*"]))
    except Exception as error:
        # The hub's client raises errors of a dozen kinds, those of its HTTP library among them.
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"there is no folder {source}, and as a hub id it could not be fetched ({reason[:200]}); check the name and"
            " the network, or copy the weights to a folder and name that"
        ) from None


def _kind(source: str, index: dict[str, Any], role: Role) -> Kind:
    name = index.get("_class_name")
    kind = KINDS.get(str(name))
    if kind is None:
        known = ", ".join(sorted(KINDS))
        raise UserError(f"{source} is a {name}; expected one of {known}")
    if kind.role != role:
        fitting = sorted({k.family for k in KINDS.values() if k.role == role})
        raise UserError(
            f"{source} is {kind.family}, a prior for {kind.role}; wanted is one for {role}: {', '.join(fitting)}"
        )
    return kind


def _present(index: dict[str, Any], name: str) -> bool:
    entry = index.get(name)
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


def _names(index: dict[str, Any], kind: Kind) -> list[str]:
    extra = [name for name in ("feature_extractor", "image_processor") if _present(index, name)]
    optional = [name for name in kind.optional if _present(index, name)]
    return list(dict.fromkeys([*kind.weights, *optional, *kind.others, *extra]))


def _checked(folder: Path, index: dict[str, Any], kind: Kind) -> dict[str, list[Path]]:
    for name in _names(index, kind):
        library = index[name][0] if _present(index, name) else "diffusers"
        if library not in ("diffusers", "transformers", "stable_diffusion"):
            raise UserError(f"{folder}: {name} is of {library}, code that came with the weights; it is never run here")
    if "transformer" in kind.optional and not _present(index, "transformer"):
        raise UserError(f"{folder}: the component transformer is missing in model_index.json; download it again")
    optional = [name for name in kind.optional if _present(index, name)]
    files = check_components(folder, _names(index, kind), [*kind.weights, *optional])
    variant_of(files)
    return files


def _placement(
    source: str, files: dict[str, list[Path]], kind: Kind, device: str, dtype: torch.dtype | None
) -> Placement:
    counts = {name: sum(parameters(path) for path in found) for name, found in files.items()}
    import torch

    where = compute_device(device)
    device = str(where)
    if dtype is None:
        dtype = torch.float32 if where.type == "cpu" else getattr(torch, kind.half)
    assert dtype is not None
    size = dtype.itemsize
    whole, largest = size * sum(counts.values()), size * max(counts.values())
    variant = variant_of(files)
    room = free_memory()
    free = None if where.type == "cpu" else free_on(where)
    if free is not None:
        if whole < 0.9 * free:
            return Placement(device, dtype, variant=variant)
        if largest < 0.9 * free and whole < 0.9 * room and kind.prior != "zero123pp:Zero123PlusPlus":
            return Placement(device, dtype, offload=True, variant=variant)
        room = free
    if whole > 0.9 * room:
        raise UserError(
            f"{source}: its {sum(counts.values()) / 1e9:.2f} billion weights take {whole / 1e9:.1f} GB as"
            f" {str(dtype).removeprefix('torch.')}, more than the {room / 1e9:.1f} GB free on {device}; free some, or"
            " name smaller weights"
        )
    return Placement(device, dtype, variant=variant)


def load_pipeline(name: str, folder: Path, placement: Placement, **options: Any) -> Any:
    """Returns a pipeline of diffusers from a checked folder, on its device, without progress bars."""
    import diffusers

    pipeline = getattr(diffusers, name).from_pretrained(
        folder, dtype=placement.dtype, use_safetensors=True, local_files_only=True, variant=placement.variant,
        **options,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    if placement.offload:
        pipeline.enable_model_cpu_offload(device=placement.device)
    else:
        pipeline.to(placement.device)
    return pipeline
