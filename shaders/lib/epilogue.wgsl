// The end of a product: + bias[n] + residual[m, n], then a function; stored as f32 or (f16 tier) f16.
//
// `split`: the sums of a part of K, as f32 [part, M, N], which `kernel/sum_parts.wgsl` adds up and finishes.
//
// `e` holds the bias [N] from p.bias_at and the residual [M, N] from p.residual_at, both f32.
//% if not split
//% if function == "gelu"
//% include "lib/erf.wgsl"
//% endif

fn finished(m: u32, n: u32, sum: f32) -> f32 {
    var v = sum;
    //% if bias
    v += e[p.bias_at + p.n0 + n];
    //% endif
    //% if residual
    v += e[p.residual_at + m * p.n_total + p.n0 + n];
    //% endif
    //% if function == "straight"
    v = select(v, 0.0, p.relu != 0u && v < 0.0);
    //% elif function == "gelu"
    v = 0.5 * v * (1.0 + erf(v * 0.70710678));
    //% elif function == "silu"
    v = v / (1.0 + exp(-v));
    //% endif
    return v;
}
//% endif
//% if not y_int8

//% if split
var<private> part: u32;

fn store(m: u32, n: u32, sum: f32) {
    y[(part * p.m + m) * p.n_total + p.n0 + n] = sum;
}
//% else
fn store(m: u32, n: u32, sum: f32) {
    let at = m * p.n_total + p.n0 + n;
    //% if y_f16
    y[at] = f16(finished(m, n, sum));
    //% else
    y[at] = finished(m, n, sum);
    //% endif
}
//% endif
//% endif
