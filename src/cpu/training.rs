//! What training takes besides products: fake quantization, functions between layers, the loss, their gradients, updates.
//!
//! ```text
//! fake_quantize  x [.., K], steps, zeros of groups   -> y, or with dy the gradient of x
//! step_gradient  x, dy, steps, zeros                 -> the gradient of each step
//! activate       x                                   -> f(x), or with dy the gradient of x
//! cross_entropy  scores, targets [M, C]              -> losses [M], or the gradient of the scores
//! update         state [states, n], gradient [n]     -> the next state
//! ```
//!
//! The rules are those of `scheme::grid` and `learning`. Operands have been checked by who calls.

use super::dot::LANES;
use super::encode::steps;
use super::encoder::sum;
use super::epilogue::{exp, half_erfc};
use super::level::{Work, vectorized};
use crate::learning::{Distillation, Learned, Rule, Update};
use crate::product::{Function, Summation};
use crate::recycle;
use crate::scheme::grid::{Grid, Spans};
use crate::threads;

/// Numbers of one task.
const TASK_VALUES: usize = 1 << 13;
/// Terms that are summed in f32 before their sum goes on in f64.
const RUN: usize = 4096;

/// A group: its step and how far its codes reach on either side of 0.
#[derive(Clone, Copy)]
struct Place {
    step: f32,
    inverse: f32,
    below: f32,
    above: f32,
}

impl Place {
    fn new(i: usize, steps: &[f32], zeros: Option<&[f32]>, grid: &Grid) -> Self {
        let zero = zeros.map_or(0.0, |zeros| zeros[i]);
        let (below, above) = (zero - grid.first as f32, grid.last as f32 - zero);
        Self { step: steps[i], inverse: 1.0 / steps[i], below, above }
    }

    /// The code less the zero-point, and whether x is inside the clip range.
    #[inline(always)]
    fn of(&self, x: f32) -> (f32, bool) {
        let (negative, size) = (x < 0.0, x.abs());
        let limit = if negative { self.below } else { self.above };
        let q = steps(size, self.step, self.inverse, limit);
        (if negative { -q } else { q }, size < limit * self.step)
    }
}

struct FakeQuantize<'a> {
    place: Place,
    x: &'a [f32],
    dy: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl Work for FakeQuantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { place, x, dy, y } = self;
        match dy {
            None => y.iter_mut().zip(x).for_each(|(y, &x)| *y = place.of(x).0 * place.step),
            Some(dy) => {
                let all = y.iter_mut().zip(x).zip(dy);
                all.for_each(|((y, &x), &dy)| *y = if place.of(x).1 { dy } else { 0.0 });
            }
        }
    }
}

/// y of x `[rows, k]`; with dy the gradient of x instead.
pub fn fake_quantize(
    x: &[f32],
    k: usize,
    dy: Option<&[f32]>,
    steps: &[f32],
    zeros: Option<&[f32]>,
    grid: &Grid,
) -> Vec<f32> {
    let spans = grid.spans(x.len() / k, k);
    let mut y = recycle::any(x.len());
    let rows = TASK_VALUES.div_ceil(spans.k);
    let tasks: Vec<_> = y.chunks_mut(rows * spans.k).enumerate().collect();
    threads::for_each(tasks, 16 * x.len(), |(task, y)| {
        let first = task * rows * spans.k;
        for i in task * rows * spans.per_row..(first + y.len()) / spans.k * spans.per_row {
            let range = spans.of(i);
            let y = &mut y[range.start - first..range.end - first];
            let dy = dy.map(|dy| &dy[range.clone()]);
            vectorized(FakeQuantize { place: Place::new(i, steps, zeros, grid), x: &x[range], dy, y });
        }
    });
    y
}

struct StepGradient<'a> {
    place: Place,
    learned: Learned,
    x: &'a [f32],
    dy: &'a [f32],
}

impl Work for StepGradient<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let Self { place, learned, x, dy } = self;
        let mut total = 0.0;
        let mut terms = [0f32; RUN];
        for (x, dy) in x.chunks(RUN).zip(dy.chunks(RUN)) {
            for ((term, &x), &dy) in terms.iter_mut().zip(x).zip(dy) {
                let (q, inside) = place.of(x);
                let within = if learned == Learned::Step { q - x / place.step } else { 0.0 };
                *term = dy * if inside { within } else { q };
            }
            total += f64::from(sum(&terms[..x.len()], |v| v));
        }
        total
    }
}

