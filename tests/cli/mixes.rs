//! Mixes, scheme files and importance matrices through the command line.
//!
//! ```text
//! small models like Llama, in both vocabularies, made here -> lowbit quantize -> schemes tensor by tensor, metadata, blocks
//! ```
//!
//! Which layer gets what is worked out by hand in `scheme::mix`; here is that files come out like that.

use super::harness::*;
use crate::build::{self, Gguf};
use lowbit::file::{Content, Model, Value as Meta, ggml};
use lowbit::{Scheme, Tensor, cpu};
use serde_json::{Value, json};

fn run(folder: &Folder, line: &str) -> Ran {
    folder.run(&line.split_whitespace().collect::<Vec<_>>())
}

const LAYERS: usize = 8;

/// The weights of a layer: their names in GGUF and in HuggingFace, rows and K.
const WEIGHTS: [(&str, &str, usize, usize); 7] = [
    ("attn_q", "self_attn.q_proj", 8, 256),
    ("attn_k", "self_attn.k_proj", 4, 256),
    ("attn_v", "self_attn.v_proj", 4, 256),
    ("attn_output", "self_attn.o_proj", 4, 256),
    ("ffn_gate", "mlp.gate_proj", 4, 256),
    ("ffn_up", "mlp.up_proj", 4, 288),
    ("ffn_down", "mlp.down_proj", 4, 512),
];

/// Such a model: `ffn_up` has rows that blocks of 256 do not divide.
fn llama_gguf() -> Vec<u8> {
    let mut gguf = Gguf::new()
        .text("general.architecture", "llama")
        .u32("general.file_type", 1)
        .u32("llama.block_count", LAYERS as u32)
        .u32("llama.attention.head_count", 8)
        .u32("llama.attention.head_count_kv", 4)
        .tensor("token_embd.weight", &[256, 6], 1, &f16s(&numbers(6 * 256, 1)))
        .tensor("output.weight", &[256, 6], 1, &f16s(&numbers(6 * 256, 2)))
        .tensor("output_norm.weight", &[256], 0, &f32s(&numbers(256, 3)));
    for n in 0..LAYERS {
        for (i, (name, _, rows, k)) in WEIGHTS.iter().enumerate() {
            let data = f16s(&numbers(rows * k, (10 * n + i) as u32));
            gguf = gguf.tensor(&format!("blk.{n}.{name}.weight"), &[*k as u64, *rows as u64], 1, &data);
        }
        gguf = gguf.tensor(&format!("blk.{n}.ffn_norm.weight"), &[256], 0, &f32s(&numbers(256, 5)));
        gguf = gguf.tensor(&format!("blk.{n}.ffn_gate_inp.weight"), &[256, 2], 0, &f32s(&numbers(512, 6)));
    }
    gguf.bytes()
}

fn llama_hf() -> Vec<u8> {
    let mut names =
        vec![("lm_head.weight".to_string(), [6, 256]), ("model.embed_tokens.weight".into(), [6, 256])];
    for n in 0..LAYERS {
        names
            .extend(WEIGHTS.map(|(_, name, rows, k)| (format!("model.layers.{n}.{name}.weight"), [rows, k])));
        names.push((format!("model.layers.{n}.mlp.gate.weight"), [2, 256]));
    }
    let tensors: Vec<Raw> = names
        .iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            (name.as_str(), "F32", &shape[..], f32s(&numbers(shape[0] * shape[1], i as u32)))
        })
        .collect();
    file(&tensors, Value::Null)
}

fn models() -> Folder {
    let folder = Folder::new();
    folder.write("m.gguf", llama_gguf());
    folder.write("m.safetensors", llama_hf());
    folder
}

fn scheme(model: &Model, name: &str) -> String {
    model.entry(name).unwrap_or_else(|| panic!("no {name}")).scheme_name()
}

