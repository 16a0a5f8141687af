//! f16 and bf16 to f32 and back over slices, in code that vectorises without special instructions; x86's own one widens f16.
//!
//! `half` converts one value at a time, or slices through run-time detection per call; rows of weights want neither.

/// Widens the bits of an f16. Exact, subnormals, infinities and NaN included.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    // The exponent's bias is 112 short; a product with 2^112 mends it and normalises subnormals.
    let finite = (f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23)).to_bits();
    let special = 0x7f80_0000 | (magnitude << 13);
    f32::from_bits(sign | if magnitude >= 0x7c00 { special } else { finite })
}

/// Rounds to the nearest f16, ties to even; infinity beyond, NaN stays NaN (quiet).
#[inline(always)]
pub fn f32_to_f16(v: f32) -> u16 {
    let sign = ((v.to_bits() >> 16) & 0x8000) as u16;
    let magnitude = v.to_bits() & 0x7fff_ffff;
    // Subnormal results: adding 1/2 leaves multiples of 2^-24 in the last bits, rounded by the hardware.
    let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + ((magnitude >> 13) & 1)) >> 13;
    let large = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    let rounded = if magnitude < 113 << 23 {
        small
    } else if magnitude >= 0x477f_f000 {
        large
    } else {
        normal
    };
    sign | rounded as u16
}

/// Rounds to the nearest bf16, ties to even. Not for NaN.
#[inline(always)]
pub fn f32_to_bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Widens the bits of a bf16.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// `v` rounded to f16 and widened again.
#[inline(always)]
pub fn through_f16(v: f32) -> f32 {
    f16_to_f32(f32_to_f16(v))
}

/// Nearest f16, saturating at 65504 instead of overflowing: how scales are stored.
#[inline(always)]
pub fn f16_saturating(v: f32) -> u16 {
    f32_to_f16(v.clamp(-65504.0, 65504.0))
}

/// Little-endian f16 bytes to f32. NaN may become quiet.
#[inline(always)]
pub fn widen_f16(bytes: &[u8], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    let (bytes, out) = if std::arch::is_x86_feature_detected!("f16c") {
        let whole = (bytes.len() / 16).min(out.len() / 8);
        let ((whole_bytes, bytes), (whole_out, out)) =
            (bytes.split_at(16 * whole), out.split_at_mut(8 * whole));
        // SAFETY: the machine has just been asked for the feature.
        #[allow(unsafe_code)]
        unsafe {
            widen_by_eight(whole_bytes, whole_out);
        }
        (bytes, out)
    } else {
        (bytes, out)
    };
    for (b, o) in bytes.as_chunks::<2>().0.iter().zip(out) {
        *o = f16_to_f32(u16::from_le_bytes(*b));
    }
}

/// Eight by an instruction of their own, which the compiler does not find in [`f16_to_f32`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "f16c")]
fn widen_by_eight(bytes: &[u8], out: &mut [f32]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
    for (from, to) in bytes.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<8>().0) {
        // SAFETY: 16 readable and 32 writable bytes, neither of which needs to be aligned.
        #[allow(unsafe_code)]
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())));
        }
    }
}

/// Little-endian bf16 bytes to f32.
#[inline(always)]
pub fn widen_bf16(bytes: &[u8], out: &mut [f32]) {
    for (b, o) in bytes.as_chunks::<2>().0.iter().zip(out) {
        *o = bf16_to_f32(u16::from_le_bytes(*b));
    }
}

/// Little-endian f32 bytes to f32.
#[inline(always)]
pub fn widen_f32(bytes: &[u8], out: &mut [f32]) {
    for (b, o) in bytes.as_chunks::<4>().0.iter().zip(out) {
        *o = f32::from_le_bytes(*b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn slices_widen_like_values() {
        for n in [0, 1, 7, 8, 9, 31, 1 << 16] {
            let bytes: Vec<u8> = (0..n).flat_map(|i| (i as u16).wrapping_mul(40_503).to_le_bytes()).collect();
            let mut out = vec![-1.0; n + 1];
            widen_f16(&bytes, &mut out[..n]);
            for (v, b) in out.iter().zip(bytes.as_chunks::<2>().0) {
                let want = f16_to_f32(u16::from_le_bytes(*b));
                assert!(v.to_bits() == want.to_bits() || (v.is_nan() && want.is_nan()), "{v} {want}");
            }
            assert_eq!(out[n], -1.0);
        }
    }

    #[test]
    fn all_f16_widen_and_come_back() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{bits:x}");
            if !ours.is_nan() {
                assert_eq!(f32_to_f16(ours), bits);
            }
        }
    }

    #[test]
    fn rounding_is_that_of_half() {
        let mut state = 1u32;
        for i in 0..2_000_000u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Exponents around f16's range are the ones that matter; every 16th is anything at all.
            let bits = if i % 16 == 0 { state } else { (state & 0x807f_ffff) | ((96 + (i >> 4) % 50) << 23) };
            // Ties: clear what lies below half a unit.
            let bits = if i % 3 == 0 { bits & !0xfff } else { bits };
            let v = f32::from_bits(bits);
            let (ours, theirs) = (f32_to_f16(v), f16::from_f32(v).to_bits());
            assert!(
                ours == theirs || v.is_nan() && f16::from_bits(ours).is_nan(),
                "{v:e}: {ours:x} {theirs:x}"
            );
            if !v.is_nan() {
                assert_eq!(f32_to_bf16(v), bf16::from_f32(v).to_bits());
            }
        }
        assert_eq!((f16_saturating(1e9), f16_saturating(-1e9)), (0x7bff, 0xfbff));
    }
}
