"""Files that a scene's own lists name: found as people have them, and never outside the scene's folder by a name.

A name in a list may come from another system or program: backslashes, another letter case, another or no ending,
escapes as in a web address, accents composed in another way, an absolute path of the computer that wrote it, a folder
of which only a smaller copy is there. What has exactly one meaning is taken and said once; otherwise the near miss is
named. Links that the user made in the scene are followed: only what a *name* says may not lead out.
"""

from __future__ import annotations

import os
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ..errors import UserError
from .images import IMAGE_ENDINGS
from .problems import MissingFile, ProblemList

_ADDRESS = re.compile(r"file://(?:localhost(?=/))?", re.IGNORECASE)
_DRIVE = re.compile(r"^(?:[A-Za-z]:[\\/]|\\\\|//)")
_SMALLER = re.compile(r"_(\d+)")


class SceneFiles:
    """The files of a folder, by the names that lists of a scene give them."""

    def __init__(self, folder: Path, problems: ProblemList | None = None, listed_in: Path | None = None) -> None:
        """Makes a finder.

        Args:
            folder: What names are relative to.
            problems: Is told how names were understood that are not those of the files.
            listed_in: The list, for such messages; by default the folder.
        """
        self.folder = folder
        self._problems = problems
        self._listed_in = listed_in or folder
        self._folders: dict[Path, dict[str, list[str]]] = {}

    def picture(self, name: str) -> Path:
        """Returns the picture that `name`, which may lack its ending, means.

        Raises `MissingFile` when there is none, `UserError` when the name leads outside the folder.
        """
        found = self.find(name, IMAGE_ENDINGS)
        if found is None:
            raise self._missing(name, "picture", IMAGE_ENDINGS)
        return found

    def file(self, name: str, what: str) -> Path:
        """Returns the file that `name` means; `what` it is, such as "mask", is for the message. Raises as `picture`."""
        found = self.find(name)
        if found is None:
            raise self._missing(name, what, ())
        return found

    def find(self, name: str, endings: Sequence[str] = ()) -> Path | None:
        """Returns the file that `name` means, None when there is none.

        Args:
            name: As the list has it.
            endings: What a name may lack, or have in place of the file's own ending.

        Raises:
            UserError: when the name leads outside the folder.
        """
        literal = self._literal(name, endings)
        if literal is not None:
            return literal
        for parts, how in self._readings(name):
            found, changed = self._walk(parts, endings)
            if found is not None:
                if how or changed:
                    self._say(how or changed, name, found)
                return found
        return None

    def _literal(self, name: str, endings: Sequence[str]) -> Path | None:
        """Returns the file of exactly this name, or of it and an ending."""
        parts = _inside_parts(self.folder, name)
        if not parts:
            return None
        path = self.folder.joinpath(*parts)
        try:
            if path.is_file():
                return path
            return next((p for ending in endings if (p := path.with_name(path.name + ending)).is_file()), None)
        except (OSError, ValueError):
            # Names that no file can have: too long, or with a zero byte.
            return None

    def _readings(self, name: str) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yields the ways to read a name: its parts, and what kind of name that makes it."""
        slashes = name.replace("\\", "/").strip()
        if address := _ADDRESS.match(slashes):
            inner = urllib.parse.unquote(slashes[address.end() :])
            # Of file:///C:/clip/a.png the path is C:/clip/a.png.
            inner = inner[1:] if _DRIVE.match(inner[1:]) else inner
            yield from ((parts, "as addresses with file://") for parts, _ in self._readings(inner))
            return
        how = "with backslashes" if "\\" in name else ""
        if _DRIVE.match(name) or name.startswith("/"):
            # Of another computer: the end of the path says which file it is, the longest end that is there.
            parts = [part for part in PurePosixPath(slashes).parts if part not in ("/", "..")]
            for start in range(1, len(parts)):
                yield tuple(parts[start:]), "absolute on another computer"
            return
        parts = _inside_parts(self.folder, slashes)
        if parts:
            yield parts, how
        decoded = urllib.parse.unquote(slashes)
        if decoded != slashes and (parts := _inside_parts(self.folder, decoded)):
            yield parts, "with escapes as in a web address"

    def _walk(self, parts: tuple[str, ...], endings: Sequence[str]) -> tuple[Path | None, str]:
        """Returns the one file that the parts mean, and how its name differs from them."""
        place, changed = self.folder, ""
        for index, part in enumerate(parts[:-1]):
            exact = place / part
            if exact.is_dir():
                place = exact
                continue
            alike = [name for name in self._listing(place).get(_key(part), []) if (place / name).is_dir()]
            if len(alike) != 1 and index == 0:
                alike = self._smaller(place, part)
            if len(alike) != 1:
                return None, ""
            changed = "in other letters" if _key(alike[0]) == _key(part) else "of a folder that has another size there"
            place = place / alike[0]
        last = parts[-1]
        if (place / last).is_file():
            return place / last, changed
        listing = self._listing(place)
        wanted = [last, *(last + ending for ending in endings)]
        alike = [name for each in wanted for name in listing.get(_key(each), [])]
        if not alike and endings and Path(last).suffix.lower() in endings:
            alike = [name for ending in endings for name in listing.get(_key(Path(last).stem + ending), [])]
            how = "with another ending"
        else:
            how = "in other letters" if _key(last) in map(_key, alike) else "without the ending"
        files = [name for name in dict.fromkeys(alike) if (place / name).is_file()]
        if len(files) != 1:
            return None, ""
        return place / files[0], "" if how == "without the ending" and last in files[
            0
        ] and not changed else changed or how

    def _smaller(self, place: Path, part: str) -> list[str]:
        """Returns the largest of the smaller copies of a folder, `images_2` for `images`, where that is not there."""
        found = []
        for names in self._listing(place).values():
            for name in names:
                match = _SMALLER.fullmatch(name[len(part) :]) if name.lower().startswith(part.lower()) else None
                if match and (place / name).is_dir():
                    found.append((int(match[1]), name))
        return [min(found)[1]] if found else []

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """Returns the names in a folder by what they are but for letter case and composition of accents."""
        if folder not in self._folders:
            names: dict[str, list[str]] = {}
            try:
                for name in (path.name for path in folder.iterdir()):
                    if not name.startswith("."):
                        names.setdefault(_key(name), []).append(name)
            except OSError:
                pass
            self._folders[folder] = names
        return self._folders[folder]

    def _say(self, how: str, name: str, found: Path) -> None:
        if self._problems is not None:
            self._problems.renamed(self._listed_in, how, name, str(found.relative_to(self.folder)))

    def _missing(self, name: str, what: str, endings: Sequence[str]) -> UserError:
        if _DRIVE.match(name):
            return MissingFile(
                self.folder / PurePosixPath(name.replace("\\", "/")).name,
                f"the {what} {name} is a path of another computer, and no file here has the end of that path; make the"
                " names relative to the scene's folder",
            )
        if name.startswith("/") and not Path(name).is_relative_to(self.folder.absolute()):
            return UserError(f"the file name {name!r} leads outside {self.folder}; expected a path inside the folder")
        shown = self.folder.joinpath(*(_inside_parts(self.folder, name.replace("\\", "/")) or (name,)))
        if endings and shown.suffix.lower() not in endings:
            shown = shown.with_name(shown.name + endings[0])
        listing = self._listing(shown.parent)
        alike = [near for key, names in listing.items() for near in names if Path(key).stem == _key(shown.stem)]
        if alike:
            near = f"; {', '.join(sorted(alike)[:3])} {'is' if len(alike) == 1 else 'are'} there: rename one"
        elif not shown.parent.is_dir():
            near = f"; there is no folder {shown.parent}"
        else:
            near = ""
        return MissingFile(shown, f"the {what} {shown} is missing{near}; restore it or remove its entry")


def _inside_parts(folder: Path, name: str) -> tuple[str, ...] | None:
    """Returns the parts of a name below `folder`, None for an absolute path that is not; raises where it climbs out."""
    if name.startswith("/"):
        absolute = os.path.normpath(name)
        root = os.path.normpath(folder.absolute())
        return Path(absolute).relative_to(root).parts if Path(absolute).is_relative_to(root) else None
    normal = os.path.normpath(name) if name else "."
    if normal.split("/")[0] == "..":
        raise UserError(f"the file name {name!r} leads outside {folder}; expected a path inside the folder")
    return () if normal == "." else Path(normal).parts


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
