// The state of a parameter after a step by its gradient: [parameters, velocities] or (`adam`) [parameters, means, squares], n of each. A thread has one parameter.
struct Params {
    count: u32,
    rate: f32,
    // 1 - rate * decay.
    keep: f32,
    unscale: f32,
    floor: f32,
    // The momentum; or 1 - beta1, 1 - beta2, and the corrections of mean and square.
    a: f32,
    b: f32,
    of_mean: f32,
    of_square: f32,
    eps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> state: array<f32>;
@group(0) @binding(2) var<storage, read> gradient: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

//% include "lib/grid.wgsl"

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let i = linear_workgroup(wid, count) * {{ workgroup }}u + tid;
    if i >= p.count {
        return;
    }
    let g = gradient[i] * p.unscale;
    let at = p.count + i;
    //% if adam
    let mean = state[at] + p.a * (g - state[at]);
    let square = state[at + p.count] + p.b * (g * g - state[at + p.count]);
    y[at] = mean;
    y[at + p.count] = square;
    let moved = p.rate * (mean * p.of_mean) / (sqrt(square * p.of_square) + p.eps);
    //% else
    let velocity = p.a * state[at] + g;
    y[at] = velocity;
    let moved = p.rate * velocity;
    //% endif
    let next = state[i] * p.keep - moved;
    y[i] = select(next, p.floor, next < p.floor);
}
