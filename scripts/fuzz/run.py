"""The fuzz campaign: mutated files, hostile calls, SIGKILLs and crowds of browsers, with a table of what came of it.

    python scripts/fuzz/run.py                                all parts in full: some two hours on two cores
    python scripts/fuzz/run.py formats readers --count 50     a look in a few minutes
    python scripts/fuzz/run.py readers --only nerfstudio      one target
    python scripts/fuzz/run.py kills --kills 20 --keep campaign

formats   files of Gaussians, `.g4d` with every kind of motion, folders of frames: COUNT mutated files each; half of the
          mutations keep the structure (JSON, zip, PLY's head, numpy's head), so that they get past the first check
readers   folders of every dataset reader: a file changed, exchanged, renamed or missing, COUNT times each
calls     10,000 calls of the rasterizer and its companions with hostile arguments
kills     SIGKILL at random moments of fit, prepare, generate and export; each is resumed, and its result compared
browsers  50 clients of the viewer that come, scrub, send nonsense and leave, for 10 minutes

Every mutated file, call and moment follows from the seed. A failure is: a crash, an exception that is no clear refusal,
a hang of more than 30 s, memory taken on a lying count (more than 1.5 GiB beyond what the process has), NaN or a
picture that is not finite from a file that was accepted, and what a kill loses beyond one checkpoint interval. Files
that fail are kept. Exits with 1 when anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

PARTS = ("formats", "readers", "calls", "kills", "browsers")
HANG = 30.0
"""Seconds that reading one small file may take."""


def main() -> int:
    """Runs the parts that were asked for; returns 1 when anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS) + "; all by default")
    parser.add_argument("--count", type=int, default=1000, help="mutated files per target (1000)")
    parser.add_argument("--calls", type=int, default=10_000, help="calls of the rasterizer (10000)")
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs (200)")
    parser.add_argument("--clients", type=int, default=50, help="browsers at the same time (50)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of browsers (10)")
    parser.add_argument("--only", default="", help="only targets, or commands to kill, whose name contains this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at the same time (cores)")
    parser.add_argument("--keep", type=Path, help="folder for outcomes and files that failed; default: a new one")
    options = parser.parse_args()
    if wrong := set(options.parts) - set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}, got {', '.join(sorted(wrong))}")
    keep = options.keep or Path(tempfile.mkdtemp(prefix="campaign_"))
    keep.mkdir(parents=True, exist_ok=True)
    print(f"outcomes and what fails: {keep}")
    failures = 0
    for part in options.parts or PARTS:
        began = time.monotonic()
        if part in ("formats", "readers"):
            failures += files(part, options, keep)
        elif part == "calls":
            failures += calls(options, keep)
        elif part == "kills":
            from kills import kills

            failures += kills(options.kills, options.seed, options.jobs, keep, options.only)
        else:
            failures += browsers(options, keep)
        print(f"{part}: {time.monotonic() - began:.0f} s", flush=True)
    print(f"{failures} failures" if failures else "nothing failed")
    return int(failures > 0)


def files(part: str, options: argparse.Namespace, keep: Path) -> int:
    """Prints a row for every target of a part; returns the number of failures."""
    from targets import targets

    kind = part.removesuffix("s")
    names = [name for name in targets() if name.startswith(f"{kind}/") and options.only in name]
    print(f"\n{'target':28}{'files':>7}{'read':>7}{'refused':>9}{'failed':>8}{'memory MB':>11}{'seconds':>9}")
    failures = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = [(name, pool.submit(one_target, name, options.count, options.seed, keep / name)) for name in names]
        for name, job in jobs:
            lines, seconds = job.result()
            counts = Counter(line["outcome"].split(":")[0] for line in lines)
            grown = max((line["grown_kb"] for line in lines), default=0) / 1024
            print(
                f"{name:28}{len(lines):7}{counts['read']:7}{counts['refused']:9}{counts['failed']:8}"
                f"{grown:11.0f}{seconds:9.0f}",
                flush=True,
            )
            failures += counts["failed"]
            show(line for line in lines if line["outcome"].startswith("failed"))
    return failures


