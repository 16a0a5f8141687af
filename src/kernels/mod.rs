//! The GPU kernels: templates over the scheme, and the table that tests, benches and tools iterate.
//!
//! ```text
//! a typed specialization (scheme, tier, shape class, ...) --serde--> shaders/kernel/NAME.wgsl --> WGSL --> pipeline
//! ```
//!
//! Each kernel has one file here with its specialization, parameters, shape checks and dispatch, one template of the same
//! stem under `shaders/kernel/`, and a reference of the operation under `reference/`. [`KERNELS`] lists them.
//!
//! | layer | knows |
//! |---|---|
//! | `gpu` | devices, buffers, pipelines; no quantization |
//! | here | schemes and shapes; which template with which numbers |
//! | `engine` | tensors of users; which kernel when |

pub mod activate;
pub mod attention;
pub mod choice;
pub mod context;
pub mod convert;
pub mod coop;
pub mod cross_entropy;
pub mod dense;
pub mod dequantize;
pub mod direct;
pub mod dot;
pub mod dot_coop;
pub mod dot_matmul;
pub mod dot_matvec;
pub mod embed;
pub mod fake_quantize;
pub mod form;
pub mod gram;
pub mod histogram;
pub mod int8;
pub mod int8_rows;
pub mod int8_values;
pub mod kv;
pub mod layer_norm;
pub mod matmul;
pub mod matvec;
pub mod mean_pool;
pub mod normalize;
pub mod product;
pub mod quantize;
pub mod quantize_range;
pub mod step_gradient;
pub mod sum_parts;
pub mod teams;
pub mod training;
pub mod transform;
pub mod update;
pub mod weights;

pub use context::{SchemeContext, WeightParams};
pub use weights::{DeviceWeights, Part};

use crate::gpu::{Access, Capabilities, Gpu, Pipeline, PipelineSpec, template};
use crate::kv::KvSettings;
use crate::learning::{self, Distillation, Learned};
use crate::product::{Accumulate, Function, Int8Group, Int8Scale, Product};
use crate::reference::{self, matmul::Added};
use crate::scheme::Grid;
use crate::{Error, PackedTensor, Result, Scheme};
use bytemuck::Pod;
use serde::Serialize;
use std::fmt::Debug;
use std::sync::Arc;
use wgpu::CooperativeScalarType;

/// Optional features a shader is generated for. Every kernel has a form for `Tier::PORTABLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tier {
    /// Half-precision storage and arithmetic.
    pub f16: bool,
    /// Subgroups of this one size; 0 where there are none or their size varies.
    pub subgroup: u32,
    /// Cooperative matrices of so many rows and columns, f16 with sums in f32; 0 where there are none. Subgroups are of one size, or of either of
    /// [`Tier::VARYING`].
    pub coop: u32,
}

impl Tier {
    /// Plain WebGPU.
    pub const PORTABLE: Self = Self { f16: false, subgroup: 0, coop: 0 };

    /// The best tier a device runs.
    pub fn of(caps: &Capabilities) -> Self {
        let fixed =
            caps.subgroups && caps.subgroup_min == caps.subgroup_max && caps.subgroup_max.is_power_of_two();
        let subgroup = if fixed { caps.subgroup_max } else { 0 };
        let square = |p: &&wgpu::CooperativeMatrixProperties| {
            let half_to_float =
                (p.ab_type, p.cr_type) == (CooperativeScalarType::F16, CooperativeScalarType::F32);
            half_to_float && p.m_size == p.n_size && p.m_size == p.k_size && [8, 16].contains(&p.m_size)
        };
        // Up to 64, so that a workgroup of `coop`, four of them, has 256 threads at most.
        let varying = caps.subgroups && (caps.subgroup_min, caps.subgroup_max) == Self::VARYING;
        let suits = caps.f16 && ((8..=64).contains(&subgroup) || varying);
        let coop = caps.coop.iter().filter(square).map(|p| p.m_size).max().filter(|_| suits);
        Self { f16: caps.f16, subgroup, coop: coop.unwrap_or(0) }
    }

