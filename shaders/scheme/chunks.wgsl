// Codes of 32 values at once, in the widest loads that their planes allow: 16 bytes, 8 and 4 where 32 codes of a plane are no more. Needs
// `scheme/weights.wgsl`; not for plain floats. Rows are padded to 32 values, so that every chunk is whole.
//
//   chunk_codes(row, c)    codes 32c .. 32c+31 of a row, one per byte: eight words of four

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
fn chunk_codes(row: u32, c: u32) -> array<u32, 8> {
{{ chunk_words("low", "low", "low_stride", s.low) }}
    //% if s.high
{{ chunk_words("high", "high", "high_stride", s.high) }}
    //% endif
    return array<u32, 8>(
        //% for j in range(8)
        //% if s.high
        {{ field("low", j, s.low) | trim }} | ({{ field("high", j, s.high) | trim }} << {{ s.low }}u),
        //% else
        {{ field("low", j, s.low) | trim }},
        //% endif
        //% endfor
    );
}
