//! What a mapped model is, as stated here: names, shapes, types, the order of rows, metadata, tokens.

use crate::binary::Folder;
use crate::fixture::{self, Fixture, MERGES, PIECES, byte_character};
use lowbit::file::hf::{self, Weights};
use lowbit::file::{Content, Dtype, Entry, Model};
use serde_json::{Value as Json, json};

/// The GGUF file that the binary makes of a folder.
fn converted(fixture: &Fixture, args: &[&str]) -> (Folder, Model) {
    let folder = Folder::new();
    fixture.write(&folder.path("tiny"));
    let args = [&["convert", "tiny", "-o", "out.gguf", "--json"], args].concat();
    let summary = folder.run(&args).json();
    assert_eq!((&summary["from"], &summary["to"]), (&json!("huggingface"), &json!("gguf")));
    let model = Model::open(folder.path("out.gguf")).unwrap();
    (folder, model)
}

fn values(model: &Model, entry: &Entry) -> Vec<f32> {
    model.tensor(entry).unwrap().to_f32().into_owned()
}

/// The rows of each head as GGUF's llama has them: 0, h, 1, h + 1, ... for heads of 2h rows.
fn interleaved(values: &[f32], shape: &[usize], heads: usize) -> Vec<f32> {
    let (rows, k) = (shape[0], shape.iter().skip(1).product::<usize>());
    let width = rows / heads;
    let from = |row: usize| {
        let (head, i) = (row / width, row % width);
        head * width + i / 2 + (i % 2) * (width / 2)
    };
    (0..rows).flat_map(|row| values[from(row) * k..][..k].to_vec()).collect()
}

