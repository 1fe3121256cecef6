"""The parameter table under optimisation: rows are added and removed together with their optimiser state."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diff_rasterizer import FusedAdam

from ..motion import Params, is_shared
from .schedule import exponential

_MOMENTS = ("exp_avg", "exp_avg_sq")


class ParameterTable:
    """Tensors with N rows each, one optimiser group per tensor, and per-row statistics that follow the rows.

    Columns without elements (spherical harmonics of degree 0) are kept but not optimised. Shared tensors (see
    `motion.base`) are optimised and saved like the others, but have no rows to add, copy or remove.
    """

    def __init__(self, params: Params, rates: Mapping[str, tuple[float, float]]) -> None:
        missing = set(params) - set(rates)
        assert not missing, f"no learning rate for {missing}"
        self.rates = {name: rates[name] for name in params}
        self.params: Params = {name: torch.nn.Parameter(value.float().contiguous()) for name, value in params.items()}
        groups = [
            {"params": [value], "lr": self.rates[name][0], "name": name}
            for name, value in self.params.items()
            if value.numel()
        ]
        self.optimizer = FusedAdam(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-15)
        self.statistics: dict[str, Tensor] = {}
        """Per-row figures of the densifier, [N] each."""

    def __len__(self) -> int:
        return self.params["means"].shape[0]

    @property
    def columns(self) -> list[str]:
        """The names of the tensors that have a row per Gaussian."""
        return [name for name in self.params if not is_shared(name)]

    def set_progress(self, progress: float) -> None:
        """Sets every group's learning rate to its schedule's value at `progress`."""
        for group in self.optimizer.param_groups:
            group["lr"] = exponential(self.rates[group["name"]], progress)

    def step(self) -> None:
        """Takes one optimiser step and clears the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def rebuild(self, keep: Tensor, new: Params | None = None) -> None:
        """Keeps the rows `keep` (mask [N] or indices), then appends the rows of `new`.

        New rows start with zero moments and zero statistics.
        """
        indices = keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep
        added = new["means"].shape[0] if new else 0
        for name in self.columns:
            kept = self.params[name].detach()[indices]
            value = torch.cat([kept, new[name]]) if new else kept
            self._replace(name, torch.nn.Parameter(value.contiguous()), indices, added)
        for name, value in self.statistics.items():
            self.statistics[name] = torch.cat([value[indices], value.new_zeros(added)])

    @torch.no_grad()
    def overwrite(self, rows: Tensor, values: Params) -> None:
        """Sets the rows at indices `rows` to `values`, their moments and statistics to zero."""
        for name, value in values.items():
            self.params[name][rows] = value
        for name in self.columns:
            state = self.optimizer.state.get(self.params[name], {})
            for key in _MOMENTS:
                if key in state:
                    state[key][rows] = 0.0
        for value in self.statistics.values():
            value[rows] = 0.0

    def rows(self, indices: Tensor) -> Params:
        """Returns a copy of the rows at `indices`."""
        return {name: self.params[name].detach()[indices] for name in self.columns}

    def state(self) -> dict[str, Tensor]:
        """Returns every tensor needed to go on exactly: parameters, moments, step counts, statistics."""
        tensors = {f"params/{name}": value.detach() for name, value in self.params.items()}
        for name, value in self.params.items():
            for key, item in self.optimizer.state.get(value, {}).items():
                tensors[f"optimizer/{name}/{key}"] = item
        return {**tensors, **{f"statistics/{name}": value for name, value in self.statistics.items()}}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes back to a saved state, whatever the number of rows was before."""
        for name in list(self.params):
            parameter = torch.nn.Parameter(tensors[f"params/{name}"].clone())
            self._replace(name, parameter, None, 0)
            prefix = f"optimizer/{name}/"
            moments = {key[len(prefix) :]: item.clone() for key, item in tensors.items() if key.startswith(prefix)}
            if moments:
                self.optimizer.state[parameter] = moments
        prefix = "statistics/"
        self.statistics = {
            key[len(prefix) :]: value.clone() for key, value in tensors.items() if key.startswith(prefix)
        }

    def _replace(self, name: str, parameter: torch.nn.Parameter, indices: Tensor | None, added: int) -> None:
        """Puts `parameter` in the place of column `name`; moments keep rows `indices` and gain `added` zero rows."""
        old = self.params[name]
        state = self.optimizer.state.pop(old, None)
        self.params[name] = parameter
        for group in self.optimizer.param_groups:
            if group["name"] == name:
                group["params"] = [parameter]
        if state and indices is not None:
            for key in _MOMENTS:
                kept = state[key][indices]
                state[key] = torch.cat([kept, kept.new_zeros(added, *kept.shape[1:])])
            self.optimizer.state[parameter] = state
