//! The engine's promises, on every adapter that is there and on the CPU engine where they apply.
//!
//! | module | promise |
//! |---|---|
//! | `overhead` | a recorded product costs the host little and creates nothing |
//! | `tuned` | what was measured decides, here and in engines that are opened later |
//! | `recorded` | operations are recorded: one submit per read; the same bits again; what `plan` says is what runs |
//! | `own_device` | an application's device, buffers and encoders; WebGPU's default limits |
//! | `split` | weights and activations larger than a binding |
//! | `operands` | experts, ranks, f16 operands, threads |
//! | `encoder` | embeddings, layer normalization, attention, pooling |
//! | `importance` | what a device makes of an importance of columns is what ggml makes of it |
//! | `int8` | activations as int8: prepared once, static, from layer to layer |
//! | `errors` | wrong input and lost devices are errors |
//!
//! Which numbers each kernel computes for each scheme is `differential.rs`'s business; here few schemes and shapes recur, because
//! compiling pipelines is what takes time on software adapters. Under `CI` a missing software adapter is a failure.
#![cfg(feature = "gpu")]

#[path = "../common/mod.rs"]
mod common;
mod encoder;
mod errors;
mod importance;
mod int8;
mod operands;
mod overhead;
mod own_device;
mod recorded;
mod split;
mod tuned;

use common::under_ci;
use lowbit::engine::Tune;
use lowbit::gpu::{Disable, Found, adapter};
use lowbit::product::{Function, Product};
use lowbit::reference::matmul::{Added, magnitude, matmul};
use lowbit::selftest::data::{self, Random};
use lowbit::{DType, Engine, EngineOptions, MatmulOptions, PackedTensor, Plan, Scheme, Tensor};
use pollster::block_on;
use std::sync::OnceLock;

type Is = fn(&Found) -> bool;

const CI_ADAPTERS: [(&str, Is); 3] = [
    ("lavapipe (Vulkan)", |f| f.info.name.contains("llvmpipe") && f.info.backend == wgpu::Backend::Vulkan),
    ("SwiftShader (Vulkan)", |f| f.info.name.contains("SwiftShader")),
    ("Mesa's OpenGL", |f| f.info.backend == wgpu::Backend::Gl),
];

fn adapters() -> &'static [Found] {
    static FOUND: OnceLock<Vec<Found>> = OnceLock::new();
    FOUND.get_or_init(|| block_on(adapter::list()))
}

#[test]
fn which_adapters_are_covered() {
    for (what, is) in CI_ADAPTERS {
        if !adapters().iter().any(is) {
            let have: Vec<_> = adapters().iter().map(|f| f.info.summary()).collect();
            assert!(!under_ci(), "no {what} under CI; there are {have:?}");
            println!("NOT COVERED: {what} is not on this machine; there are {have:?}");
        }
    }
    adapters().iter().for_each(|f| println!("covered: {}", f.info.summary()));
}

fn is_lavapipe(found: &Found) -> bool {
    CI_ADAPTERS[0].1(found)
}

/// An engine of its own, for tests that count or destroy.
fn open(found: &Found) -> Engine {
    open_with(found, Disable::default())
}

fn open_with(found: &Found, disable: Disable) -> Engine {
    // What the user of this machine has tuned is not to decide what is tested.
    let options = EngineOptions { disable, tune: Tune::Off, ..EngineOptions::default() };
    block_on(Engine::open_adapter(&found.adapter, &options)).expect("the adapter opens")
}

/// Runs a test on an engine of every adapter. The engines are shared by all tests, so that a pipeline is compiled once.
fn on_each_gpu(test: impl Fn(&str, &Engine)) {
    static ENGINES: OnceLock<Vec<(String, Engine)>> = OnceLock::new();
    let engines = ENGINES.get_or_init(|| adapters().iter().map(|f| (f.info.summary(), open(f))).collect());
    engines.iter().for_each(|(name, engine)| test(name, engine));
}

/// The same, and on the CPU engine.
fn on_each(test: impl Fn(&str, &Engine)) {
    test("CPU engine", &Engine::cpu());
    on_each_gpu(test);
}

fn scheme(name: &str) -> Scheme {
    name.parse().expect("a scheme's name")
}

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32(shape, values.to_vec()).expect("as many values as the shape says")
}

fn half(shape: &[usize], values: &[f32]) -> Tensor {
    let halves: Vec<half::f16> = values.iter().map(|&v| half::f16::from_f32(v)).collect();
    Tensor::from_f16(shape, &halves).expect("as many values as the shape says")
}

