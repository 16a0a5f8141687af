// A number on an integer grid: the rule of `scheme::grid`. `p` has first and last.
//% include "lib/steps.wgsl"

// How far codes reach on x's side of 0.
fn limit_of(x: f32, zero: f32) -> f32 {
    return select(p.last - zero, zero - p.first, x < 0.0);
}

// The code less the zero-point.
fn code_of(x: f32, unit: f32, limit: f32) -> f32 {
    let q = steps(abs(x), unit, limit);
    return select(q, -q, x < 0.0);
}

fn is_inside(x: f32, unit: f32, limit: f32) -> bool {
    return abs(x) < limit * unit;
}
