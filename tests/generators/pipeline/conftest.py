"""Fixtures of the pipeline's tests."""

from __future__ import annotations

from pipeline_fakes import fakes, picture

__all__ = ["fakes", "picture"]
