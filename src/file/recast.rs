//! The same weights in another scheme, where nothing but the way of writing them differs.
//!
//! ```text
//! PackedTensor -> scale and zero of each group -> as the other scheme writes them, each asked whether it is the same number -> PackedTensor
//! ```
//!
//! Codes are never touched. What may differ, and when it is exact:
//!
//! | from, to | exact where |
//! |---|---|
//! | a GGUF type and the family it is a point of (`q4_0`, `int4-g32`) | always |
//! | the middle of the codes, a zero-point, a bias | each group's zero is a number of the other kind |
//! | f16, bf16, f32 scales | each scale is a number of the other type |
//! | groups, and shorter groups that divide them | always: scales are repeated |
//! | `mxfp4` and `fp4-g32-e8m0` | always |
//! | columns in an order of their own, and as they are | the order is that of the columns |
//!
//! Decoded numbers are equal, except that a zero may change its sign: `s * (8 - 8)` is -0 where s is negative, and `s * 8 + -8 * s` is +0.

use crate::scheme::{Codebook, Group, PlaneKind, Scale, ScaleType, Scheme, Value, Zero};
use crate::{Error, PackedTensor, Result, threads};
use half::{bf16, f16};
use std::ops::Range;

/// Groups that a thread writes at a time.
const TASK: usize = 1 << 14;

/// A group's zero.
#[derive(Clone, Copy)]
enum Origin {
    /// Subtracted from the code.
    Point(i32),
    /// Added after scaling.
    Bias(f32),
}

fn read(bytes: &[u8], kind: ScaleType) -> Option<f32> {
    match (kind, bytes) {
        (ScaleType::F32, &[a, b, c, d]) => Some(f32::from_le_bytes([a, b, c, d])),
        (ScaleType::F16, &[a, b]) => Some(f16::from_le_bytes([a, b]).to_f32()),
        (ScaleType::Bf16, &[a, b]) => Some(bf16::from_le_bytes([a, b]).to_f32()),
        _ => None,
    }
}

/// Appends a number of a type, if the type has it.
fn write(value: f32, kind: ScaleType, to: &mut Vec<u8>) -> Option<()> {
    let same = |back: f32| (back.to_bits() == value.to_bits() && value.is_finite()).then_some(());
    match kind {
        ScaleType::F32 => {
            same(value)?;
            to.extend(value.to_le_bytes());
        }
        ScaleType::F16 => {
            let rounded = f16::from_f32(value);
            same(rounded.to_f32())?;
            to.extend(rounded.to_le_bytes());
        }
        ScaleType::Bf16 => {
            let rounded = bf16::from_f32(value);
            same(rounded.to_f32())?;
            to.extend(rounded.to_le_bytes());
        }
        _ => return None,
    }
    Some(())
}

/// `-scale * point` as f32, if it is exact.
fn bias_of(scale: f32, point: i32) -> Option<f32> {
    let exact = -(f64::from(scale) * f64::from(point));
    let bias = exact as f32;
    (f64::from(bias) == exact).then_some(bias)
}

/// The zero-point that a bias amounts to.
fn point_of(scale: f32, bias: f32) -> Option<i32> {
    let point = if bias == 0.0 { 0 } else { (-f64::from(bias) / f64::from(scale)).round() as i32 };
    (bias_of(scale, point) == Some(bias)).then_some(point)
}

fn direct(scheme: &Scheme) -> Option<ScaleType> {
    match scheme.scale {
        Scale::Direct(kind @ (ScaleType::F32 | ScaleType::F16 | ScaleType::Bf16)) => Some(kind),
        _ => None,
    }
}

/// The offset of linear codes that a zero-point or bias may stand for.
fn offset(scheme: &Scheme) -> Option<i32> {
    match scheme.value {
        Value::Linear { step: 1, offset } if scheme.zero != Zero::Float => Some(offset),
        _ => None,
    }
}

