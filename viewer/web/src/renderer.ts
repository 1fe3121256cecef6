// Draws ordered rows with WebGL2: a quad per Gaussian, back to front, into a 16-bit float picture.

import { RESOLVE_FRAGMENT, RESOLVE_VERTEX, SPLAT_FRAGMENT, SPLAT_VERTEX } from "./shaders";
import { ROW_WORDS, type Header } from "./scene";
import type { Lens, Matrix4 } from "./camera";

const TEXELS = ROW_WORDS / 4;
// Quads per instance. Instances of one quad each leave most of a graphics card idle, and cost a draw call each where
// WebGL runs on the processor.
const BLOCK = 1024;
// Half the part of the picture's size by which its border is exceeded before the Jacobian is frozen: the rasterizer's.
const FOV_MARGIN = 0.3 * 0.5;

/** A picture on its way: what it shows, and how many of its blocks are drawn. */
interface Job {
  time: number;
  viewmat: Matrix4;
  lens: Lens;
  width: number;
  height: number;
  /** Size of the picture, smaller than the canvas while things move. */
  w: number;
  h: number;
  done: number;
}

type Uniforms = Record<string, WebGLUniformLocation | null>;

export class Renderer {
  /** Whether colours are blended with 16-bit floats; with 8 bits every layer rounds. */
  readonly deep: boolean;
  private readonly splat: WebGLProgram;
  private readonly splatUniforms: Uniforms;
  private readonly resolve: WebGLProgram;
  private readonly resolveUniforms: Uniforms;
  private readonly rowShift: number;
  /** The order that is being drawn, and room for the next. */
  private readonly orders: [WebGLTexture, WebGLTexture];
  private readonly counts: [number, number] = [0, 0];
  private active = 0;
  private fresh = false;
  private readonly vertices: WebGLVertexArrayObject;
  private readonly nothing: WebGLVertexArrayObject;
  private readonly rows: WebGLTexture;
  private readonly target: WebGLTexture;
  private readonly frame: WebGLFramebuffer;
  private job: Job | null = null;
  private targetSize: [number, number] = [0, 0];
  private fence: WebGLSync | null = null;

