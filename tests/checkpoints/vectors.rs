//! What other implementations wrote, and the formulas of the formats, weight by weight.

use crate::build::{Tensor, f16s, f32s, open, random, raw, tensor, words, written};
use half::{bf16, f16};
use lowbit::file::checkpoint::onnx::{MatMulNBits, ZeroPoints};
use lowbit::file::{Content, Dtype, Model};
use lowbit::scheme::Codebook;
use lowbit::{DType, PackedTensor, reference};
use serde_json::json;

pub fn assert_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g.to_bits() == w.to_bits() || *g == 0.0 && *w == 0.0, "{what}, weight {i}: {g} {w}");
    }
}

fn codes(w: &PackedTensor) -> Vec<Vec<u32>> {
    let (rows, k) = w.matrix();
    (0..rows).map(|r| (0..k).map(|c| w.code(r, c)).collect()).collect()
}

fn zeros(w: &PackedTensor) -> Vec<u8> {
    w.plane(lowbit::scheme::PlaneKind::Zeros).to_vec()
}

/// q[k][n] = (3k + 5n + 1) mod 16 for 8 inputs of 16, and zero-points 8 to 1, as GPTQModel packs them.
#[test]
fn gptq_words() {
    let row = [
        0x630d_a741u32,
        0xb852_fc96,
        0x0da7_41eb,
        0x52fc_9630,
        0xa741_eb85,
        0xfc96_30da,
        0x41eb_852f,
        0x9630_da74,
    ];
    for (format, zero_word) in [("gptq", 0x0123_4567u32), ("gptq_v2", 0x1234_5678)] {
        let settings = json!({"quant_method": "gptq", "bits": 4, "group_size": 16, "sym": false,
                              "desc_act": false, "checkpoint_format": format});
        let tensors = [
            tensor("l.qweight", Dtype::I32, &[2, 8], words(&[row, [0; 8]].concat())),
            tensor("l.qzeros", Dtype::I32, &[1, 1], words(&[zero_word])),
            tensor("l.scales", Dtype::F16, &[1, 8], f16s(&[0.5; 8])),
        ];
        let w = open(&settings, &tensors).unwrap().packed("l.weight").unwrap();
        assert_eq!((w.scheme().to_string().as_str(), w.shape()), ("int4-g16-asym", &[8, 16][..]));
        for (n, row) in codes(&w).iter().enumerate() {
            for (k, &code) in row.iter().enumerate() {
                assert_eq!(code as usize, if k < 8 { (3 * k + 5 * n + 1) % 16 } else { 0 }, "{n} {k}");
            }
        }
        assert_eq!(zeros(&w), [8, 7, 6, 5, 4, 3, 2, 1], "{format}");
    }
}

/// Symmetric zero-points: words of 8 in version 2 and of 7 in version 1; 3 bits of both kinds of version 1.
#[test]
fn gptq_symmetric_words() {
    let open_with = |bits: u32, version: &str, zero_words: &[u32]| {
        let settings = json!({"quant_method": "gptq", "bits": bits, "group_size": -1, "sym": true,
                              "checkpoint_format": version});
        let rows = bits as usize;
        let tensors = [
            tensor("l.qweight", Dtype::I32, &[rows, 32], vec![0; rows * 128]),
            tensor("l.qzeros", Dtype::I32, &[1, zero_words.len()], words(zero_words)),
            tensor("l.scales", Dtype::F16, &[1, 32], f16s(&[1.0; 32])),
        ];
        open(&settings, &tensors).unwrap().packed("l.weight")
    };
    assert_eq!(open_with(4, "gptq_v2", &[0x8888_8888; 4]).unwrap().scheme().to_string(), "int4-row-f16");
    assert!(open_with(4, "gptq", &[0x7777_7777; 4]).is_ok());
    assert!(open_with(4, "gptq", &[0x8888_8888; 4]).is_err());
    assert!(open_with(8, "gptq", &[0x7f7f_7f7f; 8]).is_ok());
    assert!(open_with(2, "gptq", &[0x5555_5555; 2]).is_ok());
    // Thirty-two times 4 in three words; 3, as a quantizer subtracts it; what converters leave of 4.
    let fours = [0x2492_4924u32, 0x4924_9249, 0x9249_2492];
    assert!(open_with(3, "gptq_v2", &fours).is_ok());
    assert!(open_with(3, "gptq", &[0xdb6d_b6db, 0xb6db_6db6, 0x6db6_db6d]).is_ok());
    assert!(open_with(3, "gptq", &[0, 0xb6db_6db7, 0x4924_9249]).is_ok());
    assert!(open_with(3, "gptq", &fours).is_err());
}

