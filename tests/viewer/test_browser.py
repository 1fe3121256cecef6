"""The viewer in a real, headless chromium: what it shows is our rendering, and its controls do what they say."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chromium import chromium_launcher
from PIL import Image
from viewer_helpers import coloured_blobs, ring, wait_until

from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import FreeTime
from gaussian4d.rendering import render

pytestmark = pytest.mark.browser

SIZE = {"width": 900, "height": 640}


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., Any]]:
    pytest.importorskip("viser")
    with chromium_launcher() as launcher:
        yield launcher


def moving_blobs() -> DynamicGaussians:
    """The coloured blobs, passing upwards by a whole unit in the course of the clip."""
    still = coloured_blobs()
    columns = {
        "velocities": torch.tensor([[0.0, 0.0, 1.0]]).repeat(4, 1),
        "times": torch.full((4,), 0.5),
        "durations": torch.full((4,), 6.0),
    }
    return DynamicGaussians({**still.params, **columns}, FreeTime(), times=np.linspace(0, 1, 5), fps=2.0)


def served(model: DynamicGaussians, port: int, workspace: Any = None):
    from viewer.server import ViewerServer

    return ViewerServer(model, ring(), port=port, background=(0.2, 0.2, 0.2), workspace=workspace)


def opened(launch: Callable[..., Any], server: Any, complaints: list[str] | None = None) -> tuple[Any, Any]:
    """Returns a page that shows the server, and its session, once the first picture is there."""
    page = launch().new_page(viewport=SIZE)
    if complaints is not None:
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
    known = set(map(id, server.sessions))
    # viser lets a slow browser draw fewer pixels than its window has; the comparison is at one picture pixel for each.
    page.goto(f"{server.url}?fixedDpr=1")
    assert wait(page, lambda: any(id(session) not in known for session in server.sessions))
    session = next(session for session in server.sessions if id(session) not in known)
    assert wait(page, lambda: "Gaussians" in session.picture.stats.content)
    return page, session


def wait(page: Any, condition: Callable[[], object], seconds: int = 90) -> bool:
    """Returns True once `condition` holds, letting the browser work; False after `seconds`."""
    for _ in range(seconds * 10):
        if condition():
            return True
        page.wait_for_timeout(100)
    return False


def rested(page: Any, session: Any) -> bool:
    """Waits for the full picture of the present time and view, and for the browser to have painted it."""

    def full() -> bool:
        view = session.view()
        drawn = session.picture.last
        return drawn is not None and drawn.scale == 1.0 and drawn.view == view

    found = wait(page, full)
    page.wait_for_timeout(1500)
    return found


def shot(page: Any) -> np.ndarray:
    """Returns the part of the page left of the controls and below the notices, floats [H, W, 3] in 0..255."""
    data = page.screenshot(clip={"x": 0, "y": 200, "width": 560, "height": 400})
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)


def likeness(page: Any, session: Any, model: DynamicGaussians) -> float:
    """Returns the PSNR in dB, inside the alpha, of the page against `render` at the page's time and view."""
    view = session.view()
    camera = session.painter.camera(view, 1.0)
    output = render(model, camera, view.time, ("rgb", "alpha"), background=(0.2, 0.2, 0.2))
    inside = output.alpha[200:600, :560, 0].numpy() > 0.5
    assert inside.sum() > 500
    error = shot(page) / 255.0 - output.rgb[200:600, :560].clamp(0, 1).numpy()
    return -10.0 * math.log10(float((error[inside] ** 2).mean()))


def test_scrubbing_shows_our_rendering_of_that_instant(launch: Callable[..., Any], tmp_path: Path) -> None:
    model, complaints = moving_blobs(), []
    server = served(model, 8391)
    try:
        page, session = opened(launch, server, complaints)
        page.get_by_role("checkbox", name="show", exact=True).click()
        session.jump(ring()[0])
        pictures = []
        for time in ("0.1", "0.85"):
            box = page.get_by_role("textbox").first
            box.fill(time)
            box.press("Enter")
            assert wait(page, lambda time=time: session.playback.now() == float(time))
            assert rested(page, session)
            assert likeness(page, session, model) >= 35.0
            pictures.append(shot(page))
        assert np.abs(pictures[0] - pictures[1]).max() > 100
        # From -x the blue blob hides the red one.
        session.jump(ring()[3])
        assert rested(page, session) and likeness(page, session, model) >= 35.0
        page.screenshot(path=str(tmp_path / "viewer.png"))
        assert complaints == []
        page.close()
        assert wait_until(lambda: not server.sessions)
    finally:
        server.stop()


