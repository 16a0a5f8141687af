//! What is written is read again, bit for bit.

use crate::build::{f16s, file, random, reopen, tensor, tensors_of, written};
use lowbit::file::checkpoint::{self, Data, Item, Target};
use lowbit::file::{Content, Dtype};
use lowbit::{DType, Error, PackedTensor, reference};
use serde_json::{Map, Value, json};

/// Schemes that each target gives back as they are, in a shape that it holds.
fn held() -> Vec<(&'static str, Vec<String>)> {
    let mut gptq = Vec::new();
    for bits in [2, 3, 4, 8] {
        for zero in ["", "-asym"] {
            for group in ["g32", "g64", "g128", "row"] {
                let scale = if group == "row" { "-f16" } else { "" };
                for perm in ["", "-perm"] {
                    // A permutation within one group is none.
                    if group != "row" || perm.is_empty() {
                        gptq.push(format!("int{bits}-{group}{zero}{scale}{perm}"));
                    }
                }
            }
        }
    }
    let mut pack = Vec::new();
    let mut int = Vec::new();
    for bits in 2..=8 {
        for zero in ["", "-asym"] {
            for (group, scale) in
                [("g32", ""), ("g96", "-bf16"), ("row", ""), ("row", "-bf16"), ("g24", "-f32")]
            {
                pack.push(format!("int{bits}-{group}{zero}{scale}"));
                int.push(format!("int{bits}-{group}{zero}{scale}"));
            }
            pack.push(format!("int{bits}-g32{zero}-perm"));
        }
    }
    let mut mlx = Vec::new();
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in ["g32", "g64", "g96"].into_iter().filter(|g| *g != "g96") {
            mlx.extend([format!("int{bits}-{group}-bias"), format!("int{bits}-{group}-bias-bf16")]);
        }
    }
    pack.extend(["fp4-g32-e8m0", "nvfp4-global"].map(String::from));
    mlx.extend(["fp4-g32-e8m0", "nvfp4", "mxfp8"].map(String::from));
    let awq = ["int4-g32-asym", "int4-g96-asym", "int4-row-asym-f16"].map(String::from).to_vec();
    let float = ["e4m3-row", "e4m3-row-bf16", "e4m3-tensor", "e4m3-tensor-f16", "e4m3-g32", "e4m3-g96-f32"];
    vec![
        ("gptq", gptq.clone()),
        ("gptq_v2", gptq),
        ("awq", awq),
        ("compressed-tensors", pack),
        ("compressed-tensors-int", int),
        ("compressed-tensors-float", float.map(String::from).to_vec()),
        ("mlx", mlx),
    ]
}

#[test]
fn every_target_gives_back_what_it_holds() {
    let mut n = 0;
    for (target, schemes) in held() {
        for scheme in schemes {
            // GPTQ has a short last group, here of 64 in groups of 128.
            let k =
                if target == "mlx" || scheme.contains("g128") || scheme.contains("g64") { 192 } else { 96 };
            let w = random(&scheme, &[64, k], n);
            let (model, config) = written(target, &w);
            let checkpoint = reopen(model, config);
            assert_eq!(checkpoint.entries().len(), 1, "{target} {scheme}");
            let entry = &checkpoint.entries()[0];
            assert_eq!((entry.name.as_str(), &entry.shape[..]), ("l.weight", &[64, k][..]));
            let back = checkpoint.packed("l.weight").unwrap();
            assert!(matches!(entry.content, Content::Packed { scheme, .. } if scheme == *back.scheme()));
            assert!(back == w, "{target} {scheme} came back as {}", back.scheme());
            n += 1;
        }
    }
    println!("{n} tensors");
    assert_eq!(n, 304);
}

fn same_weights(a: &PackedTensor, b: &PackedTensor) {
    let (a, b) = (reference::dequantize(a), reference::dequantize(b));
    // A zero may change its sign where it is made by a sum instead of a product.
    assert!(a.iter().zip(&b).all(|(a, b)| a == b));
}

