// Keys and values of new tokens, f32, to the window of a cache, f16 rounded to nearest even: see src/kv.rs. A thread has two columns of a token.
struct Params {
    // Of k and v: the first token, and how many.
    start: u32,
    tokens: u32,
    // Words of a token.
    row: u32,
    // Slot of the first token.
    slot: u32,
    window: u32,
    window_keys: u32,
    window_values: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
// [.., 2 * row]
@group(0) @binding(1) var<storage, read> k: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> cache: array<u32>;

//% include "lib/grid.wgsl"
//% include "lib/f16.wgsl"

fn halves(v: vec2<f32>) -> u32 {
    return f16_bits(v.x) | (f16_bits(v.y) << 16u);
}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let i = linear_workgroup(wid, count) * {{ workgroup }}u + tid;
    if i >= p.tokens * p.row {
        return;
    }
    let at = (p.slot + i / p.row) % p.window * p.row + i % p.row;
    let source = p.start * p.row + i;
    cache[p.window_keys + at] = halves(k[source]);
    cache[p.window_values + at] = halves(v[source]);
}
