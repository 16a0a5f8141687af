// Every call of the package, on one engine after the other, against reference.js.
import { Engine, Tensor, Weight, init, schemes, version } from "/pkg/lowbit.js";
import { check, random } from "./check.js";
import { half, matmul, q4_0, sumBound } from "./reference.js";

const [N, K] = [48, 96];

/** Tests of an engine made with these options. */
export function suite(options, expected) {
    let engine, weights, weight;
    const numbers = random(7);
    const decoded = () => q4_0(weights);
    const product = async (label, x, call, given = {}) => {
        const want = matmul(x, decoded(), K, given);
        using y = await engine.matmul(x, weight, call);
        check.equal(y.shape, [x.length / K, N], `${label}: shape`);
        check.near(await y.read(), want.y, sumBound(K, want.size), label);
    };
    return [
        ["create and info", async () => {
            engine = await Engine.create(options);
            check.equal(engine.info.device, expected, "device");
            check.ok(engine.info.name.length > 0 && engine.info.tier.length > 0, "name and tier");
            check.equal(engine.info.capabilities === null, expected === "cpu", "capabilities on the CPU");
            check.equal(engine.device === null, expected === "cpu", "device on the CPU");
            if (expected === "gpu") check.ok(engine.info.limits.maxBufferSize >= 2 ** 28, "limits");
        }],
        ["types name what there is", async () => {
            const types = await (await fetch("/pkg/lowbit.d.ts")).text();
            const missing = [];
            for (const [name, value] of Object.entries(await import("/pkg/lowbit.js"))) {
                const body = new RegExp(`export class ${name}\\b[^]*?\n}`).exec(types)?.[0] ?? "";
                if (!new RegExp(`export (class|function) ${name}\\b`).test(types)) missing.push(name);
                const members = [...Object.getOwnPropertyNames(value.prototype ?? {}), ...Object.getOwnPropertyNames(value)];
                const own = /^class/.test(value) ? members.filter((member) => !["length", "name", "prototype"].includes(member)) : [];
                missing.push(...own.filter((member) => !new RegExp(`\\b${member}\\b`).test(body)).map((member) => `${name}.${member}`));
            }
            check.equal(missing, [], "what lowbit.d.ts lacks");
        }],
        ["version and schemes", async () => {
            await init();
            check.ok(/^\d+\.\d+\.\d+$/.test(version()), version());
            const q4 = schemes().find(({ name }) => name === "q4_0");
            check.equal(q4?.bitsPerWeight, 4.5, "bits per weight of q4_0");
        }],
        ["quantize and dequantize", async () => {
            weights = numbers(N * K);
            weights.fill(0, 64, 96);
            weight = await engine.quantize(weights, [N, K], "q4_0");
            check.equal([weight.shape, weight.scheme, weight.bitsPerWeight], [[N, K], "q4_0", 4.5], "weight");
            check.ok(weight.byteLength >= (N * K * 4.5) / 8 && weight.engine === engine, "bytes");
            using dense = await weight.dequantize();
            check.equal([dense.shape, dense.dtype], [[N, K], "f32"], "decoded");
            check.same(await dense.read(), decoded(), "decoded q4_0");
            using narrow = await engine.dequantize(weight, { dtype: "f16" });
            check.equal(narrow.dtype, "f16", "type");
            check.same(await narrow.read(), decoded().map(half), "decoded q4_0 as f16");
        }],
        ["matmul of one row and of several", async () => {
            for (const m of [1, 3, 17]) await product(`M = ${m}`, numbers(m * K));
        }],
        ["bias, residual, functions", async () => {
            const [x, bias, residual] = [numbers(4 * K), numbers(N), numbers(4 * N)];
            using onDevice = engine.tensor(residual, [4, N]);
            await product("bias", x, { bias }, { bias });
            await product("bias and residual", x, { bias, residual: onDevice }, { bias, residual });
            for (const name of ["identity", "relu", "gelu", "silu"]) {
                const want = matmul(x, decoded(), K, { bias, function: name });
                using y = await engine.matmul(x, weight, { bias, function: name });
                // Their slope is below 1.13, and f32 functions of drivers are good to some units of the last place.
                const bound = sumBound(K, want.size);
                check.near(await y.read(), want.y, (i) => 1.13 * bound(i) + 1e-4, name);
            }
        }],
        ["precisions", async () => {
            const x = numbers(2 * K);
            const want = matmul(x, decoded(), K);
            using narrow = await engine.matmul(x, weight, { output: "f16" });
            check.equal(narrow.dtype, "f16", "output");
            check.near(await narrow.read(), want.y, (i) => sumBound(K, want.size)(i) + Math.abs(want.y[i]) * 2 ** -10, "f16 output");
            const halves = matmul(x.map(half), decoded(), K);
            using rounded = await engine.matmul(x, weight, { activation: "f16" });
            check.near(await rounded.read(), halves.y, sumBound(K, halves.size), "f16 activations");
            for (const activation of ["int8", "int8-g32"]) {
                using y = await engine.matmul(x, weight, { activation });
                const got = await y.read();
                // A code is off by half a step of the largest activation of its row or group at most.
                const step = Math.max(...x.map(Math.abs)) / 127;
                const sum = (i) => decoded().slice((i % N) * K, (i % N) * K + K).reduce((a, v) => a + Math.abs(v), 0);
                check.near(got, want.y, (i) => 0.51 * step * sum(i) + sumBound(K, want.size)(i), activation);
                check.ok(got.some((v, i) => Math.abs(v - want.y[i]) > sumBound(K, want.size)(i)), `${activation}: nothing was rounded`);
            }
            using chunked = await engine.matmul(x, weight, { accumulate: "f16-chunked" });
            check.near(await chunked.read(), want.y, (i) => 40 * 2 ** -11 * want.size[i], "sums in f16");
        }],
        ["experts, pinned kernels", async () => {
            const all = numbers(2 * 32 * 64);
            using experts = await engine.quantize(all, [2, 32, 64], "q4_0");
            const x = numbers(64);
            for (const expert of [0, 1]) {
                const want = matmul(x, q4_0(all).slice(expert * 32 * 64, (expert + 1) * 32 * 64), 64);
                using y = await engine.matmul(x, experts, { expert });
                check.near(await y.read(), want.y, sumBound(64, want.size), `expert ${expert}`);
            }
            if (expected === "gpu") await product("matvec", numbers(K), { kernel: "matvec" });
            await check.rejects(() => engine.matmul(numbers(K), weight, { kernel: "fast" }), "Usage", /no kernel 'fast'; there are .*matvec/, "kernel");
        }],
        ["results feed the next call on the device", async () => {
            const [a, b] = [numbers(64 * K), numbers(40 * 64)];
            using first = await engine.quantize(a, [64, K], "q8_0");
            using second = await engine.quantize(b, [40, 64], "int8-g32");
            const [first32, second32] = await Promise.all([first, second].map(async (w) => (await w.dequantize()).read()));
            const x = numbers(2 * K);
            using h = await engine.matmul(x, first, { function: "relu" });
            using y = await engine.matmul(h, second);
            const hidden = matmul(x, first32, K, { function: "relu" });
            const want = matmul(hidden.y, second32, 64);
            const loose = matmul(hidden.size, second32.map(Math.abs), 64);
            check.near(await y.read(), want.y, (i) => (K + 64 + 8) * 2 ** -24 * loose.y[i], "two layers");
        }],
        ["int8 activations, once and from layer to layer", async () => {
            const x = numbers(3 * K);
            using dense = engine.tensor(x, [3, K]);
            for (const [activation, group] of [["int8", K], ["int8-g32", 32], [{ scale: 0.02, zeroPoint: 5 }, 3 * K]]) {
                using int8 = await engine.quantizeActivations(dense, activation);
                const { codes, scales, zeroPoint } = await int8.read();
                const label = JSON.stringify(activation);
                check.equal([int8.shape, codes.length, scales.length, zeroPoint], [[3, K], 3 * K, (3 * K) / group, activation.zeroPoint ?? 0], label);
                const scale = (i) => scales[Math.floor(i / group)];
                const inside = (i) => Math.max(-128 - zeroPoint, Math.min(127 - zeroPoint, x[i] / scale(i)));
                check.near(Float32Array.from(codes, (q) => q - zeroPoint), Float64Array.from(x, (_, i) => inside(i)), () => 0.5001, `${label}: codes`);
                const want = matmul(Float64Array.from(codes, (q, i) => scale(i) * (q - zeroPoint)), decoded(), K);
                using y = await engine.matmul(int8, weight);
                check.near(await y.read(), want.y, sumBound(K, want.size), `${label}: product`);
                using same = await engine.matmul(x, weight, { activation });
                check.same(await same.read(), await y.read(), `${label}: prepared and not`);
                const to = { scale: 0.05, zeroPoint: -3 };
                using z = await engine.matmul(int8, weight, { output: to, function: "relu" });
                const hidden = await z.read();
                const code = (v) => Math.max(-128, Math.min(127, Math.max(0, v) / to.scale + to.zeroPoint));
                check.equal([z.shape, hidden.scales.length, hidden.zeroPoint], [[3, N], 1, -3], `${label}: int8 output`);
                check.near(Float32Array.from(hidden.codes), want.y.map(code), (i) => 0.501 + sumBound(K, want.size)(i) / to.scale, `${label}: codes of y`);
                check.ok(new Set(hidden.codes).size > 10, `${label}: codes of y are of few kinds`);
            }
            await check.rejects(() => engine.quantizeActivations(x), "Usage", /x: expected a Tensor/, "numbers");
            await check.rejects(() => engine.quantizeActivations(dense, "f16"), "Unsupported", /F16 as int8/, "no int8");
            await check.rejects(() => engine.matmul(x, weight, { output: { scale: 1 } }), "Unsupported", /F32 as int8/, "f32 to int8");
            await check.rejects(() => engine.matmul(x, weight, { activation: { scale: 1, zeroPoint: 200 } }), "Usage", /200 is no zero-point/, "zero-point");
            await check.rejects(() => engine.matmul(x, weight, { activation: { scale: "1" } }), "Usage", /scale is '1', expected a number/, "scale");
            await check.rejects(() => engine.matmul(x, weight, { activation: { scale: 0 } }), "Unsupported", /int8 scale of 0/, "scale of 0");
        }],
        ["arguments of other types", async () => {
            const x = numbers(K);
            for (const value of [5, NaN, true, ["f32"], Symbol("f32")]) {
                for (const key of ["activation", "accumulate", "function", "output", "kernel"]) {
                    await check.rejects(() => engine.matmul(x, weight, { [key]: value }), "Usage", new RegExp(`^${key}: expected a name`), key);
                }
                await check.rejects(() => weight.dequantize({ dtype: value }), "Usage", /^dtype: expected a name/, "dtype");
                await check.rejects(() => engine.quantize(x, [1, K], value), "Usage", /^scheme: expected a name/, "scheme");
            }
            using experts = await engine.quantize(numbers(2 * 32 * 64), [2, 32, 64], "q4_0");
            for (const expert of [1.5, NaN, "1", {}, [], Infinity, true, 2, 2 ** 32, -1]) {
                await check.rejects(() => engine.matmul(numbers(64), experts, { expert }), "Usage", /^expert: expected a whole number below 2/, String(expert));
                await check.rejects(async () => engine.explain(1, experts, { expert }), "Usage", /^expert: /, `explain of ${String(expert)}`);
            }
            using plain = await engine.matmul(x, weight, null);
            check.equal(plain.shape, [1, N], "null for no options");
            await check.rejects(() => engine.matmul(x, weight, 5), "Usage", /options: expected an object, got 5/, "a number of options");
            await check.rejects(() => Engine.create({ devise: "cpu" }), "Usage", /no 'devise'; there are device, /, "create");
            await check.rejects(() => Engine.create({ powerPreference: "fast" }), "Usage", /powerPreference: expected low-power or high-performance, got 'fast'/, "power");
            for (const without of [[5], "f16", ["wings"]]) await check.rejects(() => Engine.create({ without }), "Usage", /^without: expected an array of f16, /, "without");
        }],
        ["more than the module's memory", async () => {
            // 2.4 GB as f32, in 1.2 GB of zeros that nobody has to hold.
            const shape = [600, 1_000_000];
            const header = JSON.stringify({ t: { dtype: "F16", shape, data_offsets: [0, 1.2e9] } });
            const length = new Uint8Array(8);
            new DataView(length.buffer).setBigUint64(0, BigInt(header.length), true);
            const hole = new Blob(new Array(120).fill(new Blob([new Uint8Array(1e7)])));
            using model = await engine.load(new Blob([length, header, hole]));
            await check.rejects(() => model.read("t"), "OutOfMemory", /tensor 't'/, "numbers");
            await check.rejects(() => model.quantize("t", "int8-row"), "OutOfMemory", /tensor 't'/, "quantized");
            if (expected === "cpu") {
                using tall = await engine.quantize(new Float32Array(21000 * 32), [21000, 32], "q4_0");
                await check.rejects(() => engine.matmul(new Float32Array(21000 * 32), tall), "OutOfMemory", /^y: /, "y");
            }
            await product("afterwards", numbers(K));
        }],
        ["what would run", async () => {
            const said = engine.explain(1, weight);
            if (expected === "cpu") check.equal([said.kernel, said.workgroups], ["cpu", null], "CPU");
            else {
                check.equal([said.origin, said.workgroups.length, said.others.length > 3], ["default", 3, true], "GPU");
                const pinned = engine.explain(4, weight, { kernel: "matmul:32x32" });
                check.equal([pinned.kernel, pinned.variant, pinned.origin], ["matmul", "matmul:32x32", "pinned"], "pinned");
                await check.rejects(async () => engine.explain(40, weight, { kernel: "matvec" }), "Unsupported", /up to 16 rows/, "rows");
            }
            await check.rejects(async () => engine.explain(0, weight), "Usage", /m: 0 is no number of rows/, "no rows");
        }],
        ["tensors of every kind", async () => {
            const values = numbers(10);
            using wide = engine.tensor(values, [2, 5]);
            check.equal([wide.shape, wide.dtype], [[2, 5], "f32"], "f32");
            check.same(await wide.read(), values, "f32");
            check.equal(Array.from(await wide.bytes()), Array.from(new Uint8Array(values.buffer)), "bytes");
            const halves = Float16Array.from(values);
            using narrow = engine.tensor(halves, [10]);
            using bits = engine.tensor(new Uint16Array(halves.buffer), [10], { dtype: "f16" });
            for (const tensor of [narrow, bits]) check.same(await tensor.read(), Float32Array.from(halves), "f16");
            const part = new Float32Array(values.buffer, 8, 4);
            using view = engine.tensor(part, [4]);
            check.same(await view.read(), values.slice(2, 6), "a view into a buffer");
        }],
        ["importance", async () => {
            const [w, flat] = [numbers(4 * 256), new Float32Array(256).fill(1)];
            const sharp = Float32Array.from(flat, (_, i) => (i % 32 === 5 ? 1e4 : 1));
            const errors = [];
            for (const importance of [undefined, flat, sharp]) {
                using packed = await engine.quantize(w, [4, 256], "q4_k", { importance });
                using dense = await packed.dequantize();
                const got = await dense.read();
                errors.push([...got].reduce((sum, v, i) => sum + (i % 32 === 5 ? (v - w[i]) ** 2 : 0), 0));
            }
            check.ok(errors[2] < errors[1] / 4, `what counts is no more exact: ${errors}`);
            await check.rejects(() => engine.quantize(w, [4, 256], "q4_k", { importance: flat.slice(1) }), "Shape", /importance/, "its length");
        }],
        ["wrong arguments are errors that say what is wrong", async () => {
            const w = numbers(64);
            await check.rejects(() => engine.quantize(w, [2, 33], "q4_0"), "Shape", /data: 64 numbers for the shape \[2, 33\], which has 66/, "length");
            await check.rejects(() => engine.quantize(w, [2, 32], "q4_9"), "UnknownScheme", /did you mean 'q4_0'/, "scheme");
            await check.rejects(() => engine.tensor(w, [65]), "Shape", /data: 64 numbers for the shape \[65\], which has 65/, "length");
            await check.rejects(() => engine.quantize(w, [4, 16], "q4_0"), "GroupMismatch", /K to be a multiple of 32, got K = 16/, "K");
            await check.rejects(() => engine.quantize([1, 2], [1, 2], "q4_0"), "Usage", /data: expected a Float32Array, got Array/, "type");
            await check.rejects(() => engine.quantize(w, 64, "q4_0"), "Usage", /shape: expected an array of dimensions, got 64/, "shape");
            await check.rejects(() => engine.quantize(w, [-1, 64], "q4_0"), "Usage", /shape: -1 is no dimension/, "dimension");
            await check.rejects(() => engine.quantize(w.with(3, NaN), [2, 32], "q4_0", { name: "mlp" }), "NotRepresentable", /'mlp', index 3: NaN/, "NaN");
            await check.rejects(() => engine.matmul(numbers(K + 1), weight), "Usage", /x: 97 numbers are no rows of K = 96/, "x");
            await check.rejects(() => engine.matmul(engine.tensor(w, [2, 32]), weight), "Shape", /K of x and w/, "K of x and w");
            await check.rejects(() => engine.matmul(numbers(K), weight, { bias: numbers(3) }), "Shape", /bias: expected \[48\], got \[3\]/, "bias");
            await check.rejects(() => engine.matmul(numbers(K), weight, { functoin: "relu" }), "Usage", /no 'functoin'; there are /, "option");
            await check.rejects(() => engine.matmul(numbers(K), weight, { function: "tanh" }), "Usage", /'tanh': there are identity, relu/, "function");
            await check.rejects(() => engine.matmul(numbers(K), weight, { accumulate: "f64" }), "Usage", /'f64': there are f32, f16/, "accumulate");
            await check.rejects(() => engine.matmul(numbers(K), weight, { output: "bf16" }), "Usage", /'bf16': there are f32 and f16/, "output");
            await check.rejects(() => engine.matmul(numbers(K), {}), "Usage", /w: expected a Weight, got Object/, "w");
            await check.rejects(() => engine.matmul(numbers(64), weight, { expert: 3 }), "Usage", /^expert: expected a whole number below 1, got 3/, "expert");
            await check.rejects(() => engine.tensor(new Uint16Array(2), [2]), "Usage", /Uint16Array with dtype 'f16'/, "bits");
            await check.rejects(() => Engine.create({ device: "tpu" }), "Usage", /device: expected auto, gpu, cpu or a GPUDevice, got 'tpu'/, "device");
            const moved = numbers(64);
            structuredClone(moved.buffer, { transfer: [moved.buffer] });
            await check.rejects(() => engine.quantize(moved, [2, 32], "q4_0"), "Usage", /data: its buffer is detached/, "detached");
            await check.rejects(() => engine.tensor(moved, [64]), "Usage", /data: its buffer is detached/, "detached");
            await product("afterwards", numbers(K));
        }],
        ["more memory than there is", async () => {
            await check.rejects(() => engine.tensor(new Float32Array(2 ** 29), [2 ** 29]), "OutOfMemory", /2147483648 bytes do not fit in the module's memory/, "module");
            if (expected === "gpu") {
                using w = await engine.quantize(numbers(8192 * 32), [8192, 32], "q4_0");
                using x = engine.tensor(new Float32Array(65536 * 32), [65536, 32]);
                await check.rejects(() => engine.matmul(x, w), "TooLarge", /product in bytes needs 2147483648, the device's limit is/, "device");
            }
            await product("afterwards", numbers(K));
        }],
        ["handles of another engine", async () => {
            using other = await Engine.create(options);
            using foreign = other.tensor(numbers(K), [1, K]);
            if (expected === "gpu") await check.rejects(() => engine.matmul(foreign, weight), "Unsupported", /operand of another engine/, "x");
        }],
        ["free and using", async () => {
            let kept;
            {
                using tensor = engine.tensor(numbers(4), [4]);
                kept = tensor;
            }
            await check.rejects(() => kept.read(), "Usage", /this Tensor has been freed/, "a tensor");
            kept.free();
            const y = await engine.matmul(numbers(K), weight);
            const reading = y.read();
            y.free();
            check.equal((await reading).length, N, "a read goes on although its tensor is freed");
            weight.free();
            await check.rejects(() => engine.matmul(numbers(K), weight), "Usage", /this Weight has been freed/, "a weight");
            check.ok(kept instanceof Tensor && weight instanceof Weight, "classes");
            engine.free();
            await check.rejects(() => engine.quantize(numbers(32), [1, 32], "q4_0"), "Usage", /this Engine has been freed/, "an engine");
        }],
    ];
}