/// Schemes that come back as others with the same weights.
#[test]
fn other_schemes_of_the_same_weights() {
    for (target, scheme, back_as) in [
        ("awq", "int4-g32", "int4-g32-asym"),
        ("mlx", "int4-g32", "int4-g32-bias"),
        ("mlx", "q4_0", "int4-g32-bias"),
        ("mlx", "q8_0", "int8-g32-bias"),
        ("mlx", "q4_1", "int4-g32-bias"),
        ("mlx", "q5_0", "int5-g32-bias"),
        ("gptq", "q4_0", "int4-g32"),
        ("gptq", "q8_0", "int8-g32"),
        ("gptq_v2", "tq2_0", "int2-g256-asym"),
        ("compressed-tensors", "q5_0", "int5-g32"),
        ("compressed-tensors-int", "q8_0", "int8-g32"),
    ] {
        let w = random(scheme, &[32, 256], 5);
        let (model, config) = written(target, &w);
        let back = reopen(model, config).packed("l.weight").unwrap();
        assert_eq!(back.scheme().to_string(), back_as, "{target} {scheme}");
        same_weights(&w, &back);
    }
}

/// Experts of MLX keep their leading dimension.
#[test]
fn leading_dimensions() {
    let w = random("int3-g32-bias", &[3, 8, 64], 1);
    let (model, config) = written("mlx", &w);
    assert_eq!(reopen(model, config).packed("l.weight").unwrap(), w);
}

/// Layers of different settings in one checkpoint, dense tensors between them.
#[test]
fn settings_of_single_layers() {
    for (target, schemes) in [
        ("gptq", ["int4-g32", "int4-g32", "int8-g64-asym", "int4-g32-perm"]),
        ("gptq_v2", ["int4-g32-asym", "int2-g32", "int4-row-asym-f16", "int3-g64"]),
        ("awq", ["int4-g32-asym"; 4]),
        ("compressed-tensors", ["int4-g32", "int3-g64-asym", "int8-row-bf16", "int4-g32-perm"]),
        ("compressed-tensors-int", ["int8-row", "int8-row-asym", "int4-g32", "int8-row"]),
        ("compressed-tensors-float", ["e4m3-row", "e4m3-tensor", "e4m3-g32", "e4m3-row-bf16"]),
        ("mlx", ["int4-g64-bias", "int4-g64-bias", "int6-g32-bias-bf16", "int8-g128-bias"]),
        ("compressed-tensors", ["nvfp4-global", "int4-g32", "fp4-g32-e8m0", "int4-g32-perm"]),
        ("compressed-tensors", ["fp4-g32-e8m0"; 4]),
        ("mlx", ["fp4-g32-e8m0", "nvfp4", "int4-g64-bias", "mxfp8"]),
        ("mlx", ["nvfp4"; 4]),
    ] {
        let names = ["model.layers.0.q_proj", "model.layers.1.q_proj", "model.layers.10.q_proj", "lm(head)+"];
        let tensors: Vec<PackedTensor> =
            schemes.iter().enumerate().map(|(i, s)| random(s, &[32, 128], i as u64)).collect();
        let mut items: Vec<Item> = names
            .iter()
            .zip(&tensors)
            .map(|(name, w)| Item {
                name: format!("{name}.weight"),
                shape: w.shape().to_vec(),
                content: Content::Packed { scheme: *w.scheme(), source: DType::F16 },
            })
            .collect();
        let dense = |name: &str, dtype, shape: &[usize]| Item {
            name: name.into(),
            shape: shape.to_vec(),
            content: Content::Dense(dtype),
        };
        items.insert(1, dense("model.embed_tokens.weight", Dtype::BF16, &[4, 2]));
        items.push(dense("model.layers.0.q_proj.bias", Dtype::F16, &[8]));
        let old = json!({"model_type": "llama", "quantization_config": {"quant_method": "awq"}, "hidden_size": 128,
                         "quantization": {"bits": 3}, "compression_config": null});
        let fetch_bytes = [7u8; 16];
        let folder = tempfile::tempdir().unwrap();
        let target = Target::named(target).unwrap();
        let mut fetched = 0;
        let mut fetch = |item: &Item| {
            fetched += 1;
            let place = names.iter().position(|n| item.name == format!("{n}.weight"));
            Ok(match place {
                Some(i) => Data::Packed(tensors[i].clone()),
                None => Data::Dense(fetch_bytes.to_vec().into()),
            })
        };
        target.write_folder(folder.path(), old.as_object().unwrap(), &items, &mut fetch).unwrap();
        assert!(fetched <= 3 * items.len(), "{fetched}");

        assert!(checkpoint::detect(folder.path()).unwrap().is_some());
        let checkpoint = checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.config()["model_type"], "llama");
        assert_eq!(checkpoint.config()["hidden_size"], 128);
        assert!(!checkpoint.config().contains_key("compression_config"));
        assert_eq!(checkpoint.entries().len(), 6);
        for (name, w) in names.iter().zip(&tensors) {
            let back = checkpoint.packed(&format!("{name}.weight")).unwrap();
            assert!(back == *w, "{} {name}", target.name);
        }
        assert_eq!(checkpoint.raw("model.embed_tokens.weight").unwrap(), fetch_bytes);
        assert!(checkpoint.tensor("model.layers.0.q_proj.bias").is_ok());
        assert!(checkpoint.packed("model.embed_tokens.weight").is_err());
        assert!(checkpoint.raw("lm(head)+.weight").is_err());

        let again = target.write_folder(folder.path(), &Map::new(), &items, &mut |_| panic!("fetched"));
        assert!(matches!(again, Err(Error::Exists { .. })));
    }
}

