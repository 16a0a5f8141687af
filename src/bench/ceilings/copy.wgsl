// What reading and writing costs: y = x in vectors of 16 bytes, in the order of `read.wgsl`. Threads that meet write the same.
struct Params { count: u32, mask: u32, stride: u32, step: u32, one: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>; // x [mask + 1]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<u32>>; // y [mask + 1]

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    var at = wid.x * p.stride + tid;
    for (var j = 0u; j < p.count; j += 4u) {
        //% for i in range(4)
        let v{{ i }} = x[(at + {{ i }}u * p.step) & p.mask];
        //% endfor
        //% for i in range(4)
        y[(at + {{ i }}u * p.step) & p.mask] = v{{ i }};
        //% endfor
        at += 4u * p.step;
    }
}
