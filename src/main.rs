//! The `lowbit` binary: calls [`lowbit::cli`] and maps errors to exit codes, nothing else.
//!
//! 0: done. 1: failed (a file, a device, a check). 2: the command line itself is wrong.

use std::process::ExitCode;

fn main() -> ExitCode {
    match lowbit::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(lowbit::cli::fail(&error)),
    }
}
