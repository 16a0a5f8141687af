// The package in Chromium: every suite of page/ in a fresh page, with WebGPU and without, and nothing in the console.
//
//   node test.mjs PKG [SUITE]        PKG: the built package; run by scripts/test-web.sh from a folder with playwright-core
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { launch } from "./browser.mjs";
import { serve } from "./serve.mjs";

const [pkg, only] = process.argv.slice(2);
const here = dirname(fileURLToPath(import.meta.url));

// Suites by name: the module of page/, what its `suite` is called with, and whether the browser has WebGPU.
const SUITES = {
    "api on WebGPU": ["api.js", [{}, "gpu"], true],
    "api on the CPU": ["api.js", [{ device: "cpu" }, "cpu"], true],
    "api without WebGPU": ["api.js", [{}, "cpu"], false],
    devices: ["devices.js", [], true],
    workers: ["workers.js", ["gpu"], true],
    "workers without WebGPU": ["workers.js", ["cpu"], false],
    absent: ["absent.js", [], false],
};

const server = await serve({ "/pkg/": resolve(pkg), "/": join(here, "page") });
const browsers = new Map();
let failed = 0;
let passed = 0;
for (const [name, [module, given, webgpu]] of Object.entries(SUITES)) {
    if (only && !name.includes(only)) continue;
    if (!browsers.has(webgpu)) browsers.set(webgpu, await launch({ webgpu }));
    const start = Date.now();
    const { page, complaints } = await browsers.get(webgpu).open(`${server.url}/index.html`);
    const results = await page.evaluate(
        async ([module, given]) => {
            const { run } = await import("/check.js");
            const { suite } = await import(`/${module}`);
            return run(suite(...given));
        },
        [module, given],
    );
    // Errors of the console arrive a little later than the page's answer.
    await page.waitForTimeout(100);
    await page.close();
    const wrong = results.filter(({ why }) => why !== null);
    console.log(`${name}: ${results.length - wrong.length} of ${results.length} passed in ${((Date.now() - start) / 1000).toFixed(1)} s`);
    wrong.forEach(({ name, why }) => console.log(`  FAILED ${name}: ${why}`));
    complaints.forEach((complaint) => console.log(`  COMPLAINT ${complaint}`));
    failed += wrong.length + complaints.length;
    passed += results.length - wrong.length;
}
for (const browser of browsers.values()) await browser.close();
await server.close();
console.log(`browser: ${passed} tests passed, ${failed} failed`);
process.exit(failed > 0 || passed === 0 ? 1 : 0);
