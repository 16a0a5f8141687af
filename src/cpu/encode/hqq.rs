//! Half-quadratic optimization of a group's float zero: the text of [`crate::scheme::method`].
//!
//! ```text
//! x --extremes--> scale, zero --20 times: codes -> error -> shrunk -> zero that centres the rest--> the zero of the least mean |error|
//! ```
//!
//! Sixteen lanes of a group side by side; their sums meet at the end of a round.

use super::group::{Chosen, GroupEncoder};
use super::search::{NO_FRACTION, rint, whole};
use crate::scheme::method::{EXP2, HQQ_BETA, HQQ_FLOOR, HQQ_POWER, HQQ_ROUNDS, LOG2};

const LANES: usize = 16;

/// `a^(p - 1)` of a normal number, by its exponent and polynomials.
#[inline(always)]
fn power(a: f32) -> f32 {
    let polynomial = |c: &[f32], v: f32| c.iter().rev().fold(0.0, |sum, c| sum * v + c);
    let bits = a.to_bits();
    let exponent = (bits >> 23) as i32 - 127;
    let mantissa = f32::from_bits((bits & 0x7f_ffff) | 127 << 23);
    let y = HQQ_POWER * (exponent as f32 + polynomial(&LOG2, mantissa));
    let n = whole(y);
    // The integer in the last bits, as an exponent.
    let scale = f32::from_bits((n + (NO_FRACTION + 127.0)).to_bits() << 23);
    polynomial(&EXP2, y - n) * scale
}

/// Sums over `x` in lanes of what `of` says of a value.
#[inline(always)]
fn sums<const N: usize>(x: &[f32], of: impl Fn(f32) -> [f32; N]) -> [f32; N] {
    let mut lanes = [[0f32; LANES]; N];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            let terms = of(chunk[l]);
            for (lanes, term) in lanes.iter_mut().zip(terms) {
                lanes[l] += term;
            }
        }
    }
    for (l, &v) in rest.iter().enumerate() {
        for (lanes, term) in lanes.iter_mut().zip(of(v)) {
            lanes[l] += term;
        }
    }
    for half in [8, 4, 2, 1] {
        for lanes in &mut lanes {
            for l in 0..half {
                lanes[l] += lanes[l + half];
            }
        }
    }
    lanes.map(|lanes| lanes[0])
}

/// `start`, the encoder's own scale and zero for `x`, with a better zero if there is one.
#[inline(always)]
pub fn optimize(e: &GroupEncoder, x: &[f32], low: f32, start: Chosen) -> Chosen {
    let s = start.scale;
    if s == 0.0 {
        return start;
    }
    let (levels, inverse, n) = (e.levels(), 1.0 / s, x.len() as f32);
    // The code, and the error in x's units.
    let error = |v: f32, z: f32| {
        let t = v * inverse;
        let q = rint(t + z, 0.0, levels);
        (t, q, (t - (q - z)) * s)
    };
    let mut z = -low * inverse;
    let (mut best, mut least) = (z, f32::INFINITY);
    let mut beta = HQQ_BETA[0];
    for _ in 0..HQQ_ROUNDS {
        let inverse_beta = 1.0 / beta;
        let [next, mean] = sums(x, |v| {
            let (t, q, e) = error(v, z);
            let rest = e.abs() - power(e.abs()) * inverse_beta;
            let shrunk = if e.abs() >= HQQ_FLOOR && rest > 0.0 { rest.copysign(e) } else { 0.0 };
            [q - (t - shrunk * inverse), e.abs()]
        });
        if mean >= least {
            break;
        }
        (best, least) = (z, mean);
        z = next / n;
        beta *= HQQ_BETA[1];
    }
    let best = if best > 0.0 { best } else { 0.0 };
    let (zero_bytes, zero) = e.store(best);
    let mean = |z: f32| sums(x, |v| [error(v, z).2.abs()])[0];
    if mean(zero) < mean(start.zero) { Chosen { zero_bytes, zero, ..start } } else { start }
}
