//! A program that is timed, as a process: started, asked for its product, then for times. The other side is serve.rs.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Shaders of a first run are compiled in this time.
const PATIENCE: Duration = Duration::from_secs(240);

/// A process that has computed its product and waits to be asked for times. It ends when this is dropped.
pub struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    errors: PathBuf,
    /// What ran, in its own words.
    pub what: String,
}

impl Process {
    /// Starts `command`, whose stderr goes to the file `errors`, and waits for its product. The error is why there is none.
    pub fn start(command: &mut Command, errors: &Path) -> Result<Self, String> {
        let file = std::fs::File::create(errors).map_err(|e| format!("{}: {e}", errors.display()))?;
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).spawn();
        let mut child = spawned.map_err(|e| format!("cannot be started: {e}"))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("started without pipes".into());
        };
        let (send, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).all(|line| send.send(line).is_ok())
        });
        let mut process = Self { child, stdin, lines, errors: errors.into(), what: String::new() };
        loop {
            let line = process.line()?;
            // Libraries may print lines of their own before it.
            if let Some(what) = line.strip_prefix("ready ") {
                process.what = what.into();
                return Ok(process);
            }
        }
    }

    /// What it says to a line.
    pub fn ask(&mut self, line: &str) -> Result<String, String> {
        writeln!(self.stdin, "{line}").map_err(|_| self.why())?;
        self.line()
    }

    /// The wall time of one product, in ms.
    pub fn time(&mut self) -> Result<f64, String> {
        let line = self.ask("run")?;
        line.parse().map_err(|_| format!("no time: {line}"))
    }

    fn line(&mut self) -> Result<String, String> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        self.lines.recv_timeout(PATIENCE).map_err(|e| match e {
            Timeout => format!("no answer within {} s", PATIENCE.as_secs()),
            Disconnected => self.why(),
        })
    }

    /// Why the process ended: the line of its stderr that begins with `Error`, else the last one that says something.
    fn why(&mut self) -> String {
        let status = self.child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
        let text = std::fs::read(&self.errors).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let says = |line: &&str| !line.trim().is_empty() && !line.starts_with("note: ");
        match text.lines().find(|line| line.starts_with("Error")).or_else(|| text.lines().rfind(says)) {
            Some(line) => format!("{} ({status})", line.trim()),
            None => status,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is gone already if it failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
