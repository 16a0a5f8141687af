//! Long runs: shards, interruptions, going on, memory.
//!
//! ```text
//! a model -> lowbit quantize, killed here and there -> the same command with --resume -> the bytes of a run that nobody killed
//! ```

use super::harness::*;
use lowbit::file::{Model, Value as Meta};
use serde_json::{Value, json};
use std::path::Path;
#[cfg(unix)]
use std::path::PathBuf;
#[cfg(unix)]
use std::process::Stdio;
#[cfg(unix)]
use std::time::{Duration, Instant};

pub fn run(folder: &Folder, line: &str) -> Ran {
    folder.run(&line.split_whitespace().collect::<Vec<_>>())
}

/// A model of `n` weights and as many norms.
pub fn with_layers(n: usize, rows: usize) -> Folder {
    let folder = Folder::new();
    let names: Vec<[String; 2]> =
        (0..n).map(|i| [format!("layers.{i}.mlp.weight"), format!("layers.{i}.norm.weight")]).collect();
    let shape = [rows, 1024];
    let mut tensors: Vec<Raw> = Vec::new();
    for (i, [w, norm]) in names.iter().enumerate() {
        tensors.push((w, "F32", &shape, f32s(&numbers(rows * 1024, i as u32))));
        tensors.push((norm, "F32", &[1024], f32s(&numbers(1024, i as u32))));
    }
    folder.write("m.safetensors", file(&tensors, json!({"format": "pt"})));
    folder
}

