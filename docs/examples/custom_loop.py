"""A training loop of one's own, from public names only: python docs/examples/custom_loop.py SCENE OUT.g4d [STEPS]

`gaussian4d demo` leaves a scene to try it on, demo_run/scene.
"""

import sys

import torch

import gaussian4d as g4
from diff_rasterizer import FusedAdam, l1_ssim_loss, rasterization


def train(scene: g4.Scene, steps: int, motion: str = "dual-domain", points: int = 10_000) -> g4.DynamicGaussians:
    """Returns a model fitted to the training frames of `scene`, whose pictures have alpha, over white."""
    model = g4.initial_model(scene, motion, points=points)
    unit = 1.0 / model.meta["normalisation"]["scale"]  # rates are for a scene of unit size
    rates = {"means": 4e-4, "quats": 1e-3, "scales": 5e-3, "opacities": 5e-2, "sh0": 5e-3, "shN": 2.5e-4}
    rates |= {name: first for name, (first, last) in model.motion.learning_rates().items()}
    lengths = {"means", *model.motion.length_columns, *model.motion.position_columns}
    adam = FusedAdam(
        [
            {"params": [value.requires_grad_()], "lr": rates[name] * (unit if name in lengths else 1.0), "name": name}
            for name, value in model.params.items()
        ]
    )
    frames, generator = scene.frames("train"), torch.Generator().manual_seed(0)
    for step in range(steps):
        camera, time, image = frames[int(torch.randint(len(frames), (), generator=generator))]
        pixels = torch.from_numpy(image) / 255.0
        wanted = torch.lerp(torch.ones(3), pixels[..., :3], pixels[..., 3:])
        viewmat, K = torch.from_numpy(camera.viewmat).float(), torch.from_numpy(camera.K).float()
        size = {"width": camera.width, "height": camera.height, "near_plane": model.near}
        drawn = model.at(time).to_rasterizer() | {"viewmats": viewmat[None], "Ks": K[None], **size}
        rgb, *_ = rasterization(**drawn, backgrounds=torch.ones(1, 3))
        loss = l1_ssim_loss(rgb[0], wanted, ssim_weight=0.2)
        loss.backward()
        adam.step()
        adam.zero_grad()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.4f}")
    return model


if __name__ == "__main__":
    scene = g4.load_scene(sys.argv[1])
    model = train(scene, int(sys.argv[3]) if len(sys.argv) > 3 else 2000)
    model.save(sys.argv[2])
    print(model, g4.evaluate(model, scene)["psnr"], "dB on unseen cameras")
