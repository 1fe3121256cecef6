"""Fits on the pretend accelerator: the parameters of the CPU, to the bit, and few waits of the host."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pretend_device import count_syncs
from pretend_kernels import PAIRS

from gaussian4d import UserError, fit
from gaussian4d.cli import main
from gaussian4d.fitting import uploads
from gaussian4d.fitting.checkpoint import list_checkpoints, load_checkpoint
from gaussian4d.fitting.divergence import PATIENCE
from gaussian4d.fitting.trainer import Trainer
from gaussian4d.scene import Scene, load_scene
from gaussian4d.toys import write_scene

SETTINGS: dict[str, Any] = {
    "max_steps": 24,
    "init_points": 150,
    "init_instants": 3,
    "max_gaussians": 220,
    "densify_every": 6,
    "densify_grad": 0.0,
    "log_every": 8,
    "checkpoint_every": 1000,
    "resolutions": ((0.0, 2.0), (0.3, 1.0)),
}
PLANES = {"space_resolution": 8, "time_resolution": 3, "features": 4, "width": 16}
COHERENT = {"rigidity_weight": 0.01, "isometry_weight": 0.01, "smoothness_weight": 1e-5, "rigidity_neighbours": 5}
KINDS: dict[str, dict[str, Any]] = {
    "static": {"motion": "static", "scale_weight": 0.01},
    "dual-domain": {"motion": "dual-domain", "batch": 2, "series_weight": 1e-3},
    "free-time": {"motion": "free-time", "velocity_weight": 1e-3},
    "spacetime": {"motion": "spacetime", "static_after": 0.5, "background": "white"},
    "hexplane": {
        "motion": "hexplane",
        "motion_config": PLANES,
        "coarse": 0.2,
        "plane_variation_weight": 2e-4,
        "time_roughness_weight": 1e-3,
        "time_activity_weight": 1e-4,
    },
    "relocate": {"motion": "free-time", "strategy": "relocate", "noise": 100.0, "init_opacity": 0.02},
    "coherence": {"motion": "free-time", **COHERENT},
    "exposure": {"motion": "free-time", "background": "model", "exposure": True},
    "windows": {"motion": "free-time", "window": 6, "overlap": 2, "max_steps": 16},
    "per-frame": {"motion": "per-frame", "densify_every": 2},
}
FIT = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A toy of 8 instants seen by 4 cameras and one more to test with: cut out, and in front of a wall."""
    folder = tmp_path_factory.mktemp("toy")
    write_scene(folder / "cut_out", 0, 4, 1, 8, width=24, height=24)
    shutil.copytree(folder / "cut_out", folder / "opaque")
    wall = np.linspace(60.0, 180.0, 24)[:, None, None]
    for path in (folder / "opaque").glob("*/*.png"):
        rgba = np.asarray(Image.open(path), dtype=np.float64)
        alpha = rgba[..., 3:] / 255.0
        Image.fromarray((alpha * rgba[..., :3] + (1.0 - alpha) * wall + 0.5).astype(np.uint8)).save(path)
    return {name: folder / name for name in ("cut_out", "opaque")}


def scene_of(scenes: dict[str, Path], settings: dict[str, Any]) -> Scene:
    return load_scene(scenes["opaque" if settings.get("background") == "model" else "cut_out"])


def params_of(out: Path, scene: Scene, device: Any, **settings: Any) -> dict[str, torch.Tensor]:
    """Returns the parameters of a fit on a device, and the background."""
    model = fit(scene, "quick", out, device=device, evaluate=False, **{**SETTINGS, **settings}).model
    assert {value.device.type for value in model.params.values()} == {"cpu"}
    assert model.background is not None
    return {**model.params, "background": model.background}


def stop_after(step: int) -> Callable[[Any, str], None]:
    def hook(trainer: Any, event: str) -> None:
        if event == "after_step" and trainer.step == step:
            trainer.stop_requested = True

    return hook


