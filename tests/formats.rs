//! Block formats against bytes that other implementations made: see `tests/data/README.md`.
//!
//! ```text
//! golden input --reference::quantize, file::ggml::pack--> bytes == golden bytes        (encoders with bytes to match)
//! golden bytes --file::ggml::unpack, reference::dequantize--> f32 == golden f32, bit for bit
//!              --unpack, pack--> the same bytes
//! ```

use lowbit::file::ggml;
use lowbit::reference::{dequantize, quantize};
use lowbit::scheme::{Encoder, PlaneKind};
use lowbit::{PackedTensor, Scheme};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

/// The types of the golden files: all of `Ggml` but Q1_0 and Q2_0, for which there are no vectors.
const TYPES: [&str; 16] = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
    "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",
];

fn scheme(name: &str) -> Scheme {
    name.parse().unwrap()
}

/// Whether the reference's encoder of the scheme is to give ggml's bytes.
fn has_ggml_bytes(scheme: &Scheme) -> bool {
    match scheme.encoder {
        Encoder::GgmlExtreme
        | Encoder::GgmlMinMax
        | Encoder::GgmlAbsmax
        | Encoder::GgmlTernary
        | Encoder::GgmlMeanAbs
        | Encoder::GgmlNvfp4
        | Encoder::SharedExponent { .. } => true,
        Encoder::GgmlIq4 | Encoder::SuperMinMax | Encoder::SuperAbsmax => false,
        other => panic!("{other:?} is no encoder of a GGUF type"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn sha16(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..8])
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn golden_file() -> Vec<u8> {
    std::fs::read("tests/data/golden.safetensors").unwrap()
}

fn f32s(file: &SafeTensors, name: &str) -> Vec<f32> {
    let (values, rest) = file.tensor(name).unwrap().data().as_chunks::<4>();
    assert!(rest.is_empty());
    values.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// The index of the first value that differs in its bits.
fn first_difference(a: &[f32], b: &[f32]) -> Option<usize> {
    assert_eq!(a.len(), b.len());
    (0..a.len()).find(|&i| a[i].to_bits() != b[i].to_bits())
}

#[test]
fn one_row_of_256() {
    let x: Vec<f32> = (0..256).map(|i| (((37 * i + 11) % 101) - 50) as f32 / 32.0).collect();
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read("tests/data/row256.json").unwrap()).unwrap();
    assert_eq!(golden["input"]["sha256_16"], sha16(&le_bytes(&x)));
    let rows = golden["rows"].as_array().unwrap();
    assert_eq!(rows.len(), TYPES.len());
    let mut encoded = 0;
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap();
        let name = text("type");
        let s = scheme(name);
        let block = |bytes: &[u8]| hex(&bytes[..text("first_block").len() / 2]);
        let decoded = if has_ggml_bytes(&s) {
            encoded += 1;
            let packed = quantize(&x, 1, 256, s, None).unwrap();
            let bytes = ggml::pack(&packed).unwrap();
            assert_eq!(block(&bytes), text("first_block"), "{name}");
            assert_eq!(sha16(&bytes), text("row_sha256_16"), "{name}");
            dequantize(&packed)
        } else if s.ggml.unwrap().block() == 256 {
            let hex = text("first_block").as_bytes().chunks(2);
            let bytes: Vec<u8> =
                hex.map(|h| u8::from_str_radix(std::str::from_utf8(h).unwrap(), 16).unwrap()).collect();
            assert_eq!(sha16(&bytes), text("row_sha256_16"), "{name}");
            dequantize(&ggml::unpack(s, &[1, 256], &bytes).unwrap())
        } else {
            // Only the first block of the row is known; the golden arrays below hold whole ones.
            assert_eq!(name, "IQ4_NL");
            continue;
        };
        assert_eq!(sha16(&le_bytes(&decoded)), text("deq_sha256_16"), "{name}");
        let mse =
            x.iter().zip(&decoded).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>() / 256.0;
        let stated = row["mse"].as_f64().unwrap();
        assert!((mse - stated).abs() <= 1e-8 * stated, "{name}: {mse} {stated}");
    }
    assert_eq!(encoded, 9);
}

#[test]
fn golden_blocks_decode_to_the_golden_bits_and_pack_again() {
    let bytes = golden_file();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for matrix in ["normal", "outlier"] {
        for name in TYPES {
            let packed = file.tensor(&format!("{matrix}.{name}.packed")).unwrap();
            let t = ggml::unpack(scheme(name), &[packed.shape()[0], 256], packed.data()).unwrap();
            let expected = f32s(&file, &format!("{matrix}.{name}.deq"));
            assert_eq!(first_difference(&dequantize(&t), &expected), None, "{matrix} {name}");
            assert_eq!(ggml::pack(&t).unwrap(), packed.data(), "{matrix} {name}");
        }
    }
}

#[test]
fn golden_input_encodes_to_the_golden_bytes() {
    let bytes = golden_file();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut encoded = 0;
    for matrix in ["normal", "outlier"] {
        let x = f32s(&file, &format!("{matrix}.f32"));
        for name in TYPES.into_iter().filter(|n| has_ggml_bytes(&scheme(n))) {
            let golden = file.tensor(&format!("{matrix}.{name}.packed")).unwrap();
            let got = ggml::pack(&quantize(&x, x.len() / 256, 256, scheme(name), None).unwrap()).unwrap();
            let at = got.iter().zip(golden.data()).position(|(a, b)| a != b);
            assert_eq!((got.len(), at), (golden.data().len(), None), "{matrix} {name}");
            encoded += 1;
        }
    }
    assert_eq!(encoded, 18);
}

/// Small floats of ml_dtypes are the tables' entries, and a cast is the nearest entry at scale 1 (which rounds ties
/// toward zero and not to even; ties are left out).
#[test]
fn small_float_tables_are_those_of_ml_dtypes() {
    use lowbit::scheme::Codebook;
    let bytes = golden_file();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (float, codebook) in [
        ("float8_e4m3fn", Codebook::E4M3),
        ("float8_e5m2", Codebook::E5M2),
        ("float4_e2m1fn", Codebook::E2M1),
    ] {
        for matrix in ["normal", "outlier"] {
            let codes = file.tensor(&format!("{matrix}.{float}.bytes")).unwrap().data().to_vec();
            let decoded: Vec<f32> = codes.iter().map(|&c| codebook.entries()[usize::from(c)]).collect();
            let expected = f32s(&file, &format!("{matrix}.{float}.f32"));
            assert_eq!(first_difference(&decoded, &expected), None, "{matrix} {float}");
        }
    }
}

/// The comparisons above see one wrong bit: in a code, in a scale, and in the order of nibbles.
#[test]
fn a_planted_error_is_seen() {
    let bytes = golden_file();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for name in TYPES {
        let packed = file.tensor(&format!("normal.{name}.packed")).unwrap();
        let good = ggml::unpack(scheme(name), &[packed.shape()[0], 256], packed.data()).unwrap();
        let expected = f32s(&file, &format!("normal.{name}.deq"));
        let check = |what: &str, bad: &PackedTensor, at: Option<usize>| {
            let seen = first_difference(&dequantize(bad), &expected);
            assert!(seen.is_some() && (at.is_none() || seen == at), "{name} {what}: {seen:?}");
            assert_ne!(ggml::pack(bad).unwrap(), packed.data(), "{name} {what}");
        };
        let mut bad = good.clone();
        // A neighbouring code whose value differs; ternary code 3 would not pack.
        let code = bad.code(5, 77);
        bad.set_code(5, 77, if code == 0 { 1 } else { code as u8 - 1 });
        check("code", &bad, Some(5 * 256 + 77));
        let mut bad = good.clone();
        bad.plane_mut(PlaneKind::Scales)[3] ^= 1;
        check("scale", &bad, None);
        if good.scheme().bits == 4 {
            let mut swapped = good.clone();
            swapped.plane_mut(PlaneKind::CodesLow).iter_mut().for_each(|b| *b = b.rotate_left(4));
            check("nibbles", &swapped, None);
        }
    }
}