/// Shards with an index; settings in a file of their own.
#[test]
fn shards_and_settings_files() {
    let w = random("int4-g32-asym", &[32, 64], 3);
    let (model, config) = written("gptq", &w);
    let folder = tempfile::tempdir().unwrap();
    let mut map = Map::new();
    for (i, entry) in model.entries().iter().enumerate() {
        let Content::Dense(dtype) = entry.content else { panic!("{entry:?}") };
        let name = format!("model-0000{}-of-00004.safetensors", i + 1);
        let shard = file(&[tensor(&entry.name, dtype, &entry.shape, model.raw(entry).to_vec())]);
        std::fs::write(folder.path().join(&name), shard).unwrap();
        map.insert(entry.name.clone(), name.into());
    }
    let put = |name: &str, json: Value| std::fs::write(folder.path().join(name), json.to_string()).unwrap();
    put("model.safetensors.index.json", json!({"weight_map": map}));
    assert!(checkpoint::open(folder.path()).is_err() && checkpoint::detect(folder.path()).unwrap().is_none());
    let mut settings = config["quantization_config"].clone();
    settings.as_object_mut().unwrap().shift_remove("quant_method");
    put("quantize_config.json", settings);
    let checkpoint = checkpoint::open(folder.path()).unwrap();
    assert_eq!((checkpoint.format(), checkpoint.paths().len()), ("gptq", 5));
    assert_eq!(checkpoint.packed("l.weight").unwrap(), w);

    // AutoAWQ's own names.
    let (model, _) = written("awq", &w);
    let folder = tempfile::tempdir().unwrap();
    let tensors = tensors_of(&model);
    std::fs::write(folder.path().join("model.safetensors"), file(&tensors)).unwrap();
    let settings = json!({"zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM"});
    std::fs::write(folder.path().join("quant_config.json"), settings.to_string()).unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert_eq!(checkpoint::open(folder.path()).unwrap().packed("l.weight").unwrap(), w);
}