  constructor(private readonly gl: WebGL2RenderingContext, private readonly header: Header, words: Uint32Array) {
    this.deep = Boolean(gl.getExtension("EXT_color_buffer_float") ?? gl.getExtension("EXT_color_buffer_half_float"));
    this.splat = program(gl, SPLAT_VERTEX, SPLAT_FRAGMENT);
    this.splatUniforms = uniforms(gl, this.splat);
    this.resolve = program(gl, RESOLVE_VERTEX, RESOLVE_FRAGMENT);
    this.resolveUniforms = uniforms(gl, this.resolve);

    const limit = gl.getParameter(gl.MAX_TEXTURE_SIZE) as number;
    this.rowShift = Math.floor(Math.log2(Math.min(limit, 4096) / TEXELS));
    this.rows = gl.createTexture()!;
    this.upload(words, limit);

    this.orders = [gl.createTexture()!, gl.createTexture()!];
    for (const order of this.orders) {
      gl.bindTexture(gl.TEXTURE_2D, order);
      gl.texStorage2D(gl.TEXTURE_2D, 1, gl.R32UI, BLOCK, Math.max(1, Math.ceil(this.header.count / BLOCK)));
      nearest(gl);
    }
    this.vertices = gl.createVertexArray()!;
    gl.bindVertexArray(this.vertices);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, quadIndices(), gl.STATIC_DRAW);
    this.nothing = gl.createVertexArray()!;
    this.target = gl.createTexture()!;
    this.frame = gl.createFramebuffer()!;
  }

  private upload(words: Uint32Array, limit: number): void {
    const { gl } = this;
    const perLine = 1 << this.rowShift;
    const lines = Math.max(1, Math.ceil(this.header.count / perLine));
    if (lines > limit) {
      throw new Error(`${this.header.count} Gaussians do not fit into a texture of this graphics card (${limit} lines)`);
    }
    gl.bindTexture(gl.TEXTURE_2D, this.rows);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA32UI, perLine * TEXELS, lines);
    nearest(gl);
    const full = Math.floor(this.header.count / perLine);
    const format = [gl.RGBA_INTEGER, gl.UNSIGNED_INT] as const;
    if (full > 0) gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, perLine * TEXELS, full, ...format, words, 0);
    const rest = this.header.count - full * perLine;
    if (rest > 0) {
      gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, full, rest * TEXELS, 1, ...format, words, full * perLine * ROW_WORDS);
    }
  }

  /** Takes the rows that the next picture draws, from back to front: the first `count` entries. */
  setOrder(order: Uint32Array, count: number): void {
    const { gl } = this;
    const next = 1 - this.active;
    gl.bindTexture(gl.TEXTURE_2D, this.orders[next]);
    const format = [gl.RED_INTEGER, gl.UNSIGNED_INT] as const;
    const full = Math.floor(count / BLOCK);
    const rest = count - full * BLOCK;
    if (full > 0) gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, BLOCK, full, ...format, order, 0);
    if (rest > 0) gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, full, rest, 1, ...format, order, full * BLOCK);
    this.counts[next] = count;
    this.fresh = true;
  }

  /** Whether the graphics card has finished what it was given; more would only queue up. */
  idle(): boolean {
    const { gl } = this;
    if (!this.fence) return true;
    const status = gl.clientWaitSync(this.fence, gl.SYNC_FLUSH_COMMANDS_BIT, 0);
    if (status === gl.TIMEOUT_EXPIRED) return false;
    gl.deleteSync(this.fence);
    this.fence = null;
    return true;
  }

  /** Begins a picture of the newest order at clip time `time`, with `scale` times the canvas's pixels along each side. */
  begin(time: number, viewmat: Matrix4, lens: Lens, scale: number): void {
    const { gl } = this;
    if (this.fresh) this.active = 1 - this.active;
    this.fresh = false;
    const [width, height] = [gl.drawingBufferWidth, gl.drawingBufferHeight];
    const [w, h] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    this.job = { time, viewmat, lens, width, height, w, h, done: 0 };
    this.resize(w, h);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
  }

  /** Draws up to `blocks` blocks more of the picture. Returns true when it was the last part, and it is on the canvas. */
  advance(blocks: number): boolean {
    const { gl } = this;
    const job = this.job!;
    const rest = Math.ceil(this.counts[this.active] / BLOCK) - job.done;
    const now = Math.min(blocks, rest);
    if (now > 0) this.blend(job, now);
    job.done += now;
    const finished = now === rest;
    if (finished) {
      this.job = null;
      this.show(job);
    }
    if (this.fence) gl.deleteSync(this.fence);
    this.fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
    return finished;
  }

  private blend(job: Job, blocks: number): void {
    const { gl, header } = this;
    const u = this.splatUniforms;
    const [sx, sy] = [job.w / job.width, job.h / job.height];
    const { fx, fy, cx, cy } = job.lens;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.viewport(0, 0, job.w, job.h);
    gl.useProgram(this.splat);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.orders[this.active]);
    gl.uniform1i(u.order, 1);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.rows);
    gl.uniform1i(u.rows, 0);
    gl.uniform1i(u.row_shift, this.rowShift);
    gl.uniform1i(u.count, this.counts[this.active]);
    gl.uniform1i(u.first_block, job.done);
    this.setCamera(u, job.viewmat, { fx: fx * sx, fy: fy * sy, cx: cx * sx, cy: cy * sy }, job.w, job.h);
    gl.uniform1f(u.time, job.time);
    gl.uniform1f(u.near, header.near);
    gl.uniform1f(u.motion_unit, header.motion_unit);
    gl.uniform2fv(u.scale_range, header.scale_range);
    gl.uniform2fv(u.color_range, header.color_range);
    gl.uniform2fv(u.center_range, header.center_range);
    gl.uniform1f(u.sh1_unit, header.sh1_range / 127);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.bindVertexArray(this.vertices);
    gl.drawElementsInstanced(gl.TRIANGLES, 6 * BLOCK, gl.UNSIGNED_SHORT, 0, blocks);
    gl.disable(gl.BLEND);
  }

  /** Puts the finished picture over the background, on the canvas. */
  private show(job: Job): void {
    const { gl } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, job.width, job.height);
    gl.useProgram(this.resolve);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.target);
    gl.uniform1i(this.resolveUniforms.blended, 0);
    gl.uniform3fv(this.resolveUniforms.background, this.header.background);
    gl.uniform2f(this.resolveUniforms.scale, job.w / job.width, job.h / job.height);
    gl.bindVertexArray(this.nothing);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  private setCamera(u: Uniforms, viewmat: Matrix4, lens: Lens, w: number, h: number): void {
    const { gl } = this;
    const m = viewmat;
    const o = this.header.origin;
    const r = (i: number, j: number) => m[4 * i + j];
    // Positions are relative to the origin of the scene; the sums are made here, with doubles.
    const t = [0, 1, 2].map((i) => r(i, 0) * o[0] + r(i, 1) * o[1] + r(i, 2) * o[2] + r(i, 3));
    const eye = [0, 1, 2].map((j) => -(r(0, j) * t[0] + r(1, j) * t[1] + r(2, j) * t[2]));
    gl.uniformMatrix3fv(u.rotation, true, [m[0], m[1], m[2], m[4], m[5], m[6], m[8], m[9], m[10]]);
    gl.uniform3fv(u.translation, t);
    gl.uniform3fv(u.eye, eye);
    gl.uniform4f(u.lens, lens.fx, lens.fy, lens.cx, lens.cy);
    const [mx, my] = [(FOV_MARGIN * w) / lens.fx, (FOV_MARGIN * h) / lens.fy];
    gl.uniform4f(u.tangents, -lens.cx / lens.fx - mx, (w - lens.cx) / lens.fx + mx, -lens.cy / lens.fy - my, (h - lens.cy) / lens.fy + my);
    gl.uniform2f(u.size, w, h);
  }

  private resize(w: number, h: number): void {
    const { gl } = this;
    if (this.targetSize[0] === w && this.targetSize[1] === h) return;
    this.targetSize = [w, h];
    gl.bindTexture(gl.TEXTURE_2D, this.target);
    nearest(gl);
    if (this.deep) gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA16F, w, h, 0, gl.RGBA, gl.HALF_FLOAT, null);
    else gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, w, h, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.target, 0);
  }

  /** Returns the canvas as bytes RGB, first line on top. Only right after the last `advance`, within the same task. */
  pixels(): Uint8Array {
    const { gl } = this;
    const [w, h] = [gl.drawingBufferWidth, gl.drawingBufferHeight];
    const read = new Uint8Array(4 * w * h);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.readPixels(0, 0, w, h, gl.RGBA, gl.UNSIGNED_BYTE, read);
    const rgb = new Uint8Array(3 * w * h);
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) {
        const from = 4 * ((h - 1 - y) * w + x);
        rgb.set(read.subarray(from, from + 3), 3 * (y * w + x));
      }
    }
    return rgb;
  }
}

