// The benchmark page's engine; the page ends this worker where a run is cancelled.
import { Engine, schemes } from "./pkg/lowbit.js";
import { answer } from "./remote.js";

let engine, device;

async function start() {
    engine?.free();
    engine = await Engine.create({ device });
}

answer({
    async start(wanted) {
        device = wanted;
        await start();
        return { info: engine.info, schemes: schemes() };
    },
    bench: async (options, progress) => engine.bench({ ...options, progress }),
}, start);
