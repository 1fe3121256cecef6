"""What a user gives becomes pictures of one object: decoded, cut out, recentred.

Start at `load.py`; `pictures` and `videos` decode, `matting` cuts the object out, `recentre` frames it.
"""

from __future__ import annotations

from .load import Subject, load_image, load_video

__all__ = ["Subject", "load_image", "load_video"]
