//! What has no map to GGUF is refused: by file and key, or by the tensor's name, and nothing is left behind.

use crate::binary::Folder;
use crate::fixture::{self, Fixture};
use lowbit::file::hf::{self, Weights};
use serde_json::{Value as Json, json};

/// The folder of a fixture is refused with a line that has all of `words`.
fn refused(fixture: &Fixture, words: &[&str]) {
    let folder = Folder::new();
    fixture.write(&folder.path("tiny"));
    folder.run(&["convert", "tiny", "-o", "out.gguf"]).fails(1, words);
    assert_eq!(folder.names(), ["tiny"]);
}

#[test]
fn other_architectures() {
    let mut fixture = fixture::llama();
    fixture.config["architectures"] = json!(["GPTBigCodeForCausalLM"]);
    refused(&fixture, &["config.json", "'architectures'", "GPTBigCodeForCausalLM", "LlamaForCausalLM"]);
    for none in [Json::Null, json!([]), json!("LlamaForCausalLM"), json!([1])] {
        fixture.config["architectures"] = none;
        refused(&fixture, &["config.json", "'architectures'", "expected a list"]);
    }
}

#[test]
fn keys_that_are_missing_or_wrong() {
    for key in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "vocab_size",
        "rms_norm_eps",
    ] {
        let mut fixture = fixture::llama();
        fixture.config.as_object_mut().unwrap().remove(key);
        refused(&fixture, &["config.json", &format!("'{key}'"), "missing"]);
        for wrong in [json!("256"), json!({}), json!([256]), json!(true)] {
            fixture.config[key] = wrong;
            refused(&fixture, &["config.json", &format!("'{key}'"), "expected"]);
        }
        if key != "rms_norm_eps" {
            for wrong in [json!(0), json!(-1), json!(2.5), json!(1u64 << 32)] {
                fixture.config[key] = wrong;
                refused(&fixture, &["config.json", &format!("'{key}'"), "whole number"]);
            }
        }
    }
}

#[test]
fn keys_that_contradict() {
    for (key, value, words) in [
        ("num_key_value_heads", json!(3), &["'num_key_value_heads'", "3", "4"][..]),
        ("head_dim", json!(63), &["'head_dim'", "odd"]),
        ("hidden_act", json!("gelu"), &["'hidden_act'", "gelu", "silu"]),
        ("tie_word_embeddings", json!(true), &["'tie_word_embeddings'", "lm_head.weight"]),
        (
            "quantization_config",
            json!({"quant_method": "eetq"}),
            &["quantization_config", "eetq", "lowbit reads"],
        ),
        ("rope_scaling", json!({"rope_type": "longrope"}), &["rope_scaling.rope_type", "longrope", "yarn"]),
        ("rope_scaling", json!({"type": "linear"}), &["'rope_scaling.factor'", "missing"]),
        ("rope_scaling", json!({"type": "llama3", "factor": 8}), &["'rope_scaling.low_freq_factor'"]),
        // Against the tensors: the config's shape and the tensor's.
        ("hidden_size", json!(512), &["model.embed_tokens.weight", "[320, 512]", "[320, 256]"]),
        ("intermediate_size", json!(500), &["model.layers.0.mlp.gate_proj.weight", "[500, 256]"]),
        ("num_attention_heads", json!(8), &["model.layers.0.self_attn.q_proj.weight", "[512, 256]"]),
        ("vocab_size", json!(321), &["model.embed_tokens.weight", "[321, 256]"]),
        ("num_hidden_layers", json!(3), &["'model.layers.2.input_layernorm.weight'", "missing"]),
        ("num_hidden_layers", json!(1), &["'model.layers.1.input_layernorm.weight'", "no place"]),
    ] {
        let mut fixture = fixture::llama();
        fixture.config[key] = value;
        refused(&fixture, words);
    }
    let mut fixture = fixture::llama();
    fixture.config.as_object_mut().unwrap().remove("head_dim");
    fixture.config["num_attention_heads"] = 6.into();
    refused(&fixture, &["'num_attention_heads'", "6", "256"]);
    let mut fixture = fixture::qwen3();
    fixture.config["tie_word_embeddings"] = false.into();
    refused(&fixture, &["'tie_word_embeddings'", "lm_head.weight"]);
    fixture.config["tie_word_embeddings"] = Json::Null;
    refused(&fixture, &["'tie_word_embeddings'", "lm_head.weight"]);
    let mut fixture = fixture::bert();
    fixture.config["position_embedding_type"] = "relative_key".into();
    refused(&fixture, &["'position_embedding_type'", "relative_key", "absolute"]);
    // Qwen3 has no factors of frequencies in GGUF.
    let mut fixture = fixture::qwen3();
    fixture.config["rope_scaling"] = json!({"rope_type": "llama3"});
    refused(&fixture, &["rope_scaling.rope_type", "llama3", "qwen3"]);
}

