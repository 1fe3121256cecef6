"""Sequences of .ply files: the model's own state at each instant, complete or absent."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from gaussian4d.errors import UserError
from gaussian4d.gaussians import Gaussians
from gaussian4d.io.ply import read_ply
from gaussian4d.io.sequence import ply_columns, write_ply_sequence


class Moving:
    """A model whose Gaussians move along x and of which the last fades out."""

    meta: ClassVar[dict[str, object]] = {}
    antialiased = False

    def at(self, time: float) -> Gaussians:
        means = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]) + torch.tensor([10.0 * time, 0.0, 0.0])
        opacities = torch.tensor([0.5, 0.9 * (1 - time)])
        scales = torch.tensor([[0.1, 0.2, 0.3], [1.0, 1.0, 1.0]])
        return Gaussians(means, torch.tensor([[2.0, 0, 0, 0], [0, 0, 3.0, 0]]), scales, opacities, torch.ones(2, 4, 3))


def test_frames_hold_the_state_of_their_instant(tmp_path: Path) -> None:
    files = write_ply_sequence(tmp_path / "seq", Moving(), [0.0, 0.5, 1.0], vertical_axis="z")  # type: ignore[arg-type]
    assert [file.name for file in files] == ["frame_0000.ply", "frame_0001.ply", "frame_0002.ply"]
    middle = read_ply(files[1])
    assert middle["means"][:, 0] == pytest.approx([5.0, 8.0])
    assert np.exp(middle["scales"][0]) == pytest.approx([0.1, 0.2, 0.3])
    assert 1 / (1 + np.exp(-middle["opacities"])) == pytest.approx([0.5, 0.45])
    assert middle["quats"][1] == pytest.approx([0, 0, 1, 0])
    assert middle["sh0"].shape == (2, 1, 3) and middle["shN"].shape == (2, 3, 3)
    # Faded out at the end: it would draw nothing, so it is not written.
    assert len(read_ply(files[2])["means"]) == 1


def test_invisible_gaussians_can_be_kept_and_stay_finite() -> None:
    columns = ply_columns(Moving().at(1.0), keep_invisible=True)
    assert len(columns["means"]) == 2
    assert all(np.isfinite(value).all() for value in columns.values())


def test_a_longer_earlier_sequence_leaves_no_frame_behind(tmp_path: Path) -> None:
    write_ply_sequence(tmp_path / "seq", Moving(), [0.0, 0.5, 1.0])  # type: ignore[arg-type]
    write_ply_sequence(tmp_path / "seq", Moving(), [0.0])  # type: ignore[arg-type]
    assert [file.name for file in (tmp_path / "seq").iterdir()] == ["frame_0000.ply"]


def test_a_failure_keeps_the_earlier_sequence(tmp_path: Path) -> None:
    write_ply_sequence(tmp_path / "seq", Moving(), [0.0, 1.0])  # type: ignore[arg-type]

    class Broken(Moving):
        def at(self, time: float) -> Gaussians:
            if time > 0.5:
                raise RuntimeError("broken")
            return super().at(time)

    with pytest.raises(RuntimeError):
        write_ply_sequence(tmp_path / "seq", Broken(), [0.0, 1.0])  # type: ignore[arg-type]
    assert len(list((tmp_path / "seq").iterdir())) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["seq"]


def test_other_files_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "seq").mkdir()
    (tmp_path / "seq" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        write_ply_sequence(tmp_path / "seq", Moving(), [0.0])  # type: ignore[arg-type]
    assert (tmp_path / "seq" / "notes.txt").read_text() == "mine"