/// The schemes of a weight in all layers.
fn layers(model: &Model, weight: impl Fn(usize) -> String) -> String {
    (0..LAYERS).map(|n| scheme(model, &weight(n))).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_mix_chooses_by_name_in_both_vocabularies() {
    let folder = models();
    let more = "q6_k q4_k q4_k q6_k q4_k q4_k q6_k q6_k";
    for (input, output) in
        [("m.gguf", "q.gguf"), ("m.safetensors", "q.safetensors"), ("m.gguf", "p.safetensors")]
    {
        let line = format!("quantize {input} -o {output} --scheme Q4_K_M --device cpu --json");
        let ran = run(&folder, &line);
        let summary = ran.json();
        assert_eq!(summary["scheme"], "q4_k_m");
        let model = Model::open(folder.path(output)).unwrap();
        let hf = input == "m.safetensors";
        let of = |gguf: &str| {
            let theirs = WEIGHTS.iter().find(|w| w.0 == gguf).unwrap().1;
            layers(&model, |n| match hf {
                true => format!("model.layers.{n}.{theirs}.weight"),
                false => format!("blk.{n}.{gguf}.weight"),
            })
        };
        assert_eq!((of("attn_v"), of("ffn_down")), (more.to_string(), more.to_string()), "{output}");
        assert_eq!(of("attn_q"), ["q4_k"; LAYERS].join(" "));
        // 288 is no multiple of 256 and one of 32.
        assert_eq!(of("ffn_up"), ["q5_0"; LAYERS].join(" "));
        let (out, embd, router) = match hf {
            true => ("lm_head.weight", "model.embed_tokens.weight", "model.layers.3.mlp.gate.weight"),
            false => ("output.weight", "token_embd.weight", "blk.3.ffn_gate_inp.weight"),
        };
        assert_eq!((scheme(&model, out), scheme(&model, embd)), ("q6_k".into(), "q4_k".into()));
        assert_eq!(scheme(&model, router), "f32");
        assert!(entry(&summary["copied"], router)["reason"].as_str().unwrap().contains("router"));
        // What fell back is reported, tensor by tensor.
        let up = if hf { "model.layers.0.mlp.up_proj.weight" } else { "blk.0.ffn_up.weight" };
        let fell = entry(&summary["quantized"], up);
        assert_eq!((&fell["scheme"], &fell["instead_of"]), (&json!("q5_0"), &json!("q4_k")));
        assert!(entry(&summary["quantized"], out)["instead_of"].is_null());
        let told = format!("'{up}': q5_0 instead of q4_k, whose blocks do not divide K = 288");
        assert!(ran.stderr.contains(&told), "{}", ran.stderr);
        if output == "q.gguf" {
            assert_eq!(model.metadata().get("general.file_type"), Some(&Meta::U32(15)));
        }
    }
    let text = run(&folder, "quantize m.gguf -o t.gguf --scheme q4_k_m --device cpu");
    for row in [
        "quantized to q4_k, 4.500 bits",
        "quantized to q6_k, 6.562 bits",
        "quantized to q5_0, 5.500 bits",
        "q4_k_m, ",
    ] {
        assert!(text.stdout.contains(row), "'{row}' is missing in {}", text.stdout);
    }
    // The numbers are those of each scheme by itself.
    let (q, m) = (Model::open(folder.path("q.gguf")).unwrap(), Model::open(folder.path("m.gguf")).unwrap());
    for entry in q.entries() {
        if let Content::Packed { scheme, .. } = entry.content {
            let tensor = m.tensor(m.entry(&entry.name).unwrap()).unwrap();
            assert_eq!(
                q.packed(entry).unwrap(),
                cpu::quantize(&tensor, "", &scheme, None).unwrap(),
                "{}",
                entry.name
            );
        }
    }
}

#[test]
fn file_types_are_those_of_the_mixes() {
    let folder = models();
    for (mix, id) in [
        ("q2_k_mix", 10),
        ("q2_k_s", 21),
        ("q3_k_s", 11),
        ("q3_k_m", 12),
        ("q3_k_l", 13),
        ("q4_k_s", 14),
        ("q5_k_s", 16),
        ("q5_k_m", 17),
        ("q6_k_mix", 18),
        ("mxfp4_moe", 38),
    ] {
        let ran = run(&folder, &format!("quantize m.gguf -o q.gguf --force --scheme {mix} --device cpu"));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let model = Model::open(folder.path("q.gguf")).unwrap();
        assert_eq!(model.metadata().get("general.file_type"), Some(&Meta::U32(id)), "{mix}");
    }
    let list = run(&folder, "schemes --json").json();
    assert!(list.as_array().unwrap().iter().any(|s| s["mix"] == "q4_k_m" && s["file_type"] == 15));
    let listed = run(&folder, "schemes").stdout;
    assert!(["mxfp4_moe", "w8a8-static"].iter().all(|name| listed.contains(name)), "{listed}");
    run(&folder, "quantize m.gguf -o x.gguf --scheme q4_k_n --device cpu")
        .fails(2, &["did you mean 'q4_k_m'"]);
    run(&folder, "quantize m.gguf -o x.gguf --scheme q4_k_m --scheme-file x --device cpu");
    assert_eq!(run(&folder, "quantize m.gguf -o x.gguf").code, Some(2));
    // With a filter a mix still counts all layers.
    let line = "quantize m.gguf -o f.gguf --scheme q4_k_m --include blk.[67].attn_v --device cpu";
    assert_eq!(run(&folder, line).code, Some(0));
    let model = Model::open(folder.path("f.gguf")).unwrap();
    assert_eq!(layers(&model, |n| format!("blk.{n}.attn_v.weight")), "f16 f16 f16 f16 f16 f16 q6_k q6_k");
}

#[test]
fn a_scheme_file_maps_names_to_schemes() {
    let folder = models();
    folder.write(
        "mix.toml",
        "default = \"q4_k_m\"\n[tensors]\n'blk\\.0\\.' = \"copy\"\n'attn_[qk]' = \"q8_0\"\n'attn' = \"q5_k\"\n'ffn_up' = \"q5_k\"\n",
    );
    let ran = run(&folder, "quantize m.gguf -o q.gguf --scheme-file mix.toml --device cpu --json");
    let summary = ran.json();
    let model = Model::open(folder.path("q.gguf")).unwrap();
    for (name, expected) in [
        ("blk.0.attn_q.weight", "f16"),
        ("blk.1.attn_q.weight", "q8_0"),
        ("blk.1.attn_v.weight", "q5_k"),
        ("blk.6.ffn_down.weight", "q6_k"),
        ("blk.1.ffn_down.weight", "q4_k"),
        ("output.weight", "q6_k"),
        // Asked for by name, so that nothing else is taken where it does not fit.
        ("blk.1.ffn_up.weight", "f16"),
    ] {
        assert_eq!(scheme(&model, name), expected, "{name}");
    }
    assert_eq!(entry(&summary["copied"], "blk.0.attn_q.weight")["reason"], "to be copied, as --config says");
    assert!(ran.stderr.contains("left as it is: 'blk.1.ffn_up.weight'"), "{}", ran.stderr);
    assert_eq!(summary["scheme"], "mix.toml");
    let strict = "quantize m.gguf -o s.gguf --scheme-file mix.toml --strict --device cpu";
    run(&folder, strict).fails(1, &["'blk.1.ffn_up.weight'", "q5_k", "K = 288"]);
    folder.write("bad.toml", "default = \"q4_k\"\n[tensors]\n'(' = \"q4_k\"\n");
    run(&folder, "quantize m.gguf -o s.gguf --scheme-file bad.toml").fails(1, &["bad.toml: line 3: "]);
    run(&folder, "quantize m.gguf -o s.gguf --scheme-file none.toml")
        .fails(1, &["none.toml", "No such file"]);
    assert!(!folder.path("s.gguf").exists());
}

/// An importance matrix in the GGUF form: `entries` of name and sums, counted once.
fn imatrix(entries: &[(&str, &[f32], usize)]) -> Vec<u8> {
    let mut gguf = Gguf::new().text("general.type", "imatrix").u32("imatrix.chunk_count", 7);
    gguf = gguf.pair("imatrix.datasets", 9, build::array(8, 1, &build::string("wiki.txt")));
    for (name, sums, matrices) in entries {
        let k = (sums.len() / matrices) as u64;
        gguf = gguf.tensor(&format!("{name}.in_sum2"), &[k, *matrices as u64], 0, &f32s(sums)).tensor(
            &format!("{name}.counts"),
            &[1, *matrices as u64],
            0,
            &f32s(&vec![1.0; *matrices]),
        );
    }
    gguf.bytes()
}

fn positive(n: usize, seed: u32) -> Vec<f32> {
    numbers(n, seed).iter().map(|v| v.abs() + 0.01).collect()
}

#[test]
fn importance_weighs_the_tensors_it_names() {
    let folder = models();
    let (q, down) = (positive(256, 1), positive(512, 2));
    let entries = [
        ("blk.1.attn_q.weight", &q[..], 1),
        ("blk.0.ffn_down.weight", &down[..], 1),
        ("blk.5.attn_v.weight", &q[..], 1),
    ];
    folder.write("i.gguf", imatrix(&entries));
    folder.write("t.toml", "default = { weights = \"q8_0\", transform = \"hadamard\" }\n");
    run(&folder, "quantize m.gguf -o q.gguf --config t.toml --imatrix i.gguf --device cpu")
        .fails(2, &["--imatrix counts columns as they are"]);
    let summary = run(&folder, "quantize m.gguf -o q.gguf --scheme q4_k --imatrix i.gguf --include attn_q|ffn_down|attn_v --device cpu --json").json();
    assert_eq!((&summary["imatrix"]["entries"], &summary["imatrix"]["weighted"]), (&json!(3), &json!(3)));
    assert_eq!(summary["imatrix"]["missing"].as_array().unwrap().len(), 3 * LAYERS - 3);
    let (model, plain) =
        (Model::open(folder.path("q.gguf")).unwrap(), Model::open(folder.path("m.gguf")).unwrap());
    let q4_k: Scheme = "q4_k".parse().unwrap();
    let blocks = |model: &Model, name: &str| model.raw(model.entry(name).unwrap()).to_vec();
    let encoded = |tensor: &Tensor, importance: Option<&[f32]>| {
        let packed = match importance {
            Some(values) => cpu::quantize_weighted(tensor, "", &q4_k, values),
            None => cpu::quantize(tensor, "", &q4_k, None),
        };
        ggml::pack(&packed.unwrap()).unwrap()
    };
    for (name, importance) in [
        ("blk.1.attn_q.weight", Some(&q[..])),
        ("blk.0.ffn_down.weight", Some(&down)),
        ("blk.2.attn_q.weight", None),
    ] {
        let tensor = plain.tensor(plain.entry(name).unwrap()).unwrap();
        assert_eq!(blocks(&model, name), encoded(&tensor, importance), "{name}");
        assert!(importance.is_none() || blocks(&model, name) != encoded(&tensor, None), "{name}");
    }
    for (key, value) in [
        ("quantize.imatrix.file", Meta::String("i.gguf".into())),
        ("quantize.imatrix.dataset", Meta::String("wiki.txt".into())),
        ("quantize.imatrix.entries_count", Meta::U32(3)),
        ("quantize.imatrix.chunks_count", Meta::U32(7)),
    ] {
        assert_eq!(model.metadata().get(key), Some(&value), "{key}");
    }

    // The older form, and the names of HuggingFace.
    let older = |name: &str, values: &[f32]| {
        let head = [
            &1i32.to_le_bytes()[..],
            &(name.len() as i32).to_le_bytes(),
            name.as_bytes(),
            &1i32.to_le_bytes(),
        ]
        .concat();
        [head, (values.len() as i32).to_le_bytes().to_vec(), f32s(values)].concat()
    };
    folder.write("i.dat", older("blk.1.attn_q.weight", &q));
    let line =
        "quantize m.safetensors -o q.safetensors --scheme q4_k --imatrix i.dat --include q_proj --device cpu";
    let ran = run(&folder, line);
    assert!(
        ran.stdout.contains("importance of i.dat: 1 tensor weighted, 7 without an entry in it, 0 to schemes"),
        "{}{}",
        ran.stdout,
        ran.stderr
    );
    let (model, plain) = (
        Model::open(folder.path("q.safetensors")).unwrap(),
        Model::open(folder.path("m.safetensors")).unwrap(),
    );
    let name = "model.layers.1.self_attn.q_proj.weight";
    let tensor = plain.tensor(plain.entry(name).unwrap()).unwrap();
    let expected = cpu::quantize_weighted(&tensor, "", &q4_k, &q).unwrap();
    assert_eq!(model.packed(model.entry(name).unwrap()).unwrap(), expected);
    assert!(model.metadata().get("quantize.imatrix.file").is_none());

    // A wrong length, and schemes that do not weigh.
    folder.write("short.gguf", imatrix(&[("blk.1.attn_q.weight", &q[..255], 1)]));
    run(&folder, "quantize m.gguf -o x.gguf --scheme q4_k --imatrix short.gguf --device cpu")
        .fails(1, &["'blk.1.attn_q.weight'", "short.gguf", "256 values", "255"]);
    let ignored =
        run(&folder, "quantize m.gguf -o x.gguf --scheme q8_0 --imatrix i.gguf --device cpu --json").json();
    assert_eq!((&ignored["imatrix"]["weighted"], &ignored["imatrix"]["ignored"]), (&json!(0), &json!(3)));
    run(&folder, "quantize m.gguf -o y.gguf --scheme q8_0 --imatrix m.gguf --device cpu")
        .fails(1, &["m.gguf", "not an importance matrix"]);
}

#[test]
fn each_expert_has_its_importance() {
    let folder = Folder::new();
    let weights = numbers(2 * 4 * 256, 9);
    let experts = [&weights[..1024], &weights[1024..]].map(f32s);
    let names = [0, 1].map(|e| format!("model.layers.0.mlp.experts.{e}.down_proj.weight"));
    let shape = [4, 256];
    let tensors: Vec<Raw> =
        names.iter().zip(&experts).map(|(n, d)| (n.as_str(), "F32", &shape[..], d.clone())).collect();
    folder.write("m.safetensors", file(&tensors, Value::Null));
    folder.write(
        "m.gguf",
        Gguf::new().tensor("blk.0.ffn_down_exps.weight", &[256, 4, 2], 0, &f32s(&weights)).bytes(),
    );
    let values = positive(512, 4);
    folder.write("i.gguf", imatrix(&[("blk.0.ffn_down_exps.weight", &values, 2)]));
    for (input, output) in [("m.safetensors", "q.safetensors"), ("m.gguf", "q.gguf")] {
        let line = format!("quantize {input} -o {output} --scheme q4_k --imatrix i.gguf --device cpu");
        assert_eq!(run(&folder, &line).code, Some(0));
    }
    let (apart, one) =
        (Model::open(folder.path("q.safetensors")).unwrap(), Model::open(folder.path("q.gguf")).unwrap());
    let blocks: Vec<u8> = names
        .iter()
        .flat_map(|n| ggml::pack(&apart.packed(apart.entry(n).unwrap()).unwrap()).unwrap())
        .collect();
    assert_eq!(one.raw(&one.entries()[0]), blocks);
    // And it is not the importance of the first for all.
    let tensor = Tensor::from_f32([4, 256], weights[1024..].to_vec()).unwrap();
    let wrong = cpu::quantize_weighted(&tensor, "", &"q4_k".parse().unwrap(), &values[..256]).unwrap();
    assert_ne!(apart.packed(apart.entry(&names[1]).unwrap()).unwrap(), wrong);
}

/// Q4_0 and Q5_0 with importance: the first eighth of the layers' `ffn_down` has minima.
#[test]
fn the_first_layers_of_plain_types_are_guarded() {
    let folder = models();
    folder.write("i.gguf", imatrix(&[("blk.0.ffn_down.weight", &positive(512, 2), 1)]));
    for (scheme, first) in [("q4_0", "q4_1"), ("q5_0", "q5_1")] {
        let line = format!("quantize m.gguf -o q.gguf --force --scheme {scheme} --device cpu");
        let of = |model: &Model| layers(model, |n| format!("blk.{n}.ffn_down.weight"));
        assert_eq!(run(&folder, &line).code, Some(0));
        assert_eq!(of(&Model::open(folder.path("q.gguf")).unwrap()), [scheme; LAYERS].join(" "));
        let summary = run(&folder, &format!("{line} --imatrix i.gguf --json")).json();
        let mut expected = [scheme; LAYERS];
        expected[0] = first;
        assert_eq!(of(&Model::open(folder.path("q.gguf")).unwrap()), expected.join(" "));
        assert_eq!(entry(&summary["quantized"], "blk.0.ffn_down.weight")["instead_of"], scheme);
    }
}

#[test]
fn methods_find_other_scales_in_the_same_format() {
    let folder = models();
    let quantize = |args: &str| run(&folder, &format!("quantize m.gguf --force --device cpu {args}"));
    let noise = |name: &str| {
        let compared = run(&folder, &format!("compare m.gguf {name} --json")).json();
        compared["total"]["sqnr_db"].as_f64().unwrap()
    };
    for method in ["default", "mse"] {
        let line =
            format!("-o {method}.safetensors --scheme int3-g32 --include blk --method {method} --json");
        let summary = quantize(&line).json();
        let of = &entry(&summary["quantized"], "blk.1.attn_q.weight")["method"];
        assert_eq!(of.as_str(), Some(method).filter(|m| *m != "default"), "{summary}");
    }
    assert!(noise("mse.safetensors") > noise("default.safetensors") + 1.0);
    assert!(quantize("-o m.safetensors --scheme nf4-g64 --method mse").stdout.contains("to nf4-g64 by mse"));
    quantize("-o x.gguf --scheme q4_k --method mse")
        .fails(1, &["mse for q4_k", "two levels", "leave --method out"]);
    quantize("-o x.gguf --scheme q8_0 --method hqq").fails(1, &["hqq for q8_0", "-fzero or -asym"]);
    quantize("-o x.gguf --scheme q8_0 --method msee").fails(2, &["no method 'msee'", "percentile"]);
    assert_eq!(quantize("-o x.gguf --scheme q8_0 --method mse --imatrix y").code, Some(2));
    assert!(!folder.path("x.gguf").exists());
    folder.write("ways.toml", "[tensors]\n'attn_q' = \"int4-g32:mse\"\n'attn_k' = \"int4-g32\"\n");
    let summary = quantize("-o w.safetensors --scheme-file ways.toml --json").json();
    let of = |name: &str| entry(&summary["quantized"], name)["method"].as_str().map(String::from);
    assert_eq!((of("blk.1.attn_q.weight"), of("blk.1.attn_k.weight")), (Some("mse".into()), None));
    let list = run(&folder, "schemes --json").json();
    let int4 = list.as_array().unwrap().iter().find(|s| s["scheme"] == "int4-g32").unwrap();
    assert_eq!(int4["methods"].as_array().unwrap().len(), 4, "{int4}");
}
