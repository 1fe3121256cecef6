#!/usr/bin/env python3
"""The `cuda` backend against gsplat on one GPU: the same tensors, in one process, taking turns.

    scripts/bench/rasterizer_gpu.py --json FILE.json        three sizes of scene, three sizes of picture
    scripts/bench/rasterizer_gpu.py --quick --json FILE.json

Every case first compares the pictures. Times are medians of CUDA events around a call, after a warm-up; memory is the
peak that torch allocated above what it held before the call. `--device cpu --backends cpu reference` tries the script
itself on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import diff_rasterizer

GAUSSIANS = (100_000, 1_000_000, 5_000_000)
SIZES = ("640x480", "1920x1080", "3840x2160")
SH_DEGREE = 3
# Pixels in which two float32 rasterizers may differ: those where an alpha or a transmittance lies on a threshold.
MAX_DIFFERING = 2e-3
DIFFERS = 2e-2


def make_scene(count: int, width: int, height: int, device: torch.device, packed: bool = True) -> dict[str, Any]:
    """Returns the arguments of `rasterization`: Gaussians as dense as in a fitted scene, in front of one camera.

    Centres uniform in the frustum between depths 2 and 10, where the picture is seen with 60 degrees; scales log-normal
    around half the mean distance of neighbours, which leaves about a dozen Gaussians on a pixel's way; SH degree 3.
    """
    g = torch.Generator(device).manual_seed(0)
    on_device: dict[str, Any] = {"generator": g, "device": device}
    focal = 0.5 * width / 0.57735
    z = (2.0**3 + (10.0**3 - 2.0**3) * torch.rand(count, **on_device)) ** (1 / 3)
    x, y = ((torch.rand(count, **on_device) - 0.5) * z * side / focal for side in (width, height))
    volume = (10.0**3 - 2.0**3) / 3 * (width / focal) * (height / focal)
    spacing = (volume / count) ** (1 / 3)
    scene: dict[str, Any] = {
        "means": torch.stack([x, y, z], dim=1),
        "quats": torch.randn(count, 4, **on_device),
        "scales": 0.5 * spacing * torch.exp(0.5 * torch.randn(count, 3, **on_device)),
        "opacities": torch.sigmoid(1.5 * torch.randn(count, **on_device)),
        "colors": 0.3 * torch.randn(count, (SH_DEGREE + 1) ** 2, 3, **on_device),
        "viewmats": torch.eye(4, device=device)[None],
        "Ks": torch.tensor([[[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]]], device=device),
    }
    for name in ("means", "quats", "scales", "opacities", "colors"):
        scene[name].requires_grad_()
    return scene | {"width": width, "height": height, "sh_degree": SH_DEGREE, "packed": packed}


def renderer(name: str) -> Callable[..., tuple[Tensor, Tensor, dict[str, Any]]]:
    """Returns a rasterizer; raises RuntimeError with the reason where it cannot run."""
    reason = diff_rasterizer.available_backends().get(name, "there is no such backend")
    if reason:
        raise RuntimeError(reason)
    if name == "gsplat":
        import gsplat

        return gsplat.rasterization
    return lambda **arguments: diff_rasterizer.rasterization(**arguments, backend=name)


class Meter:
    """Times and weighs one call on a device."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def milliseconds(self, call: Callable[[], Any]) -> float:
        if not self.cuda:
            begin = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - begin)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def peak_bytes(self, call: Callable[[], Any]) -> int:
        """Returns the most the call had allocated at once; 0 where that cannot be told."""
        if not self.cuda:
            call()
            return 0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def compare(pictures: dict[str, Tensor]) -> dict[str, Any]:
    """Returns how the first picture differs from each other one; `agree` is None where there is none."""
    (first, expected), *others = pictures.items() if pictures else [("", None)]
    found: dict[str, Any] = {"agree": None, "differences": {}}
    for name, picture in others:
        error = (picture - expected).abs()
        share = float((error > DIFFERS).float().mean())
        found["differences"][f"{first} {name}"] = {"mean": float(error.mean()), "share": share}
        found["agree"] = found["agree"] is not False and share <= MAX_DIFFERING
    return found


