//! Methods of finding scales against figures that are not lowbit's.
//!
//! | test | figure |
//! |---|---|
//! | `best_steps_*`, `best_tables` | the optimal uniform quantizer of N(0, 1), and the optimal scale of a table, by numerical integration: step and SQNR |
//! | `clusters`, `clusters_of_groups` | Lloyd and Max's quantizer |
//! | `searched_groups` | simulations of block-wise search over 71 scales from 0.4 to 1.1 of the absmax one: floors, since a wider search finds more |
//! | `half_quadratic` | HQQ's own loop in NumPy: mean error and SQNR beside round-to-nearest; with integer zero-points what a search over all of them and 32 scales leaves |
//!
//! Each on the CPU engine; those of groups on a software or real GPU too. Draws have fixed seeds.

mod common;
#[path = "common/engines.rs"]
mod engines;
#[path = "common/normals.rs"]
mod normals;
#[path = "common/quantiles.rs"]
mod quantiles;

use engines::engines;
use lowbit::reference::dequantize;
use lowbit::report::metrics::Errors;
use lowbit::scheme::{Method, PlaneKind};
use lowbit::{Engine, PackedTensor, Tensor};
use normals::normals;
use pollster::block_on;
use quantiles::unit;

fn quantize(engine: &Engine, x: &[f32], k: usize, scheme: &str, method: Method) -> PackedTensor {
    let tensor = Tensor::from_f32([x.len() / k, k], x.to_vec()).unwrap();
    let scheme = scheme.parse().unwrap();
    block_on(async { engine.quantize_by(&tensor, "x", &scheme, method).await?.read().await }).unwrap()
}

fn sqnr(x: &[f32], w: &PackedTensor) -> f64 {
    Errors::of(x, &dequantize(w)).sqnr_db()
}

/// The one f32 scale of a tensor.
fn step(w: &PackedTensor) -> f64 {
    f64::from(f32::from_le_bytes(w.plane(PlaneKind::Scales)[..4].try_into().unwrap()))
}

