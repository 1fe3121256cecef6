"""How quickly an exported page answers to the mouse while it plays and sorts, in a headless chromium without a GPU.

    python scripts/bench/player_input.py scene.html [SECONDS]

Needs chromium and playwright. Prints, in milliseconds, the time from an input event to its handling in the page and
what one sort took in the worker, and how many pictures were drawn a second. WebGL runs on the processor here.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

FLAGS = "--headless=new --no-sandbox --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader"


def main(path: Path, seconds: float) -> None:
    """Drags the mouse to and fro for `seconds` while the page plays."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS.split())
        page = browser.new_page(viewport={"width": 960, "height": 540})
        begun = time.monotonic()
        page.goto(path.resolve().as_uri())
        page.evaluate("g4d.ready")
        print(f"loaded      {time.monotonic() - begun:.1f} s")
        page.mouse.move(480, 270)
        page.mouse.down()
        sorts: list[float] = []
        drawn, began = page.evaluate("g4d.state().drawn"), time.monotonic()
        while time.monotonic() - began < seconds:
            page.mouse.move(480 + 200 * np.sin(3 * time.monotonic()), 270 + 20 * np.cos(3 * time.monotonic()))
            sorts.append(page.evaluate("g4d.state().sortMilliseconds"))
        state, elapsed = page.evaluate("g4d.state()"), time.monotonic() - began
        assert state["playing"], "the page must play while its answers are timed"
        for name, values in (("input", state["inputDelays"]), ("sort", sorts)):
            middle, late = np.percentile(values, [50, 95])
            print(
                f"{name:11} {len(values)}: median {middle:.1f}, 95th percentile {late:.1f}, most {max(values):.1f} ms"
            )
        print(f"pictures    {(state['drawn'] - drawn) / elapsed:.1f} a second")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 8.0)
