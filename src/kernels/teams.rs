//! Kernels whose teams of threads own rows of f32: what `lib/team.wgsl`, `lib/team_joins.wgsl` and `lib/total.wgsl` ask for, and their dispatch.
//!
//! ```text
//! rows [M, D] --dispatches of as many as a binding holds--> workgroups of teams --a row each--> y [M, D]
//! ```

use super::weights::dense_rows;
use super::{Columns, Specialization, Tier};
use crate::Result;
use crate::gpu::{Binding, Buffer, Gpu, Target, fold_workgroups};
use crate::product::Summation;
use serde::Serialize;

/// How threads are laid over rows of D numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Teams {
    pub workgroup: u32,
    /// Threads of a team.
    pub lanes: u32,
    pub subgroups: bool,
    /// Rows are single numbers and not vectors of four.
    pub ragged: bool,
}

impl Teams {
    /// For rows of `d` numbers.
    pub fn new(tier: Tier, d: usize) -> Self {
        let ragged = Columns::of(d) == Columns::Ragged;
        match tier.subgroup {
            0 => Self { workgroup: 64, lanes: 32, subgroups: false, ragged },
            size => Self { workgroup: 64.max(size), lanes: size, subgroups: true, ragged },
        }
    }

    /// Both kinds of rows.
    pub fn all(tier: Tier) -> [Self; 2] {
        [4, 1].map(|d| Self::new(tier, d))
    }

    /// What a kernel needs of a device.
    pub fn needs(&self) -> Tier {
        Tier { subgroup: if self.subgroups { self.lanes } else { 0 }, ..Tier::PORTABLE }
    }

    /// Entries of a row.
    pub fn row_len(&self, d: usize) -> usize {
        if self.ragged { d } else { d / 4 }
    }

    /// How a row of `d` numbers is summed.
    pub fn summation(&self, d: usize) -> Summation {
        // The numbers of an entry are joined in two steps.
        let within = if self.ragged { 0 } else { 2 };
        let chain = self.row_len(d).div_ceil(self.lanes as usize) + within;
        Summation { chain, depth: self.lanes.ilog2() as usize, folded: false }
    }

    /// Records `kernel` over x `[rows, d]`, the operands `between` and y, which begin at bytes that are multiples of 256. `params` makes its uniform for
    /// a number of rows.
    ///
    /// # Errors
    /// [`crate::Error::TooLarge`] if a row is larger than a binding; those of the device.
    pub fn record<K: Specialization>(
        &self,
        gpu: &Gpu,
        target: &mut Target<'_>,
        kernel: &K,
        [rows, d]: [usize; 2],
        (x, between, y): (Rows<'_>, &[Binding<'_>], Rows<'_>),
        params: impl Fn(u32) -> K::Params,
    ) -> Result<()> {
        let pipeline = kernel.pipeline(gpu)?;
        let most = dense_rows(gpu, rows, d, 4)?;
        for row in (0..rows).step_by(most) {
            let n = most.min(rows - row);
            let mut bindings = vec![of_rows(x, row, n, d)];
            bindings.extend_from_slice(between);
            bindings.push(of_rows(y, row, n, d));
            let teams = (self.workgroup / self.lanes) as usize;
            let groups = fold_workgroups(n.div_ceil(teams) as u64, gpu.limits())?;
            gpu.dispatch(target, &pipeline, &bindings, bytemuck::bytes_of(&params(n as u32)), groups)?;
        }
        Ok(())
    }
}

/// A buffer, and the byte in it where rows of f32 begin.
pub type Rows<'a> = (&'a Buffer, u64);

/// `n` rows of `d` f32 from `row` on.
pub(super) fn of_rows<'a>((buffer, offset): Rows<'a>, row: usize, n: usize, d: usize) -> Binding<'a> {
    Binding::range(buffer, offset + (row * d * 4) as u64, (n * d * 4) as u64)
}
