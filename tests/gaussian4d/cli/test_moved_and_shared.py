"""A run and its scene are moved, copied, dated anew; the model is shared alone. It is found, and looks the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gaussian4d.cli import main
from gaussian4d.cli.opened import open_model
from gaussian4d.fitting.snapshot import newest_file
from gaussian4d.io.g4d import load_g4d, save_g4d
from gaussian4d.model import load_model
from gaussian4d.paths import rig_from_cameras
from gaussian4d.run_folder import RunFolder
from gaussian4d.scene import load_scene
from gaussian4d.toys import write_scene
from gaussian4d.view_block import ViewBlock

SIZE = 32


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scene and a run of it; tests work on copies."""
    folder = tmp_path_factory.mktemp("project") / "first"
    scene = write_scene(folder / "toy", 0, 4, 1, 3, width=SIZE, height=SIZE, samples=1, threads=1)
    fit = ["fit", str(scene), "--out", str(folder / "runs" / "a"), "--max-steps", "20", "--motion", "free-time"]
    assert main([*fit, "--background", "random", "--set", "keep.checkpoint_every=10"]) == 0
    return folder


@pytest.fixture
def moved(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project somewhere else, and nothing at the old place: config.json names a folder that is not there."""
    shutil.copytree(project, tmp_path / "elsewhere")
    config = tmp_path / "elsewhere" / "runs" / "a" / "config.json"
    values = json.loads(config.read_text())
    values["scene"]["path"] = str(tmp_path / "gone" / "toy")
    config.write_text(json.dumps(values))
    return tmp_path / "elsewhere"


def test_scene_and_run_moved_together_are_found(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(moved / "runs" / "a")]) == 0
    said = capsys.readouterr().err
    assert "is gone; " in said and str(moved / "toy") in said
    # Not only beside it: the way from the run to the scene is known.
    (moved / "deep" / "er").mkdir(parents=True)
    (moved / "runs").rename(moved / "deep" / "runs")
    assert main(["eval", str(moved / "deep" / "runs" / "a")]) == 2
    (moved / "toy").rename(moved / "deep" / "toy")
    (moved / "deep" / "runs").rename(moved / "runs")
    values = json.loads((moved / "runs" / "a" / "config.json").read_text())
    values["place"]["relative"] = "../../deep/toy"
    (moved / "runs" / "a" / "config.json").write_text(json.dumps(values))
    assert main(["report", str(moved / "runs" / "a")]) == 0
    assert "cannot be read" not in (moved / "runs" / "a" / "report.html").read_text()
    cameras = moved / "out" / "transforms.json"
    assert main(["export", str(moved / "runs" / "a"), "--to", str(cameras)]) == 0 and cameras.exists()


def test_a_run_moved_away_from_its_scene_is_told_where_it_is(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = moved / "runs" / "a"
    (moved / "toy").rename(moved / "runs" / "renamed")
    assert main(["eval", str(run)]) == 2
    said = capsys.readouterr().err
    assert "--scene" in said and "../../toy" in said and "Traceback" not in said
    there = str(moved / "runs" / "renamed")
    for words in (
        ["eval", str(run)],
        ["report", str(run)],
        ["render", str(run), "--out", str(moved / "a.mp4"), "--path", "dataset", "--seconds", "0.2"],
        ["export", str(run), "--to", str(moved / "b" / "transforms.json")],
        ["render", str(run / "model.g4d"), "--out", str(moved / "c.mp4"), "--path", "dataset", "--seconds", "0.2"],
    ):
        assert main([*words, "--scene", there]) == 0, words
    # A resumed fit keeps the new place.
    assert main(["fit", there, "--out", str(run), "--resume"]) == 0
    assert RunFolder(run).scene_options()["path"] == str(Path(there).resolve())
    capsys.readouterr()
    assert main(["fit", "--out", str(run), "--resume"]) == 0 and main(["eval", str(run)]) == 0
    assert "gone" not in capsys.readouterr().err


def test_info_says_what_is_not_there(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = moved / "runs" / "a"
    assert main(["info", str(run)]) == 0
    assert "no longer" not in capsys.readouterr().out
    shutil.rmtree(moved / "toy")
    (run / "model.g4d").unlink()
    assert main(["info", str(run)]) == 0
    said = capsys.readouterr().out
    assert "the scene no longer exists there" in said and "model.g4d is missing although the fit is finished" in said


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"fps": -5.0}, "frames per second"),
        ({"times": [0.5, 0.2]}, "ascending clip times"),
        ({"times": [0.0, 7.0]}, "ascending clip times"),
        ({"meta": {"offset": "x"}}, "offset"),
        ({"meta": {"view": {"version": 1, "up": [0, 0, 0]}}}, "up"),
        ({"motion": {"name": "bogus", "config": {}}}, "bogus"),
    ],
)
def test_info_refuses_what_other_commands_refuse(
    project: Path, tmp_path: Path, changed: dict[str, object], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays, manifest = load_g4d(project / "runs" / "a" / "model.g4d")
    save_g4d(tmp_path / "a.g4d", {name: np.array(value) for name, value in arrays.items()}, {**manifest, **changed})
    for words in (["info"], ["export", "--to", str(tmp_path / "a.ply")]):
        assert main([words[0], str(tmp_path / "a.g4d"), *words[1:]]) == 2
        assert named in capsys.readouterr().err


def test_info_says_how_a_model_wants_to_be_looked_at(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays, manifest = load_g4d(project / "runs" / "a" / "model.g4d")
    columns = {name: np.array(value) for name, value in arrays.items()}
    columns["means"][0] = np.nan
    meta = {**manifest["meta"], "offset": [500000.0, 4000000.0, 0.0]}
    save_g4d(tmp_path / "a.g4d", columns, {**manifest, "meta": meta})
    assert main(["info", str(tmp_path / "a.g4d")]) == 0
    said = capsys.readouterr()
    assert "up is +z" in said.out and "offset     500000 4000000 0" in said.out and "recorded cameras" in said.out
    assert "are not valid Gaussians" in said.err


def test_another_scene_is_named_as_another(moved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = moved / "runs" / "a"
    other = write_scene(tmp_path / "other", 1, 3, 1, 2, width=SIZE, height=SIZE, samples=1, threads=1)
    video = ["render", str(run / "model.g4d"), "--out", str(tmp_path / "a.mp4")]
    for words in (["eval", str(run)], ["fit", str(other), "--out", str(run), "--resume"], video):
        assert main([*words, *([] if words[0] == "fit" else ["--scene", str(other)])]) == 2
        assert "is not the scene that" in capsys.readouterr().err
    # What lies at the recorded place is a different scene now; the right one is beside the run.
    shutil.copytree(other, tmp_path / "gone" / "toy")
    assert main(["eval", str(run)]) == 0
    assert "is a different scene now; " in capsys.readouterr().err
    # Another one beside the run is not taken for it.
    shutil.rmtree(tmp_path / "gone")
    shutil.rmtree(moved / "toy")
    shutil.copytree(other, moved / "toy")
    assert main(["eval", str(run)]) == 2
    assert "a different scene" in capsys.readouterr().err


def test_a_run_of_before_finds_its_scene_beside_it(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = moved / "runs" / "a" / "config.json"
    values = json.loads(config.read_text())
    del values["place"]
    config.write_text(json.dumps(values))
    assert main(["eval", str(moved / "runs" / "a")]) == 0
    assert "is used instead" in capsys.readouterr().err


def test_a_copy_with_new_dates_is_finished(project: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(project / "runs" / "a", run)
    for file in (run / "model.g4d", run / "report.html", *sorted((run / "checkpoints").iterdir())):
        # The checkpoints come out of the archive last.
        os.utime(file, (time.time() + len(file.parts), time.time() + len(file.parts)))
    assert RunFolder(run).finished and newest_file(run) == run / "model.g4d"
    # Of before the marker: what was reported on had come to its end.
    (run / "progress.json").unlink()
    assert RunFolder(run).finished and newest_file(run) == run / "model.g4d"
    # A fit that goes on has checkpoints of more steps than the model it was stopped with.
    RunFolder(run).mark(False, 10)
    checkpoint = sorted((run / "checkpoints").iterdir())[-1]
    assert not RunFolder(run).finished and newest_file(run) == run / "model.g4d"
    arrays, manifest = load_g4d(run / "model.g4d")
    manifest["meta"]["fit"]["steps"] = 10
    save_g4d(tmp_path / "earlier.g4d", {name: np.array(value) for name, value in arrays.items()}, manifest)
    (run / "model.g4d").unlink()
    assert newest_file(run) == checkpoint
    (tmp_path / "earlier.g4d").rename(run / "model.g4d")
    os.utime(run / "model.g4d", (time.time() + 99, time.time() + 99))
    assert newest_file(run) == checkpoint


def test_a_stopped_fit_is_not_finished(project: Path, tmp_path: Path) -> None:
    from gaussian4d.reconstruction import fit

    def stop(trainer, event: str) -> None:
        if event == "after_step" and trainer.step >= 5:
            trainer.stop_requested = True

    scene = load_scene(project / "toy")
    given = {"max_steps": 20, "motion": "free-time"}
    result = fit(scene, out=tmp_path / "run", callbacks=[stop], **given)  # type: ignore[list-item]
    assert result.interrupted and not RunFolder(tmp_path / "run").finished
    assert not fit(scene, out=tmp_path / "run", resume=True).interrupted and RunFolder(tmp_path / "run").finished


def _orbit(source: Path, out: Path, *more: str) -> list[np.ndarray]:
    assert main(["render", str(source), "--out", str(out), "--seconds", "0.2", *more]) == 0
    return [np.asarray(Image.open(file)) for file in sorted(out.glob("*.png"))]


def test_the_file_alone_is_looked_at_as_the_run_is(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, alone = project / "runs" / "a", tmp_path / "alone.g4d"
    shutil.copy(run / "model.g4d", alone)
    for path in ("orbit", "spiral", "interpolated", "still"):
        mine = _orbit(run, tmp_path / f"run_{path}", "--path", path)
        theirs = _orbit(alone, tmp_path / f"file_{path}", "--path", path)
        assert mine and all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True)), path
    assert "note" not in capsys.readouterr().out.replace("frame rate unknown", "")
    here, there = open_model(run), open_model(alone)
    assert [camera.id for camera in here.recorded] == [camera.id for camera in there.recorded]
    assert here.framing.up == pytest.approx(there.framing.up) and there.framing.up == pytest.approx([0, 0, 1], abs=0.1)
    assert [camera.id for camera in there.framing.around] == [camera.id for camera in there.recorded]
    rig = rig_from_cameras(load_scene(project / "toy").cameras.values())
    for framing in (here.framing, there.framing):
        assert framing.center == pytest.approx(rig.center) and framing.up == pytest.approx(rig.up)
        assert framing.first.position == pytest.approx(rig.position(rig.start))
    assert here.length == there.length and here.vertical_axis == there.vertical_axis == "z"
    assert not there.framing.guessed


def test_a_checkpoint_knows_it_too(project: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(project / "runs" / "a", run)
    (run / "model.g4d").unlink()
    block = ViewBlock.of(RunFolder(run).model())
    expected = ViewBlock.of(load_model(project / "runs" / "a"))
    assert block is not None and expected is not None
    assert {**block.to_dict(), "near": 0} == {**expected.to_dict(), "near": 0}


def _forgetful(run: Path, to: Path) -> Path:
    """Writes the model of a run as an older version did, which did not say how to look at it."""
    arrays, manifest = load_g4d(run / "model.g4d")
    del manifest["meta"]["view"]
    save_g4d(to, {name: np.array(value) for name, value in arrays.items()}, manifest)
    return to


def test_a_run_of_before_says_what_its_scene_says(project: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    shutil.copytree(project / "runs" / "a", run)
    _forgetful(project / "runs" / "a", run / "model.g4d")
    assert main(["export", str(run), "--to", str(tmp_path / "now.g4d")]) == 0
    now, then = ViewBlock.of(load_model(tmp_path / "now.g4d")), ViewBlock.of(load_model(project / "runs" / "a"))
    assert now is not None and then is not None and now.to_dict() == then.to_dict()


def test_where_nothing_is_known_nothing_is_made_up(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = _forgetful(project / "runs" / "a", tmp_path / "old.g4d")
    opened = open_model(old)
    assert opened.recorded == [] and opened.framing.guessed
    _orbit(old, tmp_path / "guessed")
    assert "the up axis is not known: +z is assumed; --up" in capsys.readouterr().out
    _orbit(old, tmp_path / "said", "--up", "-y")
    assert "which way is up" not in capsys.readouterr().out
    # What is said goes into what is written.
    assert main(["export", str(old), "--to", str(tmp_path / "said.g4d"), "--up", "-y"]) == 0
    said = ViewBlock.of(load_model(tmp_path / "said.g4d"))
    assert said is not None and said.up == pytest.approx([0, -1, 0]) and said.cameras == ()
    assert main(["render", str(old), "--out", str(tmp_path / "x"), "--path", "still", "--camera", "around_0"]) in (0, 2)
    assert main(["render", str(old), "--out", str(tmp_path / "x"), "--up", "q"]) == 2


def test_the_first_view_shows_the_alpha(project: Path, tmp_path: Path) -> None:
    from gaussian4d.rendering import render

    opened = open_model(_forgetful(project / "runs" / "a", tmp_path / "old.g4d"))
    for camera in (opened.framing.first, opened.framing.around[5]):
        wide = camera.resized(camera.width, camera.height)
        K = wide.K.copy()
        K[0, 2] += wide.width
        K[1, 2] += wide.height
        from gaussian4d.cameras import Camera

        around = Camera("wide", wide.viewmat, K, 3 * wide.width, 3 * wide.height)
        small = around.resized(around.width // 8, around.height // 8)
        alpha = render(opened.model, small, 0.5, ("alpha",)).alpha
        assert alpha is not None
        h, w = alpha.shape[0] // 3, alpha.shape[1] // 3
        assert float(alpha[h : 2 * h, w : 2 * w].sum() / alpha.sum()) > 0.95


@pytest.mark.parametrize("stated", [None, 10.0])
def test_the_clip_has_one_length(
    project: Path, tmp_path: Path, stated: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays, manifest = load_g4d(project / "runs" / "a" / "model.g4d")
    manifest["meta"]["view"].pop("seconds", None)
    manifest["meta"]["view"].pop("fps", None)
    manifest["fps"] = stated
    if stated is not None:
        manifest["meta"]["view"]["seconds"] = 1.7
    source = tmp_path / "a.g4d"
    save_g4d(source, {name: np.array(value) for name, value in arrays.items()}, manifest)
    expected = 4.0 if stated is None else 1.7
    assert main(["render", str(source), "--out", str(tmp_path / "a.mp4"), "--width", "16"]) == 0
    said = capsys.readouterr().out
    assert f"{expected:.1f} s at" in said
    assert ("frame rate unknown: 0.5 frames per second assumed" in said) == (stated is None)
    assert main(["export", str(source), "--to", str(tmp_path / "a.html")]) == 0
    header = re.search(r'id="scene">(.*?)</script>', (tmp_path / "a.html").read_text())
    assert header and json.loads(header[1])["seconds"] == pytest.approx(expected)
    assert main(["export", str(source), "--to", str(tmp_path / "a.usda")]) == 0
    rate = re.search(r"timeCodesPerSecond = (\S+)", (tmp_path / "a.usda").read_text())
    assert rate and 2 / float(rate[1]) == pytest.approx(expected)
    pytest.importorskip("viser")
    from gaussian4d.clip_length import clip_length
    from viewer.server import ViewerServer

    model = load_model(source)
    server = ViewerServer(model, [], port=8790)
    try:
        assert server._duration == pytest.approx(expected) == pytest.approx(clip_length(model).played)
    finally:
        server.stop()
    pytest.importorskip("fourdgs")
    import fourdgs

    assert main(["export", str(source), "--to", str(tmp_path / "a.4dgs")]) == 0
    assert fourdgs.read(str(tmp_path / "a.4dgs")).duration_sec == pytest.approx(expected)


def test_files_for_viewers_stand_upright(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = project / "runs" / "a"
    assert main(["export", str(source), "--to", str(tmp_path / "kept.ply")]) == 0
    assert "--axes upright" in capsys.readouterr().out
    kept = load_model(tmp_path / "kept.ply")
    block = ViewBlock.of(kept)
    assert block is not None and block.up == pytest.approx([0, 0, 1])
    assert main(["export", str(source), "--to", str(tmp_path / "turned.ply"), "--axes", "upright"]) == 0
    turned = load_model(tmp_path / "turned.ply")
    up = open_model(source).framing.up
    heights = kept.params["means"].double().numpy() @ up
    assert -turned.params["means"].double().numpy()[:, 1] == pytest.approx(heights, abs=1e-5)
    assert ViewBlock.of(turned) is None and open_model(tmp_path / "turned.ply").framing.up == pytest.approx([0, -1, 0])
    capsys.readouterr()
    assert main(["export", str(source), "--to", str(tmp_path / "a.sog")]) == 0
    said = capsys.readouterr().out
    assert "rotated upright" in said
    loss = re.search(r"matches the model at (\d+\.\d)", said)
    assert loss and float(loss[1]) > 30.0, "the figure is about the format, not about the turn"
    assert main(["export", str(source), "--to", str(tmp_path / "b.sog"), "--axes", "recorded"]) == 0
    assert "turned" not in capsys.readouterr().out
    # Converting turns nothing.
    assert main(["convert", str(tmp_path / "kept.ply"), str(tmp_path / "c.splat")]) == 0
    back = load_model(tmp_path / "c.splat").params["means"]
    assert np.sort(back[:, 2].numpy()) == pytest.approx(np.sort(kept.params["means"][:, 2].numpy()), abs=1e-5)
    assert main(["export", str(source), "--to", str(tmp_path / "a.glb"), "--axes", "upright"]) == 2


@pytest.mark.parametrize("ending", [".splatv", ".4dgs", ".glb", ".usda"])
def test_what_a_format_can_hold_comes_back(project: Path, tmp_path: Path, ending: str) -> None:
    if ending == ".4dgs":
        pytest.importorskip("fourdgs")
    source = project / "runs" / "a"
    assert main(["export", str(source), "--to", str(tmp_path / f"a{ending}")]) == 0
    mine, theirs = open_model(source), open_model(tmp_path / f"a{ending}")
    assert not theirs.framing.guessed and theirs.framing.up @ mine.framing.up > 0.99
    if ending in (".splatv", ".4dgs"):
        assert theirs.length.seconds == pytest.approx(mine.length.seconds) or mine.length.assumed
        assert [camera.id for camera in theirs.recorded] == [camera.id for camera in mine.recorded]
        for a, b in zip(theirs.recorded, mine.recorded, strict=True):
            assert a.viewmat == pytest.approx(b.viewmat) and a.K[0, 0] == pytest.approx(b.K[0, 0])
    if ending == ".splatv":
        data = (tmp_path / "a.splatv").read_bytes()
        chunk = json.loads(data[8 : 8 + int.from_bytes(data[4:8], "little")])[0]
        first = mine.recorded[0]
        assert len(chunk["cameras"]) == len(mine.recorded) and chunk["cameras"][0]["img_name"] == first.id
        assert chunk["cameras"][0]["position"] == pytest.approx(first.position)
        # As in the viewer: the rows of its view matrix are the columns of the rotation.
        np.testing.assert_allclose(np.array(chunk["cameras"][0]["rotation"]).T, first.viewmat[:3, :3], atol=1e-9)
    if ending == ".4dgs":
        import fourdgs

        camera = fourdgs.read(str(tmp_path / "a.4dgs")).camera
        assert camera is not None and camera.position == pytest.approx(mine.framing.first.position)
        assert len(camera.positions) == len(mine.recorded)
        assert {tuple(np.round(p, 6)) for p in camera.positions} == {
            tuple(np.round(c.position, 6)) for c in mine.recorded
        }
