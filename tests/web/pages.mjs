// The pages of examples/web in Chromium, used as a person would: mouse, keys, dropped files; what they show against values computed here.
//
//   node pages.mjs ROOT [NAME]       ROOT: the checkout, with pkg/ built; run by scripts/test-web.sh from a folder with playwright-core
//
// LOWBIT_WEB_MODELS is a folder with a packed model of texts, and what native lowbit makes with it of tests/web/queries.txt and the lines of the search page;
// without it that page is left out. Screenshots of every page go to target/web-screenshots, for looking at: on a desktop and a phone, light and dark, with WebGPU and without.
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { launch } from "./browser.mjs";
import { check, Failure, random } from "./page/check.js";
import { matmul } from "./page/reference.js";
import { pages, serve } from "./serve.mjs";
import { safetensors } from "./tensors.mjs";

const [root, only] = [resolve(process.argv[2]), process.argv[3]];
const here = dirname(fileURLToPath(import.meta.url));
const shots = join(root, "target/web-screenshots");

const classifier = readFileSync(join(root, "data/digits/classifier.safetensors"));
const weights = Object.fromEntries(Object.entries(safetensors(classifier)).map(([name, { bytes }]) => [name, new Float32Array(bytes.buffer)]));

/** Held-out digits, as data/digits/README.md describes them. */
function samples() {
    const { images, labels, held_out: held } = safetensors(readFileSync(join(root, "data/digits/digits.safetensors")));
    const all = Array.from(labels.bytes, (label, i) => ({ label, pixels: images.bytes.subarray(64 * i, 64 * i + 64) }));
    return all.filter((_, i) => held.bytes[i] === 1);
}

/** The network in double precision: shares of certainty for each image. */
function read(images) {
    let x = Float64Array.from(images.flatMap((pixels) => Array.from({ length: 256 }, (_, i) => pixels[8 * (i >> 5) + ((i & 15) >> 1)] / 16)));
    for (const [layer, name] of [["fc1", "relu"], ["fc2", "relu"], ["fc3", "identity"]]) {
        x = matmul(x, weights[`${layer}.weight`], 256, { bias: weights[`${layer}.bias`], function: name }).y;
        if (name !== "identity") x = Float64Array.from({ length: images.length * 256 }, (_, i) => x[i]);
    }
    return images.map((_, i) => {
        const powers = Array.from(x.subarray(10 * i, 10 * i + 10), Math.exp);
        return powers.map((power) => power / powers.reduce((a, b) => a + b));
    });
}

const best = (shares) => shares.indexOf(Math.max(...shares));
const MODELS = ["f32", "int8", "int4", "int2"];

/** A safetensors file of f32 matrices with these shapes: w0, w1, ... */
function made(shapes) {
    const pieces = shapes.map(([n, k]) => Buffer.from(random(3)(n * k).buffer));
    let end = 0;
    const entries = shapes.map((shape, i) => [`w${i}`, { dtype: "F32", shape, data_offsets: [end, (end += pieces[i].length)] }]);
    const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    return Buffer.concat([length, header, ...pieces]);
}

async function uncheckShapes(page) {
    for (const shape of await page.locator("#shapes input").all()) await shape.uncheck();
}

const ready = (page) => page.waitForSelector("body[data-ready]");
const text = (page, selector) => page.locator(selector).innerText();
const until = (page, selector, words) => page.locator(selector).filter({ hasText: words }).waitFor();
/** What the problem line says, once it says something. */
async function problem(page) {
    await page.locator("#problem:not([hidden])").waitFor();
    return text(page, "#problem");
}

/** Strokes in parts of the drawing area, by mouse. */
async function drawStrokes(page, strokes) {
    await page.locator("#pad").scrollIntoViewIfNeeded();
    const { x, y, width, height } = await page.locator("#pad").boundingBox();
    const place = ([px, py]) => [x + px * width, y + py * height];
    for (const [first, ...rest] of strokes) {
        await page.mouse.move(...place(first));
        await page.mouse.down();
        for (const point of rest) await page.mouse.move(...place(point), { steps: 4 });
        await page.mouse.up();
    }
}

const circle = (cx, cy, rx, ry) => Array.from({ length: 25 }, (_, i) => [cx + rx * Math.sin((i * Math.PI) / 12), cy - ry * Math.cos((i * Math.PI) / 12)]);
const DRAWN = {
    0: [circle(0.5, 0.5, 0.22, 0.35)],
    7: [[[0.3, 0.15], [0.7, 0.15], [0.5, 0.88]], [[0.32, 0.52], [0.74, 0.52]]],
    8: [circle(0.5, 0.32, 0.16, 0.17), circle(0.5, 0.68, 0.19, 0.19)],
};

