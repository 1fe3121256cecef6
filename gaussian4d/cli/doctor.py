"""`gaussian4d doctor`: what works on this machine, and why something does not."""

from __future__ import annotations

import dataclasses
from typing import ClassVar


@dataclasses.dataclass
class Doctor:
    """Check this machine: versions, which backends work and why not, threads, optional packages, codecs."""

    EXAMPLES: ClassVar[str] = """
        gaussian4d doctor
        gaussian4d doctor --plugins
    """

    plugins: bool = False
    """List everything plugins can extend instead, with the package that provides it and any load errors."""

    def run(self) -> None:
        """Prints the report."""
        if self.plugins:
            from ..plugins import listed
            from .console import print_table

            rows = [(row.kind, row.name, f"{row.package} {row.version}".rstrip(), row.state) for row in listed()]
            print_table(("kind", "name", "package", "state"), rows)
            return
        from ..doctor import report

        for section in report():
            print(f"\n{section.title}")
            width = max(len(name) for name, _, _ in section.rows)
            for name, state, note in section.rows:
                print(f"  {name:<{width}}  {state}{f'  -> {note}' if note else ''}")
