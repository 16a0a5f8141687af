// y = f(x); `backward`: y = dy * f'(x). A thread has one number.
struct Params {
    count: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
//% if backward
@group(0) @binding(2) var<storage, read> dy: array<f32>;
//% endif
@group(0) @binding({{ 3 if backward else 2 }}) var<storage, read_write> y: array<f32>;

//% include "lib/grid.wgsl"
//% if function == "gelu"
//% include "lib/erf.wgsl"
//% endif

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let i = linear_workgroup(wid, count) * {{ workgroup }}u + tid;
    if i >= p.count {
        return;
    }
    let v = x[i];
    //% if function == "relu"
    //% set value, slope = "max(v, 0.0)", "select(0.0, 1.0, v > 0.0)"
    //% elif function == "gelu"
    let below = 0.5 + 0.5 * erf(v * 0.70710678);
    //% set value, slope = "v * below", "below + v * exp(-0.5 * v * v) * 0.3989423"
    //% elif function == "silu"
    let share = 1.0 / (1.0 + exp(-v));
    //% set value, slope = "v * share", "share * (1.0 + v * (1.0 - share))"
    //% else
    //% set value, slope = "v", "1.0"
    //% endif
    //% if backward
    y[i] = dy[i] * ({{ slope }});
    //% else
    y[i] = {{ value }};
    //% endif
}
