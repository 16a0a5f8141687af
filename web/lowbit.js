// lowbit in the browser: what lowbit.d.ts describes, over the raw types of the wasm module (src/web).
//
//   init: lowbit_bg.wasm, once for the page            Engine.create: GPUAdapter, prepared -> raw engine, or the CPU engine and why
//   Engine -> Tensor (dense), Weight (quantized), Model (a file), Encoder (texts)       handles of memory: free(), `using`
//   Encoder: texts -> lowbit_tokenizer_bg.wasm, loaded with the first -> ids -> raw encoder -> embeddings
//
// Arguments are checked here, where a mistake still has its name; what the module throws passes as it is.
import initModule, * as raw from "./lowbit_raw.js";
import { HEAD, open } from "./source.js";

let loading;

/** Who waits for the module: it would be for ever if the module stopped meanwhile, at a bug or at the end of its memory. */
const waiting = new Set();
let stopped;

/** What the module promises; where the device of `engine` went away in the middle of a readback, which fails before the loss is told, that. */
function promised(promise, engine) {
    const told = promise.catch(async (error) => {
        const device = error?.code === "Gpu" ? engine?.device : null;
        const lost = device && (await Promise.race([device.lost, new Promise((resolve) => setTimeout(resolve, 200))]));
        throw lost ? Object.assign(new Error(`the device was lost: ${lost.message || lost.reason}`, { cause: error }), { code: "DeviceLost" }) : error;
    });
    return new Promise((resolve, reject) => {
        waiting.add(reject);
        told.then(resolve, reject).finally(() => waiting.delete(reject));
    });
}

/** Ends the module if an error is one that ended it in the middle of its own work: what it holds is in no state to go on with. */
function ended(error) {
    const ours = error?.code === "Bug" || (error instanceof WebAssembly.RuntimeError && /lowbit(_tokenizer)?_bg/.test(error.stack ?? ""));
    if (!ours || error === stopped) return error;
    stopped ??= Object.assign(new Error(`lowbit stopped (${error.message}): a bug, or no memory left; the page has to be loaded again`, { cause: error }), { code: "Bug" });
    for (const reject of waiting) reject(stopped);
    waiting.clear();
    return stopped;
}

/** Such an error in what goes on behind a promise is an uncaught one of the page, and nobody else's answer. */
function hear(event) {
    if (waiting.size > 0 && ended(event.error) === stopped && stopped) event.preventDefault();
}
globalThis.addEventListener?.("error", hear);

/** A function of the module that no call gets into after the end. */
const guarded = (call) =>
    function (...args) {
        if (stopped) throw stopped;
        try {
            return call.apply(this, args);
        } catch (error) {
            throw ended(error);
        }
    };

/** The same of all methods of a module. */
function guard(module) {
    for (const kind of Object.values(module)) {
        if (!kind.prototype?.free) continue;
        for (const [key, { value, get }] of Object.entries(Object.getOwnPropertyDescriptors(kind.prototype))) {
            if (["constructor", "free", "__destroy_into_raw"].includes(key)) continue;
            if (get) Object.defineProperty(kind.prototype, key, { get: guarded(get), configurable: true });
            else if (typeof value === "function") kind.prototype[key] = guarded(value);
        }
    }
    return module;
}
guard(raw);

/** Loads the module once; a failed attempt may be repeated. */
export function init(module) {
    if (stopped) return Promise.reject(stopped);
    loading ??= initModule(module === undefined ? undefined : { module_or_path: module }).catch((error) => {
        loading = undefined;
        throw error;
    });
    return loading.then(() => undefined);
}

let tokenizing;

/** The tokenizer's module, which few pages want: loaded once, when a model of texts is. */
function initTokenizer(module) {
    tokenizing ??= import("./lowbit_tokenizer.js")
        .then(async (tokenizer) => (await tokenizer.default(module === undefined ? undefined : { module_or_path: module }), guard(tokenizer)))
        .catch((error) => {
            tokenizing = undefined;
            throw error;
        });
    return tokenizing;
}

