//! The product of int8 activations for M of 1 to 8: one pass over the weights. See `shaders/kernel/dot_matvec.wgsl`.

use super::dot::{self, DotSpec};
use super::matvec::Shape;
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::Access;
use serde::Serialize;

/// Most rows of x in one pass.
pub const MAX_ROWS: usize = 8;

/// Specialization.
#[derive(Clone, Copy, Debug)]
pub struct DotMatvec {
    pub spec: DotSpec,
    pub shape: Shape,
}

/// Four rows of a team for every M, so that int8 outputs are whole words.
pub fn shape(tier: Tier, m: usize) -> Shape {
    Shape { team_rows: 4, ..Shape::new(tier, m) }
}

impl Serialize for DotMatvec {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        dot::serialize(&self.spec, &self.shape, to)
    }
}

impl Specialization for DotMatvec {
    const KERNEL: &'static str = "dot_matvec";
    type Params = dot::Params;

    fn storage(&self) -> Vec<Access> {
        self.spec.storage()
    }

    fn needs(&self) -> Tier {
        self.spec.needs(if self.shape.subgroups { self.shape.lanes } else { 0 })
    }
}

/// The samples of products, the numbers of rows going around.
pub fn shaders(scheme: &Scheme, tier: Tier) -> Result<Vec<Shader>> {
    let specs = DotSpec::samples(scheme, tier);
    let rows = |i: usize| (i + i / 2) % MAX_ROWS + 1;
    specs
        .iter()
        .enumerate()
        .map(|(i, &spec)| DotMatvec { spec, shape: shape(tier, rows(i)) }.shader())
        .collect()
}
