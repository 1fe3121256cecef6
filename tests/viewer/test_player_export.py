"""`gaussian4d export RUN --to scene.html`: one self-contained file that holds what it says."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from player_models import moving_cloud

from gaussian4d.cli import main
from gaussian4d.io.segments import direct_segments
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import make_motion
from viewer.player.export import PAGE
from viewer.player.packing import WORDS, pack


def scene_of(page: str) -> tuple[dict, np.ndarray]:
    """Returns (header, words [N, 16]) of a page, read the way the page does: of the rows that it stores as such."""
    found = re.search(r'<script type="application/json" id="scene">(.*?)</script>', page)
    assert found
    header = json.loads(found[1])
    chunks = re.findall(r'<script type="text/plain" id="rows-(\d+)">([A-Za-z0-9+/=]*)</script>', page)
    assert [int(index) for index, _ in chunks] == list(range(header["chunks"]))
    compressed = b"".join(base64.b64decode(data, validate=True) for _, data in chunks)
    assert len(compressed) == header["bytes"]
    data, size = gzip.decompress(compressed), 4 * WORDS * header["count"]
    assert len(data) > size if "series" in header else len(data) == size
    return header, np.frombuffer(data[:size], "<u4").reshape(WORDS, header["count"]).T


@pytest.mark.parametrize("motion", ["free-time", "dual-domain"])
def test_the_page_holds_the_scene(motion: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = moving_cloud(motion, 80)
    model.save(tmp_path / "scene.g4d")
    out = tmp_path / "new" / "a<b>&.html"
    assert main(["export", str(tmp_path / "scene.g4d"), "--to", str(out)]) == 0
    told = capsys.readouterr().out
    assert "64 bytes" in told and re.search(r"loss +\d\d\.\d dB PSNR on average", told)
    page = out.read_text(encoding="ascii")
    assert "<title>a&lt;b&gt;&amp;</title>" in page and "<!--g4d:" not in page
    header, words = scene_of(page)
    assert header["title"] == "a<b>&" and header["frames"] == 13
    assert header["seconds"] == pytest.approx(1.2) and header["background"] == pytest.approx([0.9, 0.8, 0.7])
    assert sum(group[3] for group in header["groups"]) == header["count"] == len(words)
    # No camera was recorded, so none is listed; the page still knows where to begin.
    assert header["views"] == [] and len(header["first"]["viewmat"]) == 16
    if motion == "free-time":
        assert np.array_equal(words, pack(direct_segments(model)).words)
    else:
        assert header["series"]["count"] == len(model)
        assert sum(rows for *_, rows in header["series"]["windows"]) > len(model)


def test_the_size_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    sizes = []
    for frames in (3, 300):
        model = moving_cloud("spacetime", 2000)
        model.times = np.linspace(0.0, 1.0, frames)
        model.save(tmp_path / "scene.g4d")
        assert main(["export", str(tmp_path / "scene.g4d"), "--to", str(tmp_path / "a.html")]) == 0
        sizes.append((tmp_path / "a.html").stat().st_size - PAGE.stat().st_size)
    assert abs(sizes[0] - sizes[1]) < 100
    # 64 bytes a row, a third more as base64, and the header.
    assert sizes[1] < 2000 * 64 * 4 / 3 + 12_000


def test_the_built_page_asks_for_nothing_from_outside() -> None:
    page = PAGE.read_text(encoding="ascii")
    assert "default-src 'none'" in page
    addresses = set(re.findall(r"[a-z]+://[^\s\"'<>]+", page))
    assert not addresses
    assert not re.search(r"<(?:link|img|script|iframe)[^>]+(?:src|href)=\"(?!data:,)", page)
    assert not re.search(r"\b(?:fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon)\b", page)


def test_unknown_endings_name_html(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moving_cloud("static", 5).save(tmp_path / "scene.g4d")
    assert main(["export", str(tmp_path / "scene.g4d"), "--to", str(tmp_path / "a.htm1")]) == 2
    assert ".html" in capsys.readouterr().err
    assert not (tmp_path / "a.htm1").exists()


def test_a_broken_exporter_is_named_and_takes_nothing_down(
    tmp_path: Path, plugin: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    plugin(exporters={"ply": "no_such_package:export"})
    moving_cloud("static", 5).save(tmp_path / "scene.g4d")
    assert main(["export", str(tmp_path / "scene.g4d"), "--to", str(tmp_path / "a.ply")]) == 0
    assert "no_such_package" in capsys.readouterr().err
    assert (tmp_path / "a.ply").exists()


def test_rigid_parts_move_on_the_page_as_they_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A part that turns about its own end and one that stands still, known at twelve instants.
    count, times = 120, np.linspace(0.0, 1.0, 12)
    cloud = moving_cloud("static", count)
    turns = torch.zeros(1, 12, 4)
    angle = torch.from_numpy(1.2 * np.sin(2.0 * np.pi * times)).float()
    turns[0, :, 0], turns[0, :, 3] = torch.cos(angle / 2), torch.sin(angle / 2)
    own = {
        "parts": torch.arange(count).remainder(2).float() - 1.0,
        "shared.pivots": torch.tensor([[0.5, 0.0, 0.0]]),
        "shared.offsets": torch.from_numpy(0.3 * times).float()[None, :, None].repeat(1, 1, 3),
        "shared.turns": turns,
    }
    motion = make_motion("rigid-parts", {"times": times.tolist(), "parts": 1})
    model = DynamicGaussians({**cloud.params, **own}, motion, background=cloud.background, times=times, fps=12.0)
    model.save(tmp_path / "scene.g4d")
    assert main(["export", str(tmp_path / "scene.g4d"), "--to", str(tmp_path / "scene.html")]) == 0
    found = re.search(r"loss +(\d+\.\d) dB PSNR on average, (\d+\.\d) dB at worst", capsys.readouterr().out)
    assert found and float(found[2]) > 38.0
    header, _ = scene_of((tmp_path / "scene.html").read_text(encoding="ascii"))
    # What stands still is one row for the whole clip.
    whole = [rows for level, _, rows in header["series"]["windows"] if level == 0]
    assert len(whole) == 1 and whole[0] >= count // 2
