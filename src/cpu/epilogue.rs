//! What follows a sum: bias, residual, activation function, output type.
//!
//! ```text
//! sums: blocks [N / BLOCK][M][BLOCK] f32  ->  y [M, N]:  function(sum + bias[n] + residual[m, n]), f32, f16 or int8
//! ```
//!
//! The additions are single f32 operations in the order written. GELU and SiLU are polynomials that vectorise; their absolute error stays
//! below `4e-7 * max(1, |v|)` (a test holds them to it).

use super::activations::StaticRow;
use super::float::BLOCK;
use super::half_float::f32_to_f16;
use super::level::{Work, vectorized};
use crate::product::{Function, Int8Scale};
use crate::threads;

/// The elements of y.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Output {
    F32,
    F16,
    Int8(Int8Scale),
}

/// What is added, and the function that is applied.
#[derive(Clone, Copy)]
pub(super) struct Epilogue<'a> {
    /// `[N]`
    pub bias: Option<&'a [f32]>,
    /// `[M, N]`
    pub residual: Option<&'a [f32]>,
    pub function: Function,
    pub output: Output,
}

/// `exp(v)` for `v <= 88`, relative error below 2e-7; below -87 what it is there. NaN stays NaN.
#[inline(always)]
pub(super) fn exp(v: f32) -> f32 {
    // Below, the result would be subnormal; 2^n is made of exponent bits. Not f32::max, which would drop NaN.
    let v = if v < -87.0 { -87.0 } else { v };
    // Adding 1.5 * 2^23 rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    let rounded = v * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    // ln 2 in two parts, the first exact in few bits.
    let r = (v - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let p = 0.001_394_110_8;
    let p = p * r + 0.008_375_126;
    let p = p * r + 0.041_666_35;
    let p = p * r + 0.166_664_16;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    // The integer is in the last bits of `rounded`; shifted, it is an exponent that wants its bias.
    p * f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23))
}

/// `erfc(t) / 2` for `t >= 0`.
#[inline(always)]
pub(super) fn half_erfc(t: f32) -> f32 {
    // erf(t) / t as a polynomial of t^2, near 0.
    let s = t * t;
    let p = 8.212_781e-5;
    let p = p * s - 8.105_055e-4;
    let p = p * s + 5.197_685e-3;
    let p = p * s - 0.026_858_042;
    let p = p * s + 0.112_836_71;
    let p = p * s - 0.376_126_32;
    let p = p * s + std::f32::consts::FRAC_2_SQRT_PI;
    let near = 0.5 - 0.5 * (p * t);
    // -ln erfc(t) as a polynomial of t. Beyond 4.1 less than 4e-9 is left, and the polynomial goes astray.
    let u = t.min(4.1);
    let p = -1.606_909e-6;
    let p = p * u + 4.548_584e-5;
    let p = p * u - 5.921_924_8e-4;
    let p = p * u + 4.738_916_7e-3;
    let p = p * u - 0.026_364_786;
    let p = p * u + 0.109_984_51;
    let p = p * u + 0.631_924_6;
    let p = p * u + 1.130_176_8;
    let p = p * u - 3.062_758_6e-4;
    let far = 0.5 * exp(-p - (t - u) * 8.0);
    if t < 0.9 { near } else { far }
}

#[inline(always)]
fn gelu(v: f32) -> f32 {
    let t = v.abs() * std::f32::consts::FRAC_1_SQRT_2;
    // An infinite v would leave inf - inf. Worked out in any case, or the loop would not vectorise.
    let tail = v * half_erfc(t);
    let tail = if t < 14.0 { tail } else { 0.0 };
    if v < 0.0 { tail } else { v - tail }
}

#[inline(always)]
fn silu(v: f32) -> f32 {
    // exp overflows beyond; v / exp(88) is below 1e-36.
    v / (1.0 + exp((-v).min(88.0)))
}

/// `f` of every number. A loop and not `for_each`, which the compiler may leave a function of its own, without the instructions of its caller.
#[inline(always)]
fn each(y: &mut [f32], f: impl Fn(f32) -> f32) {
    for v in y {
        *v = f(*v);
    }
}

