// Packed weights -> signed bytes, for schemes whose values are integers times `i.unit`. Needs `scheme/weights.wgsl`.
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
// Word j of a plane's words of a chunk, a quarter of whose codes lie in each of its bytes.
//% macro field(words, j, width)
//% if width == 8
{{ words }}{{ j // 4 }}.{{ "xyzw"[j % 4] }}
//% elif width == 4
(({{ words }}0.{{ "xyzw"[j // 2] }} >> {{ 4 * (j % 2) }}u) & 0x0f0f0f0fu)
//% elif width == 2
(({{ words }}0.{{ "xy"[j // 4] }} >> {{ 2 * (j % 4) }}u) & 0x03030303u)
//% else
(({{ words }}0 >> {{ j }}u) & 0x01010101u)
//% endif
//% endmacro
//% macro chunk_words(words, plane, stride, width)
    //% if width >= 4
    let {{ words }} = (p.{{ plane }} >> 2u) + row * (p.{{ stride }} >> 2u) + {{ width // 4 }}u * c;
    let {{ words }}0 = w4[{{ words }}];
    //% if width == 8
    let {{ words }}1 = w4[{{ words }} + 1u];
    //% endif
    //% else
    let {{ words }} = p.{{ plane }} + row * p.{{ stride }} + {{ width }}u * c;
    //% if width == 2
    let {{ words }}0 = vec2<u32>(w[{{ words }}], w[{{ words }} + 1u]);
    //% else
    let {{ words }}0 = w[{{ words }}];
    //% endif
    //% endif
//% endmacro
fn chunk_bytes(row: u32, c: u32) -> array<u32, 8> {
{{ chunk_words("low", "low", "low_stride", s.low) }}
    //% if s.high
{{ chunk_words("high", "high", "high_stride", s.high) }}
    //% endif
    return array<u32, 8>(
        //% for j in range(8)
        //% if s.high
        signed_bytes({{ field("low", j, s.low) | trim }} | ({{ field("high", j, s.high) | trim }} << {{ s.low }}u)),
        //% else
        signed_bytes({{ field("low", j, s.low) | trim }}),
        //% endif
        //% endfor
    );
}
//% endif
