"""A long clip in windows, each with Gaussians of its own, through every writer, and tracks across the seam."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gaussian4d.cameras import Camera
from gaussian4d.io.bells import BELLS, as_bells
from gaussian4d.io.difference import difference_db
from gaussian4d.io.registry import read_model, write_model
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import Windows, make_motion
from gaussian4d.paths import cameras_around
from gaussian4d.plugins import FORMATS
from gaussian4d.tracks import track_points

SPANS = ((0.0, 0.6), (0.4, 1.0))
SPEED = torch.tensor([0.5, -0.25, 0.1])


def windows(inner: str = "free-time") -> DynamicGaussians:
    """Twenty Gaussians that fly straight through both windows; the second window has them in another order."""
    motion = make_motion("windows", {"motion": inner, "motion_configs": [{}, {}], "spans": SPANS})
    assert isinstance(motion, Windows)
    rng = torch.Generator().manual_seed(0)
    start = torch.rand(20, 3, generator=rng) - 0.5
    order = torch.randperm(20, generator=rng)
    tables = []
    for (first, last), rows in zip(SPANS, (torch.arange(20), order)):
        table = {
            # Places are those in the middle of the window, velocities are per window.
            "means": (start + SPEED * 0.5 * (first + last))[rows],
            "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(20, 1),
            "scales": torch.full((20, 3), -2.3),
            "opacities": torch.full((20,), 1.5),
            "sh0": torch.linspace(-1, 1, 60).reshape(20, 1, 3)[rows],
            "shN": torch.zeros(20, 0, 3),
        }
        own = {} if inner == "static" else motion.inner[0].init(20)
        if inner == "free-time":
            own |= {"velocities": (SPEED * (last - first)).repeat(20, 1), "times": torch.full((20,), 0.5)}
        tables.append({**table, **own})
    # Rows of the two windows in turn, as no writer may rely on their order.
    joined = motion.joined(tables)
    mixed = {name: value[torch.arange(40).reshape(2, 20).T.reshape(-1)] for name, value in joined.items()}
    return DynamicGaussians(mixed, motion, times=np.linspace(0.0, 1.0, 21), fps=10.0)


def test_rows_of_all_windows_are_those_that_are_there() -> None:
    model = windows()
    assert isinstance(model.motion, Windows)
    for time in (0.0, 0.3, 0.5, 0.9):
        rows, there = model.motion.of_rows(model.params, time), model.at(time)
        assert len(rows) == 40
        shown = rows.select(rows.opacities > 0)
        assert len(shown) == (40 if time == 0.5 else 20)
        # In another order, and with the same Gaussians.
        for name in ("means", "opacities", "scales"):
            a, b = (getattr(state, name).reshape(len(shown), -1).sum(1).sort().values for state in (shown, there))
            assert torch.allclose(a, b, atol=1e-6)


# Bells stand for the fade of a window here; one for each Gaussian is 26 dB.
LEAST = {"splatv": 38.0, "4dgs": 38.0}


def views() -> list[Camera]:
    return cameras_around(np.array([[-0.5, -0.5, -0.5], [0.5, 0.5, 0.5]]), width=64, height=64, count=2)


@pytest.mark.parametrize("name", [name for name, format in FORMATS.working().items() if format.writer])
def test_every_writer_takes_windows(tmp_path: Path, name: str) -> None:
    format = FORMATS.get(name)
    if name == "4dgs":
        pytest.importorskip("fourdgs")
    model = windows()
    path = tmp_path / f"a{format.endings[0]}"
    write_model(path, model, format=format, time=0.3)
    moments = [(t, t) for t in (0.1, 0.3, 0.5, 0.7, 0.9)] if format.moves else [(0.3, 0.0)]
    assert difference_db(model, read_model(path), views(), moments) > LEAST.get(format.name, 45.0)


def test_bells_of_a_window_are_a_plateau_with_a_ramp() -> None:
    model = windows()
    baked = as_bells(model)
    assert len(baked) == 2 * 20 * BELLS[1]
    for time in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        # All bells of a Gaussian together let about as much light through as it does; their sizes make up the rest.
        clear, wanted = ((1.0 - state.opacities).log().sum() for state in (baked.at(time), model.at(time)))
        assert float(clear) == pytest.approx(float(wanted), rel=0.25)


def test_what_does_not_outlast_its_window_stays_one_row() -> None:
    model = windows()
    assert isinstance(model.motion, Windows)
    # In the middle of the part of each window that is its own.
    model.params["times"] = torch.where(model.params["windows"] == 0, 0.2 / 0.6, 0.4 / 0.6)
    model.params["durations"] = torch.full((40,), np.log(0.08))
    baked = as_bells(model)
    assert len(baked) == 40
    assert difference_db(model, baked, views(), [(t, t) for t in (0.1, 0.3, 0.5, 0.7, 0.9)]) > 50


@pytest.mark.parametrize("inner", ["free-time", "spacetime"])
def test_a_window_between_two_others_fades_on_both_sides(tmp_path: Path, inner: str) -> None:
    spans = ((0.0, 0.4), (0.25, 0.75), (0.6, 1.0))
    motion = make_motion("windows", {"motion": inner, "motion_configs": [{}, {}, {}], "spans": spans})
    assert isinstance(motion, Windows)
    column = "velocities" if inner == "free-time" else "trajectories"
    base = windows().params
    tables = []
    for first, last in spans:
        rows = torch.arange(0, 40, 2)
        table = {name: base[name][rows] for name in ("quats", "scales", "sh0", "shN")}
        table["means"] = base["means"][rows] + SPEED * (0.5 * (first + last) - 0.3)
        table["opacities"] = torch.linspace(-2.0, 5.0, 20)
        own = motion.inner[0].init(20)
        moving = SPEED * (last - first)
        own[column] = own[column] + (moving if inner == "free-time" else torch.stack([moving, 0 * moving, 0 * moving]))
        tables.append({**table, **own})
    model = DynamicGaussians(motion.joined(tables), motion, times=np.linspace(0.0, 1.0, 21), fps=10.0)
    for ending, least in ((".splatv", 33.0), (".4dgs", 33.0)):
        if ending == ".4dgs":
            pytest.importorskip("fourdgs")
        write_model(tmp_path / f"a{ending}", model)
        back = read_model(tmp_path / f"a{ending}")
        assert difference_db(model, back, views(), [(t, t) for t in np.linspace(0.0, 1.0, 11).tolist()]) > least


def test_tracks_cross_the_seam() -> None:
    model = windows()
    state = model.at(0.0)
    # Neighbours all move alike, so a point keeps its place among them.
    tracks = track_points(model, state.means[:3], 0.0, [0.0, 0.35, 0.5, 1.0])
    for row, time in enumerate((0.0, 0.35, 0.5, 1.0)):
        assert torch.allclose(tracks[row], state.means[:3].double() + SPEED.double() * time, atol=1e-4)
    assert torch.allclose(track_points(windows("static"), state.means[:1], 0.0, [1.0])[0], state.means[:1].double())
