// int8 activations [M, K] -> the f32 that they stand for: scale * (q - zero).
struct Params {
    rows: u32,
    row0: u32,
    k: u32,
    // Words from row to row of codes, word where scales begin, scales of a row, values per scale.
    stride: u32,
    scales: u32,
    groups: u32,
    group: u32,
    // Static: the scale, and the zero-point as the bits of an i32.
    scale: f32,
    zero: u32,
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
