"""What a file really is whose name says that it holds Gaussians: told by its first bytes, for messages."""

from __future__ import annotations

from pathlib import Path

_WEB_PAGE = "a web page, such as a login or error page; download the file itself"
_ZIPS = (".sog", ".zip", ".g4d", ".usdz", ".pt", ".ckpt")

_KINDS: tuple[tuple[bytes, str, tuple[str, ...]], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`", ()),
    (b"<!doctype", _WEB_PAGE, ()),
    (b"<html", _WEB_PAGE, ()),
    (b"<?xml", "an XML document, such as a server error; download the file itself", ()),
    (b"ply\n", "a .ply; rename it", (".ply",)),
    (b"ply\r", "a .ply; rename it", (".ply",)),
    (b"ngsp", "a .spz; rename it", (".spz",)),
    (b"gltf", "a binary glTF; rename it to .glb", (".glb", ".gltf")),
    (b"#usda", "a .usda; rename it", (".usda",)),
    (b"pxr-usdc", "binary USD; make it text with `usdcat FILE -o FILE.usda`", ()),
    (b"pk\x03\x04", "a zip archive; unpack it, or rename it if it is a .sog", _ZIPS),
    (b"\x1f\x8b", "compressed with gzip; unpack it first", (".spz",)),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first", ()),
    (b"bzh", "compressed with bzip2; unpack it first", ()),
    (b"\xfd7zxz", "compressed with xz; unpack it first", ()),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first", ()),
    (b"rar!", "a rar archive; unpack it first", ()),
    (b"solid ", "an STL mesh; expected Gaussians", ()),
    (b"\x89png", "an image; expected Gaussians", ()),
    (b"\xff\xd8\xff", "an image; expected Gaussians", ()),
    (b"%pdf", "a PDF; expected Gaussians", ()),
)
"""(How such a file begins, in small letters; what it is and what to do; the endings that are right for it.)"""


def other_kind(path: Path, head: bytes) -> str | None:
    """Returns "it is ..." where the first bytes of a file are those of another kind than its name says, else None."""
    if not head:
        return "it is empty; copy it again"
    if not any(head[:4096]) and len(head) >= 16:
        return "it contains only zeros, as after an interrupted copy; copy it again"
    # Marks and white space before text; what is told by bytes has neither.
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    for start, what, endings in _KINDS:
        if head[:64].lower().startswith(start) or text.startswith(start):
            return None if path.name.lower().endswith(endings) and endings else f"it is {what}"
    return None


def head_of(path: Path) -> bytes | None:
    """Returns the first bytes of a file, None of what is no file that can be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(4096)
    except OSError:
        return None
