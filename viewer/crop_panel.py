"""The crop box of one browser: drawn and dragged there, honoured by pictures, films, and --crop of the shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import viser

from gaussian4d.crop import CropBox, crop_model
from gaussian4d.offsets import offset_of

from .camera_panel import guarded

if TYPE_CHECKING:
    from .session import Session


class CropPanel:
    """A box with handles to move and turn it."""

    LASTING = ("on", "size")
    """Controls whose values outlast a reload of the page."""

    def __init__(self, session: Session) -> None:
        self._session = session
        gui, scene = session.client.gui, session.client.scene
        # The cameras stand at distance 3 from what they look at; a box of 1.5 holds most subjects.
        with gui.add_folder("Crop", expand_by_default=False):
            self.on = gui.add_checkbox("crop", False, hint="show only what is inside the box")
            self.size = gui.add_vector3("size", (1.5, 1.5, 1.5), min=(0.01, 0.01, 0.01), step=0.05, hint="viewer units")
            save = gui.add_button("Save box", hint="crop.json for render --crop and export --crop")
            export = gui.add_button("Export what is inside", hint="as .g4d, with its motion")
        self.handle = scene.add_transform_controls("/crop", scale=0.6, visible=False)
        self._box = scene.add_box("/crop/box", color=(60, 160, 220), dimensions=(1.5, 1.5, 1.5), wireframe=True)

        @self.on.on_update
        def _(_: viser.GuiEvent) -> None:
            self.handle.visible = bool(self.on.value)
            session.request()

        @self.size.on_update
        def _(_: viser.GuiEvent) -> None:
            self._box.dimensions = self._edges()
            session.request()

        self.handle.on_update(lambda _: session.request())
        save.on_click(guarded(session, self.save))
        export.on_click(guarded(session, self.export))

    def box(self) -> CropBox:
        """Returns the box in the world."""
        units = self._session.painter.units
        x, y, z = (float(value) for value in units.world_from_viewer(np.array(self.handle.position)))
        dx, dy, dz = (edge / units.scale for edge in self._edges())
        w, qx, qy, qz = (float(value) for value in self.handle.wxyz)
        ox, oy, oz = offset_of(self._session.painter.model).tolist()
        offset = (ox, oy, oz) if any((ox, oy, oz)) else None
        return CropBox((x, y, z), (dx, dy, dz), (w, qx, qy, qz), offset)

    @property
    def active(self) -> CropBox | None:
        """The box when the crop is on."""
        return self.box() if self.on.value else None

    def save(self) -> None:
        """Writes crop.json into the run folder, or offers it as a download."""
        session, box = self._session, self.box()
        if session.workspace.folder is None:
            session.download("crop.json", lambda file: box.save(file))
            return
        file = session.workspace.folder / "crop.json"
        box.save(file)
        session.tell("Box saved", f"gaussian4d export {session.workspace.source} --to part.g4d --crop {file}")

    def export(self) -> None:
        """Writes what is inside as exports/crop.g4d, or offers it as a download."""
        session = self._session
        model = crop_model(session.painter.model, self.box())
        if session.workspace.folder is None:
            session.download("crop.g4d", lambda file: model.save(file))
            return
        file = session.workspace.file("exports", "crop", ".g4d")
        file.parent.mkdir(parents=True, exist_ok=True)
        model.save(file)
        session.tell("Exported", f"{len(model):,} Gaussians: {session.workspace.shown(file)}")

    def _edges(self) -> tuple[float, float, float]:
        x, y, z = (min(max(float(edge), 1e-3), 1e3) for edge in self.size.value)
        return x, y, z
