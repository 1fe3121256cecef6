"""The exported page in a real, headless chromium, opened from the file system: looks like our rasterizer, and plays."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import chromium_launcher
from PIL import Image
from player_models import looking, moving_cloud

from gaussian4d.cli import main
from gaussian4d.framing import framing_of
from gaussian4d.model import DynamicGaussians, load_model
from gaussian4d.rendering import render
from gaussian4d.scene import Scene
from gaussian4d.view_block import with_view

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
SIZE = (200, 150)


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., Any]]:
    with chromium_launcher() as launcher:
        yield launcher


@pytest.fixture(scope="module")
def browser(launch: Callable[..., Any]) -> Any:
    return launch()


class Opened:
    """An exported page in a tab, and what went wrong in it."""

    def __init__(self, browser: Any, path: Path, fragment: str = "") -> None:
        self.page = browser.new_page(viewport={"width": 640, "height": 480})
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri() + fragment)
        self.page.evaluate("g4d.ready")

    def state(self) -> dict[str, Any]:
        return self.page.evaluate("g4d.state()")

    def look(self, index: int, time: float) -> None:
        camera = looking(index, *SIZE)
        matrices = [camera.viewmat.reshape(-1).tolist(), camera.K.reshape(-1).tolist()]
        self.page.evaluate("([v, K, w, h]) => g4d.setCamera(v, K, w, h)", [*matrices, *SIZE])
        self.page.evaluate("time => g4d.setTime(time)", time)

    def pixels(self) -> np.ndarray:
        """Returns the canvas as the page reads it back, [H, W, 3] in 0..1."""
        got = self.page.evaluate("g4d.pixels()")
        data = np.frombuffer(base64.b64decode(got["rgb"]), np.uint8)
        return data.reshape(got["height"], got["width"], 3) / 255.0

    def screenshot(self) -> np.ndarray:
        """Returns what a person sees where the canvas is."""
        shot = self.page.screenshot(clip={"x": 0, "y": 0, "width": SIZE[0], "height": SIZE[1]})
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")) / 255.0

    def wait(self, condition: str) -> None:
        """Waits until the expression holds. Not by playwright's own polling, which the page's policy forbids."""
        for _ in range(1200):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"not within a minute: {condition}; {self.state()}")


def exported(model: DynamicGaussians, folder: Path) -> Path:
    model.save(folder / "scene.g4d")
    assert main(["export", str(folder / "scene.g4d"), "--to", str(folder / "scene.html")]) == 0
    return folder / "scene.html"


def union_psnr(model: DynamicGaussians, index: int, time: float, shown: np.ndarray, outside_error: float) -> float:
    """Returns the PSNR in dB where our rasterizer draws something; elsewhere the page must show the background."""
    expected = render(model, looking(index, *SIZE), time, ("rgb", "alpha"))
    assert expected.rgb is not None and expected.alpha is not None
    inside = expected.alpha[..., 0].numpy() >= 1.0 / 255.0
    outside = shown[~inside]
    assert outside.size == 0 or np.abs(outside - np.array([0.9, 0.8, 0.7])).max() < outside_error
    return float(-10 * np.log10(np.mean((shown[inside] - expected.rgb.clamp(0, 1).numpy()[inside]) ** 2)))


@pytest.mark.parametrize(
    ("motion", "config"),
    [
        ("spacetime", {}),
        ("free-time", {"sh_degree": 0}),
        ("dual-domain", {"temporal_opacity": True}),
    ],
)
def test_the_page_looks_like_our_rasterizer(
    browser: Any, tmp_path: Path, motion: str, config: dict[str, Any], record_property: Any
) -> None:
    model = moving_cloud(motion, **config)
    opened = Opened(browser, exported(model, tmp_path))
    # A fitted path puts the faint edge of a Gaussian a fraction of a pixel beside the model's.
    outside_error = 20 / 255 if motion == "dual-domain" else 2.5 / 255
    figures = []
    for index, time in ((0, 0.0), (1, 0.28), (2, 0.5), (3, 0.77), (4, 1.0)):
        opened.look(index, time)
        figures.append(union_psnr(model, index, time, opened.pixels(), outside_error))
    # What is on the screen is what was read back.
    assert np.abs(opened.screenshot() - opened.pixels()).max() < 1.5 / 255
    record_property("psnr", figures)
    print(motion, config, " ".join(f"{value:.1f}" for value in figures), "dB")
    # 35 is what is asked for; less than this would still be a mistake.
    assert min(figures) >= (42.0 if motion == "dual-domain" else 50.0)
    # Another moment is another picture, so the figure above is not that of a scene at rest.
    assert union_psnr(model, 4, 1.0, _at(opened, 4, 0.5), 1.0) < 30.0
    assert opened.state()["deep"]
    assert not opened.problems
    assert all(url.startswith(("file:", "blob:")) for url in opened.requests)


def _at(opened: Opened, index: int, time: float) -> np.ndarray:
    opened.look(index, time)
    return opened.pixels()


@pytest.fixture(scope="module")
def moving_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(moving_cloud("free-time"), tmp_path_factory.mktemp("page"))


def test_it_plays_pauses_steps_and_loops(browser: Any, moving_page: Path) -> None:
    opened = Opened(browser, moving_page)
    opened.wait("g4d.state().playing && g4d.state().shown > 0.1")
    first = opened.screenshot()
    # It loops: the time falls again.
    opened.page.evaluate("window.last = 0; window.fell = false")
    opened.wait("(() => { const t = g4d.state().time; if (t < last) fell = true; last = t; return fell; })()")
    opened.page.keyboard.press("Space")
    opened.wait("!g4d.state().playing && g4d.state().shown === g4d.state().time")
    stopped = opened.state()["time"]
    opened.page.wait_for_timeout(300)
    assert opened.state()["time"] == stopped
    assert not np.array_equal(first, opened.screenshot())
    opened.page.keyboard.press("Home")
    for _ in range(3):
        opened.page.keyboard.press("ArrowRight")
    # 13 recorded instants: a step is a twelfth.
    assert opened.state()["time"] == pytest.approx(3 / 12)
    opened.page.keyboard.press("ArrowLeft")
    assert opened.state()["time"] == pytest.approx(2 / 12)
    opened.page.keyboard.press("ArrowDown")
    assert opened.state()["speed"] == 0.5
    opened.page.get_by_role("slider", name="time").fill("0.75")
    opened.wait("g4d.state().shown === 0.75")
    # Without the loop it stops at the end.
    opened.page.keyboard.press("o")
    opened.page.get_by_role("button", name="play").click()
    opened.wait("!g4d.state().playing && g4d.state().time === 1")
    assert not opened.problems


def test_a_fit_of_some_frames_plays_those(browser: Any, tmp_path: Path) -> None:
    model = moving_cloud("free-time")
    model.times = np.linspace(0.25, 0.5, 6)
    opened = Opened(browser, exported(model, tmp_path))
    slider = opened.page.get_by_role("slider", name="time")
    assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("0.25", "0.5")
    opened.page.evaluate("window.last = 0; window.fell = false")
    opened.wait("(() => { const t = g4d.state().time; if (t < last) fell = true; last = t; return fell; })()")
    assert 0.25 <= opened.state()["time"] <= 0.5
    # What plays on from the end is at the start again before the next key.
    opened.page.keyboard.press("Space")
    opened.page.keyboard.press("End")
    opened.page.keyboard.press("ArrowLeft")
    assert opened.state()["time"] == pytest.approx(0.45) and not opened.state()["playing"]
    opened.wait("g4d.state().shown === g4d.state().time")
    # Five intervals at ten frames a second.
    assert opened.page.locator("#clock").inner_text() == "0.40 / 0.50 s"
    opened.page.keyboard.press("Home")
    assert opened.state()["time"] == 0.25
    # A link to a moment that was not recorded shows the nearest one that was.
    assert Opened(browser, tmp_path / "scene.html", "#t=0.9").state()["time"] == 0.5
    assert not opened.problems


def test_mouse_and_keys_move_the_camera(browser: Any, moving_page: Path) -> None:
    opened = Opened(browser, moving_page, "#t=0.5")
    assert not opened.state()["playing"]
    before = opened.state()
    mouse = opened.page.mouse
    mouse.move(300, 200)
    mouse.down()
    mouse.move(380, 220, steps=3)
    mouse.up()
    turned = opened.state()
    assert turned["target"] == before["target"], "a drag orbits"
    reach = [np.linalg.norm(np.subtract(s["position"], s["target"])) for s in (before, turned)]
    assert (
        reach[0] == pytest.approx(reach[1]) and np.abs(np.subtract(turned["position"], before["position"])).max() > 0.1
    )
    mouse.wheel(0, -300)
    opened.wait(f"Math.hypot(...g4d.state().position.map((p, i) => p - g4d.state().target[i])) < {0.9 * reach[1]}")
    opened.page.keyboard.press("f")
    flown = opened.state()
    mouse.down()
    mouse.move(300, 200, steps=3)
    mouse.up()
    assert opened.state()["position"] == pytest.approx(flown["position"]), "when flying, a drag looks around"
    assert opened.state()["target"] != pytest.approx(flown["target"])
    opened.page.keyboard.down("w")
    opened.wait(f"Math.hypot(...g4d.state().position.map((p, i) => p - {flown['position']}[i])) > 0.05")
    opened.page.keyboard.up("w")
    opened.page.keyboard.press("r")
    assert opened.state()["position"] == pytest.approx(before["position"])


def test_a_key_pressed_shorter_than_a_picture_takes_flies_too(browser: Any, moving_page: Path) -> None:
    opened = Opened(browser, moving_page, "#t=0.5")
    before = opened.state()
    # No frame of the browser lies between the two events.
    opened.page.evaluate("""() => {
        const send = (kind) => window.dispatchEvent(new KeyboardEvent(kind, { code: "KeyW" }));
        send("keydown");
        const begun = performance.now();
        while (performance.now() - begun < 80);
        send("keyup");
    }""")
    after = opened.state()
    moved = np.linalg.norm(np.subtract(after["position"], before["position"]))
    reach = np.linalg.norm(np.subtract(before["target"], before["position"]))
    assert 0.07 < moved / reach < 0.11
    opened.page.wait_for_timeout(200)
    assert opened.state()["position"] == pytest.approx(after["position"]), "it stops when the key is up"


def test_on_a_phone_the_slider_is_wide_and_the_help_is_for_fingers(browser: Any, moving_page: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(moving_page.as_uri() + "#t=0.5")
    page.evaluate("g4d.ready")
    slider, play = (page.locator(name).bounding_box() for name in ("#time", "#play"))
    assert slider is not None and play is not None
    assert slider["width"] > 0.8 * 390 and min(play["width"], play["height"]) >= 40
    page.locator("#help").tap()
    assert "two fingers" in page.locator("#help-text").inner_text()
    assert "W A S D" not in page.locator("#help-text").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_two_fingers_zoom(browser: Any, moving_page: Path) -> None:
    opened = Opened(browser, moving_page, "#t=0.5")
    before = opened.state()
    opened.page.evaluate("""() => {
        const canvas = document.getElementById("view");
        canvas.setPointerCapture = () => {};
        const send = (kind, id, x) => canvas.dispatchEvent(new PointerEvent(kind,
            { pointerId: id, pointerType: "touch", clientX: x, clientY: 200, bubbles: true }));
        send("pointerdown", 1, 200); send("pointerdown", 2, 300); send("pointermove", 2, 400);
        send("pointerup", 1, 200); send("pointerup", 2, 400);
    }""")
    after = opened.state()
    reach = [np.linalg.norm(np.subtract(s["position"], s["target"])) for s in (before, after)]
    assert reach[1] == pytest.approx(reach[0] / 2)


def test_a_link_restores_view_and_moment(browser: Any, moving_page: Path) -> None:
    first = Opened(browser, moving_page)
    first.page.keyboard.press("Space")
    first.page.get_by_role("slider", name="time").fill("0.3125")
    first.page.mouse.move(300, 200)
    first.page.mouse.down()
    first.page.mouse.move(350, 240, steps=2)
    first.page.mouse.up()
    first.wait("location.hash.includes('t=0.3125')")
    first.page.wait_for_timeout(600)
    address = first.page.evaluate("location.hash")
    second = Opened(browser, moving_page, address)
    assert second.state()["time"] == 0.3125 and not second.state()["playing"]
    for name in ("position", "target"):
        assert second.state()[name] == pytest.approx(first.state()[name], abs=1e-3)
    shots = [
        opened.page.screenshot(clip={"x": 100, "y": 70, "width": 400, "height": 330}) for opened in (first, second)
    ]
    pictures = [np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(float) for shot in shots]
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.5 and pictures[0].std() > 10
    # A link that makes no sense is ignored.
    third = Opened(browser, moving_page, "#t=never&view=1,2")
    assert third.state()["position"] == pytest.approx(Opened(browser, moving_page).state()["position"])


def test_without_webgl2_it_says_so(launch: Callable[..., Any], moving_page: Path) -> None:
    page = launch("--disable-3d-apis").new_page()
    page.goto(moving_page.as_uri())
    message = page.get_by_role("alert")
    message.wait_for(state="visible")
    assert "WebGL2" in message.inner_text()
    assert not page.get_by_role("slider").is_visible()


def test_a_page_that_was_cut_short_says_so(browser: Any, moving_page: Path, tmp_path: Path) -> None:
    whole = moving_page.read_text(encoding="ascii")
    cut = tmp_path / "cut.html"
    cut.write_text(whole[: whole.index('id="rows-0"') + 4000], encoding="ascii")
    page = browser.new_page()
    page.goto(cut.as_uri())
    message = page.get_by_role("alert")
    message.wait_for(state="visible")
    assert "cut short" in message.inner_text()


def test_the_committed_page_is_what_its_sources_build() -> None:
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on this machine")
    done = subprocess.run([ROOT / "scripts" / "build_player.sh", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_begins_where_its_run_does_and_up_can_be_chosen(browser: Any, tmp_path: Path) -> None:
    model = moving_cloud("free-time", 120)
    cameras = [looking(index) for index in range(5)]
    scene = Scene.from_frames(
        np.zeros((5, 72, 96, 3), np.uint8), cameras, np.linspace(0, 1, 5).tolist(), split="train", duration=2.5
    )
    with_view(model, scene).save(tmp_path / "known.g4d")
    assert main(["export", str(tmp_path / "known.g4d"), "--to", str(tmp_path / "known.html")]) == 0
    expected = framing_of(load_model(tmp_path / "known.g4d"))
    opened = Opened(browser, tmp_path / "known.html", "#t=0.5")
    assert opened.state()["position"] == pytest.approx(expected.first.position, abs=1e-3)
    assert opened.page.locator("#clock").inner_text().endswith("/ 2.50 s")
    opened.page.keyboard.press("c")
    assert opened.state()["position"] == pytest.approx(expected.view.cameras[0].position, abs=1e-3)
    opened.page.keyboard.press("r")
    assert opened.state()["position"] == pytest.approx(expected.first.position, abs=1e-3)
    # What the first picture shows is what our renderer draws of the first view.
    first = expected.first.resized(*SIZE)
    matrices = [first.viewmat.reshape(-1).tolist(), first.K.reshape(-1).tolist()]
    opened.page.evaluate("([v, K, w, h]) => g4d.setCamera(v, K, w, h)", [*matrices, *SIZE])
    drawn = render(model, first, 0.5).rgb
    assert drawn is not None
    shown = opened.pixels()
    assert -10 * np.log10(np.mean((shown - drawn.clamp(0, 1).numpy()) ** 2)) > 35
    # Another axis is up: the place stays, the picture turns, and a link keeps it.
    turned = Opened(browser, tmp_path / "known.html", "#t=0.5&view=3,0,0,0,0,0")
    turned.page.keyboard.press("h")
    turned.page.get_by_role("combobox", name="up").select_option("-y")
    assert turned.state()["position"] == pytest.approx([3, 0, 0], abs=1e-6)
    turned.page.keyboard.press("h")
    assert turned.page.locator("#help-text").is_hidden()
    turned.wait("location.hash.includes('up=-y')")
    turned.page.wait_for_timeout(600)
    again = Opened(browser, tmp_path / "known.html", turned.page.evaluate("location.hash"))
    again.page.wait_for_timeout(600)
    shots = [page.page.screenshot(clip={"x": 100, "y": 150, "width": 400, "height": 250}) for page in (turned, again)]
    pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float) for data in shots]
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.5 and pictures[0].std() > 5
    assert again.page.get_by_role("combobox", name="up", include_hidden=True).input_value() == "-y"
    # A file that says nothing lists no cameras.
    unknown = Opened(browser, exported(model, tmp_path))
    assert unknown.page.locator("#camera").is_hidden()
    unknown.page.keyboard.press("c")
    assert not unknown.problems and not opened.problems
