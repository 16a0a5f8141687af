// The benchmark page's engine; the page ends this worker where a run is cancelled.
import { Engine, schemes } from "./pkg/lowbit.js";
import { answer } from "./remote.js";

let engine;

answer({
    async start(device) {
        engine = await Engine.create({ device });
        return { info: engine.info, schemes: schemes() };
    },
    bench: (options, progress) => engine.bench({ ...options, progress }),
});
