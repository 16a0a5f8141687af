// The network of data/digits in one scheme: 256 -> relu 256 -> relu 256 -> 10 scores.
//
//   fetchTensors(classifier) -> Network.create, once per scheme -> answer(pixels [n, 64]) -> { shares [n, 10], seconds }
import { fetchTensors } from "./safetensors.js";

/** Pixels along a side of an image; each is repeated so often along both sides; ink of a black pixel. */
export const SIDE = 8;
const REPEAT = 2;
const INK = 16;
export const CLASSES = 10;

/** The weights in f32, as they were trained. */
export const fetchWeights = () => fetchTensors("data/classifier.safetensors");

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

    static async create(engine, tensors, scheme) {
        const layers = [];
        for (const [name, activation] of [["fc1", "relu"], ["fc2", "relu"], ["fc3", "identity"]]) {
            const [weight, bias] = [tensors[`${name}.weight`], tensors[`${name}.bias`]];
            layers.push({
                weight: await engine.quantize(weight.data, weight.shape, scheme, { name }),
                bias: engine.tensor(bias.data, bias.shape),
                function: activation,
            });
        }
        return new Network(engine, layers);
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
