//! Encoders against accuracy that others measured: SQNR in dB on 512 x 4096 values of N(0, 1).
//!
//! The figures are not lowbit's. `BLOCKWISE`, `ROWWISE`: simulations of block-wise round-to-nearest with draws of their own, 2026-11-20; symmetric:
//! scale = absmax / (2^(b-1) - 1), codes -2^(b-1)..=2^(b-1)-1; asymmetric: min and max with 0, integer zero-point; scales in f32. `GGML`: ggml's
//! reference encoders, compiled from ggml d99724f2, same shape. One bit: the Lloyd-Max quantizer of two levels, 10 log10(1 / (1 - 2/pi)).

use lowbit::reference::{dequantize, quantize};
use lowbit::report::metrics::Errors;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::OnceLock;

const ROWS: usize = 512;
const K: usize = 4096;

/// Two draws of 2^21 values differ by about 0.01 dB, and f16 scales move the figure by less.
const TOLERANCE: f64 = 0.05;

/// With one scale per row there are 512 largest magnitudes only: their squares vary by about 16 %, so a mean of 512 by 0.03 dB in each of the
/// two draws. Three standard deviations of the difference.
const ROW_TOLERANCE: f64 = 0.13;

const BLOCKWISE: &[(&str, f64)] = &[
    ("int2-g32", 3.64),
    ("int2-g32-asym", 7.82),
    ("int3-g32", 12.90),
    ("int3-g32-asym", 15.23),
    ("int4-g32", 20.26),
    ("int4-g32-asym", 21.85),
    ("int8-g32", 45.43),
    ("int8-g32-asym", 46.47),
    ("nf4-g32", 21.18),
    ("fp4-g32", 19.90),
    ("int2-g64", 2.88),
    ("int2-g64-asym", 6.80),
    ("int3-g64", 12.00),
    ("int3-g64-asym", 14.19),
    ("int4-g64", 19.36),
    ("int4-g64-asym", 20.81),
    ("int8-g64", 44.53),
    ("int8-g64-asym", 45.42),
    ("nf4-g64", 20.73),
    ("fp4-g64", 19.52),
    ("int2-g128", 2.31),
    ("int2-g128-asym", 5.97),
    ("int3-g128", 11.26),
    ("int3-g128-asym", 13.33),
    ("int4-g128", 18.61),
    ("int4-g128-asym", 19.95),
    ("int8-g128", 43.79),
    ("int8-g128-asym", 44.56),
    ("nf4-g128", 20.39),
    ("fp4-g128", 19.26),
];

const ROWWISE: &[(&str, f64)] = &[
    ("int2-row", 0.83),
    ("int2-row-asym", 3.32),
    ("int3-row", 8.69),
    ("int3-row-asym", 10.48),
    ("int4-row", 16.04),
    ("int4-row-asym", 17.09),
    ("int8-row", 41.22),
    ("int8-row-asym", 41.70),
];

const GGML: &[(&str, f64)] = &[
    ("q4_0", 21.309),
    ("q4_1", 22.128),
    ("q5_0", 27.395),
    ("q5_1", 28.435),
    ("q8_0", 45.427),
    ("mxfp4", 18.771),
    ("nvfp4", 20.430),
    ("tq1_0", 1.854),
    ("tq2_0", 1.854),
];

const ONE_BIT: &[(&str, f64)] = &[("int1-row", 4.396), ("int1-tensor", 4.396)];

/// N(0, 1) by Box and Muller's transform.
fn gauss() -> &'static [f32] {
    static X: OnceLock<Vec<f32>> = OnceLock::new();
    X.get_or_init(|| {
        let mut rng = StdRng::seed_from_u64(20_261_120);
        let mut pair = || {
            // 1 - u is in (0, 1], where the logarithm is finite.
            let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            let angle = std::f64::consts::TAU * rng.random::<f64>();
            [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
        };
        (0..ROWS * K / 2).flat_map(|_| pair()).collect()
    })
}

fn check(bars: &[(&str, f64)], tolerance: f64) {
    let x = gauss();
    let mut wrong = Vec::new();
    for &(name, bar) in bars {
        let w = quantize(x, ROWS, K, name.parse().unwrap(), None).unwrap();
        let sqnr = Errors::of(x, &dequantize(&w)).sqnr_db();
        println!("{name:>16} {sqnr:7.3} dB, stated {bar}");
        // A NaN is not within.
        let within = (sqnr - bar).abs() <= tolerance;
        if !within {
            wrong.push(format!("{name}: {sqnr:.3} dB, stated {bar} +- {tolerance}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn short_groups() {
    check(&BLOCKWISE[..10], TOLERANCE);
}

#[test]
fn middle_groups() {
    check(&BLOCKWISE[10..20], TOLERANCE);
}

#[test]
fn long_groups() {
    check(&BLOCKWISE[20..], TOLERANCE);
}

#[test]
fn rows() {
    check(ROWWISE, ROW_TOLERANCE);
}

#[test]
fn ggml_types() {
    check(GGML, TOLERANCE);
}

#[test]
fn one_bit() {
    check(ONE_BIT, TOLERANCE);
}

/// The bars would see an encoder that is a little worse: the scale of the next wider group, or codes cut off instead of rounded.
#[test]
fn a_worse_encoder_misses_the_bar() {
    let x = gauss();
    let w = quantize(x, ROWS, K, "int4-g64".parse().unwrap(), None).unwrap();
    let g64 = Errors::of(x, &dequantize(&w)).sqnr_db();
    assert!((g64 - 20.26).abs() > TOLERANCE);
    let mut cut = quantize(x, ROWS, K, "int4-g32".parse().unwrap(), None).unwrap();
    let decoded = dequantize(&cut);
    for row in 0..ROWS {
        // Every eighth code of a row one step towards zero.
        for col in (0..K).step_by(8) {
            let code = cut.code(row, col) as u8;
            let toward_zero = if decoded[row * K + col] > 0.0 { code - 1 } else { (code + 1).min(8) };
            cut.set_code(row, col, toward_zero);
        }
    }
    assert!((Errors::of(x, &dequantize(&cut)).sqnr_db() - 20.26).abs() > TOLERANCE);
}
