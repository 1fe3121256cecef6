"""The timeline of one browser: slider, play and pause, speed, loop, frame steps, frames per second, keys."""

from __future__ import annotations

from collections.abc import Callable

import viser

from .playback import Playback

# What the buttons say, and where they go.
_STEPS = {"|<": "first", "<": "previous", ">": "next", ">|": "last"}


class Timeline:
    """Controls of a `Playback`.

    Args:
        gui: where the controls go.
        interval: clip time from one recorded frame to the next.
        duration: seconds of the clip.
        changed: called when another time is to be shown.
        span: first and last clip time that was recorded.
    """

    LASTING = ("speed", "loop", "fps")
    """Controls whose values outlast a reload of the page."""

    def __init__(
        self,
        gui: viser.GuiApi,
        interval: float,
        duration: float,
        changed: Callable[[], None],
        span: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self._interval, self._changed = interval, changed
        self.playback = Playback(self._tick, duration, ended=self._label, span=span)
        with gui.add_folder("Time"):
            hint = "clip time: 0 is the start, 1 the end" + ("" if span == (0.0, 1.0) else "; this part was recorded")
            # Ten digits say more than a slider shows, and its ends stay what they are.
            first, last = round(span[0], 10), round(span[1], 10)
            self.slider = gui.add_slider("time", first, last, min(0.001, (last - first) / 100), first, hint=hint)
            self.button = gui.add_button("Play", hint="space")
            steps = gui.add_button_group("frame", tuple(_STEPS), hint="shift and an arrow key; home; end")
            speed = self.speed = gui.add_slider("speed", 0.1, 4.0, 0.1, 1.0)
            loop = self.loop = gui.add_checkbox("loop", True)
            fps = self.fps = gui.add_slider("fps", 1, 60, 1, 24, hint="frames requested per second during playback")

        @self.slider.on_update
        def _(event: viser.GuiEvent) -> None:
            # Our own ticks move the slider too; only the user's hand seeks.
            if event.client is not None:
                self.playback.seek(float(self.slider.value))
                self._changed()

        @self.button.on_click
        def _(_: viser.GuiEvent) -> None:
            self.toggle()

        @steps.on_click
        def _(_: viser.GuiEvent) -> None:
            self.step(_STEPS.get(str(steps.value), ""))

        @speed.on_update
        def _(_: viser.GuiEvent) -> None:
            self.playback.set_speed(min(max(float(speed.value), 0.01), 100.0))

        @loop.on_update
        def _(_: viser.GuiEvent) -> None:
            self.playback.set_loop(bool(loop.value))

        @fps.on_update
        def _(_: viser.GuiEvent) -> None:
            self.playback.fps = min(max(float(fps.value), 1.0), 240.0)

        commands = (
            ("Play or pause", "space", None, self.toggle),
            ("Next frame", "arrowright", "shift", lambda: self.step("next")),
            ("Previous frame", "arrowleft", "shift", lambda: self.step("previous")),
            ("First frame", "home", None, lambda: self.step("first")),
            ("Last frame", "end", None, lambda: self.step("last")),
        )
        for label, key, modifier, act in commands:
            command = gui.add_command(label, hotkey=key, modifier=modifier)  # type: ignore[arg-type]
            command.on_trigger(lambda _, act=act: act())

    def toggle(self) -> None:
        """Plays or pauses."""
        self.playback.play(not self.playback.playing)
        self._label()
        self._changed()

    def step(self, where: str) -> None:
        """Goes one recorded frame on ("next") or back ("previous"), or to the "first" or "last"."""
        now = self.playback.now()
        places = {"next": now + self._interval, "previous": now - self._interval, "first": self.playback.span[0]}
        places["last"] = self.playback.span[1]
        self.go(places.get(where, now))

    def go(self, time: float) -> None:
        """Goes to a clip time and shows it."""
        self.playback.seek(time)
        self._tick(self.playback.now())

    def _tick(self, time: float) -> None:
        self.slider.value = time
        self._changed()

    def _label(self) -> None:
        self.button.label = "Pause" if self.playback.playing else "Play"