export function version() {
    return raw.version();
}

export function schemes() {
    return JSON.parse(raw.schemes());
}

function mistake(message) {
    return Object.assign(new TypeError(message), { code: "Usage" });
}

/** The raw object behind a handle. */
const RAW = Symbol("raw");

/** A handle of something that lives in the module: `free` gives it back, and what is used afterwards says so. */
class Handle {
    #raw;

    constructor(raw) {
        this.#raw = raw;
    }

    get [RAW]() {
        if (stopped) throw stopped;
        if (this.#raw === undefined) throw mistake(`this ${this.constructor.name} has been freed`);
        return this.#raw;
    }

    free() {
        this.#raw?.free();
        this.#raw = undefined;
    }
}
// Not a member of the class, so that browsers without explicit resource management load this.
if (Symbol.dispose) {
    Handle.prototype[Symbol.dispose] = function () {
        this.free();
    };
}

/** A name, or an error that says what it is for. */
function text(value, what) {
    if (typeof value !== "string") throw mistake(`${what}: expected a name, got ${shown(value)}`);
    return value;
}

/** Options that are there, none of them unknown. */
function optionsOf(options, known) {
    if (options === undefined || options === null) return {};
    if (typeof options !== "object") throw mistake(`options: expected an object, got ${shown(options)}`);
    const other = Object.keys(options).find((key) => !known.includes(key));
    if (other !== undefined) throw mistake(`options: there is no '${other}'; there are ${known.join(", ")}`);
    // What is null is not given.
    return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== null && value !== undefined));
}

/** `value` as a handle of a class, or an error that names the argument. */
function handle(value, kind, what) {
    if (!(value instanceof kind)) throw mistake(`${what}: expected a ${kind.name}, got ${shown(value)}`);
    return value[RAW];
}

function shown(value) {
    if (typeof value === "string") return `'${value}'`;
    if (value === null || typeof value !== "object") return String(value);
    return value.constructor?.name ?? "an object";
}

/** Checks numbers before they are copied into the module. */
function numbers(array, type, what) {
    if (!(array instanceof type)) throw mistake(`${what}: expected a ${type.name}, got ${shown(array)}`);
    if (array.buffer.detached ?? (array.length === 0 && array.buffer.byteLength === 0 && array.byteOffset === 0 && wasCut(array.buffer))) {
        throw mistake(`${what}: its buffer is detached (it was transferred elsewhere)`);
    }
    room(array.byteLength, what);
    return array;
}

/** Whether a buffer is detached, where the browser does not say so itself. */
function wasCut(buffer) {
    try {
        new Uint8Array(buffer);
        return false;
    } catch {
        return true;
    }
}

/** A length that does not fit its shape, in the words of the caller. */
function matching(array, shape, what) {
    const count = shape.reduce((n, d) => n * d, 1);
    if (array.length !== count) {
        const message = `${what}: ${array.length} numbers for the shape [${shape.join(", ")}], which has ${count}`;
        throw Object.assign(new RangeError(message), { code: "Shape" });
    }
    return array;
}

/** The module stops when its memory ends, so that it is asked beforehand. */
function room(bytes, what) {
    if (!raw.hasRoom(bytes)) {
        throw Object.assign(new RangeError(`${what}: ${bytes} bytes do not fit in the module's memory`), { code: "OutOfMemory" });
    }
}

function dimensions(shape, what) {
    if (!Array.isArray(shape) && !ArrayBuffer.isView(shape)) throw mistake(`${what}: expected an array of dimensions, got ${shown(shape)}`);
    for (const d of shape) {
        if (!Number.isInteger(d) || d < 0 || d >= 2 ** 32) throw mistake(`${what}: ${d} is no dimension (whole numbers below 2^32 are)`);
    }
    return Uint32Array.from(shape);
}