#[test]
fn tensors_without_a_place() {
    let mut fixture = fixture::qwen3();
    fixture.matrix("model.layers.0.self_attn.q_proj.bias", &[512]);
    refused(&fixture, &["'model.layers.0.self_attn.q_proj.bias'", "qwen3"]);
    let mut fixture = fixture::llama();
    fixture.matrix("model.layers.0.block_sparse_moe.gate.weight", &[8, 256]);
    refused(&fixture, &["'model.layers.0.block_sparse_moe.gate.weight'", "llama"]);
    let mut fixture = fixture::bert();
    fixture.matrix("classifier.weight", &[2, 64]);
    refused(&fixture, &["'classifier.weight'", "bert"]);
    fixture.tensors.remove("classifier.weight");
    fixture.tensors.remove("encoder.layer.1.output.dense.bias");
    refused(&fixture, &["'encoder.layer.1.output.dense.bias'", "missing"]);
}

#[test]
fn tokenizers_without_one_like_them() {
    type Change = fn(&mut Fixture);
    let cases: [(Change, &[&str]); 14] = [
        (|f| f.tokenizer["model"]["type"] = "Unigram".into(), &["'model.type'", "Unigram"]),
        (|f| f.tokenizer["model"]["vocab"] = json!([]), &["'model.vocab'", "object"]),
        (|f| f.tokenizer["model"]["vocab"]["A"] = 66.into(), &["'model.vocab'", "share the id 66"]),
        (|f| f.tokenizer["model"]["vocab"]["A"] = 320.into(), &["'model.vocab'", "320"]),
        (|f| f.tokenizer["model"]["vocab"]["A"] = (-1).into(), &["'model.vocab'", "-1"]),
        (|f| f.tokenizer["model"]["merges"] = json!(["ab"]), &["'model.merges'", "entry 0"]),
        (|f| f.tokenizer["model"]["merges"] = Json::Null, &["'model.merges'"]),
        (|f| f.tokenizer["added_tokens"][0]["id"] = 320.into(), &["'model.vocab'", "321", "320"]),
        (|f| f.tokenizer["added_tokens"][0]["id"] = "x".into(), &["'added_tokens'", "entry 0"]),
        (
            |f| f.tokenizer["pre_tokenizer"] = json!({"type": "Whitespace"}),
            &["'pre_tokenizer'", "Whitespace"],
        ),
        (
            |f| f.tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+".into(),
            &["'pre_tokenizer'", "llama-bpe", "qwen2", "\\\\w+"],
        ),
        (
            |f| f.tokenizer["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed".into(),
            &["'pre_tokenizer'", "Removed"],
        ),
        (
            |f| {
                f.tokenizer["decoder"] = Json::Null;
                f.tokenizer["pre_tokenizer"] = Json::Null;
            },
            &["'model'", "ByteLevel", "byte_fallback"],
        ),
        (
            |f| {
                f.config["bos_token_id"] = 320.into();
                f.tokenizer_config["bos_token"] = Json::Null;
            },
            &["config.json", "'bos_token_id'", "320"],
        ),
    ];
    for (change, words) in cases {
        let mut fixture = fixture::llama();
        change(&mut fixture);
        refused(&fixture, words);
    }
    let mut fixture = fixture::bert();
    fixture.tokenizer["model"]["continuing_subword_prefix"] = "@@".into();
    refused(&fixture, &["'model.continuing_subword_prefix'", "@@"]);
}

#[test]
fn files_that_are_not_there_or_broken() {
    let folder = Folder::new();
    fixture::llama().write(&folder.path("tiny"));
    let run = || folder.run(&["convert", "tiny", "-o", "out.gguf"]);
    for (name, content) in
        [("tokenizer_config.json", "{"), ("tokenizer.json", "[]"), ("config.json", "{\"architectures\": ")]
    {
        folder.write(&format!("tiny/{name}"), content);
        run().fails(1, &[name]);
    }
    fixture::llama().write(&folder.path("tiny"));
    std::fs::remove_file(folder.path("tiny/tokenizer.json")).unwrap();
    run().fails(1, &["tokenizer.json"]);
    fixture::llama().write(&folder.path("tiny"));
    std::fs::remove_file(folder.path("tiny/model.safetensors")).unwrap();
    run().fails(1, &["tiny", ".safetensors"]);
    assert_eq!(folder.names(), ["tiny"]);
}

#[test]
fn numbers_beyond_the_type() {
    let mut fixture = fixture::llama();
    fixture.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap().1[7] = 70000.0;
    let folder = Folder::new();
    fixture.write(&folder.path("tiny"));
    let run = |dtype: &str| folder.run(&["convert", "tiny", "-o", "out.gguf", "-f", "--dtype", dtype]);
    run("f16").fails(1, &["blk.1.ffn_up.weight", "index 7", "70000", "--dtype"]);
    assert_eq!(folder.names(), ["tiny"]);
    assert_eq!(run("bf16").code, Some(0));
    // Other outputs and inputs are what they are.
    let of = |args: &[&str]| folder.run(&[&["convert", "-f", "--dtype", "f16"], args].concat());
    of(&["tiny", "-o", "out.safetensors"]).fails(2, &["--dtype", "GGUF"]);
    of(&["tiny/model.safetensors", "-o", "out.gguf"]).fails(2, &["--dtype", "GGUF"]);
    // The file itself keeps its names.
    folder.run(&["convert", "-f", "tiny/model.safetensors", "-o", "plain.gguf", "--json"]).json();
    let plain = lowbit::file::Model::open(folder.path("plain.gguf")).unwrap();
    assert!(plain.entry("lm_head.weight").is_some() && plain.metadata().is_empty());
}

#[test]
fn broken_json_is_an_error_or_a_model() {
    let folder = Folder::new();
    let path = folder.path("tiny");
    let mut seed = 7u64;
    let mut random = |n: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % n
    };
    let (mut opened, mut failed) = (0, 0);
    for fixture in [fixture::bert(), fixture::qwen3()] {
        fixture.write(&path);
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            let good = std::fs::read(path.join(name)).unwrap();
            for _ in 0..500 {
                let mut bad = good.clone();
                // Other digits, letters and punctuation, mostly where values are.
                for _ in 0..=random(3) {
                    let at = random(bad.len());
                    match random(4) {
                        0 => bad[at] = b"0123456789-.e"[random(13)],
                        1 => bad[at] = random(256) as u8,
                        2 => drop(bad.drain(at..(at + 1 + random(8)).min(bad.len()))),
                        _ => bad.insert(at, b"9\"[]{},:"[random(8)]),
                    }
                }
                std::fs::write(path.join(name), bad).unwrap();
                match hf::open(&path, Weights::Auto) {
                    Ok(_) => opened += 1,
                    Err(_) => failed += 1,
                }
            }
            std::fs::write(path.join(name), good).unwrap();
        }
    }
    println!("{opened} opened, {failed} refused");
    assert!(opened > 100 && failed > 1000);
}
