"""A Gaussian counts at a time as far as it is there: in the opacity term and in the statistics of gradients."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from gaussian4d import fit
from gaussian4d.fitting.config import FitConfig
from gaussian4d.fitting.terms import penalties
from gaussian4d.fitting.trainer import Trainer
from gaussian4d.motion import Params, make_motion
from gaussian4d.scene import load_scene

pytestmark = pytest.mark.usefixtures("cpu_backend")

FAINTEST = 1.0 / 255.0


@pytest.mark.parametrize(("name", "sharpness"), [("free-time", 0.5), ("spacetime", 1.0)])
def test_the_opacity_term_is_the_mean_at_the_time_and_spares_the_window(name: str, sharpness: float) -> None:
    motion = make_motion(name)
    params: Params = {
        "means": torch.zeros(2, 3),
        "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(2, 1),
        "scales": torch.zeros(2, 3),
        "opacities": torch.tensor([0.4, -0.7]),
        "sh0": torch.zeros(2, 1, 3),
        "shN": torch.zeros(2, 0, 3),
        **motion.init(2),
    }
    params["times"], params["durations"] = torch.tensor([0.5, 0.2]), torch.tensor([0.1, 0.2]).log()
    params = {key: torch.nn.Parameter(value) for key, value in params.items()}
    opacity = torch.sigmoid(params["opacities"]).detach()
    presence = torch.exp(-sharpness * torch.tensor([0.0, 1.5]).square())
    for at_time, factor in ((True, presence), (False, torch.ones(2))):
        changes = {"loss.opacity": 0.5, "loss.opacity_at_time": at_time, "loss.anisotropy": 0.0}
        config = FitConfig(max_steps=1, motion=name).replace(changes)
        total = penalties(config, motion, params, motion.at(params, 0.5))
        assert float(total.detach()) == pytest.approx(0.5 * float((opacity * factor).mean()))
        for value in params.values():
            value.grad = None
        total.backward()
        grad = params["opacities"].grad
        assert grad is not None
        torch.testing.assert_close(grad, 0.25 * factor * opacity * (1.0 - opacity))
        # A window that paid would shrink wherever it is needless to be seen.
        for column in ("times", "durations"):
            pull = params[column].grad
            assert pull is None or not pull.any()


def test_gradients_count_only_for_who_is_there(ball_scene: Path, tmp_path: Path) -> None:
    seen: dict[str, torch.Tensor] = {}

    def look(trainer: Trainer, event: str) -> None:
        params, targets = trainer.table.params, trainer.targets
        if event == "start":
            target = targets.get(0, 1.0)
            # Opaque at their own instant, all a little above or below the least that is drawn at the target's time.
            opacity, above = 0.3, torch.arange(len(trainer.table)) % 2 == 0
            presence = torch.where(above, 1.3, 0.7) * FAINTEST / opacity
            with torch.no_grad():
                params["opacities"].fill_(math.log(opacity / (1.0 - opacity)))
                params["durations"].fill_(math.log(0.1))
                params["times"].copy_(target.time + 0.1 * torch.sqrt(-2.0 * presence.log()))
            seen["drawn"] = trainer.step_of(target, torch.zeros(3), 0.0).picture.drawn[0]
            with torch.no_grad():
                params["durations"][above] = math.log(4.0)
                params["times"].fill_(0.5)
                params["times"][~above] = 3.0
        if event == "after_step" and trainer.step == 3:
            seen["count"] = trainer.table.statistics["count"].clone()

    fit(
        load_scene(ball_scene),
        "quick",
        tmp_path / "run",
        motion="free-time",
        max_steps=4,
        init_points=200,
        init_instants=4,
        evaluate=False,
        callbacks=[look],
    )
    assert float(seen["drawn"][0::2].float().mean()) > 0.9 and not seen["drawn"][1::2].any()
    assert float((seen["count"][0::2] == 3).float().mean()) > 0.9 and not seen["count"][1::2].any()
