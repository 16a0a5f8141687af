//! What is told about results: error measures, and pictures of them.
//!
//! ```text
//! (reference, result) values, chunk by chunk -> metrics::Errors -> SQNR, cosine, largest and mean absolute error
//! embeddings of two models -> agreement -> cosines, neighbours, order of pairs          sizes, errors -> size_plot -> SVG; bits, accuracies -> accuracy_plot -> SVG
//! original and quantized numbers -> distribution -> histograms             measures of layers -> advice -> which to keep higher
//! ```
//!
//! Nothing here computes on tensors or prints tables.

#[cfg(feature = "cli")]
pub(crate) mod accuracy_plot;
#[cfg(feature = "cli")]
pub(crate) mod advice;
pub mod agreement;
#[cfg(feature = "cli")]
pub(crate) mod distribution;
pub mod metrics;
#[cfg(feature = "cli")]
pub(crate) mod plot;
#[cfg(feature = "cli")]
pub(crate) mod size_plot;
