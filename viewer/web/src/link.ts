// The view and the moment in the address: #t=0.25&view=px,py,pz,tx,ty,tz (camera position, point looked at),
// and &up=-y where another axis than the scene's own was chosen to be up.

import type { Camera, Vector } from "./camera";

export interface Linked {
  time?: number;
  up?: string;
  view?: { position: Vector; target: Vector };
}

export function readLink(hash: string): Linked {
  const fields = new URLSearchParams(hash.replace(/^#/, ""));
  const linked: Linked = {};
  const time = Number(fields.get("t") ?? "x");
  if (Number.isFinite(time)) linked.time = Math.min(1, Math.max(0, time));
  const up = fields.get("up");
  if (up !== null && /^-?[xyz]$/.test(up)) linked.up = up;
  const view = (fields.get("view") ?? "").split(",").map((part) => (part.trim() ? Number(part) : NaN));
  if (view.length === 6 && view.every(Number.isFinite)) {
    linked.view = { position: view.slice(0, 3) as Vector, target: view.slice(3) as Vector };
  }
  return linked;
}

export function writeLink(time: number, camera: Camera): string {
  // Relative to the distance, so that tiny and huge scenes keep the same precision.
  const digits = Math.max(0, Math.min(12, 4 - Math.floor(Math.log10(camera.distance))));
  const view = [...camera.position, ...camera.target].map((value) => Number(value.toFixed(digits)));
  return `#t=${Number(time.toFixed(5))}&view=${view.join(",")}${camera.upward ? `&up=${camera.upward}` : ""}`;
}
