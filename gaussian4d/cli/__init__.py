"""The program `gaussian4d`. Start with `app.py`; each command is a dataclass in a file of its name."""

from __future__ import annotations

from .app import main

__all__ = ["main"]
