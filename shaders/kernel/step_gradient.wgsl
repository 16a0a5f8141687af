// y[g] = factor * sum over the group of dy * slope: q - x / s inside the clip range (0 where the clip is learned), q outside. A workgroup has one group; the sums of
// its threads meet in workgroup memory.
struct Params {
    groups: u32,
    // Columns of a row, of a group, and groups of a row.
    k: u32,
    group: u32,
    per_row: u32,
    first: f32,
    last: f32,
    factor: f32,
}
//% set at = 5 if zeros else 4
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read> step_of: array<f32>;
//% if zeros
@group(0) @binding(4) var<storage, read> zero_of: array<f32>;
//% endif
@group(0) @binding({{ at }}) var<storage, read_write> y: array<f32>;

//% include "lib/grid.wgsl"
//% include "lib/grid_code.wgsl"

var<workgroup> sums: array<f32, {{ workgroup }}>;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let g = linear_workgroup(wid, count);
    if g >= p.groups {
        return;
    }
    let column = g % p.per_row * p.group;
    let start = g / p.per_row * p.k + column;
    let n = min(p.group, p.k - column);
    let unit = step_of[g];
    //% if zeros
    let zero = zero_of[g];
    //% else
    let zero = 0.0;
    //% endif
    var sum = 0.0;
    for (var i = start + tid; i < start + n; i += {{ workgroup }}u) {
        let limit = limit_of(x[i], zero);
        let q = code_of(x[i], unit, limit);
        //% if clip
        let within = 0.0;
        //% else
        let within = q - x[i] / unit;
        //% endif
        sum += dy[i] * select(q, within, is_inside(x[i], unit, limit));
    }
    sums[tid] = sum;
    workgroupBarrier();
    for (var half_group = {{ workgroup // 2 }}u; half_group > 0u; half_group >>= 1u) {
        if tid < half_group {
            sums[tid] += sums[tid + half_group];
        }
        workgroupBarrier();
    }
    if tid == 0u {
        y[g] = p.factor * sums[0];
    }
}