impl Function {
    /// Applies the function to every value. NaN stays NaN.
    #[inline(always)]
    pub(super) fn apply(self, y: &mut [f32]) {
        match self {
            Self::Identity => {}
            // Not f32::max, which would drop NaN.
            Self::Relu => each(y, |v| if v < 0.0 { 0.0 } else { v }),
            Self::Gelu => each(y, gelu),
            Self::Silu => each(y, |v| {
                if v.is_nan() {
                    v
                } else if v == f32::NEG_INFINITY {
                    0.0
                } else {
                    silu(v)
                }
            }),
        }
    }
}

/// One row of y.
struct FinishRow<'a> {
    sums: &'a [f32],
    m: usize,
    /// Rows of x.
    rows: usize,
    n: usize,
    epilogue: Epilogue<'a>,
    scratch: &'a mut Vec<f32>,
    out: &'a mut [u8],
}

impl Work for FinishRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { sums, m, rows, n, epilogue, scratch, out } = self;
        scratch.resize(n, 0.0);
        for (block, y) in sums.chunks(rows * BLOCK).zip(scratch.chunks_mut(BLOCK)) {
            let len = y.len();
            y.copy_from_slice(&block[m * BLOCK..][..len]);
        }
        if let Some(bias) = epilogue.bias {
            scratch.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        if let Some(residual) = epilogue.residual {
            scratch.iter_mut().zip(&residual[m * n..]).for_each(|(y, r)| *y += r);
        }
        epilogue.function.apply(scratch);
        match epilogue.output {
            Output::F32 => {
                let out = out.as_chunks_mut::<4>().0.iter_mut();
                out.zip(scratch.iter()).for_each(|(o, &v)| *o = v.to_le_bytes());
            }
            Output::F16 => {
                let out = out.as_chunks_mut::<2>().0.iter_mut();
                out.zip(scratch.iter()).for_each(|(o, &v)| *o = f32_to_f16(v).to_le_bytes());
            }
            Output::Int8(by) => StaticRow { x: scratch, by, codes: bytemuck::must_cast_slice_mut(out) }.run(),
        }
    }
}

/// Turns sums into the bytes of y `[rows, n]`, whose rows are those of `bytes`; what is there beyond n numbers stays.
pub(super) fn finish(sums: &[f32], rows: usize, n: usize, epilogue: Epilogue, bytes: &mut [u8]) {
    let Some(row_bytes) = bytes.len().checked_div(rows).filter(|b| *b > 0) else { return };
    // Enough rows per task that one is worth a thread.
    let per_task = (1usize << 14).div_ceil(n.max(1));
    let tasks: Vec<_> = bytes.chunks_mut(per_task * row_bytes).enumerate().collect();
    threads::for_each(tasks, rows * n, |(task, out)| {
        let mut scratch = Vec::new();
        for (i, out) in out.chunks_mut(row_bytes).enumerate() {
            let m = task * per_task + i;
            vectorized(FinishRow { sums, m, rows, n, epilogue, scratch: &mut scratch, out });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_keep_their_error() {
        for i in -200_000..=200_000 {
            let v = i as f32 * 1e-4;
            let mut y = [v];
            Function::Gelu.apply(&mut y);
            let d = f64::from(v);
            let exact = d * 0.5 * libm::erfc(-d * std::f64::consts::FRAC_1_SQRT_2);
            assert!(
                (f64::from(y[0]) - exact).abs() < 4e-7 * d.abs().max(1.0),
                "gelu({v}) = {}, not {exact}",
                y[0]
            );
            let mut y = [v];
            Function::Silu.apply(&mut y);
            let exact = d / (1.0 + (-d).exp());
            assert!(
                (f64::from(y[0]) - exact).abs() < 4e-7 * d.abs().max(1.0),
                "silu({v}) = {}, not {exact}",
                y[0]
            );
        }
        for f in [Function::Identity, Function::Relu, Function::Gelu, Function::Silu] {
            let mut y = [f32::NAN, f32::INFINITY, 1e30, f32::NEG_INFINITY, -1e30];
            f.apply(&mut y);
            assert!(y[0].is_nan() && y[1] == f32::INFINITY && y[2] == 1e30, "{f:?} {y:?}");
            assert!(f == Function::Identity || (y[3] == 0.0 && y[4].abs() < 1e-6), "{f:?} {y:?}");
        }
    }
}
