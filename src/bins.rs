//! The bins of histograms that need no range: a number's bin is read off its bits, so that counts of any two runs or devices add up exactly.
//!
//! ```text
//! f32 bits   s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm
//!            | the upper 15 of 31 bits of the magnitude (bfloat16, truncated), 2^-32..2^32   -> class 1..=8192, 0.4 to 0.8 % wide
//!            | below 2^-32                                                                   -> class 0, of both signs
//!            | from 2^32 on (infinities and NaN too)                                         -> class 8193
//! bin = ZERO + class, or ZERO - class of what is negative
//! ```

/// Exponents from which on magnitudes are told apart, and from which on they no longer are.
const EXPONENTS: [i32; 2] = [-32, 32];
/// The upper bits of the magnitude 2^-32: those of class 1.
pub const FIRST: u32 = ((127 + EXPONENTS[0]) as u32) << 7;
/// The class of what is too large.
pub const LAST: usize = ((EXPONENTS[1] - EXPONENTS[0]) as usize) << 7 | 1;

/// Bins of a histogram.
pub const BINS: usize = 2 * LAST + 1;
/// The bin of zero.
pub const ZERO: usize = LAST;

/// The class of a magnitude; the sign does not count.
pub fn class(v: f32) -> usize {
    let bits = (v.to_bits() & 0x7fff_ffff) >> 16;
    if bits < FIRST { 0 } else { ((bits - FIRST + 1) as usize).min(LAST) }
}

/// The least magnitude of a class; that behind [`LAST`] is infinite.
pub fn least(class: usize) -> f64 {
    match class {
        0 => 0.0,
        class if class > LAST => f64::INFINITY,
        class => f64::from(f32::from_bits((FIRST + class as u32 - 1) << 16)),
    }
}

/// The bin of a number.
pub fn bin(v: f32) -> usize {
    if v.is_sign_negative() { ZERO - class(v) } else { ZERO + class(v) }
}