/// Groups of other lengths than the settings say: shorter ones that repeat the scales.
#[test]
fn groups_of_uneven_lengths() {
    let w = random("int4-g32-asym", &[32, 64], 3);
    let (model, config) = written("gptq_v2", &w);
    let of: Vec<u32> = (0..64).map(|k| u32::from(k % 3 == 1 || k > 50)).collect();
    let n_second = of.iter().filter(|&&g| g == 1).count();
    let with = |g_idx: &[u32]| {
        let tensors: Vec<_> = model
            .entries()
            .iter()
            .map(|e| {
                let Content::Dense(dtype) = e.content else { panic!("{e:?}") };
                let bytes = match e.name.as_str() {
                    "l.g_idx" => g_idx.iter().flat_map(|g| g.to_le_bytes()).collect(),
                    _ => model.raw(e).to_vec(),
                };
                tensor(&e.name, dtype, &e.shape, bytes)
            })
            .collect();
        crate::build::open(&config["quantization_config"], &tensors)
    };
    assert_eq!(n_second % 4, 2, "a boundary that no group of lowbit has");
    let refused = with(&of).err().unwrap().to_string();
    assert!(refused.contains("l.g_idx"), "{refused}");
    // 20 and 44: groups of 20.
    let of: Vec<u32> = (0..64).map(|k| u32::from(k % 3 > 0 || k > 58)).collect();
    assert_eq!(of.iter().filter(|&&g| g == 0).count(), 20);
    let back = with(&of).unwrap().packed("l.weight").unwrap();
    assert_eq!(back.scheme().to_string(), "int4-g20-asym-perm");
    let whole = reference::dequantize(&w);
    let decoded = reference::dequantize(&back);
    let part = |plane, row: usize, group: usize, size: usize| {
        w.plane(plane)[(2 * row + group) * size..][..size].to_vec()
    };
    use lowbit::scheme::PlaneKind::{Scales, Zeros};
    for row in 0..32 {
        for k in 0..64 {
            let group = of[k] as usize;
            let scale = part(Scales, row, group, 2);
            let scale = half::f16::from_le_bytes([scale[0], scale[1]]).to_f32();
            let want = scale * (w.code(row, k) as f32 - f32::from(part(Zeros, row, group, 1)[0]));
            assert_eq!(decoded[row * 64 + k], want);
        }
    }
    assert_ne!(whole, decoded);
    // One group that has all columns, the second of two.
    let back = with(&[1; 64]).unwrap().packed("l.weight").unwrap();
    assert_eq!(back.scheme().to_string(), "int4-row-asym-f16");
}

