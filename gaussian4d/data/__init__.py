"""Reading scenes from disk: one module per format, one path from file to uint8 frame.

Start with `recognise.py` (which reader takes a folder), then `records.py` (what every reader returns), `assemble.py`
(records become the frames of a `Scene`) and `frames.py` (the bounded cache the frames are served from). The names here
are what a reader of your own needs.
"""

from __future__ import annotations

from .problems import ProblemList
from .records import FrameRecord, ImagePicture, Lens, PointCloud, SceneRecord, VideoPicture

__all__ = [
    "FrameRecord",
    "ImagePicture",
    "Lens",
    "PointCloud",
    "ProblemList",
    "SceneRecord",
    "VideoPicture",
]
