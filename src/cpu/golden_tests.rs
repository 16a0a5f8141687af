//! Encoders against the bytes of other implementations: `tests/data/golden.safetensors`, `tests/data/row256.json`.
//!
//! GGUF blocks are cut into stored scales and codes here, by a second reading of their layouts.

use super::{dequantize, quantize};
use crate::scheme::PlaneKind;
use crate::{DType, PackedTensor, Scheme, Tensor};
use safetensors::SafeTensors;

fn golden() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden.safetensors")).unwrap()
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Bytes of a block, values of a block.
fn block(name: &str) -> (usize, usize) {
    match name {
        "Q4_0" | "IQ4_NL" => (18, 32),
        "Q4_1" => (20, 32),
        "Q5_0" => (22, 32),
        "Q5_1" => (24, 32),
        "Q8_0" => (34, 32),
        "IQ4_XS" => (136, 256),
        "TQ1_0" => (54, 256),
        "TQ2_0" => (66, 256),
        "MXFP4" => (17, 32),
        "NVFP4" => (36, 64),
        _ => panic!("{name}"),
    }
}

/// What one block holds: scale bytes, zero bytes, super-scale bytes, codes in order.
fn cut(name: &str, b: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>) {
    let nibbles = |b: &[u8], n: usize| -> Vec<u8> {
        (0..2 * n).map(|i| if i < n { b[i] & 15 } else { b[i - n] >> 4 }).collect()
    };
    let fifth = |qh: &[u8], mut codes: Vec<u8>| {
        for (i, c) in codes.iter_mut().enumerate() {
            *c |= (qh[i / 8] >> (i % 8) & 1) << 4;
        }
        codes
    };
    let none = Vec::new;
    match name {
        "Q4_0" | "IQ4_NL" => (b[..2].to_vec(), none(), none(), nibbles(&b[2..], 16)),
        "Q4_1" => (b[..2].to_vec(), b[2..4].to_vec(), none(), nibbles(&b[4..], 16)),
        "Q5_0" => (b[..2].to_vec(), none(), none(), fifth(&b[2..6], nibbles(&b[6..], 16))),
        "Q5_1" => (b[..2].to_vec(), b[2..4].to_vec(), none(), fifth(&b[4..8], nibbles(&b[8..], 16))),
        "Q8_0" => (b[..2].to_vec(), none(), none(), b[2..].iter().map(|q| q ^ 0x80).collect()),
        "MXFP4" => (b[..1].to_vec(), none(), none(), nibbles(&b[1..], 16)),
        "NVFP4" => {
            let codes = (0..4).flat_map(|s| nibbles(&b[4 + 8 * s..], 8)).collect();
            (b[..4].to_vec(), none(), none(), codes)
        }
        "TQ2_0" => {
            let codes = (0..256).map(|i| b[i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3).collect();
            (b[64..].to_vec(), none(), none(), codes)
        }
        "TQ1_0" => {
            let trit = |byte: u8, n: u32| ((u16::from(byte.wrapping_mul(3u8.pow(n))) * 3) >> 8) as u8;
            let code = |i: usize| match i {
                0..160 => trit(b[i % 32], (i / 32) as u32),
                160..240 => trit(b[32 + (i - 160) % 16], ((i - 160) / 16) as u32),
                _ => trit(b[48 + (i - 240) % 4], ((i - 240) / 4) as u32),
            };
            (b[52..].to_vec(), none(), none(), (0..256).map(code).collect())
        }
        "IQ4_XS" => {
            let high = u16::from_le_bytes([b[2], b[3]]);
            let scale = |g: usize| {
                let l = b[4 + g / 2] >> (4 * (g % 2)) & 15;
                (i32::from(l) | i32::from(high >> (2 * g) & 3) << 4) - 32
            };
            let codes = (0..8).flat_map(|g| nibbles(&b[8 + 16 * g..], 16)).collect();
            ((0..8).map(|g| scale(g) as i8 as u8).collect(), none(), b[..2].to_vec(), codes)
        }
        _ => panic!("{name}"),
    }
}

/// The planes that a tensor of GGUF blocks amounts to.
fn planes_of(name: &str, scheme: Scheme, shape: [usize; 2], bytes: &[u8]) -> PackedTensor {
    let (size, values) = block(name);
    let mut packed = PackedTensor::zeroed(scheme, shape).unwrap();
    let (mut scales, mut zeros, mut supers) = (Vec::new(), Vec::new(), Vec::new());
    for (i, b) in bytes.chunks(size).enumerate() {
        let (s, z, d, codes) = cut(name, b);
        scales.extend(s);
        zeros.extend(z);
        supers.extend(d);
        for (j, c) in codes.into_iter().enumerate() {
            let at = i * values + j;
            packed.set_code(at / shape[1], at % shape[1], c);
        }
    }
    packed.plane_mut(PlaneKind::Scales).copy_from_slice(&scales);
    packed.plane_mut(PlaneKind::Zeros).copy_from_slice(&zeros);
    packed.plane_mut(PlaneKind::SuperScales).copy_from_slice(&supers);
    packed
}

const TYPES: [&str; 11] =
    ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"];

#[test]
fn ggml_encodes_and_decodes_alike() {
    let bytes = golden();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut wrong = Vec::new();
    for matrix in ["normal", "outlier"] {
        let x = file.tensor(&format!("{matrix}.f32")).unwrap();
        let shape = [x.shape()[0], x.shape()[1]];
        let x = Tensor::from_f32(shape, f32s(x.data())).unwrap();
        for name in TYPES {
            let scheme: Scheme = name.parse().unwrap();
            let want = planes_of(
                name,
                scheme,
                shape,
                file.tensor(&format!("{matrix}.{name}.packed")).unwrap().data(),
            );
            let got = quantize(&x, "x", &scheme, None).unwrap();
            for (kind, row_bytes) in
                PlaneKind::ALL.map(|k| (k, got.layout().plane(k).map_or(0, |p| p.row_stride)))
            {
                if row_bytes > 0 {
                    for r in 0..shape[0] {
                        let range = r * row_bytes..(r + 1) * row_bytes;
                        let (a, b) = (&got.plane(kind)[range.clone()], &want.plane(kind)[range]);
                        let n = a.iter().zip(b).filter(|(a, b)| a != b).count();
                        if n > 0 {
                            wrong.push(format!("{matrix}.{name} row {r} {}: {n} bytes differ", kind.name()));
                        }
                    }
                }
            }
            let decoded = dequantize(&want, DType::F32);
            let reference = f32s(file.tensor(&format!("{matrix}.{name}.deq")).unwrap().data());
            let same = decoded.to_f32().iter().zip(&reference).all(|(a, b)| a.to_bits() == b.to_bits());
            if !same {
                let at =
                    decoded.to_f32().iter().zip(&reference).position(|(a, b)| a.to_bits() != b.to_bits());
                let at = at.unwrap();
                wrong.push(format!(
                    "{matrix}.{name} decodes to {:e}, not {:e}",
                    decoded.to_f32()[at],
                    reference[at]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn one_row_of_each_type() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/row256.json")).unwrap();
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    let x: Vec<f32> = (0..256).map(|i| (((37 * i + 11) % 101) - 50) as f32 / 32.0).collect();
    let x = Tensor::from_f32([1, 256], x).unwrap();
    let mut seen = 0;
    for row in rows["rows"].as_array().unwrap() {
        let name = row["type"].as_str().unwrap();
        if !TYPES.contains(&name) {
            continue;
        }
        seen += 1;
        let hex = row["first_block"].as_str().unwrap();
        let bytes: Vec<u8> =
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        let scheme: Scheme = name.parse().unwrap();
        let got = quantize(&x, "x", &scheme, None).unwrap();
        let (size, values) = block(name);
        assert_eq!(bytes.len(), size, "{name}");
        let (scales, zeros, supers, codes) = cut(name, &bytes);
        assert_eq!(&got.plane(PlaneKind::Scales)[..scales.len()], scales, "{name}");
        assert_eq!(&got.plane(PlaneKind::Zeros)[..zeros.len()], zeros, "{name}");
        assert_eq!(&got.plane(PlaneKind::SuperScales)[..supers.len()], supers, "{name}");
        let ours: Vec<u8> = (0..values).map(|c| got.code(0, c) as u8).collect();
        assert_eq!(ours, codes, "{name}");
    }
    assert_eq!(seen, TYPES.len());
}

#[test]
fn small_floats_are_those_of_ml_dtypes() {
    let bytes = golden();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (float, book) in [
        ("float8_e4m3fn", crate::scheme::Codebook::E4M3),
        ("float8_e5m2", crate::scheme::Codebook::E5M2),
        ("float4_e2m1fn", crate::scheme::Codebook::E2M1),
    ] {
        for matrix in ["normal", "outlier"] {
            let bytes = file.tensor(&format!("{matrix}.{float}.bytes")).unwrap();
            let wide = f32s(file.tensor(&format!("{matrix}.{float}.f32")).unwrap().data());
            for (b, w) in bytes.data().iter().zip(wide) {
                let ours = book.entries()[usize::from(*b)];
                assert_eq!(ours.to_bits(), w.to_bits(), "{float} {b:x}");
            }
        }
    }
}
