"""Problems of a scene on disk: collected one by one, raised as one clear error."""

from __future__ import annotations

import dataclasses
import re
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


class MissingFile(UserError):
    """A file that a list names is not there; `path` is where it was looked for."""

    def __init__(self, path: str | Path, message: str) -> None:
        super().__init__(message)
        self.path = str(path)


# What differs between messages of one cause: names in quotes, paths, what something is called, numbers.
_NAMED = re.compile(r"(?<!\w)'[^']*'|\S*/\S+|\b(?:camera|image|video|frame|entry|row) \S+|[-+]?\d[\d.,e+-]*|\S+\.\w+")
_MOST_NAMES = 6


def _folded(problems: list[Problem]) -> list[Problem]:
    """Returns the problems, those that only differ in names and numbers as one that counts and names the others."""
    alike: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        shape = _NAMED.sub("#", problem.message.replace(problem.file, "#"))
        alike.setdefault((problem.severity, shape), []).append(problem)
    folded = []
    for first, *others in alike.values():
        if others:
            listed = ", ".join(_told_apart(first, other) for other in others[:_MOST_NAMES])
            more = ", ..." if len(others) > _MOST_NAMES else ""
            first = dataclasses.replace(
                first, message=f"{first.message}; the same for {len(others)} more: {listed}{more}"
            )
        folded.append(first)
    return folded


def _told_apart(first: Problem, other: Problem) -> str:
    """Returns what tells a problem from the first of its kind: its file, or the first word that differs."""
    if other.file != first.file:
        path = Path(other.file)
        return path.name if path.name != Path(first.file).name else f"{path.parent.name}/{path.name}"
    words = zip(first.message.split(), other.message.split())
    return next((word for known, word in words if known != word), other.message).strip(":;,()'")


class ProblemList:
    """Collects problems while a scene is read, so that one pass over the files can report all of them.

    With `skip_missing`, frames whose pictures are missing are left out and counted; otherwise they are an error.
    """

    def __init__(self, skip_missing: bool = False) -> None:
        self.skip_missing = skip_missing
        self._problems: list[Problem] = []
        self._known: set[Problem] = set()
        self._missing: dict[str, list[tuple[str, str]]] = {}
        self._renamed: dict[tuple[str, str], list[tuple[str, str]]] = {}

    def error(self, file: str | Path, message: str) -> None:
        """Notes a problem that makes the scene unusable."""
        self._add(Problem("error", str(file), message))

    def warning(self, file: str | Path, message: str) -> None:
        """Notes something the reader could work around."""
        self._add(Problem("warning", str(file), message))

    def _add(self, problem: Problem) -> None:
        if problem not in self._known:
            self._known.add(problem)
            self._problems.append(problem)

    def entry(self, file: str | Path, where: str, error: UserError) -> None:
        """Notes what is wrong with one entry of a list; entries with the same fault become one problem (`settle`).

        Args:
            file: The file that holds the list.
            where: Which entry, such as "frame 3".
            error: Caught while the entry was read.
        """
        if isinstance(error, MissingFile):
            self._missing.setdefault(str(file), []).append((f"{where}: {error}", Path(error.path).name))
        else:
            self.error(file, f"{where}: {error}")

    def renamed(self, file: str | Path, how: str, name: str, found: str) -> None:
        """Notes that a list names a file otherwise than it is called; names of one kind become one warning (`settle`).

        Args:
            file: The file that holds the list.
            how: The kind of name, such as "with backslashes".
            name: What the list says.
            found: The file that was taken.
        """
        self._renamed.setdefault((str(file), how), []).append((name, found))

    def settle(self) -> None:
        """Makes one problem of each cause, when all of a list is read.

        That is of the missing files of each list, of its unusual names, and of whatever else was noted of several
        entries or files alike.
        """
        for (file, how), names in self._renamed.items():
            count = len(dict.fromkeys(names))
            many = "1 file is" if count == 1 else f"{count} files are"
            self.warning(file, f"{many} listed {how}: {names[0][0]} is read from {names[0][1]}")
        self._renamed.clear()
        for file, missing in self._missing.items():
            count, first = len(missing), missing[0][0]
            others = ", ".join(name for _, name in missing[1:4]) + (", ..." if count > 4 else "")
            many = f"; {count} files are missing in total, also {others}" if others else ""
            if self.skip_missing:
                left = "1 entry is" if count == 1 else f"{count} entries are"
                self.warning(file, f"{left} left out (--skip-missing): {first}{many}")
            else:
                self.error(file, f"{first}{many}; --skip-missing continues without {'them' if others else 'it'}")
        self._missing.clear()
        self._problems = _folded(self._problems)

    def take(self, file: str | Path, error: UserError) -> None:
        """Notes a caught `UserError` as an error of `file`, named once."""
        self.error(file, str(error).removeprefix(f"{file}: "))

    def take_warning(self, file: str | Path, error: UserError) -> None:
        """Notes a caught `UserError` about something that is left out, named once."""
        self.warning(file, f"ignored: {str(error).removeprefix(f'{file}: ')}")

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
