//! The elements of a mapped tensor: rows in the order that GGUF has them, dense ones in the type that was asked for.
//!
//! ```text
//! bytes in the file -> rows of heads interleaved -> f32, f16, bf16 widened or rounded (to nearest, ties to even) -> bytes
//! packed layer      -> rows of heads interleaved
//! ```

use crate::{DType, Error, PackedTensor, Result, Tensor};
use half::{bf16, f16};
use std::borrow::Cow;

/// How a tensor is made of the one in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapped {
    /// The name in the folder.
    pub from: String,
    /// The type in the file; of a quantized layer, the one it had before.
    pub stored: DType,
    /// Of so many heads, the halves are interleaved.
    pub heads: Option<usize>,
}

/// The bytes of a tensor of `shape` in type `to`, from those in the file.
///
/// # Errors
/// [`Error::NotRepresentable`] for a number beyond the range of the type, with its place in the tensor that is made.
pub fn make<'a>(bytes: &'a [u8], shape: &[usize], mapped: &Mapped, to: DType) -> Result<Cow<'a, [u8]>> {
    let bytes = match mapped.heads {
        Some(heads) => Cow::Owned(interleave(bytes, shape, heads)?),
        None => Cow::Borrowed(bytes),
    };
    if mapped.stored == to {
        return Ok(bytes);
    }
    let tensor = Tensor::from_bytes(shape, mapped.stored, bytes.into_owned())?;
    let values = tensor.to_f32();
    match to {
        DType::F32 => Ok(Cow::Owned(bytemuck::cast_slice(&values).to_vec())),
        DType::F16 => round(&values, "f16", f16::MAX.to_f32(), |v| {
            let rounded = f16::from_f32(v);
            (rounded.to_le_bytes(), rounded.is_infinite())
        }),
        DType::Bf16 => round(&values, "bf16", bf16::MAX.to_f32(), |v| {
            let rounded = bf16::from_f32(v);
            (rounded.to_le_bytes(), rounded.is_infinite())
        }),
    }
}

/// A quantized layer with its rows in order.
///
/// # Errors
/// [`Error::Shape`] if the rows are no heads of pairs.
pub fn reorder(packed: PackedTensor, mapped: &Mapped) -> Result<PackedTensor> {
    let Some(heads) = mapped.heads else { return Ok(packed) };
    let (rows, _) = packed.matrix();
    Ok(packed.reorder_rows(&interleaved(rows, heads)?))
}

/// Rounds each number to two bytes; `rounded` also says whether it became an infinity.
fn round<'a>(
    values: &[f32],
    name: &str,
    limit: f32,
    rounded: impl Fn(f32) -> ([u8; 2], bool),
) -> Result<Cow<'a, [u8]>> {
    let mut out = Vec::with_capacity(values.len().saturating_mul(2));
    for (index, &value) in values.iter().enumerate() {
        let (bytes, infinite) = rounded(value);
        if infinite && value.is_finite() {
            let scheme = format!("{name} (another --dtype holds it)");
            return Err(Error::NotRepresentable {
                tensor: String::new(),
                index: index as u64,
                value,
                scheme,
                limit,
            });
        }
        out.extend(bytes);
    }
    Ok(Cow::Owned(out))
}

/// Rows 0, h, 1, h + 1, ... of each head, h being half of its rows.
fn interleaved(rows: usize, heads: usize) -> Result<Vec<usize>> {
    let head = rows.checked_div(heads).filter(|n| n.checked_mul(heads) == Some(rows) && *n > 0 && n % 2 == 0);
    let head = head.ok_or_else(|| Error::shape("rows", format!("{heads} heads of pairs"), rows))?;
    let half = head / 2;
    let of_head = |start: usize| (start..).take(half).flat_map(move |row| [row, row.saturating_add(half)]);
    Ok((0..rows).step_by(head).flat_map(of_head).collect())
}

/// The rows of `bytes` in that order.
fn interleave(bytes: &[u8], shape: &[usize], heads: usize) -> Result<Vec<u8>> {
    let rows = shape.first().copied().unwrap_or(0);
    let order = interleaved(rows, heads)?;
    let row = bytes.len().checked_div(rows).filter(|n| *n > 0 && n.checked_mul(rows) == Some(bytes.len()));
    let row = row.ok_or_else(|| Error::shape("bytes", format!("{rows} rows"), bytes.len()))?;
    let bytes: Vec<&[u8]> = bytes.chunks(row).collect();
    Ok(order.iter().filter_map(|&row| bytes.get(row)).copied().flatten().copied().collect())
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_heads_are_interleaved() {
        // Two heads of four rows of one byte pair.
        let bytes: Vec<u8> = (0..8).flat_map(|row| [row, row + 100]).collect();
        let out = interleave(&bytes, &[8, 1], 2).unwrap();
        let rows: Vec<u8> = out.chunks(2).map(|r| r[0]).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
        assert!(out.chunks(2).all(|r| r[1] == r[0] + 100));
        for (shape, heads) in [([8, 1], 3), ([8, 1], 8), ([0, 1], 1), ([7, 1], 1)] {
            assert!(interleave(&bytes, &shape, heads).is_err(), "{shape:?} {heads}");
        }
    }

    #[test]
    fn numbers_are_rounded_once_or_refused() {
        let values = [1.0f32, -0.1, 65504.0, f32::INFINITY, f32::NAN, 1e-9];
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mapped = Mapped { from: String::new(), stored: DType::F32, heads: None };
        for to in [DType::F16, DType::Bf16] {
            let out = make(&bytes, &[6], &mapped, to).unwrap().into_owned();
            let back = Tensor::from_bytes([6], to, out).unwrap();
            for (v, b) in values.iter().zip(back.to_f32().iter()) {
                let expected =
                    if to == DType::F16 { f16::from_f32(*v).to_f32() } else { bf16::from_f32(*v).to_f32() };
                assert_eq!(b.to_bits(), expected.to_bits(), "{v} {to}");
            }
        }
        let over = 70000f32.to_le_bytes();
        match make(&over, &[1], &mapped, DType::F16) {
            Err(Error::NotRepresentable { index: 0, value: 70000.0, .. }) => {}
            other => panic!("{other:?}"),
        }
        assert!(make(&over, &[1], &mapped, DType::Bf16).is_ok());
        let (bytes, stored) =
            (1.5f32.to_le_bytes(), Mapped { from: String::new(), stored: DType::Bf16, heads: None });
        let wide = make(&bytes[2..], &[1], &stored, DType::F32);
        assert_eq!(wide.unwrap().as_ref(), 1.5f32.to_le_bytes());
    }
}
