"""What can be added from outside: one registry per kind of thing, and one way to list them all.

A registry knows its entries from three places, in this order: the package's own table below, what a program has
registered with the decorator, and what installed packages declare under the registry's entry-point group.

    @TERMS.register("depth-smoothness")            # in a notebook or a script
    def depth_smoothness(step): ...

    [project.entry-points."gaussian4d.terms"]      # in the pyproject.toml of a package
    depth-smoothness = "my_package.terms:depth_smoothness"

Names are known without importing anything: help texts and error messages list them at once. An entry is imported when
it is first asked for. One that cannot be imported, or is not what its kind asks for, is named with its package when it
is asked for and by `gaussian4d doctor --plugins`; it takes nothing else down. `docs/extending.md` shows every kind.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import EntryPoint, distributions
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .errors import UserError

if TYPE_CHECKING:
    from .cli.exporters import Exporter
    from .data.recognise import Reader
    from .fitting.hooks import FitHook
    from .fitting.strategies import Strategy
    from .fitting.terms import Term
    from .io.formats import Format
    from .metrics import Metric
    from .motion import MotionModel
    from .named_paths import NamedPath

__all__ = [
    "COMMANDS",
    "EXPORTERS",
    "FIT_HOOKS",
    "FIT_STAGES",
    "FORMATS",
    "METRICS",
    "MOTIONS",
    "PATHS",
    "PRIORS",
    "READERS",
    "STRATEGIES",
    "TERMS",
    "Entry",
    "Listed",
    "Registry",
    "forget_installed",
    "listed",
    "registries",
]

T = TypeVar("T")

OWN_PACKAGE = "gaussian4d"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One thing that a registry knows, loaded or not."""

    name: str
    source: str | EntryPoint | Any
    """`module:attribute` (or a module), an entry point, or the thing itself."""
    package: str
    """The distribution that brings it; `__main__` for what a program registered by itself."""
    version: str = ""

    def load(self) -> Any:
        """Returns the thing; raises whatever its import raises."""
        if isinstance(self.source, str):
            module, _, attribute = self.source.partition(":")
            found = importlib.import_module(module)
            return getattr(found, attribute) if attribute else found
        return self.source.load() if isinstance(self.source, EntryPoint) else self.source