/// Whether the planes of both are the same.
fn alike(a: &Scheme, b: &Scheme) -> bool {
    let e8m0 = |s: &Scheme| match (s.value, s.scale) {
        (Value::Codebook(Codebook::E2M1), Scale::Direct(ScaleType::E8M0))
        | (Value::Codebook(Codebook::E2M1Doubled), Scale::Direct(ScaleType::E8M0Half)) => Some(s.group),
        _ => None,
    };
    let mxfp4 = e8m0(a).is_some() && e8m0(a) == e8m0(b);
    let fields = (a.bits, a.zero, a.order) == (b.bits, b.zero, b.order);
    fields && (mxfp4 || (a.value, a.group, a.scale) == (b.value, b.group, b.scale))
}

/// The planes of `tensor` that are not a fixed table.
fn planes<'a>(tensor: &'a PackedTensor, changed: &[PlaneKind]) -> Vec<(PlaneKind, &'a [u8])> {
    let fixed = |kind| kind == PlaneKind::Codebook && tensor.scheme().codebook().is_some();
    let kinds = tensor.layout().planes().iter().map(|p| p.kind);
    kinds.filter(|kind| !fixed(*kind) && !changed.contains(kind)).map(|k| (k, tensor.plane(k))).collect()
}

/// The tensor in scheme `to`, with the same numbers.
///
/// # Errors
/// [`Error::Unsupported`] if the schemes differ in more than the table above says, or a group's scale or zero is no number of `to`'s.
pub fn recast(tensor: &PackedTensor, to: Scheme) -> Result<PackedTensor> {
    let from = *tensor.scheme();
    let refuse = |why: String| Error::unsupported(format!("scheme {from} as {to}"), why);
    let other = || refuse("the codes mean other numbers".into());
    // Columns that are where they are without a permutation need none.
    let stays = |columns: Vec<u32>| columns.into_iter().zip(0..).all(|(column, place)| column == place);
    let dropped: &[PlaneKind] = match tensor.permutation() {
        Some(columns) if !to.is_permuted() => {
            if !stays(columns) {
                return Err(other());
            }
            &[PlaneKind::Permutation]
        }
        _ => &[],
    };
    let from = if dropped.is_empty() { from } else { Scheme { order: to.order, ..from } };
    if alike(&from, &to) {
        return PackedTensor::from_planes(to, tensor.shape(), &planes(tensor, dropped));
    }
    let ((kind, new_kind), (old, new)) =
        direct(&from).zip(direct(&to)).zip(offset(&from).zip(offset(&to))).ok_or_else(other)?;
    if (from.bits, from.order) != (to.bits, to.order) {
        return Err(other());
    }
    let (rows, k) = tensor.matrix();
    to.check_shape(tensor.shape())?;
    let (len, new_len) = (from.group_len(k), to.group_len(k));
    if len != k && len.checked_rem(new_len) != Some(0) || to.group == Group::Tensor && from.group != to.group
    {
        return Err(refuse("groups do not divide".into()));
    }
    let (groups, new_groups) = (from.groups_per_row(k), to.groups_per_row(k));
    let (scales, zeros) = (tensor.plane(PlaneKind::Scales), tensor.plane(PlaneKind::Zeros));
    let at = |index: usize| -> Option<(f32, Origin)> {
        let scale = read(scales.chunks(kind.size()).nth(index)?, kind)?;
        let origin = match from.zero {
            Zero::None => Origin::Point(old),
            Zero::Point => Origin::Point(old.checked_add(i32::from(*zeros.get(index)?))?),
            Zero::Bias if old == 0 => Origin::Bias(read(zeros.chunks(kind.size()).nth(index)?, kind)?),
            Zero::Bias | Zero::Float => return None,
        };
        Some((scale, origin))
    };
    let put =
        |(new_scales, new_zeros): &mut (Vec<u8>, Vec<u8>), (scale, origin): (f32, Origin)| -> Option<()> {
            write(scale, new_kind, new_scales)?;
            match (to.zero, origin) {
                (Zero::None, Origin::Point(point)) => (point == new).then_some(()),
                (Zero::None, Origin::Bias(bias)) => (bias_of(scale, new) == Some(bias)).then_some(()),
                (Zero::Point, _) => {
                    let point = match origin {
                        Origin::Point(point) => point,
                        Origin::Bias(bias) => point_of(scale, bias)?,
                    };
                    new_zeros.push(u8::try_from(point.checked_sub(new)?).ok()?);
                    Some(())
                }
                (Zero::Bias, Origin::Bias(bias)) => write(bias, new_kind, new_zeros),
                (Zero::Bias, Origin::Point(point)) if new == 0 => {
                    write(bias_of(scale, point)?, new_kind, new_zeros)
                }
                (Zero::Bias | Zero::Float, _) => None,
            }
        };
    let tensors_own = from.group == Group::Tensor;
    let new_rows = if to.group == Group::Tensor { 1 } else { rows };
    let some_rows = |rows: Range<usize>| {
        let mut made = (Vec::new(), Vec::new());
        for row in rows {
            for group in 0..new_groups {
                let of_row = group.saturating_mul(new_len).checked_div(len).unwrap_or(0);
                let index = if tensors_own { 0 } else { row.saturating_mul(groups).saturating_add(of_row) };
                at(index)
                    .and_then(|of_group| put(&mut made, of_group))
                    .ok_or_else(|| refuse(format!("group {group} of row {row} would have to be rounded")))?;
            }
        }
        Ok(made)
    };
    let parts = threads::ranges(new_rows, TASK.div_euclid(new_groups.max(1)));
    let made = threads::map(parts, new_rows.saturating_mul(new_groups), some_rows);
    let (new_scales, new_zeros): (Vec<_>, Vec<_>) =
        made.into_iter().collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let (new_scales, new_zeros) = (new_scales.concat(), new_zeros.concat());
    let mut all = planes(tensor, &[&[PlaneKind::Scales, PlaneKind::Zeros], dropped].concat());
    all.push((PlaneKind::Scales, &new_scales));
    if to.zero != Zero::None {
        all.push((PlaneKind::Zeros, &new_zeros));
    }
    PackedTensor::from_planes(to, tensor.shape(), &all)
}

