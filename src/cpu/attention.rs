//! Multi-head attention within sentences that lie one after the other.
//!
//! ```text
//! q, k, v [T, D] --a task per sentence and head--> k in tiles [head, MR], v in tiles [length, MR]
//! a task per head and NR tokens of a sentence:
//!     q, scaled [head, NR]  x tiles of k -> scores [length, NR] -> weights: exp(score - the highest)
//!     weights [length, NR]  x tiles of v -> [head, NR], / sums of weights -> y
//! ```
//!
//! Both products are [`dot::f32_panel`]'s; NR and MR are those of its tile. Lanes are tokens whose y is worked out, so that softmax goes down columns and
//! joins no lanes. Memory beside the operands: copies of k and v, and scores of NR tokens per thread.

use super::dot;
use super::epilogue::exp;
use super::level::{Level, Work, vectorized_at};
use crate::product::Summation;
use crate::recycle::{self, Recycled};
use crate::threads;

/// y `[T, D]` of q, k, v `[T, D]`, `heads` of D / heads columns side by side; `lengths` are those of the sentences and sum to T.
pub fn attention(q: &[f32], k: &[f32], v: &[f32], lengths: &[usize], heads: usize) -> Vec<f32> {
    attention_at(Level::best(), q, k, v, lengths, heads)
}

/// How a score of a head of `head` columns is summed, the scaling of q among it.
pub fn score_summation(head: usize) -> Summation {
    Summation { chain: head + 2, depth: 0, folded: false }
}

/// How the weights and the weighted rows of `length` tokens are summed.
pub fn weighted_summation(length: usize) -> Summation {
    Summation { chain: length + 1, depth: 0, folded: false }
}

/// Of a sentence and head: where its tokens begin and how many there are, and its copies of k and v.
struct Keys<'a> {
    start: usize,
    length: usize,
    head: usize,
    /// Tiles of up to MR tokens, `[head, MR]` each.
    k: &'a mut [f32],
    /// Tiles of up to MR columns, `[length, MR]` each.
    v: &'a mut [f32],
}

/// A part of y: up to NR tokens of a sentence, one head.
struct Part<'a> {
    sentence: usize,
    head: usize,
    first: usize,
    /// `[tokens, head]`
    y: &'a mut [f32],
}

/// [`attention`] on a level of instructions.
pub(super) fn attention_at(
    level: Level,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    lengths: &[usize],
    heads: usize,
) -> Vec<f32> {
    let d = q.len() / lengths.iter().sum::<usize>();
    let size = d / heads;
    let dot::Tile { nr, mr } = dot::f32_tile(level);
    // Every number is written.
    let [mut tiles_k, mut tiles_v, mut by_head] = [k, v, q].map(|of| Recycled::from(recycle::any(of.len())));

    let (mut keys, mut parts) = (Vec::new(), Vec::new());
    let (mut rest_k, mut rest_v, mut rest_y) = (&mut tiles_k[..], &mut tiles_v[..], &mut by_head[..]);
    let mut start = 0;
    for (sentence, &length) in lengths.iter().enumerate() {
        for head in 0..heads {
            let k = rest_k.split_off_mut(..length * size).unwrap_or_default();
            let v = rest_v.split_off_mut(..length * size).unwrap_or_default();
            keys.push(Keys { start, length, head, k, v });
        }
        for tokens in threads::ranges(length, nr) {
            for head in 0..heads {
                let y = rest_y.split_off_mut(..tokens.len() * size).unwrap_or_default();
                parts.push(Part { sentence, head, first: start + tokens.start, y });
            }
        }
        start += length;
    }
    threads::for_each(keys.iter_mut().collect(), 2 * k.len(), |keys| keys.copy(k, v, [d, size, mr]));

    let longest = lengths.iter().copied().max().unwrap_or(0);
    let work: usize = lengths.iter().map(|length| 2 * length * length * d).sum();
    let scratch = || Scratch::new(nr, size, longest);
    threads::for_each_with(parts, work, scratch, |scratch, part| {
        let keys = &keys[part.sentence * heads + part.head];
        scratch.attend(level, q, d, keys, part);
    });
    // Heads side by side again.
    let mut y = recycle::any(q.len());
    let mut tasks = Vec::new();
    let (mut rest, mut from) = (&mut y[..], &by_head[..]);
    for &length in lengths {
        for tokens in threads::ranges(length, nr) {
            let values = tokens.len() * d;
            tasks.push((rest.split_off_mut(..values).unwrap_or_default(), &from[..values]));
            from = &from[values..];
        }
    }
    threads::for_each(tasks, q.len(), |(y, from)| {
        let tokens = y.len() / d;
        for (head, from) in from.chunks(tokens * size).enumerate() {
            for (y, from) in y.chunks_mut(d).zip(from.chunks(size)) {
                y[head * size..(head + 1) * size].copy_from_slice(from);
            }
        }
    });
    y
}

