"""Licences of published weights. The licence file beside the weights is what counts; this table is what we know."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Licence:
    """Of weights whose name holds `match`."""

    match: str
    """Part of the folder's name or hub id, lower case."""
    name: str
    licence: str
    notice: str | None = None


_NO_TRADE = "for non-commercial use only (CC-BY-NC 4.0): neither the weights nor a product built on them may be sold"

KNOWN = (
    Licence("zero123plus", "Zero123++", "CC-BY-NC-4.0", f"the Zero123++ weights are {_NO_TRADE}"),
    Licence("zero123pp", "Zero123++", "CC-BY-NC-4.0", f"the Zero123++ weights are {_NO_TRADE}"),
    Licence(
        "stable-video-diffusion",
        "Stable Video Diffusion",
        "Stability AI Community License",
        "Stable Video Diffusion is under Stability AI's own licence: free below a yearly revenue, registration and"
        " terms of use beyond; read the licence file beside the weights",
    ),
    Licence("text-to-video-ms", "ModelScope text-to-video", "CC-BY-NC-4.0", f"the ModelScope weights are {_NO_TRADE}"),
    Licence("i2vgen-xl", "I2VGen-XL", "MIT"),
    Licence("wan2.1", "Wan 2.1", "Apache-2.0"),
    Licence("wan2.2", "Wan 2.2", "Apache-2.0"),
    Licence("animatediff", "AnimateDiff", "Apache-2.0"),
    Licence(
        "stable-diffusion-xl",
        "Stable Diffusion XL",
        "CreativeML Open RAIL++-M",
        "Stable Diffusion XL may not be used for the purposes that its licence (Open RAIL++-M) lists",
    ),
    Licence("sdxl-turbo", "SDXL Turbo", "Stability AI licence", "read the licence file beside the SDXL Turbo weights"),
    Licence(
        "stable-diffusion",
        "Stable Diffusion",
        "CreativeML Open RAIL-M",
        "Stable Diffusion may not be used for the purposes that its licence (Open RAIL-M) lists",
    ),
)


def licence_of(family: str, *names: str) -> Licence:
    """Returns what is known of the weights called `names` (folder, hub id); `family` is what the files say they are.

    All weights of Zero123++ are non-commercial, whatever their folder is called. Others that no name tells are unknown.
    """
    text = " ".join(names).lower()
    for known in KNOWN:
        if known.match in text:
            return known
    if family == "Zero123++":
        return KNOWN[0]
    return Licence(
        "",
        family,
        "unknown",
        f"the licence of these {family} weights is unknown here; read the one that came with them before using them",
    )
