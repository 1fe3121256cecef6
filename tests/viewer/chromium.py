"""A real, headless chromium with WebGL2 in software, for tests with the marker `browser`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

FLAGS = (
    "--headless=new --no-sandbox --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader "
    "--disable-background-networking --disable-component-update --disable-sync --no-first-run --disable-default-apps"
)


@contextlib.contextmanager
def chromium(*more_flags: str) -> Iterator[Any]:
    """Yields playwright's browser. Where there is none the test is skipped; GAUSSIAN4D_REQUIRE_BROWSER=1 fails it."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if program is None or sync_playwright is None:
        reason = "no chromium on this machine" if program is None else "playwright is not installed"
        if os.environ.get("GAUSSIAN4D_REQUIRE_BROWSER") == "1":
            pytest.fail(f"GAUSSIAN4D_REQUIRE_BROWSER=1, but {reason}")
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*FLAGS.split(), *more_flags])
        try:
            yield browser
        finally:
            browser.close()