def run_case(
    count: int, size: str, renderers: dict[str, Callable[..., Any]], device: torch.device, repeats: int, packed: bool
) -> dict[str, Any]:
    """Returns the figures of one case; a rasterizer that runs out of memory is named with that as its result."""
    width, height = map(int, size.split("x"))
    scene = make_scene(count, width, height, device, packed)
    leaves = [value for value in scene.values() if isinstance(value, Tensor) and value.requires_grad]
    weights = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(1)).to(device)
    meter = Meter(device)

    def forward(rasterize: Callable[..., Any]) -> Tensor:
        with torch.no_grad():
            return rasterize(**scene)[0]

    def train(rasterize: Callable[..., Any]) -> None:
        for leaf in leaves:
            leaf.grad = None
        renders, alphas, _ = rasterize(**scene)
        torch.autograd.backward([renders, alphas], [weights, torch.ones_like(alphas)])

    result: dict[str, Any] = {"gaussians": count, "size": size, "backends": {}}
    pictures: dict[str, Tensor] = {}
    times: dict[str, dict[str, list[float]]] = {}
    for name, rasterize in renderers.items():
        try:
            for _ in range(2):
                pictures[name] = forward(rasterize)
                train(rasterize)
            figures: dict[str, Any] = {
                "forward_mb": meter.peak_bytes(lambda rasterize=rasterize: forward(rasterize)) / 1e6,
                "train_mb": meter.peak_bytes(lambda rasterize=rasterize: train(rasterize)) / 1e6,
            }
        except torch.OutOfMemoryError as error:
            figures = {"failed": f"out of memory: {str(error).splitlines()[0]}"}
            pictures.pop(name, None)
        else:
            times[name] = {"forward": [], "train": []}
        result["backends"][name] = figures
        if device.type == "cuda":
            for leaf in leaves:
                leaf.grad = None
            torch.cuda.empty_cache()
    result |= compare(pictures)
    pictures.clear()
    # Taking turns, and each round in the other order: what heats or throttles the card does so for all.
    for repeat in range(repeats):
        for name in list(times) if repeat % 2 else list(reversed(times)):
            rasterize = renderers[name]
            times[name]["forward"].append(meter.milliseconds(lambda rasterize=rasterize: forward(rasterize)))
            times[name]["train"].append(meter.milliseconds(lambda rasterize=rasterize: train(rasterize)))
    for name, measured in times.items():
        for what, values in measured.items():
            result["backends"][name] |= {f"{what}_ms": statistics.median(values), f"{what}_ms_min": min(values)}
    return result


def machine(device: torch.device) -> dict[str, Any]:
    """Returns what the figures depend on."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    for package in ("gaussian4d", "gsplat", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"card": properties.name, "memory_gb": properties.total_memory / 1e9}
        found["capability"] = f"{properties.major}.{properties.minor}"
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,power.limit", "--format=csv,noheader", "-i", "0"]
        try:
            found["driver, clock, power limit"] = subprocess.run(
                query, capture_output=True, text=True, timeout=20, check=True
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError) as error:
            found["driver, clock, power limit"] = f"nvidia-smi does not answer ({error})"
    else:
        found["card"] = f"no GPU: {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    return found


def print_case(case: dict[str, Any]) -> None:
    agree = f"  PICTURES DIFFER: {case['differences']}" if case["agree"] is False else ""
    figures = case["backends"]
    for name, row in figures.items():
        head = f"{case['gaussians']:>9,}  {case['size']:>9}  {name:<9}"
        if "failed" in row:
            print(f"{head}  {row['failed']}", flush=True)
            continue
        backward = row["train_ms"] - row["forward_ms"]
        line = f"{head}  {row['forward_ms']:>9.3f}  {backward:>9.3f}  {row['train_ms']:>9.3f}  {row['train_mb']:>9.0f}"
        gsplat = figures.get("gsplat", {}).get("train_ms")
        if gsplat and name != "gsplat":
            line += f"  {gsplat / row['train_ms']:.2f}x gsplat"
        print(line + agree, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="fewer cases and repeats")
    parser.add_argument("--gaussians", type=int, nargs="+", help=f"default {GAUSSIANS}")
    parser.add_argument("--sizes", nargs="+", help=f"default {SIZES}")
    parser.add_argument("--backends", nargs="+", default=["cuda", "gsplat"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--unpacked", action="store_true", help="packed=False, as gsplat's own trainer renders")
    parser.add_argument("--repeats", type=int, help="default 20, with --quick 7")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no new case after so many seconds")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"no GPU: {diff_rasterizer.available_backends()['cuda']}", file=sys.stderr)
        return 2
    begin = time.monotonic()
    renderers, missing = {}, {}
    for name in options.backends:
        try:
            renderers[name] = renderer(name)
        except Exception as error:
            missing[name] = str(error)
            print(f"without {name}: {error}", flush=True)
    report: dict[str, Any] = {"machine": machine(device), "missing": missing, "cases": [], "not_run": []}
    for name, value in report["machine"].items():
        print(f"{name}: {value}")
    print(f"{'Gaussians':>9}  {'picture':>9}  {'':<9}  {'fwd ms':>9}  {'bwd ms':>9}  {'both ms':>9}  {'peak MB':>9}")
    repeats = options.repeats or (7 if options.quick else 20)
    for count in options.gaussians or (GAUSSIANS[:2] if options.quick else GAUSSIANS):
        for size in options.sizes or (SIZES[:2] if options.quick else SIZES):
            if time.monotonic() - begin > options.seconds:
                report["not_run"].append(f"{count:,} {size}: out of time")
                print(report["not_run"][-1], flush=True)
                continue
            try:
                case = run_case(count, size, renderers, device, repeats, not options.unpacked)
            except torch.OutOfMemoryError as error:
                report["not_run"].append(f"{count:,} {size}: the scene itself does not fit ({error})")
                print(report["not_run"][-1], flush=True)
                continue
            report["cases"].append(case)
            print_case(case)
            if options.json:
                options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if not renderers or options.backends[0] in missing:
        print(f"{options.backends[0]}, what this bench is about, did not run", file=sys.stderr)
        return 2
    return 0 if report["cases"] and all(case["agree"] is not False for case in report["cases"]) else 1


if __name__ == "__main__":
    sys.exit(main())
