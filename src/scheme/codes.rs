//! Rows of codes between the planes of a packed tensor and one byte per code.
//!
//! ```text
//! planes (quad order, 32-bit words)  <->  bytes: code of value k at byte k
//! quad t = values 4t..4t+3 = field t % (8/w) of word t / (8/w):   (word >> (w * field)) & (mask in each byte)
//! ```
//!
//! Four codes are moved at a time, as one 32-bit word. Only whole rows of codes of up to 8 bits; plain floats have no use for this, and single
//! codes are [`crate::PackedTensor::code`]. What a code means is not known here.

use super::layout::code_widths;

/// Adds a plane's bits to the codes. `QUADS` is `8 / WIDTH`: the fields of a word, four codes each.
#[inline(always)]
fn add_plane<const WIDTH: usize, const QUADS: usize>(plane: &[u8], first_bit: usize, out: &mut [[u8; 4]]) {
    let mask = u32::from_ne_bytes([((1u32 << WIDTH) - 1) as u8; 4]);
    let (words, _) = plane.as_chunks::<4>();
    let (whole, rest) = out.as_chunks_mut::<QUADS>();
    let take = |word: [u8; 4], field: usize, out: &mut [u8; 4]| {
        let four = (u32::from_le_bytes(word) >> (WIDTH * field)) & mask;
        let before = if first_bit == 0 { 0 } else { u32::from_le_bytes(*out) };
        *out = (before | (four << first_bit)).to_le_bytes();
    };
    for (word, out) in words.iter().zip(whole.iter_mut()) {
        out.iter_mut().enumerate().for_each(|(field, out)| take(*word, field, out));
    }
    if let Some(word) = words.get(whole.len()) {
        rest.iter_mut().enumerate().for_each(|(field, out)| take(*word, field, out));
    }
}

/// Unpacks one row of codes, four at a time; `out` covers at most the padded row. `low` and `high` are the row's parts of the code planes.
#[inline(always)]
pub fn unpack(bits: u8, low: &[u8], high: &[u8], out: &mut [[u8; 4]]) {
    let (low_width, high_width) = code_widths(bits);
    match low_width {
        1 => add_plane::<1, 8>(low, 0, out),
        2 => add_plane::<2, 4>(low, 0, out),
        4 => add_plane::<4, 2>(low, 0, out),
        _ => add_plane::<8, 1>(low, 0, out),
    }
    match (high_width, low_width) {
        (1, 2) => add_plane::<1, 8>(high, 2, out),
        (1, _) => add_plane::<1, 8>(high, 4, out),
        (2, _) => add_plane::<2, 4>(high, 4, out),
        _ => {}
    }
}

/// Packs the bits `first_bit..first_bit + WIDTH` of the codes. `QUADS` is `8 / WIDTH`.
#[inline(always)]
fn pack_words<const WIDTH: usize, const QUADS: usize>(codes: &[u8], first_bit: usize, plane: &mut [u8]) {
    let mask = u32::from_ne_bytes([((1u32 << WIDTH) - 1) as u8; 4]);
    let pack = |fours: &[[u8; 4]; QUADS]| {
        let put = |(field, four): (usize, &[u8; 4])| {
            ((u32::from_le_bytes(*four) >> first_bit) & mask) << (WIDTH * field)
        };
        fours.iter().enumerate().map(put).fold(0, |packed, bits| packed | bits).to_le_bytes()
    };
    let (words, _) = plane.as_chunks_mut::<4>();
    let (fours, last) = codes.as_chunks::<4>();
    let (whole, rest) = fours.as_chunks::<QUADS>();
    for (word, fours) in words.iter_mut().zip(whole) {
        *word = pack(fours);
    }
    if let Some(word) = words.get_mut(whole.len()).filter(|_| rest.len() + last.len() > 0) {
        let mut fours = [[0; 4]; QUADS];
        let padded = fours.as_flattened_mut().iter_mut();
        padded.zip(rest.as_flattened().iter().chain(last)).for_each(|(to, code)| *to = *code);
        *word = pack(&fours);
    }
}

/// Packs one row of codes into the row's parts of the planes; what is beyond the codes in their last word becomes 0.
#[inline(always)]
pub fn pack(bits: u8, codes: &[u8], low: &mut [u8], high: &mut [u8]) {
    let (low_width, high_width) = code_widths(bits);
    match low_width {
        1 => pack_words::<1, 8>(codes, 0, low),
        2 => pack_words::<2, 4>(codes, 0, low),
        4 => pack_words::<4, 2>(codes, 0, low),
        _ => low.iter_mut().zip(codes).for_each(|(to, code)| *to = *code),
    }
    match high_width {
        1 => pack_words::<1, 8>(codes, low_width, high),
        2 => pack_words::<2, 4>(codes, low_width, high),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::layout::{code_position, code_row_bytes};

    #[test]
    fn each_code_lies_where_the_layout_says() {
        for bits in 1..=8u8 {
            for k in [256usize, 512, 1, 31, 33, 77] {
                let codes: Vec<u8> = (0..k).map(|c| ((c * 37 + c / 7 + 1) % (1 << bits)) as u8).collect();
                let widths: [usize; 2] = code_widths(bits).into();
                let mut planes = widths.map(|w| vec![0u8; code_row_bytes(k, w)]);
                let [low, high] = &mut planes;
                pack(bits, &codes, low, high);
                let mut left = planes.clone();
                for (c, code) in codes.iter().enumerate() {
                    let mut rest = *code;
                    for (plane, width) in left.iter_mut().zip(widths).filter(|(_, width)| *width > 0) {
                        let (byte, bit) = code_position(c, width);
                        let mask = u8::MAX >> (8 - width);
                        assert_eq!(plane[byte] >> bit & mask, rest & mask, "{bits} bits, {c} of {k}");
                        plane[byte] &= !(mask << bit);
                        rest = rest.unbounded_shr(width as u32);
                    }
                }
                assert!(left.iter().flatten().all(|&b| b == 0), "{bits} bits, {k}: more than the codes");
                let mut back = vec![[0xee; 4]; k.div_ceil(4)];
                unpack(bits, &planes[0], &planes[1], &mut back);
                assert_eq!(back.as_flattened()[..k], codes, "{bits} bits, {k}");
                assert!(back.as_flattened()[k..].iter().all(|&c| c == 0), "{bits} bits, {k}");
            }
        }
    }
}
