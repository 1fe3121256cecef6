// Starts the player, and says what is wrong where it cannot.

import { element, Interface } from "./interface";
import { Player } from "./player";
import { loadRows, readHeader } from "./scene";

/** What scripts and tests may use, as `window.g4d`. */
interface Hook {
  /** Resolves once the scene is shown. */
  ready: Promise<void>;
  /** Looks through exactly this camera: world-to-camera 4x4 and intrinsics 3x3 by rows, size in pixels. null: back to the controls. */
  setCamera(viewmat: number[] | null, K?: number[], width?: number, height?: number): Promise<void>;
  /** Stops at this clip time, and resolves when it is shown. */
  setTime(time: number): Promise<void>;
  /** The picture as base64 of bytes RGB, first line on top. */
  pixels(): { width: number; height: number; rgb: string };
  state(): Record<string, unknown>;
}

let player: Player | undefined;
let inputs: Interface | undefined;

function fail(text: string): void {
  element("loading").hidden = true;
  for (const id of ["tools", "timeline"]) element(id).hidden = true;
  const message = element("message");
  message.hidden = false;
  message.textContent = text;
}

async function start(): Promise<void> {
  const canvas = element<HTMLCanvasElement>("view");
  const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false, stencil: false, powerPreference: "high-performance" });
  if (!gl) {
    fail(
      "This page plays a moving 3D scene and needs WebGL2, which this browser does not offer. " +
        "Current versions of Chrome, Edge, Firefox and Safari do; hardware acceleration may be switched off in the settings.",
    );
    throw new Error("no WebGL2");
  }
  const header = readHeader();
  const words = await loadRows(header, (done) => {
    element("loading-bar").style.width = `${Math.round(100 * done)}%`;
    element("loading-text").textContent = `loading ${Math.round(100 * done)} %`;
  });
  player = new Player(canvas, gl, header, words);
  inputs = new Interface(canvas, player);
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => player!.restore());
  let last = performance.now();
  const loop = (now: number): void => {
    const elapsed = Math.max(0, now - last) / 1000;
    last = now;
    player!.playback.advance(elapsed);
    inputs!.controls.advance(elapsed);
    inputs!.refresh();
    player!.frame();
    requestAnimationFrame(loop);
  };
  requestAnimationFrame(loop);
  await player.settled();
  element("loading").hidden = true;
}

const ready = start().catch((error: Error) => {
  if (element("message").hidden) fail(error.message);
  throw error;
});
// The failure is on the page; whoever awaits `ready` gets it too.
ready.catch(() => undefined);

const hook: Hook = {
  ready,
  async setCamera(viewmat, K, width, height) {
    await ready;
    document.body.classList.toggle("bare", viewmat !== null);
    if (viewmat === null) player!.fix(null);
    else player!.fix({ viewmat, lens: { fx: K![0], fy: K![4], cx: K![2], cy: K![5] }, width: width!, height: height! });
    await player!.settled();
  },
  async setTime(time) {
    await ready;
    player!.playback.playing = false;
    player!.playback.time = Math.min(1, Math.max(0, time));
    await player!.settled();
  },
  pixels() {
    const rgb = player!.pixels();
    const [width, height] = player!.size();
    let text = "";
    for (let i = 0; i < rgb.length; i += 8192) text += String.fromCharCode(...rgb.subarray(i, i + 8192));
    return { width, height, rgb: btoa(text) };
  },
  state: () => ({
    time: player!.playback.time,
    shown: player!.shown,
    playing: player!.playback.playing,
    speed: player!.playback.speed,
    position: player!.camera.position,
    target: player!.camera.target,
    drawn: player!.drawn,
    deep: player!.deep,
    sortMilliseconds: player!.sortMilliseconds,
    inputDelays: inputs!.controls.delays,
  }),
};
(window as unknown as { g4d: Hook }).g4d = hook;
