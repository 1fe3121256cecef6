#!/usr/bin/env bash
# Builds, tests, checks, measures and profiles the CUDA backend, and fits with it, on a machine with an NVIDIA GPU, in
# under 10 minutes.
#   scripts/gpu_check.sh OUT [GSPLAT_WHEEL]
# Needs no network: only what a CUDA build of torch 2.7 or newer, cuda-core, a C++ compiler, scikit-build-core, nanobind,
# cmake, ninja, pytest and hypothesis offer; the fits also need what gaussian4d itself depends on. Logs and figures go to
# OUT; nothing is installed outside it.
#   PYTHON=python3.12   the interpreter that has torch
#   BASKETBALL=FOLDER   the scene basketball_31cam (PanopticSports), to be fitted beside the demo's
#   SECONDS_IN_ALL=590  the time in which all of it must fit; steps that find too little left are not run
set -uo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    sed -n '2,10p' "$0" | cut -c3-
    exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
wheel=${2:+$(realpath "$2")}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 2
python=${PYTHON:-python3}
budget=${SECONDS_IN_ALL:-590}
site=$out/site
export PYTHONPATH=$site PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 GAUSSIAN4D_CACHE=$out/cache
SECONDS=0
rows=()
failed=0

note() { # STATE NAME SECONDS REMARK
    rows+=("$(printf '%-12s %-16s %5ss  %s' "$1" "$2" "$3" "$4")")
    echo "== ${rows[-1]}"
}

# step required|optional NAME LIMIT COMMAND...: runs with at most LIMIT seconds; the log is OUT/NAME.log.
step() {
    local kind=$1 name=$2 limit=$3 begin=$SECONDS left status remark
    shift 3
    left=$((budget - SECONDS))
    if [ "$left" -lt 5 ]; then
        note "out of time" "$name" 0 ""
        [ "$kind" = optional ] || failed=1
        return 1
    fi
    [ "$limit" -lt "$left" ] || limit=$left
    echo "== $name: at most $limit s, log in $name.log"
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    remark=$(grep -v '^[[:space:]]*$' "$out/$name.log" | tail -n 1 | cut -c1-110)
    if [ "$status" -eq 0 ]; then
        note ok "$name" $((SECONDS - begin)) "$remark"
        return 0
    fi
    [ "$status" -ne 124 ] && [ "$status" -ne 137 ] || remark="stopped after $limit s; $remark"
    if [ "$kind" = required ]; then
        failed=1
        note FAILED "$name" $((SECONDS - begin)) "$remark"
        tail -n 25 "$out/$name.log" | sed 's/^/    /'
    else
        note "not well" "$name" $((SECONDS - begin)) "$remark"
    fi
    return 1
}

# absent NAME REASON: a step that cannot run here; a required one counts as failed.
absent() { note "not run" "$2" 0 "$3"; [ "$1" = optional ] || failed=1; }

# Isolated from the folder the script is run in, whose packages would hide the installed ones.
isolated=("$python" -P)
tests=("${isolated[@]}" -m pytest -o "cache_dir=$out/pytest" -o addopts= --strict-markers -q -rs)

# shellcheck disable=SC2329  # called by the first step
environment() {
    nvidia-smi || echo "nvidia-smi does not answer"
    "$python" --version
    "$python" -m pip list 2>/dev/null | grep -iE '^(torch|numpy|jaxtyping|cuda|nvidia-cuda-nvrtc|pytest|hypothesis|beartype|scikit-build|nanobind|ninja|cmake|gsplat) ?' || true
    c++ --version || g++ --version || echo "no C++ compiler"
    command -v nvcc compute-sanitizer ncu nsys || true
    nproc
}
export python
export -f environment

step optional environment 30 bash -c environment
step required build 240 "$python" -m pip install --no-index --no-build-isolation --no-deps --upgrade --target "$site" .
step required import 60 "${isolated[@]}" -c '
import diff_rasterizer, os, sys
from diff_rasterizer.cuda_runtime import describe
print(*describe(), diff_rasterizer.available_backends(), diff_rasterizer.__file__, sep="\n")
sys.exit(not diff_rasterizer.__file__.startswith(os.environ["PYTHONPATH"]))'

gpu=no
step required gpu 60 "${isolated[@]}" -c '
import sys, diff_rasterizer
reason = diff_rasterizer.available_backends()["cuda"]
print(reason or "the cuda backend can run")
sys.exit(bool(reason))' && gpu=yes

if [ -n "$wheel" ]; then
    step optional gsplat-install 60 "$python" -m pip install --no-index --no-deps --upgrade --target "$site" "$wheel"
fi
compiling=
if [ -n "$wheel" ] && [ "$gpu" = yes ]; then
    # gsplat compiles itself for minutes at first use; that goes on beside the tests.
    arch=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
    export TORCH_CUDA_ARCH_LIST=$arch TORCH_EXTENSIONS_DIR=$out/extensions MAX_JOBS
    MAX_JOBS=$(nproc)
    timeout --kill-after=5 400 "${isolated[@]}" -c 'from gsplat.cuda._backend import _C; print(_C); assert _C is not None' \
        >"$out/gsplat-compile.log" 2>&1 &
    compiling=$!
