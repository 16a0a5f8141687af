//! One fault at a time in checkpoints that are read without it: the error names the tensor or the key.

use crate::build::{Tensor, f16s, f32s, open, random, tensor, tensors_of, written};
use crate::vectors::{bnb_layer, bnb_settings};
use lowbit::Error;
use lowbit::file::checkpoint::{Checkpoint, Config};
use lowbit::file::{Content, Dtype, Model};
use serde_json::{Value, json};

/// The settings and tensors of a checkpoint that is right.
pub struct Good {
    pub settings: Value,
    pub tensors: Vec<Tensor>,
}

fn of_target(target: &str, scheme: &str) -> Good {
    let (model, config) = written(target, &random(scheme, &[32, 64], 1));
    let key = if config.contains_key("quantization") { "quantization" } else { "quantization_config" };
    let settings = config[key].clone();
    let tensors = tensors_of(&model);
    Good { settings, tensors }
}

fn number(name: &str, n: i32) -> Tensor {
    tensor(name, Dtype::I32, &[], n.to_le_bytes().to_vec())
}

fn shape64(name: &str, shape: &[i64]) -> Tensor {
    let bytes = shape.iter().flat_map(|d| d.to_le_bytes()).collect();
    tensor(name, Dtype::I64, &[shape.len()], bytes)
}

/// One checkpoint of each format.
pub fn good() -> Vec<(&'static str, Good)> {
    let nested_map: Vec<f32> = (0..256).map(|i| (i as f32 - 127.0) / 128.0).collect();
    let (nested_map, nested) = (f32s(&nested_map), f32s(&[0.5]));
    let bnb = bnb_layer("nf4", 64, [2, 128], vec![0x3c; 128], &[9; 4], Some((0.25, &nested, &nested_map)));
    let hqq = vec![
        tensor("l.W_q", Dtype::U8, &[4, 8], vec![0x21; 32]),
        tensor("l.scale", Dtype::F16, &[8, 1], f16s(&[0.5; 8])),
        tensor("l.zero", Dtype::F16, &[8, 1], f16s(&[1.5; 8])),
        number("l.nbits", 4),
        number("l.group_size", 8),
        number("l.axis", 1),
        shape64("l.shape", &[4, 16]),
        tensor("l.packing", Dtype::U8, &[7], b"4bit_u8".to_vec()),
    ];
    let fp4 = |format: &str| {
        json!({"quant_method": "compressed-tensors", "format": format, "config_groups": {"g": {
            "targets": ["Linear"], "weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group"}}}})
    };
    vec![
        ("gptq", of_target("gptq", "int4-g32-asym-perm")),
        ("gptq_v2", of_target("gptq_v2", "int3-g32")),
        ("awq", of_target("awq", "int4-g32-asym")),
        ("pack", of_target("compressed-tensors", "int4-g32-asym-perm")),
        ("int", of_target("compressed-tensors-int", "int8-row-asym")),
        ("float", of_target("compressed-tensors-float", "e4m3-g32")),
        ("mlx", of_target("mlx", "int4-g32-bias")),
        ("mlx_mxfp8", of_target("mlx", "mxfp8")),
        ("mlx_nvfp4", of_target("mlx", "nvfp4")),
        ("bnb", Good { settings: bnb_settings(), tensors: bnb }),
        (
            "int8",
            Good {
                settings: bnb_settings(),
                tensors: vec![
                    tensor("l.weight", Dtype::I8, &[2, 32], vec![3; 64]),
                    tensor("l.SCB", Dtype::F32, &[2], f32s(&[1.0, 2.0])),
                ],
            },
        ),
        ("hqq", Good { settings: json!({"quant_method": "hqq"}), tensors: hqq }),
        (
            "nvfp4",
            Good {
                settings: fp4("nvfp4-pack-quantized"),
                tensors: vec![
                    tensor("l.weight_packed", Dtype::U8, &[2, 32], vec![0x21; 64]),
                    tensor("l.weight_scale", Dtype::F8_E4M3, &[2, 4], vec![0x38; 8]),
                    tensor("l.weight_global_scale", Dtype::F32, &[1], f32s(&[2.0])),
                ],
            },
        ),
        (
            "mxfp4",
            Good {
                settings: fp4("mxfp4-pack-quantized"),
                tensors: vec![
                    tensor("l.weight_packed", Dtype::U8, &[2, 32], vec![0x21; 64]),
                    tensor("l.weight_scale", Dtype::U8, &[2, 2], vec![127; 4]),
                ],
            },
        ),
    ]
}

