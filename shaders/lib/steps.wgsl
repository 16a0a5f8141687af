// Rounding by a scale, decided by single products: the words of `scheme::Encoder` and `product::Activation`.

// Groups whose largest magnitude is below 2^-100 have scale 0.
const TINY = 0x0d800000u;

fn magnitude_bits(v: f32) -> u32 {
    return bitcast<u32>(v) & 0x7fffffffu;
}

// The largest integer q <= q_max with q = 0 or (q - 0.5) * s <= t: t / s rounded half away from zero. The quotient is only a guess.
fn steps(t: f32, s: f32, q_max: f32) -> f32 {
    var q = clamp(floor(t / s + 0.5), 0.0, q_max);
    if q > 0.0 && (q - 0.5) * s > t {
        q -= 1.0;
    }
    if q < q_max && (q + 0.5) * s <= t {
        q += 1.0;
    }
    return q;
}