    /// The sizes of subgroups that a driver may choose between, as on AMD under Mesa.
    pub const VARYING: (u32, u32) = (32, 64);

    /// Every tier shaders are generated for, with the usual subgroup sizes of real and software devices.
    pub const ALL: [Self; 8] = [
        Self::PORTABLE,
        Self { f16: true, subgroup: 0, coop: 0 },
        Self { f16: false, subgroup: 4, coop: 0 },
        Self { f16: true, subgroup: 8, coop: 0 },
        Self { f16: true, subgroup: 32, coop: 0 },
        Self { f16: true, subgroup: 8, coop: 8 },
        Self { f16: true, subgroup: 32, coop: 16 },
        Self { f16: true, subgroup: 0, coop: 16 },
    ];
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.f16 { "f16" } else { "f32" })?;
        if self.subgroup > 0 {
            write!(f, "+subgroups{}", self.subgroup)?;
        }
        if self.coop > 0 { write!(f, "+coop{}", self.coop) } else { Ok(()) }
    }
}

/// How K meets the vector width of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Columns {
    /// K is a multiple of 32.
    Full,
    /// A multiple of 4.
    Quads,
    /// Anything.
    Ragged,
}

impl Columns {
    /// The class of a K.
    pub fn of(k: usize) -> Self {
        match k {
            k if k % 32 == 0 => Self::Full,
            k if k % 4 == 0 => Self::Quads,
            _ => Self::Ragged,
        }
    }
}

/// Values of a template that select a specialization. `Debug` of the value is its key: two values that print alike render alike.
pub trait Specialization: Serialize + Debug {
    /// Stem of the kernel's files.
    const KERNEL: &'static str;

    /// What the host writes to the uniform at binding 0: the members of the template's `Params`, four bytes each.
    type Params: Pod + Default + Debug;

    /// Storage bindings 1, 2, ...
    fn storage(&self) -> Vec<Access>;

    /// What the text needs of the device.
    fn needs(&self) -> Tier {
        Tier::PORTABLE
    }

    /// Whether wgpu's run-time checks stay: for kernels that index with numbers from a caller's buffer.
    fn checked(&self) -> bool {
        false
    }

    /// The WGSL text.
    fn wgsl(&self) -> Result<String> {
        template::render(&format!("kernel/{}.wgsl", Self::KERNEL), self)
    }

    /// The compiled kernel, from the device's cache where it is there.
    fn pipeline(&self, gpu: &Gpu) -> Result<Arc<Pipeline>> {
        let spec = PipelineSpec {
            name: Self::KERNEL.into(),
            key: format!("{self:?}"),
            accesses: self.storage(),
            checked: self.checked(),
        };
        gpu.pipeline(&spec, || self.wgsl())
    }

    /// The text with its name and needs, for tests and tools.
    fn shader(&self) -> Result<Shader> {
        Ok(Shader {
            kernel: Self::KERNEL,
            key: format!("{self:?}"),
            needs: self.needs(),
            storage: self.storage(),
            params: Uniform::of::<Self::Params>(),
            wgsl: self.wgsl()?,
        })
    }
}

/// One generated shader.
#[derive(Clone, Debug)]
pub struct Shader {
    pub kernel: &'static str,
    /// The specialization it was generated for.
    pub key: String,
    pub needs: Tier,
    /// Storage bindings 1, 2, ...
    pub storage: Vec<Access>,
    pub params: Uniform,
    pub wgsl: String,
}

/// The host's side of a uniform, for the test that holds it against the shader's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uniform {
    /// `Debug` of the default value: the members in order, integers as `0` and floats as `0.0`.
    pub members: String,
    /// Bytes.
    pub size: usize,
}

impl Uniform {
    fn of<P: Default + Debug>() -> Self {
        Self { members: format!("{:?}", P::default()), size: size_of::<P>() }
    }
}

