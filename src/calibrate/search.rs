//! Ranges by [`Rule`], of a histogram and the extremes beside it.
//!
//! ```text
//! Seen { histogram, low, high, batches } -> Half { below 0 }, Half { above 0 }: sums of 1, |x|, x^2 up to any magnitude -> Range
//! ```
//!
//! Numbers of a bin are taken to lie evenly between its edges, and the outermost bins to end at the extremes.
//!
//! **mse** ([`least_squares`]): steps s from that of the whole range down, [`OCTAVE`] to a power of two, then [`ROUNDS`] times [`FINER`] between the neighbours of the best. The error of a
//! step is worked out exactly over the cells of the codes, `sum of (x - k s)^2 over (k - 1/2) s ..= (k + 1/2) s`, the last cell without an end; where the grid is affine for every zero-point, and
//! the best one counts. No smaller step is looked at once clipping alone costs more than the best so far.
//!
//! **entropy** ([`least_divergence`]): P is what was seen within a range, with what is beyond it in the outermost of 2^bits equal parts (2^(bits - 1) parts of the magnitudes where
//! the grid is symmetric); Q is what is left of the numbers within the range when only the count of each part is known, spread evenly over those of its bins that hold anything. The
//! range of the least sum of P log(P / Q) is taken. Zeros are left out: every grid holds them exactly. After NVIDIA's calibration (Migacz 2017). Differs: bins without a range, so that parts cut them;
//! what is beyond is in the outermost part evenly and not in its last bin; ends of a range are tried at the edges of bins, every [`APART`] of them, one end after the other where the grid is
//! affine, with no more than half of the numbers beyond; and an end counts the worst of its neighbours ([`best_end`]).

use super::histogram::Histogram;
use super::rule::{Grid, Range, Rule};
use crate::Result;
use crate::bins::{LAST, ZERO, class, least};

/// Steps that are tried of a power of two.
const OCTAVE: i32 = 16;
/// Most powers of two below the step of the whole range.
const OCTAVES: i32 = 48;
/// Further rounds of the search for a step, and steps on either side in each.
const ROUNDS: i32 = 3;
const FINER: i32 = 8;
/// Bins from one end of a range that is tried to the next, and how many ends on either side count.
const APART: usize = 2;
const BESIDE: usize = 2;
/// Less than a number in a part comes of sums that do not cancel.
const LEAST: f64 = 1e-6;

/// What a rule looks at.
pub(super) struct Seen<'a> {
    pub histogram: &'a Histogram,
    /// The least and the largest number.
    pub extremes: [f32; 2],
    /// The same of each batch of each run.
    pub runs: &'a [Vec<[f32; 2]>],
}

impl Seen<'_> {
    /// The range that a rule finds.
    pub fn range(&self, rule: Rule, grid: Grid) -> Result<Range> {
        grid.check()?;
        let [low, high] = match rule {
            Rule::MinMax => self.extremes,
            Rule::MovingAverage(momentum) => average(self.runs, momentum),
            Rule::Percentile(share) => percentile(&Halves::new(self), share / 100.0, grid),
            Rule::Entropy => least_divergence(&Halves::new(self), grid),
            Rule::Mse => least_squares(&Halves::new(self), grid),
        };
        // A last step up may be beyond the largest f32.
        let [low, high] = [low, high].map(|v| v.clamp(-f32::MAX, f32::MAX));
        Range::new(low, high, grid)
    }
}

/// The moving average of a run's batches; of several runs the mean, each counted as often as it has batches.
fn average(runs: &[Vec<[f32; 2]>], momentum: f64) -> [f32; 2] {
    let mut sum = [0.0; 2];
    let mut batches = 0.0;
    for run in runs {
        let mut moving: Option<[f64; 2]> = None;
        for new in run {
            let new = new.map(f64::from);
            let old = moving.unwrap_or(new);
            moving = Some([0, 1].map(|end| old[end] + momentum * (new[end] - old[end])));
        }
        for (sum, end) in sum.iter_mut().zip(moving.unwrap_or_default()) {
            *sum += end * run.len() as f64;
        }
        batches += run.len() as f64;
    }
    sum.map(|sum| (sum / f64::max(batches, 1.0)) as f32)
}

