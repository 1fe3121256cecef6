"""Priors of other packages by name, and generations that need one which is missing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pipeline_fakes import FakeParts, FakePrior

from gaussian4d.cli import app
from gaussian4d.cli.app import main
from gaussian4d.errors import UserError
from gaussian4d.plugins import PRIORS
from generators.command import Generate
from generators.pipeline import parts
from generators.pipeline.settings import Settings, check_source
from generators.priors.embedded import open_embedded

# The package's prior is the stand-in, named with the role it was opened for.
SOURCE = """
import dataclasses
from pipeline_fakes import FakePrior
calls = []
def pendulum(role):
    calls.append(role)
    prior = FakePrior([])
    prior.info = dataclasses.replace(prior.info, name=f"pendulum for {role}", source="pendulum")
    return prior
"""


@pytest.fixture(autouse=True)
def only_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "load_commands", lambda: {"generate": Generate, "other": Generate})


def generate(*arguments: object) -> int:
    return main(["generate", *map(str, arguments)])


def test_a_prior_by_name(
    fakes: FakeParts,
    picture: Path,
    plugin: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plugin(SOURCE, priors={"pendulum": "swings:pendulum"})
    out, few = tmp_path / "run", ["--frames", 3]
    assert generate("--image", picture, "--out", out, "--prior", "pendulum", "--video-prior", "pendulum", *few) == 0
    # One prior that serves both roles is opened once.
    assert "multi-view prior: pendulum for multi-view (pendulum)" in capsys.readouterr().out
    assert sys.modules["swings"].calls == ["multi-view"]
    needs = json.loads((out / "generate.json").read_text())["needs"]
    assert {(need["name"], need["package"], need["version"]) for need in needs} == {("pendulum", "swings", "1.2")}
    site = str(tmp_path / "site")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != site])
    assert generate("--out", out, "--resume", "--pick", 0) == 2
    missing = "this run needs the prior 'pendulum' from the package swings 1.2, which is not installed here"
    assert missing in capsys.readouterr().err
    # Another one in its place is asked for instead.
    assert generate("--out", out, "--resume", "--prior", "other/weights", "--video-prior", "other/weights") == 2
    assert capsys.readouterr().err.startswith("error: other/weights: ")


def test_a_run_of_our_own_prior_needs_nothing(fakes: FakeParts, picture: Path, tmp_path: Path) -> None:
    assert generate("--image", picture, "--out", tmp_path / "run", "--static") == 0
    assert "needs" not in json.loads((tmp_path / "run" / "generate.json").read_text())


def test_a_prior_that_does_not_load_takes_nothing_else_down(
    fakes: FakeParts,
    picture: Path,
    plugin: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plugin("import no_such_module", priors={"pendulum": "swings:pendulum"})
    assert generate("--image", picture, "--out", tmp_path / "a", "--static", "--prior", "pendulum") == 2
    assert "the prior 'pendulum' of the package swings 1.2 does not load" in capsys.readouterr().err
    assert generate("--image", picture, "--out", tmp_path / "b", "--static") == 0


def test_a_prior_of_another_role_is_refused(plugin: Callable[..., Path]) -> None:
    plugin("def bare(role): return type('Bare', (), {'info': None})()", priors={"bare": "swings:bare"})
    with pytest.raises(UserError, match="bare is no multi-view prior"):
        parts.open_priors("bare", None, None)


def test_names_are_checked_before_any_work(plugin: Callable[..., Path]) -> None:
    plugin("", priors={"pendulum": "swings:pendulum"})
    check_source("pendulum", "--prior")
    with pytest.raises(UserError, match="--prior: expected embedded, pendulum, a folder of weights or a hub id"):
        check_source("pendelum", "--prior")


def test_a_motion_that_no_asset_is_fitted_with_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a motion out of .*, got 'windows'"):
        parts.check_motion("windows")


def test_ours_is_found_by_its_entry_point() -> None:
    assert PRIORS.get("embedded") is open_embedded and PRIORS.origin("embedded") == {}
    assert Settings(Path("a")).prior == "embedded" and FakePrior([]).info.source == "embedded"
