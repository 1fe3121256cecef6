"""`gaussian4d generate`: an image, words or a video become a moving asset. Registered as an entry point."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from .pipeline.settings import Settings


@dataclasses.dataclass
class Generate(Settings):
    """Generate a moving 3D asset from an image, a text or a video, with built-in priors or published weights."""

    WRITES: ClassVar[dict[str, bool | None]] = {"out": True}
    EXAMPLES: ClassVar[str] = """
        gaussian4d generate --image toy.png --out runs/toy
        gaussian4d generate --image cat.png --out runs/cat --elevation 0 --fov 40 --seeds 4
        gaussian4d generate --out runs/cat --resume --pick 2
        gaussian4d generate --text "a red and white striped ball hopping" --out runs/ball
        gaussian4d generate --video frames/ --out runs/bird --frames 16 --preset balanced
        gaussian4d generate --image a.png b.png c.png --out runs/three --max-minutes 4
        gaussian4d generate --image cat.jpg --mask cat_mask.png --out runs/still --static
        gaussian4d generate --image cat.png --out runs/cat2 --prior sudo-ai/zero123plus-v1.2
    """

    def run(self) -> int:
        """Makes the assets and prints where they lie; returns 130 when it was interrupted, 2 when an input failed."""
        what = ", ".join(repr(item) if isinstance(item, str) else item.name for item in self.inputs)
        # Before anything heavy is imported: a user should see at once that something happens.
        print(f"gaussian4d generate: reading {what or self.out} ...", flush=True)
        from .pipeline.run import generate

        return generate(self, lambda line: print(line, flush=True))
