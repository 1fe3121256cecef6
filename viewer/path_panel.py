"""The camera path of one browser: keyframes set from the view, preview, files, and a film of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shlex
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import viser

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.keyframes import Keyframe, KeyframePath
from gaussian4d.offsets import offset_of

from .camera_panel import CLEAR, add_frustum, guarded, in_the_way, outline
from .film import Film

if TYPE_CHECKING:
    from .render_loop import View
    from .session import Session

UNSAVED = ".unsaved.json"
"""Name of the file, in the folder of paths, that holds the keyframes nobody has saved."""
_LARGEST_UPLOAD = 1_000_000
_CURVE_POINTS = 12
_NEW: str = "(new)"
_CHOOSE: str = "(choose)"


class PathPanel:
    """Keyframes and their controls. The same file goes to `gaussian4d render --path` and gives the same pictures."""

    LASTING = ("smoothness", "loop", "seconds", "fps", "width", "height", "name")
    """Controls whose values outlast a reload of the page."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.keyframes: list[Keyframe] = []
        self.earlier: list[list[Keyframe]] = []
        """What the keyframes were before each of the last changes."""
        self.lock = threading.RLock()
        self._drawn: list[tuple[viser.SceneNodeHandle, np.ndarray]] = []
        """What is drawn in the scene, and where, viewer units: points [P, 3] of the curve, an outline [1, 5, 3]."""
        self._view: View | None = None
        self._preview = threading.Event()
        self.film = Film(session)
        gui = session.client.gui
        with gui.add_folder("Camera path", expand_by_default=False):
            self._list = gui.add_markdown("no keyframes yet")
            add = gui.add_button("Add keyframe", hint="current view, field of view and time, after the selected one")
            options: tuple[str, ...] = (_NEW,)
            self.chosen = gui.add_dropdown("keyframe", options, initial_value=_NEW)
            self.time = gui.add_slider("time of keyframe", 0.0, 1.0, 0.001, 0.0)
            self.fov = gui.add_slider("fov of keyframe", 5.0, 120.0, 0.5, 50.0, hint="vertical, degrees")
            edit = gui.add_button_group(
                "change",
                ("go to", "set to view", "remove", "clear", "undo", "spread times"),
                hint="spread times: evenly from the start of the clip to its end",
            )
            self.smoothness = gui.add_slider("smoothness", 0.0, 1.0, 0.05, 1.0)
            self.loop = gui.add_checkbox("loop path", False)
            self.seconds = gui.add_number("seconds", 4.0, min=0.1, max=600.0, step=0.5)
            self.fps = gui.add_number("frames per second", 24, min=1, max=120, step=1)
            self.width = gui.add_number("width", 640, min=16, max=4096, step=2)
            self.height = gui.add_number("height", 360, min=16, max=4096, step=2)
            self.preview = preview = gui.add_button("Preview", hint="again to stop")
            self.name = gui.add_text("name", "path")
            files = gui.add_button_group("file", ("save", "load", "download"))
            self.note = gui.add_markdown("", visible=False)
            none_yet: tuple[str, ...] = (_CHOOSE,)
            self.saved = gui.add_dropdown("saved paths", none_yet, initial_value=_CHOOSE)
            upload = gui.add_upload_button("Open a path file", mime_type="application/json")
            self.film.add_controls(gui)

        self.chosen.on_update(lambda _: self._show_chosen())

        def change(event: viser.GuiEvent) -> None:
            index = self._index()
            # Setting the sliders by program must not write into a keyframe.
            if event.client is not None and index is not None:
                self._replace(index, time=float(self.time.value), fov=float(self.fov.value))

        self.time.on_update(change)
        self.fov.on_update(change)

        @self.saved.on_update
        def _(event: viser.GuiEvent) -> None:
            if event.client is not None and self.saved.value != _CHOOSE:
                self.name.value = str(self.saved.value)
                guarded(session, lambda: self.file("load"))(event)

        self._list_saved()
        self.smoothness.on_update(lambda _: self._redraw())
        self.loop.on_update(lambda _: self._redraw())
        for control in (self.seconds, self.fps, self.width, self.height):
            control.on_update(lambda _: self._autosave())
        add.on_click(guarded(session, self.add))
        edit.on_click(guarded(session, lambda: self.edit(str(edit.value))))
        preview.on_click(guarded(session, self.toggle_preview))
        files.on_click(guarded(session, lambda: self.file(str(files.value))))
        upload.on_upload(guarded(session, lambda: self.open(upload.value.content)))

    def add(self) -> None:
        """Adds the present view after the chosen keyframe."""
        index = self._index()
        self._remember()
        with self.lock:
            at = len(self.keyframes) if index is None else index + 1
            self.keyframes.insert(at, self._present())
        self._listed(at)

    def edit(self, what: str) -> None:
        """Looks through the chosen keyframe ("go to"), moves it to the view, removes it; "clear" asks, and removes all.

        "spread times" gives all of them times that go evenly from the clip's start to its end.
        """
        index = self._index()
        if what == "undo":
            if not self.earlier:
                raise UserError("there is nothing to undo")
            with self.lock:
                self.keyframes = self.earlier.pop()
            self._listed(None)
            return
        if what == "clear":
            self._ask_to_clear()
            return
        if what == "spread times":
            self._remember()
            with self.lock:
                # On the way home of a loop the clip goes on to its end.
                first, last = self._session.playback.span
                times = np.linspace(first, last, len(self.keyframes), endpoint=not self.loop.value).round(3).tolist()
                self.keyframes = [dataclasses.replace(key, time=at) for key, at in zip(self.keyframes, times)]
        elif index is None:
            raise UserError("select a keyframe first")
        elif what == "go to":
            self._go(self.keyframes[index])
            return
        elif what == "set to view":
            self._remember()
            self.keyframes[index] = self._present()
        elif what == "remove":
            self._remember()
            del self.keyframes[index]
        self._listed(index if index is not None and index < len(self.keyframes) else None)

    def _ask_to_clear(self) -> None:
        count = len(self.keyframes)
        if not count:
            raise UserError("there are no keyframes")
        gui = self._session.client.gui
        box = gui.add_modal("Remove all keyframes?")
        with box:
            gui.add_markdown(f"{count} in total; *undo* restores them.")
            remove, keep = gui.add_button("Remove all", color="red"), gui.add_button("Keep them")

        @remove.on_click
        def _(_: viser.GuiEvent) -> None:
            box.close()
            self.clear()

        keep.on_click(lambda _: box.close())

    def clear(self) -> None:
        """Removes all keyframes; `edit("undo")` brings them back."""
        self._remember()
        with self.lock:
            self.keyframes = []
        self._listed(None)

    def path(self) -> KeyframePath:
        """Returns the path as its file says it; raises `UserError` without keyframes."""
        with self.lock:
            keys = tuple(self.keyframes)
        if not keys:
            raise UserError("add a keyframe first")
        fps = float(self.fps.value)
        frames = max(round(float(self.seconds.value) * fps), 1)
        path = KeyframePath(
            keys, int(self.width.value), int(self.height.value), frames, fps, float(self.smoothness.value),
            bool(self.loop.value), self._offset(),
        )  # fmt: skip
        # Through the words of the file, so that what is drawn here is what the shell draws from it, to the bit.
        drawn = KeyframePath.from_dict(json.loads(json.dumps(path.to_dict())), "the path")
        return drawn.over(self._session.playback.span)

    def file(self, what: str) -> None:
        """Saves the path under its name, loads it from there, or offers it as a download."""
        workspace, name = self._session.workspace, str(self.name.value)
        if what == "download" or workspace.folder is None:
            self._session.download("path.json", self.path().save)
        elif what == "save":
            file = workspace.file("paths", name, ".json")
            self.path().save(file)
            shown = workspace.shown(file)
            self._session.tell("Path saved", str(shown))
            command = ["gaussian4d", "render", str(workspace.source), "--out", f"{name}.mp4", "--path", str(shown)]
            self.note.content, self.note.visible = f"`{shlex.join(command)}`", True
            self._list_saved()
        else:
            file = workspace.file("paths", name, ".json")
            if not file.exists():
                known = ", ".join(workspace.names("paths", ".json")) or "none yet"
                raise UserError(f"there is no path {name!r}; saved ones: {known}")
            self.show(KeyframePath.load(file))

    def open(self, content: bytes) -> None:
        """Takes the path of an uploaded file."""
        if len(content) > _LARGEST_UPLOAD:
            raise UserError(f"a path file must be smaller than a megabyte, this one has {len(content) / 1e6:.0f}")
        try:
            data = json.loads(content)
        except ValueError:
            raise UserError("this is not a path file: it is not JSON") from None
        self.show(KeyframePath.from_dict(data, "the file"))

    def _offset(self) -> tuple[float, float, float]:
        """Returns what the keyframes here are relative to."""
        x, y, z = offset_of(self._session.painter.model).tolist()
        return x, y, z

    def show(self, path: KeyframePath) -> None:
        """Takes a path as the present one."""
        path = path.relative_to(np.array(self._offset())).over(self._session.playback.span)
        with self.lock:
            self.keyframes = list(path.keyframes)
        self.smoothness.value, self.loop.value = path.smoothness, path.loop
        self.width.value, self.height.value = path.width, path.height
        self.fps.value = round(path.fps or float(self.fps.value))
        self.seconds.value = round(path.count / float(self.fps.value), 3)
        self._listed(0)

    def toggle_preview(self) -> None:
        """Flies along the path in this browser, or stops doing so."""
        if self._preview.is_set():
            self._preview.clear()
            return
        path = self.path()
        self._preview.set()
        self.preview.label = "Stop preview"
        self._show_drawn()
        threading.Thread(target=self._fly, args=(path,), name="viewer-preview", daemon=True).start()

    def keep_clear(self, view: View) -> None:
        """Hides what of the path would stand in the way of a view."""
        self._view = view
        self._show_drawn()

    def stop(self, wait: bool = False) -> None:
        """Ends preview and film."""
        self._preview.clear()
        self.film.stop(wait)

    def _fly(self, path: KeyframePath) -> None:
        cameras, fps, start = path.cameras(), path.fps or 24.0, time.monotonic()
        # By the clock, not by frames: a slow browser sees fewer pictures, not a slower film.
        while self._preview.is_set() and not self._session.closed:
            at = int((time.monotonic() - start) * fps)
            if at >= len(cameras):
                break
            camera, moment = cameras[at]
            self._session.jump(camera)
            self._session.timeline.go(moment)
            time.sleep(1.0 / min(fps, 24.0))
        self._preview.clear()
        self.preview.label = "Preview"
        self._show_drawn()

    def _present(self) -> Keyframe:
        """Returns the view of the browser as a keyframe."""
        view = self._session.view()
        if view is None:
            raise UserError("the browser has not sent its view yet")
        camera = self._session.painter.camera(view, 1.0)
        return Keyframe(camera.T_world_camera, min(max(math.degrees(view.fov), 1.0), 179.0), view.time)

    def _go(self, key: Keyframe) -> None:
        self._session.jump(self._camera(key))
        self._session.timeline.go(key.time)

    def _camera(self, key: Keyframe) -> Camera:
        width, height = int(self.width.value), int(self.height.value)
        single = KeyframePath((key,), width, height)
        return single.cameras(1)[0][0]

    def _replace(self, index: int, **changes: float) -> None:
        with self.lock:
            self.keyframes[index] = dataclasses.replace(self.keyframes[index], **changes)
        self._listed(index)

    def _index(self) -> int | None:
        """Returns which keyframe is chosen."""
        value = str(self.chosen.value)
        index = int(value) - 1 if value.isdigit() else -1
        return index if 0 <= index < len(self.keyframes) else None

    def _remember(self) -> None:
        """Keeps the keyframes as they are, for undo."""
        with self.lock:
            self.earlier = [*self.earlier[-49:], list(self.keyframes)]

    def put_back(self, keyframes: Sequence[Keyframe], earlier: Sequence[Sequence[Keyframe]]) -> None:
        """Takes the keyframes that this browser had before its page was loaded anew, and those for undo."""
        self.earlier = [list(each) for each in earlier]
        if keyframes:
            with self.lock:
                self.keyframes = list(keyframes)
            self._listed(None)

    def take_up(self) -> None:
        """Takes the keyframes that nobody saved before the viewer was ended, if there are any."""
        file = self._unsaved()
        if file is None or not file.is_file():
            return
        with contextlib.suppress(UserError, OSError):
            self.show(KeyframePath.load(file))

    def _unsaved(self) -> Path | None:
        folder = self._session.workspace.folder
        return None if folder is None else folder / "paths" / UNSAVED

    def _autosave(self) -> None:
        """Keeps the path beside the saved ones, so that it is there when the viewer is started again."""
        file = self._unsaved()
        if file is None:
            return
        # A run that cannot be written to can be looked at all the same.
        with contextlib.suppress(UserError, OSError):
            if self.keyframes:
                self.path().save(file)
            else:
                file.unlink(missing_ok=True)

    def _listed(self, chosen: int | None) -> None:
        """Shows the keyframes as they are now."""
        keys = self.keyframes
        options = tuple(str(k + 1) for k in range(len(keys))) or (_NEW,)
        self.chosen.options = options
        self.chosen.value = options[chosen if chosen is not None and chosen < len(options) else -1]
        # The same one chosen again may hold other values.
        self._show_chosen()
        lines = [f"{k + 1}. time {key.time:.3f}, fov {key.fov:.0f}" for k, key in enumerate(keys)]
        self._list.content = "  \n".join(lines) or "no keyframes yet"
        self._redraw()

    def _show_chosen(self) -> None:
        """Puts the chosen keyframe's values into its sliders."""
        index = self._index()
        if index is not None:
            key = self.keyframes[index]
            self.time.value, self.fov.value = key.time, key.fov

    def _list_saved(self) -> None:
        """Offers the paths there are in the run folder."""
        names = self._session.workspace.names("paths", ".json")
        self.saved.options, self.saved.value, self.saved.visible = (_CHOOSE, *names), _CHOOSE, bool(names)

    def _redraw(self) -> None:
        """Draws the path and its keyframes into the scene of this browser."""
        self._autosave()
        scene, units, colour = self._session.client.scene, self._session.painter.units, (60, 130, 220)
        with self.lock:
            for node, _ in self._drawn:
                node.remove()
            self._drawn = []
            if not self.keyframes:
                return
            for k, key in enumerate(self.keyframes):
                camera = self._camera(key)
                frustum = add_frustum(self._session, f"/path/{k}", camera, colour)
                self._drawn.append((frustum, outline(camera, units)[None]))
            path = self.path()
            if path.legs > 0:
                cameras = path.cameras(path.legs * _CURVE_POINTS)
                points = np.stack([units.viewer_from_world(camera.position) for camera, _ in cameras])
                curve = scene.add_spline_catmull_rom("/path/curve", points, closed=path.loop, color=colour)
                self._drawn.append((curve, points))
            self._show_drawn()

    def _show_drawn(self) -> None:
        """Shows what of the path is not in the way; nothing during the preview."""
        with self.lock:
            for node, points in self._drawn:
                near = self._view is not None and (
                    bool(in_the_way(points, self._view).any())
                    if points.ndim == 3
                    else np.linalg.norm(points - np.array(self._view.position), axis=1).min() < CLEAR
                )
                node.visible = not near and not self._preview.is_set()
