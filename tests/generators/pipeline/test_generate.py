"""The command as a user sees it, with stand-ins for priors and fit: folders, resuming, messages, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_fakes import FakeParts, MovingPrior, draw

from gaussian4d.cli import app
from gaussian4d.cli.app import main
from generators.command import Generate
from generators.pipeline import parts


@pytest.fixture(autouse=True)
def only_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "load_commands", lambda: {"generate": Generate, "other": Generate})


def generate(*arguments: object) -> int:
    return main(["generate", *map(str, arguments)])


def test_an_image_becomes_a_run_folder(
    fakes: FakeParts, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert generate("--image", picture, "--out", out, "--frames", 5) == 0
    said = capsys.readouterr().out
    assert said.startswith("gaussian4d generate: reading cat.png ...\n")
    assert said.index("in all on this machine") < said.index("static: ")
    assert "licence Apache-2.0" in said and "note: a stand-in" in said
    assert [call for call in fakes.calls if call.startswith("fit")] == ["fit static 1", "fit None 5"]
    with av.open(str(out / "renders/orbit.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 6
    assert [file.name for file in sorted((out / "exports/ply").iterdir())] == [f"frame_{k:04d}.ply" for k in range(5)]
    sheet = np.asarray(Image.open(out / "renders/sheet.png"))
    assert sheet.shape == (5 * 36 + 4, 5 * 36 + 4, 3) and sheet.std() > 5
    assert {folder.name for folder in (out / "stages").iterdir()} == {
        "input", "static", "video", "anchors", "asset", "results",
    }  # fmt: skip
    assert (out / "model.g4d").is_file() and (out / "stages/static/run/model.g4d").is_file()
    assert json.loads((out / "generate.json").read_text())["settings"]["frames"] == 5


def test_an_asset_is_drawn_on_the_device_that_was_asked_for(
    pretend: torch.device, fakes: FakeParts, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for device in ("cpu", "pretend"):
        assert generate("--image", picture, "--out", tmp_path / device, "--frames", 3, "--device", device) == 0
        said = capsys.readouterr().out
        name = "the CPU" if device == "cpu" else "pretend:0 (a pretend accelerator)"
        assert f"device   on {name}, with the backend {device}\n" in said
        assert fakes.configs[-1]["device"] == ("cpu" if device == "cpu" else "pretend:0")
    for name in ("renders/sheet.png", "renders/orbit.mp4", "exports/ply/frame_0002.ply"):
        assert (tmp_path / "cpu" / name).read_bytes() == (tmp_path / "pretend" / name).read_bytes(), name


def test_what_is_known_to_move_is_made_at_rest_and_moved(
    fakes: FakeParts, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.prior = MovingPrior(fakes.calls)
    out = tmp_path / "run"
    assert generate("--image", picture, "--out", out, "--frames", 4) == 0
    work = [call for call in fakes.calls if call.startswith(("fit", "anchors", "moves", "video"))]
    # The estimate's video is the first.
    assert work[-5:] == ["anchors 1", "fit static 1", "moves 0", "video 0 of moves", "fit rigid-parts 4"]
    assert not fakes.configs[-1]["sds"] and not (out / "stages/anchors").exists()
    moves, rest = fakes.known
    assert moves.transforms[:, 0, 0, 3].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1]) and len(rest) == 2
    assert "nothing moves" not in capsys.readouterr().out
    # What was drawn is used again, and a damaged file is noticed.
    assert generate("--out", out, "--resume", "--preset", "balanced") == 0
    assert fakes.calls[-1] == "fit rigid-parts 4" and torch.equal(fakes.known[0].transforms, moves.transforms)
    (out / "stages/video/moves.safetensors").write_bytes(b"cut")
    capsys.readouterr()
    assert generate("--out", out, "--resume") == 0
    assert "video: what was kept cannot be read" in capsys.readouterr().out
    fakes.prior.reach = 0.0
    assert generate("--out", out, "--resume", "--seed", 7) == 0
    assert "with seed 7 nothing moves" in capsys.readouterr().out
    drawn = [call for call in fakes.calls if call.startswith("moves")]
    assert drawn[-4] == "moves 7" and len(set(drawn[-4:])) == 4
    # Another motion is fitted to the same frames, with anchors of all.
    fakes.calls.clear()
    assert generate("--out", out, "--resume", "--motion", "free-time") == 0
    assert fakes.calls[-1] == "fit free-time 4" and fakes.known == (None, None)
    assert "anchors 4" in fakes.calls and not any(call.startswith(("video", "moves")) for call in fakes.calls)


def test_resume_does_only_what_changed(
    fakes: FakeParts, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert generate("--image", picture, "--out", out, "--frames", 3) == 0
    fakes.calls.clear()
    assert generate("--out", out, "--resume") == 0
    assert not any(call.startswith(("fit", "anchors")) for call in fakes.calls)
    assert "nothing is left to do" in capsys.readouterr().out
    before = (out / "renders/orbit.mp4").stat().st_mtime_ns
    assert generate("--out", out, "--resume", "--background", "black") == 0
    assert (out / "renders/orbit.mp4").stat().st_mtime_ns > before
    assert not any(call.startswith(("fit", "anchors")) for call in fakes.calls)
    fakes.calls.clear()
    assert generate("--out", out, "--resume", "--preset", "balanced") == 0
    assert [call for call in fakes.calls if call.startswith(("fit", "anchors"))] == [
        "anchors 1", "fit static 1", "fit None 3",
    ]  # fmt: skip
    # What was chosen before holds: black is not white again.
    assert np.asarray(Image.open(out / "renders/sheet.png"))[4 + 36 + 16, -6].max() < 100
    fakes.calls.clear()
    draw(picture, left=30)
    assert generate("--out", out, "--resume") == 0
    assert [call for call in fakes.calls if call.startswith("fit")] == ["fit static 1", "fit None 3"]


def test_interrupt_keeps_what_is_done(
    fakes: FakeParts, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    fakes.interrupt = True
    assert generate("--image", picture, "--out", out, "--frames", 3) == 130
    assert f"gaussian4d generate --out {out} --resume" in capsys.readouterr().out
    assert (out / "model.g4d").is_file()
    fakes.interrupt = False
    fakes.calls.clear()
    assert generate("--out", out, "--resume") == 0
    assert [call for call in fakes.calls if call.startswith(("fit", "anchors"))] == ["fit None 3 resumed"]


def test_a_resumed_run_sees_the_frames_that_the_interrupted_one_saw(
    fakes: FakeParts, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    anchors = parts.make_anchors

    def recorded(frames: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        seen.append(frames.clone())
        if len(seen) == 1:
            raise KeyboardInterrupt
        return anchors(frames, *arguments, **options)

    monkeypatch.setattr(parts, "make_anchors", recorded)
    assert generate("--image", picture, "--out", tmp_path / "run", "--frames", 3) == 130
    assert generate("--out", tmp_path / "run", "--resume") == 0
    # Half of a grey level is enough to make other anchors of them.
    assert len(seen) >= 2 and torch.equal(seen[0], seen[1])


def test_several_seeds_and_a_pick(
    fakes: FakeParts, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert generate("--image", picture, "--out", out, "--frames", 3, "--seeds", 4) == 0
    # The stand-in's views of seed 2 are the input itself.
    assert "going on with seed 2" in capsys.readouterr().out
    assert np.asarray(Image.open(out / "previews.png")).shape == (4 * 100 + 4, 4 * 100 + 4, 3)
    assert fakes.configs[-1]["seed"] == 2
    assert generate("--out", out, "--resume", "--pick", 3) == 0
    assert fakes.configs[-1]["seed"] == 3
    assert "previews: kept" in capsys.readouterr().out


def test_text(fakes: FakeParts, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert generate("--text", "a red dragon", "--out", out, "--frames", 3, "--seeds", 2) == 0
    said = capsys.readouterr().out
    assert "does not know dragon" in said and "seed 1" in said
    assert (out / "stages/input/frames.png").is_file() and (out / "model.g4d").is_file()
    assert generate("--text", "a dragon", "--out", tmp_path / "other") == 2
    assert "none of these words" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_a_video_is_fitted_as_it_is(fakes: FakeParts, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for k in range(4):
        draw(folder / f"{k}.png", left=20 + 5 * k)
    assert generate("--video", folder, "--out", tmp_path / "run", "--frames", 4) == 0
    assert [call for call in fakes.calls if not call.startswith("views")] == ["anchors 4", "fit None 4"]
    fakes.calls.clear()
    assert generate("--video", folder, "--out", tmp_path / "still", "--static") == 0
    assert [call for call in fakes.calls if not call.startswith("views")] == ["anchors 1", "fit static 1"]


def test_several_inputs_get_a_folder_each(
    fakes: FakeParts, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b").mkdir()
    other = draw(tmp_path / "b/cat.png", left=35)
    out = tmp_path / "runs"
    assert generate("--image", picture, other, "--out", out, "--static") == 0
    assert {path.name for path in out.iterdir()} == {"cat", "cat_2", "generate.json"}
    assert all((out / name / "model.g4d").is_file() for name in ("cat", "cat_2"))
    assert "[2/2] cat" in capsys.readouterr().out


def test_the_fit_gets_the_time_that_is_left(
    fakes: FakeParts, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate("--image", picture, "--out", tmp_path / "run", "--static", "--max-minutes", 20) == 0
    assert 15.0 < fakes.configs[-1]["max_minutes"] < 20.0 and fakes.configs[-1]["minutes_only"]
    assert "more than --max-minutes" not in capsys.readouterr().out
    assert generate("--image", picture, "--out", tmp_path / "short", "--static", "--max-minutes", 0.05) == 0
    assert fakes.configs[-1]["max_minutes"] == 0.25
    assert "more than --max-minutes 0.05" in capsys.readouterr().out


def test_outside_the_domain_is_warned_of(
    fakes: FakeParts, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate("--image", picture, "--out", tmp_path / "a", "--static") == 0
    assert "not like a toy" not in capsys.readouterr().out
    fakes.inside = False
    assert generate("--image", picture, "--out", tmp_path / "b", "--static") == 0
    said = capsys.readouterr().out
    assert said.count("warning: cat: it is not like a toy") == 1
    assert said.index("not like a toy") < said.index("in all on this machine")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "expected one of --image, --text and --video, got none"),
        (["--image", "{cat}", "--text", "a red ball"], "got --image and --text"),
        (["--image", "{cat}", "{missing}", "{nothing}"], "missing.png: expected an image, found no file"),
        (["--image", "{cat}", "--prior", "no/such/folder"], "--prior: expected embedded, a folder"),
        (["--image", "{cat}", "--prior", "owner/name"], "the hub cannot be reached"),
        (["--image", "{cat}", "--elevation", "95"], "--elevation must be"),
        (["--image", "{cat}", "--seeds", "3", "--pick", "7"], "--pick must be one of the seeds 0 to 2"),
        (["--image", "{cat}", "--mask", "{missing}"], "missing.png"),
        (["--image", "{cat}", "--max-minutes", "0"], "--max-minutes"),
        (["--image", "{cat}", "--static", "--motion", "hexplane"], "leave one out"),
        (["--image", "{cat}", "--motion", "rigid-parts"], "needs a video prior that says how things move"),
        (["--video", "{cat}", "--motion", "rigid-parts"], "is for pictures and words"),
        (["--text", " "], "empty --text"),
        (["--resume"], "holds no generation"),
        (["--image", "{cat}", "--device", "cuda:99"], "the device cuda:99 is not there"),
        (["--image", "{cat}", "--device", "gpu"], "expected a device such as auto, cpu, cuda"),
        (["--image", "{cat}", "--backend", "cuda"], "the backend cuda cannot be used here"),
    ],
)
def test_messages_before_the_work(
    fakes: FakeParts,
    picture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    names = {"cat": picture, "missing": tmp_path / "missing.png", "nothing": tmp_path / "nothing.png"}
    out = tmp_path / "run"
    assert generate(*(argument.format(**names) for argument in arguments), "--out", out) == 2
    said = capsys.readouterr().err
    assert expected in said and said.startswith("error: ") and not out.exists() and fakes.calls == []
    if "{nothing}" in arguments:
        assert "nothing.png" in said


def test_a_folder_in_use_is_not_touched(
    fakes: FakeParts, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    assert generate("--image", picture, "--out", out) == 2
    assert "already holds 'thesis.tex'" in capsys.readouterr().err
    assert generate("--image", picture, "--out", out / "thesis.tex") == 2
    assert generate("--image", picture, "--out", out / "thesis.tex" / "run") == 2
    assert [path.name for path in out.iterdir()] == ["thesis.tex"] and fakes.calls == []
    assert generate("--image", picture, "--out", tmp_path / "run", "--static") == 0
    capsys.readouterr()
    assert generate("--image", picture, "--out", tmp_path / "run", "--static") == 2
    assert "add --resume" in capsys.readouterr().err


def test_a_damaged_stage_is_made_again(
    fakes: FakeParts, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert generate("--image", picture, "--out", out, "--frames", 3) == 0
    (out / "stages/video/frames.safetensors").write_bytes(b"cut")
    (out / "stages/results/stage.json").write_text("{")
    capsys.readouterr()
    assert generate("--out", out, "--resume") == 0
    said = capsys.readouterr().out
    assert "video: what was kept cannot be read" in said and "asset: kept" in said and "results: done" in said
