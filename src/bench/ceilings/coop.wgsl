// What cooperative matrices reach: a subgroup multiplies two A by four B again and again, into eight sums of its own.
//
// A and B are small integers, and sums stay exact: c[i, j] ends at its start plus `count` times a[i] * b[j]. All subgroups compute the same
// and share a few places for the result, so that hardly anything is written.
enable f16;
enable wgpu_cooperative_matrix;
struct Params { count: u32, mask: u32, stride: u32, step: u32, one: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f16>; // a [2, size, size], row-major
@group(0) @binding(2) var<storage, read> b: array<f16>; // b [4, size, size]
@group(0) @binding(3) var<storage, read> start: array<f32>; // start [2, 4, size, size]
@group(0) @binding(4) var<storage, read_write> c: array<f32>; // c [mask + 1, 2, 4, size, size]
//% set area = size * size
//% set t = "coop_mat" ~ size ~ "x" ~ size

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let place = ((wid.x * {{ workgroup // subgroup }}u + tid / {{ subgroup }}u) & p.mask) * {{ 8 * area }}u;
    //% for i in range(2)
    let a{{ i }} = coopLoadT<{{ t }}<f16, A>>(&a[{{ i * area }}], {{ size }}u);
    //% endfor
    //% for j in range(4)
    let b{{ j }} = coopLoadT<{{ t }}<f16, B>>(&b[{{ j * area }}], {{ size }}u);
    //% endfor
    //% for i in range(2)
    //% for j in range(4)
    var c{{ i }}{{ j }} = coopLoadT<{{ t }}<f32, C>>(&start[{{ (i * 4 + j) * area }}], {{ size }}u);
    //% endfor
    //% endfor
    for (var k = 0u; k < p.count; k++) {
        //% for i in range(2)
        //% for j in range(4)
        c{{ i }}{{ j }} = coopMultiplyAdd(a{{ i }}, b{{ j }}, c{{ i }}{{ j }});
        //% endfor
        //% endfor
    }
    //% for i in range(2)
    //% for j in range(4)
    coopStoreT(c{{ i }}{{ j }}, &c[place + {{ (i * 4 + j) * area }}u], {{ size }}u);
    //% endfor
    //% endfor
}
