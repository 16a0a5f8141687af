// f32 -> f16 bits in integer arithmetic: drivers round `pack2x16float` and `f16()` differently, and bits must match the CPU.

// Nearest even; overflow to infinity, NaN stays NaN.
fn f16_bits(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 16u) & 0x8000u;
    let a = bits & 0x7fffffffu;
    if a > 0x7f800000u {
        return sign | 0x7e00u;
    }
    if a >= 0x477ff000u {
        return sign | 0x7c00u;
    }
    if a < 0x38800000u {
        // Subnormal or zero: the value is m * 2^-24 with m rounded from a shifted significand.
        let shift = 126u - (a >> 23u);
        if shift > 24u {
            return sign;
        }
        let m = (a & 0x7fffffu) | 0x800000u;
        let low = m & ((1u << shift) - 1u);
        let half_way = 1u << (shift - 1u);
        let kept = m >> shift;
        let up = u32(low > half_way || (low == half_way && (kept & 1u) == 1u));
        return sign | (kept + up);
    }
    let rounded = a - 0x38000000u + 0xfffu + ((a >> 13u) & 1u);
    return sign | (rounded >> 13u);
}

// As f16_bits, saturating at 65504.
fn f16_bits_saturating(value: f32) -> u32 {
    let bits = f16_bits(value);
    return select(bits, (bits & 0x8000u) | 0x7bffu, (bits & 0x7fffu) == 0x7c00u);
}

fn f16_value(bits: u32) -> f32 {
    return unpack2x16float(bits).x;
}
