//! Dense tensors to packed ones: the driver over rows.
//!
//! ```text
//! Tensor --check: first value that cannot be held--> (tensor-wide scale) --rows, in blocks, on all threads-->
//!     codes of a row (one byte each) --codes::pack--> code planes;  scales, zeros straight into their planes
//! ```
//!
//! `sweep` chooses the codes of a row one after the other, errors carried to those that come later, instead of each by itself.
//!
//! The arithmetic is in `group`, that of groups with a table of their own in `tables`; methods besides the schemes' own are in `range` and `hqq`; GGUF's searches are in `search`, with what becomes of the scales in
//! `one_level` and `two_level`.

mod group;
mod hqq;
mod one_level;
mod range;
mod search;
mod sweep;
mod tables;
mod two_level;

use super::level::{Work, vectorized};
use super::rows::DenseRows;
use super::{half_float, kmeans};
use crate::packed::RowsMut;
use crate::scheme::codebook::Sorted;
use crate::scheme::method::{CANDIDATES, Form, Method};
use crate::scheme::{
    Codebook, Encoder, Float, Group, PlaneKind, Scale, ScaleType, Scheme, Value, codes, layout,
};
use crate::threads;
use crate::{Error, PackedTensor, Result, Tensor};
use group::{Chosen, GroupEncoder, Stats};
pub(super) use group::{TINY, last_byte, magnitude, steps};
use range::{Candidates, Values};
pub use sweep::quantize_sweeping;
use tables::TableEncoder;
use two_level::SuperOut;

/// Values encoded by one task.
const TASK_VALUES: usize = 1 << 16;
/// Bits of the bounds of a table's largest magnitude: 2^-20 and 2^20.
const ENTRIES: std::ops::RangeInclusive<u32> = (127 - 20) << 23..=(127 + 20) << 23;
/// Longest group whose magnitudes are summed in sequence, see [`Encoder::MeanAbs`].
const SEQUENCE: u32 = 256;

/// Encodes `tensor` `[.., N, K]` as `scheme` says. `name` is for errors. `codebook` is the table of a learned scheme, `2^bits`
/// entries, or those of all groups, `[rows, groups, 2^bits]` numbers that f16 holds; None lets k-means choose them from the tensor ([`kmeans`],
/// [`clusters`](super::clusters)). Other schemes have no use for it.
///
/// # Errors
/// As [`Scheme::check_shape`]; [`Error::NotRepresentable`] with the first value that is NaN, infinite or beyond
/// [`Scheme::limit`]; [`Error::Shape`] for a codebook of another length, or whose largest finite magnitude is not within 2^-20..=2^20, and for an
/// entry of a group's table that is no finite f16.
pub fn quantize(
    tensor: &Tensor,
    name: &str,
    scheme: &Scheme,
    codebook: Option<&[f32]>,
) -> Result<PackedTensor> {
    encode(tensor, name, scheme, &Method::Own.form(scheme)?, codebook, None)
}

/// As [`quantize`], scales and zeros found by a method.
///
/// # Errors
/// As [`quantize`] and [`Method::form`].
pub fn quantize_by(
    tensor: &Tensor,
    name: &str,
    scheme: &Scheme,
    method: Method,
    codebook: Option<&[f32]>,
) -> Result<PackedTensor> {
    encode(tensor, name, scheme, &method.form(scheme)?, codebook, None)
}

/// As [`quantize`], errors of a column weighing as much as its `importance` (GGUF's "importance matrix", the mean square of the activation):
/// `[.., K]`, one row for each matrix of the leading dimensions. Schemes that do not weigh ([`Encoder::weighs`]) are encoded as without.
///
/// # Errors
/// As [`quantize`]; [`Error::Shape`] for another number of entries and for one that is negative, NaN or beyond 1e20.
pub fn quantize_weighted(
    tensor: &Tensor,
    name: &str,
    scheme: &Scheme,
    importance: &[f32],
) -> Result<PackedTensor> {
    encode(tensor, name, scheme, &Method::Own.form(scheme)?, None, Some(importance))
}

/// Whether `importance` fits `tensor`; see [`quantize_weighted`].
///
/// # Errors
/// [`Error::Shape`] if not.
pub fn check_importance(tensor: &Tensor, name: &str, importance: &[f32]) -> Result<()> {
    // Far beyond any mean square, and sums of products with f16 weights stay finite.
    const MOST: f32 = 1e20;
    let shape = tensor.shape();
    let matrices: usize = shape[..shape.len().saturating_sub(2)].iter().product();
    let expected = matrices * shape.last().copied().unwrap_or(1);
    if importance.len() != expected {
        let what = format!("entries of the importance of {name} {shape:?}");
        return Err(Error::shape(what, expected, importance.len()));
    }
    match importance.iter().position(|v| !(0.0..=MOST).contains(v)) {
        None => Ok(()),
        Some(at) => {
            let what = format!("entry {at} of the importance of {name}");
            Err(Error::shape(what, format!("a number from 0 to {MOST:e}"), importance[at]))
        }
    }
}

