"""A model as the rows of a page: exact where it can be, cut into windows where it must be, and packed into 64 bytes."""

from __future__ import annotations

import base64
import dataclasses
import gzip

import numpy as np
import pytest
import torch
from player_models import looking, moving_cloud

from gaussian4d.io.bake import Tolerances, bake
from gaussian4d.io.difference import shown_db
from gaussian4d.io.segments import VISIBLE_OPACITY, direct_segments, shown_as
from gaussian4d.io.series import series_of
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import Windows, make_motion
from viewer.player.columns import series_bytes
from viewer.player.export import fidelity, page_content
from viewer.player.packing import ROW_BYTES, pack, unpack

TIMES = (0.0, 0.09, 0.25, 0.5, 0.73, 1.0)
CAMERAS = [looking(k) for k in range(3)]
BLACK = (0.0, 0.0, 0.0)


@pytest.mark.parametrize("motion", ["static", "free-time", "spacetime"])
def test_direct_rows_are_the_model(motion: str) -> None:
    model = moving_cloud(motion)
    assert model.motion.is_cubic
    segments = direct_segments(model)
    for time in TIMES:
        state, drawn = model.at(time), segments.at(time)
        here, there = state.opacities >= VISIBLE_OPACITY, drawn.opacities >= VISIBLE_OPACITY
        assert here.sum() > 50
        for name in ("means", "quats", "scales", "opacities", "colors"):
            torch.testing.assert_close(getattr(drawn, name)[there], getattr(state, name)[here], rtol=1e-4, atol=1e-5)


def test_rows_that_are_never_seen_or_not_numbers_are_left_out() -> None:
    model = moving_cloud("free-time", 9)
    model.params["means"][2, 1] = float("nan")
    model.params["quats"][3] = 0.0
    model.params["opacities"][:] = 2.0
    model.params["opacities"][4] = -9.0
    model.params["times"][3:6] = torch.tensor([0.5, 0.5, 40.0])
    model.params["durations"][:] = -1.0
    kept = direct_segments(model).means
    assert np.allclose(kept, model.params["means"][[0, 1, 6, 7, 8]].numpy())


@pytest.mark.parametrize("motion", ["free-time", "spacetime"])
def test_packing_takes_64_bytes_and_changes_little(motion: str) -> None:
    segments = direct_segments(moving_cloud(motion))
    packed = pack(segments)
    assert packed.words.nbytes == ROW_BYTES * len(segments) == 64 * len(segments)
    back = unpack(packed)
    for time in TIMES:
        before, after = segments.at(time), back.at(time)
        assert (before.means - after.means).abs().max() < 2e-3
        assert (before.opacities - after.opacities).abs().max() < 4e-3
        assert (before.scales.log() - after.scales.log()).abs().max() < 5e-3
        assert (before.colors - after.colors).abs().max() < 8e-3
        unit = [torch.nn.functional.normalize(state.quats, dim=1) for state in (before, after)]
        assert (unit[0] * unit[1]).sum(dim=1).abs().min() > 1 - 1e-5


def test_fast_motion_survives_the_coarse_center() -> None:
    # The center moves by up to 1e-4 of its range, the Gaussian by a thousand times that if nothing made it good.
    segments = direct_segments(moving_cloud("free-time", 40))
    segments.motion[:, 0] = 1000.0
    segments.centers[:] = np.linspace(-1.0, 2.0, 40) ** 3
    back = unpack(pack(segments))
    shift = np.abs(back.centers - segments.centers).max()
    assert shift > 1e-5
    at_center = back.means - (back.centers - segments.centers)[:, None] * back.motion[:, 0]
    assert np.abs(at_center - segments.means).max() < 0.05 * 1000.0 * shift


def test_extreme_values_stay_numbers() -> None:
    segments = direct_segments(moving_cloud("spacetime", 6))
    segments.scales[0] = -80.0
    segments.motion[1] = 1e12
    segments.sharpness[2] = 1e9
    segments.sh0[3], segments.sh1[3] = 1e6, -1e6
    segments.means[4] = 1e7
    back = unpack(pack(segments))
    assert all(np.isfinite(value).all() for value in back.rows(slice(None)).values())
    assert len(pack(dataclasses.replace(segments, **segments.rows(slice(0)), groups=())).words) == 0


def opaque(model: DynamicGaussians) -> DynamicGaussians:
    model.params["opacities"] = torch.linspace(0.0, 3.0, len(model))
    return model


