//! Dense f32 to packed weights on the device: scales first, then codes from the scales as stored.
//!
//! ```text
//! x [rows, k] --quantize_scales (thread | rows | stats + tensor)--> scales, zeros         --quantize_codes--> codes, status
//!             --quantize_search (rows, groups, supers)-----------> scales, found [groups] --quantize_codes--> codes, status
//!             --quantize_range (methods besides the scheme's own)-> scales, zeros         --quantize_codes--> codes, status
//! importance [matrices, k] --^
//! ```
//!
//! Plain floats have no scales and only the second pass. `nvfp4-global` (`GlobalScale`), whose encoder looks at the tensor twice, and the learning of
//! tables are the CPU engine's. Permuted schemes keep the columns where they are.

use super::context::{self, WeightParams};
use super::quantize_range;
use super::weights::{DeviceWeights, Part};
use super::{Scheme, Shader, Specialization, Tier};
use crate::gpu::{Access, Binding, Buffer, Gpu, Target, fold_workgroups};
use crate::scheme::codebook::Sorted;
use crate::scheme::method::{Form, Range};
use crate::scheme::search::{
    AffineTries, DESCENT_ROUNDS, POSITIVE_TRIES, SYMMETRIC_TRIES, TABLE_TRIES, TRY_STEP, ZERO_BELOW,
};
use crate::scheme::{Encoder, Group, Scale};
use crate::{Error, Result, Tensor};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

const WORKGROUP: u32 = 64;
/// Longest group that one thread walks through; the order of a sum of magnitudes changes here too (see `Encoder::MeanAbs`).
const THREAD_GROUP: u32 = 256;

/// How groups are laid over threads; see the template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Thread,
    Rows,
    Stats,
    Tensor,
}

/// Specialization of the first pass.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scales {
    #[serde(rename = "s", serialize_with = "context::scheme")]
    pub scheme: Scheme,
    pub mode: Mode,
}

impl Specialization for Scales {
    const KERNEL: &'static str = "quantize_scales";
    type Params = ScalesParams;

    fn storage(&self) -> Vec<Access> {
        let mut all = vec![Access::Read, Access::ReadWrite];
        if matches!(self.mode, Mode::Stats | Mode::Tensor) {
            all.push(Access::ReadWrite);
        }
        all
    }
}

/// Specialization of the second pass.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Codes {
    #[serde(rename = "s", serialize_with = "context::scheme")]
    pub scheme: Scheme,
    /// Entries of the sorted table; 0 without one.
    pub sorted: usize,
    pub zero_code: u8,
    pub workgroup: u32,
    /// Which search came before.
    pub method: Option<Method>,
}

impl Specialization for Codes {
    const KERNEL: &'static str = "quantize_codes";
    type Params = CodesParams;

    fn storage(&self) -> Vec<Access> {
        let mut all = vec![Access::Read, Access::ReadWrite, Access::ReadWrite];
        if self.scheme.has_table() {
            all.push(Access::Read);
        }
        if self.method.is_some() {
            all.push(Access::Read);
        }
        all
    }
}

/// The passes of a search; see the template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    Rows,
    Groups,
    Supers,
}

/// How the scale of a group is searched for, by the names of [`crate::scheme::search`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    Affine,
    Symmetric,
    Descent,
    /// `table`
    Iq4,
}

impl Method {
    /// None where scales follow from extremes.
    fn of(scheme: &Scheme, weighted: bool) -> Option<Self> {
        match (scheme.encoder, weighted) {
            (Encoder::GgmlIq4, _) => Some(Self::Iq4),
            (Encoder::GgmlAffine, _) | (Encoder::GgmlMinMax, true) => Some(Self::Affine),
            (Encoder::GgmlDescent, false) => Some(Self::Descent),
            (Encoder::GgmlSymmetric, _) | (Encoder::GgmlDescent | Encoder::GgmlExtreme, true) => {
                Some(Self::Symmetric)
            }
            _ => None,
        }
    }
}

/// Over which values the mean square is taken that joins the squares of a group in its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// None: the importance is the weight, or there is no importance.
    None,
    Row,
    Super,
    Group,
}

/// Specialization of a search for scales, with the numbers of [`crate::scheme::search`].
#[derive(Clone, Debug, Serialize)]
pub struct Search {
    #[serde(rename = "s", serialize_with = "context::scheme")]
    pub scheme: Scheme,
    pub pass: Pass,
    pub method: Method,
    /// With an importance of columns.
    pub weighted: bool,
    spread: Spread,
    /// Whether super-scales are fitted to the scales of their groups.
    fits_supers: bool,
    first: f32,
    step: f32,
    /// All of the affine search; of the others on each side.
    tries: u32,
    positive_step: f32,
    positive_tries: i32,
    absolute: bool,
    rounds: usize,
    zero_below: f32,
    /// The table, ascending, and the boundaries between its entries.
    entries: &'static [f32],
    mids: Vec<f32>,
}

