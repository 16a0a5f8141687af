// y[m, :] = (x[m, :] - mean) / sqrt(variance + eps) * gamma + beta. A team owns a row, and goes through it three times: for the mean, for the
// mean of the squared differences from it, and for y.
struct Params {
    rows: u32,
    // Entries of a row: vectors of four, or where D is no multiple of 4 single numbers.
    row_len: u32,
    // 1 / D.
    share: f32,
    eps: f32,
}
//% set number = "f32" if ragged else "vec4<f32>"
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<{{ number }}>;
@group(0) @binding(2) var<storage, read> gamma: array<{{ number }}>;
@group(0) @binding(3) var<storage, read> beta: array<{{ number }}>;
@group(0) @binding(4) var<storage, read_write> y: array<{{ number }}>;

//% include "lib/grid.wgsl"
//% include "lib/total.wgsl"
//% set joins = ["sum"]
//% include "lib/team_joins.wgsl"

//% include "lib/team.wgsl"
    let row = linear_workgroup(wid, count) * {{ workgroup // lanes }}u + team;
    // Rows beyond the last are computed again from the last and not stored.
    let base = min(row, p.rows - 1u) * p.row_len;
    var sum = {{ number }}();
    for (var i = lane; i < p.row_len; i += {{ lanes }}u) {
        sum += x[base + i];
    }
    let mean = team_sum(total(sum), tid, lane) * p.share;
    var squares = {{ number }}();
    for (var i = lane; i < p.row_len; i += {{ lanes }}u) {
        let v = x[base + i] - {{ number }}(mean);
        squares += v * v;
    }
    let variance = team_sum(total(squares), tid, lane) * p.share;
    let scale = inverseSqrt(variance + p.eps);
    if row < p.rows {
        for (var i = lane; i < p.row_len; i += {{ lanes }}u) {
            y[base + i] = (x[base + i] - {{ number }}(mean)) * scale * gamma[i] + beta[i];
        }
    }
}
