//! The oracle of histograms: the bin of a number by its logarithm, counted.
//!
//! ```text
//! bin = 8193 + s * class,  s the sign,  class = 0 below 2^-32,  8193 from 2^32 on,  else 1 + 128 (e + 32) + floor(128 (|x| / 2^e - 1)),  2^e <= |x| < 2^(e + 1)
//! ```

/// Bins.
const BINS: usize = 16387;

/// Counts of the numbers in each bin, added to `onto`. What is not a number counts as too large, by its sign.
pub fn histogram(x: &[f32], onto: Option<&[u32]>) -> Vec<u32> {
    let mut counts = onto.map_or(vec![0; BINS], <[u32]>::to_vec);
    for v in x {
        let magnitude = f64::from(v.abs());
        let class = if magnitude < 2f64.powi(-32) {
            0
        } else if magnitude < 2f64.powi(32) {
            let mut e = 31;
            while magnitude < 2f64.powi(e) {
                e -= 1;
            }
            1 + 128 * (e + 32) + (128.0 * (magnitude / 2f64.powi(e) - 1.0)).floor() as i32
        } else {
            8193
        };
        let bin = if v.is_sign_negative() { 8193 - class } else { 8193 + class };
        counts[bin as usize] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_worked_out_by_hand() {
        let x = [
            0.0,
            -0.0,
            1e-20,
            1.0,
            1.0077,
            1.0079,
            -1.0,
            f32::NAN,
            f32::NEG_INFINITY,
            2f32.powi(-32),
            2f32.powi(32),
        ];
        let counts = histogram(&x, None);
        let found: Vec<_> =
            counts.iter().enumerate().filter(|(_, n)| **n > 0).map(|(at, n)| (at, *n)).collect();
        assert_eq!(found, [(0, 1), (4096, 1), (8193, 3), (8194, 1), (12290, 2), (12291, 1), (16386, 2)]);
        assert_eq!(histogram(&x[3..4], Some(&counts))[12290], 3);
    }
}
