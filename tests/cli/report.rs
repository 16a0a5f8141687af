//! `lowbit report`: the page parsed, and its measures beside those of `compare`.
//!
//! ```text
//! models made here -> lowbit report -> HTML -> parsed as XML -> every layer, nothing from outside
//!                                   -> JSON -> the errors that compare finds, counts of codes
//! ```

use super::harness::*;
use serde_json::{Value, json};

fn report(folder: &Folder, more: &[&str]) -> Ran {
    folder.run(&[&["report", "m.safetensors"], more, &["--device", "cpu"]].concat())
}

/// The text of all elements of a kind.
fn texts(document: &roxmltree::Document, tag: &str) -> Vec<String> {
    let text = |node: roxmltree::Node| {
        node.descendants().filter(|n| n.is_text()).filter_map(|n| n.text()).collect::<String>()
    };
    document.descendants().filter(|n| n.has_tag_name(tag)).map(text).collect()
}

#[test]
fn the_page_is_whole_and_asks_for_nothing() {
    let folder = with_model();
    let odd = "<b> & \"q\" 'it' \u{1b}[1m";
    let weights = numbers(4 * 64, 8);
    let with_odd = |values: &[f32]| {
        file(
            &[(odd, "F32", &[4, 64], f32s(values)), ("x.w", "F32", &[4, 64], f32s(&weights))],
            json!({"a<b": "c&d"}),
        )
    };
    folder.write("odd.safetensors", with_odd(&weights));
    quantize(&folder, &["--scheme", "int4-g32", "--method", "percentile:95"]);
    let args =
        ["quantize", "odd.safetensors", "-o", "oddq.safetensors", "--scheme", "q4_0", "--device", "cpu"];
    assert_eq!(folder.run(&args).code, Some(0));
    for (original, quantized, names) in [
        ("m.safetensors", "q.safetensors", vec!["layers.2.w", "layers.10.w", "experts.w", "odd.w"]),
        ("odd.safetensors", "oddq.safetensors", vec!["<b> & \"q\" 'it' \\u{1b}[1m", "x.w"]),
    ] {
        let ran = folder.run(&["report", original, quantized, "-o", "r.html", "--force", "--device", "cpu"]);
        assert!(ran.code == Some(0) && ran.stdout.contains("r.html: "), "{}{}", ran.stdout, ran.stderr);
        let page = std::fs::read_to_string(folder.path("r.html")).unwrap();
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        let document = roxmltree::Document::parse_with_options(&page, options).unwrap();
        let sections = texts(&document, "h3");
        for name in &names {
            assert!(sections.iter().any(|text| text == name), "{name} in {sections:?}");
            assert!(texts(&document, "td").iter().any(|text| text == name), "{name}");
        }
        assert_eq!(sections.len(), names.len());
        assert!(
            page.starts_with("<!DOCTYPE html>") && page.contains("viewport") && page.contains("@media print")
        );
        for node in document.descendants() {
            let tag = node.tag_name().name();
            assert!(!["script", "link", "img", "iframe", "object", "base"].contains(&tag), "{tag}");
            for attribute in node.attributes() {
                let (name, value) = (attribute.name(), attribute.value());
                let leads = ["href", "src", "action", "data", "srcset"].contains(&name);
                assert!(!leads || value.starts_with('#'), "{name}={value}");
                assert!(!name.starts_with("on") && !value.contains("://"), "{name}={value}");
                // Links lead to a layer that is there.
                let is_target = |n: &roxmltree::Node| n.attribute("id") == value.strip_prefix('#');
                assert!(!leads || document.descendants().any(|n| is_target(&n)), "{value}");
            }
        }
        let style = texts(&document, "style").concat();
        assert!(
            !style.contains("url(")
                && !style.contains("@import")
                && style.contains("prefers-color-scheme: dark")
        );
        assert!(!page.contains("NaN") && !page.contains('\u{1b}'));
    }
    let again = folder.run(&["report", "m.safetensors", "q.safetensors", "-o", "r.html", "--device", "cpu"]);
    again.fails(1, &["r.html exists"]);
}

