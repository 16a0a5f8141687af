//! Which product kernel runs, in which shape, over how many parts of K: what a name of a variant stands for on a device.
//!
//! ```text
//! "matvec:split" --Choice::new (device, product)--> Choice { form: Matvec(shape), parts } or why it is none there
//! ```
//!
//! Which name it is, where none is asked for, is decided in `choice.rs`; `product.rs` records what was chosen.

use super::choice::{self, Facts};
use super::dot::{self, DotSpec};
use super::{Specialization, Tier};
use super::{coop, direct, dot_coop, dot_matmul, dot_matvec, matmul, matvec};
use crate::gpu::{Gpu, Pipeline};
use crate::product::{Accumulate, Product, Summation};
use crate::{Error, Result, Scheme};
use std::sync::Arc;

/// What runs a product: a kernel, and over how many parts of K.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    pub form: Form,
    /// 1: K is not split.
    pub parts: u32,
}

/// The end of the name of a variant that splits K.
pub(super) const SPLIT: &str = ":split";

impl Choice {
    /// The kernel and shape of a name on a device.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a name that is no product kernel, or one that does not take so many rows, needs what the device has not, or
    /// is less exact than the product allows.
    pub fn new(name: &str, on: &Facts, shape: &choice::Shape) -> Result<Self> {
        let Some(whole) = name.strip_suffix(SPLIT) else {
            return Ok(Self { form: Form::new(name, on, shape)?, parts: 1 });
        };
        let form = Form::new(whole, on, shape)?;
        match form.parts(shape) {
            Some(parts) => Ok(Self { form, parts }),
            None => Err(Error::unsupported(format!("product kernel '{name}'"), "it does not split K")),
        }
    }

    /// The kernel's name in `KERNELS`.
    pub fn kernel(&self) -> &'static str {
        self.form.kernel()
    }

    /// Of one dispatch.
    pub fn workgroups(&self, gpu: &Gpu, m: usize, n: usize) -> Result<[u32; 3]> {
        let [x, y, z] = self.form.workgroups(gpu, m, n)?;
        Ok([x, y, z * self.parts])
    }

    /// Chunks of 32 columns of a part.
    pub(super) fn k_part(&self, k: usize) -> usize {
        k.div_ceil(32).div_ceil(self.parts as usize)
    }

    /// How sums are formed, for error bounds.
    pub fn summation(&self, scheme: &Scheme, product: &Product, k: usize) -> Summation {
        match self.parts {
            1 => self.form.summation(scheme, product, k),
            parts => {
                let part = self.form.summation(scheme, product, 32 * self.k_part(k));
                Summation { chain: part.chain + parts as usize, ..part }
            }
        }
    }

    /// The sums that are really carried out under a policy.
    pub fn accumulate(&self, policy: Accumulate, tier: Tier) -> Accumulate {
        self.form.accumulate(policy, tier)
    }

    /// Whether operands are rounded to f16 under a policy.
    pub fn halves(&self, policy: Accumulate, tier: Tier) -> bool {
        matches!(self.form, Form::Coop(_)) || self.accumulate(policy, tier) != Accumulate::F32
    }
}

/// Which product kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    Matvec(matvec::Shape),
    Matmul(matmul::Shape),
    Direct(direct::Shape),
    Coop(coop::Shape),
    DotMatvec(dot_matvec::Shape),
    DotMatmul(matmul::Shape),
    DotCoop(coop::Shape),
}

