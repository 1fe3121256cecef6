"""Scenes of frames given in Python: every kind of source, what comes with pictures, what is refused, and fits."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gaussian4d as g4
from gaussian4d.cli.app import main
from gaussian4d.errors import UserError
from gaussian4d.scene import PointCloud, Scene
from gaussian4d.toys import ring_cameras, write_scene

W, H = 20, 12
INSTANTS = 4
TIMES = [k / (INSTANTS - 1) for k in range(INSTANTS) for _ in range(2)]
CAMERAS = [camera for _ in range(INSTANTS) for camera in ring_cameras(2, 0, width=W, height=H)[0]]
F = len(TIMES)
PICTURES = np.random.default_rng(0).integers(0, 256, (F, H, W, 3)).astype(np.uint8)
MAPS = np.random.default_rng(1).random((F, H, W)).astype(np.float32)
FRAME_MB = H * W * 3 / 2**20


def scene(images: Any = PICTURES, cameras: Any = CAMERAS, times: Any = TIMES, **options: Any) -> Scene:
    return Scene.from_frames(images, cameras, times, **options)


class Source:
    """A source that notes how it is asked."""

    def __init__(self, **columns: Any) -> None:
        self.asked: list[int] = []
        self.columns = columns
        self.inside = 0
        self.most_inside = 0

    def __len__(self) -> int:
        return F

    def __getitem__(self, index: int) -> g4.FrameData:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.asked.append(index)
        time.sleep(0.001)
        self.inside -= 1
        return g4.FrameData(PICTURES[index], **{name: column[index] for name, column in self.columns.items()})


def test_an_array_is_served_as_it_is() -> None:
    made = scene(fps=3.0, points=np.eye(3), name="mine")
    frames = made.frames("all")
    assert [(frame.camera_id, frame.time, frame.time_index) for frame in frames] == [
        (camera.id, time, k // 2) for k, (camera, time) in enumerate(zip(CAMERAS, TIMES))
    ]
    for k, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, PICTURES[k])
        assert frame.image.dtype == np.uint8 and not np.shares_memory(frame.image, PICTURES)
        assert (frame.mask, frame.depth, frame.weight, frame.share) == (None, None, None, 1.0)
        assert frame.source == f"mine#{k}" and frame.split == "train" and frame.camera is CAMERAS[k % 2]
        assert frame.covisible is None and not frame.has_covisible
    assert (made.format, made.fps, made.duration, made.downscale, made.has_alpha) == ("frames", 3.0, 1.0, 1.0, False)
    assert list(made.cameras) == ["0", "1"] and made.times.tolist() == TIMES[::2] and not made.problems
    assert made.points is not None and made.points.rgb.tolist() == [[128] * 3] * 3
    assert str(made.path) == "mine" and repr(made).startswith("Scene('mine', format='frames', cameras=2, times=4")
    assert not made.has_files and "all frames are for training" in made.split_note


@pytest.mark.parametrize("kind", ["list", "tensor", "floats", "function", "source", "generator"])
def test_every_kind_of_source_gives_the_same(kind: str) -> None:
    images: Any = {
        "list": list(PICTURES),
        "tensor": torch.from_numpy(PICTURES),
        "floats": PICTURES.astype(np.float32) / 255,
        "function": lambda index: PICTURES[index],
        "source": Source(),
        "generator": (picture for picture in PICTURES),
    }[kind]
    # Test frames come last in the scene: what is whose must not be mixed up.
    made = scene(images, test_every=2)
    assert isinstance(Source(), g4.FrameSource)
    assert [frame.split for frame in made.frames("all")] == ["train"] * 4 + ["test"] * 4
    assert [frame.time_index for frame in made.frames("test")] == [1, 1, 3, 3]
    for frame in made.frames("all"):
        np.testing.assert_array_equal(frame.image, PICTURES[int(frame.source.split("#")[1])])
    for frame, k in zip(made.frames("test"), (2, 3, 6, 7)):
        np.testing.assert_array_equal(frame.image, PICTURES[k])


def test_a_source_is_asked_when_a_frame_is_needed_once_and_by_one_thread_at_a_time() -> None:
    source = Source()
    made = scene(source)
    # The first says whether there is alpha.
    assert source.asked == [0]
    made.prefetch(made.frames()[4:])
    threads = [threading.Thread(target=lambda: [frame.image for frame in made.frames()]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(source.asked) == list(range(F)) and source.most_inside == 1
    counts = made.cache_counts
    assert counts.decoded == F and counts.spilled == 0


def test_a_generator_is_used_up_within_the_memory_it_may_take() -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    count, most = 60, 0

    def pictures() -> Iterator[np.ndarray]:
        nonlocal most
        for k in range(count):
            picture = np.full((H, W, 3), k, dtype=np.uint8)
            alive.append(weakref.ref(picture))
            yield picture
            del picture
            gc.collect()
            most = max(most, sum(there() is not None for there in alive))

    made = scene(
        pictures(), ring_cameras(1, 0, width=W, height=H)[0][0], np.linspace(0, 1, count), cache_mb=3.5 * FRAME_MB
    )
    assert most <= 2, "nothing but the store keeps frames"
    for frame in [*reversed(made.frames()), *made.frames()]:
        assert (frame.image == frame.time_index).all()
        assert made._store.held_bytes <= 3.5 * FRAME_MB * 2**20
    counts = made.cache_counts
    assert counts.peak_bytes <= 3.5 * FRAME_MB * 2**20 and counts.decoded == count and counts.spilled == count


def test_frames_that_come_once_and_find_no_room_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import gaussian4d.data.spill as spill

    monkeypatch.setattr(spill, "_DISK_RESERVE", 1 << 62)
    assert scene(iter(PICTURES), cache_mb=(F + 0.5) * FRAME_MB).cache_counts.spilled == 0
    with pytest.warns(UserWarning, match="TMPDIR"), pytest.raises(UserError, match="raise cache_mb, set TMPDIR"):
        scene(iter(PICTURES), cache_mb=(F - 0.5) * FRAME_MB)
    # A source is only asked again.
    source = Source()
    with pytest.warns(UserWarning, match="TMPDIR"):
        tight = scene(source, cache_mb=0)
        assert all((frame.image == PICTURES[k]).all() for k, frame in enumerate(tight.frames()))
    assert len(source.asked) > F


@pytest.mark.parametrize("by", ["columns", "data"])
@pytest.mark.parametrize("cache_mb", [1024, 0])
def test_what_comes_with_pictures(by: str, cache_mb: float) -> None:
    depth = MAPS * 3
    depth[:, 0, 0] = np.nan
    columns: dict[str, Any] = {
        "alpha": (MAPS * 255).astype(np.uint8),
        "mask": MAPS > 0.5,
        "depth": [None, *depth[1:]],
        "weight": [*MAPS[:-1], None],
        "share": [0.5 * k for k in range(F)],
    }
    if by == "columns":
        made = scene(cache_mb=cache_mb, **columns)
    else:
        made = scene(Source(**columns), cache_mb=cache_mb)
    assert made.has_alpha
    for _ in range(2):
        for k, frame in enumerate(made.frames()):
            np.testing.assert_array_equal(
                frame.image, np.concatenate([PICTURES[k], columns["alpha"][k, ..., None]], -1)
            )
            assert frame.mask is not None and frame.mask.dtype == np.uint8
            np.testing.assert_array_equal(frame.mask, np.where(MAPS[k] > 0.5, 255, 0))
            if k == 0:
                assert frame.depth is None
            else:
                assert frame.depth is not None and frame.depth.dtype == np.float32
                np.testing.assert_array_equal(frame.depth, np.nan_to_num(depth[k], nan=0.0))
            if k == F - 1:
                assert frame.weight is None
            else:
                np.testing.assert_array_equal(frame.weight, MAPS[k])
            assert frame.share == 0.5 * k
    assert (made.cache_counts.reloaded > 0) == (cache_mb == 0)


def test_shares_multiply_and_alpha_is_the_mask_where_none_is_given() -> None:
    made = scene(Source(share=[2.0] * F, alpha=MAPS), share=np.arange(F))
    assert [frame.share for frame in made.frames()] == [2.0 * k for k in range(F)]
    np.testing.assert_array_equal(made.frames()[3].mask, (MAPS[3] * 255 + 0.5).astype(np.uint8))


def test_splits_as_given_and_points_with_times() -> None:
    points = PointCloud(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.uint8), np.array([0.0, 1.0]))
    split = ["train", "test", "val", "train"] * 2
    made = scene(split=split, points=points)
    assert [frame.split for frame in made.frames("all")] == ["train"] * 4 + ["test"] * 2 + ["val"] * 2
    assert made.points is not None and made.points.times is not None
    part = made.part(1, 3)
    assert [frame.time_index for frame in part.frames("all")] == [1, 2, 2, 1]
    np.testing.assert_array_equal(part.frames("val")[0].image, PICTURES[2])
    assert part.points is not None and len(part.points) == 0 and not part.has_files
    assert scene(split="train").frames() and scene(points=(np.eye(3), np.ones((3, 3)))).points.rgb.max() == 255  # type: ignore[union-attr]


def test_a_camera_that_moves_may_keep_its_id() -> None:
    path = [camera.transformed(camera.viewmat, id="hand") for camera in ring_cameras(F, 0, width=W, height=H)[0]]
    made = scene(cameras=path, times=np.linspace(0, 1, F))
    assert list(made.cameras) == ["hand"] + [f"hand_{k:04d}" for k in range(1, F)]
    for frame, camera in zip(made.frames(), path):
        np.testing.assert_array_equal(frame.camera.viewmat, camera.viewmat)


def test_the_fingerprint_is_of_cameras_times_sizes_and_splits() -> None:
    first = scene().fingerprint()
    assert len(first) == 20 and first == scene(255 - PICTURES, share=[2.0] * F).fingerprint()
    signed = [camera.transformed(np.where(camera.viewmat == 0, -0.0, camera.viewmat)) for camera in CAMERAS]
    assert scene(cameras=signed).fingerprint() == first
    pose = CAMERAS[0].viewmat.copy()
    pose[0, 3] += 1e-6
    elsewhere = [CAMERAS[0].transformed(pose, id="a") if k % 2 else camera for k, camera in enumerate(CAMERAS)]
    others = [
        scene(cameras=elsewhere),
        scene(cameras=[camera.transformed(camera.viewmat, id=f"c{camera.id}") for camera in CAMERAS]),
        scene(times=[time * 0.999 for time in TIMES]),
        scene(split=["test", *["train"] * (F - 1)]),
        scene(PICTURES[:-1], CAMERAS[:-1], TIMES[:-1]),
        scene(alpha=MAPS),
        scene().part(0, 3),
    ]
    assert len({first, *(other.fingerprint() for other in others)}) == len(others) + 1
    assert first == scene(iter(PICTURES)).fingerprint(), "however they are given"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a picture short": ({"images": PICTURES[1:]}, "an image for each of the 8 times, got 7"),
    "a camera short": ({"cameras": CAMERAS[1:]}, "a camera for each of the 8 times, got 7 cameras"),
    "no camera": ({"cameras": [np.eye(4)] * F}, "gaussian4d.Camera objects, got ndarray"),
    "no pinhole": ({"cameras": g4.Camera("a", np.eye(4), np.eye(3), W, H, "fisheye")}, "undistort the pictures"),
    "seconds": ({"times": np.arange(F)}, "clip times in 0..1, got 0 to 7; divide"),
    "NaN time": ({"times": [*TIMES[:-1], float("nan")]}, "times must be finite, got nan for frame 7"),
    "no times": ({"times": []}, "times must be a sequence of numbers"),
    "words for times": ({"times": ["a"] * F}, "times: expected an array of numbers"),
    "twice": ({"times": [0.0] * F}, "frames 0 and 2 are both of camera 0 at time 0; leave one out"),
    "one id": (
        {"cameras": [camera.transformed(camera.viewmat, id="a") for camera in CAMERAS]},
        "frames 0 and 1 are both of camera a at time 0; what stands elsewhere needs an id of its own",
    ),
    "a path": ({"images": "folder"}, "load_scene reads folders"),
    "a dictionary": ({"images": {0: PICTURES[0]}}, "got dict"),
    "one picture": ({"images": PICTURES[0]}, r"shape \[F, H, W, 3 or 4\], got \[12, 20, 3\]"),
    "channels first": ({"images": list(PICTURES.transpose(0, 3, 1, 2))}, r"use x.transpose\(1, 2, 0\)"),
    "grey": ({"images": PICTURES[..., :1]}, r"must have shape \[H, W, 3 or 4\], got \[12, 20, 1\]"),
    "another size": ({"images": PICTURES[:, 1:]}, "frame 0: the picture is 20x11, its camera says 20x12"),
    "floats to 255": ({"images": PICTURES.astype(np.float32)}, "floats must lie in 0..1, got 0 to 255; divide by 255"),
    "NaN": ({"images": np.full(PICTURES.shape, np.nan)}, "frame 0: holds NaN or Inf"),
    "other numbers": ({"images": PICTURES.astype(np.int64)}, "expected uint8 or floats in 0..1, got int64"),
    "no picture": ({"images": lambda index: None}, "frame 0: expected an array of numbers, got NoneType"),
    "too few": ({"images": iter(PICTURES[1:])}, "expected 8 frames, one for each time, got 7"),
    "too many": ({"images": iter([*PICTURES, PICTURES[0]])}, "expected 8 frames, one for each time, got more"),
    "alpha twice": ({"images": np.concatenate([PICTURES] * 2, -1)[..., :4], "alpha": MAPS}, "omit one of them"),
    "alpha of two": ({"images": Source(alpha=MAPS), "alpha": MAPS}, "frame 0 has its own alpha, and alpha= gives"),
    "alpha for some": ({"images": iter(PICTURES), "alpha": [MAPS[0], *[None] * (F - 1)]}, "frame 1 has no alpha"),
    "masks short": ({"mask": MAPS[1:]}, "expected mask for each of the 8 frames, got 7"),
    "one mask": ({"mask": 1.0}, "mask must have an array, or None, per frame, got float"),
    "small mask": ({"mask": MAPS[:, 1:]}, "frame 0: the mask is 20x11"),
    "deep depth": ({"depth": MAPS[..., None]}, r"depth must have shape \[H, W\], got \[12, 20, 1\]"),
    "negative depth": ({"depth": -MAPS}, "depth must be finite and not negative, 0 or NaN"),
    "endless depth": ({"depth": MAPS + np.inf}, "depth must be finite"),
    "heavy weight": ({"weight": MAPS + 1}, "weight must lie in 0..1, got 1.0"),
    "NaN weight": ({"weight": MAPS * np.nan}, "weight must lie in 0..1, got nan"),
    "bytes for weight": ({"weight": (MAPS * 255).astype(np.uint8)}, "floats in 0..1 or booleans, got uint8"),
    "shares short": ({"share": [1.0]}, "share must be a number for each of the 8 frames"),
    "negative share": ({"share": [1.0] * 7 + [-1.0]}, "share must be 0 or more, got -1 for frame 7"),
    "own negative share": ({"images": Source(share=[-1.0] * F)}, "frame 0: share must be 0 or more, got -1"),
    "splits short": ({"split": ["train"]}, "a split for each of the 8 frames, got 1"),
    "another split": ({"split": "exam"}, "split must be train, test or val, got 'exam'"),
    "two splits": ({"split": "train", "test_every": 2}, "leave test_every out"),
    "flat points": ({"points": np.zeros((2, 2))}, r"points must be finite numbers \[P, 3\]"),
    "colours short": ({"points": (np.eye(3), np.zeros((2, 3)))}, "a colour for each point"),
    "stopped": ({"fps": 0.0}, "fps must be positive, got 0"),
    "no memory": ({"cache_mb": -1}, "cache_mb must not be negative"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name: str) -> None:
    arguments, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        scene(**arguments)


def test_a_later_frame_that_is_broken_is_named_when_it_is_asked_for() -> None:
    made = scene([*PICTURES[:-1], PICTURES[-1, 1:]], name="mine")
    assert made.frames()[0].image.shape == (H, W, 3)
    made.prefetch(made.frames())
    with pytest.raises(UserError, match="mine: frame 7: the picture is 20x11"):
        _ = made.frames()[7].image
    made = scene(lambda k: g4.FrameData(PICTURES[k], alpha=MAPS[k] if k < 4 else None))
    with pytest.raises(UserError, match="frame 6 has no alpha, frames before it have some"):
        _ = made.frames()[6].image


SETTINGS: dict[str, Any] = {
    "motion": "static", "init_points": 100, "max_gaussians": 150, "densify_every": 5, "densify_grad": 0.0,
    "checkpoint_every": 5, "init_instants": 2, "background": "white", "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of files without loss."""
    out = tmp_path_factory.mktemp("toy") / "scene"
    write_scene(out, seed=0, train_cameras=4, test_cameras=1, instants=3, width=24, height=20)
    return out


