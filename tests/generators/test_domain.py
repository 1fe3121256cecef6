"""The warning about pictures that the embedded prior does not know: silent on toys, spoken on everything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gaussian4d.toys import make_toy, render_views
from generators.cameras import orbit_camera
from generators.domain import check
from generators.inputs.recentre import recentre


def _toy(seed):
    view = render_views(make_toy(seed, "test").world, [orbit_camera(0.0, 15.0, size=96)], [0.0]).rgba[0]
    return torch.from_numpy(recentre([view]).frames[0])


def test_at_most_one_of_twenty_unseen_toys_is_warned_of():
    strange = [seed for seed in range(500, 560) if not check(_toy(seed)).inside]
    assert len(strange) <= 3, strange


@pytest.mark.parametrize("what", ["fur", "grey", "dull and busy"])
def test_what_is_no_toy_is_warned_of(what):
    picture = torch.zeros(4, 64, 64)
    ys, xs = np.mgrid[:64, :64]
    inside = torch.from_numpy((xs - 32) ** 2 + (ys - 32) ** 2 < 26**2)
    generator = torch.Generator().manual_seed(0)
    if what == "fur":
        colors = torch.rand(3, 64, 64, generator=generator)
    elif what == "grey":
        # Even as smooth and plain as a toy.
        colors = torch.linspace(0.2, 0.9, 64).expand(3, 64, 64)
    else:
        colors = (
            0.45
            + 0.2 * (torch.rand(1, 64, 64, generator=generator) - 0.5)
            + torch.tensor([0.1, 0.05, 0])[:, None, None]
        )
    picture[:3] = colors * inside
    picture[3] = inside
    report = check(picture)
    assert not report.inside and "outside" in report.message
    assert ("it is grey" in report.message) == (what == "grey")
