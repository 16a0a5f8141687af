//! lowbit itself as one of the programs that are timed, see serve.rs.
//!
//! ```text
//! SCHEME.gguf or SCHEME/ (int8-row) -> PackedArray \
//! xM.f32 ---------------------------> Array -------- Engine::matmul, submit, wait -> y
//! ```

#[allow(dead_code, reason = "each program uses a part")]
#[path = "../serve.rs"]
mod serve;

use lowbit::file::Model;
use lowbit::product::{Activation, Int8Group};
use lowbit::{Array, Engine, EngineOptions, MatmulOptions, PackedArray, Tensor};
use pollster::block_on;
use serve::{Anyhow, Job};

fn main() -> Anyhow<()> {
    let job = Job::from_args()?;
    let engine = block_on(Engine::open(&EngineOptions {
        device: Some(job.device.clone()),
        ..EngineOptions::default()
    }))?;
    let model = Model::open(packed_path(&job))?;
    let entry = model.entries().first().ok_or("no weight")?;
    let w = engine.upload_packed(&model.packed(entry)?)?;
    let x = engine.upload(&Tensor::from_f32([job.m, job.k], job.x()?)?)?;
    let mut options = MatmulOptions::default();
    if job.activation == "int8" {
        let row = job.scheme == "int8-row";
        options.activation = Activation::Int8(if row { Int8Group::Row } else { Int8Group::Cols(32) });
    }
    let y = product(&engine, &x, &w, &options)?;
    let y = block_on(y.read())?.to_f32().into_owned();
    let plan = engine.plan(job.m, &w, &options)?;
    let what = format!("{}, {} activations, {}", job.scheme, options.activation, plan.kernel);
    job.serve(&what, &y, || Ok(product(&engine, &x, &w, &options).map(drop)?))
}

fn packed_path(job: &Job) -> std::path::PathBuf {
    let folder = job.folder.join(&job.scheme);
    if folder.is_dir() { folder } else { folder.with_extension("gguf") }
}

fn product(engine: &Engine, x: &Array, w: &PackedArray, options: &MatmulOptions) -> lowbit::Result<Array> {
    let y = engine.matmul(x, w, options)?;
    engine.submit()?;
    engine.gpu().map_or(Ok(()), |gpu| gpu.wait())?;
    Ok(y)
}
