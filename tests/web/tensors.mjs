// Safetensors files as tests read them, without lowbit.

/** Tensors of a safetensors file: { name: { shape, bytes } }. */
export function safetensors(file) {
    const start = 8 + Number(file.readBigUInt64LE(0));
    const header = JSON.parse(file.subarray(8, start).toString());
    delete header.__metadata__;
    const tensor = ({ shape, data_offsets: [from, to] }) => ({ shape, bytes: Uint8Array.from(file.subarray(start + from, start + to)) });
    return Object.fromEntries(Object.entries(header).map(([name, entry]) => [name, tensor(entry)]));
}
