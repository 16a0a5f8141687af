/** lowbit: quantize models and run low-bit matrix products in the browser, on WebGPU or in wasm. Runs in pages and in workers. */

/** f32, or f16 where a tensor is to take half the memory. */
export type DType = "f32" | "f16";

/** Optional capabilities of a device. */
export type Capability = "f16" | "subgroups" | "int_dot" | "timestamps";

/** What every error has: lowbit's own kind of it (`Shape`, `UnknownScheme`, `OutOfMemory`, `DeviceLost`, `Format`, `Usage`, ...). */
export interface LowbitError extends Error {
    readonly code: string;
}

/**
 * Loads the module, once for the page. `Engine.create` does it by itself; call it for `lowbit_bg.wasm` from another place than beside `lowbit.js`, or to
 * use `schemes` before there is an engine.
 */
export function init(module?: string | URL | Request | Response | BufferSource | WebAssembly.Module): Promise<void>;

/** This version of lowbit. The module must have been loaded. */
export function version(): string;

/** Every scheme that has a name of its own, and bits per weight of a large matrix. The module must have been loaded. */
export function schemes(): { name: string; bitsPerWeight: number }[];

export interface EngineOptions {
    /**
     * `gpu`: WebGPU, an error where there is none. `cpu`: the CPU engine, wasm on one thread. `auto` (the default): WebGPU, else the CPU engine, and
     * `engine.info.fallback` says why. A `GPUDevice` of the page's own: lowbit uses it as it is, so that both may share buffers.
     */
    device?: "auto" | "gpu" | "cpu" | GPUDevice;
    /** Which of several GPUs, where the browser lets a page choose. */
    powerPreference?: "low-power" | "high-performance";
    /** Capabilities to do without although the device has them: for comparisons, and for broken drivers. */
    without?: Capability[];
    /** Where `lowbit_bg.wasm` comes from, if not from beside `lowbit.js`: as in `init`. */
    module?: Parameters<typeof init>[0];
}

/** Who computes, and what it can do. */
export interface EngineInfo {
    readonly device: "gpu" | "cpu";
    /** Why this is the CPU engine although nobody asked for it; else null. */
    readonly fallback: string | null;
    /** The adapter, as far as the browser tells; `CPU`. */
    readonly name: string;
    readonly backend: string;
    /** A GPU that is the CPU in disguise. */
    readonly software: boolean;
    /** What kernels are generated for: `f32`, `f16+subgroups32`, ... */
    readonly tier: string;
    /** Null on the CPU. */
    readonly capabilities: {
        readonly f16: boolean;
        readonly subgroups: boolean;
        /** The smallest and the largest, null without subgroups. */
        readonly subgroupSizes: [number, number] | null;
        readonly dot4I8Packed: boolean;
        readonly timestamps: boolean;
    } | null;
    /** Of the device; null on the CPU. */
    readonly limits: {
        readonly maxBufferSize: number;
        readonly maxStorageBufferBindingSize: number;
        readonly maxStorageBuffersPerShaderStage: number;
        readonly maxComputeWorkgroupStorageSize: number;
        readonly maxComputeInvocationsPerWorkgroup: number;
        readonly maxComputeWorkgroupsPerDimension: number;
    } | null;
}

/** One scale and zero-point for all values: code q stands for scale * (q - zeroPoint). */
export interface Int8Scale {
    /** From 2^-100 to 2^100. */
    scale: number;
    /** -128 to 127; the default is 0. */
    zeroPoint?: number;
}

/** How activations become int8: a scale per row of x, per 32 or 128 values of a row, or one that was known beforehand. */
export type Int8Activation = "int8" | "int8-g32" | "int8-g128" | Int8Scale;

/** Options of a product; the default is f32 throughout and no epilogue. */
export interface MatmulOptions {
    /** How x enters; of an Int8Tensor it does not count. */
    activation?: "f32" | "f16" | Int8Activation;
    /** How products are summed: a ceiling on error. `f16-chunked` is f16 within a group of at most 32 values. */
    accumulate?: "f32" | "f16" | "f16-chunked";
    /** Applied last. */
    function?: "identity" | "relu" | "gelu" | "silu";
    /** [N], added to every row. */
    bias?: Tensor | Float32Array;
    /** [M, N], added to y. */
    residual?: Tensor;
    /** Element type of y. */
    output?: DType;
    /** Of a weight with leading dimensions: which matrix [N, K], counted in row-major order. */
    expert?: number;
    /** Pins the kernel by name. */
    kernel?: string;
}

/** A handle of memory in the module or on the device. What is used after `free` is an error that says so. */
interface Handle {
    free(): void;
    [Symbol.dispose](): void;
}

