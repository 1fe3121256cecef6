// Where the picture is taken from: a place that looks at a target, level with the scene's up direction.

import type { Header, Stand } from "./scene";

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
  /** The axis that was chosen to be up, "x" to "-z"; "" for what the scene says. */
  upward = "";
  private up: Vector = [0, 0, 1];
  private axes: [Vector, Vector] = [[1, 0, 0], [0, 1, 0]];
  private readonly tangents: [number, number];
  /** Of the recorded view that is next. */
  private next = 0;

  constructor(private readonly header: Header) {
    this.setAxes(header.up);
    this.tangents = header.first.tangents;
    this.first();
  }

  /** Takes another axis as up, or with "" the scene's own; place and target stay. */
  setUp(name: string): void {
    const index = "xyz".indexOf(name.slice(-1));
    if (name !== "" && (index < 0 || !/^-?[xyz]$/.test(name))) return;
    const { position, target } = this;
    const axis: Vector = [0, 0, 0];
    if (name) axis[index] = name.length > 1 ? -1 : 1;
    this.upward = name;
    this.setAxes(name ? axis : this.header.up);
    this.lookAt(position, target);
  }

  private setAxes(up: Vector): void {
    this.up = unit(up);
    const least = this.up.map(Math.abs);
    const away: Vector = [0, 0, 0];
    away[least.indexOf(Math.min(...least))] = 1;
    const first = unit(plus(away, this.up, -dot(away, this.up)));
    this.axes = [first, cross(this.up, first)];
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

  /** Goes to the view to begin with. */
  first(): void {
    this.next = 0;
    this.stand(this.header.first);
  }

  /** Looks as the next recorded view does, if there is one. */
  nextRecorded(): void {
    const { views } = this.header;
    if (views.length) this.stand(views[this.next++ % views.length]);
  }

  /** Looks from there; the target is the point ahead nearest to the scene's centre. */
  private stand({ viewmat: m }: Stand): void {
    const position: Vector = [0, 0, 0];
    for (let j = 0; j < 3; j++) position[j] = -(m[j] * m[3] + m[4 + j] * m[7] + m[8 + j] * m[11]);
    const forward: Vector = [m[8], m[9], m[10]];
    const ahead = dot(plus(this.header.center, position, -1), forward);
    const distance = Math.hypot(...plus(this.header.center, position, -1));
    this.lookAt(position, plus(position, forward, Math.max(ahead, 0.1 * distance, 1e-3)));
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

  /** The lens for a picture of this size: all that the first view sees stays in view. */
  lens(width: number, height: number): Lens {
    const focal = Math.min(width / (2 * this.tangents[0]), height / (2 * this.tangents[1]));
    return { fx: focal, fy: focal, cx: width / 2, cy: height / 2 };
  }
}

function limit(pitch: number): number {
  return Math.min(MAX_PITCH, Math.max(-MAX_PITCH, pitch));
}
