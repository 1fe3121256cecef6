// The worker: gets the rows once, then answers each view with an order.

import { Sorter, type View } from "./sorter";
import type { Header } from "./scene";

export type ToWorker = { kind: "scene"; words: Uint32Array; header: Header } | { kind: "sort"; view: View; spare?: Uint32Array };

export interface FromWorker {
  view: View;
  /** Rows from back to front: the first `count` entries. */
  order: Uint32Array;
  count: number;
  milliseconds: number;
}

const scope = self as unknown as {
  onmessage: (event: MessageEvent<ToWorker>) => void;
  postMessage(message: FromWorker, transfer: Transferable[]): void;
};
let sorter: Sorter | undefined;

scope.onmessage = ({ data }) => {
  if (data.kind === "scene") {
    sorter = new Sorter(data.words, data.header);
    return;
  }
  const started = performance.now();
  const sorted = sorter!.order(data.view);
  const order = data.spare && data.spare.length >= sorted.length ? data.spare : new Uint32Array(sorted.length);
  order.set(sorted);
  const milliseconds = performance.now() - started;
  scope.postMessage({ view: data.view, order, count: sorted.length, milliseconds }, [order.buffer]);
};
