#!/usr/bin/env python3
"""A few small training steps with every kernel of the `cuda` backend: what sanitizers and profilers run.

compute-sanitizer --tool memcheck python scripts/bench/rasterizer_once.py
ncu --set basic python scripts/bench/rasterizer_once.py --gaussians 1000000 --size 1920x1080
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rasterizer_gpu import make_scene

import diff_rasterizer

# One wrong kernel each, for the sanitizers to find: what finds nothing here sees nothing.
PLANTS = {
    "memcheck": "out[128 + threadIdx.x] = 1.0f;",
    "racecheck": "__shared__ float x[64]; x[threadIdx.x] = out[0]; out[threadIdx.x] = x[63 - threadIdx.x];",
    "initcheck": "out[threadIdx.x] = out[threadIdx.x + 64] + 1.0f;",
}


def plant(tool: str) -> None:
    """Launches a kernel with the mistake that the tool is for, the way all kernels are launched."""
    from diff_rasterizer.cuda_kernels import KernelFile
    from diff_rasterizer.cuda_runtime import CudaLauncher

    with tempfile.TemporaryDirectory() as folder:
        csrc = Path(folder)
        (csrc / "cuda").mkdir()
        (csrc / "maths").mkdir()
        source = f'extern "C" __global__ void planted(float* out, int) {{ {PLANTS[tool]} }}\n'
        (csrc / "cuda" / "planted.cu").write_text(source, encoding="utf-8")
        device = torch.device("cuda", torch.cuda.current_device())
        launcher = CudaLauncher(device, {"planted": KernelFile("planted.cu", ("planted",))}, csrc)
        out = torch.empty(128, device=device)
        launcher.launch("planted", "planted", (1, 1, 1), (64, 1, 1), [out, np.int32(0)])
        torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=2000)
    parser.add_argument("--size", default="100x75")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--backend", default="cuda")
    parser.add_argument("--kernels", action="store_true", help="print a regular expression of the kernels' names")
    parser.add_argument("--plant", choices=PLANTS, help="launch a wrong kernel that this tool must report")
    options = parser.parse_args()
    if options.kernels:
        from diff_rasterizer.cuda_kernels import KERNEL_FILES

        print("planted|" + "|".join(entry for kernels in KERNEL_FILES.values() for entry in kernels.entries))
        return 0
    if options.plant:
        plant(options.plant)
        return 0
    device = torch.device("cpu" if options.backend in ("cpu", "reference") else "cuda")
    width, height = map(int, options.size.split("x"))
    scene = make_scene(options.gaussians, width, height, device)
    optimiser = diff_rasterizer.FusedAdam(
        [x for x in scene.values() if isinstance(x, torch.Tensor) and x.requires_grad]
    )
    target = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(2)).to(device)
    # Together these reach every kernel file: colours in and beside the projection, one channel to many.
    features = torch.rand(options.gaussians, 5, device=device)
    variants: list[dict[str, Any]] = [
        {"packed": False, "absgrad": True, "backgrounds": torch.ones(1, 3, device=device)},
        {"render_mode": "RGB+ED", "rasterize_mode": "antialiased"},
        {"colors": features, "sh_degree": None},
    ]
    for step in range(options.steps):
        for variant in variants:
            arguments = scene | variant
            renders, alphas, _ = diff_rasterizer.rasterization(**arguments, backend=options.backend)
            loss = diff_rasterizer.l1_ssim_loss(renders[..., :3], target) + alphas.mean()
            loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        print(f"step {step}: loss {float(loss.detach()):.4f}")
        if not bool(torch.isfinite(loss.detach())):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
