//! Second moments of columns, X^T X. See `shaders/kernel/gram.wgsl`.

use super::teams::{Rows, of_rows};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Gpu, Target, fold_workgroups};
use crate::product::Summation;
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

/// Rows and columns of y that a workgroup has.
const TILE: u32 = 32;
/// Rows of x in workgroup memory at a time.
const STEPS: u32 = 16;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Gram {
    /// Whether something is added.
    onto: bool,
    tile: u32,
    steps: u32,
}

impl Gram {
    fn new(onto: bool) -> Self {
        Self { onto, tile: TILE, steps: STEPS }
    }
}

impl Specialization for Gram {
    const KERNEL: &'static str = "gram";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        let reads = 1 + usize::from(self.onto);
        let mut storage = vec![Access::Read; reads];
        storage.push(Access::ReadWrite);
        storage
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub tokens: u32,
    pub k: u32,
}

/// How a number of y is summed over `tokens` rows, `onto` included.
pub fn summation(tokens: usize) -> Summation {
    Summation { chain: tokens + 1, depth: 0, folded: false }
}

/// Records y `[k, k]` of x `[tokens, k]` and what is added to it.
///
/// # Errors
/// [`crate::Error::TooLarge`] if one of them is larger than a binding; those of the device.
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    [tokens, k]: [usize; 2],
    [x, y]: [Rows<'_>; 2],
    onto: Option<Rows<'_>>,
) -> Result<()> {
    let kernel = Gram::new(onto.is_some());
    let pipeline = kernel.pipeline(gpu)?;
    let params = Params { tokens: tokens as u32, k: k as u32 };
    let mut bindings = vec![of_rows(x, 0, tokens, k)];
    bindings.extend(onto.map(|onto| of_rows(onto, 0, k, k)));
    bindings.push(of_rows(y, 0, k, k));
    let tiles = (k as u64).div_ceil(u64::from(TILE));
    let groups = fold_workgroups(tiles * tiles, gpu.limits())?;
    gpu.dispatch(target, &pipeline, &bindings, bytemuck::bytes_of(&params), groups)
}

/// With and without something to add to; the scheme does not matter.
pub fn shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    [false, true].map(|onto| Gram::new(onto).shader()).into_iter().collect()
}
