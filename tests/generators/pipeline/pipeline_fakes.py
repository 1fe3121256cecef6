"""Stand-ins for priors and fit, so that the pipeline's own work can be tested in seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gaussian4d.errors import UserError
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import make_motion
from generators.models.pieces import Moves
from generators.pipeline import job, parts, results
from generators.priors.base import PriorInfo

STEPS = 3


class FakePrior:
    """A prior of all roles; its views are the picture darkened by the seed, its videos slide to the right."""

    def __init__(self, calls: list[str]) -> None:
        self.info = PriorInfo("fake", "embedded", "Apache-2.0", notice="a stand-in", size=16)
        self.calls = calls

    def _steps(self, progress: Any) -> None:
        for step in range(STEPS):
            if progress is not None:
                progress(step + 1, STEPS)

    def sample_views(
        self, images: Any, input_camera: Any, cameras: Sequence[Any], *, seed: int = 0, **options: Any
    ) -> Any:
        self._steps(options.get("progress"))
        self.calls.append(f"views {seed}")
        small = torch.nn.functional.interpolate(images, (16, 16), mode="area")
        return small[:, None].repeat(1, len(cameras), 1, 1, 1) * (1.0 - 0.1 * abs(seed - 2))

    def sample_video(self, image: Any, camera: Any, frames: int, *, seed: int = 0, **options: Any) -> Any:
        self._steps(options.get("progress"))
        self.calls.append(f"video {seed}{' of moves' if 'moves' in options else ''}")
        small = torch.nn.functional.interpolate(image[None], (16, 16), mode="area")[0]
        return torch.stack([small.roll(k, dims=2) for k in range(frames)])

    def sample_image(self, caption: str, camera: Any, *, seed: int = 0, **options: Any) -> Any:
        self._steps(options.get("progress"))
        self.calls.append(f"image {seed}")
        image = torch.zeros(4, 16, 16)
        image[[0, 3], 4:12, 4:12] = 1.0
        return image

    def predict_clean(self, images: Any, *args: Any, **options: Any) -> Any:
        return images


class MovingPrior(FakePrior):
    """A prior that says how things move before it shows it."""

    reach = 1.0

    def sample_moves(self, image: Any, camera: Any, times: Sequence[float], *, seed: int = 0, **options: Any) -> Moves:
        self.calls.append(f"moves {seed}")
        transforms = torch.eye(4)[:3].repeat(len(times), 1, 1, 1)
        transforms[:, 0, 0, 3] = self.reach * torch.tensor(list(times))
        return Moves(torch.zeros(16, 16, dtype=torch.long), transforms, torch.zeros(16, 16, 3))


class FakeParts:
    """Everything that `parts` builds, with a record of what was asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.prior = FakePrior(self.calls)
        self.interrupt = False
        self.known: tuple[Any, Any] = (None, None)
        self.inside = True
        self.configs: list[dict[str, Any]] = []

    def open_external(self, source: str, role: str, device: str = "auto") -> Any:
        raise UserError(f"{source}: no such folder, and the hub cannot be reached")

    def fit_config(self, preset: str, **options: Any) -> dict[str, Any]:
        self.configs.append({"preset": preset, **options})
        return self.configs[-1]

    def make_anchors(self, frames: Any, times: Any, camera: Any, prior: Any, cameras: Any, **options: Any) -> Any:
        self.calls.append(f"anchors {len(frames)}")
        views = prior.sample_views(frames, camera, cameras, seed=options["seed"], progress=options["progress"])
        options["folder"].mkdir(exist_ok=True)
        (options["folder"] / "anchors.json").write_text("{}")
        return views

    def fit_asset(
        self, frames: Any, times: Any, camera: Any, prior: Any, out: Path, config: Any, **options: Any
    ) -> Any:
        self.calls.append(f"fit {config['motion']} {len(frames)}{' resumed' if options['resume'] else ''}")
        self.known = options.get("moves"), options.get("rest")
        assert not (out / "config.json").exists() or options["resume"]
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps({"fake": True}))
        (out / "checkpoints").mkdir(exist_ok=True)
        if self.interrupt and len(frames) > 1:
            raise KeyboardInterrupt
        params = {
            "means": torch.tensor([[0.4, 0.0, 0.0], [-0.4, 0.0, 0.2]]),
            "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1),
            "scales": torch.full((2, 3), 0.2).log(),
            "opacities": torch.full((2,), 4.0),
            "sh0": torch.ones(2, 1, 3),
            "shN": torch.zeros(2, 0, 3),
        }
        model = DynamicGaussians(params, make_motion("static"), times=np.array(times))
        model.save(out / "model.g4d")
        return model


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeParts:
    """The pipeline with stand-ins, and small videos."""
    made = FakeParts()
    monkeypatch.setattr(parts, "check_installed", lambda: None)
    monkeypatch.setattr(parts, "embedded_prior", lambda: made.prior)
    monkeypatch.setattr(parts, "external_prior", made.open_external)
    monkeypatch.setattr(parts, "reconstructor", lambda: None)
    monkeypatch.setattr(parts, "check_domain", lambda image: (made.inside, "it is not like a toy"))
    monkeypatch.setattr(
        parts, "unknown_words", lambda text: ([word for word in text.split() if word == "dragon"], "red" in text)
    )
    monkeypatch.setattr(parts, "fit_config", made.fit_config)
    monkeypatch.setattr(parts, "make_anchors", made.make_anchors)
    monkeypatch.setattr(parts, "load_anchors", lambda folder: (folder / "anchors.json").read_text())
    monkeypatch.setattr(parts, "fit_asset", made.fit_asset)
    monkeypatch.setattr(job, "VIEWS", 3)
    monkeypatch.setattr(results, "ORBIT_SIZE", 32)
    monkeypatch.setattr(results, "SHEET_SIZE", 32)
    monkeypatch.setattr(results, "ORBIT_SECONDS", 0.25)
    return made


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture with alpha."""
    return draw(tmp_path / "cat.png")


def draw(path: Path, left: int = 20) -> Path:
    """Writes a green square with alpha."""
    image = np.zeros((80, 100, 4), np.uint8)
    image[20:60, left : left + 40] = (30, 180, 60, 255)
    Image.fromarray(image).save(path)
    return path