def of_files(files: Scene, **options: Any) -> Scene:
    """Returns the scene given in Python of the same frames as one of files."""
    frames = files.frames("all")
    return Scene.from_frames(
        (frame.image for frame in frames),
        [frame.camera for frame in frames],
        [frame.time for frame in frames],
        split=[frame.split for frame in frames],
        **options,
    )


@pytest.mark.usefixtures("cpu_backend")
def test_it_fits_evaluates_and_resumes_like_a_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = g4.load_scene(folder)
    given = of_files(files)
    assert given.fingerprint() == files.fingerprint()
    run, twin = tmp_path / "run", tmp_path / "twin"
    settings = {"max_steps": 20, **SETTINGS}
    first, second = g4.fit(files, "quick", twin, **settings), g4.fit(given, "quick", run, **settings)
    assert first.model is not None and second.model is not None
    for name, value in first.model.params.items():
        assert torch.equal(value, second.model.params[name]), name
    figures = g4.evaluate(run, scene=given)
    assert figures["psnr"] == g4.evaluate(twin)["psnr"]
    assert "given in Python" in (run / "report.html").read_text()
    # The run says what is missing, wherever a scene would be loaded.
    kept = {**given.options, "fingerprint": given.fingerprint()}
    assert json.loads((run / "config.json").read_text())["scene"] == kept
    with pytest.raises(UserError, match=r"fitted to frames given in Python.*pass scene=Scene.from_frames\(\.\.\.\)"):
        g4.evaluate(run)
    assert main(["eval", str(run)]) == 2
    assert "given in Python" in capsys.readouterr().err
    assert (
        main(["render", str(run), "--out", str(tmp_path / "turn.mp4"), "--fps", "2", "--seconds", "1", "--width", "32"])
        == 0
    )
    assert (
        "the cameras stored in the model are used: this run was fitted to frames given in Python"
        in capsys.readouterr().err
    )


@pytest.mark.usefixtures("cpu_backend")
def test_it_goes_on_with_the_same_frames(folder: Path, tmp_path: Path) -> None:
    files = g4.load_scene(folder)
    whole = g4.fit(of_files(files), "quick", tmp_path / "whole", max_steps=20, evaluate=False, **SETTINGS)
    run = tmp_path / "run"
    g4.fit(of_files(files), "quick", run, max_steps=20, evaluate=False, **SETTINGS)
    for file in [*(run / "checkpoints").iterdir(), run / "model.g4d"]:
        if "000010" not in file.name:
            file.unlink()
    resumed = g4.fit(of_files(files), "quick", run, resume=True, evaluate=False)
    assert whole.model is not None and resumed.model is not None
    for name, value in whole.model.params.items():
        assert torch.equal(value, resumed.model.params[name]), name
