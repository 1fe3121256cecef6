"""PlayCanvas' `.sog`, version 2: a zip of lossless WebP pictures, one pixel per Gaussian, and `meta.json`.

Version 1 is read as well: it has bounds in place of the codebooks, and the opacity's logit in the alpha of `sh0`.

`means_l` and `means_u` hold the low and high bytes of positions, 16 bits between the bounds of sign(x) ln(|x| + 1);
`quats` the smallest three and, as 252 + index, which of w x y z is left out; `scales` and `sh0` bytes that index a
codebook of 256 values, `sh0` with the opacity as alpha; `shN_labels` a 16-bit index into the palette `shN_centroids`,
64 entries per row of pixels, whose bytes index a codebook again.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from ..files import atomic_write, inside
from .codebook import scalar_codebook, vector_palette
from .packed import broken, from_smallest_three, morton_order, smallest_three, to_unorm
from .splats import REST_COUNTS, Splats, check_splats, degree_of, limit_degree, logit, only_gaussians, sigmoid

_PALETTE_ROW = 64
_LARGEST_PALETTE = 1 << 16
_MAX_META_BYTES = 1 << 20
# A tiny WebP can claim the largest picture there is. No real one holds more pixels per byte than this.
_MOST_PIXELS_PER_BYTE = 4096
_NO_ROTATION_TAG = 252


def write_sog(
    path: str | os.PathLike[str], gaussians: Splats, *, palette: int = 4096, antialiased: bool = False
) -> None:
    """Writes a `.sog`, atomically; Gaussians are reordered, spherical harmonics beyond degree 3 are left out.

    Args:
        path: the file.
        gaussians: Splats.
        palette: Entries of the palette of coefficients, at most 65,536; more look better and take longer.
        antialiased: Whether they were fitted with antialiasing.
    """
    if not 1 <= palette <= _LARGEST_PALETTE:
        raise UserError(f"the palette of a .sog must have 1 to {_LARGEST_PALETTE} entries, got {palette}")
    splats = limit_degree(check_splats(gaussians), 3)
    order = morton_order(splats["means"])
    splats = {name: value[order] for name, value in splats.items()}
    count = len(order)
    if count == 0:
        raise UserError("a .sog needs at least one Gaussian, got none; choose an instant with visible Gaussians")
    width = 4 * math.ceil(math.sqrt(count) / 4)
    height = 4 * math.ceil(count / width / 4)
    files: dict[str, bytes] = {}

    def add(name: str, *channels: np.ndarray | np.generic, size: tuple[int, int] = (width, height)) -> list[str]:
        files[name] = _webp(np.stack(np.broadcast_arrays(*channels), axis=-1), size)
        return [name]

    logs = np.sign(splats["means"]) * np.log1p(np.abs(splats["means"].astype(np.float64)))
    low, high = logs.min(axis=0), logs.max(axis=0)
    fixed = to_unorm((logs - low) / np.maximum(high - low, 1e-12), 16)
    means = add("means_l.webp", *(fixed & 255).T, np.uint8(255)) + add("means_u.webp", *(fixed >> 8).T, np.uint8(255))
    largest, others = smallest_three(splats["quats"])
    quats = add("quats.webp", *to_unorm(others * np.sqrt(0.5) + 0.5, 8).T, largest + _NO_ROTATION_TAG)
    scale_book, scale_index = scalar_codebook(splats["scales"])
    color_book, color_index = scalar_codebook(splats["sh0"][:, 0])
    opacity = to_unorm(sigmoid(splats["opacities"]), 8)
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "gaussian4d"},
        "count": count,
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": means},
        "scales": {"codebook": scale_book.tolist(), "files": add("scales.webp", *scale_index.T, np.uint8(255))},
        "quats": {"files": quats},
        "sh0": {"codebook": color_book.tolist(), "files": add("sh0.webp", *color_index.T, opacity)},
    }
    if antialiased:
        meta["antialias"] = True
    degree = degree_of(splats)
    if degree:
        rest = REST_COUNTS[degree]
        entries, label = vector_palette(splats["shN"].reshape(count, 3 * rest), palette)
        book, index = scalar_codebook(entries)
        rows = math.ceil(len(entries) / _PALETTE_ROW)
        names = add("shN_centroids.webp", *index.reshape(-1, 3).T, np.uint8(255), size=(_PALETTE_ROW * rest, rows))
        names += add("shN_labels.webp", label & 255, label >> 8, np.uint8(0), np.uint8(255))
        meta["shN"] = {"count": len(entries), "bands": degree, "codebook": book.tolist(), "files": names}
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, data in {**files, "meta.json": json.dumps(meta).encode()}.items():
            # No date, so that the same Gaussians give the same bytes.
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), data)


def read_sog(path: str | os.PathLike[str]) -> Splats:
    """Returns the Gaussians of a `.sog`, or of a `meta.json` whose pictures lie beside it.

    Raises `UserError` when it is missing, damaged or of another version.
    """
    source = Path(path)
    try:
        if source.name.lower() == META:
            return _Reader(source, _Loose(source.parent)).read()
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
            if not any(name.rpartition("/")[2] == META for name in names):
                listed = ", ".join(name[:40] for name in names[:3]) + (", ..." if len(names) > 3 else "")
                raise UserError(
                    f"{source} is a zip of {len(names)} files ({listed}) without the {META} of a .sog; where it holds"
                    " other files of Gaussians, or frames of a clip, unpack it and give the file or the folder"
                )
            return _Reader(source, _Bundle(archive)).read()
    except FileNotFoundError:
        raise UserError(f"expected the file {source}, found none; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{source} is a folder; expected a .sog file") from None
    except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError, RuntimeError) as error:
        raise broken(source, ".sog", f"not a readable zip file ({error})") from None
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, OSError, struct.error) as error:
        raise broken(source, ".sog", f"its meta.json or an image has the wrong layout ({error})") from None


def states_antialiasing(path: str | os.PathLike[str]) -> bool:
    """Returns whether the `meta.json` of a `.sog` that can be read says that it was fitted with antialiasing."""
    source = Path(path)
    if source.name.lower() == META:
        return _Reader(source, _Loose(source.parent)).meta.get("antialias") is True
    with zipfile.ZipFile(source) as archive:
        return _Reader(source, _Bundle(archive)).meta.get("antialias") is True


META = "meta.json"


def is_meta(path: Path) -> bool:
    """Returns whether a file is the `meta.json` of Gaussians that were not bundled into a `.sog`."""
    if path.name.lower() != META or not path.is_file() or path.stat().st_size > _MAX_META_BYTES:
        return False
    try:
        meta = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError):
        return False
    return isinstance(meta, dict) and {"means", "quats", "scales", "sh0"} <= meta.keys()


class _Bundle:
    """The entries of a zip, which may all lie in one folder of it."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        places = [name for name in archive.namelist() if name.endswith("/" + META) and not name.startswith("__MACOSX")]
        self._folder = "" if META in archive.namelist() or len(places) != 1 else places[0].removesuffix(META)

    def read(self, name: str, limit: int) -> bytes:
        """Returns an entry; raises `KeyError` when there is none, `ValueError` when it claims too much."""
        info = self._archive.getinfo(self._folder + name)
        if info.file_size > limit or info.file_size > 1100 * max(info.compress_size, 1):
            raise ValueError(f"{name} claims {info.file_size} bytes")
        with self._archive.open(info) as entry:
            return entry.read(info.file_size)


