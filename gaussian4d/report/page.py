"""The HTML around a report: escaping, tables, embedded pictures, the style sheet. Nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

_MAX_WIDTH = 960

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #6b7385; --line: #d9dde5; --paper: #ffffff; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9f0; --soft: #98a1b3; --line: #343b4a; --paper: #14171f; --card: #1c212c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 24px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 10px; }
p { margin: 6px 0; } .soft { color: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } td, th { padding: 4px 14px 4px 0;
  border-bottom: 1px solid var(--line); text-align: right; }
td:first-child, th:first-child, .texts td { text-align: left; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 10px 12px;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
figure { margin: 10px 0 18px; } figcaption { color: var(--soft); font-size: 13px; }
img { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px; display: block; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 16px; }
svg { width: 100%; height: auto; background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; } svg .title { fill: var(--ink); font-size: 12px; }
svg .axis { stroke: var(--line); } details { margin: 8px 0; } summary { cursor: pointer; }
"""


def page(title: str, sections: Iterable[str]) -> str:
    """Returns the whole HTML document."""
    # The policy forbids every request: a page with a stranger's names in it still loads nothing.
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src'
        " 'unsafe-inline'\">"
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def escape(value: object) -> str:
    """Returns text that stands for itself in HTML."""
    return html.escape(str(value))


def section(title: str, *content: str) -> str:
    """Returns a heading and what stands under it."""
    return f"<h2>{escape(title)}</h2>\n" + "\n".join(content)


def paragraph(text: str, soft: bool = False) -> str:
    """Returns one paragraph of plain text."""
    return f"<p{' class=soft' if soft else ''}>{escape(text)}</p>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], texts: bool = False) -> str:
    """Returns a table; cells are numbers, aligned to the right, unless they are `texts`."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table{' class=texts' if texts else ''}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def preformatted(text: str) -> str:
    """Returns text whose lines stay as they are."""
    return f"<pre>{escape(text)}</pre>"


def folded(summary: str, content: str) -> str:
    """Returns content that is shown on a click."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def figure(picture: np.ndarray, caption: str) -> str:
    """Returns a picture uint8 [H, W, 3] embedded as JPEG, at most 960 pixels wide, with a caption."""
    image = Image.fromarray(picture)
    if image.width > _MAX_WIDTH:
        size = (_MAX_WIDTH, max(round(image.height * _MAX_WIDTH / image.width), 1))
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, subsampling=0)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" width="{image.width}" height="{image.height}"'
        f' src="data:image/jpeg;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def charts(parts: Iterable[str]) -> str:
    """Returns charts beside each other."""
    return f'<div class="charts">{"".join(parts)}</div>'
