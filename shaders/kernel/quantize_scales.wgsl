// Dense f32 [rows, k] -> scales (and zero-points, biases) of each group, in the planes of the packed tensor.
//
//   mode thread     one thread per 4 consecutive groups, which fill whole words of the planes
//   mode rows       one workgroup per 4 consecutive groups (rows, or groups too long for a thread)
//   mode stats      per-tensor scales, first half: one workgroup per row stores its statistics in `t` [rows, 4]
//   mode tensor     second half: one workgroup joins the rows of `t`
//
// Codes are not chosen here. The planes have been zero: a word may also cover padding.
struct Params {
    //% include "scheme/fields.wgsl"
    total_groups: u32,
    // 1/n as f32 for full groups and for the short last group of a row.
    inv_full: f32,
    inv_last: f32,
    // C(q) of the encoder: the factor from the extreme to the scale.
    inv_steps: f32,
    // Of a tensor in several parts: the first row of this one, and all rows.
    t_first: u32,
    t_rows: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> w: array<u32>;
//% if mode in ["stats", "tensor"]
@group(0) @binding(3) var<storage, read_write> t: array<vec4<f32>>;
//% endif

//% include "lib/grid.wgsl"
//% include "lib/f16.wgsl"
//% include "scheme/encode.wgsl"
//% set enc = s.encoder
//% set wide = mode != "thread"
//% include "scheme/scales.wgsl"

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let team = linear_workgroup(wid, count);
    //% if mode == "stats"
    if team < p.rows {
        let r = stats_of(tid, team * p.k, p.k);
        if tid == 0u {
            t[p.t_first + team] = vec4<f32>(r.low, r.high, r.sum, 0.0);
        }
    }
    //% elif mode == "tensor"
    var mine = vec4<f32>();
    for (var i = tid; i < p.t_rows; i += 64u) {
        mine = join(mine, t[i]);
    }
    let r = reduce(tid, mine);
    if team == 0u && tid == 0u {
        let e = encode(r, p.inv_full, is_tiny(r));
        write(0u, vec4<u32>(e.x, 0u, 0u, 0u), vec4<u32>(e.y, 0u, 0u, 0u));
    }
    //% else
    //% if wide
    let first = team * 4u;
    //% else
    let first = (team * 64u + tid) * 4u;
    if first >= p.total_groups {
        return;
    }
    //% endif
    // A bound that compilers do not know keeps them from unrolling a loop in a loop, which took software drivers seconds; vectors, for these
    // they index without memory. A folded dispatch has workgroups with no group left.
    let left = min(4u, p.total_groups - min(first, p.total_groups));
    var scales = vec4<u32>();
    var zeros = vec4<u32>();
    for (var i = 0u; i < left; i++) {
        let g = first + i;
        let row = g / p.groups;
        let at = (g % p.groups) * {{ s.group }}u;
        //% if s.group
        let n = min({{ s.group }}u, p.k - at);
        //% else
        let n = p.k;
        //% endif
        let r = stats_of(tid, row * p.k + at, n);
        let e = encode(r, select(p.inv_last, p.inv_full, n == {{ s.group }}u), is_tiny(r));
        scales[i] = e.x;
        zeros[i] = e.y;
    }
    //% if wide
    if tid == 0u {
        write(first, scales, zeros);
    }
    //% else
    write(first, scales, zeros);
    //% endif
    //% endif
}
