"""Fixed rasterizer benchmarks: the same Gaussians on every machine, CPU-seconds rather than wall time.

CPU-seconds are the process's own (all threads added), so other load on the machine changes them little.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diff_rasterizer import available_backends

from .errors import UserError

REPEATS = 7


def cube() -> dict[str, Any]:
    """Returns the figures of the case "cube": 112,000 small Gaussians in a cube in front of one 648x420 camera.

    Means uniform in a cube of side 3 centred at (0, 0, 3.5), random unit quaternions, scales uniform in 1e-4..0.022,
    opacities uniform in 0..1, seed 0, camera at the origin looking along +Z, focal length 600.
    """
    from diff_rasterizer import cpu

    count, width, height, focal = 112_000, 648, 420, 600.0
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    means = (uniform(count, 3) - 0.5) * 3.0 + torch.tensor([0.0, 0.0, 3.5])
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1)
    scales = 1e-4 + uniform(count, 3) * (0.022 - 1e-4)
    opacities, colors = uniform(count), uniform(count, 3)
    viewmats = torch.eye(4)[None, None]
    Ks = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])[None, None]
    leaves = [x.requires_grad_() for x in (means, quats, scales, opacities, colors)]
    image_ids = torch.zeros(count, dtype=torch.int32)
    v_render = uniform(1, height, width, 3)
    stages: dict[str, list[float]] = {"project": [], "blend": [], "backward": [], "total": [], "wall": []}
    pairs = visible = 0
    for _ in range(REPEATS):
        for leaf in leaves:
            leaf.grad = None
        wall, begin = time.perf_counter(), time.process_time()
        radii, means2d, depths, conics, _ = cpu.project(
            means[None], quats[None], scales[None], None, opacities.detach()[None], viewmats, Ks, width, height,
            eps2d=0.3, near_plane=0.01, far_plane=1e10, radius_clip=0.0, camera_model="pinhole", compensate=False,
        )  # fmt: skip
        projected = time.process_time()
        means2d, conics, depths, radii = means2d[0, 0], conics[0, 0], depths[0, 0], radii[0, 0]
        render, _ = cpu.blend(
            means2d, conics, colors, opacities, depths, radii, image_ids, 1, width, height, None, False
        )
        blended = time.process_time()
        render.backward(v_render)
        end = time.process_time()
        for name, seconds in (
            ("project", projected - begin),
            ("blend", blended - projected),
            ("backward", end - blended),
            ("total", end - begin),
            ("wall", time.perf_counter() - wall),
        ):
            stages[name].append(seconds)
        if not pairs:
            pairs = cpu.count_pairs(means2d, conics, opacities, depths, radii, width, height)
            visible = int((radii[:, 0] > 0).sum())
    median = {name: statistics.median(values) for name, values in stages.items()}
    return {
        "case": "cube",
        "gaussians": count,
        "visible": visible,
        "pixels": width * height,
        "pairs": pairs,
        "cpu_seconds": {name: median[name] for name in ("project", "blend", "backward", "total")},
        "wall_seconds": median["wall"],
        "pairs_per_core_second": {
            "forward": pairs / median["blend"],
            "backward": pairs / median["backward"],
            "total": pairs / median["total"],
        },
        "threads": torch.get_num_threads(),
    }


CASES: dict[str, Callable[[], dict[str, Any]]] = {"cube": cube}


def run(cases: list[str] | None = None) -> list[dict[str, Any]]:
    """Returns the figures of `cases` (all when None), medians of seven runs each.

    Raises:
        UserError: for a case that does not exist, or when the CPU backend cannot run.
    """
    names = list(CASES) if cases is None else cases
    for name in names:
        if name not in CASES:
            raise UserError(f"expected a case of {', '.join(CASES)}, got {name!r}")
    reason = available_backends()["cpu"]
    if reason:
        raise UserError(f"the benchmarks measure the CPU backend, which cannot run: {reason}")
    from diff_rasterizer import _cpu

    return [CASES[name]() | {"instruction_set": _cpu.instruction_set()} for name in names]