def test_keys_play_and_every_browser_has_its_own_time(launch: Callable[..., Any]) -> None:
    server = served(moving_blobs(), 8401)
    try:
        (one, first), (two, second) = (opened(launch, server) for _ in range(2))
        one.get_by_role("button", name="Play").click()
        assert wait(one, lambda: first.playback.playing and 0 < first.timeline.slider.value < 1)
        assert second.playback.now() == 0.0 and not second.playback.playing
        two.keyboard.press("Shift+ArrowRight")
        assert wait(two, lambda: second.playback.now() == 0.25)
        two.keyboard.press("End")
        assert wait(two, lambda: second.playback.now() == 1.0)
        one.get_by_role("button", name="Pause").click()
        assert wait(one, lambda: not first.playback.playing)
        one.keyboard.press("Space")
        assert wait(one, lambda: first.playback.playing)
        assert second.playback.now() == 1.0
        one.close()
        assert wait_until(lambda: len(server.sessions) == 1)
    finally:
        server.stop()


def test_a_path_is_drawn_saved_loaded_and_rendered(launch: Callable[..., Any], tmp_path: Path) -> None:
    from gaussian4d.paths import load_path
    from viewer.workspace import Workspace

    server = served(moving_blobs(), 8411, Workspace(tmp_path, tmp_path))
    try:
        page, session = opened(launch, server)
        page.get_by_text("Camera path").click()
        for index, time in ((0, 0.0), (2, 1.0)):
            session.jump(ring()[index])
            session.timeline.go(time)
            assert rested(page, session)
            page.get_by_role("button", name="Add keyframe").click()
            assert wait(page, lambda index=index: len(session.path.keyframes) == 1 + index // 2)
        session.path.seconds.value, session.path.fps.value = 1.0, 4
        session.path.width.value, session.path.height.value = 64, 48
        page.get_by_role("button", name="save", exact=True).click()
        file = tmp_path / "paths" / "path.json"
        assert wait(page, file.exists)
        page.get_by_role("button", name="clear").click()
        assert wait(page, lambda: not session.path.keyframes)
        page.get_by_role("button", name="load", exact=True).click()
        assert wait(page, lambda: len(session.path.keyframes) == 2)
        cameras = load_path(file)
        assert len(cameras) == 4 and np.allclose(cameras[-1][0].position, ring()[2].position, atol=1e-3)
        page.get_by_role("button", name="Render film").click()
        assert wait(page, (tmp_path / "renders" / "path.mp4").exists)
        assert wait(page, lambda: "wrote" in session.path.film.status.content)
    finally:
        server.stop()


def test_live_training_updates_pauses_and_stops(launch: Callable[..., Any], tmp_path: Path) -> None:
    from gaussian4d.fitting import fit
    from gaussian4d.scene import load_scene
    from gaussian4d.toys import write_scene
    from viewer.live import LiveFit

    write_scene(tmp_path / "toy", 0, 4, 1, 3, width=24, height=24, samples=1, threads=1)
    scene, hook, results, steps = load_scene(tmp_path / "toy"), LiveFit(port=8421), [], []

    def run() -> None:
        count = lambda trainer, event: steps.append(trainer.step)  # noqa: E731
        results.append(fit(scene, out=tmp_path / "run", max_steps=10**6, callbacks=[hook, count]))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert wait_until(lambda: hook.server is not None, 60)
        page, session = opened(launch, hook.server)
        before = session.painter.model
        assert wait(page, lambda: session.painter.model is not before)
        assert page.get_by_text("step").first.is_visible()
        page.get_by_role("button", name="Pause", exact=True).click()
        assert wait(page, lambda: hook.status.content == "paused")
        paused = steps[-1]
        page.wait_for_timeout(1500)
        assert steps[-1] == paused
        page.get_by_role("button", name="Go on").click()
        assert wait(page, lambda: steps[-1] > paused)
        page.get_by_role("button", name="Stop and save").click()
        assert wait(page, lambda: bool(results))
        assert results[0].interrupted and (tmp_path / "run" / "model.g4d").exists()
    finally:
        hook.stopping = True
        thread.join(60)
        hook.close()
