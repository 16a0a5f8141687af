//! candle's QMatMul as a peer: the blocks of SCHEME.gguf, on the CPU. It rounds activations to int8 itself, in groups of 32 or 256.

#[allow(dead_code, reason = "each program uses a part")]
#[path = "../../src/serve.rs"]
mod serve;

use candle_core::quantized::{QMatMul, gguf_file};
use candle_core::{Device, Module, Tensor};
use serve::{Anyhow, Job};

fn main() -> Anyhow<()> {
    let job = Job::from_args()?;
    let mut file = std::fs::File::open(job.folder.join(&job.scheme).with_extension("gguf"))?;
    let content = gguf_file::Content::read(&mut file)?;
    let name = content.tensor_infos.keys().next().ok_or("no weight")?;
    let w = QMatMul::from_qtensor(content.tensor(&mut file, name, &Device::Cpu)?)?;
    let x = Tensor::from_vec(job.x()?, (job.m, job.k), &Device::Cpu)?;
    let y: Vec<f32> = w.forward(&x)?.flatten_all()?.to_vec1()?;
    job.serve("candle 0.11", &y, || Ok(w.forward(&x).map(drop)?))
}
