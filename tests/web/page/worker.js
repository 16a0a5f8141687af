// A worker of type module that multiplies, and says what its engine is.
import { Engine } from "/pkg/lowbit.js";

onmessage = async ({ data: { options, weights, shape, x } }) => {
    try {
        using engine = await Engine.create(options);
        using weight = await engine.quantize(weights, shape, "q4_0");
        using y = await engine.matmul(x, weight);
        postMessage({ info: engine.info, y: await y.read() });
    } catch (error) {
        postMessage({ error: error.message });
    }
};