/** A file in memory or on a disk, or where it can be fetched. An ArrayBuffer is kept and not copied. */
export type ModelSource = ArrayBuffer | ArrayBufferView | Blob | File | Response | Request | URL | string;

export interface ReadOptions {
    /** Hears how much has been read, of how much (null if nobody knows). */
    progress?: (at: { loaded: number; total: number | null }) => void;
    /** Stops: the promise is rejected with its reason, whatever it is. */
    signal?: AbortSignal;
}

export interface SelftestOptions {
    /** Only these; the default is all. */
    kernels?: string[];
    schemes?: string[];
    /** Every combination of shapes, types and policies instead of pairs of them. */
    full?: boolean;
    /** Other random sizes and numbers. */
    seed?: number;
    /** Hears what is begun: `matvec q4_0`. */
    progress?: (what: string) => void;
}

export interface SelftestReport {
    device: string;
    checks: number;
    /** One line each; empty if all is right. */
    failures: string[];
    /** What this device does not run, and why. */
    left_out: string[];
    seconds: number;
    kernels: {
        kernel: string;
        checks: number;
        /** The largest error as a part of its bound. */
        worst_part_of_bound: number;
        worst_case: string;
        codes_off_by_one: number;
        codes_compared: number;
        planted_faults_seen: number;
    }[];
}

export interface BenchOptions {
    /** `matvec` (M of 1 to 16), `matmul` (more), `quantize`, `dequantize` or `all`, the default. */
    operations?: string[];
    /** The default is q8_0 and q4_0. */
    schemes?: string[];
    /** `MxNxK`; the default is 1 and 128 rows of x and a weight of 2048x2048. */
    shapes?: string[];
    activation?: "f32" | "f16" | "int8" | "int8-g32" | "int8-g128";
    accumulate?: MatmulOptions["accumulate"];
    kernel?: string;
    /** Shorter measurements. */
    quick?: boolean;
    /** Hears what is begun. */
    progress?: (what: string) => void;
}

export interface BenchResult {
    format: "lowbit bench";
    version: number;
    lowbit: string;
    commit: string | null;
    device: { name: string; backend: string; driver: string; software: boolean; tier: string; threads: number | null };
    /** `rate`: bytes or operations in a second; null where `absent` says why there is none. */
    ceilings: {
        limit: string;
        name: string;
        regime: "dram" | "cache" | null;
        bytes: number | null;
        rate: number | null;
        quartiles: [number, number] | null;
        clock: "gpu" | "host" | null;
        absent: string | null;
    }[];
    cases: {
        operation: "matvec" | "matmul" | "quantize" | "dequantize";
        scheme: string;
        m: number | null;
        n: number;
        k: number;
        /** Where the weights were: in memory, or in a cache. */
        regime: "dram" | "cache";
        kernel: string;
        tile: string;
        bytes: number;
        flops: number;
        median_s: number;
        quartiles_s: [number, number];
        samples: number;
        runs_per_sample: number;
        clock: "gpu" | "host";
        gb_per_s: number;
        tflop_per_s: number;
        /** The ceiling that binds, and the share of it that is reached; null without one. */
        ceiling: string | null;
        percent: number | null;
        /** Values compared with the reference, and the largest error as a part of its bound. */
        verified: number;
        worst_error: number;
    }[];
    left_out: { case: string; why: string }[];
    failures: { case: string; why: string }[];
}

/** What a product would run. */
export interface Explanation {
    /** The kernel; `cpu` on the CPU engine. */
    kernel: string;
    /** The name that pins kernel and tile in `MatmulOptions.kernel`. */
    variant: string;
    origin: "pinned" | "tuned" | "default";
    why: string;
    tile: string;
    /** Null on the CPU. */
    workgroups: [number, number, number] | null;
    /** The policy that is carried out. */
    accumulate: "f32" | "f16" | "f16-chunked";
    /** Whether weights and activations are rounded to f16 first. */
    halves: boolean;
    /** Every other variant that could have been meant. */
    others: { variant: string; why: string }[];
}

/** How far numbers are from their originals. */
export function errors(reference: Float32Array, got: Float32Array): { sqnrDb: number; cosine: number; maxAbs: number; meanAbs: number };

/** A device with its kernels, or the CPU. */
export class Engine implements Handle {
    private constructor();
    static create(options?: EngineOptions): Promise<Engine>;
    readonly info: EngineInfo;
    /** The device; null on the CPU. */
    readonly device: GPUDevice | null;

