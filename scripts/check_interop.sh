#!/usr/bin/env bash
# Runs what gaussian4d offers for Open3D and PyTorch3D with the real libraries, and lets Open3D read our files; prints
# what was seen.
#   scripts/check_interop.sh WORK           WORK keeps the packages (about 1.5 GB), a second run uses them again
# Needs pip, and Open3D's system libraries (Debian: libusb-1.0-0 libgl1 libegl1 libgomp1).
set -euo pipefail
if [ $# -ne 1 ]; then
    sed -n '2,5p' "$0" | cut -c3-
    exit 2
fi
mkdir -p "$1"
work=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
if [ ! -e "$work/packages/open3d" ]; then
    # Not into our own environment: it brings packages that nothing of ours needs.
    "$python" -m pip install -q --target "$work/packages" open3d==0.20.0
fi
if [ ! -e "$work/pytorch3d" ]; then
    # There is no wheel for any current torch; the source of the release is the same. Its Python part needs no build.
    "$python" -m pip download -q --no-deps --no-build-isolation --no-binary :all: -d "$work" pipablepytorch3d==0.7.6
    mkdir "$work/unpacked"
    tar -xzf "$work/pipablepytorch3d-0.7.6.tar.gz" -C "$work/unpacked" --strip-components 1
    mv "$work/unpacked" "$work/pytorch3d"
fi
"$python" "$here/open3d_check.py" "$work/packages"
"$python" "$here/pytorch3d_check.py" "$work/pytorch3d"
