//! How far the embeddings of one model agree with those of another, for the same texts.
//!
//! ```text
//! rows [n, D] of both -> the cosine of each row with its counterpart              -> Cosines
//!                     -> Scores: the cosines of all pairs of rows of one model    -> overlap of nearest rows, Kendall's tau
//! cosines of near pairs, of far pairs of texts                                    -> separation
//! ```
//!
//! A NaN among the numbers makes a measure NaN; a measure of too few numbers is none.

use super::metrics::Errors;
use std::cmp::Ordering;

/// The cosines of rows with their counterparts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cosines {
    pub mean: f64,
    pub min: f64,
    /// The row of the lowest one, or the first that is NaN.
    pub worst: usize,
}

impl Cosines {
    /// Of `reference` and `got` `[n, width]`.
    ///
    /// # Panics
    /// If they have different lengths, or a width of 0.
    pub fn of(reference: &[f32], got: &[f32], width: usize) -> Option<Self> {
        assert_eq!(reference.len(), got.len(), "both have the same rows");
        let rows = reference.chunks(width).zip(got.chunks(width));
        let all: Vec<f64> = rows.map(|(r, g)| Errors::of(r, g).cosine()).collect();
        let lower = |a: &f64, b: &f64| match (a.is_nan(), b.is_nan()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => a.total_cmp(b),
        };
        let (worst, min) = all.iter().enumerate().min_by(|a, b| lower(a.1, b.1))?;
        Some(Self { mean: all.iter().sum::<f64>() / all.len() as f64, min: *min, worst })
    }
}

/// The cosines of all pairs of some rows.
#[derive(Clone, Debug)]
pub struct Scores {
    n: usize,
    /// (0, 1), (0, 2) .. (1, 2) ..
    all: Vec<f64>,
}

impl Scores {
    /// Of rows `[n, width]` of L2 norm 1.
    ///
    /// # Panics
    /// If the width is 0.
    pub fn of(rows: &[f32], width: usize) -> Self {
        let rows: Vec<&[f32]> = rows.chunks(width).collect();
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let mut all = Vec::with_capacity(rows.len() * rows.len().saturating_sub(1) / 2);
        for (i, row) in rows.iter().enumerate() {
            all.extend(rows[i + 1..].iter().map(|other| dot(row, other)));
        }
        Self { n: rows.len(), all }
    }

    /// All of them, in the order that any other scores of as many rows have.
    pub fn all(&self) -> &[f64] {
        &self.all
    }

    fn has_nan(&self) -> bool {
        self.all.iter().any(|score| score.is_nan())
    }

    /// The score of rows i and j, which differ.
    fn at(&self, i: usize, j: usize) -> f64 {
        let (low, high) = (i.min(j), i.max(j));
        // Rows before `low` have n - 1, n - 2, .. pairs with what comes behind them.
        self.all[low * (2 * self.n - low - 1) / 2 + high - low - 1]
    }

    /// The `k` rows nearest to row i, in no order; of equal ones those that come first.
    fn nearest(&self, i: usize, k: usize) -> Vec<usize> {
        let mut others: Vec<usize> = (0..self.n).filter(|&j| j != i).collect();
        if k < others.len() {
            others
                .select_nth_unstable_by(k, |&a, &b| self.at(i, b).total_cmp(&self.at(i, a)).then(a.cmp(&b)));
            others.truncate(k);
        }
        others
    }
}

/// The share of the `k` nearest rows of each row that are among its `k` nearest in the other's scores too. None of fewer than two rows.
///
/// # Panics
/// If the numbers of rows differ.
pub fn overlap(reference: &Scores, got: &Scores, k: usize) -> Option<f64> {
    assert_eq!(reference.n, got.n, "both have the same rows");
    let n = reference.n;
    let k = k.min(n.saturating_sub(1));
    if k == 0 {
        return None;
    }
    if reference.has_nan() || got.has_nan() {
        return Some(f64::NAN);
    }
    let common = |i: usize| {
        let found = got.nearest(i, k);
        reference.nearest(i, k).iter().filter(|j| found.contains(j)).count()
    };
    Some((0..n).map(common).sum::<usize>() as f64 / (n * k) as f64)
}

/// Kendall's tau-b of two lists: of all pairs of places, those that both order alike less those that they order otherwise, over the geometric mean
/// of those that each orders at all. In O(n log n). None where one of them orders nothing.
///
/// Source: W. R. Knight, "A computer method for calculating Kendall's tau with ungrouped data", 1966.
///
/// # Panics
/// If the lengths differ.
pub fn kendall_tau(a: &[f64], b: &[f64]) -> Option<f64> {
    assert_eq!(a.len(), b.len(), "as many scores of either side");
    if a.iter().chain(b).any(|v| v.is_nan()) {
        return Some(f64::NAN);
    }
    // + 0.0: of the zeros one is left.
    let mut both: Vec<(f64, f64)> = a.iter().zip(b).map(|(a, b)| (a + 0.0, b + 0.0)).collect();
    both.sort_by(|x, y| x.0.total_cmp(&y.0).then(x.1.total_cmp(&y.1)));
    let tied_in_both = tied(&both);
    let tied_in_a = tied(&both.iter().map(|x| x.0).collect::<Vec<_>>());
    let mut second: Vec<f64> = both.iter().map(|x| x.1).collect();
    let otherwise = sort_counting(&mut second);
    let tied_in_b = tied(&second);
    let pairs = pairs_of(a.len());
    let alike = pairs + tied_in_both - tied_in_a - tied_in_b - otherwise;
    let orders = ((pairs - tied_in_a) as f64 * (pairs - tied_in_b) as f64).sqrt();
    (orders > 0.0).then(|| (alike as f64 - otherwise as f64) / orders)
}