const DEVICES = ["auto", "gpu", "cpu"];
const POWER = ["low-power", "high-performance"];
const CAPABILITIES = ["f16", "subgroups", "int_dot", "timestamps"];

function isDevice(value) {
    return typeof GPUDevice !== "undefined" && value instanceof GPUDevice;
}

/** An adapter whose `requestDevice` asks for subgroups too, which wgpu does not; or gives a device that the page has already. */
function prepare(adapter, own, without) {
    const request = adapter.requestDevice.bind(adapter);
    const subgroups = adapter.features.has("subgroups") && !without.includes("subgroups");
    adapter.requestDevice = (descriptor) => {
        if (own) return Promise.resolve(own);
        const features = [...(descriptor?.requiredFeatures ?? []), ...(subgroups ? ["subgroups"] : [])];
        return request({ ...descriptor, requiredFeatures: features });
    };
    return adapter;
}

/** An adapter of the browser, or why there is none. */
async function findAdapter(powerPreference) {
    if (!globalThis.navigator?.gpu) {
        const why = globalThis.isSecureContext === false ? "this page is not a secure context (https or localhost)" : "this browser has no WebGPU";
        return { why };
    }
    try {
        const adapter = await navigator.gpu.requestAdapter(powerPreference ? { powerPreference } : {});
        return adapter ? { adapter } : { why: "WebGPU has no adapter here" };
    } catch (error) {
        return { why: `WebGPU has no adapter here (${error.message})` };
    }
}

/** Runs `work` with a function that marks raw objects to be freed at the end. */
function scoped(work) {
    const kept = [];
    try {
        return work((object) => (kept.push(object), object));
    } finally {
        // What the module was ended in the middle of cannot be given back.
        if (!stopped) kept.forEach((object) => object.free());
    }
}

/** A tensor of the engine, or numbers that are brought there for one call. */
function denseOf(value, what, shapeOf, engine, keep) {
    if (!(value instanceof Float32Array)) return handle(value, Tensor, what);
    return keep(engine.upload(numbers(value, Float32Array, what), dimensions(shapeOf(value), what)));
}

/** The shape of an array of numbers that are rows of x. */
function rowsOf(weight) {
    const k = weight.shape.at(-1);
    return ({ length }) => {
        if (length === 0 || length % k !== 0) throw mistake(`x: ${length} numbers are no rows of K = ${k}`);
        return [length / k, k];
    };
}

/** Whether a value is a scale and a zero-point of int8, instead of a type's name. */
function isScale(value) {
    return typeof value === "object" && value !== null && !Array.isArray(value);
}

const NAMES = ["activation", "accumulate", "function", "output", "kernel"];

/** The options of a product as the module has them. */
function callOf(options, engine, keep, experts = 1) {
    const call = new raw.RawOptions();
    try {
        for (const [key, value] of Object.entries(optionsOf(options, [...NAMES, "expert", "bias", "residual"]))) {
            if (key === "bias") call.bias(denseOf(value, key, (bias) => [bias.length], engine, keep));
            else if (key === "residual") call.residual(handle(value, Tensor, key));
            else if (key === "expert") {
                if (!Number.isInteger(value) || value < 0 || value >= experts) throw mistake(`expert: expected a whole number below ${experts}, got ${shown(value)}`);
                call.expert(value);
            } else if ((key === "activation" || key === "output") && isScale(value)) {
                const { scale, zeroPoint = 0 } = value;
                if (typeof scale !== "number") throw mistake(`${key}: its scale is ${shown(scale)}, expected a number`);
                if (!Number.isInteger(zeroPoint) || zeroPoint < -128 || zeroPoint > 127) throw mistake(`${key}: ${shown(zeroPoint)} is no zero-point (-128 to 127 are)`);
                call[`${key}Scale`](scale, zeroPoint);
            } else call[key](text(value, key));
        }
        return call;
    } catch (error) {
        call.free();
        throw error;
    }
}

