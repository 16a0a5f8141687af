//! Learned codebooks: one-dimensional k-means, solved exactly on a histogram.
//!
//! ```text
//! t = x / amax(group) in -1..=1, weight amax^2 (so that the squared error is that of x)
//!   -> histogram of BINS -> dynamic programming over cuts -> 2^bits centroids, the outermost on its side pinned to 1 or -1
//! ```
//!
//! The encoder gives a group the scale `amax / largest magnitude of the table`, so a free outermost centroid would stretch the
//! whole table: one end is pinned to the magnitude 1, whichever side costs less. One scale of a whole tensor is found for the table and not the other way
//! round, so there nothing is pinned, and centroids are divided by their largest magnitude. Deterministic: parts are added in the order of
//! rows, and ties keep the lower cut.

use super::rows::DenseRows;
use crate::scheme::{Group, Scheme};
use crate::threads;

/// Resolution of the histogram over -1..=1.
const BINS: usize = 8192;
/// Histograms filled at a time.
const PARTS: usize = 32;

/// Weight, first and second moment of the values of each bin.
#[derive(Clone)]
pub struct Histogram {
    bins: Vec<[f64; 3]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { bins: vec![[0.0; 3]; BINS] }
    }
}

impl Histogram {
    /// Counts `t` in -1..=1 with `weight`.
    #[inline]
    pub fn add(&mut self, t: f32, weight: f64) {
        let bin = ((t + 1.0) * (0.5 * BINS as f32)) as usize;
        let t = f64::from(t);
        let [w, first, second] = &mut self.bins[bin.min(BINS - 1)];
        *w += weight;
        *first += weight * t;
        *second += weight * t * t;
    }