def show(lines: Iterable[dict]) -> None:
    """Prints failures, of those that end alike only the first."""
    seen: Counter[str] = Counter()
    for line in lines:
        last = (line.get("detail") or "").strip().splitlines()[-1:]
        key = f"{line['outcome']}: {last[0][:160] if last else ''}"
        seen[key] += 1
        if seen[key] == 1:
            print(f"    {line['number']}: {line.get('mutation', '')}: {key}")
    for key, count in seen.items():
        if count > 1:
            print(f"    {count} of: {key[:120]}")


def one_target(name: str, count: int, seed: int, folder: Path) -> tuple[list[dict], float]:
    """Returns the outcomes of one target's files, and seconds; a crash or a hang is the outcome of its file."""
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = folder / "outcomes.jsonl"
    outcomes.unlink(missing_ok=True)
    began = time.monotonic()
    first = 0
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    while first < count:
        command = [sys.executable, str(HERE / "worker.py"), name, *map(str, (first, count - first, seed, folder))]
        with (folder / "stderr.txt").open("w") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
            hung = watch(process, folder / "current")
        if process.returncode == 0:
            break
        current = folder / "current"
        if not current.exists():
            text = (folder / "stderr.txt").read_text()[-2000:]
            raise SystemExit(f"{name}: the sample itself is not read, or the worker failed:\n{text}")
        number = int(current.read_text() or first)
        outcome = (
            f"failed: hang of more than {HANG:.0f} s" if hung else f"failed: crash, exit code {process.returncode}"
        )
        detail = (folder / "stderr.txt").read_text()[-2000:]
        with outcomes.open("a") as file:
            file.write(json.dumps({"number": number, "outcome": outcome, "detail": detail, "grown_kb": 0}) + "\n")
        first = number + 1
        current.unlink()
    return [json.loads(line) for line in outcomes.read_text().splitlines()], time.monotonic() - began


def watch(process: subprocess.Popen, current: Path) -> bool:
    """Waits until the process ends; kills it, and returns True, when it stays with one file for too long."""
    changed, last = time.monotonic(), None
    while process.poll() is None:
        time.sleep(0.2)
        now = current.read_text() if current.exists() else None
        if now != last:
            changed, last = time.monotonic(), now
        # Until the first file, the worker imports and writes its sample.
        if time.monotonic() - changed > (HANG if last is not None else 10 * HANG):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
    return False


def calls(options: argparse.Namespace, keep: Path) -> int:
    """Runs the hostile calls of the rasterizer, shared out over the cores; returns the number of failures."""
    share = -(-options.calls // options.jobs)
    program = ROOT / "tests" / "diff_rasterizer" / "fuzz_calls.py"
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    first = options.seed * options.calls

    def run(job: int) -> subprocess.CompletedProcess[str]:
        start, count = first + job * share, min(share, options.calls - job * share)
        command = [sys.executable, str(program), str(start), str(count), str(keep / f"calls_{job}")]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3600)

    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(run, range(options.jobs)))
    print()
    for done in results:
        print(f"calls: {(done.stdout.strip().splitlines() or ['nothing'])[-1]}")
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-2000:])
    return sum(done.returncode != 0 for done in results)


def browsers(options: argparse.Namespace, keep: Path) -> int:
    """Lets the clients loose on the viewer of a small run; returns 1 when it leaks, cuts one off or serves no more."""
    from kills import tiny_run

    run = tiny_run(keep / "viewer")
    program = ROOT / "scripts" / "bench" / "viewer.py"
    command = [sys.executable, str(program), str(run), "--clients", str(options.clients)]
    command += ["--minutes", str(options.minutes)]
    print()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    timer = threading.Timer(60 * options.minutes + 600, process.kill)
    timer.start()
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if "Traceback" in line or "all gone" in line or "second" in line or "first" in line or "served" in line:
            print(f"browsers: {line.rstrip()}", flush=True)
    timer.cancel()
    (keep / "browsers.txt").write_text(text)
    return int(process.wait() != 0) + text.count("Traceback")


if __name__ == "__main__":
    sys.exit(main())
