"""Writes the table of docs/settings.md from the dataclasses of the settings; `--check` only compares.

scripts/settings_table.py
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

from gaussian4d.fitting import config

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
BEGIN, END = "<!-- settings -->\n", "<!-- end of settings -->\n"
_PARTS = ("init", "loss", "optim", "densify", "extra", "keep")
_LEFT_OUT = ("plugins",)


def table() -> str:
    """Returns every setting with its default and what it means."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    default = config.FitConfig(max_steps=1)
    for name, text in _texts(config.FitConfig).items():
        if name in _PARTS or name in _LEFT_OUT:
            continue
        value = None if name == "max_steps" else getattr(default, name)
        lines.append(f"| `{name}` | {_shown(value)} | {text} |")
    for part in _PARTS:
        inner = getattr(default, part)
        for name, text in _texts(type(inner)).items():
            lines.append(f"| `{part}.{name}` | {_shown(getattr(inner, name))} | {text} |")
    return "\n".join(lines) + "\n"


def _texts(cls: type) -> dict[str, str]:
    """Returns what stands under each field of a dataclass, in one line."""
    body: Any = ast.parse(inspect.getsource(cls)).body[0]
    found = {field.name: "" for field in dataclasses.fields(cls)}
    for here, following in zip(body.body, [*body.body[1:], None]):
        if isinstance(here, ast.AnnAssign) and isinstance(here.target, ast.Name) and isinstance(following, ast.Expr):
            value = following.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found[here.target.id] = " ".join(value.value.split()).replace("|", "\\|")
    return found


def _shown(value: Any) -> str:
    if value is None or value == {} or value == []:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items())
    if isinstance(value, tuple):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def page_with_table(text: str) -> str:
    """Returns the page with the table as it is now."""
    head, rest = text.split(BEGIN)
    return head + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    old = PAGE.read_text(encoding="utf-8")
    new = page_with_table(old)
    if "--check" in sys.argv[1:]:
        sys.exit(old != new)
    PAGE.write_text(new, encoding="utf-8")
    print(f"wrote {PAGE}")
