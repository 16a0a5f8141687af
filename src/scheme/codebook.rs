//! Fixed tables: code -> value.
//!
//! A table has `2^bits` entries in code order. The scale is applied afterwards, so tables of formats with doubled or
//! normalised entries are kept as the format defines them.

use std::sync::OnceLock;

/// The fixed tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codebook {
    /// NormalFloat 4: quantiles of the normal distribution, in -1..=1. Source: QLoRA, bitsandbytes `get_4bit_type`.
    Nf4,
    /// FP4 E2M1 in OCP order, sign in the top bit: 0, .5, 1, 1.5, 2, 3, 4, 6.
    E2M1,
    /// E2M1 with a plain 0 for code 8. Source: GGUF NVFP4, whose table has twice these values and whose scales half of theirs.
    E2M1PlainZero,
    /// bitsandbytes' FP4: E2M1-like values in an order of their own, in -1..=1. Source: bitsandbytes `get_4bit_type`.
    BnbFp4,
    /// E2M1 doubled, with a plain 0 for code 8. Source: GGUF MXFP4.
    E2M1Doubled,
    /// IQ4_NL's non-linear integers. Source: ggml `kvalues_iq4nl`.
    Iq4Nl,
    /// FP8 E4M3 (finite, no infinities; codes 0x7f and 0xff are NaN).
    E4M3,
    /// FP8 E5M2 (IEEE-like: 0x7c is infinity).
    E5M2,
}

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];
const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];
const E2M1_PLAIN_ZERO: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];
/// 0, 0.0625, 8, 12, 4, 6, 2, 3 and their negatives, divided by 12; code 8 is a plain 0.
const BNB_FP4: [f32; 16] = [
    0.0,
    0.0625 / 12.0,
    8.0 / 12.0,
    1.0,
    4.0 / 12.0,
    0.5,
    2.0 / 12.0,
    0.25,
    0.0,
    -0.0625 / 12.0,
    -8.0 / 12.0,
    -1.0,
    -4.0 / 12.0,
    -0.5,
    -2.0 / 12.0,
    -0.25,
];
const E2M1_DOUBLED: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];
const IQ4_NL: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// The 256 values of an 8-bit float with `mantissa` bits, `bias`, and IEEE specials where `ieee`.
fn small_float_table(mantissa: u32, bias: i32, ieee: bool) -> Vec<f32> {
    let exponent_max = (1 << (7 - mantissa)) - 1;
    (0..256u32)
        .map(|code| {
            let sign = if code & 0x80 != 0 { -1.0 } else { 1.0 };
            let e = ((code & 0x7f) >> mantissa) as i32;
            let m = code & ((1 << mantissa) - 1);
            let fraction = m as f64 / f64::from(1u32 << mantissa);
            let magnitude = match e {
                _ if ieee && e == exponent_max => {
                    return if m == 0 { sign * f32::INFINITY } else { f32::NAN };
                }
                _ if !ieee && code & 0x7f == 0x7f => return f32::NAN,
                0 => fraction * (1.0 - f64::from(bias)).exp2(),
                _ => (1.0 + fraction) * f64::from(e - bias).exp2(),
            };
            sign * magnitude as f32
        })
        .collect()
}

impl Codebook {
    /// The entries in code order.
    pub fn entries(self) -> &'static [f32] {
        static E4M3: OnceLock<Vec<f32>> = OnceLock::new();
        static E5M2: OnceLock<Vec<f32>> = OnceLock::new();
        match self {
            Self::Nf4 => &NF4,
            Self::E2M1 => &E2M1,
            Self::E2M1PlainZero => &E2M1_PLAIN_ZERO,
            Self::BnbFp4 => &BNB_FP4,
            Self::E2M1Doubled => &E2M1_DOUBLED,
            Self::Iq4Nl => &IQ4_NL,
            Self::E4M3 => E4M3.get_or_init(|| small_float_table(3, 7, false)),
            Self::E5M2 => E5M2.get_or_init(|| small_float_table(2, 15, true)),
        }
    }
}

/// A table sorted for nearest-entry search: `codes[i]` has the i-th smallest distinct finite value, `values[i]`, `mids[i]` lies
/// between entries i and i + 1, and `zero` is the code whose value is nearest to 0 (of -a and +a the latter, as for x = 0).
#[derive(Clone, Debug, PartialEq)]
pub struct Sorted {
    pub codes: Vec<u8>,
    pub values: Vec<f32>,
    pub mids: Vec<f32>,
    pub zero: u8,
    /// Largest finite magnitude.
    pub max: f32,
}

impl Sorted {
    /// Sorts a table of at most 256 entries.
    pub fn new(entries: &[f32]) -> Self {
        let mut order: Vec<(f32, u8)> =
            entries.iter().enumerate().filter(|(_, v)| v.is_finite()).map(|(i, &v)| (v, i as u8)).collect();
        // Stable, so that of equal entries the lowest code comes first and survives.
        order.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(std::cmp::Ordering::Equal));
        order.dedup_by(|later, first| later.0 == first.0);
        let zero =
            order.iter().fold(
                (f32::INFINITY, 0),
                |best, &(v, code)| {
                    if v.abs() <= best.0 { (v.abs(), code) } else { best }
                },
            );
        Self {
            codes: order.iter().map(|e| e.1).collect(),
            values: order.iter().map(|e| e.0).collect(),
            mids: order.windows(2).map(|w| (w[0].0 + w[1].0) * 0.5).collect(),
            zero: zero.1,
            max: order.iter().fold(0.0, |m, e| m.max(e.0.abs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_floats_have_their_landmarks() {
        let e4m3 = Codebook::E4M3.entries();
        assert_eq!(
            (e4m3[0x01], e4m3[0x08], e4m3[0x38], e4m3[0x7e]),
            (2f32.powi(-9), 2f32.powi(-6), 1.0, 448.0)
        );
        assert!(e4m3[0x7f].is_nan() && e4m3[0xff].is_nan() && e4m3[0xb8] == -1.0);
        let e5m2 = Codebook::E5M2.entries();
        assert_eq!(
            (e5m2[0x01], e5m2[0x3c], e5m2[0x7b], e5m2[0x7c]),
            (2f32.powi(-16), 1.0, 57344.0, f32::INFINITY)
        );
        assert!(e5m2[0x7d].is_nan());
    }

    #[test]
    fn sorting_drops_duplicates_and_specials() {
        let s = Sorted::new(Codebook::E2M1.entries());
        assert_eq!((s.codes.len(), s.codes[0], s.codes[7], s.codes[14]), (15, 15, 0, 7));
        assert_eq!((s.mids[7], s.zero, s.max), (0.25, 0, 6.0));
        let s = Sorted::new(Codebook::BnbFp4.entries());
        assert_eq!((s.codes.len(), s.codes[0], s.codes[7], s.codes[8]), (15, 11, 0, 1));
        let s = Sorted::new(Codebook::E4M3.entries());
        assert_eq!((s.codes.len(), s.max), (253, 448.0));
        assert_eq!(Sorted::new(Codebook::Nf4.entries()).zero, 7);
        assert_eq!(Sorted::new(Codebook::Iq4Nl.entries()).zero, 8);
        assert_eq!(Sorted::new(&[-1.0, 1.0]).zero, 1);
    }
}
