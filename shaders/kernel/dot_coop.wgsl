// y[m, n] = x[m, :] . w[n, :] for int8 activations on matrix units, one scale for a row of weights and one for a row of x: a tile of `bm` x `bn`
// outputs per workgroup, K in steps of `bk`.
//
// Codes are exact in f16, their products exact, and so are the f32 sums of up to `exact` columns (2^14 * 1024 = 2^24). After so many the sums go
// through workgroup memory, for matrices have no elements, and on to integers: `waves_m` x `waves_n` subgroups with `frags_m` x `frags_n`
// matrices each, a thread with the same outputs of each matrix. Rows are padded against bank conflicts.
//
//   x tile  [bm, bk]  rows of x, row-major matrices A            w tile  [bn, bk]  rows of w, the columns of matrices B
enable f16;
enable wgpu_cooperative_matrix;
struct Params {
    //% include "scheme/fields.wgsl"
    //% include "lib/product_fields.wgsl"
    //% include "lib/dot_fields.wgsl"
}
//% include "lib/dot_bindings.wgsl"
//% set exact = 1024

//% include "scheme/weights.wgsl"
//% include "scheme/chunks.wgsl"
//% include "scheme/bytes.wgsl"
//% include "lib/epilogue.wgsl"
//% if y_int8
//% include "lib/steps.wgsl"
//% include "lib/code.wgsl"
//% endif
//% include "lib/dot_end.wgsl"
//% set chunks = bk // 32
//% set stride = bk + 8
//% set area = size * size
//% set owned = area // subgroup
//% set mat = "coop_mat" ~ size ~ "x" ~ size
var<workgroup> wt: array<f16, {{ bn * stride }}>;
var<workgroup> xt: array<f16, {{ bm * stride }}>;
var<workgroup> yt: array<f32, {{ waves_m * waves_n * area }}>;
//% if i.zero
var<workgroup> x_sum: array<i32, {{ bm }}>;
//% endif

