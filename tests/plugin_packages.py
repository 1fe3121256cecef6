"""Packages as pip leaves them, for tests of what other packages add: a folder of metadata and a module."""

from __future__ import annotations

from pathlib import Path


def write_package(
    folder: Path, source: str = "", *, name: str = "swings", version: str = "1.2", **groups: dict[str, str]
) -> Path:
    """Returns the module written into `folder` of a package that declares entry points.

    Args:
        folder: A folder on Python's path.
        source: Of its module, which is called as the package.
        name: Of the package.
        version: Of the package.
        groups: Entry points by group, without `gaussian4d.`: `motions={"oscillator": "swings:Oscillator"}`.
    """
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="ascii")
    lines = []
    for group, points in groups.items():
        lines += [f"[gaussian4d.{group}]", *(f"{point} = {value}" for point, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="ascii")
    module = folder / f"{name}.py"
    module.write_text(source, encoding="ascii")
    return module
