//! `lowbit train-digits`: the figures of five seeds, what it writes, and bad input.

use crate::harness::*;
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Points of accuracy: the mean over the seeds.
fn points(each: &Value) -> f64 {
    100.0 * each["mean"].as_f64().unwrap_or_else(|| panic!("no mean in {each}"))
}

fn row<'a>(result: &'a Value, scheme: &str) -> &'a Value {
    let rows = result["schemes"].as_array().unwrap();
    rows.iter().find(|row| row["scheme"] == scheme).unwrap_or_else(|| panic!("no {scheme} in {result}"))
}

fn best(row: &Value) -> f64 {
    points(&row["ptq"][row["best_ptq"].as_str().unwrap()])
}

#[test]
fn five_seeds_reach_their_figures() {
    let folder = Folder::new();
    let result = folder.run(&["train-digits", "--device", "cpu", "--json"]).json();
    assert_eq!((&result["seeds"], &result["complete"]), (&5.into(), &true.into()));
    let float = points(&result["f32"]);
    println!("f32 {float:.2}");
    for row in result["schemes"].as_array().unwrap() {
        assert_eq!(row["qat"]["each"].as_array().unwrap().len(), 5);
        let methods: Vec<String> = row["ptq"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(m, each)| format!("{m} {:.2}", points(each)))
            .collect();
        println!("{}: {}; QAT {:.2}", row["scheme"], methods.join(", "), points(&row["qat"]));
    }
    assert!(float > 96.5, "{float}");
    let (int8, int4, int2) = (row(&result, "int8-row"), row(&result, "int4-row"), row(&result, "int2-row"));
    for method in ["absmax", "minmax", "mse"] {
        let reached = points(&int8["ptq"][method]);
        assert!((reached - float).abs() <= 0.3, "int8 {method}: {reached} of {float}");
    }
    assert!(best(int4) >= float - 1.0, "int4: {} of {float}", best(int4));
    let (qat, ptq) = (points(&int2["qat"]), best(int2));
    assert!(qat >= float - 1.5, "int2: {qat} of {float}");
    let gap = float - ptq;
    match gap >= 1.0 {
        true => assert!(qat >= ptq + gap / 2.0, "int2: {qat} closes less than half of {ptq} to {float}"),
        false => assert!(qat >= ptq, "int2: {qat} is below {ptq}"),
    }
    // The figures are not those of networks that learned nothing, nor is everything equal.
    assert!(points(&int2["ptq"]["absmax"]) < float - 5.0);
}

#[test]
fn a_trained_network_is_a_file_that_the_demo_runs() {
    let folder = Folder::new();
    let line = [
        "train-digits",
        "--device",
        "cpu",
        "--seeds",
        "1",
        "--epochs",
        "4",
        "--qat-epochs",
        "4",
        "--schemes",
        "int8-row,int4-g32-asym",
        "--gradual",
        "--half",
        "-o",
        "net.safetensors",
        "--svg",
        "bits.svg",
    ];
    let ran = folder.run(&line);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for word in
        ["f32: ", "PTQ mse", "PTQ hqq", "QAT", "gap closed", "int4-g32-asym", "demo --model net.safetensors"]
    {
        assert!(ran.stdout.contains(word), "{word}: {}", ran.stdout);
    }
    assert!(std::fs::read_to_string(folder.path("bits.svg")).unwrap().contains("trained in these bits"));
    let list = folder.run(&["inspect", "net.safetensors", "--json"]).json();
    let tensors = list["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 6);
    assert_eq!(tensors.iter().filter(|t| t["scheme"] == "int4-g32-asym").count(), 3, "{list}");
    let demo = folder.run(&["demo", "--device", "cpu", "--model", "net.safetensors", "--json"]).json();
    let schemes = demo["schemes"].as_array().unwrap();
    assert_eq!((schemes.len(), &schemes[0]["scheme"]), (1, &"int4-g32-asym".into()));
    assert_eq!(demo["checks"]["failures"].as_array().unwrap().len(), 0);
    // The file holds what was measured.
    let ran = folder.run(&[&line[..line.len() - 4], &["--json"]].concat()).json();
    let measured = row(&ran, "int4-g32-asym")["qat"]["each"][0].as_f64().unwrap();
    assert_eq!(schemes[0]["accuracy"].as_f64().unwrap(), measured);
    assert!(measured > 0.8, "{measured}");
    folder.run(&line).fails(1, &["net.safetensors exists"]);
}

/// Whatever comes before a scheme in the list, and after it.
#[test]
fn figures_do_not_depend_on_the_place_in_the_list() {
    let folder = Folder::new();
    let of = |schemes: &str| {
        let line = ["train-digits", "--device", "cpu", "--seeds", "2", "--epochs", "2", "--qat-epochs", "2"];
        folder.run(&[&line[..], &["--schemes", schemes, "--json"]].concat()).json()
    };
    let (both, turned) = (of("int3-row,int2-row"), of("int2-row,int3-row"));
    let alone = of("int2-row");
    for scheme in ["int2-row", "int3-row"] {
        assert_eq!(row(&both, scheme), row(&turned, scheme));
    }
    assert_eq!(row(&both, "int2-row"), row(&alone, "int2-row"));
    assert_ne!(row(&both, "int2-row")["qat"], row(&both, "int3-row")["qat"]);
}

#[test]
fn bad_wishes_are_refused_in_a_line() {
    let folder = Folder::new();
    let run = |more: &[&str]| folder.run(&[&["train-digits", "--device", "cpu"], more].concat());
    run(&["--schemes", "int2-row,nope"]).fails(2, &["nope"]);
    run(&["--schemes", "nf4-g64", "--seeds", "1", "--epochs", "0"]).fails(1, &["training for nf4-g64"]);
    run(&["--share", "1.5"]).fails(2, &["--share 1.5"]);
    assert_eq!(run(&["--seeds", "0"]).code, Some(2));
    folder.write("other.safetensors", model());
    folder.run(&["demo", "--model", "other.safetensors"]).fails(1, &["fc1.weight"]);
    let wrong =
        [("fc1.weight", "F32", &[2, 2][..], f32s(&[0.0; 4])), ("fc1.bias", "F32", &[2], f32s(&[0.0; 2]))];
    folder.write("small.safetensors", file(&wrong, Value::Null));
    folder.run(&["demo", "--model", "small.safetensors"]).fails(1, &["fc1.weight", "[256, 256]", "[2, 2]"]);
}

/// What came so far is told, with the exit code of an interrupted run.
#[cfg(unix)]
#[test]
fn an_interrupted_training_tells_what_it_has() {
    let folder = Folder::new();
    let args = ["train-digits", "--device", "cpu", "--seeds", "1", "--epochs", "1", "--qat-epochs", "100000"];
    let child = folder.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // An epoch in f32 takes a fraction of a second.
    std::thread::sleep(Duration::from_secs(20));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("Interrupted") && ran.stdout.contains("PTQ mse"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("f32: - %"), "{}", ran.stdout);
    assert!(ran.stderr.contains("interrupt again"), "{}", ran.stderr);
}
