//! Whether two packed tensors hold the same numbers, whatever their schemes.
//!
//! ```text
//! a, b -> blocks of rows, on several threads -> decoded on the CPU -> compared number by number
//! ```
//!
//! A block at a time, so that memory does not grow with the tensor. A zero equals a zero of the other sign, NaN equals NaN: that is what changes of
//! scheme promise (`file::recast`).

use crate::{Error, PackedTensor, Result, cpu, threads};
use std::ops::Range;

/// Numbers that a thread decodes at a time.
const BLOCK: usize = 1 << 15;

/// Checks that two tensors decode to the same numbers.
///
/// # Errors
/// [`Error::Check`] with the first place where they differ, and both numbers.
pub fn same_numbers(a: &PackedTensor, b: &PackedTensor) -> Result<()> {
    if a.shape() != b.shape() {
        return Err(Error::shape(
            "tensor in another scheme",
            format!("{:?}", a.shape()),
            format!("{:?}", b.shape()),
        ));
    }
    let (rows, k) = a.matrix();
    let step = (BLOCK / k.max(1)).max(1);
    let blocks = threads::ranges(rows, step);
    let mut found = vec![None; blocks.len()];
    let compare = |[x, y]: &mut [Vec<f32>; 2], (range, found): (Range<usize>, &mut Option<String>)| {
        for (w, to) in [a, b].into_iter().zip([&mut *x, &mut *y]) {
            cpu::dequantize_rows(w, range.clone(), to);
        }
        let pairs = || x.iter().zip(y.iter()).take(range.len() * k);
        let differ = |(x, y): (&f32, &f32)| x != y && !(x.is_nan() && y.is_nan());
        // Asked without a place first, as that vectorises.
        if pairs().fold(false, |any, pair| any | differ(pair)) {
            *found = pairs().position(differ).map(|i| {
                let (row, col) = (range.start + i / k, i % k);
                let ([x, y], [a, b]) = ([x[i], y[i]], [a, b].map(PackedTensor::scheme));
                format!("weight [{row}, {col}] is {x} as {a} and would be {y} as {b}")
            });
        }
    };
    let scratch = || [(); 2].map(|()| vec![0f32; step * k]);
    let tasks = blocks.into_iter().zip(&mut found).collect();
    threads::for_each_with(tasks, a.len(), scratch, compare);
    match found.into_iter().flatten().next() {
        Some(what) => Err(Error::Check { what }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::recast::recast;
    use crate::scheme::PlaneKind;

    #[test]
    fn one_wrong_number_is_found_in_any_block() {
        let (rows, k) = (3 * BLOCK / 1024, 1024);
        let mut w = PackedTensor::zeroed("q4_0".parse().unwrap(), [rows, k]).unwrap();
        w.plane_mut(PlaneKind::CodesLow).iter_mut().enumerate().for_each(|(i, b)| *b = (i * 37 % 251) as u8);
        // 1 in f16.
        w.plane_mut(PlaneKind::Scales).chunks_mut(2).for_each(|s| s.copy_from_slice(&[0, 0x3c]));
        let mut other = recast(&w, "int4-g32-asym-f32".parse().unwrap()).unwrap();
        same_numbers(&w, &other).unwrap();
        for (row, col) in [(0, 0), (rows / 2, 77), (rows - 1, k - 1)] {
            let mut wrong = other.clone();
            // The highest bit of the code's nibble: quad order has four codes in each half of 16.
            let byte = row * k / 2 + col / 8 * 4 + col % 4;
            wrong.plane_mut(PlaneKind::CodesLow)[byte] ^= 8 << (col / 4 % 2 * 4);
            let message = same_numbers(&w, &wrong).unwrap_err().to_string();
            assert!(message.contains(&format!("weight [{row}, {col}] is")), "{message}");
        }
        // NaN on both sides, and zeros of either sign.
        w.plane_mut(PlaneKind::Scales)[..4].copy_from_slice(&[0, 0xfe, 0, 0x80]);
        other.plane_mut(PlaneKind::Scales)[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        other.plane_mut(PlaneKind::Scales)[4..8].copy_from_slice(&0f32.to_le_bytes());
        same_numbers(&w, &other).unwrap();
        other.plane_mut(PlaneKind::Scales)[..4].copy_from_slice(&1f32.to_le_bytes());
        assert!(same_numbers(&w, &other).is_err());
        let flat = PackedTensor::zeroed(*w.scheme(), [rows * k / 32, 32]).unwrap();
        assert!(matches!(same_numbers(&w, &flat), Err(Error::Shape { .. })));
    }
}
