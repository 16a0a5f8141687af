@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read> w4: array<vec4<u32>>;
// int8 activations: rows of codes, then scales.
@group(0) @binding(3) var<storage, read> x: array<vec4<u32>>;
//% if y_int8
@group(0) @binding(4) var<storage, read_write> y: array<u32>;
//% elif y_f16
@group(0) @binding(4) var<storage, read_write> y: array<f16>;
//% else
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
//% endif
//% if bias or residual
@group(0) @binding(5) var<storage, read> e: array<f32>;
//% endif
//% if i.x_zero
// Sums of the weights' rows: of integers where `i.whole`.
@group(0) @binding({{ 6 if bias or residual else 5 }}) var<storage, read> row_sums: array<f32>;
//% endif

const ONES = 0x01010101u;

//% if i.x_scales
fn x_scale_of(m: u32, g: u32) -> f32 {
    let at = p.x_scales + (p.x_row0 + m) * p.x_groups + g;
    return bitcast<f32>(x[at >> 2u][at & 3u]);
}
//% endif