pub fn bytes(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn shards_are_written_in_both_formats() {
    let folder = with_layers(6, 64);
    for to in ["gguf", "safetensors"] {
        // In q4_0 a weight has 36864 bytes, a norm 4096: two layers in a shard.
        let line =
            format!("quantize m.safetensors -o q.{to} --scheme q4_0 --device cpu --shard-size 85kB --json");
        let summary = run(&folder, &line).json();
        let names: Vec<String> = (1..=3).map(|n| format!("q-0000{n}-of-00003.{to}")).collect();
        assert_eq!(summary["files"], json!(names));
        let sizes: u64 = names.iter().map(|n| std::fs::metadata(folder.path(n)).unwrap().len()).sum();
        assert_eq!(summary["bytes_after"], sizes);
        assert_eq!(
            run(&folder, &format!("quantize m.safetensors -o whole.{to} --scheme q4_0 --device cpu")).code,
            Some(0)
        );
        let entry_file = if to == "gguf" { names[1].clone() } else { "q.safetensors.index.json".into() };
        let (model, whole) = (
            Model::open(folder.path(&entry_file)).unwrap(),
            Model::open(folder.path(&format!("whole.{to}"))).unwrap(),
        );
        assert_eq!(model.entries().len(), whole.entries().len());
        for (a, b) in model.entries().iter().zip(whole.entries()) {
            assert_eq!((&a.name, &a.shape, &a.content), (&b.name, &b.shape, &b.content));
            assert_eq!(model.raw(a), whole.raw(b), "{}", a.name);
        }
        assert!(model.metadata().iter().eq(whole.metadata().iter()));
        // Shards hold layers in order.
        let first = folder.path(&names[0]);
        if to == "safetensors" {
            let names: Vec<String> =
                Model::open(first).unwrap().entries().iter().map(|e| e.name.clone()).collect();
            assert_eq!(
                names,
                [
                    "layers.0.mlp.weight",
                    "layers.0.norm.weight",
                    "layers.1.mlp.weight",
                    "layers.1.norm.weight"
                ]
            );
            let index: Value = serde_json::from_slice(&bytes(&folder, &entry_file)).unwrap();
            assert_eq!(index["weight_map"]["layers.5.mlp.weight.codes"], "q-00003-of-00003.safetensors");
            let total: u64 = whole.entries().iter().map(|e| e.bytes).sum();
            assert_eq!(index["metadata"]["total_size"], total);
        }
        let again = run(&folder, &line);
        again.fails(1, &[names[0].as_str(), "exists", "--force"]);
        assert_eq!(run(&folder, &format!("{line} --force")).code, Some(0));
    }
    // What fits stays one file.
    let line = "quantize m.safetensors -o one.gguf --scheme q4_0 --device cpu --shard-size 4GB --json";
    assert_eq!(run(&folder, line).json()["files"], json!(["one.gguf"]));
    let one = Model::open(folder.path("one.gguf")).unwrap();
    assert!(!one.metadata().iter().any(|(k, _)| k.starts_with("split.")) && folder.path("one.gguf").exists());
    assert_eq!(run(&folder, "quantize m.safetensors -o x.gguf --scheme q4_0 --shard-size big").code, Some(2));
    // A shard may be the input of no output.
    let itself = "quantize q-00001-of-00003.gguf -o q.gguf --scheme q4_0 --shard-size 85kB --include nothing";
    assert_ne!(run(&folder, itself).code, Some(0));
    assert!(
        !folder.names().iter().any(|n| n.ends_with(".partial") || n.ends_with(".journal")),
        "{:?}",
        folder.names()
    );
}

/// gguf-py reads each shard, and finds the keys that tie them together.
#[test]
fn gguf_py_reads_shards() {
    let Some(python) = std::env::var_os("LOWBIT_TEST_PYTHON") else {
        assert!(!crate::common::under_ci(), "LOWBIT_TEST_PYTHON names no Python with gguf");
        println!("LOWBIT_TEST_PYTHON is not set: gguf-py reads nothing");
        return;
    };
    let folder = with_layers(6, 64);
    let line = "quantize m.safetensors -o q.gguf --scheme q4_k_m --device cpu --shard-size 85kB";
    assert_eq!(run(&folder, line).code, Some(0), "{}", run(&folder, line).stderr);
    let script = "import gguf, json, sys\nout = []\nfor p in sys.argv[1:]:\n    r = gguf.GGUFReader(p)\n    f = {k: v.contents() for k, v in r.fields.items() if not k.startswith('GGUF.')}\n    out.append([f, [[t.name, t.tensor_type.name] for t in r.tensors]])\nprint(json.dumps(out))";
    let shards: Vec<String> = folder.names().into_iter().filter(|n| n.starts_with("q-")).collect();
    let mut command = std::process::Command::new(python);
    let ran = command.args(["-c", script]).args(&shards).current_dir(folder.0.path()).output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout);
    let read: Value = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&ran.stderr)));
    let read = read.as_array().unwrap();
    assert!(read.len() > 1);
    let mut tensors = 0;
    for (no, shard) in read.iter().enumerate() {
        assert_eq!(
            (&shard[0]["split.no"], &shard[0]["split.count"], &shard[0]["split.tensors.count"]),
            (&json!(no), &json!(read.len()), &json!(12))
        );
        assert_eq!(shard[0].get("general.file_type"), (no == 0).then_some(&json!(15)));
        tensors += shard[1].as_array().unwrap().len();
    }
    assert_eq!(tensors, 12);
    assert_eq!(read[0][1][0], json!(["layers.0.mlp.weight", "Q4_K"]));
}

/// Bytes in the unfinished files of a folder and its folders.
#[cfg(unix)]
fn unfinished(path: &Path) -> u64 {
    let of = |item: std::fs::DirEntry| {
        let path = item.path();
        let counts = path.extension().is_some_and(|e| e == "partial");
        match path.is_dir() {
            true => unfinished(&path),
            false => item.metadata().map_or(0, |m| if counts { m.len() } else { 0 }),
        }
    };
    std::fs::read_dir(path).map_or(0, |list| list.flatten().map(of).sum())
}