/// Step within 1 %, SQNR within 0.02 dB.
fn best(cases: &[(&str, f64, f64)]) {
    let x = unit();
    let mut wrong = Vec::new();
    for &(scheme, optimal, decibels) in cases {
        let w = quantize(&Engine::cpu(), &x, 1024, scheme, Method::Mse);
        let (step, db) = (step(&w), sqnr(&x, &w));
        println!("{scheme:>16}: step {step:.5}, optimal {optimal}; {db:.3} dB, stated {decibels}");
        // A NaN is not within.
        let within = (step / optimal - 1.0).abs() <= 0.01 && (db - decibels).abs() <= 0.02;
        if !within {
            wrong.push(format!("{scheme}: step {step} instead of {optimal}, {db} dB instead of {decibels}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn best_steps_of_integers() {
    best(&[
        ("int2-tensor", 1.04839, 8.256),
        ("int3-tensor", 0.60182, 13.911),
        ("int4-tensor", 0.33861, 19.258),
        ("int5-tensor", 0.18879, 24.527),
        ("int6-tensor", 0.10418, 29.818),
        ("int8-tensor", 0.03077, 40.570),
    ]);
}

/// A zero between codes, so that there are as many below as above.
#[test]
fn best_steps_between_codes() {
    best(&[
        ("int1-tensor-fzero", 1.59577, 4.396),
        ("int2-tensor-fzero", 0.99569, 9.250),
        ("int3-tensor-fzero", 0.58602, 14.267),
        ("int4-tensor-fzero", 0.33520, 19.377),
        ("int5-tensor-fzero", 0.18814, 24.565),
    ]);
}

/// E2M1's grid ends at 6.
#[test]
fn best_tables() {
    best(&[("nf4-tensor", 2.8631, 20.044), ("fp4-tensor", 0.48708, 18.967)]);
}

/// The tests above would see a search that is a little off: absmax is far from all of them, and a step 2 % too long is no longer within.
#[test]
fn other_steps_are_not_best() {
    let x = unit();
    let w = quantize(&Engine::cpu(), &x, 1024, "int4-tensor", Method::Absmax);
    assert!((step(&w) / 0.33861 - 1.0).abs() > 0.5 && sqnr(&x, &w) < 17.0);
    let mut w = quantize(&Engine::cpu(), &x, 1024, "int4-tensor", Method::Mse);
    let longer = (step(&w) * 1.03) as f32;
    w.plane_mut(PlaneKind::Scales)[..4].copy_from_slice(&longer.to_le_bytes());
    assert!((sqnr(&x, &w) - 19.258).abs() > 0.02);
}

#[test]
fn clusters() {
    let x = unit();
    for (bits, lloyd_max) in [(1, 4.396), (2, 9.300), (3, 14.616), (4, 20.222), (5, 26.013), (6, 31.910)] {
        for method in [Method::Own, Method::Kmeans] {
            let w = quantize(&Engine::cpu(), &x, 1024, &format!("codebook{bits}-tensor"), method);
            let db = sqnr(&x, &w);
            println!("{bits} bits: {db:.3} dB, Lloyd and Max {lloyd_max}");
            // No table is better than theirs but by what 2^20 values allow.
            let within = db >= lloyd_max - 0.02 && db <= lloyd_max + 0.02;
            assert!(within, "{bits} bits: {db} dB, Lloyd and Max {lloyd_max}");
        }
    }
}

/// A table for each row or group: no worse than the best table of the distribution, and better by what a table of its own makes of so few values, which is why
/// there is no bound above.
#[test]
fn clusters_of_groups() {
    let x = normals(20_261_122, 64 * 4096);
    for (bits, lloyd_max) in [(2, 9.300), (3, 14.616), (4, 20.222)] {
        let mut before = lloyd_max - 0.02;
        for group in ["row", "g1024", "g256"] {
            let w =
                quantize(&Engine::cpu(), &x, 4096, &format!("codebook{bits}-{group}-tables"), Method::Kmeans);
            let db = sqnr(&x, &w);
            println!("{bits} bits, {group}: {db:.3} dB, Lloyd and Max {lloyd_max}");
            assert!(db >= before, "{bits} bits, {group}: {db} dB, {before} at least");
            before = db;
        }
    }
}

/// The importance of columns chooses tables: errors weighed by it fall, and those of all columns alike rise.
#[test]
fn clusters_by_importance() {
    let (rows, k) = (16, 1024);
    let x = normals(20_261_123, rows * k);
    let importance: Vec<f32> = normals(3, k).iter().map(|v| v.powi(4)).collect();
    let tensor = Tensor::from_f32([rows, k], x.clone()).unwrap();
    for scheme in ["codebook3-row-tables", "codebook2-g256-tables"] {
        let scheme: lowbit::Scheme = scheme.parse().unwrap();
        let weighed = lowbit::cpu::quantize_weighted(&tensor, "x", &scheme, &importance).unwrap();
        let plain = lowbit::cpu::quantize(&tensor, "x", &scheme, None).unwrap();
        let [a, b] = [&weighed, &plain].map(|w| {
            let errors = x.iter().zip(dequantize(w)).map(|(x, w)| f64::from(x - w).powi(2));
            let both = errors.enumerate().map(|(i, e)| (e, e * f64::from(importance[i % k])));
            both.fold((0.0, 0.0), |sum, e| (sum.0 + e.0, sum.1 + e.1))
        });
        println!(
            "{scheme}: weighed {:.4}, alike {:.4} of what they are without importance",
            a.1 / b.1,
            a.0 / b.0
        );
        assert!(a.1 < 0.95 * b.1 && a.0 > b.0, "{scheme}: {a:?} {b:?}");
        let alike = lowbit::cpu::quantize_weighted(&tensor, "x", &scheme, &vec![0.25; k]).unwrap();
        assert_eq!(alike, plain, "{scheme}");
    }
}

/// Bits; floors of groups of 32, 64, 128 and rows of 4096.
const FLOORS: [(u32, [f64; 4]); 4] = [
    (2, [8.60, 8.34, 8.14, 6.83]),
    (3, [14.96, 14.45, 14.18, 13.91]),
    (4, [21.32, 20.48, 19.93, 19.29]),
    (8, [46.21, 45.03, 44.10, 41.38]),
];

#[test]
fn searched_groups() {
    let x = normals(20_261_120, 512 * 4096);
    for engine in engines() {
        let mut wrong = Vec::new();
        for (bits, floors) in FLOORS {
            for (group, floor) in ["g32", "g64", "g128", "row"].into_iter().zip(floors) {
                let scheme = format!("int{bits}-{group}");
                let db = sqnr(&x, &quantize(&engine, &x, 4096, &scheme, Method::Mse));
                println!("{}: {scheme} {db:.3} dB, at least {floor}", engine.info().name);
                let above = db >= floor - 0.05;
                if !above {
                    wrong.push(format!("{scheme}: {db} dB, {floor} stated"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}: {wrong:#?}", engine.info().name);
    }
}

/// Whatever the scheme: what is searched for is at least as good as what follows from the extremes.
#[test]
fn a_search_loses_nothing() {
    let mut x = normals(7, 48 * 512);
    x.iter_mut().step_by(701).for_each(|v| *v *= 30.0);
    for scheme in lowbit::scheme::preset::samples() {
        let own = match scheme.zero {
            lowbit::scheme::Zero::None => Method::Absmax,
            _ => Method::MinMax,
        };
        if Method::Mse.form(&scheme).is_err() || own.form(&scheme).is_err() {
            continue;
        }
        let name = scheme.to_string();
        let [searched, plain] =
            [Method::Mse, own].map(|m| sqnr(&x, &quantize(&Engine::cpu(), &x, 512, &name, m)));
        println!("{name:>20}: {plain:.3} dB, searched {searched:.3}");
        assert!(searched >= plain - 1e-3, "{name}: {searched} dB, {plain} without a search");
    }
}

/// Student's t with 4 degrees of freedom.
fn student(seed: u64, n: usize) -> Vec<f32> {
    let t = |z: &[f32; 5]| {
        let chi_square: f64 = z[1..].iter().map(|&v| f64::from(v).powi(2)).sum();
        (f64::from(z[0]) / (chi_square / 4.0).sqrt()) as f32
    };
    normals(seed, 5 * n).as_chunks::<5>().0.iter().map(t).collect()
}

#[test]
fn half_quadratic() {
    let mean = |x: &[f32], w: &PackedTensor| {
        let errors = x.iter().zip(dequantize(w)).map(|(x, w)| f64::from((x - w).abs()));
        errors.sum::<f64>() / x.len() as f64
    };
    let draws = [("N(0, 1)", normals(3, 256 * 2048)), ("t(4)", student(4, 256 * 2048))];
    for engine in engines() {
        for (name, x) in &draws {
            for bits in [4, 3] {
                // Round-to-nearest from the extremes with an integer zero-point.
                let plain = quantize(&engine, x, 2048, &format!("int{bits}-g64-asym"), Method::MinMax);
                let found = quantize(&engine, x, 2048, &format!("int{bits}-g64-fzero"), Method::Hqq);
                let ratio = mean(x, &found) / mean(x, &plain);
                let gain = sqnr(x, &found) - sqnr(x, &plain);
                println!(
                    "{}: {name}, {bits} bits: {ratio:.4} of the error, {gain:+.3} dB",
                    engine.info().name
                );
                let within = ratio <= 0.94;
                assert!(within, "{name}, {bits} bits: {ratio} of the mean error, 0.94 at most");
                let within = (bits, *name) != (4, "N(0, 1)") || (gain - 0.48).abs() <= 0.05;
                assert!(within, "{name}, {bits} bits: {gain} dB, 0.48 stated");
                // All zero-points and 32 scales leave 0.904 of N(0, 1)'s error in 4 bits and 0.818 in 3, but a decibel less signal; what is asked
                // for is the stated 0.94, in 3 bits 0.86, and a signal that gains.
                let whole = quantize(&engine, x, 2048, &format!("int{bits}-g64-asym"), Method::Hqq);
                let ratio = mean(x, &whole) / mean(x, &plain);
                let gain = sqnr(x, &whole) - sqnr(x, &plain);
                println!(
                    "{}: {name}, {bits} bits: {ratio:.4} with a whole zero-point, {gain:+.3} dB",
                    engine.info().name
                );
                let within = ratio <= if bits == 4 { 0.94 } else { 0.86 } && gain >= 0.05;
                assert!(within, "{name}, {bits} bits: {ratio} of the mean error, {gain} dB");
            }
        }
    }
}

#[test]
fn percentiles_leave_out_what_they_say() {
    // 1000 values to a row: 0.1 % is one of them.
    let mut x: Vec<f32> = (0..2000).map(|i| ((i * 37) % 1000) as f32 / 1000.0 - 0.3).collect();
    x[5] = 50.0;
    x[1007] = -80.0;
    let w = quantize(&Engine::cpu(), &x, 1000, "int8-row", Method::Percentile(99.9));
    let scales: Vec<f32> =
        w.plane(PlaneKind::Scales).as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    assert_eq!(scales, [(999.0f32 / 1000.0 - 0.3) * (1.0 / 127.0); 2]);
    // Half of it at either end is none; 0.2 % is one.
    let range = |share: f64| {
        let w = quantize(&Engine::cpu(), &x[..1000], 1000, "int8-row-asym", Method::Percentile(share));
        step(&w)
    };
    assert!((range(99.9) - 50.3 / 255.0).abs() < 1e-5 && (range(99.8) - 0.998 / 255.0).abs() < 2e-5);
}
