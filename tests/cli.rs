//! The command line as a user meets it: the binary is run on small files made here, and on a real model if there is one.
//!
//! ```text
//! bytes of safetensors (made here) -> lowbit ... -> exit code, stdout, stderr, files
//! ```
//!
//! Every run is checked for the traces of a panic. `LOWBIT_TEST_MODEL` names the real model (`scripts/test.sh` sets it); without it
//! that test says so, and fails under `CI`.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const LOWBIT: &str = env!("CARGO_BIN_EXE_lowbit");

/// What a run of the binary left.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ran =
            Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) };
        assert!(!ran.stderr.contains("panicked") && !ran.stderr.contains("RUST_BACKTRACE"), "{}", ran.stderr);
        ran
    }

    /// The JSON on stdout of a run that succeeded.
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// The one line of a run that failed with this code, which must contain all of `words`.
    fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        let line = self.stderr.lines().last().unwrap_or_default();
        assert!(line.starts_with("lowbit: "), "{}", self.stderr);
        for word in words {
            assert!(line.contains(word), "'{word}' is missing in: {line}");
        }
    }
}

/// A folder of files for one test.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// All names in it, hidden ones too.
    fn names(&self) -> Vec<String> {
        let list = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            list.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Runs the binary here.
    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(LOWBIT);
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Runs a line of shell here, `$LOWBIT` being the binary.
    #[cfg(unix)]
    fn shell(&self, line: &str) -> Ran {
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("LOWBIT", LOWBIT).current_dir(self.0.path()).stdin(Stdio::null());
        Ran::of(command.output().unwrap())
    }
}

/// One tensor of a file: name, type, shape, bytes.
type Raw<'a> = (&'a str, &'a str, &'a [usize], Vec<u8>);

/// A safetensors file.
fn file(tensors: &[Raw<'_>], metadata: Value) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    if !metadata.is_null() {
        header.insert("__metadata__".into(), metadata);
    }
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.to_string(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend(bytes);
    }
    with_header(&Value::from(header).to_string(), &data)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Numbers in -1..1 that look random: a linear congruence with a fixed seed.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn f16s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
}

fn bf16s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()
}

/// A little of everything: three float types, experts, a K that whole blocks do not fit, and things to be copied.
fn model() -> Vec<u8> {
    file(
        &[
            ("layers.2.w", "F32", &[6, 512], f32s(&numbers(6 * 512, 1))),
            ("layers.10.w", "F16", &[4, 256], f16s(&numbers(4 * 256, 2))),
            ("experts.w", "BF16", &[3, 2, 256], bf16s(&numbers(3 * 2 * 256, 3))),
            ("odd.w", "F32", &[5, 33], f32s(&numbers(5 * 33, 4))),
            ("norm.b", "F32", &[256], f32s(&numbers(256, 5))),
            ("ids", "I64", &[2, 2], vec![7; 32]),
            ("empty.w", "F32", &[0, 256], vec![]),
            ("thin.w", "F32", &[4, 0], vec![]),
            ("scalar", "F32", &[], f32s(&[0.5])),
        ],
        json!({"format": "pt", "author": "a test"}),
    )
}

fn with_model() -> Folder {
    let folder = Folder::new();
    folder.write("m.safetensors", model());
    folder
}