/// Zero-points 0 to 7: in version 1 the 0 borrows from its neighbour.
#[test]
fn gptq_zero_borrows() {
    let settings = json!({"quant_method": "gptq", "bits": 4, "group_size": -1, "sym": false});
    let tensors = [
        tensor("l.qweight", Dtype::I32, &[1, 8], vec![0; 32]),
        tensor("l.qzeros", Dtype::I32, &[1, 1], words(&[0x7654_3210 - 0x1111_1111])),
        tensor("l.scales", Dtype::F16, &[1, 8], f16s(&[0.5; 8])),
    ];
    let w = open(&settings, &tensors).unwrap().packed("l.weight").unwrap();
    assert_eq!(zeros(&w), [0, 1, 2, 3, 4, 5, 6, 7]);
}

/// Settings by regular expression: the first of `dynamic`, the nearest of `config_groups`.
#[test]
fn settings_by_expression() {
    let layer = |name: &str, bits: usize| {
        [
            tensor(&format!("{name}.qweight"), Dtype::I32, &[bits, 32], vec![0x55; bits * 128]),
            tensor(&format!("{name}.qzeros"), Dtype::I32, &[1, bits], vec![0x33; 4 * bits]),
            tensor(&format!("{name}.scales"), Dtype::F16, &[1, 32], f16s(&[0.5; 32])),
        ]
    };
    let settings = json!({"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2",
        "dynamic": {"-:.*\\.gate$": {}, "+:layers\\.1\\.": {"bits": 8}, "layers\\.1": {"bits": 2}}});
    let tensors = [layer("layers.0.up", 4), layer("layers.1.up", 8), layer("layers.10.up", 2)].concat();
    let checkpoint = open(&settings, &tensors).unwrap();
    for (name, scheme) in [
        ("layers.0.up", "int4-g32-asym"),
        ("layers.1.up", "int8-g32-asym"),
        ("layers.10.up", "int2-g32-asym"),
    ] {
        assert_eq!(checkpoint.packed(&format!("{name}.weight")).unwrap().scheme().to_string(), scheme);
    }
    let gate = [tensors.clone(), layer("layers.0.gate", 4).to_vec()].concat();
    assert!(open(&settings, &gate).err().unwrap().to_string().contains("layers.0.gate"));

    let weights = |bits: u32| json!({"num_bits": bits, "type": "int", "strategy": "channel"});
    let settings = json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {
        "a": {"targets": ["Linear"], "weights": weights(8)},
        "b": {"targets": ["re:.*up"], "weights": weights(4)},
        "c": {"targets": ["layers.1.up"], "weights": weights(2)},
        "d": {"targets": ["re:.*byte"], "format": "int-quantized", "weights": weights(5)}}});
    let shape: Vec<u8> = [1u64, 16].iter().flat_map(|d| d.to_le_bytes()).collect();
    let layer = |name: &str, words: usize| {
        [
            tensor(&format!("{name}.weight_packed"), Dtype::I32, &[1, words], vec![0x5a; 4 * words]),
            tensor(&format!("{name}.weight_scale"), Dtype::F16, &[1, 1], f16s(&[1.0])),
            tensor(&format!("{name}.weight_shape"), Dtype::I64, &[2], shape.clone()),
        ]
    };
    let bytes = [
        tensor("byte.weight", Dtype::I8, &[1, 4], vec![240, 0, 15, 255]),
        tensor("byte.weight_scale", Dtype::F16, &[1], f16s(&[1.0])),
    ];
    let tensors =
        [&layer("layers.0.up", 2)[..], &layer("layers.1.up", 1), &layer("layers.0.down", 4), &bytes].concat();
    let checkpoint = open(&settings, &tensors).unwrap();
    for (name, scheme) in [
        ("layers.0.up", "int4-row-f16"),
        ("layers.1.up", "int2-row-f16"),
        ("layers.0.down", "int8-row-f16"),
        ("byte", "int5-row-f16"),
    ] {
        assert_eq!(checkpoint.packed(&format!("{name}.weight")).unwrap().scheme().to_string(), scheme);
    }
    let byte = reference::dequantize(&checkpoint.packed("byte.weight").unwrap());
    assert_eq!(byte, [-16.0, 0.0, 15.0, -1.0]);
}

