//! Clusters of numbers on a line: one-dimensional k-means, exact.
//!
//! ```text
//! x [n], weights -> in order, less the middle one -> sums of weights and of weighted values up to each place
//!     -> (runs, of more than LONGEST_EXACT) -> dynamic programming over cuts -> (Lloyd's iteration over the values) -> means
//! ```
//!
//! Least squared error is most *explained* squares: a cluster explains `(sum of w x)^2 / (sum of w)`, and its squares are the same in every cut. `best[c][b]`, what c clusters
//! explain of the first b points, is the most of `best[c - 1][a] + explained(a, b)` over the place a where the last cluster begins. The best a only
//! grows with b and with c, so that rows of b are halved: a row between two known ones looks between their cuts. Lanes are cuts until eight rows are between two
//! known ones; those look at the same few cuts, and lanes are rows.
//!
//! Deterministic: there are eight lanes on every machine, nothing is fused, and of equal cuts the lowest is taken. Buffers are kept from one group to
//! the next.

use crate::scheme::LONGEST_EXACT;
use std::ops::Range;

/// Cuts, or rows, that are looked at side by side.
const LANES: usize = 8;
/// Rounds of Lloyd's iteration after runs, which move a cut by less than a run each.
const ROUNDS: usize = 100;

/// Finds clusters. Buffers are of the longest group so far.
#[derive(Default)]
pub(super) struct Clusters {
    /// The values' order in the high half, their places in the low half.
    keys: Vec<u64>,
    points: Points,
    runs: Points,
    /// What the clusters so far explain of the points up to each place, and with one more.
    best: Vec<f64>,
    next: Vec<f64>,
    /// `1 / i` from LANES on, minus infinity before; and the same from the end to the beginning.
    inverses: [Vec<f64>; 2],
    /// Where the last of c + 2 clusters of the first b points begins, `[clusters - 2, n + 1]`.
    cuts: Vec<u16>,
    /// The places where clusters begin, and where the last one ends.
    edges: Vec<usize>,
}

/// Weighted points in order, by their sums.
#[derive(Default)]
struct Points {
    /// Sums of weights of the points before each place, `[n + 1]`.
    weight: Vec<f64>,
    /// Sums of weighted values, less the centre.
    first: Vec<f64>,
}

impl Points {
    fn clear(&mut self) {
        self.weight.clear();
        self.first.clear();
        self.weight.push(0.0);
        self.first.push(0.0);
    }

    fn len(&self) -> usize {
        self.weight.len() - 1
    }

    /// Of the points between two places; None where their weight is lost in that of all.
    #[inline(always)]
    fn mean(&self, from: usize, to: usize) -> Option<f64> {
        let weight = self.weight[to] - self.weight[from];
        (weight > 0.0).then(|| (self.first[to] - self.first[from]) / weight)
    }
}

/// A number that orders as `v` does, zeros of either sign being equal.
#[inline(always)]
fn order(v: f32) -> u32 {
    let bits = (v + 0.0).to_bits();
    if bits >> 31 == 0 { bits | (1 << 31) } else { !bits }
}

/// The reverse of [`order`].
#[inline(always)]
fn value(order: u32) -> f32 {
    f32::from_bits(if order >> 31 == 1 { order & !(1 << 31) } else { !order })
}

impl Clusters {
    /// The means of the clusters of `x` of least squared error, ascending, as many as `means` has; fewer values leave means that repeat the
    /// last. A value counts as much as its entry of `weights`, where there are any: numbers that are not negative. Values without a weight count for
    /// nothing, but where none has one, all count the same.
    #[inline(always)]
    pub fn find(&mut self, x: &[f32], weights: Option<&[f32]>, means: &mut [f32]) {
        let weights = weights.filter(|all| all.iter().any(|w| *w > 0.0));
        self.keys.clear();
        match weights {
            None => self.keys.extend(x.iter().map(|&v| u64::from(order(v)) << 32)),
            Some(weights) => {
                let keys = x.iter().zip(weights).enumerate().filter(|(_, (_, w))| **w > 0.0);
                self.keys.extend(keys.map(|(i, (&v, _))| (u64::from(order(v)) << 32) | i as u64));
            }
        }
        self.keys.sort_unstable();
        let n = self.keys.len();
        // Sums of what is far from 0 would lose what the values differ by.
        let centre = f64::from(value((self.keys[n / 2] >> 32) as u32));
        self.points.clear();
        let (mut weight, mut first) = (0.0, 0.0);
        for key in &self.keys {
            let w = weights.map_or(1.0, |all| f64::from(all[*key as u32 as usize]));
            weight += w;
            first += w * (f64::from(value((key >> 32) as u32)) - centre);
            self.points.weight.push(weight);
            self.points.first.push(first);
        }
        let count = means.len().min(n);
        if n <= LONGEST_EXACT {
            self.cut(count, weights.is_some(), false);
        } else {
            self.cut_in_runs(count, centre);
        }
        for (mean, edges) in means.iter_mut().zip(self.edges.windows(2)) {
            *mean = match self.points.mean(edges[0], edges[1]) {
                Some(mean) => (centre + mean) as f32,
                None => value((self.keys[edges[0]] >> 32) as u32),
            };
        }
        let last = means[count - 1];
        means[count..].fill(last);
    }

