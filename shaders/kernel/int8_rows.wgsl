// Activations x [M, K] -> int8 codes, four to a word, and their scales, in one buffer. Codes beyond K are 0.
//
//   per row           a workgroup finds the largest magnitude of a row, then goes through it again
//   per group         a workgroup has 256 values, a team of group / 4 threads one group; magnitudes meet in workgroup memory
//   static            one scale and zero-point from the host
//
// The scale is the largest magnitude * C(1/127); codes are rounded half away from zero. A group with a NaN or an infinity has the
// scale NaN.
//% if f16
enable f16;
//% endif
struct Params {
    //% include "lib/int8_fields.wgsl"
}
@group(0) @binding(0) var<uniform> p: Params;
//% set x_at = 1
//% include "lib/x_binding.wgsl"
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

//% include "lib/grid.wgsl"
//% include "lib/activations.wgsl"
//% include "lib/steps.wgsl"
//% if static
//% include "lib/code.wgsl"
//% else
var<workgroup> tops: array<u32, 64>;

fn top_bits(v: vec4<f32>) -> u32 {
    return max(max(magnitude_bits(v.x), magnitude_bits(v.y)), max(magnitude_bits(v.z), magnitude_bits(v.w)));
}

fn scale_of(top: u32) -> f32 {
    if top >= 0x7f800000u {
        return bitcast<f32>(p.nan);
    }
    return select(bitcast<f32>(top) * f32(1.0 / 127.0), 0.0, top < TINY);
}

fn code(v: f32, scale: f32) -> u32 {
    let q = i32(steps(abs(v), scale, 127.0));
    return bitcast<u32>(select(q, -q, v < 0.0)) & 0xffu;
}
//% endif

fn word(v: vec4<f32>, q: u32, scale: f32) -> u32 {
    //% if static
    let c = vec4<u32>(int8_code(v.x, scale, p.zero), int8_code(v.y, scale, p.zero), int8_code(v.z, scale, p.zero), int8_code(v.w, scale, p.zero));
    let inside = 4u * q + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(p.k);
    let b = select(vec4<u32>(), c, inside);
    //% else
    let b = vec4<u32>(code(v.x, scale), code(v.y, scale), code(v.z, scale), code(v.w, scale));
    //% endif
    return b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let i = linear_workgroup(wid, count);
    //% if row
    let row = i;
    if row >= p.rows {
        return;
    }
    var top = 0u;
    for (var q = tid; q < p.stride; q += 64u) {
        top = max(top, top_bits(x_quad(row, q)));
    }
    //% set team = 64
    //% else
    let spans = (p.stride + 63u) / 64u;
    let row = i / spans;
    if row >= p.rows {
        return;
    }
    let q = (i % spans) * 64u + tid;
    let v = x_quad(row, q);
    //% if not static
    let top = top_bits(v);
    //% set team = group // 4
    //% endif
    //% endif
    let y_row = p.row0 + row;
    //% if static
    let scale = p.scale;
    //% else
    tops[tid] = top;
    workgroupBarrier();
    for (var h = {{ team // 2 }}u; h > 0u; h >>= 1u) {
        if tid % {{ team }}u < h {
            tops[tid] = max(tops[tid], tops[tid + h]);
        }
        workgroupBarrier();
    }
    let amax = tops[tid / {{ team }}u * {{ team }}u];
    let stored = scale_of(amax);
    // With a scale of 0 or NaN codes are 0: nothing is that many steps of it.
    let scale = select(stored, bitcast<f32>(0x7f000000u), amax < TINY || amax >= 0x7f800000u);
    //% endif
    //% if row
    for (var q = tid; q < p.stride; q += 64u) {
        var v = x_quad(row, q);
        if amax >= 0x7f800000u {
            v = vec4<f32>();
        }
        y[y_row * p.stride + q] = word(v, q, scale);
    }
    if tid == 0u {
        y[p.scales + y_row] = bitcast<u32>(stored);
    }
    //% else
    if q < p.stride {
        //% if static
        y[y_row * p.stride + q] = word(v, q, scale);
        //% else
        y[y_row * p.stride + q] = word(select(v, vec4<f32>(), amax >= 0x7f800000u), q, scale);
        //% endif
    }
    //% if not static
    if tid % {{ team }}u == 0u && 4u * q < p.k {
        y[p.scales + y_row * p.groups + q / {{ team }}u] = bitcast<u32>(stored);
    }
    //% endif
    //% endif
}
