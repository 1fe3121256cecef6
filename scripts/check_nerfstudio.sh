#!/usr/bin/env bash
# Installs nerfstudio and this checkout into an environment of its own and tries the plugin there; prints what was seen.
#   scripts/check_nerfstudio.sh WORK            WORK keeps the environment (about 8 GB), a second run uses it again
# Needs python3.11 (PYTHON=...) and pip. nerfstudio pins packages that gaussian4d's own environment cannot have.
set -euo pipefail
if [ $# -ne 1 ]; then
    sed -n '2,4p' "$0" | cut -c3-
    exit 2
fi
mkdir -p "$1"
work=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")/.." && pwd)
bin=$work/venv/bin
if [ ! -e "$bin/ns-train" ]; then
    "${PYTHON:-python3.11}" -m venv "$work/venv"
    "$bin/pip" install -q -U pip
    # Later wandb wants a protobuf that nerfstudio does not allow; pip tries every version until it finds one that does.
    printf 'wandb==0.19.11\nprotobuf==3.20.3\n' > "$work/constraints.txt"
    # torch and torchvision of one release: torchvision does not import beside another torch.
    "$bin/pip" install -q -c "$work/constraints.txt" nerfstudio==1.1.5 torch==2.14.1 torchvision==0.29.1
    "$bin/pip" install -q safetensors zstandard
fi
# Without its dependencies: nerfstudio has the others, in the versions it pins.
"$bin/pip" install -q --no-deps --force-reinstall "$here"
cd "$work"
echo "== versions"
"$bin/pip" list 2> /dev/null | grep -iE '^(nerfstudio|gaussian4d|torch|torchvision|viser|gsplat|numpy|tyro) '
echo "== a scene through our dataparser"
"$bin/python" - <<'PYTHON'
from pathlib import Path

import numpy as np
import torch

from gaussian4d.scene import load_scene
from gaussian4d.toys import write_scene
from nerfstudio.plugins.registry_dataparser import discover_dataparsers

if not Path("toy").exists():
    write_scene(Path("toy"), 0, 4, 1, 5, width=64, height=48, samples=1)
config = discover_dataparsers()[0]["gaussian4d-data"]
config.data = Path("toy")
outputs = config.setup().get_dataparser_outputs("train")
scene = load_scene("toy")
frames = scene.frames("train")
assert len(outputs.image_filenames) == len(frames) and all(path.exists() for path in outputs.image_filenames)
# A world point lies on the same pixel of nerfstudio's camera as of ours.
point = np.array([0.1, -0.2, 0.3])
moved = (outputs.dataparser_transform.numpy() @ [*point, 1.0]) * outputs.dataparser_scale
worst = 0.0
for frame, camera in zip(frames, outputs.cameras):
    local = frame.camera.viewmat[:3] @ [*point, 1.0]
    pixel = (frame.camera.K @ local / local[2])[:2]
    ray = camera.generate_rays(camera_indices=0, coords=torch.tensor(pixel[::-1].copy()).float()[None])
    towards = torch.from_numpy(moved).float() - ray.origins[0]
    worst = max(worst, float((torch.nn.functional.normalize(towards, dim=0) - ray.directions[0]).norm()))
    assert abs(float(camera.times) - frame.time) < 1e-6
assert worst < 1e-4, worst
points = outputs.metadata["points3D_xyz"]
print(f"{len(frames)} frames of toy, {len(points)} points; rays through a world point miss it by {worst:.1e} rad at most")
PYTHON
echo "== ns-train lists the method"
"$bin/ns-train" --help | grep -A1 -w gaussian4d
echo "== ns-train gaussian4d, a few steps"
"$bin/ns-train" gaussian4d --max-num-iterations 60 --machine.device-type cpu --vis tensorboard --output-dir "$work/out" \
    --steps-per-save 60 --timestamp check --experiment-name toy --logging.local-writer.enable False \
    gaussian4d-data --data toy > train.log 2>&1 || { tail -40 train.log; exit 1; }
config=$work/out/toy/gaussian4d/check/config.yml
# nerfstudio 1.1.5 does not read its own checkpoints with the torch of today unless this is set.
TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 "$bin/ns-eval" --load-config "$config" --output-path "$work/eval.json" > eval.log 2>&1 || { tail -40 eval.log; exit 1; }
"$bin/python" -c "import json; print({k: v for k, v in json.load(open('eval.json'))['results'].items() if k in ('psnr', 'ssim')})"
echo "== its checkpoint, read by gaussian4d"
"$bin/python" - <<'PYTHON'
from pathlib import Path

from gaussian4d.model import load_model

path = next(Path("out/toy/gaussian4d/check/nerfstudio_models").glob("*.ckpt"))
model = load_model(path)
print(f"{path.name}: {len(model)} Gaussians, motion {model.motion.name}")
PYTHON
