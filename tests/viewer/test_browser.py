"""The viewer in a real, headless chromium: connects, shows our picture, plays, looks through a camera."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium_launcher
from PIL import Image
from viewer_helpers import coloured_blobs, ring

pytestmark = pytest.mark.browser


def test_the_viewer_in_chromium(tmp_path: Path) -> None:
    pytest.importorskip("viser")
    from viewer.server import ViewerServer

    cameras = ring()
    server = ViewerServer(coloured_blobs(), cameras, port=8391, background=(0.2, 0.2, 0.2))
    try:
        with chromium_launcher() as launch:
            page = launch().new_page(viewport={"width": 900, "height": 640})
            page.goto(server.url)

            def wait(condition, seconds: int = 60) -> bool:
                for _ in range(seconds * 10):
                    if condition():
                        return True
                    page.wait_for_timeout(100)
                return False

            def pixels() -> np.ndarray:
                # The picture lies left of the controls.
                shot = page.screenshot(clip={"x": 0, "y": 200, "width": 560, "height": 400})
                return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)

            assert wait(lambda: server.sessions)
            session = server.sessions[0]
            page.get_by_role("checkbox", name="show", exact=True).click()
            session.jump(cameras[0])
            # Camera 0 stands on +x: red is in the middle, green to the right, blue hides behind red.
            assert wait(lambda: "Gaussians" in session.picture.stats.content)

            def share(channel: int) -> float:
                shot = pixels()
                others = [c for c in range(3) if c != channel]
                return float(((shot[..., channel] > 150) & (shot[..., others] < 110).all(axis=-1)).mean())

            assert wait(lambda: share(0) > 0.005), "red must be seen from +x"
            assert share(2) < 0.001
            session.jump(cameras[3])
            assert wait(lambda: share(2) > 0.005 and share(0) < 0.001), "blue must be seen from -x, and no red"
            page.screenshot(path=str(tmp_path / "viewer.png"))

            page.get_by_role("button", name="Play").click()
            assert wait(lambda: session.playback.playing and 0 < session.timeline.slider.value < 1)
            page.get_by_role("button", name="Pause").click()
            assert wait(lambda: not session.playback.playing)
            page.close()
            assert wait_closed(server)
    finally:
        server.stop()


def wait_closed(server) -> bool:
    from viewer_helpers import wait_until

    return wait_until(lambda: not server.sessions)
