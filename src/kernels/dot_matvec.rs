//! The product of int8 activations for few rows of x: a pass over the weights for up to 8 of them. See `shaders/kernel/dot_matvec.wgsl`.

use super::dot::{self, DotSpec};
use super::{Scheme, Shader, Specialization, Tier};
use super::{form, matvec};
use crate::Result;
use crate::gpu::{Access, Gpu};
use serde::Serialize;

/// Most rows of x in one pass.
pub const MAX_ROWS: usize = 8;

/// How threads are laid over rows, and how they read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub team: matvec::Shape,
    /// Whole chunks at once, else word by word.
    pub wide: bool,
}

/// Names that pin a shape, the default of the device first.
pub const VARIANTS: &[Option<&str>] =
    &[Some("dot_matvec"), Some("dot_matvec:wide"), Some("dot_matvec:words")];

impl Shape {
    /// The shape of a name in [`VARIANTS`] for `m` rows. Software takes words: a fraction of the code to compile.
    pub(super) fn named(name: &str, tier: Tier, m: usize, software: bool) -> Option<Self> {
        match name {
            "dot_matvec" => Some(Self::new(tier, m, !software)),
            "dot_matvec:wide" => Some(Self::new(tier, m, true)),
            "dot_matvec:words" => Some(Self::new(tier, m, false)),
            _ => None,
        }
    }

    /// Passes of equal numbers of rows of x; words for half as many, half the code again. Four weight rows of a team for every M, so that int8 outputs are whole words.
    pub(super) fn new(tier: Tier, m: usize, wide: bool) -> Self {
        let most = if wide { MAX_ROWS } else { MAX_ROWS / 2 };
        let m = m.div_ceil(m.div_ceil(most));
        Self { team: matvec::Shape { team_rows: 4, ..matvec::Shape::new(tier, m) }, wide }
    }

    pub(super) fn workgroups(&self, gpu: &Gpu, m: usize, n: usize) -> Result<[u32; 3]> {
        let [x, y, _] = self.team.workgroups(gpu, n)?;
        Ok([x, y, (m as u32).div_ceil(self.team.m)])
    }

    pub(super) fn max_rows(&self) -> usize {
        form::MAX_TILES * self.team.m as usize
    }
}

/// Specialization.
#[derive(Clone, Copy, Debug)]
pub struct DotMatvec {
    pub spec: DotSpec,
    pub shape: Shape,
}

impl Serialize for DotMatvec {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        dot::serialize(&self.spec, &self.shape.team, self.shape.wide, to)
    }
}

impl Specialization for DotMatvec {
    const KERNEL: &'static str = "dot_matvec";
    type Params = dot::Params;

    fn storage(&self) -> Vec<Access> {
        self.spec.storage()
    }

    fn needs(&self) -> Tier {
        self.spec.needs(if self.shape.team.subgroups { self.shape.team.lanes } else { 0 })
    }
}

/// The samples of products, the numbers of rows going around.
pub fn shaders(scheme: &Scheme, tier: Tier) -> Result<Vec<Shader>> {
    let specs = DotSpec::samples(scheme, tier);
    let rows = |i: usize| (i + i / 2) % MAX_ROWS + 1;
    let shape = |i| Shape::new(tier, rows(i), i % 3 < 2);
    specs.iter().enumerate().map(|(i, &spec)| DotMatvec { spec, shape: shape(i) }.shader()).collect()
}
