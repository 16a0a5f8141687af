//! What the codes of a packed tensor are: how often each occurs, and which weights lie beyond them.
//!
//! ```text
//! PackedTensor -> codes, scales of groups -> counts of each code
//!      W, decoded -> beyond the last code by more than half a step? -> clipped weights, and their share of the error
//! ```
//!
//! A weight within the range of its group is at most half a step from a code. One that has the first or the last code and lies farther outwards is clipped: its
//! error has no bound but its own size.

use crate::scheme::{Encoder, Value};
use crate::{PackedTensor, Scheme, cpu};

/// The codes of a tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Codes {
    /// How often each code occurs; empty for plain floats.
    pub counts: Vec<u64>,
    /// Weights beyond the codes.
    pub clipped: u64,
    /// The sum of their squared errors.
    pub clipped_power: f64,
}

/// The codes at the ends of the range, each with half the (signed) step that leads to it, before scaling.
type Ends = [(u32, f32); 2];

impl Codes {
    /// Those of `packed`, which decodes to `decoded` and was made of `weights`.
    ///
    /// # Panics
    /// If there are not as many numbers as codes.
    pub fn of(packed: &PackedTensor, weights: &[f32], decoded: &[f32]) -> Self {
        let (rows, k) = packed.matrix();
        assert!(weights.len() == rows * k && decoded.len() == rows * k, "a number for each code");
        let scheme = packed.scheme();
        if scheme.is_float() {
            return Self::default();
        }
        let mut of_group = ends(scheme, &packed.codebook());
        let of_groups = packed.group_tables();
        let mut codes = Self { counts: vec![0; 1 << scheme.bits], ..Self::default() };
        let planes = cpu::Weights::new(packed);
        let mut of_row = vec![0u32; k.div_ceil(4)];
        let mut scales = vec![0f32; planes.groups_per_row];
        for row in 0..rows {
            planes.codes(row, &mut of_row);
            planes.scales(row, &mut scales);
            let of_row: &[u8] = bytemuck::cast_slice(&of_row);
            for (g, (codes_of_group, scale)) in of_row[..k].chunks(planes.group_len).zip(&scales).enumerate()
            {
                if !of_groups.is_empty() {
                    let first = (row * planes.groups_per_row + g) << scheme.bits;
                    of_group = ends(scheme, &of_groups[first..][..1 << scheme.bits]);
                }
                for (i, &code) in codes_of_group.iter().enumerate() {
                    let (position, code) = (g * planes.group_len + i, u32::from(code));
                    codes.counts[code as usize] += 1;
                    let Some((_, half)) = of_group.iter().find(|(end, _)| *end == code) else { continue };
                    let column = planes.permutation.as_ref().map_or(position, |c| c[position] as usize);
                    let at = row * k + column;
                    let beyond = (weights[at] - decoded[at]) / (half * scale);
                    if beyond.is_finite() && beyond > 1.0 {
                        codes.clipped += 1;
                        codes.clipped_power += (f64::from(weights[at]) - f64::from(decoded[at])).powi(2);
                    }
                }
            }
        }
        codes
    }

    /// The bits that a code is worth: the entropy of the counts.
    pub fn entropy(&self) -> f64 {
        let all = self.counts.iter().sum::<u64>() as f64;
        let shares = self.counts.iter().filter(|n| **n > 0).map(|n| *n as f64 / all);
        shares.map(|p| -p * p.log2()).sum()
    }
}

