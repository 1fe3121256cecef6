"""File formats of Gaussians. Start with `g4d.py`, our own; `ply.py` is what every other program reads."""

from __future__ import annotations

from .g4d import SCHEMA_VERSION, load_g4d, read_manifest, save_g4d
from .ply import read_ply, read_ply_header, write_ply

__all__ = ["SCHEMA_VERSION", "load_g4d", "read_manifest", "read_ply", "read_ply_header", "save_g4d", "write_ply"]
