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
import importlib
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .errors import UserError

if TYPE_CHECKING:
    from .fitting.hooks import FitHook
    from .fitting.strategies import Strategy
    from .fitting.terms import Term
    from .motion import MotionModel

T = TypeVar("T")

OWN_PACKAGE = "gaussian4d"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One thing that a registry knows, loaded or not."""

    name: str
    source: str | EntryPoint | Any
    """`module:attribute`, an entry point, or the thing itself."""
    package: str
    """The distribution that brings it; `__main__` for what a program registered by itself."""
    version: str = ""

    def load(self) -> Any:
        """Returns the thing; raises whatever its import raises."""
        if isinstance(self.source, str):
            module, attribute = self.source.split(":")
            return getattr(importlib.import_module(module), attribute)
        return self.source.load() if isinstance(self.source, EntryPoint) else self.source


class Registry(Generic[T]):
    """The things of one kind by name."""

    def __init__(
        self, kind: str, group: str, own: Mapping[str, str] | None = None, wrong: Callable[[Any], str] | None = None
    ) -> None:
        """Makes a registry.

        Args:
            kind: What an entry is, for messages: "motion model".
            group: Entry-point group of other packages.
            own: The package's own entries, name to `module:attribute`, in the order of help texts.
            wrong: Returns what is wrong with a loaded entry, "" when nothing is.
        """
        self.kind, self.group = kind, group
        self._own = {name: Entry(name, source, OWN_PACKAGE) for name, source in (own or {}).items()}
        self._registered: dict[str, Entry] = {}
        self._loaded: dict[str, T] = {}
        self._wrong = wrong

    def register(self, name: str) -> Callable[[Any], Any]:
        """Returns a decorator that adds what it decorates under `name`; the same name again replaces it.

        Raises:
            UserError: for a name of the package's own.
        """
        if name in self._own:
            raise UserError(f"the {self.kind} {name!r} is gaussian4d's own; register yours under another name")

        def add(thing: Any) -> Any:
            if self._wrong is not None and (reason := self._wrong(thing)):
                raise UserError(f"the {self.kind} {name!r} cannot be registered: {reason}")
            self._registered[name] = Entry(name, thing, getattr(thing, "__module__", "__main__").split(".")[0])
            self._loaded.pop(name, None)
            return thing

        return add

    def entries(self) -> dict[str, Entry]:
        """Returns every entry by name; of two with one name the first counts (see `shadowed`)."""
        found = {**self._own}
        for entry in (*self._registered.values(), *self._installed()):
            found.setdefault(entry.name, entry)
        return found

    def shadowed(self) -> list[Entry]:
        """Returns the entries of installed packages whose name is taken already."""
        known = self.entries()
        return [entry for entry in self._installed() if known[entry.name] != entry]

    def names(self) -> list[str]:
        """Returns the names, the package's own first; nothing is imported."""
        return list(self.entries())

    def __contains__(self, name: object) -> bool:
        return name in self.entries()

    def get(self, name: str, *, needed: Mapping[str, str] | None = None) -> T:
        """Returns the entry `name`.

        Args:
            name: One of `names()`.
            needed: Where a run or a file asks for it: what was recorded then (see `origin`), so that the message can
                name the package.

        Raises:
            UserError: for a name that nobody has registered, or an entry that does not load.
        """
        if name in self._loaded:
            return self._loaded[name]
        entry = self.entries().get(name)
        if entry is None:
            if needed and needed.get("package") not in (None, OWN_PACKAGE):
                raise UserError(
                    f"this run needs the {self.kind} {name!r} from the package {needed['package']}"
                    f"{_dash(needed.get('version'))}, which is not installed here; install it beside gaussian4d"
                )
            raise UserError(f"expected a {self.kind} out of {', '.join(self.names()) or 'none'}, got {name!r}")
        if reason := self.reason(name):
            raise UserError(
                f"the {self.kind} {name!r} of the package {entry.package} does not load: {reason}; mend or uninstall it"
            )
        return self._loaded[name]

    def reason(self, name: str) -> str:
        """Returns why the entry `name` cannot be used, "" when it can; imports it."""
        if name in self._loaded:
            return ""
        entry = self.entries()[name]
        try:
            thing = entry.load()
        except Exception as error:  # a stranger's import may raise anything
            if entry.package == OWN_PACKAGE and not isinstance(error, ImportError | UserError):
                raise
            return f"{type(error).__name__}: {error}"
        if self._wrong is not None and (reason := self._wrong(thing)):
            return reason
        self._loaded[name] = thing
        return ""

    def origin(self, name: str) -> dict[str, str]:
        """Returns the package and version that bring `name`, as a run records them; empty for our own."""
        entry = self.entries().get(name)
        if entry is None or entry.package == OWN_PACKAGE:
            return {}
        return {"group": self.group, "name": name, "package": entry.package, "version": entry.version}

    def _installed(self) -> Iterable[Entry]:
        for point in entry_points(group=self.group):
            package = point.dist.name if point.dist is not None else point.value.split(".")[0]
            version = point.dist.version if point.dist is not None else ""
            yield Entry(point.name, point, package, version)


def _dash(version: str | None) -> str:
    return f" {version}" if version else ""


def _no_motion(thing: Any) -> str:
    from .motion import MotionModel

    if isinstance(thing, type) and issubclass(thing, MotionModel):
        return ""
    return f"expected a subclass of gaussian4d.MotionModel, got {thing!r}"


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
)
"""How Gaussians move: subclasses of `MotionModel`."""

TERMS: Registry[Term] = Registry(
    "term",
    "gaussian4d.terms",
    {
        "photometric": "gaussian4d.fitting.terms:photometric",
        "alpha": "gaussian4d.fitting.terms:alpha",
        "opacity": "gaussian4d.fitting.terms:opacity",
        "scale": "gaussian4d.fitting.terms:scale",
        "anisotropy": "gaussian4d.fitting.terms:anisotropy",
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


def registries() -> dict[str, Registry[Any]]:
    """Returns every registry of this module by its entry-point group."""
    found = [value for value in globals().values() if isinstance(value, Registry)]
    return {registry.group: registry for registry in found}
