#!/usr/bin/env bash
# Lets other programs read what we write and reads what they write; prints what was seen. Needs node with npm, and pip.
#   scripts/check_interchange.sh WORK [FILE...]        FILE: files of Gaussians from elsewhere, each read and drawn
# Other programs: @playcanvas/splat-transform, gltf-validator (npm); fourdgs, usd-core (pip), installed into WORK.
set -euo pipefail
if [ $# -lt 1 ]; then
    sed -n '2,4p' "$0" | cut -c3-
    exit 2
fi
mkdir -p "$1"
work=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
shift
python=${PYTHON:-python}
if [ ! -d "$work/node_modules" ]; then
    (cd "$work" && npm install --no-audit --no-fund --silent @playcanvas/splat-transform@2.7.1 gltf-validator@2.0.0-dev.3.10)
fi
if [ ! -d "$work/venv" ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install -q fourdgs usd-core
fi
transform() { node "$work/node_modules/@playcanvas/splat-transform/bin/cli.mjs" --quiet --overwrite "$@" > /dev/null; }

"$python" "$here/interchange_samples.py" write "$work/files"
cd "$work/files"
echo "== splat-transform reads ours, and writes its own"
for ending in ply compressed.ply splat spz sog; do transform "ours.$ending" "they_read_$ending.ply"; done
for version in 2 3; do transform "ours_v$version.spz" "they_read_v$version.ply"; done
for ending in compressed.ply spz glb; do transform ours.ply "theirs.$ending"; done
transform --spz-version 3 ours.ply theirs_v3.spz
transform --gpu cpu ours.ply theirs.sog
for ending in compressed.ply spz sog; do transform "theirs.$ending" "they_read_theirs_$ending.ply"; done
"$python" "$here/interchange_samples.py" compare .
echo "== gltf-validator (it does not know the extension's attributes)"
for file in ours.glb ours_moving.glb theirs.glb; do
    node -e '
        const validator = require(process.argv[1] + "/node_modules/gltf-validator");
        validator.validateBytes(new Uint8Array(require("fs").readFileSync(process.argv[2]))).then((report) => {
            const others = report.issues.messages.filter((m) => !m.pointer.includes("KHR_gaussian_splatting") &&
                !m.message.includes("KHR_gaussian_splatting"));
            console.log(process.argv[2], report.issues.numErrors, "messages on the extension, others:", others.length);
        });' "$work" "$file"
done
echo "== fourdgs"
"$work/venv/bin/fourdgs" validate ours.4dgs
echo "== usd-core"
"$work/venv/bin/python" - <<'PYTHON'
from pxr import Usd, UsdValidation, UsdVol

validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
for name in ("ours.usda", "ours.usdz"):
    stage = Usd.Stage.Open(name)
    prim = stage.GetDefaultPrim()
    positions = prim.GetAttribute("positions")
    problems = UsdValidation.ValidationContext(validators).Validate(stage)
    print(name, prim.GetTypeName(), prim.IsA(UsdVol.ParticleField3DGaussianSplat), len(positions.Get(0.0)), "Gaussians,",
          len(positions.GetTimeSamples()), "samples,", len(validators), "validators:", [p.GetMessage() for p in problems])
PYTHON
for file in "$@"; do "$python" "$here/interchange_samples.py" draw "$file" "$work/$(basename "$file").png"; done