@compute @workgroup_size({{ workgroup }})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(local_invocation_index) tid: u32,
    @builtin(subgroup_id) wave: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    //% if i.zero
    for (var m = tid; m < {{ bm }}u; m += {{ workgroup }}u) {
        x_sum[m] = 0i;
    }
    workgroupBarrier();
    //% endif
    let n_first = wid.x * {{ bn }}u;
    let m_first = wid.y * {{ bm }}u;
    let m_wave = wave / {{ waves_n }}u * {{ frags_m * size }}u;
    let n_wave = wave % {{ waves_n }}u * {{ frags_n * size }}u;
    //% for a in range(frags_m)
    //% for b in range(frags_n)
    var acc{{ a }}_{{ b }} = {{ mat }}<f32, C>();
    //% for r in range(owned)
    var sum{{ a }}_{{ b }}_{{ r }} = 0i;
    //% endfor
    //% endfor
    //% endfor
    let chunks = (p.k + 31u) / 32u;
    for (var c0 = 0u; c0 < chunks; c0 += {{ chunks }}u) {
        for (var item = tid; item < {{ (bn + bm) * chunks }}u; item += {{ workgroup }}u) {
            let local = item % {{ chunks }}u;
            let c = c0 + local;
            var v: array<u32, 8>;
            if item < {{ bn * chunks }}u {
                let n = item / {{ chunks }}u;
                if n_first + n < p.n && c < chunks {
                    v = chunk_bytes(p.row0 + n_first + n, c);
                }
                let at = n * {{ stride }}u + local * 32u;
                //% for q in range(8)
                {
                    let four = vec4<f16>(unpack4xI8(v[{{ q }}]));
                    //% for e in range(4)
                    wt[at + {{ 4 * q + e }}u] = four.{{ "xyzw"[e] }};
                    //% endfor
                }
                //% endfor
            } else {
                let m = item / {{ chunks }}u - {{ bn }}u;
                var a = vec4<u32>();
                var b = vec4<u32>();
                if m_first + m < p.m && c < chunks {
                    let at = (p.x_row0 + m_first + m) * p.x_stride + 2u * c;
                    a = x[at];
                    b = x[at + 1u];
                }
                let at = m * {{ stride }}u + local * 32u;
                //% for q in range(8)
                {
                    let four = vec4<f16>(unpack4xI8({{ "ab"[q // 4] }}.{{ "xyzw"[q % 4] }}));
                    //% for e in range(4)
                    xt[at + {{ 4 * q + e }}u] = four.{{ "xyzw"[e] }};
                    //% endfor
                }
                //% endfor
                //% if i.zero
                // One chunk of a row in a step: nobody else adds to it.
                var total = 0i;
                //% for q in range(8)
                total += dot4I8Packed({{ "ab"[q // 4] }}.{{ "xyzw"[q % 4] }}, ONES);
                //% endfor
                x_sum[m] += total;
                //% endif
            }
        }
        workgroupBarrier();
        //% for step in range(bk // size)
        {
            //% for b in range(frags_n)
            let b{{ b }} = coopLoad<{{ mat }}<f16, B>>(&wt[(n_wave + {{ b * size }}u) * {{ stride }}u + {{ step * size }}u], {{ stride }}u);
            //% endfor
            //% for a in range(frags_m)
            let a{{ a }} = coopLoadT<{{ mat }}<f16, A>>(&xt[(m_wave + {{ a * size }}u) * {{ stride }}u + {{ step * size }}u], {{ stride }}u);
            //% for b in range(frags_n)
            acc{{ a }}_{{ b }} = coopMultiplyAdd(a{{ a }}, b{{ b }}, acc{{ a }}_{{ b }});
            //% endfor
            //% endfor
        }
        //% endfor
        let next = c0 + {{ chunks }}u;
        if next % {{ exact // 32 }}u == 0u || next >= chunks {
            //% for a in range(frags_m)
            //% for b in range(frags_n)
            coopStoreT(acc{{ a }}_{{ b }}, &yt[wave * {{ area }}u], {{ size }}u);
            acc{{ a }}_{{ b }} = {{ mat }}<f32, C>();
            workgroupBarrier();
            //% for r in range(owned)
            sum{{ a }}_{{ b }}_{{ r }} += i32(yt[wave * {{ area }}u + lane + {{ r * subgroup }}u]);
            //% endfor
            workgroupBarrier();
            //% endfor
            //% endfor
        }
        workgroupBarrier();
    }
    //% for a in range(frags_m)
    //% for b in range(frags_n)
    //% for r in range(owned)
    {
        let o = lane + {{ r * subgroup }}u;
        let row = m_wave + {{ a * size }}u + o / {{ size }}u;
        let m = m_first + row;
        let n = n_first + n_wave + {{ b * size }}u + o % {{ size }}u;
        //% set x_arg = "x_sum[row]" if i.zero else "0i"
        //% if y_int8
        var v = 0.0;
        if m < p.m && n < p.n {
            v = finished(m, n, dot_end(m, n, sum{{ a }}_{{ b }}_{{ r }}, {{ x_arg }}));
        }
        yt[wave * {{ area }}u + o] = v;
        //% else
        if m < p.m && n < p.n {
            store(m, n, dot_end(m, n, sum{{ a }}_{{ b }}_{{ r }}, {{ x_arg }}));
        }
        //% endif
    }
    //% endfor
    //% if y_int8
    workgroupBarrier();
    for (var o = 4u * lane; o < {{ area }}u; o += {{ 4 * subgroup }}u) {
        let m = m_first + m_wave + {{ a * size }}u + o / {{ size }}u;
        let n = n_first + n_wave + {{ b * size }}u + o % {{ size }}u;
        let at = wave * {{ area }}u + o;
        if m < p.m && n < p.n {
            store4(m, n, vec4<f32>(yt[at], yt[at + 1u], yt[at + 2u], yt[at + 3u]));
        }
    }
    workgroupBarrier();
    //% endif
    //% endfor
    //% endfor
}
