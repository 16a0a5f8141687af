//! Where the numbers of a tensor lie, before and after it was quantized.
//!
//! ```text
//! original, quantized -> range of both, [`SIGMAS`] root mean squares at most -> bins of equal width, what is beyond in the outer ones
//! ```

/// Bins of a distribution.
pub const BINS: usize = 64;
/// Root mean squares from the middle to either end at most: a lone outlier is not to leave one bin for all others.
const SIGMAS: f64 = 5.0;

/// Two histograms with common edges.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Distribution {
    /// Half of the range, whose middle is 0.
    pub reach: f64,
    pub original: Vec<u64>,
    pub quantized: Vec<u64>,
}

impl Distribution {
    /// Of the same tensor before and after. Numbers that are not finite are left out.
    pub fn of(original: &[f32], quantized: &[f32]) -> Self {
        let finite = |values: &'_ [f32]| -> Vec<f64> {
            values.iter().map(|v| f64::from(*v)).filter(|v| v.is_finite()).collect()
        };
        let (before, after) = (finite(original), finite(quantized));
        let rms = (before.iter().map(|v| v * v).sum::<f64>() / before.len().max(1) as f64).sqrt();
        let largest = before.iter().chain(&after).fold(0.0, |top: f64, v| top.max(v.abs()));
        let reach = if rms > 0.0 { largest.min(SIGMAS * rms) } else { largest };
        let counts = |values: &[f64]| {
            let mut bins = vec![0; BINS];
            for v in values {
                let place =
                    if reach > 0.0 { (v / reach + 1.0) / 2.0 * BINS as f64 } else { BINS as f64 / 2.0 };
                // Casts saturate, so what is below goes into the first bin.
                bins[(place as usize).min(BINS - 1)] += 1;
            }
            bins
        };
        Self { reach, original: counts(&before), quantized: counts(&after) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_their_bins_and_outliers_in_the_outer_ones() {
        let mut original: Vec<f32> = (-100..=100).map(|i| i as f32 / 100.0).collect();
        let quantized: Vec<f32> = original.iter().map(|v| v.round()).collect();
        let found = Distribution::of(&original, &quantized);
        assert_eq!(found.reach, 1.0);
        assert_eq!((found.original.iter().sum::<u64>(), found.quantized.iter().sum::<u64>()), (201, 201));
        // -1, 0 and 1: halves go away from 0.
        let of_three = (found.quantized[0], found.quantized[BINS / 2], found.quantized[BINS - 1]);
        assert_eq!(of_three, (51, 99, 51));
        assert!(found.original.iter().all(|n| (3..=4).contains(n)), "{:?}", found.original);
        original.extend([1e6, f32::NAN, f32::NEG_INFINITY]);
        let wide = Distribution::of(&original, &quantized);
        assert!((wide.reach - 5.0 * 1e6 / 202f64.sqrt()).abs() < 1.0, "{}", wide.reach);
        assert_eq!((wide.original[BINS - 1], wide.original.iter().sum::<u64>()), (1, 202));
    }

    #[test]
    fn zeros_lie_in_the_middle() {
        let found = Distribution::of(&[0.0; 3], &[0.0; 3]);
        assert_eq!((found.reach, found.original[BINS / 2]), (0.0, 3));
        assert_eq!(Distribution::of(&[], &[]).original, [0; BINS]);
    }
}
