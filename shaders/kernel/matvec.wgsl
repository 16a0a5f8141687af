// y[m, n] = x[m, :] . w[n, :] for M of 1 to 16, all rows of x in one pass over the weights.
//
// A team of `lanes` threads owns `team_rows` weight rows; lane l takes chunks l, l + lanes, ... of 32 values, neighbours beside each
// other; `wide`: its codes in one or two loads of 16 bytes. The team's sums are then added, by the subgroup or through workgroup memory.
//
//   F32          acc += scale * (sum value * x - zero * sum x) + bias * sum x, once per `sub` values that share a group; `whole`: of values
//                that are weights already
//   F16          weights decoded and rounded to f16, products and sums in f16
//   F16Chunked   the same within `sub` (at most 32) values, f32 between
//
//   split        workgroups of one z sum `k_part` chunks of K
//% if f16
enable f16;
//% endif
//% set sub = s.sub
//% set subs = 32 // sub
struct Params {
    //% include "scheme/fields.wgsl"
    //% include "lib/product_fields.wgsl"
}
//% include "lib/product_bindings.wgsl"

//% include "lib/grid.wgsl"
//% include "scheme/weights.wgsl"
//% set wide = unrolled and full and s.kind == "linear"
//% if wide
//% include "scheme/chunks.wgsl"
//% endif
//% include "lib/activations.wgsl"
//% include "lib/epilogue.wgsl"
//% set half = accumulate != "f32"
//% set whole = s.float or s.kind == "tables"
//% set vector = "vec4<f16>" if half else "vec4<f32>"
//% set acc_type = "f16" if accumulate == "f16" else "f32"
//% set teams = workgroup // lanes
//% if not subgroups
var<workgroup> sums: array<{{ acc_type }}, {{ workgroup * team_rows * m }}>;
//% endif

//% if not half
fn sum4(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}
//% endif