/// How the gradient of a step of `n` numbers is summed.
pub fn step_summation(n: usize) -> Summation {
    Summation { chain: n.min(RUN).div_ceil(LANES) + 1, depth: LANES.ilog2() as usize, folded: false }
}

/// The gradient of each step, times `factor`.
#[allow(clippy::too_many_arguments)]
pub fn step_gradient(
    x: &[f32],
    k: usize,
    dy: &[f32],
    steps: &[f32],
    zeros: Option<&[f32]>,
    grid: &Grid,
    learned: Learned,
    factor: f32,
) -> Vec<f32> {
    let spans: Spans = grid.spans(x.len() / k, k);
    let mut y = vec![0f32; spans.count()];
    let per_task = TASK_VALUES.div_ceil(spans.longest());
    let tasks: Vec<_> = y.chunks_mut(per_task).enumerate().collect();
    threads::for_each(tasks, 16 * x.len(), |(task, y)| {
        for (i, y) in (task * per_task..).zip(y) {
            let range = spans.of(i);
            let place = Place::new(i, steps, zeros, grid);
            let work = StepGradient { place, learned, x: &x[range.clone()], dy: &dy[range] };
            *y = (f64::from(factor) * vectorized(work)) as f32;
        }
    });
    y
}

/// `f'(v)`.
#[inline(always)]
fn slope(function: Function, v: f32) -> f32 {
    match function {
        Function::Identity => 1.0,
        Function::Relu => {
            if v > 0.0 {
                1.0
            } else {
                0.0
            }
        }
        Function::Gelu => {
            let tail = half_erfc(v.abs() * std::f32::consts::FRAC_1_SQRT_2);
            let below = if v < 0.0 { tail } else { 1.0 - tail };
            // 1 / sqrt(2 pi)
            below + v * exp(-0.5 * v * v) * 0.398_942_3
        }
        Function::Silu => {
            let share = 1.0 / (1.0 + exp((-v).min(88.0)));
            share * (1.0 + v * (1.0 - share))
        }
    }
}

struct Activate<'a> {
    function: Function,
    x: &'a [f32],
    dy: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl Work for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { function, x, dy, y } = self;
        let Some(dy) = dy else {
            y.copy_from_slice(x);
            return function.apply(y);
        };
        let all = y.iter_mut().zip(x).zip(dy);
        match function {
            Function::Identity => y.copy_from_slice(dy),
            Function::Relu => all.for_each(|((y, &x), &dy)| *y = if x > 0.0 { dy } else { 0.0 }),
            function => all.for_each(|((y, &x), &dy)| *y = dy * slope(function, x)),
        }
    }
}

/// `f(x)`; with dy the gradient of x instead.
pub fn activate(x: &[f32], dy: Option<&[f32]>, function: Function) -> Vec<f32> {
    let mut y = recycle::any(x.len());
    let tasks: Vec<_> = y.chunks_mut(TASK_VALUES).zip(x.chunks(TASK_VALUES)).enumerate().collect();
    threads::for_each(tasks, 8 * x.len(), |(i, (y, x))| {
        let dy = dy.map(|dy| &dy[i * TASK_VALUES..][..x.len()]);
        vectorized(Activate { function, x, dy, y });
    });
    y
}

/// Powers of e of the distances of `z / t` from its largest entry, into `powers`, and the logarithm of their sum.
fn softmax(z: &[f32], t: f32, powers: &mut [f32]) -> (f32, f32) {
    let top = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for (power, &z) in powers.iter_mut().zip(z) {
        *power = exp((z - top) / t);
        sum += *power;
    }
    (top, sum)
}

