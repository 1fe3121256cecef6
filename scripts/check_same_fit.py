#!/usr/bin/env python3
"""Fits short cases with the working tree and with another revision: are the models the same, and is a step as fast?

    scripts/check_same_fit.py --against main                      # all cases, a few minutes
    scripts/check_same_fit.py --against HEAD~3 --cases static hexplane --steps 40 --repeats 1
    scripts/check_same_fit.py --against v0.1.0 --strict-time --json same_fit.json --out same_fit_runs

Each revision is installed into a temporary folder of its own and fits in processes of its own, one thread each, with
the same seed. Compared are all tensors of the final model, bit by bit, and what the model says at three times of the
clip. The two fits of a case take turns step by step on one core, so that what else the machine does slows both alike. A
step's time is processor time, the least that each step took in any repeat, averaged over the steps (the median of the
repeats in brackets); the search for first points, checkpoints and the report at the end are not in it. Cases that seem
slower are measured again before they are called so.

Kernels are compiled once for each state of their sources and kept in build/same_fit.

Exit code: 0 when all models are equal; 1 when one differs or a fit fails, with --strict-time also when a case takes
more than 3 % longer; 2 when the comparison could not be made.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import platform
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CHILD = Path(__file__).with_name("same_fit_cases.py")
SLOWER = 1.03
"""Ratio of step times above which a case is called slower."""
LIMIT = 300.0
"""Seconds that one fit may take."""

Table = Mapping[str, np.ndarray]
Steps = dict[int, tuple[float, float]]
"""Seconds of the processor and of the wall, by the index of the step."""


class Failure(Exception):
    """The comparison cannot be made."""


def difference(before: Table, after: Table) -> str | None:
    """Returns what differs between two tables, the first tensor by name and by how much; None when no bit does."""
    names = sorted({*before, *after})
    texts = [text for text in (_tensor_difference(name, before.get(name), after.get(name)) for name in names) if text]
    if not texts:
        return None
    return texts[0] if len(texts) == 1 else f"{texts[0]}; {len(texts)} of {len(names)} tensors differ"


def _tensor_difference(name: str, before: np.ndarray | None, after: np.ndarray | None) -> str | None:
    if before is None or after is None:
        return f"{name} is only in the model {'after' if before is None else 'before'}"
    if before.shape != after.shape:
        return f"{name} has shape {list(before.shape)} before, {list(after.shape)} after"
    if before.dtype != after.dtype:
        return f"{name} is {before.dtype} before, {after.dtype} after"
    if before.tobytes() == after.tobytes():
        return None
    with np.errstate(all="ignore"):
        largest = np.abs(after.astype(np.float64) - before.astype(np.float64)).max()
    return f"{name} by up to {largest:.3g}"


@dataclasses.dataclass
class Result:
    """What a case gave."""

    name: str
    difference: str | None = None
    error: str | None = None
    steps: dict[str, list[Steps]] = dataclasses.field(default_factory=lambda: {"before": [], "after": []})
    """The steps of every repeat, by revision."""

    @property
    def failed(self) -> bool:
        """Whether there is anything wrong but the time."""
        return self.error is not None or self.difference is not None

    def seconds(self, revision: str, wall: bool = False) -> tuple[float, float] | None:
        """Returns the seconds per step, from the least and from the median of all repeats; None when not measured.

        Only steps that were measured in all repeats of both revisions count, so that the same work is compared.
        """
        repeats = self.steps[revision]
        common = [set(steps) for both in self.steps.values() for steps in both]
        indices = sorted(set.intersection(*common)) if all(self.steps.values()) else []
        if not indices:
            return None
        times = [[steps[index][int(wall)] for steps in repeats] for index in indices]
        return (
            statistics.fmean(min(values) for values in times),
            statistics.fmean(statistics.median(values) for values in times),
        )

    @property
    def ratio(self) -> float | None:
        """Time of a step after over before."""
        before, after = self.seconds("before"), self.seconds("after")
        return None if before is None or after is None else after[0] / before[0]

    @property
    def slower(self) -> bool:
        """Whether a step takes longer by more than is let pass."""
        return not self.failed and self.ratio is not None and self.ratio > SLOWER

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON values; times in seconds per step."""
        values: dict[str, Any] = {"case": self.name, "equal": not self.failed, "difference": self.difference}
        values |= {"error": self.error, "ratio": self.ratio}
        for revision, repeats in self.steps.items():
            cpu, wall = self.seconds(revision), self.seconds(revision, wall=True)
            if cpu and wall:
                values[revision] = {"least": cpu[0], "median": cpu[1], "wall_least": wall[0], "wall_median": wall[1]}
                values[revision]["repeats"] = len(repeats)
        return values


