// A result of engine.bench as a roofline in SVG: operations per second over operations per byte, both logarithmic.
//
//   ceilings of arithmetic: flat lines; of reading: slopes up to the highest of them; cases with arithmetic: points with their numbers
import { countText, draw } from "./ui.js";

const [WIDTH, HEIGHT] = [900, 520];
const BOX = { left: 78, right: WIDTH - 24, top: 16, bottom: HEIGHT - 52 };
const SERIES = 7;
/** How wide the label of a slope is, and the number of a point beside it. */
const LABEL = 190;

export const intensity = ({ flops, bytes }) => flops / bytes;
const rateOf = ({ tflop_per_s: rate }) => rate * 1e12;

/** Each scheme's place among those of a result, which is its colour. */
export function seriesOf(cases) {
    const schemes = [...new Set(cases.map(({ scheme }) => scheme))];
    return ({ scheme }) => `series-${schemes.indexOf(scheme) % SERIES}`;
}

/** Powers of ten around values. */
function decades(values) {
    const real = values.filter((value) => Number.isFinite(value) && value > 0);
    if (real.length === 0) return [1, 10];
    return [10 ** Math.floor(Math.log10(Math.min(...real) * 0.9)), 10 ** Math.ceil(Math.log10(Math.max(...real) * 1.1))];
}

function ceilingsOf(ceilings) {
    const measured = ceilings.filter(({ rate }) => rate !== null);
    const flat = measured.filter(({ limit }) => limit !== "read" && limit !== "copy").sort((a, b) => b.rate - a.rate);
    const fastest = (regime) => measured.filter((c) => c.limit === "read" && c.regime === regime).sort((a, b) => b.rate - a.rate).slice(0, 1);
    return { flat, sloped: [...fastest("dram"), ...fastest("cache")] };
}

/** Powers of ten from one to another. */
const powers = ([from, to]) => Array.from({ length: Math.round(Math.log10(to / from)) + 1 }, (_, i) => from * 10 ** i);

export function roofline({ ceilings, cases }) {
    const points = cases.map((one, i) => ({ one, number: i + 1 })).filter(({ one }) => one.flops > 0);
    const { flat, sloped } = ceilingsOf(ceilings);
    const [least, most] = decades(points.map(({ one }) => intensity(one)));
    // A decade more on the left, where the slopes are seen to rise.
    const x = [least / 10, most];
    const y = decades([...points.map(({ one }) => rateOf(one)), ...flat.map(({ rate }) => rate), ...sloped.map(({ rate }) => rate * x[0])]);
    const part = (value, [from, to]) => Math.log(value / from) / Math.log(to / from);
    const px = (value) => BOX.left + part(value, x) * (BOX.right - BOX.left);
    const py = (value) => BOX.bottom - part(value, y) * (BOX.bottom - BOX.top);
    const text = (at, words, attributes = {}) => draw("text", { x: at[0], y: at[1], ...attributes }, words);
    const line = (name, from, to) => draw("line", { class: name, x1: from[0], y1: from[1], x2: to[0], y2: to[1] });

    const parts = [];
    for (const value of powers(x)) {
        parts.push(line("grid", [px(value), BOX.top], [px(value), BOX.bottom]));
        parts.push(text([px(value), BOX.bottom + 20], String(Number(value.toPrecision(1))), { "text-anchor": "middle" }));
    }
    for (const value of powers(y)) {
        parts.push(line("grid", [BOX.left, py(value)], [BOX.right, py(value)]));
        parts.push(text([BOX.left - 8, py(value) + 5], countText(value), { "text-anchor": "end" }));
    }
    parts.push(line("axis", [BOX.left, BOX.bottom], [BOX.right, BOX.bottom]), line("axis", [BOX.left, BOX.top], [BOX.left, BOX.bottom]));
    parts.push(text([(BOX.left + BOX.right) / 2, HEIGHT - 8], "operations per byte", { "text-anchor": "middle" }));
    const middle = (BOX.top + BOX.bottom) / 2;
    parts.push(text([14, middle], "operations per second", { "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }));

    const roof = Math.max(...flat.map(({ rate }) => rate), y[0]);
    const marks = points.map(({ one }) => [px(intensity(one)), py(rateOf(one))]);
    for (const { name, rate, regime } of sloped) {
        const [from, to] = [Math.max(x[0], y[0] / rate), Math.min(x[1], roof / rate)];
        if (from >= to) continue;
        parts.push(line("slope", [px(from), py(from * rate)], [px(to), py(to * rate)]));
        // Memory's on the right of its line, a cache's on the left of its own, which is higher; where no case and no flat line is.
        const cached = regime === "cache";
        const side = cached ? -1 : 1;
        const along = (part) => {
            const at = from * (to / from) ** part;
            return [px(at) + 12 * side, py(at * rate) + (cached ? -2 : 12)];
        };
        const covers = ([x, y]) => marks.some((mark) => Math.abs(mark[1] - y) < 16 && side * (mark[0] - x) > -16 && side * (mark[0] - x) < LABEL);
        const crosses = ([, y]) => flat.some((ceiling) => Math.abs(py(ceiling.rate) - y) < 18);
        const place = [0.35, 0.5, 0.25, 0.6, 0.15].map(along).find((at) => !covers(at) && !crosses(at)) ?? along(0.35);
        parts.push(text(place, `${name}: ${countText(rate)}B/s`, { class: "quiet", "text-anchor": cached ? "end" : "start" }));
    }
    const taken = [];
    for (const { name, rate } of flat) {
        parts.push(line("roof", [BOX.left, py(rate)], [BOX.right, py(rate)]));
        // Below its line where there is another just above.
        const below = taken.some((other) => Math.abs(other - py(rate)) < 20);
        taken.push(py(rate));
        parts.push(text([BOX.left + 8, py(rate) + (below ? 16 : -5)], `${name}: ${countText(rate)}OP/s`));
    }
    const series = seriesOf(cases);
    const numbers = [];
    for (const [i, { one, number }] of points.entries()) {
        const [cx, cy] = marks[i];
        const title = draw("title", {}, `${number}: ${one.operation} ${one.scheme} ${one.m}x${one.n}x${one.k}, ${countText(rateOf(one))}OP/s`);
        parts.push(draw("circle", { class: `point ${one.regime} ${series(one)}`, cx, cy, r: 6 }, title));
        const free = [[15, 5], [-15, 5], [0, -11], [0, 21], [32, 5], [-32, 5]].map(([dx, dy]) => [cx + dx, cy + dy]);
        const place = free.find((p) => numbers.every((q) => Math.abs(p[0] - q[0]) > 16 || Math.abs(p[1] - q[1]) > 13)) ?? free[0];
        numbers.push(place);
        parts.push(text(place, String(number), { "text-anchor": "middle" }));
    }
    const words = `Roofline of ${points.length} cases; ${[...flat, ...sloped].map(({ name, rate }) => `${name} ${countText(rate)} per second`).join(", ")}`;
    return draw("svg", { class: "picture", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": words }, ...parts);
}
