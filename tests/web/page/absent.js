// A browser without WebGPU, in its two forms: no adapter, and no `navigator.gpu`.
import { Engine } from "/pkg/lowbit.js";
import { check } from "./check.js";

export const suite = () => [
    ["no adapter", async () => {
        using engine = await Engine.create();
        check.equal(engine.info.device, "cpu", "device");
        check.ok(/WebGPU has no adapter here/.test(engine.info.fallback), `fallback: ${engine.info.fallback}`);
        await check.rejects(() => Engine.create({ device: "gpu" }), "NoAdapter", /no GPU: WebGPU has no adapter here/, "asked for");
    }],
    ["no navigator.gpu", async () => {
        Object.defineProperty(navigator, "gpu", { value: undefined, configurable: true });
        using engine = await Engine.create();
        check.equal(engine.info.fallback, "this browser has no WebGPU", "fallback");
        await check.rejects(() => Engine.create({ device: "gpu" }), "NoAdapter", /no GPU: this browser has no WebGPU/, "asked for");
        using asked = await Engine.create({ device: "cpu" });
        check.equal(asked.info.fallback, null, "no fallback where the CPU was asked for");
        delete navigator.gpu;
    }],
];
