//! The oracle of fake quantization: a number at a time.
//!
//! ```text
//! y = s * q                          in single f32 operations, by the rule of `scheme::grid`
//! backward: dy inside, else 0
//! step_gradient: factor * sum over the group of dy * (q - x / s) inside (0 where the clip is learned), dy * q outside, in f64
//! ```

use super::quantize::steps;
use crate::learning::Learned;
use crate::scheme::grid::Grid;

/// A number on its grid: the code less the zero-point, and whether it is inside the clip range.
fn place(x: f32, s: f32, zero: f32, grid: &Grid) -> (i32, bool) {
    let zero = zero as i32;
    let limit = if x < 0.0 { zero - grid.first } else { grid.last - zero };
    let q = steps(x.abs(), s, limit);
    (if x < 0.0 { -q } else { q }, x.abs() < limit as f32 * s)
}

/// The group of the number `(row, column)`.
fn group(grid: &Grid, i: usize, k: usize) -> usize {
    use crate::scheme::Group;
    match grid.group {
        Group::Tensor => 0,
        Group::Row => i / k,
        Group::Cols(g) => i / k * k.div_ceil(g as usize) + i % k / g as usize,
    }
}

/// y of x `[.., K]`, a step and a zero-point for each group; with dy the gradient of x instead.
pub fn fake_quantize(
    x: &[f32],
    k: usize,
    dy: Option<&[f32]>,
    steps: &[f32],
    zeros: Option<&[f32]>,
    grid: &Grid,
) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len());
    for i in 0..x.len() {
        let g = group(grid, i, k);
        let (q, inside) = place(x[i], steps[g], zeros.map_or(0.0, |z| z[g]), grid);
        y.push(match dy {
            None => q as f32 * steps[g],
            Some(dy) if inside => dy[i],
            Some(_) => 0.0,
        });
    }
    y
}

/// The gradient of each step.
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
) -> Vec<f64> {
    let mut all = vec![0.0; steps.len()];
    for i in 0..x.len() {
        let g = group(grid, i, k);
        let (q, inside) = place(x[i], steps[g], zeros.map_or(0.0, |z| z[g]), grid);
        let slope = match (inside, learned) {
            (true, Learned::Step) => f64::from(q) - f64::from(x[i]) / f64::from(steps[g]),
            (true, Learned::Clip) => 0.0,
            (false, _) => f64::from(q),
        };
        all[g] += f64::from(factor) * f64::from(dy[i]) * slope;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::Group;

    const X: [f32; 8] = [0.2, 0.3, -0.74, -0.76, 0.5, -1.0, 7.0, -9.0];

    #[test]
    fn numbers_worked_out_by_hand() {
        let grid = Grid::new(-2, 1, Group::Tensor).unwrap();
        let y = fake_quantize(&X, 8, None, &[0.5], None, &grid);
        assert_eq!(y, [0.0, 0.5, -0.5, -1.0, 0.5, -1.0, 0.5, -1.0]);
        // Inside: |x| below 0.5 above 0 and below 1 under it. Both ends are outside.
        let dx = fake_quantize(&X, 8, Some(&[3.0; 8]), &[0.5], None, &grid);
        assert_eq!(dx, [3.0, 3.0, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0]);
        // q - x / s: -0.4, 0.4, 0.48, -0.48; then 1, -2, 1, -2.
        let dy = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0];
        let ds = step_gradient(&X, 8, &dy, &[0.5], None, &grid, Learned::Step, 0.5);
        assert!((ds[0] - 0.5 * (1.0 - 2.0 + 1.0 - 4.0)).abs() < 1e-6, "{ds:?}");
        let ds = step_gradient(&X[..6], 6, &dy[..6], &[0.5], None, &grid, Learned::Clip, 1.0);
        assert_eq!(ds, [-1.0]);
    }

    #[test]
    fn groups_and_zero_points() {
        // Two groups in a row of three: steps 1 and 2, zero-points 0 and 3 of codes 0 to 3.
        let grid = Grid::new(0, 3, Group::Cols(4)).unwrap();
        let x = [-1.0, 1.4, 9.0, 2.6, -1.1, -9.0, 3.0];
        let (steps, zeros) = ([1.0, 2.0], [0.0, 3.0]);
        let y = fake_quantize(&x, 7, None, &steps, Some(&zeros), &grid);
        assert_eq!(y.map_zero(), [0.0, 1.0, 3.0, 3.0, -2.0, -6.0, 0.0]);
        let dx = fake_quantize(&x, 7, Some(&[1.0; 7]), &steps, Some(&zeros), &grid);
        assert_eq!(dx, [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    }

    trait MapZero {
        fn map_zero(self) -> Self;
    }

    impl MapZero for Vec<f32> {
        /// With one kind of zero.
        fn map_zero(self) -> Self {
            self.into_iter().map(|v| v + 0.0).collect()
        }
    }
}
