"""Which backend a call gets, and what it says when it does not get the one it wants."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from rasterizer_scenes import make_scene

from diff_rasterizer import available_backends, backends, rasterization

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
    import sys
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


def test_the_package_needs_torch_numpy_and_jaxtyping_only() -> None:
    """A GPU machine may have no more; nothing else is imported before it is used."""
    import subprocess
    import sys

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