/** Drops a file on a page, as from a file manager. */
async function drop(page, name, bytes) {
    const transfer = await page.evaluateHandle(([name, base64]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name));
        return transfer;
    }, [name, bytes.toString("base64")]);
    for (const type of ["dragenter", "dragover", "drop"]) await page.dispatchEvent("#drop", type, { dataTransfer: transfer });
}

/** What a card of the digits page shows. */
const card = (page, name) => page.locator(`#model-${name}`).evaluate((element) => ({
    answer: element.querySelector("strong").textContent,
    shares: [...element.querySelectorAll(".share")].map((share) => parseFloat(share.textContent)),
    fills: [...element.querySelectorAll(".fill")].map((fill) => parseFloat(fill.style.width)),
    facts: [...element.querySelectorAll("dd")].map((fact) => fact.textContent),
}));

async function readAs(page, digit) {
    await until(page, "#verdict", `All read ${digit}:`);
    for (const name of MODELS) check.equal((await card(page, name)).answer, String(digit), name);
}

async function digits({ page, shot }) {
    await ready(page);
    const all = samples();
    const shares = read(all.map(({ pixels }) => pixels));
    const right = shares.filter((row, i) => best(row) === all[i].label).length;
    const cards = await Promise.all(MODELS.map((name) => card(page, name)));
    const counts = cards.map(({ facts }) => parseInt(facts[2]));
    check.equal([counts[0], cards[0].facts[2]], [right, `${right} of ${all.length}`], "samples that f32 reads right");
    check.ok(Math.abs(counts[1] - right) <= 3 && counts[3] > 0.8 * all.length && counts[3] < right, `samples read right: ${counts}`);
    check.equal(cards[0].facts[0], "535 kB", "size in f32, (2 * 256 + 10) * 256 weights");
    const sizes = cards.map(({ facts }) => parseFloat(facts[0]));
    check.ok(sizes.every((size, i) => i === 0 || size < 0.65 * sizes[i - 1]), `sizes: ${sizes}`);

    for (const digit of [3, 0]) {
        await page.getByRole("button", { name: `Sample of a ${digit}` }).click();
        await readAs(page, digit);
        const want = shares[all.findIndex(({ label }) => label === digit)];
        const shown = await card(page, "f32");
        check.near(shown.shares, want.map((share) => 100 * share), () => 0.06, `confidence in a ${digit}`);
        check.near(shown.fills, want.map((share) => 100 * share), () => 0.01, `bars of a ${digit}`);
        check.ok(/ (µs|ms|s)$/.test(shown.facts[1]), `time: ${shown.facts[1]}`);
    }
    // A network of a file reads along, another one takes its place, and what is none is refused.
    await page.setInputFiles("#pick", { name: "none.safetensors", mimeType: "application/octet-stream", buffer: made([[4, 32]]) });
    await until(page, "#problem", /none\.safetensors is no network of digits: 'fc1\.weight' should be 256 x 256, and there is none/);
    for (const [name, scheme, least] of [["digits-int3.safetensors", "int3-row", 0.9 * all.length], ["classifier.safetensors", "f32", right]]) {
        await page.setInputFiles("#pick", join(root, name.startsWith("digits") ? "target/web-test" : "data/digits", name));
        await until(page, "#model-own h2", new RegExp(scheme));
        const own = await card(page, "own");
        check.ok(parseInt(own.facts[2]) >= least && (scheme !== "f32" || parseInt(own.facts[2]) === right), `${name}: ${own.facts[2]}`);
        check.equal(own.answer, "0", `${name} reads the digit that is shown`);
    }
    check.equal(await page.locator("#model-own").count(), 1, "networks of files");

    // One that f32 is less certain of: the first samples are clear ones.
    const of = (digit) => shares.filter((_, i) => all[i].label === digit);
    const doubt = (row) => Math.max(...row) < 0.95;
    const turns = Array.from({ length: 10 }, (_, digit) => of(digit).findIndex(doubt));
    const turn = Math.min(...turns.filter((at) => at >= 0));
    const digit = turns.indexOf(turn);
    for (let i = 0; i < turn; i++) await page.click("#more");
    await page.getByRole("button", { name: `Sample of a ${digit}` }).click();
    await until(page, "#verdict", /f32 reads \d \([5-9]/);
    const shown = await card(page, "f32");
    check.near(shown.shares, of(digit)[turn].map((share) => 100 * share), () => 0.06, `confidence in a doubtful ${digit}`);
    const before = await page.locator("#samples canvas").first().evaluate((canvas) => canvas.toDataURL());
    await page.click("#more");
    check.ok(before !== (await page.locator("#samples canvas").first().evaluate((canvas) => canvas.toDataURL())), "other samples are others");

    // The first stroke puts a sample away.
    for (const [digit, strokes] of Object.entries(DRAWN)) {
        await drawStrokes(page, strokes);
        await readAs(page, digit);
        await shot(`drawn-${digit}`);
        await page.click("#clear");
        await until(page, "#verdict", "Nothing drawn yet.");
    }

    // By keys: to the drawing area, then a 1 with its upstroke.
    await page.locator(".brand").focus();
    for (let i = 0; i < 20 && !(await page.evaluate(() => document.activeElement.id === "pad")); i++) await page.keyboard.press("Tab");
    const press = async (key, times) => {
        for (let i = 0; i < times; i++) await page.keyboard.press(key);
    };
    await press("ArrowUp", 1);
    await press("Space", 1);
    await until(page, "#pen", "Pen down");
    await press("ArrowDown", 16);
    await press("Space", 1);
    await until(page, "#pen", "Pen up");
    await press("ArrowUp", 16);
    await press("Space", 1);
    for (let i = 0; i < 3; i++) {
        await press("ArrowLeft", 1);
        await press("ArrowDown", 1);
    }
    await press("Space", 1);
    await until(page, "#verdict", /f32 reads 1 /);
    await shot("keys");
    await page.keyboard.press("Delete");
    await until(page, "#verdict", "Nothing drawn yet.");
}

/** In front of a script: its devices are kept for the test to take away. */
const KEEP_DEVICES = `{
    const { requestDevice } = GPUAdapter.prototype;
    GPUAdapter.prototype.requestDevice = async function (...args) {
        return (self.testDevice = await requestDevice.apply(this, args));
    };
}
`;
const loseDevice = (where) => where.evaluate(() => self.testDevice.destroy());

async function lostDigits({ page }) {
    await page.addInitScript(KEEP_DEVICES);
    await page.reload();
    await ready(page);
    await loseDevice(page);
    await page.getByRole("button", { name: "Sample of a 3" }).click();
    check.ok(/^The device was lost/.test(await problem(page)), "what is said");
    await page.getByRole("button", { name: "Start again" }).click();
    await page.waitForFunction(() => document.body.dataset.ready && document.getElementById("problem").hidden);
    await page.getByRole("button", { name: "Sample of a 3" }).click();
    await readAs(page, 3);
}

async function lostFile({ page }) {
    await page.route("**/file-worker.js", async (route) => {
        const response = await route.fetch();
        await route.fulfill({ response, body: KEEP_DEVICES + (await response.text()) });
    });
    await page.reload();
    await ready(page);
    await drop(page, "classifier.safetensors", classifier);
    await until(page, "#summary", "6 tensors.");
    const [worker] = page.workers();
    const first = await worker.evaluateHandle(() => self.testDevice);
    await loseDevice(worker);
    await page.getByRole("button", { name: "fc2.weight" }).click();
    await until(page, "#studied", "11 of 11 schemes measured.");
    const shown = await rows(page, "#rows");
    check.equal([shown.length, shown.filter(([, bits]) => !(Number(bits) > 1)).length], [11, 0], "every scheme is measured once, on another device");
    check.ok(await worker.evaluate((first) => self.testDevice !== first, first), "there is another device");
    check.ok(await page.locator("#problem").isHidden(), "no problem is left");
}

/** Signal to noise in dB of weights in q4_0, by the test's own definition of it (which needs the browser's Float16Array). */
const sqnr = (page, values) => page.evaluate(async (values) => {
    const { q4_0 } = await import("/test/reference.js");
    const original = new Float32Array(values);
    const decoded = q4_0(original);
    const [signal, noise] = original.reduce(([s, n], v, i) => [s + v * v, n + (v - decoded[i]) ** 2], [0, 0]);
    return 10 * Math.log10(signal / noise);
}, [...values]);

const rows = (page, selector) => page.locator(`${selector} tr`).evaluateAll((all) => all.map((row) => [...row.cells].map((cell) => cell.textContent)));

async function file({ page, shot }) {
    await ready(page);
    await drop(page, "notes.safetensors", Buffer.from("no model"));
    const refused = await problem(page);
    check.ok(/^notes\.safetensors: .*\.$/.test(refused), `what is no model: ${refused}`);
    await drop(page, "classifier.safetensors", classifier);
    await until(page, "#summary", `classifier.safetensors: safetensors, 537 kB, 6 tensors.`);
    check.ok(await page.locator("#problem").isHidden(), "the problem is over");
    const shown = await rows(page, "#tensors");
    check.equal(shown.map(([name]) => name).sort(), Object.keys(weights).sort(), "names");
    check.equal(shown.find(([name]) => name === "fc3.weight"), ["fc3.weight", "10 × 256", "f32", "10.2 kB"], "a row");

    await page.getByRole("button", { name: "Size" }).click();
    check.equal((await rows(page, "#tensors"))[0][0], "fc3.bias", "smallest first");
    await page.getByRole("button", { name: "Size" }).press("Enter");
    check.equal((await rows(page, "#tensors")).at(-1)[0], "fc3.bias", "smallest last");
    check.equal(await page.locator("#heads th").last().getAttribute("aria-sort"), "descending", "aria-sort");
    await page.getByLabel("Filter by name and type").fill("weight fc");
    check.equal([(await rows(page, "#tensors")).length, (await text(page, "#count")).slice(0, 14)], [3, "3 of 6 tensors"], "filtered");

    await page.getByRole("button", { name: "fc2.weight" }).click();
    await until(page, "#studied", "11 of 11 schemes measured.");
    const values = weights["fc2.weight"];
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const counts = new Array(64).fill(0);
    for (const v of values) counts[Math.min(63, Math.floor((v - low) / ((high - low) / 64)))] += 1;
    const bins = await page.locator("#picture .bin title").evaluateAll((all) => all.map((title) => parseInt(title.textContent)));
    check.equal(bins, counts, "histogram");
    const schemes = Object.fromEntries((await rows(page, "#rows")).map(([scheme, ...cells]) => [scheme, cells]));
    const want = await sqnr(page, values);
    check.near([Number(schemes.q4_0[2])], [want], () => 0.006, "SQNR of q4_0");
    check.equal(schemes.q4_0.slice(0, 2), ["4.50", "36.9 kB"], "bits and size of q4_0");
    check.ok(Number(schemes.q8_0[2]) > want + 15 && Number(schemes["int2-g32"][2]) < want - 10, `order of schemes: ${JSON.stringify(schemes)}`);
    await page.getByLabel("Another scheme").fill("q9_9");
    await page.keyboard.press("Enter");
    await until(page, "#studied", "12 of 12 schemes measured.");
    check.ok(/q9_9/.test((await rows(page, "#rows")).at(-1)[1]), "a scheme that there is not");
    await shot("tensor");

    await page.locator("#scheme").fill("q9_9");
    await page.getByRole("button", { name: "Requantize" }).click();
    check.ok(/q9_9/.test(await problem(page)), "a scheme that there is not");
    await page.locator("#scheme").fill("q4_0");
    await page.locator("#format").selectOption("gguf");
    await page.getByRole("button", { name: "Requantize" }).click();
    await until(page, "#result", "3 in q4_0, 3 as before: 537 kB became");
    const [kept] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: "Download classifier-q4_0.gguf" }).click()]);
    check.equal(kept.suggestedFilename(), "classifier-q4_0.gguf", "name of the download");
    const written = readFileSync(await kept.path());
    check.equal(written.subarray(0, 4).toString(), "GGUF", "magic");
    // 18 bytes for 32 weights, biases in f32, and less than 2 kB around them.
    const data = ((2 * 256 + 10) * 256 * 18) / 32 + 4 * (256 + 256 + 10);
    check.ok(written.length >= data && written.length < data + 2048, `${written.length} bytes instead of ${data} and a header`);

    // Choosing it in the dialog, and what is in it.
    await page.locator("#pick").setInputFiles({ name: "again.gguf", mimeType: "", buffer: written });
    await until(page, "#summary", "again.gguf: gguf");
    const again = await rows(page, "#tensors");
    check.equal(again.filter(([name, , type]) => type === (name.endsWith("weight") ? "q4_0" : "f32")).length, 6, "types in the new file");
    await page.getByRole("button", { name: "fc2.weight" }).click();
    await until(page, "#about", "Noise is measured from the q4_0 weights as they decode.");
    await until(page, "#studied", "12 of 12 schemes measured.");

    // Rows of 100 are no blocks of 32.
    await drop(page, "odd.safetensors", made([[4, 100], [4, 64], [8, 64]]));
    await until(page, "#summary", "3 tensors");
    await page.getByLabel("Filter by name and type").fill("w0");
    await page.getByLabel("Only tensors that the filter lists").check();
    await page.getByRole("button", { name: "Requantize" }).click();
    check.ok(/^[Nn]one of the 1 tensors can be in q4_0/.test(await problem(page)), "no tensor fits");
    await page.getByLabel("Filter by name and type").fill("");
    await page.getByRole("button", { name: "Requantize" }).click();
    await until(page, "#result", "2 in q4_0, 1 as before");

    await drop(page, "large.safetensors", made(new Array(64).fill([512, 512])));
    await until(page, "#summary", "large.safetensors: safetensors, 67.1 MB, 64 tensors.");
    await page.locator("#scheme").fill("q3_k");
    await page.getByRole("button", { name: "Requantize" }).click();
    await page.getByRole("button", { name: "Cancel" }).click();
    await until(page, "#result", "Cancelled.");
    check.ok(await page.locator("#convert").isEnabled(), "it may be tried again");
}

