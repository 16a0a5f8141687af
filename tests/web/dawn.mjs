// The differential suite of the package in Dawn, Chromium's WebGPU, on lavapipe, which Chromium itself does not take: f16 and subgroups, as browsers on GPUs have them.
//
//   node dawn.mjs PKG DRIVER [NAME]     DRIVER: lavapipe's manifest; nothing, and 2, if "dawn" does not contain NAME
//                                       LOWBIT_FULL=1: every scheme
//
// Dawn for Node is npm's webgpu. Tiers: the best that there is, and each capability left out. Exits with 1 if anything differs, or if lavapipe is not what
// computes with f16 and subgroups.
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { create, globals } from "webgpu";

const [pkg, driver, filter = ""] = process.argv.slice(2);
if (!"dawn".includes(filter)) process.exit(2);
process.env.VK_DRIVER_FILES = driver;
const gpu = create([]);
// Sets of names have an array for `keys` here, where a browser's has an iterator.
const named = (object, key) => Object.defineProperty(object, key, { value: new Set(object[key]) });
const { requestAdapter } = gpu;
named(gpu, "wgslLanguageFeatures").requestAdapter = async (...options) => {
    const adapter = await requestAdapter.apply(gpu, options);
    const { requestDevice } = adapter;
    return Object.assign(named(adapter, "features"), { requestDevice: async (...wanted) => named(await requestDevice.apply(adapter, wanted), "features") });
};
// What wgpu and lowbit know a browser by.
Object.assign(globalThis, globals, { Window: class {} });
Object.defineProperty(globalThis, "navigator", { value: { gpu }, configurable: true });

const { Engine, init } = await import(pathToFileURL(resolve(pkg, "lowbit.js")));
await init(readFileSync(join(pkg, "lowbit_bg.wasm")));

// One of each kind: blocks, super-blocks, zero-points, tables, rows of integers, plain floats.
const sample = process.env.LOWBIT_FULL === "1" ? undefined : ["q4_0", "q4_k", "int4-g128-asym", "nf4-g64", "int8-row", "f16"];
// The best tier meets them all, the others one.
const tiers = [
    { without: [], schemes: sample },
    { without: ["f16"], schemes: ["q4_0"] },
    { without: ["subgroups"], schemes: ["q4_0"] },
    { without: ["f16", "subgroups"], schemes: ["q4_0"] },
];
let failed = 0;
for (const { without, schemes } of tiers) {
    const engine = await Engine.create({ device: "gpu", without });
    const { name, tier, capabilities } = engine.info;
    const expected = ["f16", "subgroups"].filter((capability) => !without.includes(capability));
    const found = ["f16", "subgroups"].filter((capability) => capabilities[capability]);
    if (!/llvmpipe/.test(name) || String(found) !== String(expected)) {
        console.log(`dawn: ${name} (${tier}) instead of lavapipe with ${expected.join(" and ") || "nothing more"}`);
        failed += 1;
    }
    const start = Date.now();
    const { checks, failures, kernels } = await engine.selftest({ schemes });
    const faults = kernels.reduce((sum, kernel) => sum + kernel.planted_faults_seen, 0);
    console.log(`dawn: ${tier}: ${checks} checks, ${faults} planted faults seen, ${failures.length} failed in ${((Date.now() - start) / 1000).toFixed(0)} s`);
    failures.slice(0, 10).forEach((failure) => console.log(`  FAILED ${failure}`));
    failed += failures.length + (checks > 0 && faults > 0 ? 0 : 1);
    engine.free();
}
process.exit(failed > 0 ? 1 : 0);
