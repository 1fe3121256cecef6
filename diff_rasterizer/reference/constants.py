"""Numbers every backend agrees on; they are gsplat 1.5.3's, so that renders agree with it."""

from __future__ import annotations

ALPHA_THRESHOLD = 1.0 / 255.0
"""Contributions with a smaller alpha are skipped: they would not change an 8-bit image."""

MAX_ALPHA = 0.999
"""Alpha is clamped here, so that one Gaussian never makes the transmittance zero."""

TRANSMITTANCE_STOP = 1e-4
"""A pixel is finished before the Gaussian that would bring its transmittance to this value or below."""

MAX_EXTENT = 3.33
"""Standard deviations after which a Gaussian ends; for opacity 1 the alpha threshold lies at 3.329."""

MAX_RADIUS = float(2**28)
"""Pixel radii are clamped here: exact in float32 and inside int32."""

FOV_MARGIN = 0.3
"""The pinhole Jacobian is evaluated no further outside the image than this part of half its size."""
