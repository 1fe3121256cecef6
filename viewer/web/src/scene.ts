// The scene inside the page: a JSON header, and the rows in base64 chunks. The format is described in docs/player.md.

import { withSeries, type SeriesHeader } from "./series";

export type Range = [number, number];

export interface Header {
  version: number;
  count: number;
  /** Bytes of the compressed rows, and of how many <script> elements they are spread over. */
  bytes: number;
  chunks: number;
  origin: [number, number, number];
  motion_unit: number;
  scale_range: Range;
  color_range: Range;
  center_range: Range;
  sh1_range: number;
  /** [start, end, first, count]: rows drawn at clip times start < t <= end. */
  groups: [number, number, number, number][];
  /** Gaussians whose rows are made here; `count` and `groups` are without them until they are. */
  series?: SeriesHeader;
  near: number;
  background: [number, number, number];
  /** Seconds from clip time 0 to 1; 0 for a scene that stands still. */
  seconds: number;
  /** Clip times of the first and the last recorded instant: what is played. */
  span: Range;
  /** How many instants were recorded. */
  frames: number;
  title: string;
  about: string;
  up: [number, number, number];
  /** What the first views look at. */
  center: [number, number, number];
  /** The view to begin with. */
  first: Stand;
  /** Recorded cameras; may be none. */
  views: Stand[];
}

/** World-to-camera matrix by rows (OpenCV axes), and tangents of half the horizontal and vertical field of view. */
export interface Stand {
  viewmat: number[];
  tangents: [number, number];
}

export const ROW_WORDS = 16;
const VERSION = 2;

export function readHeader(): Header {
  const header = JSON.parse(document.getElementById("scene")!.textContent!) as Header;
  if (header.version !== VERSION) throw new Error(`this player reads scenes of version ${VERSION}, got ${header.version}`);
  return header;
}

/** Returns the rows, 16 words each. The chunks are taken as they arrive, so that `progress` (0..1) also follows a slow download. */
export async function loadRows(header: Header, progress: (done: number) => void): Promise<Uint32Array> {
  const packed = new Uint8Array(header.bytes);
  let filled = 0;
  for (let index = 0; index < header.chunks; index++) {
    const element = await chunk(index);
    const text = atob(element.textContent!);
    if (filled + text.length > packed.length) throw new Error("the page holds more data than its header says");
    for (let i = 0; i < text.length; i++) packed[filled + i] = text.charCodeAt(i);
    filled += text.length;
    element.remove();
    progress((0.9 * (index + 1)) / header.chunks);
    await pause(0);
  }
  if (filled !== packed.length) throw new Error("the page was cut short: its data ends early");
  const data = await inflate(packed);
  const size = 4 * header.count * ROW_WORDS;
  if (header.series ? data.byteLength < size : data.byteLength !== size) {
    throw new Error("the page's data does not have the size its header says");
  }
  const words = interleaved(new Uint32Array(data, 0, header.count * ROW_WORDS), header.count);
  const all = header.series ? withSeries(header, header.series, words, new Uint8Array(data, size)) : words;
  progress(1);
  return all;
}

/** Equal words of all rows lie together in the file, which compresses better; here the words of a row lie together. */
function interleaved(planes: Uint32Array, count: number): Uint32Array {
  const rows = new Uint32Array(planes.length);
  for (let word = 0; word < ROW_WORDS; word++) {
    const plane = word * count;
    for (let row = 0; row < count; row++) rows[row * ROW_WORDS + word] = planes[plane + row];
  }
  return rows;
}

async function chunk(index: number): Promise<Element> {
  for (;;) {
    const element = document.getElementById(`rows-${index}`);
    // While the document loads, the last element may still be growing: it is whole once another follows it.
    if (element && (document.readyState !== "loading" || element.nextElementSibling)) return element;
    if (document.readyState !== "loading") throw new Error("the page was cut short: its data ends early");
    await pause(30);
  }
}

async function inflate(packed: Uint8Array): Promise<ArrayBuffer> {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser cannot unpack the scene (no DecompressionStream); a browser of 2023 or later can");
  }
  const stream = new Blob([packed as BlobPart]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
