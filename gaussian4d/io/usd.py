"""OpenUSD's `ParticleField3DGaussianSplat` (USD 26.03 and later), as text: `.usda`, and `.usdz`, the same in a zip.

Attributes `positions`, `orientations` (w first), `scales` (linear), `opacities` (0..1) and, per Gaussian one after the
other, `radiance:sphericalHarmonicsCoefficients`. Each may have time samples, so this is the one standard that plays: a
frame of the clip is one time code.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..clip_length import clip_length
from ..errors import UserError
from ..files import atomic_write
from ..model import DynamicGaussians, splat_arrays
from ..motion import PerFrame, Static
from ..motion.per_frame import PerFrameConfig
from ..offsets import meta_of, offset_for, offset_of, rebased
from ..view_block import ViewBlock
from .cubic import instants_of
from .g4d import write_stored
from .orient import PLY_TO_RUB, half_turned, rotated, upright
from .packed import broken, read_whole
from .splats import REST_COUNTS, Splats, log_scales, logit, only_gaussians, said_once, sigmoid, unit
from .usd_text import Prim, Reader, array_text, numbers, time_samples

PRIM_TYPE = "ParticleField3DGaussianSplat"
_COEFFICIENTS = "radiance:sphericalHarmonicsCoefficients"
_DEGREE = "radiance:sphericalHarmonicsDegree"
_WORLD = "gaussian4d:world"
_TRANSLATE = "xformOp:translate"
_ATTRIBUTES = {
    "positions": ("point3f[]", 3),
    "orientations": ("quatf[]", 4),
    "scales": ("float3[]", 3),
    "opacities": ("float[]", 1),
    _COEFFICIENTS: ("float3[]", 3),
}
_MOST_BYTES = 1 << 33
_LARGEST_RATIO = 1100


@torch.no_grad()
def write_usd(
    path: str | os.PathLike[str],
    model: DynamicGaussians,
    *,
    times: Sequence[float] | None = None,
    vertical_axis: str | None = None,
) -> None:
    """Writes the model as `.usda` or `.usdz`, atomically: one state for still Gaussians, else one per instant.

    Args:
        path: the file.
        model: The model. What does not change over time is written once.
        times: Clip times of the frames; None takes those it was fitted to.
        vertical_axis: `x`, `y` or `z` when that axis points up; None takes the axes of a 3DGS `.ply`, y down.
    """
    target = Path(path)
    still = model.motion.still
    frames = np.array([0.0]) if still else np.asarray(instants_of(model) if times is None else times, np.float64)
    turn = np.eye(3) if vertical_axis == "z" else upright(vertical_axis)
    states = []
    offset = offset_of(model)
    for time in frames:
        splats = splat_arrays(model.at(float(time)))
        states.append(half_turned(splats, PLY_TO_RUB) if turn is None else rotated(splats, turn))
    length = clip_length(model)
    shown = length.seconds * float(frames[-1] - frames[0])
    # As many time codes as frames, and the clip as long as it is, whatever the frames are.
    fps = (len(frames) - 1) / shown if shown > 0.0 else length.fps
    head = [
        "#usda 1.0",
        "(",
        '    defaultPrim = "Gaussians"',
        "    endTimeCode = %g" % (len(frames) - 1),
        "    metersPerUnit = 1",
        "    startTimeCode = 0",
        f"    timeCodesPerSecond = {fps:.12g}",
        f'    upAxis = "{"Z" if vertical_axis == "z" else "Y"}"',
        ")",
        "",
        f'def {PRIM_TYPE} "Gaussians"',
        "{",
    ]
    body = _body(states, turn)
    if np.any(offset):
        # Positions are 32-bit floats; a transform has doubles.
        x, y, z = (np.diag(PLY_TO_RUB) if turn is None else turn) @ offset
        body.append(f"    double3 {_TRANSLATE} = ({float(x)!r}, {float(y)!r}, {float(z)!r})")
        body.append(f'    uniform token[] xformOpOrder = ["{_TRANSLATE}"]')
    with atomic_write(target) as temporary:
        if target.suffix.lower() == ".usdz":
            data = "\n".join([*head, *body, "}", ""]).encode("ascii")
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
                # A .usdz is a zip whose files lie as they are at multiples of 64 bytes, as in our own format.
                write_stored(archive, "scene.usda", data)
        else:
            with temporary.open("w", encoding="ascii", newline="\n") as file:
                for line in [*head, *body, "}"]:
                    file.write(line + "\n")


def read_usd(path: str | os.PathLike[str]) -> DynamicGaussians:
    """Returns the Gaussians of a `.usda` or `.usdz`: still ones, or with time samples one separate state per sample.

    Raises `UserError` when the file is missing, damaged, binary, holds none or more than one set of Gaussians, or
    turns or scales them with a transform.
    """
    source = Path(path)
    data = _unzipped(source) if source.suffix.lower() == ".usdz" else read_whole(source, ".usda")
    if data[:8] == b"PXR-USDC":
        raise UserError(f"{source} is binary; turn it into text with `usdcat FILE -o FILE.usda`")
    reader = Reader(source, data.decode("utf-8", "replace"))
    prims = [prim for prim in reader.prims if prim.type == PRIM_TYPE]
    if not prims and source.suffix.lower() == ".usdz" and _holds_nurec(source):
        raise UserError(f"{source} holds a NuRec volume of NVIDIA, which is not read; export a .ply from the program")
    if len(prims) != 1:
        raise UserError(f"{source} has {len(prims)} prims of type {PRIM_TYPE}; expected one; merge or split it")
    prim = prims[0]
    if prim.turned or (prim.moved and _TRANSLATE not in prim.values):
        raise UserError(f"{source}: {prim.path} is placed by a transform; apply it to the Gaussians first")
    undo, back = _undo(source, prim, reader.metadata_value("upAxis"))
    offset = back @ _translation(source, prim)
    codes = sorted({code for text in prim.samples.values() for code in time_samples(source, text)})
    columns = {name: _column(source, prim, name, width) for name, (_, width) in _ATTRIBUTES.items()}
    degree = _degree(source, prim)
    states = [undo(_splats(source, columns, code, degree)) for code in codes or [0.0]]
    with said_once():
        states = [only_gaussians(source, state) for state in states]
    near = not np.any(offset_for(offset[None]))
    if near and np.any(offset):
        states = [rebased(state, offset) for state in states]
    meta = {} if near else meta_of(offset)
    up = _up(source, prim, reader.metadata_value("upAxis"))
    if len(states) == 1:
        params = {name: torch.from_numpy(value) for name, value in states[0].items()}
        return ViewBlock(up=up).written_to(DynamicGaussians(params, Static(), meta=meta))
    first, last = codes[0], codes[-1]
    times = [(code - first) / (last - first) for code in codes]
    params = {name: torch.from_numpy(np.concatenate([state[name] for state in states])) for name in states[0]}
    counts = torch.tensor([len(state["means"]) for state in states])
    params["instants"] = torch.repeat_interleave(torch.arange(len(states), dtype=torch.float32), counts)
    fps = _per_second(source, reader) * (len(codes) - 1) / (last - first)
    motion = PerFrame(PerFrameConfig(times=tuple(times)))
    model = DynamicGaussians(params, motion, fps=fps, times=np.array(times), meta=meta)
    return ViewBlock(up=up, seconds=(len(codes) - 1) / fps).written_to(model)


def _translation(source: Path, prim: Prim) -> np.ndarray:
    """Returns where the prim is moved to [3], in the file's axes."""
    if not prim.moved:
        return np.zeros(3)
    words = prim.values[_TRANSLATE].strip("() \n").split(",")
    try:
        place = np.array([float(word) for word in words])
    except ValueError:
        place = np.zeros(0)
    if place.shape != (3,) or not np.isfinite(place).all():
        raise broken(source, ".usda", f"its {_TRANSLATE} is not three finite numbers")
    return place