/// Numbers of one sign, by magnitude.
struct Half {
    /// The class of the first bin.
    first: usize,
    /// Of the bins, one more than there are.
    edges: Vec<f64>,
    /// What lies below each edge.
    below: Vec<Sums>,
}

/// Sums over numbers of some bins.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    count: f64,
    /// Of magnitudes, and of squares.
    first: f64,
    second: f64,
    /// Of `count log(count / width)` per bin, and widths of bins that are not empty.
    density: f64,
    width: f64,
}

impl Sums {
    /// `count` numbers evenly in `from..to` of a bin `width` wide in which `all` are.
    fn of(from: f64, to: f64, count: f64, [all, width]: [f64; 2]) -> Self {
        let thick = if all > 0.0 && width > 0.0 { (all / width).ln() } else { 0.0 };
        Self {
            count,
            first: count * (from + to) / 2.0,
            second: count * (from * from + from * to + to * to) / 3.0,
            density: count * thick,
            width: if all > 0.0 { to - from } else { 0.0 },
        }
    }

    fn with(self, other: Self, sign: f64) -> Self {
        Self {
            count: self.count + sign * other.count,
            first: self.first + sign * other.first,
            second: self.second + sign * other.second,
            density: self.density + sign * other.density,
            width: self.width + sign * other.width,
        }
    }

    fn less(self, other: Self) -> Self {
        self.with(other, -1.0)
    }

    /// The sum of squares of distances from a magnitude.
    fn about(self, v: f64) -> f64 {
        (self.second - 2.0 * v * self.first + v * v * self.count).max(0.0)
    }
}

impl Half {
    /// Of the counts of classes from 1 on, and the largest magnitude there is.
    fn new(count: impl Fn(usize) -> u64, [bottom, top]: [f64; 2]) -> Self {
        let last = (1..=LAST).rev().find(|&class| count(class) > 0).unwrap_or(0);
        let first = (1..=last).find(|&class| count(class) > 0).unwrap_or(1);
        let mut half =
            Self { first, edges: vec![least(first).max(bottom).min(top)], below: vec![Sums::default()] };
        let mut below = Sums::default();
        for class in first..=last {
            let (from, to) = (half.edges[class - first], least(class + 1).min(top));
            let all = count(class) as f64;
            below = below.with(Sums::of(from, to, all, [all, to - from]), 1.0);
            half.edges.push(to);
            half.below.push(below);
        }
        half
    }

    /// The number of bins.
    fn len(&self) -> usize {
        self.edges.len() - 1
    }

    fn all(&self) -> Sums {
        self.below[self.len()]
    }

    fn top(&self) -> f64 {
        if self.len() == 0 { 0.0 } else { self.edges[self.len()] }
    }

    /// What is of a magnitude below `v`.
    fn up_to(&self, v: f64) -> Sums {
        if self.len() == 0 || v <= self.edges[0] {
            return Sums::default();
        }
        if v >= self.top() {
            return self.all();
        }
        let mut at = (class(v as f32).max(self.first) - self.first).min(self.len() - 1);
        // v rounded to f32 may have come to the next bin.
        if v < self.edges[at] {
            at -= 1;
        }
        let (from, to) = (self.edges[at], self.edges[at + 1]);
        let all = self.below[at + 1].count - self.below[at].count;
        let share = ((v - from) / (to - from)).clamp(0.0, 1.0);
        self.below[at].with(Sums::of(from, v.min(to), all * share, [all, to - from]), 1.0)
    }

    /// The magnitude that `count` numbers are above.
    fn exceeded_by(&self, count: f64) -> f64 {
        let within = self.all().count - count;
        let at = self.below.partition_point(|below| below.count < within);
        if at == 0 {
            return 0.0;
        }
        let [from, to] = [at - 1, at].map(|at| self.below[at].count);
        let share = if to > from { (within - from) / (to - from) } else { 1.0 };
        self.edges[at - 1] + share * (self.edges[at] - self.edges[at - 1])
    }

