// The network of data/digits in one scheme: 256 -> relu 256 -> relu 256 -> 10 scores.
//
//   engine.load(CLASSIFIER) -> Network.create, once per scheme  ─┬-> answer(pixels [n, 64]) -> { shares [n, 10], seconds }
//   engine.load(file of lowbit train-digits) -> Network.packed  ─┘

/** The weights in f32, as they were trained. */
export const CLASSIFIER = "data/classifier.safetensors";

/** Pixels along a side of an image; each is repeated so often along both sides; ink of a black pixel. */
export const SIDE = 8;
const REPEAT = 2;
const INK = 16;
export const CLASSES = 10;
/** The layers: name, function, shape of the weight. */
const LAYERS = [["fc1", "relu", [256, 256]], ["fc2", "relu", [256, 256]], ["fc3", "identity", [10, 256]]];

/** What the first layer reads: every pixel twice in both directions, 1 for full ink. */
function inputs(pixels) {
    const width = SIDE * REPEAT;
    const images = pixels.length / SIDE ** 2;
    return Float32Array.from({ length: images * width ** 2 }, (_, i) => {
        const [image, at] = [Math.floor(i / width ** 2), i % width ** 2];
        const [row, column] = [Math.floor(at / width / REPEAT), Math.floor((at % width) / REPEAT)];
        return pixels[image * SIDE ** 2 + row * SIDE + column] / INK;
    });
}

/** Scores as shares of certainty. */
function softmax(scores) {
    const most = Math.max(...scores);
    const powers = scores.map((score) => Math.exp(score - most));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((power) => power / sum);
}

export class Network {
    #engine;
    #layers;

    constructor(engine, layers) {
        this.#engine = engine;
        this.#layers = layers;
    }

    /** `model`: the loaded classifier. */
    static create(model, scheme) {
        return Network.#of(model, (name) => model.quantize(name, scheme));
    }

    /** `model`: a file whose weights are packed already, or plain. */
    static packed(model) {
        const entry = (name) => model.entries.find((entry) => entry.name === name);
        LAYERS.forEach(([layer, , shape]) => {
            const name = `${layer}.weight`;
            const found = entry(name)?.shape.join(" x ") ?? "none";
            if (found !== shape.join(" x ")) {
                throw new Error(`${model.name} is no network of digits: '${name}' should be ${shape.join(" x ")}, and there is ${found}`);
            }
        });
        return Network.#of(model, (name) => (entry(name).packed ? model.get(name) : model.quantize(name, entry(name).type)));
    }

    static async #of(model, weigh) {
        const layers = [];
        for (const [layer, activation] of LAYERS) {
            const weight = await weigh(`${layer}.weight`);
            layers.push({ weight, bias: await model.get(`${layer}.bias`), function: activation });
        }
        return new Network(model.engine, layers);
    }

    /** Of the weights where the engine computes. */
    get byteLength() {
        return this.#layers.reduce((sum, { weight }) => sum + weight.byteLength, 0);
    }

    /** For each image, how certain each digit is; and how long it took, from the pixels to the scores. */
    async answer(pixels) {
        const start = performance.now();
        const held = [];
        try {
            let x = inputs(pixels);
            for (const { weight, bias, function: name } of this.#layers) {
                x = await this.#engine.matmul(x, weight, { bias, function: name });
                held.push(x);
            }
            const scores = await x.read();
            const seconds = (performance.now() - start) / 1e3;
            const rows = Array.from({ length: scores.length / CLASSES }, (_, i) => [...scores.subarray(i * CLASSES, (i + 1) * CLASSES)]);
            return { shares: rows.map(softmax), seconds };
        } finally {
            held.forEach((tensor) => tensor.free());
        }
    }
}

/** The digit that is most certain. */
export const best = (shares) => shares.indexOf(Math.max(...shares));