/// Opens it and reads all of it.
pub fn read(settings: &Value, tensors: &[Tensor]) -> lowbit::Result<usize> {
    let checkpoint = open(settings, tensors)?;
    let mut packed = 0;
    for entry in checkpoint.entries() {
        if let Content::Packed { .. } = entry.content {
            checkpoint.packed(&entry.name)?;
            packed += 1;
        } else {
            checkpoint.raw(&entry.name)?;
        }
    }
    Ok(packed)
}

#[test]
fn the_good_ones_are_read() {
    for (name, Good { settings, tensors }) in good() {
        assert_eq!(read(&settings, &tensors).unwrap_or_else(|e| panic!("{name}: {e}")), 1, "{name}");
    }
}

/// Without a companion, with one of another type, with one row more or fewer.
#[test]
fn companions_are_checked() {
    // What may be absent: sequential groups, a layout's name that is 0 when absent.
    let optional = [("gptq_v2", "l.g_idx"), ("pack", "l.weight_g_idx")];
    let mut n = 0;
    for (format, Good { settings, tensors }) in good() {
        for (i, (name, dtype, shape, bytes)) in tensors.iter().enumerate() {
            // The first tensor of a layer is what it is found by: without it the others belong to nothing.
            let mut without = tensors.clone();
            without.remove(i);
            let refused = |tensors: &[Tensor], fault: &str| {
                let error = match read(&settings, tensors) {
                    Err(e) => e.to_string(),
                    Ok(packed) => panic!("{format}: {name} {fault}: {packed} read"),
                };
                assert!(error.contains("l."), "{format}: {name} {fault}: {error}");
                error
            };
            if !optional.contains(&(format, name.as_str())) {
                // Without these nothing says that there is a layer, and the rest is dense.
                let found_by = [("hqq", "l.W_q"), ("mlx_mxfp8", "l.scales"), ("mlx_nvfp4", "l.scales")];
                if found_by.contains(&(format, name.as_str())) {
                    assert_eq!(read(&settings, &without).unwrap(), 0);
                } else {
                    refused(&without, "missing");
                    n += 1;
                }
            }
            let mut other = tensors.clone();
            other[i] = tensor(name, Dtype::F64, &[1], vec![0; 8]);
            let error = refused(&other, "of another type");
            assert!(error.contains(name.as_str()), "{format}: {name}: {error}");
            n += 1;
            let row: usize = shape.iter().skip(1).product::<usize>() * dtype.bitsize() / 8;
            if shape.is_empty() || *dtype == Dtype::U8 && shape.len() == 1 {
                continue;
            }
            for rows in [shape[0] - 1, shape[0] + 1] {
                let mut shape = shape.clone();
                shape[0] = rows;
                let mut bytes = bytes.clone();
                bytes.resize(rows * row, 0);
                let mut other = tensors.clone();
                other[i] = tensor(name, *dtype, &shape, bytes);
                refused(&other, "of another shape");
                n += 1;
            }
        }
    }
    println!("{n} faults");
    assert!(n > 100);
}

