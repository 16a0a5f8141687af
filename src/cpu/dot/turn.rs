//! Transposing rows of 32-bit words, taking words of codes apart, and mapping bytes through a table of 16: what panels are made with.

#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::cpu::level::Level;

/// `rows` `[n]`, each of `4 * words` bytes or more, to `out` `[words, n]`.
pub(in crate::cpu) fn transpose(level: Level, rows: &[&[u8]], words: usize, out: &mut [u32]) {
    assert!(rows.iter().all(|r| r.len() >= 4 * words) && out.len() >= words * rows.len(), "whole rows");
    let fast = level == Level::Avx512 && rows.len().is_multiple_of(16);
    let done = if fast { words / 16 * 16 } else { 0 };
    #[cfg(target_arch = "x86_64")]
    if fast {
        // SAFETY: a level above `Portable` exists only where `Level::best` has found its features.
        #[allow(unsafe_code)]
        unsafe {
            avx512::transpose(rows, done, out);
        }
    }
    let n = rows.len();
    // In blocks of 16 words, so that the lines written stay in the cache from one row to the next.
    for start in (done..words).step_by(16) {
        let end = (start + 16).min(words);
        for (r, row) in rows.iter().enumerate() {
            let bytes = row[4 * start..4 * end].as_chunks::<4>().0;
            for (word, out) in bytes.iter().zip(out[start * n + r..].iter_mut().step_by(n)) {
                *out = u32::from_le_bytes(*word);
            }
        }
    }
}

/// Words of codes of `width` bits, `[words, nr]`, to their fields `[words, 8 / width, nr]`: four codes each, a byte for a code. Those of a second plane are
/// added at `first_bit`. `nr` is that of an integer tile.
pub(in crate::cpu) fn fields(
    level: Level,
    width: usize,
    nr: usize,
    first_bit: usize,
    words: &[u32],
    out: &mut [u32],
) {
    assert!([1, 2, 4].contains(&width) && [8, 16, 32].contains(&nr), "planes and tiles there are");
    assert!(words.len().is_multiple_of(nr) && out.len() >= words.len() / width * 8, "whole words");
    #[cfg(target_arch = "x86_64")]
    match level {
        // SAFETY: a level above `Portable` exists only where `Level::best` has found its features.
        #[allow(unsafe_code)]
        Level::Avx512 if nr >= 16 => return unsafe { avx512::fields(width, nr, first_bit, words, out) },
        #[allow(unsafe_code)]
        Level::Avx512 | Level::AvxVnni | Level::Avx2 => {
            // SAFETY: as above.
            return unsafe { avx2::fields(width, nr, first_bit, words, out) };
        }
        Level::Portable => {}
    }
    let _ = level;
    let mask = u32::from_ne_bytes([((1u32 << width) - 1) as u8; 4]);
    for (words, out) in words.chunks(nr).zip(out.chunks_mut(8 / width * nr)) {
        for (field, out) in out.chunks_mut(nr).enumerate() {
            for (out, word) in out.iter_mut().zip(words) {
                let four = (word >> (width * field)) & mask;
                *out = if first_bit == 0 { four } else { *out | (four << first_bit) };
            }
        }
    }
}

/// Replaces every byte, which is less than 16, by its entry in `map`.
pub(in crate::cpu) fn map_bytes(level: Level, map: &[u8; 16], words: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    match level {
        // SAFETY: a level above `Portable` exists only where `Level::best` has found its features.
        #[allow(unsafe_code)]
        Level::Avx512 => return unsafe { avx512::map_bytes(map, words) },
        // SAFETY: as above.
        #[allow(unsafe_code)]
        Level::AvxVnni | Level::Avx2 => return unsafe { avx2::map_bytes(map, words) },
        Level::Portable => {}
    }
    let _ = level;
    for word in words {
        *word = u32::from_le_bytes(word.to_le_bytes().map(|b| map[usize::from(b & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_turns_alike() {
        for level in Level::available() {
            for (n, words) in [(32, 40), (16, 16), (8, 5), (32, 1), (16, 33)] {
                let bytes: Vec<Vec<u8>> =
                    (0..n).map(|r| (0..4 * words + 4).map(|i| (r * 37 + i * 11) as u8).collect()).collect();
                let rows: Vec<&[u8]> = bytes.iter().map(|b| b.as_slice()).collect();
                let mut out = vec![0u32; words * n];
                transpose(level, &rows, words, &mut out);
                for w in 0..words {
                    for r in 0..n {
                        let want = u32::from_le_bytes(bytes[r][4 * w..4 * w + 4].try_into().unwrap());
                        assert_eq!(out[w * n + r], want, "{level:?} {n} {words}");
                    }
                }
            }
            for width in [1, 2, 4] {
                for (nr, first_bit) in [(8, 0), (16, 0), (32, 0), (8, 2), (16, 4), (32, 4)] {
                    let words: Vec<u32> = (0..5 * nr as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
                    let quads = 8 / width;
                    let mut out = vec![0x0101_0101u32; 5 * nr * quads];
                    fields(level, width, nr, first_bit, &words, &mut out);
                    for (i, word) in out.iter().enumerate() {
                        let (w, f, n) = (i / nr / quads, i / nr % quads, i % nr);
                        let mask = 0x0101_0101 * ((1u32 << width) - 1);
                        let four = (words[w * nr + n] >> (f * width)) & mask;
                        let want = if first_bit == 0 { four } else { (four << first_bit) | 0x0101_0101 };
                        assert_eq!(*word, want, "{level:?} {width} {nr} {first_bit} at {i}");
                    }
                }
            }
            let map: [u8; 16] = std::array::from_fn(|i| (i * 17 + 3) as u8);
            let mut words: Vec<u32> = (0..37u32).map(|i| (i * 0x0103_0507) & 0x0f0f_0f0f).collect();
            let want: Vec<u32> = words
                .iter()
                .map(|w| u32::from_le_bytes(w.to_le_bytes().map(|b| map[usize::from(b)])))
                .collect();
            map_bytes(level, &map, &mut words);
            assert_eq!(words, want, "{level:?}");
        }
    }
}
