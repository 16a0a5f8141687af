//! The `lowbit` binary.

fn main() {}
