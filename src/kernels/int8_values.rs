//! int8 activations to the f32 that they stand for, for schemes whose values are no integers.

use super::int8::{self, DeviceInt8};
use super::weights::{binding_limit, row_step};
use super::{Scheme, Shader, Specialization, Tier};
use crate::gpu::{Access, Binding, Buffer, Gpu, Target, fold_workgroups};
use crate::{Error, Result};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Values;

impl Specialization for Values {
    const KERNEL: &'static str = "int8_values";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        vec![Access::Read, Access::ReadWrite]
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    rows: u32,
    row0: u32,
    k: u32,
    stride: u32,
    scales: u32,
    groups: u32,
    group: u32,
    scale: f32,
    zero: u32,
}

/// Records the f32 [rows, k] that int8 activations stand for into `y`.
///
/// # Errors
/// [`Error::TooLarge`] if a row of y is larger than a binding; those of the device.
pub fn record(gpu: &Gpu, target: &mut Target<'_>, x: &DeviceInt8, y: &Buffer) -> Result<()> {
    let pipeline = Values.pipeline(gpu)?;
    let row_bytes = x.k * 4;
    let limit = binding_limit(gpu);
    let step = row_step(x.k);
    let most = if x.rows * row_bytes <= limit { x.rows } else { limit / row_bytes / step * step };
    if most == 0 {
        let (need, limit) = ((step * row_bytes) as u64, limit as u64);
        return Err(Error::TooLarge { what: format!("{step} rows of activations"), need, limit });
    }
    let (scale, zero) = int8::fixed(x.activation);
    let (stride, scales) = x.words();
    for row0 in (0..x.rows).step_by(most) {
        let rows = most.min(x.rows - row0);
        let params = Params {
            rows: rows as u32,
            row0: row0 as u32,
            k: x.k as u32,
            stride,
            scales,
            groups: x.groups() as u32,
            group: int8::group(x.activation, x.k) as u32,
            scale,
            zero,
        };
        let groups = fold_workgroups((rows * stride as usize).div_ceil(64) as u64, gpu.limits())?;
        let out = Binding::range(y, (row0 * row_bytes) as u64, (rows * row_bytes) as u64);
        gpu.dispatch(
            target,
            &pipeline,
            &[Binding::whole(&x.buffer), out],
            bytemuck::bytes_of(&params),
            groups,
        )?;
    }
    Ok(())
}

/// The one shader that decodes.
pub fn shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    Ok(vec![Values.shader()?])
}
