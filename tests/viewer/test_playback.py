"""The viewer's clock, with a clock of ours."""

from __future__ import annotations

import pytest
from viewer_helpers import wait_until

from viewer.playback import Playback


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_plays_in_real_time_and_starts_again(clock: Clock) -> None:
    playback = Playback(lambda time: None, duration=4.0, clock=clock)
    clock.now += 50
    assert playback.now() == 0.0
    playback.play(True)
    clock.now += 1
    assert playback.now() == pytest.approx(0.25)
    clock.now += 4
    assert playback.now() == pytest.approx(0.25)


def test_pause_keeps_the_time_and_play_goes_on_from_it(clock: Clock) -> None:
    playback = Playback(lambda time: None, duration=4.0, clock=clock)
    playback.play(True)
    clock.now += 2
    playback.play(False)
    clock.now += 100
    assert playback.now() == pytest.approx(0.5)
    playback.play(True)
    clock.now += 1
    assert playback.now() == pytest.approx(0.75)


def test_speed_changes_from_now_on(clock: Clock) -> None:
    playback = Playback(lambda time: None, duration=4.0, clock=clock)
    playback.play(True)
    clock.now += 1
    playback.set_speed(2.0)
    assert playback.now() == pytest.approx(0.25)
    clock.now += 1
    assert playback.now() == pytest.approx(0.75)


@pytest.mark.parametrize(("asked", "expected"), [(0.3, 0.3), (-1.0, 0.0), (2.0, 1.0), (1.0, 1.0)])
def test_seek_stays_in_the_clip(clock: Clock, asked: float, expected: float) -> None:
    playback = Playback(lambda time: None, duration=4.0, clock=clock)
    playback.seek(asked)
    assert playback.now() == expected


def test_ticks_come_only_while_playing() -> None:
    ticks: list[float] = []
    playback = Playback(ticks.append, duration=1.0)
    playback.fps = 200.0
    playback.start()
    assert not wait_until(lambda: ticks, seconds=0.2)
    playback.play(True)
    assert wait_until(lambda: len(ticks) > 3)
    playback.play(False)
    playback.stop()
    assert all(0.0 <= time <= 1.0 for time in ticks)


def test_only_what_was_recorded_plays(clock: Clock) -> None:
    playback = Playback(lambda time: None, duration=2.0, clock=clock, span=(0.2, 0.7))
    assert playback.now() == 0.2
    playback.play(True)
    clock.now += 1
    assert playback.now() == pytest.approx(0.45)
    clock.now += 1.4
    assert playback.now() == pytest.approx(0.3)
    for asked, expected in ((0.0, 0.2), (0.5, 0.5), (1.0, 0.7)):
        playback.play(False)
        playback.seek(asked)
        assert playback.now() == expected
    playback.set_loop(False)
    playback.play(True)
    assert playback.now() == 0.2
    clock.now += 3
    assert playback.now() == 0.7
