#!/usr/bin/env python3
"""Whole fits on one GPU: steps per second, quality, memory and waits of the host, with our kernels and with gsplat's.

    scripts/bench/fit_gpu.py --out DIR --json FILE.json
    scripts/bench/fit_gpu.py --out DIR --json FILE.json --basketball scenes/basketball_31cam --minutes 1

The scenes are the one of `gaussian4d demo` and, where its folder is given, every fifth instant of `basketball_31cam`
(PanopticSports). Every fit is `gaussian4d.fit` with the preset quick and one seed. It is stopped when training takes
longer than `--minutes`, and judged on the cameras that were held out. Backends that cannot run here are left out, and
that is said.

Steps per second are wall time from the end of the warm-up to the end of training, densification and figures included,
the device synchronised at both ends. Waits are what torch.cuda.set_sync_debug_mode notices in steps without
densification, figures or checkpoint. `--device cpu --backends cpu --steps 20 --size 32` tries the script on a machine
without a GPU; waits and memory are then not known.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import diff_rasterizer
from gaussian4d import evaluate, fit
from gaussian4d.devices import Placement, choose_device, free_memory
from gaussian4d.errors import UserError
from gaussian4d.scene import Scene, load_scene
from gaussian4d.toys import write_scene

WAIT = "called a synchronizing"
"""What torch's warning says."""


class Watch:
    """A hook of a fit that times its steps and counts what they wait for."""

    def __init__(self, device: torch.device, warm_up: int, seconds: float) -> None:
        self.device, self.warm_up, self.seconds = device, warm_up, seconds
        self.first: float | None = None
        self.waits: list[int] = []
        self.begin: tuple[int, float] | None = None
        self.end: tuple[int, float] | None = None
        self._open = contextlib.ExitStack()
        self._caught: list[warnings.WarningMessage] = []
        self._ordinary = True

    def __call__(self, trainer: Any, event: str) -> None:
        """Follows the events of a fit."""
        if event == "before_step":
            self._ordinary = True
            self.first = time.perf_counter() if self.first is None else self.first
            if trainer.step == self.warm_up:
                self.begin = trainer.step, self._now()
            if trainer.step >= self.warm_up and self.device.type == "cuda":
                self._watch()
        elif event in ("after_densify", "saved"):
            self._ordinary = False
        elif event == "after_step":
            self._open.close()
            keep, densify = trainer.config.keep, trainer.config.densify
            trainer.stop_requested |= time.perf_counter() - (self.first or 0.0) > self.seconds
            # Where the Gaussians are looked at before they change, the host waits as well.
            ordinary = self._ordinary and trainer.step % keep.log_every and trainer.step % densify.every
            if ordinary and trainer.step > self.warm_up and self.device.type == "cuda":
                self.waits.append(sum(WAIT in str(warning.message) for warning in self._caught))
        elif event == "end":
            self.end = trainer.step, self._now()

    def _watch(self) -> None:
        mode = torch.cuda.get_sync_debug_mode()
        self._caught = self._open.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        self._open.callback(torch.cuda.set_sync_debug_mode, mode)

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    def steps_per_second(self) -> float | None:
        """Returns the speed after the warm-up; None for a fit that did not get so far."""
        if self.begin is None or self.end is None or self.end[0] == self.begin[0]:
            return None
        return (self.end[0] - self.begin[0]) / (self.end[1] - self.begin[1])