const packed = process.env.LOWBIT_WEB_MODELS;
const INT4 = "int4.safetensors";
const textLines = (path) => readFileSync(path, "utf8").trimEnd().split("\n");

/** Of the page's lines from `first` to `end`, what each query of tests/web/queries.txt should find: all with their scores, nearest first, by native lowbit. */
function wanted(first, end) {
    const queries = textLines(join(root, "tests/web/queries.txt"));
    const among = textLines(join(packed, "wanted.txt")).slice(queries.length);
    const { shape: [, width], bytes } = safetensors(readFileSync(join(packed, "wanted.safetensors"))).embeddings;
    const values = new Float32Array(bytes.buffer);
    const row = (i) => values.subarray(i * width, (i + 1) * width);
    const score = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
    return queries.map((query, q) => {
        const all = among.map((text, i) => ({ text, number: i + 1 - first, score: score(row(q), row(queries.length + i)) }));
        const found = all.slice(first, end);
        return { query, found: found.sort((a, b) => b.score - a.score) };
    });
}

/** What the search page shows. */
const ranking = (page) => page.locator("#results li").evaluateAll((all) => all.map((item) => {
    const [score, text, number] = item.children;
    return { text: text.textContent, number: parseInt(number.textContent.slice("line ".length)), score: Number(score.textContent) };
}));

