//! Codes in packed bits, the few ways that checkpoints have of it, and matrices turned around.
//!
//! ```text
//! stream   code i has the bits i * bits.. of a row, counted from the lowest bit of its first byte; words of 32 bits are no matter
//! fields   floor(32 / bits) codes to a 32-bit word, from its lowest bits; what is left of the word is 0
//! turned   element (row, column) -> (column, row), for formats that store [in, out]
//! ```

use crate::threads;

/// Codes that are moved at a time: as many bytes as one has bits.
const STEP: usize = 8;

/// Eight codes, one to a byte, closed up; what a byte has beyond `BITS` is dropped.
#[inline(always)]
fn close<const BITS: usize>(codes: [u8; STEP]) -> u64 {
    let bits = BITS as u32;
    let (two, four) = (bits.wrapping_mul(2), bits.wrapping_mul(4));
    let x = u64::from_le_bytes(codes) & low(bits).wrapping_mul(0x0101_0101_0101_0101);
    // Neighbours together: codes, then pairs, then fours.
    let x = (x & 0x00ff_00ff_00ff_00ff) | (x & 0xff00_ff00_ff00_ff00).wrapping_shr(8u32.wrapping_sub(bits));
    let x = (x & 0x0000_ffff_0000_ffff) | (x & 0xffff_0000_ffff_0000).wrapping_shr(16u32.wrapping_sub(two));
    (x & 0xffff_ffff) | (x & 0xffff_ffff_0000_0000).wrapping_shr(32u32.wrapping_sub(four))
}

/// The reverse of [`close`].
#[inline(always)]
fn open<const BITS: usize>(x: u64) -> [u8; STEP] {
    let bits = BITS as u32;
    let (two, four) = (bits.wrapping_mul(2), bits.wrapping_mul(4));
    let (ones, twos, fours) = (
        low(bits).wrapping_mul(0x0001_0001_0001_0001),
        low(two).wrapping_mul(0x0000_0001_0000_0001),
        low(four),
    );
    let x = (x & fours) | (x & fours.wrapping_shl(four)).wrapping_shl(32u32.wrapping_sub(four));
    let x = (x & twos) | (x & twos.wrapping_shl(two)).wrapping_shl(16u32.wrapping_sub(two));
    ((x & ones) | (x & ones.wrapping_shl(bits)).wrapping_shl(8u32.wrapping_sub(bits))).to_le_bytes()
}

/// The lowest bits, 1 to 32 of them.
#[inline(always)]
const fn low(bits: u32) -> u64 {
    u64::MAX.wrapping_shr(64u32.wrapping_sub(bits))
}

/// The first bytes, filled up with 0.
#[inline(always)]
fn filled<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut all = [0; N];
    all.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    all
}

#[inline(always)]
fn pack_bits<const BITS: usize>(codes: &[u8], out: &mut [u8]) {
    let (whole, rest) = codes.as_chunks::<STEP>();
    let (bytes, left) = out.split_at_mut(whole.len().wrapping_mul(BITS).min(out.len()));
    for (to, codes) in bytes.as_chunks_mut::<BITS>().0.iter_mut().zip(whole) {
        *to = filled(&close::<BITS>(*codes).to_le_bytes());
    }
    left.fill(0);
    let last = close::<BITS>(filled(rest)).to_le_bytes();
    left.iter_mut().zip(last).for_each(|(to, byte)| *to = byte);
}

#[inline(always)]
fn unpack_bits<const BITS: usize>(bytes: &[u8], codes: &mut [u8]) {
    let steps = (codes.len() / STEP).min(bytes.as_chunks::<BITS>().0.len());
    let (whole, rest) = codes.split_at_mut(steps.wrapping_mul(STEP));
    let (from, left) = bytes.split_at(steps.wrapping_mul(BITS));
    for (codes, bytes) in whole.as_chunks_mut::<STEP>().0.iter_mut().zip(from.as_chunks::<BITS>().0) {
        *codes = open::<BITS>(u64::from_le_bytes(filled(bytes)));
    }
    let left = left.chunks(BITS).chain(std::iter::repeat(&[][..]));
    for (codes, bytes) in rest.chunks_mut(STEP).zip(left) {
        let last = open::<BITS>(u64::from_le_bytes(filled(bytes)));
        codes.iter_mut().zip(last).for_each(|(to, code)| *to = code);
    }
}

/// The first codes of a stream, 1 to 8 bits each. Bytes that are missing read as 0.
pub fn unpack_stream(bytes: &[u8], bits: u32, codes: &mut [u8]) {
    match bits {
        1 => unpack_bits::<1>(bytes, codes),
        2 => unpack_bits::<2>(bytes, codes),
        3 => unpack_bits::<3>(bytes, codes),
        4 => unpack_bits::<4>(bytes, codes),
        5 => unpack_bits::<5>(bytes, codes),
        6 => unpack_bits::<6>(bytes, codes),
        7 => unpack_bits::<7>(bytes, codes),
        _ => unpack_bits::<8>(bytes, codes),
    }
}

