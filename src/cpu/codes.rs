//! Rows of codes between the planes of a packed tensor and one byte per code.
//!
//! ```text
//! planes (quad order, 32-bit words)  <->  bytes: code of value k at byte k
//! quad t = values 4t..4t+3 = field t % (8/w) of word t / (8/w):   (word >> (w * field)) & (mask in each byte)
//! ```
//!
//! Four codes are moved at a time, as one 32-bit word. Only codes of up to 8 bits; plain floats have no use for this. What
//! a code means is not known here.

use crate::scheme::layout::code_widths;

/// Adds a plane's bits to the codes. `QUADS` is `8 / WIDTH`: the fields of a word, four codes each.
#[inline(always)]
fn add_plane<const WIDTH: usize, const QUADS: usize>(plane: &[u8], first_bit: usize, out: &mut [u32]) {
    let mask = u32::from_ne_bytes([((1u32 << WIDTH) - 1) as u8; 4]);
    let words = plane.as_chunks::<4>().0;
    let (whole, rest) = out.as_chunks_mut::<QUADS>();
    let take = |word: [u8; 4], field: usize, out: &mut u32| {
        let four = (u32::from_le_bytes(word) >> (WIDTH * field)) & mask;
        *out = if first_bit == 0 { four } else { *out | (four << first_bit) };
    };
    for (word, out) in words.iter().zip(whole.iter_mut()) {
        out.iter_mut().enumerate().for_each(|(field, out)| take(*word, field, out));
    }
    if let Some(word) = words.get(whole.len()) {
        rest.iter_mut().enumerate().for_each(|(field, out)| take(*word, field, out));
    }
}

/// Unpacks one row of codes: four to a word of `out`, which covers at most the padded row; `low` and `high` are the row's parts of the
/// code planes.
#[inline(always)]
pub fn unpack(bits: u8, low: &[u8], high: &[u8], out: &mut [u32]) {
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
    let put =
        |field: usize, four: [u8; 4]| ((u32::from_le_bytes(four) >> first_bit) & mask) << (WIDTH * field);
    let words = plane.as_chunks_mut::<4>().0;
    let (whole, rest) = codes.as_chunks::<4>().0.as_chunks::<QUADS>();
    for (word, fours) in words.iter_mut().zip(whole) {
        let packed = fours.iter().enumerate().fold(0, |packed, (field, four)| packed | put(field, *four));
        *word = packed.to_le_bytes();
    }
    if let Some(word) = words.get_mut(whole.len()).filter(|_| !rest.is_empty()) {
        let packed = rest.iter().enumerate().fold(0, |packed, (field, four)| packed | put(field, *four));
        *word = packed.to_le_bytes();
    }
}

/// Packs one row of codes into the row's parts of the planes. `codes` has a multiple of 4 bytes; those beyond K are 0.
#[inline(always)]
pub fn pack(bits: u8, codes: &[u8], low: &mut [u8], high: &mut [u8]) {
    let (low_width, high_width) = code_widths(bits);
    if low_width == 8 {
        low[..codes.len()].copy_from_slice(codes);
        return;
    }
    match low_width {
        1 => pack_words::<1, 8>(codes, 0, low),
        2 => pack_words::<2, 4>(codes, 0, low),
        _ => pack_words::<4, 2>(codes, 0, low),
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
    use crate::PackedTensor;
    use crate::scheme::PlaneKind;
    use crate::scheme::preset::samples;

    #[test]
    fn rows_agree_with_single_codes() {
        for scheme in samples().into_iter().filter(|s| s.bits <= 8) {
            for k in
                [256usize, 512, 1, 31, 33, 77].into_iter().filter(|k| scheme.check_shape(&[2, *k]).is_ok())
            {
                let mut w = PackedTensor::zeroed(scheme, [2, k]).unwrap();
                let code = |c: usize| ((c * 37 + c / 7 + 1) % (1 << scheme.bits)) as u8;
                let mut codes: Vec<u8> = (0..k).map(code).collect();
                codes.resize(k.next_multiple_of(4), 0);
                let [low, high, ..] = w.planes_mut();
                let (l, h) = (low.len() / 2, high.len() / 2);
                pack(scheme.bits, &codes, &mut low[l..], &mut high[h..]);
                for (c, &code) in codes[..k].iter().enumerate() {
                    assert_eq!((w.code(1, c), w.code(0, c)), (u32::from(code), 0), "{scheme} {c}");
                }
                let mut back = vec![u32::MAX; codes.len() / 4];
                let high = w.plane(PlaneKind::CodesHigh);
                unpack(scheme.bits, &w.plane(PlaneKind::CodesLow)[l..], &high[h..], &mut back);
                let back: Vec<u8> = back.iter().flat_map(|w| w.to_le_bytes()).collect();
                assert_eq!(back, codes, "{scheme} {k}");
            }
        }
    }
}
