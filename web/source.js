// Where a model's bytes come from: memory, a Blob, a server with or without ranges. One interface for all.
//
//   open(source) -> { name, size, ranges, note, read(start, end, { progress, signal }) -> Uint8Array }
//
// `ranges` says whether a part is had without the rest. A server that does not serve parts is asked for the whole file once, which is then in memory, and
// `note` says so.

/** Bytes of the first read: enough for the header of most files. */
export const HEAD = 1 << 20;

const CHANGED = "the file on the server has changed since it was opened";
const NO_PARTS = "the server does not serve parts of files";

function problem(code, message) {
    return Object.assign(new Error(message), { code });
}

const io = (name, what) => problem("Io", `${name}: ${what}`);

function shown(value) {
    if (value === null || typeof value !== "object") return String(value);
    return value.constructor?.name ?? "an object";
}

/** @returns the source as one of ranges. */
export async function open(source, options) {
    if (typeof Blob !== "undefined" && source instanceof Blob) return ofBlob(source);
    if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) return ofMemory(source, "the buffer");
    if (typeof Response !== "undefined" && source instanceof Response) return ofResponse(source, options);
    if (typeof source === "string" || source instanceof URL || (typeof Request !== "undefined" && source instanceof Request)) return ofUrl(source, options);
    throw problem("Usage", `source: expected an ArrayBuffer, Blob, File, Response or URL, got ${shown(source)}`);
}

function ofMemory(source, name, note = null) {
    const bytes = ArrayBuffer.isView(source) ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength) : new Uint8Array(source);
    const size = bytes.byteLength;
    const read = async (start, end, { progress, signal } = {}) => {
        signal?.throwIfAborted();
        if (bytes.byteLength !== size) throw problem("Usage", `${name}: it is detached (it was transferred elsewhere)`);
        progress?.({ loaded: end - start, total: end - start });
        return bytes.subarray(start, end);
    };
    return { name, size, ranges: note === null, note, read };
}

function ofBlob(blob) {
    const name = blob.name || "the blob";
    const read = async (start, end, options) => {
        try {
            return await collect(blob.slice(start, end).stream(), end - start, name, options);
        } catch (error) {
            // A file that was changed or removed since it was chosen.
            if (["NotReadableError", "NotFoundError"].includes(error?.name)) throw io(name, `it can no longer be read (${error.message})`);
            throw error;
        }
    };
    return { name, size: blob.size, ranges: true, note: null, read };
}

/** The last part of a URL's path. */
function nameOf(url) {
    const base = globalThis.location?.href;
    if (url === "" || !URL.canParse(url, base)) throw problem("Usage", `source: '${url}' is no URL`);
    const { pathname } = new URL(url, base);
    const last = pathname.slice(pathname.lastIndexOf("/") + 1);
    try {
        return decodeURIComponent(last) || url;
    } catch {
        return last;
    }
}

/** Asks for a URL, or with what else a Request says. */
async function request(name, source, options, range, method = "GET") {
    const signal = options?.signal;
    signal?.throwIfAborted();
    const headers = new Headers(source.headers);
    if (range) headers.set("Range", `bytes=${range[0]}-${range[1] - 1}`);
    try {
        return await fetch(source, { headers, method, ...(signal && { signal }) });
    } catch (error) {
        signal?.throwIfAborted();
        if (error.name === "AbortError") throw error;
        throw io(name, `the server cannot be reached (${error.message})`);
    }
}

function refuse(name, response) {
    if (!response.ok) throw io(name, `the server answered ${response.status} ${response.statusText}`.trim());
}

/** Which part of how long a file an answer says that it is, or null. */
function partOf(response) {
    const match = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(response.headers.get("content-range") ?? "");
    return match ? { start: Number(match[1]), end: Number(match[2]) + 1, size: Number(match[3]) } : null;
}

/** The length of a file of which the server has sent a part, or null: another origin need not show a page what the part is of. */
async function lengthAround(response, name, source, options) {
    const part = partOf(response);
    if (part !== null) return part.size;
    const { headers } = await request(name, source, options, undefined, "HEAD");
    return headers.has("content-encoding") ? null : Number(headers.get("content-length")) || null;
}

