// A module that stops in the middle of its work: whoever waits is told, and so is everyone afterwards.
import { Engine } from "/pkg/lowbit.js";
import { check } from "./check.js";

export const suite = () => [
    ["whoever waits is told", async () => {
        const engine = await Engine.create({ device: "cpu" });
        const tensor = engine.tensor(new Float32Array(4), [4]);
        // An error of someone else's is nobody's business here.
        const others = new Promise((resolve) => {
            addEventListener("error", (event) => { event.preventDefault(); resolve(event.error.message); }, { once: true });
        });
        const reading = tensor.read();
        queueMicrotask(() => { throw new Error("of the page"); });
        check.equal([await others, (await reading).length], ["of the page", 4], "an error of the page");
        // What a panic of the module throws while it is polled.
        const waits = engine.selftest({ schemes: ["q4_0"] });
        queueMicrotask(() => { throw Object.assign(new Error("index out of bounds"), { code: "Bug" }); });
        await check.rejects(() => waits, "Bug", /lowbit stopped \(index out of bounds\)/, "a call that waits");
        await check.rejects(() => tensor.read(), "Bug", /lowbit stopped/, "a call afterwards");
        await check.rejects(() => Engine.create({ device: "cpu" }), "Bug", /lowbit stopped/, "an engine afterwards");
        tensor.free();
    }],
];
