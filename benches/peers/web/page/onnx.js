// An ONNX model of one node, MatMulNBits with 4 bits and blocks of 32, as bytes.
//
//   b [N, K/32, 16] codes, the even column in the low half of a byte      scales [N, K/32] f32      w = (code - 8) * scale
//
// Only the parts of ONNX's protobuf that this takes: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
const text = new TextEncoder();
const [FLOAT, UINT8] = [1, 2];

function varint(value) {
    const bytes = [];
    for (let left = BigInt(value); ; left >>= 7n) {
        const last = left < 128n;
        bytes.push(Number(left & 127n) | (last ? 0 : 128));
        if (last) return Uint8Array.from(bytes);
    }
}

function joined(parts) {
    const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
        all.set(part, at);
        at += part.length;
    }
    return all;
}

const number = (field, value) => joined([varint(field << 3), varint(value)]);
const bytes = (field, value) => joined([varint((field << 3) | 2), varint(value.length), value]);
const string = (field, value) => bytes(field, text.encode(value));
const message = (field, ...parts) => bytes(field, joined(parts));

const attribute = (name, value) => message(5, string(1, name), number(3, value), number(20, 2));
const constant = (name, type, dims, data) => message(5, ...dims.map((dim) => number(1, dim)), number(2, type), string(8, name), bytes(9, data));
const operand = (field, name, dims) => message(field, string(1, name), message(2, message(1, number(1, FLOAT), message(2, ...dims.map((dim) => message(1, number(1, dim)))))));

export function matMulNBits({ m, k, n, codes, scales, accuracyLevel }) {
    const node = message(
        1,
        ...["x", "b", "scales"].map((name) => string(1, name)),
        string(2, "y"),
        string(4, "MatMulNBits"),
        ...Object.entries({ K: k, N: n, bits: 4, block_size: 32, accuracy_level: accuracyLevel }).map(([name, value]) => attribute(name, value)),
        string(7, "com.microsoft"),
    );
    const scaleBytes = new Uint8Array(scales.buffer, scales.byteOffset, scales.byteLength);
    const graph = message(
        7,
        node,
        string(2, "product"),
        constant("b", UINT8, [n, k / 32, 16], codes),
        constant("scales", FLOAT, [n * (k / 32)], scaleBytes),
        operand(11, "x", [m, k]),
        operand(12, "y", [m, n]),
    );
    const version = (domain, number_) => message(8, string(1, domain), number(2, number_));
    return joined([number(1, 8), version("", 17), version("com.microsoft", 1), graph]);
}
