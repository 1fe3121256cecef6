// Rows made of the shared functions of time that the page stores instead of them; the format is described in docs/player.md.

import { ROW_WORDS, type Header, type Range } from "./scene";

/** What the header says of Gaussians whose attributes are sums of functions of time. */
export interface SeriesHeader {
  count: number;
  /** How often the clip may be halved. */
  levels: number;
  /** For path, turn, size and colour: how many functions, the unit of their coefficients, the unit of the mean. */
  functions: [number, number, number, number];
  steps: [number, number, number, number];
  mean_steps: [number, number, number, number];
  /** [level, index, rows], in the order of the rows. */
  windows: [number, number, number][];
  /** Bytes of each column's numbers. */
  column_bytes: number[];
  tree_bytes: number;
}

const WIDTHS = [3, 4, 3, 3];
const KINDS = [4, 2, 1, 1]; // numbers that a window makes of each component
const FIXED = 13; // columns before those of the attributes
const QUAT_RANGE = Math.SQRT1_2;

/** Returns `words` with the rows of the series after them, and adds these rows to the header's count and groups. */
export function withSeries(header: Header, series: SeriesHeader, words: Uint32Array, bytes: Uint8Array): Uint32Array {
  const reader = new Columns(series, bytes);
  const before = header.count;
  const total = series.windows.reduce((sum, window) => sum + window[2], 0);
  const all = new Uint32Array((before + total) * ROW_WORDS);
  all.set(words);
  const rows = rowsOfWindows(series, reader.trees);
  let first = before;
  series.windows.forEach(([level, index, count], place) => {
    const members = rows.get(key(level, index));
    if (!members || members.length !== count) throw new Error("the page's cuts do not fit its windows");
    const number = 2 ** level;
    const start = index === 0 ? -1 : index / number;
    const end = index === number - 1 ? 2 : (index + 1) / number;
    header.groups.push([start, end, first, count]);
    const [low, high] = [index / number, (index + 1) / number];
    members.forEach((row, k) => writeRow(header, reader, place, row, low, high, all, (first + k) * ROW_WORDS));
    first += count;
  });
  header.count = before + total;
  return all;
}

function key(level: number, index: number): number {
  return 2 ** level + index;
}

/** Returns which Gaussians are a row in which window: each tree holds its cuts, a window before its halves. */
function rowsOfWindows(series: SeriesHeader, trees: Uint8Array): Map<number, number[]> {
  const found = new Map<number, number[]>();
  let place = 0;
  for (let row = 0; row < series.count; row++) {
    const visit = (level: number, index: number): void => {
      const halved = (trees[place >> 3] >> (7 - (place & 7))) & 1;
      place++;
      if (halved && level < series.levels) {
        visit(level + 1, 2 * index);
        visit(level + 1, 2 * index + 1);
        return;
      }
      const members = found.get(key(level, index));
      if (members) members.push(row);
      else found.set(key(level, index), [row]);
    };
    visit(0, 0);
  }
  return found;
}

/** The numbers of the series: tables of the windows, columns of the Gaussians. */
class Columns {
  readonly trees: Uint8Array;
  /** Per window: numbers of the path's, the turn's, the size's and the colour's functions one after the other. */
  readonly table: Float32Array;
  readonly tableSize: number;
  private readonly numbers: Int32Array[] = [];
  /** Where each attribute's columns begin, and its part of a window's table. */
  private readonly firstColumn: number[] = [];
  private readonly firstTable: number[] = [];

  constructor(private readonly series: SeriesHeader, bytes: Uint8Array) {
    let columns = FIXED;
    let tableSize = 0;
    series.functions.forEach((number, a) => {
      this.firstColumn.push(columns);
      this.firstTable.push(tableSize);
      columns += WIDTHS[a] * (1 + number);
      tableSize += number * KINDS[a];
    });
    this.tableSize = tableSize;
    const tables = tableSize * series.windows.length;
    const planes = series.column_bytes.reduce((sum, size) => sum + size, 0);
    const size = 4 * tables + planes * series.count + series.tree_bytes;
    if (series.column_bytes.length !== columns || bytes.length !== size) {
      throw new Error("the page's data does not have the size its header says");
    }
    this.table = new Float32Array(bytes.slice(0, 4 * tables).buffer);
    let from = 4 * tables;
    series.column_bytes.forEach((width, column) => {
      const values = new Int32Array(series.count);
      for (let byte = 0; byte < width; byte++, from += series.count) {
        for (let row = 0; row < series.count; row++) values[row] += bytes[from + row] * 2 ** (8 * byte);
      }
      if (column >= FIXED) for (let row = 0; row < series.count; row++) values[row] = (values[row] >>> 1) ^ -(values[row] & 1);
      this.numbers.push(values);
    });
    this.trees = bytes.subarray(from);
  }

  fixed(column: number, row: number): number {
    return this.numbers[column][row];
  }