/// The importance of each row's columns.
struct Importance<'a> {
    entries: &'a [f32],
    /// Rows that share an entry: those of one matrix.
    rows: usize,
    k: usize,
}

impl<'a> Importance<'a> {
    fn new(tensor: &Tensor, name: &str, entries: &'a [f32]) -> Result<Self> {
        check_importance(tensor, name, entries)?;
        let shape = tensor.shape();
        let rows = shape.len().checked_sub(2).map_or(1, |at| shape[at]);
        Ok(Self { entries, rows, k: shape.last().copied().unwrap_or(1) })
    }

    #[inline(always)]
    fn of_row(&self, row: usize) -> &'a [f32] {
        let first = row / self.rows * self.k;
        &self.entries[first..first + self.k]
    }
}

fn encode(
    tensor: &Tensor,
    name: &str,
    scheme: &Scheme,
    form: &Form,
    codebook: Option<&[f32]>,
    importance: Option<&[f32]>,
) -> Result<PackedTensor> {
    scheme.check_shape(tensor.shape())?;
    let importance = importance.map(|entries| Importance::new(tensor, name, entries)).transpose()?;
    let importance = importance.filter(|_| scheme.encoder.weighs());
    let (ready, mut packed) = Ready::new(tensor, name, scheme, form, codebook)?;
    ready.rows(&ready.x, importance.as_ref(), &mut packed);
    Ok(packed)
}

/// What is known before the first row is encoded.
struct Ready<'a> {
    x: DenseRows<'a>,
    form: Form,
    table: Option<Sorted>,
    scale_table: Vec<f32>,
    /// The scale of a per-tensor scheme.
    whole: Option<Chosen>,
    /// Whether the tables of groups were given.
    given: bool,
}

impl<'a> Ready<'a> {
    /// Checks the values, and finds what all rows share; the packed tensor has that and nothing else.
    fn new(
        tensor: &'a Tensor,
        name: &str,
        scheme: &Scheme,
        form: &Form,
        codebook: Option<&[f32]>,
    ) -> Result<(Self, PackedTensor)> {
        let x = DenseRows::new(tensor);
        check_values(&x, name, scheme)?;
        let mut packed = PackedTensor::zeroed(*scheme, tensor.shape())?;
        if scheme.value == Value::Learned {
            let learned;
            let entries = match codebook {
                Some(given) => given,
                None => {
                    learned = kmeans::codebook(&x, scheme);
                    &learned
                }
            };
            // Scales are quotients of magnitudes by this one, and have to stay within f32.
            let largest = entries.iter().filter(|v| v.is_finite()).fold(0, |m, &v| magnitude(v).max(m));
            if entries.len() != 1 << scheme.bits || !ENTRIES.contains(&largest) {
                let expected = format!("{} entries, the largest between 2^-20 and 2^20", 1u32 << scheme.bits);
                return Err(Error::shape(format!("codebook for {scheme}"), expected, format!("{entries:?}")));
            }
            packed.set_codebook(entries);
        }
        let given = codebook.filter(|_| scheme.has_group_tables());
        if let Some(entries) = given {
            give_tables(&mut packed, entries)?;
        }
        let table = scheme.has_table().then(|| Sorted::new(&packed.codebook()));
        let scale_table =
            if form.scheme.encoder == Encoder::GlobalScale { global_scales(&x) } else { Vec::new() };
        let entries = packed.plane_mut(PlaneKind::ScaleTable).as_chunks_mut::<4>().0;
        entries.iter_mut().zip(&scale_table).for_each(|(to, from)| *to = from.to_le_bytes());
        let mut ready = Self { x, form: *form, table, scale_table, whole: None, given: given.is_some() };
        if scheme.group == Group::Tensor {
            let chosen = tensor_scale(&ready.x, &ready.encoder());
            for (kind, bytes) in
                [(PlaneKind::Scales, &chosen.scale_bytes), (PlaneKind::Zeros, &chosen.zero_bytes)]
            {
                let plane = packed.plane_mut(kind);
                plane.copy_from_slice(&bytes[..plane.len()]);
            }
            ready.whole = Some(chosen);
        }
        Ok((ready, packed))
    }

