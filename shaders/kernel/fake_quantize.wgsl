// y = s * q, x on an integer grid whose step a group shares; `backward`: dy where x is inside the clip range, else 0. A thread has one number.
struct Params {
    count: u32,
    // Columns of a row, of a group, and groups of a row.
    k: u32,
    group: u32,
    per_row: u32,
    first: f32,
    last: f32,
}
//% set step_at = 3 if backward else 2
//% set y_at = step_at + (2 if zeros else 1)
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
//% if backward
@group(0) @binding(2) var<storage, read> dy: array<f32>;
//% endif
@group(0) @binding({{ step_at }}) var<storage, read> step_of: array<f32>;
//% if zeros
@group(0) @binding({{ step_at + 1 }}) var<storage, read> zero_of: array<f32>;
//% endif
@group(0) @binding({{ y_at }}) var<storage, read_write> y: array<f32>;

//% include "lib/grid.wgsl"
//% include "lib/grid_code.wgsl"

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let i = linear_workgroup(wid, count) * {{ workgroup }}u + tid;
    if i >= p.count {
        return;
    }
    let g = i / p.k * p.per_row + i % p.k / p.group;
    let unit = step_of[g];
    //% if zeros
    let limit = limit_of(x[i], zero_of[g]);
    //% else
    let limit = limit_of(x[i], 0.0);
    //% endif
    //% if backward
    y[i] = select(0.0, dy[i], is_inside(x[i], unit, limit));
    //% else
    y[i] = code_of(x[i], unit, limit) * unit;
    //% endif
}
