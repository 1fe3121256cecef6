"""Figures against values worked out by hand, and the exact form of metrics.json."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gaussian4d.errors import UserError
from gaussian4d.evaluation import evaluate
from gaussian4d.metrics import moving_mask, psnr, ssim
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import Static
from gaussian4d.scene import load_scene

pytestmark = pytest.mark.usefixtures("cpu_backend")


def nothing(background: float) -> DynamicGaussians:
    """A model that draws only its background."""
    params = {
        "means": torch.tensor([[0.0, 0.0, 1e6]]),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        "scales": torch.full((1, 3), -9.0),
        "opacities": torch.full((1,), -20.0),
        "sh0": torch.zeros(1, 1, 3),
        "shN": torch.zeros(1, 0, 3),
    }
    return DynamicGaussians(params, Static(), background=torch.full((3,), background))


def test_psnr_by_hand() -> None:
    truth = torch.zeros(8, 8, 3)
    image = torch.full((8, 8, 3), 0.1)
    assert psnr(image, truth) == pytest.approx(20.0)
    image[:4] = 0.2
    assert psnr(image, truth) == pytest.approx(-10 * math.log10((0.01 + 0.04) / 2), rel=1e-6)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4] = True
    assert psnr(image, truth, mask) == pytest.approx(-10 * math.log10(0.04), rel=1e-6)
    assert psnr(image, truth, torch.zeros(8, 8, dtype=torch.bool)) is None
    assert psnr(truth, truth) == 100.0
    # Colours beyond the display's range are clamped before they are compared.
    assert psnr(torch.full((8, 8, 3), 7.0), torch.ones(8, 8, 3)) == 100.0


def test_ssim_limits() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(32, 32, 3, generator=generator)
    assert ssim(image, image) == pytest.approx(1.0, abs=1e-5)
    assert ssim(1.0 - image, image) < 0.0


def test_moving_pixels_by_hand() -> None:
    mean = torch.zeros(2, 2, 3)
    truth = mean.clone()
    truth[0, 0, 1] = 0.11
    truth[1, 1] = 0.09
    assert moving_mask(truth, mean).tolist() == [[True, False], [False, False]]


def test_metrics_of_an_empty_model(ball_scene: Path, tmp_path: Path) -> None:
    scene = load_scene(ball_scene)
    metrics = evaluate(nothing(1.0), scene, out=tmp_path / "eval")
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text()) == metrics
    assert list(metrics) == [
        "split",
        "views",
        "psnr",
        "ssim",
        "psnr_foreground",
        "psnr_moving",
        "lpips",
        "num_gaussians",
        "fit_seconds",
        "render_fps",
        "baselines",
        "protocol",
    ]
    assert set(metrics["protocol"]) == {"resolution", "background", "ssim", "mask", "colour_correction"}
    assert metrics["split"] == "test" and metrics["lpips"] is None and metrics["num_gaussians"] == 1
    assert [(view["camera"], view["time"]) for view in metrics["views"]] == [
        (frame.camera_id, frame.time) for frame in scene.frames("test")
    ]
    assert metrics["protocol"]["background"] == "white" and metrics["protocol"]["resolution"] == "24x24"

    truths = []
    for frame in scene.frames("test"):
        pixels = frame.image.astype(np.float64) / 255
        truths.append(pixels[..., :3] * pixels[..., 3:] + 1 - pixels[..., 3:])
    by_hand = [-10 * math.log10(((1 - truth) ** 2).mean()) for truth in truths]
    assert [view["psnr"] for view in metrics["views"]] == pytest.approx(by_hand, rel=1e-5)
    assert metrics["psnr"] == pytest.approx(np.mean(by_hand), rel=1e-5)
    static = [-10 * math.log10(((np.mean(truths, axis=0) - truth) ** 2).mean()) for truth in truths]
    assert metrics["baselines"]["static"]["psnr"] == pytest.approx(np.mean(static), rel=1e-5)
    foreground = []
    for frame, truth in zip(scene.frames("test"), truths):
        inside = frame.image[..., 3] > 127
        foreground.append(-10 * math.log10(((1 - truth[inside]) ** 2).mean()))
    assert metrics["psnr_foreground"] == pytest.approx(np.mean(foreground), rel=1e-5)


def test_nearest_view_takes_the_neighbour_at_the_same_time(ball_scene: Path, tmp_path: Path) -> None:
    scene = load_scene(ball_scene)
    metrics = evaluate(nothing(1.0), scene)
    train = {(frame.camera_id, frame.time_index): frame for frame in scene.frames("train")}
    test = scene.frames("test")

    def over_white(image: np.ndarray) -> np.ndarray:
        pixels = image.astype(np.float64) / 255
        return pixels[..., :3] * pixels[..., 3:] + 1 - pixels[..., 3:]

    # Camera 2 stands between cameras 1 and 3, equally far from both.
    means = [
        np.mean(
            [
                -10
                * math.log10(
                    ((over_white(train[neighbour, frame.time_index].image) - over_white(frame.image)) ** 2).mean()
                )
                for frame in test
            ]
        )
        for neighbour in ("1", "3")
    ]
    assert any(metrics["baselines"]["nearest_view"]["psnr"] == pytest.approx(mean, rel=1e-5) for mean in means)


def test_sample_pictures_show_truth_rendering_difference(ball_scene: Path, tmp_path: Path) -> None:
    scene = load_scene(ball_scene)
    evaluate(nothing(1.0), scene, out=tmp_path)
    pictures = sorted(tmp_path.glob("camera_2_frame_*.png"))
    assert len(pictures) == 3
    pixels = np.asarray(Image.open(pictures[0]))
    assert pixels.shape == (24, 72, 3)
    assert (pixels[:, 24:48] == 255).all() and pixels[12, 12].tolist() != [255, 255, 255]


def test_one_picture_per_camera_has_no_static_baseline(write_ball: Callable[..., Path], tmp_path: Path) -> None:
    scene = load_scene(write_ball(tmp_path / "still", instants=1))
    metrics = evaluate(nothing(1.0), scene)
    assert metrics["baselines"]["static"] is None and metrics["psnr_moving"] is None


def test_split_without_frames_is_explained(write_ball: Callable[..., Path], tmp_path: Path) -> None:
    scene = load_scene(write_ball(tmp_path / "all_train"))
    with pytest.raises(UserError, match="val"):
        evaluate(nothing(1.0), scene, split="val")
    with pytest.raises(UserError, match="scene"):
        evaluate(nothing(1.0))
