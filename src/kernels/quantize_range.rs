//! Scales by a method besides the scheme's own, on the device: the first pass of [`super::quantize`] in its place.
//!
//! ```text
//! x [rows, k] --extremes, then candidates or rounds, by the words of scheme::method--> scales, zeros         --quantize_codes--> codes, status
//! ```
//!
//! A workgroup owns groups, however long. One scale of a whole tensor, and percentiles, which are no arithmetic to speak of, are the CPU engine's.

use super::context::{self, WeightParams};
use super::quantize::{self, inverse_steps};
use super::{DeviceWeights, Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Binding, Buffer, Gpu, Target, fold_workgroups};
use crate::scheme::codebook::Sorted;
use crate::scheme::method::{
    Form, HQQ_BETA, HQQ_FLOOR, HQQ_POWER, HQQ_ROUNDS, Method, ROUNDS, RUN, Range, SHARES, STEPS, TRIM,
    TRIM_OUTSIDE,
};
use crate::scheme::{Encoder, Group};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

/// The ranges that are found here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Symmetric,
    Whole,
    Search,
    HalfQuadratic,
    Trimmed,
}

/// Specialization, with the numbers of [`crate::scheme::method`].
#[derive(Clone, Debug, Serialize)]
pub struct Ranges {
    #[serde(rename = "s", serialize_with = "context::scheme")]
    scheme: Scheme,
    find: Kind,
    /// Entries of the sorted table, where one is searched with.
    sorted: usize,
    rounds: usize,
    run: usize,
    steps: &'static [f32],
    shares: &'static [f32],
    trim: f32,
    outside: usize,
    hqq_rounds: usize,
    beta: [f32; 2],
    power: f32,
    floor: f32,
}

impl Ranges {
    /// None where the method is not found here.
    fn new(form: &Form, table: Option<&Sorted>) -> Option<Self> {
        let scheme = form.scheme;
        let find = match form.range {
            _ if scheme.group == Group::Tensor || !quantize::on_gpu(&scheme) => return None,
            Range::Own | Range::Percentile(_) => return None,
            Range::Symmetric => Kind::Symmetric,
            Range::Whole => Kind::Whole,
            Range::Search => Kind::Search,
            Range::HalfQuadratic => Kind::HalfQuadratic,
            Range::Trimmed => Kind::Trimmed,
        };
        let zeroed = matches!(scheme.encoder, Encoder::MinMax | Encoder::MinMaxBias | Encoder::MinMaxZero);
        Some(Self {
            scheme,
            find,
            sorted: table.filter(|_| find == Kind::Search).map_or(0, |t| t.codes.len()),
            rounds: ROUNDS[usize::from(zeroed)],
            run: RUN,
            steps: &STEPS,
            shares: &SHARES,
            trim: TRIM,
            outside: TRIM_OUTSIDE,
            hqq_rounds: HQQ_ROUNDS,
            beta: HQQ_BETA,
            power: HQQ_POWER,
            floor: HQQ_FLOOR,
        })
    }
}

impl Specialization for Ranges {
    const KERNEL: &'static str = "quantize_range";
    type Params = RangeParams;

    fn storage(&self) -> Vec<Access> {
        let mut all = vec![Access::Read, Access::ReadWrite];
        if self.sorted > 0 {
            all.push(Access::Read);
        }
        all
    }
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct RangeParams {
    pub weights: WeightParams,
    pub total_groups: u32,
    pub inv_steps: f32,
}

/// Whether the device finds the ranges of this form.
pub fn finds(form: &Form) -> bool {
    Ranges::new(form, None).is_some()
}

/// Records the pass for all parts.
///
/// # Errors
/// Those of the device.
pub(super) fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    form: &Form,
    weights: &DeviceWeights,
    inputs: &[Buffer],
    sorted: Option<&(Sorted, Buffer)>,
) -> Result<()> {
    let table = sorted.map(|(table, _)| table);
    let Some(spec) = Ranges::new(form, table) else { return Ok(()) };
    let pipeline = spec.pipeline(gpu)?;
    for (part, input) in weights.parts.iter().zip(inputs) {
        let total_groups = part.params.rows * part.params.groups;
        let inv_steps = inverse_steps(&form.scheme, table);
        let params = RangeParams { weights: part.params, total_groups, inv_steps };
        let mut bindings = vec![Binding::whole(input), Binding::whole(&part.buffer)];
        bindings.extend(sorted.filter(|_| spec.sorted > 0).map(|(_, buffer)| Binding::whole(buffer)));
        let groups = fold_workgroups(u64::from(total_groups.div_ceil(4)), gpu.limits())?;
        gpu.dispatch(target, &pipeline, &bindings, bytemuck::bytes_of(&params), groups)?;
    }
    Ok(())
}

/// Whether any method of a scheme is found here.
pub fn takes(scheme: &Scheme) -> bool {
    forms(scheme).any(|form| finds(&form))
}

/// What the methods of a scheme do.
pub(super) fn forms(scheme: &Scheme) -> impl Iterator<Item = Form> {
    let scheme = *scheme;
    Method::of(&scheme).filter_map(move |method| method.form(&scheme).ok())
}

/// Every method of a scheme; a learned table is taken to have all entries distinct.
pub fn shaders(scheme: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    let table = quantize::any_table(scheme);
    let specs = forms(scheme).filter_map(|form| Ranges::new(&form, table.as_ref()));
    specs.map(|spec| spec.shader()).collect()
}
