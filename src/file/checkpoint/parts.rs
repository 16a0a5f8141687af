//! Between the tensors of a format and the planes of a packed one: what the transcoders have in common.
//!
//! ```text
//! View      a tensor of the file: name, type, shape, bytes; what is expected of it is said once, and the error says it again
//! of_codes  rows of codes -> PackedTensor, whose other planes `fill` fills; pack_rows: the reverse. Both on several threads
//! Grouping  the group that each column is in -> order of columns, and groups of one length
//! Integers  what a scheme is to a format of integer codes and integer zero-points
//! ```

use super::super::{Content, Dtype, Entry, Model};
use super::bits::{pack_stream, stream_bytes};
use crate::packed::RowsMut;
use crate::scheme::{Group, PlaneKind, Scale, ScaleType, Scheme, Value, Zero, codes};
use crate::{DType, Error, PackedTensor, Result, threads};
use std::collections::HashSet;
use std::path::Path;

/// A tensor of the file.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub data: &'a [u8],
    /// File, and the byte in it; none for what is part of another tensor.
    pub place: Option<(&'a Path, usize)>,
}

fn list(dtypes: &[Dtype]) -> String {
    dtypes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

impl<'a> View<'a> {
    /// The tensor of this name, if it is there.
    pub fn get(model: &'a Model, name: &str) -> Option<Self> {
        let entry = model.entry(name)?;
        let Content::Dense(dtype) = entry.content else { return None };
        let place = Some(model.place(entry));
        Some(Self { name: &entry.name, dtype, shape: &entry.shape, data: model.raw(entry), place })
    }

    /// The tensor `suffix` of a module, which has to be there.
    pub fn of(model: &'a Model, module: &str, suffix: &str) -> Result<Self> {
        let name = format!("{module}{suffix}");
        let missing = || Error::shape(format!("tensor '{name}'"), "to be there", "no such tensor");
        Self::get(model, &name).ok_or_else(missing)
    }

    /// An error about this tensor.
    pub fn wrong(&self, expected: impl Into<String>, got: impl ToString) -> Error {
        let what = match self.place {
            Some((path, at)) => format!("{}: tensor '{}' at byte {at}", path.display(), self.name),
            None => format!("tensor '{}'", self.name),
        };
        Error::shape(what, expected.into(), got)
    }

    fn found(&self) -> String {
        format!("{} {:?}", self.dtype, self.shape)
    }

    /// Refuses other types and shapes.
    pub fn expect(self, dtypes: &[Dtype], shape: &[usize]) -> Result<Self> {
        if dtypes.contains(&self.dtype) && self.shape == shape {
            return Ok(self);
        }
        Err(self.wrong(format!("{} {shape:?}", list(dtypes)), self.found()))
    }

    /// The dimensions of a matrix without empty ones.
    pub fn matrix(&self, dtypes: &[Dtype]) -> Result<[usize; 2]> {
        match *self.shape {
            [rows, columns] if dtypes.contains(&self.dtype) && rows > 0 && columns > 0 => Ok([rows, columns]),
            _ => Err(self.wrong(format!("{} [rows, columns]", list(dtypes)), self.found())),
        }
    }

    /// The number in a tensor of one integer.
    pub fn number(&self) -> Result<i64> {
        let wrong = || self.wrong("one integer", self.found());
        let value = match (self.dtype, self.data) {
            (Dtype::U8, &[byte]) => i64::from(byte),
            (Dtype::I32, bytes) => i64::from(i32::from_le_bytes(bytes.try_into().map_err(|_| wrong())?)),
            (Dtype::I64, bytes) => i64::from_le_bytes(bytes.try_into().map_err(|_| wrong())?),
            _ => return Err(wrong()),
        };
        Ok(value)
    }

    /// The numbers of an I32 or I64 tensor.
    pub fn integers(&self) -> Result<Vec<i64>> {
        let i32s = |b: &[u8; 4]| i64::from(i32::from_le_bytes(*b));
        match self.dtype {
            Dtype::I32 => Ok(self.data.as_chunks::<4>().0.iter().map(i32s).collect()),
            Dtype::I64 => Ok(self.data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            _ => Err(self.wrong("I32 or I64", self.found())),
        }
    }

    /// The numbers of an F32 tensor.
    pub fn floats(&self) -> Vec<f32> {
        self.data.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }

    /// The type of scales that these numbers are.
    pub fn scale_type(&self) -> Result<ScaleType> {
        match self.dtype {
            Dtype::F16 => Ok(ScaleType::F16),
            Dtype::BF16 => Ok(ScaleType::Bf16),
            Dtype::F32 => Ok(ScaleType::F32),
            _ => Err(self.wrong(list(&FLOATS), self.found())),
        }
    }
}

/// The dimensions of a matrix, as a tensor of integers tells them.
pub fn two_dimensions(view: View, dims: &[i64]) -> Result<[usize; 2]> {
    let positive = |d: i64| usize::try_from(d).ok().filter(|&d| d > 0);
    let shape = match *dims {
        [rows, columns] => positive(rows).zip(positive(columns)),
        _ => None,
    };
    let wrong = || view.wrong("two dimensions from 1 on", format!("{dims:?}"));
    shape.map(|(rows, columns)| [rows, columns]).ok_or_else(wrong)
}

/// The types that scales have.
pub const FLOATS: [Dtype; 3] = [Dtype::F16, Dtype::BF16, Dtype::F32];

/// The element type before quantization, where only the scales tell: theirs.
pub fn source_of(scale: ScaleType) -> DType {
    match scale {
        ScaleType::F32 => DType::F32,
        ScaleType::Bf16 => DType::Bf16,
        _ => DType::F16,
    }
}

/// The modules that have a tensor `suffix`, in the order of the file.
pub fn modules<'a>(model: &'a Model, suffix: &str) -> Vec<&'a str> {
    model.entries().iter().filter_map(|e| e.name.strip_suffix(suffix)).collect()
}

