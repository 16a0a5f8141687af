//! The weights of other quantizers, held exactly: planes filled with what their files say decode to what their definitions say.
//!
//! ```text
//! codes, scales, zeros as a format has them --PackedTensor--> reference, CPU engine == the format's own formula, bit for bit
//! ```
//!
//! The formulas are written out here. How files lie in bytes is not this test's subject, and GPUs are compared with the reference elsewhere.

use half::{bf16, f16};
use lowbit::scheme::{Codebook, PlaneKind};
use lowbit::{DType, PackedTensor, cpu, reference};

/// A tensor `[rows, k]` of codes at stored positions, and its other planes.
fn hold(
    scheme: &str,
    [rows, k]: [usize; 2],
    code: impl Fn(usize, usize) -> u8,
    planes: &[(PlaneKind, Vec<u8>)],
) -> PackedTensor {
    let mut w = PackedTensor::zeroed(scheme.parse().unwrap(), [rows, k]).unwrap();
    for row in 0..rows {
        (0..k).for_each(|col| w.set_code(row, col, code(row, col)));
    }
    for (kind, bytes) in planes {
        w.plane_mut(*kind).copy_from_slice(bytes);
    }
    w
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn f16s(values: &[f16]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn bf16s(values: &[bf16]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn assert_decodes(w: &PackedTensor, want: impl Fn(usize, usize) -> f32) {
    let (rows, k) = w.matrix();
    let engine = cpu::dequantize(w, DType::F32).to_f32().into_owned();
    for (engine, decoded) in [("reference", reference::dequantize(w)), ("CPU engine", engine)] {
        for (i, got) in decoded.iter().enumerate() {
            let want = want(i / k, i % k);
            assert_eq!(got.to_bits(), want.to_bits(), "{} {engine}, weight {i}: {got} {want}", w.scheme());
        }
        assert_eq!(decoded.len(), rows * k);
    }
}

/// W[n,k] = scales[g_idx[k], n] * (q[k,n] - z[g_idx[k], n]), with zero-points up to 2^bits (files store z - 1) and columns of a group anywhere.
#[test]
fn gptq_in_act_order() {
    let (n, g_idx) = (3, [2usize, 0, 1, 0, 2, 1, 1, 0, 2, 2, 0, 1]);
    let k = g_idx.len();
    let code = |row: usize, column: usize| ((3 * column + 5 * row + 1) % 16) as u8;
    let zero = |row: usize, group: usize| (1 + (7 * group + 5 * row + 15) % 16) as u8;
    let scale = |row: usize, group: usize| f16::from_f32(0.0123 * (1.0 + row as f32) + 0.1 * group as f32);
    let mut columns: Vec<u32> = (0..k as u32).collect();
    columns.sort_by_key(|&c| g_idx[c as usize]);
    let groups = |row: usize| (0..3).map(move |group| (row, group));
    let scales: Vec<f16> = (0..n).flat_map(groups).map(|(row, group)| scale(row, group)).collect();
    let zeros: Vec<u8> = (0..n).flat_map(groups).map(|(row, group)| zero(row, group)).collect();
    assert!(zeros.contains(&16), "the zero-point that four bits do not hold");
    let mut w = hold(
        "int4-g4-asym-perm",
        [n, k],
        |row, position| code(row, columns[position] as usize),
        &[(PlaneKind::Scales, f16s(&scales)), (PlaneKind::Zeros, zeros)],
    );
    w.set_permutation(&columns).unwrap();
    assert_decodes(&w, |row, column| {
        let group = g_idx[column];
        scale(row, group).to_f32() * (f32::from(code(row, column)) - f32::from(zero(row, group)))
    });
}

/// w = scale * q + bias. MLX's own scale, bias and first codes of a group, from a run of it.
#[test]
fn mlx_affine() {
    let (scale, bias, word) = (0.1953125f32, -1.5625f32, 0xb5f9_3e82_u32);
    let code = |_, column: usize| (word >> (4 * (column % 8)) & 15) as u8;
    let want = |row, column| scale * f32::from(code(row, column)) + bias;
    let halves = [
        (PlaneKind::Scales, f16s(&[f16::from_f32(scale)])),
        (PlaneKind::Zeros, f16s(&[f16::from_f32(bias)])),
    ];
    assert_decodes(&hold("int4-g32-bias", [1, 32], code, &halves), want);
    // A negative scale in bf16, where the sum is rounded: -0.337 * q + 2.53 or so.
    let (scale, bias) = (bf16::from_f32(-0.337), bf16::from_f32(2.53));
    let brains = [(PlaneKind::Scales, bf16s(&[scale])), (PlaneKind::Zeros, bf16s(&[bias]))];
    let code = |_, column: usize| (37 * column + 5) as u8;
    assert_decodes(&hold("int8-g128-bias-bf16", [1, 100], code, &brains), |row, column| {
        let exact = scale.to_f64() * f64::from(code(row, column)) + bias.to_f64();
        exact as f32
    });
}

/// w = (q - zero) * scale with a zero between codes: HQQ, and MatMulNBits with zero-points of the type of the activations.
#[test]
fn hqq_and_onnx_float_zeros() {
    let code = |row: usize, column: usize| ((5 * column + row) % 8) as u8;
    let (scales, zeros) = ([0.0371f32, 1.7], [3.21875f32, -0.6]);
    let numbers = |to: fn(f32) -> f32| (scales.map(to), zeros.map(to));
    let planes = |bytes: fn(&[f32]) -> Vec<u8>| {
        [(PlaneKind::Scales, bytes(&scales)), (PlaneKind::Zeros, bytes(&zeros))]
    };
    type Case = (&'static str, fn(f32) -> f32, fn(&[f32]) -> Vec<u8>);
    let cases: [Case; 3] = [
        ("int3-g8-fzero-f32", |v| v, f32s),
        (
            "int3-g8-fzero",
            |v| f16::from_f32(v).to_f32(),
            |v| f16s(&[f16::from_f32(v[0]), f16::from_f32(v[1])]),
        ),
        (
            "int3-g8-fzero-bf16",
            |v| bf16::from_f32(v).to_f32(),
            |v| bf16s(&[bf16::from_f32(v[0]), bf16::from_f32(v[1])]),
        ),
    ];
    for (name, to, bytes) in cases {
        let (scales, zeros) = numbers(to);
        let w = hold(name, [2, 7], code, &planes(bytes));
        assert_decodes(&w, |row, column| (f32::from(code(row, column)) - zeros[row]) * scales[row]);
    }
}

/// w = e2m1 * (weight_scale / weight_global_scale), the quotient rounded to f32: every one of the 256 bytes that a scale may be.
#[test]
fn nvfp4_with_a_global_scale() {
    let e4m3 = Codebook::E4M3.entries();
    let global = 1234.567f32;
    let table: Vec<f32> = e4m3.iter().map(|v| if v.is_nan() { 0.0 } else { v / global }).collect();
    let code = |row: usize, column: usize| ((column + row) % 16) as u8;
    let scales: Vec<u8> = (0..=255).collect();
    let planes = [(PlaneKind::ScaleTable, f32s(&table)), (PlaneKind::Scales, scales)];
    let w = hold("nvfp4-global", [128, 32], code, &planes);
    let magnitudes = [0.0f32, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    assert_decodes(&w, |row, column| {
        let code = code(row, column);
        let magnitude = magnitudes[usize::from(code & 7)];
        table[2 * row + column / 16] * if code & 8 == 0 { magnitude } else { -magnitude }
    });
}

/// FP4 in blocks of 8 of the flattened tensor, which cross rows of 12: groups of 4 that repeat absmax; w = table[code] * absmax.
#[test]
fn bitsandbytes_blocks_across_rows() {
    let (rows, k, block) = (4, 12, 8);
    let absmax: Vec<f32> = (0..rows * k / block).map(|i| 0.7 + 0.31 * i as f32).collect();
    let twelfths = [0.0f32, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];
    let code = |row: usize, column: usize| ((7 * (row * k + column) + 3) % 16) as u8;
    let groups: Vec<f32> = (0..rows * k / 4).map(|g| absmax[4 * g / block]).collect();
    let w = hold("bnbfp4-g4-f32", [rows, k], code, &[(PlaneKind::Scales, f32s(&groups))]);
    assert_decodes(&w, |row, column| {
        let code = code(row, column);
        let magnitude = twelfths[usize::from(code & 7)] / 12.0;
        let value = if code & 8 == 0 || magnitude == 0.0 { magnitude } else { -magnitude };
        value * absmax[(row * k + column) / block]
    });
}

/// E4M3 in blocks of 4 x 4, a bf16 scale each: the scale of a block is that of a group in each of its rows.
#[test]
fn fp8_in_blocks() {
    let scale = |row: usize, column: usize| bf16::from_f32(0.01 + 0.3 * (row / 4 * 2 + column / 4) as f32);
    let code = |row: usize, column: usize| (31 * row + 17 * column) as u8 & 0xbf;
    let scales: Vec<bf16> = (0..16).map(|i| scale(i / 2, i % 2 * 4)).collect();
    let w = hold("e4m3-g4-bf16", [8, 8], code, &[(PlaneKind::Scales, bf16s(&scales))]);
    assert_decodes(&w, |row, column| {
        Codebook::E4M3.entries()[usize::from(code(row, column))] * scale(row, column).to_f32()
    });
}