    /** Brings numbers to the engine: a `Float32Array`, a `Float16Array`, or the bits of f16 as `Uint16Array` with `dtype: 'f16'`. */
    tensor(data: Float32Array | Uint16Array, shape: ArrayLike<number>, options?: { dtype?: DType }): Tensor;
    /**
     * A buffer of the engine's device as a tensor that begins at byte `offset`, a multiple of 256. It needs the usage STORAGE, COPY_SRC to be read, and room
     * for the shape rounded up to 16 bytes. The page keeps owning it.
     */
    wrap(buffer: GPUBuffer, shape: ArrayLike<number>, options?: { dtype?: DType; offset?: number }): Tensor;

    /**
     * Quantizes a weight [.., N, K] (a linear layer's [out, in]) to a scheme: `q4_0`, `int4-g128-asym`, `nf4-g64`, ... `importance` [.., K] says how much a
     * column counts, for the schemes of GGUF that search. `name` stands in errors.
     */
    quantize(data: Float32Array, shape: ArrayLike<number>, scheme: string, options?: { name?: string; importance?: Float32Array }): Promise<Weight>;
    /** Decodes a weight into a tensor on the device. */
    dequantize(weight: Weight, options?: { dtype?: DType }): Promise<Tensor>;
    /**
     * `y = function(x w^T + bias + residual)`: x [.., K], w [N, K], y [.., N]. A `Float32Array` is taken as [length / K, K]. On a GPU the product is recorded
     * and y stays there: it may be the next x, and `read` brings it back.
     */
    matmul(x: Tensor | Int8Tensor | Float32Array, w: Weight, options?: MatmulOptions): Promise<Tensor>;
    /**
     * The same with y as int8 by a scale that was known beforehand, for the next layer: no f32 of it is in memory. x enters as int8 too (an Int8Tensor, or by
     * `activation`).
     */
    matmul(
        x: Tensor | Int8Tensor | Float32Array, w: Weight, options: Omit<MatmulOptions, "output"> & { output: Int8Scale },
    ): Promise<Int8Tensor>;
    /** Activations [.., K] as int8, once for any number of products. The default is one scale per row. */
    quantizeActivations(x: Tensor, activation?: Int8Activation): Promise<Int8Tensor>;
    /** Which kernel and tile a product of `m` rows with this weight would run and why, and why no other; nothing is computed. */
    explain(m: number, w: Weight, options?: MatmulOptions): Explanation;
    /**
     * Opens a GGUF or safetensors file. Only its header is read; of a Blob, a File and a server that serves parts of files, tensors are fetched when they are
     * asked for. From another server the whole file is fetched, and `model.note` says so. A Response is asked for its URL.
     */
    load(source: ModelSource, options?: ReadOptions): Promise<Model>;
    /**
     * Opens a sentence-embedding model (an encoder of BERT's): a safetensors file that `lowbit quantize` made of its folder and that carries config and tokenizer, or a
     * GGUF file. The header is read first, then all of the file; `activation` is the precision of what the linear layers take. Loads the tokenizer, a module of its
     * own (`lowbit_tokenizer_bg.wasm`), with the first model.
     */
    loadEncoder(source: ModelSource, options?: EncoderOptions): Promise<Encoder>;
    /**
     * Checks kernels and schemes of this engine against the reference, as `lowbit selftest`: seconds for each scheme. Failures are in the report and no
     * errors.
     */
    selftest(options?: SelftestOptions): Promise<SelftestReport>;
    /** Measures, as `lowbit bench`: what the device allows, then each case, verified before it is timed. The result is that of `lowbit bench --json`. */
    bench(options?: BenchOptions): Promise<BenchResult>;
    /** Submits what is recorded. Needed only before commands of the page's own use results; `tensor.buffer` does it too. */
    submit(): void;

    free(): void;
    [Symbol.dispose](): void;
}

/** A dense tensor where the engine computes. */
export class Tensor implements Handle {
    private constructor();
    readonly engine: Engine;
    readonly shape: number[];
    readonly dtype: DType;
    /** The numbers, f16 widened. Waits for what was recorded. */
    read(): Promise<Float32Array>;
    /** The elements as little-endian bytes. */
    bytes(): Promise<Uint8Array>;
    /** The buffer and the byte where the tensor begins, once everything recorded has been submitted; null on the CPU. It is lowbit's: valid until `free`. */
    readonly buffer: { buffer: GPUBuffer; offset: number } | null;
    free(): void;
    [Symbol.dispose](): void;
}

/** Activations as int8 where the engine computes. */
export class Int8Tensor implements Handle {
    private constructor();
    readonly engine: Engine;
    readonly shape: number[];
    /** The codes, their scales (one for each row, each group of a row, or one in all) and the zero-point. */
    read(): Promise<{ codes: Int8Array; scales: Float32Array; zeroPoint: number }>;
    free(): void;
    [Symbol.dispose](): void;
}

