// The playhead: clip time in 0..1, its speed, and what happens at the end.

export const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];

export class Playback {
  time = 0;
  playing = false;
  speed = 1;
  loop = true;

  constructor(readonly seconds: number, readonly frames: number) {}

  /** Moves on by `elapsed` seconds of the wall clock. */
  advance(elapsed: number): void {
    if (!this.playing || this.seconds <= 0) return;
    this.time += (elapsed * this.speed) / this.seconds;
    if (this.time <= 1) return;
    if (this.loop) {
      this.time %= 1;
    } else {
      this.time = 1;
      this.playing = false;
    }
  }

  toggle(): void {
    if (this.seconds <= 0) return;
    this.playing = !this.playing;
    if (this.playing && this.time >= 1) this.time = 0;
  }

  seek(time: number): void {
    this.time = Math.min(1, Math.max(0, time));
  }

  /** Stops, and goes on by whole recorded frames. */
  step(frames: number): void {
    this.playing = false;
    const last = Math.max(1, this.frames - 1);
    this.seek((Math.round(this.time * last) + frames) / last);
  }

  faster(steps: number): void {
    const nearest = SPEEDS.reduce((best, value, i) => (Math.abs(value - this.speed) < Math.abs(SPEEDS[best] - this.speed) ? i : best), 0);
    this.speed = SPEEDS[Math.min(SPEEDS.length - 1, Math.max(0, nearest + steps))];
  }
}
