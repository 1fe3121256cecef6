"""The figures of docs/generation.md: priors, feedback, reconstructor, captions, assets, on toys nobody trained on.

python scripts/bench/generation.py views --out figures     # or feedback, reconstructor, captions, stag4d, assets
python scripts/bench/generation.py all --out figures       # resumable: what is there is not computed again

Every item is kept as JSON below --out, keyed by its settings and the weights; tables are printed and written to
`tables.md`. Test toys are those of split "test", which no training sees.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor
from tyro.conf import Positional

from gaussian4d.toys import Toy, make_toy, render_views
from generators import stag4d
from generators.cameras import orbit_cameras
from generators.feedback import RenderFeedback
from generators.figures.probe import LABELS, Labelled, Probe, read, train_probe
from generators.figures.ridge import Ridge
from generators.figures.statistics import foreground_psnr, paired_bootstrap, sharpness
from generators.figures.store import Store, markdown_table
from generators.models.view_transformer import ViewTransformer
from generators.pipeline.detail import resized
from generators.pipeline.run import generate
from generators.pipeline.settings import Settings
from generators.priors.embedded import STEPS, VIEW_STEPS, WEIGHTS, EmbeddedPrior, load_network, tidy
from generators.priors.reconstructor import EmbeddedReconstructor
from generators.views import render_rgba

Part = Literal["views", "feedback", "reconstructor", "captions", "stag4d", "assets", "all"]


@dataclasses.dataclass
class Arguments:
    part: Positional[Part]
    out: Path = Path("figures")
    toys: int = 100
    """Test toys of (a) and of captions; the other parts take the first 24, 12, 8 and 12 of them, or fewer."""
    samples: int = 8
    regressor: Path | None = WEIGHTS / "regressor.safetensors"
    """Weights of the regressor of equal size; skipped when the file is not there."""
    ridge_toys: int = 3000
    fit_seconds: float = 60.0
    """Of the fit that the reconstructor is measured against."""
    stag4d_seconds: float = 60.0
    """Of every STAG4D fit; they are bound by time, so run nothing else."""


def main(arguments: Arguments) -> None:
    torch.set_flush_denormal(True)
    parts: dict[str, Callable[[Arguments, Store], str]] = {
        "views": views_table,
        "feedback": feedback_table,
        "reconstructor": reconstructor_table,
        "captions": captions_table,
        "stag4d": stag4d_table,
        "assets": assets_table,
    }
    store = Store(arguments.out)
    for name in parts if arguments.part == "all" else [arguments.part]:
        table = parts[name](arguments, store)
        print(table)
        (arguments.out / f"{name}.md").write_text(table)


def weights_key(*names: str) -> str:
    """Returns a key of the embedded weights: figures of other weights are other figures."""
    return hashlib.sha256(b"".join((WEIGHTS / f"{name}.safetensors").read_bytes() for name in names)).hexdigest()[:12]


def progress(items: Iterable[Any], count: int, what: str) -> Iterator[Any]:
    """Yields the items, and says how long the rest will take."""
    began = time.monotonic()
    for k, item in enumerate(items):
        yield item
        left = (time.monotonic() - began) / (k + 1) * (count - k - 1)
        print(f"\r{what} {k + 1} of {count}, {left / 60:.1f} minutes left ", end="", flush=True)
    print()


def views_of(toy: Toy, times: float = 0.0, count: int = 8, elevation: float = 15.0) -> Tensor:
    """Returns the true views [V, 4, 64, 64] of even azimuths."""
    cameras = orbit_cameras(count, elevation=elevation)
    return torch.from_numpy(render_views(toy.world, cameras, [times] * count).rgba).permute(0, 3, 1, 2)


def views_table(arguments: Arguments, store: Store) -> str:
    """(a) the prior's views of seven other azimuths from one picture."""
    prior = EmbeddedPrior.load()
    cameras = orbit_cameras(8)
    linear, mean = _ridge(arguments)
    regressor = None
    if arguments.regressor and arguments.regressor.exists():
        regressor = EmbeddedPrior(
            load_network(arguments.regressor, ViewTransformer), prior.surface, prior.motion, prior.picture
        )
    key = {"weights": weights_key("surface", "view_prior"), "ridge": arguments.ridge_toys, "samples": arguments.samples,
           "steps": VIEW_STEPS}  # fmt: skip
    if regressor is not None:
        key["regressor"] = hashlib.sha256(arguments.regressor.read_bytes()).hexdigest()[:12]  # type: ignore[union-attr]

    def one(seed: int) -> dict[str, list[float]]:
        truth = views_of(make_toy(seed, "test"))
        samples = [prior.sample_views(truth[:1], cameras[0], cameras, seed=s)[0] for s in range(arguments.samples)]
        guesses = {
            f"mean of {arguments.samples} samples": torch.stack(samples).mean(0),
            "first prediction at pure noise": prior.sample_views(truth[:1], cameras[0], cameras, steps=1)[0],
            "ridge regression": tidy(linear(truth[:1].flatten(1)).view(8, 4, 64, 64)),
            "the input repeated": truth[:1].expand(8, -1, -1, -1),
            "mean of the training toys": mean,
        }
        if regressor is not None:
            guesses["regressor of equal size"] = _regressed(regressor, truth[:1], cameras)
        figures = {
            name: [foreground_psnr(x[1:], truth[1:]), sharpness(x[1:], truth[1:])] for name, x in guesses.items()
        }
        singles = [[foreground_psnr(x[1:], truth[1:]), sharpness(x[1:], truth[1:])] for x in samples]
        return {**figures, "a single sample": np.mean(singles, axis=0).tolist()}

    seeds = range(arguments.toys)
    rows = [
        store.get(f"views_{s:03d}", {**key, "seed": s}, lambda s=s: one(s)) for s in progress(seeds, len(seeds), "toys")
    ]
    return _comparison(rows, f"mean of {arguments.samples} samples", ("foreground PSNR, dB", "sharpness"))


