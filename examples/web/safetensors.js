// Tensors of a small safetensors file by name: u64 length, JSON header, data.
//
//   fetchTensors(url) -> { name: { dtype, shape, data } }        data: Uint8Array for U8, Float32Array for F32

const TYPES = { U8: Uint8Array, F32: Float32Array };

export async function fetchTensors(url) {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url} cannot be loaded (${response.status})`);
    const file = await response.arrayBuffer();
    const start = 8 + Number(new DataView(file).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(file, 8, start - 8)));
    delete header.__metadata__;
    const tensor = ({ dtype, shape, data_offsets: [from, to] }) => {
        // A copy, because data may begin anywhere.
        return { dtype, shape, data: new TYPES[dtype](file.slice(start + from, start + to)) };
    };
    return Object.fromEntries(Object.entries(header).map(([name, entry]) => [name, tensor(entry)]));
}