/// Zero-points of pack-quantized that are bytes, as early files have them.
#[test]
fn compressed_tensors_zero_bytes() {
    let w = random("int4-g32-asym", &[32, 64], 7);
    let (model, config) = written("compressed-tensors", &w);
    let tensors: Vec<Tensor> = model
        .entries()
        .iter()
        .map(|e| match e.content {
            _ if e.name == "l.weight_zero_point" => {
                tensor(&e.name, Dtype::I8, &[32, 2], zeros(&w).iter().map(|z| z.wrapping_sub(8)).collect())
            }
            Content::Dense(dtype) => tensor(&e.name, dtype, &e.shape, model.raw(e).to_vec()),
            Content::Packed { .. } | Content::Listed { .. } => panic!("{e:?}"),
        })
        .collect();
    assert_eq!(open(&config["quantization_config"], &tensors).unwrap().packed("l.weight").unwrap(), w);
}

#[test]
fn awq_words() {
    let settings = json!({"quant_method": "awq", "bits": 4, "group_size": 4, "zero_point": true,
                          "version": "gemm"});
    let tensors = [
        tensor("l.qweight", Dtype::I32, &[4, 1], words(&[0x7531_6420, 0x4a06_f5b1, 0, 0])),
        tensor("l.qzeros", Dtype::I32, &[1, 1], words(&[0x7531_6420])),
        tensor("l.scales", Dtype::F16, &[1, 8], f16s(&[1.0; 8])),
    ];
    let w = open(&settings, &tensors).unwrap().packed("l.weight").unwrap();
    let columns: Vec<Vec<u32>> = (0..2).map(|k| (0..8).map(|n| w.code(n, k)).collect()).collect();
    assert_eq!(columns, [[0, 1, 2, 3, 4, 5, 6, 7], [1, 6, 11, 0, 5, 10, 15, 4]]);
    assert_eq!(zeros(&w), [0, 1, 2, 3, 4, 5, 6, 7]);
}

/// Gemv: words along the inputs, zero-points and scales filled up to words.
#[test]
fn awq_gemv() {
    let settings = json!({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemv"});
    let (out, k) = (3, 64);
    let code = |n: usize, k: usize| (5 * n + 3 * k) % 16;
    let word = |n: usize, c: usize| (0..8).fold(0, |w, j| w | (code(n, 8 * c + j) as u32) << (4 * j));
    let qweight: Vec<u32> = (0..out).flat_map(|n| (0..8).map(move |c| word(n, c))).collect();
    let qzeros: Vec<u32> = (0..out as u32).flat_map(|n| [(n + 1) | ((n + 9) << 4), 0, 0, 0]).collect();
    let scales: Vec<f32> = (0..out * 32).map(|i| if i % 32 < 2 { 1.0 + i as f32 } else { 0.0 }).collect();
    let tensors = [
        tensor("l.qweight", Dtype::I32, &[out, 8], words(&qweight)),
        tensor("l.qzeros", Dtype::I32, &[out, 4], words(&qzeros)),
        tensor("l.scales", Dtype::F16, &[out, 32], f16s(&scales)),
    ];
    let w = open(&settings, &tensors).unwrap().packed("l.weight").unwrap();
    assert_eq!(w.scheme().to_string(), "int4-g32-asym");
    let want: Vec<f32> = (0..out * k)
        .map(|i| {
            let (n, k) = (i / k, i % k);
            let zero = if k < 32 { n + 1 } else { n + 9 };
            scales[32 * n + k / 32] * (code(n, k) as f32 - zero as f32)
        })
        .collect();
    assert_bits(&reference::dequantize(&w), &want, "gemv");
}

#[test]
fn compressed_tensors_words() {
    let settings = |bits: u32| {
        json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {
            "targets": ["Linear"], "weights": {"num_bits": bits, "type": "int", "symmetric": true,
            "strategy": "channel"}}}, "ignore": ["lm_head"]})
    };
    for (bits, word, want) in [
        (4u32, 0xfea9_8710u32, vec![-8i32, -7, -1, 0, 1, 2, 6, 7]),
        (3, 0x38fa_c688, vec![-4, -3, -2, -1, 0, 1, 2, 3, -4, 3]),
    ] {
        let k = want.len();
        let shape = [1u64, k as u64].iter().flat_map(|d| d.to_le_bytes()).collect();
        let tensors = [
            tensor("l.weight_packed", Dtype::I32, &[1, 1], words(&[word])),
            tensor("l.weight_scale", Dtype::F32, &[1, 1], f32s(&[1.0])),
            tensor("l.weight_shape", Dtype::I64, &[2], shape),
        ];
        let w = open(&settings(bits), &tensors).unwrap().packed("l.weight").unwrap();
        assert_eq!(w.scheme().to_string(), format!("int{bits}-row"));
        let want: Vec<f32> = want.iter().map(|&q| q as f32).collect();
        assert_bits(&reference::dequantize(&w), &want, "channel");
    }
}

