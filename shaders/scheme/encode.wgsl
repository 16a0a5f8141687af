// Numbers -> scales and codes: the shared arithmetic of the quantize kernels. The rules are those of `scheme::Encoder`.

//% if s.encoder == "minmax_zero"
// The largest integer q <= q_max with q = 0 or ((q - 0.5) - zero) * s <= v.
fn steps_from(v: f32, s: f32, zero: f32, q_max: f32) -> f32 {
    var q = clamp(floor(v / s + zero + 0.5), 0.0, q_max);
    if q > 0.0 && ((q - 0.5) - zero) * s > v {
        q -= 1.0;
    }
    if q < q_max && ((q + 0.5) - zero) * s <= v {
        q += 1.0;
    }
    return q;
}
//% endif

//% include "lib/steps.wgsl"