def newest(out: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(list_checkpoints(out / "checkpoints")[-1])[0]


def same(here: dict[str, torch.Tensor], there: dict[str, torch.Tensor]) -> None:
    assert here.keys() == there.keys()
    for name, value in here.items():
        assert torch.equal(value, there[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_ends_with_the_parameters_of_the_cpu(
    pretend: torch.device, scenes: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    settings = KINDS[kind]
    begun: list[torch.device] = []

    def look(trainer: Any, event: str) -> None:
        if event == "after_step":
            # Windows and instants are fits of their own within the whole.
            begun.append(getattr(trainer, "current", trainer).table.params["means"].device)

    scene = scene_of(scenes, settings)
    here = params_of(tmp_path / "here", scene, "cpu", **settings)
    there = params_of(tmp_path / "there", scene, "pretend", callbacks=[look], **settings)
    same(here, there)
    assert set(begun) == {pretend}
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("here", "there")]
    assert len(lines[0]) == len(lines[1]) > 0


@pytest.mark.parametrize("kind", ["exposure", "relocate", "per-frame", "windows"])
def test_a_fit_goes_on_where_it_was_stopped_on_either(
    pretend: torch.device, scenes: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    settings = KINDS[kind]
    scene = scene_of(scenes, settings)
    whole = params_of(tmp_path / "whole", scene, "cpu", **settings)
    first = {**SETTINGS, **settings, "device": "pretend", "callbacks": [stop_after(13)]}
    assert fit(scene, "quick", tmp_path / "pretend", **first).interrupted
    shutil.copytree(tmp_path / "pretend", tmp_path / "cpu")
    for device in ("pretend", "cpu"):
        out = tmp_path / device
        second = fit(scene, "quick", out, resume=True, device=device, evaluate=False).model
        said = (out / "log.txt").read_text().splitlines()
        assert sum("on pretend:0" in line for line in said) == 1 + (device == "pretend")
        assert second.background is not None
        same(whole, {**second.params, "background": second.background})
        if kind in ("exposure", "relocate"):
            same(newest(tmp_path / "whole"), newest(out))


def test_a_run_is_resumed_where_it_was_unless_told_otherwise(
    pretend: torch.device, scenes: dict[str, Path], tmp_path: Path
) -> None:
    scene, out, seen = load_scene(scenes["cut_out"]), tmp_path / "run", []
    settings = {**SETTINGS, "motion": "static", "max_steps": 6}
    fit(scene, "quick", out, device="pretend", callbacks=[stop_after(2)], **settings)

    def look(trainer: Any, event: str) -> None:
        if event == "after_step":
            seen.append(str(trainer.device))

    fit(scene, "quick", out, resume=True, callbacks=[look, stop_after(4)])
    fit(scene, "quick", out, resume=True, device="cpu", callbacks=[look], evaluate=False)
    assert seen == ["pretend:0", "pretend:0", "cpu", "cpu"]


def test_terms_that_render_are_those_of_the_cpu(pretend: torch.device, scenes: dict[str, Path], tmp_path: Path) -> None:
    def depth(step: Any) -> torch.Tensor:
        return step.render("depth").depth.mean()

    depth.needs = ("depth",)  # type: ignore[attr-defined]

    def rest(step: Any) -> torch.Tensor:
        output = step.render("normal", "flow", "xyz", "velocity")
        return sum(getattr(output, name).square().mean() for name in ("normal", "flow", "xyz", "velocity"))  # type: ignore[return-value]

    scene = load_scene(scenes["cut_out"])
    settings = {"motion": "free-time", "terms": {"depth-of-test": depth, "rest-of-test": rest}, "max_steps": 10}
    with_terms = [params_of(tmp_path / str(device), scene, device, **settings) for device in ("cpu", "pretend")]
    same(*with_terms)


def test_weights_and_depths_of_frames_are_those_of_the_cpu(
    pretend: torch.device, scenes: dict[str, Path], tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    read = load_scene(scenes["cut_out"])
    frames = read.frames("train")
    weights = [generator.random((24, 24), dtype=np.float32) for _ in frames]
    answers = []
    for device in ("cpu", "pretend"):
        scene = Scene.from_frames(
            [np.asarray(frame.image) for frame in frames],
            [frame.camera for frame in frames],
            [float(frame.time) for frame in frames],
            weight=weights,
            depth=weights,
            share=[0.5] * len(frames),
        )
        answers.append(params_of(tmp_path / device, scene, device, motion="static", max_steps=12))
    same(*answers)


def test_the_fitted_run_is_judged_on_the_device(pretend: torch.device, scenes: dict[str, Path], tmp_path: Path) -> None:
    scene, figures = load_scene(scenes["cut_out"]), []
    for device in ("cpu", "pretend"):
        settings = {**SETTINGS, "motion": "dual-domain", "max_steps": 8}
        metrics = fit(scene, "quick", tmp_path / device, device=device, **settings).metrics
        assert metrics is not None and (tmp_path / device / "report.html").exists()
        figures.append({name: value for name, value in metrics.items() if name not in ("render_fps", "fit_seconds")})
    assert figures[0] == figures[1]


def trainer_of(scenes: dict[str, Path], out: Path, device: str = "pretend", **settings: Any) -> Trainer:
    """Returns the trainer of a fit after some steps, every frame of which it has seen."""
    found: list[Trainer] = []

    def take(trainer: Any, event: str) -> None:
        found.append(trainer)

    scene = scene_of(scenes, settings)
    whole = {**SETTINGS, "max_steps": 400, "resolutions": ((0.0, 1.0),), "densify_start": 0.9, **settings}
    fit(scene, "quick", out, device=device, callbacks=[take, stop_after(40)], **{**whole, "densify_stop": 0.95})
    return found[0]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("windows", "per-frame")])
def test_a_step_waits_for_the_number_of_instances_only(
    pretend: torch.device, scenes: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    trainer = trainer_of(scenes, tmp_path / "run", **KINDS[kind])
    pictures = trainer.config.batch
    trainer.take_step(0.2)  # the first that is not at rest
    for _ in range(8):
        with count_syncs() as syncs:
            trainer.take_step(0.2)
            trainer.step += 1
            trainer.after_step(0.2)
        # Patches of neighbours are chosen among those that are there: how many, the host must know.
        patches = kind == "coherence" and (trainer.step - 1) % 4 == 0
        assert syncs.names == [PAIRS] * pictures + ["nonzero"] * patches


@pytest.mark.parametrize("free", [False, True])
def test_frames_that_do_not_fit_are_fetched_in_good_time(
    pretend: torch.device, scenes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: bool
) -> None:
    settings = {"motion": "free-time", "max_steps": 40, "resolutions": ((0.0, 1.0),)}
    scene, asked = load_scene(scenes["cut_out"]), []
    here = params_of(tmp_path / "here", scene, "cpu", **settings)
    monkeypatch.setattr(uploads, "SHARE", float(free))
    upload, begin = uploads.Uploads._upload, uploads.Uploads._begin_next

    def noted(what: str, call: Any) -> Any:
        def noting(self: Any, index: int) -> Any:
            before = self._next
            result = call(self, index)
            if what == "upload" or self._next is not before:
                asked.append(what)
            return result

        return noting

    monkeypatch.setattr(uploads.Uploads, "_upload", noted("upload", upload))
    monkeypatch.setattr(uploads.Uploads, "_begin_next", noted("next", begin))
    same(here, params_of(tmp_path / "there", scene, "pretend", **settings))
    frames = len(scene.frames("train"))
    # Each once; or the first when it is needed, and then always the next one while the present one is drawn.
    assert asked == (["upload"] * frames if free else ["upload"] + ["next"] * 40)


def poisoned(chosen: Callable[[int], bool]) -> Any:
    """Returns a term that is no number at the chosen steps."""

    def poison(step: Any) -> torch.Tensor:
        value = step.rgb.mean()
        return value * float("nan") if chosen(step.number) else value * 0.0

    return poison


def test_a_step_without_a_finite_loss_changes_nothing_and_is_counted(
    pretend: torch.device, scenes: dict[str, Path], tmp_path: Path
) -> None:
    scene = load_scene(scenes["cut_out"])
    bad = {0, 3, 4, 11, 12, 13}
    settings = {**SETTINGS, "motion": "static", "max_steps": 16, "exposure": True}
    settings |= {"densify_start": 0.98, "densify_stop": 0.99}
    seen: dict[int, torch.Tensor] = {}

    def look(trainer: Any, event: str) -> None:
        if event == "before_step":
            with torch.no_grad():
                seen[trainer.step] = trainer.table.params["means"].detach().cpu().clone()
        elif event == "after_step":
            found.append((trainer.skipped, trainer.skipped_running))
            # What refinement looks at: gradients, and how often a Gaussian was seen in steps that counted.
            statistics = {name: value.cpu() for name, value in trainer.table.statistics.items()}
            assert all(bool(torch.isfinite(value).all()) for value in statistics.values())
            good = sum(step not in bad for step in range(trainer.step))
            assert float(statistics["count"].max()) == good

    found: list[tuple[int, int]] = []
    terms = {"poison": poisoned(bad.__contains__)}
    fit(scene, "quick", tmp_path / "run", device="pretend", terms=terms, callbacks=[look], **settings)
    # Figures are read every 8 steps.
    assert found[7] == (3, 0) and found[15] == (6, 0)
    assert torch.equal(seen[0], seen[1])
    for step in range(1, 16):
        assert all(torch.isfinite(seen[step]).flatten())
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "6 of 16 steps had no finite loss and were dropped" in log


def test_ten_steps_without_a_finite_loss_end_the_fit(
    pretend: torch.device, scenes: dict[str, Path], tmp_path: Path
) -> None:
    scene = load_scene(scenes["cut_out"])
    settings = {**SETTINGS, "motion": "static", "max_steps": 60, "densify_start": 0.9}
    for bad, ends in ((range(11, 11 + PATIENCE), True), (range(11, 10 + PATIENCE), False)):
        out = tmp_path / str(ends)
        terms = {"poison": poisoned(bad.__contains__)}
        try:
            fit(scene, "quick", out, device="pretend", terms=terms, evaluate=False, **settings)
        except UserError as error:
            assert ends and "the fit diverged and was stopped" in str(error)
        else:
            assert not ends


def test_a_device_that_is_not_there_is_refused_and_nothing_is_left(
    scenes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has what the test is about")
    scene = load_scene(scenes["cut_out"])
    for chosen, message in (
        ({"device": "cuda"}, "the device cuda is not there: .*; use cpu"),
        ({"device": "cpu", "backend": "cuda"}, "the backend cuda and the device cpu do not go together"),
        ({"device": "nowhere"}, "expected a device such as auto, cpu, cuda or cuda:1, got 'nowhere'"),
        ({"backend": "cuda"}, "the backend cuda cannot be used here"),
    ):
        with pytest.raises(UserError, match=message):
            fit(scene, "quick", tmp_path / "run", **chosen)
        assert not (tmp_path / "run").exists()
        flags = [text for name, value in chosen.items() for text in (f"--{name}", value)]
        assert main(["fit", str(scenes["cut_out"]), "--out", str(tmp_path / "run"), *flags]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and re.search(message, lines[0])
        assert not (tmp_path / "run").exists()


def test_three_steps_with_the_emulated_kernels_of_a_gpu(
    emulated: torch.device, cpu_backend: object, scenes: dict[str, Path], tmp_path: Path
) -> None:
    scene = load_scene(scenes["opaque"])
    tiny = {"motion": "free-time", "max_steps": 3, "init_points": 40, "exposure": True, "background": "model"}
    settings = {**tiny, "densify_start": 0.9, "densify_stop": 0.95}
    here = params_of(tmp_path / "here", scene, "cpu", **settings)
    there = params_of(tmp_path / "there", scene, "pretend", backend="emulated", **settings)
    assert here.keys() == there.keys()
    for name, value in here.items():
        if name == "quats":
            # How a ball is turned has no gradient but rounding, and Adam makes a whole step of that.
            assert (value - there[name]).abs().max() < 0.02
            continue
        assert (value - there[name]).norm() <= 1e-3 * value.norm() + 1e-6, name
