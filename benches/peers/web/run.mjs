// The cases one after the other, each in a fresh page of one Chromium; the table on stdout.
//
//   node run.mjs PKG [--quick] [--json FILE]
import { writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { launch } from "./browser.mjs";
import { serve } from "./serve.mjs";

function parsed() {
    try {
        return parseArgs({ options: { quick: { type: "boolean" }, json: { type: "string" } }, allowPositionals: true });
    } catch (error) {
        console.error(`peers-web: ${error.message}`);
        process.exit(2);
    }
}

const { values: { quick, json }, positionals: [pkg] } = parsed();
// Before minutes have gone into what could not be kept.
if (json) writeFileSync(json, "");
const here = dirname(fileURLToPath(import.meta.url));
const server = await serve({ "/pkg/": resolve(pkg), "/ort/": join(here, "node_modules/onnxruntime-web/dist"), "/": join(here, "page") });
const browser = await launch();
const rows = [];
let failed = 0;
for (const size of [2048, 4096]) {
    for (const m of [1, 128]) {
        for (const int8 of [false, true]) {
            const { page, complaints } = await browser.open(`${server.url}/index.html`);
            const given = { m, k: size, n: size, int8, rounds: quick ? 5 : 40, seconds: quick ? 10 : 40 };
            try {
                const row = await page.evaluate(async (given) => (await import("/compare.js")).compare(given), given);
                rows.push(row);
                const { ours_ms, peer_ms, ratio, shortest } = row;
                if (rows.length === 1) {
                    console.log(`${row.adapter}; lowbit / onnxruntime-web, medians of wall times, results compared first`);
                    console.log(`${"case".padEnd(26)} ${"lowbit ms".padStart(10)} ${"peer ms".padStart(10)}  ratio  shortest`);
                }
                console.log(`${row.case.padEnd(26)} ${ours_ms.toFixed(2).padStart(10)} ${peer_ms.toFixed(2).padStart(10)}  ${ratio.toFixed(2)}   ${shortest.toFixed(2)}`);
            } catch (error) {
                failed += 1;
                console.log(`${int8 ? "q4_0, int8" : "q4_0, f32"}, ${m}x${size}x${size}: ${error.message.split("\n")[0]}`);
                complaints.forEach((complaint) => console.log(`  ${complaint}`));
            }
            await page.close();
        }
    }
}
if (json) writeFileSync(json, JSON.stringify(rows, null, 2) + "\n");
await browser.close();
await server.close();
process.exit(failed > 0 ? 1 : 0);
