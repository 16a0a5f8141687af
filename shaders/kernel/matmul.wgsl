// y[m, n] = x[m, :] . w[n, :] for any M: a tile of `bm` x `bn` outputs per workgroup, K in steps of `bk`.
//
// Both operands pass through workgroup memory as vectors of four along K, weights decoded on the way in. Rows are padded by one vector
// against bank conflicts. A thread owns `tm` x `tn` outputs, interleaved so that stores of neighbours touch.
//
//   F32          acc += dot of four, in f32
//   F16          operands rounded to f16, products and sums in f16
//   F16Chunked   the same within one step of K (bk values), f32 between
//% if f16
enable f16;
//% endif
struct Params {
    //% include "scheme/fields.wgsl"
    //% include "lib/product_fields.wgsl"
}
//% include "lib/product_bindings.wgsl"

//% include "scheme/weights.wgsl"
//% include "lib/activations.wgsl"
//% include "lib/epilogue.wgsl"
//% set half = accumulate != "f32"
//% set acc_type = "f16" if accumulate == "f16" else "f32"
//% set elem = "f16" if half else "f32"
//% set kq = bk // 4
//% set stride = kq + 1
//% set threads_n = bn // tn
//% set threads_m = bm // tm
var<workgroup> wt: array<vec4<{{ elem }}>, {{ bn * stride }}>;
var<workgroup> xt: array<vec4<{{ elem }}>, {{ bm * stride }}>;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    //% if s.table
    lut_load(tid);
    workgroupBarrier();
    //% endif
    let n_first = wid.x * {{ bn }}u;
    let m_first = wid.y * {{ bm }}u;
    let tn = tid % {{ threads_n }}u;
    let tm = tid / {{ threads_n }}u;
    //% for i in range(tm)
    //% for j in range(tn)
    var acc{{ i }}_{{ j }}: {{ acc_type }} = 0.0;
    //% endfor
    //% endfor
    //% include "lib/k_range.wgsl"
    let quads = min((p.k + 3u) / 4u, 8u * chunks);
    for (var q0 = 8u * first_chunk; q0 < quads; q0 += {{ kq }}u) {
        //% set scalars = false
        //% include "lib/tiles.wgsl"
        workgroupBarrier();
        //% if accumulate == "f16chunked"
        //% for i in range(tm)
        //% for j in range(tn)
        var part{{ i }}_{{ j }}: f16 = 0.0;
        //% endfor
        //% endfor
        //% endif
        //% set target = "part" if accumulate == "f16chunked" else "acc"
        for (var q = 0u; q < {{ kq }}u; q++) {
            //% for j in range(tn)
            let w{{ j }} = wt[(tn + {{ j * threads_n }}u) * {{ stride }}u + q];
            //% endfor
            //% for i in range(tm)
            let x{{ i }} = xt[(tm + {{ i * threads_m }}u) * {{ stride }}u + q];
            //% for j in range(tn)
            {{ target }}{{ i }}_{{ j }} += dot(w{{ j }}, x{{ i }});
            //% endfor
            //% endfor
        }
        //% if accumulate == "f16chunked"
        //% for i in range(tm)
        //% for j in range(tn)
        acc{{ i }}_{{ j }} += f32(part{{ i }}_{{ j }});
        //% endfor
        //% endfor
        //% endif
        workgroupBarrier();
    }
    //% for i in range(tm)
    //% for j in range(tn)
    {
        let m = m_first + tm + {{ i * threads_m }}u;
        let n = n_first + tn + {{ j * threads_n }}u;
        if m < p.m && n < p.n {
            store(m, n, f32(acc{{ i }}_{{ j }}));
        }
    }
    //% endfor
    //% endfor
}