/// [`crate::reference::matmul::matmul`].
pub type ProductReference = fn(&[f32], usize, &PackedTensor, Added<'_>, &Product) -> Result<Vec<f64>>;
/// [`crate::reference::quantize`].
pub type QuantizeReference = fn(&[f32], usize, usize, Scheme, Option<&[f32]>) -> Result<PackedTensor>;

/// [`crate::reference::matmul::int8`].
pub type Int8Reference = fn(&[f32], usize, Int8Group) -> (Vec<i8>, Vec<f32>);
/// [`crate::reference::matmul::int8_static`].
pub type StaticReference = fn(&[f32], Int8Scale) -> Vec<i8>;
/// [`crate::reference::embed`].
pub type EmbedReference = fn(&[(&PackedTensor, &[u32])]) -> Vec<f64>;
/// [`crate::reference::layer_norm`].
pub type LayerNormReference = fn(&[f32], &[f32], &[f32], f32) -> Vec<f64>;
/// [`crate::reference::gram`].
pub type GramReference = fn(&[f32], usize, Option<&[f32]>) -> Vec<f64>;
/// [`crate::reference::attention`].
pub type AttentionReference = fn(&[f32], &[f32], &[f32], &[usize], usize) -> Vec<f64>;

/// [`crate::reference::kv::cache`].
pub type KvCacheReference = fn(&KvSettings, usize, &[f32], &[f32]) -> Vec<u32>;
/// [`crate::reference::kv::attention`].
pub type KvAttentionReference = fn(&KvSettings, &[f32], usize, &[f32], &[f32]) -> Vec<f64>;

/// [`crate::reference::dense`].
pub type DenseReference = fn(&[f32], &[f32], [usize; 3], [bool; 2], Option<&[f32]>) -> Vec<f64>;
/// [`crate::reference::fake_quantize`].
pub type FakeQuantizeReference = fn(&[f32], usize, Option<&[f32]>, &[f32], Option<&[f32]>, &Grid) -> Vec<f32>;
/// [`crate::reference::step_gradient`].
pub type StepGradientReference =
    fn(&[f32], usize, &[f32], &[f32], Option<&[f32]>, &Grid, Learned, f32) -> Vec<f64>;
/// [`crate::reference::activate`].
pub type ActivateReference = fn(&[f32], Option<&[f32]>, Function) -> Vec<f64>;
/// [`crate::reference::cross_entropy`].
pub type CrossEntropyReference =
    fn(&[f32], usize, &[f32], Option<(&[f32], Distillation)>, f32, bool) -> Vec<f64>;

/// The precisions of activations that a product kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// f32 and f16.
    Float,
    /// int8.
    Int8,
    /// int8 with one scale for a row.
    Int8Rows,
}

