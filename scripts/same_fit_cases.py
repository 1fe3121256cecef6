"""Fits the cases of `check_same_fit.py` in one process, each when it is asked to on the standard input.

One revision's packages lie in the folder given; the same file runs with any of them, so it keeps to public names. An
order is a line of JSON, and so is its answer. After each step of a fit the process says so and waits for a line: the
process of the other revision takes the same step meanwhile.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

INSTANTS, CAMERAS, SIZE = 8, 6, 48
STEPS = 60
# What the loop says when a step is done, in this release and the one before; and what it says amid one.
_AFTER_STEP = ("after_step", "step")
_WITHIN_STEP = ("before_step", "after_backward", "after_densify")
FRAMES = 4
TOY = 21
"""A toy of several parts that move on their own."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A short fit: settings under the names that `gaussian4d.fit` or `StagConfig` takes them."""

    settings: dict[str, Any]
    scene: str = "cut_out"
    """`cut_out` has alpha, `opaque` has none."""
    stops: bool = False
    """Whether the fit is stopped halfway and resumed."""
    asset: bool = False
    """Whether it is a STAG4D fit."""


_FIT = {
    "init_points": 300, "init_instants": 4, "max_gaussians": 600, "densify_every": 10, "densify_grad": 0.0,
    "log_every": 20, "checkpoint_every": 1000,
}  # fmt: skip
_PLANES = {"space_resolution": 8, "time_resolution": 3, "features": 4, "width": 16}
_STAG = {
    "max_minutes": None, "init_points": 400, "sizes": ((0.0, 32), (0.3, SIZE)), "densify_every": 10, "log_every": 20,
    "checkpoint_every": 1000, "sds": False,
}  # fmt: skip
_STAG_PLANES = {"space_resolution": 8, "features": 4, "width": 8, "levels": (1,)}

CASES: dict[str, Case] = {
    "static": Case({"motion": "static", "scale_weight": 0.01}),
    "dual-domain": Case({"motion": "dual-domain", "series_weight": 1e-3, "batch": 2}),
    "free-time": Case({"motion": "free-time", "velocity_weight": 1e-3}),
    "spacetime": Case({"motion": "spacetime", "static_after": 0.5, "background": "white"}),
    "hexplane": Case(
        {
            "motion": "hexplane",
            "motion_config": _PLANES,
            "coarse": 0.1,
            "plane_variation_weight": 2e-4,
            "time_roughness_weight": 1e-3,
            "time_activity_weight": 1e-4,
        }
    ),
    # The noise moves what is nearly transparent.
    "relocate": Case({"motion": "free-time", "strategy": "relocate", "noise": 100.0, "init_opacity": 0.02}),
    "coherence": Case(
        {
            "motion": "free-time",
            "rigidity_weight": 0.01,
            "isometry_weight": 0.01,
            "smoothness_weight": 1e-5,
            "rigidity_neighbours": 5,
        }
    ),
    "exposure": Case({"motion": "free-time", "background": "model", "exposure": True}, scene="opaque"),
    "windows": Case({"motion": "free-time", "window": 6, "overlap": 2}),
    "per-frame": Case({"motion": "per-frame", "densify_every": 4}),
    "resumed": Case({"motion": "free-time"}, stops=True),
    "stag-free-time": Case({"motion": "free-time"}, asset=True),
    "stag-hexplane": Case({"motion": "hexplane", "motion_config": _STAG_PLANES}, asset=True),
    "stag-distillation": Case({"motion": "free-time", "sds": True, "sds_every": 2, "sds_views": 2}, asset=True),
    "stag-rigid": Case({"motion": "rigid-parts"}, asset=True),
}


class Marks:
    """What happened when: events of a fit with the clocks of the process and of the wall, before and after a pause."""

    def __init__(self, pause: Callable[[], None]) -> None:
        self.pause = pause
        self.seen: list[tuple[str, tuple[float, float], tuple[float, float]]] = []

    def __call__(self, trainer: Any, event: str) -> None:
        """Is a hook of a fit."""
        self.add(event)

    def add(self, event: str) -> None:
        """Notes an event; pauses after a step."""
        if event in _WITHIN_STEP:
            return
        reached = time.process_time(), time.perf_counter()
        if event in _AFTER_STEP:
            self.pause()
        self.seen.append((event, reached, (time.process_time(), time.perf_counter())))

    def steps(self) -> dict[int, tuple[float, float]]:
        """Returns the processor's and the wall's seconds of each step that nothing but a step came right before.

        So neither the search for first points nor the writing of a checkpoint is in them, whichever step they precede.
        """
        result, index = {}, -1
        never = ("", (0.0, 0.0), (0.0, 0.0))
        for (before, _, began), (event, reached, _) in zip([never, *self.seen], self.seen):
            index += event in _AFTER_STEP
            if before in _AFTER_STEP and event in _AFTER_STEP:
                result[index] = (reached[0] - began[0], reached[1] - began[1])
        return result


