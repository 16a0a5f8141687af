//! The tiled product of int8 activations for any M. See `shaders/kernel/dot_matmul.wgsl`.

use super::dot::{self, DotSpec};
use super::matmul::Shape;
use super::{Scheme, Shader, Specialization, Tier, context};
use crate::Result;
use crate::gpu::Access;
use serde::Serialize;

/// For GPUs: 16 outputs per thread. `tn` is four in every shape, so that int8 outputs are whole words, and `bk` a multiple of 32.
pub const LARGE: Shape = Shape { bm: 64, bn: 64, bk: 64, tm: 4, tn: 4, workgroup: 256 };
/// For software adapters.
pub const SMALL: Shape = Shape { bm: 32, bn: 64, bk: 32, tm: 2, tn: 4, workgroup: 256 };
/// Names that pin a shape, the default of the device first.
pub const VARIANTS: &[Option<&str>] =
    &[Some("dot_matmul"), Some("dot_matmul:64x64"), Some("dot_matmul:32x64")];

/// The shape of a name in [`VARIANTS`].
pub(super) fn named(name: &str, software: bool) -> Option<Shape> {
    match name {
        "dot_matmul" if software => Some(SMALL),
        "dot_matmul" | "dot_matmul:64x64" => Some(LARGE),
        "dot_matmul:32x64" => Some(SMALL),
        _ => None,
    }
}

/// Specialization.
#[derive(Clone, Copy, Debug)]
pub struct DotMatmul {
    pub spec: DotSpec,
    pub shape: Shape,
}

impl Serialize for DotMatmul {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // Shorter steps where a scheme has so many groups that their scales would not fit beside them.
        let bk = if context::sub(&self.spec.product.scheme) < 16 { 32 } else { self.shape.bk };
        dot::serialize(&self.spec, &Shape { bk, ..self.shape }, true, to)
    }
}

impl Specialization for DotMatmul {
    const KERNEL: &'static str = "dot_matmul";
    type Params = dot::Params;

    fn storage(&self) -> Vec<Access> {
        self.spec.storage()
    }

    fn needs(&self) -> Tier {
        self.spec.needs(0)
    }
}

/// The samples of products, the tiles going around. Sums of rows are the business of `dot_matvec`.
pub fn shaders(scheme: &Scheme, tier: Tier) -> Result<Vec<Shader>> {
    let specs = DotSpec::samples(scheme, tier).into_iter().filter(|spec| !spec.raw);
    let shapes = [LARGE, SMALL].into_iter().cycle();
    specs.zip(shapes).map(|(spec, shape)| DotMatmul { spec, shape }.shader()).collect()
}
