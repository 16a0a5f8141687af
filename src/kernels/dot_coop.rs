//! The tiled product of int8 activations on matrix units, for any M. See `shaders/kernel/dot_coop.wgsl`.

use super::coop::Shape;
use super::dot::{self, DotSpec};
use super::product::ProductSpec;
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::Access;
use crate::product::Activation;
use crate::scheme::Value;
use serde::Serialize;

/// Names that pin a shape, the default of the device first.
pub const VARIANTS: &[Option<&str>] = &[Some("dot_coop"), Some("dot_coop:large"), Some("dot_coop:small")];

/// The shape of a name in [`VARIANTS`] on a tier with cooperative matrices. Software takes the small one: a fraction of the code to compile.
pub(super) fn named(name: &str, tier: Tier, software: bool) -> Option<Shape> {
    let small = ([2, 2], [2, 2]);
    // Integers beside the sums take as many registers as they do: more subgroups with fewer matrices than `coop` has.
    let waves_n = if 8 * tier.subgroup <= 256 { 4 } else { 2 };
    let large = ([2, waves_n], [4, 8 / waves_n]);
    let (waves, frags) = match name {
        "dot_coop" if software => small,
        "dot_coop" | "dot_coop:large" => large,
        "dot_coop:small" => small,
        _ => return None,
    };
    Some(Shape::new(tier, waves, frags, 32, false))
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
        dot::serialize(&self.spec, &self.shape, true, to)
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
    let shapes: Vec<Shape> = names.filter_map(|name| named(name, tier, false)).collect();
    let specs = DotSpec::samples(scheme, tier).into_iter().filter(|spec| spec.whole && !spec.raw);
    specs.zip(shapes.iter().cycle()).map(|(spec, &shape)| DotCoop::new(spec, shape).shader()).collect()
}