class EchoPrior:
    """A teacher of score distillation that asks for the mirrored picture, with noise that it was given to draw."""

    def __init__(self) -> None:
        from generators.priors import PriorInfo

        self.info = PriorInfo("echo", "test", "none", size=32)

    def predict_clean(self, images: Any, *others: Any, noise_level: float, generator: Any, **more: Any) -> Any:
        """Returns the clean views of `DistillationPrior`."""
        import torch

        noise = torch.rand(images.shape, generator=generator)
        return (0.7 * images + 0.3 * images.flip(-1) + 0.1 * noise_level * noise).clamp(0.0, 1.0)


def write_scenes(folder: Path) -> None:
    """Writes what the cases are fitted to: a toy cut out, the same before a wall, and an asset's input and anchors."""
    import numpy as np
    from PIL import Image

    from gaussian4d.toys import make_toy, render_views, write_scene
    from generators.cameras import orbit_cameras

    write_scene(folder / "cut_out", 0, CAMERAS, 1, INSTANTS, width=SIZE, height=SIZE, threads=1)
    shutil.copytree(folder / "cut_out", folder / "opaque")
    ramp = np.linspace(60.0, 180.0, SIZE)
    wall = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], np.array(120.0)), axis=-1)
    for path in sorted((folder / "opaque").glob("*/*.png")):
        rgba = np.asarray(Image.open(path), dtype=np.float64)
        alpha = rgba[..., 3:] / 255.0
        Image.fromarray((alpha * rgba[..., :3] + (1.0 - alpha) * wall + 0.5).astype(np.uint8)).save(path)

    world, times = make_toy(TOY, "test", instants=FRAMES).world, np.linspace(0.0, 1.0, FRAMES)
    camera, anchors = _input_camera(), orbit_cameras(4, size=32)
    first = render_views(world, [camera], [0.0])
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    K, R, t = camera.K, camera.viewmat[:3, :3], camera.viewmat[:3, 3]
    rays = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones_like(rows)], axis=-1)
    points = (rays * first.depth[0][..., None] - t) @ R
    points[first.owner[0] < 0] = np.nan
    np.savez(
        folder / "asset.npz",
        times=times,
        frames=render_views(world, [camera] * FRAMES, list(times)).rgba.transpose(0, 3, 1, 2),
        views=np.stack([render_views(world, anchors, [k] * 4).rgba.transpose(0, 3, 1, 2) for k in times]),
        owner=first.owner[0].clip(0),
        points=points,
        transforms=np.array(
            [[(p.T_world_part(k) @ np.linalg.inv(p.T_world_part(0.0)))[:3] for p in world.parts] for k in times]
        ),
    )


def fit_case(case: Case, steps: int, scenes: Path, out: Path, marks: Marks) -> Any:
    """Returns the model of the run `out`; what happens is noted in `marks`."""
    import gaussian4d

    scene = gaussian4d.load_scene(scenes / case.scene)

    def stop_halfway(trainer: Any, event: str) -> None:
        if event in _AFTER_STEP and trainer.step == steps // 2:
            trainer.stop_requested = True

    hooks: list[Callable[[Any, str], None]] = [marks, stop_halfway] if case.stops else [marks]
    settings = {**_FIT, **case.settings, "max_steps": steps}
    result = gaussian4d.fit(scene, "quick", out, seed=0, backend="cpu", evaluate=False, callbacks=hooks, **settings)
    if case.stops:
        if not result.interrupted:
            raise RuntimeError("a hook that set stop_requested did not stop the fit")
        gaussian4d.fit(scene, "quick", out, resume=True, backend="cpu", evaluate=False, callbacks=[marks])
    return gaussian4d.load_model(out)


