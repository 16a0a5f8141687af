//! Counts of numbers in the bins of `bins`.

use crate::bins::{BINS, bin};

/// Counts of the numbers in each of [`BINS`] bins, added to `onto`. A count that gets beyond u32 begins again at 0, as on a GPU.
pub fn histogram(x: &[f32], onto: Option<&[u32]>) -> Vec<u32> {
    let mut counts = onto.map_or(vec![0u32; BINS], <[u32]>::to_vec);
    for &v in x {
        let count = &mut counts[bin(v)];
        *count = count.wrapping_add(1);
    }
    counts
}
