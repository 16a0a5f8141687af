//! The other operations of a transformer encoder against the reference, within bounds made of each operation's own roundings.
//!
//! `u` is the unit roundoff of f32, `s` the roundings of a sum on this engine (`Summation`: chain and depth). Exponentials are off by `3 + 2 |x|` units in
//! the last place, 2 u each, quotients by 2.5 and inverse roots by 2, as WGSL allows. First orders of u are counted; a hundredth on top has the others.
//!
//! ```text
//! embed        T u sum (|w| + 2 |b|)                         T tables: an addition each, with which the last step of decoding may be fused; or the
//!                                                            bias b of w's group is added after what was there (drivers reorder sums)
//! mean_pool    (s + 3) u mean |x|                            1 / length, its product
//! normalize    ((s + 1) / 2 + 6) u |y|                       squares, their sum, its inverse root, two products
//! layer_norm   |gamma| r (e + |x - mean| (h + 4 u)) + u |beta|        r = 1 / sqrt(variance + eps)
//!     e = (s + 2) u mean |x|                                 of the mean
//!     h = (s + 6) u / 2 + e^2 r^2 / 2 + 6 u, at most 1       of r: squares, their sum, and what the mean being off by e adds to it
//! transform    s u sum |x v| / sqrt(b)                   of a block; the root and the products
//! gram         s u sum |x_i x_j|                          of the tokens, and what it is added to
//! attention    (E + s u W + |y| (D + s u)) / (1 - D - s u) + 5 u |y|
//!     d_j = (s' + 2) u scale sum |q k_j|                     of score j; s' of its sum
//!     c_j = exp(d_j + u (5 R_j + 6 n)) - 1                   of weight w_j, whose score is R_j below the highest: n exponentials of differences
//!     W = sum w |v|,  E = sum w c |v|,  D = sum w c
//! ```
//!
//! Histograms are integers and compared bit for bit. With sums that need no rounding embeddings and means are compared bit for bit. A fault is planted in what the reference is given, but for embeddings,
//! where a code of the table is wrong.

use super::data::{self, Random};
use super::{Options, Report, bits, inside, plant, sizes_of_k};
#[cfg(feature = "gpu")]
use crate::DType;
use crate::bins::BINS;
use crate::engine::encoder::{Step, Sum};
use crate::scheme::{PlaneKind, Scale, SubScale, Zero};
use crate::{Array, Engine, PackedTensor, Result, Scheme, Tensor, Transform, reference};

/// Which of them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Embed,
    LayerNorm,
    Attention,
    MeanPool,
    Normalize,
    Gram,
    Histogram,
    Transform,
}

pub(super) struct Suite<'a> {
    pub engine: &'a Engine,
    pub kernel: &'static str,
    pub options: &'a Options,
    pub rng: &'a mut Random,
    pub report: &'a mut Report,
}

/// Unit roundoff of f32.
pub(super) const U: f64 = f32::EPSILON as f64 / 2.0;
/// For what first orders leave out.
pub(super) const SLACK: f64 = 1.01;
/// The smallest normal f32: what is below may be taken for 0.
pub(super) const TINY: f64 = f32::MIN_POSITIVE as f64;

/// Rows and columns around vectors of four, teams and workgroups.
const ROWS: [(usize, usize); 8] =
    [(1, 1), (3, 31), (2, 32), (5, 100), (70, 4), (3, 384), (4, 260), (1, 1030)];

