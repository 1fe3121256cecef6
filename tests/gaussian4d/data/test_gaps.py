"""Frames that are not there: gaps keep their place in time and are said once; --skip-missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from layouts import write_easyvolcap, write_nerfies
from PIL import Image
from test_far_scenes import write_scene
from tiny_scenes import COUNT, write_dnerf, write_panoptic

from gaussian4d import load_scene
from gaussian4d.cli.app import main
from gaussian4d.errors import UserError
from gaussian4d.frame_numbers import FrameNumbers, numbers_of_times
from gaussian4d.run_folder import RunFolder
from gaussian4d.scene import inspect


@pytest.mark.parametrize(
    ("numbers", "times", "said"),
    [
        ([0, 1, 2, 8], [0, 1 / 8, 2 / 8, 1], "5 of 9 frame numbers are missing (3 to 7)"),
        ([10, 20, 40, 50], [0, 1 / 4, 3 / 4, 1], "1 of 5 frame numbers are missing (30)"),
        ([5, 10, 15], [0, 0.5, 1], None),
        ([1700, 1733, 1768, 1801], None, None),
        ([7], [0], None),
    ],
)
def test_numbers_keep_their_place(numbers: list[int], times: list[float] | None, said: str | None) -> None:
    found = FrameNumbers.of(numbers + numbers)
    if times is not None:
        assert [found.time(number) for number in numbers] == pytest.approx(times)
    assert (found.gaps() or "").startswith(said or "nothing") if said else found.gaps() is None


def test_times_on_a_grid_give_their_numbers_back() -> None:
    assert numbers_of_times([0.0, 0.125, 0.25, 1.0]) == [0, 1, 2, 8]
    assert numbers_of_times(np.linspace(0.2, 0.7, 6)) == [0, 1, 2, 3, 4, 5]
    assert numbers_of_times([0.0, 0.11, 0.31, 0.5]) == [0, 1, 2, 3]
    assert numbers_of_times([]) == [] and numbers_of_times([0.4]) == [0]


def test_panoptic_frames_that_are_lost_leave_their_time_empty(tmp_path: Path) -> None:
    write_panoptic(tmp_path)
    before = load_scene(tmp_path)
    for split in ("train", "test"):
        path = tmp_path / f"{split}_meta.json"
        content = json.loads(path.read_text())
        for key in ("fn", "cam_id", "k", "w2c"):
            del content[key][2]
        path.write_text(json.dumps(content))
    scene, problems = inspect(tmp_path)
    assert scene is not None
    np.testing.assert_allclose(scene.times, np.delete(before.times, 2))
    assert scene.duration == before.duration
    assert [problem.message for problem in problems if "missing" in problem.message] == [
        f"1 of {COUNT} frame numbers are missing (2): the others keep their place in time"
    ]


def test_cameras_that_lack_the_same_frames_are_named_in_one_line(tmp_path: Path) -> None:
    write_easyvolcap(tmp_path)
    folders = sorted(path for path in (tmp_path / "images").iterdir())
    for folder in folders[:2]:
        sorted(folder.iterdir())[1].unlink()
    scene, problems = inspect(tmp_path)
    said = [problem.message for problem in problems if "lack" in problem.message]
    assert scene is not None and len(said) == 1
    assert said[0].startswith(f"cameras {folders[0].name}, {folders[1].name} have ")


@pytest.mark.parametrize("write", [write_dnerf, write_panoptic, write_nerfies])
def test_skip_missing_leaves_out_and_counts(tmp_path: Path, write: object) -> None:
    write(tmp_path)  # type: ignore[operator]
    whole = load_scene(tmp_path)
    frames = whole.frames("train")
    gone = [Path(frames[0].source), Path(frames[-1].source)]
    for path in gone:
        path.unlink()
    with pytest.raises(UserError, match=r"2 files are missing in total.*--skip-missing"):
        load_scene(tmp_path)
    scene = load_scene(tmp_path, skip_missing=True)
    assert len(scene.frames("all")) == len(whole.frames("all")) - 2
    said = [problem.message for problem in scene.problems if "left out (--skip-missing)" in problem.message]
    assert len(said) == 1 and "2 entries" in said[0] and gone[0].name in said[0]
    assert scene.options["skip_missing"] is True and "skip_missing" not in whole.options
    for frame in scene.frames("all"):
        assert np.asarray(frame.image).any()


def test_a_run_opens_its_scene_without_what_was_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_scene(tmp_path / "scene", np.zeros(3))
    whole = len(load_scene(folder).frames("all"))
    (folder / "images" / "c0_1.png").unlink()
    with pytest.raises(UserError, match=r"c0_1\.png is missing"):
        load_scene(folder)
    assert main(["info", str(folder)]) == 2
    assert main(["info", str(folder), "--skip-missing"]) == 0
    assert "1 entry is left out (--skip-missing)" in capsys.readouterr().out
    command = ["fit", str(folder), "--out", str(tmp_path / "run"), "--max-steps", "3"]
    assert main(command) == 2 and not (tmp_path / "run").exists()
    assert main([*command, "--skip-missing"]) == 0
    assert "1 entry is left out (--skip-missing)" in (tmp_path / "run" / "log.txt").read_text()
    assert len(RunFolder(tmp_path / "run").scene().frames("all")) == whole - 1


def test_masks_that_are_missing_are_counted(tmp_path: Path) -> None:
    write_easyvolcap(tmp_path)
    folder = sorted((tmp_path / "masks").iterdir())[0]
    sorted(folder.iterdir())[1].unlink()
    scene, problems = inspect(tmp_path)
    said = [problem for problem in problems if "no mask" in problem.message]
    assert scene is not None and len(said) == 1
    assert said[0].file == str(folder) and said[0].message.startswith("1 of ") and "used without" in said[0].message


def test_all_pictures_missing_is_an_error(tmp_path: Path) -> None:
    write_dnerf(tmp_path)
    for folder in ("train", "test"):
        shutil.rmtree(tmp_path / folder)
    with pytest.raises(UserError, match="no usable frame"):
        load_scene(tmp_path, skip_missing=True)


@pytest.mark.parametrize("stamps", [(1.7e9, 1.7e9 + 2.0), (-4.0, 0.0), (100.0, 130.0)])
def test_times_beyond_the_clip_begin_with_the_first(tmp_path: Path, stamps: tuple[float, float]) -> None:
    write_dnerf(tmp_path)
    for path in tmp_path.glob("transforms_*.json"):
        content = json.loads(path.read_text())
        for entry in content["frames"]:
            entry["time"] = stamps[0] + entry["time"] * (stamps[1] - stamps[0])
        path.write_text(json.dumps(content))
    scene = load_scene(tmp_path)
    np.testing.assert_allclose(scene.times, np.linspace(0, 1, COUNT), atol=1e-6)
    assert scene.duration == pytest.approx(stamps[1] - stamps[0])
    assert sum("shifted to start at 0" in problem.message for problem in scene.problems) == 1


@pytest.mark.parametrize(("unit", "factor"), [("frame numbers", COUNT - 1), ("unknown unit", 1000 * (COUNT - 1))])
def test_how_long_a_clip_lasts_is_not_made_up(tmp_path: Path, unit: str, factor: float) -> None:
    write_dnerf(tmp_path)
    for path in tmp_path.glob("transforms_*.json"):
        content = json.loads(path.read_text())
        for entry in content["frames"]:
            entry["time"] = round(factor * entry["time"])
        path.write_text(json.dumps(content))
    scene = load_scene(tmp_path)
    np.testing.assert_allclose(scene.times, np.linspace(0, 1, COUNT), atol=1e-6)
    assert scene.duration is None and scene.fps is None
    assert any(unit in problem.message for problem in scene.problems)


def test_two_pictures_of_one_number_are_refused(tmp_path: Path) -> None:
    write_easyvolcap(tmp_path)
    folder = sorted((tmp_path / "images").iterdir())[0]
    first = sorted(folder.iterdir())[0]
    Image.open(first).save(folder / f"0{first.name}")
    with pytest.raises(UserError, match="exists twice"):
        load_scene(tmp_path)
