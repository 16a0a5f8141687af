// Multi-head attention within sentences: y[t] = softmax(q[t] . k / sqrt(head size)) v, for each head, over the tokens of t's sentence.
//
// A workgroup has a head and up to `tokens` tokens of one sentence; a thread has one of them: its q, its sum of v and its sum of weights are in
// registers. It goes through the sentence once, `block` tokens at a time: where one of them has a higher score than those before, what has been summed
// is scaled down first, so that weights are at most 1. All threads of a token's row of them read the same k and v.
//
//   `quads`    vectors of four that a thread has of a head; the last one is filled up with zeros where the head has other sizes (`ragged`)
//   `slices`   a head of more columns than fit registers is cut: each of so many rows of `tokens` threads has a slice, and the scores of slices
//              meet in workgroup memory; else there is no workgroup memory and no barrier
//   `block`    four tokens, whose loads and products do not wait for each other, or one: software takes long to compile what is in a row
struct Params {
    // Tiles of tokens, of all sentences together.
    tiles: u32,
    heads: u32,
    // From token to token: vectors of four, or single numbers if ragged.
    row_len: u32,
    // 1 / sqrt(head size).
    scale: f32,
}
//% set number = "f32" if ragged else "vec4<f32>"
//% set head_len = head if ragged else head // 4
//% set scored = "f32" if block == 1 else "vec4<f32>"
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<{{ number }}>;
@group(0) @binding(2) var<storage, read> k: array<{{ number }}>;
@group(0) @binding(3) var<storage, read> v: array<{{ number }}>;
// Of each tile: its first token, the first one of its sentence, the one behind the sentence, 0.
@group(0) @binding(4) var<storage, read> tiles: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> y: array<{{ number }}>;
//% if slices > 1
// Of a block of tokens, by each thread.
var<workgroup> scores: array<{{ scored }}, {{ tokens * slices }}>;
//% endif

//% include "lib/grid.wgsl"
// Columns 4i .. 4i+3 of a thread's part of the head that begins at `base`. Of slices, columns beyond the head are its last one again.
//% macro quad(of, base, i)
//% if slices > 1 and ragged
vec4<f32>(
    //% for c in range(4)
        {{ of }}[{{ base }} + min(first + {{ 4 * i + c }}u, {{ head - 1 }}u)],
    //% endfor
    )
//% elif slices > 1
{{ of }}[{{ base }} + min(first + {{ i }}u, {{ head_len - 1 }}u)]
//% elif ragged
vec4<f32>(
    //% for c in range(4)
        {{ of ~ "[" ~ base ~ " + " ~ (4 * i + c) ~ "u]" if 4 * i + c < head else "0.0" }},
    //% endfor
    )
//% else
{{ of }}[{{ base }} + {{ i }}u]
//% endif
//% endmacro

@compute @workgroup_size({{ tokens * slices }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let number = linear_workgroup(wid, count);
    if number >= p.tiles * p.heads {
        return;
    }
    let tile = tiles[number / p.heads];
    let column = (number % p.heads) * {{ head_len }}u;
    let last = tile.z - 1u;
    //% if slices > 1
    let token = tile.x + tid % {{ tokens }}u;
    let first = tid / {{ tokens }}u * {{ 4 * quads if ragged else quads }}u;
    // Threads beyond the sentence have its last token, and come to the barriers.
    let own = min(token, last) * p.row_len + column;
    //% else
    let token = tile.x + tid;
    if token > last {
        return;
    }
    let own = token * p.row_len + column;
    //% endif
    //% for i in range(quads)
    //% if slices > 1
    let all{{ i }} = {{ quad("q", "own", i) | trim }} * p.scale;
    //% if ragged
    let q{{ i }} = select(vec4<f32>(), all{{ i }}, first + {{ 4 * i }}u + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>({{ head }}u));
    //% else
    let q{{ i }} = select(vec4<f32>(), all{{ i }}, first + {{ i }}u < {{ head_len }}u);
    //% endif
    //% else
    let q{{ i }} = {{ quad("q", "own", i) | trim }} * p.scale;
    //% endif
    var y{{ i }} = vec4<f32>();
    //% endfor
    var top = 0.0;
    var sum = 0.0;
    for (var j = tile.y; j < tile.z; j += {{ block }}u) {
        var s = {{ scored }}();
        //% if block == 1
        let at = j * p.row_len + column;
        //% for i in range(quads)
        s += dot(q{{ i }}, {{ quad("k", "at", i) | trim }});
        //% endfor
        //% else
        // Tokens beyond the last are the last one again, with a weight of 0.
        let at = min(vec4<u32>(j, j + 1u, j + 2u, j + 3u), vec4<u32>(last)) * p.row_len + column;
        //% for c in "xyzw"
        let at_{{ c }} = at.{{ c }};
        //% for i in range(quads)
        s.{{ c }} += dot(q{{ i }}, {{ quad("k", "at_" ~ c, i) | trim }});
        //% endfor
        //% endfor
        //% endif
        //% if slices > 1
        scores[tid] = s;
        workgroupBarrier();
        s = scores[tid % {{ tokens }}u];
        //% for slice in range(1, slices)
        s += scores[tid % {{ tokens }}u + {{ slice * tokens }}u];
        //% endfor
        workgroupBarrier();
        //% endif
        // The highest score so far; of the first token to begin with.
        if j == tile.y {
            top = s{{ "" if block == 1 else ".x" }};
        }
        //% if block == 1
        let higher = max(top, s);
        let weight = exp(s - higher);
        let down = exp(top - higher);
        sum = sum * down + weight;
        //% for i in range(quads)
        y{{ i }} = y{{ i }} * down + weight * {{ quad("v", "at", i) | trim }};
        //% endfor
        //% else
        let higher = max(top, max(max(s.x, s.y), max(s.z, s.w)));
        let powers = exp(s - vec4<f32>(higher));
        let weights = select(vec4<f32>(), powers, vec4<u32>(j, j + 1u, j + 2u, j + 3u) <= vec4<u32>(last));
        let down = exp(top - higher);
        sum = sum * down + ((weights.x + weights.y) + (weights.z + weights.w));
        //% for i in range(quads)
        y{{ i }} *= down;
        //% for c in "xyzw"
        y{{ i }} += weights.{{ c }} * {{ quad("v", "at_" ~ c, i) | trim }};
        //% endfor
        //% endfor
        //% endif
        top = higher;
    }
    //% if slices > 1
    if token > last {
        return;
    }
    //% endif
    //% for i in range(quads)
    //% if ragged
    {
        let out = y{{ i }} / sum;
        //% for c in range(4)
        //% if slices > 1
        if first + {{ 4 * i + c }}u < {{ head }}u {
            y[own + first + {{ 4 * i + c }}u] = out[{{ c }}];
        }
        //% elif 4 * i + c < head
        y[own + {{ 4 * i + c }}u] = out[{{ c }}];
        //% endif
        //% endfor
    }
    //% elif slices > 1
    if first + {{ i }}u < {{ head_len }}u {
        y[own + first + {{ i }}u] = y{{ i }} / sum;
    }
    //% else
    y[own + {{ i }}u] = y{{ i }} / sum;
    //% endif
    //% endfor
}
