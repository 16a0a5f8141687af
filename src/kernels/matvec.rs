//! The product for M of 1 to 16: one pass over the weights. See `shaders/kernel/matvec.wgsl`.

use super::product::{self, ProductSpec};
use super::{Scheme, Shader, Specialization, Tier, context};
use crate::Result;
use crate::gpu::{Access, Gpu, fold_workgroups};
use crate::product::{Accumulate, Summation};
use serde::Serialize;

/// Most rows of x in one pass.
pub const MAX_ROWS: usize = 16;

/// How threads are laid over rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Shape {
    pub workgroup: u32,
    /// Threads of a team.
    pub lanes: u32,
    /// Weight rows of a team.
    pub team_rows: u32,
    /// Rows of x.
    pub m: u32,
    /// Whether the values of a chunk follow each other in the text, their codes loaded at once. With more rows of x the text gets long,
    /// and loads of x are most of the work.
    pub unrolled: bool,
    pub subgroups: bool,
}

impl Shape {
    /// The default shape.
    pub fn new(tier: Tier, m: usize) -> Self {
        let team_rows = if m <= 4 { 4 } else { 2 };
        let (m, unrolled) = (m as u32, m <= 4);
        match tier.subgroup {
            0 => Self { workgroup: 64, lanes: 32, team_rows, m, unrolled, subgroups: false },
            size => Self { workgroup: 64.max(size), lanes: size, team_rows, m, unrolled, subgroups: true },
        }
    }

    /// Weight rows per workgroup.
    pub(super) fn rows(&self) -> u32 {
        self.workgroup / self.lanes * self.team_rows
    }

    pub(super) fn workgroups(&self, gpu: &Gpu, n: usize) -> Result<[u32; 3]> {
        fold_workgroups(n.div_ceil(self.rows() as usize) as u64, gpu.limits())
    }

    pub(super) fn summation(&self, scheme: &Scheme, accumulate: Accumulate, k: usize) -> Summation {
        let lanes = self.lanes as usize;
        let chunks = k.div_ceil(32).div_ceil(lanes);
        let sub = context::sub(scheme);
        let depth = lanes.ilog2() as usize;
        match accumulate {
            // A lane sums `sub` products, folds in the zero and the bias, and adds the result to its accumulator.
            Accumulate::F32 => Summation { chain: sub + 4 + chunks * (32 / sub), depth, folded: true },
            Accumulate::F16Chunked => Summation { chain: sub + chunks * (32 / sub), depth, folded: false },
            Accumulate::F16 => Summation { chain: chunks * 32, depth, folded: false },
        }
    }
}

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Matvec {
    #[serde(flatten)]
    pub spec: ProductSpec,
    #[serde(flatten)]
    pub shape: Shape,
}

impl Specialization for Matvec {
    const KERNEL: &'static str = "matvec";
    type Params = product::Params;

    fn storage(&self) -> Vec<Access> {
        self.spec.storage()
    }

    fn needs(&self) -> Tier {
        let subgroup = if self.shape.subgroups { self.shape.lanes } else { 0 };
        Tier { f16: self.spec.f16, subgroup, coop: 0 }
    }
}

/// The samples of products, the numbers of rows going around.
pub fn shaders(scheme: &Scheme, tier: Tier) -> Result<Vec<Shader>> {
    let specs = ProductSpec::samples(scheme, tier);
    let part = specs[usize::from(scheme.bits) % specs.len()].of_part();
    specs
        .iter()
        .chain([&part])
        .enumerate()
        .map(|(i, &spec)| Matvec { spec, shape: Shape::new(tier, (i + i / 2) % MAX_ROWS + 1) }.shader())
        .collect()
}
