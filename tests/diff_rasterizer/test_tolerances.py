"""The comparison helpers accept rare small flips and refuse everything else."""

from __future__ import annotations

import pytest
import torch
from rasterizer_tolerances import assert_close_with_flips, assert_gradients_agree


def test_flips_are_tolerated_only_when_few_and_small() -> None:
    expected = torch.rand(1000)
    flipped = expected.clone()
    flipped[3] += 0.004
    assert_close_with_flips(flipped, expected, atol=1e-6, flips=0.001, flip_atol=0.01)
    with pytest.raises(AssertionError, match="1 of 1000 elements off, 0 allowed"):
        assert_close_with_flips(flipped, expected, atol=1e-6)
    with pytest.raises(AssertionError, match="larger than"):
        assert_close_with_flips(flipped, expected, atol=1e-6, flips=0.001, flip_atol=0.001)
    flipped[5] += 0.004
    with pytest.raises(AssertionError, match="2 of 1000"):
        assert_close_with_flips(flipped, expected, atol=1e-6, flips=0.001, flip_atol=0.01)


def test_systematic_small_offset_is_refused() -> None:
    expected = torch.rand(1000)
    with pytest.raises(AssertionError, match="1000 of 1000"):
        assert_close_with_flips(expected + 1e-4, expected, atol=1e-6, flips=0.01, flip_atol=0.01)


def test_relative_tolerance_scales_with_the_expected_value() -> None:
    expected = torch.tensor([1000.0, 1.0])
    assert_close_with_flips(expected * 1.0005, expected, atol=0.0, rtol=1e-3)
    with pytest.raises(AssertionError):
        assert_close_with_flips(expected + 0.5, expected, atol=0.0, rtol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite_is_refused(value: float) -> None:
    bad = torch.tensor([1.0, value])
    with pytest.raises(AssertionError, match="not finite"):
        assert_close_with_flips(bad, torch.ones(2), atol=1.0, flips=1.0, flip_atol=1e9)
    with pytest.raises(AssertionError, match="not finite"):
        assert_gradients_agree(bad, torch.ones(2), relative=1e9, cosine=-1.0)


def test_shapes_must_agree() -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_close_with_flips(torch.ones(2), torch.ones(2, 1), atol=1.0)
    with pytest.raises(AssertionError, match="shape"):
        assert_gradients_agree(torch.ones(2), torch.ones(1, 2), relative=1.0)


def test_gradients_of_half_size_or_opposite_sign_are_refused() -> None:
    expected = torch.randn(100)
    assert_gradients_agree(expected * 1.0005, expected, relative=1e-3)
    with pytest.raises(AssertionError, match="relative L2"):
        assert_gradients_agree(expected * 0.5, expected, relative=1e-2)
    with pytest.raises(AssertionError, match="cosine"):
        assert_gradients_agree(-expected, expected, relative=10.0)


def test_zero_and_missing_gradients() -> None:
    zero = torch.zeros(3)
    assert_gradients_agree(zero, zero, relative=1e-3)
    assert_gradients_agree(None, None, relative=1e-3)
    with pytest.raises(AssertionError, match="expected zero"):
        assert_gradients_agree(torch.ones(3), zero, relative=1e-3)
    with pytest.raises(AssertionError, match="not None"):
        assert_gradients_agree(None, zero, relative=1e-3)