impl Search {
    fn new(scheme: &Scheme, pass: Pass, method: Method, weighted: bool) -> Self {
        let affine = AffineTries::of(scheme.bits, weighted);
        let (first, step, tries) = match method {
            Method::Affine => (affine.first, affine.step, affine.last + 1),
            Method::Iq4 => (0.0, 1.0, TABLE_TRIES as u32),
            _ => (0.0, TRY_STEP, SYMMETRIC_TRIES as u32),
        };
        let entries = scheme.codebook().unwrap_or_default();
        let two_level = matches!(scheme.scale, Scale::TwoLevel { .. });
        Self {
            scheme: *scheme,
            pass,
            method,
            weighted,
            spread: match (weighted, scheme.encoder) {
                (false, _) | (true, Encoder::GgmlSymmetric) => Spread::None,
                _ if two_level => Spread::Super,
                (true, Encoder::GgmlIq4) => Spread::Group,
                (true, _) => Spread::Row,
            },
            fits_supers: weighted && matches!(scheme.encoder, Encoder::GgmlAffine | Encoder::GgmlDescent),
            first,
            step,
            tries,
            positive_step: TRY_STEP,
            positive_tries: POSITIVE_TRIES,
            absolute: affine.absolute,
            rounds: DESCENT_ROUNDS,
            zero_below: ZERO_BELOW,
            entries,
            mids: Sorted::new(entries).mids,
        }
    }

    /// All passes of a scheme, in order; none where scales follow from extremes.
    fn passes(scheme: &Scheme, weighted: bool) -> Vec<Self> {
        let Some(method) = Method::of(scheme, weighted) else { return Vec::new() };
        let pass = |pass| Self::new(scheme, pass, method, weighted);
        let mut all = vec![pass(Pass::Groups), pass(Pass::Supers)];
        if all[0].spread == Spread::Row {
            all.insert(0, pass(Pass::Rows));
        }
        all
    }
}

impl Specialization for Search {
    const KERNEL: &'static str = "quantize_search";
    type Params = SearchParams;

    fn storage(&self) -> Vec<Access> {
        let mut all = match self.pass {
            Pass::Rows | Pass::Groups => vec![Access::Read, Access::ReadWrite],
            Pass::Supers => vec![Access::ReadWrite, Access::ReadWrite],
        };
        match self.pass {
            Pass::Groups if self.weighted => {
                all.push(Access::Read);
                if self.spread == Spread::Row {
                    all.push(Access::Read);
                } else if self.fits_supers {
                    all.push(Access::ReadWrite);
                }
            }
            Pass::Supers if self.fits_supers => all.push(Access::Read),
            _ => {}
        }
        all
    }
}

/// The uniform of a search.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct SearchParams {
    pub weights: WeightParams,
    pub total: u32,
    pub c_rows: u32,
    pub c_first: u32,
}

/// The uniform of the first pass.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct ScalesParams {
    pub weights: WeightParams,
    pub total_groups: u32,
    pub inv_full: f32,
    pub inv_last: f32,
    pub inv_steps: f32,
    pub t_first: u32,
    pub t_rows: u32,
}

/// The uniform of the second pass.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct CodesParams {
    pub weights: WeightParams,
    pub limit: u32,
    pub inv_steps: f32,
}

/// Whether the device quantizes to this scheme.
pub fn on_gpu(scheme: &Scheme) -> bool {
    !matches!(scheme.encoder, Encoder::GlobalScale | Encoder::Clusters)
}

/// Whether the device quantizes by this form: the others are the CPU engine's.
pub fn form_on_gpu(form: &Form) -> bool {
    on_gpu(&form.scheme) && (form.range == Range::Own || quantize_range::finds(form))
}

/// Whether there is a pass over scales.
pub fn has_scales_pass(scheme: &Scheme) -> bool {
    on_gpu(scheme) && !scheme.encoder.searches() && !scheme.is_float()
}

fn modes(scheme: &Scheme) -> &'static [Mode] {
    match scheme.group {
        Group::Tensor => &[Mode::Stats, Mode::Tensor],
        Group::Row => &[Mode::Rows],
        Group::Cols(g) if g > THREAD_GROUP => &[Mode::Rows],
        Group::Cols(_) => &[Mode::Thread],
    }
}

