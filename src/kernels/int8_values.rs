//! int8 activations to the f32 that they stand for, for schemes whose values are no integers.

use super::int8::{DeviceInt8, Params};
use super::weights::dense_rows;
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Binding, Buffer, Gpu, Target, fold_workgroups};
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

/// Records the f32 [rows, k] that int8 activations stand for into `y`.
///
/// # Errors
/// [`crate::Error::TooLarge`] if a row of y is larger than a binding; those of the device.
pub fn record(gpu: &Gpu, target: &mut Target<'_>, x: &DeviceInt8, y: &Buffer) -> Result<()> {
    let pipeline = Values.pipeline(gpu)?;
    let row_bytes = x.k * 4;
    let most = dense_rows(gpu, x.rows, x.k, 4)?;
    for row0 in (0..x.rows).step_by(most) {
        let rows = most.min(x.rows - row0);
        let params = Params::new(x, rows, row0);
        let groups = fold_workgroups((rows * params.stride as usize).div_ceil(64) as u64, gpu.limits())?;
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
