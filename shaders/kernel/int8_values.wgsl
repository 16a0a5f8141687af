// int8 activations [M, K] -> the f32 that they stand for: scale * (q - zero).
struct Params {
    //% include "lib/int8_fields.wgsl"
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

//% include "lib/grid.wgsl"

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let i = linear_workgroup(wid, count) * 64u + tid;
    let row = i / p.stride;
    let q = i % p.stride;
    if row >= p.rows {
        return;
    }
    let x_row = p.row0 + row;
    var scale = p.scale;
    if p.groups > 0u && 4u * q < p.k {
        scale = bitcast<f32>(x[p.scales + x_row * p.groups + 4u * q / p.group]);
    }
    let codes = unpack4xI8(x[x_row * p.stride + q]);
    for (var j = 0u; j < 4u; j++) {
        if 4u * q + j < p.k {
            y[row * p.k + 4u * q + j] = scale * f32(codes[j] - bitcast<i32>(p.zero));
        }
    }
}
