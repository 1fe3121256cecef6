"""Plain-text snapshots of what users rely on. `python tests/project/snapshots.py` writes them anew."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import sys
import types
import typing
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

API_MODULES = (
    "gaussian4d",
    "gaussian4d.data",
    "gaussian4d.plugins",
    "diff_rasterizer",
    "gaussian4d.interop.gsplat",
    "gaussian4d.interop.open3d",
    "gaussian4d.interop.pytorch3d",
    "gaussian4d.interop.trimesh",
    "gaussian4d.mesh",
    "gaussian4d.toys",
    "generators",
    "generators.priors",
)


def api_surface() -> str:
    """Returns one line per public name: functions with their signatures, classes with their public members."""
    lines = []
    for module_name in API_MODULES:
        module = importlib.import_module(module_name)
        for name in sorted(module.__all__):
            value = getattr(module, name)
            full = f"{module_name}.{name}"
            if inspect.isclass(value):
                lines += _class_lines(full, value)
            elif isinstance(value, types.GenericAlias):
                lines.append(f"{full} = {_text(value)}")
            elif callable(value):
                lines.append(f"{full}{signature(value)}")
            else:
                lines.append(f"{full}: {type(value).__name__}")
    return "\n".join(lines) + "\n"


def _class_lines(full: str, value: type) -> list[str]:
    bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
    lines = [f"class {full}({bases})" if bases else f"class {full}"]
    if dataclasses.is_dataclass(value):
        # That a field has a default is a promise, its value is not: settings are tuned.
        lines += [
            f"{full}.{field.name}: {_text(field.type)}{' = ...' if _default(field) else ''}"
            for field in dataclasses.fields(value)
        ]
    for name, member in sorted(vars(value).items()):
        if name.startswith("_") and name != "__len__" and name != "__iter__":
            continue
        if isinstance(member, property):
            lines.append(f"{full}.{name} (property)")
        elif isinstance(member, classmethod | staticmethod):
            lines.append(f"{full}.{name}{signature(member.__func__)}")
        elif inspect.isfunction(member):
            lines.append(f"{full}.{name}{signature(member)}")
    return lines


def signature(function: typing.Callable) -> str:
    """Returns parameters and defaults without annotations: those may be spelt better without breaking anyone."""
    parts, star = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        parts.append(f"{prefix}{parameter.name}{default}")
    return f"({', '.join(parts)})"


def cli_surface() -> str:
    """Returns one line per flag of every command: name, type, default."""
    from gaussian4d.cli.app import load_commands

    lines = []
    for name, command in load_commands().items():
        lines.append(name)
        hints = typing.get_type_hints(command, include_extras=True)
        for field in dataclasses.fields(command):
            hint, positional = _plain(hints[field.name])
            flag = field.name.upper() if positional else "--" + field.name.replace("_", "-")
            lines.append(f"    {flag}: {_text(hint)}{_default(field)}")
    return "\n".join(lines) + "\n"


def _plain(hint: object) -> tuple[object, bool]:
    """Returns the type without tyro's marks, and whether the mark made it positional."""
    if typing.get_origin(hint) is typing.Annotated:
        marks = [str(mark) for mark in hint.__metadata__]  # type: ignore[attr-defined]
        return typing.get_args(hint)[0], any("Positional" in mark for mark in marks)
    return hint, False


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {field.default!r}"
    if field.default_factory is not dataclasses.MISSING:
        return f" = {field.default_factory()!r}"
    return ""


def _text(hint: object) -> str:
    text = (
        hint
        if isinstance(hint, str)
        else (hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint))
    )
    return text.replace("typing.", "").replace("pathlib.", "")


SURFACES = {"api_surface.txt": api_surface, "cli_surface.txt": cli_surface}


def check(name: str) -> None:
    """Fails with the difference and what to do when a surface is not the recorded one."""
    recorded = (HERE / name).read_text(encoding="utf-8")
    present = SURFACES[name]()
    if recorded != present:
        difference = "\n".join(
            difflib.unified_diff(
                recorded.splitlines(), present.splitlines(), f"recorded {name}", "present", lineterm="", n=0
            )
        )
        pytest.fail(
            f"{difference}\n\nThis surface is a contract with users. "
            "If the change is meant, say so in CHANGELOG.md and run:\n    python tests/project/snapshots.py",
            pytrace=False,
        )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for file, surface in SURFACES.items():
        (HERE / file).write_text(surface(), encoding="utf-8")
        print(f"wrote {(HERE / file).relative_to(ROOT)}")