/// Settings of a wrong value or type: the error names the key.
#[test]
fn settings_are_checked() {
    let faults: [(&str, &[(&str, Value)]); 12] = [
        (
            "gptq",
            &[
                ("/bits", json!(5)),
                ("/bits", json!("4")),
                ("/bits", json!(0)),
                ("/bits", json!(8)),
                ("/group_size", json!(64)),
                ("/group_size", json!(0)),
                ("/group_size", json!(-2)),
                ("/group_size", json!(1.5)),
                ("/sym", json!(true)),
                ("/sym", json!("yes")),
                ("/checkpoint_format", json!("gptq_p")),
                ("/checkpoint_format", json!(2)),
                ("/pack_dtype", json!("int16")),
                ("/dynamic", json!({"-:l": {}})),
                ("/dynamic", json!({"-:.*": {}})),
                ("/dynamic", json!({"+:^l$": {"bits": 8}})),
                ("/dynamic", json!({"+:^l$": 3})),
                ("/dynamic", json!({"+:(?=l)": {}})),
                ("/dynamic", json!([])),
                ("/quant_method", json!("aqlm")),
                ("/quant_method", json!("gptq_marlin")),
            ],
        ),
        ("gptq_v2", &[("/sym", json!(2)), ("/bits", json!(4))]),
        (
            "awq",
            &[
                ("/bits", json!(8)),
                ("/version", json!("marlin")),
                ("/version", json!("gemv")),
                ("/group_size", json!(48)),
                ("/zero_point", json!(false)),
                ("/modules_to_not_convert", json!(["l"])),
                ("/modules_to_not_convert", json!("l")),
            ],
        ),
        (
            "pack",
            &[
                ("/format", json!("marlin-24")),
                ("/format", json!(null)),
                ("/format", json!("int-quantized")),
                ("/ignore", json!(["l"])),
                ("/ignore", json!(["re:.*"])),
                ("/ignore", json!(["re:*"])),
                ("/config_groups", json!({})),
                ("/config_groups", json!(null)),
                ("/config_groups", json!({"g": []})),
                ("/config_groups/group_0/targets", json!(["re:other", "lm_head"])),
                ("/config_groups/group_0/weights", json!(null)),
                ("/config_groups/group_0/weights/num_bits", json!(9)),
                ("/config_groups/group_0/weights/num_bits", json!(8)),
                ("/config_groups/group_0/weights/strategy", json!("token")),
                ("/config_groups/group_0/weights/strategy", json!("tensor")),
                ("/config_groups/group_0/weights/group_size", json!(16)),
                ("/config_groups/group_0/weights/type", json!("float")),
            ],
        ),
        ("int", &[("/config_groups/group_0/weights/strategy", json!("block"))]),
        (
            "float",
            &[
                ("/config_groups/group_0/weights/strategy", json!("channel")),
                ("/config_groups/group_0/weights/strategy", json!("tensor_group")),
                ("/config_groups/group_0/weights/num_bits", json!(4)),
            ],
        ),
        (
            "mlx",
            &[
                ("/bits", json!(7)),
                ("/bits", json!(8)),
                ("/group_size", json!(64)),
                ("/mode", json!("mxfp4")),
                ("/mode", json!("other")),
                ("/l", json!(false)),
                ("/l", json!({"bits": 4})),
                ("/l", json!([])),
            ],
        ),
        ("bnb", &[("/llm_int8_skip_modules", json!(["l"])), ("/llm_int8_skip_modules", json!([1]))]),
        ("int8", &[("/llm_int8_skip_modules", json!(["l"]))]),
        ("hqq", &[("/skip_modules", json!(["l"]))]),
        ("nvfp4", &[("/format", json!("mxfp4-pack-quantized"))]),
        ("mxfp4", &[("/format", json!("nvfp4-pack-quantized"))]),
    ];
    let all = good();
    for (format, faults) in faults {
        let Good { settings, tensors } = &all.iter().find(|(name, _)| *name == format).unwrap().1;
        for (pointer, value) in faults {
            let mut changed = settings.clone();
            match changed.pointer_mut(pointer) {
                Some(place) => *place = value.clone(),
                None => {
                    changed.as_object_mut().unwrap().insert(pointer[1..].into(), value.clone());
                }
            }
            let error = match read(&changed, tensors) {
                Err(e) => e.to_string(),
                Ok(_) => panic!("{format}: {pointer} = {value} is accepted"),
            };
            let key = pointer.rsplit('/').next().unwrap();
            assert!(
                error.contains(key)
                    || error.contains("'l.")
                    || error.contains("'l'")
                    || error.contains("regular expression"),
                "{format}: {pointer} = {value}: {error}"
            );
        }
    }
}

