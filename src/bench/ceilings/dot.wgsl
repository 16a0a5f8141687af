// What packed integer products cost: {{ chains }} independent chains, v = dot4I8Packed(v, one) + one, which counts in the lowest byte.
struct Params { count: u32, mask: u32, stride: u32, step: u32, one: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<i32>; // y [threads]: the sum of the chains

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let one = i32(p.one);
    //% for c in range(chains)
    var v{{ c }} = i32((tid + {{ c }}u) & 7u);
    //% endfor
    for (var j = 0u; j < p.count; j++) {
        //% for i in range(unroll)
        //% for c in range(chains)
        v{{ c }} = dot4I8Packed(bitcast<u32>(v{{ c }}), p.one) + one;
        //% endfor
        //% endfor
    }
    var sum = 0;
    //% for c in range(chains)
    sum += v{{ c }};
    //% endfor
    y[wid.x * {{ workgroup }}u + tid] = sum;
}