/** That the page ranks as native lowbit does. Scores are shown in thousandths. A query that is not typed to its end may find the same line first, with another score. */
async function ranksAs(page, { query, found }) {
    const first = ({ text, score }) => {
        const [shown, line] = document.querySelector("#results li")?.children ?? [];
        return line?.textContent === text && Math.abs(Number(shown.textContent) - score) <= 0.0011;
    };
    await page.waitForFunction(first, { text: found[0].text, score: found[0].score });
    const shown = await ranking(page);
    check.equal(shown.length, 20, `${query}: lines`);
    check.near(shown.map(({ score }) => score), found.slice(0, 20).map(({ score }) => score), () => 0.0011, `${query}: scores`);
    for (const { text, number, score } of shown) {
        const want = found.find((one) => one.text === text);
        check.equal(number, want.number, text);
        check.near([score], [want.score], () => 0.0011, text);
    }
}

async function search({ page, shot, webgpu }) {
    await ready(page);
    check.ok(await page.locator("#query").isDisabled(), "nothing is asked without a model");
    await drop(page, "notes.safetensors", Buffer.from("no model"));
    check.ok(/^notes\.safetensors: /.test(await problem(page)), "what is no model");
    await drop(page, "classifier.safetensors", classifier);
    await until(page, "#problem", /^classifier\.safetensors .*no config\.json/);
    check.equal(await text(page, "#status"), "No model yet.", "still none");

    const lines = textLines(join(root, "examples/texts/sentences.txt"));
    check.equal(await page.locator("#lines").inputValue(), `${lines.join("\n")}\n`, "lines to begin with");
    // All of them take minutes on SwiftShader.
    const [first, end] = webgpu ? [50, 130] : [0, lines.length];
    const [pet, doctor, weather] = wanted(first, end);
    const area = page.locator("#lines");
    if (webgpu) await area.fill(lines.slice(first, end).join("\n"));
    await page.locator("#pick").setInputFiles(join(packed, INT4));
    await until(page, "#status", "int4.safetensors: 13.6 MB, 6 layers, vectors of 384 numbers, up to 512 tokens a line.");
    check.ok(await page.locator("#problem").isHidden(), "the problem is over");
    // While lines are embedded, those that are there are ranked.
    await page.locator("#query").fill(pet.query);
    await until(page, "#found", "embedded so far");
    const n = end - first;
    await until(page, "#embedded", `${n} lines, ${n} of them new, in `);
    await until(page, "#found", new RegExp(`^20 of ${n} lines, in .* for the query and .* for the ranking\\.$`));
    await ranksAs(page, pet);
    await shot("found");

    // Typed at once: the newest is what is shown.
    await page.locator("#query").fill("");
    await page.waitForFunction(() => document.getElementById("results").children.length === 0);
    await page.locator("#query").pressSequentially(doctor.query);
    await ranksAs(page, doctor);
    await page.locator("#query").fill(weather.query);
    await ranksAs(page, weather);

    // Only what is new is embedded.
    await area.fill(`The kitten hides when the doorbell rings.\n\n${await area.inputValue()}\nThe kitten hides when the doorbell rings.`);
    await until(page, "#embedded", `${n + 1} lines, 1 of them new, in `);
    await page.locator("#query").fill("kitten");
    await page.waitForFunction(() => document.querySelector("#results li .text")?.textContent.startsWith("The kitten hides"));
    check.equal((await ranking(page))[0].number, 1, "its first line");
    await page.locator("#text").setInputFiles({ name: "two.txt", mimeType: "text/plain", buffer: Buffer.from(`one line\r\n\r\n${"and a long one ".repeat(150)}`) });
    await until(page, "#embedded", /^2 lines, 2 of them new, in .* 1 is too long, and the end left out\.$/);
    await page.waitForFunction(() => document.getElementById("results").children.length === 2);

    if (!webgpu) return;
    await page.locator("#where").selectOption("cpu");
    await until(page, "#device", "Computing on the CPU, in wasm on one thread, as was asked.");
    await page.locator("#query").fill("one");
    await page.waitForFunction(() => document.querySelector("#results li .text")?.textContent === "one line");
}

