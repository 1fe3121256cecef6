"""Measures what training toys look like, for the warning about pictures outside the embedded prior's domain.

python scripts/measure_domain.py        # writes generators/weights/domain.json, two minutes on one core
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro


@dataclasses.dataclass
class Arguments:
    toys: int = 2000
    out: Path = Path("generators/weights/domain.json")
    share_above: float = 0.015
    """Share of training toys that the limit lets count as strange."""


def main(arguments: Arguments) -> None:
    import numpy as np
    import torch

    from gaussian4d.files import write_json
    from gaussian4d.toys import make_toy, render_views
    from generators.cameras import orbit_camera
    from generators.domain import figures_of, scores, small
    from generators.inputs.recentre import recentre

    rng = np.random.default_rng(0)
    rows = []
    for seed in range(arguments.toys):
        size = int(rng.choice([96, 128, 192, 256]))
        camera = orbit_camera(0.0, float(rng.uniform(-5, 40)), fov=float(rng.uniform(25, 50)), size=size)
        view = render_views(make_toy(seed).world, [camera], [float(rng.random())]).rgba[0]
        framed = recentre([view]).frames
        rows.append(figures_of(small(torch.from_numpy(framed)))[0])
        if seed % 200 == 199:
            print(f"{seed + 1} of {arguments.toys}", flush=True)
    figures = torch.stack(rows)
    statistics = {"mean": figures.mean(0).tolist(), "deviation": figures.std(0).tolist()}
    limit = float(scores(figures, statistics).quantile(1.0 - arguments.share_above))
    write_json(arguments.out, {**statistics, "limit": limit, "toys": arguments.toys})
    print(f"limit {limit:.3f}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