class Registry(Generic[T]):
    """The things of one kind by name."""

    def __init__(
        self,
        kind: str,
        group: str,
        own: Mapping[str, str | None] | None = None,
        wrong: Callable[[Any], str] | None = None,
        *,
        hidden: Collection[str] = (),
        named: bool = False,
    ) -> None:
        """Makes a registry.

        Args:
            kind: What an entry is, for messages: "motion model".
            group: Entry-point group of other packages.
            own: The package's own entries, name to `module:attribute`, in the order of help texts; None keeps the
                place of one that an installed package brings.
            wrong: Returns what is wrong with a loaded entry, "" when nothing is.
            hidden: Own entries that nobody chooses: they come from files or are made by others.
            named: Whether an entry has an attribute `name` that must be the name it is registered under.
        """
        self.kind, self.group = kind, group
        self._own = {
            name: None if source is None else Entry(name, source, OWN_PACKAGE) for name, source in (own or {}).items()
        }
        self._registered: dict[str, Entry] = {}
        self._loaded: dict[str, tuple[Entry, T]] = {}
        self._wrong, self._hidden, self._named = wrong, frozenset(hidden), named

    def register(self, name: str, *, package: str | None = None) -> Callable[[Any], Any]:
        """Returns a decorator that adds what it decorates under `name`; the same name again replaces it.

        Args:
            name: As users type it.
            package: What brings it, for messages; None is the package (or program) that calls this.

        Raises:
            UserError: for a name of the package's own.
        """
        known = self.entries().get(name)
        if known is not None and known.package == OWN_PACKAGE and name not in self._registered:
            raise UserError(f"the {self.kind} {name!r} is gaussian4d's own; register yours under another name")
        brought_by = (package or _calling_package()).split(".")[0]

        def add(thing: Any) -> Any:
            if reason := self._check(name, thing):
                raise UserError(f"the {self.kind} {name!r} cannot be registered: {reason}")
            self._registered[name] = Entry(name, thing, brought_by)
            return thing

        return add

    def unregister(self, name: str) -> None:
        """Takes back what was registered under `name`."""
        self._registered.pop(name, None)

    def entries(self) -> dict[str, Entry]:
        """Returns every entry by name; of two with one name the first counts (see `shadowed`)."""
        installed, ours = self._installed(), dict(self._own)
        ours |= {entry.name: entry for entry in installed if entry.package == OWN_PACKAGE}
        others: dict[str, Entry] = {}
        for entry in self._registered.values():
            # A package may do both, register its things on import and declare them: one thing, its version known. What
            # is registered counts: it may be an object of its own with settings, given for one fit.
            for one in installed:
                if one.name == entry.name and _top_module(one) == entry.package:
                    entry = dataclasses.replace(entry, package=one.package, version=one.version)
            others[entry.name] = entry
        for entry in installed:
            others.setdefault(entry.name, entry)
        found = {name: chosen for name, entry in ours.items() if (chosen := entry or others.get(name))}
        for name, entry in others.items():
            found.setdefault(name, entry)
        return found

    def shadowed(self) -> list[Entry]:
        """Returns the entries of installed packages whose name is taken already."""
        known = self.entries()
        return [
            entry
            for entry in self._installed()
            if known[entry.name] is not entry and known[entry.name].package != entry.package
        ]

    def names(self) -> list[str]:
        """Returns the names, the package's own first; nothing is imported."""
        return list(self.entries())

    def choices(self) -> list[str]:
        """Returns the names that a user can choose from: all but the hidden ones; nothing is imported."""
        return [name for name in self.entries() if name not in self._hidden]

    def __contains__(self, name: object) -> bool:
        return name in self.entries()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def get(self, name: str, *, needed: Mapping[str, Any] | None = None) -> T:
        """Returns the entry `name`.

        Args:
            name: One of `names()`.
            needed: Where a run or a file asks for it: what was recorded then (see `origin`), so that the message can
                name the package.

        Raises:
            UserError: for a name that nobody has registered, or an entry that does not load.
        """
        entry = self.entries().get(name)
        if entry is None:
            raise UserError(
                _missing(self.kind, name, needed)
                or f"expected a {self.kind} out of {', '.join(self.choices()) or 'none'}, got {name!r}"
            )
        return self._take(entry)

    def working(self) -> dict[str, T]:
        """Returns the entries that load, by name; those of other packages that do not are said as warnings."""
        found: dict[str, T] = {}
        for name, entry in self.entries().items():
            try:
                found[name] = self._take(entry)
            except UserError as error:
                warnings.warn(str(error), stacklevel=2)
        return found

    def reason(self, name: str) -> str:
        """Returns why the entry `name` cannot be used, "" when it can; imports it."""
        try:
            self._take(self.entries()[name])
        except _Unusable as error:
            return error.reason
        except Exception as error:
            return _spoken(error)
        return ""

    def origin(self, name: str) -> dict[str, str]:
        """Returns the package and version that bring `name`, as a run records them; empty for our own."""
        entry = self.entries().get(name)
        if entry is None or entry.package == OWN_PACKAGE:
            return {}
        return {"group": self.group, "name": name, "package": entry.package, "version": entry.version}

    def _take(self, entry: Entry) -> T:
        loaded = self._loaded.get(entry.name)
        if loaded is not None and loaded[0] is entry:
            return loaded[1]
        try:
            thing = entry.load()
        except (Exception, SystemExit) as error:  # a stranger's import may raise anything
            if entry.package == OWN_PACKAGE and not isinstance(error, ImportError):
                raise
            raise _Unusable(self.kind, entry, _spoken(error)) from error
        if reason := self._check(entry.name, thing):
            raise _Unusable(self.kind, entry, reason)
        self._loaded[entry.name] = (entry, thing)
        return thing

    def _check(self, name: str, thing: Any) -> str:
        if self._wrong is not None and (reason := self._wrong(thing)):
            return reason
        if self._named and (own := getattr(thing, "name", None)) != name:
            return f"it is called {name!r} but its attribute `name` is {own!r}; they must be the same"
        return ""

    def _installed(self) -> list[Entry]:
        return _installed(tuple(sys.path)).get(self.group, [])


class _Unusable(UserError):
    """An entry that is known and does not load."""

    def __init__(self, kind: str, entry: Entry, reason: str) -> None:
        whence = f"{entry.package}{_spaced(entry.version)}"
        what = f"the {kind} {entry.name!r} of the package {whence}"
        super().__init__(f"{what} does not load: {reason}; mend or uninstall it")
        self.reason = reason