/// The factor from a group's extreme to its scale.
pub(super) fn inverse_steps(scheme: &Scheme, table: Option<&Sorted>) -> f32 {
    let levels = (1u32 << scheme.bits.min(8)) as f32;
    match scheme.encoder {
        Encoder::Absmax => 1.0 / (levels / 2.0 - 1.0),
        Encoder::MinMax | Encoder::MinMaxBias | Encoder::MinMaxZero => 1.0 / (levels - 1.0),
        Encoder::Ternary => 1.0,
        Encoder::GgmlExtreme => -2.0 / levels,
        Encoder::Nearest => table.map_or(0.0, |t| 1.0 / t.max),
        _ => 0.0,
    }
}

fn codes_spec(scheme: &Scheme, table: Option<&Sorted>, weighted: bool) -> Codes {
    let (sorted, zero_code) = table.map_or((0, 0), |t| (t.codes.len(), t.zero));
    let method = Method::of(scheme, weighted);
    Codes { scheme: *scheme, sorted, zero_code, workgroup: WORKGROUP, method }
}

/// A weight on the device before it is quantized, with room for the result.
pub struct Encoding {
    /// What [`Encoding::record`] fills.
    pub weights: DeviceWeights,
    /// With the encoder by whose rules it does.
    form: Form,
    /// The rows of each part, f32.
    inputs: Vec<Buffer>,
    /// Of each part: the first index that could not be quantized.
    flags: Vec<Buffer>,
    sorted: Option<(Sorted, Buffer)>,
}

impl Encoding {
    /// Brings `tensor` (converted to f32 on the host) to the device. `table` is the codebook of a learned scheme.
    ///
    /// # Errors
    /// As [`DeviceWeights::zeroed`]; [`Error::Unsupported`] where [`form_on_gpu`] says so.
    pub fn new(
        gpu: &Gpu,
        tensor: &Tensor,
        scheme: &Scheme,
        form: &Form,
        table: Option<&[f32]>,
    ) -> Result<Self> {
        if !form_on_gpu(form) {
            return Err(Error::unsupported(
                format!("quantizing to {scheme} on the GPU"),
                "the CPU engine does",
            ));
        }
        let weights = DeviceWeights::zeroed(gpu, *scheme, tensor.shape(), true)?;
        let x = tensor.to_f32();
        let entries = scheme.codebook().or(table);
        let k = weights.k;
        let upload_sorted = |t: Sorted| -> Result<_> {
            let words: Vec<u32> =
                t.mids.iter().map(|m| m.to_bits()).chain(t.codes.iter().map(|&c| u32::from(c))).collect();
            let buffer = gpu.upload(bytemuck::cast_slice(&words), "sorted codebook")?;
            Ok((t, buffer))
        };
        let sorted = entries.map(Sorted::new).map(upload_sorted).transpose()?;
        let columns: Vec<u32> = (0..if scheme.is_permuted() { k as u32 } else { 0 }).collect();
        let (mut inputs, mut flags) = (Vec::new(), Vec::new());
        for part in &weights.parts {
            if let (Some(entries), true) = (entries, scheme.has_table()) {
                gpu.write(&part.buffer, u64::from(part.params.table) * 4, bytemuck::cast_slice(entries))?;
            }
            if scheme.is_permuted() {
                gpu.write(&part.buffer, u64::from(part.params.perm) * 4, bytemuck::cast_slice(&columns))?;
            }
            let rows = &x[part.rows.start * k..part.rows.end * k];
            inputs.push(gpu.upload(bytemuck::cast_slice(rows), "weights to quantize")?);
            flags.push(gpu.upload(&u32::MAX.to_le_bytes(), "quantization status")?);
        }
        Ok(Self { weights, form: *form, inputs, flags, sorted })
    }

