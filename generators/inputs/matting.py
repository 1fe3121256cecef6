"""Cutting the object out of its picture: the user's mask, the picture's own alpha, a uniform background, or rembg."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from gaussian4d.errors import UserError

from .pictures import Picture, read_picture

Matte = Literal["auto", "color", "rembg"]

# Share of the picture's rim that must have one colour; the object may stand on the rest.
_UNIFORM_SHARE = 0.75
# Largest difference of a channel (0..1) within which two pixels of the rim have one colour.
_SAME = 0.06
# Width of the ramp from transparent to opaque, in difference of a channel.
_RAMP = 0.10
# Pieces smaller than this share of the largest are dust, not object.
_DUST = 0.01


def cut_out(
    pictures: Sequence[Picture],
    name: Path | str,
    *,
    masks: Sequence[Float[np.ndarray, "H W"]] | None = None,
    matte: Matte = "auto",
) -> tuple[list[Float[np.ndarray, "H W 4"]], list[str]]:
    """Returns the pictures, premultiplied RGBA with the object alone, and what was done, one sentence each.

    The order of preference: `masks` (times the picture's own alpha), alpha, a uniform background found at the rim of
    each picture, rembg where it is installed. `matte` "color" or "rembg" insists on that one.

    Args:
        pictures: The frames, one for a still picture.
        name: Of the file, for messages.
        masks: One for each picture, 0..1, of its size.
        matte: How to cut out what has no alpha.

    Raises:
        UserError: no alpha and no way to make one, or nothing left after cutting out.
    """
    notes: list[str] = []
    if masks is not None:
        cut = [
            picture.pixels * mask[..., None].astype(np.float32) for picture, mask in zip(pictures, masks, strict=True)
        ]
    elif all(picture.alpha for picture in pictures):
        cut = [picture.pixels for picture in pictures]
    elif any(picture.alpha for picture in pictures):
        # A frame in which the object fills the picture needs no transparent pixel.
        cut = [picture.pixels for picture in pictures]
        notes.append("some frames have no transparent pixel and are taken as they are")
    else:
        cut, note = _without_alpha(pictures, name, matte)
        notes.append(note)
    for index, pixels in enumerate(cut):
        if not (pixels[..., 3] > 0.5).any():
            which = f" in frame {index}" if len(cut) > 1 else ""
            raise UserError(
                f"{name}: nothing is left{which} after cutting out: no pixel is opaque; check alpha or --mask"
            )
    return cut, notes


def read_mask(path: Path, shape: tuple[int, int], max_side: int) -> Float[np.ndarray, "H W"]:
    """Returns a mask file as alpha 0..1 of a picture's size (height, width).

    Its alpha where it has one, else its brightness; a file of small labels counts as a mask of what is not 0.
    """
    picture = read_picture(path, max_side=max_side)
    values = picture.pixels[..., 3] if picture.alpha else picture.pixels[..., :3].max(axis=-1)
    if 0.0 < values.max() < 0.5:
        values = (values > 0.0).astype(np.float32)
    if values.shape == shape:
        return values
    if abs(values.shape[1] / values.shape[0] / (shape[1] / shape[0]) - 1.0) > 0.02:
        raise UserError(
            f"--mask {path}: expected the picture's shape {shape[1]}x{shape[0]}, got"
            f" {values.shape[1]}x{values.shape[0]}; give the mask of this picture"
        )
    from PIL import Image

    resized = Image.fromarray(values.astype(np.float32)).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(resized), 0.0, 1.0)


def uniform_matte(pixels: Float[np.ndarray, "H W 4"]) -> tuple[Float[np.ndarray, "H W 4"], np.ndarray] | None:
    """Returns the object before a uniform background, premultiplied RGBA, and the background's colour [3].

    The background's colour is the median of the rim. Alpha grows with the difference to it, from what the rim itself
    varies by; only background that is connected to the rim goes, so that a white eye before white stays. At half
    transparent pixels the background's share of the colour is taken out. None when the rim has no one colour.
    """
    from scipy import ndimage

    rgb = pixels[..., :3]
    height, width = rgb.shape[:2]
    rim = np.zeros((height, width), bool)
    thickness = max(1, min(height, width) // 64)
    rim[:thickness] = rim[-thickness:] = True
    rim[:, :thickness] = rim[:, -thickness:] = True
    color = np.median(rgb[rim], axis=0).astype(np.float32)
    difference = np.abs(rgb - color).max(axis=-1)
    same = difference[rim] <= _SAME
    if same.mean() < _UNIFORM_SHARE:
        return None
    low = max(2.0 / 255.0, 1.6 * float(np.percentile(difference[rim][same], 99)))
    ramp = np.clip((difference - low) / _RAMP, 0.0, 1.0).astype(np.float32)
    labels, _ = _pieces(ramp < 0.5)
    outside = np.isin(labels, np.setdiff1d(np.unique(labels[rim]), [0]))
    alpha = _edge_alpha(rgb, color, ramp, ndimage.binary_dilation(outside, iterations=2))
    pieces, count = _pieces(alpha > 0.5)
    if count > 1:
        sizes = ndimage.sum_labels(np.ones_like(alpha), pieces, np.arange(1, count + 1))
        small = np.concatenate([[False], sizes < _DUST * sizes.max()])
        kept = np.concatenate([[False], sizes >= _DUST * sizes.max()])
        alpha[ndimage.binary_dilation(small[pieces], iterations=2) & ~kept[pieces]] = 0.0
    own = np.clip(rgb - (1.0 - alpha[..., None]) * color, 0.0, alpha[..., None])
    return np.concatenate([own, alpha[..., None]], axis=-1).astype(np.float32), color


def _pieces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the connected pieces of a mask as labels from 1 on, and how many there are."""
    from scipy import ndimage

    labels, count = ndimage.label(mask)  # type: ignore[misc]
    return labels, count


def _edge_alpha(rgb: np.ndarray, color: np.ndarray, ramp: np.ndarray, near: np.ndarray) -> Float[np.ndarray, "H W"]:
    """Returns alpha: 1 inside, and in the band `near` the background the share of the nearest colour inside.

    A pixel there is a mixture (1 - alpha) background + alpha object; the object's colour is taken from the nearest
    pixel behind the band. Thin parts have none near by, and a colour close to the background's tells nothing: there
    alpha is the ramp of the difference.
    """
    from scipy import ndimage

    if near.all():
        return ramp
    distance, (rows, columns) = ndimage.distance_transform_edt(near, return_indices=True)  # type: ignore[misc]
    contrast = rgb[rows, columns] - color
    power = (contrast**2).sum(axis=-1)
    share = ((rgb - color) * contrast).sum(axis=-1) / np.maximum(power, 1e-6)
    known = (distance < 5.0) & (power > _RAMP**2)
    mixed = np.where(known, np.clip(share, 0.0, 1.0), ramp)
    # What the rim varies by is background, whatever share of the object's colour it could be.
    mixed = np.where(ramp == 0.0, 0.0, mixed)
    return np.where(near, mixed, 1.0).astype(np.float32)


def _without_alpha(pictures: Sequence[Picture], name: Path | str, matte: Matte) -> tuple[list[np.ndarray], str]:
    """Returns the pictures cut out, and how."""
    installed = _has_rembg()
    if matte != "rembg":
        found = [uniform_matte(picture.pixels) for picture in pictures]
        if all(one is not None for one in found):
            colors = [tuple(round(255 * float(c)) for c in one[1]) for one in found if one is not None]
            return [one[0] for one in found if one is not None], (
                f"it has no alpha; its background is uniform, rgb{colors[0]}, and was taken out by colour"
                " (holes inside the object stay filled; --mask FILE is exact)"
            )
    if matte == "color" or not installed:
        way = "give --mask FILE, a picture with alpha, or one before a uniform background"
        if matte == "rembg":
            raise UserError(
                f'{name}: --matte rembg needs rembg, which is not installed; run: pip install "rembg[cpu]", or {way}'
            )
        extra = "" if installed else ' (or pip install "rembg[cpu]", which cuts objects out of any background)'
        raise UserError(f"{name}: it has no alpha and its background is not uniform; {way}{extra}")
    return _rembg([picture.pixels for picture in pictures], name), "it has no alpha; the object was cut out by rembg"


def _has_rembg() -> bool:
    return importlib.util.find_spec("rembg") is not None


def _rembg(frames: Sequence[np.ndarray], name: Path | str) -> list[np.ndarray]:
    import rembg  # type: ignore[import-not-found]
    from PIL import Image

    cut = []
    try:
        session = rembg.new_session()
        for pixels in frames:
            picture = Image.fromarray((pixels[..., :3] * 255.0 + 0.5).astype(np.uint8))
            straight = np.asarray(rembg.remove(picture, session=session).convert("RGBA")).astype(np.float32) / 255.0
            cut.append(np.concatenate([pixels[..., :3] * straight[..., 3:], straight[..., 3:]], axis=-1))
    except Exception as error:
        # Its network is downloaded at first use, and anything may go wrong in there.
        raise UserError(
            f"{name}: rembg could not cut the object out ({error}); its model is downloaded at first use: check the"
            " network, or give --mask FILE"
        ) from None
    return cut
