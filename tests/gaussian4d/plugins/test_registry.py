"""The registries themselves: names without imports, entries from three places, messages that name the package."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gaussian4d import plugins
from gaussian4d.cli.choices import choices, listed
from gaussian4d.errors import UserError
from gaussian4d.io.formats import Format
from gaussian4d.motion import MotionModel
from gaussian4d.plugins import (
    COMMANDS,
    EXPORTERS,
    FORMATS,
    METRICS,
    MOTIONS,
    PATHS,
    PRIORS,
    READERS,
    Registry,
    registries,
)

ROOT = Path(__file__).resolve().parents[3]


class Swing(MotionModel):
    """Not ours."""

    name = "swing"

    def at(self, params: Any, time: float, sh_degree: int | None = None) -> Any: ...


@dataclasses.dataclass
class Push:
    """A command."""

    def run(self) -> None: ...


THINGS: dict[str, Any] = {
    "gaussian4d.motions": Swing,
    "gaussian4d.readers": SimpleNamespace(recognises=bool, read=bool),
    "gaussian4d.formats": Format("swing", (".swing",), "a swing", False, True, len, None),
    "gaussian4d.commands": Push,
}
WRONG: dict[str, tuple[Any, str]] = {
    "gaussian4d.motions": (dict, "expected a subclass of gaussian4d.MotionModel"),
    "gaussian4d.readers": (SimpleNamespace(recognises=bool), "got no read"),
    "gaussian4d.formats": (Format("swing", ("swing",), "a swing", False, True, len, None), "begin with a dot"),
    "gaussian4d.commands": (dict, "expected a dataclass with a method run"),
}


@pytest.fixture(params=sorted(registries()))
def registry(request: pytest.FixtureRequest) -> Iterator[Registry[Any]]:
    yield registries()[request.param]
    registries()[request.param].unregister("swing")


def test_a_program_registers_its_own(registry: Registry[Any]) -> None:
    thing = THINGS.get(registry.group, len)
    before = registry.names()
    assert registry.register("swing")(thing) is thing
    assert registry.get("swing") is thing and registry.names() == [*before, "swing"] and "swing" in registry
    assert registry.origin("swing") == {
        "group": registry.group,
        "name": "swing",
        "package": __name__.split(".")[0],
        "version": "",
    }
    registry.unregister("swing")
    assert registry.names() == before


def test_what_is_not_of_the_kind_is_refused(registry: Registry[Any]) -> None:
    wrong, reason = WRONG.get(registry.group, (3, "expected something to call, got 3"))
    with pytest.raises(UserError, match=f"the {registry.kind} 'swing' cannot be registered: .*{reason}"):
        registry.register("swing")(wrong)
    assert "swing" not in registry


def test_our_names_are_not_taken(registry: Registry[Any]) -> None:
    ours = [name for name, entry in registry.entries().items() if entry.package == "gaussian4d"]
    for name in ours[:1]:
        with pytest.raises(UserError, match=f"{name!r} is gaussian4d's own"):
            registry.register(name)


def test_an_installed_package_is_found(registry: Registry[Any], plugin: Callable[..., Path]) -> None:
    group = registry.group.removeprefix("gaussian4d.")
    before = registry.names()
    source = f"from {__name__} import THINGS\nthing = THINGS.get({registry.group!r}, len)\n"
    plugin(source, **{group: {"swing": "swings:thing"}})
    assert registry.names() == [*before, "swing"] and "swings" not in sys.modules
    assert registry.get("swing") is THINGS.get(registry.group, len)
    assert registry.origin("swing") == {"group": registry.group, "name": "swing", "package": "swings", "version": "1.2"}
    assert registry.reason("swing") == ""


@pytest.mark.parametrize(
    "source, reason",
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit('goodbye')", "SystemExit: goodbye"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("", "AttributeError: module 'swings' has no attribute 'thing'"),
    ],
)
def test_a_broken_package_is_named(
    registry: Registry[Any], plugin: Callable[..., Path], source: str, reason: str
) -> None:
    plugin(source, **{registry.group.removeprefix("gaussian4d."): {"swing": "swings:thing"}})
    assert "swing" in registry and registry.reason("swing") == reason
    with pytest.raises(UserError, match=r"'swing' of the package swings 1\.2 does not load: ") as caught:
        registry.get("swing")
    assert reason in str(caught.value) and str(caught.value).startswith(f"the {registry.kind}")


def test_working_leaves_out_what_is_broken(plugin: Callable[..., Path]) -> None:
    plugin("import no_such_module", paths={"swing": "swings:thing"})
    with pytest.warns(UserWarning, match="the camera path 'swing' of the package swings 1.2 does not load"):
        working = PATHS.working()
    assert list(working) == ["orbit", "spiral", "interpolated", "dataset", "still"]


def test_a_name_that_is_taken_is_said(plugin: Callable[..., Path]) -> None:
    plugin("def orbit(request): ...\nfirst = second = orbit\n", paths={"orbit": "swings:orbit", "a": "swings:first"})
    plugin("def a(request): ...\n", name="later", paths={"a": "later:a"})
    assert PATHS.get("orbit").__module__ == "gaussian4d.named_paths" and PATHS.get("a").__module__ in (
        "swings",
        "later",
    )
    assert sorted(entry.name for entry in PATHS.shadowed()) == ["a", "orbit"]
    states = {(row.name, row.package): row.state for row in plugins.listed()}
    assert states["orbit", "gaussian4d"] == "ok"
    assert states["orbit", "swings"] == "name taken by gaussian4d; it is not used"


def test_a_package_that_registers_and_declares_is_one_thing(plugin: Callable[..., Path]) -> None:
    plugin(
        "from gaussian4d.plugins import PATHS\n@PATHS.register('swing')\ndef swing(request): ...\n",
        paths={"swing": "swings:swing"},
    )
    try:
        __import__("swings")
        assert PATHS.origin("swing")["version"] == "1.2" and not PATHS.shadowed()
        assert PATHS.get("swing") is sys.modules["swings"].swing  # type: ignore[attr-defined]
    finally:
        PATHS.unregister("swing")


def test_a_removed_package_is_forgotten(plugin: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = plugin("def swing(request): ...\n", paths={"swing": "swings:swing"}).parent
    assert callable(PATHS.get("swing"))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(path)])
    with pytest.raises(UserError, match=r"expected a camera path out of orbit, .*, got 'swing'"):
        PATHS.get("swing")


def test_what_a_run_needed_is_named() -> None:
    with pytest.raises(UserError) as caught:
        PATHS.get("swing", needed={"name": "swing", "package": "swings", "version": "1.2"})
    assert (
        str(caught.value)
        == "this run needs the camera path 'swing' from the package swings 1.2, which is not installed here"
    )
    with pytest.raises(UserError, match="which a program registered by itself"):
        PATHS.get("swing", needed={"name": "swing", "package": "__main__", "version": ""})


def test_the_listing_knows_every_registry_and_wrong_groups(plugin: Callable[..., Path]) -> None:
    plugin("", motion={"swing": "swings:Swing"})
    rows = plugins.listed()
    assert {row.kind for row in rows} >= {r.kind for r in registries().values() if r.names()} | {"backend"}
    (wrong,) = [row for row in rows if row.kind == "unknown"]
    assert wrong.package == "swings" and "no group gaussian4d.motion;" in wrong.state


@pytest.mark.parametrize("registry", [MOTIONS, READERS, FORMATS, EXPORTERS, METRICS, PATHS, PRIORS, COMMANDS])
def test_every_entry_of_ours_loads(registry: Registry[Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(registry.working()) == registry.names()


def test_the_choices_agree_with_what_the_models_say() -> None:
    assert MOTIONS.choices() == [name for name, model in MOTIONS.working().items() if model.fitted]


def test_help_shows_names_and_imports_nothing(plugin: Callable[..., Path]) -> None:
    plugin("raise RuntimeError('imported')", paths={"swing": "swings:swing"}, metrics={"drift": "swings:drift"})
    assert choices(METRICS).__args__ == ("psnr", "ssim", "drift")
    assert listed(PATHS, "FILE") == "{orbit,spiral,interpolated,dataset,still,swing}|FILE"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT)]))
    for command, name in (("render", "swing"), ("eval", "drift")):
        done = subprocess.run(
            [sys.executable, "-m", "gaussian4d", command, "--help"], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0 and name in done.stdout and not done.stderr
