// The page of digits: a drawing or a sample -> 64 pixels -> the network in four schemes, side by side, and one from a file.
import { best, CLASSES, CLASSIFIER, Network, SIDE } from "./network.js";
import { pixelsOf, showPixels } from "./ink.js";
import { Pad } from "./pad.js";
import { fetchSamples } from "./samples.js";
import { bytesText, find, guarded, make, onDrop, openEngine, percentText, timeText } from "./ui.js";

/** The networks: how they are called, and their scheme; the one from a file last. */
const MODELS = [
    ["f32", "f32"],
    ["int8", "int8-row"],
    ["int4", "int4-g32-asym"],
    ["int2", "int2-g32"],
];
/** How many of them are always there. */
const STANDING = MODELS.length;
/** Samples on the page at a time: one of each digit. */
const DIGITS = Array.from({ length: CLASSES }, (_, digit) => digit);

/** The card of a model, and how an answer gets into it. */
function card(name, scheme) {
    const answer = make("strong", {}, "–");
    const share = make("span", { className: "note" });
    const bars = DIGITS.map((digit) => {
        const [fill, text] = [make("span", { className: "fill" }), make("span", { className: "share" }, "–")];
        const item = make("li", {}, String(digit), make("span", { className: "track" }, fill), text);
        return { item, fill, text };
    });
    const fact = () => make("dd", {}, "–");
    const [size, time, right] = [fact(), fact(), fact()];
    const row = (term, value) => [make("dt", {}, term), value];
    const element = make(
        "section",
        { className: "card", id: `model-${name}`, "aria-label": `${name} network` },
        make("h2", {}, name, make("span", { className: "note" }, scheme === name ? "" : ` ${scheme}`)),
        make("p", { className: "answer" }, answer, share),
        make("ol", { className: "bars", "aria-label": "Confidence of each digit" }, ...bars.map(({ item }) => item)),
        make("dl", { className: "facts" }, ...row("weights", size), ...row("last answer", time), ...row("samples right", right)),
    );
    const show = (shares, seconds) => {
        const first = shares ? best(shares) : -1;
        answer.textContent = shares ? first : "–";
        share.textContent = shares ? `${percentText(shares[first])} sure` : "";
        time.textContent = shares ? timeText(seconds) : "–";
        bars.forEach(({ item, fill, text }, digit) => {
            item.classList.toggle("best", digit === first);
            fill.style.width = shares ? `${100 * shares[digit]}%` : "0";
            text.textContent = shares ? percentText(shares[digit]) : "–";
        });
    };
    return { element, show, size, right };
}

const cards = MODELS.map(([name, scheme]) => card(name, scheme));
find("models").append(...cards.map(({ element }) => element));

const start = guarded(async () => {
    const engine = await openEngine();
    const [model, samples] = await Promise.all([engine.load(CLASSIFIER), fetchSamples()]);
    const networks = [];
    for (const [, scheme] of MODELS) networks.push(await Network.create(model, scheme));

    let pixels = null;
    // One question at a time; of those that come meanwhile the last one counts.
    let [asking, waiting] = [false, null];
    const ask = guarded(async (ended) => {
        if (asking) {
            waiting = { ended: ended || waiting?.ended };
            return;
        }
        asking = true;
        try {
            const answers = [];
            for (const [i, network] of networks.entries()) {
                const asked = pixels;
                const { shares, seconds } = asked ? await network.answer(asked) : { shares: [null] };
                cards[i].show(shares[0], seconds);
                answers.push(shares[0]);
            }
            if (ended) find("verdict").textContent = verdict(answers);
        } finally {
            asking = false;
        }
        if (waiting) {
            const next = waiting;
            waiting = null;
            await ask(next.ended);
        }
    });
    const look = (seen, ended) => {
        pixels = seen;
        showPixels(find("seen"), seen ?? new Uint8Array(SIDE ** 2));
        return ask(ended);
    };
    const drawn = ({ ended }) => look(pad.strokes.length > 0 ? pixelsOf(pad.strokes) : null, ended);
    const pad = new Pad(find("pad"), drawn, (words) => (find("pen").textContent = words));
    find("clear").addEventListener("click", () => pad.clear());

    let turn = 0;
    const offer = () => {
        const buttons = DIGITS.map((digit) => {
            const of = samples.filter(({ label }) => label === digit);
            const sample = of[turn % of.length];
            const canvas = make("canvas", { width: SIDE, height: SIDE, "aria-hidden": "true" });
            showPixels(canvas, sample.pixels);
            const button = make("button", { type: "button", "aria-label": `Sample of a ${digit}` }, canvas, make("span", { "aria-hidden": "true" }, String(digit)));
            button.addEventListener("click", () => {
                pad.show(sample.pixels);
                look(sample.pixels, true);
            });
            return button;
        });
        find("samples").replaceChildren(...buttons);
        turn += 1;
    };
    offer();
    find("more").addEventListener("click", offer);

    const all = Uint8Array.from(samples.flatMap(({ pixels }) => [...pixels]));
    const examine = async (network, card) => {
        card.size.textContent = bytesText(network.byteLength);
        // What a first product compiles is not part of an answer's time.
        await network.answer(samples[0].pixels);
        const { shares } = await network.answer(all);
        const right = shares.filter((row, i) => best(row) === samples[i].label).length;
        card.right.textContent = `${right} of ${samples.length}`;
    };
    for (const [i, network] of networks.entries()) await examine(network, cards[i]);

    // One file at a time: another one takes its place.
    const take = async (file) => {
        const model = await engine.load(file);
        try {
            const network = await Network.packed(model);
            const scheme = model.entries.find(({ name }) => name === "fc1.weight").type;
            const own = card("own", scheme);
            await examine(network, own);
            // The one before may still be answering: it goes with the garbage.
            networks.splice(STANDING, 1, network);
            cards.splice(STANDING, 1, own).forEach((old) => old.element.remove());
            MODELS.splice(STANDING, 1, ["own", scheme]);
            find("models").append(own.element);
        } finally {
            model.free();
        }
        await ask(true);
    };
    find("pick").addEventListener("change", guarded(() => find("pick").files[0] && take(find("pick").files[0])));
    onDrop(find("drop"), take);
    find("pick").disabled = false;
    document.body.dataset.ready = "true";
});

/** What the networks say, in a sentence. */
function verdict(answers) {
    if (!answers[0]) return "Nothing drawn yet.";
    const digits = answers.map(best);
    const said = MODELS.map(([name], i) => `${name} reads ${digits[i]} (${percentText(answers[i][digits[i]])})`);
    return `${digits.every((digit) => digit === digits[0]) ? `All read ${digits[0]}` : "They differ"}: ${said.join(", ")}.`;
}

start();
