//! N(0, 1), drawn.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// `n` draws of N(0, 1), n even, by Box and Muller's transform.
pub fn normals(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut pair = || {
        // 1 - u is in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let angle = std::f64::consts::TAU * rng.random::<f64>();
        [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
    };
    (0..n / 2).flat_map(|_| pair()).collect()
}
