"""`gaussian4d demo`: the whole way on a small moving scene, without any data."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import UserError
from .choices import Unset
from .fit import Backend

if TYPE_CHECKING:
    import numpy as np

    from ..model import DynamicGaussians
    from ..scene import Scene

_ORBIT_SECONDS = 4.0
_ORBIT_FPS = 24.0
_WHITE = (1.0, 1.0, 1.0)


@dataclasses.dataclass
class Demo:
    """Make a toy scene, reconstruct it, evaluate it on held-out cameras and render an orbit; under three minutes."""

    WRITES: ClassVar[dict[str, bool | None]] = {"out": True}
    EXAMPLES: ClassVar[str] = """
        gaussian4d demo
        gaussian4d demo --out my_demo --seed 3
    """

    out: Unset[Path] = None
    """Output folder. Default: the first of demo_run, demo_run_2, ... that does not exist."""
    seed: int = 0
    """Random seed of the toy world."""
    max_steps: int = 4000
    """Training steps."""
    size: int = 200
    """Width and height of the images."""
    device: str = "auto"
    """Device to fit and render on: auto takes a GPU if a backend works on it, else cpu; or cuda, cuda:1, ..."""
    backend: Backend = "auto"
    """Rasterizer."""

    def run(self) -> int:
        """Runs all stages and prints figures, paths and what to do next; returns 130 when it was interrupted."""
        from ..devices import choose_device
        from ..reconstruction import fit
        from ..scene import load_scene
        from ..toys import write_scene
        from ..video_out import write_video
        from .console import Progress, track
        from .render import pictures

        # What was chosen the fit says, in its turn.
        place = choose_device(self.device, self.backend)
        out = self._folder()
        start = time.monotonic()
        print(f"1/3 rendering a toy scene: 10 training and 2 test cameras, 24 instants -> {out / 'scene'}", flush=True)
        with Progress("draw", 1) as progress:

            def drawn(done: int, total: int) -> None:
                progress.total = total
                progress.update(done)

            write_scene(out / "scene", self.seed, 10, 2, 24, width=self.size, height=self.size, progress=drawn)
        scene = load_scene(out / "scene")
        print(f"2/3 fitting, then evaluating on the two held-out cameras -> {out / 'run'}", flush=True)
        result = fit(
            scene,
            preset="quick",
            out=out / "run",
            max_steps=self.max_steps,
            seed=self.seed,
            device=self.device,
            backend=self.backend,
        )
        if result.metrics is None:
            return 130
        video, sheet = out / "orbit.mp4", out / "sheet.png"
        print(f"3/3 rendering an orbit -> {video}", flush=True)
        path = self._orbit(scene)
        model = result.model.to(place.device)
        frames = pictures(model, path, ("rgb", "depth"), background=_WHITE, backend=place.backend)
        write_video(video, track(frames, "render", total=len(path)), _ORBIT_FPS)
        _write_sheet(sheet, scene, model, place.backend)
        _print_summary(out, video, sheet, result.metrics, time.monotonic() - start)
        return 0

    def _folder(self) -> Path:
        """Returns the folder to work in; never one that holds something."""
        if self.out is not None:
            if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
                raise UserError(f"{self.out} exists; expected a new folder for the demo; name another or remove it")
            return self.out
        names = ("demo_run", *(f"demo_run_{number}" for number in range(2, 1000)))
        return next(Path(name) for name in names if not Path(name).exists())

    def _orbit(self, scene: Scene) -> Any:
        from ..paths import orbit_path

        return orbit_path(scene.cameras.values(), round(_ORBIT_SECONDS * _ORBIT_FPS))


def _write_sheet(file: Path, scene: Scene, model: DynamicGaussians, backend: str) -> None:
    """Writes rows of recorded picture, rendering, difference: each test camera at a few instants."""
    import numpy as np
    from PIL import Image

    from ..files import atomic_write
    from ..io.pictures import contact_sheet
    from .render import pictures

    frames = list(scene.frames("test"))
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(8, len(frames))).astype(int)]
    rendered = list(
        pictures(model, [(frame.camera, frame.time) for frame in chosen], ("rgb",), background=_WHITE, backend=backend)
    )
    recorded = [_on_white(frame.image) for frame in chosen]
    differences = [
        255 - np.abs(a.astype(np.int16) - b).astype(np.uint8) for a, b in zip(recorded, rendered, strict=True)
    ]
    with atomic_write(file) as temporary:
        Image.fromarray(contact_sheet([recorded, rendered, differences])).save(temporary)


def _on_white(image: np.ndarray) -> np.ndarray:
    """Returns the picture uint8 [H, W, 3] with what its straight alpha lets through in white."""
    import numpy as np

    if image.shape[2] == 3:
        return image
    alpha = image[..., 3:].astype(np.float64) / 255.0
    return (image[..., :3] * alpha + 255.0 * (1.0 - alpha) + 0.5).astype(np.uint8)


def _print_summary(out: Path, video: Path, sheet: Path, metrics: dict[str, Any], seconds: float) -> None:
    print(f"\ndone in {seconds:.0f} s: held-out cameras {metrics['psnr']:.2f} dB", end="")
    baselines = metrics.get("baselines", {})
    values = {name: value.get("psnr") if isinstance(value, dict) else value for name, value in baselines.items()}
    known = [f"{name} {value:.2f} dB" for name, value in values.items() if value is not None]
    print(f" (trivial baselines: {', '.join(known)})" if known else "")
    print(f"video    {video}")
    print(f"sheet    {sheet}  (top: recorded, middle: rendered, bottom: 255 - difference)")
    print(f"figures  {out / 'run' / 'eval' / 'metrics.json'}")
    print(f"look     gaussian4d view {out / 'run'}")
