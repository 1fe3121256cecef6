"""The open `.4dgs` container through its reference package `fourdgs`: straight motion under temporal windows.

Its model is that of our `free-time`: centre + velocity (t - mu), opacity exp(-1/2 ((t - mu) / sigma)^2), besides hard
windows [from, to) outside which a Gaussian is not there. Curved motion is cut into straight pieces with such windows.
Attributes are quantised to errors that the file declares; the finest profile is used.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..clip_length import recorded_span
from ..errors import UserError
from ..files import atomic_write
from ..framing import framing_of
from ..model import DynamicGaussians
from ..motion import FreeTime, Params, PerFrame, RigidParts, Static, Windows, is_shared
from ..motion.per_frame import PerFrameConfig
from ..motion.rigid_parts import COLUMN
from ..optional import require
from ..view_block import ViewBlock
from .bake import Shape, approximated
from .bells import pieces
from .cubic import as_cubic, duration_of, fitted, instants_of, stays_cubic
from .near_plane import Emptied
from .segments import part_of
from .splats import REST_COUNTS, color_from_sh0, log_scales, logit, only_gaussians, sh0_from_color, sigmoid, unit
from .view_files import as_text, flight, fov_y, looking, of_text

PIECES = 8
"""Straight pieces that a path in a window of a long clip, or of a rigid part, is cut into."""

_LOW, _HIGH = -4.0, 4.0
"""Range that the bytes of coefficients span: the format's specification, section 6.5."""

_VIEW = "gaussian4d_view"
_CUTOFF = 1.0 / 255.0
_MOST_INSTANTS = 300
_FPS = 30.0


@torch.no_grad()
def write_4dgs(path: str | os.PathLike[str], model: DynamicGaussians) -> None:
    """Writes the model, atomically; needs `fourdgs`.

    `free-time` and `static` keep their motion, others are cut into pieces that look like them (`bake.approximated`):
    pieces of rigid parts go from one instant to the next. Spherical harmonics beyond degree 3 are left out. Times are
    in seconds where the model knows its frame rate.
    """
    fourdgs = require("fourdgs")
    seconds = duration_of(model)
    tables, parts, start = [], [], 0
    for table, pieces_of_table in _tables(model):
        tables.append(table)
        parts += [{**piece, "row": piece["row"] + start} for piece in pieces_of_table]
        start += len(table["means"])
    names = ("scales", "opacities", "sh0", "shN", "times", "durations")
    table = {name: np.concatenate([each[name] for each in tables]) for name in names}
    rest = min(table["shN"].shape[1], REST_COUNTS[3])
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    # The file begins with the first recorded instant and ends with the last.
    first, last = recorded_span(model)
    kept = (columns["to"] > first) & (columns["from"] < last)
    columns = {name: value[kept] for name, value in columns.items()}
    order = columns["row"]
    color = np.clip(color_from_sh0(table["sh0"][:, 0].astype(np.float32)), 0.0, 1.0)
    rgba = np.column_stack([color, sigmoid(table["opacities"].astype(np.float32))])
    sh = (table["shN"][:, :rest].transpose(0, 2, 1).reshape(len(rgba), 3 * rest) - _LOW) / (_HIGH - _LOW) * 255.0
    sigma = np.exp(table["durations"]) / math.sqrt(2.0)
    gaussians = fourdgs.GaussianSet(
        positions=columns["means"].astype(np.float32),
        scales=np.exp(table["scales"])[order].astype(np.float32),
        rotations=unit(columns["quats"].astype(np.float32))[:, [1, 2, 3, 0]],
        colors=rgba[order].astype(np.float32),
        motions=(columns["velocities"] / seconds).astype(np.float32),
        mu_t=((table["times"] - first) * seconds)[order].astype(np.float32),
        sigma_t=(sigma * seconds)[order].astype(np.float32),
        win_lo=np.maximum(columns["from"] - first, 0.0) * seconds,
        win_hi=np.where(columns["to"] >= last, np.inf, columns["to"] - first) * seconds,
        sh=np.clip(np.rint(sh), 0, 255).astype(np.uint8)[order] if rest else None,
        sh_degree=REST_COUNTS.index(rest),
    )
    framing, view = framing_of(model), as_text(model)
    places, targets = flight(framing)
    camera = fourdgs.CameraTrajectory(
        fov_y_deg=fov_y(framing.first),
        position=tuple(framing.first.position.tolist()),
        target=tuple(framing.center.tolist()),
        times=np.linspace(0.0, seconds * (last - first), len(places)).tolist(),
        positions=[tuple(place.tolist()) for place in places],
        targets=[tuple(target.tolist()) for target in targets],
    )
    metadata = None if view is None else {_VIEW: view}
    options = fourdgs.WriteOptions(profile="fine", cutoff=_CUTOFF, metadata=metadata)
    with atomic_write(path) as temporary:
        try:
            # Its writer casts what it cannot hold before it refuses that.
            with np.errstate(all="ignore"):
                fourdgs.write(str(temporary), gaussians, seconds * (last - first), options=options, camera=camera)
        except (fourdgs.FourdgsError, ValueError, ArithmeticError) as error:
            farthest = _farthest(model, (first, last))
            raise UserError(
                f"{path}: the .4dgs writer refuses these Gaussians: {error}; {farthest}: leave it out if it is a stray,"
                " or use another format"
            ) from None


