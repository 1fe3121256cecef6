// Where the picture is taken from: a place that looks at a target, level with the scene's up direction.

import type { Header } from "./scene";

export type Vector = [number, number, number];
/** World to camera by rows, OpenCV axes: x right, y down, z forward. */
export type Matrix4 = number[];

export interface Lens {
  fx: number;
  fy: number;
  cx: number;
  cy: number;
}

export const dot = (a: Vector, b: Vector): number => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const cross = (a: Vector, b: Vector): Vector => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
export const plus = (a: Vector, b: Vector, factor = 1): Vector => [a[0] + factor * b[0], a[1] + factor * b[1], a[2] + factor * b[2]];
export const unit = (a: Vector): Vector => plus([0, 0, 0], a, 1 / (Math.hypot(...a) || 1));

const MAX_PITCH = (89 * Math.PI) / 180;

export class Camera {
  target: Vector = [0, 0, 0];
  /** Around `up`, and above the horizon, in radians. */
  yaw = 0;
  pitch = 0;
  distance = 1;
  private readonly up: Vector;
  private readonly axes: [Vector, Vector];
  private readonly tangents: [number, number];
  private view = 0;

  constructor(private readonly header: Header) {
    this.up = unit(header.up);
    const least = this.up.map(Math.abs);
    const away: Vector = [0, 0, 0];
    away[least.indexOf(Math.min(...least))] = 1;
    const first = unit(plus(away, this.up, -dot(away, this.up)));
    this.axes = [first, cross(this.up, first)];
    this.tangents = header.views[0].tangents;
    this.recorded(0);
  }

  get forward(): Vector {
    const level = plus(plus([0, 0, 0], this.axes[0], Math.cos(this.yaw)), this.axes[1], Math.sin(this.yaw));
    return plus(plus([0, 0, 0], level, Math.cos(this.pitch)), this.up, Math.sin(this.pitch));
  }

  get position(): Vector {
    return plus(this.target, this.forward, -this.distance);
  }

  get right(): Vector {
    return unit(cross(this.forward, this.up));
  }

  /** Looks as the recorded view of this index does; the target is the point ahead nearest to the scene's centre. */
  recorded(index: number): void {
    this.view = index % this.header.views.length;
    const m = this.header.views[this.view].viewmat;
    const position: Vector = [0, 0, 0];
    for (let j = 0; j < 3; j++) position[j] = -(m[j] * m[3] + m[4 + j] * m[7] + m[8 + j] * m[11]);
    const forward: Vector = [m[8], m[9], m[10]];
    const ahead = dot(plus(this.header.center, position, -1), forward);
    const distance = Math.hypot(...plus(this.header.center, position, -1));
    this.lookAt(position, plus(position, forward, Math.max(ahead, 0.1 * distance, 1e-3)));
  }

  nextRecorded(): void {
    this.recorded(this.view + 1);
  }

  lookAt(position: Vector, target: Vector): void {
    const ahead = plus(target, position, -1);
    this.distance = Math.max(Math.hypot(...ahead), 1e-6);
    const forward = unit(ahead);
    this.pitch = limit(Math.asin(Math.min(1, Math.max(-1, dot(forward, this.up)))));
    this.yaw = Math.atan2(dot(forward, this.axes[1]), dot(forward, this.axes[0]));
    this.target = target;
  }

  /** Turns around the target, or with `still` around the camera itself. */
  turn(yaw: number, pitch: number, still: boolean): void {
    const position = this.position;
    this.yaw += yaw;
    this.pitch = limit(this.pitch + pitch);
    if (still) this.target = plus(position, this.forward, this.distance);
  }

  /** Moves camera and target, in world units along the camera's own axes. */
  move(right: number, up: number, forward: number): void {
    const above = cross(this.right, this.forward);
    this.target = plus(plus(plus(this.target, this.right, right), above, up), this.forward, forward);
  }

  /** Comes closer to the target by a factor below 1. */
  zoom(factor: number): void {
    this.distance = Math.min(Math.max(this.distance * factor, 1e-4), 1e6);
  }

  viewmat(): Matrix4 {
    const { forward, right, position } = this;
    const down = cross(forward, right);
    const row = (axis: Vector): number[] => [...axis, -dot(axis, position)];
    return [...row(right), ...row(down), ...row(forward), 0, 0, 0, 1];
  }

  /** The lens for a picture of this size: all that the first recorded camera sees stays in view. */
  lens(width: number, height: number): Lens {
    const focal = Math.min(width / (2 * this.tangents[0]), height / (2 * this.tangents[1]));
    return { fx: focal, fy: focal, cx: width / 2, cy: height / 2 };
  }
}

function limit(pitch: number): number {
  return Math.min(MAX_PITCH, Math.max(-MAX_PITCH, pitch));
}
