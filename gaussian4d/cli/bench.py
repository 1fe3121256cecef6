"""`gaussian4d bench`: how fast this machine rasterizes, and whether that meets the targets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from .choices import Several, Unset


@dataclasses.dataclass
class Bench:
    """Benchmark the rasterizer on fixed cases and compare with the targets.

    The targets are for two otherwise idle cores with AVX-512.
    """

    EXAMPLES: ClassVar[str] = """
        gaussian4d bench
        gaussian4d bench --case cube dense --json bench.json
    """

    case: Several[str] = ()
    """Cases to run: dense, cube, memory, threads, instruction-sets, fit-step; default all."""
    json: Unset[Path] = None
    """Also write the results to this file."""

    def run(self) -> None:
        """Runs the cases and prints one table."""
        from ..bench import CASES, case_names
        from ..files import write_json
        from .console import print_table, show, track

        names = case_names(self.case)
        results = [CASES[name]() for name in track(names, "benchmarks", len(names))]
        rows = []
        for result in results:
            for index, figure in enumerate(result.figures):
                bound = "" if figure.target is None else f"{'at most' if figure.at_most else 'at least'} "
                target = "" if figure.target is None else bound + show(figure.target)
                met = "" if figure.met is None else "met" if figure.met else "MISSED"
                rows.append((result.case if index == 0 else "", figure.name, figure.value, figure.unit, target, met))
        print_table(("case", "figure", "value", "unit", "target", ""), rows, title="rasterizer benchmarks")
        for result in results:
            conditions = ", ".join(f"{name} {show(value)}" for name, value in result.conditions.items())
            print(f"{result.case}: {result.what} ({conditions})")
        if self.json:
            write_json(self.json, [result.to_dict() for result in results])
            print(f"written: {self.json}")
