"""The CUDA kernels as data: which file holds which entries, and the macros that shape them.

The launcher and the compile test both work through this table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

SOURCE_FOLDER = Path(__file__).parent / "csrc" / "cuda"

MAX_CHANNELS = 32
"""Channels blended in one pass, the largest GD_CHANNELS."""


@dataclass(frozen=True)
class KernelFile:
    """One source file of kernels."""

    source: str
    """File name in `SOURCE_FOLDER`."""
    entries: tuple[str, ...]
    """Names of its `extern "C"` kernels."""
    macros: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Compile-time parameters, each with the values that are worth compiling in a test."""

    @property
    def path(self) -> Path:
        return SOURCE_FOLDER / self.source


KERNEL_FILES: dict[str, KernelFile] = {
    "project": KernelFile(
        "project.cu",
        ("project_gaussians", "project_gaussians_backward"),
        {"GD_SH_DEGREE": (-1, 0, 3, 4), "GD_ACTIVATIONS": (0, 1)},
    ),
    "colors": KernelFile("colors.cu", ("colors_forward", "colors_backward"), {"GD_SH_DEGREE": (0, 1, 2, 3, 4)}),
    "instances": KernelFile(
        "instances.cu", ("depth_keys", "count_tiles", "write_instances", "tile_ranges"), {"GD_KEY_BITS": (16, 32)}
    ),
    "blend_forward": KernelFile(
        "blend_forward.cu", ("pack_records", "blend_forward"), {"GD_CHANNELS": (1, 3, 4, 32), "GD_BUCKET": (128,)}
    ),
    "blend_backward": KernelFile(
        "blend_backward.cu",
        ("blend_backward",),
        {"GD_CHANNELS": (1, 3, 4, 32), "GD_BUCKET": (128,), "GD_ABSGRAD": (0, 1)},
    ),
    "ssim": KernelFile("ssim.cu", ("ssim_forward", "ssim_backward"), {"GD_TARGET_BYTES": (0, 1)}),
    "adam": KernelFile("adam.cu", ("adam",), {"GD_VECTOR": (1, 4)}),
}
