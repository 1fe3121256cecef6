"""A real, headless chromium with WebGL2 in software, for tests with the marker `browser`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

FLAGS = (
    "--headless=new --no-sandbox --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader "
    "--disable-background-networking --disable-component-update --disable-sync --no-first-run --disable-default-apps"
)


@contextlib.contextmanager
def chromium_launcher() -> Iterator[Callable[..., Any]]:
    """Yields a function that starts a browser with more flags; all are closed at the end.

    Where there is no browser the test is skipped; with GAUSSIAN4D_REQUIRE_BROWSER=1 it fails.
    """
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
        started: list[Any] = []

        def launch(*more_flags: str) -> Any:
            started.append(playwright.chromium.launch(executable_path=program, args=[*FLAGS.split(), *more_flags]))
            return started[-1]

        try:
            yield launch
        finally:
            for browser in started:
                browser.close()
