// The first page: which device there is, what it can do, and why not more.
import { version } from "./pkg/lowbit.js";
import { bytesText, find, guarded, make, openEngine } from "./ui.js";

const start = guarded(async () => {
    const engine = await openEngine();
    const { name, backend, software, tier, fallback, capabilities, limits } = engine.info;
    const words = { f16: "f16", subgroups: "subgroups", dot4I8Packed: "int8 dot products", timestamps: "timestamps" };
    const having = (wanted) => Object.keys(words).filter((key) => Boolean(capabilities?.[key]) === wanted).map((key) => words[key]).join(", ") || "none";
    const facts = {
        device: `${name} (${backend})`,
        tier,
        ...(fallback && { "no GPU because": fallback }),
        ...(capabilities && {
            "runs on": software ? "the CPU, through a software driver" : "a GPU",
            has: having(true),
            "does without": having(false),
            "largest buffer": bytesText(limits.maxBufferSize),
        }),
        lowbit: version(),
    };
    const rows = Object.entries(facts).flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]);
    find("facts").replaceChildren(...rows);
    find("about-device").hidden = false;
});

start();
