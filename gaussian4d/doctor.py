"""What this machine offers gaussian4d: versions, backends, threads, codecs, and why something is missing."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

from .optional import OPTIONAL

_CORE = ("torch", "numpy", "scipy", "tyro", "trimesh", "embreex", "safetensors", "pillow", "rich", "av", "zstandard")
_CODECS = (
    ("H.264", "h264", "libx264"),
    ("HEVC", "hevc", "libx265"),
    ("VP9", "vp9", "libvpx-vp9"),
    ("AV1", "av1", "libsvtav1"),
    ("MPEG-4", "mpeg4", "mpeg4"),
)


@dataclasses.dataclass
class Section:
    """One part of the report: lines of (what, state, what to do about it)."""

    title: str
    rows: list[tuple[str, str, str]]


def report() -> list[Section]:
    """Returns the whole report. Nothing in it raises: what cannot be found out is said."""
    return [_versions(), _processor(), _backends(), _cuda(), _optional(), _files(), _codecs()]


def versions() -> list[tuple[str, str, str]]:
    """Returns what is installed here, as lines of (what, state, what to do about it)."""
    return _versions().rows


def machine() -> list[tuple[str, str, str]]:
    """Returns the processor and the threads, as lines of (what, state, what to do about it)."""
    return _processor().rows


def _versions() -> Section:
    from . import __version__

    rows = [("gaussian4d", __version__, ""), ("Python", platform.python_version(), "")]
    for name in _CORE:
        try:
            rows.append((name, metadata.version(name), ""))
        except metadata.PackageNotFoundError:
            rows.append((name, "missing", f"pip install {name}"))
    rows.append(("system", f"{platform.system()} {platform.release()} {platform.machine()}", ""))
    return Section("versions", rows)


def _processor() -> Section:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows = [("processor", processor_name(), ""), ("cores", f"{usable} usable", "")]
    asked = os.environ.get("OMP_NUM_THREADS")
    note = f"OMP_NUM_THREADS={asked} is set" if asked else ""
    rows.append(("threads", f"{torch.get_num_threads()} for torch and our loops", note))
    openmp = torch.backends.openmp.is_available()
    rows.append(("OpenMP in torch", "yes" if openmp else "no", "" if openmp else "operations use one thread"))
    rows.append(("instructions (torch)", torch.backends.cpu.get_cpu_capability(), ""))
    rows += _extension()
    if torch.cuda.is_available():
        rows += [("GPU", torch.cuda.get_device_name(i), "") for i in range(torch.cuda.device_count())]
    else:
        rows.append(("GPU", "none that torch can use", ""))
    return Section("machine", rows)


def processor_name() -> str:
    """Returns what the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _extension() -> list[tuple[str, str, str]]:
    """Returns what our C++ extension says about itself."""
    try:
        from diff_rasterizer import _cpu
    except (ImportError, OSError) as error:
        return [("C++ extension", f"missing ({error})", "pip install . in a clone builds it")]
    built = ", ".join(_cpu.instruction_sets())
    openmp = _cpu.has_openmp()
    return [
        ("instructions (ours)", f"{_cpu.instruction_set()}, chosen from {built}", ""),
        ("OpenMP in ours", "yes" if openmp else "no", "" if openmp else "the rasterizer uses one thread"),
    ]


def _backends() -> Section:
    from diff_rasterizer import available_backends
    from diff_rasterizer.backends import automatic_backend

    from .devices import choose_device, present

    used = {automatic_backend(device): device for device in present()}
    rows = [("--device auto", choose_device().reason, "")]
    for name, reason in available_backends().items():
        state = "not available" if reason else "available"
        if name in used:
            where = "the CPU" if used[name].type == "cpu" else used[name].type
            state += f", used by --backend auto on {where}"
        rows.append((name, state, reason))
    return Section("rasterizer backends", rows)


def _cuda() -> Section:
    from diff_rasterizer import cuda_runtime

    return Section("CUDA kernels", cuda_runtime.describe())


def _optional() -> Section:
    rows = []
    for package in OPTIONAL.values():
        version = package.version
        state = f"{version}, for {package.purpose}" if version else f"not installed, only for {package.purpose}"
        rows.append((package.module, state, "" if version else package.install))
    return Section("optional packages", rows)


def _files() -> Section:
    folder = Path(tempfile.gettempdir())
    rows = [_writable("scratch for decoded frames", folder, "set TMPDIR to a folder with room")]
    rows.append(_writable("this folder, for runs", Path.cwd(), "run from a folder you may write to"))
    return Section("files", rows)


def _writable(what: str, folder: Path, mend: str) -> tuple[str, str, str]:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free / 1e9
    except OSError as error:
        return what, f"{folder} is not writable ({error.strerror})", mend
    return what, f"{folder} is writable, {free:.0f} GB free", mend if free < 2 else ""


def _codecs() -> Section:
    try:
        import av
        from av.codec import codecs_available
    except (ImportError, OSError) as error:
        return Section("video", [("PyAV", f"does not import ({error})", "pip install av")])
    rows = [("PyAV", f"{av.__version__}, FFmpeg {av.ffmpeg_version_info}", "")]
    for name, decoder, encoder in _CODECS:
        can = [word for word, codec in (("reads", decoder), ("writes", encoder)) if codec in codecs_available]
        rows.append((name, " and ".join(can) or "not supported", ""))
    return Section("video", rows)