@functools.lru_cache(maxsize=4)
def _installed(path: tuple[str, ...]) -> dict[str, list[Entry]]:
    """Returns the entries of all installed packages by group; `path` is what Python searches now."""
    found: dict[str, list[Entry]] = {}
    seen: set[str] = set()
    for distribution in distributions(path=list(path)):
        # Most packages have none of ours, and reading what a package is called takes longer than seeing that.
        if f"[{OWN_PACKAGE}." not in (distribution.read_text("entry_points.txt") or ""):
            continue
        package = distribution.metadata["Name"] or "a package without a name"
        if package in seen:  # of one that is installed twice Python imports the first
            continue
        seen.add(package)
        for point in distribution.entry_points:
            if point.group.startswith(f"{OWN_PACKAGE}."):
                entry = Entry(point.name, point, package, distribution.metadata["Version"] or "")
                found.setdefault(point.group, []).append(entry)
    return {group: sorted(entries, key=lambda entry: entry.name) for group, entries in found.items()}


def forget_installed() -> None:
    """Looks at what is installed anew: for what was installed while the program runs."""
    _installed.cache_clear()


def _top_module(entry: Entry) -> str:
    return entry.source.module.split(".")[0] if isinstance(entry.source, EntryPoint) else ""


def _calling_package() -> str:
    """Returns the top-level package that called into ours, which may register things on its behalf (`fit(terms=)`)."""
    frame, name = sys._getframe(1), OWN_PACKAGE
    while frame is not None and name == OWN_PACKAGE:
        name = str(frame.f_globals.get("__name__", "__main__")).split(".")[0]
        frame = frame.f_back
    return name


def _missing(kind: str, name: str, needed: Mapping[str, Any] | None) -> str:
    """Returns what to say of a thing that was recorded with its package and is not here; "" where none was."""
    package = (needed or {}).get("package")
    if needed is None or package in (None, "", OWN_PACKAGE):
        return ""
    if package == "__main__":
        return f"this run needs the {kind} {name!r}, which a program registered by itself; register it there first"
    version = _spaced(needed.get("version"))
    # Without a version it was no entry point: an object that a program gave, whose module this is.
    lacking = "which is not installed here" if version else "which is not here; give the object again, or install it"
    return f"this run needs the {kind} {name!r} from the package {package}{version}, {lacking}"


def _spaced(version: object) -> str:
    return f" {version}" if version else ""