fn read(array: &lowbit::Array) -> Vec<f32> {
    block_on(array.read()).expect("a read").to_f32().into_owned()
}

/// As bits, -0 as 0: an empty sum may have either sign.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| (v + 0.0).to_bits()).collect()
}

/// Operands of a product whose every partial sum is exact in f32, and its result.
struct Exact {
    w: PackedTensor,
    x: Vec<f32>,
    m: usize,
    k: usize,
    y: Vec<f32>,
}

impl Exact {
    fn new(scheme: &Scheme, m: usize, n: usize, k: usize, seed: u64) -> Self {
        let mut rng = Random::new(seed);
        let w = data::packed(scheme, &[n, k], true, &mut rng).expect("the scheme takes the shape");
        // As many draws as columns set most activations to 1 or -1.
        let x = data::activations(m, k, Some(k), &mut rng);
        let y = exact_product(&x, m, &w, Added::default());
        Self { w, x, m, k, y }
    }

    fn x(&self) -> Tensor {
        tensor(&[self.m, self.k], &self.x)
    }
}

/// The reference as f32. Equal outputs of unequal inputs would prove nothing, so they may not all be zero.
fn exact_product(x: &[f32], m: usize, w: &PackedTensor, added: Added<'_>) -> Vec<f32> {
    let y = matmul(x, m, w, added, &Product::default()).expect("operands that fit");
    assert!(y.iter().any(|v| *v != 0.0) && y.iter().all(|v| f64::from(*v as f32) == *v), "exact inputs");
    y.iter().map(|&v| v as f32).collect()
}

/// Asserts that `y = x * w^T` comes out to the last bit.
fn assert_exact(name: &str, engine: &Engine, case: &Exact, options: &MatmulOptions) {
    let w = engine.upload_packed(&case.w).expect("weights");
    let x = engine.upload(&case.x()).expect("activations");
    let y = engine.matmul(&x, &w, options).expect("a product");
    assert_eq!(y.shape(), [case.m, case.y.len() / case.m], "{name}");
    let got = read(&y);
    assert_eq!(first_difference(&got, &case.y), None, "{name}: {} M = {}", case.w.scheme(), case.m);
}

/// Where results differ: index, got, wanted.
fn first_difference(got: &[f32], want: &[f32]) -> Option<(usize, f32, f32)> {
    assert_eq!(got.len(), want.len());
    let at = bits(got).iter().zip(bits(want)).position(|(a, b)| *a != b)?;
    Some((at, got[at], want[at]))
}

/// How far outputs with f32 sums and f32 storage may be from the reference: the bound of `selftest/product.rs`, from how the plan says
/// that sums are formed. `x_error` bounds what x itself is off, with `spread[n] = sum_k |w[n, k]|`.
fn bounds(
    plan: &Plan,
    x: &[f32],
    m: usize,
    w: &PackedTensor,
    added: Added<'_>,
    product: &Product,
    x_error: f64,
) -> Vec<f64> {
    let sizes = magnitude(x, m, w, added, product).expect("operands that fit");
    let steps = (plan.summation.chain + plan.summation.depth + 4) as f64 * f64::from(f32::EPSILON) / 2.0;
    let (n, k) = w.matrix();
    let weights = lowbit::reference::dequantize(w);
    let spread: Vec<f64> =
        weights.chunks(k).map(|row| row.iter().map(|v| f64::from(v.abs())).sum()).collect();
    let want = matmul(x, m, w, added, product).expect("operands that fit");
    (0..m * n)
        .map(|i| {
            let own = 1.001 * steps * sizes[i] + x_error * spread[i % n];
            match product.function {
                Function::Identity => own,
                _ => 1.13 * own + 2f64.powi(-20) * (want[i].abs() + 1.0),
            }
        })
        .collect()
}

/// Asserts that results keep their bounds, and that zeros would not.
fn assert_within(name: &str, got: &[f32], want: &[f64], bounds: &[f64]) {
    assert_eq!((got.len(), want.len()), (bounds.len(), bounds.len()), "{name}");
    for (i, ((&got, &want), &bound)) in got.iter().zip(want).zip(bounds).enumerate() {
        // Written so that NaN fails.
        assert!((f64::from(got) - want).abs() <= bound, "{name}: {got} at {i}, {want} +- {bound:e}");
    }
    assert!(want.iter().zip(bounds).any(|(w, b)| w.abs() > *b), "{name}: zeros would pass");
}

fn f16_options() -> MatmulOptions {
    MatmulOptions { output: DType::F16, ..MatmulOptions::default() }
}
