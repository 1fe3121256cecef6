"""`gaussian4d fit --view`: the fit in the browser while it runs; pause, go on, stop and save.

Registered under the entry-point group `gaussian4d.fit_hooks` as `view`. Without a browser that looks, a step costs one
comparison of a number; with one, the model is copied now and then, at most a twentieth of the time.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

import viser

from gaussian4d.errors import UserError
from gaussian4d.fitting.hooks import FitHook
from gaussian4d.framing import framing_of

from .curves import Curves
from .door import free_port
from .server import ViewerServer
from .workspace import Workspace

if TYPE_CHECKING:
    from gaussian4d.fitting.trainer import Trainer

_SECONDS = 2.0
_SHARE = 0.05


class LiveFit:
    """A fit hook that serves the model as it is.

    Args:
        host: address to serve on.
        port: port to serve on; the next free one is taken when it is busy.

    Raises `UserError` for an address that cannot be served, before the fit begins.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 8080) -> None:
        free_port(host, port)
        self._host, self._port = host, port
        self._refused = False
        self.server: ViewerServer | None = None
        self.paused = threading.Event()
        self.stopping = False
        self._next = 0.0

    def __call__(self, trainer: Trainer, event: str) -> None:
        """Takes an event of the fit, see `gaussian4d.fitting.hooks`."""
        if event == "after_step":
            if self.server is None and not self._refused:
                try:
                    self._open(trainer)
                except UserError as error:
                    # The address was free when the fit began; a fit does not end because nobody can look.
                    self._refused = True
                    print(f"view     not shown: {error}", file=sys.stderr, flush=True)
            if self.server is not None:
                self._step(trainer)
        elif event == "end" and self.server is not None:
            self._show(trainer)
            self._say("stopped; the model is saved" if trainer.progress < 1.0 else "done; evaluating")

    def wait(self) -> None:
        """Serves on until Ctrl-C; returns at once when nothing was ever served."""
        if self.server is None:
            return
        print(f"view     {self.server.url} stays open; Ctrl-C ends", flush=True)
        try:
            self.server.wait()
        except KeyboardInterrupt:
            print("closed")
        finally:
            self.close()

    def close(self) -> None:
        """Ends the web server."""
        if self.server is not None:
            self.server.stop()
            self.server = None

    def _open(self, trainer: Trainer) -> None:
        scene, model = trainer.scene, trainer.model()
        workspace = Workspace(trainer.out, trainer.out, scene)
        server = ViewerServer(
            model,
            list(scene.cameras.values()),
            rig=framing_of(model).rig,
            host=self._host,
            port=self._port,
            backend=trainer.config.backend,
            workspace=workspace,
        )
        gui = server.server.gui
        with gui.add_folder("Fit", order=-1.0):
            self.status = gui.add_markdown("")
            self.button = gui.add_button("Pause")
            self.stop = gui.add_button("Stop and save", color="red")
            self.curves = Curves(gui, trainer.out / "metrics.jsonl")

        @self.button.on_click
        def _(_: viser.GuiEvent) -> None:
            self.pause(not self.paused.is_set())

        @self.stop.on_click
        def _(_: viser.GuiEvent) -> None:
            self.stopping = True

        # Last: whoever sees the server finds its controls.
        self.server = server
        print(f"view     {server.url}", file=sys.stderr, flush=True)

    def pause(self, on: bool) -> None:
        """Holds the fit before its next step, or lets it go on."""
        if on:
            self.paused.set()
        else:
            self.paused.clear()
        self.button.label = "Go on" if on else "Pause"

    def _step(self, trainer: Trainer) -> None:
        assert self.server is not None
        if self.stopping:
            trainer.stop_requested = True
            self.paused.clear()
        # Asking for the browsers takes a lock, so even that only now and then.
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 0.25
            if self.server.sessions:
                self._show(trainer)
                self._next = now + max(_SECONDS, (time.monotonic() - now) / _SHARE)
        if self.paused.is_set():
            self._show(trainer)
            self._say("paused")
            while self.paused.is_set() and not self.stopping and not trainer.stop_requested:
                time.sleep(0.05)
            self._next = 0.0
            if self.stopping:
                trainer.stop_requested = True

    def _show(self, trainer: Trainer) -> None:
        assert self.server is not None
        self.server.show(trainer.model())
        self.curves.update()
        last = self.curves.rows[-1] if self.curves.rows else None
        figures = f", loss {last['loss']:.4f}, PSNR {last['psnr']:.2f}" if last else ""
        self._say(f"step {trainer.step}, {100 * trainer.progress:.0f} %{figures}")

    def _say(self, text: str) -> None:
        self.status.content = text


def hook() -> FitHook:
    """Returns a hook for one fit."""
    return LiveFit()
