"""Values of settings, checked against the types of their dataclass fields: every message names the setting's path."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json
from .weights import Weight, checked_weight

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def checked_dataclass(cls: type, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Returns `values` as the fields of the dataclass `cls`; raises `UserError` for unknown names and wrong values."""
    hints = _hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        names = ", ".join(f"{prefix}{name}" for name in hints)
        raise UserError(
            f"unknown fit setting {', '.join(prefix + name for name in unknown)}; the settings are: {names}"
        )
    return {name: checked_value(hints[name], value, prefix + name) for name, value in values.items()}


def checked_value(hint: Any, value: Any, path: str) -> Any:
    """Returns `value` as the type `hint`; JSON lists become tuples where those are meant.

    Raises:
        UserError: with the setting's `path`, what was expected and what came.
    """
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(hint)}
        if not isinstance(value, Mapping):
            raise UserError(f"{path}: expected a table of settings, got {_shown(value)}")
        return hint(**checked_dataclass(hint, value, f"{path}."))
    if hint == Weight:
        return checked_weight(path.removeprefix("loss.weights."), value)
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _one_of(inside, value, path)
    if origin is tuple:
        return _tuple(inside, value, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{path}: expected a table, got {_shown(value)}")
        return {str(name): checked_value(inside[1], item, f"{path}.{name}") for name, item in value.items()}
    if origin is list:
        if not isinstance(value, list | tuple):
            raise UserError(f"{path}: expected a list, got {_shown(value)}")
        return [checked_value(inside[0], item, path) for item in value]
    return _plain(hint, value, path)


def parsed(text: str) -> tuple[str, Any]:
    """Returns the path and the value of `PATH=VALUE`, as `--set` takes it; values are JSON, or words.

    Raises:
        UserError: without an equals sign or a path.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise UserError(f"expected a setting as PATH=VALUE, such as densify.grad=2e-4, got {text!r}")
    try:
        return path.strip(), json.loads(value)
    except json.JSONDecodeError:
        return path.strip(), {"none": None}.get(value.strip().lower(), value.strip())


def settings_of_file(path: Path) -> dict[str, Any]:
    """Returns the settings of a JSON file by path: nested tables or paths, or the `fit` of a run's config.json.

    Raises:
        UserError: for a file that is not JSON or holds something else.
    """
    values = read_json(path)
    if isinstance(values, dict) and isinstance(values.get("fit"), dict):
        values = values["fit"]
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a table of settings, such as {{'max_steps': 500}}, got {_shown(values)}")
    values = {name: value for name, value in values.items() if name not in ("schema_version", "plugins")}
    return _flattened(values)


def known_paths(cls: type, prefix: str = "") -> list[str]:
    """Returns the paths of every field of `cls` and of the dataclasses inside."""
    paths: list[str] = []
    for name, hint in _hints(cls).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            paths += known_paths(hint, f"{prefix}{name}.")
        else:
            paths.append(prefix + name)
    return paths


def _flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        part = not prefix and name in ("init", "loss", "optim", "densify", "extra", "keep")
        if isinstance(value, Mapping) and (part or prefix + name == "loss.weights"):
            # The weights of a file are added to those of the preset, like single ones.
            inner = "loss." if prefix + name == "loss.weights" else f"{prefix}{name}."
            flat |= _flattened(value, inner)
        else:
            flat[prefix + name] = value
    return flat


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _one_of(options: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    errors = []
    for option in options:
        try:
            return checked_value(option, value, path)
        except UserError as error:
            errors.append(error)
    raise errors[-1]


def _tuple(inside: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{path}: expected a list, got {_shown(value)}")
    if len(inside) == 2 and inside[1] is Ellipsis:
        return tuple(checked_value(inside[0], item, path) for item in value)
    if len(value) != len(inside):
        raise UserError(f"{path}: expected {len(inside)} values, got {_shown(value)}")
    return tuple(checked_value(hint, item, path) for hint, item in zip(inside, value))


def _plain(hint: Any, value: Any, path: str) -> Any:
    if hint is Any or hint not in _WORDS:
        return _tuples(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if math.isnan(value):
            raise UserError(f"{path}: expected a number, got NaN")
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{path}: expected {_WORDS[hint]}, got {_shown(value)}")
    return value


def _tuples(value: Any) -> Any:
    """Returns JSON lists as tuples, so that a saved and loaded config equals its source."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
