"""The standalone player: a moving scene as one HTML file. Start with `export.py`; the page's sources are in viewer/web.

export.py    `gaussian4d export RUN --to scene.html`: model to page, and how much the page differs from the model
segments.py  what a page plays: rows with a cubic motion, in groups that are each there for a span of time
bake.py      any motion model as such segments
packing.py   the 64 bytes of a row, both ways
page.html    the built player (scripts/build_player.sh), with marks where the scene goes
"""

from __future__ import annotations