/// What a kernel computes, with the reference that says what is right.
pub enum Operation {
    /// Packed weights to dense f32.
    Dequantize { reference: fn(&PackedTensor) -> Vec<f32> },
    /// `y = x * w^T` with its epilogue. `variants` pin the kernel and its shape in `MatmulOptions::kernel`, the default first.
    Product {
        variants: &'static [Option<&'static str>],
        /// The policies it may be asked for.
        accumulates: &'static [Accumulate],
        reference: ProductReference,
        max_rows: Option<usize>,
        activations: Activations,
    },
    /// Dense f32 to packed weights.
    Quantize { reference: QuantizeReference },
    /// f32 to f16 and back.
    Convert { reference: fn(f32) -> half::f16 },
    /// Activations to int8: with scales of their own, and by one that is given.
    Int8Rows { reference: Int8Reference, fixed: StaticReference },
    /// The numbers that int8 activations stand for.
    Int8Values { reference: fn(&[i8], &[f32], usize, i8) -> Vec<f32> },
    /// The sum of rows of packed tables.
    Embed { reference: EmbedReference },
    /// Rows to mean 0 and variance 1, then scaled and shifted.
    LayerNorm { reference: LayerNormReference },
    /// Multi-head attention within sentences.
    Attention { reference: AttentionReference },
    /// The mean of each sentence's rows.
    MeanPool { reference: fn(&[f32], usize, &[usize]) -> Vec<f64> },
    /// The second moments of columns.
    Gram { reference: GramReference },
    /// Numbers counted in bins.
    Histogram { reference: fn(&[f32], Option<&[u32]>) -> Vec<u32> },
    /// Columns multiplied, and blocks of them rotated.
    Transform { reference: fn(&[f32], &[f32], usize) -> Vec<f64> },
    /// Rows to an L2 norm of 1.
    Normalize { reference: fn(&[f32], usize) -> Vec<f64> },
    /// New keys and values to the window of a cache.
    KvStore { reference: KvCacheReference },
    /// Complete blocks of a cache's window to codes.
    KvPack { reference: KvCacheReference },
    /// Attention to a cache.
    KvAttention { reference: KvAttentionReference },
    /// The product of two dense matrices.
    Dense { reference: DenseReference },
    /// Numbers on a grid, and their gradient straight through.
    FakeQuantize { reference: FakeQuantizeReference },
    /// The gradient of the steps of a grid.
    StepGradient { reference: StepGradientReference },
    /// A function of every number, and its gradient.
    Activate { reference: ActivateReference },
    /// The loss of scores, and its gradient.
    CrossEntropy { reference: CrossEntropyReference },
    /// A step of parameters along their gradient.
    Update { reference: fn(&[f32], &[f32], &learning::Update) -> Vec<f64> },
}

/// A row of [`KERNELS`].
pub struct Kernel {
    /// Stem of its files.
    pub name: &'static str,
    pub operation: Operation,
    /// Whether there is a form for this scheme.
    pub takes: fn(&Scheme) -> bool,
    /// Whether there is a form for this tier.
    pub runs: fn(Tier) -> bool,
    /// Every specialization of a scheme on a tier that an engine may ask for.
    pub shaders: fn(&Scheme, Tier) -> Result<Vec<Shader>>,
}

