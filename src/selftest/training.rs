//! The operations of training against the reference: bit for bit where only single products decide, else within bounds made of each operation's own roundings.
//!
//! `u`, `s` and the errors of builtin functions as in `encoder.rs`.
//!
//! ```text
//! fake_quantize  bit for bit, the gradient straight through too
//! dense          (s + 1) u (sum |a b| + |bias|)                       s of the terms and the bias
//! step_gradient  |factor| sum |dy| (6 u |x / s'| + u |slope|) + (s + 3) u |factor| sum |dy slope|         the first for what is inside, s' the step
//! activate       identity and ReLU bit for bit
//!     GELU       |v| f + 3 u |y|; its slope f + |v| phi(v) (12 + 4 v^2) u + 3 u |slope|
//!                f = 0.75e-7 + 85 u of erf's half: its formula, and roundings of a polynomial whose terms sum to 4.5 and whose slope is at most 16
//!     SiLU       |y| (r + 2 u); its slope share (|1 + v (1 - share)| r + |v| (share r + 2 u) + 2 u), r = (12 + 4 |v|) u of the share
//! cross_entropy  e_c = (6 + 11 |d_c|) u of a power, d_c the distance from the largest; E = sum p e + C u of their sum; G = max(2^-21, 6 u log S) + E of its logarithm
//!     gradient   a (p (e + E + 6 u) + 2 u |p - t|), the same of the teacher's part with both probabilities, 3 u of either part
//!     loss       a (sum t (G + 3 u (|log S| + |d|)) + (C + 3) u sum |t (log S - d)|); of the teacher
//!                b (sum q (9 u (|d| + |d'|) + G + G' + 2 u (log S + log S') + |f| (e' + E' + 6 u)) + (C + 4) u sum |q f|), f the difference of two logarithms
//! update         v: u (|v| + 3 |a m| + 3 |g|) of momentum, u (|v| + 6 (1 - beta) (|g| + |m|)) of a mean; the parameter
//!                3 u |p| + |moved| (E_m + E_v / 2 + 24 u), parts of mean and square
//! ```
//!
//! A fault is planted in what the reference is given.

use super::bits;
use super::encoder::{SLACK, Suite, TINY, U};
use crate::engine::encoder::{Step, Sum};
use crate::engine::training::{Quantizer, Training};
use crate::learning::{Distillation, Learned, Rule, Update};
use crate::product::Function;
use crate::scheme::{Grid, Group};
use crate::{Result, reference};

/// Which of them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Dense,
    FakeQuantize,
    StepGradient,
    Activate,
    CrossEntropy,
    Update,
}

/// Numbers with steps and zero-points for them.
struct Quantized {
    grid: Grid,
    shape: [usize; 2],
    x: Vec<f32>,
    dy: Vec<f32>,
    steps: Vec<f32>,
    zeros: Option<Vec<f32>>,
    case: String,
}

