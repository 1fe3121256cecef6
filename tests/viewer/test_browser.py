"""The viewer in a real, headless chromium: what it shows is our rendering, and its controls do what they say."""

from __future__ import annotations

import io
import itertools
import math
import threading
import time
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


def swarm(count: int = 150) -> DynamicGaussians:
    """Needles and discs in all directions that fly, come and go, and change colour with where they are seen from."""
    dice = torch.Generator().manual_seed(0)
    means = 0.7 * torch.nn.functional.normalize(torch.randn(count, 3, generator=dice), dim=1)
    params = {
        "means": means,
        "quats": torch.randn(count, 4, generator=dice),
        "scales": (0.04 + 0.2 * torch.rand(count, 3, generator=dice)).log(),
        "opacities": 4.0 * torch.rand(count, generator=dice) + 1.0,
        "sh0": 0.7 * torch.randn(count, 1, 3, generator=dice),
        "shN": 0.3 * torch.randn(count, 3, 3, generator=dice),
        "velocities": 0.6 * torch.randn(count, 3, generator=dice),
        "times": torch.rand(count, generator=dice),
        "durations": torch.full((count,), math.log(0.4)),
    }
    return DynamicGaussians(params, FreeTime(), times=np.linspace(0, 1, 5), fps=2.0)


def served(model: DynamicGaussians, port: int, workspace: Any = None):
    from viewer.server import ViewerServer

    return ViewerServer(model, ring(), port=port, background=(0.2, 0.2, 0.2), workspace=workspace)


def opened(
    launch: Callable[..., Any], server: Any, complaints: list[str] | None = None, size: dict[str, int] = SIZE
) -> tuple[Any, Any]:
    """Returns a page that shows the server, and its session, once the first picture is there."""
    page = launch().new_page(viewport=size)
    if complaints is not None:
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
    known = set(map(id, server.sessions))
    # viser lets a slow browser draw fewer pixels than its window has; the comparison is at one picture pixel for each.
    page.goto(f"{server.url}?fixedDpr=1")
    assert wait(page, lambda: any(id(session) not in known for session in server.sessions))
    session = next(session for session in server.sessions if id(session) not in known)
    assert wait(page, lambda: "Gaussians" in session.picture.stats.content)
    # Until the page stands where the window shows the scene best, its own first views undo what a test does.
    assert wait(page, lambda: session._arrived or (session._framed and size["width"] < 900))
    return page, session


def wait(page: Any, condition: Callable[[], object], seconds: int = 90) -> bool:
    """Returns True once `condition` holds, letting the browser work; False after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
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


def shot(page: Any, area: tuple[int, int, int, int] = (0, 200, 560, 600)) -> np.ndarray:
    """Returns the part of the page left of the controls and below the notices, floats [H, W, 3] in 0..255."""
    left, top, right, bottom = area
    data = page.screenshot(clip={"x": left, "y": top, "width": right - left, "height": bottom - top}, timeout=120_000)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)


def likeness(
    page: Any, session: Any, model: DynamicGaussians, area: tuple[int, int, int, int] = (0, 200, 560, 600)
) -> float:
    """Returns the PSNR in dB, inside the alpha, of the page against `render` at the page's time and view."""
    view = session.view()
    camera = session.painter.camera(view, 1.0)
    output = render(model, camera, view.time, ("rgb", "alpha"), background=(0.2, 0.2, 0.2))
    left, top, right, bottom = area
    inside = output.alpha[top:bottom, left:right, 0].numpy() > 0.5
    assert inside.sum() > 500
    error = shot(page, area) / 255.0 - output.rgb[top:bottom, left:right].clamp(0, 1).numpy()
    return -10.0 * math.log10(float((error[inside] ** 2).mean()))


def test_scrubbing_shows_our_rendering_of_that_instant(launch: Callable[..., Any], tmp_path: Path) -> None:
    model, complaints = moving_blobs(), []
    server = served(model, 8391)
    try:
        page, session = opened(launch, server, complaints)
        page.get_by_role("checkbox", name="show", exact=True).click()
        session.jump(ring()[0])
        pictures = []
        for at in ("0.1", "0.85"):
            box = page.get_by_role("textbox").first
            box.fill(at)
            box.press("Enter")
            assert wait(page, lambda at=at: session.playback.now() == float(at))
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


