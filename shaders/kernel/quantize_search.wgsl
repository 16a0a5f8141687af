// Dense f32 [rows, k] -> scales of GGUF's searches, in the planes of the packed tensor and as f32 for the pass over codes.
//
//   pass groups     one thread per group: searches, leaves (scale, min, factor, base) in `found`
//   pass supers     one thread per 2 super-groups (2 groups of one-level schemes), which fill whole words of the planes: stored scales and
//                   sub-scales; `found` becomes (step, offset, factor, base), for a table (factor of x, ...)
//
// The definitions, and the names used here, are those of `scheme::search`. Sums are in sequence, but a device may fuse products into them:
// near a tie it may choose another try. Codes are not chosen here.
struct Params {
    //% include "scheme/fields.wgsl"
    // Groups of all rows, or super-groups in the second pass of two-level schemes.
    total: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
//% if pass == "groups"
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> found: array<vec4<f32>>;
//% else
@group(0) @binding(1) var<storage, read_write> w: array<u32>;
@group(0) @binding(2) var<storage, read_write> found: array<vec4<f32>>;
//% endif

//% include "lib/grid.wgsl"
//% set enc = s.encoder
//% set levels = 2 ** s.bits - 1
//% set half_levels = 2 ** (s.bits - 1)

//% if pass == "groups"
// Value i of the group of thread t at [64 i + t]: loads are of neighbours, and so are reads.
var<workgroup> tile: array<f32, {{ 64 * s.group }}>;

// The values of a group. K is a multiple of the group, so that the minimum changes nothing; bounds that compilers do not know keep them from
// unrolling loops in loops, which takes software drivers seconds.
fn group_len() -> u32 {
    return min({{ s.group }}u, p.k);
}

fn bound(n: u32) -> u32 {
    return min(n, p.k);
}

//% if enc == "affine"
fn search(tid: u32) -> vec4<f32> {
    let n = group_len();
    var squares = 0.0;
    var low = tile[tid];
    var high = low;
    for (var i = 0u; i < n; i++) {
        let v = tile[64u * i + tid];
        squares += v * v;
        low = select(low, v, v < low);
        high = select(high, v, v > high);
    }
    low = min(low, 0.0);
    if high == low {
        return vec4<f32>(0.0, low, 0.0, low);
    }
    //% if absolute
    let root = 0.0;
    //% else
    let root = sqrt(squares / {{ s.group }}.0);
    //% endif
    var total = 0.0;
    var total_x = 0.0;
    for (var i = 0u; i < n; i++) {
        let v = tile[64u * i + tid];
        let weight = root + abs(v);
        total += weight;
        total_x += weight * v;
    }
    var factor = {{ levels }}.0 / (high - low);
    var best = vec4<f32>(1.0 / factor, low, factor, low);
    var best_error = error_of(tid, best, root);
    for (var t = 0u; t < bound({{ tries }}u); t++) {
        factor = ({{ first | f32 }} + {{ step | f32 }} * f32(t) + {{ levels }}.0) / (high - best.y);
        var linear = 0.0;
        var square = 0.0;
        var product = 0.0;
        for (var i = 0u; i < n; i++) {
            let v = tile[64u * i + tid];
            let code = clamp(round(factor * (v - best.y)), 0.0, {{ levels }}.0);
            let weighted = (root + abs(v)) * code;
            linear += weighted;
            square += weighted * code;
            product += weighted * v;
        }
        let determinant = total * square - linear * linear;
        if determinant > 0.0 {
            var fitted = vec4<f32>(
                (total * product - total_x * linear) / determinant,
                (square * total_x - linear * product) / determinant,
                factor,
                best.y,
            );
            if fitted.y > 0.0 {
                fitted.x = product / square;
                fitted.y = 0.0;
            }
            let error = error_of(tid, fitted, root);
            if error < best_error {
                best_error = error;
                best = fitted;
            }
        }
    }
    return best;
}

fn error_of(tid: u32, f: vec4<f32>, root: f32) -> f32 {
    var total = 0.0;
    for (var i = 0u; i < group_len(); i++) {
        let v = tile[64u * i + tid];
        let e = f.x * clamp(round(f.z * (v - f.w)), 0.0, {{ levels }}.0) + f.y - v;
        //% if absolute
        total += abs(v) * abs(e);
        //% else
        total += (root + abs(v)) * (e * e);
        //% endif
    }
    return total;
}
//% else
fn extreme_of(tid: u32) -> f32 {
    var extreme = 0.0;
    for (var i = 0u; i < group_len(); i++) {
        let v = tile[64u * i + tid];
        extreme = select(extreme, v, abs(v) > abs(extreme));
    }
    return extreme;
}

//% if enc == "iq4"
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
fn fit(tid: u32, factor: f32) -> vec2<f32> {
    var sums = vec2<f32>();
    for (var i = 0u; i < group_len(); i++) {
        let v = tile[64u * i + tid];
        let q = rounded(factor * v);
        let weight = v * v;
        //% if enc == "iq4"
        sums += vec2<f32>(weight * q * v, weight * q * q);
        //% else
        sums += vec2<f32>(weight * v * q, weight * q * q);
        //% endif
    }
    return sums;
}

fn search(tid: u32) -> vec4<f32> {
    let extreme = extreme_of(tid);
    if abs(extreme) < {{ zero_below | f32 }} {
        return vec4<f32>();
    }
    //% if enc == "iq4"
    var factor = 1.0 / (-extreme / {{ entries[0] | f32 }});
    //% else
    var factor = -{{ half_levels }}.0 / extreme;
    //% endif
    var sums = fit(tid, factor);
    //% if enc == "descent"
    // Codes from 0, four bits each.
    var codes = vec2<u32>();
    for (var i = 0u; i < group_len(); i++) {
        let code = rounded(factor * tile[64u * i + tid]) + {{ half_levels }}.0;
        codes[i >> 3u] |= u32(code) << (4u * (i & 7u));
    }
    for (var round_of = 0u; round_of < bound({{ rounds }}u); round_of++) {
        for (var i = 0u; i < group_len(); i++) {
            let v = tile[64u * i + tid];
            let weight = v * v;
            let shift = 4u * (i & 7u);
            let code = f32((codes[i >> 3u] >> shift) & 15u) - {{ half_levels }}.0;
            let rest = sums - vec2<f32>(weight * v * code, weight * code * code);
            if rest.x > 0.0 {
                let moved = rounded(v * rest.y / rest.x);
                let other = rest + vec2<f32>(weight * v * moved, weight * moved * moved);
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
    var found = vec4<f32>(0.0, 0.0, factor, 0.0);
    if sums.y > 0.0 {
        found.x = sums.x / sums.y;
    }
    var best = found.x * sums.x;
    for (var i = 0u; i <= bound({{ 2 * tries }}u); i++) {
        let t = f32(i) - {{ tries }}.0;
        //% if enc == "iq4"
        factor = (t + {{ entries[0] | f32 }}) / extreme;
        //% else
        factor = -({{ half_levels }}.0 + {{ step | f32 }} * t) / extreme;
        //% endif
        sums = fit(tid, factor);
        if sums.y > 0.0 && sums.x * sums.x > best * sums.y {
            found.x = sums.x / sums.y;
            found.z = factor;
            best = found.x * sums.x;
        }
    }
    return found;
    //% endif
}
//% endif

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) count: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    // A folded dispatch has workgroups with no group left.
    let first = min(linear_workgroup(wid, count) * 64u, p.total);
    let n = min(64u, p.total - first) * {{ s.group }}u;
    for (var i = tid; i < n; i += 64u) {
        tile[64u * (i % {{ s.group }}u) + i / {{ s.group }}u] = x[first * {{ s.group }}u + i];
    }
    workgroupBarrier();
    if first + tid < p.total {
        found[first + tid] = search(tid);
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
// One group: the f16 bits of its scale.
fn store(i: u32) -> vec2<u32> {
    let scale = found[i].x;
    found[i].x = inverse(scale);
    return vec2<u32>(f16_bits_saturating(scale), 0u);
}
//% else
//% set per = s.groups_per_super
// One super-group: sub-scales to `w`, returns the f16 bits of super-scale and super-minimum.
fn store(i: u32) -> vec2<u32> {
    let groups = i * {{ per }}u;
    var top = 0.0;
    var bottom = 0.0;
    for (var g = 0u; g < {{ per }}u; g++) {
        let f = found[groups + g];
        top = select(top, f.x, abs(f.x) > abs(top));
        bottom = max(bottom, -f.y);
    }
    //% if enc == "affine"
    //% set most = 15 if s.scale == "two_u4min" else 63
    let bits = vec2<u32>(f16_bits_saturating(top / {{ most }}.0), f16_bits_saturating(bottom / {{ most }}.0));
    let wide = vec2<f32>(f16_value(bits.x), f16_value(bits.y));
    let factors = {{ most }}.0 * vec2<f32>(inverse(top), inverse(bottom));
    //% elif enc == "iq4"
    let super_scale = -top / 32.0;
    let bits = vec2<u32>(f16_bits_saturating(super_scale), 0u);
    let factor = inverse(super_scale);
    //% else
    //% set most = 32 if enc == "descent" else 128
    let zero = abs(top) < {{ zero_below | f32 }};
    let factor = select(-{{ most }}.0 / top, 0.0, zero);
    let bits = vec2<u32>(select(f16_bits_saturating(1.0 / factor), 0u, zero), 0u);
    let wide = f16_value(bits.x);
    //% endif
    for (var word = 0u; word < {{ per // 4 }}u; word++) {
        var packed = vec2<u32>();
        for (var b = 0u; b < 4u; b++) {
            let g = groups + word * 4u + b;
            let f = found[g];
            //% if enc == "affine"
            let sub = clamp(round(factors * vec2<f32>(f.x, -f.y)), vec2<f32>(), vec2<f32>({{ most }}.0));
            let bytes = vec2<u32>(sub);
            //% if s.scale == "two_u4min"
            packed.x |= (bytes.x | (bytes.y << 4u)) << (8u * b);
            //% else
            packed |= bytes << vec2<u32>(8u * b);
            //% endif
            found[g] = vec4<f32>(wide * sub, f.zw);
            //% elif enc == "iq4"
            let sub = clamp(round(factor * f.x), -32.0, 31.0);
            packed.x |= (bitcast<u32>(i32(sub)) & 0xffu) << (8u * b);
            found[g].x = inverse(super_scale * sub);
            //% else
            //% if enc == "descent"
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
        //% if enc == "affine"
        w[p.mins + (i >> 1u)] = bits.y;
        //% endif
        //% else
        w[p.scales + (i >> 1u)] = bits.x;
        //% endif
    }
}
//% endif
