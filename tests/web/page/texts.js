// Models of texts: tokens and embeddings against those that transformers made (tests/data/minilm.*), from packed files and GGUF; files that are none.
import { Engine } from "/pkg/lowbit.js";
import { check } from "./check.js";
import { files } from "./models.js";

const url = (name) => new URL(`/texts/${name}`, location.href).href;
const sum = (values) => values.reduce((a, b) => a + b, 0);
const dot = (a, b) => sum(Array.from(a, (v, i) => v * b[i]));

/** Rows of a result. */
const rows = ({ values, width }) => Array.from({ length: values.length / width }, (_, i) => values.subarray(i * width, (i + 1) * width));

export function suite(options, golden) {
    const width = golden.embeddings.length / golden.texts.length;
    const wanted = golden.texts.map((_, i) => golden.embeddings.slice(i * width, (i + 1) * width));
    const all = golden.texts.map((text, i) => ({ text, want: wanted[i], tokens: golden.lengths[i] }));
    // Long ones take a while on SwiftShader: two are left to the test of what is cut, and what needs several models has a dozen short ones.
    const some = all.filter(({ tokens }) => tokens <= 128);
    let engine, encoder;

    /** The cosines of what a model makes of texts with what there should be. */
    async function cosines(model, among) {
        const { values, count, width: got, cut } = await model.embed(among.map(({ text }) => text));
        check.equal([count, got, values.length, cut], [among.length, width, among.length * width, []], "shape");
        const all = rows({ values, width }).map((row, i) => dot(row, among[i].want) / Math.sqrt(dot(row, row) * dot(among[i].want, among[i].want)));
        check.ok(all.every((v) => v <= 1 + 1e-6), `cosines: ${all}`);
        return all;
    }

    return [
        ["tokens", async () => {
            engine = await Engine.create(options);
            const seen = [];
            encoder = await engine.loadEncoder(url("f32.safetensors"), { progress: (at) => seen.push(at) });
            check.equal(seen.at(-1), { loaded: encoder.byteLength, total: encoder.byteLength }, "progress");
            check.equal([encoder.name, encoder.width], ["f32.safetensors", width], "name and width");
            check.equal(encoder.sizes, { layers: 6, hidden: 384, heads: 12, inner: 1536, positions: 512, vocab: 30522 }, "sizes");
            for (const { text, ids } of golden.tokens) check.equal(encoder.tokenize(text), { ids: Uint32Array.from(ids), cutFrom: null }, text);
            let at = 0;
            for (const { text, tokens } of all) {
                const { ids, cutFrom } = encoder.tokenize(text);
                check.same(ids, golden.ids.slice(at, (at += tokens)), text);
                check.equal(cutFrom, tokens === 512 ? 765 : null, "tokens in all");
            }
        }],
        ["embeddings in f32", async () => {
            const cosine = Math.min(...(await cosines(encoder, some)));
            check.ok(cosine >= 0.9999, `cosine ${cosine}`);
            return `${some.length} texts, cosine at least ${cosine.toFixed(7)}`;
        }],
        ["long texts", async () => {
            const { text, want } = all.find(({ tokens }) => tokens === 512);
            const heard = [];
            const cut = await encoder.embed(["short", text], { progress: (at) => heard.push(at) });
            check.equal(cut.cut, [{ text: 1, tokens: 765 }], "what is cut");
            check.equal(heard.at(-1), { loaded: 515, total: 515 }, "progress");
            const cosine = dot(rows(cut)[1], want);
            check.ok(cosine >= 0.9999, `cosine ${cosine}`);
            if (options.device === "gpu") return;
            // 763 tokens between the two around them, in two chunks.
            const whole = await encoder.embed([text], { long: "chunk" });
            const [row] = rows(whole);
            check.equal(whole.cut, [], "nothing is cut");
            check.near([dot(row, row)], [1], () => 1e-5, "length");
            const near = dot(row, want);
            check.ok(near > 0.8 && near < 0.9999, `whole and cut: cosine ${near}`);
        }],
        ["nothing to embed, and one at a time", async () => {
            check.equal(await encoder.embed([]), { values: new Float32Array(0), count: 0, width, cut: [] }, "no texts");
            const both = rows(await encoder.embed([all[0].text, all[2].text]));
            const [alone] = rows(await encoder.embed([all[2].text]));
            check.near(alone, both[1], () => 1e-6, "the same beside another");
        }],
        ["packed and GGUF, from blobs and buffers", async () => {
            const few = some.filter(({ tokens }) => tokens <= 24).slice(0, 12);
            const native = golden.int4.map((want, i) => ({ ...all[i], want })).filter(({ want, tokens }) => want && tokens <= 24).slice(0, 12);
            check.equal([few.length, native.length], [12, 12], "texts");
            const [int4, gguf] = [url("int4.safetensors"), url("q8_0.gguf")];
            const notes = [];
            for (const [name, source, given, among, most, least] of [
                ["int4 as native lowbit", new File([await (await fetch(int4)).blob()], "mine.safetensors"), {}, native, 1e-4, 0],
                // Rounded to 8 bits: other numbers, and not very. One that is near a tie goes on to change others.
                ["the same with int8 activations", await (await fetch(int4)).arrayBuffer(), { activation: "int8" }, native, 0.02, 1e-5],
                ["q8_0 in GGUF as transformers in f32", await fetch(gguf), {}, few, 1e-3, 1e-7],
            ]) {
                using model = await engine.loadEncoder(source, given);
                if (source instanceof File) check.equal(model.name, "mine.safetensors", "name");
                const away = 1 - Math.min(...(await cosines(model, among)));
                check.ok(away <= most && away >= least, `${name}: cosine ${1 - away}`);
                notes.push(`${name} ${(1 - away).toFixed(6)}`);
                for (const { text, ids } of golden.tokens.slice(0, 20)) check.same(model.tokenize(text).ids, ids, `${name}: ${text}`);
            }
            return `cosine at least: ${notes.join(", ")}`;
        }],
        ["what is no model of texts", async () => {
            const bad = files();
            await check.rejects(() => engine.loadEncoder(bad["model.safetensors"]), "Unsupported", /no config\.json/, "no config");
            await check.rejects(() => engine.loadEncoder(bad["model.gguf"]), "Unsupported", /architecture 'test'/, "another architecture");
            await check.rejects(() => engine.loadEncoder(new Blob(["no model"])), "Format", /the blob/, "no model");
            const whole = await (await fetch(url("int4.safetensors"))).arrayBuffer();
            await check.rejects(() => engine.loadEncoder(whole.slice(0, -1)), "Format", /truncated/, "cut off");
            const broken = new Uint8Array(whole.slice(0));
            // The kind of the tokenizer, in the metadata.
            const place = new TextDecoder("latin1").decode(broken.subarray(0, 1 << 20)).lastIndexOf("WordPiece");
            check.ok(place > 0, "a WordPiece tokenizer");
            broken[place] = "V".charCodeAt(0);
            await check.rejects(() => engine.loadEncoder(broken), "Format", /tokenizer\.json/, "a tokenizer that there is not");
            await check.rejects(() => engine.loadEncoder("/texts/none.safetensors"), "Io", /404/, "nothing there");
        }],
        ["wrong calls", async () => {
            await check.rejects(() => engine.loadEncoder(url("int4.safetensors"), { activation: "int3" }), "Usage", /int3/, "activation");
            await check.rejects(() => engine.loadEncoder(url("int4.safetensors"), { size: 3 }), "Usage", /'size'/, "an option");
            await check.rejects(() => encoder.embed("text"), "Usage", /array of strings/, "no array");
            await check.rejects(() => encoder.embed(["a", 3]), "Usage", /text 1/, "no text");
            await check.rejects(() => encoder.embed(["a"], { long: "short" }), "Usage", /cut and chunk/, "long");
            await check.rejects(async () => encoder.tokenize(null), "Usage", /text 0/, "no text");
            const control = new AbortController();
            const loading = engine.loadEncoder(url("f32.safetensors"), { signal: control.signal, progress: () => control.abort(Object.assign(new Error("enough"), { code: "Enough" })) });
            await check.rejects(() => loading, "Enough", /enough/, "interrupted");
            encoder.free();
            await check.rejects(() => encoder.embed(["a"]), "Usage", /Encoder has been freed/, "freed");
            await check.rejects(async () => encoder.tokenize("a"), "Usage", /Encoder has been freed/, "freed");
            engine.free();
            await check.rejects(() => engine.loadEncoder(url("int4.safetensors")), "Usage", /Engine has been freed/, "freed engine");
        }],
    ];
}
