//! The mean of each sentence's rows. See `shaders/kernel/mean_pool.wgsl`.

use super::teams::{Rows, of_rows};
use super::{Columns, Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Binding, Gpu, Target, fold_workgroups};
use crate::product::Summation;
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

const WORKGROUP: u32 = 64;
/// Entries of a row that a workgroup has; the other threads of it take turns with the tokens.
const COLUMNS: u32 = 8;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MeanPool {
    ragged: bool,
    workgroup: u32,
    columns: u32,
}

impl MeanPool {
    fn new(d: usize) -> Self {
        Self { ragged: Columns::of(d) == Columns::Ragged, workgroup: WORKGROUP, columns: COLUMNS }
    }
}

impl Specialization for MeanPool {
    const KERNEL: &'static str = "mean_pool";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        vec![Access::Read, Access::Read, Access::ReadWrite]
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub sentences: u32,
    pub row_len: u32,
}

/// How the rows of a sentence of `length` tokens are summed.
pub fn summation(length: usize) -> Summation {
    let strides = WORKGROUP / COLUMNS;
    let chain = length.div_ceil(strides as usize);
    Summation { chain, depth: strides.ilog2() as usize, folded: false }
}

/// Records y `[B, d]` of x `[T, d]`; `lengths` are those of the B sentences and sum to T.
///
/// # Errors
/// [`crate::Error::TooLarge`] if x is larger than a binding; those of the device.
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    lengths: &[usize],
    d: usize,
    [x, y]: [Rows<'_>; 2],
) -> Result<()> {
    let kernel = MeanPool::new(d);
    let pipeline = kernel.pipeline(gpu)?;
    let mut spans = Vec::with_capacity(lengths.len());
    let mut start = 0;
    for &length in lengths {
        spans.push([start as u32, (start + length) as u32, (1.0 / length as f32).to_bits(), 0]);
        start += length;
    }
    let spans = gpu.constant(bytemuck::cast_slice(&spans), "sentences")?;
    let row_len = if kernel.ragged { d } else { d / 4 } as u32;
    let params = Params { sentences: lengths.len() as u32, row_len };
    let bindings = [of_rows(x, 0, start, d), Binding::whole(&spans), of_rows(y, 0, lengths.len(), d)];
    let groups = lengths.len() as u64 * u64::from(row_len.div_ceil(COLUMNS));
    let groups = fold_workgroups(groups, gpu.limits())?;
    gpu.dispatch(target, &pipeline, &bindings, bytemuck::bytes_of(&params), groups)
}

/// Both kinds of rows; the scheme does not matter.
pub fn shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    [4, 1].map(|d| MeanPool::new(d).shader()).into_iter().collect()
}
