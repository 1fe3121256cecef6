"""One connected browser: its controls, its clip time, its camera, its pictures."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Sequence

import numpy as np
import viser
import viser.transforms

from gaussian4d.cameras import Camera
from gaussian4d.io.pictures import PICTURE_BUFFERS

from .painter import Painter
from .playback import Playback
from .render_loop import Drawn, RenderLoop, View

_MAX_FRUSTUMS = 64
_RESOLUTIONS = {"640": 640, "960": 960, "1280": 1280, "1920": 1920}


class Session:
    """The state of one browser; other browsers have their own."""

    def __init__(
        self, client: viser.ClientHandle, painter: Painter, cameras: Sequence[Camera], duration: float
    ) -> None:
        self.client = client
        self.painter = painter
        self.failed = False
        self._closed = False
        self.playback = Playback(self._tick, duration)
        self.loop = RenderLoop(painter, self._show, self._fail)
        self._add_controls(cameras)
        client.camera.on_update(lambda _: self.request())
        self.playback.start()
        self.loop.start()
        self.request()

    def close(self) -> None:
        """Ends the threads of this browser."""
        self._closed = True
        self.playback.stop()
        self.loop.stop()

    def view(self) -> View | None:
        """Returns what the browser looks at now, None before it told us its size."""
        camera = self.client.camera
        if camera.image_width <= 0 or camera.image_height <= 0:
            return None
        # The longer side is limited; the browser stretches the picture over its window.
        longest = max(camera.image_width, camera.image_height)
        shrink = min(1.0, _RESOLUTIONS[self.resolution.value] / longest)
        w, x, y, z = (float(value) for value in camera.wxyz)
        px, py, pz = (float(value) for value in camera.position)
        return View(
            wxyz=(w, x, y, z),
            position=(px, py, pz),
            fov=float(camera.fov),
            width=max(round(camera.image_width * shrink), 1),
            height=max(round(camera.image_height * shrink), 1),
            time=self.playback.now(),
            output=self.output.value,
        )

    def request(self) -> None:
        """Asks for a picture of the present view."""
        view = self.view()
        if view is not None:
            self.loop.request(view)

    def jump(self, camera: Camera) -> None:
        """Looks through `camera`."""
        mine = self.client.camera
        position = self.painter.units.viewer_from_world(camera.position)
        distance = max(float(np.linalg.norm(position)), 0.1)
        with self.client.atomic():
            mine.position = position
            mine.look_at = position + distance * camera.forward
            mine.up_direction = camera.up
            mine.fov = 2.0 * math.atan(0.5 * camera.height / camera.K[1, 1])

    def _add_controls(self, cameras: Sequence[Camera]) -> None:
        gui = self.client.gui
        interval = self.painter.model.frame_interval
        with gui.add_folder("Time"):
            self.slider = gui.add_slider("time", 0.0, 1.0, 0.001, 0.0, hint="clip time: 0 is the start, 1 the end")
            self.play = gui.add_button("Play")
            steps = gui.add_button_group("frame", ("previous", "next"))
            speed = gui.add_slider("speed", 0.1, 4.0, 0.1, 1.0)
            fps = gui.add_slider("fps", 1, 60, 1, 24, hint="pictures asked for per second of playing")
        with gui.add_folder("Picture"):
            self.output = gui.add_dropdown("output", PICTURE_BUFFERS, initial_value="rgb")
            self.resolution = gui.add_dropdown(
                "longest side", tuple(_RESOLUTIONS), initial_value="960", hint="of the picture when it rests, pixels"
            )
            self.stats = gui.add_markdown("waiting for the first picture")
        with gui.add_folder("Cameras"):
            visible = gui.add_checkbox("show", True)
            reset = gui.add_button("Reset view")
        frustums = self._add_frustums(cameras)

        @self.slider.on_update
        def _(event: viser.GuiEvent) -> None:
            # Our own ticks move the slider too; only the user's hand seeks.
            if event.client is not None:
                self.playback.seek(self.slider.value)
                self.request()

        @self.play.on_click
        def _(_: viser.GuiEvent) -> None:
            self.playback.play(not self.playback.playing)
            self.play.label = "Pause" if self.playback.playing else "Play"
            self.request()

        @steps.on_click
        def _(_: viser.GuiEvent) -> None:
            step = interval if steps.value == "next" else -interval
            self._go(self.playback.now() + step)

        @speed.on_update
        def _(_: viser.GuiEvent) -> None:
            self.playback.set_speed(speed.value)

        @fps.on_update
        def _(_: viser.GuiEvent) -> None:
            self.playback.fps = float(fps.value)

        @self.output.on_update
        def _(_: viser.GuiEvent) -> None:
            self.request()

        @self.resolution.on_update
        def _(_: viser.GuiEvent) -> None:
            self.request()

        @visible.on_update
        def _(_: viser.GuiEvent) -> None:
            for frustum in frustums:
                frustum.visible = visible.value

        @reset.on_click
        def _(_: viser.GuiEvent) -> None:
            self.jump(cameras[0])

    def _add_frustums(self, cameras: Sequence[Camera]) -> list[viser.CameraFrustumHandle]:
        """Returns the drawn cameras of the scene; a click looks through one. Of many, an even choice is drawn."""
        chosen = [cameras[i] for i in np.linspace(0, len(cameras) - 1, min(len(cameras), _MAX_FRUSTUMS)).astype(int)]
        frustums = []
        for camera in chosen:
            frustum = self.client.scene.add_camera_frustum(
                f"/cameras/{camera.id}",
                fov=2.0 * math.atan(0.5 * camera.height / camera.K[1, 1]),
                aspect=camera.width / camera.height,
                scale=0.12,
                thickness=0.006,
                color=(225, 120, 40),
                wxyz=viser.transforms.SO3.from_matrix(camera.viewmat[:3, :3].T).wxyz,
                position=self.painter.units.viewer_from_world(camera.position),
            )

            @frustum.on_click
            def _(_: object, camera: Camera = camera) -> None:
                self.jump(camera)

            frustums.append(frustum)
        return frustums

    def _go(self, time: float) -> None:
        self.playback.seek(time)
        self._tick(self.playback.now())

    def _tick(self, time: float) -> None:
        self.slider.value = time
        self.request()

    def _show(self, drawn: Drawn) -> None:
        if self._closed:
            return
        quality = 90 if drawn.scale == 1.0 else 70
        self.client.scene.set_background_image(drawn.picture, format="jpeg", jpeg_quality=quality)
        height, width = drawn.picture.shape[:2]
        self.stats.content = (
            f"{len(self.painter.model):,} Gaussians, {width}x{height}, {1000 * drawn.seconds:.0f} ms, "
            f"time {drawn.view.time:.3f}"
        )

    def _fail(self, error: Exception) -> None:
        # Once per browser: a broken render would otherwise fill the terminal at the rate of the mouse.
        if not self.failed:
            self.failed = True
            traceback.print_exception(error, file=sys.stderr)
        self.stats.content = f"the picture failed: {error}"
