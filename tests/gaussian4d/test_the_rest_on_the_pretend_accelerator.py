"""Everything else on the pretend accelerator, in a process of its own."""

from __future__ import annotations

import pytest
from pretend_process import files_of, passed


@pytest.mark.usefixtures("cpu_backend")
def test_the_rest_on_the_pretend_accelerator() -> None:
    of_fits = ("test_fit_on_device", "test_team_on_device")
    files = [path for path in files_of("gaussian4d/device") if path.stem not in of_fits]
    assert passed([*files, *files_of("generators")]) > 60
