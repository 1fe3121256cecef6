"""Covisibility masks: from DyCheck's files to masked figures whose protocol is stated."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import FRAMES, save, write_dycheck, write_nerfies
from tiny_scenes import HEIGHT, WIDTH

from gaussian4d.errors import UserError
from gaussian4d.evaluation import evaluate
from gaussian4d.metrics import SSIM_DEFINITION, masked_ssim, ssim
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import Static
from gaussian4d.scene import load_scene


def black() -> DynamicGaussians:
    """A model that draws only black."""
    params = {
        "means": torch.tensor([[0.0, 0.0, 1e6]]),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        "scales": torch.full((1, 3), -9.0),
        "opacities": torch.full((1,), -20.0),
        "sh0": torch.zeros(1, 1, 3),
        "shN": torch.zeros(1, 0, 3),
    }
    return DynamicGaussians(params, Static(), background=torch.zeros(3))


def ssim_by_hand(image: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Returns the masked SSIM, pixel by pixel and window by window."""
    values = []
    for i, j in np.argwhere(mask):
        rows, cols = np.mgrid[max(i - 5, 0) : i + 6, max(j - 5, 0) : j + 6]
        rows, cols = (
            rows[(rows < len(mask)) & (cols < mask.shape[1])],
            cols[(rows < len(mask)) & (cols < mask.shape[1])],
        )
        weight = np.exp(-((rows - i) ** 2 + (cols - j) ** 2) / (2 * 1.5**2)) * mask[rows, cols]
        weight /= weight.sum()
        for channel in range(3):
            x, y = image[rows, cols, channel], truth[rows, cols, channel]
            mx, my = weight @ x, weight @ y
            vx, vy, cov = weight @ x**2 - mx**2, weight @ y**2 - my**2, weight @ (x * y) - mx * my
            values.append((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    return float(np.mean(values))


def test_masked_ssim_by_hand() -> None:
    random = np.random.default_rng(0)
    image, truth = random.random((14, 17, 3)), random.random((14, 17, 3))
    mask = random.random((14, 17)) > 0.4
    found = masked_ssim(torch.from_numpy(image), torch.from_numpy(truth), torch.from_numpy(mask))
    assert found == pytest.approx(ssim_by_hand(image, truth, mask), abs=1e-9)
    assert masked_ssim(torch.from_numpy(truth), torch.from_numpy(truth), torch.from_numpy(mask)) == pytest.approx(1)
    assert masked_ssim(torch.zeros(9, 9, 3), torch.zeros(9, 9, 3), torch.zeros(9, 9, dtype=torch.bool)) is None


def test_masked_ssim_ignores_what_is_hidden_and_agrees_with_ssim_inside() -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(40, 40, 3, generator=generator)
    image = (truth + 0.1 * torch.rand(40, 40, 3, generator=generator)).clamp(0, 1)
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[:, :20] = True
    spoiled = torch.where(mask[..., None], image, 1 - image)
    assert masked_ssim(spoiled, truth, mask) == pytest.approx(masked_ssim(image, truth, mask), abs=1e-12)
    assert ssim(spoiled, truth) < ssim(image, truth) - 0.1
    everything = torch.ones(40, 40, dtype=torch.bool)
    assert masked_ssim(image, truth, everything) == pytest.approx(ssim(image, truth), abs=5e-3)


def test_figures_of_a_dycheck_scene(tmp_path: Path) -> None:
    write_dycheck(tmp_path)
    scene = load_scene(tmp_path)
    test = scene.frames("test")
    assert all(frame.has_covisible for frame in test) and not any(frame.has_covisible for frame in scene.frames())
    seen = test[0].covisible
    assert seen is not None and seen.shape == (HEIGHT, WIDTH)
    assert (seen[:, : WIDTH // 2] == 255).all() and (seen[:, WIDTH // 2 :] == 0).all()
    metrics = evaluate(black(), scene, backend="reference")
    by_hand = []
    for frame in test:
        left = frame.image[:, : WIDTH // 2].astype(np.float64) / 255
        by_hand.append(-10 * math.log10((left**2).mean()))
    assert [view["mpsnr"] for view in metrics["views"]] == pytest.approx(by_hand, rel=1e-5)
    assert metrics["mpsnr"] == pytest.approx(np.mean(by_hand), rel=1e-5) and metrics["mpsnr"] != metrics["psnr"]
    assert 0 <= metrics["mssim"] < 1
    assert metrics["baselines"]["nearest_view"]["mpsnr"] is not None
    stated = metrics["protocol"]["covisible"]
    assert f"{2 * FRAMES} of {2 * FRAMES} views" in stated and "covisible pixels" in stated
    assert metrics["protocol"]["ssim"] == SSIM_DEFINITION


def test_other_data_has_no_masked_figures(tmp_path: Path) -> None:
    write_nerfies(tmp_path)
    metrics = evaluate(black(), load_scene(tmp_path, frames=":2"), backend="reference")
    assert "mpsnr" not in metrics and "covisible" not in metrics["protocol"] and "mssim" not in metrics["views"][0]


def test_masks_that_are_missing_or_of_another_size(tmp_path: Path) -> None:
    write_dycheck(tmp_path)
    mask = tmp_path / "covisible" / "2x" / "val" / "1_00003.png"
    save(mask, np.zeros((HEIGHT // 2, WIDTH // 2), np.uint8))
    with pytest.raises(UserError, match=r"1_00003\.png.*same size"):
        load_scene(tmp_path)
    mask.unlink()
    scene = load_scene(tmp_path)
    assert any("1 test frames have no covisibility mask" in problem.message for problem in scene.problems)
