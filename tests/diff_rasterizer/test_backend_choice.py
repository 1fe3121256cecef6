"""Which backend a call gets, and what it says when it does not get the one it wants."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from rasterizer_scenes import make_scene

from diff_rasterizer import available_backends, backends, rasterization, register_backend

CPU, F32, F64 = torch.device("cpu"), torch.float32, torch.float64


@pytest.fixture
def no_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretends that the extension was not built."""
    patched = backends.Backend("cpu", "cpu", False, lambda: "it was not built", backends._cpu_rejects)
    monkeypatch.setitem(backends._BACKENDS, "cpu", patched)
    monkeypatch.setattr(backends, "_warned", set())


def test_all_backends_are_listed_with_a_reason_or_none() -> None:
    listed = available_backends()
    assert list(listed) == ["cpu", "cuda", "gsplat", "reference"]
    assert listed["reference"] == ""
    if not torch.cuda.is_available():
        assert "no CUDA GPU" in listed["gsplat"] and "no CUDA GPU" in listed["cuda"]


def test_auto_takes_the_compiled_backend_for_float32(cpu_backend: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module, whole = backends.select_backend("auto", CPU, F32)
    assert module is cpu_backend and whole is False


def test_auto_falls_back_to_the_reference_and_says_so_once(no_cpu: None) -> None:
    scene = make_scene(n=3, dtype=F32)
    with pytest.warns(UserWarning, match="pure torch reference.*slower.*cpu: it was not built") as caught:
        rasterization(**scene.arguments())
    assert caught[0].filename == __file__, "the warning should point at the caller"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rasterization(**scene.arguments())
        rasterization(**scene.arguments(), backend="reference")


def test_auto_says_why_float64_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_warned", set())
    with pytest.warns(UserWarning, match="cpu: it needs float32 tensors, they are float64"):
        module, _ = backends.select_backend("auto", CPU, F64)
    assert module.__name__ == "diff_rasterizer.reference"


def test_a_named_backend_that_cannot_run_raises_its_reason(no_cpu: None) -> None:
    scene = make_scene(n=3, dtype=F32)
    with pytest.raises(ValueError, match="backend='cpu' cannot be used: it was not built"):
        rasterization(**scene.arguments(), backend="cpu")
    with pytest.raises(ValueError, match="backend='cuda' cannot be used"):
        rasterization(**scene.arguments(), backend="cuda")


def test_the_compiled_backend_refuses_float64(cpu_backend: Any) -> None:
    scene = make_scene(n=3, dtype=F64)
    with pytest.raises(ValueError, match="it needs float32 tensors, they are float64"):
        rasterization(**scene.arguments(), backend="cpu")


def test_the_gsplat_adapter_passes_the_call_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """gsplat itself needs a GPU; what it is handed does not."""
    import types

    from diff_rasterizer import gsplat_adapter

    seen: dict[str, Any] = {}

    def fake(*args: Any, **kwargs: Any) -> str:
        seen.update(kwargs, args=args)
        return "what gsplat returned"

    monkeypatch.setitem(sys.modules, "gsplat", types.SimpleNamespace(rasterization=fake))  # type: ignore[arg-type]
    usable = backends.Backend("gsplat", "gsplat_adapter", True, lambda: "", lambda device, dtype: "")
    monkeypatch.setitem(backends._BACKENDS, "gsplat", usable)
    scene = make_scene(n=3, dtype=F32)
    options: dict[str, Any] = {"packed": False, "absgrad": True, "rasterize_mode": "antialiased", "eps2d": 0.1}
    assert rasterization(**scene.arguments(), **options, backend="gsplat") == "what gsplat returned"
    assert [a is b for a, b in zip(seen["args"], scene.arguments().values(), strict=True)] == [True] * 9
    assert options.items() <= seen.items() and "backend" not in seen
    rasterization(**(scene.arguments() | {"colors": None}), render_mode="ED", sh_degree=2, backend="gsplat")
    assert seen["args"][4].shape == (3, 1) and seen["sh_degree"] is None
    assert gsplat_adapter.unavailable() != "" or torch.cuda.is_available()


def backend_from_outside(name: str, **changes: Any) -> backends.Backend:
    """A backend for float64 tensors on the CPU, which none of ours but the reference takes."""
    from diff_rasterizer import reference

    values = {
        "module": reference,
        "whole": False,
        "unavailable": lambda: "",
        "rejects": lambda device, dtype: "" if dtype == F64 else "it takes float64 only",
    }
    return backends.Backend(name, **(values | changes))


def test_a_registered_backend_is_known_by_its_name_and_to_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_registered", {})
    double = backend_from_outside("double")
    register_backend(double)
    assert list(available_backends()) == ["cpu", "cuda", "gsplat", "double", "reference"]
    assert backends.automatic_backend(CPU, F64) == "double" and backends.automatic_backend(CPU, F32) != "double"
    assert rasterization(**make_scene(n=3, dtype=F64).arguments(), backend="double")[0].dtype == F64
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rasterization(**make_scene(n=3, dtype=F64).arguments())
    with pytest.raises(ValueError, match="it takes float64 only"):
        rasterization(**make_scene(n=3, dtype=F32).arguments(), backend="double")
    register_backend(backend_from_outside("double", unavailable=lambda: "it is broken"))
    assert available_backends()["double"] == "it is broken" and backends.automatic_backend(CPU, F64) == "reference"


@pytest.mark.parametrize("name", ["cpu", "reference", "auto", ""])
def test_our_names_cannot_be_taken(name: str) -> None:
    with pytest.raises(ValueError, match="is taken"):
        register_backend(backend_from_outside(name))
    with pytest.raises(ValueError, match=r"expected a diff_rasterizer\.Backend"):
        register_backend("cpu")  # type: ignore[arg-type]


def test_training_kernels_go_by_the_type_of_the_device(monkeypatch: pytest.MonkeyPatch, cpu_backend: Any) -> None:
    kernels, other = object(), object()
    monkeypatch.setattr(backends, "_registered", {})
    register_backend(backend_from_outside("first", device_type="meta", training=other, unavailable=lambda: "no chip"))
    assert backends.training_kernels(torch.device("meta")) == (None, "no chip")
    register_backend(backend_from_outside("second", device_type="meta", training=kernels))
    assert backends.training_kernels(torch.device("meta"))[0] is kernels
    assert backends.training_kernels(CPU)[0].__name__ == "diff_rasterizer.cpu_training"  # type: ignore[union-attr]
    assert "no backend has kernels" in backends.training_kernels(torch.device("mps"))[1]


def test_backends_of_other_packages_load_when_asked_for_and_break_nothing(tmp_path: Path) -> None:
    """In a process of its own, in which a package is installed that brings a good, a broken and a false one."""
    (tmp_path / "chips.py").write_text(
        "from diff_rasterizer import Backend, reference\n"
        "print('imported')\n"
        "GOOD = Backend('good', reference, False, lambda: '', lambda device, dtype: '')\n"
        "FALSE = 3\n"
    )
    (tmp_path / "broken.py").write_text("raise OSError('libchip.so is missing')\n")
    (tmp_path / "chips-1.0.dist-info").mkdir()
    (tmp_path / "chips-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: chips\nVersion: 1.0\n")
    (tmp_path / "chips-1.0.dist-info" / "entry_points.txt").write_text(
        "[gaussian4d.backends]\ngood = chips:GOOD\nfalse = chips:FALSE\nbroken = broken:CHIP\ncpu = chips:GOOD\n"
    )
    script = """
import torch, warnings
warnings.simplefilter("ignore")
from diff_rasterizer import available_backends, backends, rasterization
x = torch.rand(5, 3)
args = x, torch.rand(5, 4), x, x[:, 0], x, torch.eye(4)[None], torch.eye(3)[None], 8, 8
rasterization(*args)
print("drawn")
rasterization(*args, backend="good")
print({name: reason for name, reason in available_backends().items() if name in ("good", "false", "broken")})
print(backends._backend("cpu").module)
try:
    rasterization(*args, backend="broken")
except ValueError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-5:-3] == ["drawn", "imported"] or os.environ.get("GAUSSIAN4D_REQUIRE_CPU") != "1", lines
    assert "'good': ''" in lines[-3]
    assert "chips does not load: expected a diff_rasterizer.Backend at chips:FALSE, got int" in lines[-3]
    assert "chips does not load: OSError: libchip.so is missing; mend or uninstall it" in lines[-3]
    assert lines[-2] == "cpu"
    assert "backend='broken' cannot be used" in lines[-1] and "libchip.so" in lines[-1]


def test_the_package_needs_torch_numpy_and_jaxtyping_only() -> None:
    """A GPU machine may have no more; nothing else is imported before it is used."""
    script = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Refuse())
import torch, diff_rasterizer
diff_rasterizer.available_backends()
x = torch.rand(5, 3)
args = x, torch.rand(5, 4), x, x[:, 0], x, torch.eye(4)[None], torch.eye(3)[None], 8, 8
assert diff_rasterizer.rasterization(*args, backend="reference")[0].shape == (1, 8, 8, 3)
"""
    refused = {"scipy", "tyro", "trimesh", "embreex", "safetensors", "PIL", "rich", "av", "zstandard", "beartype"}
    refused |= {"cuda", "nvidia", "gsplat", "viser", "gaussian4d"}
    done = subprocess.run(
        [sys.executable, "-c", script.replace("{refused}", repr(refused))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