/** A weight in a scheme where the engine computes. */
export class Weight implements Handle {
    private constructor();
    readonly engine: Engine;
    readonly shape: number[];
    readonly scheme: string;
    /** Bytes of memory that it takes. */
    readonly byteLength: number;
    /** Scales and zero-points counted. */
    readonly bitsPerWeight: number;
    /** As `Engine.dequantize`. */
    dequantize(options?: { dtype?: DType }): Promise<Tensor>;
    free(): void;
    [Symbol.dispose](): void;
}

/** One tensor of a file. */
export interface ModelEntry {
    readonly name: string;
    readonly shape: number[];
    /** The scheme, or the element type in lower case. */
    readonly type: string;
    /** Whether it is quantized. */
    readonly packed: boolean;
    /** Whether there is more to be had than name and size. */
    readonly readable: boolean;
    /** Of its data in the file. */
    readonly bytes: number;
    readonly bitsPerWeight: number;
}

export interface ConvertOptions {
    /** The scheme that a tensor is to be in; null or nothing takes it as it is. */
    type?: (entry: ModelEntry) => string | null | undefined;
    /** The default is the model's own. */
    format?: "gguf" | "safetensors";
    /** Hears of each tensor when it is done; `loaded` and `total` are bytes of the model that is read. */
    progress?: (at: { name: string; loaded: number; total: number }) => void;
    signal?: AbortSignal;
}

/** An open file of a model. */
export class Model implements Handle {
    private constructor();
    readonly engine: Engine;
    /** The file's name, as far as it has one. */
    readonly name: string;
    readonly format: "gguf" | "safetensors";
    readonly byteLength: number;
    readonly entries: readonly ModelEntry[];
    /** What the file says beside its tensors; long lists in words. */
    readonly metadata: Record<string, string | number | boolean>;
    /** Whether a tensor is fetched without the rest. */
    readonly ranges: boolean;
    /** Why not, in words; else null. */
    readonly note: string | null;
    /** A tensor on the engine: a Weight if it is quantized, else a Tensor (bf16 becomes f32). */
    get(name: string, options?: ReadOptions): Promise<Tensor | Weight>;
    /** A tensor as numbers in memory. */
    read(name: string, options?: ReadOptions): Promise<Float32Array>;
    /** A tensor quantized to a scheme by the engine. */
    quantize(name: string, scheme: string, options?: ReadOptions): Promise<Weight>;
    /** The model as a file, one tensor in memory at a time beside the result. */
    convert(options?: ConvertOptions): Promise<Blob>;
    free(): void;
    [Symbol.dispose](): void;
}

export interface EncoderOptions extends ReadOptions {
    /** The default is what the file says of each layer (`lowbit quantize --config`), f32 where it says nothing. */
    activation?: "f32" | "f16" | "int8" | "int8-g32" | "int8-g128";
    /** Where `lowbit_tokenizer_bg.wasm` comes from, if not from beside `lowbit.js`: as in `init`. */
    module?: Parameters<typeof init>[0];
}

export interface EmbedOptions {
    /** What to do with a text of more tokens than the model takes: leave the last ones out, the default, or take the mean of its chunks. */
    long?: "cut" | "chunk";
    /** Hears how many tokens of how many are done. */
    progress?: (at: { loaded: number; total: number }) => void;
}

/** A model that makes vectors of texts. */
export class Encoder implements Handle {
    private constructor();
    readonly engine: Engine;
    /** The file's name, as far as it has one. */
    readonly name: string;
    readonly byteLength: number;
    /** Numbers of an embedding. */
    readonly width: number;
    /** `positions`: the most tokens of a text; `vocab`: tokens that there are. */
    readonly sizes: {
        readonly layers: number;
        readonly hidden: number;
        readonly heads: number;
        readonly inner: number;
        readonly positions: number;
        readonly vocab: number;
    };
    /** The tokens of a text, those around it included, as `embed` takes them; how many the whole text has if it is cut, else null. */
    tokenize(text: string): { ids: Uint32Array; cutFrom: number | null };
    /**
     * Embeddings of L2 norm 1, so that a dot product of two is their cosine: `values` [count, width], one text after the other. `cut`: each text that was cut, and how
     * many tokens it has.
     */
    embed(texts: string[], options?: EmbedOptions): Promise<{ values: Float32Array; count: number; width: number; cut: { text: number; tokens: number }[] }>;
    free(): void;
    [Symbol.dispose](): void;
}
