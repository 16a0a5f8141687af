// Every dumped shader through Tint, the WGSL compiler of Chromium, by way of Dawn's null backend: no GPU and no driver needed.
//
//   lowbit shaders --dump DIR --json > LIST;  node tint.mjs LIST
//
// The null backend has WebGPU's default limits, so that a pipeline made of a shader is held against those as well. What naga does
// not look at and Tint does: whether every thread reaches a barrier or a subgroup operation. naga has no `enable subgroups;`, which
// Tint requires: it is put in front here. Exits with 1 if any text is refused, or if a planted mistake is not.
import { readFileSync } from "node:fs";
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);

const list = JSON.parse(readFileSync(process.argv[2], "utf8"));
// Held for as long as its devices: Dawn aborts when it is collected before them.
const gpu = create(["backend=null"]);
const adapter = await gpu.requestAdapter();
const wanted = ["shader-f16", "subgroups"];
const missing = wanted.filter((feature) => !adapter.features.has(feature));
if (missing.length > 0) {
    console.log(`tint: Dawn's null backend lacks ${missing}`);
    process.exit(1);
}
const devices = new Map();

// A device with exactly the features that a tier names.
async function device(tier) {
    const features = wanted.filter((_, i) => tier.includes(["f16", "subgroups"][i]));
    const key = features.join();
    if (!devices.has(key)) {
        const adapter = await gpu.requestAdapter();
        devices.set(key, await adapter.requestDevice({ requiredFeatures: features }));
    }
    return devices.get(key);
}

// What Tint and the limits have against a text: null if nothing.
async function refusal(tier, text) {
    const on = await device(tier);
    const code = tier.includes("subgroups") ? `enable subgroups;\n${text}` : text;
    on.pushErrorScope("validation");
    const module = on.createShaderModule({ code });
    const errors = (await module.getCompilationInfo()).messages.filter((m) => m.type === "error");
    if (errors.length === 0) on.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
    const scope = await on.popErrorScope();
    if (errors.length > 0) return errors.map((m) => `${m.lineNum}:${m.linePos} ${m.message}`).join("\n");
    return scope?.message ?? null;
}

const start = Date.now();
const seen = new Map(); // text -> tier
const refused = [];
const counts = {};
for (const { file, kernel, tier } of list) {
    // Cooperative matrices are wgpu's own: `enable wgpu_cooperative_matrix;`.
    if (tier.includes("coop")) continue;
    const dumped = readFileSync(file, "utf8");
    // The first line names the specialization; the text below it may be that of another one.
    const text = dumped.slice(dumped.indexOf("\n") + 1);
    if (seen.has(text)) continue;
    seen.set(text, tier);
    counts[`${kernel} ${tier}`] = (counts[`${kernel} ${tier}`] ?? 0) + 1;
    const why = await refusal(tier, text);
    if (why !== null) refused.push({ file, why });
}
for (const [row, n] of Object.entries(counts)) console.log(`  ${row.padEnd(34)} ${n}`);

// Mistakes that must be refused, each planted in the first text of a tier that has the place for it.
const planted = [
    ["f32", "a barrier that not all reach", "workgroupBarrier();", "if tid < 3u { workgroupBarrier(); }"],
    ["f32+subgroups4", "a subgroup sum that not all reach", "let sum0_0 = subgroupAdd(acc0_0);",
        "var sum0_0 = acc0_0; if lane < 3u { sum0_0 = subgroupAdd(acc0_0); }"],
    ["f32", "a type error", "let v = ", "let v: u32 = 1.5f; let w = "],
    ["f32", "too many threads", "@workgroup_size(64)", "@workgroup_size(512)"],
    ["f32", "a feature that is not declared", "struct Params {", "enable f16; struct Params {"],
];
const missed = [];
for (const [tier, what, from, to] of planted) {
    const [text] = [...seen].find(([text, of]) => of === tier && text.includes(from)) ?? [];
    if (text === undefined || (await refusal(tier, text)) !== null || (await refusal(tier, text.replace(from, to))) === null) missed.push(what);
}

for (const { file, why } of refused.slice(0, 5)) console.log(`== ${file}\n${why}`);
const took = ((Date.now() - start) / 1000).toFixed(1);
console.log(`tint: ${seen.size} distinct texts of ${list.length}, ${refused.length} refused; of ${planted.length} planted mistakes ${missed.length} missed (${missed}); ${took} s`);
process.exit(refused.length + missed.length > 0 || seen.size === 0 ? 1 : 0);