def test_splats_in_the_browser_show_what_we_render_while_time_and_view_change(launch: Callable[..., Any]) -> None:
    model, complaints, area = swarm(), [], (0, 0, 560, 300)
    server = served(model, 8431)
    try:
        # Small, as this browser draws them in software, and wide enough for the panel.
        page, session = opened(launch, server, complaints, {"width": 900, "height": 300})
        page.get_by_role("alert").get_by_role("button").click()
        page.get_by_role("checkbox", name="show", exact=True).click()
        session.jump(ring()[1])
        assert rested(page, session) and likeness(page, session, model, area) >= 35.0
        switch = page.get_by_role("checkbox", name="splats in the browser")
        switch.click()
        apart = []
        for index, at in ((1, 0.0), (1, 0.75), (4, 0.75), (4, 0.2)):
            session.jump(ring()[index])
            session.timeline.go(at)
            assert wait(page, lambda at=at: f"drawn by the browser, time {at:.3f}" in session.picture.stats.content)
            # From behind colours are others, and are sent once the view rests.
            assert wait(page, lambda: likeness(page, session, model, area) >= 35.0)
            apart.append(shot(page, area))
        assert min(np.abs(one - two).max() for one, two in itertools.pairwise(apart)) > 50
        page.get_by_role("button", name="Play").click()
        sent = session.picture.stats.content
        assert wait(page, lambda: "drawn by the browser" in session.picture.stats.content != sent)
        page.get_by_role("button", name="Pause").click()
        assert wait(page, lambda: not session.playback.playing)
        switch.click()
        assert rested(page, session) and wait(page, lambda: likeness(page, session, model, area) >= 35.0)
        # Once per set of splats, viser asks three.js for the bounds of flat corners and is told that they are none.
        assert [text for text in complaints if "computeBoundingSphere" not in text] == []
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
        for index, at in ((0, 0.0), (2, 1.0)):
            session.jump(ring()[index])
            session.timeline.go(at)
            assert rested(page, session)
            page.get_by_role("button", name="Add keyframe").click()
            assert wait(page, lambda index=index: len(session.path.keyframes) == 1 + index // 2)
        session.path.seconds.value, session.path.fps.value = 1.0, 4
        session.path.width.value, session.path.height.value = 64, 48
        page.get_by_role("button", name="save", exact=True).click()
        file = tmp_path / "paths" / "path.json"
        assert wait(page, file.exists)
        page.get_by_role("button", name="clear").click()
        page.get_by_role("button", name="Keep them").click()
        assert wait(page, lambda: page.get_by_role("dialog").count() == 0)
        assert len(session.path.keyframes) == 2
        page.get_by_role("button", name="clear").click()
        page.get_by_role("button", name="Remove all").click()
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
    from gaussian4d import fit
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
        # The words follow the model, and this browser is slow.
        assert wait(page, lambda: page.get_by_text("step").first.is_visible())
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


def test_keys_work_whatever_was_clicked(launch: Callable[..., Any]) -> None:
    """What was clicked gives the keys back to the view; a text field keeps them until Enter."""
    server = served(moving_blobs(), 8331)
    try:
        page, session = opened(launch, server)

        def steps() -> bool:
            # What the click has set comes from the page a little later.
            page.wait_for_timeout(700)
            session.timeline.go(0.0)
            page.keyboard.press("Shift+ArrowRight")
            return wait(page, lambda: session.playback.now() == 0.25, 10)

        for role, name in (("checkbox", "loop"), ("checkbox", "show"), ("button", "Reset view"), ("slider", None)):
            page.get_by_role(role, name=name, exact=True).first.click()
            assert steps(), f"after a click on {name or role}"
        output = next(field for field in page.locator("input[role=combobox]").all() if field.input_value() == "rgb")
        output.click()
        page.get_by_role("option").nth(1).click()
        assert wait(page, lambda: session.picture.output.value != "rgb")
        assert steps(), "after a choice from a list"
        field = page.get_by_role("textbox").first
        field.click()
        page.keyboard.press("Home")
        page.wait_for_timeout(500)
        assert session.playback.now() == 0.25, "the key was meant for the text field"
        page.keyboard.press("Enter")
        assert steps(), "after Enter in a text field"
        # The space bar plays; it does not switch what was clicked last.
        page.get_by_role("checkbox", name="loop", exact=True).first.click()
        assert wait(page, lambda: session.timeline.loop.value)
        page.keyboard.press("Space")
        assert wait(page, lambda: session.playback.playing) and session.timeline.loop.value
    finally:
        server.stop()


def test_a_reload_a_dropped_line_and_a_restart_lose_nothing(launch: Callable[..., Any], tmp_path: Path) -> None:
    from viewer.workspace import Workspace

    workspace = Workspace(tmp_path, tmp_path)
    server = served(moving_blobs(), 8334, workspace)
    try:
        page, session = opened(launch, server)
        session.timeline.go(0.75)
        session.picture.output.value = "depth"
        session.timeline.speed.value = 0.5
        session.path.add()
        session.path.seconds.value = 7.5
        session.cameras.next()
        assert rested(page, session)
        before = session.view()
        for lose in (page.reload, server.server._websock_server.disconnect_all_clients):
            lose()
            session = came_back(page, server, session)
            assert session.playback.now() == pytest.approx(0.75) and session.picture.output.value == "depth"
            assert session.timeline.speed.value == 0.5 and session.playback.speed == 0.5
            assert wait(page, lambda session=session: stands_at(session, before))
            page.wait_for_timeout(1500)
            assert stands_at(session, before), "the page's own first view came later"
        port = server.port
        server.stop()
        server = served(moving_blobs(), port, workspace)
        came_back(page, server, session)
    finally:
        server.stop()


def stands_at(session: Any, view: Any) -> bool:
    """Returns whether a browser looks from where a view does."""
    now = session.view()
    return now is not None and np.allclose(now.position, view.position, atol=1e-3)


def came_back(page: Any, server: Any, before: Any) -> Any:
    """Returns the new session of a browser that was `before`, once it has its keyframe and the seconds of its path."""
    assert wait(page, lambda: server.sessions and server.sessions[-1] is not before)
    session = server.sessions[-1]
    assert wait(page, lambda: [key.time for key in session.path.keyframes] == [0.75])
    assert session.path.seconds.value == 7.5
    return session


def test_a_second_tab_has_a_time_of_its_own_and_comes_back_to_it(launch: Callable[..., Any]) -> None:
    server = served(moving_blobs(), 8345)
    try:
        context = launch().new_context(viewport=SIZE)
        page, other = context.new_page(), context.new_page()
        page.goto(server.url)
        assert wait(page, lambda: server.sessions)
        first = server.sessions[0]
        other.goto(server.url)
        assert wait(other, lambda: len(server.sessions) == 2)
        second = next(session for session in server.sessions if session is not first)
        assert wait(other, lambda: second.view() is not None)
        first.timeline.go(0.25)
        second.timeline.go(1.0)
        for tab, moment in ((page, 0.25), (other, 1.0)):
            known = list(server.sessions)
            tab.reload()
            assert wait(tab, lambda known=known: any(each not in known for each in server.sessions))
            new = next(each for each in server.sessions if each not in known)
            assert wait(tab, lambda new=new, moment=moment: new.playback.now() == moment, 20)
    finally:
        server.stop()


def test_drawn_cameras_stand_in_nobodys_way(launch: Callable[..., Any]) -> None:
    """They cover little of the picture, from wherever the scene is looked at on the orbit: by its pixels."""
    server = served(moving_blobs(), 8337)
    try:
        page, session = opened(launch, server)
        page.get_by_role("alert").get_by_role("button").click()
        middle = np.array([SIZE["width"] / 3, SIZE["height"] / 2])
        camera = ring()[0]
        behind = 1.15 * session.painter.units.viewer_from_world(camera.position)
        for turn in range(4):
            if turn < 3:
                page.mouse.move(*middle)
                page.mouse.down()
                page.mouse.move(middle[0] + 60, middle[1] + 40 * turn, steps=4)
                page.mouse.up()
            else:
                # Behind a recorded camera, which would fill much of the picture.
                with session.client.atomic():
                    session.client.camera.position, session.client.camera.look_at = behind, (0.0, 0.0, 0.0)
                assert wait(page, lambda: np.allclose(session.view().position, behind, atol=1e-3))
                assert wait(page, lambda: not session.cameras.frustums[camera.id].visible)
            assert rested(page, session)
            pictures = []
            for _ in range(2):
                pictures.append(shot(page, (0, 0, 560, 640)))
                page.get_by_role("checkbox", name="show", exact=True).click()
                page.wait_for_timeout(1000)
            assert 0.0 < float((np.abs(pictures[0] - pictures[1]).max(axis=2) > 8).mean()) < 0.05
    finally:
        server.stop()


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (700, 900), (390, 844)])
def test_the_subject_begins_in_the_free_part_of_the_window(launch: Callable[..., Any], width: int, height: int) -> None:
    """No panel lies over it, and it is in the picture as a whole."""
    server = served(moving_blobs(), 8341)
    try:
        page, session = opened(launch, server, size={"width": width, "height": height})
        page.wait_for_timeout(1500)
        assert rested(page, session)
        view = session.view()
        alpha = render(server._painter.model, session.painter.camera(view, 1.0), view.time, ["alpha"]).alpha
        assert alpha is not None
        rows, columns = np.nonzero(alpha.numpy()[..., 0] > 0.1 if alpha.ndim == 3 else alpha.numpy() > 0.1)
        scale = width / alpha.shape[1]
        assert rows.min() > 0 and columns.min() > 0 and rows.max() < alpha.shape[0] - 1
        free = width - 320 if width >= 900 else width
        assert columns.max() * scale < free

        def panel() -> float:
            """Returns the height of a button of the panel, 0 while that is folded."""
            return page.evaluate(
                """() => Math.max(0, ...[...document.querySelectorAll('button')].filter((b) => b.offsetParent
                && b.textContent.includes('Screenshot')).map((b) => b.getBoundingClientRect().height))"""
            )

        assert wait(page, lambda: (panel() > 0) == (width >= 900))
    finally:
        server.stop()