    /// Finds the edges of `count` clusters of the points, or of the runs.
    #[inline(always)]
    fn cut(&mut self, count: usize, weighted: bool, in_runs: bool) {
        let Self { points, runs, best, next, inverses, cuts, edges, .. } = self;
        let points = if in_runs { runs } else { points };
        let n = points.len();
        let (weight, first) = (&mut points.weight, &mut points.first);
        best.clear();
        best.extend(weight.iter().zip(&*first).map(|(w, f)| if *w > 0.0 { f * f / w } else { 0.0 }));
        let width = n + 1;
        next.clear();
        // Lanes reach beyond the last point.
        for padded in [&mut *weight, &mut *first, &mut *best, &mut *next] {
            padded.resize(width + LANES, 0.0);
        }
        let [up, down] = inverses;
        if !weighted && up.len() != width + 2 * LANES {
            up.clear();
            up.resize(LANES + 1, f64::NEG_INFINITY);
            up.extend((1..width + LANES).map(|i| 1.0 / i as f64));
            down.clear();
            down.extend(up.iter().rev());
        }
        cuts.clear();
        cuts.resize(count.saturating_sub(1) * width, 0);
        for c in 2..=count {
            let (before, own) = cuts.split_at_mut((c - 2) * width);
            // Nothing begins earlier than it did with a cluster less.
            let before = before.len().checked_sub(width).map(|at| &before[at..]);
            let search = Search { first, best, before, fewest: c - 1 };
            // Each of the clusters behind has a point.
            let rows = if c == count { n..n + 1 } else { c..n + 1 - (count - c) };
            match weighted {
                true => search.rows(&Weighed(weight), rows, next, &mut own[..width]),
                false => search.rows(&Counted { up, down }, rows, next, &mut own[..width]),
            }
            std::mem::swap(best, next);
        }
        for padded in [weight, first] {
            padded.truncate(width);
        }
        edges.clear();
        edges.resize(count + 1, 0);
        edges[count] = n;
        for c in (2..=count).rev() {
            edges[c - 1] = usize::from(cuts[(c - 2) * width + edges[c]]);
        }
    }

    /// The edges of so many clusters of more points than are looked at one by one.
    #[inline(always)]
    fn cut_in_runs(&mut self, count: usize, centre: f64) {
        let n = self.points.len();
        let place = |run: usize| n * run / LONGEST_EXACT;
        self.runs.clear();
        for run in 1..=LONGEST_EXACT {
            self.runs.weight.push(self.points.weight[place(run)]);
            self.runs.first.push(self.points.first[place(run)]);
        }
        self.cut(count, true, true);
        self.edges.iter_mut().for_each(|edge| *edge = place(*edge));
        let Self { keys, points, edges, .. } = self;
        for _ in 0..ROUNDS {
            let mut moved = false;
            let mut below = points.mean(edges[0], edges[1]);
            for c in 1..count {
                let above = points.mean(edges[c], edges[c + 1]);
                // Equal means, as of values that are all the same, leave the cut where it was.
                if let (Some(a), Some(b)) = (below, above)
                    && a < b
                {
                    let middle = centre + (a + b) * 0.5;
                    let edge = keys.partition_point(|key| f64::from(value((key >> 32) as u32)) <= middle);
                    let edge = edge.clamp(edges[c - 1] + 1, edges[c + 1] - 1);
                    moved |= edge != edges[c];
                    edges[c] = edge;
                }
                below = above;
            }
            if !moved {
                break;
            }
        }
    }
}

