//! The `lowbit` binary: calls [`lowbit::cli`] and maps errors to exit codes, nothing else.
//!
//! 0: done. 1: failed (a file, a device, a check). 2: the command line itself is wrong.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Err(error) = lowbit::cli::run() else { return ExitCode::SUCCESS };
    // One line, whatever a driver or a parser put into its message. A closed stderr is no reason to panic.
    let line = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = writeln!(std::io::stderr(), "lowbit: {line}");
    ExitCode::from(lowbit::cli::exit_code(&error))
}
