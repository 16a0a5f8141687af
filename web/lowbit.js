// lowbit in the browser: what lowbit.d.ts describes, over the raw types of the wasm module (src/web).
//
//   init: lowbit_bg.wasm, once for the page            Engine.create: GPUAdapter, prepared -> raw engine, or the CPU engine and why
//   Engine -> Tensor (dense), Weight (quantized)       handles of device memory: free(), `using`
//
// Arguments are checked here, where a mistake still has its name; what the module throws passes as it is.
import initModule, * as raw from "./lowbit_raw.js";

let loading;

/** Loads the module once; a failed attempt may be repeated. */
export function init(module) {
    loading ??= initModule(module === undefined ? undefined : { module_or_path: module }).catch((error) => {
        loading = undefined;
        throw error;
    });
    return loading.then(() => undefined);
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

/** `value` as a handle of a class, or an error that names the argument. */
function handle(value, kind, what) {
    if (!(value instanceof kind)) throw mistake(`${what}: expected a ${kind.name}, got ${shown(value)}`);
    return value[RAW];
}

function shown(value) {
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

export class Engine extends Handle {
    #info;

    static async create({ device = "auto", powerPreference, without = [], module } = {}) {
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
        return new Engine(await raw.RawEngine.open(prepare(adapter, own, without), own !== undefined, without), null);
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

    tensor(data, shape, { dtype } = {}) {
        const size = dimensions(shape, "shape");
        if (data instanceof Float32Array && (dtype ?? "f32") === "f32") {
            return new Tensor(this, this[RAW].upload(numbers(data, Float32Array, "data"), size));
        }
        const half = globalThis.Float16Array;
        const type = half && data instanceof half ? half : Uint16Array;
        if (type === Uint16Array && dtype !== "f16") {
            throw mistake(`data: expected a Float32Array, a Float16Array, or a Uint16Array with dtype 'f16', got ${shown(data)}`);
        }
        const { buffer, byteOffset, byteLength } = numbers(data, type, "data");
        return new Tensor(this, this[RAW].uploadBytes(new Uint8Array(buffer, byteOffset, byteLength), size, "f16"));
    }

    wrap(buffer, shape, { dtype = "f32", offset = 0 } = {}) {
        if (typeof GPUBuffer === "undefined" || !(buffer instanceof GPUBuffer)) throw mistake(`buffer: expected a GPUBuffer, got ${shown(buffer)}`);
        if (!Number.isInteger(offset) || offset < 0) throw mistake(`offset: ${offset} is no byte of a buffer`);
        return new Tensor(this, this[RAW].wrap(buffer, offset, dimensions(shape, "shape"), dtype));
    }

    async quantize(data, shape, scheme, { name = "weight", importance } = {}) {
        const engine = this[RAW];
        const weights = importance === undefined ? undefined : numbers(importance, Float32Array, "importance");
        const values = numbers(data, Float32Array, "data");
        return new Weight(this, await engine.quantize(values, dimensions(shape, "shape"), String(scheme), String(name), weights));
    }

    async dequantize(weight, { dtype = "f32" } = {}) {
        return new Tensor(this, this[RAW].dequantize(handle(weight, Weight, "weight"), dtype));
    }

    async matmul(x, w, options = {}) {
        const engine = this[RAW];
        const weight = handle(w, Weight, "w");
        const temporary = [];
        const dense = (value, what, shapeOf) => {
            if (!(value instanceof Float32Array)) return handle(value, Tensor, what);
            const uploaded = engine.upload(numbers(value, Float32Array, what), dimensions(shapeOf(value), what));
            temporary.push(uploaded);
            return uploaded;
        };
        const call = new raw.RawOptions();
        temporary.push(call);
        try {
            const k = weight.shape.at(-1);
            const known = ["activation", "accumulate", "function", "output", "expert", "kernel"];
            for (const [key, value] of Object.entries(options)) {
                if (value === undefined || value === null) continue;
                if (key === "bias") call.bias(dense(value, key, (bias) => [bias.length]));
                else if (key === "residual") call.residual(handle(value, Tensor, key));
                else if (known.includes(key)) call[key](value);
                else throw mistake(`options: there is no '${key}'; there are ${known.join(", ")}, bias and residual`);
            }
            const rows = (array) => {
                if (array.length === 0 || array.length % k !== 0) throw mistake(`x: ${array.length} numbers are no rows of K = ${k}`);
                return [array.length / k, k];
            };
            return new Tensor(this, engine.matmul(dense(x, "x", rows), weight, call));
        } finally {
            temporary.forEach((object) => object.free());
        }
    }

    submit() {
        this[RAW].submit();
    }
}

export class Tensor extends Handle {
    #engine;

    constructor(engine, tensor) {
        super(tensor);
        this.#engine = engine;
    }

    get engine() {
        return this.#engine;
    }

    get shape() {
        return Array.from(this[RAW].shape);
    }

    get dtype() {
        return this[RAW].dtype;
    }

    async read() {
        return this[RAW].read();
    }

    async bytes() {
        return this[RAW].bytes();
    }

    get buffer() {
        const buffer = this[RAW].buffer;
        if (buffer === undefined) return null;
        this.#engine.submit();
        return { buffer, offset: this[RAW].offset };
    }
}

export class Weight extends Handle {
    #engine;

    constructor(engine, weight) {
        super(weight);
        this.#engine = engine;
    }

    get engine() {
        return this.#engine;
    }

    get shape() {
        return Array.from(this[RAW].shape);
    }

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
        return this.#engine.dequantize(this, options);
    }
}