def measured(scene: Scene, out: Path, place: Placement, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures of one fit."""
    device = place.device
    watch = Watch(device, arguments.warm_up, 60.0 * arguments.minutes)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    where: dict[str, Any] = {"device": device, "backend": place.backend}
    result = fit(scene, "quick", out, max_steps=arguments.steps, callbacks=[watch], evaluate=False, **where)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    metrics = evaluate(result.model, scene, **where)
    return {
        "backend": place.backend,
        "stopped_early": result.interrupted,
        "steps": result.model.meta["fit"]["steps"],
        "seconds": result.model.meta["fit"]["seconds"],
        "steps_per_second": watch.steps_per_second(),
        "gaussians": len(result.model),
        "psnr": metrics.get("psnr"),
        "psnr_moving": metrics.get("psnr_moving"),
        "peak_bytes": peak,
        "waits_per_step": statistics.mean(watch.waits) if watch.waits else None,
        "most_waits_of_a_step": max(watch.waits, default=None),
    }


def scenes_of(arguments: argparse.Namespace) -> dict[str, Scene | str]:
    """Returns the scenes by name, or why one cannot be had."""
    toy = arguments.out / "toy"
    if not toy.exists():
        write_scene(toy, 0, 10, 2, 24, width=arguments.size, height=arguments.size)
    found: dict[str, Scene | str] = {"toy": load_scene(toy)}
    where = arguments.basketball
    if where is None:
        found["basketball"] = "its folder is not given: --basketball FOLDER"
    elif not where.is_dir():
        found["basketball"] = f"there is no folder {where}"
    else:
        found["basketball"] = load_scene(where, downscale=arguments.downscale, frames=f"::{arguments.stride}")
    return found


def line(scene: str, row: dict[str, Any]) -> str:
    """Returns the figures as a line to read."""

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    peak = None if row["peak_bytes"] is None else row["peak_bytes"] / 2**20
    return (
        f"{scene:12} {row['backend']:8} {row['steps']:6} steps {shown(row['steps_per_second'], '8.1f')}/s"
        f" {shown(row['psnr'], '6.2f')} dB {row['gaussians']:8,} Gaussians {shown(peak, '8.0f')} MB"
        f" {shown(row['waits_per_step'], '5.2f')} waits/step"
    )


def main() -> int:
    """Runs the fits; returns 1 when one fails or a device has nothing to fit with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="new folder for scene and runs")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backends", nargs="+", default=["cuda", "gsplat"])
    parser.add_argument("--basketball", type=Path, help="folder of basketball_31cam; left out without it")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=0.5, help="limit of each fit, once its start is found")
    parser.add_argument("--warm-up", type=int, default=10, help="steps that do not count")
    parser.add_argument("--size", type=int, default=200, help="width and height of the toy's pictures")
    parser.add_argument("--downscale", type=float, default=1.0, help="of the basketball's pictures")
    parser.add_argument("--stride", type=int, default=5, help="instants of the basketball from one used to the next")
    arguments = parser.parse_args()
    if arguments.out.exists() and any(arguments.out.iterdir()):
        parser.error(f"{arguments.out} is not empty; name a new folder")

    placements = {}
    for backend in arguments.backends:
        try:
            placements[backend] = choose_device(arguments.device, backend)
        except UserError as error:
            print(f"left out: {error}", flush=True)
    device = next((place.device for place in placements.values()), None)
    report: dict[str, Any] = {
        "what": "whole fits: see scripts/bench/fit_gpu.py",
        "platform": platform.platform(),
        "torch": torch.__version__,
        "backends": diff_rasterizer.available_backends(),
        "device": None if device is None else str(device),
        "device_name": torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else None,
        "free_bytes": None if device is None or device.type == "cpu" else free_memory(device),
        "scenes": {},
    }
    failed = not placements
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, scene in scenes_of(arguments).items() if placements else ():
        if isinstance(scene, str):
            print(f"left out: {name}: {scene}", flush=True)
            report["scenes"][name] = {"left_out": scene}
            continue
        rows = report["scenes"][name] = []
        for backend, place in placements.items():
            try:
                rows.append(measured(scene, arguments.out / f"{name}_{backend}", place, arguments))
                print(line(name, rows[-1]), flush=True)
            except (UserError, RuntimeError) as error:
                failed = True
                rows.append({"backend": backend, "error": str(error)})
                print(f"FAILED: {name} with {backend}: {error}", flush=True)
            arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
