"""Files that a scene's own lists name: found as people have them, and never outside the scene's folder by a name.

A name in a list may come from another system or program: backslashes, another letter case, another or no ending,
escapes as in a web address, accents composed in another way, bytes of an encoding that is not UTF-8, an absolute path
of the computer that wrote it, a folder of which only a copy of another size is there. What has exactly one meaning is
taken and said once; otherwise the near miss is named. Links that the user made in the scene are followed: only what a
*name* says may not lead out.
"""

from __future__ import annotations

import os
import re
import unicodedata
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ..errors import UserError
from ..files import hidden
from .images import IMAGE_ENDINGS
from .problems import MissingFile, ProblemList

_ADDRESS = re.compile(r"file:(?://(?:localhost(?=/))?)?(?=[/\w])", re.IGNORECASE)
_DRIVE = re.compile(r"^(?:[A-Za-z]:[\\/]|\\\\|//)")
# Copies of a folder of pictures at another size, as the programs of Mip-NeRF 360, LLFF and nerfstudio make them.
_SIZED = re.compile(r"(images?|imgs|rgb|input|masks?)(?:_(2|4|8|16|32))?", re.IGNORECASE)

# Of names that are no UTF-8: what Windows, old disks and archives write, the strictest first.
_ENCODINGS = ("gb18030", "cp932", "big5", "euc-kr", "cp1251", "cp1252", "cp437")

