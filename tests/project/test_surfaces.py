"""The Python API and the command line are what was promised: compared with text files beside this test."""

from __future__ import annotations

import importlib

import pytest
from snapshots import SURFACES, api_surface, check, signature


@pytest.mark.parametrize("name", sorted(SURFACES))
def test_surface_is_the_recorded_one(name: str) -> None:
    check(name)


def test_a_changed_surface_fails_with_the_difference_and_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SURFACES, "cli_surface.txt", lambda: "fit\n    --nonsense: int\n")
    with pytest.raises(pytest.fail.Exception, match="nonsense") as caught:
        check("cli_surface.txt")
    assert "python tests/project/snapshots.py" in str(caught.value)


def test_signature_shows_names_kinds_and_defaults() -> None:
    def function(a: int, b: str = "x", *rest: int, c: float, d: object = None, **more: object) -> None: ...

    assert signature(function) == "(a, b='x', *rest, c, d=None, **more)"


def test_every_public_name_exists_and_no_module_hides_a_function() -> None:
    import gaussian4d

    for name in gaussian4d.__all__:
        assert getattr(gaussian4d, name) is not None
    for name in ("fit", "render", "evaluate", "load_scene", "load_model"):
        importlib.import_module("gaussian4d.cli.app").load_commands()
        assert callable(getattr(gaussian4d, name)), name


def test_the_surface_covers_the_rasterizer() -> None:
    assert "diff_rasterizer.rasterization(means, quats, scales, opacities, colors, viewmats, Ks, width, height" in (
        api_surface()
    )
