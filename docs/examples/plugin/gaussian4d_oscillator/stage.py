"""What runs after training and may send it on: the picture that is worst, and more steps at a slower pace."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

import gaussian4d as g4


def polish(stage: g4.Stage) -> dict[str, Any]:
    """Returns settings with which training goes on: a tenth more steps, a fifth of the learning rates."""
    errors = {}
    for frame in stage.scene.frames("train"):
        picture = g4.render(stage.model, frame.camera, frame.time, background=(1.0, 1.0, 1.0)).rgb
        assert picture is not None
        errors[frame.source] = float(np.abs(picture.clamp(0.0, 1.0).numpy() - _on_white(frame.image)).mean())
    worst = max(errors, key=errors.__getitem__)
    stage.say(f"polish: the worst picture is {worst}")
    # The folder is the stage's own; what lies there stays with the run.
    (stage.folder / "worst.json").write_text(json.dumps({"source": worst, "error": errors[worst]}), encoding="utf-8")
    steps = stage.config.max_steps
    return {
        "max_steps": steps + max(steps // 10, 1) if steps else None,
        "optim.factor": 0.2 * stage.config.optim.factor,
    }


def _on_white(image: np.ndarray) -> np.ndarray:
    """Returns [H, W, 3] in 0..1; recorded pictures are bytes, with a fourth channel where there is alpha."""
    pixels = image.astype(np.float32) / 255.0
    return pixels[..., :3] * pixels[..., 3:] + 1.0 - pixels[..., 3:] if pixels.shape[-1] == 4 else pixels