/** Texels are read as they are; other filters make integer textures and those without smaller levels unreadable. */
function nearest(gl: WebGL2RenderingContext): void {
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
}

/** Two triangles for each quad of a block. */
function quadIndices(): Uint16Array {
  const indices = new Uint16Array(6 * BLOCK);
  for (let quad = 0; quad < BLOCK; quad++) indices.set([0, 1, 2, 2, 1, 3].map((corner) => 4 * quad + corner), 6 * quad);
  return indices;
}

function program(gl: WebGL2RenderingContext, vertex: string, fragment: string): WebGLProgram {
  const built = gl.createProgram()!;
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]] as const) {
    const shader = gl.createShader(kind)!;
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) {
      throw new Error(`the graphics driver refused a shader: ${gl.getShaderInfoLog(shader)}`);
    }
    gl.attachShader(built, shader);
  }
  gl.linkProgram(built);
  if (!gl.getProgramParameter(built, gl.LINK_STATUS) && !gl.isContextLost()) {
    throw new Error(`the graphics driver refused a program: ${gl.getProgramInfoLog(built)}`);
  }
  return built;
}

function uniforms(gl: WebGL2RenderingContext, built: WebGLProgram): Uniforms {
  const found: Uniforms = {};
  const count = (gl.getProgramParameter(built, gl.ACTIVE_UNIFORMS) as number) ?? 0;
  for (let i = 0; i < count; i++) {
    const { name } = gl.getActiveUniform(built, i)!;
    found[name] = gl.getUniformLocation(built, name);
  }
  return found;
}
