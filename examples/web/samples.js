// Handwritten digits that training never saw: data/digits/digits.safetensors.
//
//   u64 length, JSON header, data of u8 tensors -> [{ label, pixels }]
import { SIDE } from "./network.js";

export async function fetchSamples() {
    const url = "data/digits.safetensors";
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url} cannot be loaded (${response.status})`);
    const file = new Uint8Array(await response.arrayBuffer());
    const start = 8 + Number(new DataView(file.buffer).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(file.subarray(8, start)));
    const bytes = (name) => file.subarray(...header[name].data_offsets.map((offset) => start + offset));
    const [images, labels, held] = [bytes("images"), bytes("labels"), bytes("held_out")];
    const sample = (label, i) => ({ label, pixels: images.subarray(i * SIDE ** 2, (i + 1) * SIDE ** 2) });
    return Array.from(labels, sample).filter((_, i) => held[i] === 1);
}
