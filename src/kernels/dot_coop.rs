//! The tiled product of int8 activations on matrix units, for any M. See `shaders/kernel/dot_coop.wgsl`.

use super::dot::{self, DotSpec};
use super::product::{self, ProductSpec};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Gpu};
use crate::product::Activation;
use crate::scheme::Value;
use serde::Serialize;

/// Columns whose products of int8 codes f32 sums exactly: 128 * 128 * 1024 = 2^24.
const EXACT: u32 = 1024;

/// How subgroups lie over the tile of a workgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Shape {
    /// Of a cooperative matrix, each way.
    pub size: u32,
    /// Threads of a subgroup.
    pub subgroup: u32,
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
    /// Columns after which f32 sums become integers.
    pub exact: u32,
}

/// Names that pin a shape, the default of the device first.
pub const VARIANTS: &[Option<&str>] = &[Some("dot_coop"), Some("dot_coop:large"), Some("dot_coop:small")];

impl Shape {
    /// The shape of a name in [`VARIANTS`] on a tier with cooperative matrices. Software takes the small one: a fraction of the code to compile.
    pub(super) fn named(name: &str, tier: Tier, software: bool) -> Option<Self> {
        // Integers beside the sums take as many registers as they do: more subgroups with fewer matrices than `coop` has.
        let waves_n = if 8 * tier.subgroup <= 256 { 4 } else { 2 };
        let (waves_m, frags_m, frags_n) = (2, 4, 8 / waves_n);
        let (waves_n, frags_m, frags_n) = match name {
            "dot_coop" if software => (2, 2, 2),
            "dot_coop" | "dot_coop:large" => (waves_n, frags_m, frags_n),
            "dot_coop:small" => (2, 2, 2),
            _ => return None,
        };
        let (size, subgroup) = (tier.coop, tier.subgroup);
        let (bm, bn) = (waves_m * frags_m * size, waves_n * frags_n * size);
        let workgroup = waves_m * waves_n * subgroup;
        Some(Self {
            size,
            subgroup,
            workgroup,
            waves_m,
            waves_n,
            frags_m,
            frags_n,
            bm,
            bn,
            bk: 32,
            exact: EXACT,
        })
    }

    pub(super) fn workgroups(&self, gpu: &Gpu, m: usize, n: usize) -> Result<[u32; 3]> {
        product::tiles(gpu, [n, m], [self.bn, self.bm])
    }

    pub(super) fn max_rows(&self) -> usize {
        product::MAX_TILES * self.bm as usize
    }
}

/// Specialization.
#[derive(Clone, Copy, Debug)]
pub struct DotCoop {
    pub spec: DotSpec,
    pub shape: Shape,
}

impl DotCoop {
    /// The specialization of a product: the text always has f16.
    pub fn new(spec: DotSpec, shape: Shape) -> Self {
        Self { spec: DotSpec { product: ProductSpec { f16: true, ..spec.product }, ..spec }, shape }
    }
}

impl Serialize for DotCoop {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Wide {
            #[serde(flatten)]
            shape: Shape,
            wide: bool,
        }
        dot::serialize(&self.spec, &Wide { shape: self.shape, wide: true }, to)
    }
}

impl Specialization for DotCoop {
    const KERNEL: &'static str = "dot_coop";
    type Params = dot::Params;

    fn storage(&self) -> Vec<Access> {
        self.spec.storage()
    }

    fn needs(&self) -> Tier {
        Tier { f16: true, subgroup: self.shape.subgroup, coop: self.shape.size }
    }
}

/// Whether there is a form for this tier: a thread knows which outputs are its own only where subgroups are of one size.
pub fn runs(tier: Tier) -> bool {
    tier.coop > 0 && tier.subgroup > 0
}

/// Whether there is a form for this scheme: one scale for a row, codes that are integers themselves.
pub fn takes(scheme: &Scheme) -> bool {
    dot::takes(scheme) && dot::has_row_scales(scheme) && matches!(scheme.value, Value::Linear { .. })
}

/// Whether it multiplies such a product: sums are integers throughout.
pub(super) fn multiplies(scheme: &Scheme, activation: Activation, k: usize) -> bool {
    let int8 = matches!(activation, Activation::Int8(_) | Activation::Int8Static(_));
    int8 && takes(scheme) && dot::is_whole(scheme, activation, k)
}

/// The samples of products that are integers over all of K, the shapes going around; none where there are no matrix units.
pub fn shaders(scheme: &Scheme, tier: Tier) -> Result<Vec<Shader>> {
    let names = ["dot_coop:large", "dot_coop:small"].iter().filter(|_| runs(tier));
    let shapes: Vec<Shape> = names.filter_map(|name| Shape::named(name, tier, false)).collect();
    let specs = DotSpec::samples(scheme, tier).into_iter().filter(|spec| spec.whole && !spec.raw);
    specs.zip(shapes.iter().cycle()).map(|(spec, &shape)| DotCoop::new(spec, shape).shader()).collect()
}
