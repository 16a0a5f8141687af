//! gguf-py beside lowbit: its own map of tensor names, its own reading of special tokens, and the data as numpy and its encoders make it
//! of the folder, are what a file made here holds.
//!
//! `LOWBIT_TEST_PYTHON` names a Python that has the package `gguf`, `LOWBIT_TEST_MODEL` a model beside its `config.json` (`scripts/test.sh`
//! makes both and sets them); without them the tests say so, and fail under `CI`.

use crate::binary::Folder;
use crate::common::under_ci;
use crate::fixture;
use serde_json::{Value as Json, json};
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// Makes of a folder what a GGUF file of it must hold, and compares; the last line is a summary as JSON.
const COMPARE: &str = r#"
import json, sys
import gguf, numpy as np

folder, path, wanted = sys.argv[1:]
config = json.load(open(folder + "/config.json"))
blob = open(folder + "/model.safetensors", "rb").read()
start = 8 + int.from_bytes(blob[:8], "little")
header = json.loads(blob[8:start])
header.pop("__metadata__", None)

reader = gguf.GGUFReader(path)
fields = {name: field.contents() for name, field in reader.fields.items()}
name = fields[gguf.Keys.General.ARCHITECTURE]
arch = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == name)
names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
tensors = {t.name: t for t in reader.tensors}
seen, types, weights, left_out = set(), {}, 0, 0
for source, info in header.items():
    if source.startswith("pooler.") or source.endswith("position_ids"):
        left_out += 1
        continue
    assert info["dtype"] == "F32", info
    low, high = info["data_offsets"]
    values = np.frombuffer(blob[start + low:start + high], dtype="<f4").reshape(info["shape"])
    if name == "llama" and ".self_attn.q_proj." in source or name == "llama" and ".self_attn.k_proj." in source:
        heads = config["num_attention_heads" if "q_proj" in source else "num_key_value_heads"]
        rows = np.arange(len(values)).reshape(heads, 2, -1).transpose(0, 2, 1).ravel()
        values = values[rows]
    to = names.get_name(source, try_suffixes=(".weight", ".bias"))
    tensor = tensors[to]
    seen.add(to)
    table = to in ("position_embd.weight", "token_types.weight")
    kind = gguf.GGMLQuantizationType["F32" if values.ndim < 2 or table else wanted]
    assert tensor.tensor_type == kind, (to, tensor.tensor_type)
    assert [int(n) for n in tensor.shape] == info["shape"][::-1], (to, tensor.shape)
    assert tensor.data.tobytes() == gguf.quants.quantize(values, kind).tobytes(), to
    types[kind.name] = types.get(kind.name, 0) + 1
    weights += values.size
assert seen == set(tensors), seen ^ set(tensors)

for key, of in [(gguf.Keys.LLM.BLOCK_COUNT, "num_hidden_layers"), (gguf.Keys.LLM.EMBEDDING_LENGTH, "hidden_size"),
                (gguf.Keys.LLM.FEED_FORWARD_LENGTH, "intermediate_size"),
                (gguf.Keys.LLM.CONTEXT_LENGTH, "max_position_embeddings"),
                (gguf.Keys.Attention.HEAD_COUNT, "num_attention_heads")]:
    assert fields[key.format(arch=name)] == config[of], key
assert fields[gguf.Keys.General.SIZE_LABEL] == gguf.size_label(weights, weights, 0, 0)
assert fields[gguf.Keys.General.QUANTIZATION_VERSION] == gguf.GGML_QUANT_VERSION
assert fields[gguf.Keys.General.FILE_TYPE] == gguf.LlamaFileType["ALL_F32" if wanted == "F32" else "MOSTLY_" + wanted]

# Merges are gpt2's alone; cls has no key of its own.
keys, tokens = gguf.Keys.Tokenizer, fields[gguf.Keys.Tokenizer.LIST]
special = gguf.SpecialVocab(folder, load_merges=fields[keys.MODEL] == "gpt2")
ids = {"bos": keys.BOS_ID, "eos": keys.EOS_ID, "unk": keys.UNK_ID, "sep": keys.SEP_ID, "pad": keys.PAD_ID,
       "mask": keys.MASK_ID, "eot": keys.EOT_ID}