fn entry<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|t| t["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

const QUANTIZE: [&str; 6] = ["quantize", "m.safetensors", "-o", "q.safetensors", "--device", "cpu"];

fn quantize(folder: &Folder, more: &[&str]) -> Ran {
    folder.run(&[&QUANTIZE[..], more].concat())
}

#[test]
fn help_shows_an_example_for_every_command() {
    let folder = Folder::new();
    let help = folder.run(&["--help"]);
    assert_eq!(help.code, Some(0));
    let commands: Vec<&str> = help
        .stdout
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| !l.is_empty())
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    for command in
        ["demo", "devices", "quantize", "dequantize", "inspect", "compare", "shaders", "selftest", "schemes"]
    {
        assert!(commands.contains(&command), "{commands:?}");
    }
    for command in commands.into_iter().filter(|c| *c != "help") {
        let help = folder.run(&[command, "--help"]);
        assert_eq!(help.code, Some(0), "{command}");
        assert!(help.stdout.contains("Example"), "{command}: {}", help.stdout);
        assert!(help.stdout.contains(&format!("lowbit {command}")), "{command}");
    }
    assert_eq!(folder.run(&["--version"]).stdout.trim(), format!("lowbit {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_exits_with_2() {
    let folder = with_model();
    assert_eq!(folder.run(&["nonsense"]).code, Some(2));
    assert_eq!(folder.run(&["quantize", "m.safetensors"]).code, Some(2));
    assert_eq!(quantize(&folder, &["--scheme", "q4_0", "--nonfinite", "maybe"]).code, Some(2));
    quantize(&folder, &["--scheme", "q4_9"]).fails(2, &["'q4_9'", "did you mean 'q4_"]);
    quantize(&folder, &["--scheme", "int4-g32-asm"]).fails(2, &["did you mean 'int4-g32-asym'"]);
    quantize(&folder, &["--scheme", "int9-g32"]).fails(2, &["int9-g32", "bits"]);
    quantize(&folder, &["--scheme", "q4_0", "--include", "("]).fails(2, &["--include"]);
    folder.run(&["devices", "--model-size", "big"]).fails(2, &["--model-size 'big'"]);
    folder.run(&["shaders", "--dump", "d", "--kernel", "nothing"]).fails(2, &["'nothing'", "matvec"]);
    folder.run(&["selftest", "--kernel", "nothing"]).fails(2, &["'nothing'"]);
    assert_eq!(folder.names(), ["m.safetensors"]);
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let folder = with_model();
    let args =
        ["quantize", "m.safetensors", "-o", "q.safetensors", "--scheme", "q4_0", "--device", "no such thing"];
    folder.run(&args).fails(1, &["no adapter", "'no such thing'", "found:"]);
    assert_eq!(folder.names(), ["m.safetensors"]);
}

#[test]
fn quantize_packs_what_fits_and_copies_the_rest() {
    let folder = with_model();
    let ran = quantize(&folder, &["--scheme", "q4_k", "--json"]);
    let summary = ran.json();
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(names(&summary["quantized"]), ["experts.w", "layers.2.w", "layers.10.w"]);
    assert_eq!(entry(&summary["quantized"], "experts.w")["shape"], json!([3, 2, 256]));
    assert_eq!(summary["bits_per_weight"], json!(4.625));
    for (name, reason) in [
        ("odd.w", "K = 33"),
        ("empty.w", "size 0"),
        ("thin.w", "size 0"),
        ("norm.b", "two dimensions"),
        ("scalar", "two dimensions"),
        ("ids", "not f32"),
    ] {
        let given = entry(&summary["copied"], name)["reason"].as_str().unwrap();
        assert!(given.contains(reason), "{name}: {given}");
    }
    // What does not fit is also told on stderr, by name, with scheme, K and block.
    assert!(ran.stderr.contains("'odd.w' [5, 33]: scheme q4_k needs K to be a multiple of 256, got K = 33"));
    let size = std::fs::metadata(folder.path("q.safetensors")).unwrap().len();
    assert_eq!(summary["bytes_after"], json!(size));
    assert_eq!(folder.names(), ["m.safetensors", "q.safetensors"]);

    // The file: an ordinary safetensors file with the user's metadata, the rest copied bit for bit.
    let bytes = std::fs::read(folder.path("q.safetensors")).unwrap();
    let plain = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(plain.tensor("ids").unwrap().data(), [7; 32]);
    assert_eq!(plain.tensor("odd.w").unwrap().data(), f32s(&numbers(5 * 33, 4)));
    assert!(plain.tensor("layers.2.w.codes").is_ok() && plain.tensor("layers.2.w").is_err());
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    assert_eq!((metadata["author"].as_str(), metadata["lowbit.version"].as_str()), ("a test", "1"));
    let described: Value = serde_json::from_str(&metadata["lowbit.tensors"]).unwrap();
    assert_eq!(described["experts.w"], json!({"scheme": "q4_k", "shape": [3, 2, 256], "dtype": "BF16"}));

    let list = folder.run(&["inspect", "q.safetensors", "--json"]).json();
    assert_eq!(entry(&list["tensors"], "layers.10.w")["scheme"], "q4_k");
    assert_eq!(entry(&list["tensors"], "layers.10.w")["bits_per_weight"], 4.625);
    assert_eq!(entry(&list["tensors"], "layers.10.w")["shape"], json!([4, 256]));
    assert_eq!((list["total"]["tensors"].as_u64(), list["total"]["packed"].as_u64()), (Some(9), Some(3)));
    assert_eq!(list["metadata"], json!({"format": "pt", "author": "a test"}));
    let table = folder.run(&["inspect", "q.safetensors"]).stdout;
    let at = |name: &str| table.find(name).unwrap_or_else(|| panic!("no {name}: {table}"));
    assert!(at("layers.2.w") < at("layers.10.w") && table.contains("9 tensors (3 packed)"));
}

#[test]
fn names_select_and_strict_refuses() {
    let folder = with_model();
    let more = ["--scheme", "int4-g32", "--include", "layers|odd", "--exclude", r"\.10\.", "--json"];
    let summary = quantize(&folder, &more).json();
    let quantized: Vec<&str> =
        summary["quantized"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(quantized, ["layers.2.w", "odd.w"]);
    assert_eq!(entry(&summary["copied"], "layers.10.w")["reason"], "not selected by name");
    std::fs::remove_file(folder.path("q.safetensors")).unwrap();

    quantize(&folder, &["--scheme", "q4_0", "--strict"]).fails(1, &["'empty.w'", "size 0"]);
    let strict = ["--scheme", "q4_0", "--strict", "--include", "odd"];
    quantize(&folder, &strict).fails(1, &["'odd.w'", "q4_0", "multiple of 32", "K = 33"]);
    quantize(&folder, &["--scheme", "q4_0", "--include", "odd"])
        .fails(1, &["no tensor to quantize", "K = 33"]);
    quantize(&folder, &["--scheme", "q4_0", "--include", "thin"])
        .fails(1, &["no tensor to quantize", "size 0"]);
    quantize(&folder, &["--scheme", "q4_0", "--include", "zzz"]).fails(1, &["no tensor to quantize"]);
    assert_eq!(folder.names(), ["m.safetensors"]);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let folder = with_model();
    assert_eq!(quantize(&folder, &["--scheme", "nf4-g64"]).code, Some(0));
    let first = std::fs::read(folder.path("q.safetensors")).unwrap();
    assert_eq!(quantize(&folder, &["--scheme", "nf4-g64", "--force"]).code, Some(0));
    assert_eq!(std::fs::read(folder.path("q.safetensors")).unwrap(), first);
}

#[test]
fn a_packed_file_is_extended_and_comes_back() {
    let folder = with_model();
    assert_eq!(quantize(&folder, &["--scheme", "q8_0", "--include", "layers"]).code, Some(0));
    let again = [
        "quantize",
        "q.safetensors",
        "-o",
        "r.safetensors",
        "--scheme",
        "int8-row",
        "--device",
        "cpu",
        "--json",
    ];
    let summary = folder.run(&again).json();
    assert_eq!(entry(&summary["copied"], "layers.2.w")["reason"], "already packed");
    let list = folder.run(&["inspect", "r.safetensors", "--json"]).json();
    assert_eq!(entry(&list["tensors"], "layers.2.w")["scheme"], "q8_0");
    assert_eq!(entry(&list["tensors"], "odd.w")["scheme"], "int8-row");

    // Back to the types they had; what was only copied is the same bytes as at first.
    let back = ["dequantize", "r.safetensors", "-o", "d.safetensors", "--device", "cpu", "--json"];
    assert_eq!(folder.run(&back).json()["dequantized"], 4);
    let bytes = std::fs::read(folder.path("d.safetensors")).unwrap();
    let plain = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, dtype, shape) in [
        ("layers.2.w", "F32", &[6, 512][..]),
        ("layers.10.w", "F16", &[4, 256]),
        ("experts.w", "BF16", &[3, 2, 256]),
        ("ids", "I64", &[2, 2]),
    ] {
        let view = plain.tensor(name).unwrap();
        assert_eq!((view.dtype().to_string().as_str(), view.shape()), (dtype, shape), "{name}");
    }
    assert_eq!(plain.tensor("norm.b").unwrap().data(), f32s(&numbers(256, 5)));
    let compared =
        folder.run(&["compare", "m.safetensors", "d.safetensors", "--device", "cpu", "--json"]).json();
    let packed =
        folder.run(&["compare", "m.safetensors", "r.safetensors", "--device", "cpu", "--json"]).json();
    // f32 weights come back as the packed file has them; half precision rounds once more.
    let (plain, packed) =
        (entry(&compared["tensors"], "layers.2.w"), entry(&packed["tensors"], "layers.2.w"));
    assert_eq!(plain["sqnr_db"], packed["sqnr_db"]);
    assert_eq!((plain["scheme"].as_str(), packed["scheme"].as_str()), (Some("f32"), Some("q8_0")));

    for dtype in ["f32", "f16", "bf16"] {
        let args = [
            "dequantize",
            "r.safetensors",
            "-o",
            "t.safetensors",
            "--dtype",
            dtype,
            "--device",
            "cpu",
            "--force",
        ];
        assert_eq!(folder.run(&args).code, Some(0));
        let list = folder.run(&["inspect", "t.safetensors", "--json"]).json();
        assert_eq!(entry(&list["tensors"], "experts.w")["scheme"], dtype);
    }
    folder.run(&["dequantize", "m.safetensors", "-o", "x.safetensors"]).fails(1, &["no packed tensor"]);
}

#[test]
fn compare_measures() {
    let folder = Folder::new();
    folder.write(
        "a",
        file(&[("w", "F32", &[1, 4], f32s(&[3.0, -4.0, 0.0, 0.0])), ("i", "I8", &[1], vec![1])], Value::Null),
    );
    folder.write(
        "b",
        file(&[("w", "F32", &[1, 4], f32s(&[3.0, -4.5, 0.5, 0.0])), ("i", "I8", &[1], vec![2])], Value::Null),
    );
    let compare = |a: &str, b: &str| folder.run(&["compare", a, b, "--device", "cpu", "--json"]);
    let result = compare("a", "b").json();
    let w = &result["tensors"][0];
    let keys: Vec<&String> = w.as_object().unwrap().keys().collect();
    let wanted = [
        "name",
        "scheme",
        "sqnr_db",
        "cosine",
        "max_abs_error",
        "mean_abs_error",
        "bits_per_weight",
        "bytes",
        "size_ratio",
    ];
    assert_eq!(keys, wanted);
    assert!((w["sqnr_db"].as_f64().unwrap() - 10.0 * 50f64.log10()).abs() < 1e-12);
    assert_eq!((w["max_abs_error"].as_f64(), w["mean_abs_error"].as_f64()), (Some(0.5), Some(0.25)));
    assert!((w["cosine"].as_f64().unwrap() - 27.0 / (25.0f64 * 29.5).sqrt()).abs() < 1e-12);
    assert_eq!((w["bits_per_weight"].as_f64(), w["bytes"].as_u64()), (Some(32.0), Some(16)));
    assert_eq!(result["different"], json!(["i"]));
    assert_eq!(result["total"]["sqnr_db"], w["sqnr_db"]);

    // The same file has no error, and says so in words.
    assert_eq!(compare("a", "a").json()["total"]["sqnr_db"], Value::Null);
    assert!(folder.run(&["compare", "a", "a", "--device", "cpu"]).stdout.contains("exact"));

    folder.write("nan", file(&[("w", "F32", &[1, 4], f32s(&[3.0, f32::NAN, 0.0, 0.0]))], Value::Null));
    assert_eq!(compare("a", "nan").json()["total"]["sqnr_db"], "NaN");
    assert_eq!(compare("a", "nan").json()["only_in_a"], json!(["i"]));
    folder.write("shape", file(&[("w", "F32", &[4], f32s(&[3.0; 4]))], Value::Null));
    compare("a", "shape").fails(1, &["'w'", "expected 1x4", "got 4"]);
    folder.write("other", file(&[("v", "F32", &[4], f32s(&[3.0; 4]))], Value::Null));
    compare("a", "other").fails(1, &["no float tensor"]);
}

#[test]
fn shards_are_one_model() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("model")).unwrap();
    let part = |name: &'static str, seed| {
        file(&[(name, "F32", &[4, 64], f32s(&numbers(256, seed)))], json!({"format": "pt"}))
    };
    folder.write("model/model-00001-of-00002.safetensors", part("a.w", 1));
    folder.write("model/model-00002-of-00002.safetensors", part("b.w", 2));
    let index = |map: Value| json!({"metadata": {"total_size": 2048}, "weight_map": map}).to_string();
    let name = "model/model.safetensors.index.json";
    let good = json!({"a.w": "model-00001-of-00002.safetensors", "b.w": "model-00002-of-00002.safetensors"});
    folder.write(name, index(good));
    for input in ["model", name] {
        let args = [
            "quantize",
            input,
            "-o",
            "q.safetensors",
            "--scheme",
            "q8_0",
            "--device",
            "cpu",
            "--force",
            "--json",
        ];
        assert_eq!(folder.run(&args).json()["quantized"].as_array().unwrap().len(), 2);
    }
    let compared = folder.run(&["compare", "model", "q.safetensors", "--device", "cpu", "--json"]).json();
    assert!(compared["total"]["sqnr_db"].as_f64().unwrap() > 40.0);
    folder
        .run(&["quantize", "model", "-o", name, "--scheme", "q8_0", "--device", "cpu", "--force"])
        .fails(2, &["is the input"]);

    for (map, word) in [
        (
            json!({"a.w": "model-00001-of-00002.safetensors", "c.w": "model-00002-of-00002.safetensors"}),
            "'c.w'",
        ),
        (json!({"a.w": "missing.safetensors"}), "missing.safetensors"),
        (json!({"a.w": "../q.safetensors"}), "not a plain file name"),
        (json!({"a.w": "/etc/passwd"}), "not a plain file name"),
        (json!({"a.w": ".."}), "not a plain file name"),
        (json!({"a.w": ""}), "not a plain file name"),
        (json!({}), "empty"),
        (json!([1]), "index"),
    ] {
        folder.write(name, index(map));
        folder.run(&["inspect", "model"]).fails(1, &[word]);
    }
    std::fs::remove_file(folder.path(name)).unwrap();
    folder.run(&["inspect", "model"]).fails(1, &["several safetensors files"]);
    std::fs::create_dir(folder.path("void")).unwrap();
    folder.run(&["inspect", "void"]).fails(1, &["void", "no .safetensors file"]);
}

