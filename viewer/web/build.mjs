// Bundles the sources into one page without a scene: the file given as argument, or ../player/page.html.
import { readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const common = { bundle: true, minify: true, write: false, target: "es2021", format: "iife", legalComments: "none" };

async function bundle(file, extra = {}) {
  const result = await esbuild.build({ ...common, entryPoints: [join(here, "src", file)], ...extra });
  return result.outputFiles[0].text.trim();
}

// The worker travels as a string inside the page: a page opened from the file system cannot load a second file.
const worker = await bundle("worker.ts");
const workerPlugin = {
  name: "worker",
  setup(build) {
    build.onResolve({ filter: /^worker-source$/ }, (found) => ({ path: found.path, namespace: "worker" }));
    build.onLoad({ filter: /.*/, namespace: "worker" }, () => ({ contents: worker, loader: "text" }));
  },
};
const script = await bundle("main.ts", { plugins: [workerPlugin] });
const style = await bundle("style.css");
let page = await readFile(join(here, "src", "page.html"), "utf8");
for (const [mark, text] of [["/*style*/", style], ["/*script*/", script]]) {
  if (page.split(mark).length !== 2) throw new Error(`src/page.html must hold ${mark} once`);
  page = page.replace(mark, () => text);
}
const target = process.argv[2] ?? join(here, "..", "player", "page.html");
await writeFile(target, page);
console.log(`wrote ${target}: ${page.length} bytes`);
