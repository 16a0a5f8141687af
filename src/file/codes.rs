//! Rows of codes, one byte each, to and from the code planes of [`crate::scheme::layout`].
//!
//! ```text
//! codes  c0 c1 c2 c3 | c4 c5 c6 c7 | ...          `width` bits of each, from bit `first` of the code on
//! word   byte i of a 32-bit word collects c[i], c[4 + i], c[8 + i], ... from its low bits upwards
//! ```
//!
//! For whole rows of codes of at most 8 bits. Single codes: [`crate::PackedTensor::code`].

use crate::scheme::layout::{code_row_bytes, code_widths};

/// The low and the high plane of codes, growing row by row.
#[derive(Clone, Debug, Default)]
pub struct CodePlanes {
    pub low: Vec<u8>,
    pub high: Vec<u8>,
}

impl CodePlanes {
    /// Empty planes with room for `rows` rows of `k` codes of `bits` bits.
    pub fn with_capacity(bits: u8, rows: usize, k: usize) -> Self {
        let (low, high) = code_widths(bits);
        let room = |width| Vec::with_capacity(code_row_bytes(k, width).saturating_mul(rows));
        Self { low: room(low), high: room(high) }
    }

    /// Appends a row of codes of `bits` bits.
    pub fn push_row(&mut self, codes: &[u8], bits: u8) {
        let (low, high) = code_widths(bits);
        push_plane(&mut self.low, codes, low, 0);
        push_plane(&mut self.high, codes, high, low);
    }
}

fn push_plane(plane: &mut Vec<u8>, codes: &[u8], width: usize, first: usize) {
    let Some(per_word) = 32usize.checked_div(width) else { return };
    let end = plane.len().saturating_add(code_row_bytes(codes.len(), width));
    let mask = mask(width);
    for of_word in codes.chunks(per_word) {
        let mut word = [0u8; 4];
        let mut bit = 0u32;
        for quad in of_word.chunks(4) {
            for (byte, code) in word.iter_mut().zip(quad) {
                *byte |= (code.wrapping_shr(first as u32) & mask).wrapping_shl(bit);
            }
            bit = bit.wrapping_add(width as u32);
        }
        plane.extend_from_slice(&word);
    }
    plane.resize(end, 0);
}

/// The codes of one row, `codes.len()` of `bits` bits, from its bytes in the low and the high plane. Bytes that are missing read as 0.
pub fn read_row(low_row: &[u8], high_row: &[u8], bits: u8, codes: &mut [u8]) {
    let (low, high) = code_widths(bits);
    codes.fill(0);
    read_plane(low_row, codes, low, 0);
    read_plane(high_row, codes, high, low);
}

fn read_plane(row: &[u8], codes: &mut [u8], width: usize, first: usize) {
    let Some(per_word) = 32usize.checked_div(width) else { return };
    let mask = mask(width);
    for (of_word, word) in codes.chunks_mut(per_word).zip(row.chunks(4)) {
        let mut bit = 0u32;
        for quad in of_word.chunks_mut(4) {
            for (code, byte) in quad.iter_mut().zip(word) {
                *code |= (byte.wrapping_shr(bit) & mask).wrapping_shl(first as u32);
            }
            bit = bit.wrapping_add(width as u32);
        }
    }
}

fn mask(width: usize) -> u8 {
    u8::MAX.wrapping_shr(8u32.saturating_sub(width as u32))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::PackedTensor;
    use crate::scheme::{PlaneKind, preset::samples};

    #[test]
    fn rows_equal_codes_stored_one_by_one() {
        for scheme in samples().into_iter().filter(|s| s.bits <= 8) {
            let k = if scheme.ggml.is_some() { 256 } else { 75 };
            let rows: Vec<Vec<u8>> = (0..3u32)
                .map(|r| {
                    (0..k as u32).map(|c| ((r * 89 + c * 7 + c / 5) % (1 << scheme.bits)) as u8).collect()
                })
                .collect();
            let mut expected = PackedTensor::zeroed(scheme, [3, k]).unwrap();
            let mut planes = CodePlanes::with_capacity(scheme.bits, 3, k);
            for (r, codes) in rows.iter().enumerate() {
                codes.iter().enumerate().for_each(|(c, &code)| expected.set_code(r, c, code));
                planes.push_row(codes, scheme.bits);
            }
            assert_eq!(planes.low, expected.plane(PlaneKind::CodesLow), "{scheme}");
            assert_eq!(planes.high, expected.plane(PlaneKind::CodesHigh), "{scheme}");
            let stride = |kind| expected.layout().plane(kind).map_or(0, |p| p.row_stride);
            let (low, high) = (stride(PlaneKind::CodesLow), stride(PlaneKind::CodesHigh));
            for (r, codes) in rows.iter().enumerate() {
                let mut back = vec![0xee; k];
                let high_row = &planes.high[r * high..(r + 1) * high];
                read_row(&planes.low[r * low..(r + 1) * low], high_row, scheme.bits, &mut back);
                assert_eq!(&back, codes, "{scheme}");
            }
        }
    }
}
