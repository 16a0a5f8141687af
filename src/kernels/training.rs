//! What the kernels of training share: operands in the order of bindings, and their dispatch.
//!
//! ```text
//! read operands, then y -> bindings 1, 2, ...        a thread for each number, row or tile -> workgroups, folded
//! ```

use super::Specialization;
use super::teams::{Rows, of_rows};
use crate::Result;
use crate::gpu::{Access, Gpu, Target, fold_workgroups};

/// Threads of a workgroup of the kernels that have a thread for each number or row.
pub const WORKGROUP: u32 = 64;

/// Arrays of f32, each with how many numbers it has: those that are read, in the order of their bindings, and y.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a> {
    pub read: &'a [(Rows<'a>, usize)],
    pub y: (Rows<'a>, usize),
}

impl Operands<'_> {
    /// Records a kernel of so many workgroups over these operands.
    ///
    /// # Errors
    /// [`crate::Error::TooLarge`] if one of them is larger than a binding; those of the device.
    pub fn record<K: Specialization>(
        &self,
        gpu: &Gpu,
        target: &mut Target<'_>,
        kernel: &K,
        params: K::Params,
        workgroups: usize,
    ) -> Result<()> {
        let pipeline = kernel.pipeline(gpu)?;
        let bindings: Vec<_> =
            self.read.iter().chain([&self.y]).map(|&(array, n)| of_rows(array, 0, 1, n)).collect();
        let groups = fold_workgroups(workgroups as u64, gpu.limits())?;
        gpu.dispatch(target, &pipeline, &bindings, bytemuck::bytes_of(&params), groups)
    }
}

/// So many operands that are read, and y.
pub fn accesses(reads: usize) -> Vec<Access> {
    let mut all = vec![Access::Read; reads];
    all.push(Access::ReadWrite);
    all
}
