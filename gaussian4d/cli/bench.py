"""`gaussian4d bench`: how fast this machine rasterizes."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar


@dataclasses.dataclass
class Bench:
    """Measure fixed cases on this machine; the figures name their conditions."""

    EXAMPLES: ClassVar[str] = """
        gaussian4d bench
        gaussian4d bench --case cube
    """

    case: tuple[str, ...] = ()
    """Cases to run; default all."""

    def run(self) -> None:
        """Runs the cases and prints a table."""
        from ..bench import CASES, run
        from ..errors import UserError
        from .console import print_table

        unknown = [name for name in self.case if name not in CASES]
        if unknown:
            raise UserError(f"no benchmark is called {unknown[0]!r}; there are {', '.join(CASES)}")
        for result in run(list(self.case) or None):
            rows = [(name, value) for name, value in flat(result).items() if name != "case"]
            print_table(("figure", "value"), rows, title=f"case {result.get('case')}")


def flat(result: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested figures in one level: `{"a": {"b": 1}}` becomes `{"a, b": 1}`."""
    rows: dict[str, Any] = {}
    for name, value in result.items():
        rows |= flat(value, f"{prefix}{name}, ") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return rows
