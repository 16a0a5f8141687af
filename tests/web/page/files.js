// Files from memory, blobs and servers, tensors of them, and files written: against the numbers that models.js put into them.
import { Engine, errors } from "/pkg/lowbit.js";
import { check, random } from "./check.js";
import { K, N, contents, files, huge } from "./models.js";
import { matmul, q4_0, sumBound } from "./reference.js";

const url = (name, mode = "") => new URL(`${mode}/files/${name}`, location.href).href;
const sent = async () => (await (await fetch("/requests")).json()).filter(({ path }) => path.startsWith("/files/")).reduce((sum, { bytes }) => sum + bytes, 0);

export function suite(options) {
    let engine;
    const is = contents();
    const bytes = files();
    const size = (name) => bytes[name].byteLength;

    /** Everything that a model of both formats should say. */
    async function holds(model, what) {
        check.equal(model.entries.map(({ name }) => name).toSorted(), Object.keys(is), `${what}: names`);
        for (const name of Object.keys(is)) check.same(await model.read(name), is[name], `${what}: ${name}`);
        const entry = model.entries.find(({ name }) => name === "b.weight");
        check.equal([entry.shape, entry.packed, entry.readable], [[N, K], model.format === "gguf", true], `${what}: entry`);
        if (model.format === "gguf") check.equal([entry.type, entry.bitsPerWeight, entry.bytes], ["q4_0", 4.5, (N * K * 18) / 32], `${what}: type`);
    }

    return [
        ["from memory, a blob, a file, a response, a URL", async () => {
            engine = await Engine.create(options);
            for (const name of ["model.gguf", "model.safetensors"]) {
                const shifted = new Uint8Array(size(name) + 3);
                shifted.set(bytes[name], 3);
                const sources = {
                    buffer: bytes[name].buffer,
                    view: shifted.subarray(3),
                    blob: new Blob([bytes[name]]),
                    file: new File([bytes[name]], name),
                    response: await fetch(url(name)),
                    "made response": new Response(bytes[name]),
                    url: url(name),
                    URL: new URL(url(name)),
                    path: `/files/${name}`,
                };
                for (const [kind, source] of Object.entries(sources)) {
                    using model = await engine.load(source);
                    check.equal([model.byteLength, model.format], [size(name), name.split(".")[1]], kind);
                    check.equal(model.ranges, kind !== "made response", `${kind}: ranges`);
                    await holds(model, `${kind} of ${name}`);
                }
            }
            using model = await engine.load(new File([bytes["model.gguf"]], "mine.gguf"));
            check.equal([model.name, model.metadata["general.name"]], ["mine.gguf", "a file of the tests"], "name");
            using other = await engine.load(bytes["model.safetensors"]);
            check.equal(other.metadata.from, "a test", "metadata of safetensors");
        }],
        ["one tensor of a large file without the rest", async () => {
            for (const name of ["model.gguf", "model.safetensors"]) {
                const elsewhere = url(name).replace("127.0.0.1", "localhost");
                for (const source of [url(name), elsewhere, await fetch(elsewhere)]) {
                    await sent();
                    const seen = [];
                    using model = await engine.load(source);
                    check.ok(model.ranges && model.note === null, `${name}: ranges`);
                    check.same(await model.read("norm.weight", { progress: (at) => seen.push(at) }), is["norm.weight"], "norm.weight");
                    const out = await sent();
                    check.ok(out < size(name) / 4, `${name}: ${out} of ${size(name)} bytes were sent`);
                    check.ok(seen.length === 0 || seen.at(-1).loaded === K * 4, `${name}: progress ${JSON.stringify(seen)}`);
                }
            }
        }],
        ["a file longer than the module's memory", async () => {
            const { size: length, last } = huge();
            using model = await engine.load(url("huge.safetensors"));
            check.equal([model.byteLength, model.entries.length], [length, 7], "length");
            check.same(await model.read("last"), last, "behind 6 GiB");
            await check.rejects(() => model.get("t0"), "Unsupported", /'t0' of type u8/, "a tensor of bytes");
        }],
        ["progress and interruption", async () => {
            const seen = [];
            using model = await engine.load(url("model.gguf"));
            await model.read("z.large", { progress: (at) => seen.push(at) });
            check.ok(seen.length > 1 && seen.every(({ total }) => total === 8_000_000), `${seen.length} reports`);
            check.equal(seen.at(-1), { loaded: 8_000_000, total: 8_000_000 }, "the last one");
            check.ok(seen.every(({ loaded }, i) => i === 0 || loaded > seen[i - 1].loaded), "it grows");
            const stop = new AbortController();
            const reading = model.read("z.large", { signal: stop.signal, progress: () => stop.abort() });
            const why = await reading.then(() => null, (error) => error.name);
            check.equal(why, "AbortError", "stopped");
            check.same(await model.read("norm.weight"), is["norm.weight"], "afterwards");
            using blob = await engine.load(new Blob([bytes["model.gguf"]]));
            const stopped = AbortSignal.abort();
            check.equal(await blob.read("z.large", { signal: stopped }).then(() => null, (error) => error.name), "AbortError", "a blob");
        }],
        ["interruption with whatever reason", async () => {
            const caught = (promise) => promise.then(() => "no error", (error) => error);
            const reasons = [new Error("enough"), "enough", new TypeError("enough"), null];
            for (const reason of reasons) {
                const signal = AbortSignal.abort(reason);
                for (const source of [url("model.gguf"), bytes["model.gguf"], new Blob([bytes["model.gguf"]])]) {
                    check.ok((await caught(engine.load(source, { signal }))) === reason, `load with ${reason}`);
                    using model = await engine.load(source);
                    check.ok((await caught(model.read("z.large", { signal }))) === reason, `read with ${reason}`);
                    check.ok((await caught(model.convert({ signal }))) === reason, `convert with ${reason}`);
                }
                // In the middle: headers are there, nothing follows.
                const stop = new AbortController();
                using slow = await engine.load(url("model.gguf", "/slow"));
                const reading = caught(slow.read("z.large", { signal: stop.signal }));
                setTimeout(() => stop.abort(reason), 50);
                check.ok((await reading) === reason, `in the middle, ${reason}`);
            }
            const thrown = new TypeError("of the page's own");
            const progress = () => {
                throw thrown;
            };
            using model = await engine.load(url("model.gguf"));
            check.ok((await caught(model.read("z.large", { progress }))) === thrown, "an error of the page's");
        }],
        ["servers that are not what they say", async () => {
            const words = { shifted: /sent bytes \d+ to \d+ instead of \d+ to \d+/, changing: /has changed/, growing: /has changed/ };
            for (const [mode, word] of Object.entries(words)) {
                using model = await engine.load(url("model.gguf", `/${mode}`));
                check.same(await model.read("norm.weight"), is["norm.weight"], `${mode}: from the first read`);
                await check.rejects(() => model.read("z.large"), "Io", word, mode);
            }
        }],
        ["more than was announced", async () => {
            const long = new Response(bytes["model.gguf"], { headers: { "content-length": "4096" } });
            await check.rejects(() => engine.load(long), "Io", /goes on behind the 4096 bytes that it should have/, "a body");
        }],
        ["requests with headers, and what is no URL", async () => {
            const source = new Request(url("model.gguf", "/private"), { headers: { authorization: "Bearer test" } });
            using model = await engine.load(source);
            await holds(model, "a request");
            await check.rejects(() => engine.load(url("model.gguf", "/private")), "Io", /401/, "without the header");
            await check.rejects(() => engine.load(new Request(source.url, { method: "POST" })), "Usage", /by POST, expected GET/, "POST");
            await check.rejects(() => engine.load("http://"), "Usage", /'http:\/\/' is no URL/, "no host");
            await check.rejects(() => engine.load(""), "Usage", /'' is no URL/, "nothing");
            await check.rejects(() => engine.load("/files/100%.gguf"), "Io", /100%\.gguf: the server answered 400/, "no escape");
            const locked = new Response(bytes["model.gguf"]);
            locked.body.getReader();
            await check.rejects(() => engine.load(locked), "Usage", /being read by somebody else/, "locked");
        }],
        ["a server without ranges", async () => {
            for (const source of [url("model.gguf", "/no-ranges"), await fetch(url("model.gguf", "/no-ranges"))]) {
                await sent();
                const seen = [];
                using model = await engine.load(source, { progress: (at) => seen.push(at) });
                check.ok(!model.ranges && /does not serve parts of files: all \d+ bytes were fetched/.test(model.note), `${model.note}`);
                check.equal(seen.at(-1), { loaded: size("model.gguf"), total: size("model.gguf") }, "progress");
                await holds(model, "whole");
                check.equal(await sent(), size("model.gguf"), "bytes sent, once");
            }
        }],
        ["a header longer than the first read", async () => {
            for (const source of [url("vocabulary.gguf"), new Blob([bytes["vocabulary.gguf"]])]) {
                using model = await engine.load(source);
                check.ok(/300000/.test(model.metadata["tokenizer.ggml.tokens"]), `${model.metadata["tokenizer.ggml.tokens"]}`);
                await holds(model, "after a long header");
            }
        }],
        ["weights and tensors of a file in products", async () => {
            const x = random(5)(2 * K);
            using model = await engine.load(bytes["model.gguf"]);
            using w = await model.get("b.weight");
            check.equal([w.scheme, w.shape], ["q4_0", [N, K]], "a packed entry");
            const want = matmul(x, is["b.weight"], K);
            using y = await engine.matmul(x, w);
            check.near(await y.read(), want.y, sumBound(K, want.size), "its product");
            using dense = await model.get("a.weight");
            check.same(await dense.read(), is["a.weight"], "a dense entry");
            using quantized = await model.quantize("a.weight", "q4_0");
            using decoded = await quantized.dequantize();
            check.same(await decoded.read(), q4_0(is["a.weight"]), "quantized");
            const { sqnrDb, maxAbs, cosine, meanAbs } = errors(is["a.weight"], await decoded.read());
            const differences = q4_0(is["a.weight"]).map((v, i) => Math.abs(v - is["a.weight"][i]));
            const power = (values) => values.reduce((sum, v) => sum + v * v, 0);
            check.near([sqnrDb], [10 * Math.log10(power(is["a.weight"]) / power(differences))], () => 1e-4, "SQNR");
            check.equal(maxAbs, Math.max(...differences), "largest difference");
            check.ok(cosine > 0.9 && cosine < 1 && meanAbs > 0 && meanAbs < maxAbs, "cosine and mean");
        }],
        ["files written", async () => {
            const quantizes = ({ name, shape }) => (shape.length === 2 ? (name === "a.weight" ? "q4_0" : null) : null);
            const formats = ["gguf", "safetensors"];
            for (const from of formats) {
                for (const format of formats) {
                    const seen = [];
                    using model = await engine.load(bytes[`model.${from}`]);
                    const blob = await model.convert({ format, type: quantizes, progress: (at) => seen.push(at) });
                    check.equal(seen.length, model.entries.length, "progress");
                    using written = await engine.load(blob);
                    check.equal(written.format, format, "format");
                    const types = Object.fromEntries(written.entries.map(({ name, type }) => [name, type]));
                    check.equal([types["a.weight"], types["b.weight"]], ["q4_0", from === "gguf" ? "q4_0" : "f32"], `${from} to ${format}`);
                    for (const name of Object.keys(is)) {
                        const want = name === "a.weight" ? q4_0(is[name]) : is[name];
                        check.same(await written.read(name), want, `${from} to ${format}: ${name}`);
                    }
                }
            }
            using model = await engine.load(bytes["model.gguf"]);
            const again = await model.convert();
            using taken = await engine.load(again);
            await holds(taken, "a file taken as it is");
            const third = await taken.convert();
            check.same(new Uint8Array(await third.arrayBuffer()), new Uint8Array(await again.arrayBuffer()), "its bytes");
            const packed = await model.convert({ type: ({ name }) => (name === "b.weight" ? "q8_0" : null) });
            using recoded = await engine.load(packed);
            check.equal(recoded.entries[1].type, "q8_0", "a packed entry quantized again");
            await check.rejects(() => model.convert({ format: "zip" }), "Usage", /file format 'zip': there are gguf and safetensors/, "format");
            await check.rejects(() => model.convert({ type: () => "q4_9" }), "Tensor", /'a.weight': unknown scheme 'q4_9'/, "type");
            await check.rejects(() => model.convert({ type: () => "nf4-g64" }), "Tensor", /tensor 'a.weight'/, "a scheme that GGUF does not hold");
        }],
        ["files that are none, and servers that fail", async () => {
            await check.rejects(() => engine.load(url("garbage.bin")), "Format", /garbage.bin: not a safetensors file/, "garbage");
            await check.rejects(() => engine.load(new Blob([bytes["garbage.bin"]])), "Format", /the blob: not a safetensors file/, "a blob of garbage");
            await check.rejects(() => engine.load(url("empty.bin")), "Format", /empty.bin: not a safetensors file: 0 bytes/, "empty");
            await check.rejects(() => engine.load(new ArrayBuffer(5)), "Format", /not a safetensors file: 5 bytes/, "five bytes");
            for (const source of [url("truncated.gguf"), bytes["truncated.gguf"]]) {
                await check.rejects(() => engine.load(source), "Format", /'z.large' at byte \d+: \d+ with 8000000 bytes of data, beyond the file's 3000000 bytes/, "truncated");
            }
            await check.rejects(() => engine.load(bytes["model.gguf"].slice(0, 100)), "Format", /at byte \d+/, "cut within its header");
            await check.rejects(() => engine.load(url("unknown.gguf")), "Format", /unknown.gguf: type of tensor 'w' at byte \d+/, "type");
            await check.rejects(() => engine.load(url("model.gguf", "/cut")), "Io", /model.gguf: it ended after \d+ of 1048576 bytes/, "cut off");
            await check.rejects(async () => engine.load(await fetch(url("model.gguf", "/cut"))), "Io", /model.gguf: it ended after \d+ of/, "cut off");
            await check.rejects(() => engine.load("http://127.0.0.1:9/none.gguf"), "Io", /none.gguf: the server cannot be reached/, "no server");
            await check.rejects(() => engine.load(42), "Usage", /source: expected an ArrayBuffer, Blob, File, Response or URL, got 42/, "no source");
            using model = await engine.load(bytes["model.gguf"].slice().buffer);
            await check.rejects(() => model.get("c.weight"), "Usage", /no tensor 'c.weight' in the buffer/, "name");
            const moved = bytes["model.gguf"].slice().buffer;
            using gone = await engine.load(moved);
            structuredClone(moved, { transfer: [moved] });
            await check.rejects(() => gone.read("a.weight"), "Usage", /it is detached/, "detached");
            model.free();
            await check.rejects(() => model.read("a.weight"), "Usage", /this Model has been freed/, "freed");
        }],
    ];
}
