//! `lowbit dequantize`: packed tensors back to plain ones, tensor by tensor.

use super::compare;
use super::print;
use super::quantize::{copy, missing, plan_copy};
use super::{Float, model_output::ModelOutput, open_engine, open_for, output_format};
use crate::file::hf::Weights;
use crate::file::{
    Activations, Content, Entry, Item, Model, Plan, Transforms, Writer, file_type, float_type,
};
use crate::{DType, Engine, Error, PackedTensor, Result, Tensor};
use half::{bf16, f16};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Turn a packed model back into plain tensors (safetensors, GGUF or ONNX)
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  lowbit dequantize model-q4_0.safetensors -o model-f16.safetensors --dtype f16"
)]
pub struct Args {
    /// A packed model: safetensors, GGUF, ONNX or a quantized checkpoint
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// The element type of the weights; default: the one they had before they were quantized, f32 where the file does not say (GGUF)
    #[arg(long, value_enum)]
    dtype: Option<Float>,
    /// The output's format, `lowbit` (safetensors), `gguf` or `onnx`; default: by its extension
    #[arg(long, value_name = "FORMAT")]
    to: Option<String>,
    /// Overwrite an existing output
    #[arg(short, long)]
    force: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    let started = Instant::now();
    let wanted = args.dtype.map(Float::dtype);
    let format = output_format(args.to.as_deref(), &args.output)?;
    let model = open_for(&args.input, format, Weights::AsTheyAre)?;
    let mut plan = Plan::changing(model.metadata().clone());
    // What products of quantized weights took is no matter of plain ones, which are turned back.
    Activations::default().put(plan.metadata_mut());
    let transforms = Transforms::of(&model)?;
    Transforms::default().put(plan.metadata_mut())?;
    let mut packed = 0;
    for entry in model.entries().iter().filter(|entry| !transforms.has_tensor(&entry.name)) {
        match entry.content {
            Content::Packed { source, .. } => {
                plan.dense(&entry.name, file_type(wanted.unwrap_or(source)), entry.shape.clone())?;
                packed += 1;
            }
            Content::Dense(_) | Content::Listed { .. } => plan_copy(&mut plan, entry)?,
        }
    }
    let carries = Activations::of(model.metadata(), &args.input)? != Activations::default();
    if packed == 0 && transforms.is_empty() && !carries {
        return Err(Error::Nothing { path: args.input.clone(), what: "no packed tensor in it".into() });
    }
    let inputs: Vec<_> = model.paths().collect();
    let output = ModelOutput::create(&args.output, args.force, &inputs, format, &plan)?;
    let engine = pollster::block_on(open_engine(device))?;
    let bar = print::progress(model.entries().len() as u64, "dequantize");
    let mut writer = Writer::new(output, &args.output, format, plan)?;
    while let Some(item) = writer.next_item().cloned() {
        print::at(&bar, item.name());
        let entry = model.entry(item.name()).ok_or_else(|| missing(&item))?;
        match (&item, &entry.content) {
            (Item::Dense { dtype, .. }, _) if transforms.get(&entry.name).is_some() => {
                let dtype = float_type(*dtype).ok_or_else(|| missing(&item))?;
                writer.dense(&restored(&engine, (&model, entry), dtype)?)?;
            }
            (Item::Dense { dtype, .. }, Content::Packed { .. }) => {
                let dtype = float_type(*dtype).ok_or_else(|| missing(&item))?;
                // Engines decode to f32 and f16; f32 rounded to bf16 is bf16 rounded once.
                let decoded = if dtype == DType::F16 { DType::F16 } else { DType::F32 };
                let packed = model.packed(entry)?;
                let tensor = pollster::block_on(async {
                    engine.dequantize(&engine.upload_packed(&packed)?, decoded)?.read().await
                });
                let tensor = tensor.map_err(|e| e.in_tensor(&entry.name))?;
                if dtype == DType::F16 {
                    refuse_overflow(&engine, &packed, &tensor, &entry.name)?;
                }
                match dtype {
                    DType::Bf16 => writer.dense(&to_bf16(&tensor))?,
                    _ => writer.dense(tensor.bytes())?,
                }
            }
            _ => copy(&mut writer, &model, entry)?,
        }
        model.release(entry);
        bar.inc(1);
    }
    let bytes = writer.written();
    writer.finish()?.commit()?;
    bar.finish_and_clear();
    let (device, seconds) = (engine.info().name, started.elapsed().as_secs_f64());
    let copied = model.entries().iter().filter(|entry| !transforms.has_tensor(&entry.name)).count() - packed;
    if args.json {
        return print::json(&json!({
            "input": args.input, "output": args.output, "device": device, "dequantized": packed, "copied": copied,
            "bytes_before": model.bytes(), "bytes_after": bytes, "seconds": seconds,
        }));
    }
    print::stdout(&format!(
        "{}: {} dequantized, {copied} copied; {} -> {} in {seconds:.1} s on {device}\n",
        args.output.display(),
        print::count(packed, "tensor"),
        print::bytes(model.bytes()),
        print::bytes(bytes),
    ))
}

/// The bytes of a weight whose inputs were transformed, as it was before that.
fn restored(engine: &Engine, (model, entry): (&Model, &Entry), dtype: DType) -> Result<Vec<u8>> {
    let tensor = compare::decoded(engine, (model, entry))?;
    let values = tensor.to_f32();
    Ok(match dtype {
        DType::F32 => bytemuck::cast_slice(&values).to_vec(),
        DType::Bf16 => to_bf16(&tensor),
        DType::F16 => {
            let rounded: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
            let overflow = |(r, v): (&f16, &f32)| r.is_infinite() && v.is_finite();
            if let Some(index) = rounded.iter().zip(values.iter()).position(overflow) {
                return Err(beyond_f16(&entry.name, index, values[index]));
            }
            rounded.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
    })
}

/// f16 ends at 65504: a weight beyond it would become an infinity that was not in the packed tensor.
fn refuse_overflow(engine: &Engine, packed: &PackedTensor, rounded: &Tensor, name: &str) -> Result<()> {
    if rounded.to_f32().iter().all(|v| v.is_finite()) {
        return Ok(());
    }
    let exact = pollster::block_on(async {
        engine.dequantize(&engine.upload_packed(packed)?, DType::F32)?.read().await
    })?;
    let overflow = |(a, b): (&f32, &f32)| a.is_infinite() && b.is_finite();
    match rounded.to_f32().iter().zip(exact.to_f32().iter()).position(overflow) {
        None => Ok(()),
        Some(index) => Err(beyond_f16(name, index, exact.to_f32()[index])),
    }
}

fn beyond_f16(name: &str, index: usize, value: f32) -> Error {
    let scheme = "f16 (--dtype f32 or --dtype bf16 holds it)".into();
    Error::NotRepresentable { tensor: name.into(), index: index as u64, value, scheme, limit: 65504.0 }
}

/// The elements rounded to the nearest bf16, little-endian.
fn to_bf16(tensor: &Tensor) -> Vec<u8> {
    tensor.to_f32().iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect()
}
