// Packed weights -> dense f32 or f16, row-major [rows, k]. One thread writes four consecutive numbers.
//
// Ragged k: the four may lie in two or more rows, so each is decoded by itself. Permuted columns: the four are consecutive where they are
// stored, and each goes to its column; only as f32, since two f16 share a word.
struct Params {
    //% include "scheme/fields.wgsl"
    // First row to write, number of groups of four.
    row0: u32,
    quads: u32,
    elements: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read> w4: array<vec4<u32>>;
//% if out_f16
@group(0) @binding(3) var<storage, read_write> y: array<vec2<u32>>;
//% elif ragged or s.permuted
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
//% else
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
//% endif

//% include "lib/grid.wgsl"
//% if out_f16
//% include "lib/f16.wgsl"
//% endif
//% include "scheme/weights.wgsl"

//% if ragged
fn number(i: u32) -> f32 {
    if i >= p.elements {
        return 0.0;
    }
    let col = i % p.k;
    return quad_weights(p.row0 + i / p.k, col >> 2u)[col & 3u];
}
//% endif

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    //% if s.table
    lut_load(tid);
    workgroupBarrier();
    //% endif
    let i = linear_workgroup(wid, count) * {{ workgroup }}u + tid;
    if i >= p.quads {
        return;
    }
    //% if ragged
    let v = vec4<f32>(number(4u * i), number(4u * i + 1u), number(4u * i + 2u), number(4u * i + 3u));
    //% else
    let per_row = p.k >> 2u;
    let v = quad_weights(p.row0 + i / per_row, i % per_row);
    //% endif
    //% if out_f16
    y[i] = vec2<u32>(f16_bits(v.x) | (f16_bits(v.y) << 16u), f16_bits(v.z) | (f16_bits(v.w) << 16u));
    //% elif s.permuted
    for (var j = 0u; j < 4u; j++) {
        let at = 4u * i + j;
        if at < p.elements {
            let position = at % p.k;
            y[at - position + w[p.perm + position]] = v[j];
        }
    }
    //% elif ragged
    for (var j = 0u; j < 4u; j++) {
        if 4u * i + j < p.elements {
            y[4u * i + j] = v[j];
        }
    }
    //% else
    y[i] = v;
    //% endif
}
