// Dense f32 [rows, k] and the scales that quantize_scales or quantize_search stored -> code planes. One thread per chunk of 32 values of a row.
//
// Also the place where every value is looked at: the first one beyond `limit` (NaN and infinities by their bits) is
// reported in `status`. Codes beyond K stay 0.
struct Params {
    //% include "scheme/fields.wgsl"
    // Bits of the largest magnitude that can be quantized; the factor from the extreme to the scale.
    limit: u32,
    inv_steps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> w: array<u32>;
// First index of a value that cannot be quantized, all ones if none.
@group(0) @binding(3) var<storage, read_write> status: atomic<u32>;
//% if s.table
// Sorted table: `mids` f32, then `mids + 1` codes.
@group(0) @binding(4) var<storage, read> order: array<u32>;
//% endif
//% if method
// What quantize_search left of each group: (step, offset, factor, base), or the factor of x of a table.
@group(0) @binding({{ 5 if s.table else 4 }}) var<storage, read> found: array<vec4<f32>>;
//% endif

//% include "lib/grid.wgsl"
//% include "lib/f16.wgsl"
//% include "scheme/encode.wgsl"
//% set enc = "searched" if method else s.encoder
//% set block_encoder = s.block_encoder and not method
//% if method
alias Group = vec4<f32>;

fn group_of(row: u32, g: u32) -> Group {
    return found[row * p.groups + g];
}
//% elif not s.float
//% include "scheme/weights.wgsl"
//% endif
//% set levels = 2 ** s.bits - 1
//% set half_levels = 2 ** (s.bits - 1) if s.bits <= 8 else 0

//% if block_encoder
// What GGUF's encoders derive from the block before rounding the scale: 1/d (0 for d = 0), and the minimum.
fn block_of(start: u32) -> vec2<f32> {
    var low = x[start];
    var high = x[start];
    var extreme = 0.0;
    for (var i = 0u; i < min({{ s.group }}u, p.k); i++) {
        let v = x[start + i];
        low = select(low, v, v < low);
        high = select(high, v, v > high);
        if magnitude_bits(v) > magnitude_bits(extreme) {
            extreme = v;
        }
    }
    //% if enc == "ggml_extreme"
    let d = extreme * p.inv_steps;
    //% elif enc == "ggml_minmax"
    let d = (high - low) / {{ levels }}.0;
    //% elif enc == "ggml_absmax"
    let d = abs(extreme) / 127.0;
    //% else
    let d = abs(extreme);
    //% endif
    // 1/d overflows below 2^-128, where a device may take d for 0 as well.
    var id = 0.0;
    if magnitude_bits(d) > 0x00200000u {
        id = 1.0 / d;
    }
    return vec2<f32>(id, low);
}

fn round_away(v: f32) -> f32 {
    let r = trunc(v);
    return r + select(0.0, sign(v), abs(v - r) >= 0.5);
}
//% endif

//% if s.table
fn nearest(v: f32, scale: f32) -> u32 {
    var lower = 0u;
    var upper = {{ sorted - 1 }}u;
    // Entries below `lower` are too low, those above `upper` too high.
    while lower < upper {
        let at = (lower + upper) >> 1u;
        let mid = bitcast<f32>(order[at]);
        let edge = mid * scale;
        //% if method == "iq4"
        if v >= edge {
        //% else
        if v > edge || (v == edge && mid <= 0.0) {
        //% endif
            lower = at + 1u;
        } else {
            upper = at;
        }
    }
    return order[{{ sorted - 1 }}u + lower];
}
//% endif

//% if not s.float
fn code_of(v: f32, g: Group, block: vec2<f32>) -> u32 {
    //% if enc in ["meanabs", "ggml_meanabs"]
    return u32(!((bitcast<u32>(v) >> 31u) == 1u && magnitude_bits(v) != 0u));
    //% elif enc == "ggml_extreme"
    return u32(min({{ levels }}.0, trunc(v * block.x + {{ half_levels }}.5)));
    //% elif enc == "ggml_minmax"
    return u32(min({{ levels }}.0, trunc((v - block.y) * block.x + 0.5)));
    //% elif enc == "ggml_absmax"
    return u32(i32(clamp(round_away(v * block.x), -127.0, 127.0)) + 128);
    //% elif enc == "ggml_ternary"
    return u32(i32(clamp(round_away(v * block.x), -1.0, 1.0)) + 1);
    //% elif method == "iq4"
    return nearest(v * g.x, 1.0);
    //% elif method
    //% set low = 0 if method == "affine" else -half_levels
    if g.x != 0.0 {
        return u32(clamp(round((v + g.y) / g.x), {{ low }}.0, {{ low + levels }}.0) - {{ low }}.0);
    }
    // All codes mean the same; these are ggml's, but for those that descent has moved. A group of zeros has code 0.
    return u32(select(clamp(round(g.z * (v - g.w)), {{ low }}.0, {{ low + levels }}.0) - {{ low }}.0, 0.0, g.z == 0.0));
    //% elif enc == "minmax_bias"
    let t = v - g.bias;
    if g.scale == 0.0 || t <= 0.0 {
        return 0u;
    }
    return u32(steps(t, g.scale, {{ levels }}.0));
    //% elif enc == "minmax_zero"
    if g.scale == 0.0 {
        return 0u;
    }
    return u32(steps_from(v, g.scale, g.zero, {{ levels }}.0));
    //% else
    // Scale 0, or byte 0 of a shared exponent, which decodes to a subnormal.
    if magnitude_bits(g.scale) < 0x00800000u {
        //% if s.table
        return {{ zero_code }}u;
        //% else
        return u32(g.zero);
        //% endif
    }
    //% if s.table
    return nearest(v, g.scale);
    //% else
    let negative = v < 0.0;
    //% if enc == "minmax"
    let q = steps(abs(v), g.scale, {{ levels + 1 }}.0);
    //% elif enc == "ternary"
    let q = steps(abs(v), g.scale, 1.0);
    //% else
    let q = steps(abs(v), g.scale, select({{ half_levels - 1 }}.0, {{ half_levels }}.0, negative));
    //% endif
    return u32(clamp(g.zero + select(q, -q, negative), 0.0, {{ levels }}.0));
    //% endif
    //% endif
}
//% endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let chunks = (p.k + 31u) / 32u;
    let i = linear_workgroup(wid, count) * 64u + tid;
    let row = i / chunks;
    let first = (i % chunks) * 32u;
    if row >= p.rows {
        return;
    }
    let start = row * p.k + first;
    let n = min(32u, p.k - first);
    for (var j = 0u; j < n; j++) {
        if magnitude_bits(x[start + j]) > p.limit {
            atomicMin(&status, start + j);
        }
    }
    //% if s.kind == "f32"
    for (var j = 0u; j < n; j++) {
        w[p.low + row * p.low_stride + first + j] = bitcast<u32>(x[start + j]);
    }
    //% elif s.float
    for (var j = 0u; j < n; j += 2u) {
        var pair = vec2<u32>();
        for (var h = 0u; h < 2u; h++) {
            if j + h < n {
                //% if s.kind == "f16"
                pair[h] = f16_bits(x[start + j + h]);
                //% else
                let b = bitcast<u32>(x[start + j + h]);
                pair[h] = (b + 0x7fffu + ((b >> 16u) & 1u)) >> 16u;
                //% endif
            }
        }
        w[p.low + row * p.low_stride + ((first + j) >> 1u)] = pair.x | (pair.y << 16u);
    }
    //% else
    var low: array<u32, {{ s.low }}>;
    //% if s.high
    var high: array<u32, {{ s.high }}>;
    //% endif
    //% set whole = not s.group or s.group % 32 == 0
    //% if whole
    // The chunk lies in one group.
    //% set number = "first / " ~ s.group ~ "u" if s.group else "0u"
    let g = group_of(row, {{ number }});
    var block = vec2<f32>();
    //% if block_encoder
    block = block_of(row * p.k + {{ number }} * {{ s.group }}u);
    //% endif
    //% else
    var g: Group;
    let block = vec2<f32>();
    //% endif
    for (var q = 0u; q < 8u; q++) {
        let col = first + 4u * q;
        if col >= p.k {
            break;
        }
        //% if not whole
        if q == 0u || col % {{ s.group }}u == 0u {
            g = group_of(row, col / {{ s.group }}u);
        }
        //% endif
        var bytes = 0u;
        for (var j = 0u; j < 4u; j++) {
            if col + j < p.k {
                bytes |= code_of(x[start + 4u * q + j], g, block) << (8u * j);
            }
        }
        //% macro put(to, width, shift)
        //% if width == 8
        {{ to }}[q] = bytes;
        //% else
        {{ to }}[q / {{ 8 // width }}u] |= ((bytes >> {{ shift }}u) & {{ {4: "0x0f0f0f0fu", 2: "0x03030303u", 1: "0x01010101u"}[width] }}) << ({{ width }}u * (q % {{ 8 // width }}u));
        //% endif
        //% endmacro
        {{ put("low", s.low, 0) }}
        //% if s.high
        {{ put("high", s.high, s.low) }}
        //% endif
    }
    let chunk = i % chunks;
    for (var j = 0u; j < {{ s.low }}u; j++) {
        w[p.low + row * p.low_stride + chunk * {{ s.low }}u + j] = low[j];
    }
    //% if s.high
    for (var j = 0u; j < {{ s.high }}u; j++) {
        w[p.high + row * p.high_stride + chunk * {{ s.high }}u + j] = high[j];
    }
    //% endif
    //% endif
}