def _regressed(regressor: EmbeddedPrior, images: Tensor, cameras: list) -> Tensor:
    """Returns the regressor's views: one pass, with zeros where a prior has noise."""
    known = images[:, None] * 2 - 1
    frames = regressor._frames([cameras[0]], cameras, torch.zeros(1, 9), None, known)
    with torch.no_grad():
        x0 = regressor._predict(torch.zeros(1, 8, 4, 64, 64), known, frames, torch.tensor(1.0), None)
    return tidy(x0[0] * 0.5 + 0.5)


def _ridge(arguments: Arguments) -> tuple[Ridge, Tensor]:
    seeds = range(arguments.ridge_toys)
    path = arguments.out / f"ridge_{arguments.ridge_toys}.pt"
    if not path.exists():
        made = [(views_of(make_toy(s)) * 255).byte() for s in progress(seeds, len(seeds), "training toys for ridge")]
        torch.save(torch.stack(made), path)
    views = torch.load(path, weights_only=True).float() / 255.0
    return Ridge(views[:, 0].flatten(1), views.flatten(1)), views.mean(0)


def feedback_table(arguments: Arguments, store: Store) -> str:
    """(b) 3D-aware feedback off and on."""
    prior, reconstructor = EmbeddedPrior.load(), EmbeddedReconstructor.load()
    cameras = orbit_cameras(8)
    key = {"weights": weights_key("surface", "view_prior", "reconstructor"), "steps": [VIEW_STEPS, STEPS]}
    on = f"{STEPS} steps, feedback on"

    def one(seed: int) -> dict[str, list[float]]:
        truth = views_of(make_toy(seed, "test"))
        figures = {}
        for name, steps, hook in (
            (on, STEPS, RenderFeedback(reconstructor)),
            (f"{STEPS} steps, off", STEPS, None),
            (f"{VIEW_STEPS} steps, off", VIEW_STEPS, None),
        ):
            views = prior.sample_views(truth[:1], cameras[0], cameras, steps=steps, hook=hook)[0]
            rebuilt = RenderFeedback(reconstructor).rendered(views, cameras)
            figures[name] = [
                foreground_psnr(views[1:], truth[1:]),
                sharpness(views[1:], truth[1:]),
                foreground_psnr(views[1::2], rebuilt[1::2].clamp(0, 1)),
            ]
        return figures

    seeds = range(min(24, arguments.toys))
    rows = [
        store.get(f"feedback_{s:03d}", {**key, "seed": s}, lambda s=s: one(s))
        for s in progress(seeds, len(seeds), "toys")
    ]
    return _comparison(rows, on, ("PSNR to the truth, dB", "sharpness", "views against their own reconstruction, dB"))


