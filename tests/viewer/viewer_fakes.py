"""A browser that is not there: viser's controls and scene nodes as plain objects that tests can move by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np


class FakeControl:
    """A control that remembers its callback, and calls it when the program sets another value, as viser's do."""

    def __init__(self, value: Any = None, label: str = "", **fields: Any) -> None:
        self.callback: Callable[[Any], None] = lambda event: None
        self._value, self.label, self.content, self.removed = value, label, value, False
        self.__dict__.update({"visible": True, "wxyz": np.array([1.0, 0, 0, 0]), "position": np.zeros(3)} | fields)

    @property
    def value(self) -> Any:
        return self._value

    @value.setter
    def value(self, value: Any) -> None:
        same, self._value = value is self._value or bool(np.all(value == self._value)), value
        if not same:
            self.callback(SimpleNamespace(client=None))

    def on_update(self, callback: Callable[[Any], None]) -> None:
        self.callback = callback

    on_click = on_trigger = on_upload = on_update

    def by_hand(self, value: Any = None) -> None:
        """What happens when the user moves it."""
        if value is not None:
            self._value = value
        self.callback(SimpleNamespace(client=object()))

    def close(self) -> None:
        self.removed = True

    def remove(self) -> None:
        self.removed = True

    def set_gaussians(self, *data: Any) -> None:
        self.data = data

    def __enter__(self) -> FakeControl:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class FakeGui:
    """Makes a control for every `add_*`; remembers them by label, or by kind where they have none."""

    def __init__(self) -> None:
        self.controls: dict[str, FakeControl] = {}

    def __getattr__(self, name: str) -> Callable[..., FakeControl]:
        kind = name.removeprefix("add_")

        def add(*arguments: Any, initial_value: Any = None, **fields: Any) -> FakeControl:
            nameless = kind in ("markdown", "progress_bar")
            label = kind if nameless else arguments[0]
            first = {"slider": 4, "rgb": 1, "vector3": 1, "number": 1, "text": 1, "checkbox": 1, "markdown": 0}.get(
                kind
            )
            value = initial_value if first is None else arguments[first]
            if kind == "dropdown":
                assert value in arguments[1]
            if kind == "button_group":
                value = arguments[1][0]
            fields.pop("label", None)
            made = FakeControl(value, label, **fields)
            kept = self.controls.setdefault(label, made)
            return made if nameless else kept

        return add


class FakeClient:
    def __init__(self) -> None:
        self.pictures: list[np.ndarray] = []
        self.frustums: dict[str, FakeControl] = {}
        self.gui = FakeGui()
        self.camera = SimpleNamespace(
            wxyz=np.array([1.0, 0, 0, 0]),
            position=np.zeros(3),
            look_at=np.zeros(3),
            up_direction=np.zeros(3),
            fov=0.8,
            image_width=80,
            image_height=60,
            on_update=self._on_camera,
        )
        self.nodes: dict[str, FakeControl] = {}
        self.told: list[tuple[str, str]] = []
        self.files: dict[str, bytes] = {}
        self.scene = SimpleNamespace(
            set_background_image=self._picture,
            set_up_direction=lambda direction: None,
            add_camera_frustum=self._frustum,
            add_transform_controls=self._node,
            add_box=self._node,
            add_spline_catmull_rom=self._node,
            add_gaussian_splats=self._node,
        )
        self.moved: Callable[[Any], None] = lambda camera: None

    def _on_camera(self, callback: Callable[[Any], None]) -> None:
        self.moved = callback

    def _node(self, name: str, *data: Any, **fields: Any) -> FakeControl:
        self.nodes[name] = FakeControl(label=name, data=data, **fields)
        return self.nodes[name]

    def add_notification(self, title: str, body: str, **_: Any) -> None:
        self.told.append((title, body))

    def send_file_download(self, name: str, content: bytes, save_immediately: bool = False) -> None:
        # Otherwise viser offers it in a notice, which takes another click.
        if save_immediately:
            self.files[name] = content

    def _picture(self, image: np.ndarray, **_: Any) -> None:
        self.pictures.append(image)

    def _frustum(self, name: str, **fields: Any) -> FakeControl:
        self.frustums[name] = FakeControl(label=name, **fields)
        return self.frustums[name]

    def atomic(self) -> FakeControl:
        return FakeControl()