def table_text(results: Sequence[Result]) -> str:
    """Returns the results as a Markdown table whose columns stand below each other."""
    rows = [["case", "bit-equal", "before, ms/step", "after, ms/step", "ratio"]]
    for result in results:
        times = []
        for revision in ("before", "after"):
            seconds = result.seconds(revision)
            times.append("-" if seconds is None else f"{1e3 * seconds[0]:.2f} ({1e3 * seconds[1]:.2f})")
        verdict = "yes"
        if result.error is not None:
            verdict = f"FAILED: {result.error}"
        elif result.difference is not None:
            verdict = f"NO: {result.difference}"
        rows.append([result.name, verdict, *times, "-" if result.ratio is None else f"{result.ratio:.3f}"])
    ratios = [result.ratio for result in results if result.ratio is not None]
    if len(ratios) > 1:
        mean = math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))
        rows.append(["geometric mean", "", "", "", f"{mean:.3f}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows)


def run(command: Sequence[str | Path], doing: str) -> str:
    """Returns what a program prints; raises `Failure` with its last lines when it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"{doing} failed:\n{_tail(done.stdout + done.stderr)}")
    return done.stdout


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-lines:])


@contextlib.contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """Gives a git worktree of `revision` at `folder`, which is gone afterwards."""
    git = ["git", "-C", ROOT]
    try:
        run([*git, "worktree", "add", "--quiet", "--detach", folder, revision], f"checking out {revision}")
        yield folder
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", folder], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([*git, "worktree", "prune"], capture_output=True)


def install(source: Path, packages: Path, work: Path) -> None:
    """Installs the packages of `source` into a folder, with the kernels of its C++ sources."""
    # Compiling takes a minute, the rest seconds: kernels come from the store, everything else is installed afresh.
    kernels = _kernels(source, work)
    _pip(source, packages, "-C", "wheel.cmake=false", "-C", "wheel.py-api=py3")
    shutil.copy2(kernels, packages / "diff_rasterizer")


def _pip(source: Path, target: Path, *options: str | Path) -> None:
    tools = all(importlib.util.find_spec(name) for name in ("scikit_build_core", "nanobind")) and all(
        shutil.which(name) or importlib.util.find_spec(name) for name in ("cmake", "ninja")
    )
    here = ["--no-build-isolation"] if tools else []
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", *here]
    run([*pip, "--target", target, *options, source], f"installing {source}")


def _kernels(source: Path, work: Path) -> Path:
    """Returns the compiled extension of `source`, from the store when these sources were compiled before."""
    store = ROOT / "build" / "same_fit" / _kernels_key(source)
    if not list(store.glob("_cpu*")):
        say("compiling kernels; this is done once for these sources")
        _pip(source, work / "compiled", "-C", f"build-dir={work / 'objects'}")
        built = list((work / "compiled" / "diff_rasterizer").glob("_cpu*"))
        if len(built) != 1 or built[0].suffix == ".py":
            raise Failure(f"expected one extension _cpu from {source}, got {[path.name for path in built]}")
        store.mkdir(parents=True, exist_ok=True)
        # Renamed into place, so that a copy that was cut short is never taken.
        shutil.copy2(built[0], store / f"part_{os.getpid()}")
        (store / f"part_{os.getpid()}").rename(store / built[0].name)
        shutil.rmtree(work / "compiled")
    return next(store.glob("_cpu*"))


def _kernels_key(source: Path) -> str:
    """Returns a hash of all that decides what the compiler makes of `source`."""
    digest = hashlib.sha256()
    csrc = source / "diff_rasterizer" / "csrc"
    for path in [source / "CMakeLists.txt", *sorted(path for path in csrc.rglob("*") if path.is_file())]:
        digest.update(f"{path.relative_to(source)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    settings = tomllib.loads((source / "pyproject.toml").read_text()).get("tool", {}).get("scikit-build")
    compiler = shutil.which(os.environ.get("CXX", "c++")) or ""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout if compiler else ""
    machine = [sys.implementation.cache_tag, platform.platform(), platform.machine(), version]
    flags = [os.environ.get(name) for name in ("CXX", "CXXFLAGS", "CMAKE_ARGS")]
    digest.update(json.dumps([settings, machine, flags], sort_keys=True).encode())
    return digest.hexdigest()[:24]


class Worker:
    """A process that fits cases with one revision's packages; started again after it has died."""

    def __init__(self, label: str, packages: Path, scenes: Path, runs: Path, child: Path) -> None:
        self.label, self.packages, self.scenes, self.runs, self.child = label, packages, scenes, runs, child
        self.process: subprocess.Popen[str] | None = None
        self._ready = False
        runs.mkdir(parents=True, exist_ok=True)

    def start(self, core: int | None = None) -> None:
        """Starts the process, on one core if that is given, unless it runs; it is not waited for."""
        if self.process is not None:
            return
        # Without `site` no .pth file is read, and so no finder of an editable installation goes before the folder.
        others = [path for path in sys.path if Path(path).resolve() not in (Path.cwd(), ROOT, CHILD.parent)]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment = {**os.environ, **threads, "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0"}
        environment["PYTHONPATH"] = os.pathsep.join([str(self.packages), *others])
        command = [
            sys.executable,
            "-S",
            "-P",
            self.child,
            self.packages,
            self.scenes,
            self.runs,
            *([] if core is None else [core]),
        ]
        self._ready = False
        with (self.runs / "log.txt").open("a") as log:
            # In a session of its own: Ctrl-C is for this program, which then ends the process.
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                cwd=self.runs,
                start_new_session=True,
            )

    def ask(self, **order: Any) -> dict[str, Any]:
        """Returns the answer to an order, or that a step is done and the process waits for its turn.

        A process that dies or hangs gives an answer with `error`.
        """
        self.start()
        if not self._ready:
            answer = self._answer()
            if "error" in answer:
                raise Failure(f"the process of the revision {self.label} cannot start: {answer['error']}")
            self._ready = True
        assert self.process is not None and self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(order), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], LIMIT)[0]:
            self.stop()
            return {"error": f"no end after {LIMIT:.0f} s"}
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.stop()
        return {"error": f"the process ended with code {code}:\n{_tail((self.runs / 'log.txt').read_text())}"}

    def stop(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


class Comparison:
    """The cases in both revisions, as often as asked."""

    def __init__(self, workers: dict[str, Worker], cases: Sequence[str], steps: int | None) -> None:
        self.workers, self.steps = workers, steps
        self.results = {name: Result(name) for name in cases}
        self._tables: dict[tuple[str, str], Table] = {}
        """Of the first repeat, by revision and case."""

    def round(self, index: int, cases: Sequence[str]) -> None:
        """Fits the cases once in both revisions, in fresh processes."""
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        for worker in self.workers.values():
            worker.stop()
            worker.start(cores[index % len(cores)] if cores else None)
        for position, name in enumerate(cases):
            if not self.results[name].failed:
                self._fit(name, sorted(self.workers, reverse=(index + position) % 2 == 0))

    def _fit(self, name: str, order: Sequence[str]) -> None:
        """Fits a case in both revisions, one step here and one step there."""
        from safetensors.numpy import load_file

        answers: dict[str, dict[str, Any]] = {}
        message: dict[str, Any] = {"case": name, "steps": self.steps}
        while len(answers) < len(order):
            for label in order:
                if label not in answers:
                    answer = self.workers[label].ask(**message)
                    if "step" not in answer:
                        answers[label] = answer
            message = {"go": True}
        result = self.results[name]
        errors = [f"{label}: {answer['error']}" for label, answer in answers.items() if "error" in answer]
        if errors:
            result.error = "; ".join(errors)
            return
        for label, answer in answers.items():
            table = load_file(answer["table"])
            repeated = difference(self._tables.setdefault((label, name), table), table)
            if repeated is not None:
                result.difference = f"two fits {label} differ from each other: {repeated}"
            result.steps[label].append({int(index): tuple(times) for index, times in answer["steps"].items()})
        result.difference = result.difference or difference(self._tables["before", name], self._tables["after", name])


def say(message: str) -> None:
    """Tells how far things are, apart from the result."""
    print(message, file=sys.stderr, flush=True)


def case_names() -> list[str]:
    """Returns the names of all cases."""
    spec = importlib.util.spec_from_file_location("same_fit_cases", CHILD)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return list(module.CASES)


def compared(args: argparse.Namespace, revision: str, stack: contextlib.ExitStack) -> list[Result]:
    """Returns the results of all cases."""
    work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="same_fit_", ignore_cleanup_errors=True)))
    out = args.out.resolve() if args.out else work / "out"
    child = work / CHILD.name
    shutil.copy2(CHILD, child)
    say(f"installing the working tree and {args.against}")
    install(ROOT, work / "after", work)
    with checked_out(revision, work / "source") as source:
        install(source, work / "before", work)
    scenes = out / "scenes"
    workers = {label: Worker(label, work / label, scenes, out / label, child) for label in ("before", "after")}
    for worker in workers.values():
        stack.callback(worker.stop)
        worker.start()
    scenes.mkdir(parents=True)
    answer = workers["before"].ask(scenes=True)
    if "error" in answer:
        raise Failure(f"the scenes cannot be written: {answer['error']}")
    comparison = Comparison(workers, args.cases, args.steps)
    for index in range(args.repeats):
        say(f"repeat {index + 1} of {args.repeats}")
        comparison.round(index, args.cases)
    results = comparison.results
    for index in range(args.repeats):
        # Another program may have had the processor's caches; what really is slower is so again.
        slow = [name for name in args.cases if results[name].slower]
        if slow:
            say(f"measuring again: {', '.join(slow)}")
            comparison.round(args.repeats + index, slow)
    return list(results.values())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the settings of the command line."""
    names = case_names()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True, metavar="REV", help="git revision to compare with")
    parser.add_argument("--cases", nargs="+", default=names, metavar="NAME", help=f"out of: {', '.join(names)}")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of each fit; default 60")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="fits of each case and revision")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="new folder in which scenes, runs and logs are left")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the results")
    parser.add_argument("--strict-time", action="store_true", help="a slower case gives exit code 1")
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.cases) - set(names))
    if unknown:
        parser.error(f"expected cases out of {', '.join(names)}, got {', '.join(unknown)}")
    args.cases = list(dict.fromkeys(args.cases))
    if args.repeats < 1 or (args.steps is not None and args.steps < 20):
        parser.error("expected at least 1 repeat and 20 steps")
    if args.out and args.out.exists() and any(args.out.iterdir()):
        parser.error(f"expected a new or empty folder, got {args.out}; choose another --out")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares, prints a table; returns the exit code."""
    args = parse(arguments)

    def interrupt(number: int, frame: Any) -> None:
        # Once: a second one would leave a worktree behind.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        git = ["git", "-C", ROOT]
        revision = run([*git, "rev-parse", "--verify", f"{args.against}^{{commit}}"], f"looking up {args.against}")
        installed = ("diff_rasterizer", "gaussian4d", "generators", "CMakeLists.txt", "pyproject.toml")
        changed = bool(run([*git, "status", "--porcelain", "--", *installed], "git status").strip())
        head = run([*git, "rev-parse", "HEAD"], "git rev-parse").strip()
        with contextlib.ExitStack() as stack:
            results = compared(args, revision.strip(), stack)
    except Failure as error:
        say(f"check_same_fit: {error}")
        return 2
    except KeyboardInterrupt:
        say("check_same_fit: interrupted")
        return 130
    now = f"{head[:10]}{' with changes' if changed else ''}"
    print(
        f"before: {revision[:10]} ({args.against}), after: {now}; processor time, least and (median) of the repeats\n"
    )
    print(table_text(results))
    slower = [result.name for result in results if result.slower]
    failed = [result.name for result in results if result.failed]
    print()
    if slower:
        print(f"WARNING: a step takes more than {100 * (SLOWER - 1):.0f} % longer in {', '.join(slower)}")
    print(
        f"{len(failed)} of {len(results)} cases differ or failed" if failed else f"all {len(results)} cases are equal"
    )
    if args.json:
        content = {"before": revision.strip(), "after": head, "changed": changed, "steps": args.steps}
        args.json.write_text(
            json.dumps({**content, "cases": [result.to_dict() for result in results]}, indent=2) + "\n"
        )
    return int(bool(failed) or (args.strict_time and bool(slower)))


if __name__ == "__main__":
    sys.exit(main())
