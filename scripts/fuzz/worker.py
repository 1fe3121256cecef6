"""Reads mutated files of one target one after the other; a program, so that a crash or a hang is seen from outside.

    python worker.py TARGET FIRST COUNT SEED FOLDER    files FIRST to FIRST + COUNT - 1

Appends a line of JSON to FOLDER/outcomes.jsonl for every file, and writes the number of a file to FOLDER/current before
it is read. A file that fails is kept as FOLDER/failed_NUMBER.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
import traceback
import zlib
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import torch
from mutations import mutate_file, mutate_folder
from targets import Wrong, quiet, targets

SPARE = 1536 << 20
"""Bytes that reading a small file may take besides what the process has; a lying count asks for more."""


def main() -> int:
    """Reads the files; returns 0, whatever became of them."""
    name, first, count, seed, folder = (
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        int(sys.argv[4]),
        Path(sys.argv[5]),
    )
    from gaussian4d.errors import UnforeseenError, UserError

    torch.set_num_threads(1)
    target = targets()[name]
    pristine = Path(tempfile.mkdtemp(dir=folder))
    sample = target.write(pristine)
    quiet(target.read, sample)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, resource.RLIM_INFINITY))
    outcomes = (folder / "outcomes.jsonl").open("a")
    for number in range(first, first + count):
        (folder / "current").write_text(str(number))
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
        work = Path(tempfile.mkdtemp(dir=folder))
        shutil.copytree(pristine, work, dirs_exist_ok=True)
        path = work / sample.relative_to(pristine)
        done = mutate_folder(path, rng) if path.is_dir() else mutate_file(path, rng)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome, detail = "read", ""
        try:
            quiet(target.read, path)
        except UnforeseenError as error:
            # Users see one line; that a reader stumbled instead of finding what is wrong is a fault all the same.
            outcome, detail = "failed: unforeseen content", str(error)
        except UserError as error:
            outcome, detail = "refused", str(error)
            if len(detail) > 4000 or (path.name not in detail and str(work) not in detail):
                outcome = "failed: the message does not name the file, or is too long"
        except Wrong as error:
            outcome, detail = "failed: silently wrong", str(error)
        except BaseException:
            outcome, detail = "failed: exception", traceback.format_exc()[-3000:]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        line = {"number": number, "outcome": outcome, "mutation": done, "grown_kb": grown}
        if outcome != "read":
            line["detail"] = detail[:3000]
        outcomes.write(json.dumps(line) + "\n")
        outcomes.flush()
        if outcome.startswith("failed"):
            shutil.copytree(work, folder / f"failed_{number}", dirs_exist_ok=True)
        shutil.rmtree(work)
    (folder / "current").unlink()
    shutil.rmtree(pristine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
