"""Cutting out: uniform backgrounds by colour, masks, rembg, and the messages when nothing works."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gaussian4d.errors import UserError
from generators.inputs import matting
from generators.inputs.matting import cut_out, read_mask, uniform_matte
from generators.inputs.pictures import Picture


def disc(background: tuple[float, float, float], noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Returns a red disc with a background-coloured eye before a background, [H, W, 4], and its true alpha [H, W]."""
    rows, columns = np.mgrid[:80, :90] + 0.5
    alpha = np.clip(25.5 - np.hypot(rows - 40, columns - 45), 0, 1).astype(np.float32)
    color = np.where((np.hypot(rows - 36, columns - 45) < 4)[..., None], background, (0.8, 0.1, 0.1))
    rgb = color * alpha[..., None] + np.array(background) * (1 - alpha[..., None])
    rgb = np.clip(rgb + noise * np.random.default_rng(0).standard_normal(rgb.shape), 0, 1)
    return np.concatenate([rgb, np.ones((80, 90, 1))], axis=-1).astype(np.float32), alpha


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("background", [(1.0, 1.0, 1.0), (0.1, 0.6, 0.2)])
def test_a_disc_before_a_uniform_background(background: tuple[float, float, float], noise: float) -> None:
    picture, alpha = disc(background, noise)
    found = uniform_matte(picture)
    assert found is not None
    cut, color = found
    np.testing.assert_allclose(color, background, atol=0.02)
    assert np.abs(cut[..., 3] - alpha).mean() < 0.01 and (cut[:, :10, 3] == 0).all()
    # The eye has the background's colour and stays, because it is not connected to the rim.
    assert cut[36, 45, 3] == 1.0
    # Nothing of the background is left in the colours: a red rim, no white or green one.
    edge = (cut[..., 3] > 0.2) & (cut[..., 3] < 0.8)
    assert (cut[edge, 1] < 0.3 * cut[edge, 3] + 0.06).all()
    assert (cut[..., :3] <= cut[..., 3:] + 1e-6).all()


def test_dust_is_removed() -> None:
    picture, _ = disc((1.0, 1.0, 1.0))
    picture[5, 5, :3] = 0.0
    found = uniform_matte(picture)
    assert found is not None and found[0][5, 5, 3] == 0.0


def scenery() -> np.ndarray:
    picture = np.random.default_rng(1).random((40, 40, 4)).astype(np.float32)
    picture[..., 3] = 1.0
    return picture


def test_no_way_to_cut_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)
    monkeypatch.setattr(matting, "_has_rembg", lambda: False)
    assert uniform_matte(scenery()) is None
    with pytest.raises(UserError, match="--mask FILE"):
        cut_out([Picture(scenery(), False)], "cat.png")
    with pytest.raises(UserError, match="pip install"):
        cut_out([Picture(scenery(), False)], "cat.png", matte="rembg")


def test_rembg_cuts_out_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def remove(picture: Image.Image, session: object) -> Image.Image:
        alpha = np.zeros((40, 40), np.uint8)
        alpha[10:30, 10:30] = 255
        return Image.fromarray(np.dstack([np.asarray(picture), alpha]))

    fake = types.SimpleNamespace(new_session=lambda: None, remove=remove)
    monkeypatch.setitem(sys.modules, "rembg", fake)
    monkeypatch.setattr(matting, "_has_rembg", lambda: True)
    (cut,), notes = cut_out([Picture(scenery(), False)], "cat.png")
    assert cut[..., 3].sum() == 400 and "rembg" in notes[0]

    def broken() -> None:
        raise OSError("no network")

    monkeypatch.setattr(fake, "new_session", broken)
    with pytest.raises(UserError, match="no network"):
        cut_out([Picture(scenery(), False)], "cat.png")


def test_masks(tmp_path: Path) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[5:20, 5:20] = 1
    Image.fromarray(mask).save(tmp_path / "labels.png")
    (cut,), _ = cut_out([Picture(scenery(), False)], "a", masks=[read_mask(tmp_path / "labels.png", (40, 40), 100)])
    np.testing.assert_array_equal(cut[..., 3], mask)
    Image.fromarray(mask * 255).resize((80, 80)).save(tmp_path / "double.png")
    assert abs(read_mask(tmp_path / "double.png", (40, 40), 100).mean() - mask.mean()) < 0.01
    with pytest.raises(UserError, match="80x40"):
        read_mask(tmp_path / "double.png", (40, 80), 100)


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(UserError, match="nothing is left"):
        cut_out([Picture(np.zeros((40, 40, 4), np.float32), True)], "a")