    /// For each number of codes from 0 to `codes`, those of 1, 2, .. times `step`: the sum of squares of what rounding and clipping leave, and of what lies beyond the last cell.
    fn errors(&self, step: f64, codes: usize) -> Vec<[f64; 2]> {
        let (all, mut within, mut sum) = (self.all(), Sums::default(), 0.0);
        let mut errors = Vec::with_capacity(codes + 1);
        for code in 0..=codes {
            let value = code as f64 * step;
            let next = self.up_to(value + step / 2.0);
            let beyond = all.less(next).about(value);
            let cell = next.less(within).about(value);
            errors.push([sum + cell + beyond, beyond]);
            sum += cell;
            within = next;
        }
        errors
    }
}

/// The numbers of either sign, and zeros.
struct Halves {
    below: Half,
    above: Half,
    /// Of both signs.
    zeros: f64,
    extremes: [f64; 2],
}

impl Halves {
    fn new(seen: &Seen<'_>) -> Self {
        let count = |bin: usize| seen.histogram.at(bin);
        let [low, high] = seen.extremes.map(f64::from);
        Self {
            below: Half::new(|class| count(ZERO - class), [(-high).max(0.0), (-low).max(0.0)]),
            above: Half::new(|class| count(ZERO + class), [low.max(0.0), high.max(0.0)]),
            zeros: count(ZERO) as f64,
            extremes: [low, high],
        }
    }

    /// Both signs' magnitudes as one.
    fn folded(seen: &Halves) -> Half {
        let count = |half: &Half, class: usize| {
            let at = class.checked_sub(half.first).filter(|&at| at < half.len());
            at.map_or(0, |at| (half.below[at + 1].count - half.below[at].count).round() as u64)
        };
        let top = seen.below.top().max(seen.above.top());
        Half::new(|class| count(&seen.below, class) + count(&seen.above, class), [0.0, top])
    }

    fn count(&self) -> f64 {
        self.below.all().count + self.zeros + self.above.all().count
    }
}

fn percentile(seen: &Halves, share: f64, grid: Grid) -> [f32; 2] {
    let beyond = (1.0 - share) * seen.count();
    if grid.symmetric {
        let clip = Halves::folded(seen).exceeded_by(beyond) as f32;
        return [-clip, clip];
    }
    // A half that has fewer numbers than are to be left out ends at 0.
    let end =
        |half: &Half| if half.all().count > beyond / 2.0 { half.exceeded_by(beyond / 2.0) } else { 0.0 };
    [-end(&seen.below) as f32, end(&seen.above) as f32]
}

/// The range of the least sum of squares.
fn least_squares(seen: &Halves, grid: Grid) -> [f32; 2] {
    let steps = grid.steps() as usize;
    let [low, high] = [seen.extremes[0].min(0.0), seen.extremes[1].max(0.0)];
    let whole = if grid.symmetric { 2.0 * high.max(-low) } else { high - low };
    let widest = whole / steps as f64;
    // The error of a step, the codes below 0 that give it, and what clipping costs at least.
    let tried = |step: f64| -> (f64, usize, f64) {
        let codes = if grid.symmetric { steps / 2 } else { steps };
        let [below, above] = [&seen.below, &seen.above].map(|half| half.errors(step, codes));
        let splits = if grid.symmetric { codes..=codes } else { 0..=steps };
        splits.fold((f64::INFINITY, 0, f64::INFINITY), |(best, at, least), down| {
            let up = if grid.symmetric { codes } else { steps - down };
            let [error, beyond] = [0, 1].map(|i| below[down][i] + above[up][i]);
            if error < best { (error, down, least.min(beyond)) } else { (best, at, least.min(beyond)) }
        })
    };
    if widest <= 0.0 {
        return [0.0; 2];
    }
    let (mut best, mut step, mut down) = (f64::INFINITY, widest, 0);
    for i in 0..OCTAVES * OCTAVE {
        let s = widest * (-f64::from(i) / f64::from(OCTAVE)).exp2();
        let (error, at, clipped) = tried(s);
        if error < best {
            (best, step, down) = (error, s, at);
        }
        if clipped > best {
            break;
        }
    }
    let mut distance = 1.0 / f64::from(OCTAVE);
    for _ in 0..ROUNDS {
        let middle = step;
        for i in -FINER..=FINER {
            let s = middle * (f64::from(i) / f64::from(FINER) * distance).exp2();
            let (error, at, _) = tried(s);
            if error < best {
                (best, step, down) = (error, s, at);
            }
        }
        distance /= f64::from(FINER);
    }
    [-(down as f64 * step) as f32, ((steps - down) as f64 * step) as f32]
}