impl Suite<'_> {
    /// Everything of an operation.
    pub async fn train(&mut self, operation: Operation) -> Result<()> {
        match operation {
            Operation::Dense => self.dense().await,
            Operation::FakeQuantize => self.fake_quantize().await,
            Operation::StepGradient => self.step_gradient().await,
            Operation::Activate => self.activate().await,
            Operation::CrossEntropy => self.cross_entropy().await,
            Operation::Update => self.update().await,
        }
    }

    fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.rng.normal()).collect()
    }

    async fn dense(&mut self) -> Result<()> {
        let shapes = [[1, 1, 1], [3, 5, 2], [33, 31, 17], [64, 10, 100], [7, 70, 300], [130, 40, 33]];
        for (i, [m, n, t]) in shapes.into_iter().enumerate() {
            for turned in [[false, false], [false, true], [true, false], [true, true]] {
                let (mut a, b) = (self.normals(m * t), self.normals(n * t));
                let bias = (i % 2 == 0).then(|| self.normals(n));
                let case = format!("[{m}, {n}, {t}], turned {turned:?}");
                let on_a = self.upload(&if turned[0] { [t, m] } else { [m, t] }, &a)?;
                let on_b = self.upload(&if turned[1] { [t, n] } else { [n, t] }, &b)?;
                let on_bias = bias.as_ref().map(|bias| self.upload(&[n], bias)).transpose()?;
                let step = Training::Dense { a: &on_a, b: &on_b, turned, bias: on_bias.as_ref() };
                let Some(got) = self.output(&case, Step::Training(step), &[m, n]).await? else { continue };
                let part = (self.steps(Sum::Dense { terms: t }) + 1.0) * U * SLACK;
                let sizes = |v: &[f32]| v.iter().map(|v| v.abs()).collect::<Vec<_>>();
                let bounded = |a: &[f32]| -> Vec<[f64; 2]> {
                    let y = reference::dense(a, &b, [m, n, t], turned, bias.as_deref());
                    let size = bias.as_deref().map(sizes);
                    let all = reference::dense(&sizes(a), &sizes(&b), [m, n, t], turned, size.as_deref());
                    y.into_iter().zip(all).map(|(y, size)| [y, part * size + TINY]).collect()
                };
                let right = bounded(&a);
                a[m * t - 1] += 1.0;
                self.judge(&case, &got, &right, &bounded(&a));
            }
        }
        Ok(())
    }

    /// Tensors, channels and groups, with and without zero-points; numbers between codes, halfway, at the ends and far beyond them.
    fn quantized(&mut self) -> Vec<Quantized> {
        let mut all = Vec::new();
        for (i, (rows, k, group)) in [
            (1, 1, Group::Tensor),
            (7, 33, Group::Row),
            (5, 96, Group::Cols(32)),
            (3, 70, Group::Cols(32)),
            (20, 61, Group::Tensor),
            (2, 700, Group::Row),
        ]
        .into_iter()
        .enumerate()
        {
            for (first, last) in [(-2, 1), (-128, 127), (0, 15), (-7, 7)] {
                let grid = Grid { first, last, group };
                let groups = grid.spans(rows, k).count();
                let steps: Vec<f32> = (0..groups)
                    .map(|_| (0.05 + self.rng.uniform().abs()) * self.rng.pick(&[0.01, 0.25, 1.0]))
                    .collect();
                let zeros = (first == 0 && i % 2 == 1)
                    .then(|| (0..groups).map(|_| self.rng.below(last as usize + 1) as f32).collect());
                let of = |i: usize| {
                    steps[(0..groups).find(|&g| grid.spans(rows, k).of(g).contains(&i)).unwrap_or(0)]
                };
                let x = (0..rows * k)
                    .map(|i| {
                        let reach = self.rng.normal() * last as f32 * of(i);
                        match self.rng.below(8) {
                            0 => (self.rng.below(9) as f32 - 4.0) * 0.5 * of(i),
                            1 => last as f32 * of(i),
                            2 => first as f32 * of(i),
                            3 => 10.0 * reach,
                            4 => 0.0,
                            _ => 0.6 * reach,
                        }
                    })
                    .collect();
                let case =
                    format!("[{rows}, {k}] in {group:?}, codes {first}..={last}, zeros {}", zeros.is_some());
                let dy = self.normals(rows * k);
                all.push(Quantized { grid, shape: [rows, k], x, dy, steps, zeros, case });
            }
        }
        all
    }

    async fn fake_quantize(&mut self) -> Result<()> {
        for Quantized { grid, shape, mut x, dy, steps, zeros, case } in self.quantized() {
            let (on_x, on_dy) = (self.upload(&shape, &x)?, self.upload(&shape, &dy)?);
            let on_steps = self.upload(&[steps.len()], &steps)?;
            let on_zeros = zeros.as_ref().map(|z| self.upload(&[z.len()], z)).transpose()?;
            let by = Quantizer { grid: &grid, steps: &on_steps, zeros: on_zeros.as_ref() };
            for backward in [false, true] {
                let case = format!("{case}{}", if backward { ", backward" } else { "" });
                let step = Training::FakeQuantize { x: &on_x, dy: backward.then_some(&on_dy), by };
                let Some(got) = self.output(&case, Step::Training(step), &shape).await? else { continue };
                let want = |x: &[f32]| {
                    let dy = backward.then_some(&dy[..]);
                    reference::fake_quantize(x, shape[1], dy, &steps, zeros.as_deref(), &grid)
                };
                // With one kind of zero.
                let plain = |v: &[f32]| bits(&v.iter().map(|&v| v + 0.0).collect::<Vec<_>>());
                self.report.equal(self.kernel, &case, &plain(&got), &plain(&want(&x)));
                // Inside on either side of 0, and far outside: one of them changes the last number.
                let (at, last) = (x.len() - 1, want(&x)[x.len() - 1]);
                let before = x[at];
                let seen = [0.3, -0.3, 1e9, -1e9].iter().any(|v| {
                    x[at] = v * steps[steps.len() - 1];
                    let wrong = want(&x);
                    wrong[at] != last && plain(&got) != plain(&wrong)
                });
                x[at] = before;
                self.report.teeth(self.kernel, &case, seen);
            }
        }
        Ok(())
    }

    async fn step_gradient(&mut self) -> Result<()> {
        for Quantized { grid, shape, x, mut dy, steps, zeros, case } in self.quantized() {
            let (on_x, on_dy) = (self.upload(&shape, &x)?, self.upload(&shape, &dy)?);
            let on_steps = self.upload(&[steps.len()], &steps)?;
            let on_zeros = zeros.as_ref().map(|z| self.upload(&[z.len()], z)).transpose()?;
            let by = Quantizer { grid: &grid, steps: &on_steps, zeros: on_zeros.as_ref() };
            for (learned, factor) in [(Learned::Step, 0.125), (Learned::Clip, -1.5)] {
                let case = format!("{case}, {learned:?}");
                let step = Training::StepGradient { x: &on_x, dy: &on_dy, by, learned, factor };
                let Some(got) = self.output(&case, Step::Training(step), &[steps.len()]).await? else {
                    continue;
                };
                let spans = grid.spans(shape[0], shape[1]);
                let sums = self.steps(Sum::Step { group: spans.longest() });
                // What a number adds.
                let term = |g: usize, i: usize, dy: f32| {
                    let (zero, one) =
                        (zeros.as_ref().map(|z| &z[g..=g]), Grid { group: Group::Tensor, ..grid });
                    let (x, step) = (&x[i..=i], &steps[g..=g]);
                    reference::step_gradient(x, 1, &[dy], step, zero, &one, learned, factor)[0]
                };
                let bounded = |dy: &[f32]| -> Vec<[f64; 2]> {
                    let of_group = |g: usize| {
                        let (mut y, mut bound) = (0.0, 0.0);
                        for i in spans.of(g) {
                            let (term, quotient) = (term(g, i, dy[i]), f64::from(x[i] / steps[g]));
                            y += term;
                            bound += (sums + 4.0) * U * term.abs();
                            bound += 6.0 * U * (quotient * f64::from(dy[i] * factor)).abs();
                        }
                        [y, SLACK * bound + TINY]
                    };
                    (0..spans.count()).map(of_group).collect()
                };
                let right = bounded(&dy);
                // The number of the first group that counts most.
                let part = |i: usize| term(0, i, dy[i]).abs();
                let most = spans.of(0).max_by(|&a, &b| part(a).total_cmp(&part(b)));
                let at = most.unwrap_or(0);
                let (telling, before) = (part(at) > 0.0, dy[at]);
                dy[at] *= -2.0;
                let wrong = bounded(&dy);
                dy[at] = before;
                match telling {
                    true => self.judge(&case, &got, &right, &wrong),
                    // Nothing is outside: all gradients of the clip are 0.
                    false => {
                        let (want, bounds): (Vec<f64>, Vec<f64>) = right.iter().map(|[y, b]| (y, b)).unzip();
                        self.report.within(self.kernel, &case, &got, &want, &bounds);
                    }
                }
            }
        }
        Ok(())
    }

    async fn activate(&mut self) -> Result<()> {
        for function in Function::ALL {
            for n in [1, 63, 200] {
                let mut x: Vec<f32> =
                    (0..n).map(|i| self.rng.normal() * if i % 5 == 0 { 12.0 } else { 1.5 }).collect();
                if n == 1 {
                    // No function is 0 there.
                    x[0] = x[0].abs() + 0.5;
                }
                let dy = self.normals(n);
                let (on_x, on_dy) = (self.upload(&[n], &x)?, self.upload(&[n], &dy)?);
                for backward in [false, true] {
                    let case =
                        format!("{} of {n}{}", function.name(), if backward { ", backward" } else { "" });
                    let step = Training::Activate { x: &on_x, dy: backward.then_some(&on_dy), function };
                    let Some(got) = self.output(&case, Step::Training(step), &[n]).await? else { continue };
                    let of = |x: &[f32]| bounded_activation(x, backward.then_some(&dy[..]), function);
                    let right = of(&x);
                    let before = x[n - 1];
                    // The slope of the identity is no matter of x.
                    if backward && matches!(function, Function::Identity | Function::Relu) {
                        x[n - 1] = -x[n - 1];
                        let seen = function == Function::Identity || of(&x)[n - 1][0] != right[n - 1][0];
                        self.report.teeth(self.kernel, &case, seen);
                        let (want, bounds): (Vec<f64>, Vec<f64>) = right.iter().map(|[y, b]| (y, b)).unzip();
                        self.report.within(self.kernel, &case, &got, &want, &bounds);
                    } else {
                        // Where values and slopes are others than anywhere else; ReLU's are others above 0.
                        x[n - 1] = match function {
                            Function::Relu | Function::Identity => before.abs() * 0.5 + 1.0,
                            _ if (before + 0.5).abs() > 0.1 => -0.5,
                            _ => 0.5,
                        };
                        self.judge(&case, &got, &right, &of(&x));
                    }
                    x[n - 1] = before;
                }
            }
        }
        Ok(())
    }

    async fn cross_entropy(&mut self) -> Result<()> {
        for (m, c) in [(1, 2), (64, 10), (65, 3), (5, 100)] {
            let (mut z, teacher) = (self.normals(m * c), self.normals(m * c));
            // Not of two scores alone, which would leave nothing to lose.
            z.iter_mut().skip(2).step_by(7).for_each(|v| *v *= 10.0);
            let mut targets = vec![0f32; m * c];
            for (row, targets) in targets.chunks_mut(c).enumerate() {
                match row % 3 {
                    2 => targets[..2].fill(0.5),
                    _ => targets[self.rng.below(c)] = 1.0,
                }
            }
            let how = Distillation { temperature: 3.0, share: 0.625 };
            let on =
                [self.upload(&[m, c], &z)?, self.upload(&[m, c], &targets)?, self.upload(&[m, c], &teacher)?];
            for (with, gradient) in [(false, false), (false, true), (true, false), (true, true)] {
                let case = format!(
                    "[{m}, {c}]{}{}",
                    if with { ", of a teacher" } else { "" },
                    if gradient { ", backward" } else { "" }
                );
                let scale = 0.75;
                let step = Training::CrossEntropy {
                    scores: &on[0],
                    targets: &on[1],
                    teacher: with.then_some((&on[2], how)),
                    scale,
                    gradient,
                };
                let shape: &[usize] = if gradient { &[m, c] } else { &[m] };
                let Some(got) = self.output(&case, Step::Training(step), shape).await? else { continue };
                let of = |z: &[f32]| {
                    bounded_loss(z, c, &targets, with.then_some((&teacher[..], how)), scale, gradient)
                };
                let right = of(&z);
                let before = z[m * c - 1];
                // Far above all others.
                z[m * c - 1] = 60.0;
                self.judge(&case, &got, &right, &of(&z));
                z[m * c - 1] = before;
            }
        }
        Ok(())
    }

    async fn update(&mut self) -> Result<()> {
        for n in [1, 63, 1000] {
            for rule in [Rule::Momentum { momentum: 0.9 }, Rule::adam(1), Rule::adam(100)] {
                let mut state = self.normals(rule.states() * n);
                state.iter_mut().skip(2 * n).for_each(|v| *v = *v * *v + 0.01);
                let mut gradient = self.normals(n);
                let how = Update { decay: 0.01, unscale: 0.25, floor: -1.0, ..Update::new(rule, 0.02) };
                let case = format!("{rule:?} of {n}");
                let (on, on_gradient) =
                    (self.upload(&[rule.states(), n], &state)?, self.upload(&[n], &gradient)?);
                let step = Training::Update { state: &on, gradient: &on_gradient, how: &how };
                let Some(got) = self.output(&case, Step::Training(step), &[rule.states(), n]).await? else {
                    continue;
                };
                let right = bounded_update(&state, &gradient, &how);
                gradient[n - 1] += 1.0;
                self.judge(&case, &got, &right, &bounded_update(&state, &gradient, &how));
            }
        }
        Ok(())
    }
}