/** Matrices of a weight. */
const expertsOf = (weight) => Array.from(weight.shape).slice(0, -2).reduce((n, d) => n * d, 1);

export class Engine extends Handle {
    #info;

    static async create(options) {
        const { device = "auto", powerPreference, without = [], module } = optionsOf(options, ["device", "powerPreference", "without", "module"]);
        if (powerPreference !== undefined && !POWER.includes(powerPreference)) throw mistake(`powerPreference: expected ${POWER.join(" or ")}, got ${shown(powerPreference)}`);
        const wrong = Array.isArray(without) ? without.find((name) => !CAPABILITIES.includes(name)) : without;
        if (wrong !== undefined) throw mistake(`without: expected an array of ${CAPABILITIES.join(", ")}, got ${shown(wrong)}`);
        const own = isDevice(device) ? device : undefined;
        if (!own && !DEVICES.includes(device)) throw mistake(`device: expected ${DEVICES.join(", ")} or a GPUDevice, got ${shown(device)}`);
        if (own && without.length > 0) throw mistake("without: a device of the page's own has what the page gave it");
        await init(module);
        if (device === "cpu") return new Engine(raw.RawEngine.cpu(), null);
        const { adapter, why } = await findAdapter(powerPreference);
        if (!adapter) {
            if (device !== "auto") throw Object.assign(new Error(`no GPU: ${why}`), { code: "NoAdapter" });
            return new Engine(raw.RawEngine.cpu(), why);
        }
        const opened = raw.RawEngine.open(prepare(adapter, own, without), own !== undefined, without);
        return new Engine(await promised(opened), null);
    }

    constructor(engine, why) {
        super(engine);
        this.#info = Object.freeze({ ...JSON.parse(engine.info), fallback: why });
    }

    get info() {
        return this.#info;
    }

    get device() {
        return this[RAW].device ?? null;
    }

    tensor(data, shape, options) {
        const { dtype } = optionsOf(options, ["dtype"]);
        const size = dimensions(shape, "shape");
        if (data instanceof Float32Array && (dtype ?? "f32") === "f32") {
            return new Tensor(this, this[RAW].upload(matching(numbers(data, Float32Array, "data"), size, "data"), size));
        }
        const half = globalThis.Float16Array;
        const type = half && data instanceof half ? half : Uint16Array;
        if (type === Uint16Array && dtype !== "f16") {
            throw mistake(`data: expected a Float32Array, a Float16Array, or a Uint16Array with dtype 'f16', got ${shown(data)}`);
        }
        const { buffer, byteOffset, byteLength } = matching(numbers(data, type, "data"), size, "data");
        return new Tensor(this, this[RAW].uploadBytes(new Uint8Array(buffer, byteOffset, byteLength), size, "f16"));
    }

    wrap(buffer, shape, options) {
        const { dtype = "f32", offset = 0 } = optionsOf(options, ["dtype", "offset"]);
        if (typeof GPUBuffer === "undefined" || !(buffer instanceof GPUBuffer)) throw mistake(`buffer: expected a GPUBuffer, got ${shown(buffer)}`);
        if (!Number.isInteger(offset) || offset < 0) throw mistake(`offset: ${offset} is no byte of a buffer`);
        return new Tensor(this, this[RAW].wrap(buffer, offset, dimensions(shape, "shape"), text(dtype, "dtype")));
    }

    async quantize(data, shape, scheme, options) {
        const { name = "weight", importance } = optionsOf(options, ["name", "importance"]);
        const engine = this[RAW];
        const weights = importance === undefined ? undefined : numbers(importance, Float32Array, "importance");
        const size = dimensions(shape, "shape");
        const values = matching(numbers(data, Float32Array, "data"), size, "data");
        return new Weight(this, await promised(engine.quantize(values, size, text(scheme, "scheme"), text(name, "name"), weights), this));
    }

