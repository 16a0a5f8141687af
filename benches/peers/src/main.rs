//! lowbit's CPU engine beside candle's quantized products and the `gemm` crate, in one run.
//!
//! ```text
//! cd benches/peers
//! RUSTFLAGS="-C target-cpu=native" cargo run --release [-- [--json] [--quick] [SCHEME ...]]
//! ```
//!
//! candle chooses its vector instructions when it is compiled, so it needs the flag to show what it can do; lowbit and gemm choose when
//! they run. Every candidate of a shape is checked against a product in f64 first, then all of them are timed in turns, so that a
//! machine that slows down slows all of them. Weights of one matrix are multiplied again and again: for one row of x it is the last-level cache that
//! is measured, unless it is smaller than the weights.
//!
//! Besides the time that passed (median and quartiles) the table has the median processor time of all threads together, which on a busy machine is
//! the figure to compare by; on an idle one it is about the threads times the time.
//!
//! candle quantizes activations in groups of 32 (Q8_0) or 256 (Q8_K); lowbit's `int8` rows use groups of 32, its `int8-128` groups of
//! 128, its `f32` rows none. gemm multiplies f32 weights.

use candle_core::Module;
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use cpu_time::ProcessTime;
use lowbit::product::{Activation, Int8Group, Product};
use lowbit::{DType, Scheme, Tensor, cpu};
use std::time::Instant;

type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

/// Numbers of a normal distribution, near enough: sums of four uniform ones, variance 1.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let uniform = |shift: u32| ((state >> shift) & 0xffff) as f32 / 65536.0 - 0.5;
            (uniform(0) + uniform(16) + uniform(32) + uniform(48)) * 3f32.sqrt()
        })
        .collect()
}

/// One thing to time.
struct Candidate<'a> {
    name: String,
    /// Which peer its ratio is taken to: the candidate of this name.
    beside: Option<String>,
    run: Box<dyn FnMut() -> Anyhow<Vec<f32>> + 'a>,
    /// Times without copying the result.
    time: Box<dyn FnMut() -> Anyhow<()> + 'a>,
    /// What the product should be, and the relative root mean square error that is accepted.
    want: Vec<f64>,
    accept: f64,
}

/// A line of the result, in milliseconds.
struct Row {
    m: usize,
    name: String,
    passed: [f64; 3],
    used: f64,
    ratio: Option<f64>,
    used_ratio: Option<f64>,
}

/// `x [m, k]` times the transpose of `w [n, k]` in f64.
fn product(x: &[f32], w: &[f32], m: usize, n: usize, k: usize) -> Vec<f64> {
    use rayon::prelude::*;
    // Checking all of a large product takes longer than the benchmark: four rows of x are enough.
    let rows = m.min(4);
    (0..rows * n)
        .into_par_iter()
        .map(|i| {
            let (x, w) = (&x[i / n * k..][..k], &w[i % n * k..][..k]);
            x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        })
        .collect()
}

fn error(y: &[f32], want: &[f64]) -> f64 {
    let (mut off, mut power) = (0.0, 0.0);
    for (y, w) in y.iter().zip(want) {
        off += (f64::from(*y) - w).powi(2);
        power += w * w;
    }
    if off.is_nan() { f64::INFINITY } else { (off / power).sqrt() }
}

/// Median, and the quartiles around it, in milliseconds.
fn quartiles(times: &mut [f64]) -> [f64; 3] {
    times.sort_by(f64::total_cmp);
    [1, 2, 3].map(|q| times[(times.len() - 1) * q / 4] * 1e3)
}

fn candle_type(name: &str) -> Option<GgmlDType> {
    match name {
        "q4_0" => Some(GgmlDType::Q4_0),
        "q4_1" => Some(GgmlDType::Q4_1),
        "q5_0" => Some(GgmlDType::Q5_0),
        "q8_0" => Some(GgmlDType::Q8_0),
        "q2_k" => Some(GgmlDType::Q2K),
        "q3_k" => Some(GgmlDType::Q3K),
        "q4_k" => Some(GgmlDType::Q4K),
        "q5_k" => Some(GgmlDType::Q5K),
        "q6_k" => Some(GgmlDType::Q6K),
        _ => None,
    }
}

