// y[m, n] = x[m, :] . w[n, :] for int8 activations and any M: a tile of `bm` x `bn` outputs per workgroup, K in steps of `bk`.
//
// Both operands pass through workgroup memory as words of four signed bytes, a chunk of 32 values at a time and with what belongs to each
// `sub` of them: scale, zero and bias of w, sum and scale of x. Rows are padded by one word against bank conflicts. A thread owns
// `tm` x `tn` outputs, interleaved so that stores of neighbours touch; four neighbours where y is int8, four to a word.
//
//   whole      one scale for a row of weights and of x: integers over all of K
//   else       acc += x scale * (scale * (sum - zero * sum of x) + bias * sum of x), once per `sub` values
//% if f16
enable f16;
//% endif
//% set sub = s.sub
//% set subs = 32 // sub
//% set words = sub // 4
//% set chunks = bk // 32
//% set segments = chunks * subs
//% set threads_n = bn // tn
//% set threads_m = bm // tm
//% set stride = bk // 4 + 1
struct Params {
    //% include "scheme/fields.wgsl"
    //% include "lib/product_fields.wgsl"
    //% include "lib/dot_fields.wgsl"
}
//% include "lib/dot_bindings.wgsl"

//% include "scheme/weights.wgsl"
//% include "scheme/chunks.wgsl"
//% include "scheme/bytes.wgsl"
//% include "lib/epilogue.wgsl"
//% if y_int8
//% include "lib/steps.wgsl"
//% include "lib/code.wgsl"
//% endif
//% include "lib/dot_end.wgsl"
var<workgroup> wt: array<u32, {{ bn * stride }}>;
var<workgroup> xt: array<u32, {{ bm * stride }}>;
//% if not i.whole
var<workgroup> w_scale: array<f32, {{ bn * segments }}>;
//% if i.zero
var<workgroup> w_zero: array<f32, {{ bn * segments }}>;
//% endif
//% if s.biased
var<workgroup> w_bias: array<f32, {{ bn * segments }}>;
//% endif
//% endif
//% set sum_type = "i32" if i.whole else "f32"
//% if i.sums
var<workgroup> x_sum: array<{{ sum_type }}, {{ bm * segments }}>;
//% endif
//% if i.x_group
var<workgroup> x_scale: array<f32, {{ bm * chunks }}>;
//% endif

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    //% if s.table
    lut_load(tid);
    workgroupBarrier();
    bytes_load(tid);
    workgroupBarrier();
    //% endif
    let n_first = wid.x * {{ bn }}u;
    let m_first = wid.y * {{ bm }}u;
    let tn = tid % {{ threads_n }}u;
    let tm = tid / {{ threads_n }}u;
    //% for a in range(tm)
    //% for b in range(tn)
    var acc{{ a }}_{{ b }} = {{ sum_type }}(0);
    //% endfor
    //% if i.whole and i.zero
    var x_all{{ a }} = 0i;
    //% endif
    //% endfor
    let chunks = (p.k + 31u) / 32u;
    for (var c0 = 0u; c0 < chunks; c0 += {{ chunks }}u) {
        for (var item = tid; item < {{ (bn + bm) * chunks }}u; item += {{ workgroup }}u) {
            let local = item % {{ chunks }}u;
            let c = c0 + local;
            if item < {{ bn * chunks }}u {
                let n = item / {{ chunks }}u;
                let inside = n_first + n < p.n && c < chunks;
                let row = p.row0 + select(0u, n_first + n, inside);
                //% if y_int8
                let slot = n / {{ tn }}u + n % {{ tn }}u * {{ threads_n }}u;
                //% else
                let slot = n;
                //% endif
                var v: array<u32, 8>;
                if inside {
                    v = chunk_bytes(row, c);
                }
                //% for q in range(8)
                wt[slot * {{ stride }}u + local * 8u + {{ q }}u] = v[{{ q }}];
                //% endfor
                //% if not i.whole
                //% for t in range(subs)
                {
                    //% if s.group
                    let d = group_of(row, select(0u, min((c * 32u + {{ t * sub }}u) / {{ s.group }}u, p.groups - 1u), inside));
                    //% else
                    let d = group_of(row, 0u);
                    //% endif
                    let at = (local * {{ subs }}u + {{ t }}u) * {{ bn }}u + slot;
                    w_scale[at] = d.scale{{ " * " ~ i.unit if i.unit != 1.0 }};
                    //% if i.zero
                    w_zero[at] = d.zero - {{ i.fold }}.0;
                    //% endif
                    //% if s.biased
                    w_bias[at] = d.bias;
                    //% endif
                }
                //% endfor
                //% endif
            } else {
                let m = item / {{ chunks }}u - {{ bn }}u;
                let inside = m_first + m < p.m && c < chunks;
                var a = vec4<u32>();
                var b = vec4<u32>();
                if inside {
                    let at = (p.x_row0 + m_first + m) * p.x_stride + 2u * c;
                    a = x[at];
                    b = x[at + 1u];
                }
                let at = m * {{ stride }}u + local * 8u;
                //% for q in range(8)
                xt[at + {{ q }}u] = {{ "ab"[q // 4] }}.{{ "xyzw"[q % 4] }};
                //% endfor
                //% if i.sums
                //% for t in range(subs)
                {
                    var sum = 0i;
                    //% for q in range(t * words, (t + 1) * words)
                    sum += dot4I8Packed({{ "ab"[q // 4] }}.{{ "xyzw"[q % 4] }}, ONES);
                    //% endfor
                    x_sum[(local * {{ subs }}u + {{ t }}u) * {{ bm }}u + m] = {{ sum_type }}(sum);
                }
                //% endfor
                //% endif
                //% if i.x_group
                x_scale[local * {{ bm }}u + m] = select(0.0, x_scale_of(select(0u, m_first + m, inside), select(0u, 32u * c / {{ i.x_group }}u, inside)), inside);
                //% endif
            }
        }
        workgroupBarrier();
        //% if i.whole
        for (var q = 0u; q < {{ bk // 4 }}u; q++) {
            //% for b in range(tn)
            let w{{ b }} = wt[(tn + {{ b * threads_n }}u) * {{ stride }}u + q];
            //% endfor
            //% for a in range(tm)
            let x{{ a }} = xt[(tm + {{ a * threads_m }}u) * {{ stride }}u + q];
            //% for b in range(tn)
            acc{{ a }}_{{ b }} += dot4I8Packed(w{{ b }}, x{{ a }});
            //% endfor
            //% endfor
        }
        //% if i.zero
        for (var t = 0u; t < {{ segments }}u; t++) {
            //% for a in range(tm)
            x_all{{ a }} += x_sum[t * {{ bm }}u + tm + {{ a * threads_m }}u];
            //% endfor
        }
        //% endif
        //% else
        for (var t = 0u; t < {{ segments }}u; t++) {
            //% for a in range(tm)
            //% for b in range(tn)
            var sum{{ a }}_{{ b }} = 0i;
            //% endfor
            //% endfor
            for (var q = t * {{ words }}u; q < (t + 1u) * {{ words }}u; q++) {
                //% for b in range(tn)
                let w{{ b }} = wt[(tn + {{ b * threads_n }}u) * {{ stride }}u + q];
                //% endfor
                //% for a in range(tm)
                let x{{ a }} = xt[(tm + {{ a * threads_m }}u) * {{ stride }}u + q];
                //% for b in range(tn)
                sum{{ a }}_{{ b }} += dot4I8Packed(w{{ b }}, x{{ a }});
                //% endfor
                //% endfor
            }
            //% for b in range(tn)
            let at{{ b }} = t * {{ bn }}u + tn + {{ b * threads_n }}u;
            let scale{{ b }} = w_scale[at{{ b }}];
            //% if i.zero
            let zero{{ b }} = w_zero[at{{ b }}];
            //% endif
            //% if s.biased
            let bias{{ b }} = w_bias[at{{ b }}];
            //% endif
            //% endfor
            //% for a in range(tm)
            //% if i.sums
            let x_sum{{ a }} = x_sum[t * {{ bm }}u + tm + {{ a * threads_m }}u];
            //% endif
            //% if i.x_group
            let x_scale{{ a }} = x_scale[t / {{ subs }}u * {{ bm }}u + tm + {{ a * threads_m }}u];
            //% endif
            //% for b in range(tn)
            {
                //% if i.zero
                let part = scale{{ b }} * (f32(sum{{ a }}_{{ b }}) - zero{{ b }} * x_sum{{ a }}){{ " + bias" ~ b ~ " * x_sum" ~ a if s.biased }};
                //% else
                let part = scale{{ b }} * f32(sum{{ a }}_{{ b }}){{ " + bias" ~ b ~ " * x_sum" ~ a if s.biased }};
                //% endif
                acc{{ a }}_{{ b }} += {{ "x_scale" ~ a ~ " * " if i.x_group }}part;
            }
            //% endfor
            //% endfor
        }
        //% endif
        workgroupBarrier();
    }
    //% for a in range(tm)
    {
        let m = m_first + tm + {{ a * threads_m }}u;
        //% set x_arg = (", x_all" ~ a if i.zero else ", 0i") if i.whole else ""
        //% if y_int8
        let n = n_first + {{ tn }}u * tn;
        if m < p.m && n < p.n {
            var v: vec4<f32>;
            //% for b in range(tn)
            if n + {{ b }}u < p.n {
                v[{{ b }}u] = finished(m, n + {{ b }}u, dot_end(m, n + {{ b }}u, acc{{ a }}_{{ b }}{{ x_arg }}));
            }
            //% endfor
            store4(m, n, v);
        }
        //% else
        //% for b in range(tn)
        if m < p.m && n_first + tn + {{ b * threads_n }}u < p.n {
            let n = n_first + tn + {{ b * threads_n }}u;
            store(m, n, dot_end(m, n, acc{{ a }}_{{ b }}{{ x_arg }}));
        }
        //% endfor
        //% endif
    }
    //% endfor
}
