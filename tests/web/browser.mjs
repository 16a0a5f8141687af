// Debian's Chromium without a window, driven through playwright-core, with SwiftShader as its WebGPU adapter or without WebGPU.
//
//   launch({ webgpu }) -> { context, open(url) -> { page, complaints }, close }
//
// `complaints` are what a user would find in the console: errors, uncaught exceptions, requests that failed.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

// Nothing that asks the network for anything but the page.
const QUIET = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-default-browser-check"];
const WEBGPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];

export async function launch({ webgpu = true } = {}) {
    const profile = mkdtempSync(join(tmpdir(), "lowbit-chromium-"));
    const { LD_LIBRARY_PATH: _, ...env } = process.env;
    const context = await chromium.launchPersistentContext(profile, {
        executablePath: process.env.LOWBIT_CHROMIUM ?? "/usr/bin/chromium",
        headless: true,
        env,
        // In place of playwright's own of these.
        args: ["--headless=new", "--no-sandbox", ...QUIET, ...(webgpu ? WEBGPU : ["--disable-features=WebGPU", "--disable-blink-features=WebGPU"])],
    });
    const close = async () => {
        await context.close();
        rmSync(profile, { recursive: true, force: true });
    };
    return { context, open: (url) => open(context, url), close };
}

async function open(context, url) {
    const page = await context.newPage();
    const complaints = [];
    page.on("console", (message) => {
        if (message.type() === "error") complaints.push(`console: ${message.text()}`);
    });
    page.on("pageerror", (error) => complaints.push(`uncaught: ${error.message}`));
    page.on("crash", () => complaints.push("the page crashed"));
    await page.goto(url);
    return { page, complaints };
}