/// Every kernel. Tests, `lowbit shaders`, `lowbit selftest` and benches iterate this table and the presets.
pub static KERNELS: &[Kernel] = &[
    Kernel {
        name: "dequantize",
        operation: Operation::Dequantize { reference: reference::dequantize },
        takes: |_| true,
        runs: |_| true,
        shaders: dequantize::shaders,
    },
    Kernel {
        name: "matvec",
        operation: Operation::Product {
            variants: &[Some("matvec")],
            accumulates: &Accumulate::ALL,
            reference: reference::matmul,
            max_rows: Some(matvec::MAX_ROWS),
            activations: Activations::Float,
        },
        takes: |_| true,
        runs: |_| true,
        shaders: matvec::shaders,
    },
    Kernel {
        name: "matmul",
        operation: Operation::Product {
            variants: matmul::VARIANTS,
            accumulates: &Accumulate::ALL,
            reference: reference::matmul,
            max_rows: None,
            activations: Activations::Float,
        },
        takes: |_| true,
        runs: |_| true,
        shaders: matmul::shaders,
    },
    Kernel {
        name: "direct",
        operation: Operation::Product {
            variants: &[Some("direct")],
            accumulates: &Accumulate::ALL,
            reference: reference::matmul,
            max_rows: None,
            activations: Activations::Float,
        },
        takes: |_| true,
        runs: |_| true,
        shaders: direct::shaders,
    },
    Kernel {
        name: "coop",
        operation: Operation::Product {
            variants: coop::VARIANTS,
            accumulates: &[Accumulate::F16, Accumulate::F16Chunked],
            reference: reference::matmul,
            max_rows: None,
            activations: Activations::Float,
        },
        takes: |_| true,
        runs: |tier| tier.coop > 0,
        shaders: coop::shaders,
    },
    Kernel {
        name: "dot_matvec",
        operation: Operation::Product {
            variants: dot_matvec::VARIANTS,
            accumulates: &[Accumulate::F32],
            reference: reference::matmul,
            max_rows: None,
            activations: Activations::Int8,
        },
        takes: dot::takes,
        runs: |_| true,
        shaders: dot_matvec::shaders,
    },
    Kernel {
        name: "dot_matmul",
        operation: Operation::Product {
            variants: dot_matmul::VARIANTS,
            accumulates: &[Accumulate::F32],
            reference: reference::matmul,
            max_rows: None,
            activations: Activations::Int8,
        },
        takes: dot::takes,
        runs: |_| true,
        shaders: dot_matmul::shaders,
    },
    Kernel {
        name: "dot_coop",
        operation: Operation::Product {
            variants: dot_coop::VARIANTS,
            accumulates: &[Accumulate::F32],
            reference: reference::matmul,
            max_rows: None,
            activations: Activations::Int8Rows,
        },
        takes: dot_coop::takes,
        runs: dot_coop::runs,
        shaders: dot_coop::shaders,
    },
    Kernel {
        name: "sum_parts",
        operation: Operation::Product {
            variants: sum_parts::VARIANTS,
            accumulates: &Accumulate::ALL,
            reference: reference::matmul,
            max_rows: Some(matvec::MAX_ROWS),
            activations: Activations::Float,
        },
        takes: |_| true,
        runs: |_| true,
        shaders: sum_parts::shaders,
    },
    Kernel {
        name: "int8_rows",
        operation: Operation::Int8Rows {
            reference: reference::matmul::int8,
            fixed: reference::matmul::int8_static,
        },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: int8_rows::shaders,
    },
    Kernel {
        name: "int8_values",
        operation: Operation::Int8Values { reference: reference::matmul::int8_values },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: int8_values::shaders,
    },
    Kernel {
        name: "quantize_scales",
        operation: Operation::Quantize { reference: reference::quantize },
        takes: quantize::scales_takes,
        runs: |_| true,
        shaders: quantize::scales_shaders,
    },
    Kernel {
        name: "quantize_search",
        operation: Operation::Quantize { reference: reference::quantize },
        takes: |s| s.encoder.weighs() && quantize::on_gpu(s),
        runs: |_| true,
        shaders: quantize::search_shaders,
    },
    Kernel {
        name: "quantize_range",
        operation: Operation::Quantize { reference: reference::quantize },
        takes: quantize_range::takes,
        runs: |_| true,
        shaders: quantize_range::shaders,
    },
    Kernel {
        name: "quantize_codes",
        operation: Operation::Quantize { reference: reference::quantize },
        takes: quantize::on_gpu,
        runs: |_| true,
        shaders: quantize::codes_shaders,
    },
    Kernel {
        name: "convert",
        operation: Operation::Convert { reference: half::f16::from_f32 },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: convert::shaders,
    },
    Kernel {
        name: "embed",
        operation: Operation::Embed { reference: reference::embed },
        takes: |_| true,
        runs: |_| true,
        shaders: embed::shaders,
    },
    Kernel {
        name: "layer_norm",
        operation: Operation::LayerNorm { reference: reference::layer_norm },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: layer_norm::shaders,
    },
    Kernel {
        name: "attention",
        operation: Operation::Attention { reference: reference::attention },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: attention::shaders,
    },
    Kernel {
        name: "mean_pool",
        operation: Operation::MeanPool { reference: reference::mean_pool },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: mean_pool::shaders,
    },
    Kernel {
        name: "gram",
        operation: Operation::Gram { reference: reference::gram },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: gram::shaders,
    },
    Kernel {
        name: "histogram",
        operation: Operation::Histogram { reference: reference::histogram },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: histogram::shaders,
    },
    Kernel {
        name: "normalize",
        operation: Operation::Normalize { reference: reference::normalize },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: normalize::shaders,
    },
    Kernel {
        name: "transform",
        operation: Operation::Transform { reference: reference::transform },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: transform::shaders,
    },
    Kernel {
        name: "kv_store",
        operation: Operation::KvStore { reference: reference::kv::cache },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: kv::store_shaders,
    },
    Kernel {
        name: "kv_pack",
        operation: Operation::KvPack { reference: reference::kv::cache },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: kv::pack_shaders,
    },
    Kernel {
        name: "kv_attention",
        operation: Operation::KvAttention { reference: reference::kv::attention },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: kv::attention_shaders,
    },
    Kernel {
        name: "dense",
        operation: Operation::Dense { reference: reference::dense },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: dense::shaders,
    },
    Kernel {
        name: "fake_quantize",
        operation: Operation::FakeQuantize { reference: reference::fake_quantize },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: fake_quantize::shaders,
    },
    Kernel {
        name: "step_gradient",
        operation: Operation::StepGradient { reference: reference::step_gradient },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: step_gradient::shaders,
    },
    Kernel {
        name: "activate",
        operation: Operation::Activate { reference: reference::activate },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: activate::shaders,
    },
    Kernel {
        name: "cross_entropy",
        operation: Operation::CrossEntropy { reference: reference::cross_entropy },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: cross_entropy::shaders,
    },
    Kernel {
        name: "update",
        operation: Operation::Update { reference: reference::update },
        takes: |s| s.is_float(),
        runs: |_| true,
        shaders: update::shaders,
    },
];

