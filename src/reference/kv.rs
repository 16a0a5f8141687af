//! The oracle of a cache of keys and values: the text of [`crate::kv`], a number at a time; attention in f64.
//!
//! ```text
//! cache       k, v f32 [T, heads * head_size]  -> the words of a cache that T tokens were appended to
//! decoded     the same                         -> k, v as f32: blocks as their codes say, the rest rounded to f16
//! attention   q, and k, v as decoded           -> y f64: softmax(q . k / sqrt(head_size)) v, a token and a head at a time
//! ```
//!
//! Where [`crate::kv::Layout`] has parts begin is taken from there; what is where within a part is worked out here.

use crate::kv::{KvSettings, Layout, Side};
use half::f16;

/// A group as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// int8: scale and minimum in f16; int4: the 20 bits of scale and z.
    pub head: u32,
    pub codes: Vec<u32>,
}

/// f32 rounded to f16, as bits. A NaN keeps its sign and nothing else.
fn rounded(v: f32) -> u16 {
    if v.is_nan() {
        return if v.is_sign_negative() { 0xfe00 } else { 0x7e00 };
    }
    f16::from_f32(v).to_bits()
}

fn wide(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

/// `low`, `high` and whether all are finite.
fn extremes(x: &[f32]) -> (f32, f32, bool) {
    let (mut low, mut high, mut finite) = (x[0], x[0], true);
    for &v in x {
        if v < low {
            low = v;
        }
        if v > high {
            high = v;
        }
        if !v.is_finite() {
            finite = false;
        }
    }
    // A zero as +0.
    (low + 0.0, high + 0.0, finite)
}

/// int4's scale of field `s`.
fn scale_of(s: u32) -> f32 {
    let (exponent, mantissa) = ((s >> 4) as i32, (s & 15) as f32);
    (1.0 + mantissa / 16.0) * 2f32.powi(exponent - 18)
}

/// A group of numbers that f16 holds. Of any length, for comparisons with other groupings.
///
/// # Panics
/// For f16, which has no groups, and for no numbers.
pub fn encode(x: &[f32], side: Side) -> Group {
    let (low, high, finite) = extremes(x);
    let nothing = vec![0; x.len()];
    match side {
        Side::Int8 => {
            if !finite {
                return Group { head: 0x7e00, codes: nothing };
            }
            let wanted = (high - low) * (1.0 / 255.0);
            // From below: the first f16 that is no smaller.
            let mut bits = f16::from_f32(wanted).to_bits().saturating_sub(2);
            while wide(bits) < wanted {
                bits += 1;
            }
            let scale = wide(bits);
            let code = |v: &f32| {
                let mut q = 0;
                while scale > 0.0 && q < 255 && (q as f32 + 0.5) * scale <= v - low {
                    q += 1;
                }
                q
            };
            let low_bits = u32::from(f16::from_f32(low).to_bits());
            Group { head: u32::from(bits) | (low_bits << 16), codes: x.iter().map(code).collect() }
        }
        Side::Int4 => {
            if !finite {
                return Group { head: 511, codes: nothing };
            }
            let (r, amax) = (high - low, high.abs().max(low.abs()));
            let wanted = r * (1.0 / 15.0);
            // The nearest, the upper one of two that are as near; in f64, which rounds nothing here.
            let mut near = 0;
            while near < 510
                && (f64::from(scale_of(near)) + f64::from(scale_of(near + 1))) / 2.0 <= f64::from(wanted)
            {
                near += 1;
            }
            let mut reaching = 0;
            while reaching < 510 && scale_of(reaching) < amax / 128.0 {
                reaching += 1;
            }
            let s = near.max(reaching);
            let (scale, unit) = (scale_of(s), scale_of(s) / 8.0);
            let d = r - 15.0 * scale;
            let start = if d > -scale { low + d / 2.0 } else { low };
            let mut z = -1024;
            while z < 1023 && (z as f32 + 0.5) * unit <= start {
                z += 1;
            }
            let code = |v: &f32| {
                let mut q = 0;
                while q < 15 && (8 * q + 4 + z) as f32 * unit <= *v {
                    q += 1;
                }
                q as u32
            };
            Group { head: s | ((z as u32 & 0x7ff) << 9), codes: x.iter().map(code).collect() }
        }
        Side::F16 => panic!("numbers in f16 have no groups"),
    }
}

/// The numbers of a group.
pub fn decode(group: &Group, side: Side) -> Vec<f32> {
    let number = |&code: &u32| match side {
        Side::Int8 => code as f32 * wide(group.head as u16) + wide((group.head >> 16) as u16),
        _ => {
            let (s, z) = (group.head & 511, (group.head >> 9) as i32);
            let z = if z >= 1024 { z - 2048 } else { z };
            if s == 511 { f32::NAN } else { (8 * code as i32 + z) as f32 * (scale_of(s) / 8.0) }
        }
    };
    group.codes.iter().map(number).collect()
}

/// A complete block of a head: the tokens and columns of each of its groups, in the order of records.
fn groups(keys: bool, head_size: usize) -> Vec<Vec<(usize, usize)>> {
    let mut all = Vec::new();
    if keys {
        for channel in 0..head_size {
            all.push((0..32).map(|token| (token, channel)).collect());
        }
    } else {
        for columns in 0..head_size / 32 {
            for token in 0..32 {
                all.push((0..32).map(|column| (token, 32 * columns + column)).collect());
            }
        }
    }
    all
}

/// The words of a cache with room for `capacity` tokens, zeros at first, after k and v `[T, heads * head_size]` were appended.
///
/// # Panics
/// If there is no such cache.
pub fn cache(settings: &KvSettings, capacity: usize, k: &[f32], v: &[f32]) -> Vec<u32> {
    let layout = Layout::new(*settings, capacity).expect("settings of a cache");
    let KvSettings { heads, head_size, key, value } = *settings;
    let width = heads * head_size;
    let mut words = vec![0u32; layout.words];
    let put = |words: &mut Vec<u32>, word: usize, bit: usize, width: usize, bits: u32| {
        let mask = if width == 32 { u32::MAX } else { ((1 << width) - 1) << bit };
        words[word] = (words[word] & !mask) | (bits << bit);
    };
    for (x, keys, side, window, codes_at, groups_at) in [
        (k, true, key, layout.window_keys, layout.keys, layout.key_groups),
        (v, false, value, layout.window_values, layout.values, layout.value_groups),
    ] {
        let tokens = x.len() / width;
        for t in 0..tokens {
            for c in 0..width {
                let word = window + (t % layout.window) * width / 2 + c / 2;
                put(&mut words, word, 16 * (c % 2), 16, rounded(x[t * width + c]).into());
            }
        }
        for head in 0..heads {
            for block in 0..tokens / 32 {
                let number = |t: usize, c: usize| rounded(x[(32 * block + t) * width + head * head_size + c]);
                let code_at = |t: usize, c: usize| {
                    let per_word = 32 / side.bits();
                    let token = head * layout.blocks * 32 + 32 * block + t;
                    let word = codes_at + token * head_size / per_word + c / per_word;
                    let i = c % per_word;
                    let bit = if side == Side::Int4 { 8 * (i % 4) + 4 * (i / 4) } else { i * side.bits() };
                    (word, bit)
                };
                if side == Side::F16 {
                    for (t, c) in (0..32).flat_map(|t| (0..head_size).map(move |c| (t, c))) {
                        let (word, bit) = code_at(t, c);
                        put(&mut words, word, bit, 16, number(t, c).into());
                    }
                    continue;
                }
                for (i, places) in groups(keys, head_size).iter().enumerate() {
                    let x: Vec<f32> = places.iter().map(|&(t, c)| wide(number(t, c))).collect();
                    let group = encode(&x, side);
                    for (&(t, c), code) in places.iter().zip(&group.codes) {
                        let (word, bit) = code_at(t, c);
                        put(&mut words, word, bit, side.bits(), *code);
                    }
                    let first = (head * layout.blocks + block) * head_size;
                    if side == Side::Int8 {
                        put(&mut words, groups_at + first + i, 0, 32, group.head);
                    } else {
                        let record = groups_at + (first / 8 + i / 8) * 5;
                        let i = i % 8;
                        put(&mut words, record + i / 2, 16 * (i % 2), 16, group.head & 0xffff);
                        put(&mut words, record + 4, 4 * i, 4, group.head >> 16);
                    }
                }
            }
        }
    }
    words
}

/// Keys and values `[T, heads * head_size]` as a cache has them.
pub fn decoded(settings: &KvSettings, k: &[f32], v: &[f32]) -> [Vec<f32>; 2] {
    let width = settings.heads * settings.head_size;
    [(k, true, settings.key), (v, false, settings.value)].map(|(x, keys, side)| {
        let mut y: Vec<f32> = x.iter().map(|&v| wide(rounded(v))).collect();
        if side != Side::F16 {
            for block in y.chunks_exact_mut(32 * width) {
                for head in 0..settings.heads {
                    for places in groups(keys, settings.head_size) {
                        let at = |&(t, c): &(usize, usize)| t * width + head * settings.head_size + c;
                        let x: Vec<f32> = places.iter().map(|place| block[at(place)]).collect();
                        for (place, v) in places.iter().zip(decode(&encode(&x, side), side)) {
                            block[at(place)] = v;
                        }
                    }
                }
            }
        }
        y
    })
}

/// y `[T, q_heads * head_size]` of the last T tokens, whose q these are: each sees the tokens up to itself, and `q_heads / heads` heads of q in a row share one of k and v
/// `[length, heads * head_size]`.
pub fn attention(settings: &KvSettings, q: &[f32], tokens: usize, k: &[f32], v: &[f32]) -> Vec<f64> {
    let size = settings.head_size;
    let (width, q_width) = (settings.heads * size, q.len() / tokens);
    let length = k.len() / width;
    let shared = q_width / width;
    let mut y = vec![0.0; q.len()];
    for t in 0..tokens {
        let seen = length - tokens + t + 1;
        for head in 0..q_width / size {
            let (own, other) = (t * q_width + head * size, head / shared * size);
            let mut scores = vec![0.0; seen];
            for (j, score) in scores.iter_mut().enumerate() {
                for i in 0..size {
                    *score += f64::from(q[own + i]) * f64::from(k[j * width + other + i]);
                }
                *score /= (size as f64).sqrt();
            }
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            for (j, score) in scores.iter().enumerate() {
                let weight = (score - top).exp() / sum;
                for i in 0..size {
                    y[own + i] += weight * f64::from(v[j * width + other + i]);
                }
            }
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_worked_out_by_hand() {
        // Steps of 1/32 from -1 on: 15 of them are the range, and z = -8 * 32.
        let x = [-1.0, -0.53125, -0.75, -1.0 + 1.0 / 64.0, -0.985];
        let group = encode(&x, Side::Int4);
        assert_eq!(group, Group { head: (13 << 4) | ((2048 - 256) << 9), codes: vec![0, 15, 8, 1, 0] });
        assert_eq!(decode(&group, Side::Int4), [-1.0, -0.53125, -0.75, -0.96875, -1.0]);
        // Steps of 1/2; what lies halfway goes up.
        let group = encode(&[3.0, 130.5, 3.25, 3.2], Side::Int8);
        assert_eq!(group, Group { head: 0x3800 | (0x4200 << 16), codes: vec![0, 255, 1, 0] });
        assert_eq!(decode(&group, Side::Int8), [3.0, 130.5, 3.5, 3.0]);
        for side in [Side::Int8, Side::Int4] {
            let round = |x: &[f32]| decode(&encode(x, side), side);
            assert_eq!(round(&[0.0, -0.0]), [0.0; 2], "{side}");
            assert_eq!(round(&[-0.0]).map_bits(), [0], "{side}");
            assert_eq!(round(&[4000.0; 3]), [4000.0; 3], "{side}");
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert!(round(&[1.0, bad]).iter().all(|v| v.is_nan()), "{side}");
            }
            // The whole of f16, and one of its smallest steps.
            let far = round(&[-65504.0, 65504.0]);
            assert!((far[0] + 65504.0).abs() < 600.0 && (far[1] - 65504.0).abs() < 600.0, "{side}: {far:?}");
        }
        assert_eq!(decode(&encode(&[0.0, 6e-8], Side::Int8), Side::Int8)[1], f16::from_f32(6e-8).to_f32());
    }

    trait Bits {
        fn map_bits(&self) -> Vec<u32>;
    }
    impl Bits for Vec<f32> {
        fn map_bits(&self) -> Vec<u32> {
            self.iter().map(|v| v.to_bits()).collect()
        }
    }

    #[test]
    fn the_last_tokens_see_what_is_before_them() {
        // One head: weights 1 : 1 of two tokens for the first query, 1 : 1 : 2 for the second.
        let settings = KvSettings::new(1, 32, Side::F16);
        let root = 32f32.sqrt();
        let column = |values: &[f32]| -> Vec<f32> {
            values.iter().flat_map(|&v| (0..32).map(move |i| if i == 0 { v } else { 0.0 })).collect()
        };
        let k = column(&[0.0, 0.0, 2f32.ln() * root]);
        let v = column(&[1.0, 3.0, 8.0]);
        // Two heads of q share it; the second one sees scores of 0.
        let q: Vec<f32> = (0..2).flat_map(|_| [column(&[1.0]), column(&[0.0])].concat()).collect();
        let y = attention(&settings, &q, 2, &k, &v);
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-6, "{got} {want}");
        [2.0, 2.0, 5.0, 4.0].iter().zip(y.iter().step_by(32)).for_each(|(&want, &got)| close(got, want));
    }
}
