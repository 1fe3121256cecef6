#!/usr/bin/env bash
# Fits, evaluates, renders and exports scenes with the command line alone; the way the figures of real scenes are made.
#   scripts/bench/scenes.sh OUT MINUTES SCENE...        further flags of `gaussian4d fit` in FIT_FLAGS
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '2,3p' "$0" | cut -c3-
    exit 2
fi
out=$1 minutes=$2
shift 2
for scene in "$@"; do
    run=$out/$(basename "$scene")
    # shellcheck disable=SC2086  # FIT_FLAGS is a list of flags
    gaussian4d fit "$scene" --out "$run" --max-minutes "$minutes" ${FIT_FLAGS:-}
    gaussian4d render "$run" --out "$run/renders/orbit.mp4" --buffers rgb depth
    gaussian4d export "$run" --to "$run/exports/frames"
done