/// The modules that have one of the tensors, or a `.weight` of one of the types, each once.
pub fn modules_with<'a>(model: &'a Model, suffixes: &[&str], dtypes: &[Dtype]) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    let module = |entry: &'a Entry| {
        let of_type = matches!(entry.content, Content::Dense(dtype) if dtypes.contains(&dtype));
        let by_type = entry.name.strip_suffix(".weight").filter(|_| of_type);
        by_type.or_else(|| suffixes.iter().find_map(|suffix| entry.name.strip_suffix(suffix)))
    };
    model.entries().iter().filter_map(module).filter(|module| seen.insert(*module)).collect()
}

/// The word of a scale's type in names of schemes.
fn scale_word(scale: ScaleType) -> &'static str {
    match scale {
        ScaleType::F32 => "f32",
        ScaleType::Bf16 => "bf16",
        ScaleType::E8M0 => "e8m0",
        _ => "f16",
    }
}

/// A scheme of a family: `family` with bits, `zero` empty, `-asym`, `-bias` or `-fzero`.
///
/// # Errors
/// [`Error::BadScheme`] for groups that no scheme has.
pub fn scheme(family: &str, group: Group, zero: &str, scale: ScaleType, permuted: bool) -> Result<Scheme> {
    let perm = if permuted { "-perm" } else { "" };
    format!("{family}-{group}{zero}-{}{perm}", scale_word(scale)).parse()
}

/// Groups of `size` columns; none: of a row.
pub fn group_of(size: Option<usize>) -> Group {
    size.map_or(Group::Row, |g| Group::Cols(u32::try_from(g).unwrap_or(u32::MAX)))
}

/// Weights whose codes a thread moves at a time.
const TASK: usize = 1 << 16;

/// Row `row` of rows of `bytes` each.
pub fn row_of(all: &[u8], bytes: usize, row: usize) -> &[u8] {
    all.chunks(bytes.max(1)).nth(row).unwrap_or_default()
}

