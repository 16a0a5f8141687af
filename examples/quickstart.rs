//! Quantizes a linear layer on the best engine there is, multiplies with it, and says what that cost in accuracy.
//!
//! `cargo run --release --example quickstart`

use lowbit::report::metrics::Errors;
use lowbit::selftest::data::Random;
use lowbit::{Engine, MatmulOptions, Tensor};

pub fn main() -> lowbit::Result<()> {
    pollster::block_on(run())
}

async fn run() -> lowbit::Result<()> {
    // A layer of 1024 inputs and 2048 outputs, and four rows of activations.
    let (outputs, inputs, m) = (2048, 1024, 4);
    let mut rng = Random::new(1);
    let mut normal = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.normal()).collect() };
    let weights = Tensor::from_f32([outputs, inputs], normal(outputs * inputs))?;
    let activations = Tensor::from_f32([m, inputs], normal(m * inputs))?;

    // A real GPU, else the CPU; WGPU_ADAPTER_NAME=llvmpipe takes a software adapter.
    let engine = Engine::auto().await?;
    println!("on {} ({})", engine.info().name, engine.info().tier);
    let x = engine.upload(&activations)?;

    // Plain f32 is a scheme like any other: the same call gives the product to compare with.
    let exact = engine.quantize(&weights, &"f32".parse()?).await?;
    let exact = engine.matmul(&x, &exact, &MatmulOptions::default())?.read().await?;

    for scheme in ["q8_0", "q4_0", "nf4-g64", "int4-g32-asym", "int2-g16"] {
        let w = engine.quantize(&weights, &scheme.parse()?).await?;
        // Recorded; the read submits it and waits.
        let y = engine.matmul(&x, &w, &MatmulOptions::default())?.read().await?;
        println!(
            "{scheme:14} {:5.2} bits per weight, {:7} bytes, y {} dB above its error",
            w.scheme().bits_per_weight(outputs, inputs),
            w.bytes(),
            Errors::of(&exact.to_f32(), &y.to_f32()).sqnr_text()
        );
    }
    Ok(())
}