impl Keys<'_> {
    /// Copies what is this head's of k and v `[T, d]`, `size` columns, to tiles of `mr`.
    fn copy(&mut self, k: &[f32], v: &[f32], [d, size, mr]: [usize; 3]) {
        let row = |of: &[f32], t: usize| (self.start + t) * d + self.head * size..of.len();
        for (tokens, tile) in threads::ranges(self.length, mr).into_iter().zip(self.k.chunks_mut(mr * size)) {
            let n = tokens.len();
            for (at, t) in tokens.enumerate() {
                let column = tile[at..].iter_mut().step_by(n);
                column.zip(&k[row(k, t)][..size]).for_each(|(to, v)| *to = *v);
            }
        }
        for (columns, tile) in threads::ranges(size, mr).into_iter().zip(self.v.chunks_mut(mr * self.length))
        {
            for (t, to) in tile.chunks_mut(columns.len()).enumerate() {
                to.copy_from_slice(&v[row(v, t)][columns.clone()]);
            }
        }
    }
}

/// What a thread needs to work out a part of y.
struct Scratch {
    nr: usize,
    size: usize,
    /// `[size, nr]`
    q: Vec<f32>,
    /// Scores, then weights: `[longest, nr]`.
    weights: Vec<f32>,
    /// The sums of weights `[nr]`.
    sums: Vec<f32>,
    /// `[size, nr]`
    y: Vec<f32>,
}

impl Scratch {
    fn new(nr: usize, size: usize, longest: usize) -> Self {
        let zeros = |rows: usize| vec![0f32; rows * nr];
        Self { nr, size, q: zeros(size), weights: zeros(longest), sums: zeros(1), y: zeros(size) }
    }

    fn attend(&mut self, level: Level, q: &[f32], d: usize, keys: &Keys, part: Part) {
        let Self { nr, size, .. } = *self;
        let mr = dot::f32_tile(level).mr;
        let scale = 1.0 / (size as f32).sqrt();
        // Lanes beyond the last token have what another part left there: they are not part of y.
        let rows = q[part.first * d..].chunks(d).zip(part.y.chunks(size));
        for (at, (q, _)) in rows.enumerate() {
            let column = self.q[at..].iter_mut().step_by(nr);
            column.zip(&q[part.head * size..][..size]).for_each(|(to, v)| *to = v * scale);
        }
        let weights = &mut self.weights[..keys.length * nr];
        weights.fill(0.0);
        for (tile, out) in keys.k.chunks(mr * size).zip(weights.chunks_mut(mr * nr)) {
            dot::f32_panel(level, &self.q, tile, tile.len() / size, out, nr);
        }
        match nr {
            32 => vectorized_at(level, Softmax::<32> { scores: weights, sums: &mut self.sums }),
            16 => vectorized_at(level, Softmax::<16> { scores: weights, sums: &mut self.sums }),
            8 => vectorized_at(level, Softmax::<8> { scores: weights, sums: &mut self.sums }),
            _ => unreachable!("a tile has 8, 16 or 32 columns"),
        }
        self.y.fill(0.0);
        for (tile, out) in keys.v.chunks(mr * keys.length).zip(self.y.chunks_mut(mr * nr)) {
            dot::f32_panel(level, weights, tile, tile.len() / keys.length, out, nr);
        }
        for (at, y) in part.y.chunks_mut(size).enumerate() {
            let share = 1.0 / self.sums[at];
            y.iter_mut().zip(self.y[at..].iter().step_by(nr)).for_each(|(y, v)| *y = v * share);
        }
    }
}