/// A tensor with the codes that `row` gives, by columns, of each row. `order` is the columns in stored order. Other planes are zeros.
///
/// # Errors
/// As [`Scheme::check_shape`] and [`PackedTensor::set_permutation`].
pub fn of_codes(
    scheme: Scheme,
    shape: &[usize],
    order: Option<&[u32]>,
    row: impl Fn(usize, &mut [u8]) + Sync + Send,
) -> Result<PackedTensor> {
    let mut tensor = PackedTensor::zeroed(scheme, shape)?;
    let (_, k) = tensor.matrix();
    if let Some(columns) = order {
        tensor.set_permutation(columns)?;
    }
    let weights = tensor.len();
    let scratch = || (vec![0; k], vec![0; order.map_or(0, <[u32]>::len)]);
    let some_rows = |(codes, sorted): &mut (Vec<u8>, Vec<u8>), rows: RowsMut| {
        for (i, [low, high, ..]) in rows.range().zip(rows) {
            row(i, codes);
            let stored: &[u8] = match order {
                None => codes,
                Some(order) => {
                    let by_order = order.iter().map(|&c| codes.get(c as usize).copied().unwrap_or(0));
                    sorted.iter_mut().zip(by_order).for_each(|(to, code)| *to = code);
                    sorted
                }
            };
            codes::pack(scheme.bits, stored, low, high);
        }
    };
    threads::for_each_with(tensor.rows_mut(TASK.div_euclid(k).max(1)), weights, scratch, some_rows);
    Ok(tensor)
}

/// Fills a plane that is not codes.
///
/// # Errors
/// [`Error::Plane`] if the scheme has none such, or of another length.
pub fn fill(tensor: &mut PackedTensor, kind: PlaneKind, bytes: &[u8]) -> Result<()> {
    let plane = tensor.plane_mut(kind);
    if plane.len() == bytes.len() {
        plane.copy_from_slice(bytes);
        return Ok(());
    }
    let (expected, got) = (plane.len(), bytes.len());
    Err(Error::Plane { scheme: tensor.scheme().to_string(), plane: kind.name(), expected, got })
}

/// `bytes` of every `together` rows, one after the other. `pack` is given which of them a row is, its codes by columns, and the bytes, zeros before the first.
pub fn pack_rows(
    tensor: &PackedTensor,
    together: usize,
    bytes: usize,
    pack: impl Fn(usize, &[u8], &mut [u8]) + Sync + Send,
) -> Vec<u8> {
    let (rows, k) = tensor.matrix();
    let mut out = vec![0; rows.div_ceil(together.max(1)).saturating_mul(bytes)];
    let order = tensor.permutation();
    let packs = TASK.div_euclid(k).div_euclid(together.max(1)).max(1);
    let scratch = || (vec![[0; 4]; k.div_ceil(4)], vec![0; order.as_ref().map_or(0, Vec::len)]);
    let some_rows = |(codes, by_column): &mut (Vec<[u8; 4]>, Vec<u8>), (task, out): (usize, &mut [u8])| {
        let first = packs.saturating_mul(together).saturating_mul(task);
        let [mut low, mut high] =
            [PlaneKind::CodesLow, PlaneKind::CodesHigh].map(|kind| tensor.plane_rows(kind).skip(first));
        for out in out.chunks_mut(bytes.max(1)) {
            for (row, low) in low.by_ref().take(together).enumerate() {
                codes::unpack(tensor.scheme().bits, low, high.next().unwrap_or(&[]), codes);
                let codes = codes.as_flattened().get(..k).unwrap_or_default();
                let Some(order) = &order else {
                    pack(row, codes, out);
                    continue;
                };
                for (code, &column) in codes.iter().zip(order) {
                    if let Some(to) = by_column.get_mut(column as usize) {
                        *to = *code;
                    }
                }
                pack(row, by_column, out);
            }
        }
    };
    let tasks = out.chunks_mut(bytes.saturating_mul(packs).max(1)).enumerate().collect();
    threads::for_each_with(tasks, tensor.len(), scratch, some_rows);
    out
}

