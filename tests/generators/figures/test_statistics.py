"""Figures about pictures: what they count and what they leave out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from generators.figures.ridge import Ridge
from generators.figures.statistics import foreground_psnr, paired_bootstrap, sharpness
from generators.figures.store import Store


def _square() -> torch.Tensor:
    """Returns a premultiplied picture [1, 4, 32, 32]: a striped square in the middle."""
    picture = torch.zeros(1, 4, 32, 32)
    picture[:, 3, 8:24, 8:24] = 1.0
    picture[:, :3, 8:24, 8:24] = (torch.arange(16) // 2 % 2).float().expand(16, 16)
    return picture


def test_psnr_counts_the_object_only_and_transparent_pixels_as_white():
    truth = _square()
    off = truth.clone()
    off[:, :3, 8:24, 8:24] += 0.1
    assert foreground_psnr(off.clamp(max=1.1), truth) > 20.0
    assert (
        abs(
            foreground_psnr(truth + 0.1 * (truth[:, 3:] > 0.5) * torch.tensor([-1, -1, -1, 0]).view(1, 4, 1, 1), truth)
            - 23.0
        )
        < 3.1
    )
    around = truth.clone()
    around[:, :, :4] = 1.0
    assert foreground_psnr(around, truth) == pytest.approx(100.0)
    # Nothing there is white: right where the truth is white, wrong where it is black.
    assert foreground_psnr(torch.zeros_like(truth), truth) == pytest.approx(10 * np.log10(2), abs=0.01)


def test_sharpness_is_one_for_the_truth_and_falls_with_blur():
    truth = _square()
    assert sharpness(truth, truth) == pytest.approx(1.0)
    flat = truth.clone()
    flat[:, :3] = 0.5 * truth[:, 3:]
    blurred = torch.nn.functional.avg_pool2d(truth, 3, 1, 1)
    assert sharpness(flat, truth) < 0.2 < sharpness(blurred, truth) < 0.8


def test_the_interval_holds_the_mean_and_shrinks_with_agreement():
    rng = np.random.default_rng(0)
    theirs = rng.normal(20, 3, 60)
    ours = theirs + 1.0 + rng.normal(0, 0.1, 60)
    paired = paired_bootstrap(ours.tolist(), theirs.tolist())
    assert paired.low < 1.0 < paired.high and paired.high - paired.low < 0.1
    shuffled = paired_bootstrap(ours.tolist(), rng.permutation(theirs).tolist())
    assert shuffled.high - shuffled.low > 5 * (paired.high - paired.low)


def test_ridge_finds_a_linear_rule_and_shrinks_to_the_mean_without_one():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=generator)
    rule = torch.randn(8, 3, generator=generator)
    model = Ridge(x, x @ rule + 2.0)
    unseen = torch.randn(50, 8, generator=generator)
    assert (model(unseen) - (unseen @ rule + 2.0)).abs().mean() < 0.05
    noise = torch.randn(200, 3, generator=generator)
    assert Ridge(x, noise)(unseen).var() < 0.3 * noise.var()


def test_a_store_computes_once_per_settings(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"value": len(calls)}

    store = Store(tmp_path)
    assert store.get("a", {"seed": 1}, compute) == {"value": 1}
    assert Store(tmp_path).get("a", {"seed": 1}, compute) == {"value": 1}
    assert store.get("a", {"seed": 2}, compute) == {"value": 2}
