// The benchmark page: choices -> engine.bench in a worker, with progress -> roofline, tables, JSON.
import { Remote } from "./remote.js";
import { roofline, seriesOf } from "./roofline.js";
import { countText, download, find, guarded, make, offerSchemes, showDevice, tableRow, timeText, wantedDevice } from "./ui.js";

/** What is offered; the first ones of each are chosen. */
const SCHEMES = ["q4_0", "q8_0", "f16", "q6_k", "q4_k", "int4-g128-asym", "nf4-g64", "mxfp4", "int2-g32"];
const OPERATIONS = ["matvec", "matmul", "quantize", "dequantize"];
const SHAPES = ["1x1024x1024", "32x1024x1024", "1x2048x2048", "128x2048x2048", "1x4096x4096", "128x4096x4096", "512x4096x4096"];
/** With so many rows at most a product is a matvec. */
const FEW_ROWS = 16;
/** Chosen where the CPU computes, and where a GPU does. */
const SMALL = SHAPES.slice(0, 2);
const LARGE = SHAPES.slice(4, 6);

const state = { remote: null, opened: null, result: null, cancelled: false };

function offer(id, values, chosen) {
    const boxes = values.map((value) => make("label", { className: "choice" }, make("input", { type: "checkbox", value, checked: chosen.includes(value) }), value.replaceAll("x", id === "shapes" ? " × " : "x")));
    find(id).replaceChildren(...boxes);
}

const chosen = (id) => [...find(id).querySelectorAll("input:checked")].map(({ value }) => value);
const typed = (id) => find(id).value.trim().split(/[\s,;]+/).filter(Boolean);

function choices() {
    const options = {
        schemes: [...new Set([...chosen("schemes"), ...typed("other-schemes")])],
        shapes: [...new Set([...chosen("shapes"), ...typed("other-shapes")])],
        operations: chosen("operations"),
        activation: find("activation").value,
        accumulate: find("accumulate").value,
        quick: find("quick").checked,
    };
    for (const key of ["schemes", "shapes", "operations"]) {
        if (options[key].length === 0) throw new Error(`choose some of the ${key} first`);
    }
    return options;
}

/** How many cases there will be about: a product for each scheme and shape, the rest once for each weight. */
function expected({ schemes, shapes, operations }) {
    const products = shapes.filter((shape) => operations.includes(parseInt(shape) <= FEW_ROWS ? "matvec" : "matmul")).length;
    const weights = new Set(shapes.map((shape) => shape.replace(/^\d+x/, ""))).size;
    const others = operations.filter((name) => name.endsWith("quantize")).length;
    return schemes.length * (products + weights * others);
}

function busy(on) {
    find("run").disabled = on;
    find("cancel").hidden = !on;
    find("working").hidden = !on;
    if (on) find("progress").removeAttribute("value");
}

async function run() {
    const options = choices();
    const total = expected(options);
    state.cancelled = false;
    busy(true);
    find("status").textContent = "Measuring the ceilings of this device …";
    let begun = 0;
    try {
        await state.opened;
        const result = await state.remote.call("bench", options, (what) => {
            if (OPERATIONS.some((name) => what.startsWith(`${name} `))) begun += 1;
            if (begun > 0) find("progress").value = Math.min(1, (begun - 1) / total);
            find("status").textContent = begun > 0 ? `Case ${begun}: ${what}` : `Ceiling: ${what}`;
        });
        show(result);
        find("status").textContent = `${result.cases.length} cases measured and verified.`;
    } catch (error) {
        find("status").textContent = state.cancelled ? "Cancelled." : "";
        if (!state.cancelled) throw error;
    } finally {
        busy(false);
    }
}

/** A share of a ceiling as a bar and in percent. */
function share({ percent }, series) {
    if (percent === null) return "–";
    const fill = make("span");
    fill.style.width = `${Math.min(100, percent)}%`;
    return make("span", {}, make("span", { className: `share-bar ${series}` }, fill), `${percent.toFixed(0)} %`);
}

function show(result) {
    state.result = result;
    const series = seriesOf(result.cases);
    find("picture").replaceChildren(roofline(result));
    const rows = result.cases.map((one, i) => {
        const shape = [one.m, one.n, one.k].filter((d) => d !== null).join(" × ");
        const where = one.regime === "dram" ? "memory" : "a cache";
        const flops = one.flops > 0 ? (one.tflop_per_s * 1e3).toPrecision(3) : "–";
        const cells = [i + 1, one.operation, one.scheme, shape, where, timeText(one.median_s), one.gb_per_s.toPrecision(3), flops, share(one, series(one)), one.ceiling ?? "–", one.kernel];
        return tableRow(cells.map((cell) => (typeof cell === "number" ? String(cell) : cell)), [0, 5, 6, 7]);
    });
    find("cases").replaceChildren(...rows);
    const notes = [...result.failures.map(({ case: name, why }) => `Wrong: ${name}: ${why}`), ...result.left_out.map(({ case: name, why }) => `Left out: ${name}: ${why}`)];
    find("notes").replaceChildren(...notes.map((note) => make("li", {}, note)));
    find("notes").hidden = notes.length === 0;
    const unit = ({ limit }) => (limit === "read" || limit === "copy" ? "B/s" : "OP/s");
    const ceilings = result.ceilings.map((ceiling) => {
        const row = tableRow([ceiling.name, ceiling.rate === null ? ceiling.absent : countText(ceiling.rate) + unit(ceiling), ceiling.clock ?? "–"], ceiling.rate === null ? [] : [1]);
        if (ceiling.rate === null) row.children[1].className = "wrap note";
        return row;
    });
    find("ceilings").replaceChildren(...ceilings);
    find("copied").textContent = "";
    find("results").hidden = false;
}

const text = () => `${JSON.stringify(state.result, null, 2)}\n`;

/** A worker with an engine, which a cancelled run takes along. */
function open() {
    state.remote = new Remote("bench-worker.js");
    state.opened = state.remote.call("start", wantedDevice());
    return state.opened;
}

const start = guarded(async () => {
    const { info, schemes } = await open();
    showDevice(info);
    offerSchemes(find("known"), schemes);
    offer("schemes", SCHEMES, SCHEMES.slice(0, 2));
    offer("shapes", SHAPES, info.device === "gpu" && !info.software ? LARGE : SMALL);
    offer("operations", OPERATIONS, OPERATIONS.slice(0, 2));
    find("run").disabled = false;
    document.body.dataset.ready = "true";
});

find("choose").addEventListener("submit", guarded(async (event) => {
    event.preventDefault();
    await run();
}));
find("cancel").addEventListener("click", guarded(async () => {
    if (state.cancelled) return;
    state.cancelled = true;
    state.remote.stop(new Error("the run was cancelled"));
    await open();
}));
find("copy").addEventListener("click", guarded(async () => {
    await navigator.clipboard.writeText(text());
    find("copied").textContent = "Copied.";
}));
find("download").addEventListener("click", guarded(async () => download([text()], "lowbit-bench.json", "application/json")));
start();
