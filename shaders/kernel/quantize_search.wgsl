// Dense f32 [rows, k] -> scales of GGUF's searches, in the planes of the packed tensor and as f32 for the pass over codes.
//
//   pass rows       one thread per row, with importance where weights depend on the row: its mean square goes to `extra` [rows]
//   pass groups     one thread per group: searches, leaves (scale, min, factor, base) in `found`; where super-scales are searched for too,
//                   the sum of its weights in `extra` [groups]
//   pass supers     one thread per 2 super-groups (2 groups of one-level schemes), which fill whole words of the planes: stored scales and
//                   sub-scales; `found` becomes (step, offset, factor, base), for a table (factor of x, ...)
//
// The definitions, and the names used here, are those of `scheme::search`. Sums are in sequence, but a device may fuse products into them:
// near a tie it may choose another try. Codes are not chosen here.
struct Params {
    //% include "scheme/fields.wgsl"
    // Rows, groups of all rows, or super-groups of two-level schemes.
    total: u32,
    // Of the importance, [matrices, k]: the rows of a matrix, and which row of the first one comes first here.
    c_rows: u32,
    c_first: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
//% if pass == "rows"
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> extra: array<f32>;
//% elif pass == "groups"
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> found: array<vec4<f32>>;
//% if weighted
@group(0) @binding(3) var<storage, read> importance: array<f32>;
//% endif
//% if spread == "row"
@group(0) @binding(4) var<storage, read> extra: array<f32>;
//% elif fits_supers
@group(0) @binding(4) var<storage, read_write> extra: array<f32>;
//% endif
//% else
@group(0) @binding(1) var<storage, read_write> w: array<u32>;
@group(0) @binding(2) var<storage, read_write> found: array<vec4<f32>>;
//% if fits_supers
@group(0) @binding(3) var<storage, read> extra: array<f32>;
//% endif
//% endif

//% include "lib/grid.wgsl"
//% set levels = 2 ** s.bits - 1
//% set per = s.groups_per_super if s.two_level else 1
// Bounds that compilers do not know keep them from unrolling loops in loops, which takes software drivers seconds. K is a multiple of the
// group, so that they change nothing.
fn bound(n: u32) -> u32 {
    return min(n, 2u * p.k);
}

//% if pass == "groups"
// Value i of the group of thread t at [64 i + t]: loads are of neighbours, and so are reads.
var<workgroup> tile: array<f32, {{ 64 * s.group }}>;

//% if weighted
var<workgroup> weights: array<f32, {{ 64 * s.group }}>;
//% elif method == "affine"
// The root of the mean square of the group, or 0.
var<private> root: f32;
//% endif

fn value(tid: u32, i: u32) -> f32 {
    return tile[64u * i + tid];
}

// What the error of value i counts.
fn weight(tid: u32, i: u32) -> f32 {
    //% if weighted
    return weights[64u * i + tid];
    //% elif method == "affine"
    return root + abs(value(tid, i));
    //% else
    return value(tid, i) * value(tid, i);
    //% endif
}

//% if spread in ["super", "group"]
// What is added to the squares of a group: of its own values, or of its super-group's.
fn variance(tid: u32) -> f32 {
    let first = tid - tid % {{ per }}u;
    var squares = 0.0;
    for (var i = 0u; i < bound({{ per * s.group }}u); i++) {
        let v = tile[64u * (i % {{ s.group }}u) + first + i / {{ s.group }}u];
        squares += v * v;
    }
    return {{ 1 if s.bits == 2 else 2 }}.0 * squares / {{ per * s.group }}.0;
}
//% endif
//% endif

//% if pass == "groups" and method == "affine"
fn search(tid: u32) -> vec4<f32> {
    let n = bound({{ s.group }}u);
    var squares = 0.0;
    var low = value(tid, 0u);
    var high = low;
    for (var i = 0u; i < n; i++) {
        let v = value(tid, i);
        squares += v * v;
        low = select(low, v, v < low);
        high = select(high, v, v > high);
    }
    low = min(low, 0.0);
    if high == low {
        return vec4<f32>(0.0, low, 0.0, low);
    }
    //% if not weighted and not absolute
    root = sqrt(squares / {{ s.group }}.0);
    //% endif
    var total = 0.0;
    var total_x = 0.0;
    for (var i = 0u; i < n; i++) {
        total += weight(tid, i);
        total_x += weight(tid, i) * value(tid, i);
    }
    var best = vec4<f32>(0.0, low, 0.0, low);
    var best_error = 0.0;
    // The first factor, then the tries: in one loop, because compilers take as long again for a second one.
    for (var t = 0u; t <= bound({{ tries }}u); t++) {
        var factor = {{ levels }}.0 / (high - low);
        var fitted = vec4<f32>(1.0 / factor, low, factor, low);
        var determinant = 1.0;
        if t > 0u {
            factor = ({{ first | f32 }} + {{ step | f32 }} * f32(t - 1u) + {{ levels }}.0) / (high - best.y);
            var linear = 0.0;
            var square = 0.0;
            var product = 0.0;
            for (var i = 0u; i < n; i++) {
                let v = value(tid, i);
                let code = clamp(round(factor * (v - best.y)), 0.0, {{ levels }}.0);
                let counted = weight(tid, i) * code;
                linear += counted;
                square += counted * code;
                product += counted * v;
            }
            determinant = total * square - linear * linear;
            fitted = vec4<f32>(
                (total * product - total_x * linear) / determinant,
                (square * total_x - linear * product) / determinant,
                factor,
                best.y,
            );
            if fitted.y > 0.0 {
                fitted.x = product / square;
                fitted.y = 0.0;
            }
        }
        if determinant > 0.0 {
            let error = error_of(tid, fitted);
            if t == 0u || error < best_error {
                best_error = error;
                best = fitted;
            }
        }
    }
    return best;
}

fn error_of(tid: u32, f: vec4<f32>) -> f32 {
    var total = 0.0;
    for (var i = 0u; i < bound({{ s.group }}u); i++) {
        let v = value(tid, i);
        let e = f.x * clamp(round(f.z * (v - f.w)), 0.0, {{ levels }}.0) + f.y - v;
        //% if absolute
        total += weight(tid, i) * abs(e);
        //% else
        total += weight(tid, i) * (e * e);
        //% endif
    }
    return total;
}
//% endif

//% if pass == "supers" and fits_supers
// The scales of the groups from `groups` on, and what their errors count.
//% if method == "symmetric"
fn value(groups: u32, i: u32) -> f32 {
    return found[groups + i].x;
}
//% endif

fn weight(groups: u32, i: u32) -> f32 {
    return extra[groups + i];
}
//% endif

//% if (pass == "groups" and method != "affine") or (pass == "supers" and fits_supers and method == "symmetric")
//% set half_levels = 2 ** (s.bits - 1) if pass == "groups" else 32
//% set len = s.group if pass == "groups" else per
fn extreme_of(at: u32) -> f32 {
    var extreme = 0.0;
    for (var i = 0u; i < bound({{ len }}u); i++) {
        let v = value(at, i);
        extreme = select(extreme, v, abs(v) > abs(extreme));
    }
    return extreme;
}

//% if method == "iq4"
// The entry nearest to v.
fn rounded(v: f32) -> f32 {
    var q = {{ entries[0] | f32 }};
    //% for i in range(15)
    q = select(q, {{ entries[i + 1] | f32 }}, v >= {{ mids[i] | f32 }});
    //% endfor
    return q;
}
//% else
fn rounded(v: f32) -> f32 {
    return clamp(round(v), -{{ half_levels }}.0, {{ half_levels - 1 }}.0);
}
//% endif

// The sums of a least-squares fit.
fn fit(at: u32, factor: f32) -> vec2<f32> {
    var sums = vec2<f32>();
    for (var i = 0u; i < bound({{ len }}u); i++) {
        let v = value(at, i);
        let q = rounded(factor * v);
        //% if method == "iq4"
        sums += weight(at, i) * q * vec2<f32>(v, q);
        //% else
        sums += weight(at, i) * vec2<f32>(v, q) * q;
        //% endif
    }
    return sums;
}

fn search(at: u32) -> vec4<f32> {
    let extreme = extreme_of(at);
    if abs(extreme) < {{ zero_below | f32 }} {
        return vec4<f32>();
    }
    //% if method == "descent"
    let factor = -{{ half_levels }}.0 / extreme;
    var sums = fit(at, factor);
    // Codes from 0, four bits each.
    var codes = vec2<u32>();
    for (var i = 0u; i < bound({{ len }}u); i++) {
        let code = rounded(factor * value(at, i)) + {{ half_levels }}.0;
        codes[i >> 3u] |= u32(code) << (4u * (i & 7u));
    }
    for (var round_of = 0u; round_of < bound({{ rounds }}u); round_of++) {
        for (var i = 0u; i < bound({{ len }}u); i++) {
            let v = value(at, i);
            let shift = 4u * (i & 7u);
            let code = f32((codes[i >> 3u] >> shift) & 15u) - {{ half_levels }}.0;
            let rest = sums - weight(at, i) * vec2<f32>(v, code) * code;
            if rest.x > 0.0 {
                let moved = rounded(v * rest.y / rest.x);
                let other = rest + weight(at, i) * vec2<f32>(v, moved) * moved;
                if moved != code && other.y > 0.0 && other.x * other.x * sums.y > sums.x * sums.x * other.y {
                    codes[i >> 3u] = (codes[i >> 3u] & ~(15u << shift)) | (u32(moved + {{ half_levels }}.0) << shift);
                    sums = other;
                }
            }
        }
    }
    var scale = 0.0;
    if sums.y > 0.0 {
        scale = sums.x / sums.y;
    }
    return vec4<f32>(scale, 0.0, factor, 0.0);
    //% else
    var found = vec4<f32>();
    var best = 0.0;
    // The first factor, then those on both sides.
    for (var i = 0u; i <= bound({{ 2 * tries + 1 }}u); i++) {
        let t = f32(i) - {{ tries + 1 }}.0;
        //% if method == "iq4"
        let factor = select((t + {{ entries[0] | f32 }}) / extreme, 1.0 / (-extreme / {{ entries[0] | f32 }}), i == 0u);
        //% else
        let factor = -({{ half_levels }}.0 + {{ step | f32 }} * select(t, 0.0, i == 0u)) / extreme;
        //% endif
        let sums = fit(at, factor);
        if i == 0u || (sums.y > 0.0 && sums.x * sums.x > best * sums.y) {
            found = vec4<f32>(0.0, 0.0, factor, 0.0);
            if sums.y > 0.0 {
                found.x = sums.x / sums.y;
            }
            best = found.x * sums.x;
        }
    }
    return found;
    //% endif
}
//% endif

//% if pass == "groups"
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    // A folded dispatch has workgroups with no group left.
    let first = min(linear_workgroup(wid, count) * 64u, p.total);
    let n = min(64u, p.total - first) * {{ s.group }}u;
    for (var i = tid; i < n; i += 64u) {
        let at = 64u * (i % {{ s.group }}u) + i / {{ s.group }}u;
        let source = first * {{ s.group }}u + i;
        tile[at] = x[source];
        //% if weighted
        weights[at] = importance[(p.c_first + source / p.k) / p.c_rows * p.k + source % p.k];
        //% endif
    }
    workgroupBarrier();
    let group = first + tid;
    if group < p.total {
        //% if spread != "none"
        //% if spread == "row"
        let added = extra[group / p.groups];
        //% else
        let added = variance(tid);
        //% endif
        for (var i = 0u; i < bound({{ s.group }}u); i++) {
            weights[64u * i + tid] *= sqrt(added + value(tid, i) * value(tid, i));
        }
        //% endif
        found[group] = search(tid);
        //% if fits_supers
        var total = 0.0;
        for (var i = 0u; i < bound({{ s.group }}u); i++) {
            total += weight(tid, i);
        }
        extra[group] = total;
        //% endif
    }
}
//% elif pass == "rows"
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let row = linear_workgroup(wid, count) * 64u + tid;
    if row < p.total {
        var squares = 0.0;
        for (var i = 0u; i < p.k; i++) {
            let v = x[row * p.k + i];
            squares += v * v;
        }
        extra[row] = squares / f32(p.k);
    }
}
//% else
//% include "lib/f16.wgsl"

