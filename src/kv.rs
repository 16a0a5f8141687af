//! What a cache of keys and values is: its settings, how its numbers are stored, and where.
//!
//! ```text
//! append k, v [T, heads * head_size]  -> window: f16, a ring                         every token goes there first
//! a block of 32 tokens is complete    -> keys:   a group = 32 tokens of a channel    codes and a scale with a minimum per group
//!                                        values: a group = 32 columns of a token
//! attention                           <- blocks, and from the window the tokens behind the last complete block
//! ```
//!
//! Keys per channel and values per token: channels of keys differ in size by orders, and a channel that shares its scale with others takes theirs; values have
//! no such channels. The rest of fewer than 32 tokens is exact but for f16. What is stored depends on the tokens alone, not on how many were appended at a time.
//!
//! **Numbers.** A group's numbers are f16 (f32 rounded to nearest even, infinity beyond 65504). All operations are single f32 operations in the order written; the comparisons are between
//! numbers that no engine has to round, so codes are the same on all of them. `low` and `high` are the extremes of the group (a zero as +0), `r = high - low`.
//!
//! ```text
//! int8   a group has 32 bits: scale f16 | low f16                             9 bits a number
//!        scale = the smallest f16 not below r * C(255)                        C(n): the f32 nearest to 1/n
//!        code  = the largest q of 0..=255 that is 0 or has (q - 0.5) * scale <= x - low;  0 where scale is 0
//!        value = code * scale + low                                           the product is exact
//! int4   a group has 20 bits: scale 9 | z 11, signed                          4.625 bits a number
//!        scale = the f32 of bits (109 << 23) + (s << 19): 5 bits of exponent and 4 of mantissa, from 2^-18
//!        s     = the larger of the one nearest to r * C(15) (half up) and the smallest that is not below amax / 128
//!        start = low + d / 2 where d = r - 15 * scale is above -scale, else low
//!        z     = the largest integer of -1024..=1023 that is -1024 or has (z - 0.5) * unit <= start        unit = scale / 8
//!        code  = the largest q of 0..=15 that is 0 or has (8 q - 4 + z) * unit <= x
//!        value = (8 code + z) * unit                                          the product is exact
//! ```
//!
//! A minimum of eleven bits in eighths of a step costs nothing that can be measured beside one in f16 (0.03 dB for values, 0.1 dB for keys), and is what brings a cache below 0.3 of f16;
//! but for groups far from 0, whose scale has to be at least amax / 128 (a hundred standard deviations off: 1 dB, three hundred: 6 dB), and for numbers below 1e-6. Where a group has
//! a NaN or an infinity all of it decodes to NaN: `scale` is the f16 NaN 0x7e00, or s is 511; the rest is 0. A cache in f16 keeps them.
//!
//! **Places**, in words of 32 bits ([`Layout`] has where each begins). B = capacity / 32 blocks, whole ones; W the window's tokens; row = heads * head_size / 2.
//!
//! ```text
//! window  keys, then values: [W][heads][head_size / 2]     token t is in slot t % W; two columns a word, the first in the low half
//! codes   [heads][B * 32][words of a token]                int8: four columns a word, a byte each, the first lowest
//!                                                          int4: eight; column c in bits 8 (c % 4) + 4 (c / 4) and up
//!                                                          f16: two
//! groups  [heads][B][head_size / 8 records of 8 groups]    keys: record i has channels 8i..8i+8; values: record 4g + o has columns 32g..32g+32 of tokens 8o..8o+8
//!                                                          int8: 8 words, scale in the low half
//!                                                          int4: 5 words; a group is scale | z << 9; its low 16 bits in half g % 2 of word g / 2, the other 4 in bits 4g of word 4
//! ```
//!
//! Source: KIVI (Liu et al. 2024), keys per channel and values per token with a window. Differs: values wait for a complete block too, and the minimum of four bits is one in eighths of a step.

use crate::{Error, Result};
use std::fmt;
use std::ops::Range;

/// Tokens of a block of keys, and columns of a group of values.
pub const GROUP: usize = 32;
/// Groups of a record.
pub const RECORD: usize = 8;
/// The most columns of a head.
pub const MAX_HEAD: usize = 256;
/// The field of int4's scale that stands for groups which are not finite.
pub const NOT_FINITE: u32 = 511;
/// Exponent of int4's smallest scale with the bias of f32, in place; its unit's is 3 less.
pub const SCALE_BASE: u32 = 109 << 23;

