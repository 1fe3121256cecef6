"""The render loop with a fake renderer: requests are coalesced, rest brings the full picture, errors do not end it."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
from viewer_helpers import wait_until

from viewer.render_loop import SCALES, Drawn, RenderLoop, View

VIEW = View(wxyz=(1, 0, 0, 0), position=(0, 0, 0), fov=1.0, width=100, height=80, time=0.0)


def at(time: float) -> View:
    return dataclasses.replace(VIEW, time=time)


class FakeRenderer:
    """Draws black pictures; waits for `go` before each when it is `held`."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()
        self.calls: list[tuple[float, float]] = []

    def __call__(self, view: View, scale: float) -> np.ndarray:
        self.calls.append((view.time, scale))
        self.began.set()
        assert self.go.wait(30)
        return np.zeros((round(view.height * scale), round(view.width * scale), 3), np.uint8)


@pytest.fixture
def parts():
    renderer, shown, failed = FakeRenderer(), [], []
    # A budget of zero makes every machine slow: the moving picture is always the smallest.
    loop = RenderLoop(renderer, shown.append, failed.append, budget=0.0, settle=0.05)
    loop.start()
    yield loop, renderer, shown, failed
    renderer.go.set()
    loop.stop(wait=True)


def test_rest_brings_the_full_picture_once(parts) -> None:
    loop, _, shown, _ = parts
    loop.request(at(0.25))
    assert wait_until(lambda: len(shown) == 2)
    assert [drawn.scale for drawn in shown] == [SCALES[-2], 1.0]
    assert shown[1].picture.shape == (80, 100, 3) and shown[1].view.time == 0.25
    assert not wait_until(lambda: len(shown) > 2, seconds=0.3)


def test_requests_during_a_picture_are_coalesced_to_the_last(parts) -> None:
    loop, renderer, shown, _ = parts
    renderer.go.clear()
    loop.request(at(0.0))
    assert renderer.began.wait(30)
    for k in range(1, 101):
        loop.request(at(k / 100))
    renderer.go.set()
    assert wait_until(lambda: shown and shown[-1].scale == 1.0 and shown[-1].view.time == 1.0)
    # The first, the last while moving, the last in full: none of the 99 between.
    assert [time for time, _ in renderer.calls] == [0.0, 1.0, 1.0]


def test_an_error_is_reported_and_the_loop_goes_on() -> None:
    shown: list[Drawn] = []
    failed: list[Exception] = []

    def draw(view: View, scale: float) -> np.ndarray:
        if view.time == 0.5:
            raise ValueError("no picture")
        return np.zeros((1, 1, 3), np.uint8)

    loop = RenderLoop(draw, shown.append, failed.append, settle=0.01)
    loop.start()
    loop.request(at(0.5))
    assert wait_until(lambda: failed)
    assert str(failed[0]) == "no picture"
    loop.request(at(0.75))
    assert wait_until(lambda: shown)
    assert shown[0].view.time == 0.75
    loop.stop(wait=True)


def test_a_fast_machine_gets_full_pictures_while_moving() -> None:
    loop = RenderLoop(lambda view, scale: np.zeros((1, 1, 3), np.uint8), lambda drawn: None, budget=0.08)
    assert loop.moving_scale(VIEW) < 1.0
    loop._seconds_per_pixel = 0.01 / (VIEW.width * VIEW.height)
    assert loop.moving_scale(VIEW) == 1.0
    loop._seconds_per_pixel = 0.33 / (VIEW.width * VIEW.height)
    # A quarter of the pixels fit, which is half the side; just under, the next smaller step.
    assert loop.moving_scale(VIEW) == 0.35
    loop._seconds_per_pixel = 100.0
    assert loop.moving_scale(VIEW) == SCALES[-1]


def test_stop_ends_the_thread() -> None:
    loop = RenderLoop(lambda view, scale: np.zeros((1, 1, 3), np.uint8), lambda drawn: None)
    loop.start()
    loop.stop(wait=True)
    assert not loop._thread.is_alive()
