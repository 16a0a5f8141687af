// y[m, n] = x[m, :] . w[n, :] for int8 activations, up to 8 rows of x in one pass over the weights; workgroups in z have more of them.
//
// A team of `lanes` threads owns `team_rows` weight rows; lane l takes chunks l, l + lanes, ... of 32 values. Codes, made into signed bytes,
// meet x four at a time. Sums of `sub` products that share their scales are exact integers.
//
//   wide       16-byte loads, no loops within a chunk; else loops over words of four, a fraction of the code to compile
//   whole      one scale for a row of weights and of x: integers over all of K
//   else       acc += x scale * (scale * (sum - zero * sum of x) + bias * sum of x), once per `sub` values
//
// The team's sums are then added, by the subgroup or through workgroup memory. Does not split K over workgroups.
//% if f16
enable f16;
//% endif
//% set sub = s.sub
//% set subs = 32 // sub
//% set words = sub // 4
struct Params {
    //% include "scheme/fields.wgsl"
    //% include "lib/product_fields.wgsl"
    //% include "lib/dot_fields.wgsl"
}
//% include "lib/dot_bindings.wgsl"

//% include "lib/grid.wgsl"
//% include "scheme/weights.wgsl"
//% if wide
//% include "scheme/chunks.wgsl"
//% endif
//% include "scheme/bytes.wgsl"
//% include "lib/epilogue.wgsl"
//% if y_int8
//% include "lib/steps.wgsl"
//% include "lib/code.wgsl"
//% endif
//% include "lib/dot_end.wgsl"
//% set acc_type = "i32" if i.whole else "f32"
//% set teams = workgroup // lanes
//% if not subgroups
var<workgroup> sums: array<{{ acc_type }}, {{ workgroup * (team_rows * m + (m if i.whole and i.zero else 0)) }}>;
//% endif

