//! Mixed precision: which of its candidates each layer gets, so that the sum of errors is least within a budget of bytes.
//!
//! ```text
//! layers [candidates (bytes, error)] -> the undominated ones of each
//!   -> layer by layer: every (bytes, error) that the layers so far can have, of which stay those that
//!        no other beats in both         (a Pareto front)
//!        leave room for the rest        (its smallest candidates)
//!        can still be the best          (error + bound of the rest <= the best whole plan known)
//!   -> the least error -> back along the choices
//! ```
//!
//! This is dynamic programming over the bytes that are really reached, instead of over all numbers of bytes, and exact: what is dropped cannot be part of
//! a better plan. The bound is that of the relaxed problem, in which a layer may be parted between two candidates: the segments of the lower convex
//! hulls of all layers, steepest first. Rounded down, the same segments are a whole plan, so that the best known one gets better as layers pass.
//!
//! Fronts grow with the number of different sums of bytes in the worst case; layers of equal shape share theirs. One that grows beyond [`FRONT`]
//! points keeps those of the lowest bounds, and the result says so (`exact`) and how far from the best it is at most (`bound`).

use crate::{Error, Result};

/// A way to store a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub bytes: u64,
    /// What it costs, in the unit of all layers: it is summed up.
    pub error: f64,
}

/// Points that a front has at most.
pub const FRONT: usize = 1 << 16;

/// What every layer gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// The place of each layer's candidate in its list.
    pub picked: Vec<usize>,
    pub bytes: u64,
    pub error: f64,
    /// No plan within the budget has a lower error than this.
    pub bound: f64,
    /// Whether no plan within the budget has a lower error than this one, up to the rounding of sums.
    pub exact: bool,
}

/// The bytes of the smallest plan there is. None if they cannot be counted or a layer has no candidate.
pub fn smallest(layers: &[Vec<Candidate>]) -> Option<u64> {
    let of = |layer: &Vec<Candidate>| layer.iter().map(|c| c.bytes).min();
    layers.iter().try_fold(0u64, |sum, layer| sum.checked_add(of(layer)?))
}

/// Picks a candidate for each layer: the least sum of errors with at most `budget` bytes, and of equal errors the fewest bytes.
///
/// # Errors
/// [`Error::Check`] for a layer without candidates, an error that is negative or not finite, sizes that cannot be counted, and a budget below the
/// smallest plan, which is named.
pub fn allocate(layers: &[Vec<Candidate>], budget: u64) -> Result<Allocation> {
    allocate_within(layers, budget, FRONT)
}

/// The same, with fronts of at most `limit` points.
fn allocate_within(layers: &[Vec<Candidate>], budget: u64, limit: usize) -> Result<Allocation> {
    check(layers, budget)?;
    let ways: Vec<Vec<Point>> = layers.iter().map(|layer| ways(layer)).collect();
    let mut rest = Rest::of(&ways);
    let lowest = rest.complete(budget - rest.bytes);
    // Sums of errors are rounded differently in a bound and in a plan.
    let slack = 1e-11 * rest.error;
    let mut best = lowest.whole;
    let mut exact = true;
    let mut front = vec![Point { bytes: 0, error: 0.0, from: 0, picked: 0 }];
    let mut trail: Vec<Vec<Point>> = Vec::with_capacity(layers.len());
    for (at, ways) in ways.iter().enumerate() {
        rest.leave(at, &ways[0]);
        let room = budget - rest.bytes;
        let mut sums = Vec::with_capacity(front.len() * ways.len());
        for (from, point) in (0..).zip(&front) {
            let sum = |way: &Point| Point {
                bytes: point.bytes + way.bytes,
                error: point.error + way.error,
                from,
                picked: way.picked,
            };
            sums.extend(ways.iter().map(sum).take_while(|sum| sum.bytes <= room));
        }
        let mut hopes: Vec<(f64, f64, Point)> = Vec::new();
        for point in undominated(sums) {
            let Completion { relaxed, whole } = rest.complete(room - point.bytes);
            hopes.push((point.error + relaxed, point.error + whole, point));
        }
        let known = |hopes: &[(f64, f64, Point)]| hopes.iter().map(|h| h.1).fold(f64::INFINITY, f64::min);
        best = best.min(known(&hopes));
        hopes.retain(|(relaxed, ..)| *relaxed <= best + slack);
        if hopes.len() > limit {
            hopes.select_nth_unstable_by(limit, |a, b| a.0.total_cmp(&b.0));
            hopes.truncate(limit);
            hopes.sort_unstable_by_key(|(.., point)| point.bytes);
            // The plan that was the best known may have gone.
            best = known(&hopes);
            exact = false;
        }
        front = hopes.into_iter().map(|(.., point)| point).collect();
        trail.push(front.clone());
    }
    let mut picked = vec![0; layers.len()];
    // The errors of a front fall: its last point has the least.
    let mut at = front.len().saturating_sub(1);
    for (picked, points) in picked.iter_mut().zip(&trail).rev() {
        *picked = points[at].picked as usize;
        at = points[at].from as usize;
    }
    let chosen = || layers.iter().zip(&picked).map(|(layer, &i)| layer[i]);
    let (bytes, error) = (chosen().map(|c| c.bytes).sum(), chosen().map(|c| c.error).sum());
    let bound = if exact { error } else { lowest.relaxed.min(error) };
    Ok(Allocation { picked, bytes, error, bound, exact })
}