/// Tensors of a layer: name there, name here, shape, heads that are interleaved.
type Rows<'a> = &'a [(&'a str, &'a str, &'a [usize], Option<usize>)];

const LLAMA: Rows = &[
    ("input_layernorm.weight", "attn_norm.weight", &[256], None),
    ("self_attn.q_proj.weight", "attn_q.weight", &[256, 256], Some(4)),
    ("self_attn.k_proj.weight", "attn_k.weight", &[128, 256], Some(2)),
    ("self_attn.v_proj.weight", "attn_v.weight", &[128, 256], None),
    ("self_attn.o_proj.weight", "attn_output.weight", &[256, 256], None),
    ("post_attention_layernorm.weight", "ffn_norm.weight", &[256], None),
    ("mlp.gate_proj.weight", "ffn_gate.weight", &[512, 256], None),
    ("mlp.up_proj.weight", "ffn_up.weight", &[512, 256], None),
    ("mlp.down_proj.weight", "ffn_down.weight", &[256, 512], None),
];
const QWEN3: Rows = &[
    ("input_layernorm.weight", "attn_norm.weight", &[256], None),
    ("self_attn.q_proj.weight", "attn_q.weight", &[512, 256], None),
    ("self_attn.q_norm.weight", "attn_q_norm.weight", &[128], None),
    ("self_attn.k_proj.weight", "attn_k.weight", &[256, 256], None),
    ("self_attn.k_norm.weight", "attn_k_norm.weight", &[128], None),
    ("self_attn.v_proj.weight", "attn_v.weight", &[256, 256], None),
    ("self_attn.o_proj.weight", "attn_output.weight", &[256, 512], None),
    ("post_attention_layernorm.weight", "ffn_norm.weight", &[256], None),
    ("mlp.gate_proj.weight", "ffn_gate.weight", &[512, 256], None),
    ("mlp.up_proj.weight", "ffn_up.weight", &[512, 256], None),
    ("mlp.down_proj.weight", "ffn_down.weight", &[256, 512], None),
];
const BERT: Rows = &[
    ("attention.self.query.weight", "attn_q.weight", &[64, 64], None),
    ("attention.self.query.bias", "attn_q.bias", &[64], None),
    ("attention.self.key.weight", "attn_k.weight", &[64, 64], None),
    ("attention.self.key.bias", "attn_k.bias", &[64], None),
    ("attention.self.value.weight", "attn_v.weight", &[64, 64], None),
    ("attention.self.value.bias", "attn_v.bias", &[64], None),
    ("attention.output.dense.weight", "attn_output.weight", &[64, 64], None),
    ("attention.output.dense.bias", "attn_output.bias", &[64], None),
    ("attention.output.LayerNorm.weight", "attn_output_norm.weight", &[64], None),
    ("attention.output.LayerNorm.bias", "attn_output_norm.bias", &[64], None),
    ("intermediate.dense.weight", "ffn_up.weight", &[128, 64], None),
    ("intermediate.dense.bias", "ffn_up.bias", &[128], None),
    ("output.dense.weight", "ffn_down.weight", &[64, 128], None),
    ("output.dense.bias", "ffn_down.bias", &[64], None),
    ("output.LayerNorm.weight", "layer_output_norm.weight", &[64], None),
    ("output.LayerNorm.bias", "layer_output_norm.bias", &[64], None),
];

/// All tensors of a model of two layers, in order.
fn all(first: Rows, layer: &str, rows: Rows, last: Rows) -> Vec<(String, String, Vec<usize>, Option<usize>)> {
    let row = |there: &str, here: &str, r: &(&str, &str, &[usize], Option<usize>)| {
        (format!("{there}{}", r.0), format!("{here}{}", r.1), r.2.to_vec(), r.3)
    };
    let mut all: Vec<_> = first.iter().map(|r| row("", "", r)).collect();
    for n in 0..2 {
        all.extend(rows.iter().map(|r| row(&format!("{layer}.{n}."), &format!("blk.{n}."), r)));
    }
    all.extend(last.iter().map(|r| row("", "", r)));
    all
}

#[test]
fn tensors_have_the_names_shapes_and_rows_that_llama_cpp_expects() {
    let embedding: Rows = &[("model.embed_tokens.weight", "token_embd.weight", &[320, 256], None)];
    let norm = ("model.norm.weight", "output_norm.weight", &[256][..], None);
    let head = ("lm_head.weight", "output.weight", &[320, 256][..], None);
    let tables: Rows = &[
        ("embeddings.word_embeddings.weight", "token_embd.weight", &[16, 64], None),
        ("embeddings.position_embeddings.weight", "position_embd.weight", &[32, 64], None),
        ("embeddings.token_type_embeddings.weight", "token_types.weight", &[2, 64], None),
        ("embeddings.LayerNorm.weight", "token_embd_norm.weight", &[64], None),
        ("embeddings.LayerNorm.bias", "token_embd_norm.bias", &[64], None),
    ];
    for (fixture, expected, kept) in [
        (fixture::llama(), all(embedding, "model.layers", LLAMA, &[norm, head]), [""; 2]),
        (fixture::qwen3(), all(embedding, "model.layers", QWEN3, &[norm]), [""; 2]),
        (
            fixture::bert(),
            all(tables, "encoder.layer", BERT, &[]),
            ["position_embd.weight", "token_types.weight"],
        ),
    ] {
        // In f32 everything is as it was.
        let (_folder, model) = converted(&fixture, &["--dtype", "f32"]);
        let names: Vec<&str> = model.entries().iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, expected.iter().map(|e| e.1.as_str()).collect::<Vec<_>>());
        let mut moved = 0;
        for (entry, (from, _, shape, heads)) in model.entries().iter().zip(&expected) {
            assert_eq!((&entry.shape, &entry.content), (shape, &Content::Dense(Dtype::F32)), "{from}");
            let there = &fixture.tensors[from].1;
            let here = heads.map_or(there.clone(), |heads| interleaved(there, shape, heads));
            moved += usize::from(here != *there);
            assert_eq!(values(&model, entry), here, "{from}");
        }
        assert_eq!(moved, expected.iter().filter(|e| e.3.is_some()).count());
        // By default matrices are f16, except those that are always f32.
        let (_folder, model) = converted(&fixture, &[]);
        for (entry, (from, to, shape, heads)) in model.entries().iter().zip(&expected) {
            let plain = shape.len() < 2 || kept.contains(&to.as_str());
            let dtype = if plain { Dtype::F32 } else { Dtype::F16 };
            assert_eq!(entry.content, Content::Dense(dtype), "{to}");
            let there = &fixture.tensors[from].1;
            let here = heads.map_or(there.clone(), |heads| interleaved(there, shape, heads));
            let rounded = |v: f32| if plain { v } else { half::f16::from_f32(v).to_f32() };
            assert_eq!(values(&model, entry), here.into_iter().map(rounded).collect::<Vec<_>>(), "{to}");
        }
    }
}

#[test]
fn bf16_stays_bf16_unless_another_type_is_asked_for() {
    let mut fixture = fixture::qwen3();
    fixture.bf16 = true;
    for (args, dtype) in [
        (&[][..], Dtype::BF16),
        (&["--dtype", "bf16"], Dtype::BF16),
        (&["--dtype", "f16"], Dtype::F16),
        (&["--dtype", "f32"], Dtype::F32),
    ] {
        let (_folder, model) = converted(&fixture, args);
        for entry in model.entries() {
            let expected = if entry.shape.len() > 1 { dtype } else { Dtype::F32 };
            assert_eq!(entry.content, Content::Dense(expected), "{args:?} {}", entry.name);
        }
        let norm = &fixture.tensors["model.norm.weight"].1;
        let cut: Vec<f32> = norm.iter().map(|v| f32::from_bits(v.to_bits() & 0xffff_0000)).collect();
        assert_eq!(values(&model, model.entry("output_norm.weight").unwrap()), cut);
    }
}

/// Key, kind and value of everything but the arrays of tokens.
fn scalars(model: &Model) -> Vec<(String, String, Json)> {
    let all = model.metadata().iter();
    let plain = all.filter(|(_, value)| !value.kind_name().starts_with('['));
    plain.map(|(key, value)| (key.into(), value.kind_name(), value.to_json())).collect()
}

fn strings(model: &Model, key: &str) -> Vec<String> {
    let json = model.metadata().get(key).unwrap_or_else(|| panic!("no {key}")).to_json();
    json.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_string()).collect()
}

