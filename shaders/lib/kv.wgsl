// Keys and values of a cache as numbers: the decoding of src/kv.rs, whose products are exact. `cache` is bound, `p` has where parts are; `key_bits` and `value_bits` are the
// template's. Vectors are columns 4i .. 4i+3 of a head.

//% if key_bits != 16 or value_bits != 16
fn bytes(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u));
}
//% endif
//% if key_bits == 4 or value_bits == 4
// Numbers of four groups in 4 bits: of codes, and what is stored of the groups.
fn stepped(codes: vec4<f32>, groups: vec4<u32>) -> vec4<f32> {
    let s = groups & vec4<u32>({{ n.not_finite }}u);
    let units = (s << vec4<u32>(19u)) + vec4<u32>({{ n.unit_base }}u);
    // No literal for NaN in WGSL.
    let bits = select(units, vec4<u32>(0x7f800000u) | (s << vec4<u32>(14u)), s == vec4<u32>({{ n.not_finite }}u));
    // Eleven bits with a sign.
    let z = vec4<f32>(bitcast<vec4<i32>>(groups << vec4<u32>(12u)) >> vec4<u32>(21u));
    return (8.0 * codes + z) * bitcast<vec4<f32>>(bits);
}
//% endif
//% macro packed(name, bits, keys)
fn {{ name }}_packed(kv_head: u32, token: u32, i: u32) -> vec4<f32> {
    let at = p.{{ name }}s + (kv_head * p.blocks * {{ n.group }}u + token) * {{ head * bits // 32 }}u;
    //% if bits == 16
    return vec4<f32>(unpack2x16float(cache[at + 2u * i]), unpack2x16float(cache[at + 2u * i + 1u]));
    //% elif bits == 8
    let codes = bytes(cache[at + i]);
    let groups = p.{{ name }}_groups + (kv_head * p.blocks + token / {{ n.group }}u) * {{ head }}u;
    //% if keys
    let a = unpack2x16float(cache[groups + 4u * i]);
    let b = unpack2x16float(cache[groups + 4u * i + 1u]);
    let c = unpack2x16float(cache[groups + 4u * i + 2u]);
    let d = unpack2x16float(cache[groups + 4u * i + 3u]);
    return codes * vec4<f32>(a.x, b.x, c.x, d.x) + vec4<f32>(a.y, b.y, c.y, d.y);
    //% else
    let g = unpack2x16float(cache[groups + i / 8u * {{ n.group }}u + token % {{ n.group }}u]);
    return codes * g.x + vec4<f32>(g.y);
    //% endif
    //% else
    let codes = bytes((cache[at + i / 2u] >> (4u * (i & 1u))) & 0x0f0f0f0fu);
    let records = (kv_head * p.blocks + token / {{ n.group }}u) * {{ head // n.record }}u;
    //% if keys
    let record = p.{{ name }}_groups + (records + i / 2u) * {{ n.int4_words }}u;
    let half = i & 1u;
    let one = cache[record + 2u * half];
    let other = cache[record + 2u * half + 1u];
    let rest = (vec4<u32>(cache[record + 4u] >> (16u * half)) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u);
    let low = vec4<u32>(one & 0xffffu, one >> 16u, other & 0xffffu, other >> 16u);
    return stepped(codes, low | (rest << vec4<u32>(16u)));
    //% else
    let t = token % {{ n.group }}u;
    let record = p.{{ name }}_groups + (records + i / 8u * 4u + t / 8u) * {{ n.int4_words }}u;
    let low = (cache[record + (t & 7u) / 2u] >> (16u * (t & 1u))) & 0xffffu;
    let rest = (cache[record + 4u] >> (4u * (t & 7u))) & 15u;
    return stepped(codes, vec4<u32>(low | (rest << 16u)));
    //% endif
    //% endif
}

fn {{ name }}(kv_head: u32, token: u32, i: u32) -> vec4<f32> {
    if token < p.packed {
        return {{ name }}_packed(kv_head, token, i);
    }
    // The window: what is behind the last complete block is within one of the window's.
    let at = p.window_{{ name }}s + ((p.slot + token - p.packed) * p.heads + kv_head) * {{ head // 2 }}u + 2u * i;
    return vec4<f32>(unpack2x16float(cache[at]), unpack2x16float(cache[at + 1u]));
}
//% endmacro

{{ packed("key", key_bits, true) }}
{{ packed("value", value_bits, false) }}
