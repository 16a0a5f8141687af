//! Multi-head attention within sentences that lie one after the other. See `shaders/kernel/attention.wgsl`.

use super::teams::{Rows, of_rows};
use super::{Columns, Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Binding, Gpu, Target, fold_workgroups};
use crate::product::Summation;
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

/// Tokens of a workgroup: those of short sentences leave threads idle.
const TOKENS: u32 = 32;
/// Vectors of four of a head that a thread holds at most, twice: of q and of y.
const MAX_QUADS: usize = 16;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Attention {
    /// Columns of a head.
    head: u32,
    /// How many threads share a token's head, and vectors of four that each has of it.
    slices: u32,
    quads: u32,
    ragged: bool,
    tokens: u32,
    /// Tokens whose weights are worked out at a time: 4, or 1.
    block: u32,
}

impl Attention {
    /// For heads of `head` columns, on a software adapter or not.
    fn new(head: usize, software: bool) -> Self {
        let (quads, ragged) = (head.div_ceil(4), Columns::of(head) == Columns::Ragged);
        // Single numbers are loaded with an address each.
        let slices = quads.div_ceil(if ragged { MAX_QUADS / 2 } else { MAX_QUADS });
        Self {
            head: head as u32,
            slices: slices as u32,
            quads: quads.div_ceil(slices) as u32,
            ragged,
            tokens: TOKENS,
            block: if software { 1 } else { 4 },
        }
    }
}

impl Specialization for Attention {
    const KERNEL: &'static str = "attention";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        vec![Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite]
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub tiles: u32,
    pub heads: u32,
    pub row_len: u32,
    pub scale: f32,
}

/// How a score of a head of `head` columns is summed.
pub fn score_summation(gpu: &Gpu, head: usize) -> Summation {
    let Attention { quads, slices, .. } = Attention::new(head, gpu.info().software);
    // The scaling of q, of a vector of four a product and three additions, and the slices in a row.
    Summation { chain: (quads + slices) as usize + 4, depth: 0, folded: false }
}

/// How the weights and the weighted rows of `length` tokens are summed.
pub fn weighted_summation(gpu: &Gpu, length: usize) -> Summation {
    let block = Attention::new(1, gpu.info().software).block as usize;
    // Of a block: its terms and the scaling down. One product of a weight and a number.
    Summation { chain: length.div_ceil(block) * (block + 1) + 1, depth: 0, folded: false }
}

/// The exponentials that a weight is a product of at most: its own, and what each block behind it scales down by.
pub fn powers(gpu: &Gpu, length: usize) -> usize {
    length.div_ceil(Attention::new(1, gpu.info().software).block as usize)
}

/// Records y `[T, d]` of q, k, v `[T, d]`; `lengths` are those of the sentences and sum to T.
///
/// # Errors
/// [`crate::Error::TooLarge`] if q is larger than a binding; those of the device.
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    (lengths, heads): (&[usize], usize),
    d: usize,
    [q, k, v, y]: [Rows<'_>; 4],
) -> Result<()> {
    let head = d / heads;
    let kernel = Attention::new(head, gpu.info().software);
    let pipeline = kernel.pipeline(gpu)?;
    let mut tiles = Vec::new();
    let mut start = 0;
    for &length in lengths {
        let end = start + length;
        tiles.extend((start..end).step_by(TOKENS as usize).map(|t| [t, start, end, 0].map(|n| n as u32)));
        start = end;
    }
    let params = Params {
        tiles: tiles.len() as u32,
        heads: heads as u32,
        row_len: if kernel.ragged { d } else { d / 4 } as u32,
        scale: 1.0 / (head as f32).sqrt(),
    };
    let groups = fold_workgroups((tiles.len() * heads) as u64, gpu.limits())?;
    let tiles = gpu.constant(bytemuck::cast_slice(&tiles), "tiles of sentences")?;
    let [q, k, v, y] = [q, k, v, y].map(|rows| of_rows(rows, 0, start, d));
    let bindings = [q, k, v, Binding::whole(&tiles), y];
    gpu.dispatch(target, &pipeline, &bindings, bytemuck::bytes_of(&params), groups)
}

/// Sizes of heads that models have, the smallest, the largest, and some that are no multiples of 4; the scheme does not matter.
pub fn shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    let sizes = [1, 3, 20, 30, 32, 64, 99, 128, 256];
    sizes
        .iter()
        .flat_map(|&head| [false, true].map(|software| Attention::new(head, software).shader()))
        .collect()
}