/** Another way to a model: the page's address. */
async function searchByAddress({ page }) {
    await page.goto(`${server.url}/search.html?device=cpu&model=data/classifier.safetensors`);
    await until(page, "#problem", /^classifier\.safetensors .*no config\.json/);
    await page.goto(`${server.url}/search.html?device=cpu&model=models/${INT4}`);
    await until(page, "#device", "Computing on the CPU");
    await until(page, "#status", "int4.safetensors: 13.6 MB");
}

async function lostSearch({ page }) {
    await page.route("**/search-worker.js", async (route) => {
        const response = await route.fetch();
        await route.fulfill({ response, body: KEEP_DEVICES + (await response.text()) });
    });
    await page.reload();
    await ready(page);
    const lines = ["The cat sleeps.", "Rain until noon.", "A loan at four per cent."];
    await page.locator("#lines").fill(lines.join("\n"));
    await page.locator("#pick").setInputFiles(join(packed, INT4));
    await until(page, "#embedded", "3 lines");
    const [worker] = page.workers();
    const first = await worker.evaluateHandle(() => self.testDevice);
    await loseDevice(worker);
    // A query and a line at once: both find that the device is gone, and one of them takes another.
    await page.locator("#lines").fill([...lines, "Four goals before the break."].join("\n"));
    await page.locator("#query").fill("what does a bank do?");
    await until(page, "#embedded", "4 lines, 1 of them new");
    await page.waitForFunction(() => document.querySelector("#results li .text")?.textContent.startsWith("A loan"));
    check.ok(await worker.evaluate((first) => self.testDevice !== first, first), "there is another device");
    check.ok(await page.locator("#problem").isHidden(), "no problem is left");
}