impl Suite<'_> {
    /// Everything for a scheme; what does not depend on it only for the `first` one.
    pub async fn run(&mut self, operation: Operation, scheme: &Scheme, first: bool) -> Result<()> {
        match operation {
            Operation::Embed => self.embed(scheme).await,
            _ if !first => Ok(()),
            Operation::LayerNorm => self.layer_norm().await,
            Operation::Attention => self.attention().await,
            Operation::MeanPool => self.mean_pool().await,
            Operation::Normalize => self.normalize().await,
            Operation::Gram => self.gram().await,
            Operation::Histogram => self.histogram().await,
            Operation::Transform => self.transform().await,
        }
    }

    /// y of a step, on a GPU written into poison between guard words. What is wrong with these is a failure.
    pub async fn output(&mut self, case: &str, step: Step<'_>, shape: &[usize]) -> Result<Option<Vec<f32>>> {
        #[cfg(feature = "gpu")]
        if let Some(gpu) = self.engine.gpu() {
            let guarded = super::Guarded::new(gpu, self.engine, shape, DType::F32)?;
            self.engine.run_into(step, &guarded.array)?;
            let got = guarded.read(gpu).await?;
            return Ok(got.map_err(|why| self.report.fail(format!("{} {case}: {why}", self.kernel))).ok());
        }
        let y = self.engine.run(step)?.read().await?;
        if y.shape() != shape {
            self.report.fail(format!("{} {case}: y is {:?} instead of {shape:?}", self.kernel, y.shape()));
        }
        Ok(Some(y.to_f32().into_owned()))
    }

    /// Compares y, and sees that y is not what a fault in the operands would make of it.
    pub fn judge(&mut self, case: &str, got: &[f32], right: &[[f64; 2]], wrong: &[[f64; 2]]) {
        let parts =
            |all: &[[f64; 2]]| -> (Vec<f64>, Vec<f64>) { all.iter().map(|[y, bound]| (y, bound)).unzip() };
        let (want, bounds) = parts(right);
        self.report.within(self.kernel, case, got, &want, &bounds);
        let (want, bounds) = parts(wrong);
        let seen = inside(got, &want, &bounds).iter().any(Option::is_none);
        self.report.teeth(self.kernel, case, seen);
    }

    pub fn upload(&self, shape: &[usize], values: &[f32]) -> Result<Array> {
        self.engine.upload(&Tensor::from_f32(shape, values.to_vec())?)
    }

    /// Roundings that a term of such a sum meets.
    pub fn steps(&self, of: Sum) -> f64 {
        self.engine.roundings(of) as f64
    }

    /// Normal numbers; all rows but the last may be constant, of one sign, far from 0, large or small.
    fn rows(&mut self, [rows, d]: [usize; 2]) -> Vec<f32> {
        let mut x: Vec<f32> = (0..rows * d).map(|_| self.rng.normal()).collect();
        for row in x.chunks_mut(d).take(rows - 1) {
            match self.rng.below(8) {
                0 => row.fill(self.rng.normal()),
                1 => row.iter_mut().for_each(|v| *v = v.abs()),
                2 => row.iter_mut().for_each(|v| *v += 100.0),
                3 => row.iter_mut().for_each(|v| *v *= 1e12),
                4 => row.iter_mut().for_each(|v| *v *= 1e-12),
                5 => row[self.rng.below(d)] = 60.0,
                _ => {}
            }
        }
        x
    }

    async fn embed(&mut self, scheme: &Scheme) -> Result<()> {
        for (i, k) in sizes_of_k(scheme, self.options.full, self.rng).into_iter().enumerate() {
            let (tokens, exact) = ([1, 17, 70][i % 3], i % 2 == 0);
            let schemes = [*scheme, "f16".parse()?, *scheme];
            let mut tables = Vec::new();
            for (scheme, rows) in schemes.iter().zip([37, 5, 2]) {
                let table = data::packed(scheme, &[rows, k], exact, self.rng)?;
                let ids: Vec<u32> = (0..tokens).map(|_| self.rng.below(rows) as u32).collect();
                tables.push((table, ids));
            }
            let shape = [tokens, k];
            for count in [1, 3] {
                let case = format!("{scheme} {shape:?} of {count}{}", if exact { ", exact" } else { "" });
                let some = &tables[..count];
                let Some(got) = self.looked_up(&case, some, &shape).await? else { continue };
                let plain = |v: &[f32]| bits(&v.iter().map(|&v| v + 0.0).collect::<Vec<_>>());
                let host: Vec<_> = some.iter().map(|(table, ids)| (table, &ids[..])).collect();
                let want = reference::embed(&host);
                // A row of one table is what decoding gives.
                if exact || count == 1 {
                    let want: Vec<f32> = want.iter().map(|&v| v as f32).collect();
                    self.report.equal(self.kernel, &case, &plain(&got), &plain(&want));
                } else {
                    let mut bounds = vec![0.0; want.len()];
                    for table in &host {
                        let (terms, biases) = (reference::embed(&[*table]), biases(*table));
                        for ((bound, w), bias) in bounds.iter_mut().zip(terms).zip(biases) {
                            *bound += SLACK * count as f64 * U * (w.abs() + 2.0 * bias.abs());
                        }
                    }
                    self.report.within(self.kernel, &case, &got, &want, &bounds);
                }
                // Exact tables have no scales of 0, with which every code is one number.
                if exact && count == 1 {
                    let mut wrong = tables[..1].to_vec();
                    let row = wrong[0].1[tokens - 1] as usize;
                    plant(&mut wrong[0].0, row, k - 1);
                    if let Some(other) = self.looked_up(&case, &wrong, &shape).await? {
                        self.report.teeth(self.kernel, &case, bits(&got) != bits(&other));
                    }
                }
            }
        }
        Ok(())
    }

    async fn looked_up(
        &mut self,
        case: &str,
        tables: &[(PackedTensor, Vec<u32>)],
        shape: &[usize],
    ) -> Result<Option<Vec<f32>>> {
        let packed = tables
            .iter()
            .map(|(table, ids)| Ok((self.engine.upload_packed(table)?, &ids[..])))
            .collect::<Result<Vec<_>>>()?;
        let tables: Vec<_> = packed.iter().map(|(table, ids)| (table, *ids)).collect();
        self.output(case, Step::Embed { tables: &tables }, shape).await
    }

    async fn layer_norm(&mut self) -> Result<()> {
        for (rows, d) in ROWS {
            for eps in [1e-12, 1e-5] {
                // The mean of one number is the number, which the bound knows of 0 alone.
                let mut x = if d == 1 { vec![0.0; rows] } else { self.rows([rows, d]) };
                let gamma: Vec<f32> = (0..d).map(|_| self.rng.normal()).collect();
                let mut beta: Vec<f32> = (0..d).map(|_| self.rng.normal()).collect();
                let case = format!("[{rows}, {d}], eps {eps:e}");
                let on =
                    [self.upload(&[rows, d], &x)?, self.upload(&[d], &gamma)?, self.upload(&[d], &beta)?];
                let step = Step::LayerNorm { x: &on[0], gamma: &on[1], beta: &on[2], eps };
                let Some(got) = self.output(&case, step, &[rows, d]).await? else { continue };
                let steps = self.steps(Sum::Row { d });
                let right = normed(&x, &gamma, &beta, eps, steps);
                match d {
                    1 => beta[0] += 1.0,
                    _ => x[rows * d - 1 - self.rng.below(d)] += 1e3,
                }
                self.judge(&case, &got, &right, &normed(&x, &gamma, &beta, eps, steps));
            }
        }
        Ok(())
    }

    async fn normalize(&mut self) -> Result<()> {
        for (rows, d) in ROWS {
            let mut x = self.rows([rows, d]);
            // Squares beyond f32 on either side.
            let by = self.rng.pick(&[1e25, 1e-20]);
            x[..d].iter_mut().for_each(|v| *v *= by);
            let last = (rows - 1) * d;
            if rows > 2 {
                x[last..].fill(0.0);
            }
            let case = format!("[{rows}, {d}]");
            let on = self.upload(&[rows, d], &x)?;
            let Some(got) = self.output(&case, Step::Normalize { x: &on }, &[rows, d]).await? else {
                continue;
            };
            let part = ((self.steps(Sum::Row { d }) + 1.0) / 2.0 + 6.0) * U * SLACK;
            let bounded = |x: &[f32]| -> Vec<[f64; 2]> {
                reference::normalize(x, d).into_iter().map(|y| [y, part * y.abs() + TINY]).collect()
            };
            let right = bounded(&x);
            x[last] = if x[last] > 0.0 { -1.0 } else { 1.0 };
            self.judge(&case, &got, &right, &bounded(&x));
        }
        Ok(())
    }

    async fn mean_pool(&mut self) -> Result<()> {
        let batches: [&[usize]; 7] =
            [&[1], &[1, 1, 1], &[4, 1, 8, 2], &[7, 1, 3], &[64, 16], &[300, 1, 1, 2], &[9; 70]];
        for (i, lengths) in batches.into_iter().enumerate() {
            let (tokens, d) = (lengths.iter().sum::<usize>(), [1, 384, 31, 4, 100, 36, 32][i]);
            for exact in [false, true] {
                if exact && !lengths.iter().all(|length| length.is_power_of_two()) {
                    continue;
                }
                let mut x: Vec<f32> = match exact {
                    true => (0..tokens * d).map(|_| self.rng.below(33) as f32 - 16.0).collect(),
                    false => self.rows([tokens, d]),
                };
                let of = &lengths[..lengths.len().min(4)];
                let case = format!(
                    "{} sentences of {of:?}.., D = {d}{}",
                    lengths.len(),
                    if exact { ", exact" } else { "" }
                );
                let on = self.upload(&[tokens, d], &x)?;
                let step = Step::MeanPool { x: &on, lengths };
                let Some(got) = self.output(&case, step, &[lengths.len(), d]).await? else { continue };
                if exact {
                    let want: Vec<f32> =
                        reference::mean_pool(&x, d, lengths).iter().map(|&v| v as f32).collect();
                    let plain = |v: &[f32]| bits(&v.iter().map(|&v| v + 0.0).collect::<Vec<_>>());
                    self.report.equal(self.kernel, &case, &plain(&got), &plain(&want));
                }
                let longest = lengths.iter().copied().max().unwrap_or(0);
                let part = (self.steps(Sum::Pool { length: longest }) + 3.0) * U * SLACK;
                let bounded = |x: &[f32]| -> Vec<[f64; 2]> {
                    let magnitudes: Vec<f32> = x.iter().map(|v| v.abs()).collect();
                    let sizes = reference::mean_pool(&magnitudes, d, lengths);
                    let y = reference::mean_pool(x, d, lengths);
                    y.into_iter().zip(sizes).map(|(y, size)| [y, part * size]).collect()
                };
                let right = bounded(&x);
                // Of the last sentence, so that no other number hides it the largest.
                let last = (tokens - lengths[lengths.len() - 1]) * d;
                let largest = |one: &usize, other: &usize| x[*one].abs().total_cmp(&x[*other].abs());
                let at = (last..tokens * d).max_by(largest).unwrap_or(last);
                x[at] = if x[at] == 0.0 { 1.0 } else { -2.0 * x[at] };
                self.judge(&case, &got, &right, &bounded(&x));
            }
        }
        Ok(())
    }

    async fn gram(&mut self) -> Result<()> {
        for (i, (tokens, k)) in
            [(1, 1), (5, 3), (16, 32), (17, 33), (40, 100), (300, 20), (2, 129)].into_iter().enumerate()
        {
            let mut x: Vec<f32> = (0..tokens * k).map(|_| self.rng.normal()).collect();
            let onto: Option<Vec<f32>> =
                (i % 2 == 1).then(|| (0..k * k).map(|_| self.rng.normal()).collect());
            let case = format!("[{tokens}, {k}]{}", if onto.is_some() { " onto another" } else { "" });
            let on = self.upload(&[tokens, k], &x)?;
            let onto_on = onto.as_ref().map(|onto| self.upload(&[k, k], onto)).transpose()?;
            let step = Step::Gram { x: &on, onto: onto_on.as_ref() };
            let Some(got) = self.output(&case, step, &[k, k]).await? else { continue };
            let part = self.steps(Sum::Gram { tokens }) * U * SLACK;
            let bounded = |x: &[f32]| -> Vec<[f64; 2]> {
                let positive = |of: &[f32]| of.iter().map(|v| v.abs()).collect::<Vec<f32>>();
                let sizes = reference::gram(&positive(x), k, onto.as_deref().map(positive).as_deref());
                let y = reference::gram(x, k, onto.as_deref());
                y.into_iter().zip(sizes).map(|(y, size)| [y, part * size]).collect()
            };
            let right = bounded(&x);
            x[tokens * k - 1] += 1.0;
            self.judge(&case, &got, &right, &bounded(&x));
        }
        Ok(())
    }

    /// Counts are integers: bit for bit, of numbers of all magnitudes.
    async fn histogram(&mut self) -> Result<()> {
        let edges = [
            0.0,
            2f32.powi(-32),
            2f32.powi(32),
            1.0,
            1.0078125,
            f32::MIN_POSITIVE,
            f32::MAX,
            f32::INFINITY,
            f32::NAN,
        ];
        for (i, (rows, k)) in
            [(1, 1), (3, 31), (8, 256), (1, 2049), (70, 100), (5, 4099), (300, 384)].into_iter().enumerate()
        {
            let mut x: Vec<f32> = (0..rows * k)
                .map(|_| match self.rng.below(8) {
                    0 => 0.0,
                    1 => f32::from_bits(self.rng.bits() as u32),
                    2 => {
                        let edge = self.rng.pick(&edges);
                        let beside = [edge, edge.next_down(), edge.next_up()];
                        self.rng.pick(&beside) * self.rng.pick(&[1.0, -1.0])
                    }
                    _ => self.rng.normal(),
                })
                .collect();
            let onto: Option<Vec<u32>> =
                (i % 2 == 1).then(|| (0..BINS).map(|_| self.rng.below(1 << 20) as u32).collect());
            let case = format!("[{rows}, {k}]{}", if onto.is_some() { " onto another" } else { "" });
            let on = self.upload(&[rows, k], &x)?;
            let as_bits =
                onto.as_ref().map(|onto| onto.iter().map(|&n| f32::from_bits(n)).collect::<Vec<_>>());
            let onto_on = as_bits.map(|onto| self.upload(&[BINS], &onto)).transpose()?;
            let step = Step::Histogram { x: &on, onto: onto_on.as_ref() };
            let Some(got) = self.output(&case, step, &[BINS]).await? else { continue };
            let got = bits(&got);
            self.report.equal(self.kernel, &case, &got, &reference::histogram(&x, onto.as_deref()));
            // The last number in the next bin.
            x[rows * k - 1] = if x[rows * k - 1].abs() < 1.0 { 1.5 } else { 0.0 };
            let seen = got != reference::histogram(&x, onto.as_deref());
            self.report.teeth(self.kernel, &case, seen);
        }
        Ok(())
    }

    async fn transform(&mut self) -> Result<()> {
        for (rows, k, block) in [
            (1, 1, 1),
            (3, 31, 1),
            (2, 2, 2),
            (7, 12, 4),
            (5, 384, 128),
            (3, 96, 32),
            (2, 2048, 1024),
            (3, 4096, 4096),
            (300, 64, 64),
        ] {
            let mut x = self.rows([rows, k]);
            let by: Vec<f32> = (0..k).map(|_| self.rng.normal() + self.rng.pick(&[3.0, -3.0])).collect();
            let by = by.into_iter().map(|v| if v.abs() < 0.1 { 0.5 } else { v }).collect();
            let by = Transform::new(by, block)?;
            let case = format!("[{rows}, {k}] in blocks of {block}");
            let on = self.upload(&[rows, k], &x)?;
            let by_on = self.engine.upload_transform(&by)?;
            let Some(got) = self.output(&case, Step::Transform { x: &on, by: &by_on }, &[rows, k]).await?
            else {
                continue;
            };
            let part = self.steps(Sum::Block { block }) * U * SLACK;
            let bounded = |x: &[f32]| -> Vec<[f64; 2]> {
                let y = reference::transform(x, by.by(), block);
                let sizes = x.chunks(block).enumerate().flat_map(|(i, x)| {
                    let by = &by.by()[i * block % k..];
                    let terms = x.iter().zip(by).map(|(x, v)| f64::from((x * v).abs()));
                    std::iter::repeat_n(terms.sum::<f64>() / (block as f64).sqrt(), block)
                });
                let tiny = TINY * (block as f64).sqrt();
                y.into_iter().zip(sizes).map(|(y, size)| [y, part * size + tiny]).collect()
            };
            let right = bounded(&x);
            let last = rows * k - 1;
            x[last] = if x[last].abs() < 1.0 { 2.0 } else { 0.0 };
            self.judge(&case, &got, &right, &bounded(&x));
        }
        Ok(())
    }

    async fn attention(&mut self) -> Result<()> {
        // Lengths of sentences, heads, columns of a head.
        let cases: [(&[usize], usize, usize); 11] = [
            (&[1], 1, 1),
            (&[1, 1, 1], 3, 5),
            (&[5, 1, 33], 2, 8),
            (&[64, 3], 2, 32),
            (&[130, 1, 2, 3, 1], 3, 20),
            (&[17, 31], 1, 64),
            (&[9, 4], 1, 256),
            (&[515], 1, 32),
            (&[2; 40], 12, 4),
            (&[6, 7], 2, 30),
            (&[35, 2], 2, 99),
        ];
        for (i, (lengths, heads, head)) in cases.into_iter().enumerate() {
            for far in [false, true] {
                let (tokens, d) = (lengths.iter().sum::<usize>(), heads * head);
                let mut operand = || -> Vec<f32> { (0..tokens * d).map(|_| self.rng.normal()).collect() };
                let (mut q, mut k, mut v) = (operand(), operand(), operand());
                // Scores up to 1e4, of which exponentials overflow and differ by all that there is.
                let by = if far { (1e4 / (head as f32).sqrt()).sqrt() } else { 1.0 };
                q.iter_mut().chain(&mut k).for_each(|v| *v *= by);
                if far {
                    // Without rounding in products of q and k.
                    q.iter_mut().chain(&mut k).for_each(|v| *v = v.round());
                }
                let of = &lengths[..lengths.len().min(5)];
                let case = format!(
                    "{} sentences of {of:?}.., {heads} heads of {head}{}",
                    lengths.len(),
                    if far { ", scores of 1e4" } else { "" }
                );
                let on = [&q, &k, &v].map(|x| self.upload(&[tokens, d], x));
                let [q_on, k_on, v_on] = on;
                let (q_on, k_on, v_on) = (q_on?, k_on?, v_on?);
                let step = Step::Attention { q: &q_on, k: &k_on, v: &v_on, lengths, heads };
                let Some(got) = self.output(&case, step, &[tokens, d]).await? else { continue };
                let bounded = |q: &[f32], k: &[f32], v: &[f32], lengths: &[usize]| {
                    self.attended([q, k, v], lengths, heads)
                };
                let right = bounded(&q, &k, &v, lengths);
                let wrong = match i % 2 {
                    // A column of v in the first sentence, whichever tokens are seen: one alone has no neighbours, and far scores leave out all but the nearest.
                    _ if far || lengths.iter().all(|length| *length == 1) => {
                        v[..lengths[0] * d].iter_mut().step_by(d).for_each(|v| *v += 1.0);
                        bounded(&q, &k, &v, lengths)
                    }
                    // Two neighbours' rows of k in each other's place.
                    0 => {
                        let (one, other) = k[..2 * d].split_at_mut(d);
                        one.swap_with_slice(other);
                        bounded(&q, &k, &v, lengths)
                    }
                    // A sentence that ends a token early.
                    _ => {
                        let mut lengths = lengths.to_vec();
                        lengths[0] -= 1;
                        lengths.push(1);
                        bounded(&q, &k, &v, &lengths)
                    }
                };
                self.judge(&case, &got, &right, &wrong);
            }
        }
        Ok(())
    }

    /// y of an attention, and how far each number may be off.
    fn attended(&self, [q, k, v]: [&[f32]; 3], lengths: &[usize], heads: usize) -> Vec<[f64; 2]> {
        let y = reference::attention(q, k, v, lengths, heads);
        let d = q.len() / lengths.iter().sum::<usize>();
        let head = d / heads;
        let scale = 1.0 / (head as f64).sqrt();
        let score_steps = self.steps(Sum::Score { head }) + 2.0;
        let mut all = vec![[0.0; 2]; q.len()];
        let mut start = 0;
        for &length in lengths {
            let steps = self.steps(Sum::Weighted { length }) * U;
            let powers = self.steps(Sum::Powers { length });
            for (t, column) in (start..start + length).flat_map(|t| (0..d).step_by(head).map(move |c| (t, c)))
            {
                let part = |of: &'_ [f32], t: usize| -> Vec<f64> {
                    of[t * d + column..][..head].iter().map(|&v| f64::from(v)).collect()
                };
                let own = part(q, t);
                let of_token = |j: usize, of: fn(f64) -> f64| -> f64 {
                    own.iter().zip(part(k, j)).map(|(q, k)| of(q * k)).sum::<f64>() * scale
                };
                let scores: Vec<f64> = (start..start + length).map(|j| of_token(j, |v| v)).collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                // Of each token: its weight, and by what part of it that may be off.
                let weights: Vec<[f64; 2]> = (start..start + length)
                    .zip(&scores)
                    .map(|(j, s)| {
                        let score = score_steps * U * of_token(j, f64::abs);
                        let off = score + U * (5.0 * (top - s) + 6.0 * powers);
                        [(s - top).exp() / sum, off.exp_m1()]
                    })
                    .collect();
                let weight_off = weights.iter().map(|[w, c]| w * c).sum::<f64>() + steps;
                for i in column..column + head {
                    let (mut size, mut off) = (0.0, 0.0);
                    for (j, [w, c]) in (start..).zip(&weights) {
                        let v = f64::from(v[j * d + i].abs());
                        size += w * v;
                        off += w * c * v;
                    }
                    let y = y[t * d + i];
                    let sums = off + steps * size + y.abs() * weight_off;
                    // Where weights are off by half their size, nothing is within.
                    let bound = if weight_off < 0.5 { sums / (1.0 - weight_off) } else { f64::NAN };
                    all[t * d + i] = [y, SLACK * (bound + 5.0 * U * y.abs()) + TINY * length as f64];
                }
            }
            start += length;
        }
        all
    }
}

