// What only a page with WebGPU can do: its own device and buffers, fewer capabilities, a device that goes away.
import { Engine } from "/pkg/lowbit.js";
import { check, random } from "./check.js";
import { matmul, q4_0, sumBound } from "./reference.js";

const [N, K] = [32, 64];
const numbers = random(11);

async function deviceOfThePage() {
    const adapter = await navigator.gpu.requestAdapter();
    return adapter.requestDevice();
}

/** The bytes of a buffer as f32, copied and mapped by the page itself. */
async function readBack(device, { buffer, offset }, count) {
    const staging = device.createBuffer({ size: count * 4, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, offset, staging, 0, count * 4);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    return new Float32Array(staging.getMappedRange().slice(0));
}

async function multiplies(engine, what) {
    const [w, x] = [numbers(N * K), numbers(3 * K)];
    using weight = await engine.quantize(w, [N, K], "q4_0");
    using y = await engine.matmul(x, weight);
    const want = matmul(x, q4_0(w), K);
    check.near(await y.read(), want.y, sumBound(K, want.size), what);
}

export const suite = () => [
    ["a device of the page's own", async () => {
        const device = await deviceOfThePage();
        const engine = await Engine.create({ device });
        check.ok(engine.device === device, "the engine's device");
        check.equal(engine.info.capabilities.subgroups, false, "subgroups that the page did not ask for");
        check.equal(engine.info.limits.maxStorageBufferBindingSize, device.limits.maxStorageBufferBindingSize, "limits");
        await multiplies(engine, "on it");
        await check.rejects(() => Engine.create({ device, without: ["f16"] }), "Usage", /without/, "without");
        engine.free();
        await device.queue.onSubmittedWorkDone();
    }],
    ["buffers go in and out", async () => {
        const engine = await Engine.create();
        const { device } = engine;
        const [x, w] = [numbers(2 * K), numbers(N * K)];
        const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
        const buffer = device.createBuffer({ size: 256 + x.byteLength, usage });
        device.queue.writeBuffer(buffer, 256, x);
        using tensor = engine.wrap(buffer, [2, K], { offset: 256 });
        check.ok(tensor.buffer.buffer === buffer && tensor.buffer.offset === 256, "its own buffer");
        check.same(await tensor.read(), x, "read through lowbit");
        using weight = await engine.quantize(w, [N, K], "q4_0");
        using y = await engine.matmul(tensor, weight);
        const want = matmul(x, q4_0(w), K);
        check.near(await readBack(device, y.buffer, 2 * N), want.y, sumBound(K, want.size), "read by the page");
        await check.rejects(() => engine.wrap(buffer, [3, K], { offset: 256 }), "Shape", /buffer for f32 \[3, 64\]/, "too small");
        await check.rejects(() => engine.wrap(buffer, [1], { offset: 4 }), "Shape", /multiple of 256/, "offset");
        await check.rejects(() => engine.wrap(buffer, [1], { offset: -1 }), "Usage", /offset: -1/, "offset");
        await check.rejects(() => engine.wrap({}, [1]), "Usage", /expected a GPUBuffer, got Object/, "no buffer");
        const uniform = device.createBuffer({ size: 256, usage: GPUBufferUsage.UNIFORM });
        await check.rejects(() => engine.wrap(uniform, [1]), "Unsupported", /without STORAGE/, "usage");
        check.equal(Object.hasOwn(device, "createBuffer"), false, "createBuffer of the device is the browser's");
        check.equal(Object.hasOwn(navigator.gpu, "requestAdapter"), false, "requestAdapter is the browser's");
        buffer.destroy();
        engine.free();
    }],
    ["fewer capabilities", async () => {
        const best = await Engine.create();
        const has = best.info.capabilities;
        check.equal(has.subgroups, navigator.gpu && (await navigator.gpu.requestAdapter()).features.has("subgroups"), "subgroups");
        check.equal(has.dot4I8Packed, navigator.gpu.wgslLanguageFeatures.has("packed_4x8_integer_dot_product"), "dot4I8Packed");
        for (const without of [["subgroups"], ["int_dot"], ["subgroups", "f16", "int_dot", "timestamps"]]) {
            using engine = await Engine.create({ without });
            const caps = engine.info.capabilities;
            check.ok(!(without.includes("subgroups") && caps.subgroups) && !(without.includes("int_dot") && caps.dot4I8Packed), `${without}`);
            await multiplies(engine, `without ${without}`);
            const [w, x] = [numbers(N * K), numbers(K)];
            using weight = await engine.quantize(w, [N, K], "q4_0");
            using y = await engine.matmul(x, weight, { activation: "int8" });
            using other = await (await best.quantize(w, [N, K], "q4_0"));
            using z = await best.matmul(x, other, { activation: "int8" });
            const [got, want] = [await y.read(), await z.read()];
            check.near(got, want, (i) => 1e-5 * (1 + Math.abs(want[i])), `int8 without ${without}`);
        }
        await check.rejects(() => Engine.create({ without: ["wings"] }), "Usage", /without: expected an array of f16, .*got 'wings'/, "unknown");
    }],
    ["a device that goes away in the middle", async () => {
        const engine = await Engine.create();
        const weight = await engine.quantize(numbers(N * K), [N, K], "q4_0");
        const reads = [1, 2, 3].map(async () => (await engine.matmul(numbers(64 * K), weight)).read());
        const others = [engine.quantize(numbers(N * K), [N, K], "q8_0"), engine.selftest({ schemes: ["q4_0"], kernels: ["dequantize"] })];
        setTimeout(() => engine.device.destroy(), 5);
        const codes = [...reads, ...others].map((promise) => promise.then(() => "done", (error) => error.code));
        for (const [i, code] of (await Promise.all(codes)).entries()) {
            check.ok(["done", "DeviceLost"].includes(code), `${i}: ${code}`);
        }
        await check.rejects(() => engine.matmul(numbers(K), weight), "DeviceLost", /the device was lost/, "afterwards");
    }],
    ["a device that goes away", async () => {
        const engine = await Engine.create();
        const weight = await engine.quantize(numbers(N * K), [N, K], "q4_0");
        const y = await engine.matmul(numbers(K), weight);
        engine.device.destroy();
        await check.rejects(() => y.read(), "DeviceLost", /the device was lost/, "a read");
        await check.rejects(() => engine.matmul(numbers(K), weight), "DeviceLost", /the device was lost/, "a product");
        await check.rejects(() => engine.quantize(numbers(N * K), [N, K], "q4_0"), "DeviceLost", /the device was lost/, "quantize");
        [weight, y, engine].forEach((handle) => handle.free());
        const device = await deviceOfThePage();
        const lent = await Engine.create({ device });
        const tensor = lent.tensor(numbers(4), [4]);
        device.destroy();
        await check.rejects(() => tensor.read(), "DeviceLost", /the device was lost/, "on a device of the page's");
        using next = await Engine.create();
        await multiplies(next, "on the next device");
    }],
];
