// What all pages share: elements, sentences about the device, numbers with units, errors as sentences.
//
//   openEngine: lowbit -> Engine and the sentence in #device        guarded: a handler whose errors become the sentence in #problem
import { Engine } from "./pkg/lowbit.js";

export const find = (id) => document.getElementById(id);

/** An element with properties (`dataset` and attributes by their own names) and children. */
export function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
        if (key in element) element[key] = value;
        else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
}

/** Who computes, as a sentence. */
export function deviceSentence({ device, name, tier, software, fallback }) {
    if (device === "gpu") return `Computing with WebGPU on ${name} (${software ? "software; " : ""}tier ${tier}).`;
    return `Computing on the CPU, in wasm on one thread, ${fallback ? `because ${fallback}` : "as was asked"}.`;
}

/** The device that the page's address asks for: `?device=cpu`, `gpu`, or `auto`. */
export const wantedDevice = () => new URLSearchParams(location.search).get("device") ?? "auto";

export const showDevice = (info) => (find("device").textContent = deviceSentence(info));

/** The engine of a page. #device says what it is. */
export async function openEngine() {
    const engine = await Engine.create({ device: wantedDevice() });
    showDevice(engine.info);
    return engine;
}

/** Shows what went wrong, as a sentence, and the way on where the device went away or lowbit stopped; without an error, that nothing is wrong any more. */
export function showProblem(error) {
    const text = String(error?.message ?? error ?? "");
    // Not the names of files, which errors may begin with.
    const begun = text.replace(/^[a-z]+(?=[ ,])/, (word) => word[0].toUpperCase() + word.slice(1));
    find("problem").textContent = begun + (begun && !/[.!?]$/.test(begun) ? "." : "");
    if (["DeviceLost", "Bug"].includes(error?.code)) {
        find("problem").append(" ", make("button", { type: "button", onclick: () => location.reload() }, "Start again"));
    }
    find("problem").hidden = !begun;
}

/** A handler that shows its errors; what was cancelled is none. */
export function guarded(handler) {
    return async (...args) => {
        try {
            showProblem(null);
            return await handler(...args);
        } catch (error) {
            if (error.name !== "AbortError") showProblem(error);
        }
    };
}

/** Takes a file that is dropped anywhere on the page; `place` shows that it may be. */
export function onDrop(place, open) {
    for (const type of ["dragenter", "dragover"]) {
        document.addEventListener(type, (event) => {
            event.preventDefault();
            place.classList.add("over");
        });
    }
    document.addEventListener("dragleave", (event) => {
        if (!event.relatedTarget) place.classList.remove("over");
    });
    document.addEventListener("drop", guarded(async (event) => {
        event.preventDefault();
        place.classList.remove("over");
        const [file] = event.dataTransfer.files;
        if (!file) throw new Error("what was dropped is no file");
        await open(file);
    }));
}

/** An element of a picture. */
export function draw(tag, attributes = {}, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
}

/** A row of a table: texts and elements; those of columns in `numbers` to the right. */
export const tableRow = (cells, numbers = []) => make("tr", {}, ...cells.map((cell, i) => make("td", { className: numbers.includes(i) ? "number" : "" }, cell)));

/** Fills a list that offers names of schemes where they are typed. */
export const offerSchemes = (list, schemes) => list.replaceChildren(...schemes.map(({ name }) => make("option", { value: name })));

const places = (value, digits) => value.toLocaleString("en", { maximumSignificantDigits: digits });

function scaled(value, units, step) {
    let unit = 0;
    while (value >= step && unit < units.length - 1) [value, unit] = [value / step, unit + 1];
    return `${value < step ? places(value, 3) : Math.round(value)} ${units[unit]}`;
}

export const bytesText = (bytes) => scaled(bytes, ["B", "kB", "MB", "GB", "TB"], 1000);
export const timeText = (seconds) => scaled(seconds * 1e9, ["ns", "µs", "ms", "s"], 1000);
/** `1.5 T`: for what a unit follows. */
export const countText = (count) => scaled(count, ["", "k", "M", "G", "T", "P"], 1000);
export const percentText = (share) => `${(100 * share).toFixed(1)} %`;

/** Offers bytes or text as a file. */
export function download(parts, name, type = "application/octet-stream") {
    const url = URL.createObjectURL(new Blob(parts, { type }));
    make("a", { href: url, download: name }).click();
    // Once the browser has begun to read it.
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
