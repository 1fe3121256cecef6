"""Parses the command line, runs one command, and turns errors into messages and exit codes.

A command is a dataclass with its flags as fields, a `run()` that returns an exit code or None, `EXAMPLES`, printed
under its help, and `WRITES`: the fields that name what it writes, each with whether that is a folder (None: either).
Whether something can be written there is checked before `run()`. They are in `gaussian4d.plugins.COMMANDS`, the
entry-point group `gaussian4d.commands`. Nothing heavy is imported before `run()`: help must come at once.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Union

import tyro

from .. import __version__
from ..errors import UserError
from ..plugins import COMMANDS
from ..system import check_writable, system_error
from .choices import joined_signs

_DESCRIPTION = (
    "Moving 3D scenes as Gaussians: reconstruct from multi-view video, evaluate, render, export, view. "
    "`gaussian4d COMMAND --help` shows flags and examples."
)
_CONFIG = (
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.OmitArgPrefixes,
    tyro.conf.OmitSubcommandPrefixes,
    tyro.conf.PositionalMetavarFromFieldName,
    tyro.conf.DisallowNone,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 a bug, 2 something the user can mend, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Before torch loads its OpenMP runtime. By default idle threads spin for about a millisecond; with another program
    # on the machine they then spin against the thread they wait for, which has made a fit ten times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    _show_what_can_be_shown()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            if arguments == ["--version"]:
                print(f"gaussian4d {__version__}", flush=True)
                return 0
            return _run(arguments or ["--help"], load_commands())
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except Terminated:
            print("terminated", file=sys.stderr)
            return 143
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # The reader of our output, such as `head`, has closed it; nothing is left to say.
            _silence_stdout()
            return 0
        except OSError as error:
            print(f"error: {system_error(error)}", file=sys.stderr)
            return 2
        except MemoryError:
            print("error: out of memory; close other programs, or reduce the size of the task", file=sys.stderr)
            return 2
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            return code


def _run(arguments: Sequence[str], commands: dict[str, type]) -> int:
    for before, argument in zip(["", *arguments], arguments):
        # An empty path would mean the folder that the program was started in.
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            where = argument or (f"{before} ''" if before.startswith("--") else f"after {before!r}" if before else "''")
            raise UserError(f"an argument is empty ({where}); perhaps a variable of the shell is not set")
    try:
        command = parse(arguments, commands)
    except SystemExit as stop:
        if stop.code == 0 and arguments[0] in commands:
            print_examples(commands[arguments[0]])
        raise
    for name, folder in getattr(command, "WRITES", {}).items():
        target = getattr(command, name)
        if target is not None:
            check_writable(target, folder=folder)
    with _terminable():
        return command.run() or 0


class Terminated(KeyboardInterrupt):
    """The program was asked to end (SIGTERM): what is temporary is removed, as after Ctrl-C."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that what is half written is removed; only where nobody else handles it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def parse(arguments: Sequence[str], commands: dict[str, type]) -> Any:
    """Returns the command that `arguments` describe; exits with a message when they describe none."""
    choices = tuple(Annotated[command, tyro.conf.subcommand(name)] for name, command in commands.items())
    return tyro.cli(
        Union[choices],  # type: ignore[arg-type]  # noqa: UP007 - built at run time
        prog="gaussian4d",
        description=_DESCRIPTION,
        args=joined_signs(arguments),
        config=_CONFIG,
    )


def load_commands() -> dict[str, type]:
    """Returns the command classes by name, in the order of help; one that does not load is said and left out."""
    commands: dict[str, type] = {}
    for name in COMMANDS:
        try:
            commands[name] = COMMANDS.get(name)
        except UserError as error:
            # One broken package must not take the whole program down, but it must not vanish silently either.
            print(f"warning: {error}", file=sys.stderr)
    return commands


def print_examples(command: type) -> None:
    """Prints the examples of a command, if it has any."""
    examples = getattr(command, "EXAMPLES", "")
    if examples:
        print("examples:")
        for line in examples.strip().splitlines():
            print(f"  {line.strip()}")


def _show_what_can_be_shown() -> None:
    """Lets the terminal replace characters that it does not have; names that are no UTF-8 are shown as their bytes."""
    for stream in (sys.stdout, sys.stderr):
        # In a test or a notebook they may be objects of another kind.
        if isinstance(stream, io.TextIOWrapper):
            unicode = stream.encoding.lower().replace("-", "") in ("utf8", "utf8sig")
            stream.reconfigure(errors="surrogateescape" if unicode else "replace")


def _silence_stdout() -> None:
    """Points standard output to nowhere, so that Python's own flush at exit does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Any, category: type, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    """Prints a warning as one plain line; the place in our code is of no use to a user."""
    print(f"warning: {message}", file=sys.stderr)
