// The code of v by a scale and a zero-point, in a byte: half away from zero, clamped; NaN is the zero-point.
fn int8_code(v: f32, scale: f32, zero: u32) -> u32 {
    let z = bitcast<i32>(zero);
    if magnitude_bits(v) > 0x7f800000u {
        return zero & 0xffu;
    }
    let q = i32(steps(abs(v), scale, 255.0));
    return bitcast<u32>(clamp(z + select(q, -q, v < 0.0), -128, 127)) & 0xffu;
}
