"""What all tests share: hypothesis settings, run-time shape checks, the compiled backend or why it is missing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores; threads of their own would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook
from plugin_packages import write_package

from gaussian4d.plugins import forget_installed

if TYPE_CHECKING:
    import torch

# Examples are the same in every run: a failure seen once can be seen again.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")

# The jaxtyping annotations of the reference and of meta are checked at run time, in tests only. The public functions
# are left out: they answer wrong shapes with errors of their own.
if importlib.util.find_spec("beartype") is not None:
    install_import_hook(["diff_rasterizer.reference", "diff_rasterizer.meta"], "beartype.beartype")
elif os.environ.get("GAUSSIAN4D_REQUIRE_CPU") == "1":
    raise ImportError("GAUSSIAN4D_REQUIRE_CPU=1, but beartype is not installed: pip install 'gaussian4d[test]'")
else:
    # A GPU machine without a network tests what it can.
    warnings.warn("beartype is not installed: the shapes in the annotations are not checked", stacklevel=1)


PRETEND = "GAUSSIAN4D_PRETEND"
"""Set in the processes in which the pretend accelerator may be made: see `test_on_the_pretend_accelerator`."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps tests of the pretend accelerator out of the processes of all others, and all others out of theirs.

    torch learns of an accelerator for good: afterwards it asks it for things that only real ones have, and an
    autograd engine that has begun before has no thread for it.
    """
    wanted = os.environ.get(PRETEND) == "1"
    kept = [item for item in items if _on_pretend(item) == wanted]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if _on_pretend(item) != wanted])
        items[:] = kept


def _on_pretend(item: pytest.Item) -> bool:
    return bool({"pretend", "emulated"} & set(getattr(item, "fixturenames", ()))) or item.path.parent.name == "device"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Returns what installs a package for one test, here and in the programs it starts; see `write_package`."""
    site = tmp_path / "site"
    before = set(sys.modules)

    def install(source: str = "", **of_package: Any) -> Path:
        module = write_package(site, source, **of_package)
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(str(site))
            monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
        importlib.invalidate_caches()
        forget_installed()
        return module

    yield install
    forget_installed()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(site)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def cpu_backend():
    """The compiled backend's module. Without the extension the test is skipped, or fails where it must be there."""
    from diff_rasterizer import available_backends

    reason = available_backends()["cpu"]
    if reason:
        if os.environ.get("GAUSSIAN4D_REQUIRE_CPU") == "1":
            pytest.fail(f"GAUSSIAN4D_REQUIRE_CPU=1, but {reason}")
        pytest.skip(reason)
    from diff_rasterizer import cpu

    return cpu


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    """The name of each backend that can be compared on this machine."""
    if request.param == "cpu":
        request.getfixturevalue("cpu_backend")
    return request.param


@pytest.fixture
def pretend(cpu_backend: object, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device `pretend:0` (see `pretend_device`), on which the CPU backend's kernels run."""
    import pretend_device

    from diff_rasterizer import backends

    device = pretend_device.required()
    from pretend_kernels import PRETEND

    monkeypatch.setitem(backends._registered, PRETEND.name, PRETEND)
    return device


@pytest.fixture
def emulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The device `pretend:0`, on which the kernels of the `cuda` backend run, emulated: slow, for tiny cases."""
    import pretend_device

    from diff_rasterizer import backends

    device = pretend_device.required()
    from pretend_kernels import emulated_backend

    from diff_rasterizer.cuda_launch import set_launcher

    cache = request.config.cache
    assert cache is not None
    backend = emulated_backend(cache.mkdir("cuda_emulation"))
    from cuda_emulation.emulation import COMPILER, compiler_available

    if not compiler_available():
        reason = f"the emulation of the CUDA kernels needs the C++ compiler {COMPILER}"
        if os.environ.get("GAUSSIAN4D_REQUIRE_CPU") == "1":
            pytest.fail(f"GAUSSIAN4D_REQUIRE_CPU=1, but {reason}")
        pytest.skip(reason)
    monkeypatch.setitem(backends._registered, backend.name, backend)
    yield device
    set_launcher(pretend_device.NAME, None)