def _spoken(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _no_motion(thing: Any) -> str:
    from .motion import MotionModel

    if not (isinstance(thing, type) and issubclass(thing, MotionModel)):
        return f"expected a subclass of gaussian4d.MotionModel, got {thing!r}"
    if inspect.isabstract(thing):
        return f"{thing.__name__} lacks the method {', '.join(sorted(thing.__abstractmethods__))}"
    if not (isinstance(thing.config_type, type) and dataclasses.is_dataclass(thing.config_type)):
        return f"{thing.__name__}.config_type must be a dataclass, got {thing.config_type!r}"
    return ""


def _no_reader(thing: Any) -> str:
    lacking = [name for name in ("recognises", "read") if not callable(getattr(thing, name, None))]
    return f"expected functions recognises(folder) and read(folder, problems), got no {lacking[0]}" if lacking else ""


def _no_format(thing: Any) -> str:
    from .io.formats import Format

    if not isinstance(thing, Format):
        return f"expected a gaussian4d.Format, got {thing!r}"
    if not thing.endings or not all(ending.startswith(".") and ending == ending.lower() for ending in thing.endings):
        return f"its endings must be lower-case and begin with a dot, got {thing.endings!r}"
    return ""


def _no_command(thing: Any) -> str:
    if isinstance(thing, type) and dataclasses.is_dataclass(thing) and callable(getattr(thing, "run", None)):
        return ""
    return f"expected a dataclass with a method run, got {thing!r}"


def _not_callable(thing: Any) -> str:
    return "" if callable(thing) else f"expected something to call, got {thing!r}"


MOTIONS: Registry[type[MotionModel]] = Registry(
    "motion model",
    "gaussian4d.motions",
    {
        "static": "gaussian4d.motion.static:Static",
        "dual-domain": "gaussian4d.motion.dual_domain:DualDomain",
        "free-time": "gaussian4d.motion.free_time:FreeTime",
        "spacetime": "gaussian4d.motion.spacetime:Spacetime",
        "hexplane": "gaussian4d.motion.hexplane:HexPlane",
        "per-frame": "gaussian4d.motion.per_frame:PerFrame",
        "windows": "gaussian4d.motion.windows:Windows",
        "rigid-parts": "gaussian4d.motion.rigid_parts:RigidParts",
    },
    _no_motion,
    hidden=("windows", "rigid-parts"),
    named=True,
)
"""How Gaussians move: subclasses of `MotionModel`."""

READERS: Registry[Reader] = Registry(
    "reader",
    "gaussian4d.readers",
    {
        "dnerf": "gaussian4d.data.dnerf",
        "panoptic": "gaussian4d.data.panoptic",
        "nerfstudio": "gaussian4d.data.nerfstudio",
        "multipleview": "gaussian4d.data.multipleview",
        "n3dv": "gaussian4d.data.neural3d",
        "dycheck": "gaussian4d.data.dycheck",
        "nerfies": "gaussian4d.data.nerfies",
        "technicolor": "gaussian4d.data.technicolor",
        "easyvolcap": "gaussian4d.data.easyvolcap",
        "colmap": "gaussian4d.data.colmap",
        "llff": "gaussian4d.data.llff",
        "videos": "gaussian4d.data.videos",
    },
    _no_reader,
)
"""What reads scene folders: modules or objects with `recognises` and `read` (see `data.recognise`)."""

FORMATS: Registry[Format] = Registry(
    "format",
    "gaussian4d.formats",
    {
        "g4d": "gaussian4d.io.formats:G4D",
        "compressed-ply": "gaussian4d.io.formats:COMPRESSED_PLY",
        "ply": "gaussian4d.io.formats:PLY",
        "splat": "gaussian4d.io.formats:SPLAT",
        "spz": "gaussian4d.io.formats:SPZ",
        "sog": "gaussian4d.io.formats:SOG",
        "ksplat": "gaussian4d.io.formats:KSPLAT",
        "splatv": "gaussian4d.io.formats:SPLATV",
        "4dgs": "gaussian4d.io.formats:FOUR_DGS",
        "glb": "gaussian4d.io.formats:GLB",
        "gltf": "gaussian4d.io.formats:GLTF",
        "usd": "gaussian4d.io.formats:USD",
        "checkpoint": "gaussian4d.io.formats:CHECKPOINT",
    },
    _no_format,
    named=True,
)
"""Files of Gaussians: objects of `io.formats.Format`."""

EXPORTERS: Registry[Exporter] = Registry("exporter", "gaussian4d.exporters", None, _not_callable)
"""Files that are written and never read, by their endings: `(opened, path)`."""

METRICS: Registry[Metric] = Registry(
    "metric",
    "gaussian4d.metrics",
    {"psnr": "gaussian4d.metrics:psnr", "ssim": "gaussian4d.metrics:ssim"},
    _not_callable,
)
"""Figures of a picture beside the truth: `(prediction, truth, mask) -> float` (see `metrics`)."""

PATHS: Registry[NamedPath] = Registry(
    "camera path",
    "gaussian4d.paths",
    {name: f"gaussian4d.named_paths:{name}" for name in ("orbit", "spiral", "interpolated", "dataset", "still")},
    _not_callable,
)
"""Where a video looks from: `(request) -> [(camera, time), ...]` (see `named_paths`)."""

PRIORS: Registry[Callable[[Any], Any]] = Registry("prior", "gaussian4d.priors", {"embedded": None}, _not_callable)
"""Where pictures that nobody took come from: `(role) -> prior` (see `generators.priors`)."""

COMMANDS: Registry[type] = Registry(
    "command",
    "gaussian4d.commands",
    {
        "demo": "gaussian4d.cli.demo:Demo",
        "info": "gaussian4d.cli.info:Info",
        "prepare": "gaussian4d.cli.prepare:Prepare",
        "fit": "gaussian4d.cli.fit:Fit",
        "eval": "gaussian4d.cli.eval:Eval",
        "render": "gaussian4d.cli.render:Render",
        "report": "gaussian4d.cli.report:Report",
        "export": "gaussian4d.cli.export:Export",
        "convert": "gaussian4d.cli.convert:Convert",
        "view": None,
        "generate": None,
        "bench": "gaussian4d.cli.bench:Bench",
        "doctor": "gaussian4d.cli.doctor:Doctor",
    },
    _no_command,
)
"""What `gaussian4d NAME` runs, in the order of help: dataclasses of flags with a method `run` (see `cli.app`)."""

TERMS: Registry[Term] = Registry(
    "term",
    "gaussian4d.terms",
    {
        "photometric": "gaussian4d.fitting.terms:photometric",
        "alpha": "gaussian4d.fitting.terms:alpha",
        "opacity": "gaussian4d.fitting.terms:opacity",
        "scale": "gaussian4d.fitting.terms:scale",
        "anisotropy": "gaussian4d.fitting.terms:anisotropy",
        "near-plane": "gaussian4d.fitting.terms:near_plane",
        "rigidity": "gaussian4d.fitting.coherence:rigidity_term",
        "isometry": "gaussian4d.fitting.coherence:isometry_term",
        "smoothness": "gaussian4d.fitting.coherence:smoothness_term",
    },
    _not_callable,
)
"""What a fit minimises: `(step) -> scalar tensor`."""

STRATEGIES: Registry[Callable[..., Strategy]] = Registry(
    "strategy",
    "gaussian4d.strategies",
    {
        "densify": "gaussian4d.fitting.densify:Densify",
        "relocate": "gaussian4d.fitting.densify:Relocate",
        "none": "gaussian4d.fitting.strategies:KeepAll",
        "gsplat-default": "gaussian4d.fitting.strategies:gsplat_default",
        "gsplat-mcmc": "gaussian4d.fitting.strategies:gsplat_mcmc",
    },
    _not_callable,
)
"""How the number of Gaussians changes: what returns a `Strategy`, or one of gsplat's, when called without arguments."""

FIT_HOOKS: Registry[Callable[[], FitHook]] = Registry("fit hook", "gaussian4d.fit_hooks", None, _not_callable)
"""What looks into a running fit: functions without arguments that return a hook."""

FIT_STAGES: Registry[Callable[..., Any]] = Registry("fit stage", "gaussian4d.fit_stages", None, _not_callable)
"""What runs between the fits of one run."""


BACKENDS_GROUP = "gaussian4d.backends"
"""Entry-point group of rasterizers: objects of `diff_rasterizer.Backend`, which `diff_rasterizer` keeps itself."""

OWN_BACKENDS = ("cpu", "cuda", "gsplat", "reference")
"""The rasterizers of `diff_rasterizer`, which imports torch when it is asked for them."""


def backend_choices() -> list[str]:
    """Returns the names of our rasterizers and of those that installed packages bring; nothing is imported."""
    others = [entry.name for entry in _installed(tuple(sys.path)).get(BACKENDS_GROUP, [])]
    return list(dict.fromkeys([*OWN_BACKENDS, *(name for name in others if name != "auto")]))


@dataclasses.dataclass(frozen=True)
class Listed:
    """One line of what there is."""

    kind: str
    name: str
    package: str
    version: str
    state: str
    """`ok`, or what is wrong with it."""


def registries() -> dict[str, Registry[Any]]:
    """Returns every registry of this module by its entry-point group."""
    found = [value for value in globals().values() if isinstance(value, Registry)]
    return {registry.group: registry for registry in found}


def listed() -> list[Listed]:
    """Returns everything of every kind, our own and others', with what is wrong with it; imports all of it."""
    from . import __version__

    rows: list[Listed] = []
    for registry in registries().values():
        for name, entry in registry.entries().items():
            version = __version__ if entry.package == OWN_PACKAGE else entry.version
            rows.append(Listed(registry.kind, name, entry.package, version, registry.reason(name) or "ok"))
        for entry in registry.shadowed():
            taken = f"name taken by {registry.entries()[entry.name].package}; it is not used"
            rows.append(Listed(registry.kind, entry.name, entry.package, entry.version, taken))
    rows += _listed_backends(__version__)
    known = {*registries(), BACKENDS_GROUP}
    for group, entries in _installed(tuple(sys.path)).items():
        if group not in known:
            state = f"there is no group {group}; expected one of {', '.join(sorted(known))}"
            rows += [Listed("unknown", entry.name, entry.package, entry.version, state) for entry in entries]
    return rows


def _listed_backends(version: str) -> Iterator[Listed]:
    from diff_rasterizer import available_backends

    others = {entry.name: entry for entry in _installed(tuple(sys.path)).get(BACKENDS_GROUP, [])}
    available = available_backends()
    for name, reason in available.items():
        entry = others.pop(name, None)
        package, of = (OWN_PACKAGE, version) if entry is None else (entry.package, entry.version)
        yield Listed("backend", name, package, of, f"not here: {reason}" if reason else "ok")
    for entry in others.values():
        yield Listed("backend", entry.name, entry.package, entry.version, "not loaded")
