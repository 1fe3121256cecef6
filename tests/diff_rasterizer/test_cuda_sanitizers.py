"""The kernels under ThreadSanitizer and AddressSanitizer, in programs of their own that replay recorded launches.

A barrier that is left out must be seen, or the silence of the sanitizer would prove nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import test_backends_agree as agree
import torch
from cuda_emulation.emulation import EmulationLauncher
from cuda_emulation.replay import Recorded, build_replay, replay
from rasterizer_scenes import PROJECT_SETTINGS, make_scene, weighted_sum
from test_losses import pictures
from torch import Tensor

from diff_rasterizer import cuda, cuda_blend
from diff_rasterizer.cuda_kernels import KERNEL_FILES
from diff_rasterizer.cuda_launch import Argument, Dim3
from diff_rasterizer.cuda_losses import ssim_and_l1
from diff_rasterizer.cuda_optim import adam


def blend_one_tile() -> None:
    """Two batches of Gaussians so faint that no pixel is finished before the second."""
    inputs, other = agree.blend_inputs(520, 1, 12, 16, 3, 3.0, seed=1)
    inputs["opacities"] = 0.02 + 0.0 * inputs["opacities"]  # type: ignore[operator]
    x = agree.leaves(inputs, torch.float32)
    renders, alphas = cuda.blend(**x, **other, absgrad=True)
    weighted_sum([renders, alphas]).backward()


def blend_many_tiles() -> None:
    inputs, other = agree.blend_inputs(40, 1, 70, 50, 3, 12.0, seed=2)
    cuda.blend(**agree.leaves(inputs, torch.float32), **other, absgrad=False)


def project() -> None:
    scene = make_scene(n=40, cameras=2, sh_degree=3, dtype=torch.float32).with_gradients()
    x = [t[None] for t in (scene.means, scene.quats, scene.scales)]
    cameras = (scene.viewmats[None], scene.Ks[None])
    campos = scene.viewmats[None, :, :3, 3]
    out = cuda.project_with_colors(
        *x, scene.opacities[None], *cameras, campos, scene.colors[None], 3, scene.width, scene.height,
        activations=True, **PROJECT_SETTINGS,
    )  # fmt: skip
    weighted_sum(list(out[1:])).backward()


def colors() -> None:
    scene = make_scene(n=40, cameras=2, sh_degree=3, dtype=torch.float32).with_gradients()
    campos = scene.viewmats[None, :, :3, 3]
    weighted_sum([cuda.view_colors(3, scene.means[None], campos, scene.colors[None], None)]).backward()


def losses() -> None:
    image, target = pictures((1, 18, 14, 2))
    sum(ssim_and_l1(image.requires_grad_(), target, True)).backward()  # type: ignore[union-attr]


def optimizer() -> None:
    arrays = [torch.ones(1027) for _ in range(4)]
    adam(*arrays, 0.9, 0.999, 0.1, 1.0, 1e-15)  # type: ignore[arg-type]


WORK: dict[str, Callable[[], None]] = {
    "project": project,
    "colors": colors,
    "instances": blend_many_tiles,
    "blend_forward": blend_one_tile,
    "blend_backward": blend_one_tile,
    "ssim": losses,
    "adam": optimizer,
}


def record(emulation: EmulationLauncher, file: str) -> list[Recorded]:
    """Returns the launches of one kernel file, with arguments as they were before."""
    launches: list[Recorded] = []

    def keep(
        file_: str, entry: str, grid: Dim3, block: Dim3, args: Sequence[Argument], macros: Mapping[str, int]
    ) -> None:
        if file_ == file:
            copies = [x.clone() if isinstance(x, Tensor) else x for x in args]
            launches.append(Recorded(file, entry, grid, block, copies, dict(macros)))

    emulation.before = keep
    WORK[file]()
    assert {r.entry for r in launches} == set(KERNEL_FILES[file].entries), "every kernel of the file should be launched"
    return launches


def barrier_lines(source: Path) -> list[int]:
    return [n for n, line in enumerate(source.read_text().splitlines(), 1) if re.search(r"__sync(threads|warp)", line)]


def check_clean(folder: Path, tmp_path: Path, launches: list[Recorded], sanitizer: str) -> None:
    for i, launch in enumerate(launches):
        program = build_replay(folder, launch.file, launch.macros, sanitizer, threads=True)
        done = replay(program, launch.write(tmp_path / f"{i}.launch"))
        assert done.returncode == 0, f"{launch.entry}: {done.stderr[:3000]}"


@pytest.mark.parametrize("file", ["blend_forward", "blend_backward"])
def test_no_race_but_without_any_one_barrier(
    emulation: EmulationLauncher, emulation_folder: Path, tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_blend, "LARGE_FROM", 0)
    launches = [r for r in record(emulation, file) if r.entry == file]
    check_clean(emulation_folder, tmp_path, launches, "thread")
    source = KERNEL_FILES[file].path
    lines = barrier_lines(source)
    assert len(lines) >= 2
    program = build_replay(emulation_folder, file, launches[0].macros, "thread", threads=True)
    planted = launches[0].write(tmp_path / "planted.launch")
    for line in lines:
        # A race shows only if the threads happen to meet: nearly always, but a busy machine may run them one by one.
        for _ in range(5):
            done = replay(program, planted, str(line), source.name)
            if done.returncode:
                break
        assert "ThreadSanitizer: data race" in done.stderr, f"{source.name}:{line} {done}"
        assert source.name in done.stderr


@pytest.mark.parametrize("file", ["instances", "blend_backward"])
def test_no_access_out_of_bounds(
    emulation: EmulationLauncher, emulation_folder: Path, tmp_path: Path, file: str
) -> None:
    check_clean(emulation_folder, tmp_path, record(emulation, file), "address,undefined")


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
@pytest.mark.parametrize("file", list(KERNEL_FILES))
def test_every_kernel_is_clean(
    emulation: EmulationLauncher, emulation_folder: Path, tmp_path: Path, file: str, sanitizer: str
) -> None:
    check_clean(emulation_folder, tmp_path, record(emulation, file), sanitizer)


def test_a_write_out_of_bounds_is_seen(emulation: EmulationLauncher, emulation_folder: Path, tmp_path: Path) -> None:
    (launch,) = [r for r in record(emulation, "instances") if r.entry == "tile_ranges"]
    instances = launch.args[4]
    assert isinstance(instances, Tensor)
    short = [*launch.args[:4], instances[:-1].clone(), *launch.args[5:]]
    program = build_replay(emulation_folder, "instances", launch.macros, "address,undefined", threads=True)
    done = replay(program, replace(launch, args=short).write(tmp_path / "short.launch"))
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr, done
