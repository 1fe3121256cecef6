// Which rows are there at a time, and their order from back to front. Runs in the worker.

import { ROW_WORDS, type Header } from "./scene";

// What the sorter reads of a row: position 3, motion 9, center, sharpness, and where the fading ends.
const FIELDS = 15;
// The shader decides alone about rows this close to invisible.
const SLACK = 1e-2;

const RADIX_BITS = 11;
const BUCKETS = 1 << RADIX_BITS;

export interface View {
  time: number;
  /** Depth of a point p relative to the origin: depth[0..2] . p + depth[3]. */
  depth: [number, number, number, number];
  /** Number of the request. */
  wish: number;
}

export class Sorter {
  private readonly fields: Float32Array;
  private readonly keys: [Float32Array, Float32Array];
  private readonly rows: [Uint32Array, Uint32Array];
  private readonly histogram = new Uint32Array(3 * BUCKETS);

  constructor(words: Uint32Array, private readonly header: Header) {
    this.fields = decodeFields(words, header);
    this.keys = [new Float32Array(header.count), new Float32Array(header.count)];
    this.rows = [new Uint32Array(header.count), new Uint32Array(header.count)];
  }

  /** Returns the visible rows at `view.time` from back to front. The array is the sorter's own, until the next call. */
  order(view: View): Uint32Array {
    const { fields, header } = this;
    const [a, b, c, d] = view.depth;
    const keys = this.keys[0];
    const rows = this.rows[0];
    let count = 0;
    for (const [start, end, first, size] of header.groups) {
      if (!(start < view.time && view.time <= end)) continue;
      for (let row = first, f = first * FIELDS; row < first + size; row++, f += FIELDS) {
        const since = view.time - fields[f + 12];
        const faded = since * fields[f + 13];
        if (faded * faded > fields[f + 14]) continue;
        const x = fields[f] + since * (fields[f + 3] + since * (fields[f + 6] + since * fields[f + 9]));
        const y = fields[f + 1] + since * (fields[f + 4] + since * (fields[f + 7] + since * fields[f + 10]));
        const z = fields[f + 2] + since * (fields[f + 5] + since * (fields[f + 8] + since * fields[f + 11]));
        const depth = a * x + b * y + c * z + d;
        if (!(depth > 0.5 * header.near)) continue;
        keys[count] = depth;
        rows[count++] = row;
      }
    }
    return this.sorted(count);
  }

  /** Radix sort by the bits of the depth, which order positive floats; complemented, so that the farthest come first. */
  private sorted(count: number): Uint32Array {
    const { histogram } = this;
    histogram.fill(0);
    const bits = new Uint32Array(this.keys[0].buffer, 0, count);
    for (let i = 0; i < count; i++) {
      const key = ~bits[i];
      bits[i] = key;
      histogram[key & (BUCKETS - 1)]++;
      histogram[BUCKETS + ((key >>> RADIX_BITS) & (BUCKETS - 1))]++;
      histogram[2 * BUCKETS + (key >>> (2 * RADIX_BITS))]++;
    }
    for (let pass = 0; pass < 3; pass++) {
      let sum = 0;
      for (let bucket = pass * BUCKETS; bucket < (pass + 1) * BUCKETS; bucket++) {
        const here = histogram[bucket];
        histogram[bucket] = sum;
        sum += here;
      }
    }
    let from = 0;
    for (let pass = 0; pass < 3; pass++) {
      const keys = new Uint32Array(this.keys[from].buffer, 0, count);
      const rows = this.rows[from];
      const keysTo = new Uint32Array(this.keys[1 - from].buffer, 0, count);
      const rowsTo = this.rows[1 - from];
      const shift = pass * RADIX_BITS;
      const base = pass * BUCKETS;
      for (let i = 0; i < count; i++) {
        const place = histogram[base + ((keys[i] >>> shift) & (BUCKETS - 1))]++;
        keysTo[place] = keys[i];
        rowsTo[place] = rows[i];
      }
      from = 1 - from;
    }
    return this.rows[from].subarray(0, count);
  }
}

function decodeFields(words: Uint32Array, header: Header): Float32Array {
  const half = halfTable();
  const floats = new Float32Array(words.buffer, words.byteOffset, words.length);
  const fields = new Float32Array(header.count * FIELDS);
  const [low, high] = header.center_range;
  for (let row = 0; row < header.count; row++) {
    const w = row * ROW_WORDS;
    const f = row * FIELDS;
    for (let i = 0; i < 3; i++) fields[f + i] = floats[w + i];
    for (let i = 0; i < 9; i++) {
      const pair = words[w + 3 + (i >> 1)];
      fields[f + 3 + i] = half[i & 1 ? pair >>> 16 : pair & 0xffff] * header.motion_unit;
    }
    const last = words[w + 13];
    fields[f + 12] = low + ((last & 0x3fff) / 0x3fff) * (high - low);
    fields[f + 13] = half[words[w + 7] >>> 16];
    fields[f + 14] = Math.log((255 * ((last >>> 14) & 1023)) / 1023) + SLACK;
  }
  return fields;
}

/** Returns the value of every float16. */
function halfTable(): Float32Array {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
    table[bits] = bits & 0x8000 ? -size : size;
  }
  return table;
}