def fit_asset_case(case: Case, steps: int, scenes: Path, out: Path, marks: Marks) -> Any:
    """Returns the model of the run `out`; a step noted in `marks` is one of the optimiser that steps first."""
    import numpy as np
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    import gaussian4d
    from generators.cameras import orbit_cameras
    from generators.priors import Moves
    from generators.stag4d import Anchors, StagConfig, fit_asset

    arrays = np.load(scenes / "asset.npz", allow_pickle=False)
    tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    config = StagConfig(**{**_STAG, **case.settings, "max_steps": steps, "seed": 0, "backend": "cpu"})
    rigid = config.motion == "rigid-parts"
    times = tensors["times"].tolist()
    seen = 1 if rigid else FRAMES
    anchors = Anchors(tensors["views"][:seen].float().contiguous(), orbit_cameras(4, size=32), times[:seen])
    moves = Moves(tensors["owner"].long(), tensors["transforms"].float(), tensors["points"].float()) if rigid else None
    first: list[Any] = []

    def stepped(optimizer: Any, *arguments: Any) -> None:
        if not first:
            first.append(optimizer)
        if optimizer is first[0]:
            marks.add("step")

    handle = register_optimizer_step_post_hook(stepped)
    try:
        prior = EchoPrior() if config.sds else None
        frames = tensors["frames"].float().contiguous()
        fit_asset(frames, times, _input_camera(), prior, out, config, anchors=anchors, moves=moves, fps=8.0)
    finally:
        handle.remove()
    return gaussian4d.load_model(out)


def _input_camera() -> Any:
    from generators.cameras import orbit_camera

    return orbit_camera(0.0, 15.0, size=SIZE, id="input")


def table_of(model: Any) -> dict[str, Any]:
    """Returns the tensors that are compared: the model's table, and what it says at three times of the clip."""
    import torch

    table = {f"params/{name}": value for name, value in model.params.items()}
    if model.background is not None:
        table["background"] = model.background
    table["near"] = torch.tensor(model.near, dtype=torch.float64)
    if model.times is not None:
        table["times"] = torch.as_tensor(model.times, dtype=torch.float64)
    with torch.no_grad():
        for moment in (0.0, 0.4, 1.0):
            state = model.at(moment)
            for name in ("means", "quats", "scales", "opacities", "colors"):
                table[f"state/{moment}/{name}"] = getattr(state, name)
    return {name: value.detach().cpu().contiguous().clone() for name, value in table.items()}


def check_origin(package_folder: Path) -> None:
    """Raises `RuntimeError` when a package is not the one in the folder, or its C++ kernels are missing."""
    for name in ("diff_rasterizer", "diff_rasterizer._cpu", "gaussian4d", "generators"):
        found = Path(str(importlib.import_module(name).__file__)).resolve()
        if not found.is_relative_to(package_folder.resolve()):
            raise RuntimeError(f"expected {name} from {package_folder}, got {found}: another installation hides it")
    from diff_rasterizer import available_backends

    reason = available_backends()["cpu"]
    if reason:
        raise RuntimeError(f"the cpu backend of {package_folder} cannot be used: {reason}")


def serve(orders: TextIO, answers: TextIO, scenes: Path, runs: Path) -> None:
    """Answers the orders until there are no more: {"scenes": true}, or {"case": NAME, "steps": N or null}."""
    from safetensors.torch import save_file

    def pause() -> None:
        print(json.dumps({"step": True}), file=answers, flush=True)
        if not orders.readline():
            raise SystemExit("the orders have ended")

    for line in iter(orders.readline, ""):
        order = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if order.get("scenes"):
                write_scenes(scenes)
            else:
                name = order["case"]
                case, out = CASES[name], runs / name
                shutil.rmtree(out, ignore_errors=True)
                gc.collect()
                run = fit_asset_case if case.asset else fit_case
                marks = Marks(pause)
                model = run(case, order["steps"] or STEPS, scenes, out, marks)
                path = runs / f"{name}.safetensors"
                save_file(table_of(model), path)
                answer = {"table": str(path), "steps": marks.steps()}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def main(arguments: Sequence[str]) -> None:
    """Serves with the packages of a folder: same_fit_cases.py PACKAGES SCENES RUNS [CPU]."""
    packages, scenes, runs = (Path(argument) for argument in arguments[:3])
    if len(arguments) > 3:
        os.sched_setaffinity(0, {int(arguments[3])})
    # What fits print goes to the log, and answers where prints would have gone.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        try:
            import torch

            torch.set_num_threads(1)
            check_origin(packages)
        except Exception as error:
            traceback.print_exc()
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers, flush=True)
            return
        print(json.dumps({"ready": True}), file=answers, flush=True)
        serve(sys.stdin, answers, scenes, runs)


if __name__ == "__main__":
    main(sys.argv[1:])