/// A stream of codes of 1 to 8 bits, filled up with 0.
pub fn pack_stream(codes: &[u8], bits: u32, out: &mut [u8]) {
    match bits {
        1 => pack_bits::<1>(codes, out),
        2 => pack_bits::<2>(codes, out),
        3 => pack_bits::<3>(codes, out),
        4 => pack_bits::<4>(codes, out),
        5 => pack_bits::<5>(codes, out),
        6 => pack_bits::<6>(codes, out),
        7 => pack_bits::<7>(codes, out),
        _ => pack_bits::<8>(codes, out),
    }
}

/// Bytes of a stream of `n` codes.
pub fn stream_bytes(n: usize, bits: u32) -> usize {
    n.saturating_mul(bits as usize).div_ceil(8)
}

/// Codes per word in the form of fields.
pub fn per_word(bits: u32) -> usize {
    32usize.checked_div(bits as usize).unwrap_or(1)
}

/// Bytes of `n` codes in words of fields.
pub fn field_bytes(n: usize, bits: u32) -> usize {
    n.div_ceil(per_word(bits)).saturating_mul(4)
}

/// Words of `N` codes each.
#[inline(always)]
fn unpack_words<const BITS: usize, const N: usize>(bytes: &[u8], codes: &mut [u8]) {
    for (word, codes) in bytes.as_chunks::<4>().0.iter().zip(codes.chunks_mut(N)) {
        let mut word = u32::from_le_bytes(*word);
        for code in codes {
            *code = (u64::from(word) & low(BITS as u32)) as u8;
            word = word.wrapping_shr(BITS as u32);
        }
    }
}

#[inline(always)]
fn pack_words<const BITS: usize, const N: usize>(codes: &[u8], out: &mut [u8]) {
    let put = |word: u64, code: &u8| word.wrapping_shl(BITS as u32) | (u64::from(*code) & low(BITS as u32));
    for (to, codes) in out.as_chunks_mut::<4>().0.iter_mut().zip(codes.chunks(N)) {
        *to = (codes.iter().rev().fold(0, put) as u32).to_le_bytes();
    }
}

/// The first codes of words of fields. Where the codes fill words they are a stream.
pub fn unpack_fields(bytes: &[u8], bits: u32, codes: &mut [u8]) {
    match bits {
        3 => unpack_words::<3, 10>(bytes, codes),
        5 => unpack_words::<5, 6>(bytes, codes),
        6 => unpack_words::<6, 5>(bytes, codes),
        7 => unpack_words::<7, 4>(bytes, codes),
        _ => unpack_stream(bytes, bits, codes),
    }
}

/// Words of fields.
pub fn pack_fields(codes: &[u8], bits: u32, out: &mut [u8]) {
    match bits {
        3 => pack_words::<3, 10>(codes, out),
        5 => pack_words::<5, 6>(codes, out),
        6 => pack_words::<6, 5>(codes, out),
        7 => pack_words::<7, 4>(codes, out),
        _ => pack_stream(codes, bits, out),
    }
}