/// The schemes that weights of `scheme` may be recast to: those of few bits first, `scheme` itself among them.
pub fn forms(scheme: &Scheme) -> Vec<Scheme> {
    let mut found = vec![*scheme];
    let orders: &[&str] = if scheme.is_permuted() { &["-perm", ""] } else { &[""] };
    let mut groups: Vec<String> = vec![scheme.group.to_string()];
    groups.extend([128, 64, 32].map(|size| format!("g{size}")));
    let of_bits = crate::scheme::PRESETS.iter().map(|p| p.scheme).filter(|s| s.bits == scheme.bits);
    let mut named = of_bits.collect::<Vec<_>>();
    named.extend("fp4-g32-e8m0".parse::<Scheme>().ok());
    if offset(scheme).is_some() && direct(scheme).is_some() {
        for group in &groups {
            for zero in ["", "-asym", "-bias"] {
                let kinds =
                    ["f16", "bf16", "f32"].iter().flat_map(|kind| orders.iter().map(move |o| (kind, o)));
                for (kind, permuted) in kinds {
                    let name = format!("int{}-{group}{zero}-{kind}{permuted}", scheme.bits);
                    if let Ok(form) = name.parse::<Scheme>() {
                        // A GGUF type where there is one like it: formats that hold no such type hold the other.
                        found.extend(named.iter().filter(|s| alike(s, &form)));
                        found.push(form);
                    }
                }
            }
        }
    }
    found.extend(named.iter().filter(|s| alike(s, scheme)));
    let mut seen = std::collections::HashSet::new();
    found.retain(|form| seen.insert(*form));
    found
}
