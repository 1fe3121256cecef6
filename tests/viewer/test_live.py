"""A fit that is looked at while it runs, in its own process and from another one."""

from __future__ import annotations

import importlib
import os
import socket
import threading
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from viewer_helpers import wait_until

pytest.importorskip("viser")

from gaussian4d import fit
from gaussian4d.cli import main
from gaussian4d.errors import UserError
from gaussian4d.fitting.snapshot import snapshot
from gaussian4d.model import load_model
from gaussian4d.plugins import FIT_HOOKS
from gaussian4d.scene import Scene, load_scene
from gaussian4d.toys import write_scene
from viewer.curves import Curves
from viewer.follow import Follower
from viewer.live import LiveFit
from viewer.server import ViewerServer


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("live") / "toy"
    write_scene(folder, 0, 4, 1, 3, width=24, height=24, samples=1, threads=1)
    return load_scene(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RunningFit:
    """A fit in a thread, with the hook and the trainer at hand."""

    def __init__(self, scene: Scene, out: Path) -> None:
        self.hook, self.trainer, self.result = LiveFit(port=free_port()), None, None
        self.thread = threading.Thread(target=self._run, args=(scene, out), daemon=True)
        self.thread.start()
        assert wait_until(lambda: self.hook.server is not None and self.trainer is not None, 60)

    def _run(self, scene: Scene, out: Path) -> None:
        self.result = fit(scene, out=out, max_steps=10**6, callbacks=[self.hook, self._see], log_every=5)

    def _see(self, trainer, event: str) -> None:
        self.trainer = trainer

    def end(self) -> None:
        self.hook.stopping = True
        self.thread.join(60)
        self.hook.close()


def test_a_fit_is_watched_paused_and_stopped(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    real = ViewerServer.show
    monkeypatch.setattr(ViewerServer, "show", lambda self, model: (shown.append(len(model)), real(self, model)))
    began = time.monotonic()
    running = RunningFit(scene, tmp_path / "run")
    hook, trainer = running.hook, running.trainer
    try:
        first = trainer.step
        assert wait_until(lambda: trainer.step > first + 20, 60)
        assert shown == [], "nobody looks, so nothing is copied"
        monkeypatch.setattr(ViewerServer, "sessions", property(lambda self: [SimpleNamespace(request=lambda: None)]))
        assert wait_until(lambda: shown and "loss" in hook.status.content, 60)
        hook.pause(True)
        assert wait_until(lambda: hook.status.content == "paused")
        step = trainer.step
        time.sleep(1.0)
        assert trainer.step == step and hook.button.label == "Go on"
        hook.pause(False)
        assert wait_until(lambda: trainer.step > step, 60)
    finally:
        monkeypatch.setattr(ViewerServer, "sessions", property(lambda self: []))
        running.end()
    assert running.result.interrupted and "saved" in hook.status.content
    assert (tmp_path / "run" / "model.g4d").exists()
    # The second of the pause is none of the fit.
    assert trainer.elapsed - 0.9 < load_model(tmp_path / "run").meta["fit"]["seconds"] + 0.5 < time.monotonic() - began


def test_the_hook_is_registered_where_fit_looks_for_it() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"][FIT_HOOKS.group]["view"].split(":")
    made = getattr(importlib.import_module(module), name)
    assert isinstance(made(), LiveFit) and made() is not made()


def test_a_fit_without_a_terminal_ends_its_server(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hook, ports = LiveFit(port=free_port()), []
    monkeypatch.setattr("gaussian4d.cli.fit._view_hook", lambda: hook)
    real = hook._open
    monkeypatch.setattr(hook, "_open", lambda trainer: (real(trainer), ports.append(hook.server.port)))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    assert main(["fit", str(scene.path), "--out", str(tmp_path / "run"), "--max-steps", "5", "--view"]) == 0
    assert hook.server is None and len(ports) == 1
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", ports[0])) != 0
    assert "Traceback" not in capfd.readouterr().err


def test_an_address_that_cannot_be_served_is_said_before_the_fit_and_never_ends_it(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for address in ({"port": 99999}, {"host": "192.0.2.1"}):
        with pytest.raises(UserError):
            LiveFit(**address)
    hook = LiveFit(port=free_port())

    def taken(*_: object) -> None:
        raise UserError("no port is free")

    monkeypatch.setattr("viewer.server.listening", taken)
    fit(scene, out=tmp_path / "run", max_steps=5, callbacks=[hook])
    assert (tmp_path / "run" / "model.g4d").exists() and hook.server is None
    assert capfd.readouterr().err.count("no port is free") == 1


def test_a_paused_fit_can_be_stopped(scene: Scene, tmp_path: Path) -> None:
    running = RunningFit(scene, tmp_path / "run")
    running.hook.pause(True)
    running.end()
    assert not running.thread.is_alive() and running.result.interrupted


def test_a_run_is_followed(scene: Scene, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match="no checkpoint yet"):
        snapshot(run, scene)
    fit(scene, out=run, max_steps=20, checkpoint_every=10, log_every=5)
    finished, file = load_model(run), run / "model.g4d"
    (run / "model.g4d").rename(run / "kept")
    # The last checkpoint holds what the finished model does, in the world's units.
    model = snapshot(run, scene)
    assert model.meta["fit"]["steps"] == 20 and model.near == pytest.approx(finished.near)
    assert all(torch.equal(model.params[name], value) for name, value in finished.params.items())
    server = ViewerServer(model, list(scene.cameras.values()), port=free_port())
    follower = Follower(server, run, scene, seconds=1e6)
    try:
        assert "step 20" in follower.status.content and not follower.look()
        (run / "kept").rename(file)
        later = time.time() + 10
        os.utime(file, (later, later))
        with (run / "metrics.jsonl").open("a") as lines:
            lines.write('{"step": 30, "loss": 0.5, "psnr": 12.5}\n{"step": 40, "lo')
        assert follower.look() and "step 30, loss 0.5000, PSNR 12.50" in follower.status.content
        assert server._painter.model is not model
    finally:
        follower.stop()
        server.stop()


def test_curves_read_every_line_once_and_begin_anew_with_the_file(tmp_path: Path) -> None:
    chart = SimpleNamespace(data=None, visible=False)
    gui = SimpleNamespace(add_uplot=lambda *_, **__: chart)
    file = tmp_path / "metrics.jsonl"
    curves = Curves(gui, file)  # type: ignore[arg-type]
    assert not curves.update()
    file.write_text('{"step": 1, "loss": 2, "psnr": 3}\nnonsense\n{"step": 2, "loss": 1, "psnr": 4}\n{"step": 3')
    assert curves.update() and [row["step"] for row in curves.rows] == [1, 2] and chart.visible
    with file.open("a") as more:
        more.write(', "loss": 1, "psnr": 5}\n')
    assert curves.update() and [row["step"] for row in curves.rows] == [1, 2, 3] and not curves.update()
    file.write_text('{"step": 1, "loss": 2, "psnr": 3}\n')
    assert curves.update() and [row["step"] for row in curves.rows] == [1]
