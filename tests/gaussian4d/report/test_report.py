"""The report of a run: it needs nothing but itself, its charts show the figures, names of strangers are only text."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from gaussian4d import fit
from gaussian4d.cli import main
from gaussian4d.errors import UserError
from gaussian4d.report import write_report
from gaussian4d.report.charts import bars, curves, heat_map
from gaussian4d.scene import load_scene
from gaussian4d.toys import write_scene


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_scene(folder / "toy", 0, 3, 2, 3, width=32, height=24, samples=1, threads=1)
    return fit(load_scene(folder / "toy"), out=folder / "run", max_steps=100, log_every=20).path


def pictures(text: str) -> list[np.ndarray]:
    found = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_a_fit_ends_with_a_page_that_needs_nothing_else(run: Path) -> None:
    text = (run / "report.html").read_text()
    assert not re.search(r"(src|href|url\()\s*=?\s*[\"']?(?!data:)(https?:|//|[\w./]+\.(js|css|png))", text)
    assert "<script" not in text and "default-src 'none'" in text
    for word in ("PSNR by camera", "PSNR of every view", "loss (logarithmic)", "nearest training picture", "protocol"):
        assert word.lower() in text.lower(), word
    assert "gaussian4d fit" in text and "--max-steps 100" in text and "--seed 0" in text
    # The buffers of one view, and the four worst views as recorded, rendered, different.
    assert [picture.shape for picture in pictures(text)] == [(48, 96, 3)] + [(24, 96, 3)] * 4


def test_the_worst_views_are_shown_worst_first_with_their_recorded_pictures(run: Path) -> None:
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    worst = sorted(metrics["views"], key=lambda view: view["psnr"])[:4]
    text = (run / "report.html").read_text()
    captions = re.findall(r"<figcaption>([\d.]+) dB, SSIM [\d.]+: camera (\w+), time ([\d.]+)", text)
    assert [(float(a), b, float(c)) for a, b, c in captions] == [
        (round(view["psnr"], 2), view["camera"], round(view["time"], 3)) for view in worst
    ]
    frames = {(frame.camera_id, frame.time): frame.image for frame in load_scene(run.parent / "toy").frames("test")}

    def off(key: tuple[str, float]) -> float:
        image = frames[key].astype(float)
        on_white = image[..., :3] * (image[..., 3:] / 255) + 255 - image[..., 3:]
        return float(np.abs(pictures(text)[1][:, :32] - on_white).mean())

    assert min(frames, key=off) == (worst[0]["camera"], worst[0]["time"])


def test_a_run_without_its_scene_or_figures_still_has_a_report(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(run, alone)
    shutil.rmtree(alone / "eval")
    config = json.loads((alone / "config.json").read_text())
    config["scene"]["path"] = "/gone/<script>alert(1)</script>"
    (alone / "config.json").write_text(json.dumps(config))
    with (alone / "metrics.jsonl").open("a") as file:
        file.write('{"step": 120, "lo')
    assert main(["report", str(alone), "--out", str(tmp_path / "a.html")]) == 0
    text = (tmp_path / "a.html").read_text()
    assert "cannot be read" in text and "Nothing was evaluated" in text and "polyline" in text
    assert "<script" not in text and "&lt;script&gt;" in text
    with pytest.raises(UserError, match="run folder"):
        write_report(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[1]", "no JSON"])
def test_a_folder_with_another_config_is_no_run(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_report_that_fails_does_not_cost_the_fit(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> Path:
        raise OSError("the disk is full")

    monkeypatch.setattr("gaussian4d.report.write_report", broken)
    result = fit(load_scene(run.parent / "toy"), out=tmp_path / "run", max_steps=5)
    assert result.metrics is not None and "the disk is full" in capsys.readouterr().err


def svg(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def test_curves_place_their_points() -> None:
    chart = svg(curves("<a & b>", [0, 10, 20], {"one": [1.0, 10.0, 100.0], "two": [1.0, float("nan"), 0.0]}, log=True))
    assert chart[0].text == "<a & b>"
    one, two = chart.findall("polyline")
    points = np.array([pair.split(",") for pair in one.get("points", "").split()], float)[:3]
    # Equal factors are equal steps; up is a smaller y.
    assert np.allclose(np.diff(points[:, 1]), points[1, 1] - points[0, 1], atol=0.2) and points[1, 1] < points[0, 1]
    assert np.allclose(np.diff(points[:, 0]), points[1, 0] - points[0, 0], atol=0.2)
    assert len(set(two.get("points", "").split())) == 1, "NaN and what has no logarithm are left out"
    assert curves("empty", [0, 1], {"none": [float("nan")] * 2}) == ""
    assert "polyline" in curves("flat", [1, 1], {"flat": [2.0, 2.0]})


def test_bars_and_cells_are_as_large_and_bright_as_their_values() -> None:
    chart = svg(bars("b", ["x", "y", "z"], [10.0, None, 20.0], "dB"))
    widths = [float(rect.get("width", 0)) for rect in chart.findall("rect")]
    assert len(widths) == 2 and widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    cells = svg(heat_map("h", ["a", "b"], ["0", "1"], [[1.0, 2.0], [None, 3.0]])).findall("rect")
    brightness = [sum(map(int, re.findall(r"\d+", cell.get("fill", "")))) for cell in cells]
    assert len(cells) == 3 and brightness[0] < brightness[1] < brightness[2]
