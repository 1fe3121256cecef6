"""Results that survive an interruption: one JSON file per item."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gaussian4d.files import write_json


class Store:
    """Computes each item once; another time, or after another start, it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, settings: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """Returns `compute()`, a JSON value, kept under `name` for exactly these settings."""
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        path = self.folder / f"{name}_{key}.json"
        if not path.exists():
            write_json(path, {"settings": settings, "value": compute()})
        return json.loads(path.read_text())["value"]


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"
