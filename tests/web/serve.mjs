// A server of files on 127.0.0.1, on a free port or a given one, as small as a static host: types, ranges, and hosts without ranges.
//
//   serve({ "/": folder, "/pkg/": folder }) -> { url, close }
//
// A path that begins with /no-ranges/ is served whole whatever is asked, one with /cut/ ends a third of the way. /shifted/ and /slow/ do something else
// with parts behind the first: another one, nothing at all; /changing/ has another etag for each request, /growing/ another size,
// /private/ wants a header. /requests answers with what was asked for
// since it was read last, and how many bytes went out.
import { createReadStream, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
};

// The file behind a path, or null.
function find(folders, path) {
    for (const [prefix, folder] of Object.entries(folders).sort(([a], [b]) => b.length - a.length)) {
        if (!path.startsWith(prefix)) continue;
        const file = join(folder, normalize("/" + path.slice(prefix.length)));
        try {
            const info = statSync(file);
            return info.isDirectory() ? find(folders, path.replace(/\/?$/, "/index.html")) : { file, size: info.size };
        } catch {
            return null;
        }
    }
    return null;
}

/** What the pages of examples/web consist of, in a checkout. */
export const pages = (root) => ({
    "/": join(root, "examples/web"),
    "/pkg/": join(root, "pkg"),
    "/data/": join(root, "data/digits"),
    "/texts/": join(root, "examples/texts"),
});

export function serve(folders, port = 0) {
    const requests = [];
    const server = createServer((request, response) => {
        let path;
        try {
            path = decodeURIComponent(new URL(request.url, "http://127.0.0.1").pathname);
        } catch {
            response.writeHead(400, { "content-type": "text/plain" }).end("no path");
            return;
        }
        const modes = ["no-ranges", "cut", "shifted", "changing", "growing", "private", "slow"].filter((mode) => path.startsWith(`/${mode}/`));
        modes.forEach((mode) => (path = path.slice(mode.length + 1)));
        if (path === "/requests") {
            response.writeHead(200, { "content-type": TYPES[".json"] }).end(JSON.stringify(requests.splice(0)));
            return;
        }
        const found = find(folders, path);
        const entry = { path, range: request.headers.range ?? null, bytes: 0 };
        requests.push(entry);
        if (!found) {
            response.writeHead(404, { "content-type": "text/plain" }).end("not found");
            return;
        }
        if (modes.includes("private") && request.headers.authorization !== "Bearer test") {
            response.writeHead(401, { "content-type": "text/plain" }).end("not for you");
            return;
        }
        let [start, end, status] = [0, found.size - 1, 200];
        const ranges = !modes.includes("no-ranges");
        const asked = ranges && /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
        if (asked) {
            [start, end, status] = [Number(asked[1]), asked[2] === "" ? end : Math.min(Number(asked[2]), end), 206];
            if (start > end) {
                response.writeHead(416, { "content-range": `bytes */${found.size}` }).end();
                return;
            }
        }
        const headers = {
            "content-type": TYPES[extname(found.file)] ?? "application/octet-stream",
            "content-length": end - start + 1,
            "cache-control": "no-store",
            // For pages of other origins, which are shown no content-range then.
            "access-control-allow-origin": "*",
            "accept-ranges": ranges ? "bytes" : "none",
        };
        if (status === 206) {
            const by = modes.includes("shifted") && start > 0 ? 1 : 0;
            headers["content-range"] = `bytes ${start - by}-${end - by}/${found.size + (modes.includes("growing") ? requests.length : 0)}`;
        }
        if (modes.includes("changing")) headers.etag = `"${requests.length}"`;
        response.writeHead(status, headers);
        if (request.method === "HEAD" || found.size === 0) {
            response.end();
            return;
        }
        entry.bytes = end - start + 1;
        if (modes.includes("cut")) {
            const part = createReadStream(found.file, { start, end: start + Math.floor((end - start) / 3) });
            part.on("end", () => response.destroy()).pipe(response, { end: false });
            return;
        }
        if (modes.includes("slow") && start > 0) return;
        createReadStream(found.file, { start, end }).pipe(response);
    });
    return new Promise((resolve, reject) => {
        server.on("error", reject);
        server.listen(port, "127.0.0.1", () => {
            const url = `http://127.0.0.1:${server.address().port}`;
            const close = () => new Promise((done) => {
                server.closeAllConnections();
                server.close(done);
            });
            resolve({ url, close });
        });
    });
}
