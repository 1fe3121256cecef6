"""What is drawn in one browser: output, size, background, recorded picture beside, splats, screenshot, statistics."""

from __future__ import annotations

import io
import time
from collections import deque
from typing import TYPE_CHECKING

import viser
from PIL import Image

from gaussian4d.io.pictures import PICTURE_BUFFERS

from .camera_panel import guarded
from .render_loop import Drawn

if TYPE_CHECKING:
    from .session import Session

RESOLUTIONS = {"640": 640, "960": 960, "1280": 1280, "1920": 1920}
_DEFAULT = 960
_ALONE = "  \nno recorded image from this view to compare with; F looks through a camera"


class PicturePanel:
    """Controls of the picture and a line of statistics."""

    LASTING = ("output", "resolution", "behind", "colour", "compare", "split", "splats")
    """Controls whose values outlast a reload of the page."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._shown: deque[float] = deque(maxlen=60)
        self.last: Drawn | None = None
        """What the browser was sent last."""
        gui = session.client.gui
        with gui.add_folder("Picture"):
            self.output = gui.add_dropdown("output", PICTURE_BUFFERS, initial_value="rgb")
            self.resolution = gui.add_dropdown(
                "longest side", tuple(RESOLUTIONS), initial_value="960", hint="of the image at rest, in pixels"
            )
            self.behind = gui.add_dropdown("background", ("scene", "white", "black", "colour"), initial_value="scene")
            self.colour = gui.add_rgb("colour", (128, 128, 128), visible=False)
            self.compare = gui.add_checkbox(
                "compare", False, hint="left: recorded image, right: rendering; look through a camera (F)"
            )
            self.split = gui.add_slider("split", 0.0, 1.0, 0.01, 0.5, visible=False)
            self.splats = gui.add_checkbox(
                "splats in the browser", False, hint="orbits without the server; colours and edges are approximate"
            )
            shot = gui.add_button("Screenshot", hint="the full-size image as a PNG file")
            self.stats = gui.add_markdown("waiting for the first frame")
        self.compare.visible = session.workspace.truth is not None

        for control in (self.output, self.resolution, self.colour, self.split):
            control.on_update(lambda _: session.request())

        @self.behind.on_update
        def _(_: viser.GuiEvent) -> None:
            self.colour.visible = self.behind.value == "colour"
            session.request()

        @self.compare.on_update
        def _(_: viser.GuiEvent) -> None:
            self.split.visible = bool(self.compare.value)
            session.request()

        @self.splats.on_update
        def _(_: viser.GuiEvent) -> None:
            session.switch_splats(bool(self.splats.value))

        shot.on_click(guarded(session, self.screenshot))

    @property
    def longest(self) -> int:
        """Pixels of the longer side of a full picture."""
        return RESOLUTIONS.get(str(self.resolution.value), _DEFAULT)

    @property
    def background(self) -> tuple[float, float, float] | None:
        """The colour chosen, None for the scene's own."""
        chosen = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}.get(str(self.behind.value))
        if self.behind.value == "colour":
            r, g, b = (min(max(float(value) / 255.0, 0.0), 1.0) for value in self.colour.value)
            return r, g, b
        return chosen

    def screenshot(self) -> None:
        """Offers the present view at full size as a download."""
        session = self._session
        view = session.view()
        if view is None:
            return
        buffer = io.BytesIO()
        picture = session.painter(view, 1.0)
        assert picture is not None
        Image.fromarray(picture).save(buffer, "PNG")
        session.client.send_file_download(
            f"view_{view.output}_{view.time:.3f}.png", buffer.getvalue(), save_immediately=True
        )

    def report(self, drawn: Drawn) -> None:
        """Shows what the last picture was and cost."""
        self.last = drawn
        height, width = drawn.picture.shape[:2]
        now = time.monotonic()
        self._shown.append(now)
        recent = [at for at in self._shown if now - at < 2.0]
        rate = f", {(len(recent) - 1) / max(recent[-1] - recent[0], 1e-6):.0f} frames/s" if len(recent) > 4 else ""
        painter = self._session.painter
        model = painter.model
        alone = drawn.view.split is not None and painter.recorded(painter.camera(drawn.view, 1.0)) is None
        self.stats.content = (
            f"{len(model):,} Gaussians, {width}x{height}, {1000 * drawn.seconds:.0f} ms{rate}, "
            f"time {drawn.view.time:.3f}{self._alive(drawn.view.time) if drawn.scale == 1.0 else ''}"
            f"{_ALONE if alone else ''}"
        )

    def _alive(self, at: float) -> str:
        """Returns how many Gaussians can be seen at a time; asked at rest only, it takes a pass over all of them."""
        # Without the painter's lock: this must not wait for pictures of others.
        opacities = self._session.painter.model.at(at).opacities
        return f", {int((opacities > 1 / 255).sum()):,} alive"
