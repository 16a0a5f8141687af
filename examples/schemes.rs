//! Every scheme with what it costs and what it keeps: bits per weight, and the signal-to-noise ratio of normally distributed weights
//! on the CPU engine.
//!
//! `cargo run --release --example schemes`

use lowbit::report::metrics::Errors;
use lowbit::scheme::preset::samples;
use lowbit::selftest::data::Random;
use lowbit::{DType, Engine, Tensor};

pub fn main() -> lowbit::Result<()> {
    pollster::block_on(run())
}

async fn run() -> lowbit::Result<()> {
    let (rows, k) = (64, 1024);
    let mut rng = Random::new(1);
    let weights = Tensor::from_f32([rows, k], (0..rows * k).map(|_| rng.normal()).collect())?;
    let engine = Engine::cpu();

    let mut table = Vec::new();
    for scheme in samples() {
        let packed = engine.quantize(&weights, &scheme).await?;
        let decoded = engine.dequantize(&packed, DType::F32)?.read().await?;
        let errors = Errors::of(&weights.to_f32(), &decoded.to_f32());
        table.push((scheme.bits_per_weight(rows, k), errors, scheme.to_string()));
    }
    table.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.2.cmp(&b.2)));

    println!("{:16} {:>8} {:>9} {:>10}", "scheme", "bits", "SQNR dB", "max error");
    for (bits, errors, name) in &table {
        println!("{name:16} {bits:8.3} {:>9} {:10.4}", errors.sqnr_text(), errors.max_abs());
    }
    Ok(())
}
