// y[m, n] = function(sum over parts of x[part, m, n] + bias + residual): the end of a product whose K was split over workgroups.
//
// One thread per output; parts are added in their order.
//% if f16
enable f16;
//% endif
struct Params {
    //% include "scheme/fields.wgsl"
    //% include "lib/product_fields.wgsl"
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
//% if y_f16
@group(0) @binding(2) var<storage, read_write> y: array<f16>;
//% else
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
//% endif
//% if bias or residual
@group(0) @binding(3) var<storage, read> e: array<f32>;
//% endif

//% include "lib/grid.wgsl"
//% include "lib/epilogue.wgsl"

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let outputs = p.m * p.n;
    let i = linear_workgroup(wid, count) * {{ workgroup }}u + tid;
    if i >= outputs {
        return;
    }
    var sum = 0.0;
    for (var part = 0u; part < p.parts; part++) {
        sum += x[part * outputs + i];
    }
    store(i / p.n, i % p.n, sum);
}
