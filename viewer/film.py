"""Films from the page: the path rendered by the render desk in a thread, with progress, into the run's renders."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import viser

from gaussian4d.desk import Desk, Shot, render_to

from .camera_panel import guarded

if TYPE_CHECKING:
    from .session import Session

PATIENCE = 10.0
"""Seconds that an end waits for a thread which is still drawing."""
_ENDINGS = (".mp4", ".webm", ".gif")


@dataclasses.dataclass
class _Job:
    """One film that is being made."""

    desk: Desk
    fps: float
    out: Path | None
    stopped: bool = False


class Film:
    """The film controls of one browser."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._job: _Job | None = None
        self._thread: threading.Thread | None = None

    def add_controls(self, gui: viser.GuiApi) -> None:
        """Adds format, start and stop, and a progress bar."""
        self.ending = gui.add_dropdown("format", _ENDINGS, initial_value=".mp4")
        self.button = gui.add_button("Render film", hint="writes into RUN/renders; click again to stop")
        self.bar = gui.add_progress_bar(0.0, visible=False)
        self.status = gui.add_markdown("")
        self.button.on_click(guarded(self._session, self.toggle))

    def toggle(self) -> None:
        """Starts the film, or stops it."""
        if self._job is not None:
            self._job.stopped = True
            return
        session = self._session
        path = session.path.path()
        view = session.view()
        background = (view.background if view is not None else None) or session.painter.background
        behind = None if background is None else (background[0], background[1], background[2])
        output = view.output if view is not None else "rgb"
        shot = Shot((output,), background=behind, backend=session.painter.backend)
        model = session.painter.cropped(session.crop.active)
        out = None
        if session.workspace.folder is not None:
            out = session.workspace.file("renders", str(session.path.name.value), str(self.ending.value))
        desk = Desk(model, path.cameras(), shot, lock=session.painter.lock)
        self._job = _Job(desk, path.fps or 24.0, out)
        self.button.label = "Stop film"
        self.bar.value, self.bar.visible = 0.0, True
        self._thread = threading.Thread(target=self._render, args=(self._job,), name="viewer-film", daemon=True)
        self._thread.start()

    def stop(self, wait: bool = False) -> None:
        """Ends the film after the picture it is drawing."""
        if self._job is not None:
            self._job.stopped = True
        if wait and self._thread is not None:
            self._thread.join(PATIENCE)

    def _render(self, job: _Job) -> None:
        began = time.monotonic()

        def progress(done: int, total: int) -> None:
            left = (time.monotonic() - began) / done * (total - done)
            self.bar.value = 100.0 * done / total
            # On the button, too: what is below it may be out of sight.
            self.button.label = f"Stop film ({done} of {total}, {left:.0f} s left)"
            self.status.content = f"frame {done} of {total}, {left:.0f} s left"

        with contextlib.ExitStack() as stack:
            try:
                out = job.out
                if out is None:
                    out = Path(stack.enter_context(tempfile.TemporaryDirectory())) / f"film{self.ending.value}"
                written = render_to(out, job.desk, job.fps, resume=True, progress=progress, stop=lambda: job.stopped)
                if not written:
                    self.status.content = "stopped; starting again continues from here"
                elif job.out is None:
                    self._session.client.send_file_download(out.name, out.read_bytes(), save_immediately=True)
                    self.status.content = "done"
                else:
                    file = self._session.workspace.shown(out)
                    self.status.content = f"wrote {file}"
                    self._session.tell("Film written", str(file))
            except Exception as error:
                self.status.content = f"rendering failed: {error}"
        self._job = None
        self.button.label, self.bar.visible = "Render film", False