# How far a file of a missing name is looked for in other folders of the scene, to name it.
_MAX_DEPTH = 4
_MAX_FILES = 20_000


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
        self._everywhere: dict[str, list[str]] | None = None

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
        try:
            for parts, how in self._readings(name):
                found, changed = self._walk(parts, endings)
                if found is not None:
                    if how or changed:
                        self._say(how or changed, name, found)
                    return found
        except (OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
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
            yield from ((parts, "as file:// URLs") for parts, _ in self._readings(inner))
            return
        how = "with backslashes" if "\\" in name else ""
        if _is_absolute(name):
            # Of another computer: the end of the path says which file it is, the longest end that is there.
            parts = [part for part in PurePosixPath(slashes).parts if part not in ("/", "//", "..")]
            for start in range(len(parts)):
                yield tuple(parts[start:]), "by absolute paths of another computer"
            return
        parts = _inside_parts(self.folder, slashes)
        if parts:
            yield parts, how
        decoded = urllib.parse.unquote(slashes)
        if decoded != slashes and (parts := _inside_parts(self.folder, decoded)):
            yield parts, "with URL escapes"
        for text in _decodings(slashes):
            if parts := _inside_parts(self.folder, text):
                yield parts, "in an encoding other than UTF-8"

    def _walk(self, parts: tuple[str, ...], endings: Sequence[str]) -> tuple[Path | None, str]:
        """Returns the one file that the parts mean, and how its name differs from them."""
        place, changed = self.folder, ""
        for part in parts[:-1]:
            exact = place / part
            if exact.is_dir():
                place = exact
                continue
            alike = [name for name in self._listing(place).get(_key(part), []) if (place / name).is_dir()]
            if len(alike) != 1:
                alike = self._of_another_size(place, part)
            if len(alike) != 1:
                return None, ""
            changed = (
                "in different case or accents"
                if _key(alike[0]) == _key(part)
                else "in a folder that only exists at another size"
            )
            place = place / alike[0]
        last = parts[-1]
        if (place / last).is_file():
            return place / last, changed
        listing = self._listing(place)
        wanted = [last, *(last + ending for ending in endings)]
        alike = [name for each in wanted for name in listing.get(_key(each), [])]
        if not alike and endings and Path(last).suffix.lower() in endings:
            alike = [name for ending in endings for name in listing.get(_key(Path(last).stem + ending), [])]
            how = "with a different extension"
        else:
            how = "in different case or accents"
        files = [name for name in dict.fromkeys(alike) if (place / name).is_file()]
        if len(files) != 1:
            return None, ""
        # A name without its extension is common, and needs no warning.
        return place / files[0], changed or ("" if files[0].startswith(last) else how)

    def _of_another_size(self, place: Path, part: str) -> list[str]:
        """Returns the largest copy of a folder of pictures at another size, `images_2` for `images` or `images_4`."""
        wanted = _SIZED.fullmatch(part)
        if wanted is None:
            return []
        found = []
        for name in (name for names in self._listing(place).values() for name in names):
            match = _SIZED.fullmatch(name)
            if match and match[1].lower() == wanted[1].lower() and (place / name).is_dir():
                found.append((int(match[2] or 1), name))
        return [min(found)[1]] if found else []

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """Returns the names in a folder by their form without letter case, composition of accents and encoding."""
        if folder not in self._folders:
            names: dict[str, list[str]] = {}
            try:
                for name in (path.name for path in folder.iterdir()):
                    if not hidden(name):
                        for key in dict.fromkeys(map(_key, (name, *_decodings(name)))):
                            names.setdefault(key, []).append(name)
            except OSError:
                pass
            self._folders[folder] = names
        return self._folders[folder]

    def _say(self, how: str, name: str, found: Path) -> None:
        if self._problems is not None:
            self._problems.renamed(self._listed_in, how, name, str(found.relative_to(self.folder)))

    def _missing(self, name: str, what: str, endings: Sequence[str]) -> UserError:
        # A file with a mask's name in another folder is usually its image.
        near = "" if what == "mask" else self._elsewhere(name, endings)
        if _is_absolute(name) and not (name.startswith("/") and _inside_parts(self.folder, name)):
            if Path(name).exists():
                return UserError(
                    f"the file name {name!r} leads outside {self.folder}; expected a path inside the folder"
                )
            return MissingFile(
                self.folder / PurePosixPath(name.replace("\\", "/")).name,
                f"the {what} {name} is an absolute path of another computer, and no file in {self.folder} matches its"
                f" last parts{f' ({near})' if near else ''}; make the names relative to the scene folder",
            )
        if not name.strip().strip("./"):
            return UserError(f"expected the name of a {what}, got {name!r}; restore the entry")
        shown = self.folder.joinpath(*(_inside_parts(self.folder, name.replace("\\", "/")) or (name,)))
        if endings and shown.suffix.lower() not in endings:
            shown = shown.with_name(shown.name + endings[0])
        listing = self._listing(shown.parent)
        alike = [near for key, names in listing.items() for near in names if Path(key).stem == _key(shown.stem)]
        if alike:
            near = f"; {', '.join(sorted(alike)[:3])} {'is' if len(alike) == 1 else 'are'} there: rename one"
        elif near:
            near = f"; {near}: correct the name or move the file"
        elif _decodings(name):
            near = "; the name is in an encoding other than UTF-8: was the file renamed?"
        elif not shown.parent.is_dir():
            near = f"; there is no folder {shown.parent}"
        return MissingFile(shown, f"the {what} {shown} is missing{near}; restore it or remove its entry")

    def _elsewhere(self, name: str, endings: Sequence[str]) -> str:
        """Returns where else in the scene there is a file of that name, for a message; it may be another camera's."""
        if self._everywhere is None:
            self._everywhere = {}
            count = 0
            for parent, folders, files in os.walk(self.folder):
                place = Path(parent).relative_to(self.folder)
                folders[:] = [] if len(place.parts) >= _MAX_DEPTH else sorted(f for f in folders if not hidden(f))
                count += len(files)
                if count > _MAX_FILES:
                    break
                for file in sorted(files):
                    self._everywhere.setdefault(_key(file), []).append(str(place / file))
        last = PurePosixPath(name.replace("\\", "/").strip()).name
        found = [path for each in (last, *(last + e for e in endings)) for path in self._everywhere.get(_key(each), [])]
        if not found:
            return ""
        return f"{', '.join(found[:3])} {'is' if len(found) == 1 else 'are'} there"


def folder_of(scene: Path, name: str) -> Path:
    """Returns the folder `name`, such as `sparse/0`, of a scene; one in different letter case if there is no other."""
    place = scene
    for part in Path(name).parts:
        exact = place / part
        if not exact.is_dir() and place.is_dir():
            alike = [path for path in place.iterdir() if _key(path.name) == _key(part) and path.is_dir()]
            exact = alike[0] if len(alike) == 1 else exact
        place = exact
    return place


def _is_absolute(name: str) -> bool:
    """Returns whether a name is an absolute path, of this computer or another."""
    return bool(_DRIVE.match(name)) or name.startswith(("/", "~/", "~\\"))


def _decodings(name: str) -> list[str]:
    """Returns what a name with bytes that are not UTF-8 may be in legacy encodings; empty for other names."""
    try:
        name.encode("utf-8")
        return []
    except UnicodeEncodeError:
        pass
    found = []
    for encoding in _ENCODINGS:
        try:
            found.append(name.encode("utf-8", "surrogateescape").decode(encoding))
        except UnicodeError:
            continue
    return list(dict.fromkeys(found))


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
