//! Numbers on a grid, and their gradient straight through. See `shaders/kernel/fake_quantize.wgsl`.

use super::training::{Operands, WORKGROUP, accesses};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Gpu, Target};
use crate::scheme::grid::{Grid, Spans};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FakeQuantize {
    /// The gradient of x instead of y.
    backward: bool,
    zeros: bool,
    workgroup: u32,
}

impl Specialization for FakeQuantize {
    const KERNEL: &'static str = "fake_quantize";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        accesses(2 + usize::from(self.backward) + usize::from(self.zeros))
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub count: u32,
    pub k: u32,
    pub group: u32,
    pub per_row: u32,
    pub first: f32,
    pub last: f32,
}

/// Records y of x, dy if `backward`, the steps, and the zero-points if there are any.
///
/// # Errors
/// As [`Operands::record`].
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    (grid, spans): (&Grid, &Spans),
    backward: bool,
    zeros: bool,
    operands: &Operands<'_>,
) -> Result<()> {
    let count = spans.rows * spans.k;
    let params = Params {
        count: count as u32,
        k: spans.k as u32,
        group: spans.group as u32,
        per_row: spans.per_row as u32,
        first: grid.first as f32,
        last: grid.last as f32,
    };
    let kernel = FakeQuantize { backward, zeros, workgroup: WORKGROUP };
    operands.record(gpu, target, &kernel, params, count.div_ceil(WORKGROUP as usize))
}

/// Both directions, with and without zero-points; the scheme does not matter.
pub fn shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    let all = [false, true].into_iter().flat_map(|backward| [false, true].map(|zeros| (backward, zeros)));
    all.map(|(backward, zeros)| FakeQuantize { backward, zeros, workgroup: WORKGROUP }.shader()).collect()
}
