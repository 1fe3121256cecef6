"""Which device and backend are taken, what is said of it, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from diff_rasterizer import Backend, backends, reference
from gaussian4d import UserError
from gaussian4d.devices import Placement, accelerators, choose_device, compute_device, free_memory, present, uploaded

CPU = torch.device("cpu")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without one, and with nobody's backends but ours."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backends, "_registered", {})
    replaced(monkeypatch, "cuda", unavailable=lambda: "torch sees no CUDA GPU")
    replaced(monkeypatch, "gsplat", unavailable=lambda: "gsplat needs a GPU")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, no_gpu: None) -> None:
    """A machine with two GPUs, on which our kernels run and gsplat is not installed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA X")
    replaced(monkeypatch, "cuda", unavailable=lambda: "")
    replaced(monkeypatch, "gsplat", unavailable=lambda: "gsplat is not installed")


def replaced(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    import dataclasses

    monkeypatch.setitem(backends._BACKENDS, name, dataclasses.replace(backends._BACKENDS[name], **changes))


@pytest.mark.parametrize("device", [None, "auto"])
def test_auto_without_a_gpu_is_the_cpu_and_says_why(cpu_backend: Any, no_gpu: None, device: str | None) -> None:
    said: list[str] = []
    placement = choose_device(device, say=said.append)
    assert (placement.device, placement.backend) == (CPU, "cpu")
    assert said == [placement.reason]
    assert said[0].startswith("on the CPU, with the backend cpu; no GPU: torch ") and said[0].endswith("no cuda device")


@pytest.mark.parametrize("device", [None, "auto"])
def test_auto_takes_the_gpu_where_a_backend_works(two_gpus: None, device: str | None) -> None:
    said: list[str] = []
    placement = choose_device(device, say=said.append)
    assert placement == Placement(torch.device("cuda:1"), "cuda", "on cuda:1 (NVIDIA X), with the backend cuda")
    assert said == [placement.reason]


def test_auto_takes_gsplat_where_our_kernels_do_not_work(monkeypatch: pytest.MonkeyPatch, two_gpus: None) -> None:
    replaced(monkeypatch, "cuda", unavailable=lambda: "NVRTC is not installed")
    replaced(monkeypatch, "gsplat", unavailable=lambda: "")
    assert choose_device().backend == "gsplat" and choose_device("cuda:0").backend == "gsplat"


def test_auto_says_why_a_gpu_that_is_there_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, cpu_backend: Any, two_gpus: None
) -> None:
    replaced(monkeypatch, "cuda", unavailable=lambda: "NVRTC is not installed")
    placement = choose_device()
    assert (placement.device, placement.backend) == (CPU, "cpu")
    assert "no GPU: cuda: NVRTC is not installed; gsplat: gsplat is not installed" in placement.reason
    # Asked for by name it is refused, and the reference is offered.
    with pytest.raises(UserError, match=r"nothing draws fast on the device cuda: cuda: NVRTC.*the backend reference"):
        choose_device("cuda")
    assert choose_device("cuda", "reference").backend == "reference"


def test_a_backend_alone_chooses_the_device(two_gpus: None, cpu_backend: Any) -> None:
    assert choose_device(None, "cpu").device == CPU
    assert choose_device("auto", "cuda").device == torch.device("cuda:1")
    assert choose_device(None, "reference").device == CPU
    with pytest.raises(UserError, match="the backend gsplat cannot be used here: gsplat is not installed"):
        choose_device(None, "gsplat")


def test_a_device_alone_chooses_the_backend(two_gpus: None, cpu_backend: Any) -> None:
    assert choose_device("cpu").backend == "cpu"
    for device in ("cuda:0", torch.device("cuda:0"), torch.device("cuda", 0)):
        assert choose_device(device) == Placement(
            torch.device("cuda:0"), "cuda", "on cuda:0 (NVIDIA X), with the backend cuda"
        )
    assert choose_device("cuda").device == torch.device("cuda:1"), "the current one"


def test_what_was_asked_for_entirely_is_not_said(two_gpus: None, cpu_backend: Any) -> None:
    said: list[str] = []
    choose_device("cpu", "cpu", said.append)
    choose_device("cuda:0", "cuda", said.append)
    assert said == []
    choose_device("cpu", say=said.append)
    choose_device(None, "cpu", said.append)
    assert said == ["on the CPU, with the backend cpu"] * 2


