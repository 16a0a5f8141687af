//! What a transformer encoder is made of besides products and attention: rows looked up, normalized, averaged.
//!
//! ```text
//! embed       tables, ids [T]     -> y [T, D]     rows decoded, then added in the order of the tables
//! layer_norm  x [M, D]            -> y [M, D]     mean, then the mean of squared differences, then y
//! mean_pool   x [T, D], lengths   -> y [B, D]     rows added in order
//! normalize   x [M, D]            -> y [M, D]
//! ```
//!
//! All in f32. Sums over a row have [`LANES`] accumulators, which are joined in pairs. Operands have been checked by who calls.

use super::decode::{Groups, Weights};
use super::dot::{LANES, join_lanes};
use super::level::{Work, vectorized};
use crate::PackedTensor;
use crate::product::Summation;
use crate::recycle;
use crate::threads;

/// Numbers of one task.
const TASK_VALUES: usize = 1 << 14;

/// The sum of `f` of each number.
#[inline(always)]
pub(super) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for part in whole {
        lanes.iter_mut().zip(part).for_each(|(l, &v)| *l += f(v));
    }
    lanes.iter_mut().zip(rest).for_each(|(l, &v)| *l += f(v));
    join_lanes(lanes)
}

/// How a row of `d` numbers is summed.
pub fn row_summation(d: usize) -> Summation {
    Summation { chain: d.div_ceil(LANES), depth: LANES.ilog2() as usize, folded: false }
}

/// How the rows of a sentence of `length` tokens are summed by [`mean_pool`].
pub fn pool_summation(length: usize) -> Summation {
    Summation { chain: length, depth: 0, folded: false }
}

/// y `[rows, d]`, made by `work` of a first row and y's rows from there on.
fn by_rows(rows: usize, d: usize, work: impl Fn(usize, &mut [f32]) + Sync + Send) -> Vec<f32> {
    let mut y = recycle::zeros(rows * d);
    let per_task = TASK_VALUES.div_ceil(d);
    let tasks: Vec<_> = y.chunks_mut(per_task * d).enumerate().collect();
    threads::for_each(tasks, rows * d * 8, |(task, y)| work(task * per_task, y));
    y
}

struct Embed<'a> {
    tables: &'a [(Weights<'a>, &'a [u32])],
    first: usize,
    d: usize,
    y: &'a mut [f32],
}

impl Work for Embed<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { tables, first, d, y } = self;
        let (mut codes, mut groups, mut values) = (Vec::new(), Groups::default(), vec![0f32; d]);
        for (token, y) in (first..).zip(y.chunks_mut(d)) {
            for (weights, ids) in tables {
                weights.row(ids[token] as usize, &mut codes, &mut groups, &mut values);
                match &weights.permutation {
                    None => y.iter_mut().zip(&values).for_each(|(y, v)| *y += v),
                    Some(columns) => columns.iter().zip(&values).for_each(|(&c, v)| y[c as usize] += v),
                }
            }
        }
    }
}

/// y `[T, D]`: the sum of the rows `ids[t]` of each table `[N, D]`. Each id is below its table's N.
pub fn embed(tables: &[(&PackedTensor, &[u32])]) -> Vec<f32> {
    let Some((table, ids)) = tables.first() else { return Vec::new() };
    let (tokens, (_, d)) = (ids.len(), table.matrix());
    let tables: Vec<_> = tables.iter().map(|&(table, ids)| (Weights::new(table), ids)).collect();
    by_rows(tokens, d, |first, y| vectorized(Embed { tables: &tables, first, d, y }))
}

struct LayerNorm<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Work for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, gamma, beta, eps, y } = self;
        let d = gamma.len();
        let share = 1.0 / d as f32;
        for (x, y) in x.chunks(d).zip(y.chunks_mut(d)) {
            let mean = sum(x, |v| v) * share;
            let variance = sum(x, |v| (v - mean) * (v - mean)) * share;
            let scale = 1.0 / (variance + eps).sqrt();
            for (((y, x), gamma), beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                *y = (x - mean) * scale * gamma + beta;
            }
        }
    }
}

/// y `[M, D]` of x `[M, D]`, gamma and beta `[D]`.
pub fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32) -> Vec<f32> {
    let d = gamma.len();
    by_rows(x.len() / d, d, |first, y| {
        vectorized(LayerNorm { x: &x[first * d..][..y.len()], gamma, beta, eps, y })
    })
}

struct MeanPool<'a> {
    /// Of one sentence.
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Work for MeanPool<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, y } = self;
        let rows = x.chunks(y.len());
        let share = 1.0 / rows.len() as f32;
        for row in rows {
            y.iter_mut().zip(row).for_each(|(y, x)| *y += x);
        }
        y.iter_mut().for_each(|y| *y *= share);
    }
}

/// y `[B, D]` of x `[T, D]`; `lengths` are those of the B sentences and sum to T.
pub fn mean_pool(x: &[f32], d: usize, lengths: &[usize]) -> Vec<f32> {
    let mut y = vec![0f32; lengths.len() * d];
    let mut rest = x;
    let mut tasks = Vec::with_capacity(lengths.len());
    for (y, length) in y.chunks_mut(d).zip(lengths) {
        let (x, behind) = rest.split_at(length * d);
        tasks.push(MeanPool { x, y });
        rest = behind;
    }
    threads::for_each(tasks, x.len(), vectorized);
    y
}

struct Normalize<'a> {
    x: &'a [f32],
    d: usize,
    y: &'a mut [f32],
}

impl Work for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, d, y } = self;
        for (x, y) in x.chunks(d).zip(y.chunks_mut(d)) {
            let top = x.iter().fold(0, |top, v| (v.to_bits() & 0x7fff_ffff).max(top));
            if top < 0x0080_0000 {
                continue;
            }
            // The power of two that brings the largest magnitude to 1 .. 4, so that no square overflows or vanishes.
            let unit = f32::from_bits((254 - (top >> 23).min(253)) << 23);
            let scale = 1.0 / sum(x, |v| (v * unit) * (v * unit)).sqrt();
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * unit * scale);
        }
    }
}

/// y `[M, D]` of x `[M, D]`, rows of L2 norm 1. Rows without a magnitude from 2^-126 on are zeros.
pub fn normalize(x: &[f32], d: usize) -> Vec<f32> {
    by_rows(x.len() / d, d, |first, y| vectorized(Normalize { x: &x[first * d..][..y.len()], d, y }))
}
