"""Where the scene of a run lies now. Both are moved: together, apart, to another machine.

A run keeps the scene's absolute path, the path from the run folder, and what tells the scene from others
(`Scene.likeness`). It is looked for where it was, then seen from the run, then beside the run under its old name; what
is found in another place than the recorded one must be the same scene.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from .errors import UserError

if TYPE_CHECKING:
    from .scene import Scene


def place_of(run: Path, scene: Scene | None, options: dict[str, Any]) -> dict[str, Any]:
    """Returns what a run folder keeps, besides the arguments of `load_scene`, to find its scene again; JSON values.

    `scene` is None where only the arguments are known; the path seen from the run is all there is to say then.
    """
    place: dict[str, Any] = {}
    if not options.get("python"):
        # Two drives of Windows have no path from one to the other.
        with contextlib.suppress(ValueError):
            place["relative"] = Path(os.path.relpath(Path(options["path"]).resolve(), run.resolve())).as_posix()
        if scene is not None:
            place |= {"likeness": scene.likeness(), "about": about(scene)}
    return place


def about(scene: Scene) -> str:
    """Returns a few words that tell a scene from others."""
    sizes = sorted({(camera.width, camera.height) for camera in scene.cameras.values()})
    shown = f"{sizes[-1][0]}x{sizes[-1][1]}"
    return f"{len(scene.cameras)} cameras, {len(scene.times)} instants, {len(scene.frames('all'))} pictures of {shown}"


def load_placed(
    run: Path, options: dict[str, Any], place: dict[str, Any], given: Path | None, changed: dict[str, Any]
) -> Scene:
    """Returns the scene of a run, from where it lies now.

    Args:
        run: The run folder.
        options: Arguments of `load_scene` with which the run began, `path` among them.
        place: What `place_of` gave; older runs have nothing.
        given: Where the user says it lies; nothing else is looked at then.
        changed: Arguments of `load_scene` that replace those of `options`.

    Raises:
        UserError: when it is nowhere, cannot be read, or `given` is another scene.
    """
    from .scene import load_recorded

    # Read in another way on purpose, it cannot be compared.
    otherwise = bool(set(changed) - {"cache_mb"})
    if given is not None:
        if not given.exists():
            raise UserError(f"expected the scene of {run} at {given}, found nothing; check that path")
        scene = load_recorded({**options, "path": str(given), **changed})
        check_same_scene(scene, place, {} if otherwise else options, given, run)
        return scene
    recorded = Path(str(options["path"]))
    if options.get("python") or "path" in changed:
        return load_recorded({**options, **changed})
    found: Scene | None = None
    problem: UserError | None = None
    if _exists(recorded):
        try:
            found = load_recorded({**options, **changed})
        except UserError as error:
            problem = error
        else:
            if otherwise or _is_alike(found, place, options):
                return found
    others = [path for path in candidates(run, options, place) if _exists(path) and not _same(path, recorded)]
    for path in others:
        try:
            scene = load_recorded({**options, "path": str(path), **changed})
        except UserError:
            continue
        if otherwise or _is_alike(scene, place, options):
            gone = "is a different scene now" if found is not None else "cannot be read" if problem else "is gone"
            warnings.warn(f"{recorded}, the scene of {run}, {gone}; {path} is used instead", stacklevel=3)
            return scene
    if found is not None:
        warnings.warn(
            f"{recorded} has changed since {run} was fitted: {about(found)}; then {place.get('about')}",
            stacklevel=3,
        )
        return found
    if problem is not None:
        raise problem
    looked = f"nor at {place['relative']} relative to the run, nor" if place.get("relative") else "nor"
    differing = f"; {others[0]} exists, but is a different scene" if others else ""
    raise UserError(
        f"the scene of {run} is no longer at {recorded}, {looked} beside the run{differing}; pass its folder with"
        " --scene PATH (to continue a fit, name it first: fit PATH --out RUN --resume)"
    )


def candidates(run: Path, options: dict[str, Any], place: dict[str, Any]) -> list[Path]:
    """Returns where the scene of a run may lie, the likeliest first."""
    recorded = str(options["path"])
    # A run may come from another system.
    name = (PureWindowsPath(recorded) if "\\" in recorded and "/" not in recorded else PurePosixPath(recorded)).name
    run = run.resolve()
    relative = place.get("relative")
    paths = [Path(recorded)]
    if isinstance(relative, str) and relative:
        paths.append(Path(os.path.normpath(run / relative)))
    if name:
        paths += [run.parent / name, run / name, run.parent.parent / name]
    return list(dict.fromkeys(paths))


def check_same_scene(
    scene: Scene, place: dict[str, Any], options: dict[str, Any], where: Path, run: Path | str
) -> None:
    """Raises `UserError` when `scene`, read from `where`, is not what the run was fitted to, if that is known."""
    if options and not _is_alike(scene, place, options):
        raise UserError(
            f"{where} is not the scene that {run} was fitted to: it has {about(scene)}; the run was fitted to"
            f" {place.get('about') or 'another one'}"
            f"{', whose cameras, times or splits differ' if place.get('about') == about(scene) else ''}; pass the scene"
            " it was fitted to, unchanged"
        )


def _is_alike(scene: Scene, place: dict[str, Any], options: dict[str, Any]) -> bool:
    """Returns whether a scene is the one of the run, also when the run does not say."""
    likeness = place.get("likeness")
    # A part of a clip is told by what it is a part of.
    return likeness is None or "part" in options or scene.likeness() == likeness


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _same(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except (OSError, ValueError):
        return False