#[test]
fn mlx_word() {
    let settings = json!({"group_size": 32, "bits": 4});
    let tensors = [
        tensor("l.weight", Dtype::U32, &[1, 4], words(&[0xb5f9_3e82, 0, 0, 0])),
        tensor("l.scales", Dtype::F16, &[1, 1], f16s(&[0.195_312_5])),
        tensor("l.biases", Dtype::F16, &[1, 1], f16s(&[-1.5625])),
    ];
    let w = open(&settings, &tensors).unwrap().packed("l.weight").unwrap();
    assert_eq!(codes(&w)[0][..8], [2, 8, 14, 3, 9, 15, 5, 11]);
    let first: Vec<f32> =
        [2, 8, 14, 3, 9, 15, 5, 11].iter().map(|&q| 0.195_312_5 * q as f32 - 1.5625).collect();
    assert_bits(&reference::dequantize(&w)[..8], &first, "mlx");
}

/// MLX with exponents and E4M3 scales, experts in a leading dimension, a layer with settings of its own.
#[test]
fn mlx_blocks() {
    let bytes = |n: usize, step: usize| (0..n).map(|i| (i * step + i / 7) as u8).collect::<Vec<u8>>();
    let e2m1 = Codebook::E2M1.entries();
    let e4m3 = Codebook::E4M3.entries();
    let settings = json!({"group_size": 32, "bits": 4, "mode": "mxfp4", "own": {"group_size": 16, "bits": 4, "mode": "nvfp4"},
        "eight": {"group_size": 32, "bits": 8, "mode": "mxfp8"}, "plain": {"bits": 8}, "dense": false});
    let mx = bytes(2 * 3 * 32, 37);
    let exponents: Vec<u8> = (0..12).map(|i| 120 + i).collect();
    let nv_scales: Vec<u8> = (0..8).map(|i| 0x30 + 3 * i).collect();
    let eight: Vec<u8> = bytes(64, 5).iter().map(|b| b & 0x3f).collect();
    let tensors = [
        tensor("experts.weight", Dtype::U32, &[2, 3, 8], mx.clone()),
        tensor("experts.scales", Dtype::U8, &[2, 3, 2], exponents.clone()),
        tensor("own.weight", Dtype::U32, &[1, 16], mx[..64].to_vec()),
        tensor("own.scales", Dtype::U8, &[1, 8], nv_scales.clone()),
        tensor("eight.weight", Dtype::U32, &[1, 16], eight.clone()),
        tensor("eight.scales", Dtype::U8, &[1, 2], vec![125, 130]),
        tensor("plain.weight", Dtype::U32, &[1, 16], eight.clone()),
        tensor("plain.scales", Dtype::BF16, &[1, 1], bf16::from_f32(0.25).to_le_bytes().to_vec()),
        tensor("plain.biases", Dtype::BF16, &[1, 1], bf16::from_f32(-3.5).to_le_bytes().to_vec()),
        tensor("dense.weight", Dtype::F16, &[1, 2], f16s(&[1.0, 2.0])),
    ];
    let checkpoint = open(&settings, &tensors).unwrap();
    assert_eq!(checkpoint.format(), "mlx");
    let decoded = |name: &str, scheme: &str| {
        let w = checkpoint.packed(name).unwrap();
        assert_eq!(w.scheme().to_string(), scheme);
        reference::dequantize(&w)
    };
    let nibble = |bytes: &[u8], i: usize| usize::from(bytes[i / 2] >> (4 * (i % 2)) & 15);
    let power = |e: u8| f32::from_bits(u32::from(e) << 23);
    let want: Vec<f32> = (0..6 * 64).map(|i| power(exponents[i / 32]) * e2m1[nibble(&mx, i)]).collect();
    assert_bits(&decoded("experts.weight", "fp4-g32-e8m0"), &want, "mxfp4");
    assert_eq!(checkpoint.entry("experts.weight").unwrap().shape, [2, 3, 64]);
    let want: Vec<f32> =
        (0..128).map(|i| e4m3[usize::from(nv_scales[i / 16])] * e2m1[nibble(&mx, i)]).collect();
    assert_bits(&decoded("own.weight", "nvfp4"), &want, "nvfp4");
    let want: Vec<f32> = (0..64).map(|i| power([125, 130][i / 32]) * e4m3[usize::from(eight[i])]).collect();
    assert_bits(&decoded("eight.weight", "mxfp8"), &want, "mxfp8");
    let want: Vec<f32> = (0..64).map(|i| 0.25 * f32::from(eight[i]) - 3.5).collect();
    assert_bits(&decoded("plain.weight", "int8-g64-bias-bf16"), &want, "affine");
    assert_eq!(checkpoint.tensor("dense.weight").unwrap().to_f32().to_vec(), [1.0, 2.0]);
}

