"""`gaussian4d doctor`: what works on this machine, and why something does not."""

from __future__ import annotations

import dataclasses
from typing import ClassVar


@dataclasses.dataclass
class Doctor:
    """Say what works on this machine: versions, backends with reasons, threads, optional packages, codecs."""

    EXAMPLES: ClassVar[str] = """
        gaussian4d doctor
    """

    def run(self) -> None:
        """Prints the report."""
        from ..doctor import report

        for section in report():
            print(f"\n{section.title}")
            width = max(len(name) for name, _, _ in section.rows)
            for name, state, note in section.rows:
                print(f"  {name:<{width}}  {state}{f'  -> {note}' if note else ''}")
