//! What is written: every weight found again by the text of its format.

use crate::build::{random, raw, written};
use crate::vectors::assert_bits;
use half::f16;
use lowbit::reference;
use lowbit::scheme::Codebook;
use serde_json::json;

/// Bits `at..at + bits` of words that lie `stride` apart, from word `first`.
fn field(words: &[u32], first: usize, stride: usize, at: usize, bits: usize) -> u32 {
    (0..bits).fold(0, |code, b| code | (words[first + (at + b) / 32 * stride] >> ((at + b) % 32) & 1) << b)
}

/// Every weight of what is written, found bit by bit where its format's text says.
#[test]
fn written_words_by_formula() {
    let u32s = |bytes: &[u8]| -> Vec<u32> {
        bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect()
    };
    let halves = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect()
    };
    let (out, k) = (64usize, 96usize);
    for bits in [2usize, 3, 4, 8] {
        let w = random(&format!("int{bits}-g32-asym-perm"), &[out, k], bits as u64);
        let (model, _) = written("gptq_v2", &w);
        let (q, z) = (u32s(&raw(&model, "l.qweight")), u32s(&raw(&model, "l.qzeros")));
        let (s, g) = (halves(&raw(&model, "l.scales")), u32s(&raw(&model, "l.g_idx")));
        let want: Vec<f32> = (0..out * k)
            .map(|i| {
                let (n, k) = (i / k, i % k);
                let group = g[k] as usize;
                let zero = field(&z, group * out * bits / 32, 1, n * bits, bits);
                s[group * out + n] * (field(&q, n, out, k * bits, bits) as f32 - zero as f32)
            })
            .collect();
        assert_bits(&reference::dequantize(&w), &want, &format!("gptq {bits}"));
    }
    let w = random("int4-g32-asym", &[out, k], 9);
    let (model, _) = written("awq", &w);
    let (q, z) = (u32s(&raw(&model, "l.qweight")), u32s(&raw(&model, "l.qzeros")));
    let s = halves(&raw(&model, "l.scales"));
    let nibble = [0, 4, 1, 5, 2, 6, 3, 7];
    let at = |words: &[u32], row: usize, n: usize| {
        (words[row * out / 8 + n / 8] >> (4 * nibble[n % 8]) & 15) as f32
    };
    let want: Vec<f32> = (0..out * k)
        .map(|i| {
            let (n, k) = (i / k, i % k);
            s[k / 32 * out + n] * (at(&q, k, n) - at(&z, k / 32, n))
        })
        .collect();
    assert_bits(&reference::dequantize(&w), &want, "awq");
    for bits in 2..=8usize {
        let w = random(&format!("int{bits}-g24-asym"), &[out, k], 20 + bits as u64);
        let (model, _) = written("compressed-tensors", &w);
        let (q, z) = (u32s(&raw(&model, "l.weight_packed")), u32s(&raw(&model, "l.weight_zero_point")));
        let s = halves(&raw(&model, "l.weight_scale"));
        let per = 32 / bits;
        let middle = (1 << (bits - 1)) as f32;
        let at = |word: u32, j: usize| (word >> (bits * j) & ((1u32 << bits) - 1)) as f32 - middle;
        let want: Vec<f32> = (0..out * k)
            .map(|i| {
                let (n, c) = (i / k, i % k);
                let code = at(q[n * k.div_ceil(per) + c / per], c % per);
                let zero = at(z[n / per * 4 + c / 24], n % per);
                s[4 * n + c / 24] * (code - zero)
            })
            .collect();
        assert_bits(&reference::dequantize(&w), &want, &format!("compressed-tensors {bits}"));
    }
    let (e2m1, e4m3) = (Codebook::E2M1.entries(), Codebook::E4M3.entries());
    let nibble = |bytes: &[u8], i: usize| usize::from(bytes[i / 2] >> (4 * (i % 2)) & 15);
    let exponent = |byte: u8| f32::from_bits(u32::from(byte) << 23);
    let w = random("nvfp4-global", &[out, k], 30);
    let (model, config) = written("compressed-tensors", &w);
    let settings = &config["quantization_config"];
    assert_eq!(settings["format"], "nvfp4-pack-quantized");
    assert_eq!(settings["config_groups"]["group_0"]["weights"]["strategy"], "tensor_group");
    let (q, s) = (raw(&model, "l.weight_packed"), raw(&model, "l.weight_scale"));
    let global = f32::from_le_bytes(raw(&model, "l.weight_global_scale").try_into().unwrap());
    assert_eq!(global, 1234.567);
    let want: Vec<f32> =
        (0..out * k).map(|i| e4m3[usize::from(s[i / 16])] / global * e2m1[nibble(&q, i)]).collect();
    assert_bits(&reference::dequantize(&w), &want, "compressed-tensors nvfp4");
    let w = random("fp4-g32-e8m0", &[out, k], 31);
    for (target, codes, scales) in
        [("compressed-tensors", "l.weight_packed", "l.weight_scale"), ("mlx", "l.weight", "l.scales")]
    {
        let (model, _) = written(target, &w);
        let (q, s) = (raw(&model, codes), raw(&model, scales));
        let want: Vec<f32> = (0..out * k).map(|i| exponent(s[i / 32]) * e2m1[nibble(&q, i)]).collect();
        assert_bits(&reference::dequantize(&w), &want, &format!("{target} mxfp4"));
    }
    let w = random("nvfp4", &[out, 128], 32);
    let (model, config) = written("mlx", &w);
    assert_eq!(config["quantization"], json!({"group_size": 16, "bits": 4, "mode": "nvfp4"}));
    let (q, s) = (raw(&model, "l.weight"), raw(&model, "l.scales"));
    let want: Vec<f32> = (0..out * 128).map(|i| e4m3[usize::from(s[i / 16])] * e2m1[nibble(&q, i)]).collect();
    assert_bits(&reference::dequantize(&w), &want, "mlx nvfp4");
    for bits in [2usize, 3, 4, 5, 6, 8] {
        let w = random(&format!("int{bits}-g32-bias"), &[out, k], 40 + bits as u64);
        let (model, _) = written("mlx", &w);
        let q = u32s(&raw(&model, "l.weight"));
        let (s, b) = (halves(&raw(&model, "l.scales")), halves(&raw(&model, "l.biases")));
        let want: Vec<f32> = (0..out * k)
            .map(|i| {
                let (n, c) = (i / k, i % k);
                let code = field(&q, n * k * bits / 32, 1, c * bits, bits) as f32;
                s[3 * n + c / 32] * code + b[3 * n + c / 32]
            })
            .collect();
        assert_bits(&reference::dequantize(&w), &want, &format!("mlx {bits}"));
    }
}
