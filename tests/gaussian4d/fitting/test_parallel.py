"""Several processes fit as one process with the larger batch does; one of them writes; a failure stops all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from team_child import main as fit_here

from gaussian4d.errors import UserError
from gaussian4d.fitting.checkpoint import load_checkpoint
from gaussian4d.fitting.parallel import Team
from gaussian4d.model import load_model

CHILD = Path(__file__).parent / "team_child.py"

pytestmark = pytest.mark.usefixtures("cpu_backend")


# Ends what hangs; on a busy machine two processes that only import torch have taken a minute.
PATIENCE = 600


def meeting_place() -> dist.TCPStore:  # pyright: ignore[reportPrivateImportUsage]
    """Returns where the processes of a team find each other, at a port that stays taken while it lives.

    As with torchrun it is held by who starts them: a port that is only looked up, for rank 0 to open seconds later,
    may be another program's by then.
    """
    return dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )


def team_of_two(*arguments: str | Path) -> list[tuple[int, str]]:
    """Runs two processes as torchrun would; returns the exit code and the output of each."""
    store = meeting_place()
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    children = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = []
    try:
        for child in children:
            try:
                outputs.append(child.communicate(timeout=PATIENCE)[0])
            except subprocess.TimeoutExpired:
                # What it said until then tells where it hung.
                child.kill()
                outputs.append(f"{child.communicate()[0]}\nstill there after {PATIENCE} s")
    finally:
        for child in children:
            child.kill()
    return [(child.returncode, output) for child, output in zip(children, outputs)]


def checkpoint(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "checkpoints" / f"step_{step:09d}.safetensors")[0]


def test_two_processes_agree_with_one_of_the_doubled_batch(ball_scene: Path, tmp_path: Path) -> None:
    codes = team_of_two(CHILD, ball_scene, tmp_path / "two")
    assert [code for code, _ in codes] == [0, 0], codes
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert fit_here(ball_scene, tmp_path / "one") == 0
    finally:
        torch.set_num_threads(threads)
    before, after = (len(checkpoint(tmp_path / "one", step)["params/means"]) for step in (40, 200))
    assert before < after, "no densification took place"
    one, two = checkpoint(tmp_path / "one", 200), checkpoint(tmp_path / "two", 200)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert value.shape == two[name].shape, name
        # The gradients of the two pictures are added in another order, so the last bits may differ.
        difference = (two[name].double() - value.double()).norm() / value.double().norm().clamp_min(1e-12)
        assert difference <= 1e-4, f"{name}: relative difference {float(difference):.2e}"
    lines = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("one", "two")
    ]
    assert [line["step"] for line in lines[1]] == list(range(5, 201, 5))
    for a, b in zip(*lines):
        assert a["gaussians"] == b["gaussians"] and b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    # One process speaks for both.
    log = (tmp_path / "two" / "log.txt").read_text()
    assert log.count("fitted in") == 1 and "2 processes draw 2 pictures per step" in log
    leader, other = (output for _, output in codes)
    assert "fitted in" in leader and other.strip() == "rank 1 leads False interrupted False"


def test_a_stopped_team_resumes_and_a_failing_one_stops(ball_scene: Path, tmp_path: Path) -> None:
    broken = team_of_two(CHILD, ball_scene, tmp_path / "run", "--short", "--break")
    assert [code for code, _ in broken] == [2, 2], broken
    assert "error: frame 3 of camera 2 cannot be read" in broken[1][1], broken
    assert "another process of this fit stopped" in broken[0][1] and "Traceback" not in broken[0][1], broken
    stopped = team_of_two(CHILD, ball_scene, tmp_path / "run", "--short", "--resume", "--stop")
    assert [code for code, _ in stopped] == [0, 0], stopped
    # A hook of rank 0 asked; both stopped after the same step.
    assert "rank 1 leads False interrupted True" in stopped[1][1], stopped
    assert "resumed at step 10" in stopped[0][1] and "stopped at step 25" in stopped[0][1], stopped
    # One process alone goes on with what two began.
    assert fit_here(ball_scene, tmp_path / "run", "--short", "--resume") == 0
    assert fit_here(ball_scene, tmp_path / "whole", "--short") == 0
    # The first densification, at step 12, lies after the checkpoint that was gone back to.
    one, two = checkpoint(tmp_path / "whole", 40), checkpoint(tmp_path / "run", 40)
    for name, value in one.items():
        torch.testing.assert_close(two[name].double(), value.double(), rtol=1e-4, atol=1e-6, msg=name)


def test_the_port_of_a_team_stays_taken() -> None:
    store = meeting_place()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", store.port))


def test_torchrun_starts_the_command_line(ball_scene: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    fit = ["-m", "gaussian4d", "fit", ball_scene, "--out", tmp_path / "run"]
    # Per-frame: a fit of fits, whose processes have to agree on where each ends.
    arguments = [*fit, "--motion", "per-frame", "--max-steps", "10", "--max-minutes", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model.g4d") == 1
    fitted = json.loads((tmp_path / "run" / "config.json").read_text())["fit"]
    assert fitted["batch"] == 2
    assert (tmp_path / "run" / "eval" / "metrics.json").exists()
    model = load_model(tmp_path / "run")
    assert len(model.motion.config.times) == 4 and model.meta["fit"]["steps"] == 10


def test_pictures_are_shared_out_evenly() -> None:
    shares = [list(Team(rank, 3).share(6)) for rank in range(3)]
    assert shares == [[0, 3], [1, 4], [2, 5]]
    with pytest.raises(UserError, match="multiple of 3"):
        Team(0, 3).check_batch(4)


def test_a_team_of_one_changes_nothing() -> None:
    team = Team.join()
    parameter = torch.nn.Parameter(torch.ones(2))
    team.sum_gradients([parameter])
    assert parameter.grad is None
    assert team.leads and team.size == 1 and team.any(True) and team.of_leader(0.25) == 0.25


def test_processes_that_do_not_find_each_other_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(UserError, match="start them with torchrun"):
        Team.join()


def test_a_port_that_another_program_has_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = f"127.0.0.1:{other.getsockname()[1]}"
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "0")
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", place.split(":")[1])
        with pytest.raises(UserError, match=f"did not find each other at {place}"):
            Team.join()