/// One through the weight of the points between two places; minus infinity where there is none between them.
trait Inverse {
    /// From a to b, b + 1, ...
    fn rising(&self, a: usize, b: usize) -> [f64; LANES];
    /// From a, a + 1, ... to b.
    fn falling(&self, a: usize, b: usize) -> [f64; LANES];
}

/// Points that all weigh 1.
struct Counted<'a> {
    up: &'a [f64],
    down: &'a [f64],
}

/// Points by the sums of their weights.
struct Weighed<'a>(&'a [f64]);

#[inline(always)]
fn lanes(all: &[f64], at: usize) -> [f64; LANES] {
    let all: &[f64; LANES] = all[at..at + LANES].try_into().expect("a slice of LANES");
    *all
}

impl Inverse for Counted<'_> {
    #[inline(always)]
    fn rising(&self, a: usize, b: usize) -> [f64; LANES] {
        lanes(self.up, LANES + b - a)
    }

    #[inline(always)]
    fn falling(&self, a: usize, b: usize) -> [f64; LANES] {
        lanes(self.down, self.down.len() - 1 - LANES + a - b)
    }
}

impl Weighed<'_> {
    #[inline(always)]
    fn inverse(weight: f64, between: bool) -> f64 {
        match weight > 0.0 {
            true if between => 1.0 / weight,
            // Weights that are lost in the sum explain nothing.
            _ if between => 0.0,
            _ => f64::NEG_INFINITY,
        }
    }
}

impl Inverse for Weighed<'_> {
    #[inline(always)]
    fn rising(&self, a: usize, b: usize) -> [f64; LANES] {
        let to = lanes(self.0, b);
        std::array::from_fn(|l| Self::inverse(to[l] - self.0[a], a < b + l))
    }

    #[inline(always)]
    fn falling(&self, a: usize, b: usize) -> [f64; LANES] {
        let from = lanes(self.0, a);
        std::array::from_fn(|l| Self::inverse(self.0[b] - from[l], a + l < b))
    }
}

/// A place as an integer: added to 2^52 it is in the last bits. Conversions by `as` saturate, for which compilers leave vectors.
#[inline(always)]
fn place(at: f64) -> u16 {
    const INTEGERS: f64 = 4_503_599_627_370_496.0;
    (at + INTEGERS).to_bits() as u16
}

/// The search for where the last cluster begins.
struct Search<'a> {
    first: &'a [f64],
    best: &'a [f64],
    /// Where it begins with a cluster less.
    before: Option<&'a [u16]>,
    /// Points that the clusters before it have at least.
    fewest: usize,
}

