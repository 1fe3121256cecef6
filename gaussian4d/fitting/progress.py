"""What a fit says while it runs: a live line on a terminal, plain lines elsewhere; log.txt and metrics.jsonl."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from ..files import atomic_write

_PLAIN_SECONDS = 10.0
_WIDE = 104


class Narrator(Protocol):
    """Who is told how a fit is going."""

    def say(self, message: str) -> None:
        """Takes a message."""
        ...

    def figures(self, values: dict[str, Any], progress: float, eta: float | None) -> None:
        """Takes one line of figures, how much is done (0..1) and the seconds left."""
        ...


class Silence:
    """Says nothing: the narrator of every process but the first."""

    def say(self, message: str) -> None:
        """Drops the message."""

    def figures(self, values: dict[str, Any], progress: float, eta: float | None) -> None:
        """Drops the figures."""

    def rest(self) -> None:
        """Has nothing to leave standing."""

    def cut_metrics(self, step: int) -> None:
        """Has no metrics.jsonl."""


class Reporter:
    """Writes messages and figures of a fit to the run folder and to the screen."""

    def __init__(self, out: Path, screen: TextIO | None = None) -> None:
        self.console = Console(file=screen or sys.stderr, highlight=False, soft_wrap=True)
        self.live = Live(console=self.console, refresh_per_second=4) if self.console.is_terminal else None
        self._log = (out / "log.txt").open("a", encoding="utf-8", errors="surrogateescape")
        self._metrics_path = out / "metrics.jsonl"
        self._metrics: TextIO | None = None
        self._last_plain = -1e9

    def __enter__(self) -> Reporter:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.live:
            self.live.stop()
        self._log.close()
        if self._metrics:
            self._metrics.close()

    def rest(self) -> None:
        """Leaves the last figures standing; what follows is printed below them."""
        if self.live:
            self.live.stop()
            self.live = None

    def say(self, message: str) -> None:
        """Prints a message and keeps it in log.txt."""
        self.console.print(message, markup=False)
        self._log.write(time.strftime("%H:%M:%S ") + message + "\n")
        self._log.flush()

    def cut_metrics(self, step: int) -> None:
        """Drops the lines of metrics.jsonl after `step`, and a line that was only half written."""
        if not self._metrics_path.exists():
            return
        if self._metrics:
            # It is replaced: what is open would go on in a file that nobody sees.
            self._metrics.close()
            self._metrics = None
        kept = []
        for line in self._metrics_path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError, TypeError):
                break
        with atomic_write(self._metrics_path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def figures(self, values: dict[str, Any], progress: float, eta: float | None) -> None:
        """Appends one line to metrics.jsonl and shows it."""
        if self._metrics is None:
            self._metrics = self._metrics_path.open("a", encoding="utf-8")
        self._metrics.write(json.dumps(values) + "\n")
        self._metrics.flush()
        line = (
            f"step {values['step']}  loss {values['loss']:.4f}  PSNR {values['psnr']:.2f}"
            f"  {values['gaussians']:,} Gaussians  {values['steps_per_second']:.1f} it/s  ETA {_clock(eta)}"
        )
        if self.live:
            share = f"{100 * progress:3.0f} %"
            # On a narrow terminal the figures matter more than the bar.
            bar = [ProgressBar(total=1.0, completed=progress, width=20)] if self.console.width >= _WIDE else []
            row = Table.grid(padding=(0, 2))
            row.add_row(*bar, share, line)
            self.live.update(row)
        elif time.monotonic() - self._last_plain >= _PLAIN_SECONDS or progress >= 1.0:
            self._last_plain = time.monotonic()
            self.console.print(f"{100 * progress:3.0f} %  {line}", markup=False)
        self._log.write(time.strftime("%H:%M:%S ") + line + "\n")
        self._log.flush()


def _clock(seconds: float | None) -> str:
    """Returns minutes:seconds."""
    if seconds is None:
        return "-:--"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
