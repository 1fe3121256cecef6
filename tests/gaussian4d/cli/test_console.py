"""Progress and tables."""

from __future__ import annotations

import pytest

from gaussian4d.cli import console


def test_a_plain_line_has_rate_and_time_left() -> None:
    assert console.plain_line("render", 30, 120, 10.0) == "render 30/120, 3/s, 30 s left"
    assert "unknown" in console.plain_line("render", 0, 120, 10.0)


def test_short_jobs_print_nothing_long_ones_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    assert list(console.track(range(3), "quick", 3)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    for _ in console.track(range(20), "slow", 20):
        now += 1.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["slow 5/20, 1/s, 15 s left", "slow 10/20, 1/s, 10 s left", "slow 15/20, 1/s, 5 s left"]


def test_values_are_written_for_people() -> None:
    assert [console.show(v) for v in (None, True, 12345, 3.14159, 12345.6, "x")] == [
        "-",
        "yes",
        "12,345",
        "3.142",
        "12,346",
        "x",
    ]
    assert [console.size(n) for n in (12, 1500, 2_500_000)] == ["12 bytes", "1.5 kB", "2.5 MB"]


def test_tables_are_not_cut_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(("name", "n"), [("x" * 300, 1)])
    assert "x" * 300 in capsys.readouterr().out