/// A stream of the codes of each row.
pub fn streams(tensor: &PackedTensor) -> Vec<u8> {
    let ((_, k), bits) = (tensor.matrix(), u32::from(tensor.scheme().bits));
    pack_rows(tensor, 1, stream_bytes(k, bits), |_, codes, out| pack_stream(codes, bits, out))
}

/// How columns are grouped.
#[derive(Clone, Debug, PartialEq)]
pub struct Grouping {
    /// The column at each stored position; none where columns stay where they are.
    pub order: Option<Vec<u32>>,
    /// Columns per group; none: all.
    pub size: Option<usize>,
    /// The group of the file that each group has its scale from.
    pub from: Vec<usize>,
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a.checked_rem(b).unwrap_or(0)) }
}

/// The largest length that divides `n` columns and a `block` alike.
pub fn common_group(n: usize, block: usize) -> usize {
    gcd(n, block)
}

impl Grouping {
    /// Groups of `size` that follow each other.
    pub fn sequential(k: usize, size: Option<usize>) -> Self {
        let n = size.map_or(1, |size| k.div_ceil(size.max(1)));
        Self { order: None, size, from: (0..n).collect() }
    }

    /// The grouping that `indices` (a group below `n` for each column) describe. Groups of `size` in any order of columns; of other lengths
    /// if shorter groups that repeat the scales can stand for them.
    ///
    /// # Errors
    /// [`Error::Shape`] for an index out of range; [`Error::Unsupported`] for groups that begin elsewhere than on multiples of 4.
    pub fn of_indices(view: View, indices: &[i64], size: Option<usize>, n: usize) -> Result<Self> {
        let k = indices.len();
        let mut groups = Vec::with_capacity(k);
        for (column, &index) in indices.iter().enumerate() {
            let group = usize::try_from(index).ok().filter(|&g| g < n);
            let wrong =
                || view.wrong(format!("groups below {n}"), format!("group {index} of column {column}"));
            groups.push(group.ok_or_else(wrong)?);
        }
        let size_or_all = size.unwrap_or(k).max(1);
        let follow = |(j, g): (usize, &usize)| *g == j.div_euclid(size_or_all);
        if groups.iter().enumerate().all(follow) {
            return Ok(Self::sequential(k, size));
        }
        let mut order: Vec<u32> = (0..u32::try_from(k).unwrap_or(u32::MAX)).collect();
        let group_at = |column: u32| groups.get(column as usize).copied().unwrap_or(0);
        order.sort_by_key(|&column| group_at(column));
        let sorted: Vec<usize> = order.iter().map(|&column| group_at(column)).collect();
        if sorted.iter().enumerate().all(follow) {
            return Ok(Self { order: Some(order), size, from: (0..n).collect() });
        }
        let mut length = 0;
        for (j, pair) in sorted.windows(2).enumerate() {
            if let [a, b] = pair
                && a != b
            {
                length = gcd(length, j.saturating_add(1));
            }
        }
        if length == 0 {
            return Ok(Self { order: None, size: None, from: sorted.into_iter().take(1).collect() });
        }
        if length % 4 != 0 {
            let what = format!("tensor '{}', groups that begin on multiples of {length} columns", view.name);
            return Err(Error::unsupported(what, "groups of lowbit begin on multiples of 4"));
        }
        let from = sorted.into_iter().step_by(length).collect();
        Ok(Self { order: Some(order), size: Some(length), from })
    }

    /// The elements of `N` bytes of each row, `n` in the file, as the groups have them.
    pub fn gather<const N: usize>(&self, bytes: &[u8], n: usize) -> Vec<u8> {
        if self.from.iter().copied().eq(0..n) {
            return bytes.to_vec();
        }
        let rows = bytes.as_chunks::<N>().0.chunks(n.max(1));
        let gathered = rows.flat_map(|row| self.from.iter().filter_map(|&g| row.get(g).copied()));
        gathered.collect::<Vec<[u8; N]>>().into_flattened()
    }
}

