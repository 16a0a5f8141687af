// y[t, :] = row ids[t] of a table of packed weights, or with `add` what is there and that row. One thread has four consecutive numbers.
//
// A table larger than a binding comes in parts, one dispatch each: rows that are not in this one are left to the others.
struct Params {
    //% include "scheme/fields.wgsl"
    // Row of the table that is the first of this part.
    row0: u32,
    // Rows of y, and the first one's place in ids.
    tokens: u32,
    token0: u32,
}
//% set single = ragged or s.permuted
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read> w4: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> ids: array<u32>;
//% if single
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
//% else
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;
//% endif

//% include "lib/grid.wgsl"
//% include "scheme/weights.wgsl"

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    //% if s.table
    lut_load(tid);
    workgroupBarrier();
    //% endif
    let i = linear_workgroup(wid, count) * {{ workgroup }}u + tid;
    let quads = (p.k + 3u) >> 2u;
    let token = i / quads;
    if token >= p.tokens {
        return;
    }
    // Below 0 wraps around.
    let row = ids[p.token0 + token] - p.row0;
    if row >= p.rows {
        return;
    }
    let q = i % quads;
    let v = quad_weights(row, q);
    //% if single
    for (var j = 0u; j < 4u; j++) {
        let position = 4u * q + j;
        if position < p.k {
            //% if s.permuted
            let at = token * p.k + w[p.perm + position];
            //% else
            let at = token * p.k + position;
            //% endif
            //% if add
            y[at] += v[j];
            //% else
            y[at] = v[j];
            //% endif
        }
    }
    //% elif add
    y[i] += v;
    //% else
    y[i] = v;
    //% endif
}
