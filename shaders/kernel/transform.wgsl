// y = (x * v) R: columns multiplied by v, each block of {{ block }} of them times Hadamard's matrix of that size by its root. A workgroup has {{ tile }} numbers, whole blocks of the flat
// array, as blocks divide K.
struct Params {
    // Numbers of x.
    n: u32,
    k: u32,
    // 1 / root of the block.
    share: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
// v [K].
@group(0) @binding(2) var<storage, read> by: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

//% include "lib/grid.wgsl"

//% if block > 1
var<workgroup> tile: array<f32, {{ tile }}>;
//% endif

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let first = linear_workgroup(wid, count) * {{ tile }}u;
    for (var at = tid; at < {{ tile }}u; at += {{ workgroup }}u) {
        let i = first + at;
        if i < p.n {
            //% if block > 1
            tile[at] = x[i] * by[i % p.k];
            //% else
            y[i] = x[i] * by[i % p.k];
            //% endif
        }
    }
    //% if block > 1
    // Blocks beyond the last hold anything, and are not stored.
    for (var reach = 1u; reach < {{ block }}u; reach *= 2u) {
        workgroupBarrier();
        for (var at = tid; at < {{ tile // 2 }}u; at += {{ workgroup }}u) {
            let low = 2u * at - (at & (reach - 1u));
            let a = tile[low];
            let b = tile[low + reach];
            tile[low] = a + b;
            tile[low + reach] = a - b;
        }
    }
    workgroupBarrier();
    for (var at = tid; at < {{ tile }}u; at += {{ workgroup }}u) {
        let i = first + at;
        if i < p.n {
            y[i] = tile[at] * p.share;
        }
    }
    //% endif
}