/// The losses `[M]` of scores `[M, C]`, or the gradient of their sum.
pub fn cross_entropy(
    scores: &[f32],
    classes: usize,
    targets: &[f32],
    teacher: Option<(&[f32], Distillation)>,
    scale: f32,
    gradient: bool,
) -> Vec<f32> {
    let mut y = vec![0f32; if gradient { scores.len() } else { scores.len() / classes }];
    let width = if gradient { classes } else { 1 };
    let share = teacher.map_or(0.0, |(_, how)| how.share);
    let of_labels = scale * (1.0 - share);
    let rows: Vec<_> = y.chunks_mut(width).zip(scores.chunks(classes)).enumerate().collect();
    let scratch = || [vec![0f32; classes], vec![0f32; classes]];
    threads::for_each_with(rows, 32 * scores.len(), scratch, |[p, q], (row, (y, z))| {
        let at = row * classes..(row + 1) * classes;
        let targets = &targets[at.clone()];
        let (top, sum) = softmax(z, 1.0, p);
        match gradient {
            true => {
                for ((y, p), target) in y.iter_mut().zip(&*p).zip(targets) {
                    *y = of_labels * (p / sum - target);
                }
            }
            false => {
                let log = sum.ln();
                y[0] = targets.iter().zip(z).map(|(t, z)| t * (log - (z - top))).sum::<f32>() * of_labels;
            }
        }
        let Some((teacher, Distillation { temperature, .. })) = teacher else { return };
        let teacher = &teacher[at];
        let (top, sum) = softmax(z, temperature, p);
        let (wanted_top, wanted_sum) = softmax(teacher, temperature, q);
        let factor = scale * share * temperature;
        match gradient {
            true => {
                for ((y, p), q) in y.iter_mut().zip(&*p).zip(&*q) {
                    *y += factor * (p / sum - q / wanted_sum);
                }
            }
            false => {
                let log = sum.ln() - wanted_sum.ln();
                let differ =
                    |(z, wanted): (&f32, &f32)| (wanted - wanted_top - (z - top)) / temperature + log;
                let terms =
                    q.iter().zip(z.iter().zip(teacher)).map(|(q, both)| q / wanted_sum * differ(both));
                y[0] += factor * temperature * terms.sum::<f32>();
            }
        }
    });
    y
}

struct Apply<'a> {
    how: &'a Update,
    gradient: &'a [f32],
    /// The parts of state and next state that belong to these numbers: the parameters, then what the rule remembers.
    state: [&'a [f32]; 3],
    next: [&'a mut [f32]; 3],
}

impl Work for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { how, gradient, state: [p, m, v], next: [p_next, m_next, v_next] } = self;
        let [rate, keep, unscale, floor, a, b, of_mean, of_square, eps] = how.numbers();
        // Not f32::max, which would drop NaN.
        let above = |p: f32| if p < floor { floor } else { p };
        match how.rule {
            Rule::Momentum { .. } => {
                for i in 0..gradient.len() {
                    let moved = a * m[i] + gradient[i] * unscale;
                    m_next[i] = moved;
                    p_next[i] = above(p[i] * keep - rate * moved);
                }
            }
            Rule::Adam { .. } => {
                for i in 0..gradient.len() {
                    let g = gradient[i] * unscale;
                    let mean = m[i] + a * (g - m[i]);
                    let square = v[i] + b * (g * g - v[i]);
                    m_next[i] = mean;
                    v_next[i] = square;
                    let by = (square * of_square).sqrt() + eps;
                    p_next[i] = above(p[i] * keep - rate * (mean * of_mean) / by);
                }
            }
        }
    }
}

/// The state `[states, n]` after an update by the gradient `[n]`.
pub fn update(state: &[f32], gradient: &[f32], how: &Update) -> Vec<f32> {
    let n = gradient.len();
    let mut next = recycle::any(state.len());
    let (p, rest) = next.split_at_mut(n);
    let (m, v) = rest.split_at_mut(n);
    let part = |i: usize, range: std::ops::Range<usize>| {
        state.get(i * n + range.start..i * n + range.end).unwrap_or_default()
    };
    let mut v = v.chunks_mut(TASK_VALUES);
    let tasks: Vec<_> = p
        .chunks_mut(TASK_VALUES)
        .zip(m.chunks_mut(TASK_VALUES))
        .zip(threads::ranges(n, TASK_VALUES))
        .map(|((p, m), range)| {
            let state = [0, 1, 2].map(|i| part(i, range.clone()));
            let next = [p, m, v.next().unwrap_or_default()];
            Apply { how, gradient: &gradient[range], state, next }
        })
        .collect();
    threads::for_each(tasks, 8 * n, vectorized);
    next
}
