// The differential suite in the page: kernels and schemes of this browser's tiers, against the reference in the same module.
import { Engine, init, schemes } from "/pkg/lowbit.js";
import { check } from "./check.js";

// One of each kind: an integer with a zero-point, two levels of scales, a search, a table, a float scale, a learned table, a plain float, a permutation.
const SAMPLE = ["int3-g32-asym", "q4_k", "iq4_nl", "nf4-g64", "mxfp4", "codebook4-g64", "f16", "int5-g32-perm"];
// Tiers that this browser has beside its best one, on some of them.
const FEW = ["q4_0", "nf4-g64"];

export const suite = (device, { full }) => {
    const passes = async (engine, names) => {
        const report = await engine.selftest({ schemes: names });
        check.equal(report.failures, [], "failures");
        check.ok(report.checks > 0 && report.kernels.every(({ checks }) => checks > 0), "nothing was checked");
        check.ok(report.kernels.some(({ planted_faults_seen: seen }) => seen > 0), "no planted fault was seen");
        const left = report.left_out.length > 0 ? `; left out: ${report.left_out.join("; ")}` : "";
        return `${report.device}: ${report.checks} checks of ${report.kernels.length} kernels in ${report.seconds.toFixed(1)} s${left}`;
    };
    const sample = async () => {
        await init();
        return full ? schemes().map(({ name }) => name) : SAMPLE;
    };
    const tests = [
        ["kernels and schemes", async () => {
            using engine = await Engine.create({ device });
            return passes(engine, await sample());
        }],
        ["what it hears and refuses", async () => {
            using engine = await Engine.create({ device });
            const heard = [];
            const { kernels } = await engine.selftest({ schemes: ["q8_0"], kernels: ["dequantize"], progress: (what) => heard.push(what) });
            check.equal([heard, kernels.map(({ kernel }) => kernel)], [["dequantize q8_0"], ["dequantize"]], "progress");
            await check.rejects(() => engine.selftest({ kernels: ["fast"] }), "Usage", /no kernel 'fast'; there are .*matvec/, "kernel");
            await check.rejects(() => engine.selftest({ schemes: ["q4_9"] }), "UnknownScheme", /q4_9/, "scheme");
            await check.rejects(() => engine.selftest({ speed: 9 }), "Usage", /unknown field `speed`/, "option");
        }],
    ];
    const lower = [["subgroups"], ["int_dot"], ["subgroups", "f16", "int_dot", "timestamps"]];
    for (const without of device === "gpu" ? lower : []) {
        tests.push([`without ${without.join(", ")}`, async () => {
            using engine = await Engine.create({ device, without });
            return passes(engine, full ? await sample() : FEW);
        }]);
    }
    return tests;
};
