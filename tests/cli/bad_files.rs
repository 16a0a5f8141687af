//! Files that lie, are cut short or cannot be read: one line, exit code 1 or 2, nothing written.

use crate::harness::*;
use std::path::Path;
use std::process::Command;

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
        (r#""layers.10.w.scales""#, r#""layers.2.w.zeros""#),
    ] {
        assert!(text.contains(from), "{from} in {text}");
        folder.write("bad.safetensors", with_header(&text.replace(from, to), &whole[8 + header..]));
        folder.run(&["inspect", "bad.safetensors"]).fails(1, &["bad.safetensors: "]);
        folder.run(&["dequantize", "bad.safetensors", "-o", "out"]).fails(1, &["bad.safetensors: "]);
    }
    assert_eq!(folder.names(), ["bad.safetensors", "m.safetensors", "q.safetensors"]);
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
    // A process that another thread of the tests is just starting may still hold the copy open for writing.
    let busy = std::io::ErrorKind::ExecutableFileBusy;
    let output = loop {
        match command.output() {
            Err(e) if e.kind() == busy => std::thread::sleep(std::time::Duration::from_millis(10)),
            output => break output.unwrap(),
        }
    };
    Ran::of(output).fails(1, &["m.safetensors: Permission denied"]);
}