    fn join(&mut self, other: &Self) {
        for (a, b) in self.bins.iter_mut().zip(&other.bins) {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
    }

    /// The `n` centroids of least weighted squared error, in order. `pin` fixes the highest one. Fewer distinct values than `n`
    /// leave centroids that repeat their neighbour.
    pub fn centroids(&self, n: usize, pin: Option<f64>) -> (Vec<f64>, f64) {
        let used: Vec<[f64; 3]> = self.bins.iter().copied().filter(|b| b[0] > 0.0).collect();
        let mut sums = vec![[0f64; 3]];
        for bin in &used {
            let last = sums[sums.len() - 1];
            sums.push([last[0] + bin[0], last[1] + bin[1], last[2] + bin[2]]);
        }
        let moments = |a: usize, b: usize| [0, 1, 2].map(|i| sums[b][i] - sums[a][i]);
        let centre = |a: usize, b: usize| {
            let [w, first, _] = moments(a, b);
            first / w
        };
        // Error of bins a..b as one cluster.
        let free = |a: usize, b: usize| {
            let [w, first, second] = moments(a, b);
            if w > 0.0 { (second - first * first / w).max(0.0) } else { 0.0 }
        };
        let pinned = |a: usize, b: usize, at: f64| {
            let [w, first, second] = moments(a, b);
            (second - 2.0 * at * first + at * at * w).max(0.0)
        };
        let bins = used.len();
        // cost[b]: least error of bins 0..b in the clusters so far; cut[c][b]: where the last of c + 1 clusters begins.
        let mut cost: Vec<f64> = (0..=bins).map(|b| free(0, b)).collect();
        let mut cuts: Vec<Vec<u32>> = vec![vec![0; bins + 1]];
        for c in 1..n {
            let last = c + 1 == n;
            let error = |a: usize, b: usize| match pin.filter(|_| last) {
                Some(at) => pinned(a, b, at),
                None => free(a, b),
            };
            let (mut next, mut cut) = (vec![0f64; bins + 1], vec![0u32; bins + 1]);
            best_cuts(&cost, &error, (0, bins), (0, bins), &mut next, &mut cut);
            cost = next;
            cuts.push(cut);
        }
        let mut centroids = vec![0f64; n];
        let mut end = bins;
        for c in (0..n).rev() {
            let start = cuts[c][end] as usize;
            let above = centroids.get(c + 1).copied().unwrap_or(pin.unwrap_or(0.0));
            centroids[c] = match pin.filter(|_| c + 1 == n) {
                Some(at) => at,
                None if start == end => above,
                None => centre(start, end),
            };
            end = start;
        }
        (centroids, cost[bins])
    }

    fn mirrored(&self) -> Self {
        Self { bins: self.bins.iter().rev().map(|&[w, first, second]| [w, -first, second]).collect() }
    }
}

/// Fills `next[b]`, the least `cost[a] + error(a, b)` over cuts a, for `b` in `rows`, knowing that the cut lies in `range`: cuts
/// only grow with b, so the middle row halves the range of both sides.
fn best_cuts(
    cost: &[f64],
    error: &impl Fn(usize, usize) -> f64,
    rows: (usize, usize),
    range: (usize, usize),
    next: &mut [f64],
    cut: &mut [u32],
) {
    let b = (rows.0 + rows.1) / 2;
    let (mut best, mut at) = (f64::INFINITY, range.0);
    for (a, &cost) in cost.iter().enumerate().take(b.min(range.1) + 1).skip(range.0) {
        let e = cost + error(a, b);
        if e < best {
            (best, at) = (e, a);
        }
    }
    (next[b], cut[b]) = (best, at as u32);
    if b > rows.0 {
        best_cuts(cost, error, (rows.0, b - 1), (range.0, at), next, cut);
    }
    if b < rows.1 {
        best_cuts(cost, error, (b + 1, rows.1), (at, range.1), next, cut);
    }
}

/// The table that suits `x` under the groups of `scheme`: `2^bits` entries in ascending order, the largest magnitude 1.
pub(super) fn codebook(x: &DenseRows, scheme: &Scheme) -> Vec<f32> {
    let amax = |x: &[f32]| x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let all = match scheme.group {
        Group::Tensor => {
            let mut scratch = Vec::new();
            (0..x.rows).fold(0f32, |m, r| m.max(amax(x.row(r, &mut scratch))))
        }
        _ => 0.0,
    };
    let parts = threads::map(threads::ranges(x.rows, x.rows.div_ceil(PARTS)), x.rows * x.k, |rows| {
        let (mut histogram, mut scratch) = (Histogram::default(), Vec::new());
        for r in rows {
            for group in x.row(r, &mut scratch).chunks(scheme.group_len(x.k)) {
                let scale = if scheme.group == Group::Tensor { all } else { amax(group) };
                if scale > 0.0 {
                    let weight = f64::from(scale) * f64::from(scale);
                    group.iter().for_each(|&v| histogram.add(v / scale, weight));
                }
            }
        }
        histogram
    });
    let mut histogram = Histogram::default();
    parts.iter().for_each(|p| histogram.join(p));
    let n = 1 << scheme.bits;
    if scheme.group == Group::Tensor {
        let (centroids, _) = histogram.centroids(n, None);
        let largest = centroids.iter().fold(0f64, |m, c| m.max(c.abs()));
        return match largest > 0.0 {
            true => centroids.into_iter().map(|c| (c / largest) as f32).collect(),
            false => vec![1.0; n],
        };
    }
    let (up, up_cost) = histogram.centroids(n, Some(1.0));
    let (down, down_cost) = histogram.mirrored().centroids(n, Some(1.0));
    if up_cost <= down_cost {
        up.into_iter().map(|c| c as f32).collect()
    } else {
        down.into_iter().rev().map(|c| -c as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sum of twelve uniform numbers is too light in its tails; Box-Muller is not.
    fn normals(n: usize) -> Vec<f32> {
        let mut state = 7u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        (0..n)
            .map(|_| ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32)
            .collect()
    }

    #[test]
    fn centroids_of_a_normal_are_near_lloyd_max() {
        let x = normals(200_000);
        let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        let mut histogram = Histogram::default();
        x.iter().for_each(|v| histogram.add(v / amax, 1.0));
        // Lloyd and Max's quantizer of 2^b levels reaches 9.300, 14.616 and 20.222 dB.
        for (bits, bar) in [(2, 9.28), (3, 14.59), (4, 20.2)] {
            let (centroids, _) = histogram.centroids(1 << bits, None);
            let power: f64 = x.iter().map(|&v| f64::from(v).powi(2)).sum();
            let error: f64 = x
                .iter()
                .map(|&v| {
                    let t = f64::from(v / amax);
                    let d = centroids.iter().map(|c| (t - c).abs()).fold(f64::INFINITY, f64::min);
                    (d * f64::from(amax)).powi(2)
                })
                .sum();
            let db = 10.0 * (power / error).log10();
            assert!(db >= bar && db < bar + 0.06, "{bits} bits: {db} dB");
        }
    }

    #[test]
    fn few_values_are_hit_exactly() {
        let mut histogram = Histogram::default();
        for t in [-0.5, 0.25, 1.0] {
            histogram.add(t, 1.0);
        }
        let (centroids, cost) = histogram.centroids(4, Some(1.0));
        assert!(cost < 1e-12);
        for t in [-0.5, 0.25, 1.0] {
            assert!(centroids.iter().any(|c| (c - t).abs() < 1e-9), "{centroids:?}");
        }
        let (centroids, _) = Histogram::default().centroids(4, Some(1.0));
        assert!(centroids.iter().all(|&c| c == 1.0));
    }
}
