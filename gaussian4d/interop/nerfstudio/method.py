"""What the entry point of `nerfstudio.method_configs` names."""

# nerfstudio has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from ...fitting.config import FitConfig
from ...motion import MOTIONS, make_motion
from .dataparser import Gaussian4DDataParserConfig
from .model import MAX_STEPS, MOTION_FACTOR, Gaussian4DModelConfig


def _optimizers() -> dict[str, dict[str, object]]:
    """Returns an optimiser per column of any motion model, with the rates of `gaussian4d fit`."""
    fit = FitConfig(max_steps=MAX_STEPS)
    rates = {name: getattr(fit.optim, name) for name in ("means", "scales", "quats", "opacities", "sh0", "shN")}
    for name, model in MOTIONS.working().items():
        rates_of = make_motion(name).learning_rates() if model.fitted and model.connected else {}
        for column, (first, last) in rates_of.items():
            factor = MOTION_FACTOR if name == "free-time" else 1.0
            rates.setdefault(column.replace(".", "_"), (first * factor, last * factor))
    return {
        name: {
            "optimizer": AdamOptimizerConfig(lr=first, eps=1e-15),
            "scheduler": ExponentialDecaySchedulerConfig(lr_final=last, max_steps=MAX_STEPS),
        }
        for name, (first, last) in rates.items()
    }


gaussian4d_method = MethodSpecification(
    config=TrainerConfig(
        method_name="gaussian4d",
        steps_per_eval_image=500,
        steps_per_eval_batch=0,
        steps_per_save=2000,
        steps_per_eval_all_images=MAX_STEPS,
        max_num_iterations=MAX_STEPS,
        mixed_precision=False,
        pipeline=VanillaPipelineConfig(
            # "gpu" is the device that is trained on; "cpu" pins memory, which needs a GPU.
            datamanager=FullImageDatamanagerConfig(
                dataparser=Gaussian4DDataParserConfig(), cache_images="gpu", cache_images_type="uint8"
            ),
            model=Gaussian4DModelConfig(),
        ),
        optimizers=_optimizers(),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    description="Dynamic scenes as moving Gaussians (gaussian4d).",
)
