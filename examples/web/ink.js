// What the network sees of a drawing: the strokes brought to the size of its training images and counted as those were.
//
//   strokes [[x, y], ...] in 0..1 -> scaled to fill 32 x 32 from top to bottom -> drawn with a pen of one width -> ink of 4 x 4 pixels, 0..16
import { SIDE } from "./network.js";

/** The bitmap that is counted, and the pen in it. Training digits have about 30 % ink, fill all rows and 24 columns at most. */
const BITMAP = 32;
const PEN = 5.2;
const WIDEST = 25;
/** A drawing is taken to be so wide or high at least, in parts of the other side. */
const FLATTEST = 0.35;

/** Where a drawing goes in the bitmap. */
function placed(strokes) {
    const points = strokes.flat();
    const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    // A dot has neither width nor height.
    const size = Math.max(right - left, bottom - top, 1e-3);
    const high = (BITMAP - PEN) / Math.max(bottom - top, FLATTEST * size);
    const wide = Math.min(high, (WIDEST - PEN) / Math.max(right - left, FLATTEST * size));
    const at = (value, from, to, scale) => BITMAP / 2 + (value - (from + to) / 2) * scale;
    return strokes.map((stroke) => stroke.map(([x, y]) => [at(x, left, right, wide), at(y, top, bottom, high)]));
}

/** Draws strokes with round ends. */
export function trace(context, strokes, width) {
    context.lineCap = "round";
    context.lineJoin = "round";
    context.lineWidth = width;
    for (const [first, ...rest] of strokes) {
        context.beginPath();
        context.moveTo(...first);
        // A line without length is a dot.
        (rest.length > 0 ? rest : [first]).forEach((point) => context.lineTo(...point));
        context.stroke();
    }
}

/** 64 pixels from 0 (paper) to 16 (ink). */
export function pixelsOf(strokes) {
    const pixels = new Uint8Array(SIDE ** 2);
    if (strokes.length === 0) return pixels;
    const context = new OffscreenCanvas(BITMAP, BITMAP).getContext("2d", { willReadFrequently: true });
    trace(context, placed(strokes), PEN);
    const { data } = context.getImageData(0, 0, BITMAP, BITMAP);
    const block = BITMAP / SIDE;
    const ink = new Float64Array(pixels.length);
    for (let i = 0; i < BITMAP ** 2; i++) {
        const [row, column] = [Math.floor(i / BITMAP / block), Math.floor((i % BITMAP) / block)];
        ink[row * SIDE + column] += data[4 * i + 3] / 255;
    }
    return Uint8Array.from(ink, Math.round);
}

/** Shows pixels on a canvas as large as they are many. */
export function showPixels(canvas, pixels) {
    const context = canvas.getContext("2d");
    const image = context.createImageData(SIDE, SIDE);
    pixels.forEach((ink, i) => {
        const shade = 255 - Math.round((ink * 255) / 16);
        image.data.set([shade, shade, shade, 255], 4 * i);
    });
    context.putImageData(image, 0, 0);
}