fn golden() -> Model {
    Model::open("tests/data/bnb.safetensors").unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// A layer of bitsandbytes around its arrays.
pub fn bnb_layer(
    kind: &str,
    block: usize,
    shape: [usize; 2],
    codes: Vec<u8>,
    absmax: &[u8],
    nested: Option<(f32, &[u8], &[u8])>,
) -> Vec<Tensor> {
    let map = raw(&golden(), &format!("{kind}.code"));
    let mut state = json!({"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": shape});
    let n_codes = codes.len();
    let blocks = (shape[0] * shape[1]).div_ceil(block);
    let mut tensors = vec![
        tensor("l.weight", Dtype::U8, &[n_codes, 1], codes),
        tensor("l.weight.quant_map", Dtype::F32, &[16], map),
    ];
    let dtype = if let Some((offset, absmax, map)) = nested {
        state["nested_blocksize"] = 256.into();
        state["nested_dtype"] = "float32".into();
        state["nested_offset"] = f64::from(offset).into();
        let n = absmax.len() / 4;
        tensors.push(tensor("l.weight.nested_absmax", Dtype::F32, &[n], absmax.to_vec()));
        tensors.push(tensor("l.weight.nested_quant_map", Dtype::F32, &[256], map.to_vec()));
        Dtype::U8
    } else {
        Dtype::F32
    };
    tensors.push(tensor("l.weight.absmax", dtype, &[blocks], absmax.to_vec()));
    let state = state.to_string().into_bytes();
    let name = format!("l.weight.quant_state.bitsandbytes__{kind}");
    tensors.push(tensor(&name, Dtype::U8, &[state.len()], state));
    tensors
}

pub fn bnb_settings() -> serde_json::Value {
    json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "llm_int8_skip_modules": ["lm_head"]})
}

/// bitsandbytes' own arrays, its own decoded values.
#[test]
fn bitsandbytes_arrays() {
    let model = golden();
    let mut compared = 0;
    for name in model.entries().iter().filter_map(|e| e.name.strip_suffix(".packed")) {
        let get = |part: &str| raw(&model, &format!("{name}.{part}"));
        let kind = if name.contains("nf4") { "nf4" } else { "fp4" };
        let digits: String =
            name.split("_b").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
        let block: usize = digits.parse().unwrap();
        let codes = get("packed");
        let rows = codes.len() / 128;
        let nested =
            name.ends_with("_dq").then(|| (floats(&get("offset"))[0], get("absmax2"), raw(&model, "code2")));
        let nested = nested.as_ref().map(|(offset, absmax, map)| (*offset, &absmax[..], &map[..]));
        let tensors = bnb_layer(kind, block, [rows, 256], codes, &get("absmax"), nested);
        let checkpoint = open(&bnb_settings(), &tensors).unwrap();
        let w = checkpoint.packed("l.weight").unwrap();
        let family = if kind == "nf4" { "nf4" } else { "bnbfp4" };
        assert_eq!(w.scheme().to_string(), format!("{family}-g{block}-f32"));
        let want = floats(&get("deq"));
        compared += want.len();
        let got = reference::dequantize(&w);
        assert!(
            got.iter().zip(&want).all(|(g, w)| g.to_bits() == w.to_bits()) || {
                assert_bits(&got, &want, name);
                true
            }
        );
        let Content::Packed { source, .. } = checkpoint.entry("l.weight").unwrap().content else {
            panic!("{name}")
        };
        assert_eq!(source, DType::Bf16);
    }
    assert_eq!(compared, (23 * 4 + 64) * 256);
}