/// Scores `[length, N]` to weights, and their sums, for each of N columns.
struct Softmax<'a, const N: usize> {
    scores: &'a mut [f32],
    sums: &'a mut [f32],
}

impl<const N: usize> Work for Softmax<'_, N> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let rows = self.scores.as_chunks_mut::<N>().0;
        let (mut top, mut sums) = ([f32::MIN; N], [0f32; N]);
        for row in rows.iter() {
            for (top, &s) in top.iter_mut().zip(row) {
                *top = if s > *top { s } else { *top };
            }
        }
        for row in rows.iter_mut() {
            for ((s, top), sum) in row.iter_mut().zip(&top).zip(&mut sums) {
                *s = exp(*s - top);
                *sum += *s;
            }
        }
        self.sums.copy_from_slice(&sums);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::noise;
    use super::*;

    /// y of one token and head in f64.
    fn token(q: &[f32], keys: &[&[f32]], values: &[&[f32]]) -> Vec<f64> {
        let dot = |k: &&[f32]| q.iter().zip(*k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let weights: Vec<f64> = keys.iter().map(|k| (dot(k) / (q.len() as f64).sqrt()).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let column =
            |i: usize| weights.iter().zip(values).map(|(w, v)| w * f64::from(v[i])).sum::<f64>() / sum;
        (0..q.len()).map(column).collect()
    }

    /// Tiles of every level, whole and cut: heads and sentences around their sizes.
    #[test]
    fn every_level_attends() {
        for level in Level::available() {
            for (lengths, heads, size) in [
                (&[1usize][..], 1, 1),
                (&[33, 1, 12], 2, 13),
                (&[32, 31, 7, 8], 3, 32),
                (&[65], 2, 24),
                (&[3, 100], 1, 256),
            ] {
                let (tokens, d) = (lengths.iter().sum::<usize>(), heads * size);
                let [q, k, v] = [1, 2, 3].map(|seed| noise(tokens * d, seed));
                let y = attention_at(level, &q, &k, &v, lengths, heads);
                let mut start = 0;
                for &length in lengths {
                    for head in (0..d).step_by(size) {
                        let part = |of: &'_ [f32], t: usize| of[t * d + head..][..size].to_vec();
                        let all = |of: &[f32]| -> Vec<Vec<f32>> {
                            (start..start + length).map(|t| part(of, t)).collect()
                        };
                        let (keys, values) = (all(&k), all(&v));
                        let (keys, values): (Vec<&[f32]>, Vec<&[f32]>) =
                            keys.iter().zip(&values).map(|(k, v)| (&k[..], &v[..])).unzip();
                        for t in start..start + length {
                            let want = token(&part(&q, t), &keys, &values);
                            for (y, want) in y[t * d + head..].iter().zip(want) {
                                let off = (f64::from(*y) - want).abs();
                                assert!(off < 2e-6, "{level:?} {lengths:?} token {t}: {y} {want}");
                            }
                        }
                    }
                    start += length;
                }
            }
        }
    }

    #[test]
    fn nan_stays_in_its_sentence() {
        let (q, mut k, v) = (noise(6 * 8, 1), noise(6 * 8, 2), noise(6 * 8, 3));
        k[3 * 8] = f32::NAN;
        for level in Level::available() {
            let y = attention_at(level, &q, &k, &v, &[2, 4], 1);
            assert!(y[..16].iter().all(|v| v.is_finite()) && y[16..].iter().all(|v| v.is_nan()), "{y:?}");
        }
    }
}