/// Starts a run, kills it when its files have grown by `more` bytes, and says whether it was still there to be killed.
#[cfg(unix)]
pub fn killed(folder: &Folder, line: &str, more: u64) -> bool {
    let size = || -> u64 { unfinished(folder.0.path()) };
    let before = size();
    let args: Vec<&str> = line.split_whitespace().collect();
    let mut child = folder.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if size() >= before + more {
            child.kill().unwrap();
            let status = child.wait().unwrap();
            return status.code().is_none();
        }
        assert!(Instant::now() < deadline, "{:?}", folder.names());
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Runs a command as it is, and then again, killed at places that `state` gives and gone on with: its outputs are the same bytes, and nothing else
/// is left. They are removed in the end.
#[cfg(unix)]
pub fn survives_kills(folder: &Folder, line: &str, outputs: &[&str], state: &mut u64) {
    let kept = folder.names();
    let clean = || {
        let names = folder.names().into_iter().filter(|n| !kept.contains(n)).map(|n| folder.path(&n));
        names.for_each(|p| match p.is_dir() {
            true => std::fs::remove_dir_all(p).unwrap(),
            false => std::fs::remove_file(p).unwrap(),
        });
    };
    let ran = run(folder, line);
    assert_eq!(ran.code, Some(0), "{line}: {}", ran.stderr);
    let (files, all) = (files_below(folder.0.path()), || outputs.iter().map(|n| bytes(folder, n)));
    let whole: Vec<Vec<u8>> = all().collect();
    clean();
    let total: u64 = whole.iter().map(|w| w.len() as u64).sum();
    let there = || outputs.iter().filter(|n| folder.path(n).exists()).count();
    let mut kills = 0;
    for i in 0..6 {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // The first is no different from a run that nobody meant to go on with.
        let resume = if i == 0 { "" } else { "--resume" };
        if !killed(folder, &format!("{line} {resume}"), 1 + (*state >> 33) % (total / 4)) {
            break;
        }
        kills += 1;
        assert_eq!(there(), 0, "{line}: {:?}", folder.names());
    }
    assert!(kills >= 2, "{line}: killed {kills} times");
    if there() < outputs.len() {
        // Without --resume what is there is neither taken nor lost.
        run(folder, line).fails(1, &["interrupted run", "--resume", "--force"]);
        let summary = run(folder, &format!("{line} --resume --json")).json();
        println!("{line}: killed {kills} times, {} tensors were done", summary["resumed"]);
    }
    for ((name, whole), now) in outputs.iter().zip(&whole).zip(all()) {
        assert!(now == *whole, "{line}: {name} differs after {kills} kills");
    }
    assert_eq!(files_below(folder.0.path()), files, "{line}");
    clean();
}

/// Names of all files in a folder and those in it, sorted.
#[cfg(unix)]
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[cfg(unix)]
#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let folder = with_layers(24, 1024);
    let mut state = 7u64;
    for (options, files) in [
        ("-o q.gguf --scheme q6_k", &["q.gguf"][..]),
        ("-o q.safetensors --scheme q4_k", &["q.safetensors"]),
        (
            "-o s.safetensors --scheme q5_k --shard-size 9MB",
            &["s-00001-of-00002.safetensors", "s-00002-of-00002.safetensors", "s.safetensors.index.json"],
        ),
        ("-o s.gguf --scheme q5_k --shard-size 9MB", &["s-00001-of-00002.gguf", "s-00002-of-00002.gguf"]),
    ] {
        survives_kills(&folder, &format!("quantize m.safetensors {options} --device cpu"), files, &mut state);
    }
}

#[cfg(unix)]
#[test]
fn other_options_and_inputs_do_not_go_on() {
    let folder = with_layers(16, 1024);
    let line = "quantize m.safetensors -o q.gguf --device cpu --resume";
    assert!(killed(&folder, &format!("{line} --scheme q6_k"), 4 << 20));
    run(&folder, &format!("{line} --scheme q5_k"))
        .fails(1, &["--scheme was 'q6_k' and is 'q5_k'", "--force"]);
    run(&folder, &format!("{line} --scheme q6_k --exclude norm"))
        .fails(1, &["--exclude was not there and is 'norm'"]);
    run(&folder, &format!("{line} --scheme q6_k --transform hadamard"))
        .fails(1, &["--transform was not there and is 'hadamard'"]);
    run(&folder, &format!("{line} --scheme q6_k --shard-size 1MB")).fails(1, &["--shard-size was not there"]);
    let input = bytes(&folder, "m.safetensors");
    folder.write("m.safetensors", &input);
    run(&folder, &format!("{line} --scheme q6_k")).fails(1, &["input m.safetensors was", "changed"]);
    assert_eq!(folder.names(), ["m.safetensors", "q.gguf.journal", "q.gguf.partial"]);
    let partial = bytes(&folder, "q.gguf.partial");
    assert!(partial.len() >= 4 << 20);
    // Starting over.
    let ran = run(&folder, "quantize m.safetensors -o q.gguf --device cpu --scheme q5_k --force");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(folder.names(), ["m.safetensors", "q.gguf"]);
    run(&folder, "quantize m.safetensors -o /dev/null --device cpu --scheme q5_k --resume")
        .fails(2, &["no regular file"]);
}

