//! llama.cpp beside lowbit: it takes the files made here, quantizes them to the same bytes (or at no smaller error than lowbit does), cuts
//! texts into the tokens that the folder's tokenizer cuts them into, and goes on with the same tokens whoever quantized.
//!
//! `LOWBIT_TEST_LLAMA` names a program that starts llama.cpp's (`scripts/check-llama.sh` makes one, with `LOWBIT_FULL=1`); without it the
//! test says so.

use crate::binary::Folder;
use crate::fixture::{self, Fixture};
use lowbit::file::{Content, Entry, Model};
use lowbit::reference::dequantize;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Tokens that are asked for.
const TOKENS: &str = "24";
/// llama.cpp leaves its log behind when it ends, so that the last lines are missing now and then: such a run is repeated.
const RUNS: usize = 100;
const LAST_LINE: &str = "common_perf_print:       total time";

struct Llama(std::ffi::OsString);

impl Llama {
    fn run(&self, args: &[&str]) -> Output {
        Command::new(&self.0).args(args).stdin(Stdio::null()).output().unwrap()
    }

    fn quantize(&self, from: &Path, to: &Path, kind: &str) {
        let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
        let out = self.run(&["llama-quantize", from, to, kind, "2"]);
        assert!(out.status.success(), "{kind}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// The tokens that a prompt is cut into, and what follows it where the likeliest token is always taken.
    fn complete(&self, model: &Path, prompt: &str) -> (Vec<u32>, Vec<u8>) {
        let args =
            ["-n", TOKENS, "--temp", "0", "-no-cnv", "--no-warmup", "--ignore-eos", "-sp", "-t", "2", "-v"];
        let args = [&["llama-completion", "-m", model.to_str().unwrap(), "-p", prompt], &args[..]].concat();
        for _ in 0..RUNS {
            let out = self.run(&args);
            let log = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.success(), "{log}");
            if !log.contains(LAST_LINE) {
                continue;
            }
            let line = log.lines().find_map(|l| l.split_once(" tokens: [ ")).unwrap().1;
            let ids = line.trim_end_matches(" ]").split(", '").map(|t| t.rsplit(':').next().unwrap());
            return (ids.map(|id| id.parse().unwrap()).collect(), out.stdout);
        }
        panic!("llama-completion never came to its last line");
    }
}

fn numbers(model: &Model, entry: &Entry) -> Vec<f32> {
    match entry.content {
        Content::Packed { .. } => dequantize::dequantize(&model.packed(entry).unwrap()),
        _ => model.tensor(entry).unwrap().to_f32().into_owned(),
    }
}

/// Compares two files that were made of a third, tensor by tensor: how many are the same bytes, and which that are not are further from
/// the third in the first.
fn compare(source: &Path, ours: &Path, its: &Path) -> (usize, Vec<String>) {
    let [source, ours, its] = [source, ours, its].map(|path| Model::open(path).unwrap());
    let kinds = |model: &Model| -> BTreeMap<String, String> {
        model
            .entries()
            .iter()
            .map(|e| (e.name.clone(), format!("{} {:?}", e.scheme_name(), e.shape)))
            .collect()
    };
    assert_eq!(kinds(&ours), kinds(&its));
    let (mut same, mut worse) = (0, Vec::new());
    for a in ours.entries() {
        let (b, s) = (its.entry(&a.name).unwrap(), source.entry(&a.name).unwrap());
        if ours.raw(a) == its.raw(b) {
            same += 1;
            continue;
        }
        let exact = numbers(&source, s);
        let error = |model: &Model, entry: &Entry| -> f64 {
            let difference = |(x, y): (f32, &f32)| f64::from(x - y).powi(2);
            numbers(model, entry).into_iter().zip(&exact).map(difference).sum()
        };
        let (mine, theirs) = (error(&ours, a), error(&its, b));
        if mine.is_nan() || mine > theirs {
            worse.push(format!("{} {}: {mine} and not {theirs}", a.name, a.scheme_name()));
        }
    }
    (same, worse)
}

/// llama.cpp, if it is there.
fn llama() -> Option<Llama> {
    let run = std::env::var_os("LOWBIT_TEST_LLAMA");
    if run.is_none() {
        println!(
            "left out: LOWBIT_TEST_LLAMA is not set (LOWBIT_FULL=1 scripts/test.sh unpacks llama.cpp and sets it)"
        );
    }
    run.map(Llama)
}

fn run(folder: &Folder, args: &[&str]) {
    let ran = folder.run(args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

fn quantize(folder: &Folder, from: &str, to: &str, scheme: &str, names: [&str; 2]) {
    let args = ["quantize", from, "-o", to, "--force", "--device", "cpu", "--scheme", scheme];
    run(folder, &[&args[..], &names].concat());
}

#[test]
fn llama_cpp_makes_the_same_and_says_the_same() {
    let Some(llama) = llama() else { return };
    let mut with_bytes = fixture::llama();
    fixture::with_byte_fallback(&mut with_bytes);
    let mut stretched = fixture::llama();
    stretched.config["rope_scaling"] = serde_json::json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 128});
    // Tokens of the prompt as the merges of each tokenizer make them; begin-of-text where the post-processor adds it.
    let prompt = "the all and 12";
    let models: [(&str, Fixture, &str, &[u32]); 4] = [
        ("llama", fixture::llama(), "output.weight", &[264, 116, 257, 261, 259, 262, 32, 49, 50]),
        ("llama with rope_freqs", stretched, "output.weight", &[264, 116, 257, 261, 259, 262, 32, 49, 50]),
        (
            "llama with bytes",
            with_bytes,
            "output.weight",
            &[1, 265, 259, 100, 111, 111, 259, 100, 113, 103, 259, 52, 53],
        ),
        ("qwen3", fixture::qwen3(), "token_embd.weight", &[116, 257, 261, 259, 262, 32, 49, 50]),
    ];
    let mut texts = Vec::new();
    for (name, fixture, output, expected) in models {
        let folder = Folder::new();
        fixture.write(&folder.path("tiny"));
        let path = |name: &str| std::fs::canonicalize(folder.0.path()).unwrap().join(name);
        run(&folder, &["convert", "tiny", "-o", "f16.gguf"]);
        let (tokens, text) = llama.complete(&path("f16.gguf"), prompt);
        assert_eq!(tokens, expected, "{name}");
        for kind in ["Q8_0", "Q4_0", "Q6_K"] {
            llama.quantize(&path("f16.gguf"), &path("its.gguf"), kind);
            let (scheme, names) = (kind.to_lowercase(), format!("^{}$", output.replace('.', "\\.")));
            if kind == "Q4_0" {
                // llama.cpp's Q4_0 has the output in Q6_K.
                quantize(&folder, "f16.gguf", "part.gguf", "q4_0", ["--exclude", &names]);
                quantize(&folder, "part.gguf", "ours.gguf", "q6_k", ["--include", &names]);
            } else {
                quantize(&folder, "f16.gguf", "ours.gguf", &scheme, ["--include", ""]);
            }
            let (same, worse) = compare(&path("f16.gguf"), &path("ours.gguf"), &path("its.gguf"));
            assert!(worse.is_empty(), "{name} {kind}: {worse:#?}");
            let (ours, its) =
                (llama.complete(&path("ours.gguf"), prompt), llama.complete(&path("its.gguf"), prompt));
            println!("{name} {kind}: {same} tensors of the same bytes");
            assert_eq!(ours, its, "{name} {kind}");
            assert_eq!(ours.0, tokens);
        }
        texts.push(text);
    }
    assert!(texts.iter().all(|t| t.len() > prompt.len()), "{texts:?}");
}

#[test]
fn llama_cpp_loads_bert() {
    let Some(llama) = llama() else { return };
    let folder = Folder::new();
    fixture::bert().write(&folder.path("tiny"));
    let path = |name: &str| std::fs::canonicalize(folder.0.path()).unwrap().join(name);
    run(&folder, &["convert", "tiny", "-o", "f16.gguf"]);
    let [f16, ours, its] = ["f16.gguf", "ours.gguf", "its.gguf"].map(path);
    llama.quantize(&f16, &its, "Q8_0");
    quantize(&folder, "tiny", "straight.gguf", "q8_0", ["--include", ""]);
    quantize(&folder, "f16.gguf", "ours.gguf", "q8_0", ["--exclude", "position_embd|token_types"]);
    assert_eq!(compare(&f16, &ours, &its), (37, vec![]));
    // It checks names and shapes, and runs a pass.
    for model in [&f16, &ours, &its, &path("straight.gguf")] {
        let args = ["llama-bench", "-m", model.to_str().unwrap(), "-p", "8", "-n", "0", "-r", "1", "-t", "1"];
        let out = llama.run(&args);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    // One wrong code is seen.
    let mut bytes = std::fs::read(&ours).unwrap();
    let model = Model::open(&ours).unwrap();
    let entry = model.entry("blk.1.ffn_down.weight").unwrap();
    let block = model.raw(entry)[..34].to_vec();
    drop(model);
    let start = bytes.windows(34).position(|w| w == block).unwrap();
    bytes[start + 2] ^= 0x40;
    std::fs::write(&ours, bytes).unwrap();
    let (same, worse) = compare(&f16, &ours, &its);
    assert!(same == 36 && worse.len() == 1 && worse[0].contains("blk.1.ffn_down"), "{worse:?}");
}