def _farthest(model: DynamicGaussians, times: tuple[float, ...]) -> str:
    """Returns which Gaussian of a model is farthest from the origin at one of `times`, and where, as words."""
    found = []
    for time in times:
        means = model.at(time).means
        row = int(means.abs().amax(dim=1).argmax())
        found.append((float(means[row].abs().max()), row, " ".join(f"{x:.6g}" for x in means[row].tolist())))
    _, row, place = max(found)
    return f"the farthest, row {row}, stands at {place}"


def read_4dgs(path: str | os.PathLike[str]) -> DynamicGaussians:
    """Returns the model of a `.4dgs`; needs `fourdgs`.

    The motion is `free-time`; where the file has hard windows that end within the clip, which no motion model of ours
    has, it is `per-frame`: the exact states at instants 1/30 s apart.
    """
    fourdgs = require("fourdgs")
    source = Path(path)
    if not source.is_file():
        raise UserError(f"expected the file {source}, found none; check the path")
    try:
        scene = fourdgs.read(str(source), recover_truncated=False)
        model = _model(source, scene)
        return dataclasses.replace(model, meta={**model.meta, "view": _view(source, scene)})
    except UserError:
        raise
    except Exception as error:
        # Another program's reader: whatever a damaged file does to it is a problem with the file.
        raise UserError(f"{source} is not a readable .4dgs file: {error}; copy it again from its source") from None


def _view(source: Path, scene: Any) -> dict[str, Any]:
    """Returns the view block of a file, as JSON values: what we wrote, else its own camera and length."""
    stated = of_text(source, scene.header.attributes.get(_VIEW))
    if stated is not None:
        return stated
    camera = scene.camera
    # The format says y is down like its forebears, and so does the camera that was meant.
    first = None
    if camera is not None:
        first = looking(camera.position, camera.target, float(camera.fov_y_deg), np.array([0.0, -1.0, 0.0]))
    seconds = float(scene.duration_sec)
    return ViewBlock(first=first, seconds=seconds if 0.0 < seconds <= 1e7 else None).to_dict()


def _model(source: Path, scene: Any) -> DynamicGaussians:
    found = scene.gaussians
    seconds = float(scene.duration_sec) if scene.duration_sec > 0 else 1.0
    count, rest = found.count, REST_COUNTS[found.sh_degree] if found.sh is not None else 0
    sh = np.zeros((count, 0, 3), np.float32)
    if rest and found.sh is not None:
        values = found.sh.reshape(count, 3, rest).astype(np.float32) / 255.0 * (_HIGH - _LOW) + _LOW
        sh = np.ascontiguousarray(values.transpose(0, 2, 1))
    sigma = np.asarray(found.sigma_t, np.float64) / seconds
    columns = {
        "means": np.asarray(found.positions, np.float32),
        "quats": unit(np.asarray(found.rotations, np.float32)[:, [3, 0, 1, 2]]),
        "scales": log_scales(np.asarray(found.scales, np.float32)),
        "opacities": logit(np.asarray(found.colors, np.float32)[:, 3]),
        "sh0": sh0_from_color(np.asarray(found.colors, np.float32)[:, None, :3]),
        "shN": sh,
        "velocities": (np.asarray(found.motions, np.float64) * seconds).astype(np.float32),
        "times": (np.asarray(found.mu_t, np.float64) / seconds).astype(np.float32),
    }
    start, end = np.asarray(found.win_lo) / seconds, np.asarray(found.win_hi) / seconds
    with np.errstate(invalid="ignore"):
        columns |= {"durations": np.where(sigma < 0, np.nan, sigma), "extra.start": start, "extra.end": end}
    columns = only_gaussians(source, columns)
    sigma, start, end = (columns.pop(name) for name in ("durations", "extra.start", "extra.end"))
    endless = np.isinf(sigma)
    # A motion model of ours stops what lasts forever, this format does not: a window far longer than the clip moves on.
    moving = endless & (np.abs(columns["velocities"]).max(axis=1, initial=0.0) > 0)
    columns["durations"] = np.log(np.where(moving, 1e4, np.maximum(sigma, 1e-9))).astype(np.float32)
    params = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in columns.items()}
    model = DynamicGaussians(params, FreeTime())
    if (start > 0).any() or (end < 1.0).any():
        return _instants(model, start, end, seconds)
    return model


