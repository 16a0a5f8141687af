// The search page's model, and the vectors of its lines.
//
//   open(File | URL) -> Encoder        embed(lines) -> the vectors that are missing, a slice at a time        search(query) -> lines, nearest first
//
// The engine does one thing at a time. A query waits for a slice of lines at most, and slices are as long as fits into that.
import { Engine } from "./pkg/lowbit.js";
import { answer } from "./remote.js";

/** Milliseconds that a slice of lines should take at most. */
const SLICE_MS = 250;
/** Lines of a slice, at the beginning and at most. */
const [FEW, MANY] = [4, 256];
/** Lines that a search answers with. */
const TOP = 20;

let engine, encoder, device, opened, broken;
/** The lines, each once, with the number of the first line that has it; and the vectors of those that are embedded. */
let lines = [];
let vectors = new Map();
let editions = 0;
let turn = Promise.resolve();

/** Work with the engine, after what was to be done before. */
function inTurn(work) {
    const done = turn.then(work);
    turn = done.catch(() => {});
    return done;
}

/** The same, which may find that the device is gone. */
const using = (work) => inTurn(async () => {
    const used = engine;
    try {
        return await work();
    } catch (error) {
        if (error.code === "DeviceLost") broken = used;
        throw error;
    }
});

async function start(progress) {
    encoder?.free();
    engine?.free();
    encoder = undefined;
    engine = await Engine.create({ device });
    if (opened) encoder = await engine.loadEncoder(opened, { progress });
}

async function embed(texts) {
    if (!encoder) throw new Error("there is no model yet");
    const { values, width, cut } = await encoder.embed(texts);
    return { cut, rows: texts.map((_, i) => values.subarray(i * width, (i + 1) * width)) };
}

/** Of two vectors of L2 norm 1. */
function cosine(a, b) {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
    return sum;
}

answer({
    start: (wanted, progress) => using(async () => {
        device = wanted;
        await start(progress);
        return { info: engine.info };
    }),
    open: (source, progress) => using(async () => {
        const next = await engine.loadEncoder(source, { progress });
        encoder?.free();
        [encoder, opened, vectors] = [next, source, new Map()];
        const { name, byteLength, sizes, width } = encoder;
        return { name, byteLength, sizes, width };
    }),
    async embed(wanted, progress) {
        const mine = ++editions;
        const numbers = new Map(wanted.toReversed().map(({ text, number }) => [text, number]));
        lines = Array.from(numbers, ([text, number]) => ({ text, number })).reverse();
        const kept = new Map(lines.filter(({ text }) => vectors.has(text)).map(({ text }) => [text, vectors.get(text)]));
        vectors = kept;
        const missing = lines.map(({ text }) => text).filter((text) => !kept.has(text));
        let [done, slice, cut] = [0, FEW, 0];
        while (done < missing.length) {
            const begun = performance.now();
            const texts = missing.slice(done, done + slice);
            const made = await using(() => (mine === editions ? embed(texts) : null));
            // Other lines, or another model, have come meanwhile.
            if (made === null || vectors !== kept) return null;
            made.rows.forEach((row, i) => kept.set(texts[i], row));
            done += texts.length;
            cut += made.cut.length;
            const ms = performance.now() - begun;
            slice = Math.max(FEW, Math.min(MANY, Math.floor(slice * Math.min(2, SLICE_MS / ms))));
            progress({ done, of: missing.length });
            // Messages are heard between two slices, on the CPU too.
            await new Promise((resolve) => setTimeout(resolve));
        }
        return { lines: lines.length, embedded: missing.length, cut };
    },
    search: (query) => using(async () => {
        const begun = performance.now();
        const [row] = (await embed([query])).rows;
        const embedded = performance.now();
        const among = lines.filter(({ text }) => vectors.has(text));
        const scored = among.map(({ text, number }) => ({ text, number, score: cosine(row, vectors.get(text)) }));
        scored.sort((a, b) => b.score - a.score);
        return { results: scored.slice(0, TOP), among: among.length, of: lines.length, embedding: embedded - begun, ranking: performance.now() - embedded };
    }),
}, () => inTurn(async () => {
    // Another call may have been here before.
    if (broken === engine) await start();
}));
