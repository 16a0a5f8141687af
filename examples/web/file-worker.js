// The file page's engine and its file.
//
//   open(File) -> entries        study(tensor) -> statistics, histogram, then a row per scheme        convert(scheme) -> Blob
import { Engine, errors, schemes } from "./pkg/lowbit.js";
import { answer } from "./remote.js";

/** Weights that are looked at, at most: rows from all over the tensor. */
const SAMPLE = 1 << 22;
const BINS = 64;

let engine, device, model, opened;
/** What a new call of the same kind, or `cancel`, ends. */
const running = {};

async function exclusive(kind, work) {
    running[kind]?.abort();
    const control = new AbortController();
    running[kind] = control;
    return work(control.signal);
}

/** Rows from all over a tensor, few enough to be looked at. */
function sampled(values, shape) {
    const k = shape.at(-1) ?? 1;
    const rows = k > 0 ? values.length / k : 0;
    const kept = Math.min(rows, Math.max(1, Math.floor(SAMPLE / k)));
    if (kept === rows) return { values, rows, of: rows, k };
    const some = new Float32Array(kept * k);
    for (let i = 0; i < kept; i++) {
        const row = Math.floor((i * rows) / kept);
        some.set(values.subarray(row * k, (row + 1) * k), i * k);
    }
    return { values: some, rows: kept, of: rows, k };
}

/** Numbers about the finite values. */
function statistics(values) {
    let [low, high, sum, squares, finite] = [Infinity, -Infinity, 0, 0, 0];
    for (const v of values) {
        if (!Number.isFinite(v)) continue;
        low = Math.min(low, v);
        high = Math.max(high, v);
        sum += v;
        squares += v * v;
        finite += 1;
    }
    const mean = sum / finite;
    const deviation = Math.sqrt(Math.max(0, squares / finite - mean * mean));
    return { count: values.length, odd: values.length - finite, low, high, mean, deviation };
}

/** How many values fall into each of equal parts of [low, high]. */
function histogram(values, { low, high }) {
    const counts = new Array(BINS).fill(0);
    const width = (high - low) / BINS || 1;
    for (const v of values) {
        if (Number.isFinite(v)) counts[Math.min(BINS - 1, Math.floor((v - low) / width))] += 1;
    }
    return counts;
}

async function start() {
    model?.free();
    engine?.free();
    model = undefined;
    engine = await Engine.create({ device });
    if (opened) model = await engine.load(opened);
}

async function measure({ values, rows, k }, scheme) {
    try {
        const weight = await engine.quantize(values, [rows, k], scheme);
        try {
            const decoded = await weight.dequantize();
            const { sqnrDb, maxAbs } = errors(values, await decoded.read());
            decoded.free();
            return { scheme, sqnrDb, maxAbs, bits: weight.bitsPerWeight };
        } finally {
            weight.free();
        }
    } catch (error) {
        if (error.code === "DeviceLost") throw error;
        return { scheme, why: error.message };
    }
}

/** Whether rows of a length can be in a scheme at all. */
async function fits(k, scheme) {
    try {
        (await engine.quantize(new Float32Array(k), [1, k], scheme)).free();
        return true;
    } catch (error) {
        if (error.code === "GroupMismatch") return false;
        throw error;
    }
}

answer({
    async start(wanted) {
        device = wanted;
        await start();
        return { info: engine.info, schemes: schemes() };
    },
    async open(file) {
        const next = await engine.load(file);
        model?.free();
        [model, opened] = [next, file];
        const { name, format, byteLength, entries, metadata } = model;
        return { name, format, byteLength, entries, metadata };
    },
    study: ({ name, schemes }, progress) => exclusive("study", async (signal) => {
        const { shape } = model.entries.find((entry) => entry.name === name);
        const sample = sampled(await model.read(name, { signal }), shape);
        const about = statistics(sample.values);
        progress({ about, rows: sample.rows, of: sample.of, counts: histogram(sample.values, about) });
        for (const scheme of schemes) {
            const row = await measure(sample, scheme);
            // A call that ends this one is heard between two schemes.
            await new Promise((resolve) => setTimeout(resolve));
            signal.throwIfAborted();
            progress({ row });
        }
    }),
    convert: ({ scheme, format, names }, progress) => exclusive("convert", async (signal) => {
        if (names.length === 0) throw new Error("no tensor is listed");
        const wanted = new Set(names);
        const lengths = new Map();
        for (const { name, shape } of model.entries) {
            const k = shape.at(-1);
            if (wanted.has(name) && !lengths.has(k)) lengths.set(k, await fits(k, scheme));
        }
        const chosen = ({ name, shape }) => wanted.has(name) && lengths.get(shape.at(-1));
        const type = (entry) => (chosen(entry) ? scheme : null);
        const quantized = model.entries.filter(chosen).length;
        if (quantized === 0) throw new Error(`none of the ${names.length} tensors can be in ${scheme}: its groups do not divide their rows`);
        const heard = async (at) => progress(at);
        const blob = await model.convert({ type, format, signal, progress: heard });
        return { blob, quantized, kept: model.entries.length - quantized };
    }),
    async cancel(kind) {
        running[kind]?.abort();
    },
}, start);
