//! How weights are quantized well: methods that look at activations, one file each, where what a weight's errors do to the outputs of its layer decides; what a layer's error is, and which
//! scheme each layer gets.
//!
//! ```text
//! inputs x [T, K] of a layer -> X^T X (calibrate, or from elsewhere) -> Hessian, checked
//! w [N, K], scheme, Hessian -> gptq: codes one after the other, errors carried on          -> PackedTensor of the same scheme
//!                           -> awq: columns scaled by what meets them, ranges clipped      -> PackedTensor, and the scales to be taken back before the layer
//! x, w                      -> smooth: columns scaled so that x and w share the outliers   -> scales
//!                           -> hadamard: columns rotated so that there are no outliers     -> the same rotation for x and w
//! ```
//!
//! Methods that see nothing but a group are values beside the scheme ([`crate::scheme::method`]); the arithmetic of both is the CPU engine's. Which layer has which statistics,
//! and what stands before a layer, is for those to know who call.

pub mod awq;
pub mod census;
pub mod gptq;
pub mod hadamard;
mod hessian;
pub mod plan;
pub mod sensitivity;
pub mod smooth;

pub use hessian::Hessian;

use crate::scheme::Method;
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// What decides about the codes of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Algorithm {
    /// Each code by itself: the nearest value.
    #[default]
    Nearest,
    Gptq,
    Awq,
}

/// An algorithm, and the method by which it finds scales: `gptq`, `gptq:mse`, `awq`, or a method alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recipe {
    pub algorithm: Algorithm,
    pub method: Method,
}

impl Recipe {
    /// Whether statistics of a layer's inputs are needed.
    pub fn calibrates(&self) -> bool {
        self.algorithm != Algorithm::Nearest
    }
}

impl From<Method> for Recipe {
    fn from(method: Method) -> Self {
        Self { algorithm: Algorithm::Nearest, method }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.algorithm {
            Algorithm::Nearest => return self.method.fmt(f),
            Algorithm::Gptq => "gptq",
            Algorithm::Awq => "awq",
        };
        match self.method {
            Method::Own => f.pad(name),
            method => f.pad(&format!("{name}:{method}")),
        }
    }
}

impl FromStr for Recipe {
    type Err = Error;

    /// Parses `ALGORITHM`, `ALGORITHM:METHOD` or `METHOD`, in lower or upper case.
    ///
    /// # Errors
    /// As [`Method::from_str`].
    fn from_str(text: &str) -> Result<Self> {
        let (first, rest) = text.trim().split_once(':').unwrap_or((text.trim(), "default"));
        let algorithm = match first.to_ascii_lowercase().as_str() {
            "gptq" => Algorithm::Gptq,
            "awq" => Algorithm::Awq,
            _ => {
                return text.parse::<Method>().map(Self::from).map_err(|e| match e {
                    Error::Usage(why) => Error::Usage(format!("{why}; and gptq, awq with --calibration")),
                    other => other,
                });
            }
        };
        Ok(Self { algorithm, method: rest.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_print_back() {
        for text in ["default", "mse", "percentile:99.99", "gptq", "gptq:mse", "awq", "awq:percentile:99"] {
            assert_eq!(text.parse::<Recipe>().unwrap().to_string(), text);
        }
        assert_eq!("GPTQ:MSE".parse::<Recipe>().unwrap().to_string(), "gptq:mse");
        for wrong in ["gptq:", "gptq:gptq", "awq:msee", "gpt", ""] {
            assert!(matches!(wrong.parse::<Recipe>(), Err(Error::Usage(_))), "{wrong}");
        }
    }
}