/// [`Grouping::gather`] for elements of a type of scales.
pub fn gather_scales(grouping: &Grouping, bytes: &[u8], n: usize, scale: ScaleType) -> Vec<u8> {
    match scale.size() {
        4 => grouping.gather::<4>(bytes, n),
        2 => grouping.gather::<2>(bytes, n),
        _ => grouping.gather::<1>(bytes, n),
    }
}

/// [`super::bits::turned`] for elements of a type of scales.
pub fn turned_scales(bytes: &[u8], columns: usize, scale: ScaleType) -> Vec<u8> {
    match scale.size() {
        4 => super::bits::turned::<4>(bytes, columns),
        _ => super::bits::turned::<2>(bytes, columns),
    }
}

/// A scheme as formats of integer codes and integer zero-points see it: w = scale * (code - zero).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Integers {
    pub bits: u32,
    /// Columns per group; none: a row.
    pub group: Option<usize>,
    /// The zero-point of all groups, or none where each has its own.
    pub zero: Option<u8>,
    pub scale: ScaleType,
    pub permuted: bool,
}

impl Integers {
    /// Of a scheme, if it is one such.
    pub fn of(scheme: &Scheme) -> Option<Self> {
        let Value::Linear { step: 1, offset } = scheme.value else { return None };
        let Scale::Direct(scale @ (ScaleType::F32 | ScaleType::F16 | ScaleType::Bf16)) = scheme.scale else {
            return None;
        };
        let zero = match scheme.zero {
            Zero::None => Some(u8::try_from(offset).ok()?),
            Zero::Point if offset == 0 => None,
            _ => return None,
        };
        let group = match scheme.group {
            Group::Tensor => return None,
            Group::Row => None,
            Group::Cols(g) => Some(g as usize),
        };
        let bits = u32::from(scheme.bits);
        Some(Self { bits, group, zero, scale, permuted: scheme.is_permuted() })
    }

    /// The middle of the codes: the zero-point of symmetric ones.
    pub fn middle(bits: u32) -> u8 {
        1u8.wrapping_shl(bits.saturating_sub(1))
    }

    /// Whether the zero-point is the middle of the codes.
    pub fn symmetric(&self) -> bool {
        self.zero == Some(Self::middle(self.bits))
    }

    /// Groups in a row of `k`.
    pub fn groups(&self, k: usize) -> usize {
        self.group.map_or(1, |g| k.div_ceil(g.max(1)))
    }

    /// The zero-points of a tensor, [rows, groups], which must fit in the bits of a code.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for one that does not.
    pub fn zeros(&self, tensor: &PackedTensor) -> Result<Vec<u8>> {
        let (rows, k) = tensor.matrix();
        let zeros = match self.zero {
            None => tensor.plane(PlaneKind::Zeros).to_vec(),
            Some(zero) => vec![zero; rows.saturating_mul(self.groups(k))],
        };
        check_zeros(&zeros, self.bits)?;
        Ok(zeros)
    }
}

/// Refuses zero-points beyond the largest code.
pub fn check_zeros(zeros: &[u8], bits: u32) -> Result<()> {
    let limit = u8::MAX.wrapping_shr(8u32.saturating_sub(bits));
    // The largest first, which vectorises.
    let largest = zeros.iter().fold(0, |largest, &zero| zero.max(largest));
    if largest <= limit {
        return Ok(());
    }
    let at = zeros.iter().position(|&zero| zero > limit).unwrap_or(0);
    let what = format!("the zero-point {} of group {at}", zeros.get(at).copied().unwrap_or(largest));
    Err(Error::unsupported(what, format!("{bits} bits hold zero-points up to {limit}")))
}
