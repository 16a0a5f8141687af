//! The tiled product for any M. See `shaders/kernel/matmul.wgsl`.

use super::form;
use super::product::{self, ProductSpec};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Gpu};
use crate::product::{Accumulate, Summation};
use serde::Serialize;

/// Tile of a workgroup and of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Shape {
    pub bm: u32,
    pub bn: u32,
    /// Step along K.
    pub bk: u32,
    pub tm: u32,
    pub tn: u32,
    pub workgroup: u32,
}

/// For GPUs: 16 outputs per thread.
pub const LARGE: Shape = Shape { bm: 64, bn: 64, bk: 16, tm: 4, tn: 4, workgroup: 256 };
/// For software adapters: a quarter of the code to compile.
pub const SMALL: Shape = Shape { bm: 32, bn: 32, bk: 16, tm: 2, tn: 2, workgroup: 256 };
/// Names that pin a shape, the default of the device first.
pub const VARIANTS: &[Option<&str>] = &[Some("matmul"), Some("matmul:64x64"), Some("matmul:32x32")];

impl Shape {
    /// The shape of a name in [`VARIANTS`].
    pub(super) fn named(name: &str, software: bool) -> Option<Self> {
        match name {
            "matmul" if software => Some(SMALL),
            "matmul" | "matmul:64x64" => Some(LARGE),
            "matmul:32x32" => Some(SMALL),
            _ => None,
        }
    }

    pub(super) fn workgroups(&self, gpu: &Gpu, m: usize, n: usize) -> Result<[u32; 3]> {
        form::tiles(gpu, [n, m], [self.bn, self.bm])
    }

    pub(super) fn max_rows(&self) -> usize {
        form::MAX_TILES * self.bm as usize
    }

    pub(super) fn summation(&self, accumulate: Accumulate, k: usize) -> Summation {
        let step = self.bk as usize;
        match accumulate {
            Accumulate::F32 | Accumulate::F16 => {
                Summation { chain: k.next_multiple_of(4), depth: 0, folded: false }
            }
            Accumulate::F16Chunked => Summation { chain: step + k.div_ceil(step), depth: 0, folded: false },
        }
    }
}

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Matmul {
    #[serde(flatten)]
    pub spec: ProductSpec,
    #[serde(flatten)]
    pub shape: Shape,
}

impl Specialization for Matmul {
    const KERNEL: &'static str = "matmul";
    type Params = product::Params;

    fn storage(&self) -> Vec<Access> {
        self.spec.storage()
    }

    fn needs(&self) -> Tier {
        Tier { f16: self.spec.f16, ..Tier::PORTABLE }
    }
}

/// The samples of products, each with either tile.
pub fn shaders(scheme: &Scheme, tier: Tier) -> Result<Vec<Shader>> {
    let specs = ProductSpec::samples(scheme, tier);
    let part = specs[usize::from(scheme.bits) % specs.len()].of_part();
    let specs = specs.iter().chain([&part]);
    let all = specs.flat_map(|&spec| [LARGE, SMALL].map(|shape| Matmul { spec, shape }));
    all.map(|matmul| matmul.shader()).collect()
}
