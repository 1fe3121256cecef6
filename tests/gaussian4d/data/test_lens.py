"""Distortion, its removal, and downscaling, against patterns known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_scenes import brown

from gaussian4d.data.lens import distort, undistorted_lens
from gaussian4d.data.records import Lens
from gaussian4d.data.resample import Resampling, automatic_factor
from gaussian4d.errors import UserError

BARREL = Lens(120.0, 118.0, 82.0, 58.0, 160, 120, "brown", (-0.35, 0.15, 0.002, -0.003, -0.02))
PINCUSHION = Lens(120.0, 120.0, 80.0, 60.0, 160, 120, "brown", (0.25, 0.05, 0.0, 0.0, 0.0))
FISHEYE = Lens(90.0, 90.0, 80.0, 60.0, 160, 120, "fisheye", (0.05, -0.01, 0.002, -0.0005))
RATIONAL = Lens(120.0, 120.0, 80.0, 60.0, 160, 120, "brown", (0.5, 0.1, 0.001, 0.0, 0.02, 0.7, 0.2, 0.01))


def world(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns a smooth pattern [..., 3] in 0..255 on the plane z = 1."""
    return np.stack([127 + 90 * np.sin(4 * x), 127 + 90 * np.cos(3 * y + x), 127 + 60 * np.sin(5 * x * y)], -1)


def photograph(lens: Lens) -> np.ndarray:
    """Returns the pattern uint8 [H, W, 3] as the distorting lens sees it, its model inverted by Newton's method."""
    u, v = np.meshgrid(np.arange(lens.width) + 0.5, np.arange(lens.height) + 0.5)
    target = np.stack([(u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy], -1)
    xy = target.copy()
    for _ in range(60):
        xy = xy + 0.8 * (target - np.nan_to_num(distort(lens, xy), nan=0.0))
    return np.round(world(xy[..., 0], xy[..., 1])).astype(np.uint8)


@pytest.mark.parametrize(
    "lens", [BARREL, PINCUSHION, FISHEYE, RATIONAL], ids=["barrel", "pincushion", "fisheye", "rational"]
)
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 2.5])
def test_undistorted_picture_is_the_pinhole_s(lens: Lens, factor: float) -> None:
    resampling = Resampling(lens, factor)
    served = resampling.apply(photograph(lens), resampling.matrix())
    pinhole = resampling.pinhole()
    assert served.shape == (resampling.height, resampling.width, 3)
    u, v = np.meshgrid(np.arange(pinhole.width) + 0.5, np.arange(pinhole.height) + 0.5)
    truth = world((u - pinhole.cx) / pinhole.fx, (v - pinhole.cy) / pinhole.fy)
    error = np.abs(served - truth)
    # The outermost pixels come from the source's border row, half a pixel of which is not interpolated.
    assert error[1:-1, 1:-1].max() < 1.5 + factor
    assert error.mean() < 0.8


def test_distortion_is_opencv_s() -> None:
    """Against the formula written out, and one value worked by hand."""
    rng = np.random.default_rng(0)
    for x, y in rng.uniform(-0.5, 0.5, (20, 2)):
        np.testing.assert_allclose(distort(BARREL, np.array([x, y])), brown(BARREL.distortion, x, y), atol=1e-12)
    plain = Lens(1, 1, 0, 0, 1, 1, "brown", (0.1, 0.0, 0.0, 0.0, 0.0))
    np.testing.assert_allclose(distort(plain, np.array([1.0, 0.0])), [1.1, 0.0])


@pytest.mark.parametrize("lens", [BARREL, PINCUSHION, FISHEYE, RATIONAL])
def test_every_served_pixel_has_a_source_and_no_smaller_zoom_does(lens: Lens) -> None:
    pinhole = undistorted_lens(lens)
    assert (pinhole.width, pinhole.height, pinhole.cx, pinhole.cy) == (lens.width, lens.height, lens.cx, lens.cy)

    def outside(scale: float) -> float:
        u, v = np.meshgrid(np.linspace(0, lens.width, 81), np.linspace(0, lens.height, 61))
        xy = np.stack([(u - lens.cx) / (pinhole.fx * scale), (v - lens.cy) / (pinhole.fy * scale)], -1)
        uv = distort(lens, xy) * [lens.fx, lens.fy] + [lens.cx, lens.cy]
        return max(-np.nanmin(uv), np.nanmax(uv[..., 0]) - lens.width, np.nanmax(uv[..., 1]) - lens.height)

    assert outside(1.0) < 1e-6
    assert outside(0.99) > 0.05 or pinhole.fx == pytest.approx(0.7 * lens.fx)
    assert pinhole.fx / pinhole.fy == pytest.approx(lens.fx / lens.fy)


def test_distortion_that_folds_is_refused() -> None:
    with pytest.raises(UserError, match="folds the picture"):
        undistorted_lens(Lens(50, 50, 80, 60, 160, 120, "brown", (-9.0, 0, 0, 0, 0)))


def test_area_average_is_exact() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (13, 20, 3), dtype=np.uint8)
    resampling = Resampling(Lens(10, 10, 10, 6.5, 20, 13), 3)
    served = resampling.apply(picture, None)
    blocks = picture[:12, :18].reshape(4, 3, 6, 3, 3).mean((1, 3))
    assert np.abs(served - blocks).max() < 0.6
    pinhole = resampling.pinhole()
    assert (pinhole.fx, pinhole.cx, pinhole.cy) == pytest.approx((10 / 3, 10 / 3, 6.5 / 3))


def test_fractional_factors_keep_a_ramp() -> None:
    """A linear ramp stays the same function of the pixel grid."""
    ramp = np.repeat(np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None], 50, 0)[..., None], 3, -1)
    for factor in (1.5, 2.5, 3.7):
        served = Resampling(Lens(10, 10, 60, 25, 120, 50), factor).apply(ramp, None)
        center = (np.arange(served.shape[1]) + 0.5) * factor
        assert np.abs(served[5, 2:-2, 0] - (2 * center - 1)[2:-2]).max() < 1.01


@pytest.mark.parametrize("lens", [Lens(20, 20, 8, 8, 16, 16), Lens(20, 20, 8, 8, 16, 16, "brown", (0.01, 0, 0, 0, 0))])
@pytest.mark.parametrize("factor", [2, 2.5])
def test_hidden_colours_do_not_bleed(lens: Lens, factor: float) -> None:
    """Transparent red beside opaque blue stays blue when averaged."""
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[..., 0] = 255
    picture[:, 7:] = [0, 0, 255, 255]
    resampling = Resampling(lens, factor)
    served = resampling.apply(picture, resampling.matrix())
    seen = served[..., 3] > 20
    assert seen.any() and served[seen][:, 0].max() <= 2 and served[seen][:, 2].min() >= 250


def test_downscale_limits() -> None:
    with pytest.raises(UserError, match="at least 1"):
        Resampling(BARREL, 0.5)
    with pytest.raises(UserError, match="leaves nothing"):
        Resampling(BARREL, 500)
    assert automatic_factor(640, 480) == 1
    assert automatic_factor(644, 486) == 1
    assert automatic_factor(800, 800) == 2
    assert automatic_factor(1080, 1920) == 3
    assert automatic_factor(3840, 2160) == 6
