//! The binary under test: folders to run it in, and what a run left.

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

pub const LOWBIT: &str = env!("CARGO_BIN_EXE_lowbit");

/// What a run of the binary left.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ran =
            Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) };
        assert!(!ran.stderr.contains("panicked") && !ran.stderr.contains("RUST_BACKTRACE"), "{}", ran.stderr);
        ran
    }

    /// The JSON on stdout of a run that succeeded.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// The one line of a run that failed with this code, which must contain all of `words`.
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        let lines: Vec<&str> = self.stderr.lines().collect();
        let &[line] = lines.as_slice() else { panic!("not one line: {}", self.stderr) };
        assert!(line.starts_with("lowbit: "), "{}", self.stderr);
        for word in words {
            assert!(line.contains(word), "'{word}' is missing in: {line}");
        }
    }
}

/// A folder of files for one test.
pub struct Folder(pub TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// All names in it, hidden ones too.
    pub fn names(&self) -> Vec<String> {
        let list = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            list.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Runs the binary here.
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(LOWBIT);
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }
}
