//! Dense f32 to f16 and back on the device. Rounding is to nearest even on every driver.

use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Binding, Buffer, Gpu, Target, fold_workgroups};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

const WORKGROUP: u32 = 64;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Convert {
    /// To f16, else from f16 to f32.
    pub out_f16: bool,
    workgroup: u32,
}

impl Specialization for Convert {
    const KERNEL: &'static str = "convert";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        vec![Access::Read, Access::ReadWrite]
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub quads: u32,
}

/// Records the conversion of `elements` numbers between two buffers, each from a byte that is a multiple of 256.
///
/// # Errors
/// Those of the device.
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    x: (&Buffer, u64),
    y: (&Buffer, u64),
    elements: usize,
    out_f16: bool,
) -> Result<()> {
    let pipeline = Convert { out_f16, workgroup: WORKGROUP }.pipeline(gpu)?;
    // Chunks keep both bindings within the limit; 64 numbers keep both offsets on 256 bytes (f32) and 128 (f16).
    let chunk = (super::weights::binding_limit(gpu) / 4 / 1024 * 1024).max(1024);
    for start in (0..elements).step_by(chunk) {
        let n = chunk.min(elements - start);
        let quads = n.div_ceil(4) as u32;
        let (from, to) = if out_f16 { (4, 2) } else { (2, 4) };
        let range = |(buffer, offset), size: u64| {
            Binding::range(buffer, offset + start as u64 * size, u64::from(quads) * 4 * size)
        };
        let groups = fold_workgroups(u64::from(quads.div_ceil(WORKGROUP)), gpu.limits())?;
        gpu.dispatch(
            target,
            &pipeline,
            &[range(x, from), range(y, to)],
            bytemuck::bytes_of(&Params { quads }),
            groups,
        )?;
    }
    Ok(())
}

/// Both directions; the scheme does not matter.
pub fn shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    [true, false].map(|out_f16| Convert { out_f16, workgroup: WORKGROUP }.shader()).into_iter().collect()
}
