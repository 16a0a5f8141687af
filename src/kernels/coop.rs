//! The tiled product on matrix units, for any M. See `shaders/kernel/coop.wgsl`.

use super::form;
use super::product::{self, ProductSpec};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Gpu};
use crate::product::{Accumulate, Summation};
use serde::Serialize;

/// How subgroups lie over the tile of a workgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Shape {
    /// Of a cooperative matrix, each way.
    pub size: u32,
    /// Threads of a subgroup; 0 where their number is not known.
    pub subgroup: u32,
    /// Whether there may be twice as many subgroups, each with half of the matrices, as waves_m x waves_n.
    pub varying: bool,
    pub workgroup: u32,
    pub waves_m: u32,
    pub waves_n: u32,
    /// Matrices of outputs of a subgroup.
    pub frags_m: u32,
    pub frags_n: u32,
    pub bm: u32,
    pub bn: u32,
    /// Step along K.
    pub bk: u32,
}

/// Names that pin a shape, the default of the device first.
pub const VARIANTS: &[Option<&str>] = &[
    Some("coop"),
    Some("coop:large"),
    Some("coop:small"),
    Some("coop:varying"),
    Some("coop:large:split"),
    Some("coop:small:split"),
];

impl Shape {
    /// The shape of a name in [`VARIANTS`] on a tier with cooperative matrices. Software takes the small one: a quarter of the code to compile.
    pub(super) fn named(name: &str, tier: Tier, software: bool) -> Option<Self> {
        let (waves, steps) = (2, 2);
        let frags = match name {
            "coop" if software => 2,
            "coop" | "coop:large" | "coop:varying" => 4,
            "coop:small" => 2,
            _ => return None,
        };
        let varying = tier.subgroup == 0 || name == "coop:varying";
        Some(Self::new(tier, [waves, waves], [frags, frags], steps * tier.coop, varying))
    }

    /// `waves` subgroups, each with `frags` matrices of outputs: along M, along N.
    pub(super) fn new(tier: Tier, waves: [u32; 2], frags: [u32; 2], bk: u32, varying: bool) -> Self {
        let (size, subgroup) = (tier.coop, tier.subgroup);
        let all = waves[0] * waves[1];
        // Of the smallest subgroups there are twice as many as of the largest.
        let workgroup = match subgroup {
            0 => all * Tier::VARYING.1,
            _ if varying => 2 * all * subgroup,
            _ => all * subgroup,
        };
        Self {
            size,
            subgroup: if varying { 0 } else { subgroup },
            varying,
            workgroup,
            waves_m: waves[0],
            waves_n: waves[1],
            frags_m: frags[0],
            frags_n: frags[1],
            bm: waves[0] * frags[0] * size,
            bn: waves[1] * frags[1] * size,
            bk,
        }
    }

    pub(super) fn workgroups(&self, gpu: &Gpu, m: usize, n: usize) -> Result<[u32; 3]> {
        form::tiles(gpu, [n, m], [self.bn, self.bm])
    }

    pub(super) fn max_rows(&self) -> usize {
        form::MAX_TILES * self.bm as usize
    }

    pub(super) fn summation(&self, k: usize) -> Summation {
        // Matrix units may truncate where others round: twice the error of a step.
        let chain = 2 * k.next_multiple_of(self.bk as usize);
        Summation { chain, depth: 0, folded: false }
    }
}

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Coop {
    #[serde(flatten)]
    pub spec: ProductSpec,
    #[serde(flatten)]
    pub shape: Shape,
}

impl Coop {
    /// The specialization of a product: text and bindings always have f16, and there is one way to sum.
    pub fn new(spec: ProductSpec, shape: Shape) -> Self {
        Self { spec: ProductSpec { f16: true, accumulate: Accumulate::F32, ..spec }, shape }
    }
}

impl Specialization for Coop {
    const KERNEL: &'static str = "coop";
    type Params = product::Params;

    fn storage(&self) -> Vec<Access> {
        self.spec.storage()
    }

    fn needs(&self) -> Tier {
        Tier { f16: true, subgroup: self.shape.subgroup, coop: self.shape.size }
    }
}

/// The samples of products that sum alike, the shapes going around; none where there are no matrix units.
pub fn shaders(scheme: &Scheme, tier: Tier) -> Result<Vec<Shader>> {
    let names = ["coop:large", "coop:small", "coop:varying"].iter().filter(|_| tier.coop > 0);
    let shapes: Vec<Shape> = names.filter_map(|name| Shape::named(name, tier, false)).collect();
    let mut specs = ProductSpec::samples(scheme, tier);
    specs.retain(|spec| spec.accumulate == Accumulate::F16Chunked);
    specs.extend(specs.first().map(|spec| spec.of_part()));
    specs.iter().zip(shapes.iter().cycle()).map(|(&spec, &shape)| Coop::new(spec, shape).shader()).collect()
}
