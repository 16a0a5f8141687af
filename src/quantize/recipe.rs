//! How codes, scales and transforms of a layer are found, in words: `gptq:mse`, `smooth:0.5`.

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

/// How the transform of a layer's inputs is found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TransformRecipe {
    /// SmoothQuant by an alpha, or by that of least error.
    Smooth(Option<f32>),
    /// AWQ's scales.
    Awq,
    /// A randomized Hadamard rotation of a seed.
    Hadamard(u64),
}

impl TransformRecipe {
    /// Whether statistics of a layer's inputs are needed.
    pub fn calibrates(&self) -> bool {
        !matches!(self, Self::Hadamard(_))
    }
}

impl fmt::Display for TransformRecipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Smooth(None) => f.pad("smooth"),
            Self::Smooth(Some(alpha)) => f.pad(&format!("smooth:{alpha}")),
            Self::Awq => f.pad("awq"),
            Self::Hadamard(0) => f.pad("hadamard"),
            Self::Hadamard(seed) => f.pad(&format!("hadamard:{seed}")),
        }
    }
}

impl FromStr for TransformRecipe {
    type Err = Error;

    /// Parses `smooth`, `smooth:ALPHA`, `awq`, `hadamard` or `hadamard:SEED`, in lower or upper case.
    ///
    /// # Errors
    /// [`Error::Usage`] for anything else, and for an alpha beyond 0 to 1.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim().to_ascii_lowercase();
        let (name, value) = text.split_once(':').map_or((text.as_str(), None), |(n, v)| (n, Some(v)));
        let bad = |what: &str| Error::Usage(format!("transform '{text}': {what}"));
        match (name, value) {
            ("smooth", None) => Ok(Self::Smooth(None)),
            ("smooth", Some(value)) => {
                let alpha = value.parse::<f32>().ok().filter(|alpha| (0.0..=1.0).contains(alpha));
                alpha.map(|alpha| Self::Smooth(Some(alpha))).ok_or_else(|| bad("alpha is from 0 to 1"))
            }
            ("awq", None) => Ok(Self::Awq),
            ("hadamard", None) => Ok(Self::Hadamard(0)),
            ("hadamard", Some(value)) => {
                value.parse().map(Self::Hadamard).map_err(|_| bad("a seed is a whole number"))
            }
            _ => Err(bad("there are smooth, smooth:ALPHA, awq, hadamard and hadamard:SEED")),
        }
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
        for text in ["smooth", "smooth:0.5", "awq", "hadamard", "hadamard:7"] {
            assert_eq!(text.parse::<TransformRecipe>().unwrap().to_string(), text);
        }
        for wrong in ["smooth:", "smooth:1.5", "smooth:x", "awq:1", "hadamard:-1", "hadamard:", "none", ""] {
            assert!(matches!(wrong.parse::<TransformRecipe>(), Err(Error::Usage(_))), "{wrong}");
        }
        for wrong in ["gptq:", "gptq:gptq", "awq:msee", "gpt", ""] {
            assert!(matches!(wrong.parse::<Recipe>(), Err(Error::Usage(_))), "{wrong}");
        }
    }
}