/// Tokens of the window at most.
const MAX_WINDOW: usize = 8 * GROUP;
/// The part of the capacity that the window has.
const WINDOW_SHARE: usize = 128;

/// How keys, or values, are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    F16,
    Int8,
    Int4,
}

impl Side {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F16, Self::Int8, Self::Int4];

    /// Bits of a code.
    pub const fn bits(self) -> usize {
        match self {
            Self::F16 => 16,
            Self::Int8 => 8,
            Self::Int4 => 4,
        }
    }

    /// Words of a record: what eight groups have beside their codes.
    pub const fn record_words(self) -> usize {
        match self {
            Self::F16 => 0,
            Self::Int8 => 8,
            Self::Int4 => 5,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

/// What a cache holds, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvSettings {
    /// Heads of keys and values. Queries may have more: see [`crate::KvCache::attention`].
    pub heads: usize,
    /// Columns of a head: a multiple of 32, up to 256.
    pub head_size: usize,
    pub key: Side,
    pub value: Side,
}

impl KvSettings {
    /// Keys and values stored alike.
    pub fn new(heads: usize, head_size: usize, side: Side) -> Self {
        Self { heads, head_size, key: side, value: side }
    }

    /// Columns of a token: heads side by side.
    pub fn width(&self) -> usize {
        self.heads * self.head_size
    }
}

impl fmt::Display for KvSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} heads of {}, keys {}, values {}", self.heads, self.head_size, self.key, self.value)
    }
}

/// Where the parts of a cache are, in words of 32 bits: see the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub settings: KvSettings,
    /// Tokens there is room for.
    pub capacity: usize,
    /// Blocks there is room for.
    pub blocks: usize,
    /// Tokens of the window, a multiple of [`GROUP`].
    pub window: usize,
    pub window_keys: usize,
    pub window_values: usize,
    pub keys: usize,
    pub key_groups: usize,
    pub values: usize,
    pub value_groups: usize,
    /// All of it.
    pub words: usize,
}

/// A part of an append: what the window takes at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of the tokens that are appended.
    pub tokens: Range<usize>,
    /// The place in the cache of the first of them.
    pub first: usize,
    /// Blocks that are complete then, and were not before.
    pub blocks: Range<usize>,
}

impl Layout {
    /// The layout of a cache with room for `capacity` tokens.
    ///
    /// # Errors
    /// [`Error::Shape`] for no heads, no tokens, and heads that are no multiple of 32 columns or of more than 256; [`Error::TooLarge`] beyond 2^32 bytes.
    pub fn new(settings: KvSettings, capacity: usize) -> Result<Self> {
        let KvSettings { heads, head_size, key, value } = settings;
        if heads == 0 {
            return Err(Error::shape("heads of a cache", "one at least", heads));
        }
        if head_size == 0 || head_size % GROUP != 0 || head_size > MAX_HEAD {
            let expected = format!("a multiple of {GROUP} up to {MAX_HEAD}");
            return Err(Error::shape("columns of a head of a cache", expected, head_size));
        }
        if capacity == 0 {
            return Err(Error::shape("tokens of a cache", "room for one at least", capacity));
        }
        // Sums of these are far from what u128 holds.
        let [heads_wide, head, tokens] = [heads, head_size, capacity].map(|n| n as u128);
        let most = tokens + MAX_WINDOW as u128;
        let bytes = heads_wide.saturating_mul(head * 4).saturating_mul(most).saturating_mul(2);
        if bytes > u128::from(u32::MAX) {
            let need = u64::try_from(bytes).unwrap_or(u64::MAX);
            return Err(Error::TooLarge { what: "bytes of a cache".into(), need, limit: u32::MAX.into() });
        }
        let blocks = capacity / GROUP;
        let window = (capacity / WINDOW_SHARE / GROUP * GROUP).clamp(GROUP, MAX_WINDOW);
        let row = heads * head_size / 2;
        let codes = |side: Side| heads * blocks * head_size * side.bits();
        let groups = |side: Side| heads * blocks * head_size / RECORD * side.record_words();
        let window_values = window * row;
        let keys = 2 * window_values;
        let key_groups = keys + codes(key);
        let values = key_groups + groups(key);
        let value_groups = values + codes(value);
        let words = value_groups + groups(value);
        let window_keys = 0;
        Ok(Self {
            settings,
            capacity,
            blocks,
            window,
            window_keys,
            window_values,
            keys,
            key_groups,
            values,
            value_groups,
            words,
        })
    }