/// Values within tensors of the right type and shape.
#[test]
fn values_are_checked() {
    let all = good();
    let change = |format: &str, name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let Good { settings, tensors } = &all.iter().find(|(f, _)| *f == format).unwrap().1;
        let mut tensors = tensors.clone();
        let place = tensors.iter_mut().find(|t| t.0 == name).unwrap_or_else(|| panic!("{format} {name}"));
        change(&mut place.3);
        if place.2.len() == 1 && place.1 == Dtype::U8 {
            place.2[0] = place.3.len();
        }
        match read(settings, &tensors) {
            Err(e) => e.to_string(),
            Ok(_) => panic!("{format}: {name} is accepted"),
        }
    };
    let first = |n: i32| move |bytes: &mut Vec<u8>| bytes[..4].copy_from_slice(&n.to_le_bytes());
    let state = "l.weight.quant_state.bitsandbytes__nf4";
    let set_state = |key: &'static str, value: Value| {
        move |bytes: &mut Vec<u8>| {
            let mut state: Value = serde_json::from_slice(bytes).unwrap();
            state[key] = value.clone();
            *bytes = state.to_string().into_bytes();
        }
    };
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let faults: [(&str, &str, Change, &str); 27] = [
        ("gptq", "l.g_idx", &first(2), "group 2 of column 0"),
        ("gptq", "l.g_idx", &first(-1), "group -1 of column 0"),
        ("pack", "l.weight_g_idx", &first(-1), "group -1 of column 0"),
        ("gptq_v2", "l.qzeros", &first(0), "zero-points 4"),
        ("pack", "l.weight_shape", &first(0), "two dimensions"),
        ("pack", "l.weight_shape", &first(-5), "l.weight_"),
        ("pack", "l.weight_shape", &first(i32::MAX), "l.weight_packed"),
        ("hqq", "l.axis", &first(0), "axis 0"),
        ("hqq", "l.axis", &first(2), "0 or 1"),
        ("hqq", "l.nbits", &first(0), "1 to 8"),
        ("hqq", "l.nbits", &first(8), "packing"),
        ("hqq", "l.group_size", &first(0), "divisor"),
        ("hqq", "l.group_size", &first(7), "divisor"),
        ("hqq", "l.group_size", &first(2), "l.W_q"),
        ("hqq", "l.shape", &first(0), "two dimensions"),
        ("hqq", "l.packing", &|b| b[0] = b'5', "packing"),
        ("nvfp4", "l.weight_scale", &|b| b[3] = 0xff, "NaN"),
        ("nvfp4", "l.weight_global_scale", &first(0), "above 0"),
        ("mxfp4", "l.weight_scale", &|b| b[3] = 0xff, "NaN"),
        ("bnb", state, &|b| b[0] = b'[', "not JSON"),
        ("bnb", state, &set_state("quant_type", json!("fp4")), "quant_type"),
        ("bnb", state, &set_state("blocksize", json!(0)), "blocksize"),
        ("bnb", state, &set_state("blocksize", json!(32)), "absmax"),
        ("bnb", state, &set_state("shape", json!([2, -128])), "shape"),
        ("bnb", state, &set_state("shape", json!([2, u64::MAX])), "shape"),
        ("bnb", state, &set_state("dtype", json!("int8")), "dtype"),
        ("bnb", state, &set_state("nested_offset", json!("x")), "nested_offset"),
    ];
    for (format, name, fault, message) in faults {
        let error = change(format, name, fault);
        assert!(error.contains(message), "{format}: {name}: {error}");
        assert!(error.contains("l."), "{format}: {name}: {error}");
    }
    // Codes and zero-points beyond their bits: bytes of int-quantized of 4 bits.
    let mut four = of_target("compressed-tensors-int", "int4-g32-asym");
    four.tensors.iter_mut().find(|t| t.0 == "l.weight").unwrap().3[7] = 8;
    let error = read(&four.settings, &four.tensors).err().unwrap().to_string();
    assert!(error.contains("l.weight") && error.contains("got 8"), "{error}");
    // Blocks without their size, and of a size that is no number.
    for structure in [Value::Null, json!([4]), json!(["4", 4]), json!([0, 4])] {
        let mut float = of_target("compressed-tensors-float", "e4m3-g32");
        let weights = float.settings.pointer_mut("/config_groups/group_0/weights").unwrap();
        (weights["strategy"], weights["block_structure"]) = (json!("block"), structure);
        let error = read(&float.settings, &float.tensors).err().unwrap().to_string();
        assert!(error.contains("block_structure"), "{error}");
    }
    // MLX: an exponent that is none.
    let tensors = [
        tensor("l.weight", Dtype::U32, &[1, 4], vec![0; 16]),
        tensor("l.scales", Dtype::U8, &[1, 1], vec![255]),
    ];
    let settings = json!({"group_size": 32, "bits": 4, "mode": "mxfp4"});
    assert!(read(&settings, &tensors).err().unwrap().to_string().contains("l.scales"));
    // Rows that bitsandbytes' blocks cut into pieces of 2.
    let odd = bnb_layer("nf4", 64, [2, 6], vec![0; 6], &f32s(&[1.0]), None);
    let error = read(&bnb_settings(), &odd).err().unwrap();
    assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains("l.weight"), "{error}");
    // A dense tensor of the name that the quantized one has.
    let Good { settings, mut tensors } = of_target("gptq", "int4-g32");
    tensors.push(tensor("l.weight", Dtype::F16, &[1], f16s(&[1.0])));
    assert!(read(&settings, &tensors).err().unwrap().to_string().contains("l.weight"));
}