impl Search<'_> {
    /// Fills `next` and `cuts` for the first b points, b in `rows`.
    #[inline(always)]
    fn rows(&self, inverse: &impl Inverse, rows: Range<usize>, next: &mut [f64], cuts: &mut [u16]) {
        if rows.len() == 1 {
            let b = rows.start;
            let (most, cut) = self.row(inverse, b, self.fewest, b - 1);
            (next[b], cuts[b]) = (most, cut as u16);
            return;
        }
        // Rows whose number is an odd multiple of the step lie between two that are known.
        let mut step = rows.len().next_power_of_two();
        while step >= LANES {
            for b in (rows.start + step - 1..rows.end).step_by(2 * step) {
                let from = if b - rows.start >= step { usize::from(cuts[b - step]) } else { self.fewest };
                let to = if b + step < rows.end { usize::from(cuts[b + step]) } else { b - 1 };
                let (most, cut) = self.row(inverse, b, self.not_before(from, b), to.min(b - 1));
                (next[b], cuts[b]) = (most, cut as u16);
            }
            step /= 2;
        }
        for b in rows.clone().step_by(LANES) {
            let from = if b > rows.start { usize::from(cuts[b - 1]) } else { self.fewest };
            let known = b + LANES - 1;
            let to = if known < rows.end { usize::from(cuts[known]) } else { rows.end - 2 };
            let (most, at) = self.block(inverse, b, self.not_before(from, b), to);
            let unknown = b..known.min(rows.end);
            next[unknown.clone()].copy_from_slice(&most[..unknown.len()]);
            cuts[unknown].iter_mut().zip(at).for_each(|(cut, at)| *cut = place(at));
        }
    }

    /// `from`, or the cut with a cluster less.
    #[inline(always)]
    fn not_before(&self, from: usize, b: usize) -> usize {
        from.max(self.before.map_or(0, |before| usize::from(before[b])))
    }

    /// The cut from `from` to `to` with which the first b points are explained best, the lowest of equals.
    #[inline(always)]
    fn row(&self, inverse: &impl Inverse, b: usize, from: usize, to: usize) -> (f64, usize) {
        // Rounding may leave the cuts of neighbours in disorder.
        let from = from.min(to);
        let (mut most, mut at) = ([f64::NEG_INFINITY; LANES], [from as f64; LANES]);
        // What lies between `to` and b may be looked at, too.
        for start in (from..=to).step_by(LANES) {
            let inverse = inverse.falling(start, b);
            let (first, best) = (lanes(self.first, start), lanes(self.best, start));
            for l in 0..LANES {
                let first = self.first[b] - first[l];
                let e = best[l] + first * first * inverse[l];
                let better = e > most[l];
                most[l] = if better { e } else { most[l] };
                at[l] = if better { start as f64 } else { at[l] };
            }
        }
        let (mut found, mut cut) = (f64::NEG_INFINITY, from as f64);
        for l in 0..LANES {
            let place = at[l] + l as f64;
            if most[l] > found || (most[l] == found && place < cut) {
                (found, cut) = (most[l], place);
            }
        }
        (found, cut as usize)
    }

    /// The same for the first b, b + 1, ... points.
    #[inline(always)]
    fn block(
        &self,
        inverse: &impl Inverse,
        b: usize,
        from: usize,
        to: usize,
    ) -> ([f64; LANES], [f64; LANES]) {
        let from = from.min(to);
        let (mut most, mut at) = ([f64::NEG_INFINITY; LANES], [from as f64; LANES]);
        let first_b = lanes(self.first, b);
        for a in from..=to {
            let inverse = inverse.rising(a, b);
            for l in 0..LANES {
                let first = first_b[l] - self.first[a];
                let e = self.best[a] + first * first * inverse[l];
                let better = e > most[l];
                most[l] = if better { e } else { most[l] };
                at[l] = if better { a as f64 } else { at[l] };
            }
        }
        (most, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Weighted squared error of a range of sorted points about their mean.
    fn error(points: &[(f64, f64)]) -> f64 {
        let weight: f64 = points.iter().map(|p| p.1).sum();
        let mean = points.iter().map(|p| p.0 * p.1).sum::<f64>() / weight;
        points.iter().map(|p| p.1 * (p.0 - mean).powi(2)).sum()
    }

    /// The least error of sorted points in up to so many clusters: all cuts are tried.
    fn least(points: &[(f64, f64)], clusters: usize) -> f64 {
        if points.is_empty() {
            return 0.0;
        }
        if clusters == 1 {
            return error(points);
        }
        let cut = |a: usize| error(&points[a..]) + least(&points[..a], clusters - 1);
        (0..points.len()).map(cut).fold(f64::INFINITY, f64::min)
    }

    fn nearest_error(points: &[(f64, f64)], means: &[f32]) -> f64 {
        let squared =
            |v: f64| means.iter().map(|m| (v - f64::from(*m)).powi(2)).fold(f64::INFINITY, f64::min);
        points.iter().map(|&(v, w)| w * squared(v)).sum()
    }

    fn points(x: &[f32], weights: Option<&[f32]>) -> Vec<(f64, f64)> {
        let weight = |i: usize| weights.map_or(1.0, |all| f64::from(all[i]));
        let mut all: Vec<_> = x.iter().enumerate().map(|(i, v)| (f64::from(*v), weight(i))).collect();
        all.retain(|p| p.1 > 0.0);
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all
    }

    #[test]
    fn no_cuts_are_better() {
        let mut rng = Random::new(11);
        let mut clusters = Clusters::default();
        for case in 0..400 {
            let n = 1 + rng.below(13);
            let x: Vec<f32> = (0..n)
                .map(|_| match case % 5 {
                    0 => rng.normal(),
                    1 => rng.below(5) as f32 - 2.0,
                    2 => rng.normal().powi(5),
                    3 => 1000.0 + rng.normal() * 1e-3,
                    _ => -rng.normal().abs(),
                })
                .collect();
            let weights: Vec<f32> =
                (0..n).map(|_| rng.normal().powi(2) * rng.pick(&[0.0, 1.0, 40.0])).collect();
            for weights in [None, Some(weights.as_slice())] {
                let points = points(&x, weights);
                if points.is_empty() {
                    continue;
                }
                for count in [1, 2, 4] {
                    let mut means = vec![f32::NAN; count];
                    clusters.find(&x, weights, &mut means);
                    assert!(means.windows(2).all(|pair| pair[0] <= pair[1]), "{means:?}");
                    let (got, want) = (nearest_error(&points, &means), least(&points, count));
                    // Means are rounded to f32.
                    let rounding: f64 =
                        points.iter().map(|(v, w)| w * (v * f64::from(f32::EPSILON)).powi(2)).sum::<f64>();
                    assert!(got <= want * (1.0 + 1e-9) + rounding, "{x:?} {weights:?} {count}: {got} {want}");
                    assert!(count < points.len() || got <= rounding, "as many values as means are hit");
                }
            }
        }
    }

    /// Dynamic programming without any bound on the cuts.
    fn least_by_rows(points: &[(f64, f64)], clusters: usize) -> f64 {
        let n = points.len();
        let mut sums = vec![[0.0; 3]];
        for (i, (v, w)) in points.iter().enumerate() {
            let [a, b, c]: [f64; 3] = sums[i];
            sums.push([a + w, b + w * v, c + w * v * v]);
        }
        let error = |a: usize, b: usize| {
            let [w, first, second] = [0, 1, 2].map(|i| sums[b][i] - sums[a][i]);
            second - first * first / w
        };
        let mut cost: Vec<f64> = (0..=n).map(|b| if b == 0 { 0.0 } else { error(0, b) }).collect();
        for _ in 1..clusters {
            cost = (0..=n).map(|b| (0..b).map(|a| cost[a] + error(a, b)).fold(cost[b], f64::min)).collect();
        }
        cost[n]
    }

    #[test]
    fn long_groups_are_cut_as_well() {
        let mut rng = Random::new(12);
        let mut clusters = Clusters::default();
        for (n, count) in [(300, 16), (700, 8), (700, 64), (400, 256)] {
            let x: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
            let weights: Vec<f32> = (0..n).map(|_| rng.normal().powi(2)).collect();
            for weights in [None, Some(weights.as_slice())] {
                let mut means = vec![0.0; count];
                clusters.find(&x, weights, &mut means);
                let points = points(&x, weights);
                let (got, want) = (nearest_error(&points, &means), least_by_rows(&points, count));
                assert!(got <= want * (1.0 + 1e-6), "{n} {count}: {got} {want}");
            }
        }
    }

    /// Of a group that is put together in runs: beside the exact clusters, found on the points themselves.
    #[test]
    fn runs_cost_next_to_nothing() {
        let mut rng = Random::new(13);
        let mut clusters = Clusters::default();
        let n = LONGEST_EXACT + 1500;
        for weighted in [false, true] {
            let x: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
            let weights: Vec<f32> =
                (0..n).map(|_| if weighted { rng.normal().powi(2) } else { 1.0 }).collect();
            let mut means = vec![0.0; 8];
            clusters.find(&x, Some(&weights), &mut means);
            let got = nearest_error(&points(&x, Some(&weights)), &means);
            clusters.cut(8, true, false);
            let exact: Vec<f64> =
                clusters.edges.windows(2).filter_map(|e| clusters.points.mean(e[0], e[1])).collect();
            let centre = f64::from(value((clusters.keys[clusters.keys.len() / 2] >> 32) as u32));
            let exact: Vec<f32> = exact.iter().map(|mean| (mean + centre) as f32).collect();
            let want = nearest_error(&points(&x, Some(&weights)), &exact);
            assert!(got <= want * 1.000_1, "{got} {want}");
        }
    }

    #[test]
    fn values_that_are_all_the_same_and_weights_that_are_lost() {
        let mut clusters = Clusters::default();
        for (x, weights) in [
            (vec![-0.0f32; 9], None),
            (vec![3.5; LONGEST_EXACT + 9], None),
            (vec![2.0; 3], Some(vec![0.0f32; 3])),
        ] {
            let mut means = [f32::NAN; 4];
            clusters.find(&x, weights.as_deref(), &mut means);
            assert!(means.iter().all(|mean| *mean == x[0]), "{means:?}");
        }
        // A sum of 1e20 does not see the others.
        let mut means = [f32::NAN; 2];
        clusters.find(&[1.0, 2.0, 3.0, 4.0], Some(&[1e20, 1e-10, 1e-10, 1e-10]), &mut means);
        assert!(means[0] == 1.0 && means[1].is_finite() && means[1] >= 1.0, "{means:?}");
        // Without any weight all count the same.
        clusters.find(&[1.0, 3.0], Some(&[0.0, 0.0]), &mut means);
        assert_eq!(means, [1.0, 3.0]);
    }
}
