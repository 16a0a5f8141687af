//! `lowbit search` and `lowbit eval` on a small random encoder. It knows the words `the`, `low`, `bit` and the ending `s`: what its vectors mean does not matter,
//! equal texts have equal ones.

use crate::binary::{Folder, Ran};
use crate::fixture;
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;

const TEXT: &str = "the low\n\n  lowbit the\nthe lowbit lowbits\nlow low the\n\n\nthe\n";

fn with_encoder() -> Folder {
    let folder = Folder::new();
    fixture::bert().write(&folder.path("encoder"));
    folder.write("t.txt", TEXT);
    folder
}

fn search(folder: &Folder, more: &[&str]) -> Ran {
    folder.run(&[&["search", "encoder", "t.txt", "--device", "cpu"], more].concat())
}

/// The same with lines on standard input.
fn asked(folder: &Folder, more: &[&str], input: &[u8]) -> Ran {
    let args = [&["search", "encoder", "t.txt", "--device", "cpu"], more].concat();
    let mut command = folder.command(&args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

fn matches(ran: &Ran) -> Vec<(f64, u64, String)> {
    let list = ran.json()["matches"].as_array().unwrap().clone();
    let of = |m: &Value| (m["score"].as_f64().unwrap(), m["line"].as_u64().unwrap(), m["text"].to_string());
    list.iter().map(of).collect()
}

fn lines_of(ran: &Ran) -> Vec<u64> {
    matches(ran).into_iter().map(|(_, line, _)| line).collect()
}

#[test]
fn equal_texts_are_found_first() {
    let folder = with_encoder();
    for (query, line, text) in [("lowbit the", 3, "\"lowbit the\""), (" LOW low the", 5, "\"low low the\"")] {
        let found = matches(&search(&folder, &[query, "--json"]));
        assert_eq!(found.len(), 5, "blank lines are left out");
        assert!((found[0].0 - 1.0).abs() < 1e-5 && found[1].0 < 0.9999, "{found:?}");
        assert_eq!((found[0].1, found[0].2.as_str()), (line, text));
        assert!(found.is_sorted_by(|a, b| a.0 >= b.0), "{found:?}");
    }
    assert_eq!(lines_of(&search(&folder, &["the", "--json", "--top", "1"])), [8]);
    let ran = search(&folder, &["the", "--top", "2"]);
    let shown: Vec<&str> = ran.stdout.lines().collect();
    assert!(shown.len() == 2 && shown[0] == " 1.0000  8  the", "{}", ran.stdout);

    let ran = search(&folder, &["low low the", "--paragraphs", "--json"]);
    let mut lines = lines_of(&ran);
    lines.sort();
    assert_eq!(lines, [1, 3, 8]);
    let found =
        matches(&search(&folder, &["lowbit the the lowbit lowbits low low the", "--paragraphs", "--json"]));
    assert_eq!((found[0].1, found[0].2.as_str()), (3, "\"lowbit the the lowbit lowbits low low the\""));
}

#[test]
fn each_line_of_standard_input_is_a_query() {
    let folder = with_encoder();
    let ran = asked(&folder, &["--json", "--top", "1"], b"the\n\n  lowbit the \r\nthe low");
    let lines: Vec<Value> = ran.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let found: Vec<_> = lines.iter().map(|l| (&l["query"], &l["matches"][0]["line"])).collect();
    assert_eq!(
        found,
        [(&json!("the"), &json!(8)), (&json!("lowbit the"), &json!(3)), (&json!("the low"), &json!(1))]
    );
    let ran = asked(&folder, &["--top", "1"], b"the\nlowbit the\n");
    assert_eq!(ran.stdout, "the\n 1.0000  8  the\n\nlowbit the\n 1.0000  3  lowbit the\n\n");
    asked(&folder, &[], b"\n \n").fails(1, &["standard input", "no query"]);
    let ran = asked(&folder, &["--top", "1"], b"the\n\xff\n");
    assert!(ran.stdout.contains(" 1.0000  8  the"), "what came before is answered");
    ran.fails(1, &["standard input", "line 2", "UTF-8"]);
    // The text itself may come from there.
    let args = ["search", "encoder", "-", "the low", "--device", "cpu", "--json"];
    let mut command = folder.command(&args);
    command.stdin(std::fs::File::open(folder.path("t.txt")).unwrap());
    assert_eq!(lines_of(&Ran::of(command.output().unwrap()))[0], 1);
}

#[test]
fn long_texts_are_cut_or_taken_in_chunks() {
    let folder = with_encoder();
    folder.write("t.txt", format!("{}\nlow\n", "the ".repeat(40)));
    let ran = search(&folder, &["the", "--json"]);
    assert!(ran.stderr.contains("line 1 has 42 tokens; the first 32 count"), "{}", ran.stderr);
    let whole = "the ".repeat(40).trim().to_string();
    assert_eq!(matches(&ran).iter().find(|m| m.1 == 1).unwrap().2, format!("\"{whole}\""));
    let ran = search(&folder, &["the", "--json", "--chunk"]);
    assert_eq!((ran.stderr.as_str(), lines_of(&ran).len()), ("", 2));
    assert!(search(&folder, &[&whole]).stderr.contains("the query has 42 tokens"));
}

#[test]
fn texts_cannot_steer_the_terminal() {
    let folder = with_encoder();
    folder.write("t.txt", "the \u{1b}[2J low\u{9b}\n");
    let ran = search(&folder, &["the"]);
    assert!(ran.stdout.ends_with("the \\u{1b}[2J low\\u{9b}\n"), "{}", ran.stdout);
    assert_eq!(search(&folder, &["the", "--json"]).json()["matches"][0]["text"], "the \u{1b}[2J low\u{9b}");
}

#[test]
fn an_index_is_used_while_it_is_of_the_same() {
    let folder = with_encoder();
    let with =
        |more: &[&str]| search(&folder, &[&["the", "--json", "--index", "i.safetensors"], more].concat());
    let score = |ran: &Ran| matches(ran)[0].0;
    let first = with(&[]);
    assert!(first.stderr.is_empty() && (score(&first) - 1.0).abs() < 1e-5, "{}", first.stderr);
    // Others in place of the last three are taken as they are, all alike.
    let replace = |first: f32| {
        let mut bytes = std::fs::read(folder.path("i.safetensors")).unwrap();
        let data = bytes.len() - 4 * 64 * 3;
        for row in bytes[data..].chunks_mut(4 * 64) {
            row.fill(0);
            row[..4].copy_from_slice(&first.to_le_bytes());
        }
        folder.write("i.safetensors", bytes);
    };
    let alike = |ran: &Ran| {
        let found = matches(ran);
        let like = |m: f64| found.iter().filter(|other| other.0 == m).count();
        found.iter().filter(|m| like(m.0) == 3).count()
    };
    replace(1.0);
    assert_eq!((alike(&with(&[])), with(&[]).stderr.as_str()), (3, ""));
    // Not those that no encoder makes.
    for wrong in [0.0, 100.0, f32::NAN] {
        replace(wrong);
        with(&[]).fails(1, &["i.safetensors", "embedding 2 is not of norm 1"]);
    }
    // Other settings, another unit, another text, another model: made again.
    let again = |more: &[&str], why: &str| {
        replace(1.0);
        let ran = with(more);
        assert_eq!(alike(&ran), 0, "{why}");
        let note = format!("lowbit: i.safetensors is of {why}; made again\n");
        assert_eq!(ran.stderr, note);
        assert_eq!(with(more).stderr, "", "{why}");
    };
    again(&["--activation", "int8"], "other settings");
    again(&["--chunk"], "other settings");
    again(&["--paragraphs", "--chunk"], "another text");
    again(&["--chunk"], "another text");
    folder.write("t.txt", TEXT.replace("lowbits", "lowbit"));
    again(&["--chunk"], "another text");
    let mut other = fixture::bert();
    other.matrix("pooler.dense.weight", &[64, 64]);
    other.write(&folder.path("encoder"));
    again(&["--chunk"], "another model");
}

#[test]
fn files_that_are_no_index_are_kept() {
    let folder = with_encoder();
    let kept = |name: &str, words: &[&str]| {
        let before = std::fs::read(folder.path(name)).unwrap();
        search(&folder, &["the", "--index", name]).fails(1, words);
        assert_eq!(std::fs::read(folder.path(name)).unwrap(), before, "{name}");
    };
    kept("t.txt", &["t.txt", "not a safetensors file"]);
    kept("encoder/model.safetensors", &["no index that lowbit search made"]);
    let of_text = folder.run(&["embed", "encoder", "the", "-o", "e.safetensors", "--device", "cpu"]);
    assert_eq!(of_text.code, Some(0), "{}", of_text.stderr);
    kept("e.safetensors", &["no index that lowbit search made"]);
    assert_eq!(search(&folder, &["the", "--index", "i.safetensors"]).code, Some(0));
    let whole = std::fs::read(folder.path("i.safetensors")).unwrap();
    folder.write("i.safetensors", &whole[..whole.len() - 1]);
    kept("i.safetensors", &["i.safetensors"]);
    // One row less than there are texts.
    let text = String::from_utf8_lossy(&whole).replace("[5,64]", "[4,64]").replace("1280]", "1024]");
    assert!(text.contains("[4,64]") && text.contains("1024]"), "{}", &text[..400]);
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut short = whole[..8].to_vec();
    let changed = String::from_utf8(whole[8..header].to_vec()).unwrap();
    short.extend(changed.replace("[5,64]", "[4,64]").replace("1280]", "1024]").bytes());
    short.extend(&whole[header..whole.len() - 256]);
    folder.write("i.safetensors", short);
    kept("i.safetensors", &["i.safetensors", "'embeddings'", "[5, 64]", "[4, 64]"]);
    search(&folder, &["the", "--index", "no/i.safetensors"]).fails(1, &["no/i.safetensors"]);
    assert!(folder.names().iter().all(|name| !name.ends_with(".tmp")), "{:?}", folder.names());
}

#[test]
fn wrong_searches_say_why() {
    let folder = with_encoder();
    search(&folder, &[" "]).fails(2, &["the query is empty"]);
    assert_eq!(search(&folder, &["the", "--top", "0"]).code, Some(2));
    search(&folder, &["the", "--activation", "f8"]).fails(2, &["'f8'", "int8-g32"]);
    let run = |args: &[&str]| folder.run(&[&["search"], args, &["--device", "cpu"]].concat());
    run(&["encoder", "-"]).fails(2, &["standard input is the text"]);
    run(&["encoder", "none.txt", "the"]).fails(1, &["none.txt"]);
    run(&["none", "t.txt", "the"]).fails(1, &["none"]);
    run(&["t.txt", "t.txt", "the"]).fails(1, &["t.txt", "not a safetensors file"]);
    run(&["encoder/model.safetensors", "t.txt", "the"]).fails(1, &["there is no config.json"]);
    folder.write("blank.txt", "\n \t\r\n");
    run(&["encoder", "blank.txt", "the"]).fails(1, &["blank.txt", "only blank lines"]);
    folder.write("latin.txt", b"the\nlow \xe9t\xe9\n");
    run(&["encoder", "latin.txt", "the"]).fails(1, &["latin.txt", "line 2", "no UTF-8"]);
    fixture::llama().write(&folder.path("llama"));
    run(&["llama", "t.txt", "the"]).fails(1, &["architecture 'llama'", "BERT"]);
    // Templates that name what is not there.
    let processor = |change: fn(&mut Value)| {
        let mut encoder = fixture::bert();
        change(&mut encoder.tokenizer["post_processor"]);
        encoder.write(&folder.path("template"));
        run(&["template", "t.txt", "the"])
    };
    processor(|p| p["special_tokens"] = json!({})).fails(1, &["tokenizer.json", "'[CLS]'", "special tokens"]);
    processor(|p| p["single"] = p["pair"].clone()).fails(1, &["tokenizer.json", "second text"]);
    let in_sequence = |p: &mut Value| {
        p["special_tokens"] = json!({});
        *p = json!({"type": "Sequence", "processors": [p]});
    };
    processor(in_sequence).fails(1, &["tokenizer.json", "'[CLS]'"]);
}

fn eval(folder: &Folder, more: &[&str]) -> Ran {
    folder.run(&[&["eval", "--device", "cpu", "--text", "t.txt"], more].concat())
}

fn quantize(folder: &Folder, scheme: &str, output: &str) {
    let ran = folder.run(&["quantize", "encoder", "-o", output, "--scheme", scheme, "--device", "cpu"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn a_model_agrees_with_itself() {
    let folder = with_encoder();
    let found = eval(&folder, &["encoder", "encoder", "--runs", "0", "--json"]).json();
    assert_eq!(
        (&found["texts"], &found["among"], &found["activation"]),
        (&json!(5), &json!(5), &Value::Null)
    );
    // [CLS] and [SEP] around the words and endings of TEXT.
    assert_eq!(found["tokens"], 5 * 2 + 2 + 3 + 6 + 3 + 1);
    let (own, reference) = (&found["models"][0], &found["reference"]);
    for key in ["mean", "min"] {
        assert!((own["cosine"][key].as_f64().unwrap() - 1.0).abs() < 1e-12, "{own}");
    }
    for key in ["top1", "top10", "kendall_tau"] {
        assert_eq!(own[key], 1.0, "{key}");
    }
    assert_eq!((&own["tokens_per_second"], &own["near_far"]), (&Value::Null, &reference["near_far"]));
    // Everything but the pooler, in f32.
    let layer = 4 * (64 * 64 + 64) + (128 * 64 + 128) + (64 * 128 + 64) + 4 * 64;
    let weights = (16 + 32 + 2) * 64 + 2 * 64 + 2 * layer;
    assert_eq!((&own["bytes"], &own["bits_per_weight"]), (&json!(4 * weights), &json!(32.0)));

    let one = folder.write("one.txt", "the low\n");
    let args = ["encoder", "encoder", "--device", "cpu", "--text", one.to_str().unwrap()];
    let ran = folder.run(&[&["eval"], &args[..]].concat());
    let cells: Vec<&str> = ran.stdout.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!(cells[4..10], ["f32", "1.000000", "1.000000", "-", "-", "-"], "{}", ran.stdout);
    assert!(cells[11].parse::<f64>().unwrap() > 0.0, "{}", ran.stdout);
}

#[test]
fn fewer_bits_agree_less() {
    let folder = with_encoder();
    for (scheme, output) in
        [("q8_0", "q8_0.safetensors"), ("int2-g32", "int2.safetensors"), ("q8_0", "q8_0.gguf")]
    {
        quantize(&folder, scheme, output);
    }
    let models = ["q8_0.safetensors", "int2.safetensors", "q8_0.gguf", "encoder"];
    let ran = eval(&folder, &[&models[..], &["--json", "--svg", "cost.svg", "--runs", "1"]].concat());
    let found = ran.json();
    assert_eq!(ran.stderr, "", "the same tokens, also by the vocabulary in GGUF");
    let cosine = |i: usize, key: &str| found["models"][i]["cosine"][key].as_f64().unwrap();
    let (eight, two) = (cosine(0, "mean"), cosine(1, "mean"));
    assert!((0.999..1.0 - 1e-9).contains(&eight) && two < 0.99 && two > -1.0, "{eight} {two}");
    assert!((0.999..1.0 - 1e-9).contains(&cosine(2, "mean")), "{found}");
    for (i, name) in models[..3].iter().enumerate() {
        let model = &found["models"][i];
        assert_eq!(model["model"], *name);
        assert!(cosine(i, "min") <= cosine(i, "mean"));
        let worst = &model["cosine"]["worst"];
        let line = TEXT.lines().nth(worst["line"].as_u64().unwrap() as usize - 1).unwrap();
        assert_eq!(worst["text"], line.trim());
        assert!(
            model["tokens_per_second"].as_f64().unwrap() > 0.0 && model["load_ms"].as_f64().unwrap() > 0.0
        );
    }
    let bits = |i: usize| found["models"][i]["bits_per_weight"].as_f64().unwrap();
    // Norms and biases stay f32 and count too.
    let (weights, rest) = (2.0 * (4.0 * 4096.0 + 2.0 * 8192.0) + 50.0 * 64.0, 1536.0);
    let expected = |scheme: f64| (weights * scheme + rest * 32.0) / (weights + rest);
    assert!((bits(0) - expected(8.5)).abs() < 0.01 && (bits(1) - expected(2.5)).abs() < 0.01, "{found}");
    let svg = std::fs::read_to_string(folder.path("cost.svg")).unwrap();
    assert_eq!(svg.matches("<circle").count(), 3);
    assert!(
        ["int2.safetensors", "q8_0.gguf", "1 - mean cosine", "size, MiB"]
            .iter()
            .all(|name| svg.contains(name))
    );

    let args = [&models[..], &["--svg", "cost.svg"]].concat();
    eval(&folder, &args).fails(1, &["cost.svg exists", "--force"]);
    let ran = eval(&folder, &[&args[..], &["--force", "--runs", "0"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for word in [&models[..], &["cosine mean", "top-10", "tau", "5 texts (25 tokens)", "among 5"]].concat() {
        assert!(ran.stdout.contains(word), "{word}: {}", ran.stdout);
    }
}

#[test]
fn activations_are_those_of_the_models_alone() {
    let folder = with_encoder();
    let found =
        eval(&folder, &["encoder", "encoder", "--activation", "int8", "--runs", "0", "--json"]).json();
    let mean = found["models"][0]["cosine"]["mean"].as_f64().unwrap();
    assert!((0.99..1.0 - 1e-7).contains(&mean) && found["activation"] == "int8", "{found}");
}

#[test]
fn pairs_of_a_file_are_told_apart() {
    let folder = with_encoder();
    let near_far = |pairs: &str| {
        folder.write("p.tsv", pairs);
        let found =
            eval(&folder, &["encoder", "encoder", "--pairs", "p.tsv", "--runs", "0", "--json"]).json();
        found["reference"]["near_far"].clone()
    };
    assert_eq!(near_far("near\tthe low\tThe LOW\nfar\tthe\tlowbit lowbit\n"), 1.0);
    assert_eq!(near_far("near\tthe\tlowbit lowbit\nfar\tthe low\tThe LOW\n"), 0.0);
    assert_eq!(near_far("near\tthe\tlow\n"), Value::Null);
    folder.write("p.tsv", "near\tthe\tlow\nnear\tthe low\n");
    eval(&folder, &["encoder", "encoder", "--pairs", "p.tsv"]).fails(1, &["p.tsv", "line 2", "tabs"]);
}

#[test]
fn a_nan_is_named() {
    let folder = with_encoder();
    let mut spoiled = fixture::bert();
    spoiled.tensors.get_mut("embeddings.LayerNorm.bias").unwrap().1[5] = f32::NAN;
    spoiled.write(&folder.path("spoiled"));
    let words = ["tensor 'embeddings.LayerNorm.bias': element 5 is NaN"];
    eval(&folder, &["spoiled", "encoder", "--runs", "0"]).fails(1, &words);
}

#[test]
fn models_that_cannot_be_compared_say_why() {
    let folder = with_encoder();
    fixture::bert_of(32).write(&folder.path("narrow"));
    eval(&folder, &["narrow", "encoder"]).fails(1, &["embeddings of narrow", "64 as in encoder", "got 32"]);
    let mut other = fixture::bert();
    let vocab = &mut other.tokenizer["model"]["vocab"];
    (vocab["the"], vocab["low"]) = (json!(8), json!(6));
    other.write(&folder.path("other"));
    let ran = eval(&folder, &["other", "encoder", "--runs", "0"]);
    assert!(
        ran.code == Some(0) && ran.stderr.contains("other and encoder cut the texts into different tokens")
    );

    assert_eq!(eval(&folder, &["encoder"]).code, Some(2));
    assert_eq!(eval(&folder, &["encoder", "encoder", "--runs", "-1"]).code, Some(2));
    eval(&folder, &["encoder", "encoder", "--activation", "int4"]).fails(2, &["'int4'"]);
    eval(&folder, &["none", "encoder"]).fails(1, &["none"]);
    eval(&folder, &["encoder", "none"]).fails(1, &["none"]);
    eval(&folder, &["encoder", "encoder", "--pairs", "none.tsv"]).fails(1, &["none.tsv"]);
    eval(&folder, &["encoder", "encoder", "--svg", "no/such.svg"]).fails(1, &["no/such.svg"]);
    eval(&folder, &["t.txt", "encoder", "--svg", "t.txt", "--force"]).fails(2, &["t.txt is the input"]);
    folder.write("t.txt", "\n");
    eval(&folder, &["encoder", "encoder"]).fails(1, &["t.txt", "only blank lines"]);
}