fi

if [ "$gpu" = yes ]; then
    step required gpu-tests 170 "${tests[@]}" -m gpu tests/diff_rasterizer
else
    absent required gpu-tests "no GPU that the cuda backend can use"
fi

once=("${isolated[@]}" scripts/bench/rasterizer_once.py)
if [ "$gpu" = yes ] && command -v compute-sanitizer >/dev/null; then
    kernels=$(PYTHONPATH=$site:scripts/bench "${once[@]}" --kernels)
    for tool in memcheck racecheck initcheck; do
        # Without torch's cache of memory every tensor is an allocation of its own, and overruns are seen. Only our
        # kernels are watched, and only them: torch and cuda.core ask the driver things that it answers with an error.
        watch=(env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "PYTHONPATH=$site:scripts/bench" compute-sanitizer --tool "$tool"
            --error-exitcode 9 --kernel-name "regex=^($kernels)\$")
        [ "$tool" != memcheck ] || watch+=(--report-api-errors no)
        step required "$tool" 75 "${watch[@]}" "${once[@]}"
        # 9 is the exit code of a finding: a tool that does not find what was planted for it shows nothing.
        # shellcheck disable=SC2016
        step required "$tool-plant" 40 bash -c '"$@"; status=$?; echo "exit code $status, 9 expected"; [ $status -eq 9 ]' \
            plant "${watch[@]}" "${once[@]}" --plant "$tool"
    done
else
    absent optional sanitizers "$([ "$gpu" = yes ] && echo "compute-sanitizer is not on the PATH" || echo "no GPU")"
fi

if [ -n "$compiling" ]; then
    begin=$SECONDS
    if wait "$compiling"; then
        note ok gsplat-compile $((SECONDS - begin)) "beside the steps above"
    else
        note "not well" gsplat-compile $((SECONDS - begin)) "$(tail -n 1 "$out/gsplat-compile.log" | cut -c1-110)"
    fi
fi

if [ "$gpu" = no ]; then
    absent required fits "no GPU"
elif ! missing=$("${isolated[@]}" -c 'import gaussian4d.reconstruction, gaussian4d.evaluation, gaussian4d.toys.raycast' 2>&1); then
    absent optional fits "$(tail -n 1 <<<"$missing" | cut -c1-110)"
else
    fits=("${isolated[@]}" scripts/bench/fit_gpu.py --out "$out/fits" --json "$out/fits.json")
    if [ -d "${BASKETBALL:-}" ]; then
        fits+=(--basketball "$BASKETBALL")
    else
        absent optional basketball "BASKETBALL does not name the folder of basketball_31cam: only the demo's scene is fitted"
    fi
    # The bench and the CPU tests come after them.
    left=$((budget - SECONDS - 160))
    step required fits "$((left < 190 ? (left < 60 ? 60 : left) : 190))" "${fits[@]}"
    rm -rf "$out/fits"
fi

if [ "$gpu" = yes ]; then
    left=$((budget - SECONDS - 100))
    bench=("${isolated[@]}" scripts/bench/rasterizer_gpu.py --json "$out/bench.json" --repeats 10)
    [ "$left" -ge 60 ] || bench+=(--quick)
    [ "$left" -ge 30 ] || left=30
    step required bench $((left + 30)) "${bench[@]}" --seconds "$left"
else
    absent required bench "no GPU"
fi

if [ "$gpu" = yes ] && command -v ncu >/dev/null; then
    kernels=$(PYTHONPATH=$site:scripts/bench "${once[@]}" --kernels)
    step optional ncu 45 env PYTHONPATH="$site:scripts/bench" ncu --set basic --kernel-name "regex:^($kernels)\$" \
        --launch-skip 30 --launch-count 30 --export "$out/ncu" --force-overwrite --page raw \
        "${once[@]}" --gaussians 1000000 --size 1920x1080
    [ ! -f "$out/ncu.ncu-rep" ] || ncu --import "$out/ncu.ncu-rep" --page details >"$out/ncu-details.txt" 2>&1
else
    absent optional ncu "$([ "$gpu" = yes ] && echo "ncu is not on the PATH" || echo "no GPU")"
fi

parallel=()
"$python" -c 'import xdist' 2>/dev/null && parallel=(-n "$(($(nproc) < 8 ? $(nproc) : 8))")
step required cpu-tests 300 "${tests[@]}" "${parallel[@]}" -m 'not gpu and not slow and not browser' tests/diff_rasterizer

rm -rf "$site" "$out/extensions" "$out/cache" "$out/pytest"
{
    printf '%s\n' "${rows[@]}"
    [ "$failed" -eq 0 ] && echo "all required steps passed" || echo "NOT ALL REQUIRED STEPS PASSED"
    [ "$gpu" = yes ] || echo "There is no GPU that the cuda backend can use: nothing here says anything about CUDA."
} | tee "$out/summary.txt"
exit "$failed"