fn inverse(v: f32) -> f32 {
    if v == 0.0 {
        return 0.0;
    }
    return 1.0 / v;
}

//% if not s.two_level
// One group: the f16 bits of its scale and of its bias.
fn store(i: u32) -> vec2<u32> {
    let f = found[i];
    //% if method == "iq4"
    found[i].x = inverse(f.x);
    //% else
    // Codes are those of the search, whatever the scale was rounded to.
    found[i] = vec4<f32>(0.0, 0.0, f.zw);
    //% endif
    return vec2<u32>(f16_bits_saturating(f.x), f16_bits_saturating(f.y));
}
//% else
//% if fits_supers and method == "affine"
//% set most = 15 if s.scale == "two_u4min" else 63
// A super-scale for the scales of a super-group, or for the magnitudes of its minima, and their codes, a byte each.
struct Positive {
    scale: f32,
    codes: vec4<u32>,
}

fn code_in(codes: vec4<u32>, g: u32) -> f32 {
    return f32((codes[g >> 2u] >> (8u * (g & 3u))) & 0xffu);
}

fn magnitude(groups: u32, g: u32, minima: bool) -> f32 {
    return select(found[groups + g].x, -found[groups + g].y, minima);
}

fn rounded(v: f32) -> f32 {
    return clamp(round(v), 0.0, {{ most }}.0);
}

