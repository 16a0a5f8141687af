// The bench in the page: ceilings, cases that are right and have times, and what it refuses.
import { Engine } from "/pkg/lowbit.js";
import { check } from "./check.js";

export const suite = (device) => [
    ["ceilings and cases", async () => {
        using engine = await Engine.create({ device });
        const heard = [];
        const options = { quick: true, schemes: ["q4_0"], shapes: ["1x256x256", "32x256x256"] };
        const result = await engine.bench({ ...options, progress: (what) => heard.push(what) });
        check.equal([result.format, result.failures, result.left_out], ["lowbit bench", [], []], "result");
        check.equal(result.device.backend, engine.info.backend, "device");
        check.equal([...new Set(result.cases.map((c) => `${c.operation} ${c.m}x${c.n}x${c.k}`))],
            ["matvec 1x256x256", "matmul 32x256x256", "quantize nullx256x256", "dequantize nullx256x256"], "cases");
        for (const c of result.cases) {
            check.ok(c.verified > 0 && c.worst_error <= 1, `${c.operation}: verified`);
            check.ok(c.median_s > 0 && c.median_s < 10 && c.percent > 0, `${c.operation}: ${c.median_s} s, ${c.percent} %`);
            check.equal(c.clock, engine.info.capabilities?.timestamps ? "gpu" : "host", `${c.operation}: clock`);
        }
        for (const { name, rate, absent } of result.ceilings) check.ok(absent === null ? rate > 1e6 : rate === null, `${name}: ${rate}`);
        check.ok(heard.includes("read, DRAM") && heard.includes("matvec q4_0 1x256x256"), `${heard}`);
        return result.cases.map((c) => `${c.operation} ${(c.median_s * 1e6).toFixed(0)} us`).join(", ");
    }],
    ["what it refuses", async () => {
        using engine = await Engine.create({ device });
        await check.rejects(() => engine.bench({ shapes: ["4096x4096"] }), "Usage", /shape '4096x4096': expected MxNxK/, "shape");
        await check.rejects(() => engine.bench({ operations: ["divide"] }), "Usage", /no operation 'divide'; there are matvec/, "operation");
        await check.rejects(() => engine.bench({ operations: ["matvec"], shapes: ["32x32x32"] }), "Usage", /no case is left/, "nothing");
        await check.rejects(() => engine.bench({ accumulate: "f64" }), "Usage", /accumulate 'f64'/, "accumulate");
    }],
];
