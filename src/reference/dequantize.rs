//! The oracle of decoding: the rule of [`crate::scheme`], weight by weight, in single f32 operations.
//!
//! ```text
//! code -> v (table entry, or step * code - offset - zero) -> s * v -> + bias, or - super_min * sub_min -> its column
//! ```
//!
//! It also tells the magnitudes of the terms that an engine may sum apart from each other, from which error bounds are made.

use super::load_code;
use crate::PackedTensor;
use crate::scheme::{Float, Group, PlaneKind, Scale, ScaleType, SubScale, Value, Zero};
use half::{bf16, f16};

/// What one weight is made of: `w = scale * value + bias`.
struct Parts {
    scale: f32,
    value: f32,
    bias: f32,
    /// `|step * code| + |offset| + |zero|` with the zero-point or float zero, or the magnitude of the table entry.
    value_terms: f64,
}

/// The weights `[rows, k]` of `w`, leading dimensions in `rows`.
pub fn dequantize(w: &PackedTensor) -> Vec<f32> {
    let (rows, k) = w.matrix();
    let tables = Tables::of(w);
    let mut out = vec![0.0; rows * k];
    for row in 0..rows {
        for position in 0..k {
            let p = parts(w, &tables, row, position);
            let product = p.scale * p.value;
            let column = tables.column(position);
            out[row * k + column] = if has_bias(w) { product + p.bias } else { product };
        }
    }
    out
}

/// For each weight `[rows, k]`: `|scale| * (|step * code| + |offset| + |zero|) + |bias|`, or `|scale * entry|`. An engine that
/// sums codes, offsets and biases apart rounds relative to these and not to the weight, which may be much smaller.
pub fn term_magnitudes(w: &PackedTensor) -> Vec<f64> {
    let (rows, k) = w.matrix();
    let tables = Tables::of(w);
    let mut out = vec![0.0; rows * k];
    for row in 0..rows {
        for position in 0..k {
            let p = parts(w, &tables, row, position);
            let terms = f64::from(p.scale.abs()) * p.value_terms + f64::from(p.bias.abs());
            out[row * k + tables.column(position)] = terms;
        }
    }
    out
}

/// Whether decoding ends with an addition. Without one, -0 has to stay -0.
fn has_bias(w: &PackedTensor) -> bool {
    let two_level_min =
        matches!(w.scheme().scale, Scale::TwoLevel { sub: SubScale::U8Min | SubScale::U4Min, .. });
    w.scheme().zero == Zero::Bias || two_level_min
}

/// What belongs to the whole tensor.
struct Tables {
    codebook: Vec<f32>,
    /// `[rows, groups, 2^bits]`
    of_groups: Vec<f32>,
    scales: Vec<f32>,
    permutation: Option<Vec<u32>>,
}

impl Tables {
    fn of(w: &PackedTensor) -> Self {
        Self {
            codebook: w.codebook(),
            of_groups: w.group_tables(),
            scales: w.scale_table(),
            permutation: w.permutation(),
        }
    }

    /// The column that a position holds.
    fn column(&self, position: usize) -> usize {
        self.permutation.as_ref().map_or(position, |p| p[position] as usize)
    }
}

