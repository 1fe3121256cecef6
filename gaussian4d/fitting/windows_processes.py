"""Windows of a long clip fitted by several processes at a time, each an ordinary run that knows nothing of the others.

    python -m gaussian4d.fitting.windows_processes RUN/windows/003

goes on with one window. Every window starts from points found in its own frames.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..model import DynamicGaussians, load_model
from ..run_folder import RunFolder
from ..scene import Scene
from .config import FitConfig
from .hooks import FitHook
from .normalise import Normalisation
from .progress import Narrator, Reporter
from .trainer import Trainer
from .windows import Plan, joined, scene_options, window_config, window_folder

_POLL_SECONDS = 0.25
_FIGURES_SECONDS = 5.0
_INTERRUPTED = 130


class WindowProcesses:
    """Fits of windows at the same time: see `Trainer`, whose surface this has."""

    def __init__(
        self,
        scene: Scene,
        config: FitConfig,
        plan: Plan,
        normalisation: Normalisation,
        out: Path,
        reporter: Narrator,
        hooks: Sequence[FitHook],
        began: float,
    ) -> None:
        if hooks:
            raise UserError("hooks such as --view look into a fit of this process; leave them out, or --jobs")
        self.scene, self.config, self.plan, self.out, self.reporter = scene, config, plan, out, reporter
        self.stop_requested = False
        self.metrics: dict[str, Any] | None = None
        self._began, self._told = began, time.monotonic()
        for index, (start, stop) in enumerate(plan.windows):
            folder = window_folder(out, index)
            run = RunFolder(folder)
            options = {**scene_options(scene), "part": [start, stop]}
            if not run.exists:
                folder.mkdir(parents=True, exist_ok=True)
                run.write(window_config(config, plan, index, scene, normalisation.to_dict()), options)
            elif run.scene_options()["path"] != options["path"]:
                # The scene was moved since.
                run.write(run.config(), options)
        if plan.finished:
            reporter.say(f"{len(plan.finished)} of {len(plan.windows)} windows were finished before")

    @property
    def step(self) -> int:
        """Steps taken so far, over all windows, as far as they have told."""
        return sum(line.get("step", 0) for line in self._last_lines())

    @property
    def elapsed(self) -> float:
        """Seconds of this sitting."""
        return time.monotonic() - self._began

    @property
    def progress(self) -> float:
        """How much of the fit is done, 0..1, as far as the windows have told."""
        done = [
            1.0 if index in self.plan.finished else min(line.get("progress", 0.0), 0.999)
            for index, line in enumerate(self._last_lines())
        ]
        return sum(done) / len(done)

    def run(self) -> float:
        """Fits the windows that are missing, until a stop is requested; returns how much is done."""
        waiting = [index for index in range(len(self.plan.windows)) if index not in self.plan.finished]
        running: dict[int, subprocess.Popen[bytes]] = {}
        failed: int | None = None
        asked = False
        try:
            while running or (waiting and not self.stop_requested and failed is None):
                while waiting and len(running) < self.plan.jobs and not self.stop_requested and failed is None:
                    index = waiting.pop(0)
                    running[index] = self._start(index)
                time.sleep(_POLL_SECONDS)
                if (self.stop_requested or failed is not None) and not asked:
                    asked = True
                    for process in running.values():
                        process.send_signal(signal.SIGINT)
                for index, process in list(running.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del running[index]
                    if code == 0:
                        self._finish(index)
                    elif code != _INTERRUPTED and failed is None and not self.stop_requested:
                        failed = index
                self._tell_figures(sorted(running))
        finally:
            # A second Ctrl-C, or an error of our own: nobody may be left behind.
            for process in running.values():
                process.terminate()
                process.wait()
        if failed is not None:
            why = _last_words(self._words(failed))
            raise UserError(
                f"window {failed + 1} of {len(self.plan.windows)} could not be fitted: {why}. The other windows are"
                f" kept; when that is mended, go on with: gaussian4d fit {self.scene.path} --out {self.out} --resume"
            )
        return self.progress

    def model(self) -> DynamicGaussians:
        """Returns the windows there are, from the first on, as one model; raises `UserError` when there is none."""
        models = []
        for index in range(len(self.plan.windows)):
            folder = window_folder(self.out, index)
            if not RunFolder(folder).model_path.exists():
                break
            models.append(load_model(folder))
        if not models:
            raise UserError(
                f"stopped before the first window had a model; go on with: gaussian4d fit {self.scene.path} --out"
                f" {self.out} --resume"
            )
        return joined(models, self.scene)

    def tell(self, event: str) -> None:
        """Tells nobody: fits of several processes have no hooks."""

    def go_back(self) -> bool:
        """Returns whether there is anything to keep; windows go back by themselves."""
        return bool(self.plan.finished)

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        """Returns the process that fits one window."""
        threads = max((os.cpu_count() or 1) // self.plan.jobs, 1)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "GAUSSIAN4D_PARENT": str(os.getpid())}
        command = [sys.executable, "-m", __name__, str(window_folder(self.out, index))]
        self.reporter.say(f"window {index + 1} of {len(self.plan.windows)} begins")
        with self._words(index).open("wb") as words:
            # A session of its own: Ctrl-C reaches the window once, through us.
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, env=environment, start_new_session=True
            )

    def _finish(self, index: int) -> None:
        self.plan.finished = sorted([*self.plan.finished, index])
        self.plan.save(self.out)
        self.reporter.say(f"window {index + 1} of {len(self.plan.windows)} is fitted")

    def _words(self, index: int) -> Path:
        """Returns the file that takes what a window's process prints."""
        return window_folder(self.out, index) / "output.txt"

    def _last_lines(self) -> list[dict[str, Any]]:
        """Returns the newest line of metrics.jsonl of every window; empty where there is none."""
        return [_last_line(RunFolder(window_folder(self.out, k)).metrics_path) for k in range(len(self.plan.windows))]

    def _tell_figures(self, running: Sequence[int]) -> None:
        """Tells from time to time how the windows under way are doing: sums, and means of loss and PSNR."""
        if time.monotonic() - self._told < _FIGURES_SECONDS:
            return
        self._told = time.monotonic()
        every = self._last_lines()
        lines = [every[index] for index in running if every[index]]
        if not lines:
            return
        progress, elapsed = self.progress, self.elapsed
        values = {
            "step": sum(line.get("step", 0) for line in every),
            "progress": round(progress, 6),
            "loss": sum(line["loss"] for line in lines) / len(lines),
            "psnr": sum(line["psnr"] for line in lines) / len(lines),
            "gaussians": sum(line.get("gaussians", 0) for line in every),
            "elapsed": round(elapsed, 2),
            "steps_per_second": round(sum(line["steps_per_second"] for line in lines), 2),
        }
        self.reporter.figures(values, progress, elapsed * (1.0 - progress) / progress if progress > 0 else None)


def _last_line(path: Path) -> dict[str, Any]:
    """Returns the last whole line of a file of JSON lines; empty when there is none yet."""
    try:
        content = path.read_text(encoding="utf-8").rpartition("\n")[0].rpartition("\n")[2]
        return json.loads(content) if content else {}
    except (OSError, json.JSONDecodeError):
        return {}


def _last_words(path: Path) -> str:
    """Returns the last line that a process printed."""
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return lines[-1].removeprefix("error: ")
    return "it said nothing"


def main(arguments: Sequence[str]) -> int:
    """Goes on with the run of one window; returns the exit code of `gaussian4d fit`."""
    from .opening import open_fit
    from .training import train

    began, folder = time.monotonic(), Path(arguments[0])
    parent = int(os.environ.get("GAUSSIAN4D_PARENT", "0"))

    def follow(trainer: Trainer, event: str) -> None:
        # Whoever started the windows is gone: nobody would go on from here.
        if parent and os.getppid() != parent:
            trainer.stop_requested = True

    try:
        opened = open_fit(RunFolder(folder).scene(), folder, "quick", {}, resume=True)
        with Reporter(folder) as reporter:
            trained = train(opened, reporter, [follow], began)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    return _INTERRUPTED if trained.progress < 1.0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
