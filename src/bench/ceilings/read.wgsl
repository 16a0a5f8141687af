// What reading costs: threads add up vectors of 16 bytes, a workgroup leaves one sum.
//
//   thread t of workgroup w reads x[(w * stride + t + j * step) & mask] for j = 0..count, four loads under way at a time
struct Params { count: u32, mask: u32, stride: u32, step: u32, one: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<u32>>; // x [mask + 1]
@group(0) @binding(2) var<storage, read_write> sums: array<u32>; // sums [workgroups]
var<workgroup> total: atomic<u32>;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    // Nothing else zeroes it: run-time checks are off.
    if tid == 0u {
        atomicStore(&total, 0u);
    }
    workgroupBarrier();
    var at = wid.x * p.stride + tid;
    //% for i in range(4)
    var sum{{ i }} = vec4<u32>();
    //% endfor
    for (var j = 0u; j < p.count; j += 4u) {
        //% for i in range(4)
        sum{{ i }} += x[(at + {{ i }}u * p.step) & p.mask];
        //% endfor
        at += 4u * p.step;
    }
    let sum = sum0 + sum1 + sum2 + sum3;
    atomicAdd(&total, sum.x + sum.y + sum.z + sum.w);
    workgroupBarrier();
    if tid == 0u {
        sums[wid.x] = atomicLoad(&total);
    }
}
