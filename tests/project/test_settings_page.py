"""docs/settings.md lists the settings that there are, with the defaults that they have."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from gaussian4d.fitting.config import setting_paths

ROOT = Path(__file__).parents[2]


def test_the_page_of_settings_is_written_from_the_settings() -> None:
    spec = importlib.util.spec_from_file_location("settings_table", ROOT / "scripts" / "settings_table.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = script.PAGE.read_text(encoding="utf-8")
    assert text == script.page_with_table(text), "run scripts/settings_table.py"
    assert all(f"| `{path}` |" in text for path in setting_paths())
