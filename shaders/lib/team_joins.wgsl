// What the threads of a team have, joined and given to all of them: by the subgroup, or through workgroup memory. Every thread of the workgroup
// has to come here.
//
// `joins`: which of "sum" and "top" (the largest) there are.
//% if not subgroups
var<workgroup> joined: array<f32, {{ workgroup }}>;
//% endif
//% for name, builtin, of_two in [["sum", "subgroupAdd", "a + b"], ["top", "subgroupMax", "max(a, b)"]]
//% if name in joins

fn team_{{ name }}(v: f32, tid: u32, lane: u32) -> f32 {
    //% if subgroups
    return {{ builtin }}(v);
    //% else
    joined[tid] = v;
    workgroupBarrier();
    for (var half_lanes = {{ lanes // 2 }}u; half_lanes > 0u; half_lanes >>= 1u) {
        if lane < half_lanes {
            let a = joined[tid];
            let b = joined[tid + half_lanes];
            joined[tid] = {{ of_two }};
        }
        workgroupBarrier();
    }
    let of_all = joined[tid - lane];
    workgroupBarrier();
    return of_all;
    //% endif
}
//% endif
//% endfor
