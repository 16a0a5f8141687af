//! burn's products on wgpu as a peer. It quantizes w [N, K] itself, symmetric in blocks of 32 with f16 scales, to 4 bits for `q4_0` and 8 for `q8_0`.
//! Its autotuner chooses the kernel in the first product.

#[allow(dead_code, reason = "each program uses a part")]
#[path = "../../src/serve.rs"]
mod serve;

use burn::tensor::quantization::{QuantScheme, QuantStore, QuantValue, ScaleDtype};
use burn::tensor::{Device, DeviceKind, Tensor, TensorData};
use serve::{Anyhow, Job};

fn main() -> Anyhow<()> {
    let job = Job::from_args()?;
    let value = match job.scheme.as_str() {
        "q4_0" => QuantValue::Q4S,
        "q8_0" => QuantValue::Q8S,
        other => return Err(format!("has nothing like {other}").into()),
    };
    let scheme = QuantScheme::default()
        .with_value(value)
        .with_store(QuantStore::PackedU32(0))
        .per_block([32], ScaleDtype::F16);
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    let tensor = |values, shape: [usize; 2]| Tensor::<2>::from_data(TensorData::new(values, shape), &device);
    let w = tensor(job.w()?, [job.n, job.k]).quantize_dynamic(&scheme).transpose();
    let x = tensor(job.x()?, [job.m, job.k]);
    let y =
        x.clone().matmul(w.clone()).try_into_data()?.try_into_vec::<f32>().map_err(|e| format!("{e:?}"))?;
    job.serve("burn 0.22", &y, || {
        let y = x.clone().matmul(w.clone());
        device.sync()?;
        drop(y);
        Ok(())
    })
}