/// The first code in the high nibble; blocks of 8 in rows of 12; a table of another's.
#[test]
fn bitsandbytes_order_and_blocks() {
    let codes: Vec<u8> = [0x0f, 0x78].into_iter().chain((0..10).map(|i| 17 * i)).collect();
    let absmax = [1.0f32, 3.0, 0.5];
    let mut tensors = bnb_layer("nf4", 8, [2, 12], codes, &f32s(&absmax), None);
    let w = open(&bnb_settings(), &tensors).unwrap().packed("l.weight").unwrap();
    assert_eq!(w.scheme().to_string(), "nf4-g4-f32");
    assert_eq!((0..4).map(|c| w.code(0, c)).collect::<Vec<_>>(), [0, 15, 7, 8]);
    let table = Codebook::Nf4.entries();
    let want: Vec<f32> = (0..24).map(|i| table[w.code(i / 12, i % 12) as usize] * absmax[i / 8]).collect();
    assert_bits(&reference::dequantize(&w), &want, "blocks of 8");
    let other: Vec<f32> = (0..16).map(|i| i as f32 / 15.0).collect();
    tensors[1].3 = f32s(&other);
    let w = open(&bnb_settings(), &tensors).unwrap().packed("l.weight").unwrap();
    assert_eq!((w.scheme().to_string().as_str(), w.codebook()), ("codebook4-g4-f32", other));
}