    /// Tokens of complete blocks among `length`.
    pub fn packed(&self, length: usize) -> usize {
        length / GROUP * GROUP
    }

    /// The pieces in which `tokens` go behind `length` others.
    pub fn pieces(&self, length: usize, tokens: usize) -> Vec<Piece> {
        let mut all = Vec::new();
        let mut done = 0;
        while done < tokens {
            let first = length + done;
            // Tokens of a block that is not complete stay where they are until it is.
            let n = (self.window - first % GROUP).min(tokens - done);
            all.push(Piece { tokens: done..done + n, first, blocks: first / GROUP..(first + n) / GROUP });
            done += n;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_one_behind_the_other() {
        let settings = KvSettings { heads: 3, head_size: 64, key: Side::Int8, value: Side::Int4 };
        let layout = Layout::new(settings, 70).unwrap();
        assert_eq!((layout.blocks, layout.window), (2, 32));
        assert_eq!((layout.window_values, layout.keys), (32 * 96, 2 * 32 * 96));
        // Two blocks of three heads of 64: 32 tokens of 16 words, 64 groups of a word.
        assert_eq!(layout.key_groups - layout.keys, 6 * 32 * 16);
        assert_eq!(layout.values - layout.key_groups, 6 * 64);
        assert_eq!(layout.value_groups - layout.values, 6 * 32 * 8);
        assert_eq!(layout.words - layout.value_groups, 6 * 8 * 5);
        assert_eq!(Layout::new(settings, 31).unwrap().keys, Layout::new(settings, 31).unwrap().words);
        assert_eq!(Layout::new(settings, 8192).unwrap().window, 64);
        assert_eq!(Layout::new(settings, 1 << 20).unwrap().window, MAX_WINDOW);
    }

    #[test]
    fn four_bits_take_less_than_three_tenths_of_f16() {
        for (heads, head_size) in [(1, 32), (8, 128), (32, 64)] {
            for capacity in [3000, 4096, 8192, 20_000, 131_072] {
                let settings = KvSettings::new(heads, head_size, Side::Int4);
                let Ok(layout) = Layout::new(settings, capacity) else { continue };
                let (bytes, f16) = (layout.words * 4, 2 * 2 * settings.width() * capacity);
                assert!(bytes as f64 <= 0.3 * f16 as f64, "{settings} {capacity}: {bytes} of {f16}");
            }
        }
    }

    #[test]
    fn pieces_never_overwrite_what_is_not_packed() {
        for (capacity, length, tokens) in [(100, 0, 100), (100, 31, 1), (20_000, 95, 1000), (9000, 33, 31)] {
            let layout = Layout::new(KvSettings::new(1, 32, Side::F16), capacity).unwrap();
            let (mut at, mut packed) = (length, length / GROUP);
            for piece in layout.pieces(length, tokens) {
                assert_eq!((piece.first, piece.blocks.start), (at, packed));
                assert_eq!(piece.tokens.start + length, at);
                at += piece.tokens.len();
                assert!(at - packed * GROUP <= layout.window, "{piece:?}");
                packed = piece.blocks.end;
            }
            assert_eq!((at, packed), (length + tokens, (length + tokens) / GROUP));
        }
    }

    #[test]
    fn settings_that_make_no_cache() {
        let of = |heads, head_size, capacity| {
            Layout::new(KvSettings::new(heads, head_size, Side::Int4), capacity).map(|layout| layout.words)
        };
        for (heads, head_size, capacity) in [(0, 32, 1), (1, 0, 1), (1, 48, 1), (1, 288, 1), (1, 32, 0)] {
            let got = of(heads, head_size, capacity);
            assert!(matches!(got, Err(Error::Shape { .. })), "{heads} {head_size} {capacity}: {got:?}");
        }
        for (heads, capacity) in [(usize::MAX, usize::MAX), (1 << 20, 1 << 20), (8, 1 << 40)] {
            assert!(matches!(of(heads, 128, capacity), Err(Error::TooLarge { .. })), "{heads} {capacity}");
        }
    }
}
