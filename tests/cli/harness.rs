//! What the tests of the command line run it with: folders of files made here, and what a run left.

pub use crate::binary::{Folder, LOWBIT, Ran};
use serde_json::{Value, json};
use std::process::{Command, Stdio};

impl Folder {
    /// Runs a line of shell here, `$LOWBIT` being the binary.
    #[cfg(unix)]
    pub fn shell(&self, line: &str) -> Ran {
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("LOWBIT", LOWBIT).current_dir(self.0.path()).stdin(Stdio::null());
        Ran::of(command.output().unwrap())
    }
}

/// One tensor of a file: name, type, shape, bytes.
pub type Raw<'a> = (&'a str, &'a str, &'a [usize], Vec<u8>);

/// A safetensors file.
pub fn file(tensors: &[Raw<'_>], metadata: Value) -> Vec<u8> {
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

pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Numbers in -1..1 that look random: a linear congruence with a fixed seed.
pub fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn f16s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
}

pub fn bf16s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()
}

/// A little of everything: three float types, experts, a K that whole blocks do not fit, and things to be copied.
pub fn model() -> Vec<u8> {
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

pub fn with_model() -> Folder {
    let folder = Folder::new();
    folder.write("m.safetensors", model());
    folder
}

pub fn entry<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|t| t["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

pub const QUANTIZE: [&str; 6] = ["quantize", "m.safetensors", "-o", "q.safetensors", "--device", "cpu"];

pub fn quantize(folder: &Folder, more: &[&str]) -> Ran {
    folder.run(&[&QUANTIZE[..], more].concat())
}

/// A model of zeros that takes no room on disk: `n` tensors of `size` bytes.
#[cfg(unix)]
pub fn sparse_model(path: &std::path::Path, n: usize, size: usize) {
    use std::io::Write;
    let mut header = serde_json::Map::new();
    for i in 0..n {
        let info = json!({"dtype": "F32", "shape": [size / 4 / 4096, 4096], "data_offsets": [i * size, (i + 1) * size]});
        header.insert(format!("layers.{i}.w"), info);
    }
    let start = with_header(&Value::from(header).to_string(), &[]);
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&start).unwrap();
    file.set_len((start.len() + n * size) as u64).unwrap();
}