fn main() -> Anyhow<()> {
    let mut json = false;
    let mut quick = false;
    let mut schemes: Vec<String> = Vec::new();
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--json" => json = true,
            "--quick" => quick = true,
            name => schemes.push(name.parse::<Scheme>()?.to_string()),
        }
    }
    if schemes.is_empty() {
        schemes = ["q4_0", "q8_0", "q4_k"].map(String::from).to_vec();
    }
    let (n, k) = (4096, 4096);
    let weights = noise(n * k, 1);
    let dense = Tensor::from_f32([n, k], weights.clone())?;
    let threads = rayon::current_num_threads();
    let mut rows = Vec::new();
    for m in [1usize, 128] {
        let x = noise(m * k, 2);
        let x_lowbit = Tensor::from_f32([m, k], x.clone())?;
        let device = candle_core::Device::Cpu;
        let x_candle = candle_core::Tensor::from_vec(x.clone(), (m, k), &device)?;
        let mut packed = Vec::new();
        let mut candle = Vec::new();
        for name in &schemes {
            packed.push(cpu::quantize(&dense, "w", &name.parse()?, None)?);
            candle.push(match candle_type(name) {
                Some(kind) => {
                    let w = candle_core::Tensor::from_vec(weights.clone(), (n, k), &device)?;
                    let q = QTensor::quantize(&w, kind)?;
                    let decoded = q.dequantize(&device)?.flatten_all()?.to_vec1::<f32>()?;
                    Some((QMatMul::from_qtensor(q)?, decoded))
                }
                None => None,
            });
        }
        let mut candidates: Vec<Candidate> = Vec::new();
        {
            let (x, w) = (&x, &weights);
            let mut y = vec![0f32; m * n];
            let mut y2 = vec![0f32; m * n];
            candidates.push(Candidate {
                name: "gemm f32".into(),
                beside: None,
                run: Box::new(move || {
                    gemm_f32(x, w, m, n, k, &mut y, threads);
                    Ok(y.clone())
                }),
                time: Box::new(move || {
                    gemm_f32(x, w, m, n, k, &mut y2, threads);
                    Ok(())
                }),
                want: product(x, w, m, n, k),
                accept: 1e-5,
            });
        }
        for ((name, packed), candle) in schemes.iter().zip(&packed).zip(&candle) {
            if let Some((matmul, decoded)) = candle {
                let x_candle = &x_candle;
                candidates.push(Candidate {
                    name: format!("candle {name}"),
                    beside: None,
                    run: Box::new(move || Ok(matmul.forward(x_candle)?.flatten_all()?.to_vec1()?)),
                    time: Box::new(move || {
                        matmul.forward(x_candle)?;
                        Ok(())
                    }),
                    want: product(&x, decoded, m, n, k),
                    accept: 2e-2,
                });
            }
            let want = product(&x, &cpu::dequantize(packed, DType::F32).to_f32(), m, n, k);
            for (label, activation, accept) in [
                ("int8", Activation::Int8(Int8Group::Cols(32)), 2e-2),
                ("int8-128", Activation::Int8(Int8Group::Cols(128)), 2e-2),
                ("int8-row", Activation::Int8(Int8Group::Row), 2e-2),
                ("f32", Activation::F32, 1e-5),
            ] {
                let product = Product { activation, ..Product::default() };
                let peer = if label == "f32" { "gemm f32".into() } else { format!("candle {name}") };
                let x = &x_lowbit;
                let call = move || cpu::matmul(x, packed, 0..n, &product, None, None);
                candidates.push(Candidate {
                    name: format!("lowbit {name} {label}"),
                    beside: Some(peer),
                    run: Box::new(move || Ok(call()?.to_f32().into_owned())),
                    time: Box::new(move || {
                        call()?;
                        Ok(())
                    }),
                    want: want.clone(),
                    accept,
                });
            }
        }
        for c in &mut candidates {
            let off = error(&(c.run)()?, &c.want);
            if off > c.accept {
                return Err(format!("{}: relative error {off:e}, more than {:e}", c.name, c.accept).into());
            }
        }
        let rounds = match (m, quick) {
            (1, false) => 300,
            (1, true) => 60,
            (_, false) => 25,
            _ => 7,
        };
        let mut times = vec![Vec::new(); candidates.len()];
        for _ in 0..rounds {
            for (c, times) in candidates.iter_mut().zip(&mut times) {
                // Weights come back into the cache, and the threads of the one before come to rest.
                let warm = Instant::now();
                while warm.elapsed().as_millis() < 4 {
                    (c.time)()?;
                }
                let (start, used) = (Instant::now(), ProcessTime::now());
                (c.time)()?;
                times.push([start.elapsed().as_secs_f64(), used.elapsed().as_secs_f64()]);
            }
        }
        let of = |which: usize| -> Vec<[f64; 3]> {
            times.iter().map(|t| quartiles(&mut t.iter().map(|t| t[which]).collect::<Vec<_>>())).collect()
        };
        let (passed, used) = (of(0), of(1));
        for (i, c) in candidates.iter().enumerate() {
            let peer = candidates.iter().position(|p| Some(&p.name) == c.beside.as_ref());
            let ratio = |all: &[[f64; 3]]| peer.map(|p| all[i][1] / all[p][1]);
            rows.push(Row {
                m,
                name: c.name.clone(),
                passed: passed[i],
                used: used[i][1],
                ratio: ratio(&passed),
                used_ratio: ratio(&used),
            });
        }
    }
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|r| {
                serde_json::json!({"m": r.m, "n": n, "k": k, "name": r.name, "median_ms": r.passed[1],
                    "quartiles_ms": [r.passed[0], r.passed[2]], "cpu_ms": r.used, "ratio_to_peer": r.ratio,
                    "cpu_ratio_to_peer": r.used_ratio})
            })
            .collect();
        let all = serde_json::json!({"threads": threads, "instructions": cpu::instructions(), "rows": rows});
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!(
        "{threads} threads, {}; times in ms; ratios are to the peer of the same weights",
        cpu::instructions()
    );
    println!(
        "   M x    K x    N  {:<24} {:>9}  {:<22} {:>8}  {:>9}  {:>8}",
        "", "median", "quartiles", "ratio", "CPU time", "ratio"
    );
    for r in &rows {
        let [low, median, high] = r.passed;
        let ratio = |ratio: Option<f64>| ratio.map_or(String::new(), |r| format!("{r:.2} x"));
        println!(
            "{:>4} x {k:>4} x {n:>4}  {:<24} {median:9.3}  {:<22} {:>8}  {:9.3}  {:>8}",
            r.m,
            r.name,
            format!("{low:.3} .. {high:.3}"),
            ratio(r.ratio),
            r.used,
            ratio(r.used_ratio)
        );
    }
    Ok(())
}

fn gemm_f32(x: &[f32], w: &[f32], m: usize, n: usize, k: usize, y: &mut [f32], threads: usize) {
    assert!(x.len() == m * k && w.len() == n * k && y.len() == m * n);
    let [n_s, k_s] = [n, k].map(|v| v as isize);
    // SAFETY: the operands are row-major matrices of these sizes, as just checked, and y is not shared.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            y.as_mut_ptr(),
            1,
            n_s,
            false,
            x.as_ptr(),
            1,
            k_s,
            w.as_ptr(),
            k_s,
            1,
            0f32,
            1f32,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(threads),
        );
    }
}
