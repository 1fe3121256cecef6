"""Loss, PSNR and the terms of the loss as curves on the page, from the run's metrics.jsonl."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import viser

_MOST = 300
# Values that a logarithmic axis has no place for stand at its foot.
_LEAST = 1e-9
_COLOURS = ("#d9622b", "#3b6fb6", "#4a9a4f", "#8a56ac", "#b8860b", "#2a9d9d", "#c2185b", "#607d8b")


class Curves:
    """Charts that follow metrics.jsonl; every line of it is read once. That of the terms comes with the first of them.

    Args:
        gui: where they go; the server's own shows them to all browsers.
        file: metrics.jsonl, which may not be there yet.
    """

    def __init__(self, gui: viser.GuiApi, file: Path) -> None:
        self._file = file
        self._read = 0
        self.rows: list[dict[str, Any]] = []
        self._gui = gui
        self._terms: Any = None
        self._names: tuple[str, ...] = ()
        empty = (np.zeros(1), np.zeros(1))
        self._charts = {
            name: gui.add_uplot(
                empty,
                ({"label": "step"}, {"label": title, "stroke": colour, "width": 2}),
                title=title,
                scales={"x": {"time": False}},
                aspect=2.2,
                visible=False,
            )
            for name, title, colour in (("loss", "loss", "#d9622b"), ("psnr", "PSNR of training pictures", "#3b6fb6"))
        }

    def update(self) -> bool:
        """Reads what is new; returns whether anything was."""
        if not self._file.exists():
            return False
        with self._file.open("rb") as file:
            # A resumed fit cuts the file.
            if file.seek(0, 2) < self._read:
                self._read, self.rows = 0, []
            file.seek(self._read)
            data = file.read()
        # A line that is only half written is left for the next time.
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        fresh = [row for row in map(_parsed, whole.splitlines()) if row is not None]
        self.rows += fresh
        if fresh and len(self.rows) > 1:
            rows = self.rows[:: max(1, len(self.rows) // _MOST)]
            for name, chart in self._charts.items():
                chart.data = (np.array([row["step"] for row in rows]), np.array([row[name] for row in rows]))
                chart.visible = True
            self._show_terms(rows)
        return bool(fresh)

    def _show_terms(self, rows: list[dict[str, Any]]) -> None:
        """Shows the weighted terms that the lines tell of, one curve each."""
        names = tuple(dict.fromkeys(name for row in rows for name in row["terms"]))
        if not names:
            return
        data = (
            np.array([row["step"] for row in rows]),
            *(np.array([max(row["terms"].get(name, np.nan), _LEAST) for row in rows]) for name in names),
        )
        if names != self._names:
            if self._terms is not None:
                self._terms.remove()
            colours = itertools.cycle(_COLOURS)
            lines: Any = [{"label": name, "stroke": colour, "width": 2} for name, colour in zip(names, colours)]
            self._terms = self._gui.add_uplot(
                data,
                ({"label": "step"}, *lines),
                title="terms of the loss, weighted",
                scales={"x": {"time": False}, "y": {"distr": 3}},
                aspect=2.2,
            )
            self._names = names
        else:
            self._terms.data = data


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        values: Any = json.loads(line)
        terms = {name: float(value) for name, value in values.get("terms", {}).items()}
        return {**{name: float(values[name]) for name in ("step", "loss", "psnr")}, "terms": terms}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
