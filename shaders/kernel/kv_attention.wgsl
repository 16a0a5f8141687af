// Attention of the last tokens of a cache to all before them, from packed keys and values as they are: y[t] = softmax(q[t] . k / sqrt(head size)) v over the tokens up to t.
// Heads of q share those of k and v, `q_per_head` in a row.
//
//   form thread    a thread has a head of a token: its q and its sum of v, in memory of its own; a token of the cache at a time
//   form team      a workgroup has it, and takes as many tokens of the cache at a time as it has threads: each works out a score, then weights meet in workgroup memory and a
//                  thread sums four columns of v, of every token or (short heads) of those of its stripe
//
// Where a higher score comes, what has been summed is scaled down first, so that weights are at most 1; the highest score begins with the first token's.
struct Params {
    tokens: u32,
    q_heads: u32,
    // Heads of k and v.
    heads: u32,
    // Heads of q for one of them.
    q_per_head: u32,
    // Tokens of the cache, and of its complete blocks.
    length: u32,
    packed: u32,
    // Slot of the window of the first token behind those.
    slot: u32,
    // Blocks there is room for.
    blocks: u32,
    window_keys: u32,
    window_values: u32,
    keys: u32,
    key_groups: u32,
    values: u32,
    value_groups: u32,
    // 1 / sqrt(head size).
    scale: f32,
    // Vectors of a head. Compilers do not know it, so they do not unroll loops over it: lavapipe's took seconds for each text.
    quads: u32,
}
//% set quads = head // 4
@group(0) @binding(0) var<uniform> p: Params;
// [tokens, q_heads, quads]
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> cache: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
//% if form == "team"
//% set stripes = workgroup // quads
var<workgroup> own: array<vec4<f32>, {{ quads }}>;
// Scores, then weights, of a step; sums of threads in the end.
var<workgroup> scores: array<f32, {{ workgroup }}>;
var<workgroup> parts: array<vec4<f32>, {{ workgroup }}>;
//% endif

//% include "lib/grid.wgsl"
//% include "lib/kv.wgsl"

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    //% if form == "thread"
    let number = linear_workgroup(wid, count) * {{ workgroup }}u + tid;
    //% else
    let number = linear_workgroup(wid, count);
    //% endif
    if number >= p.tokens * p.q_heads {
        return;
    }
    let kv_head = number % p.q_heads / p.q_per_head;
    let seen = p.length - p.tokens + number / p.q_heads + 1u;
    let first = number * {{ quads }}u;
    var top = 0.0;
    var sum = 0.0;
    //% if form == "thread"
    var own: array<vec4<f32>, {{ quads }}>;
    var sums: array<vec4<f32>, {{ quads }}>;
    for (var i = 0u; i < p.quads; i++) {
        own[i] = q[first + i] * p.scale;
        sums[i] = vec4<f32>();
    }
    for (var j = 0u; j < seen; j++) {
        var s = 0.0;
        for (var i = 0u; i < p.quads; i++) {
            s += dot(own[i], key(kv_head, j, i));
        }
        if j == 0u {
            top = s;
        }
        let higher = max(top, s);
        let weight = exp(s - higher);
        let down = exp(top - higher);
        sum = sum * down + weight;
        for (var i = 0u; i < p.quads; i++) {
            sums[i] = sums[i] * down + weight * value(kv_head, j, i);
        }
        top = higher;
    }
    for (var i = 0u; i < p.quads; i++) {
        y[first + i] = sums[i] / sum;
    }
    //% else
    if tid < {{ quads }}u {
        own[tid] = q[first + tid] * p.scale;
    }
    workgroupBarrier();
    let column = tid % {{ quads }}u;
    let stripe = tid / {{ quads }}u;
    var total = vec4<f32>();
    for (var j = 0u; j < seen; j += {{ workgroup }}u) {
        // Threads beyond the last token score it again; nobody reads that.
        let here = min({{ workgroup }}u, seen - j);
        let token = min(j + tid, seen - 1u);
        var s = 0.0;
        for (var i = 0u; i < p.quads; i++) {
            s += dot(own[i], key(kv_head, token, i));
        }
        scores[tid] = s;
        workgroupBarrier();
        if j == 0u {
            top = scores[0];
        }
        var higher = top;
        for (var i = 0u; i < here; i++) {
            higher = max(higher, scores[i]);
        }
        workgroupBarrier();
        let weight = select(0.0, exp(s - higher), tid < here);
        let down = exp(top - higher);
        scores[tid] = weight;
        sum = sum * down + weight;
        workgroupBarrier();
        //% if workgroup % quads
        if stripe < {{ stripes }}u {
        //% else
        {
        //% endif
            total *= down;
            for (var i = stripe; i < here; i += {{ stripes }}u) {
                total += scores[i] * value(kv_head, j + i, column);
            }
        }
        workgroupBarrier();
        top = higher;
    }
    scores[tid] = sum;
    parts[tid] = total;
    workgroupBarrier();
    if tid < {{ quads }}u {
        //% for stripe in range(1, stripes)
        total += parts[tid + {{ stripe * quads }}u];
        //% endfor
        sum = 0.0;
        // Threads beyond have weighed nothing.
        for (var i = 0u; i < min({{ workgroup }}u, seen); i++) {
            sum += scores[i];
        }
        y[first + tid] = total / sum;
    }
    //% endif
}
