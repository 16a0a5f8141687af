// The file page: a file's tensors in a table, one of them as a histogram with its noise in each scheme, and the whole file in another scheme.
import { histogram } from "./histogram.js";
import { Remote } from "./remote.js";
import { bytesText, find, guarded, make, offerSchemes, onDrop, showDevice, tableRow, wantedDevice } from "./ui.js";

/** Schemes that every tensor is tried in; more can be named. */
const CANDIDATES = ["q8_0", "q6_k", "q5_k", "q4_k", "q4_0", "int4-g32-asym", "nf4-g64", "mxfp4", "q3_k", "q2_k", "int2-g32"];
/** Rows of the table at a time: more make a page slow, and nobody reads them. */
const SHOWN = 500;
const COLUMNS = [
    ["name", "Name", ({ name }) => name],
    ["shape", "Shape", ({ shape }) => shape.reduce((n, d) => n * d, 1)],
    ["type", "Type", ({ type }) => type],
    ["bytes", "Size", ({ bytes }) => bytes],
];

const remote = new Remote("file-worker.js");
const state = { model: null, sort: null, chosen: null, candidates: [...CANDIDATES], studies: 0, link: null };

/** Entries that the filter lets through, in the chosen order. */
function listed() {
    const words = find("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = state.model.entries.filter(({ name, type }) => words.every((word) => `${name} ${type}`.toLowerCase().includes(word)));
    if (!state.sort) return found;
    const [key, sign] = state.sort;
    const value = COLUMNS.find(([name]) => name === key)[2];
    const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
    return found.sort((a, b) => sign * compare(value(a), value(b)));
}

function showTable() {
    const found = listed();
    const rows = found.slice(0, SHOWN).map((entry) => {
        const pick = make("button", { type: "button", className: "link" }, entry.name);
        pick.addEventListener("click", guarded(() => choose(entry)));
        const row = tableRow([pick, entry.shape.join(" × ") || "scalar", entry.type, bytesText(entry.bytes)], [3]);
        row.firstChild.className = "wrap";
        if (entry.name === state.chosen) {
            row.className = "chosen";
            pick.setAttribute("aria-current", "true");
        }
        return row;
    });
    find("tensors").replaceChildren(...rows);
    const [of, bytes] = [state.model.entries.length, found.reduce((sum, entry) => sum + entry.bytes, 0)];
    const cut = found.length > SHOWN ? `; the first ${SHOWN} are shown` : "";
    find("count").textContent = `${found.length} of ${of} tensors, ${bytesText(bytes)}${cut}.`;
}

function showHeads() {
    const heads = COLUMNS.map(([key, title]) => {
        const button = make("button", { type: "button" }, title);
        const head = make("th", { scope: "col", className: key === "bytes" ? "number" : "" }, button);
        button.addEventListener("click", () => {
            const again = state.sort?.[0] === key;
            state.sort = [key, again ? -state.sort[1] : 1];
            for (const other of find("heads").children) other.removeAttribute("aria-sort");
            head.setAttribute("aria-sort", state.sort[1] > 0 ? "ascending" : "descending");
            showTable();
        });
        return head;
    });
    find("heads").replaceChildren(...heads);
}

async function open(file) {
    find("status").textContent = `Reading ${file.name} …`;
    try {
        state.model = await remote.call("open", file);
    } finally {
        find("status").textContent = "";
    }
    const { name, format, byteLength, entries, metadata } = state.model;
    [state.sort, state.chosen] = [null, null];
    find("filter").value = "";
    find("summary").textContent = `${name}: ${format}, ${bytesText(byteLength)}, ${entries.length} tensors.`;
    const facts = Object.entries(metadata).flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, String(value))]);
    find("metadata").replaceChildren(...facts);
    find("about-metadata").hidden = facts.length === 0;
    find("format").value = format;
    find("tensor").hidden = true;
    find("result").replaceChildren();
    find("model").hidden = false;
    showHeads();
    showTable();
}

/** The tensors to quantize: matrices that can be read. */
const matrices = () => {
    const among = find("only-listed").checked ? listed() : state.model.entries;
    return among.filter(({ shape, readable }) => readable && shape.length >= 2).map(({ name }) => name);
};

async function choose(entry) {
    state.chosen = entry.name;
    showTable();
    find("tensor-name").textContent = entry.name;
    find("tensor").hidden = false;
    find("tensor").focus();
    await study(entry);
}

