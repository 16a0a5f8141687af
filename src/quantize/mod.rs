//! How weights are quantized well: methods that look at activations, one file each, where what a weight's errors do to the outputs of its layer decides; what a layer's error is, and which
//! scheme each layer gets.
//!
//! ```text
//! inputs x [T, K] of a layer -> X^T X (calibrate, or from elsewhere) -> Hessian, checked
//! w [N, K], scheme, Hessian -> gptq: codes one after the other, errors carried on          -> PackedTensor of the same scheme
//!                           -> awq: columns scaled by what meets them, ranges clipped      -> PackedTensor, and the scales to be taken back before the layer
//! ranges and a sample of x, w -> smooth: columns scaled so that x and w share the outliers -> Transform
//! X^T X, w                  -> awq::search: columns scaled as there                        -> Transform
//! K, a seed                 -> Transform::rotation: columns mixed so that there are no outliers
//! ```
//!
//! Methods that see nothing but a group are values beside the scheme ([`crate::scheme::method`]); the arithmetic of both is the CPU engine's. Which layer has which statistics,
//! and what stands before a layer, is for those to know who call.

pub mod awq;
pub mod census;
pub mod gptq;
mod hessian;
pub mod plan;
mod recipe;
pub mod sensitivity;
pub mod smooth;

pub use hessian::Hessian;
pub use recipe::{Algorithm, Recipe, TransformRecipe};

use crate::scheme::Method;
use crate::{Scheme, Tensor};

/// A weight that meets inputs.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    pub name: &'a str,
    /// `[N, K]`
    pub tensor: &'a Tensor,
    pub scheme: &'a Scheme,
    /// How scales of groups are found.
    pub method: Method,
}
