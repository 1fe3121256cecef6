"""Weights of pixels and shares of frames: how much they count, and that what does not count changes nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gaussian4d import fit
from gaussian4d.fitting.checkpoint import list_checkpoints, load_checkpoint
from gaussian4d.fitting.config import FitConfig
from gaussian4d.fitting.normalise import Normalisation
from gaussian4d.fitting.targets import Target, Targets
from gaussian4d.fitting.terms import alpha, photometric
from gaussian4d.scene import PointCloud, Scene, load_scene

H, W = 24, 32
REACH = 5
"""Half the window of SSIM, in pixels."""

pytestmark = pytest.mark.usefixtures("cpu_backend")


def step_of(weight: Tensor | None = None, share: float = 1.0, seed: int = 0, ssim: float = 0.2) -> Any:
    """Returns what the two terms look at: a rendered picture with a gradient, and one to match."""
    g = torch.Generator().manual_seed(seed)
    rgb, opacity = (torch.rand(H, W, c, generator=g).requires_grad_() for c in (3, 1))
    given, given_alpha = torch.rand(H, W, 3, generator=g), torch.rand(H, W, 1, generator=g)
    nothing: Any = None
    place = torch.eye(4), torch.eye(3), W, H, 0.0, 0, nothing, 0
    target = Target(given, given_alpha, *place, weight=weight, share=share)
    config = FitConfig(max_steps=1).replace({"loss.ssim": ssim})
    return SimpleNamespace(rgb=rgb, alpha=opacity, composed=given, target=target, config=config)


def value_and_gradient(term: Any, step: Any) -> tuple[float, Tensor]:
    of = step.rgb if term is photometric else step.alpha
    value = term(step)
    (gradient,) = torch.autograd.grad(value, of)
    return float(value.detach()), gradient


def left_half(of: float = 1.0) -> Tensor:
    weight = torch.zeros(H, W, 1)
    weight[:, : W // 2] = of
    return weight


@pytest.mark.parametrize("term", [photometric, alpha])
def test_weights_of_one_and_a_share_of_one_are_no_weights(term: Any) -> None:
    plain, gradient = value_and_gradient(term, step_of())
    weighted, other = value_and_gradient(term, step_of(torch.ones(H, W, 1)))
    assert weighted == pytest.approx(plain, rel=1e-6)
    torch.testing.assert_close(other, gradient, rtol=1e-5, atol=1e-9)
    assert bool(gradient.any())


def test_pixels_without_weight_do_not_pull() -> None:
    _, gradient = value_and_gradient(photometric, step_of(left_half()))
    # Inside, nothing; SSIM's window reaches over the border; L1 and SSIM pull where there is weight.
    assert not gradient[:, W // 2 + REACH :].any()
    assert bool(gradient[:, W // 2 : W // 2 + REACH].any())
    assert bool((gradient[:, : W // 2].abs().sum(-1) > 0).all())
    _, plain = value_and_gradient(photometric, step_of(left_half(), ssim=0.0))
    assert not plain[:, W // 2 :].any() and bool((plain[:, : W // 2] != 0).all())
    _, flat = value_and_gradient(alpha, step_of(left_half()))
    assert not flat[:, W // 2 :].any() and bool((flat[:, : W // 2] != 0).all())


@pytest.mark.parametrize("term", [photometric, alpha])
def test_what_is_given_without_weight_changes_nothing(term: Any) -> None:
    results = []
    for other in (0.0, 1.0):
        step = step_of(left_half())
        step.composed[:, W // 2 :] = other
        step.target.alpha[:, W // 2 :] = other
        results.append(value_and_gradient(term, step))
    assert results[0][0] == results[1][0] and torch.equal(results[0][1], results[1][1])
    # Bytes are compared like floats.
    if term is photometric:
        step = step_of(left_half())
        step.composed = (step.composed * 255).round().to(torch.uint8)
        value, gradient = value_and_gradient(term, step)
        assert value == pytest.approx(results[0][0], rel=1e-2) and not gradient[:, W // 2 + REACH :].any()


@pytest.mark.parametrize("term", [photometric, alpha])
@pytest.mark.parametrize("weight", [None, left_half()])
def test_a_share_scales_a_whole_picture(term: Any, weight: Tensor | None) -> None:
    plain, gradient = value_and_gradient(term, step_of(weight))
    for share in (0.25, 3.0, 0.0):
        shared, scaled = value_and_gradient(term, step_of(weight, share))
        assert shared == pytest.approx(share * plain, rel=1e-6)
        torch.testing.assert_close(scaled, share * gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("term", [photometric, alpha])
def test_fractions_count_by_their_mean(term: Any) -> None:
    whole, gradient = value_and_gradient(term, step_of(left_half()))
    half, halved = value_and_gradient(term, step_of(left_half(0.5)))
    assert half == pytest.approx(0.5 * whole, rel=1e-6)
    torch.testing.assert_close(halved, 0.5 * gradient, rtol=1e-5, atol=1e-9)


def test_a_picture_without_any_weight_is_worth_nothing() -> None:
    for term in (photometric, alpha):
        value, gradient = value_and_gradient(term, step_of(torch.zeros(H, W, 1)))
        assert value == 0.0 and not gradient.any()


def given_scene(ball_scene: Path, spoiled: int, weighted: bool = True, share: float = 1.0) -> Scene:
    """Returns the frames of the ball; on the right half of all, and on the first two, is the value `spoiled`."""
    frames = load_scene(ball_scene).frames("train")
    pictures = [np.array(frame.image) for frame in frames]
    weight = np.ones((len(frames), *pictures[0].shape[:2]), np.float32)
    weight[:, :, 12:] = 0.0
    for k, picture in enumerate(pictures):
        picture[:, 12:] = spoiled
        if k < 2:
            picture[...] = spoiled
    g = np.random.default_rng(0)
    cloud = PointCloud(0.3 * g.normal(size=(80, 3)), g.integers(0, 255, (80, 3)).astype(np.uint8), np.full(80, np.nan))
    return Scene.from_frames(
        pictures,
        [frame.camera for frame in frames],
        [frame.time for frame in frames],
        weight=weight if weighted else None,
        share=[share if k < 2 else 1.0 for k in range(len(frames))],
        points=cloud,
    )


SETTINGS: dict[str, Any] = {
    "motion": "free-time",
    "max_steps": 30,
    "evaluate": False,
    "background": "white",
    "init_points": 80,
    "init_instants": 2,
    "resolutions": ((0.0, 1.0),),
    "densify_every": 10,
    "densify_grad": 0.0,
}


def test_a_fit_never_sees_what_has_no_weight(ball_scene: Path, tmp_path: Path) -> None:
    tables: dict[str, dict[str, Tensor]] = {}
    for name, spoiled, weighted, share in (
        ("black", 0, True, 0.0),
        ("white", 255, True, 0.0),
        ("black seen", 0, False, 0.0),
        ("black shared", 0, True, 0.5),
    ):
        scene = given_scene(ball_scene, spoiled, weighted, share)
        fit(scene, "quick", tmp_path / name, **SETTINGS)
        tables[name] = load_checkpoint(list_checkpoints(tmp_path / name / "checkpoints")[-1])[0]
    means = {name: table["params/means"] for name, table in tables.items()}
    assert torch.equal(means["black"], means["white"])
    for other in ("black seen", "black shared"):
        assert means[other].shape != means["black"].shape or not torch.equal(means[other], means["black"])


def test_targets_carry_weight_share_and_depth_at_every_size(ball_scene: Path) -> None:
    frames = load_scene(ball_scene).frames("train")
    size = frames[0].image.shape[:2]
    weight = np.zeros((len(frames), *size), np.float32)
    weight[:, :, :10] = 1.0
    depth = np.full((len(frames), *size), 2.0, np.float32)
    depth[:, :4] = np.nan
    scene = Scene.from_frames(
        [frame.image for frame in frames],
        [frame.camera for frame in frames],
        [frame.time for frame in frames],
        weight=weight,
        depth=depth,
        share=[0.5] * len(frames),
    )
    normalisation = Normalisation(np.zeros(3), 0.25)
    targets = Targets(scene, scene.frames("train"), normalisation)
    for downscale in (1.0, 2.0):
        target = targets.get(0, downscale)
        assert target.share == 0.5 and target.weight is not None and target.depth is not None
        assert target.weight.shape == target.depth.shape == (target.height, target.width, 1)
        edge = int(10 / downscale)
        assert bool((target.weight[:, :edge] == 1.0).all()) and not target.weight[:, edge:].any()
        # In units of the fit; 0 where nothing is known.
        rows = int(4 / downscale)
        assert not target.depth[:rows].any() and bool((target.depth[rows:] == 0.5).all())
    plain = Targets(load_scene(ball_scene), frames, normalisation).get(0, 1.0)
    assert plain.weight is None and plain.share == 1.0 and plain.depth is None
