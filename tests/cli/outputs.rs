//! Outputs appear whole or not at all: existing files, full disks, closed pipes, interruptions, links.

use crate::harness::*;
use std::path::Path;
use std::process::{Command, Stdio};

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

#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    let folder = with_model();
    let q = "\"$LOWBIT\" quantize m.safetensors --scheme q8_0 --include layers --device cpu";
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

#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_no_half_file() {
    use std::time::{Duration, Instant};
    let folder = Folder::new();
    sparse_model(&folder.path("m.safetensors"), 128, 16 << 20);
    for signal in ["TERM", "INT"] {
        for existing in [None, Some("mine")] {
            if let Some(text) = existing {
                folder.write("q.safetensors", text);
            }
            let args = [&QUANTIZE[..], &["--scheme", "q6_k", "--force"]].concat();
            let child = folder.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            // The partial file has its name as long as the run lasts; wait until some of it is written.
            let partial = folder.path("q.safetensors.partial");
            while std::fs::metadata(&partial).map_or(0, |m| m.len()) <= 1 << 16 {
                assert!(Instant::now() < deadline, "nothing is written: {:?}", folder.names());
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