    fn encoder(&self) -> GroupEncoder<'_> {
        let scheme = &self.form.scheme;
        GroupEncoder {
            encoder: scheme.encoder,
            range: self.form.range,
            scale_type: match scheme.scale {
                Scale::Direct(t) => t,
                _ => ScaleType::F32,
            },
            bits: scheme.bits,
            table: self.table.as_ref(),
            scale_table: &self.scale_table,
            wide: !matches!(scheme.group, Group::Cols(g) if g <= SEQUENCE),
        }
    }

    /// Encodes the rows of `x` into those of `packed`.
    fn rows(&self, x: &DenseRows, importance: Option<&Importance>, packed: &mut PackedTensor) {
        let encoder = self.encoder();
        let parts = packed.rows_mut((TASK_VALUES / x.k).max(1));
        threads::for_each(parts, x.rows * x.k, |part| {
            let (scheme, whole) = (&self.form.scheme, self.whole.as_ref());
            let given = self.given;
            vectorized(EncodeRows { x, scheme, encoder: &encoder, whole, given, importance, part })
        });
    }
}

/// Stores the tables of groups.
fn give_tables(packed: &mut PackedTensor, entries: &[f32]) -> Result<()> {
    let scheme = *packed.scheme();
    let plane = packed.plane_mut(PlaneKind::Tables).as_chunks_mut::<{ layout::TABLE_ENTRY }>().0;
    if entries.len() != plane.len() {
        return Err(Error::shape(format!("entries of the tables of {scheme}"), plane.len(), entries.len()));
    }
    for (i, (to, &entry)) in plane.iter_mut().zip(entries).enumerate() {
        let bits = half_float::f32_to_f16(entry);
        if !entry.is_finite() || half_float::f16_to_f32(bits) != entry {
            return Err(Error::shape(format!("entry {i} of the tables of {scheme}"), "a finite f16", entry));
        }
        *to = bits.to_le_bytes();
    }
    Ok(())
}

/// The table, `2^bits` entries, that k-means chooses for `tensor` in a learned scheme.
///
/// # Errors
/// As [`quantize`].
pub fn learn_codebook(tensor: &Tensor, name: &str, scheme: &Scheme) -> Result<Vec<f32>> {
    scheme.check_shape(tensor.shape())?;
    let x = DenseRows::new(tensor);
    check_values(&x, name, scheme)?;
    Ok(kmeans::codebook(&x, scheme))
}

/// The first value that the scheme cannot hold, by its bits.
fn check_values(x: &DenseRows, name: &str, scheme: &Scheme) -> Result<()> {
    struct Largest<'a>(&'a [f32]);
    impl Work for Largest<'_> {
        type Output = u32;
        #[inline(always)]
        fn run(self) -> u32 {
            self.0.iter().fold(0, |m, &v| m.max(magnitude(v)))
        }
    }
    let limit = scheme.limit();
    let per_task = (TASK_VALUES / x.k).max(1);
    let first_bad = |rows: std::ops::Range<usize>| {
        let mut scratch = Vec::new();
        rows.into_iter().find_map(|r| {
            let row = x.row(r, &mut scratch);
            if vectorized(Largest(row)) <= limit.to_bits() {
                return None;
            }
            let at = row.iter().position(|&v| magnitude(v) > limit.to_bits())?;
            Some((r * x.k + at, row[at]))
        })
    };
    let found = threads::map(threads::ranges(x.rows, per_task), x.rows * x.k, first_bad);
    match found.into_iter().flatten().next() {
        None => Ok(()),
        Some((index, value)) => Err(Error::NotRepresentable {
            tensor: name.into(),
            index: index as u64,
            value,
            scheme: scheme.to_string(),
            limit,
        }),
    }
}

/// Statistics of every row.
fn row_stats(x: &DenseRows, of_row: impl Fn(&[f32]) -> Stats + Sync) -> Vec<Stats> {
    let per_task = (TASK_VALUES / x.k).max(1);
    let stats = threads::map(threads::ranges(x.rows, per_task), x.rows * x.k, |rows| {
        let mut scratch = Vec::new();
        rows.map(|r| of_row(x.row(r, &mut scratch))).collect::<Vec<_>>()
    });
    stats.into_iter().flatten().collect()
}

/// The scale table of [`Encoder::GlobalScale`].
fn global_scales(x: &DenseRows) -> Vec<f32> {
    let all = row_stats(x, Stats::extremes).into_iter().fold(Stats::default(), Stats::join);
    let global = if magnitude(all.amax()) < TINY { 1.0 } else { 2688.0 / all.amax() };
    let entry = |v: &f32| if v.is_nan() { 0.0 } else { v / global };
    Codebook::E4M3.entries().iter().map(entry).collect()
}

/// The one scale of a per-tensor scheme.
fn tensor_scale(x: &DenseRows, encoder: &GroupEncoder) -> Chosen {
    let stats = row_stats(x, |row| encoder.stats(row));
    let mut all = stats.iter().fold(Stats::default(), |a, &b| a.join(b));
    all.sum = group::sum_in_lanes(&stats.iter().map(|s| s.sum).collect::<Vec<_>>());
    encoder.find(&all, x.rows * x.k, x)
}

