"""Several processes whose tensors lie on accelerators: what is exchanged where, and by which library."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from gaussian4d.errors import UserError
from gaussian4d.fitting.parallel import Team, own_device


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The environment of the second of two processes; returns what a process group is made with."""
    asked: list[str] = []

    def begin(exchange: str, timeout: Any) -> None:
        asked.append(exchange)

    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "init_process_group", begin)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    return asked


def test_each_device_has_its_library(torchrun: list[str], pretend: torch.device) -> None:
    for device in (None, torch.device("cpu"), torch.device("cuda", 1)):
        team = Team.join(device)
        assert (team.rank, team.size) == (1, 2)
    assert torchrun == ["gloo", "gloo", "cpu:gloo,cuda:nccl"]
    with pytest.raises(UserError, match="no way between pretend:0 devices"):
        Team.join(pretend)


def test_each_process_takes_the_next_device(torchrun: list[str], pretend: torch.device) -> None:
    module = torch.get_device_module(pretend)
    try:
        assert own_device(pretend) == torch.device("pretend", 1)
        assert module.current_device() == 1
        assert own_device(torch.device("cpu")) == torch.device("cpu")
    finally:
        module.set_device(pretend)


def test_sums_are_taken_where_tensors_are(pretend: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[torch.device] = []

    def doubled(tensor: torch.Tensor, op: Any = None) -> None:
        # Two processes with equal tensors.
        places.append(tensor.device)
        if op is None:
            tensor.mul_(2.0)

    monkeypatch.setattr(dist, "all_reduce", doubled)
    monkeypatch.setattr(dist, "broadcast", lambda tensor, src: places.append(tensor.device))
    team = Team(0, 2)
    values = [torch.ones(3, device=pretend), torch.full((2, 2), 3.0, device=pretend)]
    team.sum(values)
    assert [value.cpu().flatten().tolist() for value in values] == [[2.0] * 3, [6.0] * 4]
    seen, unseen = (torch.nn.Parameter(torch.ones(2, device=pretend)) for _ in range(2))
    seen.grad = torch.full((2,), 5.0, device=pretend)
    team.sum_gradients([seen, unseen])
    assert seen.grad.device == pretend and seen.grad.cpu().tolist() == [10.0, 10.0] and unseen.grad is None
    assert set(places) == {pretend}
    places.clear()
    assert team.any(True) and not team.any(False) and team.of_leader(0.25) == 0.25
    shared = team.from_leader(lambda: {"means": torch.ones(2, 3, device=pretend)})
    assert shared["means"].device.type == "cpu" and torch.equal(shared["means"], torch.ones(2, 3))
    # A question of the host is answered on the host: no process waits for its device.
    assert {place.type for place in places} == {"cpu"}