/// onnxruntime's own operands: decoded as it does, and made again.
#[test]
fn matmul_nbits_operands() {
    let model = Model::open("tests/data/ort.safetensors").unwrap();
    let mut compared = 0;
    for name in model.entries().iter().filter_map(|e| e.name.strip_suffix(".B")) {
        let get = |part: &str| raw(&model, &format!("{name}.{part}"));
        let block_size = if name.ends_with("b32") { 32 } else { 128 };
        let node = MatMulNBits {
            n: 4,
            k: 256,
            bits: if name.contains("nbits4") { 4 } else { 8 },
            block_size,
            b: get("B").into(),
            dtype: DType::F32,
            scales: get("S").into(),
            zero_points: ZeroPoints::Packed(get("Z").into()),
            g_idx: None,
        };
        let w = node.packed().unwrap();
        assert_eq!(w.scheme().to_string(), format!("int{}-g{block_size}-asym-f32", node.bits));
        let want = floats(&get("deq"));
        assert_bits(&reference::dequantize(&w), &want, name);
        compared += want.len();
        assert_eq!(MatMulNBits::of(&w).unwrap(), node);
        for (what, wrong) in [
            ("B", MatMulNBits { n: 3, ..node.clone() }),
            ("K", MatMulNBits { k: usize::MAX, ..node.clone() }),
            ("B", MatMulNBits { k: 512, ..node.clone() }),
            ("scales", MatMulNBits { dtype: DType::F16, ..node.clone() }),
            ("zero_points", MatMulNBits { zero_points: ZeroPoints::Float(get("Z").into()), ..node.clone() }),
            ("3 bits", MatMulNBits { bits: 3, ..node.clone() }),
            ("block_size 24", MatMulNBits { block_size: 24, ..node.clone() }),
            ("block_size 8", MatMulNBits { block_size: 8, ..node.clone() }),
            ("N and K", MatMulNBits { n: 0, ..node.clone() }),
        ] {
            let error = wrong.packed().err().unwrap().to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
    }
    assert_eq!(compared, 8 * 4 * 256);
}

/// All that these operands hold, with a short last block.
#[test]
fn matmul_nbits_round_trips() {
    for bits in [2, 4, 8] {
        for rest in ["g32", "g32-asym", "g16-fzero", "g64-fzero-f32", "g128-asym-bf16", "g32-bf16"] {
            let w = random(&format!("int{bits}-{rest}"), &[5, 76], bits);
            assert_eq!(MatMulNBits::of(&w).unwrap().packed().unwrap(), w, "{}", w.scheme());
        }
    }
    for scheme in ["int3-g32", "int4-row", "int4-g24", "int4-g32-bias", "nf4-g64", "int4-g32-perm", "int4-g8"]
    {
        let refused = MatMulNBits::of(&PackedTensor::zeroed(scheme.parse().unwrap(), [4, 64]).unwrap());
        assert!(refused.err().unwrap().to_string().contains(scheme));
    }
}

/// LLM.int8: code * SCB / 127, within the last bit of it.
#[test]
fn bitsandbytes_int8() {
    let model = golden();
    for matrix in ["normal", "outlier"] {
        let (q, scb) =
            (raw(&model, &format!("{matrix}.int8_row.q")), raw(&model, &format!("{matrix}.int8_row.absmax")));
        let tensors = [
            tensor("l.weight", Dtype::I8, &[4, 256], q.clone()),
            tensor("l.SCB", Dtype::F32, &[4], scb.clone()),
            tensor("l.weight_format", Dtype::U8, &[], vec![0]),
            tensor("lm_head.weight", Dtype::F16, &[1, 1], f16s(&[1.0])),
        ];
        let checkpoint = open(&bnb_settings(), &tensors).unwrap();
        assert_eq!(checkpoint.entries().len(), 2);
        let w = checkpoint.packed("l.weight").unwrap();
        assert_eq!(w.scheme().to_string(), "int8-row");
        let scb = floats(&scb);
        for (i, got) in reference::dequantize(&w).iter().enumerate() {
            let exact = f64::from(q[i] as i8) * f64::from(scb[i / 256]) / 127.0;
            assert!((f64::from(*got) - exact).abs() <= exact.abs() * 2f64.powi(-23), "{i}: {got} {exact}");
        }
    }
}

/// HQQ: the first part of the rows in the highest bits; groups that cross rows.
#[test]
fn hqq_packings() {
    for (bits, packing, per, dtype) in [
        (8u32, "8bit_u8", 1usize, Dtype::U8),
        (6, "8bit_u8", 1, Dtype::U8),
        (4, "4bit_u8", 2, Dtype::U8),
        (3, "3bit_32", 10, Dtype::I32),
        (2, "2bit_u8", 4, Dtype::U8),
        (1, "1bit_u8", 8, Dtype::U8),
    ] {
        // Groups of 16 in rows of 24: pieces of 8.
        let (out, k, group) = (16usize, 24usize, 16usize);
        let rows = out * k / group;
        let width = packing.as_bytes()[0] - b'0';
        let code = |i: usize| (i * 37 + i / 3) as u32 % (1 << bits);
        let step = rows.div_ceil(per);
        let elements: Vec<u32> = (0..step * group)
            .map(|e| {
                (0..per).fold(0, |word, part| {
                    let i = part * step * group + e;
                    let c = if i < rows * group { code(i) } else { 0 };
                    word << width | c
                })
            })
            .collect();
        let w_q = match dtype {
            Dtype::U8 => elements.iter().map(|&e| e as u8).collect(),
            _ => words(&elements),
        };
        let scale: Vec<f32> = (0..rows).map(|r| 0.013 + 0.21 * r as f32).collect();
        let zero: Vec<f32> = (0..rows).map(|r| 3.3 - 0.17 * r as f32).collect();
        let number = |name: &str, n: i32| tensor(name, Dtype::I32, &[], n.to_le_bytes().to_vec());
        let tensors = [
            tensor("l.W_q", dtype, &[step, group], w_q),
            tensor("l.scale", Dtype::F16, &[rows, 1], f16s(&scale)),
            tensor("l.zero", Dtype::F16, &[rows, 1], f16s(&zero)),
            number("l.nbits", bits as i32),
            number("l.group_size", group as i32),
            number("l.axis", 1),
            tensor(
                "l.shape",
                Dtype::I64,
                &[2],
                [out as u64, k as u64].iter().flat_map(|d| d.to_le_bytes()).collect(),
            ),
            tensor("l.packing", Dtype::U8, &[packing.len()], packing.as_bytes().to_vec()),
            tensor("l.quant_scale", Dtype::U8, &[], vec![0]),
            tensor("l.bias", Dtype::F16, &[1], f16s(&[0.5])),
        ];
        let checkpoint =
            open(&json!({"quant_method": "hqq", "skip_modules": ["lm_head"]}), &tensors).unwrap();
        assert_eq!(
            checkpoint.entries().iter().map(|e| e.name.as_str()).collect::<Vec<_>>(),
            ["l.weight", "l.bias"]
        );
        let w = checkpoint.packed("l.weight").unwrap();
        assert_eq!(w.scheme().to_string(), format!("int{bits}-g8-fzero"));
        let half = |v: f32| f16::from_f32(v).to_f32();
        let want: Vec<f32> = (0..out * k)
            .map(|i| {
                let value = if bits == 1 { i32::from(code(i) == 1) as f32 } else { code(i) as f32 };
                (value - half(zero[i / group])) * half(scale[i / group])
            })
            .collect();
        assert_bits(&reference::dequantize(&w), &want, packing);
    }
}

/// FP8 of all strategies, NVFP4, MXFP4.
#[test]
fn compressed_tensors_floats() {
    let e4m3 = Codebook::E4M3.entries();
    let e2m1 = Codebook::E2M1.entries();
    let settings = |format: &str, weights: serde_json::Value| {
        json!({"quant_method": "compressed-tensors", "format": format, "ignore": [],
               "config_groups": {"g": {"targets": ["Linear"], "weights": weights}}})
    };
    let (out, k) = (6, 8);
    let codes: Vec<u8> = (0..48u8).map(|i| i.wrapping_mul(37) & 0xbf).collect();
    type Case = (serde_json::Value, Vec<usize>, fn(usize, usize) -> usize, &'static str);
    let cases: [Case; 4] = [
        (
            json!({"num_bits": 8, "type": "float", "strategy": "tensor"}),
            vec![1],
            |_, _| 0,
            "e4m3-tensor-bf16",
        ),
        (
            json!({"num_bits": 8, "type": "float", "strategy": "channel"}),
            vec![6, 1],
            |n, _| n,
            "e4m3-row-bf16",
        ),
        (
            json!({"num_bits": 8, "type": "float", "strategy": "group", "group_size": 4}),
            vec![6, 2],
            |n, k| 2 * n + k / 4,
            "e4m3-g4-bf16",
        ),
        (
            json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [4, 4]}),
            vec![2, 2],
            |n, k| n / 4 * 2 + k / 4,
            "e4m3-g4-bf16",
        ),
    ];
    for (weights, shape, place, scheme) in cases {
        let n: usize = shape.iter().product();
        let scales: Vec<bf16> = (0..n).map(|i| bf16::from_f32(0.1 + 0.07 * i as f32)).collect();
        let tensors = [
            tensor("l.weight", Dtype::F8_E4M3, &[out, k], codes.clone()),
            tensor(
                "l.weight_scale",
                Dtype::BF16,
                &shape,
                scales.iter().flat_map(|s| s.to_le_bytes()).collect(),
            ),
            tensor("l.input_scale", Dtype::F32, &[1], f32s(&[1.0])),
        ];
        let w = open(&settings("float-quantized", weights), &tensors).unwrap().packed("l.weight").unwrap();
        assert_eq!(w.scheme().to_string(), scheme);
        let want: Vec<f32> =
            (0..48).map(|i| e4m3[usize::from(codes[i])] * scales[place(i / k, i % k)].to_f32()).collect();
        assert_bits(&reference::dequantize(&w), &want, scheme);
    }

    let bytes: Vec<u8> = (0..64u32).map(|i| (i * 37 + i / 5) as u8).collect();
    let nibble = |i: usize| usize::from(bytes[i / 2] >> (4 * (i % 2)) & 15);
    let scales: Vec<u8> = (0..8).map(|i| 0x11 * i).collect();
    let global = 1234.567f32;
    let tensors = [
        tensor("l.weight_packed", Dtype::U8, &[2, 32], bytes.clone()),
        tensor(
            "l.weight_scale",
            Dtype::F8_E4M3,
            &[2, 4],
            scales[..7].iter().copied().chain([0x3c]).collect(),
        ),
        tensor("l.weight_global_scale", Dtype::F32, &[1], f32s(&[global])),
        tensor("l.input_global_scale", Dtype::F32, &[1], f32s(&[1.0])),
    ];
    let fp4 = json!({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16});
    let checkpoint = open(&settings("nvfp4-pack-quantized", fp4.clone()), &tensors).unwrap();
    assert_eq!(checkpoint.entries().len(), 2);
    let w = checkpoint.packed("l.weight").unwrap();
    let scale = |g: usize| e4m3[usize::from(if g == 7 { 0x3c } else { scales[g] })];
    let want: Vec<f32> = (0..128).map(|i| (scale(i / 16) / global) * e2m1[nibble(i)]).collect();
    assert_bits(&reference::dequantize(&w), &want, "nvfp4");

    let tensors = [
        tensor("l.weight_packed", Dtype::U8, &[2, 32], bytes.clone()),
        tensor("l.weight_scale", Dtype::U8, &[2, 2], vec![120, 127, 130, 140]),
    ];
    let w = open(&settings("mxfp4-pack-quantized", fp4), &tensors).unwrap().packed("l.weight").unwrap();
    let want: Vec<f32> =
        (0..128).map(|i| f32::from_bits([120u32, 127, 130, 140][i / 32] << 23) * e2m1[nibble(i)]).collect();
    assert_bits(&reference::dequantize(&w), &want, "mxfp4");
}
