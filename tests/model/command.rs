//! `lowbit embed` and `calibrate` on a small encoder: what they write; and what the commands with texts refuse.

use crate::binary::Folder;
use crate::fixture::bert;
use serde_json::Value;
use std::io::Write;
use std::process::Stdio;

const CPU: [&str; 2] = ["--device", "cpu"];

/// A folder with the encoder `m` and a text of four lines.
fn folder() -> Folder {
    let folder = Folder::new();
    bert().write(&folder.path("m"));
    folder.write("t.txt", "\u{feff}the low\r\n\nlowbit the\nthe lowbit lowbits\nlow low the\n");
    folder
}

fn run(folder: &Folder, line: &str) -> crate::binary::Ran {
    let words: Vec<&str> = line.split(' ').chain(CPU).collect();
    folder.run(&words)
}

/// The embeddings of JSON lines.
fn rows(text: &str) -> Vec<(String, Vec<f32>)> {
    let row = |line: &str| {
        let json: Value = serde_json::from_str(line).unwrap();
        let values = json["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32);
        (json["text"].as_str().unwrap().to_string(), values.collect())
    };
    text.lines().map(row).collect()
}

#[test]
fn embeddings_are_the_same_in_every_form() {
    let folder = folder();
    let lines = run(&folder, "embed m --text t.txt");
    assert_eq!(lines.code, Some(0), "{}", lines.stderr);
    let rows = rows(&lines.stdout);
    let texts: Vec<&str> = rows.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(texts, ["the low", "lowbit the", "the lowbit lowbits", "low low the"]);
    let all: Vec<f32> = rows.iter().flat_map(|(_, row)| row.clone()).collect();
    for row in &rows {
        assert!((row.1.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    // NumPy's file: a header of 64 bytes and a multiple of them, then the numbers.
    assert_eq!(run(&folder, "embed m --text t.txt -o v.npy").code, Some(0));
    let npy = std::fs::read(folder.path("v.npy")).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([npy[8], npy[9]]));
    assert_eq!((&npy[..6], header % 64), (&b"\x93NUMPY"[..], 0));
    assert!(String::from_utf8_lossy(&npy[..header]).contains(&format!("'shape': (4, {},)", all.len() / 4)));
    assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&npy[header..]), all);
    assert_eq!(run(&folder, "embed m --text t.txt -o v.safetensors").code, Some(0));
    let model = lowbit::file::Model::open(folder.path("v.safetensors")).unwrap();
    let tensor = model.tensor(model.entry("embeddings").unwrap()).unwrap();
    assert_eq!((tensor.shape(), &tensor.to_f32()[..]), (&[4, all.len() / 4][..], &all[..]));
    // Lines of standard input, and arguments.
    let mut command = folder.command(&["embed", "m", "--device", "cpu"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"the low\n\nlowbit the\n").unwrap();
    let piped = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(crate::command::rows(&piped), rows[..2]);
    let given = folder.run(&["embed", "m", "the low", "--device", "cpu"]);
    assert_eq!(crate::command::rows(&given.stdout), rows[..1]);
}

#[test]
fn long_texts_are_cut_with_a_warning_or_taken_in_chunks() {
    let folder = folder();
    folder.write("long.txt", "the ".repeat(40) + &"low ".repeat(10));
    let cut = run(&folder, "embed m --text long.txt");
    assert!(
        cut.stderr.contains("line 1 has 52 tokens; the first 32 count (--chunk takes all)"),
        "{}",
        cut.stderr
    );
    let whole = run(&folder, "embed m --text long.txt --chunk");
    assert_eq!((whole.code, whole.stderr.as_str()), (Some(0), ""));
    assert_ne!(rows(&cut.stdout)[0].1, rows(&whole.stdout)[0].1);
}

#[test]
fn inputs_are_not_overwritten() {
    let folder = folder();
    folder.write("p.tsv", "near\tthe low\tlow the\nfar\tthe\tlowbit\n");
    assert_eq!(run(&folder, "calibrate m --text t.txt -o s.safetensors").code, Some(0));
    let before: Vec<Vec<u8>> = ["m/model.safetensors", "t.txt", "p.tsv"]
        .map(|name| std::fs::read(folder.path(name)).unwrap())
        .into();
    for line in [
        "embed m a --force -o m/model.safetensors",
        "embed m a --force -o m/tokenizer.json --to json",
        "embed m --text t.txt --force -o t.txt --to json",
        "calibrate m --text t.txt --force -o m/model.safetensors",
        "calibrate m --text t.txt --merge s.safetensors --force -o s.safetensors",
        "eval m m --runs 0 --force --svg m/model.safetensors",
        "eval m m --runs 0 --text t.txt --force --svg t.txt",
        "eval m m --runs 0 --pairs p.tsv --force --svg p.tsv",
        "search m t.txt the --index t.txt",
    ] {
        let ran = run(&folder, line);
        let why = if line.contains("--index") { "t.txt" } else { "input" };
        assert!(ran.code != Some(0) && ran.stderr.contains(why), "{line}: {}", ran.stderr);
    }
    let after: Vec<Vec<u8>> = ["m/model.safetensors", "t.txt", "p.tsv"]
        .map(|name| std::fs::read(folder.path(name)).unwrap())
        .into();
    assert!(before == after);
    // Others in the model's folder may be.
    assert_eq!(run(&folder, "embed m a -o m/v.npy").code, Some(0));
    run(&folder, "embed m a -o m/v.npy").fails(1, &["m/v.npy", "--force"]);
    assert_eq!(run(&folder, "embed m a -o m/v.npy --force").code, Some(0));
}

#[test]
fn statistics_are_those_of_all_texts_that_were_merged() {
    use lowbit::calibrate::{Grid, Rule, Statistics};
    let folder = folder();
    folder.write("a.txt", "the low\nlowbit the\n");
    folder.write("b.txt", "the lowbit lowbits\nlow low the\n");
    for line in [
        "calibrate m --text t.txt -o whole.safetensors",
        "calibrate m --text a.txt -o a.safetensors",
        "calibrate m --text b.txt -o both.safetensors --merge a.safetensors",
    ] {
        let ran = run(&folder, line);
        assert_eq!(ran.code, Some(0), "{line}: {}", ran.stderr);
    }
    let open = |name: &str| Statistics::open(&folder.path(name)).unwrap();
    // The summary has the ranges of the statistics, of every rule; merged ones count what both have seen.
    let summary: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path("both.json")).unwrap()).unwrap();
    let of_both = open("both.safetensors");
    for (told, inputs) in summary["inputs"].as_array().unwrap().iter().zip(&of_both.inputs) {
        for rule in Rule::ALL {
            let told = &told["int8_ranges"][rule.to_string()];
            let (symmetric, affine) = (&told["symmetric"], &told["affine"]);
            let [one, other] = [Grid::INT8, Grid::INT8_AFFINE].map(|grid| inputs.range(rule, grid).unwrap());
            let same = |told: &serde_json::Value, v: f32| told.as_f64().unwrap() as f32 == v;
            assert!(same(&symmetric["clip"], one.high()) && same(&symmetric["scale"], one.scale()), "{told}");
            assert!(same(&affine["low"], other.low()) && same(&affine["high"], other.high()), "{told}");
            assert!(affine["zero_point"] == other.zero_point() && same(&affine["scale"], other.scale()));
        }
        let whole = open("whole.safetensors");
        let whole = whole.of(&inputs.layers[0]).unwrap();
        assert_eq!((inputs.histogram.count(), inputs.runs.len()), (whole.histogram.count(), 2));
        let [a, b] = [inputs, whole].map(|i| i.range(Rule::Mse, Grid::INT8).unwrap().high());
        assert!((a / b - 1.0).abs() < 0.01, "{a} {b}");
    }
    let (whole, both, part) = (open("whole.safetensors"), open("both.safetensors"), open("a.safetensors"));
    let layer = "encoder.layer.1.output.dense.weight";
    let of = |statistics: &Statistics| statistics.of(layer).unwrap().moments.clone();
    let (whole, both, part) = (of(&whole), of(&both), of(&part));
    let size = whole.iter().map(|v| v.abs()).fold(0.0, f32::max);
    assert!(whole.iter().zip(&both).all(|(a, b)| (a - b).abs() <= 1e-5 * size), "other sums");
    assert!(whole.iter().zip(&part).any(|(a, b)| (a - b).abs() > 1e-2 * size), "sums of a part");
}

#[test]
fn wrong_numbers_are_refused() {
    let folder = folder();
    for (line, option) in [
        ("eval m m --runs 18446744073709551615", "--runs"),
        ("calibrate m --text t.txt -o s.safetensors --sample 72057594037927936", "--sample"),
    ] {
        let ran = run(&folder, line);
        assert!(ran.code == Some(2) && ran.stderr.contains(option), "{line}: {}", ran.stderr);
    }
}