@torch.no_grad()
def _instants(model: DynamicGaussians, start: np.ndarray, end: np.ndarray, seconds: float) -> DynamicGaussians:
    """Returns separate states of `model` with the hard windows applied."""
    number = int(np.clip(round(seconds * _FPS), 1, _MOST_INSTANTS)) + 1
    times = np.linspace(0.0, 1.0, number)
    rows: list[dict[str, torch.Tensor]] = []
    for index, time in enumerate(times):
        # The last instant is the end of the last window, which is open.
        at = time if index < number - 1 else np.nextafter(1.0, 0.0)
        state = model.at(float(time))
        keep = torch.from_numpy((start <= at) & (at < end)) & (state.opacities >= _CUTOFF)
        chosen = state.select(keep)
        opacities = torch.logit(chosen.opacities.double().clamp(1e-7, 1 - 1e-7)).float()
        rows.append(
            {
                "means": chosen.means,
                "quats": chosen.quats,
                "scales": chosen.scales.log(),
                "opacities": opacities,
                "sh0": chosen.colors[:, :1],
                "shN": chosen.colors[:, 1:],
                "instants": torch.full((len(chosen),), float(index)),
            }
        )
    params = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    motion = PerFrame(PerFrameConfig(times=tuple(times.tolist())))
    return DynamicGaussians(params, motion, fps=(number - 1) / seconds, times=times)


Table = dict[str, np.ndarray]


def _tables(model: DynamicGaussians) -> Iterator[tuple[Table, list[Table]]]:
    """Yields (columns of `spacetime`, straight pieces of their rows) that together are the model."""
    if isinstance(model.motion, Emptied):
        whole, faded = model.motion.apart(model)
        yield from _tables(whole)
        yield _straight(faded)
    elif isinstance(model.motion, Windows) and len(model.motion) > 1:
        for first, last, params in pieces(model):
            table = _numpy(params)
            yield table, _pieces(table, first, last)
    elif isinstance(model.motion, RigidParts):
        for first, last, params in _part_spans(model, np.linspace(0.0, 1.0, PIECES + 1)):
            table = _numpy(params)
            yield table, _pieces(table, first, last)
    elif stays_cubic(model):
        table = _numpy(as_cubic(model).params)
        bent = _curved(table)
        if bent.any():
            yield _straight(part_of(model, np.flatnonzero(bent)))
        straight = {name: value[~bent] for name, value in table.items()}
        yield straight, _pieces(straight, 0.0, 1.0)
    else:
        yield _straight(model)


def _numpy(params: Params) -> Table:
    return {name: value.detach().cpu().numpy().astype(np.float64) for name, value in params.items()}