impl Values for DenseRows<'_> {
    fn all(&self) -> Vec<f32> {
        let mut scratch = Vec::new();
        (0..self.rows).flat_map(|r| self.row(r, &mut scratch).to_vec()).collect()
    }

    /// Of each row on some thread, added in the order of rows.
    fn squares(&self, e: &GroupEncoder, candidates: &Candidates) -> [f64; CANDIDATES] {
        struct OfRow<'a>(&'a GroupEncoder<'a>, &'a Candidates, &'a [f32]);
        impl Work for OfRow<'_> {
            type Output = [f64; CANDIDATES];
            #[inline(always)]
            fn run(self) -> Self::Output {
                self.2.squares(self.0, self.1)
            }
        }
        let per_task = (TASK_VALUES / self.k).max(1);
        let of_rows = |rows: std::ops::Range<usize>| {
            let mut scratch = Vec::new();
            rows.map(|r| vectorized(OfRow(e, candidates, self.row(r, &mut scratch)))).collect::<Vec<_>>()
        };
        let mut totals = [0.0; CANDIDATES];
        let all = threads::map(threads::ranges(self.rows, per_task), self.rows * self.k, of_rows);
        for of_row in all.iter().flatten() {
            totals.iter_mut().zip(of_row).for_each(|(total, of_row)| *total += of_row);
        }
        totals
    }
}

struct EncodeRows<'a> {
    x: &'a DenseRows<'a>,
    scheme: &'a Scheme,
    encoder: &'a GroupEncoder<'a>,
    /// The scale of a per-tensor scheme.
    whole: Option<&'a Chosen>,
    given: bool,
    importance: Option<&'a Importance<'a>>,
    part: RowsMut<'a>,
}

impl Work for EncodeRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, scheme, encoder, whole, given, importance, part } = self;
        let (mut scratch, mut of_tables) = (Vec::new(), TableEncoder::default());
        let mut row_codes = vec![0u8; x.k];
        for (row, planes) in part.range().zip(part) {
            let [low, high, scales, zeros, super_scales, super_mins, tables, ..] = planes;
            let x = x.row(row, &mut scratch);
            if let Value::Float(kind) = scheme.value {
                store_floats(kind, x, low);
                continue;
            }
            let importance = importance.map(|all| all.of_row(row));
            match (whole, scheme.scale) {
                (Some(chosen), _) => encoder.codes(chosen, x, &mut row_codes),
                (None, Scale::None) => of_tables.row(scheme, x, importance, given, &mut row_codes, tables),
                (None, Scale::TwoLevel { .. }) => {
                    let out =
                        SuperOut { scales, mins: zeros, super_scales, super_mins, codes: &mut row_codes };
                    two_level::encode_row(scheme, x, importance, out);
                }
                _ => {
                    if scheme.encoder.searches() || importance.is_some() {
                        one_level::encode_row(scheme, x, importance, &mut row_codes, scales, zeros);
                    } else {
                        direct_row(scheme, encoder, x, &mut row_codes, scales, zeros);
                    }
                }
            }
            codes::pack(scheme.bits, &row_codes, low, high);
        }
    }
}

#[inline(always)]
fn store_floats(kind: Float, x: &[f32], out: &mut [u8]) {
    match kind {
        Float::F32 => {
            out.as_chunks_mut::<4>().0.iter_mut().zip(x).for_each(|(o, v)| *o = v.to_le_bytes());
        }
        Float::F16 => out
            .as_chunks_mut::<2>()
            .0
            .iter_mut()
            .zip(x)
            .for_each(|(o, &v)| *o = half_float::f32_to_f16(v).to_le_bytes()),
        Float::Bf16 => out
            .as_chunks_mut::<2>()
            .0
            .iter_mut()
            .zip(x)
            .for_each(|(o, &v)| *o = half_float::f32_to_bf16(v).to_le_bytes()),
    }
}

/// Encodes a row whose groups have a scale each.
#[inline(always)]
fn direct_row(
    scheme: &Scheme,
    encoder: &GroupEncoder,
    x: &[f32],
    codes: &mut [u8],
    scales: &mut [u8],
    zeros: &mut [u8],
) {
    let group = scheme.group_len(x.len());
    let (size, zero_size) = (encoder.scale_type.size(), scheme.zero_size());
    for (g, (x, codes)) in x.chunks(group).zip(codes.chunks_mut(group)).enumerate() {
        let scale = &mut scales[g * size..(g + 1) * size];
        let chosen = encoder.group(x, codes);
        scale.copy_from_slice(&chosen.scale_bytes[..size]);
        zeros[g * zero_size..(g + 1) * zero_size].copy_from_slice(&chosen.zero_bytes[..zero_size]);
    }
}