fn error_of(groups: u32, minima: bool, factor: f32) -> f32 {
    var total = 0.0;
    for (var g = 0u; g < bound({{ per }}u); g++) {
        let v = magnitude(groups, g, minima);
        let e = v - (1.0 / factor) * rounded(factor * v);
        total += weight(groups, g) * e * e;
    }
    return total;
}

fn positive(groups: u32, minima: bool) -> Positive {
    var top = 0.0;
    for (var g = 0u; g < bound({{ per }}u); g++) {
        top = max(top, magnitude(groups, g, minima));
    }
    if top < {{ zero_below | f32 }} {
        return Positive();
    }
    var factor = 0.0;
    var best = 0.0;
    // The first factor, then those on both sides.
    for (var i = 0u; i <= bound({{ 2 * positive_tries + 1 }}u); i++) {
        let t = select(f32(i) - {{ positive_tries + 1 }}.0, 0.0, i == 0u);
        let tried = ({{ positive_step | f32 }} * t + {{ most }}.0) / top;
        let error = error_of(groups, minima, tried);
        if i == 0u || error < best {
            best = error;
            factor = tried;
        }
    }
    var sums = vec2<f32>();
    var codes = vec4<u32>();
    for (var g = 0u; g < bound({{ per }}u); g++) {
        let v = magnitude(groups, g, minima);
        let code = rounded(factor * v);
        sums += weight(groups, g) * vec2<f32>(v, code) * code;
        codes[g >> 2u] |= u32(code) << (8u * (g & 3u));
    }
    for (var round_of = 0u; round_of < bound({{ rounds }}u); round_of++) {
        for (var g = 0u; g < bound({{ per }}u); g++) {
            let v = magnitude(groups, g, minima);
            let code = code_in(codes, g);
            let rest = sums - weight(groups, g) * vec2<f32>(v, code) * code;
            if rest.x > 0.0 && rest.y > 0.0 {
                let moved = rounded(v * rest.y / rest.x);
                let other = rest + weight(groups, g) * vec2<f32>(v, moved) * moved;
                if moved != code && other.x * other.x * sums.y > sums.x * sums.x * other.y {
                    let shift = 8u * (g & 3u);
                    codes[g >> 2u] = (codes[g >> 2u] & ~(0xffu << shift)) | (u32(moved) << shift);
                    sums = other;
                }
            }
        }
    }
    var scale = 0.0;
    if sums.y > 0.0 {
        scale = sums.x / sums.y;
    }
    return Positive(scale, codes);
}
//% endif

