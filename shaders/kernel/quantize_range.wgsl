// Dense f32 [rows, k] -> scales (and zero-points, biases, float zeros) of each group by a method besides the scheme's own, in the planes of the packed tensor.
//
// One workgroup per 4 consecutive groups, which fill whole words of the planes, one group after the other.
//
//   find symmetric, whole    the range from the group's extremes
//   find search              a thread is a candidate; the group's values pass all of them in runs, through workgroup memory
//   find trimmed             the same, of ranges whose ends are moved by less than a step, for the least mean error
//   find half_quadratic      threads share the values; their sums meet in workgroup memory
//
// The definitions are those of `scheme::method`. A device may fuse products into sums, and near a tie choose another candidate. Codes are not chosen here.
struct Params {
    //% include "scheme/fields.wgsl"
    total_groups: u32,
    // C(q) of the encoder: the factor from the range to the scale.
    inv_steps: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> w: array<u32>;
//% if sorted
// Sorted table: `sorted - 1` boundaries f32, then codes.
@group(0) @binding(3) var<storage, read> order: array<u32>;
//% endif

//% include "lib/grid.wgsl"
//% include "lib/f16.wgsl"
//% include "scheme/encode.wgsl"
//% set enc = s.encoder
//% set wide = true
//% set mode = "rows"
//% include "scheme/scales.wgsl"
//% set levels = 2 ** s.bits - 1
//% set half_levels = 2 ** (s.bits - 1)
// Compilers do not know this bound, or they would unroll loops in loops.
fn bound(n: u32) -> u32 {
    return min(n, n * p.k);
}

//% if find in ["search", "trimmed"]
//% set bytes = enc in ["shared_exponent", "nvfp4"]
//% set zeroed = enc in ["minmax", "minmax_bias", "minmax_zero"]
const WORST = 3e38;
var<workgroup> tile: array<f32, {{ run }}>;
// Error, factors of both ends, number of a candidate.
var<workgroup> bests: array<vec4<f32>, 64>;
//% if sorted
var<workgroup> mids: array<f32, {{ sorted }}>;
var<workgroup> values: array<f32, {{ sorted }}>;

fn load_table(tid: u32) {
    for (var i = tid; i < {{ sorted }}u; i += 64u) {
        values[i] = bitcast<f32>(w[p.table + order[{{ sorted - 1 }}u + i]]);
        if i < {{ sorted - 1 }}u {
            mids[i] = bitcast<f32>(order[i]);
        }
    }
    workgroupBarrier();
}

// The entry nearest to t.
fn entry(t: f32) -> f32 {
    //% if sorted <= 16
    var q = values[0];
    for (var i = 1u; i < {{ sorted }}u; i++) {
        q = select(q, values[i], t > mids[i - 1u]);
    }
    return q;
    //% else
    var lower = 0u;
    var upper = {{ sorted - 1 }}u;
    while lower < upper {
        let at = (lower + upper) >> 1u;
        if t > mids[at] {
            lower = at + 1u;
        } else {
            upper = at;
        }
    }
    return values[lower];
    //% endif
}
//% endif
//% if bytes
//% include "scheme/byte_scales.wgsl"
//% endif

struct Candidate {
    scale: f32,
    inverse: f32,
    // t = x * inverse + shift, rounded to integers from first to last.
    shift: f32,
    first: f32,
    last: f32,
}

// The error of a candidate, in {{ "amax" if find == "trimmed" else "squares of amax" }}.
fn error_of(tid: u32, start: u32, n: u32, amax: f32, c: Candidate) -> f32 {
    var total = 0.0;
    for (var at = 0u; at < n; at += {{ run }}u) {
        let part = min({{ run }}u, n - at);
        workgroupBarrier();
        for (var i = tid; i < part; i += 64u) {
            tile[i] = x[start + at + i];
        }
        workgroupBarrier();
        var sum = 0.0;
        for (var i = 0u; i < part; i++) {
            let t = tile[i] * c.inverse{{ " + c.shift" if enc in ["minmax_bias", "minmax_zero"] }};
            //% if sorted
            let d = t - entry(t);
            //% else
            let d = t - round(clamp(t, c.first, c.last));
            //% endif
            sum += {{ "abs(d)" if find == "trimmed" else "d * d" }};
        }
        total += sum;
    }
    let ratio = c.scale / amax;
    return select(min(total * ratio{{ "" if find == "trimmed" else " * ratio" }}, WORST), WORST, c.scale == 0.0);
}

// The candidate of least error, of equal ones the first.
fn pick(tid: u32, mine: vec4<f32>) -> vec4<f32> {
    workgroupBarrier();
    bests[tid] = mine;
    workgroupBarrier();
    for (var n = 32u; n > 0u; n >>= 1u) {
        if tid < n {
            let here = bests[tid];
            let other = bests[tid + n];
            if other.x < here.x || (other.x == here.x && other.w < here.w) {
                bests[tid] = other;
            }
        }
        workgroupBarrier();
    }
    return bests[0];
}

//% if bytes
// The byte of least error.
fn searched(tid: u32, start: u32, n: u32, r: Stats) -> vec2<u32> {
    let own = encode(r, 0.0, false);
    let byte = clamp(i32(own.x) + 31 - i32(tid), 1, {{ 254 if enc == "shared_exponent" else 126 }});
    var c: Candidate;
    c.scale = scale_value(u32(byte));
    c.inverse = 1.0 / c.scale;
    let error = error_of(tid, start, n, abs(max(-r.low, r.high)), c);
    let won = pick(tid, vec4<f32>(error, f32(byte), 0.0, f32(tid)));
    return vec2<u32>(select(own.x, u32(won.y), won.x < WORST), 0u);
}
//% elif find == "trimmed"
// The scale and zero-point of the range of least mean error.
fn searched(tid: u32, start: u32, n: u32, r: Stats) -> vec2<u32> {
    let unit = ((r.high - r.low) * p.inv_steps) * {{ trim | f32 }};
    let by = (vec2<f32>(f32(tid / 8u), f32(tid % 8u)) - {{ outside }}.0) * unit;
    let low = min(r.low + by.x, 0.0);
    let high = max(r.high - by.y, 0.0);
    var c: Candidate;
    c.scale = widened(stored((high - low) * p.inv_steps));
    c.inverse = 1.0 / c.scale;
    let zero = f32(encode(Stats(low, high, 0.0, 0.0), 0.0, false).y);
    c.first = -zero;
    c.last = {{ levels }}.0 - zero;
    let error = error_of(tid, start, n, abs(max(-r.low, r.high)), c);
    let won = pick(tid, vec4<f32>(error, low, high, f32(tid)));
    if won.x >= WORST {
        return encode(r, 0.0, false);
    }
    return encode(Stats(won.y, won.z, 0.0, 0.0), 0.0, false);
}
//% else
var<private> steps_of: array<f32, 64> = array<f32, 64>({{ steps | map("f32") | join(", ") }});
var<private> shares_of: array<f32, 8> = array<f32, 8>({{ shares | map("f32") | join(", ") }});

// The distance from an entry to the next one; of the last from the one before.
//% set all = "shares_of" if zeroed else "steps_of"
//% set most = 6 if zeroed else 62
fn gap(at: u32) -> f32 {
    let i = min(at, {{ most }}u);
    return {{ all }}[i] - {{ all }}[i + 1u];
}

fn searched(tid: u32, start: u32, n: u32, r: Stats) -> vec2<u32> {
    let amax = abs(max(-r.low, r.high));
    //% if zeroed
    let ends = vec2<f32>(r.low, r.high);
    let place = vec2<u32>(tid / 8u, tid % 8u);
    var factors = vec2<f32>(shares_of[place.x], shares_of[place.y]);
    let offset = (vec2<f32>(place) - 4.0) / 4.0;
    //% else
    let ends = vec2<f32>(-amax, amax);
    var factors = vec2<f32>(steps_of[tid]);
    let offset = vec2<f32>((f32(tid) - 32.0) / 32.0);
    //% endif
    var found = vec4<f32>(WORST, 1.0, 1.0, 0.0);
    var gaps = vec2<f32>();
    for (var round_of = 0u; round_of < bound({{ rounds }}u); round_of++) {
        if round_of > 0u {
            factors = max(found.yz + offset * gaps, vec2<f32>());
        }
        let range = ends * factors;
        var c: Candidate;
        c.scale = widened(stored({{ "(range.y - range.x)" if zeroed else "range.y" }} * p.inv_steps));
        c.inverse = 1.0 / c.scale;
        //% if zeroed
        let zero = encode(Stats(range.x, range.y, 0.0, 0.0), 0.0, false).y;
        //% endif
        //% if enc == "absmax"
        c.first = -{{ half_levels }}.0;
        c.last = {{ half_levels - 1 }}.0;
        //% elif enc == "ternary"
        c.first = -1.0;
        c.last = 1.0;
        //% elif enc == "minmax"
        c.first = -f32(zero);
        c.last = {{ levels }}.0 - f32(zero);
        //% elif zeroed
        c.last = {{ levels }}.0;
        c.shift = {{ "-(widened(zero) * c.inverse)" if enc == "minmax_bias" else "widened(zero)" }};
        //% endif
        let won = pick(tid, vec4<f32>(error_of(tid, start, n, amax, c), factors, f32(tid)));
        if won.x < found.x {
            found = won;
        }
        //% if zeroed
        gaps = select(gaps * 0.25, vec2<f32>(gap(u32(won.w) / 8u), gap(u32(won.w) % 8u)), round_of == 0u);
        //% else
        gaps = select(gaps * 0.25, vec2<f32>(gap(u32(won.w))), round_of == 0u);
        //% endif
    }
    if found.x >= WORST {
        return encode(r, 0.0, false);
    }
    let range = ends * found.yz;
    return encode(Stats(range.x, range.y, 0.0, 0.0), 0.0, false);
}
//% endif
//% elif find == "half_quadratic"
var<workgroup> pairs: array<vec2<f32>, 64>;

fn sum_of(tid: u32, mine: vec2<f32>) -> vec2<f32> {
    workgroupBarrier();
    pairs[tid] = mine;
    workgroupBarrier();
    for (var n = 32u; n > 0u; n >>= 1u) {
        if tid < n {
            pairs[tid] += pairs[tid + n];
        }
        workgroupBarrier();
    }
    return pairs[0];
}

fn code(t: f32, z: f32) -> f32 {
    return clamp(round(t + z), 0.0, {{ levels }}.0);
}

fn optimized(tid: u32, start: u32, n: u32, r: Stats) -> vec2<u32> {
    let own = encode(r, 0.0, false);
    let scale = widened(own.x);
    let inverse = 1.0 / scale;
    var z = -r.low * inverse;
    var best = z;
    var least = 3e38;
    var falling = true;
    var beta = {{ beta[0] | f32 }};
    for (var round_of = 0u; round_of < bound({{ hqq_rounds }}u); round_of++) {
        var sums = vec2<f32>();
        for (var i = tid; i < n; i += 64u) {
            let t = x[start + i] * inverse;
            let q = code(t, z);
            let e = (t - (q - z)) * scale;
            var shrunk = 0.0;
            if abs(e) >= {{ floor | f32 }} {
                shrunk = sign(e) * max(abs(e) - pow(abs(e), {{ power | f32 }}) / beta, 0.0);
            }
            sums += vec2<f32>(q - (t - shrunk * inverse), abs(e));
        }
        let all = sum_of(tid, sums);
        falling = falling && all.y < least;
        if falling {
            best = z;
            least = all.y;
        }
        z = all.x / f32(n);
        beta *= {{ beta[1] | f32 }};
    }
    best = max(best, 0.0);
    let other = stored(best);
    let zeros = vec2<f32>(widened(own.y), widened(other));
    var sums = vec2<f32>();
    for (var i = tid; i < n; i += 64u) {
        let t = x[start + i] * inverse;
        sums += abs(vec2<f32>(t - (code(t, zeros.x) - zeros.x), t - (code(t, zeros.y) - zeros.y)));
    }
    let all = sum_of(tid, sums);
    return vec2<u32>(own.x, select(own.y, other, all.y < all.x && scale > 0.0));
}
//% endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let first = linear_workgroup(wid, count) * 4u;
    //% if sorted
    load_table(tid);
    //% endif
    // A folded dispatch has workgroups with no group left.
    let left = min(4u, p.total_groups - min(first, p.total_groups));
    var scales = vec4<u32>();
    var zeros = vec4<u32>();
    for (var i = 0u; i < left; i++) {
        let row = (first + i) / p.groups;
        let at = ((first + i) % p.groups) * {{ s.group }}u;
        let n = {{ "min(" ~ s.group ~ "u, p.k - at)" if s.group else "p.k" }};
        let start = row * p.k + at;
        let r = stats_of(tid, start, n);
        //% if find in ["search", "trimmed"]
        var e = searched(tid, start, n, r);
        //% elif find == "half_quadratic"
        var e = optimized(tid, start, n, r);
        //% else
        //% if find == "symmetric"
        let amax = max(-r.low, r.high);
        //% else
        let amax = max(-r.low * {{ ((half_levels - 1) / half_levels) | f32 }}, r.high);
        //% endif
        var e = encode(Stats(-amax, amax, 0.0, 0.0), 0.0, false);
        //% endif
        if is_tiny(r) {
            e = encode(r, 0.0, true);
        }
        scales[i] = e.x;
        zeros[i] = e.y;
    }
    if tid == 0u {
        write(first, scales, zeros);
    }
}
