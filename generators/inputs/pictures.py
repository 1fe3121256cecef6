"""Still pictures of any kind as premultiplied RGBA, in bounded memory.

Headers are looked at before pixels. Large JPEG files are decoded at a fraction of their size; other formats cannot be,
so they are decoded whole in their own storage (1 to 4 bytes a pixel) and made smaller strip by strip.
"""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gaussian4d.errors import UserError

MAX_PIXELS = 128_000_000
"""Pictures of more pixels than this are refused; 128 million of them take half a gigabyte while they are decoded."""
MAX_SIDE = 2048
"""Longest side after decoding, in pixels: larger pictures are made smaller by a whole factor."""
MIN_SIDE = 8
"""Pictures smaller than this on a side show no object."""

_STRIP_PIXELS = 4_000_000
_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_WITH_ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}
_ORIENTATION = 0x0112


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture."""

    pixels: Float[np.ndarray, "H W 4"]
    """float32, red, green, blue times alpha, and alpha, 0..1."""
    alpha: bool
    """Whether anything in it is transparent; else the object has to be cut out."""
    notes: tuple[str, ...] = ()
    """What was changed on reading it, one sentence each."""


def count_frames(path: Path) -> int:
    """Returns how many frames a picture file holds: 1, or more for an animated GIF, WebP or PNG."""
    with open_picture(path) as image:
        return int(getattr(image, "n_frames", 1))


def read_picture(path: Path, *, max_side: int = MAX_SIDE) -> Picture:
    """Returns the picture at `path`, upright (EXIF), at most `max_side` pixels on its longest side.

    Raises `UserError` naming the file when it is missing, damaged, no picture, or of a size that is of no use.
    """
    with open_picture(path) as image:
        return decode(image, path, max_side=max_side)


@contextlib.contextmanager
def open_picture(path: Path) -> Iterator[Any]:
    """Yields the opened `PIL.Image` with its header checked; no pixel is decoded yet."""
    from PIL import Image

    with warnings.catch_warnings():
        # Pillow warns from 89 million pixels on; our own limit is checked below and said in words a user understands.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(path)
        except FileNotFoundError:
            raise UserError(f"{path}: expected an image, found no file; check the path") from None
        except IsADirectoryError:
            raise UserError(f"{path}: expected an image, got a folder; give a folder of frames with --video") from None
        except Image.DecompressionBombError:
            raise UserError(f"{path}: more than {_millions(MAX_PIXELS)} pixels; make the picture smaller") from None
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path}: expected an image, cannot read it ({error}); export it again as PNG") from None
        with image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(
                    f"{path}: {width}x{height} is {_millions(width * height)} pixels, more than the"
                    f" {_millions(MAX_PIXELS)} we decode; make the picture smaller"
                )
            if min(width, height) < MIN_SIDE:
                raise UserError(
                    f"{path}: expected an image of at least {MIN_SIDE}x{MIN_SIDE} pixels, got {width}x{height};"
                    " give a larger one"
                )
            yield image


def decode(image: Any, path: Path, *, max_side: int = MAX_SIDE) -> Picture:
    """Returns the current frame of an opened `PIL.Image`; see `read_picture`."""
    notes = []
    width, height = image.size
    if image.format == "JPEG" and max(width, height) > max_side:
        # The decoder itself can leave out detail: an eighth is the least it offers.
        image.draft(
            image.mode, (max(width * max_side // max(width, height), 1), max_side * height // max(width, height))
        )
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        raise UserError(f"{path}: the image is damaged ({error}); restore it from its source") from None
    factor = -(-max(image.size) // max_side)
    columns, rows = image.size
    step = max(_STRIP_PIXELS // columns // factor, 1) * factor
    key = image.info.get("transparency")
    # Pixels of a wide grey picture may be transparent by value, which Pillow's conversion does not know.
    key = key if image.mode in _WIDE and isinstance(key, int) else None
    strips = [
        shrink(_straight(image.crop((0, top, columns, min(top + step, rows))), key), factor)
        for top in range(0, rows, step)
    ]
    pixels = np.concatenate(strips)
    orientation = _orientation(image)
    if orientation != 1:
        pixels = _upright(pixels, orientation)
        notes.append("it is turned upright as its EXIF data says")
    if max(width, height) > max_side:
        notes.append(f"it is {width}x{height}: read at {pixels.shape[1]}x{pixels.shape[0]}")
    transparent = bool(pixels[..., 3].min() < 1.0 - 0.5 / 255.0)
    return Picture(np.ascontiguousarray(pixels), transparent, tuple(notes))


def shrink(straight: Float[np.ndarray, "H W 4"], factor: int) -> Float[np.ndarray, "h w 4"]:
    """Returns straight RGBA float32 premultiplied and averaged over blocks of `factor` pixels; the last are partial."""
    pixels = straight.copy()
    pixels[..., :3] *= pixels[..., 3:]
    if factor == 1:
        return pixels
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor, 4)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def from_bytes(frame: np.ndarray, *, max_side: int) -> Float[np.ndarray, "h w 4"]:
    """Returns a video frame, uint8 [H, W, 3] or straight [H, W, 4], as premultiplied RGBA of bounded size."""
    straight = np.ones((*frame.shape[:2], 4), np.float32)
    straight[..., : frame.shape[2]] = frame
    straight[..., : frame.shape[2]] /= 255.0
    return shrink(straight, -(-max(frame.shape[:2]) // max_side))


def _straight(strip: Any, key: int | None) -> Float[np.ndarray, "h w 4"]:
    """Returns a part of a decoded picture as straight RGBA, float32 0..1."""
    if strip.mode in _WIDE:
        values = np.asarray(strip).astype(np.float32)
        straight = np.ones((*values.shape, 4), np.float32)
        straight[..., :3] = np.clip(values / (1.0 if strip.mode == "F" else 65535.0), 0.0, 1.0)[..., None]
        if key is not None:
            straight[..., 3] = values != key
        return straight
    if strip.mode == "La":
        strip = strip.convert("LA")
    elif strip.mode not in _WITH_ALPHA and strip.mode not in ("1", "L", "P", "RGB"):
        # CMYK, YCbCr, Lab and HSV have no direct way to RGBA.
        strip = strip.convert("RGB")
    return np.asarray(strip.convert("RGBA")).astype(np.float32) / 255.0


def _orientation(image: Any) -> int:
    """Returns the EXIF orientation 1..8; 1, as stored, where it is missing or broken."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns the picture as it was taken; orientations as in the EXIF 2.3 standard, tag 274."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _millions(count: int) -> str:
    return f"{count / 1e6:.0f} million"
