//! The end of a product whose K was split over workgroups: parts are added, the epilogue follows. See `shaders/kernel/sum_parts.wgsl`.

use super::product::{self, ProductSpec};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Binding, Gpu, Target, fold_workgroups};
use serde::Serialize;

const WORKGROUP: u32 = 64;

/// Names that pin a product whose K is split, where there are no matrix units.
pub const VARIANTS: &[Option<&str>] =
    &[Some("matvec:split"), Some("matmul:64x64:split"), Some("matmul:32x32:split")];

/// Specialization: what a [`ProductSpec`] says of the end of a product.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SumParts {
    y_f16: bool,
    y_int8: bool,
    f16: bool,
    split: bool,
    #[serde(serialize_with = "product::function_name")]
    function: product::Curve,
    bias: bool,
    residual: bool,
    workgroup: u32,
}

impl SumParts {
    fn new(spec: &ProductSpec) -> Self {
        let ProductSpec { y_f16, function, bias, residual, .. } = *spec;
        let (y_int8, split) = (false, false);
        Self { y_f16, y_int8, f16: y_f16, split, function, bias, residual, workgroup: WORKGROUP }
    }
}

impl Specialization for SumParts {
    const KERNEL: &'static str = "sum_parts";
    type Params = product::Params;

    fn storage(&self) -> Vec<Access> {
        let mut all = vec![Access::Read, Access::ReadWrite];
        all.extend((self.bias || self.residual).then_some(Access::Read));
        all
    }

    fn needs(&self) -> Tier {
        Tier { f16: self.f16, ..Tier::PORTABLE }
    }
}

/// Records the sum of f32 parts [`params.parts`, M, N] and what `spec` says follows it: x, y and, where there are any, bias and residual.
///
/// # Errors
/// Those of the device.
pub(super) fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    spec: &ProductSpec,
    params: product::Params,
    bindings: &[Binding<'_>],
) -> Result<()> {
    let pipeline = SumParts::new(spec).pipeline(gpu)?;
    let outputs = u64::from(params.m) * u64::from(params.n);
    let groups = fold_workgroups(outputs.div_ceil(WORKGROUP.into()), gpu.limits())?;
    gpu.dispatch(target, &pipeline, bindings, bytemuck::bytes_of(&params), groups)
}

/// The ends of the samples of products.
pub fn shaders(scheme: &Scheme, tier: Tier) -> Result<Vec<Shader>> {
    ProductSpec::samples(scheme, tier).iter().map(|spec| SumParts::new(spec).shader()).collect()
}
