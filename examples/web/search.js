// The search page: a model from a file, lines that are embedded once, and their ranking while a query is typed.
//
//   model -> worker        lines, when they change -> worker: embeds what is new        query, the newest -> worker -> ranking
import { Remote } from "./remote.js";
import { bytesText, find, guarded, make, onDrop, showDevice, timeText, wantedDevice } from "./ui.js";

/** Milliseconds without a change after which lines are taken. */
const PAUSE_MS = 400;

const remote = new Remote("search-worker.js");
const state = { model: null, asking: false, asked: null, timer: null, turn: 0 };

/** What is in the text area: lines that are not blank, by their numbers. */
const written = () => find("lines").value.split(/\r?\n/).map((line, i) => ({ text: line.trim(), number: i + 1 })).filter(({ text }) => text);

const showReading = ({ loaded, total }) => {
    find("reading").hidden = false;
    if (total) find("reading").value = loaded / total;
};

/** Runs what reads a model, with a bar. */
async function reading(work) {
    find("query").disabled = true;
    find("reading").removeAttribute("value");
    find("reading").hidden = false;
    try {
        return await work();
    } finally {
        find("reading").hidden = true;
        find("query").disabled = !state.model;
    }
}

async function open(source, name = source.name) {
    find("status").textContent = `Reading ${name} …`;
    try {
        state.model = await reading(() => remote.call("open", source, showReading));
    } finally {
        showModel();
        find("query").disabled = !state.model;
    }
    await take();
}

function showModel() {
    if (!state.model) {
        find("status").textContent = "No model yet.";
        return;
    }
    const { name, byteLength, sizes, width } = state.model;
    find("status").textContent = `${name}: ${bytesText(byteLength)}, ${sizes.layers} layers, vectors of ${width} numbers, up to ${sizes.positions} tokens a line.`;
}

/** Embeds the lines as they are now, and ranks them when they are. */
async function take() {
    if (!state.model) return;
    const turn = ++state.turn;
    const begun = performance.now();
    let first = null;
    try {
        const result = await remote.call("embed", written(), ({ done, of }) => {
            if (turn !== state.turn) return;
            find("progress").hidden = false;
            find("progress").value = done / of;
            find("embedded").textContent = `${done} of ${of} lines embedded.`;
            // What there is so far, and then now and then.
            if (first === null || performance.now() - first > 2000) {
                first = performance.now();
                search();
            }
        });
        if (turn !== state.turn || result === null) return;
        const { lines, embedded, cut } = result;
        const news = embedded > 0 ? `, ${embedded} of them new, in ${timeText((performance.now() - begun) / 1000)}` : "";
        const long = cut > 0 ? ` ${cut} ${cut === 1 ? "is" : "are"} too long, and the end left out.` : "";
        find("embedded").textContent = `${lines} lines${news}.${long}`;
    } finally {
        if (turn === state.turn) find("progress").hidden = true;
    }
    await search();
}

/** Asks for the newest query, one at a time: what was typed meanwhile is asked next, and nothing in between. */
async function search() {
    state.asked = find("query").value.trim();
    if (state.asking || !state.model) return;
    state.asking = true;
    try {
        while (state.asked !== null) {
            const query = state.asked;
            state.asked = null;
            if (!query) showNothing();
            else showFound(await remote.call("search", query));
        }
    } finally {
        state.asking = false;
    }
}

function showNothing() {
    find("found").textContent = "";
    find("results").replaceChildren();
}

function showFound({ results, among, of, embedding, ranking }) {
    const part = among < of ? ` of the ${among} embedded so far` : ` of ${of}`;
    find("found").textContent = `${results.length}${part} lines, in ${timeText(embedding / 1000)} for the query and ${timeText(ranking / 1000)} for the ranking.`;
    find("results").replaceChildren(...results.map(({ text, number, score }) => {
        const fill = make("span");
        fill.style.width = `${Math.max(0, 100 * score)}%`;
        const bar = make("span", { className: "share-bar", "aria-hidden": "true" }, fill);
        return make("li", {}, make("span", { className: "score" }, bar, score.toFixed(3)), make("span", { className: "text", dir: "auto" }, text), make("span", { className: "note" }, `line ${number}`));
    }));
}

async function start(device) {
    find("where").disabled = true;
    try {
        const { info } = await reading(() => remote.call("start", device, showReading));
        showDevice(info);
    } finally {
        find("where").disabled = false;
    }
    find("pick").disabled = false;
}

const begin = guarded(async () => {
    const example = await fetch("texts/sentences.txt");
    if (!example.ok) throw new Error(`the lines cannot be loaded (${example.status})`);
    if (!find("lines").value) find("lines").value = await example.text();
    find("where").value = wantedDevice() === "cpu" ? "cpu" : "auto";
    await start(wantedDevice());
    document.body.dataset.ready = "true";
    const address = new URLSearchParams(location.search).get("model");
    if (address) await open(new URL(address, location.href).href, address);
});

find("pick").addEventListener("change", guarded(async () => {
    const [file] = find("pick").files;
    if (file) await open(file);
}));
onDrop(find("drop"), (file) => open(file));
find("where").addEventListener("change", guarded(async () => {
    await start(find("where").value);
    await search();
}));
find("query").addEventListener("input", guarded(search));
find("lines").addEventListener("input", () => {
    clearTimeout(state.timer);
    state.timer = setTimeout(guarded(take), PAUSE_MS);
});
find("text").addEventListener("change", guarded(async () => {
    const [file] = find("text").files;
    if (!file) return;
    find("lines").value = await file.text();
    await take();
}));
begin();
