//! Updates of parameters. See `shaders/kernel/update.wgsl`.

use super::training::{Operands, WORKGROUP, accesses};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Gpu, Target};
use crate::learning::{self, Rule};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Update {
    adam: bool,
    workgroup: u32,
}

impl Specialization for Update {
    const KERNEL: &'static str = "update";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        accesses(2)
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub count: u32,
    pub rate: f32,
    pub keep: f32,
    pub unscale: f32,
    pub floor: f32,
    pub a: f32,
    pub b: f32,
    pub of_mean: f32,
    pub of_square: f32,
    pub eps: f32,
}

/// Records the state after an update of the state `[states, n]` by the gradient `[n]`.
///
/// # Errors
/// As [`Operands::record`].
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    how: &learning::Update,
    operands: &Operands<'_>,
) -> Result<()> {
    let count = operands.y.1 / how.rule.states();
    let [rate, keep, unscale, floor, a, b, of_mean, of_square, eps] = how.numbers();
    let params = Params { count: count as u32, rate, keep, unscale, floor, a, b, of_mean, of_square, eps };
    let kernel = Update { adam: matches!(how.rule, Rule::Adam { .. }), workgroup: WORKGROUP };
    operands.record(gpu, target, &kernel, params, count.div_ceil(WORKGROUP as usize))
}

/// Both rules; the scheme does not matter.
pub fn shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    [false, true].map(|adam| Update { adam, workgroup: WORKGROUP }.shader()).into_iter().collect()
}
