"""Windows of a clip in one model: who is there when, and how one window fades into the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.gaussians import Gaussians
from gaussian4d.model import DynamicGaussians, load_model
from gaussian4d.motion import Params, Windows, WindowsConfig, make_motion
from gaussian4d.motion.windows import faded, window_weights
from gaussian4d.rendering import render

SPANS = ((0.0, 0.4), (0.3, 0.7), (0.6, 1.0))
PLANES = {"space_resolution": 4, "time_resolution": 3, "features": 2, "width": 4, "deform_opacities": True}
KINDS: dict[str, dict[str, Any]] = {
    "static": {},
    "dual-domain": {"temporal_opacity": True},
    "free-time": {},
    "spacetime": {},
    "hexplane": PLANES,
}


def table(kind: str, seed: int, n: int = 12) -> Params:
    g = torch.Generator().manual_seed(seed)
    motion = make_motion(kind, KINDS[kind])
    params: Params = {
        "means": torch.rand(n, 3, generator=g) - 0.5,
        "quats": torch.randn(n, 4, generator=g),
        "scales": torch.full((n, 3), -2.0),
        "opacities": torch.randn(n, generator=g),
        "sh0": torch.rand(n, 1, 3, generator=g),
        "shN": torch.zeros(n, 0, 3),
        **motion.init_at(torch.rand(n, generator=g), 0.3),
    }
    params |= motion.init_shared(params["means"], g)
    own = [*motion.columns(), *(name for name in motion.shared_shapes() if name != "shared.bounds")]
    for name in own:
        if name not in ("times", "durations"):
            params[name] = params[name] + 0.2 * torch.randn(params[name].shape, generator=g)
    return params


def windows_of(kind: str, spans: tuple[tuple[float, float], ...] = SPANS) -> Windows:
    return Windows(WindowsConfig(kind, tuple(KINDS[kind] for _ in spans), spans))


def equal(a: Gaussians, b: Gaussians) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


@pytest.mark.parametrize("kind", list(KINDS))
def test_away_from_seams_the_joined_model_is_that_of_the_window(kind: str, tmp_path: Path) -> None:
    tables = [table(kind, seed, n) for seed, n in ((0, 12), (1, 9), (2, 15))]
    motion = windows_of(kind)
    model = DynamicGaussians(motion.joined(tables), motion)
    again = load_model(model.save(tmp_path / "model.g4d"))
    assert again.motion.config == motion.config and len(again) == 36
    inside = make_motion(kind, KINDS[kind])
    for time, window in ((0.0, 0), (0.29, 0), (0.3, 0), (0.4, 1), (0.55, 1), (0.7, 2), (1.0, 2), (1.2, 2), (-0.1, 0)):
        first, last = SPANS[window]
        wanted = inside.at(tables[window], (time - first) / (last - first))
        assert equal(model.at(time), wanted)
        assert equal(again.at(time), wanted)
    assert len(model.at(0.35)) == 12 + 9 and len(model.at(0.65)) == 9 + 15


def test_a_window_alone_is_the_model_inside_over_its_span() -> None:
    motion, inside = windows_of("free-time", ((0.25, 0.75),)), make_motion("free-time")
    params = table("free-time", 3)
    assert equal(motion.at(params, 0.375), inside.at(params, 0.25))
    # A Gaussian found at half the span lives around half of its window's own time, a tenth of the clip a fifth of it.
    own = motion.init_at(torch.tensor([0.5, float("nan")]), 0.1)
    assert own["times"].tolist() == [0.5, 0.5]
    assert float(own["durations"][0].exp()) == pytest.approx(0.2)
    assert set(motion.columns()) == {*inside.columns(), "windows"}
    assert motion.learning_rates() == {**inside.learning_rates(), "windows": (0.0, 0.0)}


def test_rows_in_any_order_are_found() -> None:
    motion = windows_of("free-time")
    params = motion.joined([table("free-time", k) for k in range(3)])
    mixed = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    shuffled = {name: value[mixed] for name, value in params.items()}
    a, b = motion.at(params, 0.55), motion.at(shuffled, 0.55)
    assert len(a) == len(b) == 12
    torch.testing.assert_close(a.means.sort(0).values, b.means.sort(0).values)


@given(st.floats(-0.2, 1.2))
def test_weights_add_up_and_change_gently(time: float) -> None:
    weights = window_weights(SPANS, time)
    assert sum(weight for _, weight in weights) == pytest.approx(1.0)
    assert all(weight > 0.0 for _, weight in weights) and len(weights) in (1, 2)
    if len(weights) == 2:
        assert weights[1][0] == weights[0][0] + 1
    # Nobody jumps: a thousandth of the clip changes no weight by more than 1.5 of the share it is of an overlap.
    later = dict(window_weights(SPANS, time + 1e-3))
    assert all(abs(later.get(k, 0.0) - weight) <= 1.5 * 1e-3 / 0.1 + 1e-9 for k, weight in weights)


@pytest.mark.parametrize(("time", "weights"), [(0.3, {0: 1.0}), (0.35, {0: 0.5, 1: 0.5}), (0.4, {1: 1.0})])
def test_weights_in_the_overlap(time: float, weights: dict[int, float]) -> None:
    assert dict(window_weights(SPANS, time)) == pytest.approx(weights)


def test_windows_that_only_touch_change_over_in_the_middle() -> None:
    spans = ((0.0, 0.4), (0.6, 1.0))
    assert window_weights(spans, 0.49) == [(0, 1.0)] and window_weights(spans, 0.5) == [(1, 1.0)]


@given(st.floats(0.0, 1.0), st.floats(0.01, 0.99))
def test_light_through_both_is_light_through_one(opacity: float, weight: float) -> None:
    state = Gaussians(
        torch.zeros(1, 3), torch.ones(1, 4), torch.ones(1, 3), torch.tensor([opacity]), torch.zeros(1, 1, 3)
    )
    ours, others = faded(state, weight), faded(state, 1.0 - weight)
    passing = (1.0 - ours.opacities) * (1.0 - others.opacities)
    torch.testing.assert_close(passing, 1.0 - state.opacities, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(ours.scales, others.scales)
    assert bool((ours.scales <= 1.0).all()) and float(ours.scales.min()) > 0.5


@pytest.mark.usefixtures("cpu_backend")
@pytest.mark.parametrize("logit", [-1.0, 0.0, 4.0])
@pytest.mark.parametrize("time", [0.31, 0.34, 0.35, 0.38])
def test_coincident_gaussians_look_like_one(logit: float, time: float) -> None:
    one = {
        "means": torch.tensor([[0.0, 0.0, 0.0]]),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        "scales": torch.log(torch.tensor([[0.3, 0.2, 0.1]])),
        "opacities": torch.tensor([logit]),
        "sh0": torch.full((1, 1, 3), 0.8),
        "shN": torch.zeros(1, 0, 3),
    }
    motion = windows_of("static")
    camera = Camera.look_at(
        torch.tensor([0.0, -3.0, 0.0]).double().numpy(),
        torch.zeros(3).double().numpy(),
        torch.tensor([0.0, 0.0, 1.0]).double().numpy(),
        width=48,
        height=48,
        focal=90.0,
    )
    model = DynamicGaussians(motion.joined([one, one, one]), motion)
    alone, both = (render(model, camera, t, ("rgb", "alpha")) for t in (0.1, time))
    assert alone.rgb is not None and both.rgb is not None and alone.alpha is not None and both.alpha is not None
    # As much of the picture is covered, no pixel is far off, and the middle is as opaque.
    assert float(both.alpha.sum()) == pytest.approx(float(alone.alpha.sum()), rel=0.02)
    assert float((both.alpha - alone.alpha).abs().max()) < 0.11
    assert float(both.alpha.max()) == pytest.approx(float(alone.alpha.max()), abs=0.012)


def test_paths_are_followed_through_a_seam() -> None:
    motion = windows_of("free-time")
    tables = [table("free-time", k) for k in range(3)]
    model = DynamicGaussians(motion.joined(tables), motion)
    for time in (0.299, 0.301, 0.35, 0.401):
        velocities = model.velocity(time, 0.01)
        assert len(velocities) == len(model.at(time))
    # Own time of a window of 0.4 clips runs 2.5 times as fast.
    expected = torch.cat([tables[0]["velocities"], tables[1]["velocities"]]) / 0.4
    torch.testing.assert_close(model.velocity(0.301, 0.01), expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"motion": "windows"}, "inside, got 'windows'"),
        ({"motion": "per-frame"}, "inside, got 'per-frame'"),
        ({"spans": ()}, "1 to 1000 spans"),
        ({"spans": ((0.0, 0.5), (0.4, 1.0))}, "as many settings"),
        ({"spans": ((0.5, 0.5),)}, "begin before it ends"),
        ({"spans": ((0.0, float("nan")),)}, "begin before it ends"),
        ({"spans": ((0.2, 1.0), (0.0, 0.5)), "motion_configs": ({}, {})}, "must ascend"),
        ({"spans": ((0.0, 0.5), (0.2, 0.7), (0.4, 1.0)), "motion_configs": ({}, {}, {})}, "at most two overlap"),
        ({"spans": 3}, "pairs of clip times"),
        ({"spans": (("a", "b"),)}, "pairs of clip times"),
        ({"motion_configs": ({"degree": 2},)}, "no setting degree"),
        (
            {
                "motion": "spacetime",
                "spans": ((0.0, 0.6), (0.4, 1.0)),
                "motion_configs": ({"degree": 2}, {"degree": 3}),
            },
            "different columns",
        ),
    ],
)
def test_impossible_windows_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_motion("windows", settings)