@pytest.mark.parametrize(
    ("device", "backend", "message"),
    [
        ("cuda", "auto", "the device cuda is not there: torch .* sees no cuda device; use cpu"),
        ("cuda:1", "cuda", "the device cuda:1 is not there"),
        ("cpu", "cuda", "the backend cuda and the device cpu do not go together: torch sees no CUDA GPU"),
        ("cpu", "gsplat", "the backend gsplat and the device cpu do not go together"),
        (None, "cuda", "the backend cuda cannot be used here: torch sees no CUDA GPU$"),
        ("mps", "auto", "the device mps is not there"),
        ("meta", "auto", "the device meta is not there"),
        ("cpu:3", "auto", "the device cpu:3 is not there: there is only cpu:0"),
        ("gpu", "auto", "expected a device such as auto, cpu, cuda or cuda:1, got 'gpu'"),
        ("cuda:x", "auto", "expected a device such as"),
        ("", "auto", "expected a device such as"),
        (object(), "auto", "expected a device such as"),
        (None, "quick", "expected a backend out of auto, cpu, cuda, gsplat, reference, got 'quick'"),
    ],
)
def test_refused_without_a_gpu(no_gpu: None, device: Any, backend: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        choose_device(device, backend)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("device", "backend", "message"),
    [
        ("cuda:2", "auto", "the device cuda:2 is not there: the last one is cuda:1"),
        ("cuda:0", "cpu", "the backend cpu and the device cuda:0 do not go together: it needs tensors on the CPU"),
        ("cpu", "cuda", "the backend cuda and the device cpu do not go together: it needs tensors on a CUDA device"),
        ("cuda", "gsplat", "the backend gsplat and the device cuda do not go together: gsplat is not installed"),
    ],
)
def test_refused_with_gpus(two_gpus: None, device: str, backend: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_device(device, backend)


def test_a_cpu_without_our_extension_draws_slowly_and_says_so(monkeypatch: pytest.MonkeyPatch, no_gpu: None) -> None:
    replaced(monkeypatch, "cpu", unavailable=lambda: "it was not built")
    placement = choose_device()
    # `auto` stays, so that the rasterizer warns.
    assert (placement.device, placement.backend) == (CPU, "auto")
    assert "with the slow backend reference: cpu: it was not built" in placement.reason


def test_a_backend_from_outside_brings_its_devices(pretend: torch.device, no_gpu: None, monkeypatch: Any) -> None:
    from pretend_kernels import PRETEND

    assert accelerators() == ["cuda"] and present() == [CPU]
    with pytest.raises(UserError, match="nothing draws fast on the device pretend: no backend is for pretend devices"):
        choose_device("pretend")
    backends.register_backend(PRETEND)
    assert accelerators() == ["cuda", "pretend"] and present() == [CPU, pretend]
    placement = choose_device()
    assert (placement.device, placement.backend) == (pretend, "pretend")
    assert placement.reason == "on pretend:0 (a pretend accelerator), with the backend pretend"
    assert choose_device("pretend:1").device == torch.device("pretend:1")
    with pytest.raises(UserError, match="the last one is pretend:1"):
        choose_device("pretend:2")
    # One that breaks takes nothing down.
    monkeypatch.setattr(backends, "_registered", {})
    backends.register_backend(
        Backend("pretend", reference, False, lambda: "the chip is gone", lambda d, t: "", "pretend")
    )
    assert choose_device().device == CPU and "no GPU: pretend: the chip is gone" in choose_device().reason


def test_where_what_is_not_drawn_is_computed(pretend: torch.device, no_gpu: None) -> None:
    assert compute_device() == CPU and compute_device("cpu") == CPU
    with pytest.raises(UserError, match="the device cuda is not there"):
        compute_device("cuda")
    from pretend_kernels import PRETEND

    backends.register_backend(PRETEND)
    assert compute_device("auto") == pretend and compute_device("pretend:1") == torch.device("pretend:1")
    assert free_memory(pretend) == 1 << 30 and free_memory(CPU) is None


def test_uploads_do_not_wait(pretend: torch.device) -> None:
    from pretend_device import count_syncs

    with count_syncs() as syncs:
        made = uploaded([1.0, 2.0], pretend)
    assert made.device == pretend and made.dtype == torch.float32 and not syncs.names


def test_the_commands_do_not_load_torch_for_their_help() -> None:
    script = (
        "import sys, gaussian4d.devices, gaussian4d.cli.render, gaussian4d.cli.export; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