/// Elements of `N` bytes, `[.., columns]` -> `[columns, ..]`.
pub fn turned<const N: usize>(bytes: &[u8], columns: usize) -> Vec<u8> {
    /// Rows and columns of a tile: its lines are read whole and written whole.
    const TILE: usize = 32;
    let (elements, _) = bytes.as_chunks::<N>();
    let columns = columns.max(1);
    let rows = elements.len().div_euclid(columns).max(1);
    let mut out = vec![[0u8; N]; elements.len()];
    let some_columns = |(task, out): (usize, &mut [[u8; N]])| {
        let mut tile = [[[0u8; N]; TILE]; TILE];
        for (block, from) in elements.chunks(columns.saturating_mul(TILE)).enumerate() {
            for (tile, from) in tile.iter_mut().zip(from.chunks(columns)) {
                let from = from.get(TILE.saturating_mul(task)..).unwrap_or_default();
                match from.first_chunk() {
                    Some(from) => *tile = *from,
                    None => tile.iter_mut().zip(from).for_each(|(to, from)| *to = *from),
                }
            }
            for (column, to) in (0..TILE).zip(out.chunks_mut(rows)) {
                let to = to.get_mut(TILE.saturating_mul(block)..).unwrap_or_default();
                let put = |(to, row): (&mut [u8; N], &[[u8; N]; TILE])| {
                    row.get(column).into_iter().for_each(|from| *to = *from);
                };
                match to.first_chunk_mut::<TILE>() {
                    // Of a length that is known, which is unrolled.
                    Some(to) => to.iter_mut().zip(&tile).for_each(put),
                    None => to.iter_mut().zip(&tile).for_each(put),
                }
            }
        }
    };
    let tasks = out.chunks_mut(rows.saturating_mul(TILE)).enumerate().collect();
    threads::for_each(tasks, elements.len(), some_columns);
    out.into_flattened()
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect()
    }

    #[test]
    fn golden_words() {
        let mut out = [0xee; 12];
        pack_stream(&(0..32).map(|i| i % 8).collect::<Vec<u8>>(), 3, &mut out);
        assert_eq!(words(&out), [0x88fa_c688, 0xc688_fac6, 0xfac6_88fa]);
        let mut out = [0xee; 4];
        pack_fields(&[0, 1, 7, 8, 9, 10, 14, 15], 4, &mut out);
        assert_eq!(words(&out), [0xfea9_8710]);
        pack_fields(&[0, 1, 2, 3, 4, 5, 6, 7, 0, 7], 3, &mut out);
        assert_eq!(words(&out), [0x38fa_c688]);
    }

    /// Codes by the definition: `place` is the first bit of each. Codes may have bits beyond their own, which are dropped.
    fn defined(codes: &[u8], bits: u32, len: usize, place: impl Fn(usize) -> usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (i, code) in codes.iter().enumerate() {
            for bit in (0..bits as usize).filter(|bit| code >> bit & 1 == 1) {
                let at = place(i) + bit;
                bytes[at / 8] |= 1 << (at % 8);
            }
        }
        bytes
    }

    #[test]
    fn both_forms_are_the_definition_and_come_back() {
        for (bits, n) in (1..=8u32).flat_map(|bits| [0, 1, 7, 8, 9, 32, 77, 160].map(|n| (bits, n))) {
            let codes: Vec<u8> = (0..n as u32).map(|i| (i * 37 + i / 5) as u8).collect();
            let (per_word, bits_of) = (32 / bits as usize, bits as usize);
            let mut stream = vec![0xee; (n * bits_of).div_ceil(8)];
            let mut fields = vec![0xee; n.div_ceil(per_word) * 4];
            assert_eq!((stream_bytes(n, bits), field_bytes(n, bits)), (stream.len(), fields.len()));
            pack_stream(&codes, bits, &mut stream);
            pack_fields(&codes, bits, &mut fields);
            assert_eq!(stream, defined(&codes, bits, stream.len(), |i| i * bits_of), "{bits} bits, {n}");
            let field = |i: usize| i / per_word * 32 + i % per_word * bits_of;
            assert_eq!(fields, defined(&codes, bits, fields.len(), field), "{bits} bits, {n}");
            let mut back = vec![0xee; 2 * n];
            let (of_stream, of_fields) = back.split_at_mut(n);
            // Bits that are no part of the last code.
            fields
                .iter_mut()
                .skip((n / per_word * 32 + n % per_word * bits_of).div_ceil(8))
                .for_each(|b| *b = 0xff);
            unpack_stream(&stream, bits, of_stream);
            unpack_fields(&fields, bits, of_fields);
            let kept: Vec<u8> = codes.iter().map(|code| code & (0xff >> (8 - bits))).collect();
            assert_eq!((&*of_stream, &*of_fields), (&kept[..], &kept[..]), "{bits} bits, {n}");
        }
    }

    #[test]
    fn what_is_missing_is_0_and_what_is_left_is_filled() {
        let mut out = [0xee; 9];
        pack_stream(&[3; 10], 2, &mut out);
        assert_eq!(out, [0xff, 0xff, 0x0f, 0, 0, 0, 0, 0, 0]);
        let mut codes = [0xee; 19];
        unpack_stream(&[0xff; 3], 3, &mut codes);
        assert_eq!((&codes[..8], &codes[8..]), (&[7; 8][..], &[0; 11][..]));
        unpack_stream(&[0xff; 4], 3, &mut codes);
        assert_eq!(&codes[8..12], [7, 7, 3, 0]);
    }

    #[test]
    fn each_element_is_turned_and_turned_back() {
        for (rows, columns) in [(1, 1), (3, 5), (16, 7), (33, 18), (1, 40), (40, 1), (300, 260)] {
            let bytes: Vec<u8> = (0..rows * columns * 2).map(|i| (i * 31 + i / 250) as u8).collect();
            let once = turned::<2>(&bytes, columns);
            for (i, element) in bytes.as_chunks::<2>().0.iter().enumerate() {
                let (row, column) = (i / columns, i % columns);
                assert_eq!(
                    once[2 * (column * rows + row)..][..2],
                    *element,
                    "[{row}, {column}] of {columns}"
                );
            }
            assert_eq!(turned::<2>(&once, rows), bytes);
        }
        assert!(turned::<4>(&[], 0).is_empty());
    }
}