/// Settings files that are none, with the path.
#[test]
fn settings_files_are_checked() {
    let parse = |name: &str, text: &str| Config::parse(&[(name.into(), text.as_bytes().to_vec())]);
    assert!(parse("config.json", "{}").unwrap().is_none());
    assert!(parse("config.json", r#"{"quantization_config": null}"#).unwrap().is_none());
    assert!(parse("other.json", "[").unwrap().is_none());
    for (name, text) in [
        ("config.json", ""),
        ("config.json", "[1]"),
        ("config.json", r#"{"quantization_config": 4}"#),
        ("quantize_config.json", "{\"bits\": "),
        ("quant_config.json", "3"),
    ] {
        let error = parse(name, text).err().unwrap();
        assert!(matches!(&error, Error::Format { path, .. } if path.ends_with(name)), "{text}: {error}");
    }
    // Nested too deep for a parser that recurses.
    let deep = format!("{{\"quantization_config\": {}", "[".repeat(100_000));
    assert!(parse("config.json", &deep).is_err());
    for settings in ["{}", r#"{"bits": 4}"#, r#"{"quant_method": 4}"#, r#"{"quant_method": "quip#"}"#] {
        let config = parse("config.json", &format!(r#"{{"quantization_config": {settings}}}"#));
        let model = Model::from_bytes("m", crate::build::file(&[])).unwrap();
        let error = Checkpoint::new(config.unwrap().unwrap(), model).err().unwrap().to_string();
        assert!(error.contains("quant_method") && error.contains("gptq, awq"), "{error}");
    }
}