#[test]
fn lying_files_are_refused() {
    let folder = Folder::new();
    let whole = model();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut cases: Vec<(String, Vec<u8>)> =
        [0, 1, 7, 8, 9, 8 + header / 2, 8 + header - 1, 8 + header, whole.len() - 1]
            .map(|n| (format!("the first {n} bytes"), whole[..n].to_vec()))
            .into();
    cases.push(("one byte more".into(), [&whole[..], &[0]].concat()));
    let text = |header: &str, data: usize| with_header(header, &vec![0; data]);
    for (what, bytes) in [
        ("a header of 2^64 - 1 bytes", u64::MAX.to_le_bytes().to_vec()),
        ("a header that is no JSON", text("hello world", 0)),
        ("a header that is a list", text("[]", 0)),
        ("a header of nulls", with_header("\0\0\0\0\0\0\0\0", &[])),
        ("a deep header", text(&"{\"a\":".repeat(100_000), 0)),
        (
            "an extent beyond the file",
            text(r#"{"w":{"dtype":"F32","shape":[2,32],"data_offsets":[0,256]}}"#, 8),
        ),
        (
            "an extent that is not the shape's",
            text(r#"{"w":{"dtype":"F32","shape":[2,32],"data_offsets":[0,8]}}"#, 8),
        ),
        ("a backward extent", text(r#"{"w":{"dtype":"U8","shape":[8],"data_offsets":[8,0]}}"#, 8)),
        (
            "overlapping extents",
            text(
                r#"{"v":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"w":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}}"#,
                12,
            ),
        ),
        (
            "a shape that overflows",
            text(r#"{"w":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8]}}"#, 8),
        ),
        ("a type that is none", text(r#"{"w":{"dtype":"F128","shape":[2],"data_offsets":[0,8]}}"#, 8)),
        ("a negative dimension", text(r#"{"w":{"dtype":"U8","shape":[-8],"data_offsets":[0,8]}}"#, 8)),
        (
            "metadata that is a number",
            text(r#"{"__metadata__":5,"w":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}"#, 8),
        ),
    ] {
        cases.push((what.into(), bytes));
    }
    for (what, bytes) in cases {
        folder.write("bad.safetensors", bytes);
        for args in [
            &["inspect", "bad.safetensors"][..],
            &["quantize", "bad.safetensors", "-o", "out", "--scheme", "q4_0", "--device", "cpu"],
            &["dequantize", "bad.safetensors", "-o", "out", "--device", "cpu"],
            &["compare", "bad.safetensors", "bad.safetensors", "--device", "cpu"],
        ] {
            let ran = folder.run(args);
            assert_eq!(ran.code, Some(1), "{what}, {args:?}: {}{}", ran.stdout, ran.stderr);
            assert!(ran.stderr.starts_with("lowbit: bad.safetensors: "), "{what}: {}", ran.stderr);
            assert_eq!(ran.stderr.lines().count(), 1, "{what}: {}", ran.stderr);
        }
    }
    assert_eq!(folder.names(), ["bad.safetensors"]);
}

#[test]
fn a_packed_file_that_lies_is_refused() {
    let folder = with_model();
    assert_eq!(quantize(&folder, &["--scheme", "q4_0", "--include", "layers"]).code, Some(0));
    let whole = std::fs::read(folder.path("q.safetensors")).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&whole[8..8 + header]).unwrap();
    for (from, to) in [
        (r#"\"scheme\":\"q4_0\""#, r#"\"scheme\":\"q4_9\""#),
        (r#"\"scheme\":\"q4_0\""#, r#"\"scheme\":\"q4_1\""#),
        (r#"\"shape\":[6,512]"#, r#"\"shape\":[6,513]"#),
        (r#"\"shape\":[6,512]"#, r#"\"shape\":[7,512]"#),
        (r#"\"shape\":[6,512]"#, r#"\"shape\":[0,512]"#),
        (r#"\"dtype\":\"F32\""#, r#"\"dtype\":\"I32\""#),
        (r#""lowbit.version":"1""#, r#""lowbit.version":"2""#),
        (r#""layers.2.w.scales""#, r#""layers.2.w.scalez""#),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        folder.write("bad.safetensors", with_header(&text.replace(from, to), &whole[8 + header..]));
        folder.run(&["inspect", "bad.safetensors"]).fails(1, &["bad.safetensors: "]);
        folder.run(&["dequantize", "bad.safetensors", "-o", "out"]).fails(1, &["bad.safetensors: "]);
    }
    assert_eq!(folder.names(), ["bad.safetensors", "m.safetensors", "q.safetensors"]);
}

#[test]
fn non_finite_weights_follow_the_policy() {
    let folder = Folder::new();
    let with = |at: usize, value: f32| {
        let mut values = numbers(256, 9);
        values[at] = value;
        f32s(&values)
    };
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let tensors: [Raw<'_>; 2] =
            [("good.w", "F32", &[4, 64], with(0, 0.0)), ("bad.w", "F32", &[4, 64], with(77, value))];
        folder.write("m.safetensors", file(&tensors, Value::Null));
        for scheme in ["q4_0", "int4-g32", "int8-row", "nf4-g64", "f16"] {
            let name = value.to_string();
            quantize(&folder, &["--scheme", scheme]).fails(1, &["'bad.w'", "index 77", &name, scheme]);
            assert_eq!(folder.names(), ["m.safetensors"]);

            let copy = quantize(&folder, &["--scheme", scheme, "--nonfinite", "copy", "--json"]);
            assert!(entry(&copy.json()["copied"], "bad.w")["reason"].as_str().unwrap().contains("index 77"));
            assert_eq!(copy.json()["quantized"].as_array().unwrap().len(), 1);
            assert!(copy.stderr.contains("'bad.w'"));

            let zero = quantize(&folder, &["--scheme", scheme, "--nonfinite", "zero", "--json", "--force"]);
            assert_eq!(zero.json()["quantized"].as_array().unwrap().len(), 2);
            assert!(zero.stderr.contains("1 NaN or infinite weight replaced by 0"), "{}", zero.stderr);
            std::fs::remove_file(folder.path("q.safetensors")).unwrap();
        }
    }
    // Finite, but no f16 scale reaches it.
    folder.write("m.safetensors", file(&[("big.w", "F32", &[4, 64], with(3, 1e9))], Value::Null));
    for policy in ["error", "zero"] {
        quantize(&folder, &["--scheme", "q4_0", "--nonfinite", policy]).fails(1, &["'big.w'", "index 3"]);
    }
    assert_eq!(folder.names(), ["m.safetensors"]);
}

#[test]
fn outputs_are_not_overwritten_unasked() {
    let folder = with_model();
    folder.write("q.safetensors", "mine");
    quantize(&folder, &["--scheme", "q4_0"]).fails(1, &["q.safetensors exists", "--force"]);
    assert_eq!(std::fs::read(folder.path("q.safetensors")).unwrap(), b"mine");
    let itself = [
        "quantize",
        "m.safetensors",
        "-o",
        "./m.safetensors",
        "--scheme",
        "q4_0",
        "--force",
        "--device",
        "cpu",
    ];
    folder.run(&itself).fails(2, &["is the input"]);
    assert_eq!(std::fs::read(folder.path("m.safetensors")).unwrap(), model());
    let nowhere =
        ["quantize", "m.safetensors", "-o", "no/such/folder/q", "--scheme", "q4_0", "--device", "cpu"];
    folder.run(&nowhere).fails(1, &["no/such/folder/q", "No such file"]);
    folder
        .run(&["quantize", "m.safetensors", "-o", ".", "--scheme", "q4_0", "--device", "cpu"])
        .fails(2, &["folder"]);
    assert_eq!(folder.names(), ["m.safetensors", "q.safetensors"]);
    assert_eq!(quantize(&folder, &["--scheme", "q4_0", "--force"]).code, Some(0));
    assert_ne!(std::fs::read(folder.path("q.safetensors")).unwrap(), b"mine");
    assert_eq!(folder.names(), ["m.safetensors", "q.safetensors"]);

    assert_eq!(
        folder.run(&["shaders", "--dump", "w", "--scheme", "q4_0", "--kernel", "matvec"]).code,
        Some(0)
    );
    folder.run(&["shaders", "--dump", "w", "--scheme", "q4_0"]).fails(1, &["w exists", "--force"]);
}

#[test]
fn missing_and_odd_inputs_are_errors() {
    let folder = with_model();
    folder.run(&["inspect", "nothing.safetensors"]).fails(1, &["nothing.safetensors", "No such file"]);
    folder.run(&["compare", "m.safetensors", "nothing", "--device", "cpu"]).fails(1, &["nothing"]);
    #[cfg(unix)]
    folder.run(&["inspect", "/dev/null"]).fails(1, &["/dev/null", "not a regular file"]);
}

/// A file without read permission, read by a user who is not root.
#[cfg(unix)]
#[test]
fn unreadable_files_are_errors() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    let folder = with_model();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    mode(&folder.path("m.safetensors"), 0o000);
    mode(folder.0.path(), 0o755);
    // The binary may lie where only root can go.
    let copy = folder.path("lowbit");
    std::fs::copy(LOWBIT, &copy).unwrap();
    mode(&copy, 0o755);
    let mut command = Command::new(&copy);
    command.args(["inspect", "m.safetensors"]).current_dir(folder.0.path());
    if std::fs::metadata(folder.0.path()).unwrap().uid() == 0 {
        command.uid(65534).gid(65534);
    }
    Ran::of(command.output().unwrap()).fails(1, &["m.safetensors: Permission denied"]);
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let folder = with_model();
    let q = "\"$LOWBIT\" quantize m.safetensors --scheme q8_0 --device cpu";
    if Path::new("/dev/full").exists() {
        folder.shell(&format!("{q} -o /dev/full")).fails(1, &["/dev/full: No space left on device"]);
        folder
            .shell("\"$LOWBIT\" inspect m.safetensors > /dev/full")
            .fails(1, &["stdout: No space left on device"]);
        assert!(std::fs::metadata("/dev/full").unwrap().len() == 0);
    }
    // A limit on file sizes stops the write in the middle of a regular file. The shell counts in blocks of 512 bytes or of 1024.
    let limited = format!("ulimit -f 4; trap '' XFSZ; exec {q} -o q.safetensors");
    folder.shell(&limited).fails(1, &["q.safetensors", "File too large"]);
    let back =
        "ulimit -f 4; trap '' XFSZ; exec \"$LOWBIT\" dequantize p.safetensors -o q.safetensors --device cpu";
    assert_eq!(folder.shell(&format!("{q} -o p.safetensors")).code, Some(0));
    folder.shell(back).fails(1, &["q.safetensors", "File too large"]);
    assert_eq!(folder.names(), ["m.safetensors", "p.safetensors"]);
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_ends_quietly() {
    let folder = with_model();
    for args in [&["inspect", "m.safetensors"][..], &["schemes"], &["schemes", "--json"], &["--help"]] {
        let mut child = folder.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ran = Ran::of(child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{args:?}");
    }
}

/// A model of zeros that takes no room on disk: `n` tensors of 16 MiB.
#[cfg(unix)]
fn sparse_model(path: &Path, n: usize) {
    use std::io::Write;
    const SIZE: usize = 16 << 20;
    let mut header = serde_json::Map::new();
    for i in 0..n {
        let info = json!({"dtype": "F32", "shape": [SIZE / 4 / 4096, 4096], "data_offsets": [i * SIZE, (i + 1) * SIZE]});
        header.insert(format!("layers.{i}.w"), info);
    }
    let start = with_header(&Value::from(header).to_string(), &[]);
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&start).unwrap();
    file.set_len((start.len() + n * SIZE) as u64).unwrap();
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_no_half_file() {
    use std::time::{Duration, Instant};
    let folder = Folder::new();
    sparse_model(&folder.path("m.safetensors"), 128);
    for signal in ["TERM", "INT"] {
        for existing in [None, Some("mine")] {
            if let Some(text) = existing {
                folder.write("q.safetensors", text);
            }
            let args = [&QUANTIZE[..], &["--scheme", "q6_k", "--force"]].concat();
            let child = folder.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            // The temporary has its name as long as the run lasts; wait until some of it is written.
            let half = || {
                let name = folder.names().into_iter().find(|n| n.starts_with(".q.safetensors.lowbit-"))?;
                std::fs::metadata(folder.path(&name)).ok().filter(|m| m.len() > 1 << 16)
            };
            while half().is_none() {
                assert!(Instant::now() < deadline, "no temporary: {:?}", folder.names());
                std::thread::sleep(Duration::from_millis(1));
            }
            let kill =
                Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
            assert!(kill.success());
            let ran = Ran::of(child.wait_with_output().unwrap());
            assert_eq!(ran.code, Some(130), "{}{}", ran.stdout, ran.stderr);
            match existing {
                None => assert_eq!(folder.names(), ["m.safetensors"]),
                Some(text) => {
                    assert_eq!(folder.names(), ["m.safetensors", "q.safetensors"]);
                    assert_eq!(std::fs::read(folder.path("q.safetensors")).unwrap(), text.as_bytes());
                    std::fs::remove_file(folder.path("q.safetensors")).unwrap();
                }
            }
        }
    }
}

#[test]
fn devices_and_schemes_are_listed() {
    let folder = Folder::new();
    let all = folder.run(&["devices", "--json", "--model-size", "1B", "--scheme", "q8_0"]).json();
    assert!(all["cpu"]["threads"].as_u64().unwrap() >= 1);
    assert_eq!(all["model"]["needs"][0]["bytes"], json!(8_500_000_000u64 / 8));
    for adapter in all["adapters"].as_array().unwrap() {
        assert_eq!(adapter["tiers"][0], "f32");
        assert!(adapter["limits"]["max_buffer_size"].as_u64().unwrap() > 0);
        assert!(adapter["driver"].is_string() && adapter["capabilities"]["f16"].is_boolean());
    }
    assert!(folder.run(&["devices"]).stdout.contains("A model of 7B weights needs"));
    let schemes = folder.run(&["schemes", "--json"]).json();
    assert!(
        schemes.as_array().unwrap().iter().any(|s| s["scheme"] == "q4_k" && s["bits_per_weight"] == 4.625)
    );
    assert!(folder.run(&["schemes"]).stdout.contains("int4-g32"));
}

#[test]
fn shaders_are_dumped() {
    let folder = Folder::new();
    let args = ["shaders", "--dump", "w", "--scheme", "q4_k", "--scheme", "f16", "--json"];
    let files = folder.run(&args).json();
    let files = files.as_array().unwrap();
    assert!(files.iter().any(|f| f["kernel"] == "matvec" && f["scheme"] == "q4_k"));
    assert!(files.iter().any(|f| f["kernel"] == "convert" && f["scheme"] == "f16"));
    for f in files {
        let text = std::fs::read_to_string(folder.path(f["file"].as_str().unwrap())).unwrap();
        let text = text.trim_start_matches(|c| c != '\n');
        let parsed = naga::front::wgsl::parse_str(text);
        assert!(parsed.is_ok(), "{f}: {}", parsed.unwrap_err().emit_to_string(text));
    }
}

#[test]
fn selftest_checks_a_device() {
    let folder = Folder::new();
    let report = folder
        .run(&["selftest", "--device", "cpu", "--scheme", "q4_0", "--scheme", "int4-g32", "--json"])
        .json();
    assert!(report["checks"].as_u64().unwrap() > 10, "{report}");
    assert_eq!(report["failures"], json!([]));
    let text = folder.run(&["selftest", "--device", "cpu", "--scheme", "q4_0"]);
    assert!(text.code == Some(0) && text.stdout.contains("all passed"), "{}{}", text.stdout, text.stderr);
}

/// What the demo says of one device or of several.
fn check_demo(result: &Value) {
    let devices = result["devices"].as_array().unwrap().len();
    let schemes = result["schemes"].as_array().unwrap();
    assert!(schemes.len() >= 12);
    assert_eq!(result["digits"], 360);
    assert_eq!(result["checks"]["products"], json!(3 * schemes.len() * devices));
    assert_eq!(result["checks"]["failures"], json!([]));
    let worst = result["checks"]["worst_part_of_bound"].as_f64().unwrap();
    assert!(worst > 0.0 && worst <= 1.0, "{worst}");
    for s in schemes {
        assert_eq!(s["milliseconds"].as_array().unwrap().len(), devices);
        assert!(
            s["milliseconds"].as_array().unwrap().iter().all(|t| t.as_f64().is_some_and(|t| t > 0.0)),
            "{s}"
        );
    }
    let of = |name: &str, field: &str| {
        let found = schemes.iter().find(|s| s["scheme"] == name);
        found.and_then(|s| s[field].as_f64()).unwrap_or_else(|| panic!("{name} {field}"))
    };
    // data/digits/README.md: 353 of 360 in f32.
    assert_eq!(((of("f32", "accuracy") * 360.0).round(), of("f32", "disagreement")), (353.0, 0.0));
    assert!(of("q8_0", "accuracy") > 0.97 && of("q4_k", "accuracy") > 0.95);
    assert!(of("int1-g32", "accuracy") > 0.5, "one bit still beats guessing");
    assert!(of("q8_0", "sqnr_db") > 40.0 && of("q4_k", "sqnr_db") < of("q6_k", "sqnr_db"));
    assert!(of("q8_0", "bytes") < of("f16", "bytes"));
}

#[test]
fn the_demo_runs_on_the_cpu() {
    let folder = Folder::new();
    let result = folder.run(&["demo", "--device", "cpu", "--json"]).json();
    assert_eq!(result["devices"].as_array().unwrap().len(), 1);
    check_demo(&result);
    assert!(folder.names().is_empty());
}

#[test]
fn the_demo_runs_on_every_device() {
    let folder = Folder::new();
    let result = folder.run(&["demo", "--json"]).json();
    let adapters = folder.run(&["devices", "--json"]).json()["adapters"].as_array().unwrap().len();
    println!("the demo ran on the CPU and {adapters} adapter(s)");
    assert_eq!(result["devices"].as_array().unwrap().len(), 1 + adapters);
    check_demo(&result);
    // Without a command it is the demo, as a table.
    let bare = folder.run(&[]);
    assert_eq!(bare.code, Some(0), "{}", bare.stderr);
    assert!(bare.stdout.contains("bits/weight") && bare.stdout.contains("nf4-g64"), "{}", bare.stdout);
}

/// Every line of the README's shell blocks that calls `lowbit`, in order, in one folder with a model.
#[test]
fn the_commands_of_the_readme_run() {
    let folder = Folder::new();
    folder.write("model.safetensors", model());
    let readme = include_str!("../README.md");
    let mut blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines: Vec<&str> =
        blocks.by_ref().flat_map(str::lines).filter(|l| l.starts_with("lowbit ")).collect();
    assert!(lines.len() >= 6, "{lines:?}");
    for line in lines {
        let command = line.split(" # ").next().unwrap_or_default();
        let args: Vec<&str> = command.split_whitespace().skip(1).collect();
        let ran = folder.run(&args);
        assert_eq!(ran.code, Some(0), "{command}: {}{}", ran.stdout, ran.stderr);
        assert!(!ran.stdout.is_empty(), "{command}");
    }
}

/// The largest resident set of a process in KiB, as far as it got until it ended. None where there is no `/proc`.
fn peak_memory(mut child: std::process::Child) -> (std::process::ExitStatus, Option<u64>) {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = None;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(kib);
        match child.try_wait().unwrap() {
            Some(status) => return (status, peak),
            // The kernel keeps the maximum; only what is added in the last millisecond can be missed.
            None => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
    }
}

#[test]
fn a_real_model() {
    let Some(model) = std::env::var_os("LOWBIT_TEST_MODEL") else {
        let ci = std::env::var("CI").is_ok_and(|v| !v.is_empty() && v != "false");
        assert!(!ci, "LOWBIT_TEST_MODEL is not set");
        println!("left out: LOWBIT_TEST_MODEL is not set (scripts/test.sh fetches a model and sets it)");
        return;
    };
    let model = std::fs::canonicalize(&model).unwrap();
    let model = model.to_str().unwrap();
    let folder = Folder::new();
    // Uniform noise of half a step beside weights whose group maximum is 2 to 3 standard deviations: 10 log10(12 q_max^2 / c^2) for
    // c = 2..3 is 43 to 47 dB with q_max = 127 and 18 to 22 dB with 7; NF4 is made for such weights. Windows, for the weights
    // are not exactly normal.
    for (scheme, bits, low, high) in
        [("q8_0", 8.5, 42.0, 49.0), ("int4-g32", 4.5, 17.0, 24.0), ("nf4-g64", 4.25, 17.0, 24.0)]
    {
        let args = [
            "quantize",
            model,
            "-o",
            "q.safetensors",
            "--force",
            "--scheme",
            scheme,
            "--device",
            "cpu",
            "--json",
        ];
        let out = std::fs::File::create(folder.path("summary.json")).unwrap();
        let (status, peak) = peak_memory(folder.command(&args).stdout(out).spawn().unwrap());
        assert!(status.success(), "{scheme}");
        let summary: Value =
            serde_json::from_slice(&std::fs::read(folder.path("summary.json")).unwrap()).unwrap();
        assert_eq!(summary["quantized"].as_array().unwrap().len(), 40, "{scheme}");
        assert!((summary["bits_per_weight"].as_f64().unwrap() - bits).abs() < 1e-9, "{scheme}");
        match peak {
            Some(kib) => {
                println!("{scheme}: peak memory {} MiB, {} s", kib / 1024, summary["seconds"]);
                assert!(kib * 1024 < 250_000_000, "{scheme}: {kib} KiB");
            }
            None if cfg!(target_os = "linux") => panic!("no VmHWM in /proc"),
            None => println!("{scheme}: peak memory not measured, there is no /proc"),
        }
        let compared = folder.run(&["compare", model, "q.safetensors", "--device", "cpu", "--json"]).json();
        let total = &compared["total"];
        let sqnr = total["sqnr_db"].as_f64().unwrap();
        println!(
            "{scheme}: {sqnr:.2} dB, cosine {}, ratio {:.2}",
            total["cosine"],
            total["size_ratio"].as_f64().unwrap()
        );
        assert!((low..high).contains(&sqnr), "{scheme}: {sqnr} dB");
        assert!(total["cosine"].as_f64().unwrap() > 0.98, "{scheme}");
        // What was not quantized is the same.
        assert_eq!(entry(&compared["tensors"], "embeddings.LayerNorm.weight")["sqnr_db"], Value::Null);
        assert_eq!(compared["different"], json!([]));
    }
}

#[test]
fn dequantizing_makes_no_infinities() {
    let folder = Folder::new();
    let mut values = vec![0.0; 64];
    values[0] = 65504.0;
    folder.write("m.safetensors", file(&[("w", "F16", &[1, 64], f16s(&values))], Value::Null));
    folder
        .run(&["quantize", "m.safetensors", "-o", "q", "--scheme", "int4-g32", "--device", "cpu", "--json"])
        .json();
    let ran = folder.run(&["dequantize", "q", "-o", "back", "--device", "cpu"]);
    ran.fails(1, &["'w'", "index 0", "f16", "--dtype f32"]);
    assert_eq!(folder.names(), ["m.safetensors", "q"]);
    folder.run(&["dequantize", "q", "-o", "back", "--dtype", "f32", "--device", "cpu", "--json"]).json();
}

#[cfg(unix)]
#[test]
fn links_and_pipes_are_not_replaced() {
    let folder = with_model();
    // Standard output by a path, as /dev/stdout is: written to, with or without --force, and still a link afterwards.
    for force in ["", "--force"] {
        let line = format!(
            "ln -sf /proc/self/fd/1 so; $LOWBIT quantize m.safetensors -o so --scheme int4-g32 --device cpu {force} 2>&1 | wc -c; test -L so"
        );
        if Path::new("/proc/self/fd").exists() {
            let ran = folder.shell(&line);
            assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
            assert!(ran.stdout.trim().parse::<usize>().unwrap() > 1000, "{}", ran.stdout);
        }
    }
    let ran = folder.shell(
        "ln -s nowhere dangling; $LOWBIT quantize m.safetensors -o dangling --scheme int4-g32 --device cpu",
    );
    ran.fails(2, &["dangling", "a link to nothing"]);
    let ran = folder.shell("mkfifo pipe; $LOWBIT inspect pipe");
    ran.fails(1, &["pipe", "not a regular file"]);
    let ran = folder.run(&[
        "quantize",
        "m.safetensors",
        "-o",
        "no/such/x",
        "--scheme",
        "int4-g32",
        "--device",
        "cpu",
    ]);
    ran.fails(1, &["no/such/x"]);
    assert!(!ran.stderr.contains(".tmp"), "{}", ran.stderr);
}