async function bench({ page, shot }) {
    await ready(page);
    const box = (name) => page.getByRole("checkbox", { name, exact: true });
    await uncheckShapes(page);
    await page.getByRole("button", { name: "Run" }).click();
    check.ok(/[Cc]hoose some of the shapes first\.$/.test(await problem(page)), "nothing chosen");
    await page.locator("#other-shapes").fill("4096");
    await page.keyboard.press("Enter");
    check.ok(/MxNxK/.test(await problem(page)), "a shape that is none");

    await page.locator("#other-shapes").fill("1x256x256, 32x256x512");
    await box("q8_0").focus();
    await page.keyboard.press("Space");
    check.equal(await box("q8_0").isChecked(), false, "space unchecks");
    await box("quantize").check();
    await page.getByRole("button", { name: "Run" }).click();
    await until(page, "#status", "Ceiling:");
    await page.getByRole("button", { name: "Cancel" }).click();
    await until(page, "#status", "Cancelled.");
    check.ok(await page.locator("#results").isHidden(), "nothing is shown of a cancelled run");
    await page.getByRole("button", { name: "Run" }).click();
    await until(page, "#status", "cases measured and verified.");

    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    const [kept] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download JSON" }).click()]);
    const json = readFileSync(await kept.path(), "utf8");
    const result = JSON.parse(json);
    await page.getByRole("button", { name: "Copy JSON" }).click();
    await until(page, "#copied", "Copied.");
    check.equal(await page.evaluate(() => navigator.clipboard.readText()), json, "copied and downloaded");
    check.equal([result.failures, new Set(result.cases.map(({ operation }) => operation))].map((v) => [...v].sort()), [[], ["matmul", "matvec", "quantize"]], "cases");
    const shown = await rows(page, "#cases");
    check.equal(shown.length, result.cases.length, "rows");
    result.cases.forEach((one, i) => {
        const [, operation, scheme, shape, , , bandwidth, , share, ceiling] = shown[i];
        check.equal([operation, scheme, shape.split(" × ").at(-1)], [one.operation, one.scheme, String(one.k)], `row ${i + 1}`);
        check.near([Number(bandwidth)], [one.bytes / one.median_s / 1e9], () => 0.006 * Number(bandwidth), `bandwidth of row ${i + 1}`);
        check.equal([share, ceiling], [`${one.percent.toFixed(0)} %`, one.ceiling], `share of row ${i + 1}`);
    });

    // Points where operations per byte and per second put them, by the labels of the axes.
    const texts = await page.locator("#picture text").evaluateAll((all) => all.map((t) => [t.textContent, t.x.baseVal[0].value, t.y.baseVal[0].value]));
    const across = texts.filter(([words, , y]) => y === 488 && Number(words) > 0);
    const scale = (value) => {
        const [[a, xa], [b, xb]] = [across[0], across.at(-1)];
        return xa + ((xb - xa) * Math.log(value / a)) / Math.log(b / a);
    };
    const points = await page.locator("#picture circle").evaluateAll((all) => all.map((c) => c.cx.baseVal.value));
    const products = result.cases.filter(({ flops }) => flops > 0);
    check.near(points, products.map((one) => scale(one.flops / one.bytes)), () => 0.01, "points of the roofline");
    for (const { name, rate, limit } of result.ceilings) {
        if (rate !== null && limit === "f32") check.ok(texts.some(([words]) => words.startsWith(`${name}: `)), `${name} in the roofline`);
    }
    await shot("results");
}