#[test]
fn measures_are_those_of_compare() {
    let folder = with_model();
    quantize(&folder, &["--scheme", "int4-g32", "--method", "percentile:80"]);
    let told = report(&folder, &["q.safetensors", "--json"]).json();
    let compared =
        folder.run(&["compare", "m.safetensors", "q.safetensors", "--device", "cpu", "--json"]).json();
    assert_eq!(told["total"]["sqnr_db"], compared["total"]["sqnr_db"]);
    let layers = told["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 4);
    let mut last = f64::NEG_INFINITY;
    for layer in layers {
        let name = layer["name"].as_str().unwrap();
        let same = entry(&compared["tensors"], name);
        for measure in ["sqnr_db", "cosine", "max_abs_error", "mean_abs_error"] {
            assert_eq!(layer["errors"][measure], same[measure], "{name} {measure}");
        }
        assert_eq!((&layer["bytes"], &layer["scheme"]), (&same["bytes"], &same["scheme"]), "{name}");
        let sqnr = layer["errors"]["sqnr_db"].as_f64().unwrap();
        assert!(sqnr >= last, "the worst first");
        last = sqnr;
        let sum = |list: &Value| list.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>();
        let weights = layer["weights"].as_u64().unwrap();
        assert_eq!((sum(&layer["codes"]), layer["codes"].as_array().unwrap().len()), (weights, 16), "{name}");
        assert_eq!(
            (sum(&layer["histogram"]["original"]), sum(&layer["histogram"]["quantized"])),
            (weights, weights)
        );
        // A fifth lies beyond, but for what half a step more holds.
        let clipped = layer["clipped"]["weights"].as_f64().unwrap();
        assert!(clipped > 0.05 && clipped < 0.2, "{name}: {clipped}");
    }
    let names = |list: &Value| list.as_array().unwrap().iter().map(|t| t["name"].clone()).collect::<Vec<_>>();
    let mut left = names(&told["left"]);
    left.sort_by_key(|name| name.to_string());
    assert_eq!(left, ["empty.w", "norm.b", "scalar", "thin.w"]);
}

/// What a file says of the inputs of its layers: a column, a line, JSON.
#[test]
fn activations_are_told_of_each_layer() {
    let folder = Folder::new();
    let weights = numbers(4 * 64, 8);
    let halves: Vec<f32> = weights.iter().map(|v| v * 0.99).collect();
    let tensors = |values: &[f32]| {
        let layer = |name: &'static str, values: &[f32]| (name, "F32", &[4usize, 64][..], f32s(values));
        [layer("a.w", values), layer("b.w", values), layer("c.w", values), layer("kept.w", &weights)]
    };
    let said = json!({"a.w": "int8-g32", "b.w": {"scale": 0.03125, "zero_point": -4}, "kept.w": "int8-g32"});
    folder.write("m.safetensors", file(&tensors(&weights), Value::Null));
    folder.write("q.safetensors", file(&tensors(&halves), json!({"lowbit.activations": said.to_string()})));
    let told = report(&folder, &["q.safetensors", "--json", "-o", "r.html"]).json();
    let takes = |name: &str| entry(&told["layers"], name)["activations"].clone();
    assert_eq!(takes("a.w"), "int8-g32");
    assert_eq!(takes("b.w"), json!({"scale": 0.03125, "zero_point": -4}));
    assert_eq!(takes("c.w"), "f32");
    assert_eq!(told["left"][0]["activations"], "int8-g32");
    assert_eq!(told["activations"], json!({"int8-g32": 2, "int8-static": 1}));
    let page = std::fs::read_to_string(folder.path("r.html")).unwrap();
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(&page, options).unwrap();
    // Of each table that has the column: what stands in it, beside the layer's name.
    let mut column = Vec::new();
    for table in document.descendants().filter(|n| n.has_tag_name("table")) {
        let of_row = |row: roxmltree::Node| -> Vec<String> {
            let cells = row.children().filter(|n| n.has_tag_name("td") || n.has_tag_name("th"));
            cells
                .map(|n| n.descendants().filter_map(|t| t.text().filter(|_| t.is_text())).collect())
                .collect()
        };
        let rows: Vec<Vec<String>> =
            table.descendants().filter(|n| n.has_tag_name("tr")).map(of_row).collect();
        let name = rows[0].iter().position(|head| head == "layer" || head == "tensor");
        if let (Some(name), Some(at)) = (name, rows[0].iter().position(|head| head == "activations")) {
            column.extend(rows[1..].iter().map(|row| (row[name].clone(), row[at].clone())));
        }
    }
    column.sort();
    let expected = [
        ("a.w", "int8-g32"),
        ("b.w", "int8, scale 3.1250e-2, zero-point -4"),
        ("c.w", "f32"),
        ("kept.w", "int8-g32"),
    ];
    assert_eq!(column, expected.map(|(name, takes)| (name.to_string(), takes.to_string())));
    let line = "int8-g32 for 2 layers, int8-static for 1 layer";
    assert!(page.contains(line), "{page}");
    let ran = report(&folder, &["q.safetensors", "-o", "r.html", "--force"]);
    assert!(ran.stdout.contains(&format!("activations: {line}")), "{}{}", ran.stdout, ran.stderr);

    // A file that says nothing has no such column; one that says nonsense is refused.
    folder.write("q.safetensors", file(&tensors(&halves), Value::Null));
    let ran = report(&folder, &["q.safetensors", "-o", "r.html", "--force"]);
    assert!(ran.code == Some(0) && !ran.stdout.contains("activations"), "{}{}", ran.stdout, ran.stderr);
    assert!(!std::fs::read_to_string(folder.path("r.html")).unwrap().contains("activations"));
    folder.write("q.safetensors", file(&tensors(&halves), json!({"lowbit.activations": "{\"a.w\": 3}"})));
    report(&folder, &["q.safetensors", "--json"]).fails(1, &["lowbit.activations", "'a.w'"]);
}

#[test]
fn tensors_without_a_counterpart_are_named() {
    let folder = with_model();
    let other = file(
        &[
            ("layers.2.w", "F32", &[6, 512], f32s(&numbers(6 * 512, 9))),
            ("layers.10.w", "F16", &[256, 4], f16s(&numbers(4 * 256, 2))),
            ("ids", "I64", &[2, 2], vec![8; 32]),
            ("new", "F32", &[1], f32s(&[1.0])),
        ],
        Value::Null,
    );
    folder.write("o.safetensors", other);
    let told = report(&folder, &["o.safetensors", "--json", "-o", "r.html"]).json();
    assert_eq!(told["only_in_quantized"], json!(["new"]));
    assert_eq!(told["different"], json!(["ids"]));
    assert!(told["only_in_original"].as_array().unwrap().contains(&json!("odd.w")));
    let shapes = json!([{"name": "layers.10.w", "original": "4x256", "quantized": "256x4"}]);
    assert_eq!(told["other_shape"], shapes);
    assert_eq!(told["layers"][0]["codes"], json!([]), "a plain tensor that differs has no codes");
    let page = std::fs::read_to_string(folder.path("r.html")).unwrap();
    assert!(page.contains("layers.10.w: 4x256 and 256x4") && page.contains("Only in the original"));
    folder.write("n.safetensors", file(&[("new", "F32", &[1], f32s(&[1.0]))], Value::Null));
    report(&folder, &["n.safetensors", "--json"]).fails(1, &["no float tensor", "m.safetensors"]);
    assert_eq!(report(&folder, &["o.safetensors"]).code, Some(2));
}

#[test]
fn a_layer_far_below_the_others_is_to_be_kept_higher() {
    let folder = Folder::new();
    let mut spiked = numbers(8 * 256, 2);
    spiked.iter_mut().step_by(256).for_each(|v| *v *= 40.0);
    let layer = |name: &'static str, values: &[f32]| (name, "F32", &[8usize, 256][..], f32s(values));
    let plain: Vec<Vec<f32>> = (3..6).map(|seed| numbers(8 * 256, seed)).collect();
    let tensors = [layer("a", &plain[0]), layer("b", &spiked), layer("c", &plain[1]), layer("d", &plain[2])];
    folder.write("m.safetensors", file(&tensors, Value::Null));
    assert_eq!(quantize(&folder, &["--scheme", "int4-row"]).code, Some(0));
    let told = report(&folder, &["q.safetensors", "--json", "-o", "r.html"]).json();
    assert_eq!((&told["layers"][0]["name"], &told["suggestions"][0]["name"]), (&json!("b"), &json!("b")));
    assert!(told["suggestions"][0]["what"].as_str().unwrap().contains("keep it higher"));
    assert!(told["suggestions"].as_array().unwrap().iter().all(|s| s["name"] == "b"));
    assert_eq!(told["scheme_file"], json!(["'^b$' = \"int5-row\""]));
    // The rule is one that quantize takes.
    folder.write("mix.toml", format!("default = \"int4-row\"\n[tensors]\n{}\n", "'^b$' = \"int5-row\""));
    let args = [
        "quantize",
        "m.safetensors",
        "-o",
        "k.safetensors",
        "--scheme-file",
        "mix.toml",
        "--device",
        "cpu",
        "--json",
    ];
    assert_eq!(entry(&folder.run(&args).json()["quantized"], "b")["scheme"], "int5-row");
}
