"""Every command on a tiny scene, from pictures to .ply files, the way a user types them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from gaussian4d.cli import main
from gaussian4d.io import load_g4d, read_ply, read_ply_header
from gaussian4d.model import load_model
from gaussian4d.scene import load_scene
from gaussian4d.toys import write_scene

SIZE = 32


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(
        tmp_path_factory.mktemp("data") / "toy", 0, 4, 1, 3, width=SIZE, height=SIZE, samples=1, threads=1
    )


@pytest.fixture(scope="module")
def run(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder fitted by the command for a few steps."""
    out = tmp_path_factory.mktemp("runs") / "toy"
    assert (
        main(["fit", str(scene), "--out", str(out), "--max-steps", "50", "--motion", "free-time", "--seed", "1"]) == 0
    )
    return out


def test_fit_leaves_the_run_folder_of_the_design(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("config.json", "log.txt", "metrics.jsonl", "model.g4d", "eval/metrics.json"):
        assert (run / name).is_file(), name
    assert list((run / "checkpoints").glob("step_*.safetensors"))
    config = json.loads((run / "config.json").read_text())
    assert config["fit"]["motion"] == "free-time" and config["fit"]["seed"] == 1 and config["fit"]["max_steps"] == 50


def test_fit_does_not_overwrite_a_run(scene: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "model.g4d").read_bytes()
    assert main(["fit", str(scene), "--out", str(run)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert (run / "model.g4d").read_bytes() == before


def test_eval_prints_figures_beside_baselines_with_their_protocol(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(run)]) == 0
    out = capsys.readouterr().out
    for word in ("PSNR", "static", "nearest view", f"{SIZE}x{SIZE}", "background", "metrics.json"):
        assert word in out
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    assert metrics["split"] == "test" and len(metrics["views"]) == 3


@pytest.mark.parametrize("path", ["orbit", "spiral", "dataset"])
def test_render_writes_a_video_of_the_asked_length_and_size(run: Path, tmp_path: Path, path: str) -> None:
    out = tmp_path / "a.mp4"
    arguments = ["render", str(run), "--out", str(out), "--path", path, "--fps", "5", "--seconds", "1"]
    assert main([*arguments, "--width", "40", "--height", "24", "--buffers", "rgb", "depth", "alpha"]) == 0
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 5 and frames[0].shape == (24, 120, 3)
    # The scene was cut out with alpha, so it stands on white; alpha is black there.
    assert frames[0][1, 1].min() > 240 and frames[0][1, 81].max() < 15


def test_render_lays_the_recorded_picture_beside_its_own(scene: Path, run: Path, tmp_path: Path) -> None:
    arguments = ["render", str(run), "--out", str(tmp_path / "png"), "--path", "dataset", "--truth", "--time", "0.5"]
    assert main([*arguments, "--fps", "2", "--seconds", "1"]) == 0
    recorded = {frame.time: frame.image for frame in load_scene(scene).frames("test")}[0.5]
    shown = np.asarray(Image.open(tmp_path / "png" / "frame_0000.png"))
    assert shown.shape == (SIZE, 2 * SIZE, 3)
    on_white = recorded[..., :3] * (recorded[..., 3:] / 255.0) + 255.0 - recorded[..., 3:]
    assert np.abs(shown[:, :SIZE] - on_white).max() <= 1.0
    # Bullet time: a still camera and a still clip give one picture over and over.
    assert np.array_equal(shown, np.asarray(Image.open(tmp_path / "png" / "frame_0001.png")))


def test_render_says_of_every_file_what_is_in_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--layout", "files", "--buffers", "rgb", "depth", "--fps", "2", "--seconds", "1"]
    assert main(["render", str(run), "--out", str(tmp_path / "a.mp4"), *options]) == 0
    said = capsys.readouterr().out
    for name in ("rgb", "depth"):
        assert re.search(rf"a_{name}\.mp4: 2 frames \S+ of {name}, ", said)


def test_render_takes_a_path_file(run: Path, tmp_path: Path) -> None:
    key = {"position": [4, 0, 1], "look_at": [0, 0, 0]}
    (tmp_path / "p.json").write_text(json.dumps({"width": 20, "height": 16, "frames": 2, "keyframes": [key]}))
    assert main(["render", str(run), "--out", str(tmp_path / "png"), "--path", str(tmp_path / "p.json")]) == 0
    assert Image.open(tmp_path / "png" / "frame_0001.png").size == (20, 16)


def test_export_of_a_sequence_follows_the_recorded_instants(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "frames"
    assert main(["export", str(run), "--to", str(out)]) == 0
    assert [file.name for file in sorted(out.iterdir())] == [f"frame_{i:04d}.ply" for i in range(3)]
    assert "3 files" in capsys.readouterr().out
    # Toy worlds are z-up, and the header says so to programs that read it.
    assert read_ply_header(out / "frame_0000.ply").comment("Vertical Axis") == "z"
    assert main(["export", str(run), "--to", str(out), "--count", "2"]) == 0
    assert len(list(out.iterdir())) == 2


def test_export_g4d_and_ply_at_a_time(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--to", str(tmp_path / "a.g4d")]) == 0
    original, exported = load_g4d(run / "model.g4d"), load_g4d(tmp_path / "a.g4d")
    assert exported[1] == original[1]
    assert all(np.array_equal(exported[0][name], original[0][name]) for name in original[0])
    assert main(["export", str(run), "--to", str(tmp_path / "a.ply"), "--time", "0.5"]) == 0
    assert "no motion" in capsys.readouterr().out
    from gaussian4d.model import load_model

    state = load_model(run).at(0.5)
    visible = state.means[state.opacities >= 1 / 255].numpy()
    assert np.array_equal(read_ply(tmp_path / "a.ply")["means"], visible)


def test_export_and_render_take_a_crop_box(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = load_model(run)
    middle = whole.at(0.0).means.median(dim=0).values.tolist()
    (tmp_path / "crop.json").write_text(json.dumps({"center": middle, "size": [0.5, 0.5, 0.5]}))
    crop = ["--crop", str(tmp_path / "crop.json")]
    assert main(["export", str(run), "--to", str(tmp_path / "part.g4d"), *crop]) == 0
    part = load_model(tmp_path / "part.g4d")
    assert 0 < len(part) < len(whole)
    assert all(value.shape[0] == len(part) for value in part.params.values())
    arguments = ["--path", "still", "--time", "0", "--seconds", "1", "--fps", "1", "--buffers", "alpha"]
    covered = []
    for name, options in (("whole", []), ("cut", crop)):
        assert main(["render", str(run), "--out", str(tmp_path / name), *arguments, *options]) == 0
        covered.append(np.asarray(Image.open(tmp_path / name / "frame_0000.png")).mean())
    assert 0 < covered[1] < covered[0]
    assert main(["export", str(run), "--to", str(tmp_path / "x.g4d"), "--crop", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


@pytest.mark.parametrize("motion", ["spacetime", "hexplane"])
def test_every_motion_goes_the_whole_way(
    scene: Path, tmp_path: Path, motion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["fit", str(scene), "--out", str(out), "--max-steps", "20", "--motion", motion]) == 0
    capsys.readouterr()
    assert main(["info", str(out)]) == 0
    told = capsys.readouterr().out
    column = {"spacetime": "trajectories", "hexplane": "shared.time.1"}[motion]
    assert motion in told and column in told
    video = tmp_path / "a.mp4"
    assert main(["render", str(out), "--out", str(video), "--fps", "4", "--seconds", "1", "--width", "24"]) == 0
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4
    assert main(["export", str(out), "--to", str(tmp_path / "frames")]) == 0
    frames = sorted((tmp_path / "frames").iterdir())
    assert len(frames) == 3
    model = load_model(out)
    visible = model.at(1.0).opacities.max()
    assert len(read_ply(frames[2])["means"]) <= len(model) and visible > 0
    assert main(["export", str(out), "--to", str(tmp_path / "copy.g4d")]) == 0
    copy = load_model(tmp_path / "copy.g4d")
    assert all(torch.equal(copy.params[name], value) for name, value in model.params.items())
    # Columns of a motion are nobody's business outside: the .ply is a plain splat of the instant.
    assert set(read_ply(frames[0])) == {"means", "quats", "scales", "opacities", "sh0", "shN"}


def test_convert_there_and_back(run: Path, tmp_path: Path) -> None:
    first, middle, last = tmp_path / "a.ply", tmp_path / "b.g4d", tmp_path / "c.ply"
    assert main(["export", str(run), "--to", str(first)]) == 0
    assert main(["convert", str(first), str(middle)]) == 0
    assert main(["convert", str(middle), str(last)]) == 0
    one, two = read_ply(first), read_ply(last)
    for name in one:
        assert np.allclose(one[name], two[name], rtol=1e-4, atol=1e-4), name


def test_info_on_everything(scene: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(scene)]) == 0
    out = capsys.readouterr().out
    for word in ("dnerf", "cameras    5", "3 instants", "12 train, 3 test", f"{SIZE}x{SIZE}", "problems   none found"):
        assert word in out, word
    assert main(["info", str(run)]) == 0
    out = capsys.readouterr().out
    for word in ("free-time", "preset quick", "max_steps 50", "velocities", "PSNR"):
        assert word in out, word
    assert main(["export", str(run), "--to", str(tmp_path / "a.ply")]) == 0
    assert main(["info", str(tmp_path / "a.ply")]) == 0
    assert "no motion" in capsys.readouterr().out


def test_info_lists_every_problem_and_exits_with_2(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(scene, broken)
    pictures = sorted((broken / "train").iterdir())
    pictures[0].unlink()
    pictures[4].unlink()
    assert main(["info", str(broken)]) == 2
    out = capsys.readouterr().out
    assert pictures[0].name in out and pictures[4].name in out
    assert main(["fit", str(broken), "--out", str(tmp_path / "run")]) == 2
    assert pictures[0].name in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_whose_scene_is_gone_still_renders_and_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(run, alone)
    config = json.loads((alone / "config.json").read_text())
    config["scene"]["path"], config["place"] = str(tmp_path / "gone"), {}
    (alone / "config.json").write_text(json.dumps(config))
    arguments = ["--fps", "2", "--seconds", "1", "--width", "24"]
    assert main(["render", str(alone), "--out", str(tmp_path / "a.mp4"), *arguments]) == 0
    assert "the cameras stored in the model are used" in capsys.readouterr().err
    assert main(["render", str(alone), "--out", str(tmp_path / "b.mp4"), "--path", "dataset", *arguments]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "nothing"], "found nothing"),
        (["fit", "nothing", "--out", "x"], "nothing"),
        (["eval", "nothing"], "nothing"),
        (["render", "RUN", "--out", "a.xyz"], "'.xyz' is not known"),
        (["render", "RUN", "--out", "a.mp4", "--path", "loop"], "orbit, spiral, interpolated, dataset, still"),
        (["render", "RUN", "--out", "a.mp4", "--width", "-4"], "--width must be positive"),
        (["render", "RUN", "--out", "a.mp4", "--backend", "cuda"], "the backend cuda cannot be used here"),
        (["render", "RUN", "--out", "a.mp4", "--device", "gpu"], "expected a device such as auto, cpu, cuda"),
        (["render", "RUN", "--out", "a.mp4", "--device", "cpu", "--backend", "cuda"], "do not go together"),
        (["render", "RUN", "--out", "frames", "--device", "cuda:99"], "the device cuda:99 is not there"),
        (["eval", "RUN", "--device", "cuda:99"], "the device cuda:99 is not there"),
        (["report", "RUN", "--out", "a.html", "--device", "cuda:99"], "the device cuda:99 is not there"),
        (["export", "RUN", "--to", "a.splat", "--device", "cuda:99"], "the device cuda:99 is not there"),
        (["export", "RUN", "--to", "a.mesh.glb", "--device", "cuda:99"], "the device cuda:99 is not there"),
        (["convert", "RUN/model.g4d", "a.splat", "--device", "cuda:99"], "the device cuda:99 is not there"),
        (["view", "RUN", "--device", "cuda:99"], "the device cuda:99 is not there"),
        (["export", "RUN", "--to", "a.obj"], "'.obj' is not known"),
        (["export", "RUN", "--to", "a.ply", "--time", "3"], "clip time in [0, 1]"),
        (["convert", "RUN", "a.ply"], "is a folder"),
        (["convert", "nothing.ply", "a.g4d"], "nothing.ply"),
        (["bench", "--case", "nothing"], "no benchmark"),
    ],
)
def test_mistakes_get_one_message_and_leave_nothing(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    from diff_rasterizer import available_backends

    if "cuda" in arguments and not available_backends()["cuda"]:
        pytest.skip("this machine has the CUDA backend")
    monkeypatch.chdir(tmp_path)
    assert main([word.replace("RUN", str(run)) for word in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_demo_goes_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--size", "20", "--max-steps", "2"]) == 0
    out = capsys.readouterr().out
    for word in (
        "dB",
        "static",
        "nearest_view",
        "demo_run/orbit.mp4",
        "demo_run/sheet.png",
        "gaussian4d view demo_run/run",
    ):
        assert word in out, word
    with av.open("demo_run/orbit.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 96
    assert Image.open("demo_run/sheet.png").size[0] > 8 * 20
    assert len(list((tmp_path / "demo_run" / "scene" / "train").iterdir())) == 240
    # A second demo does not touch the first.
    assert main(["demo", "--out", "demo_run"]) == 2
    assert "demo_run exists" in capsys.readouterr().err


def test_doctor_names_every_backend_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    from diff_rasterizer import available_backends

    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name, reason in available_backends().items():
        assert name in out and reason in out
    for word in ("torch", "threads", "instructions", "OpenMP", "viser", "H.264", "is writable"):
        assert word in out, word


def test_view_without_viser_names_the_install_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "viser", None)
    from gaussian4d.errors import UserError
    from viewer.command import View

    with pytest.raises(UserError, match=r'viser.*run: pip install "viser'):
        View(run).run()


@pytest.mark.parametrize(
    ("name", "motion"),
    [
        ("a.compressed.ply", "static"),
        ("a.splat", "static"),
        ("a.spz", "static"),
        ("a.sog", "static"),
        ("a.glb", "static"),
        ("a.splatv", "spacetime"),
        ("a.usdz", "per-frame"),
    ],
)
def test_export_in_every_format_states_its_loss_and_is_read_by_info(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, motion: str
) -> None:
    assert main(["export", str(run), "--to", str(tmp_path / name), "--time", "0.5"]) == 0
    out = capsys.readouterr().out
    # Of a still glTF nothing is lost but the last bits of numbers.
    assert "dB PSNR" in out or name == "a.glb"
    assert ("this is the instant 0.5" in out) == (motion == "static")
    assert ("holds no motion" in out) == (motion == "static" and name != "a.glb")
    assert load_model(tmp_path / name).motion.name == motion
    assert main(["info", str(tmp_path / name)]) == 0
    assert ("no motion" if motion == "static" else f"motion {motion}") in capsys.readouterr().out


def test_a_folder_beside_the_right_one_is_answered_with_the_right_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    above = run.parent
    for command in (["info", str(above)], ["export", str(above), "--to", str(tmp_path / "a.ply")]):
        assert main(command) == 2
        assert f"there is a run in it: {run}" in "".join(capsys.readouterr())
    assert main(["export", str(tmp_path), "--to", str(tmp_path / "a.ply")]) == 2
    assert "fit it first" in capsys.readouterr().err
    (tmp_path / "t.npz").touch()
    assert main(["info", str(tmp_path / "t.npz")]) == 2
    assert main(["convert", str(tmp_path / "t.npz"), str(tmp_path / "b.ply")]) == 2
    assert capsys.readouterr().err.count("cannot be read back") == 2


def test_a_folder_of_frames_is_a_clip(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = tmp_path / "frames"
    assert main(["export", str(run), "--to", str(frames), "--format", "spz-sequence"]) == 0
    assert sorted(file.name for file in frames.iterdir()) == [f"frame_{i:04d}.spz" for i in range(3)]
    assert main(["info", str(frames)]) == 0
    assert "3 frames" in capsys.readouterr().out
    assert main(["convert", str(frames), str(tmp_path / "clip.g4d")]) == 0
    assert load_model(tmp_path / "clip.g4d").motion.name == "per-frame"
    assert main(["convert", str(frames), str(tmp_path / "again"), "--format", "compressed-ply-sequence"]) == 0
    assert len(list((tmp_path / "again").glob("frame_*.compressed.ply"))) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "RUN", "--to", "a.ksplat"], "can only be read"),
        (["export", "RUN", "--to", "a.ply", "--format", "sog"], "rename it"),
        (["export", "RUN", "--to", "a.ply", "--format", "obj"], "colmap"),
        (["export", "RUN", "--to", "a.ply", "--format", "tracks"], "named .npz"),
        (["export", "RUN", "--to", "a.ply", "--format", "mesh"], "named .glb"),
        (["export", "RUN", "--to", "a.ply", "--format", "colmap"], "is a folder"),
        (["convert", "a.ply", "b.pt"], "can only be read"),
        (["convert", "a.ply", "b.sog", "--time", "2"], "clip time in [0, 1]"),
    ],
)
def test_impossible_formats_are_refused_before_anything_is_read(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(run) if word == "RUN" else word for word in arguments]) == 2
    assert message in capsys.readouterr().err


def test_export_of_tracks_and_cameras(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--points", "7", "--count", "2", "--time", "0.5"]
    assert main(["export", str(run), "--to", str(tmp_path / "t.npz"), *arguments]) == 0
    with np.load(tmp_path / "t.npz") as file:
        assert file["xyz"].shape == (2, 7, 3) and file["start"] == 0.5
    for folder, rest in ("a/transforms.json", []), ("b", ["--format", "colmap"]):
        assert main(["export", str(run), "--to", str(tmp_path / folder), "--pictures", *rest]) == 0
    assert main(["export", str(run / "model.g4d"), "--to", str(tmp_path / "c.json")]) == 2
    out, err = capsys.readouterr()
    assert "7 points at 2 instants" in out and "is a scene" in out and "are not known" in err
    for folder in "ab":
        assert main(["info", str(tmp_path / folder)]) == 0
        out = capsys.readouterr().out
        assert "cameras    5" in out and "3 instants" in out and "points     none" not in out
