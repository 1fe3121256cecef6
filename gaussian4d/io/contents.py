"""What a file really is whose name says that it holds Gaussians: told by its first bytes, for messages."""

from __future__ import annotations

from pathlib import Path

_WEB_PAGE = "a web page, such as a login or an error; download the file itself"
_ZIPS = (".sog", ".zip", ".g4d", ".usdz", ".pt", ".ckpt")

_KINDS: tuple[tuple[bytes, str, tuple[str, ...]], ...] = (
    (b"version https://git-lfs", "the pointer of a Git LFS file; fetch the file itself with `git lfs pull`", ()),
    (b"<!doctype", _WEB_PAGE, ()),
    (b"<html", _WEB_PAGE, ()),
    (b"<?xml", "an XML document, such as the error of a server; download the file itself", ()),
    (b"ply\n", "a .ply; name it so", (".ply",)),
    (b"ply\r", "a .ply; name it so", (".ply",)),
    (b"ngsp", "a .spz; name it so", (".spz",)),
    (b"gltf", "a binary glTF; name it .glb", (".glb", ".gltf")),
    (b"#usda", "a .usda; name it so", (".usda",)),
    (b"pxr-usdc", "binary USD; make it text with `usdcat FILE -o FILE.usda`", ()),
    (b"pk\x03\x04", "a zip archive; unpack it, or name it .sog if it is one", _ZIPS),
    (b"\x1f\x8b", "compressed with gzip; unpack it first", (".spz",)),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first", ()),
    (b"bzh", "compressed with bzip2; unpack it first", ()),
    (b"\xfd7zxz", "compressed with xz; unpack it first", ()),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first", ()),
    (b"rar!", "a rar archive; unpack it first", ()),
    (b"solid ", "an STL mesh; expected Gaussians", ()),
    (b"\x89png", "a picture; expected Gaussians", ()),
    (b"\xff\xd8\xff", "a picture; expected Gaussians", ()),
    (b"%pdf", "a PDF; expected Gaussians", ()),
)
"""(How such a file begins, in small letters; what it is and what to do; the endings that are right for it.)"""


def other_kind(path: Path, head: bytes) -> str | None:
    """Returns "it is ..." where the first bytes of a file are those of another kind than its name says, else None."""
    if not head:
        return "it is empty; copy it again"
    if not any(head[:4096]) and len(head) >= 16:
        return "it holds zeros, as a copy that was broken off leaves them; copy it again"
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
