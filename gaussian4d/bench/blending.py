"""How fast Gaussians are projected and blended and their gradients made: per core, thread and instruction set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .figures import CaseResult, Figure, Seconds, median, timed, torch_threads
from .scenes import BenchScene, cube_scene, dense_scene

_REPEATS = 7
_STAGES = ("project", "blend", "backward")


class _Work:
    """Projection and blending of a scene and their gradient, stage by stage."""

    def __init__(self, scene: BenchScene, project_backward: bool = True) -> None:
        from diff_rasterizer import cpu

        self.cpu, self.scene = cpu, scene
        self.leaves = scene.leaves()
        self.project_backward = project_backward
        n = len(scene.means)
        self.image_ids = torch.zeros(n, dtype=torch.int32)
        self.v_render = torch.rand(1, scene.height, scene.width, 3, generator=torch.Generator().manual_seed(1))
        self.rows: list[Tensor] = []
        self.render = self.v_render

    def project(self) -> None:
        scene = self.scene
        with torch.set_grad_enabled(self.project_backward):
            radii, means2d, depths, conics, _ = self.cpu.project(
                scene.means[None], scene.quats[None], scene.scales[None], None, scene.opacities.detach()[None],
                scene.viewmat, scene.K, scene.width, scene.height, eps2d=0.3, near_plane=0.01, far_plane=1e10,
                radius_clip=0.0, camera_model="pinhole", compensate=False,
            )  # fmt: skip
        self.rows = [x[0, 0] for x in (means2d, conics, depths, radii)]
        if not self.project_backward:
            self.rows[:2] = [x.requires_grad_() for x in self.rows[:2]]

    def blend(self) -> None:
        means2d, conics, depths, radii = self.rows
        scene = self.scene
        self.render, _ = self.cpu.blend(
            means2d, conics, scene.colors, scene.opacities, depths, radii, self.image_ids, 1, scene.width,
            scene.height, None, False,
        )  # fmt: skip

    def backward(self) -> None:
        self.render.backward(self.v_render)

    def pairs(self) -> int:
        """Returns how many (Gaussian, pixel) pairs contribute."""
        means2d, conics, depths, radii = self.rows
        scene = self.scene
        return self.cpu.count_pairs(means2d, conics, scene.opacities, depths, radii, scene.width, scene.height)

    def once(self) -> dict[str, Seconds]:
        """Returns what each stage of one forward and backward pass took."""
        for leaf in self.leaves:
            leaf.grad = None
        return {name: timed(getattr(self, name)) for name in _STAGES}


def _medians(work: _Work, repeats: int = _REPEATS) -> dict[str, Seconds]:
    """Returns the median of each stage, and of all together as "total", after one run to warm up."""
    work.once()
    runs = [work.once() for _ in range(repeats)]
    for run in runs:
        run["total"] = Seconds(sum(run[name].cpu for name in _STAGES), sum(run[name].wall for name in _STAGES))
    return {
        name: Seconds(median([run[name].cpu for run in runs]), median([run[name].wall for run in runs]))
        for name in runs[0]
    }


def _conditions(scene: BenchScene, **more: Any) -> dict[str, Any]:
    from diff_rasterizer import _cpu

    return {
        "gaussians": len(scene.means),
        "pixels": scene.width * scene.height,
        **more,
        "threads": torch.get_num_threads(),
        "instruction_set": _cpu.instruction_set(),
    }


def dense() -> CaseResult:
    """Returns the speed of blending alone where every Gaussian covers every pixel."""
    scene = dense_scene()
    work = _Work(scene, project_backward=False)
    with torch_threads(1):
        seconds = _medians(work)
        pairs = work.pairs()
        conditions = _conditions(scene, pairs=pairs)
    return CaseResult(
        "dense",
        "200 faint Gaussians, each over all of a 512x512 picture, blended on one thread",
        [
            Figure("forward", pairs / seconds["blend"].cpu / 1e6, "million pairs per core-second", 800.0),
            Figure("backward", pairs / seconds["backward"].cpu / 1e6, "million pairs per core-second", 300.0),
        ],
        conditions,
    )


def cube() -> CaseResult:
    """Returns the CPU-seconds of a forward and backward pass, projection included, over many small Gaussians."""
    scene = cube_scene()
    work = _Work(scene)
    seconds = _medians(work)
    pairs, visible = work.pairs(), int((work.rows[3][:, 0] > 0).sum())
    return CaseResult(
        "cube",
        "112,000 small Gaussians in a cube, 648x420",
        [
            Figure("forward and backward", seconds["total"].cpu, "CPU-seconds", 0.25, at_most=True),
            *(Figure(f"of that: {name}", seconds[name].cpu, "CPU-seconds") for name in _STAGES),
            Figure("wall", seconds["total"].wall, "seconds"),
        ],
        _conditions(scene, visible=visible, pairs=pairs),
    )


def threads() -> CaseResult:
    """Returns how much faster two threads are than one, in turns so that a change of load meets both."""
    figures = []
    for name, scene in (("cube", cube_scene()), ("dense", dense_scene())):
        work = _Work(scene)
        best = {1: float("inf"), 2: float("inf")}
        for _ in range(_REPEATS):
            for count in best:
                with torch_threads(count):
                    wall = sum(stage.wall for stage in work.once().values())
                best[count] = min(best[count], wall)
        figures.append(Figure(f"{name}, two threads against one", best[1] / best[2], "times as fast", 1.8))
    return CaseResult(
        "threads",
        "forward and backward with projection, best of seven in turns",
        figures,
        {"cores": _cores()},
    )


def instruction_sets() -> CaseResult:
    """Returns the speed of every instruction set this processor has on the dense case, in turns."""
    from diff_rasterizer import _cpu

    scene = dense_scene()
    before, names = _cpu.instruction_set(), _cpu.instruction_sets()
    samples: dict[str, list[dict[str, Seconds]]] = {name: [] for name in names}
    try:
        with torch_threads(1):
            work = _Work(scene, project_backward=False)
            work.once()
            pairs = work.pairs()
            for _ in range(_REPEATS):
                for name in names:
                    _cpu.use_instruction_set(name)
                    samples[name].append(work.once())
    finally:
        _cpu.use_instruction_set(before)
    speed = {
        (name, stage): pairs / median([run[stage].cpu for run in runs]) / 1e6
        for name, runs in samples.items()
        for stage in ("blend", "backward")
    }
    unit = "million pairs per core-second"
    figures = [
        Figure(f"{name} {'forward' if stage == 'blend' else stage}", value, unit)
        for (name, stage), value in speed.items()
    ]
    if "avx512" in names:
        for stage in ("blend", "backward"):
            ratio = speed["avx2", stage] / speed["avx512", stage]
            figures.append(Figure(f"avx2 {stage} against avx512", ratio, "times as fast", 0.5))
    return CaseResult(
        "instruction-sets",
        "the dense case with each instruction set of this processor",
        figures,
        {"instruction_sets": ", ".join(names), "threads": 1},
    )


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