impl Form {
    fn kernel(&self) -> &'static str {
        match self {
            Self::Matvec(_) => matvec::Matvec::KERNEL,
            Self::Matmul(_) => matmul::Matmul::KERNEL,
            Self::Direct(_) => direct::Direct::KERNEL,
            Self::Coop(_) => coop::Coop::KERNEL,
            Self::DotMatvec(_) => dot_matvec::DotMatvec::KERNEL,
            Self::DotMatmul(_) => dot_matmul::DotMatmul::KERNEL,
            Self::DotCoop(_) => dot_coop::DotCoop::KERNEL,
        }
    }

    fn new(name: &str, on: &Facts, shape: &choice::Shape) -> Result<Self> {
        let (tier, software, m) = (on.tier, on.info.software, shape.m);
        // Which one is meant, then whether it takes the product.
        let form = match name {
            "matvec" => Some(Self::Matvec(matvec::Shape::new(tier, m))),
            "direct" => Some(Self::Direct(direct::Shape::new(tier, m))),
            _ => None,
        };
        let form = form
            .or_else(|| matmul::Shape::named(name, software).map(Self::Matmul))
            .or_else(|| coop::Shape::named(name, tier, software).map(Self::Coop))
            .or_else(|| dot_matvec::Shape::named(name, tier, m, software).map(Self::DotMatvec))
            .or_else(|| dot_matmul::named(name, software).map(Self::DotMatmul))
            .or_else(|| dot_coop::named(name, tier, software).map(Self::DotCoop));
        let units = "the device has no cooperative matrices of f16 with sums in f32".to_string();
        let why = match form {
            None => "there are matvec, matmul, direct, coop, dot_matvec, dot_matmul and dot_coop".into(),
            Some(Self::Matvec(_)) if m > matvec::MAX_ROWS => {
                format!("it takes up to {} rows of x", matvec::MAX_ROWS)
            }
            Some(Self::Coop(_) | Self::DotCoop(_)) if tier.coop == 0 => units,
            Some(Self::DotCoop(_)) if !dot_coop::runs(tier) => "subgroups are of no fixed size".into(),
            Some(Self::Coop(_)) if shape.accumulate == Accumulate::F32 => {
                "it rounds operands to f16; ask for f16 or f16-chunked sums".into()
            }
            Some(Self::DotMatvec(_) | Self::DotMatmul(_)) if !shape.in_integers() => {
                "it is for int8 activations, and schemes whose values are integers".into()
            }
            Some(Self::DotCoop(_)) if !dot_coop::multiplies(&shape.scheme, shape.activation, shape.k) => {
                "it is for int8 activations and weights with one scale for a row each, K up to 32768".into()
            }
            Some(form) => return Ok(form),
        };
        Err(Error::unsupported(format!("product kernel '{name}' for M = {m}"), why))
    }

    /// Whether it multiplies int8 activations.
    pub fn is_dot(&self) -> bool {
        matches!(self, Self::DotMatvec(_) | Self::DotMatmul(_) | Self::DotCoop(_))
    }

    /// The same kernel for a block of `m` rows.
    pub(super) fn for_rows(self, tier: Tier, m: usize) -> Self {
        match self {
            Self::Matvec(_) => Self::Matvec(matvec::Shape::new(tier, m)),
            Self::DotMatvec(shape) => Self::DotMatvec(dot_matvec::Shape::new(tier, m, shape.wide)),
            Self::Matmul(_) | Self::Direct(_) | Self::Coop(_) | Self::DotMatmul(_) | Self::DotCoop(_) => self,
        }
    }

    pub(super) fn pipeline(&self, gpu: &Gpu, spec: DotSpec) -> Result<Arc<Pipeline>> {
        match *self {
            Self::Matvec(shape) => matvec::Matvec { spec: spec.product, shape }.pipeline(gpu),
            Self::Matmul(shape) => matmul::Matmul { spec: spec.product, shape }.pipeline(gpu),
            Self::Direct(shape) => direct::Direct { spec: spec.product, shape }.pipeline(gpu),
            Self::Coop(shape) => coop::Coop::new(spec.product, shape).pipeline(gpu),
            Self::DotMatvec(shape) => dot_matvec::DotMatvec { spec, shape }.pipeline(gpu),
            Self::DotMatmul(shape) => dot_matmul::DotMatmul { spec, shape }.pipeline(gpu),
            Self::DotCoop(shape) => dot_coop::DotCoop::new(spec, shape).pipeline(gpu),
        }
    }

    /// Over how many parts of K: so many that a GPU has enough workgroups, as long as a part is worth one; None for kernels that do not split.
    fn parts(&self, shape: &choice::Shape) -> Option<u32> {
        let tiles = |bm: u32, bn: u32| shape.m.div_ceil(bm as usize) * shape.n.div_ceil(bn as usize);
        // Workgroups, how many are wanted (a large GPU has some 130 units; those of `matvec` are of 64 threads), and chunks of a part at least.
        let (groups, wanted, least): (usize, usize, usize) = match self {
            Self::Matvec(own) => (shape.n.div_ceil(own.rows() as usize), 512, 2 * own.lanes as usize),
            Self::Matmul(own) => (tiles(own.bm, own.bn), 256, 16),
            Self::Coop(own) => (tiles(own.bm, own.bn), 256, 16),
            Self::Direct(_) | Self::DotMatvec(_) | Self::DotMatmul(_) | Self::DotCoop(_) => return None,
        };
        let chunks = shape.k.div_ceil(32);
        let parts = wanted.div_ceil(groups).clamp(2, (chunks / least).max(2));
        // None of them empty: of a single chunk there is one.
        Some(chunks.div_ceil(chunks.div_ceil(parts)) as u32)
    }

    pub(super) fn workgroups(&self, gpu: &Gpu, m: usize, n: usize) -> Result<[u32; 3]> {
        match self {
            Self::Matvec(shape) => shape.workgroups(gpu, n),
            Self::DotMatvec(shape) => shape.workgroups(gpu, m, n),
            Self::Direct(shape) => shape.workgroups(gpu, m, n),
            Self::Matmul(shape) | Self::DotMatmul(shape) => shape.workgroups(gpu, m, n),
            Self::Coop(shape) | Self::DotCoop(shape) => shape.workgroups(gpu, m, n),
        }
    }

    /// Rows of x that one dispatch takes.
    pub(super) fn max_rows(&self) -> usize {
        match self {
            Self::Matvec(shape) => shape.m as usize,
            Self::DotMatvec(shape) => shape.max_rows(),
            Self::Direct(shape) => shape.max_rows(),
            Self::Matmul(shape) | Self::DotMatmul(shape) => shape.max_rows(),
            Self::Coop(shape) | Self::DotCoop(shape) => shape.max_rows(),
        }
    }

    fn summation(&self, scheme: &Scheme, product: &Product, k: usize) -> Summation {
        match self {
            Self::Matvec(shape) => shape.summation(scheme, product.accumulate, k),
            Self::Matmul(shape) => shape.summation(product.accumulate, k),
            Self::Direct(shape) => shape.summation(k),
            Self::Coop(shape) => shape.summation(k),
            Self::DotMatvec(shape) => {
                dot::summation(scheme, product.activation, k, shape.team.lanes as usize)
            }
            Self::DotMatmul(_) | Self::DotCoop(_) => dot::summation(scheme, product.activation, k, 1),
        }
    }

    fn accumulate(&self, policy: Accumulate, tier: Tier) -> Accumulate {
        match self {
            Self::Matvec(_) | Self::Matmul(_) => effective(policy, tier),
            Self::Direct(_) | Self::Coop(_) | Self::DotMatvec(_) | Self::DotMatmul(_) | Self::DotCoop(_) => {
                Accumulate::F32
            }
        }
    }
}

/// Tiles along one dimension of a dispatch: WebGPU's default limit of workgroups.
pub(super) const MAX_TILES: usize = 65535;

/// Workgroups for tiles over [x, y] outputs.
pub(super) fn tiles(gpu: &Gpu, outputs: [usize; 2], tile: [u32; 2]) -> Result<[u32; 3]> {
    let [x, y] = [0, 1].map(|i| outputs[i].div_ceil(tile[i] as usize));
    let limit = gpu.limits().max_compute_workgroups_per_dimension;
    match u32::try_from(x.max(y)) {
        Ok(most) if most <= limit => Ok([x as u32, y as u32, 1]),
        _ => {
            let what = "tiles of a product".into();
            Err(Error::TooLarge { what, need: x.max(y) as u64, limit: limit.into() })
        }
    }
}

/// The policy that is really carried out: without f16 arithmetic sums are f32.
fn effective(accumulate: Accumulate, tier: Tier) -> Accumulate {
    if tier.f16 { accumulate } else { Accumulate::F32 }
}
