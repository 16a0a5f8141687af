// y[m, :] = x[m, :] / sqrt(sum of squares), a row of zeros stays one. A team owns a row.
//
// The row is first multiplied with the power of two that brings its largest magnitude to 1 .. 4, so that no square overflows or vanishes.
// Magnitudes below 2^-126 count as 0.
struct Params {
    rows: u32,
    // Entries of a row: vectors of four, or where D is no multiple of 4 single numbers.
    row_len: u32,
}
//% set number = "f32" if ragged else "vec4<f32>"
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<{{ number }}>;
@group(0) @binding(2) var<storage, read_write> y: array<{{ number }}>;

//% include "lib/grid.wgsl"
//% include "lib/total.wgsl"
//% set joins = ["sum", "top"]
//% include "lib/team_joins.wgsl"

fn largest(v: {{ number }}) -> f32 {
    //% if ragged
    return v;
    //% else
    return max(max(v.x, v.y), max(v.z, v.w));
    //% endif
}

//% include "lib/team.wgsl"
    let row = linear_workgroup(wid, count) * {{ workgroup // lanes }}u + team;
    // Rows beyond the last are computed again from the last and not stored.
    let base = min(row, p.rows - 1u) * p.row_len;
    var most = {{ number }}();
    for (var i = lane; i < p.row_len; i += {{ lanes }}u) {
        most = max(most, abs(x[base + i]));
    }
    let top = bitcast<u32>(team_top(largest(most), tid, lane));
    let unit = bitcast<f32>((254u - clamp(top >> 23u, 1u, 253u)) << 23u);
    var squares = {{ number }}();
    for (var i = lane; i < p.row_len; i += {{ lanes }}u) {
        let v = x[base + i] * unit;
        squares += v * v;
    }
    // At least 1, but in a row of zeros.
    let sum = max(team_sum(total(squares), tid, lane), 1.0);
    let scale = select(inverseSqrt(sum), 0.0, top < 0x00800000u);
    if row < p.rows {
        for (var i = lane; i < p.row_len; i += {{ lanes }}u) {
            y[base + i] = x[base + i] * unit * scale;
        }
    }
}
