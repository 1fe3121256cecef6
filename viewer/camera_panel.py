"""The recorded cameras in one browser: drawn with their pictures, looked through on a click."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import viser
import viser.transforms

from gaussian4d.cameras import Camera
from gaussian4d.framing import UPS

if TYPE_CHECKING:
    from .painter import Units
    from .render_loop import View
    from .session import Session


AS_STATED = "as opened"
"""Of the control *up*: what the model says, or --up."""
CLEAR = 0.2
"""Viewer units around the eye in which no camera is drawn: its lines would cross the whole picture."""


LARGEST_SHARE = 0.02
"""Of the picture that a drawn camera may cover."""
_SCALE = 0.12


def outline(camera: Camera, units: Units) -> np.ndarray:
    """Returns the points [5, 3] of a camera as it is drawn, viewer units: its place, then its corners in turn."""
    tall = 0.5 * camera.height / camera.K[1, 1]
    wide = tall * camera.width / camera.height
    # viser keeps the volume of frustums of all shapes the same.
    scale = _SCALE / (wide * tall / 3.0) ** (1.0 / 3.0)
    corners = [(0.0, 0.0, 0.0), (-wide, -tall, 1.0), (wide, -tall, 1.0), (wide, tall, 1.0), (-wide, tall, 1.0)]
    return units.viewer_from_world(camera.position) + scale * np.array(corners) @ camera.viewmat[:3, :3]


def in_the_way(outlines: np.ndarray, view: View) -> np.ndarray:
    """Returns which of drawn cameras [C, 5, 3] stand in the way of a view, bool [C].

    Those are cameras at that very place, and those that would cover more than `LARGEST_SHARE` of the picture,
    if they are in it.
    """
    turn = viser.transforms.SO3(np.array(view.wxyz)).as_matrix()
    places = (outlines - np.array(view.position)) @ turn
    distances = np.linalg.norm(places, axis=2).min(axis=1)
    ahead = places[..., 2] > 1e-3
    flat = places[..., :2] / np.where(ahead, places[..., 2], 1.0)[..., None]
    # What is covered is the hull of the place and the four corners: the triangles of the place with those sides that it
    # sees from within, in the turning sense of the corners.
    begin, end = flat[:, 1:] - flat[:, :1], np.roll(flat[:, 1:], -1, axis=1) - flat[:, :1]
    areas = 0.5 * (begin[..., 0] * end[..., 1] - begin[..., 1] * end[..., 0])
    areas *= np.sign(areas.sum(axis=1, keepdims=True))
    edges = math.tan(0.5 * view.fov) * np.array([view.width / view.height, 1.0])
    large = np.maximum(areas, 0.0).sum(axis=1) > LARGEST_SHARE * 4.0 * edges.prod()
    large &= ((flat.min(axis=1) < edges) & (flat.max(axis=1) > -edges)).all(axis=1)
    # What reaches from before the eye to behind it is beside the picture, unless it is near.
    return (distances < CLEAR) | np.where(ahead.all(axis=1), large, ahead.any(axis=1) & (distances < 1.0))


class CameraPanel:
    """Frustums of cameras, and controls to hide them, to look through one, and to go back to the first view."""

    LASTING = ("show", "up")
    """Controls whose values outlast a reload of the page."""

    def __init__(self, session: Session, cameras: Sequence[Camera], thumbnails: Mapping[str, np.ndarray]) -> None:
        self._session, self._cameras = session, list(cameras)
        self._at = -1
        self._shown = True
        self._near: set[str] = set()
        units = session.painter.units
        self._outlines = np.array([outline(camera, units) for camera in cameras]).reshape(-1, 5, 3)
        gui = session.client.gui
        with gui.add_folder("Cameras"):
            visible = self.show = gui.add_checkbox("show", True)
            # Of a file that names no cameras there are none to choose from.
            names = tuple(camera.id for camera in cameras) or ("none recorded",)
            chosen = self.chosen = gui.add_dropdown(
                "camera", names, initial_value=names[0], hint="F for the next", disabled=not cameras
            )
            reset = gui.add_button("Reset view")
            up = self.up = gui.add_dropdown(
                "up", (AS_STATED, *UPS), initial_value=AS_STATED, hint="up axis of the scene"
            )
        self.frustums = {camera.id: self._frustum(camera, thumbnails.get(camera.id)) for camera in cameras}

        @visible.on_update
        def _(_: viser.GuiEvent) -> None:
            self._shown = bool(visible.value)
            for id, frustum in self.frustums.items():
                frustum.visible = self._shown and id not in self._near

        @chosen.on_update
        def _(event: viser.GuiEvent) -> None:
            if event.client is not None:
                self._look(str(chosen.value))

        @reset.on_click
        def _(_: viser.GuiEvent) -> None:
            session.first_view()

        @up.on_update
        def _(event: viser.GuiEvent) -> None:
            if event.client is not None:
                session.set_up(None if up.value == AS_STATED else str(up.value))

        command = gui.add_command("Next camera", hotkey="F")
        command.on_trigger(lambda _: self.next())

    def next(self) -> None:
        """Looks through the next recorded camera, if there is one."""
        if not self._cameras:
            return
        self._look(self._cameras[(self._at + 1) % len(self._cameras)].id)

    def set_thumbnail(self, id: str, picture: np.ndarray) -> None:
        """Puts a camera's picture into its frustum."""
        if id in self.frustums:
            self.frustums[id].image = picture

    def keep_clear(self, view: View) -> None:
        """Hides the cameras that would stand in the way of a view, and shows the others."""
        near = {camera.id for camera, hidden in zip(self._cameras, in_the_way(self._outlines, view)) if hidden}
        for id in near ^ self._near:
            self.frustums[id].visible = self._shown and id not in near
        self._near = near

    def _look(self, id: str) -> None:
        for index, camera in enumerate(self._cameras):
            if camera.id == id:
                self._at = index
                self.chosen.value = id
                self._session.jump(camera)

    def _frustum(self, camera: Camera, picture: np.ndarray | None) -> viser.CameraFrustumHandle:
        frustum = add_frustum(self._session, f"/cameras/{camera.id}", camera, (225, 120, 40), picture)
        frustum.on_click(lambda _: self._look(camera.id))
        return frustum


def add_frustum(
    session: Session,
    name: str,
    camera: Camera,
    color: tuple[int, int, int],
    picture: np.ndarray | None = None,
) -> viser.CameraFrustumHandle:
    """Returns a drawn camera."""
    return session.client.scene.add_camera_frustum(
        name,
        fov=2.0 * math.atan(0.5 * camera.height / camera.K[1, 1]),
        aspect=camera.width / camera.height,
        scale=_SCALE,
        thickness=0.006,
        color=color,
        image=picture,
        wxyz=viser.transforms.SO3.from_matrix(camera.viewmat[:3, :3].T).wxyz,
        position=session.painter.units.viewer_from_world(camera.position),
    )


def guarded(session: Session, act: Callable[[], None]) -> Callable[[object], None]:
    """Returns a callback that does `act` and shows what goes wrong in the browser it came from."""

    def callback(_: object) -> None:
        try:
            act()
        except Exception as error:
            session.tell("Failed", str(error) or type(error).__name__)

    return callback