  /** Puts the `kinds` numbers that a window makes of component `c` of attribute `a` of a Gaussian into `out`. */
  made(a: number, c: number, row: number, window: number, kinds: number, out: Float64Array): void {
    const { functions, steps, mean_steps } = this.series;
    const unit = a === 0 ? 2 ** this.numbers[0][row] : 1;
    const first = this.firstColumn[a] + c;
    let at = window * this.tableSize + this.firstTable[a];
    for (let p = 0; p < kinds; p++) out[p] = 0;
    for (let k = 1; k <= functions[a]; k++, at += kinds) {
      const value = this.numbers[first + WIDTHS[a] * k][row];
      if (value) for (let p = 0; p < kinds; p++) out[p] += value * this.table[at + p];
    }
    const mean = this.numbers[first][row] * mean_steps[a] * unit;
    // The higher powers of a path have no mean.
    for (let p = 0; p < kinds; p++) out[p] = out[p] * steps[a] * unit + (a === 0 && p > 0 ? 0 : mean);
  }
}

// Rooms of `writeRow`, used again for every row.
const made = new Float64Array(4);
const floats = new Float32Array(3);
const floatBits = new Uint32Array(floats.buffer);
const halves = new Uint32Array(10);
const quat = new Float64Array(4);
const spin = new Float64Array(4);

/** Writes one row, in the layout of the plain ones, at `to`. */
function writeRow(
  header: Header, columns: Columns, window: number, row: number, low: number, high: number, words: Uint32Array, to: number,
): void {
  const sharpness = columns.fixed(2, row);
  const middle = 0.5 * (low + high);
  const [from, until] = header.center_range;
  const level = sharpness ? columns.fixed(3, row) : Math.round(((middle - from) / (until - from)) * 16383);
  const since = from + (level / 16383) * (until - from) - middle;

  for (let c = 0; c < 3; c++) {
    columns.made(0, c, row, window, 4, made);
    const [p0, p1, p2, p3] = made;
    floats[c] = p0 + since * (p1 + since * (p2 + since * p3)) - header.origin[c];
    halves[c] = toHalf((p1 + since * (2 * p2 + 3 * since * p3)) / header.motion_unit);
    halves[3 + c] = toHalf((p2 + 3 * since * p3) / header.motion_unit);
    halves[6 + c] = toHalf(p3 / header.motion_unit);
  }
  halves[9] = sharpness;
  words.set(floatBits, to);
  for (let pair = 0; pair < 5; pair++) words[to + 3 + pair] = halves[2 * pair] | (halves[2 * pair + 1] << 16);

  for (let c = 0; c < 4; c++) {
    columns.made(1, c, row, window, 2, made);
    spin[c] = (made[1] - made[0]) / (high - low);
    quat[c] = 0.5 * (made[0] + made[1]) + since * spin[c];
  }
  const length = Math.hypot(quat[0], quat[1], quat[2], quat[3]) || 1;
  let leftOut = 0;
  for (let c = 1; c < 4; c++) if (Math.abs(quat[c]) > Math.abs(quat[leftOut])) leftOut = c;
  const sign = quat[leftOut] < 0 ? -1 : 1;
  words[to + 8] = leftOut;
  for (let place = 0; place < 3; place++) {
    const value = (sign * quat[place + (place >= leftOut ? 1 : 0)]) / length / QUAT_RANGE;
    words[to + 8] |= (Math.round(clamp(value, -1, 1) * 511) + 512) << (2 + 10 * place);
  }
  for (let pair = 0; pair < 2; pair++) {
    words[to + 9 + pair] = toHalf((sign * spin[2 * pair]) / length) | (toHalf((sign * spin[2 * pair + 1]) / length) << 16);
  }
  words[to + 11] = three(header.scale_range, columns, 2, row, window);
  words[to + 12] = three(header.color_range, columns, 3, row, window);
  words[to + 13] = level | (columns.fixed(1, row) << 14) | (columns.fixed(12, row) << 24);
  for (let k = 0; k < 8; k++) words[to + 14 + (k >> 2)] |= columns.fixed(4 + k, row) << (8 * (k & 3));
}

/** Returns 11, 11 and 10 bits of the three components of an attribute over a range. */
function three([low, high]: Range, columns: Columns, a: number, row: number, window: number): number {
  let word = 0;
  for (let c = 0; c < 3; c++) {
    columns.made(a, c, row, window, 1, made);
    word |= Math.round(clamp((made[0] - low) / (high - low), 0, 1) * (c < 2 ? 2047 : 1023)) << (11 * c);
  }
  return word;
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, value));
}

/** Returns the bits of the nearest float16. */
export function toHalf(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.min(Math.abs(value), 65504);
  if (size < 2 ** -14) return sign | Math.round(size * 2 ** 24);
  const exponent = Math.floor(Math.log2(size));
  // A fraction that rounds up to 1024 is the next exponent's 0, which the sum makes it.
  return sign | (((exponent + 15) << 10) + Math.round((size / 2 ** exponent - 1) * 1024));
}
