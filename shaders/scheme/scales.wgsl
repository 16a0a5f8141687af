// Values of a group -> its scale and zero as stored, and the planes they go to: what quantize_scales and quantize_range share.
//
// `enc` is the encoder, `wide` whether a workgroup shares a group (else a thread has its own), `mode` that of quantize_scales.
// Statistics of a group: extremes with 0 included unless the format takes the true ones, the value of largest magnitude with its sign.
struct Stats {
    low: f32,
    high: f32,
    sum: f32,
    extreme: f32,
}

struct Encoded {
    scale: f32,
    zero: f32,
}

//% if wide
var<workgroup> lanes: array<vec4<f32>, 64>;

fn join(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(min(a.x, b.x), max(a.y, b.y), a.z + b.z, 0.0);
}

fn reduce(tid: u32, mine: vec4<f32>) -> Stats {
    workgroupBarrier();
    lanes[tid] = mine;
    workgroupBarrier();
    for (var n = 32u; n > 0u; n >>= 1u) {
        if tid < n {
            lanes[tid] = join(lanes[tid], lanes[tid + n]);
        }
        workgroupBarrier();
    }
    let r = lanes[0];
    return Stats(r.x, r.y, r.z, 0.0);
}
//% endif

fn counted(v: f32) -> f32 {
    return select(abs(v), 0.0, magnitude_bits(v) < TINY);
}

//% if mode != "tensor"
fn stats_of(tid: u32, start: u32, n: u32) -> Stats {
    //% if wide
    var mine = vec4<f32>();
    for (var i = tid; i < n; i += 64u) {
        let v = x[start + i];
        mine = vec4<f32>(min(mine.x, v), max(mine.y, v), mine.z + counted(v), 0.0);
    }
    return reduce(tid, mine);
    //% else
    //% if enc == "ggml_minmax"
    var r = Stats(x[start], x[start], 0.0, 0.0);
    //% else
    var r = Stats(0.0, 0.0, 0.0, 0.0);
    //% endif
    var largest = 0u;
    for (var i = 0u; i < n; i++) {
        let v = x[start + i];
        // Of +0 and -0 the first stays.
        r.low = select(r.low, v, v < r.low);
        r.high = select(r.high, v, v > r.high);
        //% if enc == "ggml_meanabs"
        r.sum += abs(v);
        //% else
        r.sum += counted(v);
        //% endif
        if magnitude_bits(v) > largest {
            largest = magnitude_bits(v);
            r.extreme = v;
        }
    }
    return r;
    //% endif
}
//% endif

//% if s.scale == "f16"
fn stored(scale: f32) -> u32 {
    return f16_bits_saturating(scale);
}
fn widened(bits: u32) -> f32 {
    return f16_value(bits);
}
//% elif s.scale == "f32"
fn stored(scale: f32) -> u32 {
    return bitcast<u32>(scale);
}
fn widened(bits: u32) -> f32 {
    return bitcast<f32>(bits);
}
//% elif s.scale == "bf16"
fn stored(scale: f32) -> u32 {
    let b = bitcast<u32>(scale);
    return (b + 0x7fffu + ((b >> 16u) & 1u)) >> 16u;
}
fn widened(bits: u32) -> f32 {
    return bitcast<f32>(bits << 16u);
}
//% elif s.scale == "ue4m3"
// E4M3 of a number that is not negative, rounded half up; from 256 on 448, as ggml does it.
fn stored(scale: f32) -> u32 {
    let a = bitcast<u32>(scale);
    if a < 0x3c800000u {
        return min(7u, u32(scale * 512.0 + 0.5));
    }
    let code = ((a + 0x80000u) >> 20u) - 960u;
    return select(code, 0x7eu, code >= 0x78u);
}
//% endif

//% if mode != "stats"
fn is_tiny(r: Stats) -> bool {
    return magnitude_bits(max(-r.low, r.high)) < TINY;
}

// The scale as stored, and the zero-point, bias or float zero as stored.
fn encode(r: Stats, inv_n: f32, tiny: bool) -> vec2<u32> {
    // `abs`: of -0 and +0 a device may take either for the larger.
    let amax = abs(max(-r.low, r.high));
    //% if enc == "meanabs"
    return vec2<u32>(select(stored(r.sum * inv_n), 0u, magnitude_bits(r.sum) < TINY), 0u);
    //% elif enc == "ggml_meanabs"
    return vec2<u32>(stored(r.sum * inv_n), 0u);
    //% elif enc == "nvfp4"
    return vec2<u32>(stored(amax / 6.0), 0u);
    //% elif enc in ["absmax", "ternary", "nearest"]
    return vec2<u32>(select(stored(amax * p.inv_steps), 0u, tiny), 0u);
    //% elif enc in ["minmax", "minmax_bias", "minmax_zero"]
    let scale = stored((r.high - r.low) * p.inv_steps);
    let s = widened(scale);
    if tiny || s == 0.0 {
        return vec2<u32>(select(scale, 0u, tiny), 0u);
    }
    //% if enc == "minmax"
    return vec2<u32>(scale, u32(steps(-r.low, s, {{ 2 ** s.bits - 1 }}.0)));
    //% elif enc == "minmax_bias"
    return vec2<u32>(scale, select(stored(r.low), 0u, magnitude_bits(r.low) < TINY));
    //% else
    return vec2<u32>(scale, stored(steps(-r.low, s * 0.0625, {{ 16 * (2 ** s.bits - 1) }}.0) * 0.0625));
    //% endif
    //% elif enc == "shared_exponent"
    let e = i32(bitcast<u32>(amax) >> 23u) - {{ s.emax }};
    return vec2<u32>(select(u32(clamp(e, 1, 254)), 0u, tiny), 0u);
    //% elif enc == "ggml_extreme"
    return vec2<u32>(stored(r.extreme * p.inv_steps), 0u);
    //% elif enc == "ggml_minmax"
    return vec2<u32>(stored((r.high - r.low) / {{ 2 ** s.bits - 1 }}.0), f16_bits_saturating(r.low));
    //% elif enc == "ggml_absmax"
    return vec2<u32>(stored(amax / 127.0), 0u);
    //% elif enc == "ggml_ternary"
    return vec2<u32>(stored(amax), 0u);
    //% endif
}

//% macro put(plane, type)
    //% if type == "f32"
    //% for i in range(4)
    if first + {{ i }}u < p.total_groups {
        w[p.{{ plane }} + first + {{ i }}u] = {{ plane }}[{{ i }}];
    }
    //% endfor
    //% elif type in ["f16", "bf16"]
    w[p.{{ plane }} + (first >> 1u)] = {{ plane }}[0] | ({{ plane }}[1] << 16u);
    w[p.{{ plane }} + (first >> 1u) + 1u] = {{ plane }}[2] | ({{ plane }}[3] << 16u);
    //% else
    w[p.{{ plane }} + (first >> 2u)] = {{ plane }}[0] | ({{ plane }}[1] << 8u) | ({{ plane }}[2] << 16u) | ({{ plane }}[3] << 24u);
    //% endif
//% endmacro
// Four groups' scales fill whole words; so do their zeros.
fn write(first: u32, scales: vec4<u32>, zeros: vec4<u32>) {
    {{ put("scales", s.scale) | trim }}
    //% if s.zero == "point"
    {{ put("zeros", "u8") | trim }}
    //% elif s.zero in ["bias", "float"]
    {{ put("zeros", s.scale) | trim }}
    //% endif
}
//% endif
