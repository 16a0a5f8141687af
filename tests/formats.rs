//! Block formats against bytes that other implementations made: see `tests/data/README.md`.
//!
//! ```text
//! golden input --reference::quantize == cpu::quantize, file::ggml::pack--> bytes == golden bytes
//! golden bytes --file::ggml::unpack, reference::dequantize--> f32 == golden f32, bit for bit
//!              --unpack, pack--> the same bytes
//! ```

use lowbit::file::ggml;
use lowbit::reference::{dequantize, quantize, quantize_weighted};
use lowbit::scheme::PlaneKind;
use lowbit::{PackedTensor, Scheme, Tensor, cpu};
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

/// What the two engines on the CPU make of `x [rows, 256]`: one set of planes.
fn encode(x: &[f32], name: &str) -> PackedTensor {
    let shape = [x.len() / 256, 256];
    let packed = quantize(x, shape[0], shape[1], scheme(name), None).unwrap();
    let tensor = Tensor::from_f32(shape, x.to_vec()).unwrap();
    assert!(cpu::quantize(&tensor, "x", &scheme(name), None).unwrap() == packed, "{name}");
    packed
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
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap();
        let name = text("type");
        let block = |bytes: &[u8]| hex(&bytes[..text("first_block").len() / 2]);
        let packed = encode(&x, name);
        let bytes = ggml::pack(&packed).unwrap();
        assert_eq!(block(&bytes), text("first_block"), "{name}");
        assert_eq!(sha16(&bytes), text("row_sha256_16"), "{name}");
        let decoded = dequantize(&packed);
        assert_eq!(sha16(&le_bytes(&decoded)), text("deq_sha256_16"), "{name}");
        let mse =
            x.iter().zip(&decoded).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>() / 256.0;
        let stated = row["mse"].as_f64().unwrap();
        assert!((mse - stated).abs() <= 1e-8 * stated, "{name}: {mse} {stated}");
    }
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
    for matrix in ["normal", "outlier"] {
        let x = f32s(&file, &format!("{matrix}.f32"));
        for name in TYPES {
            let golden = file.tensor(&format!("{matrix}.{name}.packed")).unwrap();
            let got = ggml::pack(&encode(&x, name)).unwrap();
            let at = got.iter().zip(golden.data()).position(|(a, b)| a != b);
            assert_eq!((got.len(), at), (golden.data().len(), None), "{matrix} {name}");
        }
    }
}

/// With an importance of columns, of both engines on the CPU.
#[test]
fn importance_gives_the_golden_bytes() {
    let (bytes, weighted) =
        (golden_file(), std::fs::read("tests/data/golden_importance.safetensors").unwrap());
    let (file, weighted) =
        (SafeTensors::deserialize(&bytes).unwrap(), SafeTensors::deserialize(&weighted).unwrap());
    let importance = f32s(&weighted, "importance");
    let mut seen = 0;
    for matrix in ["normal", "outlier"] {
        let x = f32s(&file, &format!("{matrix}.f32"));
        let tensor = Tensor::from_f32([x.len() / 256, 256], x.clone()).unwrap();
        for name in TYPES.into_iter().filter(|name| scheme(name).encoder.weighs()) {
            let packed = format!("{matrix}.{name}.packed");
            let golden = weighted.tensor(&packed).unwrap();
            let engine = cpu::quantize_weighted(&tensor, "x", &scheme(name), &importance).unwrap();
            let reference = quantize_weighted(&x, x.len() / 256, 256, scheme(name), &importance).unwrap();
            for (who, got) in [("engine", engine), ("reference", reference)] {
                let got = ggml::pack(&got).unwrap();
                let at = got.iter().zip(golden.data()).position(|(a, b)| a != b);
                assert_eq!((got.len(), at), (golden.data().len(), None), "{who} {packed}");
            }
            assert_ne!(golden.data(), file.tensor(&packed).unwrap().data(), "{packed}");
            seen += 1;
        }
    }
    assert_eq!(seen, weighted.len() - 1);
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
