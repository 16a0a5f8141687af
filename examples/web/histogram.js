// A histogram as SVG: how many weights lie where.
import { countText, draw } from "./ui.js";

const [WIDTH, HEIGHT, BELOW] = [460, 200, 24];

const short = (value) => (value === 0 ? "0" : Number(value.toPrecision(3)).toString());

/** `counts` of equal parts from `low` to `high`. */
export function histogram(counts, { low, high, mean, deviation }) {
    const most = Math.max(...counts);
    const width = WIDTH / counts.length;
    const words = `Histogram of weights from ${short(low)} to ${short(high)}; mean ${short(mean)}, standard deviation ${short(deviation)}; the fullest of ${counts.length} bins has ${most}.`;
    const bars = counts.map((count, i) => {
        const height = most > 0 ? (count / most) * HEIGHT : 0;
        const [from, to] = [i, i + 1].map((n) => low + ((high - low) * n) / counts.length);
        const title = draw("title", {}, `${count} from ${short(from)} to ${short(to)}`);
        return draw("rect", { class: "bin", x: i * width, y: HEIGHT - height, width: Math.max(1, width - 1), height }, title);
    });
    const place = (value) => ((value - low) / (high - low || 1)) * WIDTH;
    const mark = (value, anchor) => draw("text", { class: "label", x: place(value), y: HEIGHT + 18, "text-anchor": anchor }, short(value));
    const marks = [mark(low, "start"), mark(high, "end")];
    // Where it does not run into the others.
    const [zero, margin] = [place(0), WIDTH / 8];
    if (zero > margin && zero < WIDTH - margin) marks.push(mark(0, "middle"));
    const axis = draw("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT });
    const top = draw("text", { class: "label", x: WIDTH, y: 14, "text-anchor": "end" }, `${countText(most)} in the fullest`);
    return draw("svg", { class: "picture", viewBox: `0 0 ${WIDTH} ${HEIGHT + BELOW}`, role: "img", "aria-label": words }, ...bars, axis, ...marks, top);
}
