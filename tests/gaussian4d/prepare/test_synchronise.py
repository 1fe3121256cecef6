"""Offsets between cameras against the truth, on filmed toy rooms and on made-up signals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from filmed import Room, Shot, around, film, write_mp4

from gaussian4d.errors import UserError
from gaussian4d.prepare.correlate import Shift, best_shift
from gaussian4d.prepare.recordings import find_recordings
from gaussian4d.prepare.synchronise import consistent_offsets, synchronise
from gaussian4d.prepare.timeline import common_timeline

STARTS = {"cam1": 0.0, "cam2": 0.613, "cam3": 0.25}
RATES = {"cam1": 30.0, "cam2": 25.0, "cam3": 24.0}


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cameras with their own starts and frame rates."""
    folder = tmp_path_factory.mktemp("filmed")
    for camera in around([0, 40, 85]):
        rate = RATES[camera.id]
        shot = Shot(camera, STARTS[camera.id], rate, int(4 * rate))
        write_mp4(folder / f"{camera.id}.mp4", film(Room(), shot), rate)
    return folder


def test_motion_gives_offsets_within_half_a_frame_at_different_rates(filmed: Path) -> None:
    offsets = synchronise(find_recordings(filmed, None), "auto", {})
    assert offsets.method == "motion"
    for name, start in STARTS.items():
        assert abs(offsets.seconds[name] - start) < 0.5 / 30
    assert min(offsets.confidence.values()) > 0.3


def test_frames_of_one_instant_were_taken_together(filmed: Path) -> None:
    recordings = find_recordings(filmed, None)
    timeline = common_timeline(recordings, STARTS)
    assert timeline.fps == 24.0
    for name in STARTS:
        taken = STARTS[name] + timeline.indices[name] / RATES[name] - timeline.start
        np.testing.assert_allclose(taken, timeline.seconds[name], atol=1e-9)
        assert np.abs(taken - np.arange(timeline.count) / 24).max() <= 0.5 / 24 + 1e-9
    # All have ended when the first one ends: 3.967 s after the earliest start; the latest starts at 0.613 s.
    assert timeline.count == pytest.approx((3.967 - 0.613) * 24, abs=2)


def test_cameras_that_filmed_other_moments_are_refused(tmp_path: Path) -> None:
    for k, camera in enumerate(around([0, 40])):
        shot = Shot(camera, 5.0 * k, 30.0, 80 + k)
        write_mp4(tmp_path / f"{camera.id}.mp4", film(Room(), shot), 30)
    with pytest.raises(UserError, match=r"cannot be synchronised by motion: no clear common moment") as caught:
        synchronise(find_recordings(tmp_path, None), "auto", {})
    assert "--sync none" in str(caught.value) and "--offsets" in str(caught.value)


def test_sound_gives_the_offset_where_nothing_moves(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    world = 0.002 * rng.normal(size=8 * 8000)
    for clap in (1.3, 2.15, 3.4, 3.7, 4.9):
        at = int(clap * 8000)
        world[at : at + 400] += rng.normal(size=400) * np.exp(-np.arange(400) / 80)
    still = [np.full((48, 64, 3), 90, np.uint8)] * 120
    for name, start in (("a", 0.0), ("b", 0.737)):
        heard = world[int(start * 8000) :][: 4 * 8000] * (0.8 if name == "a" else 0.3)
        write_mp4(tmp_path / f"{name}.mp4", still, 30, sound=np.clip(heard, -1, 1))
    offsets = synchronise(find_recordings(tmp_path, None), "auto", {})
    assert offsets.method == "audio"
    assert offsets.seconds["b"] - offsets.seconds["a"] == pytest.approx(0.737, abs=0.008)


def test_shift_has_the_stated_sign_and_a_fraction() -> None:
    rng = np.random.default_rng(0)
    fine = np.convolve(rng.normal(size=4000), np.hanning(60), mode="same")
    a, b = fine[0::10][:300], fine[255::10][:300]
    shift = best_shift(a, b, 10.0)
    assert shift is not None
    assert shift.seconds == pytest.approx(2.55, abs=0.01)


def test_a_constant_signal_has_no_shift() -> None:
    assert best_shift(np.ones(100), np.random.default_rng(0).normal(size=100), 10.0) is None


def test_a_contradicting_pair_is_left_out() -> None:
    true = {"a": 0.0, "b": 0.5, "c": 0.2, "d": 1.0}
    names = list(true)
    shifts: dict[tuple[str, str], Shift | None] = {
        (x, y): Shift(true[y] - true[x], 0.8, 0.1, 3.0) for k, x in enumerate(names) for y in names[k + 1 :]
    }
    shifts["a", "c"] = Shift(2.9, 0.8, 0.1, 3.0)
    offsets = consistent_offsets(names, shifts, 1 / 30)
    for name in names:
        assert offsets.seconds[name] == pytest.approx(true[name], abs=1e-9)
    assert "1 of 6 pairs" in offsets.notes[0]


def test_given_offsets_must_name_every_camera(filmed: Path) -> None:
    recordings = find_recordings(filmed, None)
    given = synchronise(recordings, "auto", {"cam1": 2.0, "cam2": 2.5, "cam3": 3.0})
    assert given.seconds == {"cam1": 0.0, "cam2": 0.5, "cam3": 1.0}
    with pytest.raises(UserError, match=r"camera cam3 has none"):
        synchronise(recordings, "auto", {"cam1": 2.0, "cam2": 2.5})


def test_recordings_that_do_not_overlap_are_named(filmed: Path) -> None:
    with pytest.raises(UserError, match=r"cam2\.mp4.*do not overlap"):
        common_timeline(find_recordings(filmed, None), {"cam1": 0.0, "cam2": 9.0, "cam3": 0.0})
