"""The report of a run: one HTML page that opens without a network and without this program. Start with `write.py`.

write.py      what the page says, section by section
charts.py     curves, bars and heat maps as inline SVG
page.py       the page around the sections; pictures as embedded data
"""

from __future__ import annotations

from .write import write_report

__all__ = ["write_report"]
