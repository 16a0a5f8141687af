//! GGUF's search for the scales of IQ4_NL and IQ4_XS.
//!
//! The table `K` is steep in its ends, so the best scale is not the one that maps the extreme onto `K[0]`. Per group of 32
//! (`x`, single f32 operations, the weight of a value being its square):
//!
//! ```text
//! max = the value of largest magnitude with its sign, the first one;   |max| < 1e-15: the group's scale is 0
//! fit(id):   q_j = K[nearest(id * x_j)],  qx = sum (w_j * q_j) * x_j,  qq = sum (w_j * q_j) * q_j,  w_j = x_j * x_j, in sequence
//! first      id = 1 / (-max / K[0]);       d = qx / qq;  best = d * qx
//! then       for t in -7..=7: id = (t + K[0]) / max;  where qq > 0 and qx * qx > best * qq:  d = qx / qq, best = d * qx
//! nearest(v) 0 if v <= K[0], 15 if v >= K[15], else of the neighbours around v the lower one if it is strictly nearer
//! IQ4_NL     scale = f16(d), codes nearest(x_j * (1 / d)) with the d before rounding (1 / d is 0 for d = 0)
//! IQ4_XS     super-group of 256: D = -(the d of largest magnitude, the first) / 32, stored as f16(D);
//!            l = clamp(round_even((1 / D) * d), -32, 31), codes nearest((1 / (D * l)) * x_j), a quotient by 0 being 0
//! ```
//!
//! Source: the algorithm of ggml's `quantize_row_iq4_nl_impl` without an importance matrix, seven tries each way. The codes are
//! those of ggml byte for byte; a test holds golden bytes.

use crate::cpu::half_float::f16_saturating;
use crate::scheme::Codebook;

/// Below this magnitude a group counts as zero.
const GROUP_MAX_EPS: f32 = 1e-15;
const TRIES: i32 = 7;
/// Values per scale.
pub const GROUP: usize = 32;

fn table() -> &'static [f32] {
    Codebook::Iq4Nl.entries()
}

fn nearest(table: &[f32], v: f32) -> u8 {
    let last = table.len() - 1;
    if v <= table[0] {
        return 0;
    }
    if v >= table[last] {
        return last as u8;
    }
    let upper = table.iter().filter(|&&entry| entry <= v).count();
    let lower = upper - 1;
    (if v - table[lower] < table[upper] - v { lower } else { upper }) as u8
}

fn quotient(a: f32, b: f32) -> f32 {
    if b == 0.0 { 0.0 } else { a / b }
}

/// The scale of one group before rounding.
fn search(x: &[f32]) -> f32 {
    let table = table();
    let max = x.iter().fold(0f32, |best, &v| if v.abs() > best.abs() { v } else { best });
    if max.abs() < GROUP_MAX_EPS {
        return 0.0;
    }
    let fit = |id: f32| {
        x.iter().fold((0f32, 0f32), |(qx, qq), &v| {
            let q = table[usize::from(nearest(table, id * v))];
            let w = v * v;
            (qx + w * q * v, qq + w * q * q)
        })
    };
    let (qx, qq) = fit(1.0 / (-max / table[0]));
    let mut d = qx / qq;
    let mut best = d * qx;
    for t in -TRIES..=TRIES {
        let (qx, qq) = fit((t as f32 + table[0]) / max);
        if qq > 0.0 && qx * qx > best * qq {
            d = qx / qq;
            best = d * qx;
        }
    }
    d
}

/// Encodes one group of IQ4_NL; returns the f16 bits of its scale.
pub(super) fn group(x: &[f32], codes: &mut [u8]) -> u16 {
    let d = search(x);
    let id = quotient(1.0, d);
    codes.iter_mut().zip(x).for_each(|(c, &v)| *c = nearest(table(), id * v));
    f16_saturating(d)
}

/// Encodes one super-group of IQ4_XS; returns the f16 bits of its super-scale.
pub(super) fn super_group(x: &[f32], scales: &mut [u8], codes: &mut [u8]) -> u16 {
    let found: Vec<f32> = x.chunks(GROUP).map(search).collect();
    let largest = found.iter().fold(0f32, |best, &d| if d.abs() > best.abs() { d } else { best });
    let super_scale = -largest / 32.0;
    let id = quotient(1.0, super_scale);
    for (((x, codes), &d), scale) in x.chunks(GROUP).zip(codes.chunks_mut(GROUP)).zip(&found).zip(scales) {
        let sub = (id * d).round_ties_even().clamp(-32.0, 31.0);
        let inverse = quotient(1.0, super_scale * sub);
        codes.iter_mut().zip(x).for_each(|(c, &v)| *c = nearest(table(), inverse * v));
        *scale = sub as i32 as i8 as u8;
    }
    f16_saturating(super_scale)
}