/// A function or its gradient, and how far each number may be off.
fn bounded_activation(x: &[f32], dy: Option<&[f32]>, function: Function) -> Vec<[f64; 2]> {
    let y = reference::activate(x, dy, function);
    let of_erf = 0.75e-7 + 85.0 * U;
    let bound = |i: usize| {
        let v = f64::from(x[i]);
        let share = 1.0 / (1.0 + (-v).exp());
        let of_share = (12.0 + 4.0 * v.abs()) * U;
        match (function, dy.map(|dy| f64::from(dy[i].abs()))) {
            (Function::Identity | Function::Relu, _) => 0.0,
            (Function::Gelu, None) => v.abs() * of_erf + 3.0 * U * y[i].abs(),
            (Function::Gelu, Some(dy)) => {
                let density = (-v * v / 2.0).exp() / std::f64::consts::TAU.sqrt();
                dy * (of_erf + v.abs() * density * (12.0 + 4.0 * v * v) * U) + 3.0 * U * y[i].abs()
            }
            (Function::Silu, None) => y[i].abs() * (of_share + 2.0 * U),
            (Function::Silu, Some(dy)) => {
                let rest = 1.0 + v * (1.0 - share);
                let off = rest.abs() * of_share + v.abs() * (share * of_share + 2.0 * U) + 2.0 * U;
                dy * share * off + U * y[i].abs()
            }
        }
    };
    let tiny = if matches!(function, Function::Identity | Function::Relu) { 0.0 } else { TINY };
    (0..x.len()).map(|i| [y[i], SLACK * bound(i) + tiny]).collect()
}

