// Files of models, put together byte by byte from their formats' definitions: for the page and for the server that the page asks.
//
//   tensors -> safetensors | gguf -> Uint8Array        files() -> what the server has, by name

const text = (words) => new TextEncoder().encode(words);

function joined(pieces) {
    const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.byteLength, 0));
    pieces.reduce((at, piece) => (all.set(new Uint8Array(piece.buffer ?? piece, piece.byteOffset ?? 0, piece.byteLength), at), at + piece.byteLength), 0);
    return all;
}

const u32 = (v) => new Uint8Array(new Uint32Array([v]).buffer);
const u64 = (v) => new Uint8Array(new BigUint64Array([BigInt(v)]).buffer);
const string = (words) => joined([u64(text(words).length), text(words)]);

/** Tensors are { name, dtype, shape, bytes }. */
export function safetensors(tensors, metadata = {}) {
    let at = 0;
    const header = { __metadata__: metadata };
    for (const { name, dtype, shape, bytes } of tensors) header[name] = { dtype, shape, data_offsets: [at, (at += bytes.byteLength)] };
    const json = text(JSON.stringify(header));
    return joined([u64(json.length), json, ...tensors.map(({ bytes }) => bytes)]);
}

const ALIGNMENT = 32;
const padding = (n) => new Uint8Array((ALIGNMENT - (n % ALIGNMENT)) % ALIGNMENT);

/** Tensors are { name, type, shape, bytes } with ggml's number of the type: 0 is f32, 2 is Q4_0. Metadata: texts and lists of texts. */
export function gguf(tensors, metadata = {}) {
    const pairs = Object.entries(metadata).map(([key, value]) =>
        Array.isArray(value)
            ? joined([string(key), u32(9), u32(8), u64(value.length), ...value.map(string)])
            : joined([string(key), u32(8), string(value)]));
    let at = 0;
    const infos = tensors.map(({ name, type, shape, bytes }) => {
        const info = joined([string(name), u32(shape.length), ...shape.toReversed().map(u64), u32(type), u64(at)]);
        at += bytes.byteLength + padding(bytes.byteLength).length;
        return info;
    });
    const head = joined([text("GGUF"), u32(3), u64(tensors.length), u64(pairs.length), ...pairs, ...infos]);
    return joined([head, padding(head.length), ...tensors.flatMap(({ bytes }) => [bytes, padding(bytes.byteLength)])]);
}

/** Whole numbers that are the same in every run. */
function codes(seed, count, below) {
    let state = seed;
    return Array.from({ length: count }, () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) % below);
}

// Scales that are powers of two: their f16 is seen at once, and every decoded number is exact.
const SCALES = [[0x3000, 0.125], [0x3400, 0.25], [0xb800, -0.5]];

/** [rows, k] of Q4_0, and the numbers it stands for. */
export function q4_0(seed, rows, k) {
    const blocks = (rows * k) / 32;
    const bytes = new Uint8Array(blocks * 18);
    const values = new Float32Array(rows * k);
    const scales = codes(seed, blocks, SCALES.length);
    const fours = codes(seed + 1, rows * k, 16);
    for (let block = 0; block < blocks; block++) {
        const [bits, scale] = SCALES[scales[block]];
        bytes.set([bits & 255, bits >> 8], block * 18);
        for (let i = 0; i < 32; i++) {
            const code = fours[block * 32 + i];
            bytes[block * 18 + 2 + (i % 16)] |= code << (i < 16 ? 0 : 4);
            values[block * 32 + i] = (code - 8) * scale;
        }
    }
    return { bytes, values };
}

/** Numbers of f32 that bf16 and f16 hold too: sixteenths from -8 to 8. */
export const sixteenths = (seed, count) => Float32Array.from(codes(seed, count, 256), (v) => (v - 128) / 16);

const bf16 = (values) => Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);

export const [N, K] = [64, 256];
/** Large enough that reading it is seen in what the server sends. */
const LARGE = 2_000_000;

/** What is in both files: by name, the numbers of each tensor. */
export const contents = () => ({
    "a.weight": sixteenths(1, N * K),
    "b.weight": q4_0(2, N, K).values,
    "norm.weight": sixteenths(3, K),
    "z.large": sixteenths(4, LARGE),
});

/** A safetensors file of 6 GiB whose last tensor, `last`, is not zero: its first bytes, its length, its last bytes. */
export function huge() {
    const header = {};
    let at = 0;
    for (let i = 0; i < 6; i++) header[`t${i}`] = { dtype: "U8", shape: [1024, 2 ** 20], data_offsets: [at, (at += 2 ** 30)] };
    const last = sixteenths(6, K);
    header.last = { dtype: "F32", shape: [K], data_offsets: [at, at + 4 * K] };
    const json = text(JSON.stringify(header));
    const head = joined([u64(json.length), json]);
    return { head, size: head.length + at + 4 * K, tail: new Uint8Array(last.buffer), last };
}

/** The files, and the order of their tensors. */
export function files() {
    const is = contents();
    const packed = q4_0(2, N, K).bytes;
    const inGguf = [
        { name: "a.weight", type: 0, shape: [N, K], bytes: is["a.weight"] },
        { name: "b.weight", type: 2, shape: [N, K], bytes: packed },
        { name: "norm.weight", type: 0, shape: [K], bytes: is["norm.weight"] },
        { name: "z.large", type: 0, shape: [LARGE], bytes: is["z.large"] },
    ];
    const inSafetensors = [
        { name: "z.large", dtype: "F32", shape: [LARGE], bytes: is["z.large"] },
        { name: "a.weight", dtype: "BF16", shape: [N, K], bytes: bf16(is["a.weight"]) },
        { name: "b.weight", dtype: "F32", shape: [N, K], bytes: is["b.weight"] },
        { name: "norm.weight", dtype: "F32", shape: [K], bytes: is["norm.weight"] },
    ];
    const tokens = Array.from({ length: 300_000 }, (_, i) => `token ${i}`);
    const whole = gguf(inGguf, { "general.architecture": "test", "general.name": "a file of the tests" });
    return {
        "model.gguf": whole,
        "model.safetensors": safetensors(inSafetensors, { from: "a test" }),
        "vocabulary.gguf": gguf(inGguf, { "general.architecture": "test", "tokenizer.ggml.tokens": tokens }),
        "truncated.gguf": whole.slice(0, 3_000_000),
        "garbage.bin": Uint8Array.from(codes(9, 100_000, 256)),
        "empty.bin": new Uint8Array(0),
        "unknown.gguf": gguf([{ name: "w", type: 77, shape: [32], bytes: new Uint8Array(32) }]),
    };
}
