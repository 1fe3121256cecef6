"""A part that appears half-way, the pixels it covers, and the measure of the ghost it may leave before."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from gaussian4d.bench import ghosts
from gaussian4d.errors import UserError
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import make_motion
from gaussian4d.toys import ToyWorld, make_world, ring_cameras

TIMES = np.linspace(0, 1, 5)


def appearing() -> ToyWorld:
    world = make_world(3, instants=5)
    return dataclasses.replace(world, parts=(world.parts[0].during(0.5), *world.parts[1:]))


def test_a_part_is_there_only_during_its_time() -> None:
    whole, world, camera = make_world(3, instants=5), appearing(), ring_cameras(1, 0, width=40, height=40)[0][0]
    without = dataclasses.replace(whole, parts=whole.parts[1:])
    for time in (0.0, 0.49, 0.5, 1.0):
        expected = (whole if time >= 0.5 else without).render(camera, time)
        for got, want in zip(dataclasses.astuple(world.render(camera, time)), dataclasses.astuple(expected)):
            np.testing.assert_array_equal(got, want)
    assert whole.parts[0].is_present(0.0)
    with pytest.raises(UserError, match=r"before 0\.2"):
        whole.parts[0].during(0.5, 0.2)


def test_the_ring_lies_around_the_mask() -> None:
    mask = np.zeros((9, 9), dtype=bool)
    mask[4, 4] = True
    ring = ghosts.ring_around(mask, 2)
    assert ring.sum() == 24 and not ring[4, 4] and ring[2, 2] and not ring[1, 4]


@pytest.mark.parametrize("ghost", [0.0, 0.4])
def test_a_ghost_raises_the_ratio(ghost: float, monkeypatch: pytest.MonkeyPatch) -> None:
    world, cameras = appearing(), ring_cameras(2, 1, width=60, height=60)[1]

    def rendered(model: DynamicGaussians, camera: object, time: float) -> np.ndarray:
        picture = ghosts.true_picture(world, cameras[0], time).astype(np.float64) - 0.1
        picture[ghosts.covered_pixels(world, 0, cameras[0], 0.5)] -= ghost * (time > 0.2)
        return picture

    monkeypatch.setattr(ghosts, "_rendered", rendered)
    model = DynamicGaussians({"means": torch.zeros(1, 3)}, make_motion("static"))
    both = ghosts.measure_ghosts(model, world, 0, cameras, TIMES, width=3)
    last = ghosts.measure_ghosts(model, world, 0, cameras, TIMES, width=3, last_only=True)
    # Of the two instants before, the ghost is there at the last one.
    assert both.absolute == pytest.approx((0.1 + 0.1 + ghost) / 0.2, rel=1e-4)
    assert both.squared == pytest.approx((0.01 + (0.1 + ghost) ** 2) / 0.02, rel=1e-4)
    assert last.absolute == pytest.approx((0.1 + ghost) / 0.1, rel=1e-4)


def test_a_part_that_was_always_there_is_refused() -> None:
    with pytest.raises(UserError, match="to appear after the first"):
        model = DynamicGaussians({"means": torch.zeros(1, 3)}, make_motion("static"))
        ghosts.measure_ghosts(model, make_world(3), 0, ring_cameras(1, 1)[1], TIMES, width=3)