//% include "lib/team.wgsl"
    //% if s.table
    lut_load(tid);
    workgroupBarrier();
    //% endif
    let first = (linear_workgroup(wid, count) * {{ teams }}u + team) * {{ team_rows }}u;
    // Rows beyond the last are computed again from the last and not stored.
    //% for r in range(team_rows)
    let row{{ r }} = p.row0 + min(first + {{ r }}u, p.n - 1u);
    //% if not s.group and not s.float
    let g{{ r }} = group_of(row{{ r }}, 0u);
    //% endif
    //% for i in range(m)
    var acc{{ r }}_{{ i }}: {{ acc_type }} = 0.0;
    //% endfor
    //% endfor
    //% include "lib/k_range.wgsl"
    for (var c = first_chunk + lane; c < chunks; c += {{ lanes }}u) {
        //% if wide
        //% for r in range(team_rows)
        let codes{{ r }} = chunk_codes(row{{ r }}, c);
        //% endfor
        //% endif
        //% for t in range(subs if wide else 1)
        //% if wide
        {
            let t = {{ t }}u;
        //% else
        for (var t = 0u; t < {{ subs }}u; t++) {
        //% endif
            //% if s.group
            //% if full
            let g = (c * 32u + t * {{ sub }}u) / {{ s.group }}u;
            //% else
            let g = min((c * 32u + t * {{ sub }}u) / {{ s.group }}u, p.groups - 1u);
            //% endif
            //% endif
            //% for r in range(team_rows)
            //% for i in range(m)
            //% if accumulate == "f16chunked"
            var part{{ r }}_{{ i }}: f16 = 0.0;
            //% elif not half
            var part{{ r }}_{{ i }} = 0.0;
            //% endif
            //% endfor
            //% endfor
            //% if not half and s.zeroed
            //% for i in range(m)
            var sx{{ i }} = 0.0;
            //% endfor
            //% endif
            //% for j in range(sub // 4 if wide else 1)
            //% if wide
            {
                let j = {{ j }}u;
            //% else
            // Constant counts: drivers unroll.
            for (var j = 0u; j < {{ sub // 4 }}u; j++) {
            //% endif
                let q = c * 8u + t * {{ sub // 4 }}u + j;
                //% for i in range(m)
                let x{{ i }} = x_quad({{ i }}u, q);
                //% if half
                let h{{ i }} = vec4<f16>(x{{ i }});
                //% elif s.zeroed
                sx{{ i }} += sum4(x{{ i }});
                //% endif
                //% endfor
                //% for r in range(team_rows)
                {
                    //% if s.float
                    let v = {{ vector }}(quad_weights(row{{ r }}, q));
                    //% else
                    //% if wide
                    let codes = unpack4xU8(codes{{ r }}[{{ t * sub // 4 + j }}]);
                    //% else
                    let codes = quad_codes(row{{ r }}, q);
                    //% endif
                    //% if not half and not whole
                    let v = quad_values(codes);
                    //% elif s.group
                    let v = {{ vector }}(weights_of(group_of(row{{ r }}, g), codes));
                    //% else
                    let v = {{ vector }}(weights_of(g{{ r }}, codes));
                    //% endif
                    //% endif
                    //% for i in range(m)
                    //% if accumulate == "f16"
                    acc{{ r }}_{{ i }} += dot(v, h{{ i }});
                    //% elif half
                    part{{ r }}_{{ i }} += dot(v, h{{ i }});
                    //% else
                    part{{ r }}_{{ i }} += dot(v, x{{ i }});
                    //% endif
                    //% endfor
                }
                //% endfor
            }
            //% endfor
            //% for r in range(team_rows)
            //% if accumulate == "f16chunked"
            //% for i in range(m)
            acc{{ r }}_{{ i }} += f32(part{{ r }}_{{ i }});
            //% endfor
            //% elif not half
            {
                //% if whole
                //% elif s.group
                let d = group_of(row{{ r }}, g);
                //% else
                let d = g{{ r }};
                //% endif
                //% for i in range(m)
                //% if whole
                acc{{ r }}_{{ i }} += part{{ r }}_{{ i }};
                //% elif s.biased
                acc{{ r }}_{{ i }} += d.scale * (part{{ r }}_{{ i }} - d.zero * sx{{ i }}) + d.bias * sx{{ i }};
                //% elif s.zeroed
                acc{{ r }}_{{ i }} += d.scale * (part{{ r }}_{{ i }} - d.zero * sx{{ i }});
                //% else
                acc{{ r }}_{{ i }} += d.scale * part{{ r }}_{{ i }};
                //% endif
                //% endfor
            }
            //% endif
            //% endfor
        }
        //% endfor
    }
    //% if subgroups
    //% for r in range(team_rows)
    //% for i in range(m)
    let sum{{ r }}_{{ i }} = subgroupAdd(acc{{ r }}_{{ i }});
    if lane == 0u && first + {{ r }}u < p.n {
        store({{ i }}u, first + {{ r }}u, f32(sum{{ r }}_{{ i }}));
    }
    //% endfor
    //% endfor
    //% else
    //% for r in range(team_rows)
    //% for i in range(m)
    sums[{{ (r * m + i) * workgroup }}u + tid] = acc{{ r }}_{{ i }};
    //% endfor
    //% endfor
    workgroupBarrier();
    for (var half_lanes = {{ lanes // 2 }}u; half_lanes > 0u; half_lanes >>= 1u) {
        if lane < half_lanes {
            //% if m <= 8
            //% for o in range(team_rows * m)
            sums[{{ o * workgroup }}u + tid] += sums[{{ o * workgroup }}u + tid + half_lanes];
            //% endfor
            //% else
            // A loop: in a row they would take software longer to compile than all the rest.
            for (var o = tid; o < {{ team_rows * m * workgroup }}u; o += {{ workgroup }}u) {
                sums[o] += sums[o + half_lanes];
            }
            //% endif
        }
        workgroupBarrier();
    }
    for (var o = lane; o < {{ team_rows * m }}u; o += {{ lanes }}u) {
        let n = first + o / {{ m }}u;
        if n < p.n {
            store(o % {{ m }}u, n, f32(sums[o * {{ workgroup }}u + team * {{ lanes }}u]));
        }
    }
    //% endif
}
