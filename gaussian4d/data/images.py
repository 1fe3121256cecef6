"""Still pictures: headers, uint8 pixels, masks."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError

# Endings tried, in this order, for names without one (D-NeRF) and taken for pictures in folders.
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

# Within this many bytes of a file's end its end marker is looked for; programs append little notes.
_TAIL = 4096

_WITH_ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}
# What EXIF's orientations ask for.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """What an image file says before its pixels are decoded."""

    width: int
    """As stored."""
    height: int
    alpha: bool
    orientation: int = 1
    """EXIF's: 1 stands upright as stored, 2 to 8 are mirrored or turned; 5 to 8 swap width and height."""

    @property
    def upright(self) -> ImageHeader:
        """The header of the picture turned as its orientation says."""
        swap = self.orientation >= 5
        width, height = (self.height, self.width) if swap else (self.width, self.height)
        return ImageHeader(width, height, self.alpha)

    def turned(self, orientation: int) -> tuple[int, int]:
        """Returns (width, height) once the picture is turned as an orientation says; 1 leaves it as stored."""
        return (self.height, self.width) if orientation >= 5 else (self.width, self.height)


def read_header(path: Path) -> ImageHeader:
    """Returns the header of an image file; raises `UserError` naming the file when it is missing or no image.

    Readers and the checks behind them ask for the same ones: a file that has not changed meanwhile is read once.
    """
    try:
        status = path.stat()
    except OSError:
        return _header(path, 0)
    return _header(path, status.st_ctime_ns)


@functools.lru_cache(maxsize=1 << 16)
def _header(path: Path, changed: int) -> ImageHeader:
    with _open(path) as image:
        alpha = image.mode in _WITH_ALPHA or "transparency" in image.info
        return ImageHeader(image.width, image.height, alpha, _orientation(image))


def header_for(path: Path, stated: tuple[int, int] | None) -> ImageHeader:
    """Returns the header of the picture that a calibration means: as it is stored, or turned upright.

    Viewers, OpenCV and most exporters show the upright picture, COLMAP and Pillow the stored one. What has the stated
    (width, height), or its shape, is meant; the upright one where none is stated.
    """
    header = read_header(path)
    if header.orientation == 1 or stated == (header.width, header.height):
        return header
    upright = header.upright
    return upright if stated is None or _nearer(stated, upright, header) else header


def _nearer(size: tuple[int, int], a: ImageHeader, b: ImageHeader) -> bool:
    """Returns whether a size is nearer to the shape of `a` than to that of `b`."""
    return abs(size[0] * a.height - size[1] * a.width) < abs(size[0] * b.height - size[1] * b.width)


def _orientation(image: Image.Image) -> int:
    # Asking a PNG without the tag would decode it.
    if image.format in ("JPEG", "MPO", "TIFF", "WEBP") or "exif" in image.info:
        try:
            value = image.getexif().get(0x0112, 1)
        except (OSError, SyntaxError, ValueError, KeyError, TypeError):
            return 1
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def read_image(path: Path, *, alpha: bool, orientation: int = 1) -> np.ndarray:
    """Returns the pixels uint8 [H, W, 4] with `alpha`, else [H, W, 3], turned as EXIF's `orientation` says.

    The file's own orientation is not looked at. Raises `UserError` naming the file when it is missing, truncated or no
    image.
    """
    with _open(path) as image:
        _decode(image, path)
        image = _turned(image, orientation)
        if image.mode in _WIDE:
            gray = _eight_bits(image)
            return np.stack([gray] * 3 + [np.full_like(gray, 255)] * alpha, axis=-1)
        return np.array(image.convert("RGBA" if alpha else "RGB"))


def read_mask(path: Path, *, orientation: int = 1) -> np.ndarray:
    """Returns a mask uint8 [H, W], 255 wherever the file is not black (or not transparent), else 0.

    It is turned as EXIF's `orientation` says; the file's own is not looked at.
    """
    with _open(path) as image:
        _decode(image, path)
        image = _turned(image, orientation)
        if image.mode in _WITH_ALPHA:
            values = np.asarray(image.convert("RGBA"))[..., 3]
            if values.min() == 255:
                values = np.asarray(image.convert("RGB")).max(axis=-1)
        elif image.mode in ("1", "L", "P", *_WIDE):
            # A palette's indices are the labels; 0 is the background whatever its colour.
            values = np.asarray(image)
        else:
            values = np.asarray(image.convert("RGB")).max(axis=-1)
        return np.where(values > 0, np.uint8(255), np.uint8(0))


def check_end(path: Path) -> None:
    """Raises `UserError` when a PNG or JPEG file lacks its end marker: the copy was cut. Pixels are not decoded."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(max(path.stat().st_size - _TAIL, 0))
            tail = file.read()
    except OSError:
        # Missing files are the readers' business.
        return
    if head.startswith(b"\x89PNG"):
        whole = b"IEND" in tail
    elif head.startswith(b"\xff\xd8"):
        # Phones append a short video to a picture.
        whole = b"\xff\xd9" in tail or b"ftyp" in path.read_bytes()
    else:
        return
    if not whole:
        raise UserError(f"{path}: the image is damaged (it ends early); restore it from its source")


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise UserError(f"{path}: expected an image, found no file; restore it or remove it from the scene") from None
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: expected an image, cannot read it ({error}); restore it from its source") from None


def _decode(image: Image.Image, path: Path) -> None:
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: the image is damaged ({error}); restore it from its source") from None


def _eight_bits(image: Image.Image) -> np.ndarray:
    """Returns uint8 [H, W] from a picture of 16 bits or floats: 65535, or 1.0, becomes 255."""
    values = np.asarray(image).astype(np.float64)
    full = 1.0 if image.mode == "F" else 65535.0
    return np.round(np.clip(values / full, 0.0, 1.0) * 255.0).astype(np.uint8)