/// Ctrl-C: with --resume what is done is kept, without it nothing is (`outputs` has that).
#[cfg(unix)]
#[test]
fn an_interrupted_run_is_kept_if_asked_for() {
    let folder = with_layers(24, 1024);
    let line = "quantize m.safetensors -o q.gguf --device cpu --scheme q6_k --resume";
    let args: Vec<&str> = line.split_whitespace().collect();
    let child = folder.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::fs::metadata(folder.path("q.gguf.partial")).map_or(0, |m| m.len()) < 1 << 20 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    assert!(ran.stderr.contains("goes on from here"), "{}", ran.stderr);
    assert_eq!(folder.names(), ["m.safetensors", "q.gguf.journal", "q.gguf.partial"]);
    assert_eq!(run(&folder, line).code, Some(0));
    let resumed = bytes(&folder, "q.gguf");
    assert_eq!(run(&folder, &line.replace("--resume", "--force")).code, Some(0));
    assert!(bytes(&folder, "q.gguf") == resumed);
}

/// An error keeps what is done too: the same command fails at the same place, or goes on when there is room again.
#[cfg(unix)]
#[test]
fn a_full_disk_is_gone_on_with() {
    let folder = with_layers(24, 1024);
    let q = "\"$LOWBIT\" quantize m.safetensors -o q.gguf --scheme q8_0 --device cpu";
    let limited = format!("ulimit -f 8192; trap '' XFSZ; exec {q} --resume");
    folder.shell(&limited).fails(1, &["q.gguf", "File too large"]);
    assert_eq!(folder.names(), ["m.safetensors", "q.gguf.journal", "q.gguf.partial"]);
    folder.shell(&limited).fails(1, &["q.gguf", "File too large"]);
    assert_eq!(folder.shell(&format!("{q} --resume")).code, Some(0));
    let resumed = bytes(&folder, "q.gguf");
    assert_eq!(folder.shell(&format!("{q} --force")).code, Some(0));
    assert!(bytes(&folder, "q.gguf") == resumed);
    assert_eq!(folder.names(), ["m.safetensors", "q.gguf"]);
}

/// The most memory that a run had, in bytes, as the kernel says once it has ended.
#[cfg(target_os = "linux")]
pub fn peak(folder: &Folder, line: &str) -> u64 {
    // The shell waits for its child; /proc is read while that still runs.
    let args: Vec<&str> = line.split_whitespace().collect();
    let mut child = folder.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = Path::new("/proc").join(child.id().to_string()).join("status");
    let mut most = 0;
    loop {
        if let Ok(text) = std::fs::read_to_string(&status) {
            let kib = text
                .lines()
                .find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            most = most.max(kib.unwrap_or(0) << 10);
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{line}");
            return most;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A model many times larger than what a run may have in memory: three times its largest tensor, and 200 MB for the program.
#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_model() {
    let folder = Folder::new();
    const TENSOR: u64 = 64 << 20;
    let count = 32;
    sparse_model(&folder.path("m.safetensors"), count, TENSOR as usize);
    let limit = 3 * TENSOR + 200_000_000;
    // More than the limit, or the test could not fail.
    assert!(count as u64 * TENSOR > 5 * limit);
    for options in [
        "-o q.gguf --scheme q4_k",
        "-o q.safetensors --scheme q8_0 --shard-size 300MB",
        "-o q.safetensors --scheme int4-g32 --nonfinite zero --force",
        "-o c.safetensors --scheme q8_0 --include layers.7.w",
    ] {
        let most = peak(&folder, &format!("quantize m.safetensors {options} --device cpu"));
        println!("{options}: {} MB of {} MB", most / 1_000_000, limit / 1_000_000);
        assert!(most > 10_000_000 && most < limit, "{options}: {most} of {limit}");
    }
    assert_eq!(
        Model::open(folder.path("q.gguf")).unwrap().metadata().get("general.file_type"),
        Some(&Meta::U32(14))
    );
}