    async dequantize(weight, options) {
        const { dtype = "f32" } = optionsOf(options, ["dtype"]);
        return new Tensor(this, this[RAW].dequantize(handle(weight, Weight, "weight"), text(dtype, "dtype")));
    }

    async matmul(x, w, options) {
        const engine = this[RAW];
        const weight = handle(w, Weight, "w");
        return scoped((keep) => {
            const call = keep(callOf(options, engine, keep, expertsOf(weight)));
            const to8 = isScale(options?.output);
            // On the CPU y and the sums before it are in the module's memory.
            const rows = x instanceof Float32Array ? x.length / weight.shape.at(-1) : handle(x, x instanceof Int8Tensor ? Int8Tensor : Tensor, "x").shape.slice(0, -1).reduce((n, d) => n * d, 1);
            if (this.info.device === "cpu") room(8 * rows * weight.shape.slice(0, -1).reduce((n, d) => n * d, 1), "y");
            if (!to8 && !(x instanceof Int8Tensor)) return new Tensor(this, engine.matmul(denseOf(x, "x", rowsOf(weight), engine, keep), weight, call));
            const codes = x instanceof Int8Tensor ? x[RAW] : keep(engine.quantizeActivations(denseOf(x, "x", rowsOf(weight), engine, keep), call));
            return to8 ? new Int8Tensor(this, engine.matmulToInt8(codes, weight, call)) : new Tensor(this, engine.matmulInt8(codes, weight, call));
        });
    }

    async quantizeActivations(x, activation) {
        const engine = this[RAW];
        const call = { activation: activation ?? "int8" };
        return scoped((keep) => new Int8Tensor(this, engine.quantizeActivations(handle(x, Tensor, "x"), keep(callOf(call, engine, keep)))));
    }

    explain(m, w, options) {
        const engine = this[RAW];
        if (!Number.isInteger(m) || m < 1 || m >= 2 ** 32) throw mistake(`m: ${shown(m)} is no number of rows`);
        const weight = handle(w, Weight, "w");
        return scoped((keep) => JSON.parse(engine.explain(m, weight, keep(callOf(options, engine, keep, expertsOf(weight))))));
    }

    submit() {
        this[RAW].submit();
    }

    async selftest({ progress = () => {}, ...options } = {}) {
        return JSON.parse(await promised(this[RAW].selftest(JSON.stringify(options), progress), this));
    }

    async bench({ progress = () => {}, ...options } = {}) {
        return JSON.parse(await promised(this[RAW].bench(JSON.stringify(options), progress), this));
    }

    async load(source, options) {
        this[RAW]; // A freed engine says so before anything is fetched.
        const file = await open(source, options);
        return new Model(this, await fromHead(file, raw.openHead, options?.signal), file);
    }

    async loadEncoder(source, options) {
        const { activation, progress, signal, module } = optionsOf(options, ["activation", "progress", "signal", "module"]);
        if (activation !== undefined) {
            text(activation, "activation");
            scoped((keep) => keep(callOf({ activation }, this[RAW], keep)));
        }
        const file = await open(source, { signal });
        // A file that is no such model is not read any further.
        await fromHead(file, raw.encoderHead, signal);
        const [{ RawTokenizer }, bytes] = await Promise.all([initTokenizer(module), file.read(0, file.size, { progress, signal })]);
        // The file, and its weights where the CPU engine computes with them.
        room((this.info.device === "cpu" ? 2 : 1) * file.size, file.name);
        const encoder = await promised(raw.loadEncoder(this[RAW], file.name, bytes, activation), this);
        try {
            const { vocab, positions } = JSON.parse(encoder.sizes);
            return new Encoder(this, encoder, new RawTokenizer(encoder.takeTokenizer(), encoder.place, vocab, positions), file);
        } catch (error) {
            encoder.free();
            throw error;
        }
    }
}