@pytest.mark.parametrize(("motion", "config"), [("dual-domain", {}), ("spacetime", {"degree": 5})])
def test_windows_follow_any_motion_and_hand_over_without_a_dip(motion: str, config: dict) -> None:
    model = opaque(moving_cloud(motion, 60, **config))
    if model.motion.windowed:
        model.params["durations"][:] = 20.0
    assert not model.motion.is_cubic
    segments = bake(model, CAMERAS)
    assert len({(group.start, group.end) for group in segments.groups}) > 1
    # Where windows meet, just beside it, and anywhere.
    for time in (0.0, 0.25, 0.5, 0.5 + 1e-9, 0.75, 1.0, 0.313):
        state, drawn = model.at(time), segments.at(time)
        assert len(drawn) == len(model), "every Gaussian is there once"
        # Rows come in the order of windows; Gaussians are told by their opacities, which all differ.
        order, same = drawn.opacities.argsort(), state.opacities.argsort()
        torch.testing.assert_close(drawn.opacities[order], state.opacities[same], rtol=1e-4, atol=1e-5)
        off = (drawn.means[order] - state.means[same]).norm(dim=1)
        # A pixel at the distance of the middle is 0.03; even the shortest windows meet what they replace to two.
        assert off.max() < 0.06 and off.median() < 0.01


def test_windows_follow_appearing_and_vanishing() -> None:
    model = moving_cloud("dual-domain", 60, temporal_opacity=True)
    model.params["opacities"][:] = 3.0
    segments = bake(model, CAMERAS)
    for time in TIMES:
        expected = model.at(time).opacities.sort().values
        drawn = segments.at(time).opacities.sort().values
        expected, drawn = expected[expected > 0.1], drawn[drawn > 0.1]
        assert len(expected) == len(drawn)
        assert (expected - drawn).abs().max() < 2 * Tolerances().opacity


@pytest.mark.parametrize(
    ("motion", "config", "least"),
    [
        ("free-time", {}, 45.0),
        ("spacetime", {}, 45.0),
        ("dual-domain", {}, 40.0),
        ("dual-domain", {"temporal_opacity": True}, 38.0),
    ],
)
def test_the_packed_page_looks_like_the_model(motion: str, config: dict, least: float) -> None:
    model = moving_cloud(motion, 120, **config)
    segments = direct_segments(model) if model.motion.is_cubic else bake(model, CAMERAS)
    loss = fidelity(model, unpack(pack(segments)), CAMERAS, BLACK)
    assert loss is not None and loss.views == 3
    assert loss.worst > least
    # The figure is not blind: this is about a pixel.
    segments.means[:, 0] += 0.03
    moved = fidelity(model, unpack(pack(segments)), CAMERAS, BLACK)
    assert moved is not None and moved.mean < min(loss.mean - 3.0, 38.0)


def test_separate_instants_are_shown_when_they_are_nearest() -> None:
    model = moving_cloud("per-frame", 30, times=(0.0, 0.25, 1.0))
    model.params["instants"] = (torch.arange(30) % 3).float()
    segments = bake(model, CAMERAS)
    assert len(segments) == int((torch.sigmoid(model.params["opacities"]) >= VISIBLE_OPACITY).sum())
    for time in (0.0, 0.124, 0.126, 0.6249, 0.6251, 1.0):
        torch.testing.assert_close(segments.at(time).means, model.at(time).means)


def test_higher_harmonics_are_left_out() -> None:
    model = moving_cloud("static", sh_degree=3)
    segments = direct_segments(model)
    assert segments.at(0.0).colors.shape[1] == 4
    loss = fidelity(model, segments, CAMERAS, BLACK)
    assert loss is not None and loss.mean < 40.0, "the loss counts what is left out"


def test_the_windows_of_a_long_clip_fade_as_they_do() -> None:
    motion = make_motion("windows", {"motion_configs": [{}, {}], "spans": [[0.0, 0.6], [0.4, 1.0]]})
    assert isinstance(motion, Windows)
    parts = [moving_cloud("free-time", 40, seed=k) for k in range(2)]
    for part in parts:
        part.params["durations"][:] = 2.0
    model = DynamicGaussians(motion.joined([part.params for part in parts]), motion, times=np.linspace(0, 1, 21))
    segments = bake(model, CAMERAS)
    for time in TIMES:
        assert segments.at(time).opacities.sum() == pytest.approx(float(model.at(time).opacities.sum()), rel=0.02)
    loss = fidelity(model, unpack(pack(segments)), CAMERAS, BLACK)
    assert loss is not None and loss.worst > 38.0


def test_a_series_is_small_and_looks_like_the_model() -> None:
    model = moving_cloud("dual-domain", 1500)
    series, rows = series_of(model, CAMERAS)
    assert len(series) == len(rows) > 1490
    made = series.expanded()
    assert shown_db(model, shown_as(model, made), 1) > 45.0
    assert sorted(set(made.sources.tolist())) == list(range(len(series)))
    packed = pack(made)
    header, data = series_bytes(series, packed, 0)
    # 160 bytes are what a Gaussian may take in the page, in base64; its rows would be 686.
    assert len(base64.b64encode(gzip.compress(data))) < 130 * len(series) < 0.3 * packed.words.nbytes
    assert sum(count for *_, count in header["windows"]) == len(made)


def test_what_is_no_series_is_left_to_rows() -> None:
    model = moving_cloud("dual-domain", 50)
    model.params["means_series"][3] = float("nan")
    _, rows = series_of(model, CAMERAS)
    assert 3 not in rows and len(rows) >= 45
    content = page_content(model, CAMERAS, BLACK)
    assert content.series is not None and content.plain == len(content.packed.words) - len(content.series.expanded())
