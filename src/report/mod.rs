//! What is told about results: error measures.
//!
//! ```text
//! (reference, result) values, chunk by chunk -> metrics::Errors -> SQNR, cosine, largest and mean absolute error
//! ```
//!
//! Nothing here computes on tensors or prints tables.

pub mod metrics;
