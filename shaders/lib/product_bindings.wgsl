@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read> w4: array<vec4<u32>>;
//% set x_at = 3
//% include "lib/x_binding.wgsl"
//% if y_f16
@group(0) @binding(4) var<storage, read_write> y: array<f16>;
//% else
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
//% endif
//% if bias or residual
@group(0) @binding(5) var<storage, read> e: array<f32>;
//% endif
