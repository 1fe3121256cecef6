"""`gaussian4d view`: look at a scene in the browser. Registered under the entry-point group `gaussian4d.commands`."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import ClassVar

from tyro.conf import Positional

from gaussian4d.cli.choices import Several, Unset, Up
from gaussian4d.cli.fit import Backend
from gaussian4d.optional import require


@dataclasses.dataclass
class View:
    """View a run, a Gaussian file or a folder of frames in the browser; a running fit is followed live."""

    EXAMPLES: ClassVar[str] = """
        gaussian4d view runs/fox
        gaussian4d view fox.g4d --port 9000
    """

    source: Positional[Path]
    """Run folder (finished or not), Gaussian file, or folder of frames."""
    up: Unset[Up] = None
    """Up axis of the scene. Default: the one stored in the run or file."""
    scene: Unset[Path] = None
    """Scene folder of the run. Only needed if it was moved and is not beside the run folder."""
    port: int = 8080
    """Port of the web server; if it is in use, the next free one is taken."""
    host: str = "127.0.0.1"
    """Address to serve on; 127.0.0.1: this machine only, 0.0.0.0: the network, for anyone with the printed token."""
    allow_origin: Several[str] = ()
    """Further origins whose pages may use the viewer, such as that of a reverse proxy: https://hub.example.org."""
    device: str = "auto"
    """Device to render on: auto takes a GPU if a backend works on it, else cpu; or cuda, cuda:1, ..."""
    backend: Backend = "auto"
    """Rasterizer."""

    def run(self) -> None:
        """Serves until Ctrl-C."""
        # Read when torch is loaded. Threads that wait by spinning take the processor from those they wait for, where
        # others use it too, such as the fit that is looked at (docs/viewer.md).
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        require("viser")
        from .door import free_port, is_loopback, origin_of

        # Before a large model is loaded for nothing.
        free_port(self.host, self.port)
        origins = [origin_of(text) for text in self.allow_origin]
        from gaussian4d.cli.opened import open_model
        from gaussian4d.cli.placing import placed

        from .follow import Follower
        from .server import ViewerServer
        from .workspace import Workspace

        place = placed(self.device, self.backend)
        opened = open_model(self.source, newest=True, scene=self.scene, up=self.up)
        server = ViewerServer(
            opened.model,
            opened.recorded,
            rig=opened.framing.rig,
            host=self.host,
            port=self.port,
            allow_origins=origins,
            background=opened.background,
            backend=place.backend,
            device=place.device,
            workspace=Workspace(self.source, self.source if opened.is_run else None, opened.scene),
        )
        print(f"viewing {self.source}: {len(opened.model):,} Gaussians, motion {opened.model.motion.name}")
        for note in opened.notes:
            print(f"note    {note}")
        print(f"open    {server.url}   (Ctrl-C ends)")
        if not is_loopback(self.host):
            reach = f"{self.host}:{server.port}"
            print(f"public  anyone who reaches {reach} and has the token can view, and write videos into the run")
        # A server on one address of this machine is not reached by the name localhost.
        there = "localhost" if self.host in ("127.0.0.1", "0.0.0.0", "") else server.door.name(self.host)
        print(
            f"remote  ssh -L {server.port}:{there}:{server.port} THIS_MACHINE, then open {server.remote_url}",
            flush=True,
        )
        follower = Follower(server, self.source, opened.scene) if opened.is_run and opened.scene is not None else None
        try:
            server.wait()
        except KeyboardInterrupt:
            # The way to end it that we print, so no failure.
            print("closed")
        finally:
            if follower is not None:
                follower.stop()
            server.stop()
