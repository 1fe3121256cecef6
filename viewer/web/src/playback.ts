// The playhead: clip time within what was recorded, its speed, and what happens at the end.

export const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];

export class Playback {
  time = 0;
  playing = false;
  speed = 1;
  loop = true;

  /** `seconds` from clip time 0 to 1; `span` are the clip times of the first and the last recorded frame. */
  constructor(readonly seconds: number, readonly frames: number, readonly span: [number, number]) {
    this.time = span[0];
  }

  /** Seconds from the first recorded frame to this moment, or to the last frame. */
  clock(time = this.span[1]): number {
    return (time - this.span[0]) * this.seconds;
  }

  /** Moves on by `elapsed` seconds of the wall clock. */
  advance(elapsed: number): void {
    if (!this.playing || this.seconds <= 0) return;
    this.time += (elapsed * this.speed) / this.seconds;
    const [first, last] = this.span;
    if (this.time <= last) return;
    if (this.loop) {
      this.time = first + ((this.time - first) % (last - first));
    } else {
      this.time = last;
      this.playing = false;
    }
  }

  toggle(): void {
    if (this.seconds <= 0) return;
    this.playing = !this.playing;
    if (this.playing && this.time >= this.span[1]) this.time = this.span[0];
  }

  seek(time: number): void {
    this.time = Math.min(this.span[1], Math.max(this.span[0], time));
  }

  /** Stops, and goes on by whole recorded frames. */
  step(frames: number): void {
    this.playing = false;
    const [first, last] = this.span;
    const width = (last - first) / Math.max(1, this.frames - 1);
    this.seek(first + width * (Math.round((this.time - first) / width) + frames));
  }

  faster(steps: number): void {
    const nearest = SPEEDS.reduce((best, value, i) => (Math.abs(value - this.speed) < Math.abs(SPEEDS[best] - this.speed) ? i : best), 0);
    this.speed = SPEEDS[Math.min(SPEEDS.length - 1, Math.max(0, nearest + steps))];
  }
}