fn check(layers: &[Vec<Candidate>], budget: u64) -> Result<()> {
    let wrong = |what: String| Err(Error::Check { what });
    for (i, candidates) in layers.iter().enumerate() {
        if candidates.is_empty() {
            return wrong(format!("layer {i} has no candidate"));
        }
        if let Some(c) = candidates.iter().find(|c| !(c.error.is_finite() && c.error >= 0.0)) {
            return wrong(format!("layer {i}: an error of {} cannot be summed up", c.error));
        }
    }
    let largest = |layer: &Vec<Candidate>| layer.iter().map(|c| c.bytes).max();
    let all = layers.iter().try_fold(0u64, |sum, layer| sum.checked_add(largest(layer)?));
    match (smallest(layers), all) {
        (Some(least), Some(_)) if least <= budget => Ok(()),
        (Some(least), Some(_)) => wrong(format!("{budget} bytes are too few: the smallest plan has {least}")),
        _ => wrong("more bytes than can be counted".into()),
    }
}

/// What some layers can have together, or one can: bytes, error, and how it came about.
#[derive(Clone, Copy, Debug)]
struct Point {
    bytes: u64,
    error: f64,
    /// The point of the front before.
    from: u32,
    /// The candidate of the last layer.
    picked: u32,
}

/// The points that no other beats in both, by bytes; their errors fall.
fn undominated(mut points: Vec<Point>) -> Vec<Point> {
    points.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.error.total_cmp(&b.error)));
    let mut least = f64::INFINITY;
    points.retain(|p| {
        let better = p.error < least;
        least = least.min(p.error);
        better
    });
    points
}

/// The candidates of a layer that are worth having, by bytes.
fn ways(candidates: &[Candidate]) -> Vec<Point> {
    let point = |(picked, c): (u32, &Candidate)| Point { bytes: c.bytes, error: c.error, from: 0, picked };
    undominated((0..).zip(candidates).map(point).collect())
}

/// A step from one corner of a layer's lower convex hull to the next.
#[derive(Clone, Copy, Debug)]
struct Segment {
    layer: usize,
    bytes: u64,
    gain: f64,
}

impl Segment {
    fn slope(&self) -> f64 {
        self.gain / self.bytes as f64
    }
}

/// The steps down a layer's hull, which get less steep.
fn hull(layer: usize, ways: &[Point]) -> Vec<Segment> {
    let mut steps: Vec<Segment> = Vec::new();
    for pair in ways.windows(2) {
        let mut step =
            Segment { layer, bytes: pair[1].bytes - pair[0].bytes, gain: pair[0].error - pair[1].error };
        while let Some(last) = steps.pop_if(|last| last.slope() <= step.slope()) {
            step = Segment { layer, bytes: last.bytes + step.bytes, gain: last.gain + step.gain };
        }
        steps.push(step);
    }
    steps
}

/// The layers that are still to come.
struct Rest {
    /// Of their smallest candidates.
    bytes: u64,
    error: f64,
    /// The errors of the smallest candidates of the layers behind each: sums that no subtraction has rounded.
    errors: Vec<f64>,
    /// Of all of them, the steepest first.
    steps: Vec<Segment>,
    /// What the first steps together take and gain; none, one, two, ..
    sums: Vec<(u64, f64)>,
}

/// What is best done with the rest.
struct Completion {
    /// The least error if layers may be parted: no plan has less.
    relaxed: f64,
    /// The error of a plan.
    whole: f64,
}

impl Rest {
    fn of(ways: &[Vec<Point>]) -> Self {
        let mut errors = vec![0.0; ways.len() + 1];
        for (i, ways) in ways.iter().enumerate().rev() {
            errors[i] = errors[i + 1] + ways[0].error;
        }
        let mut steps: Vec<Segment> = ways.iter().enumerate().flat_map(|(i, ways)| hull(i, ways)).collect();
        // A stable sort: the steps of a layer stay in their order.
        steps.sort_by(|a, b| b.slope().total_cmp(&a.slope()));
        let bytes = ways.iter().map(|ways| ways[0].bytes).sum();
        let mut rest = Self { bytes, error: errors[0], errors, steps, sums: Vec::new() };
        rest.sum_up();
        rest
    }

