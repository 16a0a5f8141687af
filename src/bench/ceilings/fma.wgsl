// What multiplying and adding costs: {{ chains }} independent chains of vectors, v = v * one + one, all in registers.
//
// Sums are of small integers and so exact: a chain ends at its start plus the number of steps. `one` comes from outside, which
// keeps compilers from seeing it.
//% if float == "f16"
enable f16;
//% endif
struct Params { count: u32, mask: u32, stride: u32, step: u32, one: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>; // y [threads]: the sum of the chains

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let one = vec4<{{ float }}>({{ float }}(p.one));
    //% for c in range(chains)
    var v{{ c }} = vec4<{{ float }}>((vec4<u32>(tid, tid + 1u, tid + 2u, tid + 3u) + {{ c }}u) & vec4<u32>(7u));
    //% endfor
    for (var j = 0u; j < p.count; j++) {
        //% for i in range(unroll)
        //% for c in range(chains)
        v{{ c }} = fma(v{{ c }}, one, one);
        //% endfor
        //% endfor
    }
    var sum = vec4<f32>();
    //% for c in range(chains)
    sum += vec4<f32>(v{{ c }});
    //% endfor
    y[wid.x * {{ workgroup }}u + tid] = sum;
}
