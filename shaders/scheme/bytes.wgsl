// Packed weights -> signed bytes, for schemes whose values are integers times `i.unit`. Needs `scheme/weights.wgsl` and, if `wide`,
// `scheme/chunks.wgsl`.
//
//   bytes_load(tid)        once per workgroup, after `lut_load` and a barrier, followed by a barrier, if `s.table`
//   signed_bytes(codes)    four values less `i.fold`, in units, of the codes in the bytes of a word
//   chunk_bytes(row, c)    values 32c .. 32c+31 of a row: eight such words, if `wide`
//
// A weight is scale * unit * (byte - (zero - fold)) + bias. Rows are padded to 32 values, so every chunk of a row can be read; what is
// beyond K meets zeros of x.
//% if s.table
var<workgroup> table_bytes: array<u32, {{ s.table }}>;

fn bytes_load(tid: u32) {
    for (var j = tid; j < {{ s.table }}u; j += {{ workgroup }}u) {
        table_bytes[j] = bitcast<u32>(i32(lut[j] * {{ 1.0 / i.unit }})) & 0xffu;
    }
}

fn signed_bytes(codes: u32) -> u32 {
    let c = unpack4xU8(codes);
    return table_bytes[c.x] | (table_bytes[c.y] << 8u) | (table_bytes[c.z] << 16u) | (table_bytes[c.w] << 24u);
}
//% else
// Four values in bytes, shifted so that they fit a signed one: never a carry from one to the next.
fn signed_bytes(codes: u32) -> u32 {
    //% if s.step == 2
    let values = codes << 1u;
    //% else
    let values = codes;
    //% endif
    //% if i.fold == 0
    return values;
    //% elif i.fold == 128
    return values ^ 0x80808080u;
    //% else
    return (values + {{ (128 - i.fold) * 0x01010101 }}u) ^ 0x80808080u;
    //% endif
}
//% endif

//% if wide
fn chunk_bytes(row: u32, c: u32) -> array<u32, 8> {
    let codes = chunk_codes(row, c);
    return array<u32, 8>(
        //% for j in range(8)
        signed_bytes(codes[{{ j }}]),
        //% endfor
    );
}
//% endif
