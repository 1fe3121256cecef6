// The running player: what was asked for (playhead, camera) becomes an order, and an order becomes a picture.

import { Camera, type Lens, type Matrix4 } from "./camera";
import { Order } from "./order";
import { Playback } from "./playback";
import { Renderer } from "./renderer";
import type { Header } from "./scene";
import type { View } from "./sorter";

// Slower pictures than this many milliseconds are drawn with fewer pixels while something moves.
const SLOW = 50;
const LEAST_SCALE = 0.25;
// Blocks of a picture that are drawn at once, so that a slow graphics card never keeps the page from answering: half as
// many when they took longer than SLICE milliseconds, more when they were done by the browser's next frame.
const SLICE = 45;
const LEAST_BLOCKS = 4;
const MOST_BLOCKS = 1 << 16;
// So long after the last change the picture is drawn with all its pixels.
const STILL_AFTER = 200;

/** A camera given by its matrices, for a canvas of exactly this size. */
export interface Fixed {
  viewmat: Matrix4;
  lens: Lens;
  width: number;
  height: number;
}

export class Player {
  readonly camera: Camera;
  readonly playback: Playback;
  /** Clip time of the picture on screen: the newest that has been ordered. */
  shown = -1;
  drawn = 0;
  private renderer: Renderer;
  private readonly order: Order;
  private fixed: Fixed | null = null;
  private asked = "";
  private wishes = 0;
  /** Of the newest order: clip time and number of the wish it answers. */
  private ordered: { time: number; wish: number } | null = null;
  private job: { time: number; wish: number; scale: number; still: boolean; begun: number } | null = null;
  private dirty = false;
  private scale = 1;
  private drawnScale = 1;
  private lastChange = 0;
  private blocks = 16;
  private submitted = 0;
  private polls = 0;
  private waiting: { wish: number; resolve: () => void }[] = [];

  constructor(private readonly canvas: HTMLCanvasElement, private readonly gl: WebGL2RenderingContext, readonly header: Header, private readonly words: Uint32Array) {
    this.camera = new Camera(header);
    this.playback = new Playback(header.seconds, header.frames, header.span);
    this.renderer = new Renderer(gl, header, words);
    this.order = new Order(words, header, (view, order, count) => this.take(view, order, count));
  }

  get sortMilliseconds(): number {
    return this.order.milliseconds;
  }

  get deep(): boolean {
    return this.renderer.deep;
  }

  /** Draws through exactly this camera until called with null. */
  fix(fixed: Fixed | null): void {
    this.fixed = fixed;
    const { style } = this.canvas;
    style.width = fixed ? `${fixed.width}px` : "";
    style.height = fixed ? `${fixed.height}px` : "";
    this.changed();
  }

  changed(): void {
    this.lastChange = performance.now();
    this.dirty = true;
  }

  /** After a lost graphics context has come back. */
  restore(): void {
    this.renderer = new Renderer(this.gl, this.header, this.words);
    this.asked = "";
    this.ordered = null;
    this.job = null;
    this.changed();
  }

  /** Once per frame of the browser. */
  frame(): void {
    if (this.gl.isContextLost()) return;
    this.resize();
    this.askForOrder();
    const now = performance.now();
    const still = now - this.lastChange > STILL_AFTER;
    // A picture in full size is given up when things move again.
    if (this.job?.still && !still && !this.fixed) this.job = null;
    if (!this.job) {
      if (still && this.drawnScale < 1) this.dirty = true;
      if (!this.dirty || !this.ordered || !this.renderer.idle()) return;
      this.begin(still || this.fixed ? 1 : this.scale, still);
    } else {
      this.polls++;
      if (!this.renderer.idle()) return;
      if (now - this.submitted > SLICE) this.blocks = Math.max(LEAST_BLOCKS, this.blocks >> 1);
      else if (this.polls === 1) this.blocks = Math.min(MOST_BLOCKS, Math.ceil(1.5 * this.blocks));
    }
    this.submitted = now;
    this.polls = 0;
    if (this.renderer.advance(this.blocks)) this.finish();
  }

  /** Resolves when a picture is drawn of the camera and a time no older than now. */
  settled(): Promise<void> {
    this.asked = "";
    this.changed();
    return new Promise((resolve) => this.waiting.push({ wish: this.wishes + 1, resolve }));
  }

  /** Draws now and returns bytes RGB. */
  pixels(): Uint8Array {
    this.begin(1, true);
    this.renderer.advance(MOST_BLOCKS);
    this.finish();
    return this.renderer.pixels();
  }

  size(): [number, number] {
    return [this.canvas.width, this.canvas.height];
  }

  private begin(scale: number, still: boolean): void {
    const [width, height] = this.size();
    const lens = this.fixed ? this.fixed.lens : this.camera.lens(width, height);
    this.job = { ...this.ordered!, scale, still, begun: performance.now() };
    this.renderer.begin(this.job.time, this.viewmat(), lens, scale);
    this.dirty = false;
  }

  private finish(): void {
    const job = this.job!;
    this.job = null;
    this.shown = job.time;
    this.drawnScale = job.scale;
    this.drawn++;
    if (!job.still) this.adapt(performance.now() - job.begun);
    for (const { wish, resolve } of this.waiting.splice(0)) {
      if (wish <= job.wish) resolve();
      else this.waiting.push({ wish, resolve });
    }
  }

  /** A picture in one slice takes no measurable time here, and the graphics card is then fast enough. */
  private adapt(milliseconds: number): void {
    if (milliseconds > SLOW) this.scale = Math.max(LEAST_SCALE, this.scale * 0.8);
    else if (milliseconds < SLOW / 2) this.scale = Math.min(1, this.scale * 1.05);
  }

  private viewmat(): Matrix4 {
    return this.fixed ? this.fixed.viewmat : this.camera.viewmat();
  }

  private depth(): View["depth"] {
    const m = this.viewmat();
    const o = this.header.origin;
    return [m[8], m[9], m[10], m[8] * o[0] + m[9] * o[1] + m[10] * o[2] + m[11]];
  }

  private askForOrder(): void {
    const key = [this.playback.time, ...this.depth()].join(" ");
    if (key === this.asked) return;
    this.asked = key;
    this.lastChange = performance.now();
    this.order.want({ time: this.playback.time, depth: this.depth(), wish: ++this.wishes });
  }

  private take(view: View, order: Uint32Array, count: number): void {
    if (this.gl.isContextLost()) return;
    this.renderer.setOrder(order, count);
    this.ordered = { time: view.time, wish: view.wish };
    this.dirty = true;
  }

  private resize(): void {
    const ratio = this.fixed ? 1 : Math.min(window.devicePixelRatio || 1, 2);
    const width = this.fixed ? this.fixed.width : Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    const height = this.fixed ? this.fixed.height : Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.canvas.width === width && this.canvas.height === height) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.job = null;
    this.changed();
  }
}
