//! Files: what is written comes back, what other implementations write is read, and what is broken is refused by name.
//!
//! ```text
//! gguf        the golden 256 bytes, every type with golden blocks, metadata, shards
//! malformed   each field of GGUF files and importance matrices cut or wrong -> file, field and byte in the error
//! outside     gguf-py reads what is written here, bit for bit
//! ```

mod build;
#[path = "../common/mod.rs"]
mod common;
mod gguf;
mod malformed;
mod outside;
