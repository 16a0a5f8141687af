//! web-rwkv's products on wgpu as a peer. It quantizes w, as f16, itself: NF4 in blocks of 64 for `q4_0`, int8 between minimum and maximum in blocks of
//! 128 for `q8_0`. x is f16, y f32; several rows of 32 go through its matrix kernel, as in its runtime, others through the one for vectors.

#[allow(dead_code, reason = "each program uses a part")]
#[path = "../../src/serve.rs"]
mod serve;

use half::f16;
use pollster::block_on;
use serve::{Anyhow, Job};
use web_rwkv::context::ContextBuilder;
use web_rwkv::tensor::kind::ReadWrite;
use web_rwkv::tensor::matrix::Matrix;
use web_rwkv::tensor::ops::Activation;
use web_rwkv::tensor::{TensorGpu, TensorInitContext};

fn main() -> Anyhow<()> {
    let job = Job::from_args()?;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapters = block_on(instance.enumerate_adapters(wgpu::Backends::VULKAN));
    let adapter = adapters.into_iter().find(|a| a.get_info().name == job.device).ok_or("no such adapter")?;
    let what = adapter.get_info().name;
    let limits = adapter.limits();
    let context = block_on(ContextBuilder::new(adapter).limits(limits).build())?;

    let halves = |values: Vec<f32>| values.into_iter().map(f16::from_f32).collect::<Vec<_>>();
    let (m, k, n) = (job.m, job.k, job.n);
    let w: TensorGpu<f16, ReadWrite> =
        TensorInitContext::from_data(&context, [k, n, 1, 1], halves(job.w()?))?;
    let w = match job.scheme.as_str() {
        "q4_0" => Matrix::quant_nf4(&w)?,
        "q8_0" => Matrix::quant_u8(&w)?,
        other => return Err(format!("has nothing like {other}").into()),
    };
    let x: TensorGpu<f16, ReadWrite> =
        TensorInitContext::from_data(&context, [k, m, 1, 1], halves(job.x()?))?;
    let y: TensorGpu<f32, ReadWrite> = TensorInitContext::init(&context, [n, m, 1, 1]);
    let turbo = m % 32 == 0;
    let op = w.matmul_op(&x, &y, Activation::None, turbo)?;
    let run = || -> Anyhow<()> {
        context.queue.submit(context.encode(&op));
        context.device.poll(wgpu::PollType::wait_indefinitely())?;
        Ok(())
    };
    run()?;
    let result = y.back_in_place();
    job.serve(&format!("web-rwkv 0.10, {what}"), &result, run)
}
