//! time of codebook4-row-tables
use lowbit::{Tensor, cpu, Scheme};
use std::time::Instant;
fn main() {
    let n: usize = std::env::args().nth(1).map_or(4096, |v| v.parse().unwrap());
    let k: usize = std::env::args().nth(2).map_or(4096, |v| v.parse().unwrap());
    let mut rng = lowbit::selftest::data::Random::new(5);
    let x: Vec<f32> = (0..n * k).map(|_| rng.normal()).collect();
    let t = Tensor::from_f32([n, k], x.clone()).unwrap();
    for name in std::env::args().skip(3) {
        let s: Scheme = name.parse().unwrap();
        let start = Instant::now();
        let p = cpu::quantize(&t, "w", &s, None).unwrap();
        let took = start.elapsed().as_secs_f64();
        let y = cpu::dequantize(&p, lowbit::DType::F32);
        let y = y.to_f32();
        let (mut pow, mut err) = (0f64, 0f64);
        for (a, b) in x.iter().zip(y.iter()) { pow += f64::from(*a).powi(2); err += (f64::from(*a) - f64::from(*b)).powi(2); }
        println!("{name}: {took:.3} s  {:.3} dB  {:.4} bits", 10.0 * (pow / err).log10(), p.bits_per_weight());
    }
}