// One super-group: sub-scales to `w`, returns the f16 bits of super-scale and super-minimum.
fn store(i: u32) -> vec2<u32> {
    let groups = i * {{ per }}u;
    //% if fits_supers and method == "affine"
    var bits = vec2<u32>();
    var scales: vec4<u32>;
    var minima: vec4<u32>;
    for (var j = 0u; j < bound(2u); j++) {
        let fitted = positive(groups, j == 1u);
        bits[j] = f16_bits_saturating(fitted.scale);
        if j == 0u {
            scales = fitted.codes;
        }
        minima = fitted.codes;
    }
    let wide = vec2<f32>(f16_value(bits.x), f16_value(bits.y));
    //% elif fits_supers
    let fitted = search(groups);
    let zero = fitted.z == 0.0;
    let factor = fitted.z;
    let bits = vec2<u32>(f16_bits_saturating(fitted.x), 0u);
    let wide = f16_value(bits.x);
    //% else
    var top = 0.0;
    var bottom = 0.0;
    for (var g = 0u; g < {{ per }}u; g++) {
        let f = found[groups + g];
        top = select(top, f.x, abs(f.x) > abs(top));
        bottom = max(bottom, -f.y);
    }
    //% if method == "affine"
    //% set most = 15 if s.scale == "two_u4min" else 63
    let bits = vec2<u32>(f16_bits_saturating(top / {{ most }}.0), f16_bits_saturating(bottom / {{ most }}.0));
    let wide = vec2<f32>(f16_value(bits.x), f16_value(bits.y));
    let factors = {{ most }}.0 * vec2<f32>(inverse(top), inverse(bottom));
    //% elif method == "iq4"
    let super_scale = -top / 32.0;
    let bits = vec2<u32>(f16_bits_saturating(super_scale), 0u);
    let factor = inverse(super_scale);
    //% else
    //% set most = 32 if method == "descent" else 128
    let zero = abs(top) < {{ zero_below | f32 }};
    let factor = select(-{{ most }}.0 / top, 0.0, zero);
    let bits = vec2<u32>(select(f16_bits_saturating(1.0 / factor), 0u, zero), 0u);
    let wide = f16_value(bits.x);
    //% endif
    //% endif
    for (var word = 0u; word < {{ per // 4 }}u; word++) {
        var packed = vec2<u32>();
        for (var b = 0u; b < 4u; b++) {
            let g = groups + word * 4u + b;
            let f = found[g];
            //% if method == "affine"
            //% if fits_supers
            let sub = vec2<f32>(code_in(scales, word * 4u + b), code_in(minima, word * 4u + b));
            //% else
            let sub = clamp(round(factors * vec2<f32>(f.x, -f.y)), vec2<f32>(), vec2<f32>({{ most }}.0));
            //% endif
            let bytes = vec2<u32>(sub);
            //% if s.scale == "two_u4min"
            packed.x |= (bytes.x | (bytes.y << 4u)) << (8u * b);
            //% else
            packed |= bytes << vec2<u32>(8u * b);
            //% endif
            found[g] = vec4<f32>(wide * sub, f.zw);
            //% elif method == "iq4"
            let sub = clamp(round(factor * f.x), -32.0, 31.0);
            packed.x |= (bitcast<u32>(i32(sub)) & 0xffu) << (8u * b);
            found[g].x = inverse(super_scale * sub);
            //% else
            //% if method == "descent" or fits_supers
            // The lowest code, as in a block of zero bytes.
            let sub = select(clamp(round(factor * f.x), -32.0, 31.0), -32.0, zero);
            found[g].x = wide * sub;
            //% else
            let sub = clamp(round(factor * f.x), -128.0, 127.0);
            found[g] = select(vec4<f32>(wide * sub, f.yzw), vec4<f32>(), vec4<bool>(zero));
            //% endif
            packed.x |= (bitcast<u32>(i32(sub)) & 0xffu) << (8u * b);
            //% endif
        }
        w[p.scales + (groups >> 2u) + word] = packed.x;
        //% if s.scale == "two_u8min"
        w[p.zeros + (groups >> 2u) + word] = packed.y;
        //% endif
    }
    return bits;
}
//% endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    let i = (linear_workgroup(wid, count) * 64u + tid) * 2u;
    if i < p.total {
        // A bound that compilers do not know keeps them from writing the body out twice.
        var bits = vec2<u32>();
        for (var j = 0u; j < min(2u, p.total - i); j++) {
            bits |= store(i + j) << vec2<u32>(16u * j);
        }
        //% if s.two_level
        w[p.supers + (i >> 1u)] = bits.x;
        //% if method == "affine"
        w[p.mins + (i >> 1u)] = bits.y;
        //% endif
        //% else
        w[p.scales + (i >> 1u)] = bits.x;
        //% if s.zero == "bias"
        w[p.zeros + (i >> 1u)] = bits.y;
        //% endif
        //% endif
    }
}
//% endif
