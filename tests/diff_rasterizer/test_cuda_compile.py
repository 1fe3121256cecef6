"""Every CUDA kernel compiles for every architecture we name, without a GPU, as it is compiled on one."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from diff_rasterizer.cuda_compile import CSRC, Compiled, Toolchain, compile_kernel
from diff_rasterizer.cuda_kernels import KERNEL_FILES, KernelFile

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
# All values of all macros are compiled for one architecture; the others get what differs most.
WHOLE_GRID = 90
# The oldest one has the least shared memory and no newer instructions to hide behind.
LARGEST_TOO = 75
# Bytes a thread may keep in memory for want of registers: a value or two, used outside the loops.
TOLERATED_SPILL = 16

# ptxas, for each entry: "Compiling entry function 'adam' for 'sm_90' ... 0 bytes spill stores, 0 bytes spill loads".
_REPORT = re.compile(
    r"entry function '(?P<entry>\w+)' for '(?P<architecture>\w+)'.*?(?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def macro_values(kernels: KernelFile, architecture: int) -> list[dict[str, int]]:
    """Returns the macro settings to compile; no macros at all is what the source's own defaults say."""
    if architecture == WHOLE_GRID:
        grid = itertools.product(*kernels.macros.values())
        return [{}, *(dict(zip(kernels.macros, values, strict=True)) for values in grid)]
    if architecture == LARGEST_TOO:
        return [{}, {name: max(values) for name, values in kernels.macros.items()}]
    return [{}]


def check(compiled: Compiled, kernels: KernelFile, architecture: int, macros: dict[str, int]) -> None:
    """Asserts that the machine code holds the entries, and that none of them spills many registers to memory."""
    where = f"{kernels.source} {macros} sm_{architecture}"
    reports = {match["entry"]: match for match in _REPORT.finditer(compiled.log)}
    assert set(reports) == set(kernels.entries), where
    for entry, report in reports.items():
        assert f"\0.text.{entry}\0".encode() in compiled.cubin, f"{entry} is not in the code of {where}"
        assert report["architecture"] == f"sm_{architecture}", where
        spilled = max(int(report["stores"]), int(report["loads"]))
        assert spilled <= TOLERATED_SPILL, f"{entry} spills registers: {where}\n{compiled.log}"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNEL_FILES)
def test_kernels_compile(nvrtc: Toolchain, name: str, architecture: int) -> None:
    kernels = KERNEL_FILES[name]
    for macros in macro_values(kernels, architecture):
        check(compile_kernel(kernels.source, macros, f"sm_{architecture}"), kernels, architecture, macros)


def test_the_table_names_every_source_and_macro() -> None:
    folder = CSRC / "cuda"
    assert {kernels.source for kernels in KERNEL_FILES.values()} == {path.name for path in folder.glob("*.cu")}
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.iterdir()))
    with_default = set(re.findall(r"#ifndef (GD_\w+)\n#define \1 ", text))
    assert with_default == {macro for kernels in KERNEL_FILES.values() for macro in kernels.macros}


def test_sources_include_only_what_is_installed_with_them() -> None:
    sources = [path for folder in ("cuda", "maths") for path in (CSRC / folder).iterdir()]
    assert len(sources) > 10
    for path in sources:
        for line in path.read_text(encoding="utf-8").splitlines():
            include = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if include:
                assert (path.parent / include[1]).resolve() in {p.resolve() for p in sources}, f"{path.name}: {line}"


def test_spills_are_noticed(nvrtc: Toolchain, tmp_path: Path) -> None:
    """The report is read right: a kernel that must keep more values than there are registers fails the check."""
    (tmp_path / "cuda").mkdir()
    values = "".join(f"float v{i} = in[{i} * n];\n" for i in range(300))
    uses = "".join(f"out[{i} * n] = v{i} * v{299 - i};\n" for i in range(300))
    head = 'extern "C" __global__ void __launch_bounds__(1024) wide(float* out, const float* in, int n)'
    source = f"{head} {{\n{values}__syncthreads();\n{uses}}}\n"
    (tmp_path / "cuda" / "wide.cu").write_text(source, encoding="utf-8")
    compiled = compile_kernel("wide.cu", {}, "sm_90", tmp_path)
    with pytest.raises(AssertionError, match="wide spills registers"):
        check(compiled, KernelFile("wide.cu", ("wide",)), 90, {})
    with pytest.raises(AssertionError):
        check(compiled, KernelFile("wide.cu", ("wide", "missing")), 90, {})
