// Orders rows off the main thread: asks the worker for the newest wish only, and never for two at once.

import workerSource from "worker-source";
import { Sorter, type View } from "./sorter";
import type { Header } from "./scene";
import type { FromWorker, ToWorker } from "./worker";

export class Order {
  /** Of the last order that came. */
  milliseconds = 0;
  private readonly worker: Worker | null;
  private readonly local: Sorter | null = null;
  private wish: View | null = null;
  private busy = false;
  private spare: Uint32Array | undefined;

  constructor(words: Uint32Array, header: Header, private readonly ready: (view: View, order: Uint32Array, count: number) => void) {
    this.worker = startWorker();
    if (this.worker) {
      this.worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.answered(data);
      this.worker.postMessage({ kind: "scene", words, header } satisfies ToWorker);
    } else {
      this.local = new Sorter(words, header);
    }
  }

  /** Asks for the order of `view`; an older wish that was not yet begun is forgotten. */
  want(view: View): void {
    this.wish = view;
    this.next();
  }

  private next(): void {
    if (this.busy || !this.wish) return;
    const view = this.wish;
    this.wish = null;
    if (this.local) {
      const started = performance.now();
      const order = this.local.order(view);
      this.milliseconds = performance.now() - started;
      this.ready(view, order, order.length);
      return;
    }
    this.busy = true;
    const spare = this.spare;
    this.spare = undefined;
    const message: ToWorker = { kind: "sort", view, spare };
    this.worker!.postMessage(message, spare ? [spare.buffer] : []);
  }

  private answered(data: FromWorker): void {
    this.busy = false;
    this.milliseconds = data.milliseconds;
    this.ready(data.view, data.order, data.count);
    this.spare = data.order;
    this.next();
  }
}

/** Returns the worker, or null where the browser allows none on a page from the file system. */
function startWorker(): Worker | null {
  try {
    const address = URL.createObjectURL(new Blob([workerSource], { type: "text/javascript" }));
    return new Worker(address);
  } catch {
    return null;
  }
}
