"""What commands print: tables, and progress with the time left for anything over two seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

_QUIET_SECONDS = 2.0
_PLAIN_SECONDS = 5.0


class Progress:
    """Progress of a job of known length: a live bar on a terminal, a plain line every few seconds elsewhere.

    Jobs that end within two seconds print nothing.
    """

    def __init__(self, label: str, total: int) -> None:
        self.label = label
        self.total = total
        self.done = 0
        self._start = self._last = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int) -> None:
        """Notes that `done` of `total` parts are ready."""
        self.done = done
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        elif now - self._start >= _QUIET_SECONDS and done < self.total:
            if sys.stderr.isatty():
                self._open_bar()
            elif now - self._last >= _PLAIN_SECONDS:
                self._last = now
                print(plain_line(self.label, done, self.total, now - self._start), file=sys.stderr, flush=True)

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(self.label, total=self.total, completed=self.done)
        self._bar.start()


@contextlib.contextmanager
def looking_at_files() -> Iterator[None]:
    """Shows how many of a scene's files have been looked at while it is loaded in the block."""
    from ..data.assemble import on_header

    bars: list[Progress] = []

    def told(done: int, total: int) -> None:
        if not bars:
            bars.append(Progress("checking the files of the scene", total))
        bars[0].update(done)

    token = on_header.set(told)
    try:
        yield
    finally:
        on_header.reset(token)
        for bar in bars:
            bar.__exit__()


def plain_line(label: str, done: int, total: int, seconds: float) -> str:
    """Returns one line of progress: parts done, rate, time left at this rate."""
    rate = done / seconds if seconds > 0 else 0.0
    left = f"{(total - done) / rate:.0f} s left" if rate > 0 else "unknown time left"
    return f"{label} {done}/{total}, {rate:.2g}/s, {left}"


def track(parts: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Yields `parts` and shows how far they are."""
    with Progress(label, total) as progress:
        for index, part in enumerate(parts, start=1):
            yield part
            progress.update(index)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Prints a table; columns whose values are all numbers are aligned to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        numeric = bool(cells) and all(isinstance(row[index], int | float) for row in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(show(value)) for value in row))
    console = Console()
    # Without a terminal there is no width to respect; a cut or folded path could not be copied.
    width = None if console.is_terminal else 400
    Console(width=width).print(table)


def show(value: object) -> str:
    """Returns a value as people write it: numbers with few digits, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def size(nbytes: int) -> str:
    """Returns a number of bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.1f} {unit}"
    return f"{nbytes} bytes"
