// The package in Chromium: every suite of page/ in a fresh page, with WebGPU and without, and nothing in the console.
//
//   node test.mjs PKG [SUITE]        PKG: the built package; run by scripts/test-web.sh from a folder with playwright-core
//
// LOWBIT_WEB_MODELS is a folder with a model of texts in f32, int4 and as GGUF and what native lowbit makes with it (without one these suites are left out), LOWBIT_GOLDEN the one with what transformers makes of texts (tests/data).
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { launch } from "./browser.mjs";
import { files, huge } from "./page/models.js";
import { serve } from "./serve.mjs";
import { safetensors } from "./tensors.mjs";

const [pkg, only] = process.argv.slice(2);
const here = dirname(fileURLToPath(import.meta.url));
const packed = process.env.LOWBIT_WEB_MODELS;

// What the browser itself says of servers that fail on purpose.
const SERVERS = /^console: Failed to load resource: .*(400|401|404|416|ERR_CONTENT_LENGTH_MISMATCH|ERR_UNSAFE_PORT)/;

/** Texts, their tokens and their embeddings in f32; and what native lowbit makes of most of them with the int4 model. */
function golden() {
    const of = (name) => join(process.env.LOWBIT_GOLDEN, name);
    const { texts, tokens } = JSON.parse(readFileSync(of("minilm.json"), "utf8"));
    const { embeddings, ids, lengths } = safetensors(readFileSync(of("minilm.safetensors")));
    const numbers = (Type, { bytes }) => Array.from(new Type(bytes.buffer));
    const lines = readFileSync(join(packed, "wanted.txt"), "utf8").trimEnd().split("\n");
    const native = safetensors(readFileSync(join(packed, "wanted.safetensors"))).embeddings;
    const [values, width] = [numbers(Float32Array, native), native.shape[1]];
    const int4 = texts.map((text) => lines.indexOf(text)).map((i) => (i < 0 ? null : values.slice(i * width, (i + 1) * width)));
    return { texts, tokens, embeddings: numbers(Float32Array, embeddings), ids: numbers(Int32Array, ids), lengths: numbers(Int32Array, lengths), int4 };
}

// Suites by name: the module of page/, what its `suite` is called with, whether the browser has WebGPU, and complaints that belong to it.
const SUITES = {
    "api on WebGPU": ["api.js", [{}, "gpu"], true],
    "api on the CPU": ["api.js", [{ device: "cpu" }, "cpu"], true],
    "api without WebGPU": ["api.js", [{}, "cpu"], false],
    devices: ["devices.js", [], true],
    workers: ["workers.js", ["gpu"], true],
    "workers without WebGPU": ["workers.js", ["cpu"], false],
    absent: ["absent.js", [], false],
    stopped: ["stopped.js", [], false],
    "selftest on WebGPU": ["selftest.js", ["gpu", { full: process.env.LOWBIT_FULL === "1" }], true],
    "selftest on the CPU": ["selftest.js", ["cpu", { full: process.env.LOWBIT_FULL === "1" }], false],
    "bench on WebGPU": ["bench.js", ["gpu"], true],
    "bench on the CPU": ["bench.js", ["cpu"], false],
    "files on WebGPU": ["files.js", [{ device: "gpu" }], true, SERVERS],
    "files on the CPU": ["files.js", [{ device: "cpu" }], false, SERVERS],
};
// Without models scripts/test-web.sh has said why there are none.
if (packed) {
    SUITES["texts on WebGPU"] = ["texts.js", [{ device: "gpu" }, golden()], true, SERVERS];
    SUITES["texts on the CPU"] = ["texts.js", [{ device: "cpu" }, golden()], false, SERVERS];
}

const models = mkdtempSync(join(tmpdir(), "lowbit-models-"));
for (const [name, bytes] of Object.entries(files())) writeFileSync(join(models, name), bytes);
// Longer than the module's memory; on the disk it is a few pages, and zeros in between.
const { head, size, tail } = huge();
const file = openSync(join(models, "huge.safetensors"), "w");
writeSync(file, head, 0, head.length, 0);
writeSync(file, tail, 0, tail.length, size - tail.length);
closeSync(file);
const server = await serve({ "/pkg/": resolve(pkg), "/files/": models, ...(packed && { "/texts/": packed }), "/": join(here, "page") });
const browsers = new Map();
let failed = 0;
let passed = 0;
for (const [name, [module, given, webgpu, expected]] of Object.entries(SUITES)) {
    if (only && !name.includes(only)) continue;
    if (!browsers.has(webgpu)) browsers.set(webgpu, await launch({ webgpu }));
    const start = Date.now();
    const { page, complaints } = await browsers.get(webgpu).open(`${server.url}/index.html`);
    const results = await page.evaluate(
        async ([module, given]) => {
            const { run } = await import("/check.js");
            const { suite } = await import(`/${module}`);
            return run(suite(...given));
        },
        [module, given],
    );
    // Errors of the console arrive a little later than the page's answer.
    await page.waitForTimeout(100);
    await page.close();
    const unexpected = complaints.filter((complaint) => !expected?.test(complaint));
    const wrong = results.filter(({ why }) => why !== null);
    console.log(`${name}: ${results.length - wrong.length} of ${results.length} passed in ${((Date.now() - start) / 1000).toFixed(1)} s`);
    results.filter(({ note }) => note).forEach(({ name, note }) => console.log(`  ${name}: ${note}`));
    wrong.forEach(({ name, why }) => console.log(`  FAILED ${name}: ${why}`));
    unexpected.forEach((complaint) => console.log(`  COMPLAINT ${complaint}`));
    failed += wrong.length + unexpected.length;
    passed += results.length - wrong.length;
}
for (const browser of browsers.values()) await browser.close();
await server.close();
rmSync(models, { recursive: true });
console.log(`browser: ${passed} tests passed, ${failed} failed`);
// 2: there is nothing of that name.
process.exit(failed > 0 ? 1 : passed === 0 ? 2 : 0);