/// The range whose parts tell least else than what was seen.
fn least_divergence(seen: &Halves, grid: Grid) -> [f32; 2] {
    if grid.symmetric {
        let folded = Halves::folded(seen);
        let none = Half::new(|_| 0, [0.0; 2]);
        let clip = best_end(&folded, |clip| divergence([&none, &folded], [0.0, clip], 1 << (grid.bits - 1)));
        return [-clip as f32, clip as f32];
    }
    let (below, above) = (&seen.below, &seen.above);
    let parts = 1 << grid.bits;
    let mut ends = [below.top(), above.top()];
    // Either end in turn, until both stay.
    for _ in 0..8 {
        let low = best_end(below, |low| divergence([below, above], [low, ends[1]], parts));
        let high = best_end(above, |high| divergence([below, above], [low, high], parts));
        if std::mem::replace(&mut ends, [low, high]) == [low, high] {
            break;
        }
    }
    [-ends[0] as f32, ends[1] as f32]
}

/// The end of a range, the edge of a bin, of the least divergence; 0 where there is no bin. No more than half of the numbers lie beyond it. An end counts what it or its neighbours
/// diverge by, the most of it: a few numbers that happen to lie in the outermost part make one end good, and not those beside it.
fn best_end(half: &Half, divergence: impl Fn(f64) -> f64) -> f64 {
    if half.len() == 0 {
        return 0.0;
    }
    let most = half.all().count / 2.0;
    let first = half.below.partition_point(|below| below.count < most).max(1);
    let ends: Vec<f64> = (first..=half.len()).rev().step_by(APART).map(|at| half.edges[at]).collect();
    let found: Vec<f64> = ends.iter().map(|&end| divergence(end)).collect();
    let worst = |at: usize| {
        found[at.saturating_sub(BESIDE)..].iter().take(2 * BESIDE + 1).copied().fold(0.0, f64::max)
    };
    let mut best = (worst(0), ends[0]);
    for (at, &end) in ends.iter().enumerate().skip(1) {
        let d = worst(at);
        if d < best.0 {
            best = (d, end);
        }
    }
    best.1
}

/// Sum of P log(P / Q), as the module's text has it, of numbers from `-ends[0]` to `ends[1]`.
fn divergence([below, above]: [&Half; 2], ends: [f64; 2], parts: usize) -> f64 {
    let all = below.all().count + above.all().count;
    let width = (ends[0] + ends[1]) / parts as f64;
    // What lies between two numbers.
    let signed = |v: f64| if v < 0.0 { (below.up_to(-v), -1.0) } else { (above.up_to(v), 1.0) };
    let between = |from: f64, to: f64| {
        let ((a, sa), (b, sb)) = (signed(from), signed(to));
        Sums::default().with(b, sb).with(a, -sa)
    };
    let beyond =
        [below.all().count - below.up_to(ends[0]).count, above.all().count - above.up_to(ends[1]).count];
    let clipped = beyond[0] + beyond[1];
    if all - clipped <= 0.0 {
        return f64::INFINITY;
    }
    let mut sum = 0.0;
    for part in 0..parts {
        let [from, to] = [part, part + 1].map(|at| at as f64 * width - ends[0]);
        let inside = between(from, to);
        let outside =
            if part == 0 { beyond[0] } else { 0.0 } + if part + 1 == parts { beyond[1] } else { 0.0 };
        if inside.count <= LEAST || inside.width <= 0.0 {
            // Codes for which Q has nothing, and P has.
            if outside > 0.0 {
                return f64::INFINITY;
            }
            continue;
        }
        let uneven = inside.density - inside.count * (inside.count / inside.width).ln();
        let more = 1.0 + outside / inside.count;
        sum += more * (uneven + inside.count * more.ln());
    }
    sum / all + ((all - clipped) / all).ln()
}