/// Whether all of these are names of [`KERNELS`].
///
/// # Errors
/// [`Error::Usage`] with the names there are.
pub fn check_names(names: &[String]) -> Result<()> {
    match names.iter().find(|name| !KERNELS.iter().any(|kernel| kernel.name == **name)) {
        None => Ok(()),
        Some(name) => {
            let known: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
            Err(Error::Usage(format!("no kernel '{name}'; there are {}", known.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::CooperativeScalarType::{F16, F32};

    fn caps(f16: bool, subgroups: [u32; 2], coop: &[([u32; 3], [CooperativeScalarType; 2])]) -> Capabilities {
        let shape =
            |&([m_size, n_size, k_size], [ab_type, cr_type]): &([u32; 3], [CooperativeScalarType; 2])| {
                let saturating_accumulation = false;
                wgpu::CooperativeMatrixProperties {
                    m_size,
                    n_size,
                    k_size,
                    ab_type,
                    cr_type,
                    saturating_accumulation,
                }
            };
        Capabilities {
            f16,
            subgroups: true,
            subgroup_min: subgroups[0],
            subgroup_max: subgroups[1],
            int_dot: true,
            coop: coop.iter().map(shape).collect(),
            timestamps: false,
            limits: wgpu::Limits::default(),
        }
    }

    #[test]
    fn matrices_count_where_the_kernel_has_their_shape() {
        let of = |f16, subgroups, coop: &[_]| {
            let tier = Tier::of(&caps(f16, subgroups, coop));
            (tier.subgroup, tier.coop)
        };
        let (large, small) = (([16; 3], [F16, F32]), ([8; 3], [F16, F32]));
        assert_eq!(of(true, [32; 2], &[large]), (32, 16));
        assert_eq!(of(true, [32; 2], &[small, large, ([16; 3], [F16, F16])]), (32, 16));
        assert_eq!(of(true, [8; 2], &[small, ([16, 8, 16], [F16, F32])]), (8, 8));
        for none in [([16; 3], [F16, F16]), ([16, 8, 16], [F16, F32]), ([32; 3], [F16, F32])] {
            assert_eq!(of(true, [32; 2], &[none]), (32, 0), "{none:?}");
        }
        assert_eq!(of(false, [32; 2], &[large]), (32, 0));
        assert_eq!(of(true, [32, 64], &[large]), (0, 16));
        assert_eq!(of(true, [16, 64], &[large]), (0, 0));
        assert_eq!(of(false, [32, 64], &[large]), (0, 0));
        assert_eq!(of(true, [4; 2], &[large]), (4, 0));
        assert_eq!(of(true, [128; 2], &[large]), (128, 0));
    }
}
