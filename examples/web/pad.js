// The drawing area: strokes by mouse, finger, pen or keys.
//
//   pointer, arrows and space -> strokes [[x, y], ...] in 0..1 -> changed({ ended })
import { SIDE } from "./network.js";
import { showPixels, trace } from "./ink.js";

const PEN = 0.09;
/** How far an arrow moves the pen. */
const STEP = 1 / 24;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const within = (value) => Math.min(1, Math.max(0, value));

export class Pad {
    strokes = [];
    #canvas;
    #changed;
    #say;
    #sample = null;
    #pen = { at: [0.5, 0.25], down: false, shown: false };
    /** The pointer that draws, and its stroke. */
    #drawing = null;

    /** `changed` hears of every point, and with `ended` of a stroke's end; `say` gets what happens to the pen, in words. */
    constructor(canvas, changed, say) {
        this.#canvas = canvas;
        this.#changed = changed;
        this.#say = say;
        canvas.addEventListener("pointerdown", (event) => this.#press(event));
        canvas.addEventListener("pointermove", (event) => this.#drag(event));
        for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) canvas.addEventListener(type, (event) => this.#release(event));
        canvas.addEventListener("keydown", (event) => this.#key(event));
        canvas.addEventListener("blur", () => this.#hidePen());
        this.#paint();
    }

    clear() {
        this.#empty();
        this.#paint();
        this.#changed({ ended: true });
    }

    /** Shows the pixels of a sample; the next stroke begins on an empty sheet. */
    show(pixels) {
        this.#empty();
        this.#sample = pixels;
        this.#paint();
    }

    #empty() {
        this.strokes = [];
        this.#sample = null;
        this.#drawing = null;
        this.#pen.down = false;
    }

    #begin(point) {
        if (this.#sample) this.#empty();
        const stroke = [point];
        this.strokes.push(stroke);
        return stroke;
    }

    #point(event) {
        const { left, top, width, height } = this.#canvas.getBoundingClientRect();
        return [within((event.clientX - left) / width), within((event.clientY - top) / height)];
    }

    #press(event) {
        if (this.#drawing || event.button !== 0) return;
        this.#canvas.setPointerCapture(event.pointerId);
        this.#pen = { ...this.#pen, down: false, shown: false };
        this.#drawing = { id: event.pointerId, stroke: this.#begin(this.#point(event)) };
        this.#update(false);
    }

    #drag(event) {
        if (this.#drawing?.id !== event.pointerId) return;
        const events = event.getCoalescedEvents?.() ?? [];
        this.#drawing.stroke.push(...(events.length > 0 ? events : [event]).map((one) => this.#point(one)));
        this.#update(false);
    }

    #release(event) {
        if (this.#drawing?.id !== event.pointerId) return;
        this.#drawing = null;
        this.#update(true);
    }

    #key(event) {
        const arrow = ARROWS[event.key];
        if (event.ctrlKey || event.altKey || event.metaKey) return;
        if (arrow) this.#move(arrow);
        else if (event.key === " ") this.#toggle();
        else if (event.key === "Delete" || event.key === "Backspace") this.clear();
        else return;
        event.preventDefault();
    }

    #move([dx, dy]) {
        const pen = this.#pen;
        pen.at = [within(pen.at[0] + dx * STEP), within(pen.at[1] + dy * STEP)];
        pen.shown = true;
        if (pen.down) this.strokes.at(-1).push(pen.at);
        this.#update(false);
    }

    #toggle() {
        const pen = this.#pen;
        pen.shown = true;
        if (!pen.down) this.#begin(pen.at);
        pen.down = !pen.down;
        const [column, row] = pen.at.map((v) => Math.round(100 * v));
        this.#say(`Pen ${pen.down ? "down" : "up"} at ${column} % from the left, ${row} % from the top.`);
        this.#update(!pen.down);
    }

    #hidePen() {
        const ended = this.#pen.down;
        this.#pen = { ...this.#pen, down: false, shown: false };
        this.#paint();
        if (ended) this.#changed({ ended });
    }

    #update(ended) {
        this.#paint();
        this.#changed({ ended });
    }

    #paint() {
        const context = this.#canvas.getContext("2d");
        const size = this.#canvas.width;
        context.fillStyle = "#ffffff";
        context.fillRect(0, 0, size, size);
        if (this.#sample) {
            const small = new OffscreenCanvas(SIDE, SIDE);
            showPixels(small, this.#sample);
            context.imageSmoothingEnabled = false;
            context.drawImage(small, 0, 0, size, size);
        }
        context.strokeStyle = "#16181c";
        trace(context, this.strokes.map((stroke) => stroke.map(([x, y]) => [x * size, y * size])), PEN * size);
        if (!this.#pen.shown) return;
        const [x, y] = this.#pen.at.map((v) => v * size);
        context.beginPath();
        context.arc(x, y, (PEN * size) / 2 + 3, 0, 2 * Math.PI);
        context.lineWidth = 4;
        context.strokeStyle = "#d55e00";
        context.fillStyle = "#d55e0066";
        context.stroke();
        if (this.#pen.down) context.fill();
    }
}
