//! The product without workgroup memory, for any M: the default of software adapters. See `shaders/kernel/direct.wgsl`.

use super::form;
use super::product::{self, ProductSpec};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Gpu};
use crate::product::{Accumulate, Summation};
use serde::Serialize;

/// What a thread owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Shape {
    pub workgroup: u32,
    /// Threads of a subgroup, which share the loads of x; 0: each loads all of it.
    pub lanes: u32,
    /// Rows of x.
    pub tm: u32,
    /// Weight rows.
    pub tn: u32,
    /// Loads of x per row and chunk of 32 values: subgroups of 4 need two.
    pub parts: u32,
}

impl Shape {
    /// The shape for `m` rows: tiles of equal height, of 8 rows at most.
    pub fn new(tier: Tier, m: usize) -> Self {
        // A subgroup of 4 has the 8 quads of a chunk in two loads.
        let lanes = if tier.subgroup >= 4 { tier.subgroup } else { 0 };
        // Without them loads of x are most of the work, and are shared by the weight rows of a thread alone.
        let (most, tn) = if lanes > 0 { (8, 2) } else { (2, 4) };
        let tm = m.div_ceil(m.div_ceil(most)) as u32;
        let workgroup = if lanes > 0 { (4 * lanes).min(256) } else { 32 };
        Self { workgroup, lanes, tm, tn, parts: if lanes == 4 { 2 } else { 1 } }
    }

    pub(super) fn workgroups(&self, gpu: &Gpu, m: usize, n: usize) -> Result<[u32; 3]> {
        form::tiles(gpu, [n, m], [self.workgroup * self.tn, self.tm])
    }

    pub(super) fn max_rows(&self) -> usize {
        form::MAX_TILES * self.tm as usize
    }

    pub(super) fn summation(&self, k: usize) -> Summation {
        Summation { chain: k.next_multiple_of(32), depth: 0, folded: false }
    }
}

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Direct {
    #[serde(flatten)]
    pub spec: ProductSpec,
    #[serde(flatten)]
    pub shape: Shape,
}

impl Specialization for Direct {
    const KERNEL: &'static str = "direct";
    type Params = product::Params;

    fn storage(&self) -> Vec<Access> {
        self.spec.storage()
    }

    fn needs(&self) -> Tier {
        Tier { f16: self.spec.f16, subgroup: self.shape.lanes, coop: 0 }
    }
}

/// The samples of products that sum in f32, the numbers of rows going around.
pub fn shaders(scheme: &Scheme, tier: Tier) -> Result<Vec<Shader>> {
    let mut specs = ProductSpec::samples(scheme, tier);
    specs.retain(|spec| spec.accumulate == Accumulate::F32);
    let shape = |i: usize| Shape::new(tier, [1, 8, 3, 6, 2, 5][i % 6]);
    specs.iter().enumerate().map(|(i, &spec)| Direct { spec, shape: shape(i) }.shader()).collect()
}