/// What a format does not hold, by name; and a zero that is too large for its bits.
#[test]
fn what_is_not_held_is_refused() {
    for (target, scheme, shape, reason) in [
        ("gptq", "int5-g32", vec![32, 64], "2, 3, 4 or 8 bits"),
        ("gptq", "int4-g32-bf16", vec![32, 64], "f16 scales"),
        ("gptq", "int4-g32", vec![30, 64], "multiples of 32"),
        ("gptq", "int4-g32", vec![2, 32, 64], "matrices"),
        ("gptq_v2", "nf4-g64", vec![32, 64], "integers"),
        ("gptq", "q4_k", vec![32, 256], "integers"),
        ("gptq", "int4-g32-bias", vec![32, 64], "integers"),
        ("gptq", "int4-tensor", vec![32, 64], "integers"),
        ("awq", "int8-g32", vec![32, 64], "4 bits"),
        ("awq", "int4-g32-perm", vec![32, 64], "columns where they are"),
        ("awq", "int4-g48", vec![32, 64], "no short last group"),
        ("compressed-tensors", "int1-g32", vec![32, 64], "2 to 8 bits"),
        ("compressed-tensors", "int4-g48", vec![32, 64], "no short last group"),
        ("compressed-tensors-int", "int4-g32-perm", vec![32, 64], "columns where they are"),
        ("compressed-tensors-float", "e5m2-row", vec![32, 64], "E4M3"),
        ("compressed-tensors-float", "mxfp8", vec![32, 64], "f32, f16 or bf16 scales"),
        ("mlx", "int4-g16-bias", vec![32, 64], "groups of 32, 64 or 128"),
        ("mlx", "int7-g32-bias", vec![32, 64], "8 bits"),
        ("mlx", "int4-g32-fzero", vec![32, 64], "integers"),
        ("mlx", "int4-g32-f32", vec![32, 64], "f16 or bf16"),
        ("mlx", "nvfp4-global", vec![32, 64], "mxfp4, nvfp4 and mxfp8"),
        ("mlx", "nvfp4", vec![64], "matrices"),
        ("compressed-tensors", "nvfp4-global", vec![32, 72], "no short last group"),
        ("compressed-tensors", "fp4-g32-e8m0", vec![2, 32, 64], "matrices"),
        ("compressed-tensors-int", "fp4-g32-e8m0", vec![32, 64], "integers"),
    ] {
        let content = Content::Packed { scheme: scheme.parse().unwrap(), source: DType::F32 };
        let items = [Item { name: "l.weight".into(), shape: shape.clone(), content }];
        let target = Target::named(target).unwrap();
        let mut fetch = |_: &Item| -> lowbit::Result<Data> { panic!("refused too late") };
        let error = target
            .write(Vec::new(), "out".as_ref(), &Map::new(), &items, &mut fetch)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("l.weight") && error.contains(reason), "{scheme}: {error}");
    }
    let refuse = |target: &str, w: &PackedTensor| {
        let content = Content::Packed { scheme: *w.scheme(), source: DType::F32 };
        let items = [Item { name: "l.weight".into(), shape: w.shape().to_vec(), content }];
        let mut fetch = |_: &Item| Ok(Data::Packed(w.clone()));
        let target = Target::named(target).unwrap();
        target.write(Vec::new(), "out".as_ref(), &Map::new(), &items, &mut fetch).err().unwrap().to_string()
    };
    let mut w = random("int4-g32-asym", &[32, 64], 1);
    w.plane_mut(lowbit::scheme::PlaneKind::Zeros)[5] = 16;
    for target in ["gptq", "gptq_v2", "awq", "compressed-tensors", "compressed-tensors-int"] {
        let error = refuse(target, &w);
        assert!(error.contains("l.weight") && error.contains("zero-point 16 of group 5"), "{error}");
    }
    // Products instead of quotients, and two factors.
    let mut w = random("nvfp4-global", &[32, 64], 1);
    w.plane_mut(lowbit::scheme::PlaneKind::ScaleTable)[4 * 0x39] ^= 1;
    let error = refuse("compressed-tensors", &w);
    assert!(error.contains("l.weight") && error.contains("one global scale"), "{error}");
    // Bytes that are scales here and NaN there.
    for (scheme, byte) in [("nvfp4", 0x7f), ("fp4-g32-e8m0", 0xff)] {
        let mut w = random(scheme, &[32, 64], 1);
        w.plane_mut(lowbit::scheme::PlaneKind::Scales)[5] = byte;
        let error = refuse("mlx", &w);
        assert!(error.contains("l.scales") && error.contains(&format!("got {byte}")), "{error}");
    }
    // 0.1 in f16 times 7 is no f16.
    let mut w = PackedTensor::zeroed("int4-g32-asym".parse().unwrap(), [1, 32]).unwrap();
    w.plane_mut(lowbit::scheme::PlaneKind::Scales).copy_from_slice(&f16s(&[0.1]));
    w.plane_mut(lowbit::scheme::PlaneKind::Zeros)[0] = 7;
    let error = refuse("mlx", &w);
    assert!(error.contains("l.weight") && error.contains("rounded"), "{error}");
    w.plane_mut(lowbit::scheme::PlaneKind::Zeros)[0] = 4;
    let (model, config) = written("mlx", &w);
    same_weights(&reopen(model, config).packed("l.weight").unwrap(), &w);

    let item =
        |name: &str| Item { name: name.into(), shape: vec![32, 64], content: Content::Dense(Dtype::F16) };
    let content = Content::Packed { scheme: "int4-g32".parse().unwrap(), source: DType::F32 };
    let no_weight = Item { content, ..item("l.kernel") };
    let gptq = Target::named("gptq").unwrap();
    let mut fetch = |_: &Item| Ok(Data::Dense(vec![0; 4096].into()));
    let error = gptq.write(Vec::new(), "out".as_ref(), &Map::new(), &[no_weight], &mut fetch).err().unwrap();
    assert!(error.to_string().contains("l.kernel"), "{error}");
    assert!(Target::named("gguf").is_err());
}