async function study(entry) {
    const { name, shape } = entry;
    find("picture").replaceChildren();
    find("about").textContent = "";
    find("rows").replaceChildren();
    if (!entry.readable) {
        find("studied").textContent = `Of tensors of the type ${entry.type} there is no more than name and size.`;
        return;
    }
    find("studied").textContent = "Reading …";
    const turn = ++state.studies;
    let done = 0;
    await remote.call("study", { name, schemes: state.candidates }, ({ about, rows, of, counts, row }) => {
        // The last of one that was ended by another.
        if (turn !== state.studies) return;
        if (about) {
            // Once more from the beginning, if the device went away.
            done = 0;
            find("rows").replaceChildren();
            showAbout(entry, about, rows, of, counts);
        }
        if (row) {
            done += 1;
            find("rows").append(schemeRow(row, shape));
        }
        find("studied").textContent = `${done} of ${state.candidates.length} schemes measured.`;
    });
}

function showAbout({ packed, type }, about, rows, of, counts) {
    const number = (value) => Number(value.toPrecision(4));
    const parts = [
        `${about.count.toLocaleString("en")} weights from ${number(about.low)} to ${number(about.high)}`,
        `mean ${number(about.mean)}`,
        `standard deviation ${number(about.deviation)}`,
    ];
    if (about.odd > 0) parts.push(`${about.odd} NaN or infinite`);
    const from = packed ? ` Noise is measured from the ${type} weights as they decode.` : "";
    const part = rows < of ? ` Looked at: ${rows} of ${of} rows, from all over the tensor.` : "";
    find("about").textContent = `${parts.join(", ")}.${part}${from}`;
    if (about.count > about.odd) find("picture").replaceChildren(histogram(counts, about));
}

function schemeRow({ scheme, sqnrDb, maxAbs, bits, why }, shape) {
    if (why) {
        const row = tableRow([scheme, why]);
        row.lastChild.className = "wrap note";
        row.lastChild.colSpan = 4;
        return row;
    }
    const size = (shape.reduce((n, d) => n * d, 1) * bits) / 8;
    const db = Number.isFinite(sqnrDb) ? sqnrDb.toFixed(2) : sqnrDb === Infinity ? "exact" : "–";
    return tableRow([scheme, bits.toFixed(2), bytesText(size), db, maxAbs.toPrecision(3)], [1, 2, 3, 4]);
}

async function convert() {
    const [scheme, format] = [find("scheme").value.trim(), find("format").value];
    find("result").replaceChildren();
    find("working").hidden = false;
    find("convert").disabled = true;
    const bar = find("progress");
    bar.removeAttribute("value");
    const argument = { scheme, format, names: matrices() };
    try {
        const { blob, quantized, kept } = await remote.call("convert", argument, ({ name, loaded, total }) => {
            bar.value = loaded / total;
            find("at").textContent = name;
        });
        if (state.link) URL.revokeObjectURL(state.link);
        state.link = URL.createObjectURL(blob);
        const name = `${state.model.name.replace(/\.[^.]*$/, "")}-${scheme}.${format}`;
        const { byteLength } = state.model;
        const words = `${quantized} in ${scheme}, ${kept} as before: ${bytesText(byteLength)} became ${bytesText(blob.size)}. `;
        find("result").replaceChildren(words, make("a", { className: "button main", href: state.link, download: name }, `Download ${name}`));
    } catch (error) {
        if (error.name === "AbortError") find("result").textContent = "Cancelled.";
        throw error;
    } finally {
        find("working").hidden = true;
        find("convert").disabled = false;
        find("at").textContent = "";
    }
}

const start = guarded(async () => {
    const { info, schemes } = await remote.call("start", wantedDevice());
    showDevice(info);
    offerSchemes(find("known"), schemes);
    find("pick").disabled = false;
    find("example").disabled = false;
    document.body.dataset.ready = "true";
});

find("pick").addEventListener("change", guarded(async () => {
    const [file] = find("pick").files;
    if (file) await open(file);
}));
find("example").addEventListener("click", guarded(async () => {
    const response = await fetch("data/classifier.safetensors");
    if (!response.ok) throw new Error(`the example cannot be loaded (${response.status})`);
    await open(new File([await response.blob()], "classifier.safetensors"));
}));
onDrop(find("drop"), open);
find("filter").addEventListener("input", showTable);
find("try").addEventListener("submit", guarded(async (event) => {
    event.preventDefault();
    const name = find("other").value.trim();
    if (!name || state.candidates.includes(name)) return;
    state.candidates.push(name);
    find("other").value = "";
    await study(state.model.entries.find((entry) => entry.name === state.chosen));
}));
find("requantize").addEventListener("submit", guarded(async (event) => {
    event.preventDefault();
    await convert();
}));
find("cancel").addEventListener("click", guarded(() => remote.call("cancel", "convert")));
start();
