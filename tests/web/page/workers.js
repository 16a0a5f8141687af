// The package in a worker.
import { check, random } from "./check.js";
import { matmul, q4_0, sumBound } from "./reference.js";

function ask(options, given) {
    const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    return new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = (event) => reject(new Error(event.message));
        worker.postMessage({ options, ...given });
    }).finally(() => worker.terminate());
}

export const suite = (expected) => [
    ["a worker multiplies", async () => {
        const numbers = random(3);
        const [weights, x] = [numbers(32 * 64), numbers(2 * 64)];
        const want = matmul(x, q4_0(weights), 64);
        for (const options of [{}, { device: "cpu" }]) {
            const { info, y, error } = await ask(options, { weights, shape: [32, 64], x });
            check.equal(error, undefined, "no error");
            check.equal(info.device, options.device ?? expected, "device");
            check.near(y, want.y, sumBound(64, want.size), info.device);
        }
    }],
];
