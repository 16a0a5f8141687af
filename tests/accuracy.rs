//! Encoders against accuracy that others measured: SQNR in dB on 512 x 4096 random values, N(0, 1) unless said.
//!
//! The figures are not lowbit's. `BLOCKWISE`, `ROWWISE`: simulations of block-wise round-to-nearest with draws of their own, 2026-11-20; symmetric:
//! scale = absmax / (2^(b-1) - 1), codes -2^(b-1)..=2^(b-1)-1; asymmetric: min and max with 0, integer zero-point; scales in f32. `GGML`: ggml's
//! reference encoders, compiled from ggml d99724f2, same shape. One bit: the Lloyd-Max quantizer of two levels, 10 log10(1 / (1 - 2/pi)).

#[path = "common/normals.rs"]
mod normals;

use lowbit::reference::{dequantize, quantize};
use lowbit::report::metrics::Errors;
use lowbit::{Tensor, cpu};
use normals::normals;
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

/// ggml's encoders: name; dB on N(0, 1), Laplace and Student's t with 5 degrees of freedom; dB on N(0, 1) with equal importance of all columns;
/// and the weighted squared error with a lognormal(1.5) importance as a share of that without.
type Ggml = (&'static str, [f64; 3], Option<f64>, f64);
const GGML: &[Ggml] = &[
    ("q4_0", [21.309, 19.418, 19.357], Some(21.754), 0.682),
    ("q4_1", [22.128, 20.748, 20.928], Some(23.109), 0.483),
    ("q5_0", [27.395, 25.432, 25.388], Some(27.866), 0.695),
    ("q5_1", [28.435, 27.052, 27.232], Some(29.419), 0.522),
    ("q8_0", [45.427, 43.435, 43.404], Some(45.427), 1.0),
    ("q2_k", [10.552, 9.267, 9.533], Some(11.432), 0.417),
    ("q3_k", [16.424, 15.081, 15.070], Some(16.798), 0.638),
    ("q4_k", [22.930, 21.455, 21.624], Some(23.004), 0.621),
    ("q5_k", [28.842, 27.372, 27.541], Some(29.026), 0.651),
    ("q6_k", [35.018, 33.276, 33.373], Some(35.232), 0.681),
    ("iq4_nl", [22.368, 21.118, 21.065], Some(22.509), 0.711),
    ("iq4_xs", [22.301, 21.049, 20.982], Some(22.430), 0.708),
    ("mxfp4", [18.771, 17.941, 17.995], None, 1.0),
    ("nvfp4", [20.430, 20.656, 20.687], None, 1.0),
    ("tq2_0", [1.854, 1.609, 1.374], None, 1.0),
    ("tq1_0", [1.854, 1.609, 1.374], None, 1.0),
];

/// What a SQNR may be below ggml's: two draws differ by 0.01 dB.
const GGML_TOLERANCE: f64 = 0.02;

/// A lognormal(1.5) has few columns that matter, so the ratio of one draw has a standard deviation of up to 0.019 (measured over six). The stated one
/// is one draw, ours the mean of four: three standard deviations of the difference are 3 * 0.019 * sqrt(1 + 1/4).
const RATIO_TOLERANCE: f64 = 0.064;

const ONE_BIT: &[(&str, f64)] = &[("int1-row", 4.396), ("int1-tensor", 4.396)];

/// 512 x 4096 of them, by Box and Muller's transform.
fn gauss() -> &'static [f32] {
    static X: OnceLock<Vec<f32>> = OnceLock::new();
    X.get_or_init(|| normals(20_261_120, ROWS * K))
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

/// 512 x 4096 draws: normal, Laplace, Student's t with 5 degrees of freedom.
fn draws(distribution: usize) -> Vec<f32> {
    const SEED: u64 = 20_261_121;
    let z: Vec<f32> = match distribution {
        1 => {
            let mut rng = StdRng::seed_from_u64(SEED);
            let mut uniform = || rng.random::<f64>() - 0.5;
            let laplace = |u: f64| -u.signum() * (1.0 - 2.0 * u.abs()).max(f64::MIN_POSITIVE).ln();
            return (0..ROWS * K).map(|_| laplace(uniform()) as f32).collect();
        }
        0 => return gauss().to_vec(),
        _ => normals(SEED, 6 * ROWS * K),
    };
    let t = |z: &[f32; 6]| {
        let chi_square: f64 = z[1..].iter().map(|&v| f64::from(v).powi(2)).sum();
        (f64::from(z[0]) / (chi_square / 5.0).sqrt()) as f32
    };
    z.as_chunks::<6>().0.iter().map(t).collect()
}

#[test]
fn ggml_types() {
    let mut wrong = Vec::new();
    for (i, distribution) in ["N(0, 1)", "Laplace", "t(5)"].into_iter().enumerate() {
        let x = draws(i);
        for &(name, bars, ..) in GGML {
            let w = quantize(&x, ROWS, K, name.parse().unwrap(), None).unwrap();
            let sqnr = Errors::of(&x, &dequantize(&w)).sqnr_db();
            println!("{name:>16} {distribution:8} {sqnr:7.3} dB, stated {}", bars[i]);
            // A NaN is not within.
            let within = sqnr >= bars[i] - GGML_TOLERANCE && sqnr <= bars[i] + TOLERANCE;
            if !within {
                wrong.push(format!("{name} on {distribution}: {sqnr:.3} dB, stated {}", bars[i]));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn ggml_types_with_importance() {
    let x = gauss();
    let tensor = Tensor::from_f32([ROWS, K], x.to_vec()).unwrap();
    let equal = vec![1.0; K];
    let importance: Vec<f32> = normals(15, 4 * K).iter().map(|z| (1.5 * z).exp()).collect();
    let mut wrong = Vec::new();
    for &(name, _, unit, stated) in GGML {
        let scheme = name.parse().unwrap();
        let weighted = |c: &[f32]| dequantize(&cpu::quantize_weighted(&tensor, "x", &scheme, c).unwrap());
        if let Some(bar) = unit {
            let sqnr = Errors::of(x, &weighted(&equal)).sqnr_db();
            println!("{name:>16} {sqnr:7.3} dB with equal importance, stated {bar}");
            let within = sqnr >= bar - GGML_TOLERANCE && sqnr <= bar + TOLERANCE;
            if !within {
                wrong.push(format!("{name} with equal importance: {sqnr:.3} dB, stated {bar}"));
            }
        }
        let plain = dequantize(&cpu::quantize(&tensor, "x", &scheme, None).unwrap());
        let ratios = importance.chunks(K).map(|c| {
            let error = |w: &[f32]| -> f64 {
                let terms = x.iter().zip(w).zip(c.iter().cycle());
                terms.map(|((x, w), c)| f64::from(*c) * f64::from(x - w).powi(2)).sum()
            };
            error(&weighted(c)) / error(&plain)
        });
        let ratio = ratios.sum::<f64>() / (importance.len() / K) as f64;
        println!("{name:>16} {ratio:7.3} of the weighted error, stated {stated}");
        let within = (ratio - stated).abs() <= RATIO_TOLERANCE;
        if !within {
            wrong.push(format!("{name}: {ratio:.3} of the weighted error, stated {stated}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
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
