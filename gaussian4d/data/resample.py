"""From a decoded picture to the served one: undistorted and averaged down in one linear step.

The served picture's grid is exactly the undistorted grid divided by the factor: a border narrower than one output
pixel is cut on the right and at the bottom, so pixels stay square and intrinsics scale by one number.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import scipy.sparse
from PIL import Image

from ..errors import UserError
from .lens import project_distorted, undistorted_lens
from .records import Lens

# 720x480: about VGA, so that full HD is served at 640x360 and a D-NeRF picture of 800x800 at 400x400.
AUTO_PIXELS = 345_600
AUTO_FACTORS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def automatic_factor(width: int, height: int) -> int:
    """Returns the smallest of 1, 2, 3, 4, 6, 8, ... whose picture has at most 345,600 pixels (720x480)."""
    for factor in AUTO_FACTORS:
        if (width // factor) * (height // factor) <= AUTO_PIXELS:
            return factor
    return AUTO_FACTORS[-1]


@dataclasses.dataclass(frozen=True)
class Resampling:
    """How pictures of one lens become served pictures."""

    lens: Lens
    """As the files state it."""
    factor: float
    """Downscale, at least 1."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor >= 1):
            raise UserError(f"downscale must be at least 1, got {self.factor:g}; 2 halves width and height")
        if self.width < 1 or self.height < 1:
            raise UserError(
                f"downscale {self.factor:g} leaves nothing of a {self.lens.width}x{self.lens.height} picture;"
                " use a smaller factor"
            )

    @property
    def width(self) -> int:
        return int(self.lens.width / self.factor + 1e-9)

    @property
    def height(self) -> int:
        return int(self.lens.height / self.factor + 1e-9)

    def pinhole(self) -> Lens:
        """Returns the served pinhole lens."""
        straight = undistorted_lens(self.lens)
        f = self.factor
        return Lens(straight.fx / f, straight.fy / f, straight.cx / f, straight.cy / f, self.width, self.height)

    @property
    def identity(self) -> bool:
        """True when pictures are served as they are."""
        return self.factor == 1 and self.lens.straight

    @property
    def matrix_bytes(self) -> int:
        """Memory that `matrix` takes."""
        return 0 if self.lens.straight else self.width * self.height * (self._subsamples + 1) ** 2 * 8

    @property
    def _reduction(self) -> int:
        """Whole-number reduction that comes before the matrix; at least two samples per output pixel remain."""
        if self.factor != int(self.factor):
            return 1
        divisors = (g for g in range(int(self.factor) // 2, 0, -1) if int(self.factor) % g == 0)
        return next(divisors, 1)

    @property
    def _subsamples(self) -> int:
        """Samples per axis and output pixel."""
        return max(1, round(self.factor / self._reduction))

    def matrix(self) -> scipy.sparse.csr_matrix | None:
        """Returns the sparse matrix [h w, H W] float32 that undistorts and averages, None for a straight lens.

        Each output pixel averages a square of sub-samples, each of them bilinear in the reduced source picture.
        """
        if self.lens.straight:
            return None
        g, s = self._reduction, self._subsamples
        source_w, source_h = self.lens.width // g, self.lens.height // g
        target = self.pinhole()
        x_sub = (np.arange(self.width * s) + 0.5) / s
        y_sub = (np.arange(self.height * s) + 0.5) / s
        count = self.width * self.height
        total: scipy.sparse.csr_matrix | None = None
        rows = np.arange(count, dtype=np.int32)
        for j in range(s):
            for i in range(s):
                x, y = np.meshgrid((x_sub[i::s] - target.cx) / target.fx, (y_sub[j::s] - target.cy) / target.fy)
                uv = project_distorted(self.lens, np.stack([x, y], -1)).reshape(count, 2) / g - 0.5
                u = np.clip(uv[:, 0], 0, source_w - 1)
                v = np.clip(uv[:, 1], 0, source_h - 1)
                u0 = np.minimum(u.astype(np.int32), max(source_w - 2, 0))
                v0 = np.minimum(v.astype(np.int32), max(source_h - 2, 0))
                u1, v1 = np.minimum(u0 + 1, source_w - 1), np.minimum(v0 + 1, source_h - 1)
                fu, fv = (u - u0).astype(np.float32), (v - v0).astype(np.float32)
                weights = np.concatenate([(1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv]) / (s * s)
                row0, row1 = v0 * source_w, v1 * source_w
                columns = np.concatenate([row0 + u0, row0 + u1, row1 + u0, row1 + u1])
                part = scipy.sparse.csr_matrix(
                    (weights.astype(np.float32), (np.tile(rows, 4), columns)), shape=(count, source_w * source_h)
                )
                total = part if total is None else total + part
        assert total is not None
        return total

    def apply(self, picture: np.ndarray, matrix: scipy.sparse.csr_matrix | None) -> np.ndarray:
        """Returns the served picture uint8 [h, w(, C)] of a decoded one uint8 [H, W(, C)]; 4 channels are RGBA.

        Colours are averaged weighted by alpha, so that what hides under transparent pixels does not bleed out.
        """
        if self.identity:
            return picture
        if matrix is None:
            return self._shrink(picture)
        channels = picture.shape[2] if picture.ndim == 3 else 1
        reduced = _box_reduce(picture, self._reduction) if self._reduction > 1 else picture
        flat = reduced.reshape(-1, channels).astype(np.float32)
        if channels == 4:
            flat[:, :3] *= flat[:, 3:] / 255.0
        out = matrix @ flat
        if channels == 4:
            out[:, :3] *= 255.0 / np.maximum(out[:, 3:], 1e-3)
        out = np.clip(out + 0.5, 0, 255).astype(np.uint8)
        return out.reshape((self.height, self.width) + picture.shape[2:])

    def _shrink(self, picture: np.ndarray) -> np.ndarray:
        whole = int(self.factor)
        cut_w, cut_h = self.width * self.factor, self.height * self.factor
        if whole == self.factor:
            return _box_reduce(picture[: self.height * whole, : self.width * whole], whole)
        # Pillow's box filter rounds its edges to whole pixels; its triangle filter weighs them, and averages too.
        image = Image.fromarray(picture)
        box = (0.0, 0.0, min(cut_w, float(image.width)), min(cut_h, float(image.height)))
        return np.array(image.resize((self.width, self.height), Image.Resampling.BILINEAR, box=box))


def _box_reduce(picture: np.ndarray, factor: int) -> np.ndarray:
    """Returns `picture` uint8 averaged over squares of `factor` pixels; a narrower border is cut off."""
    h, w = picture.shape[0] // factor, picture.shape[1] // factor
    # Pillow weighs the colours of RGBA by alpha itself.
    return np.array(Image.fromarray(np.ascontiguousarray(picture[: h * factor, : w * factor])).reduce(factor))
