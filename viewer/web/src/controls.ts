// Mouse, touch and keyboard on the canvas.

import type { Camera } from "./camera";

const KEYS: Record<string, [number, number, number]> = {
  KeyW: [0, 0, 1],
  KeyS: [0, 0, -1],
  KeyA: [-1, 0, 0],
  KeyD: [1, 0, 0],
  KeyE: [0, 1, 0],
  KeyQ: [0, -1, 0],
};

const RADIANS_PER_PIXEL = 0.006;
const ZOOM_PER_PIXEL = 0.0015;
// Seconds that one frame flies at most, however long it took.
const LONGEST_STEP = 0.1;

export class Controls {
  /** Whether a drag turns the camera on its place instead of around the target. */
  fly = false;
  /** Milliseconds from each input event to its handling, the last ones. */
  readonly delays: number[] = [];
  private readonly pointers = new Map<number, { x: number; y: number; pan: boolean }>();
  /** Keys held, with the time of the press until a frame has flown by them: a short press between frames counts too. */
  private readonly held = new Map<string, number | null>();
  private lastTap = 0;

  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly camera: Camera,
    private readonly changed: () => void,
    private readonly toggle: () => void,
  ) {
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.moved(event));
    for (const name of ["pointerup", "pointercancel"] as const) {
      canvas.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    window.addEventListener("keydown", (event) => this.key(event, true));
    window.addEventListener("keyup", (event) => this.key(event, false));
    window.addEventListener("blur", () => this.held.clear());
  }

  /** Flies by the keys held for `elapsed` seconds. */
  advance(elapsed: number): void {
    if (this.held.size > 0) this.flyBy([...this.held.keys()], elapsed);
    for (const code of this.held.keys()) this.held.set(code, null);
  }

  private flyBy(codes: string[], seconds: number): void {
    // A second crosses what lies between the camera and its target.
    const step = Math.min(seconds, LONGEST_STEP) * this.camera.distance;
    const sum = [0, 0, 0];
    for (const code of codes) KEYS[code].forEach((value, i) => (sum[i] += value));
    this.camera.move(step * sum[0], step * sum[1], step * sum[2]);
    this.changed();
  }

  record(event: Event): void {
    this.delays.push(performance.now() - event.timeStamp);
    if (this.delays.length > 1000) this.delays.shift();
  }

  private down(event: PointerEvent): void {
    this.record(event);
    this.canvas.focus();
    this.canvas.setPointerCapture(event.pointerId);
    const pan = event.button === 1 || event.button === 2 || event.shiftKey;
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, pan });
    if (event.pointerType === "touch" && this.pointers.size === 1) {
      if (event.timeStamp - this.lastTap < 300) this.toggle();
      this.lastTap = event.timeStamp;
    }
  }

  private moved(event: PointerEvent): void {
    const pointer = this.pointers.get(event.pointerId);
    if (!pointer) return;
    this.record(event);
    const dx = event.clientX - pointer.x;
    const dy = event.clientY - pointer.y;
    if (this.pointers.size >= 2) this.pinch(event, dx, dy);
    else if (pointer.pan) this.pan(dx, dy);
    else this.camera.turn(-dx * RADIANS_PER_PIXEL, -dy * RADIANS_PER_PIXEL, this.fly);
    pointer.x = event.clientX;
    pointer.y = event.clientY;
    this.changed();
  }

  /** Two fingers: their distance zooms, their middle moves the scene along. */
  private pinch(event: PointerEvent, dx: number, dy: number): void {
    const pointer = this.pointers.get(event.pointerId)!;
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)![1];
    const before = Math.hypot(pointer.x - other.x, pointer.y - other.y);
    const after = Math.hypot(event.clientX - other.x, event.clientY - other.y);
    if (before > 0 && after > 0) this.camera.zoom(before / after);
    this.pan(dx / 2, dy / 2);
  }

  private pan(dx: number, dy: number): void {
    const lens = this.camera.lens(this.canvas.clientWidth, this.canvas.clientHeight);
    const unit = this.camera.distance / lens.fx;
    this.camera.move(-dx * unit, dy * unit, 0);
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault();
    this.record(event);
    const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1);
    this.camera.zoom(Math.exp(pixels * ZOOM_PER_PIXEL));
    this.changed();
  }

  private key(event: KeyboardEvent, pressed: boolean): void {
    if (!(event.code in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
    this.record(event);
    const since = this.held.get(event.code);
    if (!pressed) {
      if (typeof since === "number") this.flyBy([event.code], (event.timeStamp - since) / 1000);
      this.held.delete(event.code);
    } else if (since === undefined) this.held.set(event.code, event.timeStamp);
  }
}