    /// Records the quantization; [`Encoding::check`] waits for it. `importance` is that of [`crate::cpu::quantize_weighted`], checked, for
    /// a scheme that weighs.
    ///
    /// # Errors
    /// Those of the device.
    pub fn record(&self, gpu: &Gpu, importance: Option<&[f32]>) -> Result<()> {
        let Self { weights, form, inputs, flags, sorted } = self;
        let (scheme, k) = (&form.scheme, weights.k);
        let mut target = Target::Recorder;
        let inv_steps = inverse_steps(scheme, sorted.as_ref().map(|(table, _)| table));
        let group = match scheme.group {
            Group::Cols(g) => g as usize,
            Group::Row | Group::Tensor => k,
        };
        // Values that share a scale: in a full group, and in the short last one of a row.
        let (full, last) = match scheme.group {
            Group::Tensor => (weights.rows * k, weights.rows * k),
            _ if k % group == 0 => (group, group),
            _ => (group, k % group),
        };
        let params = |part: &Part| ScalesParams {
            weights: part.params,
            total_groups: part.params.rows * part.params.groups,
            inv_full: 1.0 / full as f32,
            inv_last: 1.0 / last as f32,
            inv_steps,
            t_first: part.rows.start as u32,
            t_rows: weights.rows as u32,
        };
        let found = search(gpu, &mut target, scheme, weights, inputs, importance)?;
        quantize_range::record(gpu, &mut target, form, weights, inputs, sorted.as_ref())?;
        if form.range == Range::Own && has_scales_pass(scheme) && found.is_empty() {
            let stats = match scheme.group {
                Group::Tensor => Some(gpu.alloc(weights.rows as u64 * 16, "statistics of rows")?),
                _ => None,
            };
            for &mode in modes(scheme) {
                let pipeline = Scales { scheme: *scheme, mode }.pipeline(gpu)?;
                for (part, input) in weights.parts.iter().zip(inputs) {
                    let params = params(part);
                    let total = u64::from(params.total_groups);
                    let groups = match mode {
                        Mode::Thread => total.div_ceil(u64::from(WORKGROUP) * 4),
                        Mode::Rows => total.div_ceil(4),
                        Mode::Stats => part.rows.len() as u64,
                        Mode::Tensor => 1,
                    };
                    let mut bindings = vec![Binding::whole(input), Binding::whole(&part.buffer)];
                    bindings.extend(stats.as_ref().map(Binding::whole));
                    let groups = fold_workgroups(groups, gpu.limits())?;
                    gpu.dispatch(&mut target, &pipeline, &bindings, bytemuck::bytes_of(&params), groups)?;
                }
            }
        }
        let table = sorted.as_ref().map(|(table, _)| table);
        let pipeline = codes_spec(scheme, table, importance.is_some()).pipeline(gpu)?;
        for (i, ((part, input), flag)) in weights.parts.iter().zip(inputs).zip(flags).enumerate() {
            let params = CodesParams { weights: part.params, limit: scheme.limit().to_bits(), inv_steps };
            let chunks = part.rows.len() as u64 * k.div_ceil(32) as u64;
            let mut bindings =
                vec![Binding::whole(input), Binding::whole(&part.buffer), Binding::whole(flag)];
            bindings.extend(sorted.as_ref().map(|(_, buffer)| Binding::whole(buffer)));
            bindings.extend(found.get(i).map(Binding::whole));
            let groups = fold_workgroups(chunks.div_ceil(u64::from(WORKGROUP)), gpu.limits())?;
            gpu.dispatch(&mut target, &pipeline, &bindings, bytemuck::bytes_of(&params), groups)?;
        }
        Ok(())
    }

    /// Waits for the device and says which value of `tensor`, if any, could not be quantized.
    ///
    /// # Errors
    /// [`Error::NotRepresentable`] with the first such index; those of the device.
    pub async fn check(&self, gpu: &Gpu, tensor: &Tensor, name: &str) -> Result<()> {
        let ranges: Vec<_> = self.flags.iter().map(|b| (b, 0..4)).collect();
        for (bytes, part) in gpu.read_many(&ranges).await?.iter().zip(&self.weights.parts) {
            let first = bytemuck::pod_read_unaligned::<u32>(bytes);
            if first != u32::MAX {
                let index = part.rows.start * self.weights.k + first as usize;
                return Err(Error::NotRepresentable {
                    tensor: name.into(),
                    index: index as u64,
                    value: tensor.to_f32()[index],
                    scheme: self.weights.scheme.to_string(),
                    limit: self.weights.scheme.limit(),
                });
            }
        }
        Ok(())
    }
}