async function index({ page, webgpu }) {
    await page.locator("#facts dd").first().waitFor();
    check.ok((await text(page, "#device")).startsWith(webgpu ? "Computing with WebGPU on " : "Computing on the CPU, in wasm on one thread, because "), "device");
    check.equal((await text(page, "#facts")).includes("no GPU because"), !webgpu, "fallback");
    await page.keyboard.press("Tab");
    check.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content", "the first Tab");
    for (const name of ["Digits", "File", "Search", "Benchmark"]) {
        await page.getByRole("main").getByRole("link", { name }).click();
        await ready(page);
        check.equal(await text(page, "nav [aria-current=page]"), name, "where one is");
        const device = await text(page, "#device");
        check.ok(device.includes(webgpu ? "WebGPU" : "because WebGPU has no adapter here"), `${name}: ${device}`);
        await page.goBack();
    }
}

/** Texts whose contrast with what is behind them is below 4.5, and fields without a name. */
const legibility = (page) => page.evaluate(() => {
    const parse = (colour) => colour.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = parse(getComputedStyle(at).backgroundColor);
            if (colour.length === 3 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const wrong = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || !element.checkVisibility() || element.closest("svg, noscript, :disabled")) continue;
        const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
        if ((a + 0.05) / (b + 0.05) < 4.5) wrong.push(`contrast ${((a + 0.05) / (b + 0.05)).toFixed(2)} of '${element.textContent.slice(0, 30)}'`);
    }
    for (const field of document.querySelectorAll("input, select, textarea, button, canvas[tabindex]")) {
        const name = field.labels?.[0]?.textContent || field.textContent || field.getAttribute("aria-label") || field.getAttribute("aria-labelledby");
        if (!name?.trim()) wrong.push(`${field.id || field.outerHTML} has no name`);
    }
    return wrong;
});