    fn sum_up(&mut self) {
        self.sums.clear();
        self.sums.push((0, 0.0));
        let (mut bytes, mut gain) = (0, 0.0);
        for step in &self.steps {
            (bytes, gain) = (bytes + step.bytes, gain + step.gain);
            self.sums.push((bytes, gain));
        }
    }

    /// Takes a layer out, all before it being out already.
    fn leave(&mut self, layer: usize, smallest: &Point) {
        self.bytes -= smallest.bytes;
        self.error = self.errors[layer + 1];
        self.steps.retain(|step| step.layer != layer);
        self.sum_up();
    }

    /// What the rest costs if it may have `room` bytes more than the smallest candidates.
    fn complete(&self, room: u64) -> Completion {
        let taken = self.sums.partition_point(|(bytes, _)| *bytes <= room) - 1;
        let (bytes, gain) = self.sums[taken];
        let whole = self.error - gain;
        let part = self.steps.get(taken).map_or(0.0, |step| step.slope() * (room - bytes) as f64);
        Completion { relaxed: whole - part, whole }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layers(table: &[&[(u64, f64)]]) -> Vec<Vec<Candidate>> {
        let candidates =
            |row: &&[(u64, f64)]| row.iter().map(|&(bytes, error)| Candidate { bytes, error }).collect();
        table.iter().map(candidates).collect()
    }

    /// The best of all plans, tried one by one.
    fn brute_force(layers: &[Vec<Candidate>], budget: u64) -> Option<(f64, u64)> {
        let Some((first, rest)) = layers.split_first() else { return Some((0.0, 0)) };
        let mut best: Option<(f64, u64)> = None;
        for c in first.iter().filter(|c| c.bytes <= budget) {
            let Some((error, bytes)) = brute_force(rest, budget - c.bytes) else { continue };
            let plan = (c.error + error, c.bytes + bytes);
            if best.is_none_or(|b| plan < b) {
                best = Some(plan);
            }
        }
        best
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
    }

    #[test]
    fn worked_out_by_hand() {
        // The steepest step is the second layer's; what is left pays for the small one of the first and not for the large one.
        let table = layers(&[&[(10, 5.0), (12, 4.0), (20, 0.5)], &[(10, 9.0), (14, 1.0)], &[(3, 2.0)]]);
        for (budget, picked, error) in [
            (23, [0, 0, 0], 16.0),
            (26, [1, 0, 0], 15.0),
            (27, [0, 1, 0], 8.0),
            (29, [1, 1, 0], 7.0),
            (36, [1, 1, 0], 7.0),
            (37, [2, 1, 0], 3.5),
            (u64::MAX, [2, 1, 0], 3.5),
        ] {
            let found = allocate(&table, budget).unwrap();
            assert_eq!((found.picked.as_slice(), found.error, found.exact), (&picked[..], error, true));
            assert_eq!(found.bytes, table.iter().zip(picked).map(|(l, i)| l[i].bytes).sum::<u64>());
            assert_eq!(found.bound, error);
        }
        assert_eq!(smallest(&table), Some(23));
        assert_eq!(allocate(&[], 0).unwrap().picked, [0usize; 0]);
    }

    #[test]
    fn what_cannot_be_planned_is_refused() {
        let table = layers(&[&[(10, 5.0), (8, 6.0)], &[(4, 1.0)]]);
        let words = |layers: &[Vec<Candidate>], budget| allocate(layers, budget).unwrap_err().to_string();
        assert_eq!(words(&table, 11), "11 bytes are too few: the smallest plan has 12");
        assert_eq!(words(&layers(&[&[(1, 1.0)], &[]]), 9), "layer 1 has no candidate");
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(words(&layers(&[&[(1, 0.5), (2, bad)]]), 9).contains("cannot be summed up"), "{bad}");
        }
        let huge = layers(&[&[(u64::MAX, 1.0)], &[(1, 1.0)]]);
        assert!(words(&huge, u64::MAX).contains("counted"));
        assert_eq!(smallest(&huge), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Up to 12 layers of 4 candidates, sizes that coincide often or seldom, at any budget there is.
        #[test]
        fn equal_to_trying_all(
            table in prop::collection::vec(prop::collection::vec((0u64..40, 0u32..1000), 1..=4), 1..=12),
            spread in prop::sample::select(vec![1u64, 7, 1001]),
            share in 0.0f64..1.05,
        ) {
            let candidate =
                |&(bytes, error): &(u64, u32)| Candidate { bytes: bytes * spread + bytes % 3, error: f64::from(error) / 7.0 };
            let table: Vec<Vec<Candidate>> =
                table.iter().map(|layer| layer.iter().map(candidate).collect()).collect();
            let largest: u64 = table.iter().map(|l| l.iter().map(|c| c.bytes).max().unwrap()).sum();
            let least = smallest(&table).unwrap();
            let budget = least + ((largest - least) as f64 * share) as u64;
            let found = allocate(&table, budget).unwrap();
            let (error, bytes) = brute_force(&table, budget).unwrap();
            prop_assert!(found.exact && near(found.error, error), "{found:?}, the best is {error}");
            // Of sums that are equal but for rounding, either may win.
            prop_assert!(found.bytes <= budget && (found.bytes <= bytes || near(found.error, error)));
            prop_assert!(least == 0 || allocate(&table, least - 1).is_err());
        }
    }

    /// Numbers in 0..1.
    fn random(state: &mut u64) -> f64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Layers as they are: a few shapes, errors that fall by 6 dB a bit from a start of their own.
    fn like_a_model(n: usize, bits: &[f64], state: &mut u64) -> Vec<Vec<Candidate>> {
        let layer = |_| {
            let weights = [384 * 384, 1536 * 384, 4096 * 1024][(random(state) * 3.0) as usize];
            let start = (4.0 * random(state)).exp();
            let candidate = |b: &f64| Candidate {
                bytes: (f64::from(weights) * b / 8.0) as u64,
                error: start * 4f64.powf(-b) * (0.9 + 0.2 * random(state)),
            };
            bits.iter().map(candidate).collect()
        };
        (0..n).map(layer).collect()
    }

    #[test]
    fn twelve_layers_by_four_are_equal_to_trying_all() {
        let mut state = 5;
        for (n, bits) in [(12, [2.5, 3.5, 4.25, 8.5]), (11, [2.0, 3.0, 4.0, 8.0])] {
            let table = like_a_model(n, &bits, &mut state);
            let weights: u64 = table.iter().map(|l| l[3].bytes).sum();
            for budget in [weights * 40 / 100, weights / 2] {
                let found = allocate(&table, budget).unwrap();
                let (error, bytes) = brute_force(&table, budget).unwrap();
                assert!(near(found.error, error) && found.bytes == bytes, "{found:?} {error} {bytes}");
            }
        }
    }

    /// c sigma^2 4^-b summed over layers of equal size with b free: b = mean b + 1/2 log2(c sigma^2 / their geometric mean), and all errors are equal.
    #[test]
    fn fine_steps_come_to_the_continuous_optimum() {
        const STEP: f64 = 1.0 / 32.0;
        let mut state = 3;
        let factors: Vec<f64> = (0..24).map(|_| (6.0 * random(&mut state) - 3.0).exp()).collect();
        let ladder = |factor: &f64| {
            let candidate = |i: u32| Candidate {
                bytes: 4 * u64::from(i),
                error: factor * 4f64.powf(-STEP * f64::from(i)),
            };
            (0..=(12.0 / STEP) as u32).map(candidate).collect()
        };
        let table: Vec<Vec<Candidate>> = factors.iter().map(ladder).collect();
        let mean_bits = 4.25;
        let found = allocate(&table, (24.0 * mean_bits / STEP) as u64 * 4).unwrap();
        let mean_log = factors.iter().map(|f| f.log2()).sum::<f64>() / 24.0;
        let mut expected = 0.0;
        for (factor, &picked) in factors.iter().zip(&found.picked) {
            let bits = mean_bits + 0.5 * (factor.log2() - mean_log);
            assert!(
                (picked as f64 * STEP - bits).abs() <= STEP,
                "{} instead of {bits}",
                picked as f64 * STEP
            );
            expected += factor * 4f64.powf(-bits);
        }
        // Half a step off at most: 1 + (ln 4 STEP / 2)^2 / 2 of it.
        assert!(found.error >= expected && found.error < 1.0005 * expected, "{} {expected}", found.error);
    }

    #[test]
    fn many_layers_stay_exact_and_fronts_that_are_cut_say_so() {
        let mut state = 9;
        let table = like_a_model(300, &[2.5, 3.25, 4.125, 4.5, 5.0, 6.5, 8.5, 16.0], &mut state);
        let all: u64 = table.iter().map(|l| l[7].bytes).sum();
        for percent in [17, 27, 60] {
            let budget = all * percent / 100;
            let found = allocate(&table, budget).unwrap();
            assert!(found.exact && found.bytes <= budget && found.bound == found.error);
            let cut = allocate_within(&table, budget, 8).unwrap();
            assert!(cut.bytes <= budget && cut.bound <= found.error && found.error <= cut.error);
            assert!(!cut.exact && cut.error < 1.01 * cut.bound, "{cut:?}");
        }
    }
}