fn numbers(model: &Model, key: &str, kind: &str) -> Vec<f64> {
    let value = model.metadata().get(key).unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(value.kind_name(), kind);
    value.to_json().as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn assert_scalars(model: &Model, expected: Json) {
    let found = scalars(model);
    let expected = expected.as_array().unwrap();
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(&json!([found.0, found.1, found.2]), expected);
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn metadata_of_llama() {
    let (_folder, model) = converted(&fixture::llama(), &[]);
    assert_scalars(
        &model,
        json!([
            ["general.architecture", "string", "llama"],
            ["general.type", "string", "model"],
            ["general.name", "string", "tiny"],
            ["general.size_label", "string", "1.3M"],
            ["llama.vocab_size", "u32", 320],
            ["llama.context_length", "u32", 512],
            ["llama.embedding_length", "u32", 256],
            ["llama.block_count", "u32", 2],
            ["llama.feed_forward_length", "u32", 512],
            ["llama.attention.head_count", "u32", 4],
            ["llama.attention.head_count_kv", "u32", 2],
            ["llama.attention.key_length", "u32", 64],
            ["llama.attention.value_length", "u32", 64],
            ["llama.attention.layer_norm_rms_epsilon", "f32", 1e-5f32],
            ["llama.rope.dimension_count", "u32", 64],
            ["llama.rope.freq_base", "f32", 500000.0],
            ["general.file_type", "u32", 1],
            ["general.quantization_version", "u32", 2],
            ["tokenizer.ggml.model", "string", "gpt2"],
            ["tokenizer.ggml.pre", "string", "llama-bpe"],
            ["tokenizer.ggml.bos_token_id", "u32", 264],
            ["tokenizer.ggml.eos_token_id", "u32", 266],
            ["tokenizer.ggml.add_bos_token", "bool", true],
            ["tokenizer.ggml.add_sep_token", "bool", false],
            [
                "tokenizer.chat_template",
                "string",
                "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
            ],
        ]),
    );
    let tokens = strings(&model, "tokenizer.ggml.tokens");
    let types = numbers(&model, "tokenizer.ggml.token_type", "[i32]");
    assert_eq!((tokens.len(), types.len()), (320, 320));
    let bytes: Vec<String> = (0..=255).map(|b| byte_character(b).to_string()).collect();
    assert_eq!(tokens[..256], bytes);
    assert_eq!((tokens[32].as_str(), tokens[10].as_str(), tokens[65].as_str()), ("\u{120}", "\u{10a}", "A"));
    assert_eq!(tokens[256..264], MERGES.map(|(a, b)| format!("{a}{b}")));
    // Plain, special, for the user's own text (with spaces), and rows that no token has.
    assert_eq!(tokens[264..269], ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", " tool", "[PAD268]"]);
    assert!(types[..264].iter().all(|t| *t == 1.0) && types[268..].iter().all(|t| *t == 5.0));
    assert_eq!(types[264..268], [3.0, 3.0, 3.0, 4.0]);
    assert_eq!(strings(&model, "tokenizer.ggml.merges"), MERGES.map(|(a, b)| format!("{a} {b}")));
}

#[test]
fn metadata_of_qwen3() {
    let (_folder, model) = converted(&fixture::qwen3(), &["--dtype", "f32"]);
    assert_scalars(
        &model,
        json!([
            ["general.architecture", "string", "qwen3"],
            ["general.type", "string", "model"],
            ["general.name", "string", "tiny"],
            ["general.size_label", "string", "1.7M"],
            ["qwen3.context_length", "u32", 512],
            ["qwen3.embedding_length", "u32", 256],
            ["qwen3.block_count", "u32", 2],
            ["qwen3.feed_forward_length", "u32", 512],
            ["qwen3.attention.head_count", "u32", 4],
            ["qwen3.attention.head_count_kv", "u32", 2],
            ["qwen3.attention.key_length", "u32", 128],
            ["qwen3.attention.value_length", "u32", 128],
            ["qwen3.attention.layer_norm_rms_epsilon", "f32", 1e-6f32],
            ["qwen3.rope.freq_base", "f32", 1000000.0],
            ["general.file_type", "u32", 0],
            ["general.quantization_version", "u32", 2],
            ["tokenizer.ggml.model", "string", "gpt2"],
            ["tokenizer.ggml.pre", "string", "qwen2"],
            ["tokenizer.ggml.bos_token_id", "u32", 264],
            ["tokenizer.ggml.eos_token_id", "u32", 265],
            ["tokenizer.ggml.padding_token_id", "u32", 264],
            ["tokenizer.ggml.add_bos_token", "bool", false],
        ]),
    );
    let types = numbers(&model, "tokenizer.ggml.token_type", "[i32]");
    assert_eq!(types[263..268], [1.0, 3.0, 3.0, 4.0, 5.0]);
}

#[test]
fn metadata_of_bert() {
    let (_folder, model) = converted(&fixture::bert(), &[]);
    assert_scalars(
        &model,
        json!([
            ["general.architecture", "string", "bert"],
            ["general.type", "string", "model"],
            ["general.name", "string", "tiny"],
            ["general.size_label", "string", "70K"],
            ["bert.context_length", "u32", 32],
            ["bert.embedding_length", "u32", 64],
            ["bert.block_count", "u32", 2],
            ["bert.feed_forward_length", "u32", 128],
            ["bert.attention.head_count", "u32", 4],
            ["bert.attention.layer_norm_epsilon", "f32", 1e-12f32],
            ["bert.attention.causal", "bool", false],
            ["general.file_type", "u32", 1],
            ["general.quantization_version", "u32", 2],
            ["tokenizer.ggml.model", "string", "bert"],
            ["tokenizer.ggml.pre", "string", "default"],
            ["tokenizer.ggml.token_type_count", "u32", 2],
            ["tokenizer.ggml.bos_token_id", "u32", 2],
            ["tokenizer.ggml.eos_token_id", "u32", 3],
            ["tokenizer.ggml.unknown_token_id", "u32", 1],
            ["tokenizer.ggml.seperator_token_id", "u32", 3],
            ["tokenizer.ggml.padding_token_id", "u32", 0],
            ["tokenizer.ggml.mask_token_id", "u32", 4],
            ["tokenizer.ggml.add_bos_token", "bool", true],
            ["tokenizer.ggml.add_eos_token", "bool", true],
            ["tokenizer.ggml.add_sep_token", "bool", false],
        ]),
    );
    // A word that starts one is marked, one that goes on is not.
    let tokens = strings(&model, "tokenizer.ggml.tokens");
    let pads: Vec<String> = (10..16).map(|i| format!("\u{2581}[PAD{i}]")).collect();
    assert_eq!(tokens[..5], ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]);
    assert_eq!(tokens[5..10], ["\u{2581}[unused0]", "\u{2581}the", "s", "\u{2581}low", "bit"]);
    assert_eq!(tokens[10..], pads);
    let types = numbers(&model, "tokenizer.ggml.token_type", "[i32]");
    assert_eq!(types[..10], [3.0, 3.0, 3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    assert!(types[10..].iter().all(|t| *t == 5.0));
}

#[test]
fn older_names_and_the_head_of_training() {
    let mut fixture = fixture::bert();
    fixture.config["architectures"] = json!(["BertForMaskedLM"]);
    fixture.tensors = fixture
        .tensors
        .into_iter()
        .map(|(name, tensor)| {
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
            (format!("bert.{}", name.replace("LayerNorm.bias", "LayerNorm.beta")), tensor)
        })
        .collect();
    fixture.matrix("cls.predictions.decoder.weight", &[16, 64]);
    fixture.matrix("bert.embeddings.position_ids", &[1, 32]);
    let (_folder, old) = converted(&fixture, &[]);
    let (_folder, new) = converted(&fixture::bert(), &[]);
    assert_eq!(old.entries().len(), new.entries().len());
    for (a, b) in old.entries().iter().zip(new.entries()) {
        assert_eq!((&a.name, old.raw(a)), (&b.name, new.raw(b)));
    }
}

#[test]
fn how_embeddings_are_pooled() {
    for (config, expected) in [
        (json!({"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}), Some(1)),
        (json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}), Some(2)),
        (json!({"pooling_mode": "lasttoken"}), Some(3)),
        (json!({"pooling_mode_max_tokens": true}), None),
    ] {
        let folder = Folder::new();
        fixture::bert().write(&folder.path("tiny"));
        let modules = json!([{"type": "sentence_transformers.models.Transformer", "path": ""},
                             {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]);
        folder.write("tiny/modules.json", modules.to_string());
        std::fs::create_dir(folder.path("tiny/1_Pooling")).unwrap();
        folder.write("tiny/1_Pooling/config.json", config.to_string());
        match (hf::open(&folder.path("tiny"), Weights::Auto), expected) {
            (Ok(model), Some(id)) => {
                let value = model.metadata().get("bert.pooling_type").unwrap();
                assert_eq!((value.as_u64(), value.kind_name().as_str()), (Some(id), "u32"));
            }
            (Err(e), None) => assert!(e.to_string().contains("pooling_mode"), "{e}"),
            (result, _) => panic!("{config}: {:?}", result.map(|m| m.metadata().clone())),
        }
    }
}

#[test]
fn a_tokenizer_with_bytes_to_fall_back_on() {
    let mut fixture = fixture::llama();
    fixture::with_byte_fallback(&mut fixture);
    let (_folder, model) = converted(&fixture, &[]);
    let text = |key: &str| model.metadata().get(key).unwrap().to_json();
    assert_eq!(text("tokenizer.ggml.model"), "llama");
    assert_eq!(text("tokenizer.ggml.pre"), "default");
    assert_eq!(text("tokenizer.ggml.bos_token_id"), 1);
    assert_eq!(text("tokenizer.ggml.eos_token_id"), 2);
    assert_eq!(text("tokenizer.ggml.unknown_token_id"), 0);
    assert_eq!(text("tokenizer.ggml.add_bos_token"), true);
    assert_eq!(text("tokenizer.ggml.add_eos_token"), false);
    let tokens = strings(&model, "tokenizer.ggml.tokens");
    assert_eq!(tokens[..4], ["<unk>", "<s>", "</s>", "<0x00>"]);
    assert_eq!(tokens[259..267], PIECES);
    let types = numbers(&model, "tokenizer.ggml.token_type", "[i32]");
    assert_eq!(types[..4], [2.0, 3.0, 3.0, 6.0]);
    assert!(types[3..259].iter().all(|t| *t == 6.0) && types[259..267].iter().all(|t| *t == 1.0));
    // The merge that makes a piece ranks it; what none makes comes after the four.
    let scores = numbers(&model, "tokenizer.ggml.scores", "[f32]");
    assert!(scores[..259].iter().all(|s| *s == 0.0) && scores[267..].iter().all(|s| *s == -1000.0));
    assert_eq!(scores[259..267], [-4.0, -4.0, -4.0, -4.0, 0.0, -1.0, -2.0, -3.0]);
    assert!(model.metadata().get("tokenizer.ggml.merges").is_none());
}

#[test]
fn stretched_positions() {
    let stretched = |scaling: Json| {
        let mut fixture = fixture::llama();
        fixture.config["rope_scaling"] = scaling;
        converted(&fixture, &[]).1
    };
    let value =
        |model: &Model, key: &str| model.metadata().get(&format!("llama.rope.{key}")).unwrap().to_json();
    let linear = stretched(json!({"type": "linear", "factor": 4.0}));
    assert_eq!(value(&linear, "scaling.type"), "linear");
    assert_eq!(value(&linear, "scaling.factor"), 4.0);
    let yarn = stretched(json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256,
                                "beta_fast": 32.0}));
    assert_eq!(value(&yarn, "scaling.type"), "yarn");
    assert_eq!(value(&yarn, "scaling.original_context_length"), 256);
    assert_eq!(value(&yarn, "scaling.yarn_beta_fast"), 32.0);
    // Llama 3.1: short waves stay, long ones are stretched by the factor, in between it is on a line of frequencies.
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192});
    let model = stretched(scaling.clone());
    assert_eq!(model.entries()[0].name, "rope_freqs.weight");
    assert_eq!(model.entries()[0].shape, [32]);
    let factors = values(&model, &model.entries()[0]);
    let wave = |i: usize| 2.0 * std::f64::consts::PI * 500000f64.powf(i as f64 / 32.0);
    for (i, factor) in factors.iter().enumerate() {
        match wave(i) {
            w if w < 2048.0 => assert_eq!(*factor, 1.0, "{i}"),
            w if w > 8192.0 => assert_eq!(*factor, 8.0, "{i}"),
            w => {
                // The frequency itself: between an eighth of it and all of it.
                let share = (8192.0 / w - 1.0) / 3.0;
                let expected = 1.0 / ((1.0 - share) / 8.0 + share);
                assert!((f64::from(*factor) - expected).abs() < 1e-6, "{i}: {factor} {expected}");
            }
        }
    }
    let between = factors.iter().filter(|f| **f != 1.0 && **f != 8.0).count();
    assert_eq!((factors.iter().filter(|f| **f == 1.0).count(), between), (15, 3));
    // Where transformers 5 has it.
    let mut fixture = fixture::llama();
    fixture.config["rope_parameters"] = scaling;
    fixture.config["rope_parameters"]["rope_theta"] = 500000.into();
    fixture.config["rope_theta"] = Json::Null;
    fixture.config["rope_scaling"] = Json::Null;
    let (_folder, new) = converted(&fixture, &[]);
    assert_eq!(values(&new, &new.entries()[0]), factors);
    assert_eq!(new.metadata(), model.metadata());
}

#[test]
fn buffers_of_rotation_are_left_out_and_biases_are_not() {
    let mut fixture = fixture::llama();
    fixture.matrix("model.layers.0.self_attn.rotary_emb.inv_freq", &[32]);
    fixture.matrix("model.layers.1.self_attn.q_proj.bias", &[256]);
    let (_folder, model) = converted(&fixture, &[]);
    let plain = converted(&fixture::llama(), &[]).1;
    assert_eq!(model.entries().len(), plain.entries().len() + 1);
    let bias = model.entry("blk.1.attn_q.bias").unwrap();
    let there = &fixture.tensors["model.layers.1.self_attn.q_proj.bias"].1;
    assert_eq!(values(&model, bias), interleaved(there, &[256], 4));
}

#[test]
fn an_embedding_that_is_saved_twice_is_written_once() {
    let mut fixture = fixture::qwen3();
    let embedding = fixture.tensors["model.embed_tokens.weight"].clone();
    fixture.tensors.insert("lm_head.weight".into(), embedding);
    let (_folder, model) = converted(&fixture, &[]);
    assert!(model.entry("output.weight").is_none() && model.entry("token_embd.weight").is_some());
}

#[test]
fn a_folder_is_quantized_straight_into_a_scheme() {
    for (fixture, packed) in [(fixture::llama(), 16), (fixture::bert(), 13)] {
        let folder = Folder::new();
        fixture.write(&folder.path("tiny"));
        let quantize = |input: &str, output: &str| {
            let args = ["quantize", input, "-o", output, "--scheme", "q8_0", "--device", "cpu", "--json"];
            folder.run(&args).json()
        };
        let summary = quantize("tiny", "straight.gguf");
        assert_eq!(summary["quantized"].as_array().unwrap().len(), packed);
        // From f32 it is the same in two steps: nothing is rounded between them.
        folder.run(&["convert", "tiny", "-o", "f32.gguf", "--dtype", "f32", "--json"]).json();
        let args = ["--exclude", "position_embd|token_types"];
        let two = [
            &["quantize", "f32.gguf", "-o", "two.gguf", "--scheme", "q8_0", "--device", "cpu", "--json"],
            &args[..],
        ];
        folder.run(&two.concat()).json();
        let (a, b) = (folder.path("straight.gguf"), folder.path("two.gguf"));
        let (a, b) = (Model::open(a).unwrap(), Model::open(b).unwrap());
        assert_eq!(a.entries().len(), b.entries().len());
        for (x, y) in a.entries().iter().zip(b.entries()) {
            assert_eq!((&x.name, &x.content, a.raw(x)), (&y.name, &y.content, b.raw(y)));
        }
        assert_eq!(a.metadata().get("general.file_type").unwrap().as_u64(), Some(7));
    }
}

/// The names in the folder of a mapped llama's tensors.
fn names_of_llama() -> Vec<(String, String, Vec<usize>, Option<usize>)> {
    let embedding: Rows = &[("model.embed_tokens.weight", "token_embd.weight", &[320, 256], None)];
    let last: Rows = &[
        ("model.norm.weight", "output_norm.weight", &[256], None),
        ("lm_head.weight", "output.weight", &[320, 256], None),
    ];
    all(embedding, "model.layers", LLAMA, last)
}

/// A llama whose projections are quantized, in `folder`/packed, as packed safetensors with the other files of the model.
fn packed_llama(folder: &Folder, scheme: &str) {
    fixture::llama().write(&folder.path("tiny"));
    let tensors = "packed/model.safetensors";
    std::fs::create_dir(folder.path("packed")).unwrap();
    let args = ["--scheme", scheme, "--include", "_proj", "--device", "cpu", "--json"];
    let args = [&["quantize", "tiny/model.safetensors", "-o", tensors], &args[..]].concat();
    assert_eq!(folder.run(&args).json()["quantized"].as_array().unwrap().len(), 14);
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(folder.path("tiny").join(name), folder.path("packed").join(name)).unwrap();
    }
}

/// What `model` decodes to is what the packed folder holds, mapped.
fn holds_the_packed(folder: &Folder, model: &Model, what: &str) {
    let numbers = |model: &Model, entry: &Entry| match entry.content {
        Content::Packed { .. } => lowbit::reference::dequantize(&model.packed(entry).unwrap()),
        _ => values(model, entry),
    };
    let source = Model::open(folder.path("packed/model.safetensors")).unwrap();
    let expected = names_of_llama();
    assert_eq!(model.entries().len(), expected.len(), "{what}");
    for (entry, (from, to, shape, heads)) in model.entries().iter().zip(&expected) {
        let there = numbers(&source, source.entry(from).unwrap());
        let here = heads.map_or(there.clone(), |heads| interleaved(&there, shape, heads));
        let rounded = |v: &f32| match entry.content {
            Content::Dense(Dtype::F16) => half::f16::from_f32(*v).to_f32(),
            _ => *v,
        };
        assert_eq!((&entry.name, &entry.shape), (to, shape), "{what}");
        // A zero may change its sign where the scheme changes: `0.0 == -0.0`.
        assert_eq!(numbers(model, entry), here.iter().map(rounded).collect::<Vec<_>>(), "{what}: {to}");
    }
}

#[test]
fn quantized_layers_are_mapped_with_their_codes() {
    let dense = converted(&fixture::llama(), &[]).1;
    for (scheme, target, kind, file_type) in [
        ("int4-g32", "", "q4_0", 2),
        ("int4-g32", "gptq", "q4_0", 2),
        ("int4-g128", "gptq_v2", "q4_0", 2),
        ("int4-g64-f32", "", "", 0),
        ("int4-g32", "awq", "q4_0", 2),
        ("int8-g32", "ct", "q8_0", 7),
        ("int4-g32-bias", "mlx", "q4_1", 3),
        ("mxfp4", "ct", "mxfp4", 38),
    ] {
        let what = format!("{scheme} through {target}");
        let folder = Folder::new();
        packed_llama(&folder, scheme);
        let source = if target.is_empty() { "packed" } else { "checkpoint" };
        if source != "packed" {
            folder.run(&["convert", "packed", "-o", source, "--to", target, "--json"]).json();
        }
        let to_gguf = folder.run(&["convert", source, "-o", "out.gguf", "--json"]);
        if file_type == 0 {
            // Its scales are no f16: refused, with the commands that requantize and map.
            let commands = "lowbit dequantize packed -o plain.gguf && lowbit quantize plain.gguf -o out.gguf --scheme q4_0";
            to_gguf.fails(1, &["blk.0.attn_q.weight", commands]);
            folder.run(&["dequantize", "packed", "-o", "plain.gguf", "--device", "cpu", "--json"]).json();
            holds_the_packed(&folder, &Model::open(folder.path("plain.gguf")).unwrap(), &what);
            let quantize =
                ["quantize", "plain.gguf", "-o", "out.gguf", "--scheme", "q4_0", "--device", "cpu", "--json"];
            assert_eq!(folder.run(&quantize).json()["quantized"].as_array().unwrap().len(), 16);
            continue;
        }
        let summary = to_gguf.json();
        assert_eq!((&summary["from"], &summary["packed"]), (&json!("huggingface"), &json!(14)), "{what}");
        let model = Model::open(folder.path("out.gguf")).unwrap();
        let projection = model.entry("blk.1.attn_k.weight").unwrap();
        assert_eq!(projection.scheme_name(), kind, "{what}");
        holds_the_packed(&folder, &model, &what);
        assert_eq!(model.metadata().get("general.file_type").unwrap().as_u64(), Some(file_type), "{what}");
        for (key, value) in dense.metadata().iter().filter(|(key, _)| !key.starts_with("general.")) {
            assert_eq!(model.metadata().get(key), Some(value), "{what}: {key}");
        }
    }
}