def _body(states: list[Splats], turn: np.ndarray | None) -> list[str]:
    """Returns the lines of the prim's attributes; only those that change have time samples."""
    rows = []
    for splats in states:
        count = len(splats["means"])
        rows.append(
            {
                "positions": splats["means"],
                "orientations": unit(splats["quats"]),
                "scales": np.exp(splats["scales"]),
                "opacities": sigmoid(splats["opacities"]),
                _COEFFICIENTS: np.concatenate([splats["sh0"], splats["shN"]], axis=1).reshape(-1, 3)[
                    : count * (1 + splats["shN"].shape[1])
                ],
            }
        )
    degree = REST_COUNTS.index(states[0]["shN"].shape[1])
    everything = np.concatenate([row["positions"] for row in rows])
    reach = 3.0 * max((float(row["scales"].max()) for row in rows if len(row["scales"])), default=0.0)
    low = everything.min(axis=0) - reach if len(everything) else np.zeros(3)
    high = everything.max(axis=0) + reach if len(everything) else np.zeros(3)
    lines = [f"    float3[] extent = {array_text(np.stack([low, high]))}"]
    for name, (kind, _) in _ATTRIBUTES.items():
        first = rows[0][name]
        if all(np.array_equal(row[name], first) for row in rows[1:]):
            lines.append(f"    {kind} {name} = {array_text(first)}")
        else:
            lines.append(f"    {kind} {name}.timeSamples = {{")
            lines += [f"        {code}: {array_text(row[name])}," for code, row in enumerate(rows)]
            lines.append("    }")
    lines.append(f"    uniform int {_DEGREE} = {degree}")
    if turn is not None:
        # With this our reader gives back the world of the recorded cameras.
        lines.append(f"    custom float[] {_WORLD} = {array_text(turn.T.reshape(-1))}")
    return lines


