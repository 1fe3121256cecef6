"""What the system refuses is one line and exit code 2, before the work starts where it can be known."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gaussian4d.cli import main
from gaussian4d.errors import UserError
from gaussian4d.files import atomic_write
from gaussian4d.folders import atomic_folder
from gaussian4d.io.registry import write_model
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import Static
from gaussian4d.system import check_writable
from gaussian4d.toys import write_scene


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = torch.Generator().manual_seed(0)
    params = {
        "means": torch.rand(20, 3, generator=rng), "quats": torch.rand(20, 4, generator=rng),
        "scales": torch.full((20, 3), -3.0), "opacities": torch.zeros(20),
        "sh0": torch.rand(20, 1, 3, generator=rng), "shN": torch.zeros(20, 0, 3),
    }  # fmt: skip
    write_model(tmp_path / "a.g4d", DynamicGaussians(params, Static()))
    return tmp_path / "a.g4d"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "scene"
    write_scene(folder, 0, 3, 2, 4, width=48, height=32, samples=1, threads=1)
    return folder


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    lines = [line for line in (said.err + said.out).splitlines() if line.startswith("error")]
    assert len(lines) == 1
    return lines[0]


def commands(model: Path, toy: Path) -> dict[str, list[str]]:
    """Returns each command that writes, without where to."""
    return {
        "fit": ["fit", str(toy), "--max-steps", "2", "--out"],
        "convert": ["convert", str(model)],
        "export": ["export", str(model), "--to"],
        "render": ["render", str(model), "--out"],
        "prepare": ["prepare", str(toy), "--out"],
        "demo": ["demo", "--out"],
        "generate": ["generate", "--text", "a red ball", "--out"],
    }


@pytest.mark.parametrize("command", ["fit", "convert", "export", "render", "prepare", "demo", "generate"])
@pytest.mark.parametrize("target", ["file/x.splat", "n" * 300 + ".splat"])
def test_an_impossible_target_is_said_before_the_work(
    command: str, target: str, model: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("")
    from gaussian4d.plugins import COMMANDS

    monkeypatch.setattr(COMMANDS.get(command), "run", lambda self: pytest.fail("the work has begun"))
    assert main([*commands(model, toy)[command], str(tmp_path / target)]) == 2
    assert "cannot be written" in one_line(capsys)
    assert not list(tmp_path.rglob("*partial*"))


def test_what_stands_at_the_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="expected a folder"):
        check_writable(tmp_path / "file", folder=True)
    with pytest.raises(UserError, match="expected a file"):
        check_writable(tmp_path, folder=False)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(UserError, match="is broken"):
        check_writable(tmp_path / "circle" / "x")
    check_writable(tmp_path / "new" / "deeper" / "file.ply", folder=False)
    assert not (tmp_path / "new").exists()


def test_no_permission_and_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(UserError, match="no permission"):
            check_writable(tmp_path / "x")
    full = type("usage", (), {"total": 2000, "free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(UserError, match="no space"):
        check_writable(tmp_path / "x")
    # Some network disks and /proc do not tell their size; that is no sign that they are full.
    full.total = full.free = 0  # type: ignore[attr-defined]
    check_writable(tmp_path / "x")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.EDQUOT])
def test_writing_that_fails_names_the_target_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    def fails(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))

    with (
        pytest.raises(UserError, match=f"a.ply cannot be written: {os.strerror(number)};"),
        atomic_write(tmp_path / "a.ply") as temporary,
    ):
        fails(temporary)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), atomic_folder(tmp_path / "file" / "x"):
        pytest.fail("there is no place to write")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_error_of_what_is_read_meanwhile_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), atomic_write(tmp_path / "a.ply"):
        (tmp_path / "missing").read_bytes()


@pytest.mark.parametrize(
    "make", [Path.mkdir, lambda path: path.symlink_to(path), os.mkfifo], ids=["dir", "loop", "fifo"]
)
@pytest.mark.parametrize("command", [["info"], ["render", "--out", "x.mp4"], ["convert"]], ids=lambda words: words[0])
def test_unreadable_inputs(
    command: list[str], make: Callable[[Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "a.ply")
    words = [command[0], "a.ply", *command[1:], *(["b.splat"] if command[0] == "convert" else [])]
    assert main(words) == 2
    one_line(capsys)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--width 100000 --height 100000", "100000x100000 are too large"),
        ("--width 20000 --height 16", "20000x16 are too large"),
        ("--width 6000 --height 16 --buffers rgb depth alpha", "18000x16 are too large"),
        ("--seconds inf", "--seconds must be positive and finite"),
        ("--seconds 1e9", "more than 1,000,000 frames"),
        ("--fps 1e6 --seconds 1e-6", "0.01 to 1000 frames per second"),
    ],
)
def test_videos_that_nobody_could_play(
    flags: str, said: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = [] if "--width" in flags else ["--width", "16", "--height", "16"]
    assert main(["render", str(model), "--out", str(tmp_path / "a.mp4"), *flags.split(), *size]) == 2
    assert said in one_line(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.g4d"]


@pytest.mark.parametrize("words", [["info", ""], ["convert", "a.g4d", ""], ["render", "a.g4d", "--out="]])
def test_an_empty_argument_is_no_folder(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "an argument is empty" in one_line(capsys)


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["info", "a.g4d"]])
def test_output_that_nobody_can_take(words: list[str], model: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gaussian4d", *words], stdout=full, stderr=subprocess.PIPE, cwd=model.parent
        )
    assert done.returncode == 2 and done.stderr.startswith(b"error: No space left on device")


def test_a_bug_is_no_error_of_the_system(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    from gaussian4d.cli.info import Info

    def bug(self: Info) -> int:
        raise KeyError("a bug")

    monkeypatch.setattr(Info, "run", bug)
    with pytest.raises(KeyError):
        main(["info", str(model)])


def run(*words: str | Path, **more: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more.pop("env", {})}  # type: ignore[dict-item]
    command = [sys.executable, "-m", "gaussian4d", *map(str, words)]
    return subprocess.run(command, capture_output=True, env=environment, timeout=120, **more)  # type: ignore[call-overload]


def test_a_disk_that_fills_up_during_a_fit(toy: Path, tmp_path: Path) -> None:
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    done = run("fit", toy, "--out", tmp_path / "run", "--max-steps", "3", preexec_fn=limit)
    said = done.stderr.decode()
    assert done.returncode == 2 and "Traceback" not in said
    assert "cannot be written" in said.splitlines()[-1]
    assert not list(tmp_path.rglob("*partial*"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "cp437"])
def test_any_encoding_of_the_output(encoding: str, tmp_path: Path, model: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9 \xe6\x88\xbf.g4d")
    shutil.copyfile(model, odd)
    for words in (["--help"], ["info", odd], ["info", tmp_path / "\u623f\u95f4.g4d"]):
        done = run(*words, env={"PYTHONIOENCODING": encoding})
        assert b"Traceback" not in done.stderr and done.returncode == (
            0 if words[-1] != tmp_path / "\u623f\u95f4.g4d" else 2
        )


def test_a_folder_whose_name_is_no_text(toy: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9 <b>&")
    shutil.copytree(toy, odd)
    done = run("fit", odd, "--out", tmp_path / os.fsdecode(b"r\xe9sultat"), "--max-steps", "3")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / os.fsdecode(b"r\xe9sultat")
    assert b"caf\xe9" in (folder / "log.txt").read_bytes() + done.stderr
    assert b"<b>&" not in (folder / "report.html").read_bytes()
    assert run("info", folder).returncode == 0


def test_sigterm_removes_what_is_half_written(toy: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "gaussian4d",
        "fit",
        str(toy),
        "--out",
        str(tmp_path / "run"),
        "--max-steps",
        "100000",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        end = time.monotonic() + 60
        while not (tmp_path / "run" / "metrics.jsonl").exists() and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1].decode()
    # As after Ctrl-C, the fit has saved where it was.
    assert process.returncode in (130, 143) and "Traceback" not in said
    assert not list(tmp_path.rglob("*partial*"))


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    left = [tmp_path / f".a.{gone.pid}-0123abcd.partial.ply", tmp_path / f".frames.{gone.pid}-0123abcd.partial"]
    left[0].write_text("half")
    left[1].mkdir()
    others = [tmp_path / f".a.{os.getpid()}-0123abcd.partial.ply", tmp_path / f".b.{gone.pid}-0123abcd.partial.ply"]
    for path in others:
        path.write_text("of somebody who is there, or of another file")
    with atomic_write(tmp_path / "a.ply") as temporary:
        temporary.write_text("whole")
    with atomic_folder(tmp_path / "frames") as folder:
        (folder / "f").write_text("whole")
    assert not any(path.exists() for path in left) and all(path.exists() for path in others)
    assert (tmp_path / "a.ply").read_text() == "whole" and (tmp_path / "frames" / "f").exists()