/// `table` is that of the tensor or the group.
fn ends(scheme: &Scheme, table: &[f32]) -> Ends {
    if let Value::Linear { step, .. } = scheme.value {
        // Three values in two bits.
        let ternary = matches!(scheme.encoder, Encoder::Ternary | Encoder::GgmlTernary);
        let top = if ternary { 2 } else { (1u32 << scheme.bits) - 1 };
        let half = step as f32 / 2.0;
        return [(0, -half), (top, half)];
    }
    let mut entries: Vec<(u32, f32)> = (0..).zip(table.iter().copied()).filter(|e| e.1.is_finite()).collect();
    entries.sort_by(|a, b| a.1.total_cmp(&b.1));
    entries.dedup_by_key(|e| e.1);
    let half = |end: (u32, f32), next: (u32, f32)| (end.0, (end.1 - next.1) / 2.0);
    match entries.as_slice() {
        &[first, second, ..] => {
            let last = entries.len() - 1;
            [half(first, second), half(entries[last], entries[last - 1])]
        }
        // No step leads anywhere, so nothing is beyond it.
        _ => [(0, f32::INFINITY); 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::Method;
    use crate::{DType, Tensor};

    fn codes(scheme: &str, method: Method, k: usize, weights: &[f32]) -> (Codes, Vec<f32>) {
        let scheme: Scheme = scheme.parse().unwrap();
        let tensor = Tensor::from_f32([weights.len() / k, k], weights.to_vec()).unwrap();
        let packed = cpu::quantize_by(&tensor, "w", &scheme, method, None).unwrap();
        let decoded = cpu::dequantize(&packed, DType::F32);
        let decoded = decoded.to_f32().into_owned();
        (Codes::of(&packed, weights, &decoded), decoded)
    }

    /// Numbers as even as can be, and one in each row that is far out.
    fn with_outliers(rows: usize, k: usize) -> Vec<f32> {
        (0..rows * k)
            .map(|i| {
                if i % k == 5 {
                    if (i / k).is_multiple_of(2) { 20.0 } else { -20.0 }
                } else {
                    (i * 37 % 101) as f32 / 50.0 - 1.0
                }
            })
            .collect()
    }

    #[test]
    fn what_a_percentile_leaves_out_is_clipped() {
        let (rows, k) = (6, 256);
        let weights = with_outliers(rows, k);
        for scheme in ["int4-g128", "int4-row-asym", "nf4-g64", "q4_0", "fp4-g32"] {
            let (none, _) = codes(scheme, Method::Absmax, k, &weights);
            assert_eq!((none.clipped, none.clipped_power), (0, 0.0), "{scheme}");
            assert_eq!(none.counts.iter().sum::<u64>(), (rows * k) as u64, "{scheme}");
            let (cut, decoded) = codes(scheme, Method::Percentile(95.0), k, &weights);
            let far = |i: usize| (weights[i] - decoded[i]).abs() > 10.0;
            let far: Vec<usize> = (0..weights.len()).filter(|&i| far(i)).collect();
            assert!(
                far.len() == rows && cut.clipped >= rows as u64,
                "{scheme}: {} of {}",
                cut.clipped,
                far.len()
            );
            let power: f64 = far.iter().map(|&i| f64::from(weights[i] - decoded[i]).powi(2)).sum();
            assert!(cut.clipped_power >= 0.999 * power && cut.clipped_power < 1.1 * power, "{scheme}");
            // The outlier no longer decides what the others are worth.
            assert!(cut.entropy() > none.entropy(), "{scheme}: {} {}", cut.entropy(), none.entropy());
        }
    }

    #[test]
    fn codes_are_counted_one_by_one() {
        let weights = [-8.0, -7.0, -1.0, 0.0, 1.0, 1.0, 7.0, 7.0];
        let (found, _) = codes("int4-row", Method::Own, 8, &weights);
        // 8 / 7 is the step: -7, -6, -1, 0, 1, 1, 6, 6, and codes begin at -8.
        let mut expected = vec![0; 16];
        [1, 2, 7, 8, 9, 9, 14, 14].iter().for_each(|&c: &usize| expected[c] += 1);
        assert_eq!(found.counts, expected);
        assert!((found.entropy() - 2.5).abs() < 1e-12);
        let (plain, _) = codes("f16", Method::Own, 8, &weights);
        assert_eq!((plain.counts.len(), plain.entropy()), (0, 0.0));
        // Columns in an order of their own: the codes are those of their columns.
        let scheme: Scheme = "int4-g4-perm".parse().unwrap();
        let mut packed = PackedTensor::zeroed(scheme, [1, 8]).unwrap();
        packed.set_permutation(&[7, 6, 5, 4, 3, 2, 1, 0]).unwrap();
        packed.plane_mut(crate::scheme::PlaneKind::Scales).copy_from_slice(&[0, 0x3c, 0, 0x3c]);
        for (position, code) in [15, 8, 8, 8, 8, 8, 8, 0].into_iter().enumerate() {
            packed.set_code(0, position, code);
        }
        let decoded = cpu::dequantize(&packed, DType::F32).to_f32().into_owned();
        assert_eq!((decoded[7], decoded[0]), (7.0, -8.0));
        let mut weights = decoded.clone();
        weights[7] = 9.0;
        assert_eq!(Codes::of(&packed, &weights, &decoded).clipped, 1);
        weights[0] = -7.0;
        assert_eq!(Codes::of(&packed, &weights, &decoded).clipped_power, 4.0, "inwards is not beyond");
    }
}
