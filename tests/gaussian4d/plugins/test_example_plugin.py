"""The package of docs/extending.md, installed by pip into a folder, and everything it brings used from the shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import gaussian4d as g4
from gaussian4d.cli import main
from gaussian4d.cli.app import load_commands
from gaussian4d.plugins import STRATEGIES, TERMS, forget_installed
from gaussian4d.toys import write_scene

ROOT = Path(__file__).resolve().parents[3]
PLUGIN = ROOT / "docs" / "examples" / "plugin"

NEEDS = (
    "this run needs the motion model 'oscillator' from the package gaussian4d-oscillator 0.3.0, which is not installed"
)
FIT = ["--motion", "oscillator", "--strategy", "fixed-rate", "--metrics", "mae", "--set", "loss.depth-smoothness=0.5"]
FAST = ["init.points=200", "densify.start=0", "densify.stop=1", "densify.every=5", "densify.max_gaussians=400"]
FAST += ["keep.checkpoint_every=10", "keep.log_every=10"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(*folders: Path) -> dict[str, str]:
    """Returns the environment of a fresh process that finds packages in `folders`, too."""
    path = [*map(str, folders), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(path), OMP_NUM_THREADS="1")


def shell(env: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gaussian4d", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package."""
    folder = tmp_path_factory.mktemp("pip")
    # Building leaves folders beside the sources.
    shutil.copytree(PLUGIN, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", folder / "site", folder / "source"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}\n(setuptools, which torch asks for, must be 77 or newer)"
    return folder / "site"


@pytest.fixture(scope="module")
def run(site: Path) -> Run:
    """Runs a command in a fresh process with the package; it must succeed."""

    def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        done = shell(environment(site), *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return command


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package is here, too: what needs no fresh process is quicker without one."""
    # The choices of a flag are made when its command is imported, and are not to know the package afterwards.
    load_commands()
    monkeypatch.syspath_prepend(str(site))
    forget_installed()
    yield
    monkeypatch.undo()
    forget_installed()
    for name in [name for name in sys.modules if name.startswith("gaussian4d_oscillator")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene in the package's own layout."""
    folder = tmp_path_factory.mktemp("data")
    toy = g4.load_scene(write_scene(folder / "toy", 0, 4, 1, 3, width=24, height=24, samples=1, threads=1))
    cameras = []
    for frame in toy.frames("all"):
        (folder / "book" / frame.camera_id).mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.image).save(folder / "book" / frame.camera_id / f"{frame.time_index:04d}.png")
        if frame.time_index == 0:
            camera = frame.camera
            stated = {"width": camera.width, "height": camera.height, "focal": camera.K[0, 0], "split": frame.split}
            cameras.append({"id": camera.id, **stated, "world_to_camera": camera.viewmat.tolist()})
    (folder / "book" / "flipbook.json").write_text(json.dumps({"fps": 10, "cameras": cameras}), encoding="ascii")
    return folder / "book"


@pytest.fixture(scope="module")
def fitted(book: Path, site: Path, run: Run, cpu_backend: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped by Ctrl-C and has gone on to its end."""
    out = tmp_path_factory.mktemp("runs") / "run"
    sharper = ["--set", "loss.settings.depth-smoothness.sharpness=20", "--max-steps", "100000"]
    command = ["fit", book, "--out", out, *FIT, *sharper, *(word for one in FAST for word in ("--set", one))]
    program = subprocess.Popen(
        [sys.executable, "-m", "gaussian4d", *map(str, command)],
        env=environment(site),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(out.glob("checkpoints/*.safetensors")):
            assert program.poll() is None and time.monotonic() < deadline, program.communicate()[1]
            time.sleep(0.05)
        program.send_signal(signal.SIGINT)
        said = program.communicate(timeout=60)[1]
    finally:
        program.kill()
    assert program.returncode == 130 and "--resume" in said
    # It would go on to step 100000.
    stopped = step_of(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config["fit"]["max_steps"] = stopped + 20
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    resumed = run("fit", book, "--out", out, "--resume", "--metrics", "mae")
    assert f"resumed at step {stopped}" in resumed.stderr and step_of(out) == stopped + 20
    return out


def step_of(out: Path) -> int:
    return max(int(path.stem.split("_")[1]) for path in out.glob("checkpoints/*.safetensors"))


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_reader_reads(installed: None, book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(book)]) == 0
    said = capsys.readouterr().out
    assert "format     flipbook" in said and "12 train, 3 test" in said and "none found" in said


def test_the_run_records_what_it_used(fitted: Path) -> None:
    settings = json.loads((fitted / "config.json").read_text(encoding="utf-8"))["fit"]
    used = {(one["group"], one["name"], one["package"], one["version"]) for one in settings["plugins"]}
    names = {"motions": "oscillator", "strategies": "fixed-rate", "terms": "depth-smoothness"}
    assert used == {(f"gaussian4d.{group}", name, "gaussian4d-oscillator", "0.3.0") for group, name in names.items()}
    assert settings["loss"]["weights"]["depth-smoothness"] == 0.5


def test_term_strategy_and_motion_do_their_work(fitted: Path) -> None:
    lines = lines_of(fitted)
    assert all(0.0 < line["terms"]["depth-smoothness"] < 1.0 for line in lines)
    # Twice a twelfth more by step 10, and on to what is allowed; our own strategy waits for gradients.
    counts = [line["gaussians"] for line in lines]
    assert 200 < counts[0] <= 240 and counts == sorted(counts) and counts[0] < counts[-1] <= 400


def test_the_metric_is_taken(fitted: Path, run: Run) -> None:
    said = run("eval", fitted, "--metrics", "mae").stdout
    figures = json.loads((fitted / "eval" / "metrics.json").read_text(encoding="utf-8"))
    assert 0.0 < figures["metrics"]["mae"] < 128.0 and "mae" in said
    assert figures["metric_info"]["mae"]["package"] == "gaussian4d-oscillator"


def test_the_path_is_rendered(fitted: Path, run: Run, tmp_path: Path) -> None:
    size = ["--width", "32", "--fps", "3", "--seconds", "1"]
    run("render", fitted, "--path", "figure-eight", "--out", tmp_path / "frames", *size)
    pictures = [Image.open(path) for path in sorted((tmp_path / "frames").glob("**/*.png"))]
    assert len(pictures) == 3 and pictures[0].size == (32, 32)
    assert pictures[0].tobytes() != pictures[1].tobytes()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_it_is_viewed(fitted: Path, site: Path) -> None:
    pytest.importorskip("viser")
    command = [sys.executable, "-m", "gaussian4d", "view", str(fitted), "--port", str(free_port())]
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(site)
    )
    try:
        assert program.stdout is not None
        said = []
        for line in program.stdout:
            said.append(line)
            if line.startswith("open"):
                break
        assert any("motion oscillator" in line for line in said), said
        with urllib.request.urlopen(said[-1].split()[1], timeout=30) as response:
            assert response.status == 200 and b"<html" in response.read().lower()
    finally:
        program.kill()
        program.communicate()


def test_the_format_holds_the_model(
    fitted: Path, run: Run, installed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run("export", fitted, "--to", tmp_path / "a.raw4d").stdout
    assert "motion oscillator" in said
    run("convert", tmp_path / "a.raw4d", tmp_path / "b.g4d")
    assert main(["info", str(tmp_path / "a.raw4d")]) == 0
    told = capsys.readouterr().out
    assert "raw float32 with a JSON header" in told and "motion oscillator" in told and "swings per clip" in told
    # To the bit; what the format has no room for, such as how the fit went, is in our own file alone.
    a, b = g4.load_model(fitted), g4.load_model(tmp_path / "b.g4d")
    assert a.params.keys() == b.params.keys() and all(torch.equal(a.params[name], b.params[name]) for name in a.params)
    assert torch.equal(a.at(0.3).means, b.at(0.3).means) and not torch.equal(a.at(0.3).means, a.at(0.6).means)
    assert a.background is not None and b.background is not None and torch.equal(a.background, b.background)
    assert a.near == b.near and a.times is not None and (a.times == b.times).all() and a.fps == b.fps == 10.0


def test_the_stage_sends_a_fit_on_and_the_hook_listens(installed: None, book: Path, tmp_path: Path) -> None:
    settings = {"init.points": 100, "densify.every": 5, "loss.depth-smoothness": 0.5}
    how: dict[str, Any] = {"motion": "oscillator", "strategy": "fixed-rate", "settings": settings, "evaluate": False}
    out = tmp_path / "run"
    g4.fit(g4.load_scene(book), out=out, max_steps=20, stages=["polish"], callbacks=["counts"], **how)
    assert json.loads((out / "stages" / "polish" / "stage.json").read_text())["settings"]["max_steps"] == 22
    assert "polish: the worst picture is" in (out / "log.txt").read_text() and step_of(out) == 22
    counts = (out / "counts.csv").read_text(encoding="ascii").splitlines()
    assert counts[0] == "step,gaussians" and len(counts) > 2


def test_objects_take_the_place_of_names(
    installed: None, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gaussian4d_oscillator.motion import Oscillator, OscillatorConfig  # type: ignore[import-not-found]
    from gaussian4d_oscillator.strategy import FixedRate  # type: ignore[import-not-found]
    from gaussian4d_oscillator.term import DepthSmoothness  # type: ignore[import-not-found]

    scene, asked = g4.load_scene(book), []
    usual = DepthSmoothness.__call__

    def watched(self: Any, step: g4.Step) -> torch.Tensor:
        asked.append(self.sharpness)
        return usual(self, step)

    monkeypatch.setattr(DepthSmoothness, "__call__", watched)
    try:
        for turn in ("a", "b"):
            # An object with settings of its own counts, not the class that the package registers under the name.
            objects: dict[str, Any] = {
                "motion": Oscillator(OscillatorConfig(2.5)),
                "strategy": FixedRate(),
                "terms": {"depth-smoothness": DepthSmoothness(3.0)},
            }
            run = g4.fit(scene, out=tmp_path / turn, max_steps=2, settings={"init.points": 50}, **objects)
            assert run.model.motion.config == OscillatorConfig(2.5)
        stated = {one["name"]: one for one in g4.RunFolder(tmp_path / "b").config().plugins}
    finally:
        TERMS.unregister("depth-smoothness")
        STRATEGIES.unregister("FixedRate")
    assert asked == [3.0] * 4
    with pytest.raises(
        g4.UserError, match="'FixedRate' from the package gaussian4d_oscillator, which is not here; give"
    ):
        g4.RunFolder(tmp_path / "b").config()
    assert stated["oscillator"]["version"] == "0.3.0" and stated["FixedRate"]["package"] == "gaussian4d_oscillator"


def test_the_listing_shows_it_all(
    installed: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main(["doctor", "--plugins"])
    rows = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    ours = {(row[0], row[1], row[3]) for row in rows if len(row) == 4 and row[2] == "gaussian4d-oscillator 0.3.0"}
    kinds = {
        "motion model": "oscillator",
        "term": "depth-smoothness",
        "strategy": "fixed-rate",
        "reader": "flipbook",
        "metric": "mae",
        "camera path": "figure-eight",
        "format": "raw4d",
        "fit hook": "counts",
        "fit stage": "polish",
    }
    assert ours == {(kind, name, "ok") for kind, name in kinds.items()}


@pytest.mark.parametrize("command", ["render", "view", "fit", "export"])
def test_without_the_package_a_run_says_what_it_needs(
    fitted: Path, book: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {
        "render": [fitted, "--out", tmp_path / "a.mp4"],
        "view": [fitted],
        "fit": [book, "--out", fitted, "--resume"],
        "export": [fitted, "--to", tmp_path / "a.ply"],
    }
    if command == "fit":
        done = shell(environment(), command, *arguments[command])
        code, said = done.returncode, done.stderr
    else:
        code, said = main([command, *map(str, arguments[command])]), capsys.readouterr().err
    assert code == 2 and NEEDS in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda data: data[:-4], "promises"),
        (lambda data: data + b"1234", "promises"),
        (lambda data: b"raw4d 2\n" + data[8:], "not a raw4d file"),
        (lambda data: data.replace(b'"means": [', b'"means": [1000000000000, ', 1), "promises"),
        (lambda data: data.replace(b'"means": [', b'"means": [-1, ', 1), "damaged header"),
        (lambda data: data.replace(b'"amplitudes"', b'"altitudes!"', 1), "expected the tensor amplitudes"),
        (lambda data: data.replace(b'"config": {', b'"config": {"no": 1, ', 1), "has no setting no"),
        (lambda data: data[:30], "damaged header"),
    ],
)
def test_a_damaged_file_is_refused(
    installed: None, tmp_path: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    motion = g4.make_motion("oscillator")
    still = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (3, 3)}
    params = {name: torch.rand(5, *shape) for name, shape in still.items()} | motion.init(5)
    model = g4.DynamicGaussians(params, motion)
    model.save(tmp_path / "a.raw4d")
    assert torch.equal(g4.load_model(tmp_path / "a.raw4d").at(0.4).means, model.at(0.4).means)
    (tmp_path / "b.raw4d").write_bytes(change((tmp_path / "a.raw4d").read_bytes()))
    with pytest.raises(g4.UserError, match=reason):
        g4.load_model(tmp_path / "b.raw4d")


def test_the_commands_of_the_page_are_taken(site: Path) -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="ascii")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("gaussian4d ")]
    assert len(lines) > 10
    # Names of plugins are known to a process from its start.
    script = """
import shlex, sys
from gaussian4d.cli.app import load_commands, parse
for line in sys.stdin:
    assert parse(shlex.split(line, comments=True)[1:], load_commands()) is not None, line
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, env=environment(site))
    assert done.returncode == 0, done.stderr
