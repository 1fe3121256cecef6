"""Clips fitted in windows: how they are cut, that nothing is lost when they stop, and what is joined."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gaussian4d import fit
from gaussian4d.cli.app import main
from gaussian4d.errors import UserError
from gaussian4d.evaluation import evaluate
from gaussian4d.fitting.checkpoint import list_checkpoints, load_checkpoint
from gaussian4d.fitting.divergence import unsound
from gaussian4d.fitting.presets import preset_config
from gaussian4d.fitting.windows import Plan, cut, plan_windows
from gaussian4d.fitting.windows_start import Predecessor, lasting
from gaussian4d.model import DynamicGaussians, load_model
from gaussian4d.motion import Windows, WindowsConfig, make_motion
from gaussian4d.rendering import render
from gaussian4d.run_folder import RunFolder
from gaussian4d.scene import Scene, load_scene

SETTINGS: dict[str, Any] = {
    "motion": "free-time",
    "max_steps": 40,
    "evaluate": False,
    "init_points": 150,
    "max_gaussians": 220,
    "init_instants": 3,
    "densify_every": 5,
    "densify_grad": 0.0,
    "checkpoint_every": 4,
    "log_every": 2,
    "resolutions": ((0.0, 1.0),),
    "window": 8,
    "overlap": 2,
}
# 14 instants: two windows of 8 that share 2.
WINDOWS = [(0, 8), (6, 14)]

pytestmark = pytest.mark.usefixtures("cpu_backend")


@pytest.fixture
def long_scene(write_ball: Callable[..., Path], tmp_path: Path) -> Path:
    return write_ball(tmp_path / "ball", instants=14)


def same(a: DynamicGaussians, b: DynamicGaussians) -> bool:
    return a.params.keys() == b.params.keys() and all(torch.equal(a.params[name], b.params[name]) for name in a.params)


def press_ctrl_c(at: int) -> Callable[[Any, str], None]:
    def hook(trainer: Any, event: str) -> None:
        if event == "after_step" and trainer.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    return hook


@given(st.data())
def test_a_clip_is_covered_without_three_windows_at_a_time(data: st.DataObject) -> None:
    length = data.draw(st.integers(6, 60))
    overlap = data.draw(st.integers(2, length // 3))
    count = data.draw(st.integers(length + 1, 400))
    windows = cut(count, length, overlap)
    assert windows[0][0] == 0 and windows[-1][1] == count
    assert len({stop - start for start, stop in windows}) == 1 and windows[0][1] <= length
    assert all(before[1] - after[0] >= overlap for before, after in itertools.pairwise(windows))
    assert all(before[1] <= after[0] for before, after in zip(windows, windows[2:]))
    # One window fewer of the longest length would not reach.
    assert (len(windows) - 1) * (length - overlap) + overlap < count


def test_windows_are_fitted_joined_and_evaluated(long_scene: Path, tmp_path: Path) -> None:
    scene, out = load_scene(long_scene), tmp_path / "run"
    result = fit(scene, "quick", out, **SETTINGS)
    model = load_model(out)
    assert same(model, result.model) and isinstance(model.motion, Windows)
    assert Plan.load(out, scene) == Plan(14, WINDOWS, 1, [0, 1], share_steps=True)
    spans = [(float(scene.times[start]), float(scene.times[stop - 1])) for start, stop in WINDOWS]
    assert list(model.motion.config.spans) == spans
    assert model.meta["fit"]["steps"] == 40
    np.testing.assert_allclose(model.times, scene.times)
    # Away from the seam the joined model is that of the window, in the time of the whole clip.
    parts = [load_model(out / "windows" / f"{k:03d}") for k in range(2)]
    camera = scene.frames("test")[0].camera
    for k, moment in ((0, 0.1), (1, 0.9)):
        a, b = render(model, camera, moment).rgb, render(parts[k], camera, moment).rgb
        assert a is not None and b is not None and torch.equal(a, b)
    assert len(model.at(0.5 * (spans[1][0] + spans[0][1]))) == len(model)
    assert parts[0].meta["normalisation"] == parts[1].meta["normalisation"]
    # Each window is an ordinary run of its own instants.
    metrics = evaluate(out / "windows" / "001")
    assert [view["time"] for view in metrics["views"]] == pytest.approx(list(scene.times[6:14]))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(2, 41, 2))
    assert [line["window"] for line in lines] == [0] * 10 + [1] * 10 and lines[-1]["progress"] == 1.0
    assert main(["info", str(out)]) == 0


@pytest.mark.parametrize("at", [7, 20, 31])
def test_a_stopped_fit_goes_on_to_the_same_model(long_scene: Path, tmp_path: Path, at: int) -> None:
    scene = load_scene(long_scene)
    stopped = fit(scene, "quick", tmp_path / "a", callbacks=[press_ctrl_c(at)], **SETTINGS)
    assert stopped.interrupted
    assert isinstance(stopped.model.motion, Windows) and len(stopped.model.motion) == (1 if at <= 20 else 2)
    events: list[tuple[str, int]] = []
    again = fit(
        scene, out=tmp_path / "a", resume=True, evaluate=False, callbacks=[lambda t, e: events.append((e, t.step))]
    )
    assert not again.interrupted
    assert [step for event, step in events if event == "after_step"] == list(range(at + 1, 41))
    whole = fit(scene, "quick", tmp_path / "b", **SETTINGS)
    assert same(load_model(tmp_path / "a"), whole.model)


def test_the_run_of_one_window_can_be_gone_on_with_by_itself(long_scene: Path, tmp_path: Path) -> None:
    scene = load_scene(long_scene)
    fit(scene, "quick", tmp_path / "a", callbacks=[press_ctrl_c(31)], **SETTINGS)
    folder = tmp_path / "a" / "windows" / "001"
    # The scene as the command line would load it: whole.
    assert not fit(load_scene(long_scene), out=folder, resume=True, evaluate=False).interrupted
    fit(scene, "quick", tmp_path / "b", **SETTINGS)
    assert same(load_model(folder), load_model(tmp_path / "b" / "windows" / "001"))


def test_a_window_starts_where_the_one_before_ended(long_scene: Path, tmp_path: Path) -> None:
    scene, out = load_scene(long_scene), tmp_path / "run"
    fit(scene, "quick", out, **{**SETTINGS, "motion": "dual-domain", "keep_checkpoints": 99})
    (tensors, _), before = load_checkpoint(list_checkpoints(out / "windows/001/checkpoints")[0]), None
    assert list_checkpoints(out / "windows/001/checkpoints")[0].stem == "step_000000000"
    before, _ = load_checkpoint(list_checkpoints(out / "windows/000/checkpoints")[-1])
    first = load_model(out / "windows/000").motion
    middle = 0.5 * (scene.times[6] + scene.times[7])
    state = first.at({name[7:]: v for name, v in before.items() if name.startswith("params/")}, float(middle))
    state = state.select(state.opacities > RunFolder(out).config().densify.prune_opacity)
    torch.testing.assert_close(tensors["params/means"], state.means)
    torch.testing.assert_close(torch.sigmoid(tensors["params/opacities"]), state.opacities, atol=1e-4, rtol=0)
    assert float(tensors["params/means_series"].abs().max()) == 0.0


def test_what_lasts_keeps_its_place_and_what_is_frozen_stays_so() -> None:
    inside = make_motion("free-time")
    window, following = (Windows(WindowsConfig("free-time", ({},), (span,))) for span in ((0.0, 0.6), (0.4, 1.0)))
    n = 4
    rows = {
        "means": torch.rand(n, 3),
        "quats": torch.ones(n, 4),
        "scales": torch.full((n, 3), -2.0),
        "opacities": torch.tensor([2.0, 2.0, 2.0, -8.0]),
        "sh0": torch.rand(n, 1, 3),
        "shN": torch.zeros(n, 3, 3),
        **window.init(n),
    }
    rows["velocities"] = torch.full((n, 3), 0.1)
    # Long-lived, short-lived, frozen, long-lived but faded away.
    rows["durations"] = torch.tensor([3.0, 0.05, 1.0, 3.0]).log()
    stopped = inside.frozen({name: value[2:3] for name, value in rows.items()})
    for name, value in stopped.items():
        rows[name][2:3] = value
    before = Predecessor(rows, window, 0.5, torch.zeros(3), None, [])
    kept = lasting(before, following, 0.01)
    assert len(kept["means"]) == 2
    torch.testing.assert_close(kept["means"], window.at(rows, 0.5).means[[0, 2]])
    assert torch.isinf(kept["durations"]).tolist() == [False, True]
    for moment in (0.4, 0.5, 1.0):
        state = following.at(kept, moment)
        torch.testing.assert_close(state.means, kept["means"])
        assert bool((state.opacities > 0.8).all())


def test_a_window_that_diverges_goes_back_to_its_checkpoint(long_scene: Path, tmp_path: Path) -> None:
    scene, out = load_scene(long_scene), tmp_path / "run"

    def poison(trainer: Any, event: str) -> None:
        if event == "after_step" and trainer.step == 30:
            with torch.no_grad():
                trainer.current.table.params["means"][0] = float("nan")

    with pytest.raises(UserError, match=f"diverged.*--out {out} --resume"):
        fit(scene, "quick", out, callbacks=[poison], **SETTINGS)
    model = load_model(out)
    assert model.meta["fit"]["steps"] == 28 and not unsound(model.params)
    assert not any(unsound(load_checkpoint(path)[0]) for path in out.rglob("step_*.safetensors"))
    fit(scene, out=out, resume=True, evaluate=False)
    assert load_model(out).meta["fit"]["steps"] == 40
    assert RunFolder(out / "windows/001").config().optim.factor == 0.5


def test_processes_fit_windows_side_by_side_and_go_on_after_a_stop(
    long_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stop = threading.Thread(target=_interrupt_after_checkpoints, args=(out, 2))
    stop.start()
    first = fit(load_scene(long_scene), "quick", out, jobs=2, **{**SETTINGS, "max_steps": 4000})
    stop.join()
    assert first.interrupted and isinstance(load_model(out).motion, Windows)
    assert Plan.load(out, load_scene(long_scene)) == Plan(14, WINDOWS, 2, [], share_steps=True)
    reached = [int(list_checkpoints(out / f"windows/{k:03d}/checkpoints")[-1].stem[5:]) for k in range(2)]
    assert all(0 < step < 2000 for step in reached)
    for k in range(2):
        # Shortened, so that the rest is done at once.
        path = out / f"windows/{k:03d}/config.json"
        values = json.loads(path.read_text())
        values["fit"]["max_steps"] = reached[k] + 5
        path.write_text(json.dumps(values))
    result = fit(load_scene(long_scene), out=out, resume=True, evaluate=False)
    assert not result.interrupted and len(result.model.motion) == 2  # type: ignore[arg-type]
    assert result.model.meta["fit"]["steps"] == sum(reached) + 10
    assert main(["info", str(out)]) == 0


def _interrupt_after_checkpoints(out: Path, count: int) -> None:
    """Presses Ctrl-C when `count` windows have a checkpoint."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len({p.parent for p in out.glob("windows/*/checkpoints/step_*")}) < count:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def test_a_process_that_fails_says_which_window_and_why(
    long_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "run", subprocess.Popen
    started: dict[str, subprocess.Popen[bytes]] = {}

    def stand_in(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        name = Path(command[-1]).name
        end = "print('error: out of points'); sys.exit(2)" if name == "001" else "time.sleep(60)"
        started[name] = real([sys.executable, "-c", f"import sys, time; {end}"], **options)
        return started[name]

    monkeypatch.setattr("gaussian4d.fitting.windows_processes.subprocess.Popen", stand_in)
    with pytest.raises(UserError, match=r"window 2 of 2 could not be fitted: out of points\..*--resume"):
        fit(load_scene(long_scene), "quick", out, jobs=2, **SETTINGS)
    # The other one was stopped, not waited for.
    assert started["000"].returncode not in (None, 0)
    assert not (out / "model.g4d").exists() and Plan.load(out, load_scene(long_scene)).finished == []  # type: ignore[union-attr]


def planned(scene: Scene, window: Any = None, overlap: Any = None, **settings: Any) -> Plan | None:
    config = preset_config("quick", scene, {"motion": "free-time", **settings})
    return plan_windows(scene, config, window, overlap, 1, "max_steps" in settings)


def test_lengths_are_instants_or_seconds_and_long_clips_are_cut_unasked(
    long_scene: Path, tmp_path: Path, write_ball: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = load_scene(long_scene)
    assert planned(scene) is None and planned(scene, "none") is None and planned(scene, 14) is None
    monkeypatch.setattr("gaussian4d.fitting.windows.AUTO_ABOVE", 13)
    monkeypatch.setattr("gaussian4d.fitting.windows.AUTO_INSTANTS", 9)
    found = planned(scene)
    assert found is not None and found.windows == cut(14, 9, 3)
    assert planned(scene, max_minutes=3.0) is None and planned(scene, max_minutes=4.0) is not None
    assert planned(scene, motion="static") is None and planned(scene, motion="per-frame") is None
    # One picture per instant: a moving camera is never cut unasked.
    single = load_scene(write_ball(tmp_path / "single", cameras=2, instants=14, test=(1,)))
    assert planned(single) is None
    scene.duration = 13.0
    seconds = planned(scene, "7s", "1.6s")
    assert seconds is not None and seconds.windows == cut(14, 7, 2)


@pytest.mark.parametrize(
    ("window", "overlap", "settings", "message"),
    [
        ("fast", None, {}, r"--window must be a number of instants.*'fast'"),
        ("2s", None, {}, "does not say how long its clip is"),
        (5, None, {}, "at least 6 instants"),
        (9, 4, {}, "at most a third"),
        (9, 1, {}, "at least 2"),
        (9, None, {"motion": "static"}, "motion static has no use for it"),
        (9, None, {"motion": "per-frame"}, "motion per-frame has no use for it"),
        (9, 3, {"max_steps": 1}, "at least one step each"),
    ],
)
def test_windows_that_do_not_fit_are_refused(
    long_scene: Path, tmp_path: Path, window: Any, overlap: Any, settings: dict[str, Any], message: str
) -> None:
    given = {"motion": "free-time", **settings}
    with pytest.raises(UserError, match=message):
        fit(load_scene(long_scene), "quick", tmp_path / "run", window=window, overlap=overlap, **given)
    assert not (tmp_path / "run").exists()


def test_settings_without_windows_are_refused(long_scene: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="add --window"):
        fit(load_scene(long_scene), "quick", tmp_path / "run", jobs=2)
    assert not (tmp_path / "run").exists()


def test_a_plan_belongs_to_its_clip(long_scene: Path, tmp_path: Path) -> None:
    scene, out = load_scene(long_scene), tmp_path / "run"
    fit(scene, "quick", out, callbacks=[press_ctrl_c(3)], **SETTINGS)
    with pytest.raises(UserError, match=r"a clip of 14 instants.*now has 10; give the --frames"):
        fit(load_scene(long_scene, frames="0:10:1"), out=out, resume=True, evaluate=False)
