// Counts of numbers in bins that are read off their bits (`bins`): y[bin(x[i])] += 1. Integers alone, so that every device counts the same.
//
// The pass `begin` makes y what it is added to, or zeros; the pass after it has {{ items }} numbers a thread. Zeros are many behind a ReLU: a thread adds its own at once.
struct Params {
    // Numbers; bins in the pass `begin`.
    n: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
//% if begin
//% if onto
@group(0) @binding(1) var<storage, read> onto: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
//% else
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
//% endif
//% else
// x [n] f32, as its bits: a device may take the smallest for 0.
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<atomic<u32>>;
//% endif

//% include "lib/grid.wgsl"

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let number = linear_workgroup(wid, count);
    //% if begin
    let i = number * {{ workgroup }}u + tid;
    if i < p.n {
        //% if onto
        y[i] = onto[i];
        //% else
        y[i] = 0u;
        //% endif
    }
    //% else
    var zeros = 0u;
    for (var item = 0u; item < {{ items }}u; item++) {
        let i = (number * {{ items }}u + item) * {{ workgroup }}u + tid;
        if i >= p.n {
            break;
        }
        let bits = x[i];
        let magnitude = (bits & 0x7fffffffu) >> 16u;
        if magnitude < {{ first }}u {
            zeros++;
        } else {
            let class_of = min(magnitude - {{ first - 1 }}u, {{ last }}u);
            atomicAdd(&y[select({{ zero }}u + class_of, {{ zero }}u - class_of, (bits >> 31u) == 1u)], 1u);
        }
    }
    if zeros > 0u {
        atomicAdd(&y[{{ zero }}u], zeros);
    }
    //% endif
}
