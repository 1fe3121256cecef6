"""Following a run that another process is fitting: new models and figures appear on the page by themselves."""

from __future__ import annotations

import threading
from pathlib import Path

from gaussian4d.errors import UserError
from gaussian4d.fitting.snapshot import newest_file, snapshot
from gaussian4d.run_folder import RunFolder
from gaussian4d.scene import Scene

from .curves import Curves
from .server import ViewerServer

_SECONDS = 2.0


class Follower:
    """Looks at a run folder every two seconds and shows what is new in it.

    Args:
        server: what shows it.
        run: run folder.
        scene: the scene of the run.
        seconds: between two looks.
    """

    def __init__(self, server: ViewerServer, run: Path, scene: Scene, seconds: float = _SECONDS) -> None:
        self._server, self._run, self._scene, self._seconds = server, run, scene, seconds
        self._ended = threading.Event()
        self._seen = self._mark()
        # Of a fit that is over the curves are no news.
        going_on = not RunFolder(run).finished
        with server.server.gui.add_folder("Fit", order=-1.0, expand_by_default=going_on):
            self.status = server.server.gui.add_markdown("")
            self.curves = Curves(server.server.gui, run / "metrics.jsonl")
        self.curves.update()
        self._tell()
        self._thread = threading.Thread(target=self._watch, name="viewer-follow", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()

    def look(self) -> bool:
        """Shows what is new; returns whether there was a new model."""
        if self.curves.update():
            self._tell()
        mark = self._mark()
        if mark is None or mark == self._seen:
            return False
        self._server.show(snapshot(self._run, self._scene))
        self._seen = mark
        return True

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds):
            try:
                self.look()
            except (UserError, OSError) as error:
                # A file that is being replaced; the next look finds the new one.
                self.status.content = f"temporarily unreadable: {error}"

    def _tell(self) -> None:
        if self.curves.rows:
            last = self.curves.rows[-1]
            self.status.content = f"step {last['step']:.0f}, loss {last['loss']:.4f}, PSNR {last['psnr']:.2f}"

    def _mark(self) -> tuple[str, int] | None:
        file = newest_file(self._run)
        try:
            return None if file is None else (file.name, file.stat().st_mtime_ns)
        except FileNotFoundError:
            return None