class _Loose:
    """The files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str, limit: int) -> bytes:
        """Returns a file; raises `KeyError` when there is none, `ValueError` when it is too large."""
        path = inside(self._folder, name)
        if not path.is_file():
            raise KeyError(name)
        if path.stat().st_size > limit:
            raise ValueError(f"{name} has {path.stat().st_size} bytes")
        return path.read_bytes()


class _Reader:
    """An open `.sog`: its pictures by name, decoded once their sizes are known to be possible."""

    def __init__(self, source: Path, files: _Bundle | _Loose) -> None:
        self.source, self.files = source, files
        try:
            self.meta = json.loads(self._entry("meta.json", _MAX_META_BYTES))
        except (ValueError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise broken(source, ".sog", f"meta.json is not valid JSON ({error})") from None
        if not isinstance(self.meta, dict):
            raise broken(source, ".sog", "meta.json is not an object")
        version = self.meta.get("version", 1)
        if version not in (1, 2):
            raise UserError(f"{source} is a .sog of version {version}; versions 1 and 2 are read; convert it again")
        # The first version has bounds where the second has codebooks, and says how many there are as a shape.
        self.count = self.meta["count"] if version == 2 else self.meta["means"]["shape"][0]
        if not isinstance(self.count, int) or not 0 < self.count < 1 << 31:
            raise broken(source, ".sog", f"it promises {self.count!r} Gaussians")

    def read(self) -> Splats:
        meta = self.meta
        low_name, high_name = meta["means"]["files"]
        # Decoded first: it is what shows that the promised number of Gaussians is there.
        fixed = self._pixels(low_name)[:, :3].astype(np.float64)
        fixed += self._pixels(high_name)[:, :3].astype(np.float64) * 256.0
        low = np.array(meta["means"]["mins"], np.float64).reshape(3)
        high = np.array(meta["means"]["maxs"], np.float64).reshape(3)
        logs = low + fixed / 65535.0 * (high - low)
        with np.errstate(over="ignore", invalid="ignore"):
            means = (np.sign(logs) * np.expm1(np.abs(logs))).astype(np.float32)
        quats = self._pixels(meta["quats"]["files"][0])
        tag = np.clip(quats[:, 3].astype(np.int64) - _NO_ROTATION_TAG, 0, 3)
        sh0 = self._pixels(meta["sh0"]["files"][0])
        scales = self._pixels(meta["scales"]["files"][0])[:, :3]
        second = "codebook" in meta["sh0"]
        colors = self._book(meta["sh0"])[sh0[:, :3]] if second else self._within(meta["sh0"], sh0)
        splats = {
            "means": means,
            "quats": from_smallest_three(tag, (quats[:, :3] / 255.0 * 2.0 - 1.0) * np.sqrt(0.5)),
            "scales": self._book(meta["scales"])[scales] if second else self._within(meta["scales"], scales),
            "opacities": logit(sh0[:, 3] / np.float32(255.0)) if second else colors[:, 3],
            "sh0": np.ascontiguousarray(colors[:, None, :3]),
            "shN": self._coefficients(meta.get("shN")),
        }
        return only_gaussians(self.source, splats)

    def _coefficients(self, meta: dict[str, Any] | None) -> np.ndarray:
        if meta is None:
            return np.zeros((self.count, 0, 3), np.float32)
        second = "codebook" in meta
        palette = self._picture(meta["files"][0])
        if second:
            bands, entries = meta["bands"], meta["count"]
        else:
            width = meta["shape"][1]
            bands = REST_COUNTS.index(width // 3) if width in [3 * count for count in REST_COUNTS] else None
            entries = min(palette.shape[0] * _PALETTE_ROW, _LARGEST_PALETTE)
        if bands not in (1, 2, 3) or not isinstance(entries, int) or not 0 < entries <= _LARGEST_PALETTE:
            raise broken(self.source, ".sog", f"it names {bands!r} bands and {entries!r} entries of coefficients")
        rest = REST_COUNTS[bands]
        if palette.shape[1] != _PALETTE_ROW * rest or palette.shape[0] * _PALETTE_ROW < entries:
            raise broken(self.source, ".sog", f"the palette's picture is {palette.shape[1]}x{palette.shape[0]}")
        label = self._pixels(meta["files"][1]).astype(np.int64)
        label = label[:, 0] | (label[:, 1] << 8)
        if label.max() >= entries:
            raise broken(self.source, ".sog", f"a Gaussian has palette entry {label.max()} of {entries}")
        table = palette.reshape(palette.shape[0] * _PALETTE_ROW, rest, 4)[:, :, :3]
        return self._book(meta)[table][label] if second else self._within(meta, table[label])

    def _within(self, meta: dict[str, Any], pixels: np.ndarray) -> np.ndarray:
        """Returns values [..., C] from bytes between the bounds, one for each channel or one for all of them."""
        low, high = (np.asarray(meta[name], np.float64).reshape(-1) for name in ("mins", "maxs"))
        if len(low) not in (1, pixels.shape[-1]) or len(low) != len(high):
            raise broken(
                self.source, ".sog", f"it has {len(low)} and {len(high)} bounds for {pixels.shape[-1]} channels"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            return (low + pixels / 255.0 * (high - low)).astype(np.float32)

    def _book(self, meta: dict[str, Any]) -> np.ndarray:
        book = np.asarray(meta["codebook"], np.float32)
        if book.shape != (256,):
            raise broken(self.source, ".sog", f"a codebook has the shape {book.shape}, expected 256 numbers")
        return book

    def _pixels(self, name: str) -> np.ndarray:
        """Returns the first `count` pixels [count, 4] of a picture."""
        picture = self._picture(name).reshape(-1, 4)
        if len(picture) < self.count:
            raise broken(self.source, ".sog", f"{name} has {len(picture)} pixels for {self.count} Gaussians")
        return picture[: self.count]

    def _picture(self, name: str) -> np.ndarray:
        """Returns a picture as uint8 [H, W, 4]."""
        data = self._entry(name, 1 << 31)
        with warnings.catch_warnings():
            # Pillow warns of large pictures; what is too large is decided here.
            warnings.simplefilter("ignore")
            try:
                with Image.open(io.BytesIO(data), formats=["WEBP"]) as picture:
                    if picture.width * picture.height > _MOST_PIXELS_PER_BYTE * len(data):
                        raise broken(self.source, ".sog", f"{name} claims {picture.width}x{picture.height} pixels")
                    return np.asarray(picture.convert("RGBA"))
            except (Image.UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
                raise broken(self.source, ".sog", f"{name} is not a readable WebP image ({error})") from None

    def _entry(self, name: str, limit: int) -> bytes:
        """Returns the bytes of a file of the set, read only up to what it says and never past `limit`."""
        try:
            return self.files.read(str(name), limit)
        except KeyError:
            raise broken(self.source, ".sog", f"it has no {str(name)[:60]!r}") from None
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise broken(self.source, ".sog", str(error)) from None


def _webp(pixels: np.ndarray, size: tuple[int, int]) -> bytes:
    """Returns pixels [N, 4] row by row as a lossless WebP of `size` (width, height); the rest is zero."""
    width, height = size
    canvas = np.zeros((width * height, 4), np.uint8)
    canvas[: len(pixels)] = pixels
    buffer = io.BytesIO()
    # Without `exact` the encoder drops the colour of pixels whose alpha is zero.
    Image.fromarray(canvas.reshape(height, width, 4), "RGBA").save(
        buffer, "WEBP", lossless=True, exact=True, quality=80, method=4
    )
    return buffer.getvalue()
