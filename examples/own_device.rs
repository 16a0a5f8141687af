//! An application with a wgpu device, buffers and an encoder of its own, into which lowbit records: no second device, and the
//! application submits.
//!
//! ```text
//! the application's encoder:  [write x]  [y = gelu(x * w^T), by lowbit]  [copy y to a readback buffer]  -> one submit
//! ```
//!
//! `cargo run --release --example own_device`

use lowbit::product::Function;
use lowbit::report::metrics::Errors;
use lowbit::selftest::data::Random;
use lowbit::{DType, Engine, MatmulOptions, Tensor};

pub fn main() -> lowbit::Result<()> {
    pollster::block_on(run())
}

async fn run() -> lowbit::Result<()> {
    let (m, n, k) = (4usize, 512, 256);
    let mut rng = Random::new(1);
    let weights = Tensor::from_f32([n, k], (0..n * k).map(|_| rng.normal()).collect())?;
    let x = Tensor::from_f32([m, k], (0..m * k).map(|_| rng.normal() * 0.1).collect())?;
    let options = MatmulOptions { function: Function::Gelu, ..MatmulOptions::default() };

    // The CPU engine has the same calls. Here it says what is right, and is what remains where there is no adapter.
    let cpu = Engine::cpu();
    let w = cpu.quantize(&weights, &"q4_k".parse()?).await?;
    let packed = w.read().await?;
    let right = cpu.matmul(&cpu.upload(&x)?, &w, &options)?.read().await?;

    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle().with_env());
    let Ok(adapter) = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await else {
        println!("no adapter here; the CPU engine gave {:?} ...", &right.to_f32()[..4]);
        return Ok(());
    };

    // The application's device. WebGPU's defaults would do; asking for what lowbit can use makes it faster.
    let (features, limits) = Engine::requirements(&adapter);
    let (device, queue) = adapter
        .request_device(&wgpu::DeviceDescriptor {
            required_features: features - wgpu::Features::all_experimental_mask(),
            required_limits: limits,
            ..wgpu::DeviceDescriptor::default()
        })
        .await
        .map_err(|e| lowbit::Error::Gpu { message: e.to_string() })?;
    let engine = Engine::from_wgpu(device.clone(), queue.clone(), Some(&adapter));

    // The application's buffers: arrays may begin on any multiple of 256 bytes.
    let buffer = |size: usize, usage| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: size as u64,
            usage,
            mapped_at_creation: false,
        })
    };
    use wgpu::BufferUsages as Usage;
    let x_bytes = x.bytes().len();
    let y_bytes = m * n * 4;
    let staging = buffer(x_bytes, Usage::COPY_SRC | Usage::COPY_DST);
    let theirs = buffer(1024 + x_bytes, Usage::STORAGE | Usage::COPY_DST);
    let results = buffer(y_bytes, Usage::STORAGE | Usage::COPY_SRC);
    let readback = buffer(y_bytes, Usage::MAP_READ | Usage::COPY_DST);
    queue.write_buffer(&staging, 0, x.bytes());

    // One encoder for everything.
    let w = engine.upload_packed(&packed)?;
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(&staging, 0, &theirs, 1024, x_bytes as u64);
    let x = engine.wrap_buffer(theirs, 1024, [m, k], DType::F32)?;
    let y = engine.wrap_buffer(results.clone(), 0, [m, n], DType::F32)?;
    engine.encode_matmul(&mut encoder, &x, &w, &y, &options)?;
    encoder.copy_buffer_to_buffer(&results, 0, &readback, 0, y_bytes as u64);
    queue.submit([encoder.finish()]);

    readback.map_async(wgpu::MapMode::Read, .., |_| {});
    let gone = |e: &dyn std::fmt::Display| lowbit::Error::DeviceLost { reason: e.to_string() };
    device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| gone(&e))?;
    let view = readback.get_mapped_range(..).map_err(|e| gone(&e))?;
    let y = Tensor::from_bytes([m, n], DType::F32, view.to_vec())?;
    println!("{} ({}), {}", engine.info().name, engine.info().tier, engine.plan(m, &w, &options)?);
    let errors = Errors::of(&right.to_f32(), &y.to_f32());
    println!("{} products, {} dB from those of the CPU engine", errors.count(), errors.sqnr_text());
    if errors.sqnr_db() < 90.0 {
        return Err(lowbit::Error::Gpu { message: "the device and the CPU engine disagree".into() });
    }
    Ok(())
}
