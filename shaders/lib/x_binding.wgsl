//% if (ragged or s.permuted) and x_f16
@group(0) @binding({{ x_at }}) var<storage, read> x: array<u32>;
//% elif ragged or s.permuted
@group(0) @binding({{ x_at }}) var<storage, read> x: array<f32>;
//% elif x_f16 and f16
@group(0) @binding({{ x_at }}) var<storage, read> x: array<vec4<f16>>;
//% elif x_f16
@group(0) @binding({{ x_at }}) var<storage, read> x: array<vec2<u32>>;
//% else
@group(0) @binding({{ x_at }}) var<storage, read> x: array<vec4<f32>>;
//% endif
