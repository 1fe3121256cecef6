"""How an exported page looks beside our rasterizer, in a headless chromium: PSNR in dB where something is drawn.

    python scripts/bench/player_psnr.py RUN scene.html

RUN is what the page was exported from. Needs chromium and playwright.
"""

from __future__ import annotations

import base64
import shutil
import sys
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from gaussian4d.cli.opened import open_model
from gaussian4d.rendering import render

FLAGS = "--headless=new --no-sandbox --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader"
VIEWS = ((0, 0.0), (1, 0.13), (3, 0.37), (5, 0.62), (8, 0.9), (2, 1.0))


def main(run: Path, page_file: Path) -> None:
    """Prints one line per view, a recorded camera and a clip time."""
    opened = open_model(run)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS.split())
        page = browser.new_page()
        page.goto(page_file.resolve().as_uri())
        page.evaluate("g4d.ready")
        for index, time in VIEWS:
            camera = opened.cameras[index % len(opened.cameras)]
            matrices = [camera.viewmat.reshape(-1).tolist(), camera.K.reshape(-1).tolist()]
            size = [camera.width, camera.height]
            page.evaluate("([v, K, w, h]) => g4d.setCamera(v, K, w, h)", [*matrices, *size])
            page.evaluate("time => g4d.setTime(time)", time)
            data = base64.b64decode(page.evaluate("g4d.pixels()")["rgb"])
            shown = np.frombuffer(data, np.uint8).reshape(camera.height, camera.width, 3) / 255.0
            expected = render(opened.model, camera, time, ("rgb", "alpha"), background=opened.background)
            assert expected.rgb is not None and expected.alpha is not None
            inside = expected.alpha[..., 0].numpy() >= 1.0 / 255.0
            error = (shown - expected.rgb.clamp(0, 1).numpy())[inside]
            print(f"camera {camera.id:8} time {time:.2f}  {-10 * np.log10(np.mean(error**2)):.1f} dB")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
