"""From raw videos to a scene: recordings are synchronised, calibrated or solved, undistorted and written down."""

from .run import Options, prepare

__all__ = ["Options", "prepare"]
