// One product on lowbit and on onnxruntime-web in the same page, compared with each other and with sums in JavaScript, then timed in turns.
//
// Operands and results stay on the device on both sides; a time is a run and the wait for the device's queue.
import { matMulNBits } from "./onnx.js";
import { Engine } from "/pkg/lowbit.js";
import * as ort from "/ort/ort.webgpu.min.mjs";

ort.env.wasm.wasmPaths = "/ort/";
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

// SplitMix32.
function random(seed) {
    let state = seed;
    return () => {
        state = (state + 0x9e3779b9) | 0;
        let z = state ^ (state >>> 16);
        z = Math.imul(z, 0x21f0aaad);
        z ^= z >>> 15;
        z = Math.imul(z, 0x735a2d97);
        return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
    };
}

// Weights that q4_0 holds exactly: each block has a code 0, so its scale is found again.
function weights(n, k, next) {
    const [codes, scales, dense] = [new Uint8Array((n * k) / 2), new Float32Array((n * k) / 32), new Float32Array(n * k)];
    for (let block = 0; block < scales.length; block++) {
        const scale = (scales[block] = (1 + Math.floor(next() * 16) / 16) / 256);
        for (let i = 0; i < 32; i++) {
            const code = i === 5 ? 0 : Math.floor(next() * 16);
            codes[block * 16 + (i >> 1)] |= code << (4 * (i & 1));
            dense[block * 32 + i] = (code - 8) * scale;
        }
    }
    return { codes, scales, dense };
}

const median = (values) => {
    const sorted = [...values].sort((a, b) => a - b);
    return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
};

// The largest difference, as a part of the root mean square of `want`.
function worst(got, want) {
    const rms = Math.sqrt(want.reduce((sum, v) => sum + v * v, 0) / want.length);
    return want.reduce((most, v, i) => Math.max(most, Math.abs(got[i] - v) / rms), 0);
}

// Columns of the first row of y, summed in f64.
function truth(x, dense, k, n, count) {
    return Array.from({ length: count }, (_, i) => {
        const row = Math.floor((i * n) / count);
        let sum = 0;
        for (let j = 0; j < k; j++) sum += x[j] * dense[row * k + j];
        return sum;
    });
}

export async function compare({ m, k, n, int8, rounds, seconds }) {
    const next = random(m * 7919 + k + (int8 ? 1 : 0));
    const { codes, scales, dense } = weights(n, k, next);
    const x = Float32Array.from({ length: m * k }, () => next() + next() + next() - 1.5);
    const engine = await Engine.create({ device: "gpu" });
    const w = await engine.quantize(dense, [n, k], "q4_0");
    const ours = engine.tensor(x, [m, k]);
    const options = { activation: int8 ? "int8-g32" : "f32" };

    const model = matMulNBits({ m, k, n, codes, scales, accuracyLevel: int8 ? 4 : 0 });
    const session = await ort.InferenceSession.create(model, { executionProviders: ["webgpu"], preferredOutputLocation: "gpu-buffer" });
    const device = await ort.env.webgpu.device;
    const buffer = device.createBuffer({ size: x.byteLength, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC });
    device.queue.writeBuffer(buffer, 0, x);
    const theirs = ort.Tensor.fromGpuBuffer(buffer, { dataType: "float32", dims: [m, k] });

    const runs = {
        lowbit: async () => {
            const y = await engine.matmul(ours, w, options);
            engine.submit();
            await engine.device.queue.onSubmittedWorkDone();
            return y;
        },
        onnxruntime: async () => {
            const { y } = await session.run({ x: theirs });
            await device.queue.onSubmittedWorkDone();
            return y;
        },
    };
    const y = await runs.lowbit();
    const first = await y.read();
    y.free();
    const other = await runs.onnxruntime();
    const second = await other.getData(true);
    const exact = truth(x, dense, k, n, 64);
    const sample = (all) => exact.map((_, i) => all[Math.floor((i * n) / exact.length)]);
    // Activations of 8 bits are off by less than a hundredth of the result's size.
    const allowed = int8 ? 5e-2 : 1e-3;
    const differences = { lowbit: worst(sample(first), exact), onnxruntime: worst(sample(second), exact), each: worst(first, second) };
    for (const [who, difference] of Object.entries(differences)) {
        if (!(difference < allowed)) throw new Error(`results differ by ${difference} of their size (${who}); ${allowed} is allowed`);
    }
    const times = { lowbit: [], onnxruntime: [] };
    const begin = performance.now();
    for (let round = 0; round < rounds && (round < 3 || performance.now() - begin < 1000 * seconds); round++) {
        for (const name of round % 2 ? ["onnxruntime", "lowbit"] : ["lowbit", "onnxruntime"]) {
            const start = performance.now();
            const result = await runs[name]();
            times[name].push(performance.now() - start);
            name === "lowbit" ? result.free() : result.dispose();
        }
    }
    const { info } = engine;
    await session.release();
    [ours, w, engine].forEach((handle) => handle.free());
    buffer.destroy();
    return {
        case: `${int8 ? "q4_0, int8" : "q4_0, f32"}, ${m}x${k}x${n}`,
        peer: "onnxruntime-web",
        ours_ms: median(times.lowbit),
        peer_ms: median(times.onnxruntime),
        ratio: median(times.lowbit) / median(times.onnxruntime),
        shortest: Math.min(...times.lowbit) / Math.min(...times.onnxruntime),
        rounds: times.lowbit.length,
        difference: differences.each,
        adapter: `${info.name}, ${info.tier}`,
    };
}
