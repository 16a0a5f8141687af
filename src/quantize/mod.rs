//! How weights are quantized well: what a layer's error is, and which scheme each layer gets.
//!
//! ```text
//! weights, X^T X -> sensitivity -> the error of each scheme -> plan -> a scheme for each layer within a budget
//! packed tensor  -> census      -> its codes, and what lies beyond them
//! ```
//!
//! Scales of a group alone are [`crate::scheme::Method`]'s. Nothing here reads files.

pub mod census;
pub mod plan;
pub mod sensitivity;