/** What `parse` makes of the first bytes of a file, as many as it wants. */
async function fromHead(file, parse, signal) {
    let [made, length] = [undefined, Math.min(HEAD, file.size)];
    while (made === undefined) {
        made = parse(file.name, copied(await file.read(0, length, { signal }), file.name), file.size);
        // What is in all of the file and still not enough is an error of the header.
        length = Math.min(2 * length, file.size);
    }
    return made;
}

/** Bytes that the module takes a copy of. */
function copied(bytes, what) {
    room(bytes.byteLength, what);
    return bytes;
}

/** How far numbers are from their originals. */
export function errors(reference, got) {
    const [sqnrDb, cosine, maxAbs, meanAbs] = raw.errors(numbers(reference, Float32Array, "reference"), numbers(got, Float32Array, "got"));
    return { sqnrDb, cosine, maxAbs, meanAbs };
}

export class Model extends Handle {
    #engine;
    #file;
    #entries;
    #numbers;

    constructor(engine, model, file) {
        super(model);
        this.#engine = engine;
        this.#file = file;
        this.#entries = JSON.parse(model.entries).map(Object.freeze);
        this.#numbers = new Map(this.#entries.map(({ name }, number) => [name, number]));
        this.format = model.format;
        this.metadata = JSON.parse(model.metadata);
        this.name = file.name;
        this.byteLength = file.size;
        this.ranges = file.ranges;
        this.note = file.note;
    }

    get engine() {
        return this.#engine;
    }

    get entries() {
        return this.#entries;
    }

    /** An entry's number and its bytes, of all its ranges. */
    async #fetch(name, options) {
        const model = this[RAW];
        const number = this.#numbers.get(name);
        if (number === undefined) throw mistake(`there is no tensor '${name}' in ${this.name}`);
        const [ranges, total] = [model.ranges(number), this.#entries[number].bytes];
        const pieces = [];
        let before = 0;
        const progress = options?.progress && (({ loaded }) => options.progress({ loaded: before + loaded, total }));
        for (let i = 0; i < ranges.length; i += 2) {
            pieces.push(await this.#file.read(ranges[i], ranges[i + 1], { ...options, progress }));
            before += pieces.at(-1).byteLength;
        }
        if (pieces.length === 1) return [number, copied(pieces[0], `tensor '${name}'`)];
        room(total, `tensor '${name}'`);
        const all = new Uint8Array(total);
        pieces.reduce((at, piece) => (all.set(piece, at), at + piece.byteLength), 0);
        return [number, all];
    }

    /** Room for a tensor's bytes and its numbers: the module ends where memory does. */
    #room(name) {
        const entry = this.#entries[this.#numbers.get(name)];
        if (entry) room(entry.bytes + 4 * entry.shape.reduce((n, d) => n * d, 1), `tensor '${name}'`);
    }