async function searched(page) {
    await ready(page);
    await page.locator("#lines").fill(textLines(join(packed, "wanted.txt")).slice(100, 108).join("\n"));
    await page.locator("#pick").setInputFiles(join(packed, INT4));
    await until(page, "#embedded", "8 lines");
    await page.locator("#query").fill("fear");
    await until(page, "#found", "8 of 8 lines");
}

/** Something to see on every page, for its looks. */
const FILLED = {
    "index.html": (page) => page.locator("#facts dd").first().waitFor(),
    "digits.html": async (page) => {
        await ready(page);
        await drawStrokes(page, DRAWN[8]);
        await until(page, "#verdict", "All read 8:");
    },
    "file.html": async (page) => {
        await ready(page);
        await page.click("#example");
        await page.getByRole("button", { name: "fc1.weight" }).click();
        await until(page, "#studied", "11 of 11 schemes measured.");
    },
    ...(packed && { "search.html": searched }),
    "bench.html": async (page) => {
        await ready(page);
        await uncheckShapes(page);
        await page.locator("#other-shapes").fill("1x256x256 32x256x256");
        await page.getByRole("button", { name: "Run" }).click();
        await until(page, "#status", "cases measured and verified.");
    },
};

const looks = (address) => async ({ page, shot }) => {
    await FILLED[address](page);
    for (const [width, height] of [[1280, 800], [360, 740]]) {
        await page.setViewportSize({ width, height });
        for (const colorScheme of ["light", "dark"]) {
            await page.emulateMedia({ colorScheme });
            check.equal(await page.evaluate(() => Math.max(0, document.documentElement.scrollWidth - innerWidth)), 0, `pixels too wide at ${width}`);
            check.equal(await legibility(page), [], `${colorScheme}, ${width} wide`);
            await shot(`${width}-${colorScheme}`);
        }
    }
};

/** Every test: name, page, whether there is WebGPU, what is done. */
const TESTS = [
    ["index", "index.html", true, index],
    ["digits", "digits.html", true, digits],
    ["file", "file.html", true, file],
    ["benchmark", "bench.html", true, bench],
    ...Object.keys(FILLED).map((address) => [`looks of ${address}`, address, true, looks(address)]),
    ["digits when the device goes away", "digits.html", true, lostDigits],
    ["file when the device goes away", "file.html", true, lostFile],
    ["index without WebGPU", "index.html", false, index],
    ["digits without WebGPU", "digits.html", false, digits],
    ["file without WebGPU", "file.html", false, file],
    ["benchmark without WebGPU", "bench.html", false, bench],
    ...(packed
        ? [
            ["search", "search.html", true, search],
            ["search by address", "search.html", true, searchByAddress],
            ["search when the device goes away", "search.html", true, lostSearch],
            ["search without WebGPU", "search.html", false, search],
        ]
        : []),
];

rmSync(shots, { recursive: true, force: true });
mkdirSync(shots, { recursive: true });
const server = await serve({ ...pages(root), ...(packed && { "/models/": packed }), "/test/": join(here, "page") });
const browsers = new Map();
let [passed, failed] = [0, 0];
for (const [name, address, webgpu, test] of TESTS) {
    if (only && !name.includes(only)) continue;
    if (!browsers.has(webgpu)) browsers.set(webgpu, await launch({ webgpu }));
    const start = Date.now();
    const { page, complaints } = await browsers.get(webgpu).open(`${server.url}/${address}`);
    page.setDefaultTimeout(300_000);
    const shot = (what) => page.screenshot({ path: join(shots, `${name.replaceAll(/\W+/g, "-")}-${what}.png`), fullPage: true });
    let why = null;
    try {
        await test({ page, shot, webgpu });
    } catch (error) {
        why = error instanceof Failure ? error.message : error.stack;
        await shot("FAILED").catch(() => {});
    }
    // Errors of the console arrive a little later than what a page shows.
    await page.waitForTimeout(100);
    await page.close();
    console.log(`${name}: ${why === null ? "passed" : "FAILED"} in ${((Date.now() - start) / 1000).toFixed(1)} s`);
    if (why !== null) console.log(`  ${why}`);
    complaints.forEach((complaint) => console.log(`  COMPLAINT ${complaint}`));
    if (why === null && complaints.length === 0) passed += 1;
    else failed += 1;
}
for (const browser of browsers.values()) await browser.close();
await server.close();
console.log(`pages: ${passed} tests passed, ${failed} failed; screenshots in target/web-screenshots`);
// 2: there is nothing of that name.
process.exit(failed > 0 ? 1 : passed === 0 ? 2 : 0);
