"""Problems of a scene on disk: collected one by one, raised as one clear error."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..errors import UserError


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong or surprising in a scene's files."""

    severity: Literal["error", "warning"]
    file: str
    """The file or folder it was seen in."""
    message: str
    """What was expected, what came, what to do."""

    def __str__(self) -> str:
        return f"{self.severity}: {self.file}: {self.message}"


class ListedError(UserError):
    """A `UserError` whose reasons are in the `ProblemList` already."""


class ProblemList:
    """Collects problems while a scene is read, so that one pass over the files can report all of them."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []

    def error(self, file: str | Path, message: str) -> None:
        """Notes a problem that makes the scene unusable."""
        self._add(Problem("error", str(file), message))

    def warning(self, file: str | Path, message: str) -> None:
        """Notes something the reader could work around."""
        self._add(Problem("warning", str(file), message))

    def _add(self, problem: Problem) -> None:
        if problem not in self._problems:
            self._problems.append(problem)

    def take(self, file: str | Path, error: UserError) -> None:
        """Notes a caught `UserError` as an error of `file`, named once."""
        self.error(file, str(error).removeprefix(f"{file}: "))

    def take_warning(self, file: str | Path, error: UserError) -> None:
        """Notes a caught `UserError` about something that is left out, named once."""
        self.warning(file, f"left out: {str(error).removeprefix(f'{file}: ')}")

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self._problems if problem.severity == "error"]

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._problems)

    def __len__(self) -> int:
        return len(self._problems)

    def raise_errors(self, scene: str | Path) -> None:
        """Raises `ListedError` with the first error, and says how many more there are; does nothing without errors."""
        errors = self.errors
        if not errors:
            return
        message = f"{errors[0].file}: {errors[0].message}"
        if len(errors) > 1:
            message += f" (and {len(errors) - 1} more; `gaussian4d info {scene}` lists them all)"
        raise ListedError(message)
