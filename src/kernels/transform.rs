//! Inputs with columns multiplied and blocks of them rotated. See `shaders/kernel/transform.wgsl`.

use super::teams::{Rows, of_rows};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Gpu, Target, fold_workgroups};
use crate::transform::MOST;
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

const WORKGROUP: u32 = 256;
/// Numbers of a workgroup, at least.
const TILE: u32 = 1024;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Transform {
    block: u32,
    tile: u32,
    workgroup: u32,
}

impl Transform {
    fn new(block: usize) -> Self {
        let block = block as u32;
        Self { block, tile: block.max(TILE), workgroup: WORKGROUP }
    }
}

impl Specialization for Transform {
    const KERNEL: &'static str = "transform";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        vec![Access::Read, Access::Read, Access::ReadWrite]
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub n: u32,
    pub k: u32,
    pub share: f32,
}

/// Records y `[rows, k]` of x `[rows, k]` and v `[k]`, in blocks of `block` columns.
///
/// # Errors
/// [`crate::Error::TooLarge`] if one of them is larger than a binding; those of the device.
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    [rows, k]: [usize; 2],
    [x, by, y]: [Rows<'_>; 3],
    block: usize,
) -> Result<()> {
    let kernel = Transform::new(block);
    let n = rows * k;
    let groups = fold_workgroups((n as u64).div_ceil(u64::from(kernel.tile)), gpu.limits())?;
    let bindings = [of_rows(x, 0, 1, n), of_rows(by, 0, 1, k), of_rows(y, 0, 1, n)];
    let pipeline = kernel.pipeline(gpu)?;
    let params = Params { n: n as u32, k: k as u32, share: 1.0 / (block as f32).sqrt() };
    gpu.dispatch(target, &pipeline, &bindings, bytemuck::bytes_of(&params), groups)
}

/// No rotation, blocks smaller than a workgroup's numbers, and the largest; the scheme does not matter.
pub fn shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    [1, 2, 128, MOST].map(|block| Transform::new(block).shader()).into_iter().collect()
}