fn pairs_of(n: usize) -> u64 {
    let n = n as u64;
    n * n.saturating_sub(1) / 2
}

/// Pairs of equal values, which lie side by side.
fn tied<T: PartialEq>(sorted: &[T]) -> u64 {
    sorted.chunk_by(|a, b| a == b).map(|run| pairs_of(run.len())).sum()
}

/// Sorts by merging, and says how many pairs stood the wrong way round.
fn sort_counting(values: &mut Vec<f64>) -> u64 {
    let n = values.len();
    let (mut from, mut to) = (std::mem::take(values), vec![0.0; n]);
    let (mut width, mut wrong) = (1, 0);
    while width < n {
        for start in (0..n).step_by(2 * width) {
            let (middle, end) = ((start + width).min(n), (start + 2 * width).min(n));
            let (mut left, mut right) = (start, middle);
            for place in &mut to[start..end] {
                let takes_right = left == middle || (right < end && from[right] < from[left]);
                let next = if takes_right { &mut right } else { &mut left };
                *place = from[*next];
                *next += 1;
                if takes_right {
                    wrong += (middle - left) as u64;
                }
            }
        }
        std::mem::swap(&mut from, &mut to);
        width *= 2;
    }
    *values = from;
    wrong
}

/// How well scores tell near pairs from far ones: the share of all (near, far) in which the near pair scores higher, equal ones as a half (the area under the
/// ROC curve). None without one of either.
pub fn separation(near: &[f64], far: &[f64]) -> Option<f64> {
    if near.iter().chain(far).any(|score| score.is_nan()) {
        return Some(f64::NAN);
    }
    let won = |near: &f64, far: &f64| match near.total_cmp(far) {
        _ if near == far => 0.5,
        Ordering::Greater => 1.0,
        _ => 0.0,
    };
    let all: f64 = near.iter().map(|n| far.iter().map(|f| won(n, f)).sum::<f64>()).sum();
    let count = near.len() * far.len();
    (count > 0).then(|| all / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f64 = f64::NAN;

    #[test]
    fn cosines_worked_out_by_hand() {
        // (1, 0) with itself, (0, 1) with (3, 4) / 5, (1, 0) with its opposite.
        let (a, b) = ([1.0, 0.0, 0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.6, 0.8, -1.0, 0.0]);
        let found = Cosines::of(&a, &b, 2).unwrap();
        assert!((found.mean - 0.8 / 3.0).abs() < 1e-7, "{found:?}");
        assert_eq!((found.min, found.worst), (-1.0, 2));
        assert_eq!(Cosines::of(&[], &[], 2), None);
        let with_nan = Cosines::of(&a, &[1.0, 0.0, f32::NAN, 0.8, -1.0, 0.0], 2).unwrap();
        assert!(with_nan.mean.is_nan() && with_nan.min.is_nan() && with_nan.worst == 1, "{with_nan:?}");
    }

    /// Rows on the unit circle, by their angles in degrees.
    fn at_angles(degrees: &[f64]) -> Scores {
        let rows: Vec<f32> =
            degrees.iter().flat_map(|d| [d.to_radians().cos() as f32, d.to_radians().sin() as f32]).collect();
        Scores::of(&rows, 2)
    }

    #[test]
    fn scores_are_those_of_their_pairs() {
        let scores = at_angles(&[0.0, 60.0, 90.0, 180.0]);
        let expected = [0.5, 0.0, -1.0, 0.75f64.sqrt(), -0.5, 0.0];
        assert!(scores.all().iter().zip(expected).all(|(s, e)| (s - e).abs() < 1e-6), "{scores:?}");
        for (place, (i, j)) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)].into_iter().enumerate() {
            assert_eq!((scores.at(i, j), scores.at(j, i)), (scores.all[place], scores.all[place]));
        }
    }

    #[test]
    fn neighbours_worked_out_by_hand() {
        // Nearest: 0 -> 1, 1 -> 0, 2 -> 3, 3 -> 2; and 0 -> 1, 1 -> 2, 2 -> 1, 3 -> 2.
        let (a, b) = (at_angles(&[0.0, 10.0, 50.0, 70.0]), at_angles(&[0.0, 30.0, 50.0, 75.0]));
        assert_eq!((overlap(&a, &a, 1), overlap(&a, &b, 1)), (Some(1.0), Some(0.5)));
        // Two nearest: {1 2} {0 2} {1 3} {1 2}, and {1 2} {0 2} {1 3} {1 2}.
        assert_eq!(overlap(&a, &b, 2), Some(1.0));
        // Two nearest of rows whose order is another: {1 3} {0 3} {1 3} {0 1} and {1 2} {0 2} {0 1} {1 2}: one of each.
        let (a, b) = (at_angles(&[0.0, 10.0, 50.0, 20.0]), at_angles(&[0.0, 10.0, 22.0, 60.0]));
        assert_eq!(overlap(&a, &b, 2), Some(0.5));
        // More than there are: all of them.
        assert_eq!(overlap(&a, &b, 10), Some(1.0));
        assert_eq!(overlap(&at_angles(&[5.0]), &at_angles(&[5.0]), 10), None);
    }

    #[test]
    fn of_equal_neighbours_the_first_counts() {
        let equal = Scores { n: 4, all: vec![0.5; 6] };
        assert_eq!((equal.nearest(0, 2), equal.nearest(2, 2)), (vec![1, 2], vec![0, 1]));
        // The last row is the nearest of all others.
        let other = Scores { n: 4, all: vec![0.5, 0.5, 0.6, 0.5, 0.6, 0.6] };
        assert_eq!(overlap(&equal, &other, 1), Some(0.25));
    }

    #[test]
    fn a_nan_spoils_what_it_belongs_to() {
        let good = Scores { n: 3, all: vec![0.1, 0.2, 0.3] };
        let bad = Scores { n: 3, all: vec![0.1, NAN, 0.3] };
        for (a, b) in [(&good, &bad), (&bad, &good), (&bad, &bad)] {
            assert!(overlap(a, b, 1).unwrap().is_nan());
            assert!(kendall_tau(a.all(), b.all()).unwrap().is_nan());
        }
        assert!(separation(&[0.5, NAN], &[0.1]).unwrap().is_nan());
        assert!(separation(&[0.5], &[NAN]).unwrap().is_nan());
    }

    #[test]
    fn kendalls_tau_worked_out_by_hand() {
        let up = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(kendall_tau(&up, &[10.0, 20.0, 30.0, 40.0]), Some(1.0));
        assert_eq!(kendall_tau(&up, &[4.0, 3.0, 2.0, 1.0]), Some(-1.0));
        // Of six pairs one is turned round.
        assert!((kendall_tau(&up, &[2.0, 1.0, 3.0, 4.0]).unwrap() - 4.0 / 6.0).abs() < 1e-12);
        // Ties: 1-2 tied in a, 3-4 in b; four alike, none otherwise, sqrt(5 * 5) below.
        assert!((kendall_tau(&[1.0, 1.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 3.0]).unwrap() - 0.8).abs() < 1e-12);
        // A pair tied in both counts on neither side, and zeros are equal.
        assert_eq!(kendall_tau(&[0.0, -0.0, 1.0], &[5.0, 5.0, 6.0]), Some(1.0));
        assert_eq!(kendall_tau(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!((kendall_tau(&[], &[]), kendall_tau(&[1.0], &[2.0])), (None, None));
    }

    #[test]
    fn kendalls_tau_by_counting_pairs() {
        let mut state = 1u64;
        for n in 2..60 {
            let mut draw = |steps: u64| {
                let next = || {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    ((state >> 33) % steps) as f64
                };
                std::iter::repeat_with(next).take(n).collect::<Vec<_>>()
            };
            // Many ties, and few.
            let (a, b) = (draw(if n % 2 == 0 { 5 } else { 1000 }), draw(if n % 3 == 0 { 4 } else { 900 }));
            let (mut sum, mut in_a, mut in_b) = (0.0, 0.0, 0.0);
            for i in 0..n {
                for j in 0..i {
                    let sign = |v: &[f64]| if v[i] == v[j] { 0.0 } else { (v[i] - v[j]).signum() };
                    sum += sign(&a) * sign(&b);
                    in_a += sign(&a).abs();
                    in_b += sign(&b).abs();
                }
            }
            let expected = (in_a * in_b > 0.0).then(|| sum / f64::sqrt(in_a * in_b));
            let found = kendall_tau(&a, &b);
            let is_near = |(f, e): (f64, f64)| (f - e).abs() < 1e-12;
            assert!(found.is_some() == expected.is_some() && found.zip(expected).is_none_or(is_near), "{n}");
        }
    }

    #[test]
    fn separation_worked_out_by_hand() {
        assert_eq!(separation(&[0.9, 0.8], &[0.1, 0.2, 0.3]), Some(1.0));
        assert_eq!(separation(&[0.1], &[0.2]), Some(0.0));
        // Won, won, equal, lost.
        assert_eq!(separation(&[0.5, 0.9], &[0.5, 0.4]), Some(3.5 / 4.0));
        assert_eq!(separation(&[0.5, 0.1], &[0.5, 0.4]), Some(1.5 / 4.0));
        assert_eq!((separation(&[], &[0.5]), separation(&[0.5], &[])), (None, None));
    }
}