def _undo(source: Path, prim: Prim, up_axis: str | None) -> tuple[Callable[[Splats], Splats], np.ndarray]:
    """Returns what turns the file's axes into those we keep, for Gaussians, and as a rotation [3, 3]."""
    if _WORLD in prim.values:
        back = numbers(source, prim.values[_WORLD], 9)
        if back.shape != (1, 9) or not np.allclose(back.reshape(3, 3) @ back.reshape(3, 3).T, np.eye(3), atol=1e-5):
            raise broken(source, ".usda", f"its {_WORLD} is no rotation")
        matrix = back.reshape(3, 3).astype(np.float64)
        if np.array_equal(matrix, np.eye(3)):
            return lambda splats: splats, matrix
        return lambda splats: rotated(splats, matrix), matrix
    if (up_axis or "Y").upper() == "Z":
        return lambda splats: splats, np.eye(3)
    return lambda splats: half_turned(splats, PLY_TO_RUB), np.diag(PLY_TO_RUB)


def _up(source: Path, prim: Prim, up_axis: str | None) -> np.ndarray:
    """Returns the direction [3] that is up in the axes we keep."""
    above = np.array([0.0, 0.0, 1.0] if (up_axis or "Y").upper() == "Z" else [0.0, 1.0, 0.0])
    if _WORLD in prim.values:
        return numbers(source, prim.values[_WORLD], 9).reshape(3, 3).astype(np.float64) @ above
    return above if above[2] else above * np.array(PLY_TO_RUB)


def _column(source: Path, prim: Prim, name: str, width: int) -> Callable[[float], np.ndarray]:
    """Returns what gives the attribute at a time code: the sample there or the last one before."""
    spelling = next((key for key in (name, name + "h") if key in prim.samples or key in prim.values), None)
    if spelling is None:
        raise broken(source, ".usda", f"{prim.path} lacks the attribute {name}")
    if spelling not in prim.samples:
        constant = numbers(source, prim.values[spelling], width)
        return lambda code: constant
    samples = {
        code: numbers(source, text, width) for code, text in time_samples(source, prim.samples[spelling]).items()
    }
    if not samples:
        raise broken(source, ".usda", f"{prim.path} has no time sample of {name}")
    codes = np.array(sorted(samples))

    def at(code: float) -> np.ndarray:
        return samples[float(codes[max(0, int(np.searchsorted(codes, code, side="right")) - 1)])]

    return at


def _per_second(source: Path, reader: Reader) -> float:
    """Returns the time codes per second, USD's own 24 where none are named."""
    text = reader.metadata_value("timeCodesPerSecond") or "24"
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1e6:
        raise broken(source, ".usda", f"timeCodesPerSecond is {text[:40]!r}")
    return value


def _degree(source: Path, prim: Prim) -> int:
    """Returns the degree of the harmonics, the schema's own 3 where none is named."""
    text = prim.values.get(_DEGREE, "3")
    if text not in ("0", "1", "2", "3", "4"):
        raise broken(source, ".usda", f"{_DEGREE} is {text[:40]!r}, expected 0 to 4")
    return int(text)


def _splats(source: Path, columns: dict[str, Callable[[float], np.ndarray]], code: float, degree: int) -> Splats:
    means, quats = columns["positions"](code), columns["orientations"](code)
    scales, opacities = columns["scales"](code), columns["opacities"](code)
    coefficients = columns[_COEFFICIENTS](code)
    count = len(means)
    if len(coefficients) != count * (1 + REST_COUNTS[degree]):
        raise broken(source, ".usda", f"{len(coefficients)} coefficients are not those of {count} Gaussians")
    if {len(quats), len(scales), len(opacities)} != {count}:
        raise broken(source, ".usda", "its attributes have different numbers of elements")
    sh = coefficients.reshape(count, 1 + REST_COUNTS[degree], 3)
    return {
        "means": means,
        "quats": unit(quats),
        "scales": log_scales(scales),
        "opacities": logit(opacities[:, 0]),
        "sh0": np.ascontiguousarray(sh[:, :1]),
        "shN": np.ascontiguousarray(sh[:, 1:]),
    }


def _holds_nurec(source: Path) -> bool:
    with zipfile.ZipFile(source) as archive:
        return any(name.lower().endswith(".nurec") for name in archive.namelist())


def _unzipped(source: Path) -> bytes:
    """Returns the first layer of a `.usdz`."""
    try:
        with zipfile.ZipFile(source) as archive:
            for info in archive.infolist():
                if info.filename.lower().endswith((".usda", ".usd", ".usdc")):
                    if info.file_size > min(_MOST_BYTES, _LARGEST_RATIO * max(info.compress_size, 1)):
                        raise broken(source, ".usdz", f"its layer claims {info.file_size} bytes")
                    return archive.read(info)
    except FileNotFoundError:
        raise UserError(f"expected the file {source}, found none; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{source} is a folder; expected a .usdz file") from None
    except (zipfile.BadZipFile, NotImplementedError, zlib.error, EOFError, RuntimeError, UnicodeDecodeError) as error:
        raise broken(source, ".usdz", f"not a readable zip file ({error})") from None
    raise broken(source, ".usdz", "it holds no USD layer")
