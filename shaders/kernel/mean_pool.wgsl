// y[b, :] = mean of x[t, :] over the tokens t of sentence b.
//
// A workgroup has `columns` entries of a sentence's row: `workgroup / columns` threads each, which take turns with the tokens; their sums meet in
// workgroup memory.
struct Params {
    sentences: u32,
    // Entries of a row: vectors of four, or where D is no multiple of 4 single numbers.
    row_len: u32,
}
//% set number = "f32" if ragged else "vec4<f32>"
//% set strides = workgroup // columns
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<{{ number }}>;
// [B]: first token, the token behind the last, the bits of 1 / length, 0.
@group(0) @binding(2) var<storage, read> spans: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> y: array<{{ number }}>;

var<workgroup> sums: array<{{ number }}, {{ workgroup }}>;

//% include "lib/grid.wgsl"

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let parts = (p.row_len + {{ columns - 1 }}u) / {{ columns }}u;
    let number = linear_workgroup(wid, count);
    let sentence = number / parts;
    if sentence >= p.sentences {
        return;
    }
    let i = (number % parts) * {{ columns }}u + tid % {{ columns }}u;
    let span = spans[sentence];
    var sum = {{ number }}();
    if i < p.row_len {
        for (var t = span.x + tid / {{ columns }}u; t < span.y; t += {{ strides }}u) {
            sum += x[t * p.row_len + i];
        }
    }
    sums[tid] = sum;
    workgroupBarrier();
    for (var half_group = {{ workgroup // 2 }}u; half_group >= {{ columns }}u; half_group >>= 1u) {
        if tid < half_group {
            sums[tid] += sums[tid + half_group];
        }
        workgroupBarrier();
    }
    if tid < {{ columns }}u && i < p.row_len {
        y[sentence * p.row_len + i] = sums[tid] * bitcast<f32>(span.z);
    }
}
