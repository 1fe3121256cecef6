// The buttons, the timeline and the keyboard of the page.

import { Controls } from "./controls";
import { readLink, writeLink } from "./link";
import { SPEEDS } from "./playback";
import type { Player } from "./player";

// The address is written at most this often, in milliseconds; browsers refuse more.
const LINK_INTERVAL = 400;

export class Interface {
  readonly controls: Controls;
  private readonly play = element<HTMLButtonElement>("play");
  private readonly time = element<HTMLInputElement>("time");
  private readonly clock = element("clock");
  private readonly speed = element<HTMLSelectElement>("speed");
  private readonly up = element<HTMLSelectElement>("up");
  private readonly loop = element<HTMLButtonElement>("loop");
  private readonly mode = element<HTMLButtonElement>("mode");
  private linked = "";
  private linkedAt = 0;
  private moved = false;

  constructor(canvas: HTMLCanvasElement, private readonly player: Player) {
    const { camera, playback, header } = player;
    this.controls = new Controls(canvas, camera, () => this.lookedElsewhere(), () => playback.toggle());
    element("timeline").hidden = header.seconds <= 0;
    element("about").textContent = header.about;
    [this.time.min, this.time.max] = header.span.map(String);
    for (const speed of SPEEDS) this.speed.add(new Option(`${speed}x`, String(speed)));
    this.play.onclick = () => playback.toggle();
    this.time.oninput = (event) => {
      this.controls.record(event);
      playback.playing = false;
      playback.seek(Number(this.time.value));
      this.lookedElsewhere();
    };
    this.speed.onchange = () => (playback.speed = Number(this.speed.value));
    this.loop.onclick = () => (playback.loop = !playback.loop);
    this.mode.onclick = () => this.command("KeyF");
    element("camera").hidden = header.views.length === 0;
    this.up.onchange = () => {
      camera.setUp(this.up.value);
      // The keys belong to the scene again.
      this.up.blur();
      this.lookedElsewhere();
    };
    for (const [id, code] of [["camera", "KeyC"], ["reset", "KeyR"], ["link", "KeyL"], ["help", "KeyH"]] as const) {
      element<HTMLButtonElement>(id).onclick = () => this.command(code);
    }
    window.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("hashchange", () => this.follow());
    // A link to a moment shows that moment; any other scene starts to move.
    const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    playback.playing = header.seconds > 0 && !calm && readLink(location.hash).time === undefined;
    this.follow();
  }

  /** Shows the state of the playhead, and now and then writes the address. Once per frame. */
  refresh(): void {
    const { playback } = this.player;
    const text = `${playback.clock(playback.time).toFixed(2)} / ${playback.clock().toFixed(2)} s`;
    if (this.clock.textContent !== text) this.clock.textContent = text;
    if (document.activeElement !== this.time || playback.playing) this.time.value = String(playback.time);
    this.play.classList.toggle("playing", playback.playing);
    this.play.setAttribute("aria-label", playback.playing ? "pause" : "play");
    this.loop.setAttribute("aria-pressed", String(playback.loop));
    if (Number(this.speed.value) !== playback.speed) this.speed.value = String(playback.speed);
    if (playback.playing) this.moved = true;
    if (this.moved && performance.now() - this.linkedAt > LINK_INTERVAL && !playback.playing) this.write();
  }

  private lookedElsewhere(): void {
    this.moved = true;
    this.player.changed();
  }

  /** Restores what the address names. */
  private follow(): void {
    if (location.hash === this.linked) return;
    this.linked = location.hash;
    const { time, view, up } = readLink(location.hash);
    const { camera, playback } = this.player;
    if (up !== undefined) camera.setUp(up);
    this.up.value = camera.upward;
    if (time !== undefined) {
      playback.seek(time);
      playback.playing = false;
    }
    if (view) camera.lookAt(view.position, view.target);
    this.player.changed();
  }

  private write(): void {
    this.moved = false;
    this.linkedAt = performance.now();
    this.linked = writeLink(this.player.playback.time, this.player.camera);
    try {
      history.replaceState(null, "", this.linked);
    } catch {
      // A page inside another one may not change its address; the link button still works.
    }
  }

  private async copy(): Promise<void> {
    this.write();
    const button = element("link");
    try {
      await navigator.clipboard.writeText(location.href.replace(/#.*$/, "") + this.linked);
      button.textContent = "copied";
    } catch {
      button.textContent = "see address";
    }
    setTimeout(() => (button.textContent = "link"), 1500);
  }

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    // A list keeps its own keys; everywhere else ours count, also on a focused button or slider.
    if (event.target instanceof HTMLSelectElement) return;
    if (!this.command(event.code, event.shiftKey)) return;
    this.controls.record(event);
    event.preventDefault();
  }

  private command(code: string, shift = false): boolean {
    const { camera, playback } = this.player;
    const commands: Record<string, () => void> = {
      Space: () => playback.toggle(),
      ArrowLeft: () => playback.step(shift ? -10 : -1),
      ArrowRight: () => playback.step(shift ? 10 : 1),
      ArrowUp: () => playback.faster(1),
      ArrowDown: () => playback.faster(-1),
      Home: () => playback.seek(playback.span[0]),
      End: () => playback.seek(playback.span[1]),
      KeyO: () => (playback.loop = !playback.loop),
      KeyC: () => camera.nextRecorded(),
      KeyR: () => camera.first(),
      KeyL: () => void this.copy(),
      KeyH: () => element("help-text").toggleAttribute("hidden"),
      KeyF: () => {
        this.controls.fly = !this.controls.fly;
        this.mode.textContent = this.controls.fly ? "fly" : "orbit";
      },
    };
    const run = commands[code];
    if (!run) return false;
    run();
    this.lookedElsewhere();
    return true;
  }
}

export function element<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}
