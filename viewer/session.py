"""One connected browser: its controls, its clip time, its camera, its pictures."""

from __future__ import annotations

import math
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import viser

from gaussian4d.cameras import Camera
from gaussian4d.clip_length import recorded_span

from .camera_panel import AS_STATED, CameraPanel
from .crop_panel import CropPanel
from .memory import Kept
from .painter import FIRST_FOV, Painter
from .path_panel import PathPanel
from .picture_panel import PicturePanel
from .render_loop import Drawn, RenderLoop, View
from .splats import SplatNode
from .timeline import Timeline
from .workspace import Workspace


class BrowserGone(Exception):
    """The browser left while its page was being built."""


class Session:
    """The state of one browser; other browsers have their own.

    Args:
        client: the browser.
        painter: draws, for all browsers.
        cameras: recorded cameras to draw.
        duration: seconds of the clip.
        workspace: what all browsers share.
        thumbnails: pictures of cameras that are known already, by id.
        present: whether the browser is still there; asked between the steps of building its page.

    Raises `BrowserGone` when it is not. Nothing has been started then.
    """

    def __init__(
        self,
        client: viser.ClientHandle,
        painter: Painter,
        cameras: Sequence[Camera],
        duration: float,
        workspace: Workspace | None = None,
        thumbnails: Mapping[str, np.ndarray] | None = None,
        present: Callable[[], bool] = lambda: True,
    ) -> None:
        self.client, self.painter = client, painter
        self.workspace = workspace or Workspace()
        self.rig = painter.rig
        self.failed = False
        self._framed = self._returned = self._arrived = False
        self._pose: Kept | None = None
        """Where the browser was before its page was loaded anew, until it is there again."""
        self.closed = False
        self.loop = RenderLoop(self._draw, self._show, self._fail)
        self._node: SplatNode | None = None
        self.timeline = Timeline(
            client.gui, painter.model.frame_interval, duration, self.request, recorded_span(painter.model)
        )
        self.playback = self.timeline.playback
        self.picture = PicturePanel(self)
        if not present():
            raise BrowserGone
        self.cameras = CameraPanel(self, cameras, thumbnails or {})
        if not present():
            raise BrowserGone
        self.crop = CropPanel(self)
        self.path = PathPanel(self)
        client.camera.on_update(lambda _: self._moved())
        self.playback.start()
        self.loop.start()
        self.request()
        # The browser told its view before anyone listened.
        self._moved()

    def close(self, wait: bool = False) -> None:
        """Ends the threads of this browser; with `wait`, what they are drawing is finished when it returns.

        A process that ends while one of its threads draws is ended by the C++ library, with a message on the terminal.
        """
        self.closed = True
        self.path.stop(wait)
        self.playback.stop()
        self.loop.stop(wait)

    def kept(self) -> Kept:
        """Returns where this browser is."""
        camera, pose = self.client.camera, None
        if self.view() is not None:
            pose = tuple(
                tuple(float(x) for x in vector) for vector in (camera.position, camera.look_at, camera.up_direction)
            )
        handle = self.crop.handle
        with self.path.lock:
            keyframes, earlier = tuple(self.path.keyframes), tuple(map(tuple, self.path.earlier))
        return Kept(
            time=self.playback.now(),
            playing=self.playback.playing,
            pose=pose,
            fov=float(camera.fov),
            controls={name: control.value for name, control in self.lasting().items()},
            crop=(tuple(map(float, handle.position)), tuple(map(float, handle.wxyz))),
            keyframes=keyframes,
            earlier=earlier,
        )

    def lasting(self) -> dict[str, Any]:
        """Returns the controls whose values are kept, by a name of their own."""
        panels = {"time": self.timeline, "picture": self.picture, "cameras": self.cameras, "crop": self.crop}
        return {
            f"{name}.{field}": getattr(panel, field)
            for name, panel in {**panels, "path": self.path}.items()
            for field in panel.LASTING
        }

    def restore(self, kept: Kept | None) -> None:
        """Goes back to where the browser was before its page was loaded anew; else takes up unsaved keyframes."""
        if kept is None:
            self.path.take_up()
            return
        self.timeline.go(kept.time)
        self.crop.handle.position, self.crop.handle.wxyz = (np.array(value) for value in kept.crop)
        for name, control in self.lasting().items():
            if name in kept.controls:
                control.value = kept.controls[name]
        if self.cameras.up.value != AS_STATED:
            self.set_up(str(self.cameras.up.value))
        if kept.pose is not None:
            self._arrived, self._returned, self._pose = False, False, kept
            self._stand(kept)
        self.path.put_back(kept.keyframes, kept.earlier)
        if kept.playing and not self.playback.playing:
            self.timeline.toggle()
        self.request()

    def view(self) -> View | None:
        """Returns what the browser looks at now, None before it told us its size, or when it tells nonsense."""
        camera = self.client.camera
        if camera.image_width <= 0 or camera.image_height <= 0:
            return None
        pose = [float(value) for value in (*camera.wxyz, *camera.position, camera.fov)]
        if not np.isfinite(pose).all() or not any(pose[:4]) or not 1e-3 < pose[7] < math.pi - 1e-3:
            return None
        # The longer side is limited; the browser stretches the picture over its window.
        longest = max(camera.image_width, camera.image_height)
        shrink = min(1.0, self.picture.longest / longest)
        return View(
            wxyz=(pose[0], pose[1], pose[2], pose[3]),
            position=(pose[4], pose[5], pose[6]),
            fov=pose[7],
            width=max(round(camera.image_width * shrink), 1),
            height=max(round(camera.image_height * shrink), 1),
            time=self.playback.now(),
            output=str(self.picture.output.value),
            background=self.picture.background,
            crop=self.crop.active,
            split=float(self.picture.split.value) if self.picture.compare.value else None,
        )

    def request(self) -> None:
        """Asks for a picture of the present view."""
        # Controls may call before all of them are there.
        if self.closed or not hasattr(self, "path"):
            return
        view = self.view()
        if view is not None:
            self.loop.request(view)

    def jump(self, camera: Camera) -> None:
        """Looks through `camera`."""
        self._arrived = True
        mine = self.client.camera
        position = self.painter.units.viewer_from_world(camera.position)
        distance = max(float(np.linalg.norm(position)), 0.1)
        with self.client.atomic():
            mine.position = position
            mine.look_at = position + distance * camera.forward
            mine.up_direction = _orbit_up(camera, self.rig.up)
            mine.fov = 2.0 * math.atan(0.5 * camera.height / camera.K[1, 1])

    def _stand(self, kept: Kept) -> None:
        """Goes to where a browser was."""
        assert kept.pose is not None
        mine = self.client.camera
        with self.client.atomic():
            mine.position, mine.look_at, mine.up_direction = (np.array(vector) for vector in kept.pose)
            mine.fov = kept.fov

    def first_view(self) -> None:
        """Goes back to where the page began."""
        self._arrived = True
        self._begin()

    def _begin(self) -> None:
        """Frames the scene in the free part of the window."""
        mine = self.client.camera
        position = self.painter.begins_at(self.rig)
        fov, aside = framed(mine.image_width, mine.image_height)
        right = np.cross(-position, self.rig.up)
        right *= aside * np.linalg.norm(position) / max(float(np.linalg.norm(right)), 1e-9)
        with self.client.atomic():
            mine.position = position + right
            mine.look_at = right
            mine.up_direction = self.rig.up
            mine.fov = fov

    def set_up(self, up: str | None) -> None:
        """Turns this browser's world so that `up` is up, one of `framing.UPS`; None takes what the model says."""
        self.rig = self.painter.turned_rig(up)
        self.client.scene.set_up_direction(self.rig.up)
        self.first_view()

    def switch_splats(self, on: bool) -> None:
        """Lets the browser draw the Gaussians itself, or shows pictures of ours again."""
        node, self._node = self._node, SplatNode(self) if on else None
        if node is not None:
            node.remove()
        self.request()

    def tell(self, title: str, body: str) -> None:
        """Shows a message in this browser."""
        if not self.closed:
            self.client.add_notification(title, body, auto_close_seconds=8.0)

    def download(self, name: str, write: Callable[[Path], object]) -> None:
        """Offers what `write` writes to a file of this name as a download."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            write(file)
            self.client.send_file_download(name, file.read_bytes(), save_immediately=True)

    def _moved(self) -> None:
        view = self.view()
        if view is not None:
            self._frame_first(view)
            self.cameras.keep_clear(view)
            self.path.keep_clear(view)
            self.request()

    def _frame_first(self, view: View) -> None:
        """Moves the view where the page begins: back to where it was, or so that the scene lies in the free part.

        The page takes its first views, which know no window, as often as it is built; whoever has turned it keeps it.
        """
        if self._arrived:
            return
        mine = self.client.camera
        at_first = np.allclose(view.position, self.painter.first_position, atol=1e-3)
        made_up = at_first or np.allclose(np.abs(view.position), VISERS, atol=1e-3)
        if self._pose is not None and self._pose.pose is not None:
            seen = (view.position, tuple(mine.look_at))
            there = np.allclose(seen, self._pose.pose[:2], atol=1e-3) and abs(view.fov - self._pose.fov) < 1e-3
            # Until it has been there, every view is one that the page made up before it heard of any other.
            made_up = made_up or not self._returned
            if made_up and not there:
                self._stand(self._pose)
            self._arrived = not made_up and not there
            self._returned = self._returned or there
            return
        fov, aside = framed(mine.image_width, mine.image_height)
        if at_first and abs(view.fov - FIRST_FOV) < 1e-4 and (aside > 0 or fov > FIRST_FOV + 1e-4):
            self._framed = True
            self._begin()
        elif not made_up and self._framed:
            self._arrived = True

    def _draw(self, view: View, scale: float) -> np.ndarray | None:
        node = self._node
        if node is None or not node.can_show(view):
            if node is not None:
                node.hide()
            # Browsers that left while others were served must not keep the rest waiting.
            return self.painter(view, scale, lambda: not self.closed)
        if node.update(view, self.loop.resting):
            self.picture.stats.content = (
                f"{len(self.painter.model):,} Gaussians, {node.count:,} splats drawn by the browser, "
                f"time {view.time:.3f}"
            )
        return None

    def _show(self, drawn: Drawn) -> None:
        if self.closed:
            return
        quality = 90 if drawn.scale == 1.0 else 70
        self.client.scene.set_background_image(drawn.picture, format="jpeg", jpeg_quality=quality)
        self.picture.report(drawn)

    def _fail(self, error: Exception) -> None:
        # Once per browser: a broken render would otherwise fill the terminal at the rate of the mouse.
        if not self.failed:
            self.failed = True
            traceback.print_exception(error, file=sys.stderr)
        self.picture.stats.content = f"rendering failed: {error}"


VISERS = 3.0
"""Where viser's page stands along each axis before it hears of any other place."""
PANEL = 320
"""Pixels that the panel takes from the width of a window; below `NARROW` it is folded away."""
NARROW = 900


def framed(width: int, height: int) -> tuple[float, float]:
    """Returns (vertical field of view, step aside) with which a window shows the first view in the part that is free.

    The field of view is `FIRST_FOV` along the shorter side of that part. The step is to the right, in shares of the
    distance to the middle.
    """
    if width <= 0 or height <= 0:
        return FIRST_FOV, 0.0
    free = width - PANEL if width >= NARROW else width
    half = math.tan(0.5 * FIRST_FOV) * max(1.0, height / free)
    return min(2.0 * math.atan(half), math.radians(120.0)), half * (width - free) / height


def _orbit_up(camera: Camera, up: np.ndarray) -> np.ndarray:
    """Returns the direction [3] that a view through `camera` is to be turned around.

    All directions between the camera's own up and its axis give the same picture; the one nearest to the scene's up
    keeps the ground level when the view is turned afterwards.
    """
    upright = up - (up @ camera.viewmat[0, :3]) * camera.viewmat[0, :3]
    length = float(np.linalg.norm(upright))
    if length < 0.1 or (upright @ camera.up) / length < 0.1:
        # Straight down, on its side or on its head: the scene's up is no help there.
        return camera.up
    return upright / length