/// Searches for the scales of all parts; returns what the pass over codes needs of each, nothing where scales follow from extremes.
fn search(
    gpu: &Gpu,
    target: &mut Target<'_>,
    scheme: &Scheme,
    weights: &DeviceWeights,
    inputs: &[Buffer],
    importance: Option<&[f32]>,
) -> Result<Vec<Buffer>> {
    let passes = Search::passes(scheme, importance.is_some());
    let pipelines = passes.iter().map(|pass| pass.pipeline(gpu)).collect::<Result<Vec<_>>>()?;
    // Rows that share a row of the importance.
    let c_rows = weights.shape.len().checked_sub(2).map_or(1, |at| weights.shape[at]);
    let mut all = Vec::new();
    for (part, input) in weights.parts.iter().zip(inputs).filter(|_| !passes.is_empty()) {
        let groups = part.params.rows * part.params.groups;
        let found = gpu.alloc(u64::from(groups) * 16, "searched scales")?;
        let matrices = part.rows.start / c_rows..part.rows.end.div_ceil(c_rows);
        let importance = importance.map(|c| &c[matrices.start * weights.k..matrices.end * weights.k]);
        let importance =
            importance.map(|c| gpu.upload(bytemuck::cast_slice(c), "importance of columns")).transpose()?;
        let extra = match passes[0].pass {
            Pass::Rows => Some(gpu.alloc(u64::from(part.params.rows) * 4, "mean squares of rows")?),
            _ if passes[0].fits_supers => Some(gpu.alloc(u64::from(groups) * 4, "weights of groups")?),
            _ => None,
        };
        for (spec, pipeline) in passes.iter().zip(&pipelines) {
            let (total, per_workgroup) = match (spec.pass, scheme.scale) {
                (Pass::Rows, _) => (part.params.rows, WORKGROUP),
                (Pass::Groups, _) => (groups, WORKGROUP),
                (Pass::Supers, Scale::TwoLevel { .. }) => {
                    (part.params.rows * part.params.supers_per_row, 2 * WORKGROUP)
                }
                (Pass::Supers, _) => (groups, 2 * WORKGROUP),
            };
            let bindings = match spec.pass {
                Pass::Rows => vec![Some(input), extra.as_ref()],
                Pass::Groups => vec![Some(input), Some(&found), importance.as_ref(), extra.as_ref()],
                Pass::Supers => {
                    vec![Some(&part.buffer), Some(&found), extra.as_ref().filter(|_| spec.fits_supers)]
                }
            };
            let bindings: Vec<_> = bindings.into_iter().flatten().map(Binding::whole).collect();
            let c_first = (part.rows.start % c_rows) as u32;
            let params = SearchParams { weights: part.params, total, c_rows: c_rows as u32, c_first };
            let workgroups = fold_workgroups(u64::from(total.div_ceil(per_workgroup)), gpu.limits())?;
            gpu.dispatch(target, pipeline, &bindings, bytemuck::bytes_of(&params), workgroups)?;
        }
        all.push(found);
    }
    Ok(all)
}

/// A scheme with each encoder that a method without a pass of its own, or the scheme itself, goes by.
fn encoders(scheme: &Scheme) -> Vec<Scheme> {
    let mut all = vec![*scheme];
    for form in quantize_range::forms(scheme).filter(form_on_gpu) {
        if !all.contains(&form.scheme) {
            all.push(form.scheme);
        }
    }
    all
}

/// Whether a scheme has a first pass of its own, or by a method.
pub fn scales_takes(scheme: &Scheme) -> bool {
    encoders(scheme).iter().any(has_scales_pass)
}

/// The first pass in every mode of a scheme.
pub fn scales_shaders(scheme: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    let mut all = Vec::new();
    for scheme in encoders(scheme).into_iter().filter(has_scales_pass) {
        for &mode in modes(&scheme) {
            all.push(Scales { scheme, mode }.shader()?);
        }
    }
    Ok(all)
}

/// All passes of a search, without importance and with it.
pub fn search_shaders(scheme: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    let forms = [false, true].map(|weighted| Search::passes(scheme, weighted));
    forms.iter().flatten().map(Specialization::shader).collect()
}

/// The second pass; a learned table is taken to have all entries distinct. Where only importance makes it a search, both forms.
pub fn codes_shaders(scheme: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    if !on_gpu(scheme) {
        return Ok(Vec::new());
    }
    let table = any_table(scheme);
    let plain = codes_spec(scheme, table.as_ref(), false);
    let weighted = codes_spec(scheme, table.as_ref(), true);
    let mut all = vec![plain.shader()?];
    if weighted.method != plain.method {
        all.push(weighted.shader()?);
    }
    for other in encoders(scheme).iter().skip(1) {
        all.push(codes_spec(other, table.as_ref(), false).shader()?);
    }
    Ok(all)
}

/// A table for the shaders of a scheme that has one; of a learned one all entries are distinct.
pub(super) fn any_table(scheme: &Scheme) -> Option<Sorted> {
    let distinct: Vec<f32> = (0..1u32 << scheme.bits.min(8)).map(|i| i as f32).collect();
    scheme.has_table().then(|| Sorted::new(scheme.codebook().unwrap_or(&distinct)))
}