def _straight(model: DynamicGaussians) -> tuple[Table, list[Table]]:
    """Returns a table and its pieces for motion of any kind, cut until straight pieces without turns look like it."""
    segments = approximated(model, Shape(degree=1, turns=False))
    with np.errstate(divide="ignore"):
        durations = -np.log(segments.sharpness)
        opacities = np.log(segments.opacities) - np.log1p(-segments.opacities)
    rest = model.params["shN"].detach().cpu().numpy()[segments.sources]
    # Harmonics of degree 1 as the motion changes them, those above as they are.
    rest = np.concatenate([segments.sh1[:, : rest.shape[1]], rest[:, 3:]], axis=1)
    table = {
        "scales": segments.scales,
        "opacities": np.clip(opacities, -20.0, 20.0),
        "sh0": segments.sh0[:, None],
        "shN": rest.astype(np.float64),
        "times": segments.centers,
        "durations": durations,
        "means": segments.means,
    }
    bounds = [np.full((group.count, 2), (group.start, group.end)) for group in segments.groups]
    start, end = np.concatenate([*bounds, np.zeros((0, 2))]).T
    piece = {
        "row": np.arange(len(segments)),
        "means": segments.means,
        "velocities": segments.motion[:, 0],
        "quats": segments.quats,
        "from": np.maximum(start, 0.0),
        "to": np.where(end >= 1.0, np.inf, end),
    }
    return table, [piece]


def _part_spans(model: DynamicGaussians, edges: np.ndarray) -> Iterable[tuple[float, float, Params]]:
    """Yields the spans of rigid parts: what stands still in one, the rest in pieces that no given instant lies inside.

    `edges` are clip times at which there is a piece's end where the instants are further apart.
    """
    moving = model.params[COLUMN] >= 0
    still = {name: value if is_shared(name) else value[~moving] for name, value in model.params.items()}
    yield 0.0, 1.0, as_cubic(dataclasses.replace(model, params=still, motion=Static())).params
    rows = {name: value if is_shared(name) else value[moving] for name, value in model.params.items()}
    parts = dataclasses.replace(model, params=rows)
    keys = np.unique(np.concatenate([[0.0], instants_of(dataclasses.replace(parts, times=None)), [1.0]]))
    for start, end in itertools.pairwise(keys.tolist()) if bool(moving.any()) else ():
        inside = edges[(edges > start) & (edges < end)] if len(keys) <= PIECES else []
        for a, b in itertools.pairwise([start, *inside, end]):
            yield a, b, fitted(parts, np.linspace(a, b, 5))


def _curved(table: Table) -> np.ndarray:
    """Returns [N] which rows are no straight motion without a turn."""
    bent = np.abs(table["trajectories"][:, 1:]).max(axis=(1, 2), initial=0.0) > 0
    return (bent | (np.abs(table["spins"]).max(axis=1, initial=0.0) > 0)) & ~np.isinf(table["durations"])


def _pieces(table: dict[str, np.ndarray], start: float, end: float) -> list[dict[str, np.ndarray]]:
    """Returns groups of rows with straight motion, in clip time: `row`, `means` at the row's time, and windows."""
    # The last instant of the clip belongs to it.
    open_end = np.inf if end >= 1.0 else end
    cubic, spins = table["trajectories"], table["spins"]
    frozen, curved = np.isinf(table["durations"]), _curved(table)
    straight = np.flatnonzero(~curved)
    groups = [
        {
            "row": straight,
            "means": table["means"][straight],
            "velocities": np.where(frozen[straight, None], 0.0, cubic[straight, 0]),
            "quats": table["quats"][straight],
            "from": np.full(len(straight), start),
            "to": np.full(len(straight), open_end),
        }
    ]
    bent = np.flatnonzero(curved)
    number = max(1, math.ceil(PIECES * (end - start) - 1e-9))
    edges = np.linspace(start, end, number + 1)
    for index in range(number if len(bent) else 0):
        first, last = edges[index], edges[index + 1]
        place = [_place(table, bent, time) for time in (first, last)]
        velocity = (place[1] - place[0]) / (last - first)
        since = 0.5 * (first + last) - table["times"][bent]
        groups.append(
            {
                "row": bent,
                "means": place[0] + velocity * (table["times"][bent] - first)[:, None],
                "velocities": velocity,
                "quats": table["quats"][bent] + spins[bent] * since[:, None],
                "from": np.full(len(bent), first),
                "to": np.full(len(bent), open_end if index == number - 1 else last),
            }
        )
    return groups


def _place(table: dict[str, np.ndarray], rows: np.ndarray, time: float) -> np.ndarray:
    """Returns the positions [M, 3] of cubics at a clip time."""
    since = (time - table["times"][rows])[:, None]
    cubic = table["trajectories"][rows]
    return table["means"][rows] + since * (cubic[:, 0] + since * (cubic[:, 1] + since * cubic[:, 2]))