//% include "lib/team.wgsl"
    //% if s.table
    lut_load(tid);
    workgroupBarrier();
    bytes_load(tid);
    workgroupBarrier();
    //% endif
    let first = (linear_workgroup(wid, count) * {{ teams }}u + team) * {{ team_rows }}u;
    let m_first = wid.z * {{ m }}u;
    // Rows beyond the last are computed again from the last and not stored.
    //% for r in range(team_rows)
    let row{{ r }} = p.row0 + min(first + {{ r }}u, p.n - 1u);
    //% if not s.group and not i.whole
    let g{{ r }} = group_of(row{{ r }}, 0u);
    //% endif
    //% for j in range(m)
    var acc{{ r }}_{{ j }}: {{ acc_type }} = {{ acc_type }}(0);
    //% endfor
    //% endfor
    //% if i.whole and i.zero
    //% for j in range(m)
    var x_sum{{ j }} = 0i;
    //% endfor
    //% endif
    //% for j in range(m)
    let m{{ j }} = min(m_first + {{ j }}u, p.m - 1u);
    //% endfor
    let chunks = (p.k + 31u) / 32u;
    for (var c = lane; c < chunks; c += {{ lanes }}u) {
        //% for j in range(m)
        let at{{ j }} = (p.x_row0 + m{{ j }}) * p.x_stride + 2u * c;
        //% if i.x_group
        let x_scale{{ j }} = x_scale_of(m{{ j }}, (32u * c) / {{ i.x_group }}u);
        //% endif
        //% endfor
        //% if wide
        //% for j in range(m)
        let x{{ j }}_0 = x[at{{ j }}];
        let x{{ j }}_1 = x[at{{ j }} + 1u];
        //% endfor
        //% for r in range(team_rows)
        let v{{ r }} = chunk_bytes(row{{ r }}, c);
        //% endfor
        //% set steps = subs
        //% else
        for (var t = 0u; t < {{ subs }}u; t++)
        //% set steps = 1
        //% endif
        //% for t in range(steps)
        {
            //% set first = t * words
            //% for j in range(m)
            //% if i.sums
            var x_part{{ j }} = 0i;
            //% endif
            //% for r in range(team_rows)
            var sum{{ r }}_{{ j }} = 0i;
            //% endfor
            //% endfor
            //% if wide
            //% for q in range(first, first + words)
            //% for j in range(m)
            //% set x_word = "x" ~ j ~ "_" ~ q // 4 ~ "." ~ "xyzw"[q % 4]
            //% if i.sums
            x_part{{ j }} += dot4I8Packed({{ x_word }}, ONES);
            //% endif
            //% for r in range(team_rows)
            sum{{ r }}_{{ j }} += dot4I8Packed(v{{ r }}[{{ q }}], {{ x_word }});
            //% endfor
            //% endfor
            //% endfor
            //% else
            for (var q = t * {{ words }}u; q < (t + 1u) * {{ words }}u; q++) {
                //% for r in range(team_rows)
                let v{{ r }} = signed_bytes(quad_bytes(row{{ r }}, 8u * c + q));
                //% endfor
                //% for j in range(m)
                let x{{ j }} = x[at{{ j }} + (q >> 2u)][q & 3u];
                //% if i.sums
                x_part{{ j }} += dot4I8Packed(x{{ j }}, ONES);
                //% endif
                //% for r in range(team_rows)
                sum{{ r }}_{{ j }} += dot4I8Packed(v{{ r }}, x{{ j }});
                //% endfor
                //% endfor
            }
            //% endif
            //% if i.whole
            //% for j in range(m)
            //% if i.zero
            x_sum{{ j }} += x_part{{ j }};
            //% endif
            //% for r in range(team_rows)
            acc{{ r }}_{{ j }} += sum{{ r }}_{{ j }};
            //% endfor
            //% endfor
            //% else
            //% set column = "c * 32u + " ~ (first * 4 ~ "u" if wide else "t * " ~ sub ~ "u")
            //% if s.group
            //% if full
            let g = ({{ column }}) / {{ s.group }}u;
            //% else
            let g = min(({{ column }}) / {{ s.group }}u, p.groups - 1u);
            //% endif
            //% endif
            //% for r in range(team_rows)
            {
                //% if s.group
                let d = group_of(row{{ r }}, g);
                //% else
                let d = g{{ r }};
                //% endif
                let scale = d.scale{{ " * " ~ i.unit if i.unit != 1.0 }};
                //% for j in range(m)
                {
                    //% if i.zero
                    let part = scale * (f32(sum{{ r }}_{{ j }}) - (d.zero - {{ i.fold }}.0) * f32(x_part{{ j }})){{ " + d.bias * f32(x_part" ~ j ~ ")" if s.biased }};
                    //% else
                    let part = scale * f32(sum{{ r }}_{{ j }}){{ " + d.bias * f32(x_part" ~ j ~ ")" if s.biased }};
                    //% endif
                    acc{{ r }}_{{ j }} += {{ "x_scale" ~ j ~ " * " if i.x_group }}part;
                }
                //% endfor
            }
            //% endfor
            //% endif
        }
        //% endfor
    }
    //% if subgroups
    //% if i.whole and i.zero
    //% for j in range(m)
    let x_all{{ j }} = subgroupAdd(x_sum{{ j }});
    //% endfor
    //% endif
    //% for r in range(team_rows)
    //% for j in range(m)
    let sum{{ r }}_{{ j }} = subgroupAdd(acc{{ r }}_{{ j }});
    //% endfor
    //% endfor
    if lane == 0u {
        //% for j in range(m)
        //% set x_arg = (", x_all" ~ j if i.zero else ", 0i") if i.whole else ""
        //% if y_int8
        if first < p.n && m_first + {{ j }}u < p.m {
            var v: vec4<f32>;
            //% for r in range(team_rows)
            if first + {{ r }}u < p.n {
                v[{{ r }}u] = finished(m{{ j }}, first + {{ r }}u, dot_end(m{{ j }}, first + {{ r }}u, sum{{ r }}_{{ j }}{{ x_arg }}));
            }
            //% endfor
            store4(m{{ j }}, first, v);
        }
        //% else
        //% for r in range(team_rows)
        if first + {{ r }}u < p.n && m_first + {{ j }}u < p.m {
            store(m{{ j }}, first + {{ r }}u, dot_end(m{{ j }}, first + {{ r }}u, sum{{ r }}_{{ j }}{{ x_arg }}));
        }
        //% endfor
        //% endif
        //% endfor
    }
    //% else
    //% for r in range(team_rows)
    //% for j in range(m)
    sums[{{ (r * m + j) * workgroup }}u + tid] = acc{{ r }}_{{ j }};
    //% endfor
    //% endfor
    //% set outputs = team_rows * m
    //% if i.whole and i.zero
    //% for j in range(m)
    sums[{{ (outputs + j) * workgroup }}u + tid] = x_sum{{ j }};
    //% endfor
    //% endif
    workgroupBarrier();
    for (var half_lanes = {{ lanes // 2 }}u; half_lanes > 0u; half_lanes >>= 1u) {
        if lane < half_lanes {
            //% for o in range(outputs + (m if i.whole and i.zero else 0))
            sums[{{ o * workgroup }}u + tid] += sums[{{ o * workgroup }}u + tid + half_lanes];
            //% endfor
        }
        workgroupBarrier();
    }
    let at = team * {{ lanes }}u;
    //% set x_arg = (", sums[(" ~ outputs ~ "u + j) * " ~ workgroup ~ "u + at]" if i.zero else ", 0i") if i.whole else ""
    //% if y_int8
    if lane < {{ m }}u && first < p.n && m_first + lane < p.m {
        let j = lane;
        var v: vec4<f32>;
        for (var r = 0u; r < {{ team_rows }}u; r++) {
            if first + r < p.n {
                v[r] = finished(m_first + j, first + r, dot_end(m_first + j, first + r, sums[(r * {{ m }}u + j) * {{ workgroup }}u + at]{{ x_arg }}));
            }
        }
        store4(m_first + j, first, v);
    }
    //% else
    for (var o = lane; o < {{ outputs }}u; o += {{ lanes }}u) {
        let n = first + o / {{ m }}u;
        let j = o % {{ m }}u;
        if n < p.n && m_first + j < p.m {
            store(m_first + j, n, dot_end(m_first + j, n, sums[o * {{ workgroup }}u + at]{{ x_arg }}));
        }
    }
    //% endif
    //% endif
}
