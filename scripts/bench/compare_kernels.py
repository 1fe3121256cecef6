"""Times the CPU kernels of the working tree beside those of another revision, in turns on the same scenes.

    python scripts/bench/compare_kernels.py                    # the working tree alone
    python scripts/bench/compare_kernels.py --against main~3   # and the ratio to a revision

CPU-seconds on one thread, the least of all repeats. The programs are left in the folder given with --keep, built with
debug symbols, for perf and its like.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from diff_rasterizer import cpu
from gaussian4d.bench.scenes import BenchScene, cube_scene, dense_scene

ROOT = Path(__file__).resolve().parents[2]
CSRC = Path("diff_rasterizer/csrc")
FLAGS = ["-O3", "-g", "-std=c++17", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-DGD_HAS_X86_VARIANTS"]
VARIANTS = {
    "generic": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"],
}


def fit_scene() -> BenchScene:
    """Returns 7,000 Gaussians of many sizes at 320x180, as in the middle of a fit: about 50 pairs per pixel."""
    g = torch.Generator().manual_seed(0)
    n = 7000
    box = torch.tensor([2.8, 1.6, 2.0])
    return BenchScene(
        means=(torch.rand(n, 3, generator=g) - 0.5) * box + torch.tensor([0.0, 0.0, 3.0]),
        quats=torch.randn(n, 4, generator=g),
        scales=0.008 + 0.065 * torch.rand(n, 3, generator=g),
        opacities=0.05 + 0.9 * torch.rand(n, generator=g) ** 2.2,
        colors=torch.rand(n, 3, generator=g),
        width=320,
        height=180,
        focal=300.0,
    )


def write_scene(path: Path, scene: BenchScene) -> None:
    """Writes the projected Gaussians of a scene as kernels.cpp reads them."""
    radii, means2d, depths, conics, _ = cpu.project(
        scene.means[None], scene.quats[None], scene.scales[None], None, scene.opacities[None], scene.viewmat, scene.K,
        scene.width, scene.height, eps2d=0.3, near_plane=0.01, far_plane=1e10, radius_clip=0.0,
        camera_model="pinhole", compensate=False,
    )  # fmt: skip
    v_renders = torch.rand(scene.height, scene.width, 3, generator=torch.Generator().manual_seed(1))
    with path.open("wb") as file:
        file.write(struct.pack("iii", len(scene.means), scene.width, scene.height))
        for x in (means2d, conics, scene.opacities, depths, scene.colors, v_renders, radii):
            file.write(x.contiguous().numpy().tobytes())


def build(csrc: Path, folder: Path) -> Path:
    """Returns the program built from the kernels in `csrc`."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = [(csrc / "cpu" / f"kernels_{name}.cpp", flags) for name, flags in VARIANTS.items()]
    sources += [(csrc / "cpu/binning.cpp", []), (csrc / "cpu/dispatch.cpp", [])]
    sources.append((Path(__file__).with_name("kernels.cpp"), []))
    objects = []
    for source, flags in sources:
        objects.append(folder / f"{source.stem}.o")
        subprocess.run(["g++", *FLAGS, *flags, f"-I{csrc}", "-c", source, "-o", objects[-1]], check=True)
    program = folder / "kernels"
    subprocess.run(["g++", "-fopenmp", *objects, "-o", program], check=True)
    return program


def main() -> None:
    """Builds, runs in turns, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", help="revision to compare with")
    parser.add_argument("--keep", type=Path, help="folder for the programs and scenes; default a temporary one")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        programs = {"now": build(ROOT / CSRC, folder / "now")}
        if args.against:
            old = folder / "source"
            old.mkdir(parents=True, exist_ok=True)
            archive = subprocess.run(["git", "-C", ROOT, "archive", args.against, CSRC], capture_output=True)
            if archive.returncode:
                sys.exit(f"expected a revision of this repository, got {args.against!r}: {archive.stderr.decode()}")
            subprocess.run(["tar", "x", "-C", old], input=archive.stdout, check=True)
            programs = {args.against: build(old / CSRC, folder / "then"), **programs}
        for name, scene in (("cube", cube_scene()), ("dense", dense_scene()), ("fit", fit_scene())):
            path = folder / f"{name}.scene"
            write_scene(path, scene)
            best: dict[str, dict[str, float]] = {}
            for _ in range(3):
                for version, program in programs.items():
                    run = subprocess.run([program, path, str(args.repeats)], capture_output=True, check=True, text=True)
                    result = json.loads(run.stdout)
                    kept = best.setdefault(version, result)
                    kept.update({k: min(kept[k], result[k]) for k in ("bin", "forward", "backward")})
            for version, r in best.items():
                rates = f"{r['pairs'] / r['forward'] / 1e6:5.0f} / {r['pairs'] / r['backward'] / 1e6:4.0f} M pairs/s"
                times = "  ".join(f"{k} {1e3 * r[k]:6.2f} ms" for k in ("bin", "forward", "backward"))
                print(f"{name:6} {version:10} {r['instruction_set']:8} {times}  {rates}")
            if len(best) == 2:
                then, now = best.values()
                ratios = "  ".join(f"{k} {then[k] / now[k]:.2f}" for k in ("bin", "forward", "backward"))
                print(f"{name:6} times as fast as {args.against}: {ratios}")


if __name__ == "__main__":
    main()
