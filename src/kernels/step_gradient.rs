//! The gradients of the steps of a fake quantizer. See `shaders/kernel/step_gradient.wgsl`.

use super::training::{Operands, accesses};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Gpu, Target};
use crate::learning::Learned;
use crate::product::Summation;
use crate::scheme::grid::{Grid, Spans};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

/// Threads of a group: of a short one, and of a long one.
const WORKGROUPS: [u32; 2] = [32, 256];

/// Threads of a group of so many numbers.
fn workgroup(group: usize) -> u32 {
    WORKGROUPS[usize::from(group > 256)]
}

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StepGradient {
    /// The clip is learned: what is inside counts nothing.
    clip: bool,
    zeros: bool,
    workgroup: u32,
}

impl Specialization for StepGradient {
    const KERNEL: &'static str = "step_gradient";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        accesses(3 + usize::from(self.zeros))
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub groups: u32,
    pub k: u32,
    pub group: u32,
    pub per_row: u32,
    pub first: f32,
    pub last: f32,
    pub factor: f32,
}

/// How the numbers of a group are summed.
pub fn summation(group: usize) -> Summation {
    let workgroup = workgroup(group);
    let chain = group.div_ceil(workgroup as usize);
    Summation { chain, depth: workgroup.ilog2() as usize, folded: false }
}

/// Records y `[groups]` of x, dy, the steps, and the zero-points if there are any.
///
/// # Errors
/// As [`Operands::record`].
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    (grid, spans): (&Grid, &Spans),
    zeros: bool,
    (learned, factor): (Learned, f32),
    operands: &Operands<'_>,
) -> Result<()> {
    let params = Params {
        groups: spans.count() as u32,
        k: spans.k as u32,
        group: spans.group as u32,
        per_row: spans.per_row as u32,
        first: grid.first as f32,
        last: grid.last as f32,
        factor,
    };
    let kernel =
        StepGradient { clip: learned == Learned::Clip, zeros, workgroup: workgroup(spans.longest()) };
    operands.record(gpu, target, &kernel, params, spans.count())
}

/// Every form; the scheme does not matter.
pub fn shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    let mut all = Vec::new();
    for workgroup in WORKGROUPS {
        for (clip, zeros) in [(false, false), (false, true), (true, false), (true, true)] {
            all.push(StepGradient { clip, zeros, workgroup }.shader()?);
        }
    }
    Ok(all)
}