def reconstructor_table(arguments: Arguments, store: Store) -> str:
    """(c) one pass against a fit of Gaussians to the same four views."""
    from generators.figures.four_views import fit_views

    reconstructor = EmbeddedReconstructor.load()
    given, unseen = orbit_cameras(4), orbit_cameras(8, elevation=25.0, start=22.5)
    key = {"weights": weights_key("reconstructor"), "seconds": arguments.fit_seconds}

    def one(seed: int) -> dict[str, list[float]]:
        toy = make_toy(seed, "test")
        views = torch.from_numpy(render_views(toy.world, given, [0.0] * 4).rgba).permute(0, 3, 1, 2)
        truth = torch.from_numpy(render_views(toy.world, unseen, [0.0] * 8).rgba).permute(0, 3, 1, 2)
        began = time.monotonic()
        found = reconstructor.reconstruct(views, given)
        took = time.monotonic() - began
        fitted, seconds = fit_views(views, given, arguments.fit_seconds)
        return {
            "reconstructor": [foreground_psnr(render_rgba(found, unseen), truth), took],
            "fit": [foreground_psnr(render_rgba(fitted, unseen), truth), seconds],
        }

    seeds = range(min(12, arguments.toys))
    rows = [
        store.get(f"reconstructor_{s:03d}", {**key, "seed": s}, lambda s=s: one(s))
        for s in progress(seeds, len(seeds), "toys")
    ]
    return _comparison(rows, "reconstructor", ("PSNR of eight unseen views, dB", "seconds"))


def captions_table(arguments: Arguments, store: Store) -> str:
    """(d) whether a probe reads off the assets of `gaussian4d generate --text` what their captions say."""
    from generators.pipeline.job import load_asset, load_frames

    camera = orbit_cameras(1)
    probe = _probe(arguments)
    unseen = _labelled(range(20_000, 20_800), "test")
    read_off = read(probe, unseen.videos.float() / 255.0)
    accuracy = {
        k: float(np.mean([LABELS[k].index(w) == int(t) for w, t in zip(read_off[k], unseen.labels[k])])) for k in LABELS
    }
    names = ("surface", "view_prior", "reconstructor", "motion", "picture")
    key = {"weights": weights_key(*names), "probe": accuracy, "preset": stag4d.quick().to_dict()}

    def one(seed: int) -> dict[str, list[str]]:
        toy = make_toy(seed, "test")
        run = arguments.out / "assets" / f"{seed:03d}_{key['weights']}"
        shutil.rmtree(run, ignore_errors=True)
        said: list[str] = []
        if generate(Settings(out=run, text=(toy.caption,), frames=8, seed=seed), said.append) != 0:
            raise RuntimeError("\n".join(said))
        model = load_asset(run)
        asset = [render_rgba(model.at(t), camera)[0] for t in (np.arange(8) / 7).tolist()]
        words = read(probe, torch.stack([torch.stack(asset), resized(load_frames(run / "stages/video"), 64)]))
        return {k: [*words[k], getattr(toy, k)] for k in LABELS}

    seeds = range(arguments.toys)
    rows = [
        store.get(f"captions_{s:03d}", {**key, "seed": s}, lambda s=s: one(s))
        for s in progress(seeds, len(seeds), "captions")
    ]

    truth = read(probe, _labelled(seeds, "test").videos.float() / 255.0)

    def right(k: str, said: list[str], wanted: list[set[str]]) -> str:
        return f"{100 * np.mean([word in words for word, words in zip(said, wanted)]):.0f} %"

    table = []
    for k in LABELS:
        readings = [[row[k][0] for row in rows], [row[k][1] for row in rows], truth[k]]
        wanted = [{row[k][2]} for row in rows]
        table.append([k, *(right(k, said, wanted) for said in readings), f"{100 * accuracy[k]:.0f} %"])
        if k == "color":
            either = [words | _colors(make_toy(seed, "test").caption) for seed, words in zip(seeds, wanted)]
            table.append(["either color of its pattern", *(right(k, said, either) for said in readings), ""])
    columns = ["right on generated assets", "on their videos", "on true pictures of these toys", "of 800 others"]
    return markdown_table(["word", *columns], table)


