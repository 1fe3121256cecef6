"""The optional packages: what each is for, and the one line that installs it."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from importlib import metadata
from types import ModuleType

from .errors import UserError


@dataclasses.dataclass(frozen=True)
class Optional:
    """A package that some commands need and most do not."""

    module: str
    distribution: str
    purpose: str
    install: str

    @property
    def version(self) -> str | None:
        """Installed version, None when it is not installed. Imports nothing."""
        if importlib.util.find_spec(self.module) is None:
            return None
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return "of unknown version"


OPTIONAL = {
    package.module: package
    for package in (
        Optional("viser", "viser", "gaussian4d view", 'pip install "viser>=1.1.1,<2"'),
        Optional("pycolmap", "pycolmap", "gaussian4d prepare without a calibration", 'pip install "pycolmap>=4.2"'),
        Optional("fourdgs", "fourdgs", "the .4dgs format", 'pip install "fourdgs>=0.6"'),
        *(
            Optional(name, name, "gaussian4d generate", 'pip install "gaussian4d[generators]"')
            for name in ("diffusers", "transformers", "accelerate")
        ),
        Optional("gsplat", "gsplat", "--backend gsplat on a CUDA GPU", 'pip install "gsplat>=1.5.3" packaging'),
        Optional("open3d", "open3d", "gaussian4d.interop.open3d", 'pip install "open3d>=0.20"'),
        Optional(
            "pytorch3d",
            "pytorch3d",
            "gaussian4d.interop.pytorch3d",
            'pip install "git+https://github.com/facebookresearch/pytorch3d.git@stable"',
        ),
    )
}
"""By module name. Only what some command uses today."""


def require(module: str) -> ModuleType:
    """Returns the imported optional package, or a module in it; raises `UserError` when it is missing or broken.

    The message has the install line.
    """
    package = OPTIONAL[module.partition(".")[0]]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        reason = "is not installed" if package.version is None else f"does not import ({error})"
        raise UserError(f"{package.purpose} needs {package.module}, which {reason}; run: {package.install}") from None