fn parts(w: &PackedTensor, tables: &Tables, row: usize, col: usize) -> Parts {
    let scheme = w.scheme();
    let (_, k) = w.matrix();
    let code = load_code(w, row, col);
    let group = match scheme.group {
        Group::Tensor => 0,
        Group::Row => row,
        Group::Cols(g) => row * k.div_ceil(g as usize) + col / g as usize,
    };
    let zero_byte = || w.plane(PlaneKind::Zeros)[group];

    let (value, value_terms) = match scheme.value {
        Value::Float(kind) => {
            let value = match kind {
                Float::F32 => f32::from_bits(code),
                Float::F16 => f16::from_bits(code as u16).to_f32(),
                Float::Bf16 => bf16::from_bits(code as u16).to_f32(),
            };
            return Parts { scale: 1.0, value, bias: 0.0, value_terms: f64::from(value.abs()) };
        }
        Value::Codebook(_) | Value::Learned => {
            let entry = tables.codebook[code as usize];
            (entry, f64::from(entry.abs()))
        }
        Value::Tables => {
            let entry = tables.of_groups[(group << scheme.bits) + code as usize];
            (entry, f64::from(entry.abs()))
        }
        Value::Linear { step, offset } => {
            let zero = if scheme.zero == Zero::Point { i32::from(zero_byte()) } else { 0 };
            let stepped = step * code as i32;
            let terms = f64::from(stepped.abs() + offset.abs() + zero);
            let value = (stepped - offset - zero) as f32;
            match (scheme.zero, scheme.scale) {
                (Zero::Float, Scale::Direct(kind)) => {
                    let zero = direct_scale(w.plane(PlaneKind::Zeros), kind, group);
                    (value - zero, terms + f64::from(zero.abs()))
                }
                _ => (value, terms),
            }
        }
    };

    let (scale, mut bias) = match scheme.scale {
        Scale::None => (1.0, 0.0),
        Scale::Direct(ScaleType::Table) => {
            (tables.scales[usize::from(w.plane(PlaneKind::Scales)[group])], 0.0)
        }
        Scale::Direct(kind) => (direct_scale(w.plane(PlaneKind::Scales), kind, group), 0.0),
        Scale::TwoLevel { sub, super_group } => {
            let super_index = row * k.div_ceil(super_group as usize) + col / super_group as usize;
            let byte = w.plane(PlaneKind::Scales)[group];
            let (sub_scale, sub_min) = match sub {
                SubScale::I8 => (f32::from(byte as i8), None),
                SubScale::U8Min => (f32::from(byte), Some(f32::from(zero_byte()))),
                SubScale::U4Min => (f32::from(byte & 15), Some(f32::from(byte >> 4))),
            };
            let super_scale = read_f16(w.plane(PlaneKind::SuperScales), super_index);
            let bias = sub_min.map_or(0.0, |m| -(read_f16(w.plane(PlaneKind::SuperMins), super_index) * m));
            (super_scale * sub_scale, bias)
        }
    };
    if let (Zero::Bias, Scale::Direct(kind)) = (scheme.zero, scheme.scale) {
        bias = direct_scale(w.plane(PlaneKind::Zeros), kind, group);
    }
    Parts { scale, value, bias, value_terms }
}

fn read_f16(plane: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([plane[2 * index], plane[2 * index + 1]]).to_f32()
}

/// Number `index` of a plane of `kind`.
pub(super) fn direct_scale(plane: &[u8], kind: ScaleType, index: usize) -> f32 {
    match kind {
        ScaleType::F32 => {
            let b = &plane[4 * index..4 * index + 4];
            f32::from_le_bytes([b[0], b[1], b[2], b[3]])
        }
        ScaleType::F16 => read_f16(plane, index),
        ScaleType::Bf16 => bf16::from_le_bytes([plane[2 * index], plane[2 * index + 1]]).to_f32(),
        ScaleType::E8M0 => power_of_two(i32::from(plane[index]) - 127),
        ScaleType::E8M0Half => power_of_two(i32::from(plane[index]) - 128),
        ScaleType::Ue4M3 => match plane[index] & 0x7f {
            0x7f => 0.0,
            b if b < 8 => f32::from(b) * power_of_two(-9),
            b => f32::from(8 + b % 8) * power_of_two(i32::from(b / 8) - 7 - 3),
        },
        ScaleType::Table => panic!("the numbers of a table-coded scale are those of its tensor"),
    }
}

/// `2^e` in f32: a subnormal below -126, an infinity above 127.
fn power_of_two(e: i32) -> f32 {
    2f64.powi(e) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_their_landmarks() {
        let one = |kind, byte: u8| direct_scale(&[byte], kind, 0);
        assert_eq!(one(ScaleType::E8M0, 127), 1.0);
        assert_eq!(one(ScaleType::E8M0, 0).to_bits(), 0x0040_0000);
        assert_eq!(one(ScaleType::E8M0, 254).to_bits(), 0x7f00_0000);
        assert_eq!(one(ScaleType::E8M0Half, 0).to_bits(), 0x0020_0000);
        assert_eq!(one(ScaleType::E8M0Half, 1).to_bits(), 0x0040_0000);
        assert_eq!(one(ScaleType::E8M0Half, 128), 1.0);
        for (byte, value) in
            [(0, 0.0), (1, 2f32.powi(-9)), (8, 2f32.powi(-6)), (0x38, 1.0), (0x7e, 448.0), (0x7f, 0.0)]
        {
            assert_eq!(one(ScaleType::Ue4M3, byte), value, "{byte:#x}");
            assert_eq!(one(ScaleType::Ue4M3, byte | 0x80), value, "{byte:#x}");
        }
    }
}
