//! Packed weights to dense f32 or f16 on the device.
//!
//! Permuted columns are scattered as f32; to f16 they go through a scratch buffer and `convert`.

use super::context::{self, WeightParams};
use super::weights::{DeviceWeights, binding_limit, dense_rows, row_step};
use super::{Columns, Scheme, Shader, Specialization, Tier, convert};
use crate::gpu::{Access, Binding, Buffer, Gpu, Target, fold_workgroups};
use crate::{DType, Error, Result};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

const WORKGROUP: u32 = 64;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Dequantize {
    #[serde(rename = "s", serialize_with = "context::scheme")]
    pub scheme: Scheme,
    pub ragged: bool,
    pub out_f16: bool,
    workgroup: u32,
}

impl Specialization for Dequantize {
    const KERNEL: &'static str = "dequantize";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        vec![Access::Read, Access::Read, Access::ReadWrite]
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub weights: WeightParams,
    pub row0: u32,
    pub quads: u32,
    pub elements: u32,
}

/// Records the decoding of all of `w` into `y` [rows, k] of `dtype`, from a byte that is a multiple of 256.
///
/// # Errors
/// [`Error::Unsupported`] for bf16; [`Error::TooLarge`] if one row of y is larger than a binding; those of the device.
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    w: &DeviceWeights,
    (y, offset): (&Buffer, u64),
    dtype: DType,
) -> Result<()> {
    let out_f16 = match dtype {
        DType::F32 => false,
        DType::F16 => true,
        DType::Bf16 => return Err(Error::unsupported("dequantizing to bf16 on the GPU", "f32 and f16 are")),
    };
    if out_f16 && w.scheme.is_permuted() {
        let elements = w.rows * w.k;
        let scratch = gpu.alloc(elements as u64 * 4, "weights before rounding to f16")?;
        record(gpu, target, w, (&scratch, 0), DType::F32)?;
        return convert::record(gpu, target, (&scratch, 0), (y, offset), elements, true);
    }
    let ragged = Columns::of(w.k) == Columns::Ragged;
    let pipeline = Dequantize { scheme: w.scheme, ragged, out_f16, workgroup: WORKGROUP }.pipeline(gpu)?;
    let row_bytes = w.k * dtype.size();
    let most = dense_rows(gpu, w.rows, w.k, dtype.size())?;
    // Parts start on multiples of this many rows, and so does every dispatch: on 256 bytes of y.
    let step = row_step(w.k);
    if w.parts.iter().any(|p| p.rows.start % step != 0) {
        let (need, limit) = ((step * row_bytes) as u64, binding_limit(gpu) as u64);
        return Err(Error::TooLarge { what: format!("{step} dense rows of K = {}", w.k), need, limit });
    }
    for part in &w.parts {
        for row in part.rows.clone().step_by(most) {
            let n = most.min(part.rows.end - row);
            let elements = n * w.k;
            let params = Params {
                weights: part.params,
                row0: (row - part.rows.start) as u32,
                quads: elements.div_ceil(4) as u32,
                elements: elements as u32,
            };
            let bytes = ((elements * dtype.size()) as u64).next_multiple_of(4 * dtype.size() as u64);
            let out = Binding::range(y, offset + (row * row_bytes) as u64, bytes);
            let bindings = [Binding::whole(&part.buffer), Binding::whole(&part.buffer), out];
            let groups = fold_workgroups(u64::from(params.quads.div_ceil(WORKGROUP)), gpu.limits())?;
            gpu.dispatch(target, &pipeline, &bindings, bytemuck::bytes_of(&params), groups)?;
        }
    }
    Ok(())
}

/// Every specialization of a scheme.
pub fn shaders(scheme: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    let mut all = Vec::new();
    for ragged in [false, true] {
        if ragged && scheme.ggml.is_some() {
            continue;
        }
        for out_f16 in [false, true] {
            if out_f16 && scheme.is_permuted() {
                continue;
            }
            all.push(Dequantize { scheme: *scheme, ragged, out_f16, workgroup: WORKGROUP }.shader()?);
        }
    }
    Ok(all)
}
