//! The CPU engine: the operations of [`crate::scheme`] and [`crate::product`] on host memory, threaded and vectorised.
//!
//! ```text
//! quantize:    Tensor --encode (row by row)--> codes, scales --codes::pack--> PackedTensor
//! dequantize:  PackedTensor --decode (row by row)--> Tensor
//! matmul:      x --activations--> f32 | int8 --integer, float (blocks of weight rows) over dot--> sums --epilogue--> y
//! dense:       the product of two dense matrices; gram: X^T X, the second moments of columns; factor: H = T D T^T, for sweeps over columns (encode/sweep)
//! training:    fake quantization, losses, their gradients, updates
//! transform:   inputs and weights with columns multiplied and rotated
//! histogram:   numbers in the bins of `bins`, counted
//! kv:          k, v f32 --f16--> window --blocks--> codes; attention to them
//! encoder:     embed, layer_norm, attention, mean_pool, normalize: f32 -> f32
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `decode` | packed rows -> f32 |
//! | `encode/`, `kmeans`, `clusters` | f32 rows -> scales and codes |
//! | `matmul` | checks, choice of a path |
//! | `encoder`, `attention` | the other operations of a transformer encoder |
//! | `dense`, `gram`, `factor` | products of dense matrices; second moments of columns; H = T D T^T |
//! | `transform` | columns multiplied and rotated |
//! | `histogram` | counts of numbers in bins |
//! | `kv` | caches of keys and values |
//! | `training` | what else training takes |
//! | `activations`, `integer`, `float`, `lanes`, `panel`, `epilogue` | the parts of a product |
//! | `dot/` | innermost loops per set of vector instructions |
//! | `level` | which vector instructions there are |
//!
//! Without the feature `parallel` everything runs on the calling thread. Nothing here knows files or GPUs.

#[cfg(target_endian = "big")]
compile_error!("planes are little-endian words, which the CPU engine reads in place");

mod activations;
mod attention;
mod clusters;
mod decode;
mod dense;
mod dequantize;
mod dot;
mod encode;
mod encoder;
mod epilogue;
mod factor;
mod float;
mod gram;
mod half_float;
mod histogram;
mod integer;
pub mod kmeans;
mod kv;
mod lanes;
mod level;
mod matmul;
mod panel;
mod rows;
mod training;
mod transform;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;

pub use activations::Int8Rows;
pub use attention::{attention, score_summation, weighted_summation};
pub(crate) use decode::Weights;
pub use dense::{dense, dense_summation};
pub use dequantize::{dequantize, dequantize_rows};
#[cfg(any(feature = "cli", all(feature = "web", target_arch = "wasm32")))]
pub(crate) use dot::int_chains;
pub use encode::{
    check_importance, learn_codebook, quantize, quantize_by, quantize_sweeping, quantize_weighted,
};
pub use encoder::{embed, layer_norm, mean_pool, normalize, pool_summation, row_summation};
pub use factor::{Factor, factor};
pub use gram::gram;
pub use histogram::histogram;
pub use kv::{kv_append, kv_attention, kv_decode, kv_powers, kv_score_summation, kv_weighted_summation};
pub use level::instructions;
#[cfg(any(feature = "cli", all(feature = "web", target_arch = "wasm32")))]
pub(crate) use level::{Work, vectorized, vectors};
pub use matmul::{matmul, matmul_int8, matmul_to_int8, summation};
pub use training::{activate, cross_entropy, fake_quantize, step_gradient, step_summation, update};
pub use transform::{restore_weight, transform, transform_moments, transform_summation, transform_weight};
