//! The demo's input, part of the binary: held-out handwritten digits and the f32 network that reads them.
//!
//! ```text
//! x [n, 256] -> relu(x * fc1^T + b1) [n, 256] -> relu(h * fc2^T + b2) [n, 256] -> h * fc3^T + b3 [n, 10] -> the largest
//! ```
//!
//! Provenance and licence: `data/digits/README.md`. Nothing is computed here.

use crate::file::Model;
use crate::product::Function;
use crate::{Error, Result, Tensor};

static DIGITS: &[u8] = include_bytes!("../../data/digits/digits.safetensors");
static CLASSIFIER: &[u8] = include_bytes!("../../data/digits/classifier.safetensors");

/// Pixels along a side of an image.
const SIDE: usize = 8;
/// Each pixel is repeated so often along both sides, so that rows of weights are as wide as K-quants' super-blocks.
const REPEAT: usize = 2;
/// Ink of a black pixel.
const INK: f32 = 16.0;

/// Images that training never saw.
pub struct Digits {
    /// x [n, 256], multiples of 1/16 from 0 to 1.
    pub x: Tensor,
    /// What each shows, 0 to 9.
    pub labels: Vec<u8>,
}

/// One layer: `function(x * weight^T + bias)`.
pub struct Layer {
    pub name: &'static str,
    /// [out, in]
    pub weight: Tensor,
    /// [out]
    pub bias: Tensor,
    pub function: Function,
}

fn broken(what: &str) -> Error {
    Error::Format { path: "data/digits".into(), what: what.into() }
}

impl Digits {
    /// The held-out digits.
    ///
    /// # Errors
    /// [`Error::Format`] if the binary was built with other files than those of the repository.
    pub fn held_out() -> Result<Self> {
        let model = Model::from_bytes("data/digits/digits.safetensors", DIGITS)?;
        let bytes = |name| model.entry(name).map(|e| model.raw(e)).ok_or_else(|| broken(name));
        let (images, labels, held_out) = (bytes("images")?, bytes("labels")?, bytes("held_out")?);
        let chosen = || labels.iter().zip(held_out).enumerate().filter(|(_, (_, held))| **held == 1);
        let width = SIDE * REPEAT;
        let mut x = Vec::new();
        for (i, _) in chosen() {
            let image = images.get(i * SIDE * SIDE..(i + 1) * SIDE * SIDE).ok_or_else(|| broken("images"))?;
            x.extend((0..width * width).map(|p| {
                let (row, col) = (p / width / REPEAT, p % width / REPEAT);
                f32::from(image[row * SIDE + col]) / INK
            }));
        }
        let labels: Vec<u8> = chosen().map(|(_, (label, _))| *label).collect();
        Ok(Self { x: Tensor::from_f32([labels.len(), width * width], x)?, labels })
    }
}

/// The trained network.
///
/// # Errors
/// As [`Digits::held_out`].
pub fn network() -> Result<[Layer; 3]> {
    let model = Model::from_bytes("data/digits/classifier.safetensors", CLASSIFIER)?;
    let tensor = |name: String| model.tensor(model.entry(&name).ok_or_else(|| broken(&name))?);
    let layer = |name: &'static str, function| {
        Ok(Layer {
            name,
            weight: tensor(format!("{name}.weight"))?,
            bias: tensor(format!("{name}.bias"))?,
            function,
        })
    };
    Ok([layer("fc1", Function::Relu)?, layer("fc2", Function::Relu)?, layer("fc3", Function::Identity)?])
}
