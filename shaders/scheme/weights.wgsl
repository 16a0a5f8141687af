// Packed weights -> numbers. Everything a kernel may ask of a weight in scheme `s` is here; see `scheme::layout` for the planes.
//
// Needs `p` (the parameters, with the fields of `scheme/fields.wgsl`), `w: array<u32>` and `w4: array<vec4<u32>>`: the same buffer.
//
//   lut_load(tid)            once per workgroup, followed by a barrier, if `s.table`
//   quad_codes(row, q)       codes 4q .. 4q+3 of a row                                    (not for plain floats)
//   quad_values(codes)       numbers before offset, zero-point and scale                 (not for tables of groups)
//   group_of(row, g)         scale, zero (what to subtract from a value), bias; or where the group's table begins
//   weights_of(group, codes) the four weights of such codes, by the exact rule of `scheme`  (not for plain floats)
//   quad_weights(row, q)     the weights 4q .. 4q+3 of a row, by the same rule
//   sorted out by the template: `s.kind` linear | table | tables | f32 | f16 | bf16. `tables`: each group has one of f16, and no
//   scale. They are read where they lie: a few words that the next lanes want too
//% if s.table
var<workgroup> lut: array<f32, {{ s.table }}>;

fn lut_load(tid: u32) {
    for (var i = tid; i < {{ s.table }}u; i += {{ workgroup }}u) {
        lut[i] = bitcast<f32>(w[p.table + i]);
    }
}
//% endif

struct Group {
    scale: f32,
    // Subtracted from the value of a code before scaling: offset plus zero-point or float zero.
    zero: f32,
    // Added after scaling.
    bias: f32,
    //% if s.kind == "tables"
    // Its first entry, counted in f16.
    table: u32,
    //% endif
}

fn byte_at(plane: u32, i: u32) -> u32 {
    return (w[plane + (i >> 2u)] >> (8u * (i & 3u))) & 0xffu;
}

fn f32_at(plane: u32, i: u32) -> f32 {
    return bitcast<f32>(w[plane + i]);
}

fn f16_at(plane: u32, i: u32) -> f32 {
    return unpack2x16float(w[plane + (i >> 1u)] >> (16u * (i & 1u))).x;
}

fn bf16_at(plane: u32, i: u32) -> f32 {
    return bitcast<f32>((w[plane + (i >> 1u)] >> (16u * (i & 1u))) << 16u);
}

//% include "scheme/byte_scales.wgsl"

// Group g of a row.
fn group_of(row: u32, g: u32) -> Group {
    var r: Group;
    //% if s.group == 0 and s.tensor
    let i = 0u;
    //% else
    let i = row * p.groups + g;
    //% endif
    r.scale = 1.0;
    r.zero = {{ s.offset }}.0;
    r.bias = 0.0;
    //% if s.kind == "tables"
    r.table = i << {{ s.bits }}u;
    //% endif
    //% if s.scale in ["f32", "f16", "bf16"]
    r.scale = {{ s.scale }}_at(p.scales, i);
    //% elif s.scale == "table"
    r.scale = f32_at(p.scale_table, byte_at(p.scales, i));
    //% elif s.scale in ["e8m0", "e8m0half", "ue4m3"]
    r.scale = scale_value(byte_at(p.scales, i));
    //% elif s.two_level
    let super_i = row * p.supers_per_row + g / {{ s.groups_per_super }}u;
    let d = f16_at(p.supers, super_i);
    let sub = byte_at(p.scales, i);
    //% if s.scale == "two_i8"
    r.scale = d * f32(bitcast<i32>(sub << 24u) >> 24u);
    //% elif s.scale == "two_u8min"
    r.scale = d * f32(sub);
    r.bias = -(f16_at(p.mins, super_i) * f32(byte_at(p.zeros, i)));
    //% else
    r.scale = d * f32(sub & 15u);
    r.bias = -(f16_at(p.mins, super_i) * f32(sub >> 4u));
    //% endif
    //% endif
    //% if s.zero == "point"
    r.zero += f32(byte_at(p.zeros, i));
    //% elif s.zero == "float"
    // Beside a float zero there is no offset.
    r.zero = {{ s.scale }}_at(p.zeros, i);
    //% elif s.zero == "bias"
    r.bias = {{ s.scale }}_at(p.zeros, i);
    //% endif
    return r;
}

//% if s.kind in ["linear", "table", "tables"]
//% macro plane_bytes(plane, stride, width)
//% if width == 8
w[p.{{ plane }} + row * p.{{ stride }} + q]
//% else
((w[p.{{ plane }} + row * p.{{ stride }} + (q >> {{ {4: 1, 2: 2, 1: 3}[width] }}u)] >> ({{ width }}u * (q & {{ 8 // width - 1 }}u))) & {{ {4: "0x0f0f0f0fu", 2: "0x03030303u", 1: "0x01010101u"}[width] }})
//% endif
//% endmacro
// Codes of values 4q .. 4q+3, one per byte.
fn quad_bytes(row: u32, q: u32) -> u32 {
    //% if s.high
    return {{ plane_bytes("low", "low_stride", s.low) | trim }}
        | ({{ plane_bytes("high", "high_stride", s.high) | trim }} << {{ s.low }}u);
    //% else
    return {{ plane_bytes("low", "low_stride", s.low) | trim }};
    //% endif
}

fn quad_codes(row: u32, q: u32) -> vec4<u32> {
    return unpack4xU8(quad_bytes(row, q));
}

//% if s.kind == "tables"
fn weights_of(g: Group, c: vec4<u32>) -> vec4<f32> {
    let i = vec4<u32>(g.table) + c;
    return vec4<f32>(f16_at(p.table, i.x), f16_at(p.table, i.y), f16_at(p.table, i.z), f16_at(p.table, i.w));
}
//% else
fn quad_values(c: vec4<u32>) -> vec4<f32> {
    //% if s.kind == "table"
    return vec4<f32>(lut[c.x], lut[c.y], lut[c.z], lut[c.w]);
    //% elif s.step == 2
    return vec4<f32>(c * 2u);
    //% else
    return vec4<f32>(c);
    //% endif
}

fn weights_of(g: Group, c: vec4<u32>) -> vec4<f32> {
    let v = quad_values(c) - vec4<f32>(g.zero);
    //% if s.biased
    return g.scale * v + vec4<f32>(g.bias);
    //% else
    return g.scale * v;
    //% endif
}
//% endif

fn quad_weights(row: u32, q: u32) -> vec4<f32> {
    //% if s.group
    let g = group_of(row, (q * 4u) / {{ s.group }}u);
    //% else
    let g = group_of(row, 0u);
    //% endif
    return weights_of(g, quad_codes(row, q));
}
//% elif s.kind == "f32"
fn quad_weights(row: u32, q: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(w4[(p.low >> 2u) + row * (p.low_stride >> 2u) + q]);
}
//% else
fn quad_weights(row: u32, q: u32) -> vec4<f32> {
    let at = p.low + row * p.low_stride + 2u * q;
    let a = w[at];
    let b = w[at + 1u];
    //% if s.kind == "f16"
    return vec4<f32>(unpack2x16float(a), unpack2x16float(b));
    //% else
    return bitcast<vec4<f32>>(vec4<u32>(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
    //% endif
}
//% endif
