"""Terms given in Python or by other packages: their weights, their figures, what they may look at, what runs record."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gaussian4d import fit
from gaussian4d.errors import UserError
from gaussian4d.fitting.checkpoint import list_checkpoints, load_checkpoint
from gaussian4d.fitting.config import FitConfig
from gaussian4d.fitting.step import Step
from gaussian4d.fitting.terms import WeightedTerm
from gaussian4d.fitting.trainer import Trainer
from gaussian4d.motion import make_motion
from gaussian4d.plugins import TERMS, forget_installed
from gaussian4d.run_folder import RunFolder
from gaussian4d.scene import Scene, load_scene

SETTINGS: dict[str, Any] = {
    "motion": "free-time",
    "max_steps": 20,
    "evaluate": False,
    "init_points": 150,
    "max_gaussians": 200,
    "init_instants": 3,
    "densify_every": 6,
    "densify_grad": 0.0,
    "checkpoint_every": 10,
    "log_every": 5,
    "resolutions": ((0.0, 1.0),),
}
ALONE = {"loss.photometric": 0.0, "loss.alpha": 0.0, "loss.opacity": 0.0, "loss.anisotropy": 0.0, "densify.stop": 0.0}

pytestmark = pytest.mark.usefixtures("cpu_backend")


@pytest.fixture(autouse=True)
def nothing_stays_registered() -> Iterator[None]:
    before = dict(TERMS._registered)
    yield
    TERMS._registered = before


@pytest.fixture
def scene(ball_scene: Path) -> Scene:
    return load_scene(ball_scene)


def lines_of(out: Path) -> list[dict[str, Any]]:
    return RunFolder(out).metrics()


def tensors_of(out: Path) -> dict[str, Tensor]:
    return load_checkpoint(list_checkpoints(out / "checkpoints")[-1])[0]


def equal(a: Path, b: Path) -> bool:
    one, other = tensors_of(a), tensors_of(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def two(step: Step) -> Tensor:
    return step.state.means.new_tensor(2.0)


def test_a_function_is_minimised_and_has_a_figure_of_its_own(scene: Scene, tmp_path: Path) -> None:
    def to_the_left(step: Step) -> Tensor:
        return step.state.means[:, 0].mean()

    to_the_left.weight = 3.0  # type: ignore[attr-defined]
    pulled = fit(scene, "quick", tmp_path / "pulled", terms=[to_the_left], **SETTINGS).model
    free = fit(scene, "quick", tmp_path / "free", **SETTINGS).model
    assert pulled.at(0.5).means[:, 0].mean() < free.at(0.5).means[:, 0].mean() - 0.01
    assert RunFolder(tmp_path / "pulled").config().get("loss.to-the-left") == 3.0
    lines = lines_of(tmp_path / "pulled")
    assert len(lines) == 4
    for line in lines:
        assert set(line["terms"]) == {"photometric", "alpha", "opacity", "anisotropy", "to-the-left"}
        assert sum(line["terms"].values()) == pytest.approx(line["loss"], rel=1e-4)
    assert lines[-1]["terms"]["to-the-left"] < lines[0]["terms"]["to-the-left"] - 0.01
    assert "to-the-left" not in lines_of(tmp_path / "free")[0]["terms"]
    # The same name may be given again, to another fit or in other words.
    fit(scene, "quick", tmp_path / "again", terms=[to_the_left], **SETTINGS)
    assert equal(tmp_path / "again", tmp_path / "pulled")


def test_weights_are_numbers_schedules_or_those_of_known_terms(scene: Scene, tmp_path: Path) -> None:
    two.weight = 0.25  # type: ignore[attr-defined]
    fit(scene, "quick", tmp_path / "a", terms=[two, "scale"], **SETTINGS)
    assert [line["terms"]["two"] for line in lines_of(tmp_path / "a")] == pytest.approx([0.5] * 4)
    assert lines_of(tmp_path / "a")[0]["terms"]["scale"] > 0
    # By a table the name is chosen; --set and `settings` come last.
    table = {"pair": two, "scale": 0.5, "rigidity": ((0.0, 0.0), (1.0, 0.1))}
    fit(scene, "quick", tmp_path / "b", terms=table, settings={"loss.pair": [[0.0, 1.0], [0.5, 0.0]]}, **SETTINGS)
    config = RunFolder(tmp_path / "b").config()
    assert config.get("loss.scale") == 0.5 and config.get("loss.rigidity") == ((0.0, 0.0), (1.0, 0.1))
    # 20 steps at progress k / 20: 1, 0.9, 0.8, 0.7, 0.6; then 0.5 ... 0.1; then nothing.
    assert [line["terms"]["pair"] for line in lines_of(tmp_path / "b")] == pytest.approx([1.6, 0.6, 0.0, 0.0])


def test_a_term_of_weight_zero_is_not_asked(scene: Scene, tmp_path: Path) -> None:
    asked: list[int] = []

    def costly(step: Step) -> Tensor:
        asked.append(step.number)
        return step.state.means.sum()

    fit(scene, "quick", tmp_path / "a", terms={"costly": costly}, settings={"loss.costly": 0.0}, **SETTINGS)
    assert asked == [] and "costly" not in lines_of(tmp_path / "a")[0]["terms"]
    late = [[0.5, 0.0], [0.75, 1.0]]
    fit(scene, "quick", tmp_path / "b", terms={"costly": costly}, settings={"loss.costly": late}, **SETTINGS)
    assert asked == list(range(11, 20))


def test_a_term_asked_now_and_then_counts_so_much_more(scene: Scene, tmp_path: Path) -> None:
    asked: list[int] = []

    def sometimes(step: Step) -> Tensor:
        asked.append(step.number)
        return two(step)

    sometimes.every, sometimes.weight = 5, 0.5  # type: ignore[attr-defined]
    fit(scene, "quick", tmp_path / "run", terms=[sometimes], **SETTINGS)
    assert asked == [0, 5, 10, 15]
    assert [line["terms"]["sometimes"] for line in lines_of(tmp_path / "run")] == pytest.approx([1.0] * 4)


def test_a_term_that_has_nothing_to_say_changes_nothing(scene: Scene, tmp_path: Path) -> None:
    def silent(step: Step) -> None:
        step.render("alpha", "depth", "normal", "xyz")

    def silent_with_depth(step: Step) -> None:
        assert step.render("depth").depth is not None

    silent_with_depth.needs = ("depth",)  # type: ignore[attr-defined]
    for name, terms in (("without", {}), ("with", {"silent": silent}), ("depth", {"silent": silent_with_depth})):
        fit(scene, "quick", tmp_path / name, terms=terms, **SETTINGS)
    assert equal(tmp_path / "without", tmp_path / "with")
    without, *others = (lines_of(tmp_path / name) for name in ("without", "with", "depth"))
    for lines in others:
        assert all(line["terms"]["silent"] == 0.0 for line in lines)
        # A picture drawn with its depth has the same colours; the last bits of its gradients differ.
        assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in without], rel=1e-3)


def test_depth_can_be_fitted_to(scene: Scene, tmp_path: Path) -> None:
    passes: list[int] = []

    def nearer(step: Step) -> Tensor:
        depth = step.render("depth", "alpha").depth
        assert depth is not None and depth.shape == (step.target.height, step.target.width, 1)
        passes.append(len(step.drawings))
        seen = (step.alpha.detach() > 0.5).float()
        return ((depth - 0.7).abs() * seen).sum() / seen.sum().clamp_min(1.0)

    def with_needs(step: Step) -> Tensor:
        value = nearer(step)
        # Drawn with the picture, and the same as in a pass of its own.
        assert step.picture.depth is not None
        kept, step.picture.depth = step.picture.depth, None
        own = step.render("depth").depth
        step.picture.depth = kept
        assert own is not None and torch.allclose(own, kept[0], atol=1e-5)
        return value

    with_needs.needs = ("depth",)  # type: ignore[attr-defined]
    settings = {**SETTINGS, "max_steps": 80, "settings": {**ALONE, "optim.means": (0.01, 0.01)}}
    for name, term in (("without", nearer), ("with", with_needs)):
        fit(scene, "quick", tmp_path / name, terms={"nearer": term}, **settings)
        figures = [line["terms"]["nearer"] for line in lines_of(tmp_path / name)]
        assert figures[-1] < 0.5 * figures[0], figures
    # Of what is drawn beside the picture densification sees nothing.
    assert set(passes) == {1}


@pytest.mark.parametrize(
    ("buffer", "columns"),
    [
        ("xyz", {"means", "velocities", "opacities"}),
        ("normal", {"quats"}),
        ("flow", {"velocities", "means"}),
        ("velocity", {"velocities"}),
        ("uncertainty", {"means", "opacities"}),
    ],
)
def test_every_buffer_has_gradients(scene: Scene, tmp_path: Path, buffer: str, columns: set[str]) -> None:
    grads: dict[str, float] = {}

    def look(step: Step) -> Tensor:
        value = getattr(step.render(buffer), buffer)
        assert getattr(step.render(buffer), buffer) is value, "drawn twice"
        return (value - 0.3).square().mean()

    def note(trainer: Trainer, event: str) -> None:
        if event == "start":
            with torch.no_grad():
                trainer.table.params["velocities"].normal_(0.0, 0.1, generator=torch.Generator().manual_seed(0))
        if event == "after_backward":
            for name, value in trainer.table.params.items():
                if value.grad is not None:
                    assert bool(torch.isfinite(value.grad).all())
                    grads[name] = grads.get(name, 0.0) + float(value.grad.abs().sum())

    settings = {**SETTINGS, "max_steps": 3, "settings": ALONE}
    fit(scene, "quick", tmp_path / "run", terms={"look": look}, callbacks=[note], **settings)
    assert {name for name, value in grads.items() if value > 0} >= columns


def test_terms_share_what_is_made_once_and_a_seed_that_resuming_keeps(scene: Scene, tmp_path: Path) -> None:
    drawn: dict[str, list[float]] = {}

    def draw_for(run: str) -> dict[str, Callable[[Step], None]]:
        drawn[run] = []
        made: list[int] = []

        def first(step: Step) -> None:
            step.once("shared", lambda: made.append(step.number))
            drawn[run].append(float(torch.rand((), generator=step.generator)))

        def second(step: Step) -> None:
            step.once("shared", lambda: made.append(step.number))
            assert made == sorted(set(made)) and made[-1] == step.number
            drawn[run].append(float(torch.rand((), generator=step.generator)))

        return {"first": first, "second": second}

    def press_ctrl_c(trainer: Trainer, event: str) -> None:
        if event == "after_step" and trainer.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    # More steps than pictures: the same picture has another seed the next time.
    settings = {**SETTINGS, "max_steps": 30}
    fit(scene, "quick", tmp_path / "whole", terms=draw_for("whole"), **settings)
    terms = draw_for("cut")
    assert fit(scene, "quick", tmp_path / "cut", terms=terms, callbacks=[press_ctrl_c], **settings).interrupted
    fit(scene, "quick", tmp_path / "cut", terms=terms, resume=True, evaluate=False)
    assert drawn["cut"] == drawn["whole"] and len(set(drawn["whole"])) == 60
    assert equal(tmp_path / "cut", tmp_path / "whole")


def test_a_class_is_made_with_the_settings_of_its_name(scene: Scene, tmp_path: Path) -> None:
    class Constant:
        def __init__(self, value: float, scale: float = 1.0) -> None:
            self.value = value * scale

        def __call__(self, step: Step) -> Tensor:
            return step.state.means.new_tensor(self.value)

    TERMS.register("constant")(Constant)
    told = {"loss.constant": 0.5, "loss.settings.constant.value": 3.0, "loss.settings.constant.scale": 2}
    fit(scene, "quick", tmp_path / "run", settings=told, **SETTINGS)
    assert lines_of(tmp_path / "run")[0]["terms"]["constant"] == pytest.approx(3.0)


def test_what_is_no_term_is_refused(scene: Scene, tmp_path: Path) -> None:
    for terms, words in (
        ([object()], "the term 'object' cannot be registered: expected something to call"),
        (["no-such"], "loss.no-such: expected a term out of"),
        ({"opacity": two}, "the term 'opacity' is gaussian4d's own"),
    ):
        with pytest.raises(UserError, match=words):
            fit(scene, "quick", tmp_path / "run", terms=terms, **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_a_run_says_whose_term_it_needs(
    scene: Scene, tmp_path: Path, plugin: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    module = plugin("def sway(step): return step.state.means.abs().mean()\n", terms={"sway": "swings:sway"})
    out = tmp_path / "run"
    fit(scene, "quick", out, settings={"loss.sway": 0.1}, **SETTINGS)
    assert lines_of(out)[0]["terms"]["sway"] > 0
    recorded = json.loads((out / "config.json").read_text())["fit"]["plugins"]
    assert recorded == [{"group": "gaussian4d.terms", "name": "sway", "package": "swings", "version": "1.2"}]
    fit(scene, "quick", out, resume=True, evaluate=False)
    shutil.rmtree(module.parent / "swings-1.2.dist-info")
    forget_installed()
    with pytest.raises(UserError, match=r"needs the term 'sway' from the package swings 1\.2, which is not installed"):
        fit(scene, "quick", out, resume=True, evaluate=False)
    assert (out / "model.g4d").exists()


def test_a_run_with_a_function_needs_it_again(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(scene, "quick", out, terms=[two], **SETTINGS)
    TERMS.unregister("two")
    with pytest.raises(UserError, match=f"this run needs the term 'two' from the package {two.__module__}"):
        fit(scene, "quick", out, resume=True, evaluate=False)
    assert not fit(scene, "quick", out, resume=True, terms=[two], evaluate=False).interrupted


def test_a_weighted_term_by_hand() -> None:
    def term(step: Any) -> Tensor | None:
        return None if step.number == 4 else torch.tensor(10.0)

    term.every = 2  # type: ignore[attr-defined]
    weighted = WeightedTerm("term", term, ((0.0, 0.0), (1.0, 1.0)))
    values = [weighted(SimpleNamespace(number=k, progress=p)) for k, p in ((0, 0.0), (1, 0.5), (2, 0.5), (4, 0.5))]  # type: ignore[arg-type]
    assert values[:2] == [None, None] and values[3] is None
    assert values[2] is not None and float(values[2]) == pytest.approx(0.5 * 2 * 10.0)


def test_the_order_of_terms_does_not_depend_on_that_of_the_settings() -> None:
    weights = {"rigidity": 0.1, "scale": 0.1, "opacity": 0.1, "photometric": 1.0, "velocity": 0.1}
    one = FitConfig(max_steps=1).replace({"loss.weights": weights})
    other = FitConfig(max_steps=1).replace({"loss.weights": dict(reversed(weights.items()))})
    assert one.active_terms() == other.active_terms() == ["photometric", "opacity", "scale", "velocity", "rigidity"]


def test_the_space_before_the_lens_is_emptied(scene: Scene, tmp_path: Path) -> None:
    seen = scene.frames("train")[0].camera
    place = torch.tensor(seen.position + 0.1 * seen.forward).float()
    table = {
        "means": torch.stack([place, torch.zeros(3)]),
        "quats": torch.eye(4)[:2].clone(),
        "scales": torch.full((2, 3), -3.0),
    }
    table |= {"opacities": torch.zeros(2), "sh0": torch.zeros(2, 1, 3), "shN": torch.zeros(2, 0, 3)}
    params = {name: value.requires_grad_() for name, value in table.items()}
    viewmat, K = torch.tensor(seen.viewmat).float(), torch.tensor(seen.K).float()
    target: Any = SimpleNamespace(viewmat=viewmat, K=K, width=seen.width, height=seen.height)
    term: Any = TERMS.get("near-plane")

    def value(near: float) -> Tensor | None:
        state = make_motion("static").at(params, 0.5)
        step: Any = SimpleNamespace(target=target, state=state, near=near, backend="cpu")
        return term(step)

    # Nothing stands nearer than this, and what stands further is none of its business.
    assert value(0.05) is None
    fog = value(0.5)
    assert fog is not None and fog.item() > 0.2
    fog.backward()
    slope = params["opacities"].grad
    assert slope is not None and float(slope[0]) > 1e-3 and float(slope[1]) == 0.0
    # A fit takes it by its name, every fourth step.
    fit(scene, "quick", tmp_path / "a", settings={"loss.near-plane": 0.1}, **SETTINGS)
    assert "near-plane" in lines_of(tmp_path / "a")[0]["terms"]