def _colors(caption: str) -> set[str]:
    """Returns the colours of the first thing that a caption names: `a red and white striped ball with ...`."""
    words = caption.split()
    return {words[1], words[3]} if words[2] == "and" else {words[1]}


def _probe(arguments: Arguments) -> Probe:
    """Returns the probe, trained once and kept."""
    path, probe = arguments.out / "probe.safetensors", Probe()
    if not path.exists():
        probe = train_probe(_labelled(range(20_000, 26_000), "train"))
        save_file(probe.state_dict(), path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    probe.load_state_dict(load_file(path))
    return probe.eval()


def _labelled(seeds: range, split: Literal["train", "test"]) -> Labelled:
    camera = orbit_cameras(1)[0]
    videos, labels = [], {k: [] for k in LABELS}
    for seed in progress(seeds, len(seeds), "toys for the probe"):
        toy = make_toy(seed, split)
        frames = render_views(toy.world, [camera] * 8, (np.arange(8) / 7).tolist()).rgba
        videos.append(torch.from_numpy((frames * 255 + 0.5).astype(np.uint8)).permute(0, 3, 1, 2))
        for k in LABELS:
            labels[k].append(LABELS[k].index(getattr(toy, k)))
    return Labelled(torch.stack(videos), {k: torch.tensor(v) for k, v in labels.items()})


def stag4d_table(arguments: Arguments, store: Store) -> str:
    """(e) STAG4D from a video, with each of its parts switched off."""
    prior, reconstructor = EmbeddedPrior.load(), EmbeddedReconstructor.load()
    variants: dict[str, dict[str, bool]] = {"all parts": {}}
    variants |= {
        f"without {name.replace('_', ' ')}": {name: False}
        for name in ("anchors", "fusion", "sds", "adaptive_densification")
    }
    preset = stag4d.quick(max_minutes=arguments.stag4d_seconds / 60)
    key = {"weights": weights_key("surface", "view_prior", "reconstructor"), "preset": preset.to_dict()}
    watching = orbit_cameras(6, elevation=25.0, start=30.0, size=128)

    def one(seed: int, changes: dict[str, bool]) -> list[float]:
        toy = make_toy(seed, "test")
        times = (np.arange(8) / 7).tolist()
        camera = orbit_cameras(1, size=128)[0]
        frames = torch.from_numpy(render_views(toy.world, [camera] * 8, times).rgba).permute(0, 3, 1, 2)
        config = preset.replace(**changes)
        out = arguments.out / "fits" / f"{seed:03d}_{'_'.join(changes) or 'all'}_{key['weights']}"
        shutil.rmtree(out, ignore_errors=True)
        model = stag4d.fit_asset(frames, times, camera, prior, out, config, reconstructor=reconstructor)
        psnrs = []
        for time_ in (0.0, 0.3, 0.5, 0.7, 1.0):
            truth = torch.from_numpy(render_views(toy.world, watching, [time_] * 6).rgba).permute(0, 3, 1, 2)
            psnrs.append(foreground_psnr(render_rgba(model.at(time_), watching), truth))
        return [float(np.mean(psnrs))]

    seeds = range(min(8, arguments.toys))
    jobs = [(s, name) for s in seeds for name in variants]
    rows: list[dict[str, list[float]]] = [{} for _ in seeds]
    for s, name in progress(jobs, len(jobs), "fits"):
        settings = {**key, "seed": s, "changes": variants[name]}
        rows[s][name] = store.get(f"stag4d_{s:03d}", settings, lambda s=s, name=name: one(s, variants[name]))
    return _comparison(rows, "all parts", ("PSNR over views and time, dB",))


def assets_table(arguments: Arguments, store: Store) -> str:
    """(f) an asset at rest from one picture, as the command makes it, and with each choice undone."""
    prior, reconstructor = EmbeddedPrior.load(), EmbeddedReconstructor.load()
    whole = stag4d.quick(motion="static", sds=False, max_minutes=None)
    careful = stag4d.solid(whole)
    ours = "as the command makes it"
    variants: dict[str, tuple[int, stag4d.StagConfig, bool]] = {
        ours: (prior.info.samples, careful, True),
        "one sample of the views": (1, careful, True),
        "the preset's whole fit": (prior.info.samples, whole, True),
        "that, without the reconstructor": (prior.info.samples, whole, False),
    }
    key = {
        "weights": weights_key("surface", "view_prior", "reconstructor"),
        "fits": [careful.to_dict(), whole.to_dict()],
    }
    cameras, camera = orbit_cameras(8), orbit_cameras(1, size=128)[0]
    watching = orbit_cameras(6, elevation=25.0, start=30.0, size=128)

    def one(seed: int) -> dict[str, list[float]]:
        world = make_toy(seed, "test").world
        picture = torch.from_numpy(render_views(world, [camera], [0.0]).rgba).permute(0, 3, 1, 2)
        truth = torch.from_numpy(render_views(world, watching, [0.0] * 6).rgba).permute(0, 3, 1, 2)
        figures = {}
        for name, (samples, config, reconstructed) in variants.items():
            prior.info = dataclasses.replace(prior.info, samples=samples)
            anchors = stag4d.make_anchors(picture, [0.0], camera, prior, cameras)
            out = arguments.out / "fits" / f"asset_{seed:03d}"
            shutil.rmtree(out, ignore_errors=True)
            began = time.monotonic()
            start = reconstructor if reconstructed else None
            model = stag4d.fit_asset(picture, [0.0], camera, prior, out, config, anchors=anchors, reconstructor=start)
            took = time.monotonic() - began
            seen = render_rgba(model.at(0.0), watching)
            figures[name] = [foreground_psnr(seen, truth), sharpness(seen, truth), took]
        return figures

    seeds = range(min(12, arguments.toys))
    rows = [
        store.get(f"assets_{s:03d}", {**key, "seed": s}, lambda s=s: one(s))
        for s in progress(seeds, len(seeds), "toys")
    ]
    return _comparison(rows, ours, ("PSNR of six other views, dB", "sharpness", "seconds of fitting"))


def _comparison(rows: list[dict[str, list[float]]], ours: str, figures: tuple[str, ...]) -> str:
    """Returns a table of means, and what `ours` is ahead of each other row by, with its interval."""
    names = sorted(rows[0], key=lambda name: name != ours)
    table = []
    for name in names:
        cells = [f"{np.mean([row[name][k] for row in rows]):.2f}" for k in range(len(figures))]
        ahead = "" if name == ours else str(paired_bootstrap([r[ours][0] for r in rows], [r[name][0] for r in rows]))
        table.append([name, *cells, ahead])
    return markdown_table([f"{len(rows)} toys", *figures, f"{ours}, minus this"], table)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