/// What the groups of looked-up numbers have added to them after scaling: the numbers of codes 0. Zeros for schemes without biases and minima.
fn biases((table, ids): (&PackedTensor, &[u32])) -> Vec<f64> {
    let scheme = table.scheme();
    let minima = matches!(scheme.scale, Scale::TwoLevel { sub: SubScale::U8Min | SubScale::U4Min, .. });
    if scheme.zero != Zero::Bias && !minima {
        return vec![0.0; ids.len() * table.matrix().1];
    }
    let mut zeros = table.clone();
    for kind in [PlaneKind::CodesLow, PlaneKind::CodesHigh] {
        zeros.plane_mut(kind).fill(0);
    }
    reference::embed(&[(&zeros, ids)])
}

/// y of a layer normalization, and how far each number may be off where sums over a row have so many roundings.
fn normed(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, steps: f64) -> Vec<[f64; 2]> {
    let d = gamma.len();
    let y = reference::layer_norm(x, gamma, beta, eps);
    let mut all = Vec::with_capacity(x.len());
    for (x, y) in x.chunks(d).zip(y.chunks(d)) {
        let x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        let mean = x.iter().sum::<f64>() / d as f64;
        let size = x.iter().map(|v| v.abs()).sum::<f64>() / d as f64;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / d as f64;
        let r = 1.0 / (variance + f64::from(eps)).sqrt();
        let of_mean = (steps + 2.0) * U * size;
        let of_r = ((steps + 6.0) / 2.0 * U + (of_mean * r).powi(2) / 2.0 + 6.0 * U).min(1.0);
        for i in 0..d {
            let (gamma, beta) = (f64::from(gamma[i].abs()), f64::from(beta[i].abs()));
            let off = gamma * r * (of_mean + (x[i] - mean).abs() * (of_r + 4.0 * U)) + U * beta;
            all.push([y[i], SLACK * off]);
        }
    }
    all
}