async function ofUrl(given, options) {
    const source = given instanceof URL ? given.href : given;
    if (source.method && source.method !== "GET") throw problem("Usage", `source: a request by ${source.method}, expected GET`);
    const name = nameOf(source.url ?? source);
    const response = await request(name, source, options, [0, HEAD]);
    // An empty file has no first byte.
    if (response.status === 416) return ofMemory(new ArrayBuffer(0), name);
    refuse(name, response);
    if (response.status !== 206) return whole(response, name, NO_PARTS, options);
    const size = await lengthAround(response, name, source, options);
    if (size === null) {
        await response.body?.cancel();
        const all = await request(name, source, options);
        refuse(name, all);
        return whole(all, name, "the server does not say how long the file is", options);
    }
    await expectPart(response, 0, Math.min(HEAD, size), size, name);
    const head = await collect(response.body, Math.min(HEAD, size), name, options);
    return ofServer(name, source, size, response.headers.get("etag"), head);
}

/** That an answer is the part that was asked for, as far as it says what it is. */
async function expectPart(response, start, end, size, name) {
    const part = partOf(response);
    if (part === null || (part.start === start && part.end === end && part.size === size)) return;
    await response.body?.cancel();
    if (part.size !== size) throw io(name, CHANGED);
    throw io(name, `the server sent bytes ${part.start} to ${part.end} instead of ${start} to ${end}`);
}

async function ofResponse(response, options) {
    const name = response.url ? nameOf(response.url) : "the response";
    if (response.type === "opaque") throw io(name, "the server does not let this page read it (CORS)");
    refuse(name, response);
    if (response.body?.locked && !response.bodyUsed) throw problem("Usage", `${name}: its body is being read by somebody else`);
    if (response.bodyUsed) throw problem("Usage", `${name}: its body has been read already`);
    if (/^https?:/.test(response.url) && response.status === 200) {
        // Asked for one byte, because the page may not see what the server says of ranges.
        const probe = await request(name, response.url, options, [0, 1]).catch(() => null);
        const size = probe?.status === 206 ? await lengthAround(probe, name, response.url, options) : null;
        await probe?.body?.cancel();
        if (size !== null) {
            await response.body?.cancel();
            return ofServer(name, response.url, size, probe.headers.get("etag"), new Uint8Array(0));
        }
        return whole(response, name, NO_PARTS, options);
    }
    return whole(response, name, "the response has no address to ask for parts", options);
}

async function whole(response, name, why, options) {
    const announced = Number(response.headers.get("content-length")) || null;
    const bytes = await collect(response.body, announced, name, options, response.headers.has("content-encoding"));
    return ofMemory(bytes, name, `${why}: all ${bytes.byteLength} bytes were fetched`);
}

function ofServer(name, source, size, etag, head) {
    const read = async (start, end, options) => {
        if (end <= head.byteLength) {
            options?.signal?.throwIfAborted();
            return head.subarray(start, end);
        }
        const response = await request(name, source, options, [start, end]);
        refuse(name, response);
        if (response.status !== 206 || response.headers.get("etag") !== etag) {
            await response.body?.cancel();
            throw io(name, CHANGED);
        }
        await expectPart(response, start, end, size, name);
        return collect(response.body, end - start, name, options);
    };
    return { name, size, ranges: true, note: null, read };
}

/** The bytes of a stream; `total` of them if it is known. */
async function collect(stream, total, name, { progress, signal } = {}, encoded = false) {
    const room = encoded ? null : total;
    let bytes = allocate(room ?? HEAD, name);
    let loaded = 0;
    const reader = stream?.getReader();
    const next = async () => {
        try {
            return (await reader?.read()) ?? { done: true };
        } catch (error) {
            signal?.throwIfAborted();
            if (error instanceof TypeError) throw io(name, `it ended after ${loaded} of ${total} bytes`);
            throw error;
        }
    };
    try {
        for (;;) {
            signal?.throwIfAborted();
            const { done, value } = await next();
            if (done) break;
            if (room !== null && loaded + value.byteLength > room) throw io(name, `it goes on behind the ${room} bytes that it should have`);
            if (loaded + value.byteLength > bytes.byteLength) {
                const longer = allocate(Math.max(2 * bytes.byteLength, loaded + value.byteLength), name);
                longer.set(bytes);
                bytes = longer;
            }
            bytes.set(value, loaded);
            loaded += value.byteLength;
            progress?.({ loaded, total: room });
        }
    } catch (error) {
        await reader?.cancel().catch(() => {});
        throw error;
    }
    if (room !== null && loaded !== room) throw io(name, `it ended after ${loaded} of ${room} bytes`);
    return bytes.subarray(0, loaded);
}

function allocate(bytes, name) {
    try {
        return new Uint8Array(bytes);
    } catch {
        throw problem("OutOfMemory", `${name}: ${bytes} bytes are more than this page may have at once`);
    }
}
