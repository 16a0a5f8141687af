//! The loss of scores, and its gradient. See `shaders/kernel/cross_entropy.wgsl`.

use super::training::{Operands, WORKGROUP, accesses};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Gpu, Target};
use crate::learning::Distillation;
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CrossEntropy {
    /// The gradient of the scores instead of the losses.
    gradient: bool,
    teacher: bool,
    workgroup: u32,
}

impl Specialization for CrossEntropy {
    const KERNEL: &'static str = "cross_entropy";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        accesses(2 + usize::from(self.teacher))
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub classes: u32,
    pub of_labels: f32,
    pub of_teacher: f32,
    pub temperature: f32,
}

/// Records y of the scores `[rows, classes]`, the targets, and the teacher's scores if there are any.
///
/// # Errors
/// As [`Operands::record`].
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    (rows, classes): (usize, usize),
    teacher: Option<Distillation>,
    scale: f32,
    gradient: bool,
    operands: &Operands<'_>,
) -> Result<()> {
    let Distillation { temperature, share } =
        teacher.unwrap_or(Distillation { temperature: 1.0, share: 0.0 });
    let power = if gradient { temperature } else { temperature * temperature };
    let params = Params {
        rows: rows as u32,
        classes: classes as u32,
        of_labels: scale * (1.0 - share),
        of_teacher: scale * share * power,
        temperature,
    };
    let kernel = CrossEntropy { gradient, teacher: teacher.is_some(), workgroup: WORKGROUP };
    operands.record(gpu, target, &kernel, params, rows.div_ceil(WORKGROUP as usize))
}

/// Losses and gradients, with and without a teacher; the scheme does not matter.
pub fn shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    let all = [false, true].into_iter().flat_map(|gradient| [false, true].map(|teacher| (gradient, teacher)));
    all.map(|(gradient, teacher)| CrossEntropy { gradient, teacher, workgroup: WORKGROUP }.shader()).collect()
}
