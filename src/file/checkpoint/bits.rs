//! Codes in packed bits, the few ways that checkpoints have of it, and matrices turned around.
//!
//! ```text
//! stream   code i has the bits i * bits.. of a row, counted from the lowest bit of its first byte; words of 32 bits are no matter
//! fields   floor(32 / bits) codes to a 32-bit word, from its lowest bits; what is left of the word is 0
//! turned   element (row, column) -> (column, row), for formats that store [in, out]
//! ```

fn mask(bits: u32) -> u32 {
    u32::MAX.wrapping_shr(32u32.saturating_sub(bits))
}

/// The first codes of a stream, 1 to 8 bits each. Bytes that are missing read as 0.
pub fn unpack_stream(bytes: &[u8], bits: u32, codes: &mut [u8]) {
    let (mut bytes, mut held, mut n_held) = (bytes.iter(), 0u32, 0u32);
    for code in codes {
        while n_held < bits {
            held |= u32::from(bytes.next().copied().unwrap_or(0)).wrapping_shl(n_held);
            n_held = n_held.wrapping_add(8);
        }
        *code = (held & mask(bits)) as u8;
        held = held.wrapping_shr(bits);
        n_held = n_held.wrapping_sub(bits);
    }
}

/// Appends a stream of codes of 1 to 8 bits, its last byte filled up with 0.
pub fn pack_stream(codes: &[u8], bits: u32, out: &mut Vec<u8>) {
    let (mut held, mut n_held) = (0u32, 0u32);
    for &code in codes {
        held |= (u32::from(code) & mask(bits)).wrapping_shl(n_held);
        n_held = n_held.wrapping_add(bits);
        while n_held >= 8 {
            out.push(held as u8);
            held = held.wrapping_shr(8);
            n_held = n_held.wrapping_sub(8);
        }
    }
    if n_held > 0 {
        out.push(held as u8);
    }
}

/// Codes per word in the form of fields.
pub fn per_word(bits: u32) -> usize {
    32usize.checked_div(bits as usize).unwrap_or(1)
}

/// The first codes of words of fields.
pub fn unpack_fields(bytes: &[u8], bits: u32, codes: &mut [u8]) {
    for (word, codes) in bytes.as_chunks::<4>().0.iter().zip(codes.chunks_mut(per_word(bits))) {
        let mut word = u32::from_le_bytes(*word);
        for code in codes {
            *code = (word & mask(bits)) as u8;
            word = word.wrapping_shr(bits);
        }
    }
}

/// Appends words of fields.
pub fn pack_fields(codes: &[u8], bits: u32, out: &mut Vec<u8>) {
    for codes in codes.chunks(per_word(bits)) {
        let word = codes
            .iter()
            .rev()
            .fold(0u32, |word, &code| word.wrapping_shl(bits) | (u32::from(code) & mask(bits)));
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// Elements of `N` bytes, `[.., columns]` -> `[columns, ..]`.
pub fn turned<const N: usize>(bytes: &[u8], columns: usize) -> Vec<u8> {
    /// Rows at a time: what is written together fills a cache line.
    const BLOCK: usize = 16;
    let (elements, _) = bytes.as_chunks::<N>();
    let columns = columns.max(1);
    let rows = elements.len().div_euclid(columns).max(1);
    let mut out = vec![[0u8; N]; elements.len()];
    for (block, from) in elements.chunks(columns.saturating_mul(BLOCK)).enumerate() {
        for (column, to) in out.chunks_mut(rows).enumerate() {
            let to = to.iter_mut().skip(block.saturating_mul(BLOCK));
            for (to, from) in to.zip(from.iter().skip(column).step_by(columns)) {
                *to = *from;
            }
        }
    }
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
        let mut out = Vec::new();
        pack_stream(&(0..32).map(|i| i % 8).collect::<Vec<u8>>(), 3, &mut out);
        assert_eq!(words(&out), [0x88fa_c688, 0xc688_fac6, 0xfac6_88fa]);
        out.clear();
        pack_fields(&[0, 1, 7, 8, 9, 10, 14, 15], 4, &mut out);
        assert_eq!(words(&out), [0xfea9_8710]);
        out.clear();
        pack_fields(&[0, 1, 2, 3, 4, 5, 6, 7, 0, 7], 3, &mut out);
        assert_eq!(words(&out), [0x38fa_c688]);
    }

    #[test]
    fn both_forms_come_back() {
        for bits in 1..=8u32 {
            let codes: Vec<u8> = (0..77u32).map(|i| (i * 37 + i / 5) as u8 & mask(bits) as u8).collect();
            let (mut stream, mut fields) = (Vec::new(), Vec::new());
            pack_stream(&codes, bits, &mut stream);
            pack_fields(&codes, bits, &mut fields);
            assert_eq!(stream.len(), (77 * bits as usize).div_ceil(8));
            assert_eq!(fields.len(), 77usize.div_ceil(32 / bits as usize) * 4);
            let mut back = [[0xee; 77]; 2];
            unpack_stream(&stream, bits, &mut back[0]);
            unpack_fields(&fields, bits, &mut back[1]);
            assert_eq!((&back[0][..], &back[1][..]), (&codes[..], &codes[..]), "{bits} bits");
        }
    }

    #[test]
    fn turning_twice_is_nothing() {
        for (rows, columns) in [(1, 1), (3, 5), (16, 7), (33, 18), (1, 40), (40, 1)] {
            let bytes: Vec<u8> = (0..rows * columns * 2).map(|i| (i * 31 + i / 250) as u8).collect();
            let once = turned::<2>(&bytes, columns);
            assert_eq!(once[2 * rows * (columns - 1)..][..2], bytes[2 * (columns - 1)..][..2]);
            assert_eq!(turned::<2>(&once, rows), bytes);
        }
        assert!(turned::<4>(&[], 0).is_empty());
    }
}