/// Of a row's powers: distances from the largest, probabilities, how far a probability may be off as a part of it, the logarithm of the sum, and how far that may be off.
struct Powers {
    distances: Vec<f64>,
    p: Vec<f64>,
    off: Vec<f64>,
    log: f64,
    log_off: f64,
}

fn powers(z: &[f32], t: f64) -> Powers {
    let top = f64::from(z.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let distances: Vec<f64> = z.iter().map(|&v| (f64::from(v) - top) / t).collect();
    let sum: f64 = distances.iter().map(|d| d.exp()).sum();
    let p: Vec<f64> = distances.iter().map(|d| d.exp() / sum).collect();
    let of_power = |d: &f64| (6.0 + 11.0 * d.abs()) * U;
    let of_sum: f64 =
        p.iter().zip(&distances).map(|(p, d)| p * of_power(d)).sum::<f64>() + z.len() as f64 * U;
    let off = distances.iter().map(|d| of_power(d) + of_sum + 6.0 * U).collect();
    let log_off = 2f64.powi(-21).max(6.0 * U * sum.ln()) + of_sum;
    Powers { distances, p, off, log: sum.ln(), log_off }
}

/// Losses or gradients, and how far each may be off.
fn bounded_loss(
    z: &[f32],
    c: usize,
    targets: &[f32],
    teacher: Option<(&[f32], Distillation)>,
    scale: f32,
    gradient: bool,
) -> Vec<[f64; 2]> {
    let y = reference::cross_entropy(z, c, targets, teacher, scale, gradient);
    let how = teacher.map_or(Distillation { temperature: 1.0, share: 0.0 }, |(_, how)| how);
    let (t, share) = (f64::from(how.temperature), f64::from(how.share));
    let (of_labels, of_teacher) = (f64::from(scale) * (1.0 - share), f64::from(scale) * share * t);
    let classes = c as f64;
    let mut bounds = Vec::new();
    for (row, z) in z.chunks(c).enumerate() {
        let at = row * c..(row + 1) * c;
        let (own, targets) = (powers(z, 1.0), &targets[at.clone()]);
        let both = teacher.map(|(teacher, _)| (powers(z, t), powers(&teacher[at], t)));
        let mut loss = 0.0;
        for (i, target) in targets.iter().map(|&t| f64::from(t)).enumerate() {
            let part = own.p[i] - target;
            let mut d = of_labels * (own.p[i] * own.off[i] + 5.0 * U * part.abs());
            let term = target * (own.log - own.distances[i]);
            let of_term = own.log_off + 3.0 * U * (own.log + own.distances[i].abs());
            loss += of_labels * (target * of_term + (classes + 3.0) * U * term.abs());
            if let Some((soft, wanted)) = &both {
                let part = (soft.p[i] - wanted.p[i]).abs();
                d += of_teacher * (soft.p[i] * soft.off[i] + wanted.p[i] * wanted.off[i] + 5.0 * U * part);
                let differ = wanted.distances[i] - wanted.log - (soft.distances[i] - soft.log);
                let of_differ = 9.0 * U * (wanted.distances[i].abs() + soft.distances[i].abs())
                    + soft.log_off
                    + wanted.log_off
                    + 2.0 * U * (soft.log + wanted.log)
                    + differ.abs() * wanted.off[i];
                let sums = (classes + 4.0) * U * differ.abs();
                loss += of_teacher * t * wanted.p[i] * (of_differ + sums);
            }
            if gradient {
                bounds.push(d);
            }
        }
        if !gradient {
            bounds.push(loss);
        }
    }
    y.into_iter().zip(bounds).map(|(y, bound)| [y, SLACK * bound + U * y.abs() + TINY]).collect()
}

/// The next state, and how far each number may be off.
fn bounded_update(state: &[f32], gradient: &[f32], how: &Update) -> Vec<[f64; 2]> {
    let (n, y) = (gradient.len(), reference::update(state, gradient, how));
    let mut bounds = vec![0.0; y.len()];
    for i in 0..n {
        let [p, m] = [0, 1].map(|part| f64::from(state[part * n + i]).abs());
        let g = f64::from(gradient[i] * how.unscale).abs();
        let rate = f64::from(how.rate);
        let moved = match how.rule {
            Rule::Momentum { momentum } => {
                bounds[n + i] = U * (y[n + i].abs() + 3.0 * f64::from(momentum) * m + 3.0 * g);
                rate * (bounds[n + i] + 3.0 * U * y[n + i].abs())
            }
            Rule::Adam { beta1, beta2, eps, step } => {
                let square = f64::from(state[2 * n + i]);
                let [a, b] = [beta1, beta2].map(|beta| 1.0 - f64::from(beta));
                bounds[n + i] = U * (y[n + i].abs() + 6.0 * a * (g + m));
                bounds[2 * n + i] = U * (y[2 * n + i] + 6.0 * b * (g * g + square));
                let [of_mean, of_square] =
                    [beta1, beta2].map(|beta| 1.0 / (1.0 - f64::from(beta).powi(step as i32)));
                let by = (y[2 * n + i] * of_square).sqrt() + f64::from(eps);
                let part = bounds[2 * n + i] / y[2 * n + i] / 2.0 + 24.0 * U;
                rate * of_mean / by * (bounds[n + i] + part * y[n + i].abs())
            }
        };
        bounds[i] = 3.0 * U * p + moved + U * y[i].abs();
    }
    y.into_iter().zip(bounds).map(|(y, bound)| [y, SLACK * bound + TINY]).collect()
}
