// Dense f32 -> f16 (nearest even, in integer arithmetic) or f16 -> f32. One thread converts four numbers.
struct Params {
    quads: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
//% if out_f16
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec2<u32>>;
//% else
@group(0) @binding(1) var<storage, read> x: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;
//% endif

//% include "lib/grid.wgsl"
//% if out_f16
//% include "lib/f16.wgsl"
//% endif

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let i = linear_workgroup(wid, count) * {{ workgroup }}u + tid;
    if i >= p.quads {
        return;
    }
    //% if out_f16
    let v = x[i];
    y[i] = vec2<u32>(f16_bits(v.x) | (f16_bits(v.y) << 16u), f16_bits(v.z) | (f16_bits(v.w) << 16u));
    //% else
    let v = x[i];
    y[i] = vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y));
    //% endif
}
