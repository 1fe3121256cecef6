"""How much memory a forward and backward pass takes at its peak, and what that grows with."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import torch

from .figures import CaseResult, Figure
from .scenes import BenchScene, cube_scene, dense_scene

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory() -> CaseResult:
    """Returns the peak memory of a pass over scenes that differ in what they have most of.

    Per Gaussian, pixel and (Gaussian, tile) intersection together it stays about the same. What would keep something
    per Gaussian and pixel would need, at one float each, what stands beside it.
    """
    scenes = {
        "28k small Gaussians, 648x420": cube_scene(28_000),
        "112k small Gaussians, 648x420": cube_scene(),
        "112k small Gaussians, 1296x840": cube_scene(width=1296, height=840),
        "200 Gaussians over all of 1024x1024": dense_scene(size=1024),
    }
    figures = []
    for name, scene in scenes.items():
        peak, instances = _peak(scene)
        gaussians, pixels = len(scene.means), scene.width * scene.height
        every_pair = 4.0 * gaussians * pixels
        parts = gaussians + pixels + instances
        figures += [
            Figure(f"{name}: peak", peak / 1e6, "MB"),
            Figure(f"{name}: peak per Gaussian, pixel and intersection", peak / parts, "bytes", 100.0, at_most=True),
            Figure(f"{name}: one float per Gaussian and pixel", every_pair / 1e6, "MB"),
        ]
    return CaseResult(
        "memory",
        "growth of the process's resident memory over one forward and backward pass with gradients to everything",
        figures,
        {"measured": "VmHWM of Linux" if _CLEAR.exists() else "not measured: no clear_refs on this system"},
    )


def _peak(scene: BenchScene) -> tuple[float, int]:
    """Returns bytes of resident memory that a pass adds at its peak, NaN where the system does not tell; instances."""
    from diff_rasterizer import rasterization

    leaves = scene.leaves()
    for leaf in leaves:
        leaf.grad = None
    # What earlier work freed would be taken again without showing.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    before = resident_bytes("VmRSS")
    restart_peak()
    renders, _, meta = rasterization(
        scene.means, scene.quats, scene.scales, scene.opacities, scene.colors, scene.viewmat[0], scene.K[0],
        scene.width, scene.height, packed=False, backend="cpu",
    )  # fmt: skip
    renders.backward(torch.ones_like(renders))
    peak = resident_bytes("VmHWM") - before
    # Counted afterwards: the tile lists of meta are made when they are read.
    return peak, len(meta["isect_ids"])


def restart_peak() -> None:
    """Makes `resident_bytes("VmHWM")` count from here on, on systems that can."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")


def resident_bytes(name: str) -> float:
    """Returns VmRSS (now) or VmHWM (peak) of this process in bytes, NaN where the system does not tell."""
    try:
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return 1024.0 * int(line.split()[1])
    except OSError:
        pass
    return float("nan")
