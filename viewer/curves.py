"""Loss and PSNR of a fit as curves on the page, from the run's metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import viser

_MOST = 300


class Curves:
    """Two charts that follow metrics.jsonl; every line of it is read once.

    Args:
        gui: where they go; the server's own shows them to all browsers.
        file: metrics.jsonl, which may not be there yet.
    """

    def __init__(self, gui: viser.GuiApi, file: Path) -> None:
        self._file = file
        self._read = 0
        self.rows: list[dict[str, float]] = []
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
        return bool(fresh)


def _parsed(line: bytes) -> dict[str, float] | None:
    try:
        values: Any = json.loads(line)
        return {name: float(values[name]) for name in ("step", "loss", "psnr")}
    except (ValueError, KeyError, TypeError):
        return None
