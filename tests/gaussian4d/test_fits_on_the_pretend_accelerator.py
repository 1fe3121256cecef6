"""Fits on the pretend accelerator, in a process of their own."""

from __future__ import annotations

import pytest
from pretend_process import files_of, passed


@pytest.mark.usefixtures("cpu_backend")
def test_fits_on_the_pretend_accelerator() -> None:
    assert (
        passed(
            [
                path
                for path in files_of("gaussian4d/device")
                if path.stem in ("test_fit_on_device", "test_team_on_device")
            ]
        )
        > 20
    )