found = {kind: fields[key] for kind, key in ids.items() if key in fields}
expected = {kind: id for kind, id in special.special_token_ids.items() if kind in ids}
assert found == expected, (found, expected)
adds = {"bos": keys.ADD_BOS, "eos": keys.ADD_EOS, "sep": keys.ADD_SEP}
found = {kind: fields[key] for kind, key in adds.items() if key in fields}
expected = {kind: add for kind, add in special.add_special_token.items() if kind in adds}
assert found == expected, (found, expected)
assert fields.get(keys.MERGES, []) == special.merges
assert fields.get(keys.CHAT_TEMPLATE) == special.chat_template
assert len(tokens) == len(fields[keys.TOKEN_TYPE]) == config["vocab_size"]
print(json.dumps({"architecture": name, "types": types, "left_out": left_out, "merges": len(special.merges),
                  "special": len(special.special_token_ids)}))
"#;

fn wanted(variable: &str) -> Option<OsString> {
    let found = std::env::var_os(variable);
    if found.is_none() {
        assert!(!under_ci(), "{variable} is not set");
        println!("left out: {variable} is not set (scripts/test.sh sets it)");
    }
    found
}

/// What gguf-py says of a file made of a folder; an error if it would have made another.
fn compare(python: &OsString, folder: &Path, file: &Path, weights: &str) -> Result<Json, String> {
    let mut command = Command::new(python);
    let out = command.args(["-c", COMPARE]).args([folder, file]).arg(weights).output().unwrap();
    match out.status.success() {
        true => Ok(serde_json::from_slice(&out.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
    }
}

#[test]
fn gguf_py_would_have_made_the_same() {
    let Some(python) = wanted("LOWBIT_TEST_PYTHON") else { return };
    let mut with_bytes = fixture::llama();
    fixture::with_byte_fallback(&mut with_bytes);
    for (fixture, name, (matrices, others), merges) in [
        (fixture::llama(), "llama", (16, 5), 8),
        (fixture::qwen3(), "qwen3", (15, 9), 8),
        (fixture::bert(), "bert", (13, 24), 0),
        (with_bytes, "llama", (16, 5), 0),
    ] {
        let folder = Folder::new();
        fixture.write(&folder.path("tiny"));
        let to = ["--force", "-o", "out.gguf"];
        for (weights, args) in [
            ("F32", &["convert", "tiny", "--dtype", "f32"][..]),
            ("F16", &["convert", "tiny"]),
            ("BF16", &["convert", "tiny", "--dtype", "bf16"]),
            ("Q8_0", &["quantize", "tiny", "--scheme", "q8_0", "--device", "cpu"]),
        ] {
            let ran = folder.run(&[args, &to[..]].concat());
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
            let said = compare(&python, &folder.path("tiny"), &folder.path("out.gguf"), weights).unwrap();
            assert_eq!((&said["architecture"], &said["merges"]), (&json!(name), &json!(merges)));
            let types = if weights == "F32" {
                json!({"F32": matrices + others})
            } else {
                json!({weights: matrices, "F32": others})
            };
            assert_eq!(said["types"], types, "{name}");
        }
        // It would see one wrong number.
        let mut bytes = std::fs::read(folder.path("out.gguf")).unwrap();
        let at = bytes.len() - 4096;
        bytes[at] ^= 1;
        std::fs::write(folder.path("out.gguf"), bytes).unwrap();
        let error = compare(&python, &folder.path("tiny"), &folder.path("out.gguf"), "Q8_0").unwrap_err();
        assert!(error.contains("AssertionError"), "{error}");
    }
}

#[test]
fn a_real_folder() {
    let Some(python) = wanted("LOWBIT_TEST_PYTHON") else { return };
    let Some(model) = wanted("LOWBIT_TEST_MODEL") else { return };
    let source = std::fs::canonicalize(model).unwrap();
    let source = source.parent().unwrap();
    let folder = Folder::new();
    let input = source.to_str().unwrap();
    folder.run(&["convert", input, "-o", "out.gguf", "--json"]).json();
    let said = compare(&python, source, &folder.path("out.gguf"), "F16").unwrap();
    assert_eq!(said["types"], json!({"F16": 37, "F32": 64}));
    assert_eq!((&said["architecture"], &said["left_out"]), (&json!("bert"), &json!(3)));
    let found = lowbit::file::Model::open(folder.path("out.gguf")).unwrap();
    assert_eq!(found.metadata().get("bert.pooling_type").unwrap().as_u64(), Some(1));
    // Known words of this vocabulary.
    let tokens = found.metadata().get("tokenizer.ggml.tokens").unwrap().to_json();
    assert_eq!((&tokens[1996], &tokens[2015]), (&json!("\u{2581}the"), &json!("s")));
}