    async get(name, options) {
        const [number, bytes] = await this.#fetch(name, options);
        const engine = this.#engine[RAW];
        if (this.#entries[number].packed) return new Weight(this.#engine, this[RAW].weight(number, bytes, engine));
        return new Tensor(this.#engine, this[RAW].tensor(number, bytes, engine));
    }

    async read(name, options) {
        this.#room(name);
        const [number, bytes] = await this.#fetch(name, options);
        this.#room(name);
        return this[RAW].values(number, bytes);
    }

    async quantize(name, scheme, options) {
        text(scheme, "scheme");
        this.#room(name);
        const [number, bytes] = await this.#fetch(name, options);
        this.#room(name);
        return new Weight(this.#engine, await promised(this[RAW].quantize(number, bytes, this.#engine[RAW], scheme), this.#engine));
    }

    async convert(options) {
        const { type = () => null, format = this.format, progress, signal } = optionsOf(options, ["type", "format", "progress", "signal"]);
        const types = this.#entries.map((entry) => type(entry) ?? "");
        const writer = this[RAW].writer(text(format, "format"), types.map(String));
        const parts = [writer.take()];
        const total = this.#entries.reduce((sum, { bytes }) => sum + bytes, 0);
        let loaded = 0;
        try {
            for (let name = writer.next; name !== undefined; name = writer.next) {
                signal?.throwIfAborted();
                const number = this.#numbers.get(name);
                if (types[number] === "") {
                    const [, bytes] = await this.#fetch(name, { signal });
                    if (this.#entries[number].packed) writer.packed(this[RAW], number, bytes);
                    else writer.dense(bytes);
                } else {
                    const weight = await this.quantize(name, types[number], { signal });
                    await promised(writer.weight(weight[RAW]), this.#engine).finally(() => weight.free());
                }
                parts.push(writer.take());
                loaded += this.#entries[number].bytes;
                progress?.({ name, loaded, total });
            }
            writer.finish();
            parts.push(writer.take());
        } finally {
            writer.free();
        }
        return new Blob(parts, { type: "application/octet-stream" });
    }
}

export class Encoder extends Handle {
    #engine;
    #tokenizer;

    constructor(engine, encoder, tokenizer, file) {
        super(encoder);
        this.#engine = engine;
        this.#tokenizer = tokenizer;
        this.sizes = Object.freeze(JSON.parse(encoder.sizes));
        this.width = this.sizes.hidden;
        this.name = file.name;
        this.byteLength = file.size;
    }

    get engine() {
        return this.#engine;
    }

    #tokens(texts, long) {
        this[RAW]; // A freed model says so.
        const at = texts.findIndex((one) => typeof one !== "string");
        if (at >= 0) throw mistake(`text ${at}: expected a string, got ${shown(texts[at])}`);
        return this.#tokenizer.tokenize(texts, long);
    }

    tokenize(one) {
        const [ids, , , cut] = this.#tokens([one], "cut");
        return { ids, cutFrom: cut[1] ?? null };
    }

    async embed(texts, options) {
        const { long = "cut", progress } = optionsOf(options, ["long", "progress"]);
        if (!Array.isArray(texts)) throw mistake(`texts: expected an array of strings, got ${shown(texts)}`);
        const [ids, lengths, perText, cut] = this.#tokens(texts, text(long, "long"));
        room(2 * 4 * lengths.length * this.width, "embeddings");
        let loaded = 0;
        const heard = (tokens) => progress?.({ loaded: (loaded += tokens), total: ids.length });
        const values = await promised(this[RAW].embed(ids, lengths, perText, heard), this.#engine);
        const pairs = Array.from({ length: cut.length / 2 }, (_, i) => ({ text: cut[2 * i], tokens: cut[2 * i + 1] }));
        return { values, count: texts.length, width: this.width, cut: pairs };
    }

    free() {
        this.#tokenizer?.free();
        this.#tokenizer = undefined;
        super.free();
    }
}

/** What an engine holds. */
class Resident extends Handle {
    constructor(engine, held) {
        super(held);
        Object.defineProperty(this, "engine", { value: engine, enumerable: true });
    }

    get shape() {
        return Array.from(this[RAW].shape);
    }
}

export class Tensor extends Resident {
    get dtype() {
        return this[RAW].dtype;
    }

    async read() {
        return promised(this[RAW].read(), this.engine);
    }

    async bytes() {
        return promised(this[RAW].bytes(), this.engine);
    }

    get buffer() {
        const buffer = this[RAW].buffer;
        if (buffer === undefined) return null;
        this.engine.submit();
        return { buffer, offset: this[RAW].offset };
    }
}

export class Int8Tensor extends Resident {
    async read() {
        const [codes, scales, zeroPoint] = await promised(this[RAW].read(), this.engine);
        return { codes, scales, zeroPoint };
    }
}

export class Weight extends Resident {
    get scheme() {
        return this[RAW].scheme;
    }

    get byteLength() {
        return this[RAW].byteLength;
    }

    get bitsPerWeight() {
        return this[RAW].bitsPerWeight;
    }

    dequantize(options) {
        return this.engine.dequantize(this, options);
    }
}
