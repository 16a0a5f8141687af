// y[m, n] = x[m, :] . w[n, :] for any M without workgroup memory: a thread owns `tn` weight rows and `tm` rows of x, operands come straight
// from global memory.
//
//   lane l: weight rows first + l, first + l + workgroup, ..  a chunk of 32 values each, decoded once for all rows of x
//           x: quad l of the chunk, of every row; the others' quads are broadcast within the subgroup (no subgroups: every thread reads all)
//
// Weights are decoded exactly, products fused into sums in f32, in order of K. Workgroup memory and barriers, which the tiled products live
// on, cost software adapters more than the arithmetic; loads are what they pay most for after that.
//% if f16
enable f16;
//% endif
struct Params {
    //% include "scheme/fields.wgsl"
    //% include "lib/product_fields.wgsl"
}
//% include "lib/product_bindings.wgsl"

//% include "scheme/weights.wgsl"
//% if not s.float
//% include "scheme/chunks.wgsl"
//% endif
//% include "lib/activations.wgsl"
//% include "lib/epilogue.wgsl"
@compute @workgroup_size({{ workgroup }})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    //% if lanes
    @builtin(subgroup_invocation_id) lane: u32,
    //% endif
    @builtin(local_invocation_index) tid: u32,
) {
    //% if s.table
    lut_load(tid);
    workgroupBarrier();
    //% endif
    // Rows beyond the last are computed again from the last and not stored.
    let n_first = wid.x * {{ workgroup * tn }}u + tid;
    let m_first = wid.y * {{ tm }}u;
    //% for r in range(tn)
    let row{{ r }} = p.row0 + min(n_first + {{ r * workgroup }}u, p.n - 1u);
    //% if not s.group and not s.float
    let g{{ r }}_0 = group_of(row{{ r }}, 0u);
    //% endif
    //% endfor
    //% for i in range(tm)
    let m{{ i }} = min(m_first + {{ i }}u, p.m - 1u);
    //% for r in range(tn)
    var acc{{ i }}_{{ r }} = 0.0;
    //% endfor
    //% endfor
    let chunks = (p.k + 31u) / 32u;
    for (var c = 0u; c < chunks; c++) {
        //% for r in range(tn)
        //% if s.float
        //% for j in range(8)
        let w{{ r }}_{{ j }} = quad_weights(row{{ r }}, c * 8u + {{ j }}u);
        //% endfor
        //% else
        //% if s.group
        //% for t in range(32 // s.sub)
        //% set g = "(c * 32u + " ~ t * s.sub ~ "u) / " ~ s.group ~ "u"
        //% if full
        let g{{ r }}_{{ t }} = group_of(row{{ r }}, {{ g }});
        //% else
        let g{{ r }}_{{ t }} = group_of(row{{ r }}, min({{ g }}, p.groups - 1u));
        //% endif
        //% endfor
        //% endif
        let codes{{ r }} = chunk_codes(row{{ r }}, c);
        //% for j in range(8)
        let w{{ r }}_{{ j }} = weights_of(g{{ r }}_{{ j * 4 // s.sub }}, unpack4xU8(codes{{ r }}[{{ j }}]));
        //% endfor
        //% endif
        //% endfor
        //% for i in range(tm)
        {
            //% if lanes
            //% for part in range(parts)
            let x{{ part }} = x_quad(m{{ i }}, c * 8u + {{ part * lanes }}u + lane % 8u);
            //% endfor
            //% endif
            //% for j in range(8)
            {
                //% if lanes
                let b = subgroupBroadcast(x{{ j * parts // 8 }}, {{ j % (8 // parts) }}u);
                //% else
                let b = x_quad(m{{ i }}, c * 8u + {{ j }}u);
                //% endif
                //% for r in range(tn)
                //% set w = "w" ~ r ~ "_" ~ j
                //% set acc = "acc" ~ i ~ "_" ~ r
                {{ acc }} = fma({{ w }}.w, b.w, fma({{ w }}.z, b.z, fma({{ w }}.y, b.y, fma({{ w }}.x, b.x, {{ acc }}))));
                //% endfor
            }
            //% endfor
        }
        //% endfor
    }
    //% for i in range(tm)
    //% for r in range(tn)
    if m_first + {{ i }}u < p.m && n_first + {{ r * workgroup }}u < p.n {
        store(m_first + {{ i }}u, n_first + {{ r * workgroup }}u, acc{{ i }}_{{ r }});
    }
    //% endfor
    //% endfor
}
