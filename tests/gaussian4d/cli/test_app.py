"""The program itself: help, examples, exit codes, messages instead of tracebacks, commands of other packages."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from gaussian4d.cli import app, main
from gaussian4d.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


@dataclasses.dataclass
class Fake:
    """A command for tests."""

    EXAMPLES = "gaussian4d fake --what done"
    what: str = "done"
    """What happens."""

    def run(self) -> int | None:
        """Does what was asked."""
        if self.what == "user error":
            raise UserError("expected a scene, found none; check the path")
        if self.what == "interrupt":
            raise KeyboardInterrupt
        if self.what == "bug":
            raise ZeroDivisionError("a bug")
        if self.what == "warn":
            warnings.warn("slow, because there is no compiler", stacklevel=2)
        return 7 if self.what == "seven" else None


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "load_commands", lambda: {"fake": Fake, "other": Fake})


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(("what", "code"), [("done", 0), ("seven", 7), ("user error", 2), ("interrupt", 130)])
def test_exit_codes(what: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fake", "--what", what]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    if what == "user error":
        assert captured.err == "error: expected a scene, found none; check the path\n" and captured.out == ""


@pytest.mark.usefixtures("fake")
def test_a_bug_is_not_dressed_up_as_a_user_error() -> None:
    with pytest.raises(ZeroDivisionError):
        main(["fake", "--what", "bug"])


@pytest.mark.usefixtures("fake")
def test_warnings_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fake", "--what", "warn"])
    assert capsys.readouterr().err == "warning: slow, because there is no compiler\n"


@pytest.mark.usefixtures("fake")
def test_help_has_field_docs_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fake", "--help"]) == 0
    out = capsys.readouterr().out
    assert "What happens." in out and out.rstrip().endswith("gaussian4d fake --what done")


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("arguments", [["nonsense"], ["fake", "--nonsense"], ["fake", "--what"]])
def test_wrong_flags_exit_with_2(arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_no_arguments_show_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    for name in ("demo", "info", "fit", "eval", "render", "export", "convert", "bench", "doctor"):
        assert name in out


def test_every_command_has_docs_examples_and_a_description_per_field() -> None:
    for name, command in app.load_commands().items():
        assert command.__doc__ and not command.__doc__.startswith(command.__name__ + "("), name
        assert f"gaussian4d {name}" in command.EXAMPLES
        # Fields may be inherited from a dataclass of settings in another module.
        homes = {sys.modules[base.__module__].__file__ for base in command.__mro__ if dataclasses.is_dataclass(base)}
        source = "\n".join(Path(home).read_text(encoding="utf-8") for home in homes if home)
        for field in dataclasses.fields(command):
            after = source.split(f"\n    {field.name}: ", 1)[1].split("\n", 2)[1]
            assert after.strip().startswith('"""'), f"{name}: {field.name} has no description"


def test_commands_of_other_packages_are_found(plugin: Callable[..., Path]) -> None:
    plugin(commands={"fake": f"{__name__}:Fake"})
    commands = app.load_commands()
    # Last in the help; those of our own other packages keep their place in it.
    assert commands["fake"] is Fake and list(commands).index("view") < list(commands).index("doctor")
    assert list(commands)[-1] == "fake"


def test_a_broken_package_is_named_and_the_rest_works(
    plugin: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    plugin(commands={"swing": "no_such_package.command:Swing", "push": "swings:PUSH"}, source="PUSH = 3")
    commands = app.load_commands()
    assert "doctor" in commands and "swing" not in commands and "push" not in commands
    err = capsys.readouterr().err
    assert "'swing' of the package swings 1.2" in err and "no_such_package" in err
    assert "'push'" in err and "expected a dataclass with a method run, got 3" in err


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "gaussian4d", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


def test_the_module_runs_as_a_program() -> None:
    done = run("info", "no_such_folder")
    assert done.returncode == 2 and done.stdout == ""
    assert "no_such_folder" in done.stderr and "Traceback" not in done.stderr
    assert run("--version").stdout.startswith("gaussian4d ")


def test_a_closed_pipe_is_not_an_error() -> None:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-u", "-m", "gaussian4d", "fit", "--help"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=ROOT
    ) as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.close()
        assert b"Traceback" not in program.stderr.read()
    assert program.returncode in (0, -signal.SIGPIPE)
