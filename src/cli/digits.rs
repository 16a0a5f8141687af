//! The input of the demo and of training, part of the binary: handwritten digits and the f32 network that reads them.
//!
//! ```text
//! x [n, 256] -> relu(x * fc1^T + b1) [n, 256] -> relu(h * fc2^T + b2) [n, 256] -> h * fc3^T + b3 [n, 10] -> the largest
//! ```
//!
//! Provenance and licence: `data/digits/README.md`. Nothing is computed here but where an image lies.

use crate::file::{Content, Model, Transforms};
use crate::product::Function;
use crate::random::Random;
use crate::{Error, PackedTensor, Result, Tensor, reference};
use std::path::Path;

static DIGITS: &[u8] = include_bytes!("../../data/digits/digits.safetensors");
static CLASSIFIER: &[u8] = include_bytes!("../../data/digits/classifier.safetensors");

/// Pixels along a side of an image.
const SIDE: usize = 8;
/// Each pixel is repeated so often along both sides, so that rows of weights are as wide as K-quants' super-blocks.
const REPEAT: usize = 2;
/// Ink of a black pixel.
const INK: f32 = 16.0;
/// Pixels along a side of what the network reads.
const WIDTH: usize = SIDE * REPEAT;
/// An image is moved by up to so many of them in training.
const MOST_SHIFT: usize = 2;
/// What an image may show.
pub const CLASSES: usize = 10;
/// Numbers of the layers of a network, from the image on.
pub const WIDTHS: [usize; 4] = [WIDTH * WIDTH, 256, 256, CLASSES];

/// Images with their labels.
pub struct Digits {
    /// x [n, 256], multiples of 1/16 from 0 to 1.
    pub x: Tensor,
    /// What each shows, 0 to 9.
    pub labels: Vec<u8>,
}

/// One layer: `function(x * weight^T + bias)`.
pub struct Layer {
    pub name: String,
    /// [out, in], decoded if it is packed.
    pub weight: Tensor,
    /// The weight as it is in a file, if that has it packed.
    pub packed: Option<PackedTensor>,
    /// [out]
    pub bias: Tensor,
    pub function: Function,
}

fn broken(what: &str) -> Error {
    Error::Format { path: "data/digits".into(), what: what.into() }
}

impl Digits {
    /// The digits that training never sees.
    ///
    /// # Errors
    /// [`Error::Format`] if the binary was built with other files than those of the repository.
    pub fn held_out() -> Result<Self> {
        Self::with_mark(1)
    }

    /// Those that it learns from.
    ///
    /// # Errors
    /// As [`Self::held_out`].
    pub fn to_learn_from() -> Result<Self> {
        Self::with_mark(0)
    }

    fn with_mark(mark: u8) -> Result<Self> {
        let model = Model::from_bytes("data/digits/digits.safetensors", DIGITS)?;
        let bytes = |name| model.entry(name).map(|e| model.raw(e)).ok_or_else(|| broken(name));
        let (images, labels, held_out) = (bytes("images")?, bytes("labels")?, bytes("held_out")?);
        let chosen = || labels.iter().zip(held_out).enumerate().filter(|(_, (_, held))| **held == mark);
        let mut x = Vec::new();
        for (i, _) in chosen() {
            let image = images.get(i * SIDE * SIDE..(i + 1) * SIDE * SIDE).ok_or_else(|| broken("images"))?;
            x.extend((0..WIDTH * WIDTH).map(|p| {
                let (row, col) = (p / WIDTH / REPEAT, p % WIDTH / REPEAT);
                f32::from(image[row * SIDE + col]) / INK
            }));
        }
        let labels: Vec<u8> = chosen().map(|(_, (label, _))| *label).collect();
        Ok(Self { x: Tensor::from_f32([labels.len(), WIDTH * WIDTH], x)?, labels })
    }
}

/// Moves each image of x by its own few pixels, white coming in, so that the copies of a pixel do not get the same weights.
pub fn shift(x: &mut [f32], random: &mut Random) {
    for image in x.chunks_mut(WIDTH * WIDTH) {
        let [down, right] = [(); 2].map(|()| random.below(2 * MOST_SHIFT + 1));
        let from = image.to_vec();
        for (at, pixel) in image.iter_mut().enumerate() {
            let (row, column) =
                ((at / WIDTH + down).wrapping_sub(MOST_SHIFT), (at % WIDTH + right).wrapping_sub(MOST_SHIFT));
            *pixel = if row < WIDTH && column < WIDTH { from[row * WIDTH + column] } else { 0.0 };
        }
    }
}

/// The trained network.
///
/// # Errors
/// As [`Digits::held_out`].
pub fn network() -> Result<Vec<Layer>> {
    let path = "data/digits/classifier.safetensors";
    layers(&Model::from_bytes(path, CLASSIFIER)?, Path::new(path))
}

/// The network in a file of the same tensors, packed or not.
///
/// # Errors
/// Those of the file; [`Error::Format`] for a tensor that is missing, [`Error::Shape`] for one of another shape.
pub fn network_in(path: &Path) -> Result<Vec<Layer>> {
    layers(&Model::open(path)?, path)
}

fn layers(model: &Model, path: &Path) -> Result<Vec<Layer>> {
    let entry = |name: &str| {
        let missing = || Error::Format { path: path.into(), what: format!("no tensor '{name}'") };
        model.entry(name).ok_or_else(missing)
    };
    if !Transforms::of(model)?.is_empty() {
        let why = "the network of digits is run without; lowbit dequantize turns them back";
        return Err(Error::unsupported(format!("transformed layers in {}", path.display()), why));
    }
    let mut all = Vec::new();
    for (i, sizes) in WIDTHS.windows(2).enumerate() {
        let name = format!("fc{}", i + 1);
        let (of_weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let found = entry(&of_weight)?;
        let (weight, packed) = match found.content {
            Content::Packed { .. } => {
                let packed = model.packed(found)?;
                let values = reference::dequantize(&packed);
                (Tensor::from_f32(packed.shape(), values)?, Some(packed))
            }
            _ => (model.tensor(found)?, None),
        };
        let bias = model.tensor(entry(&bias)?)?;
        for (what, tensor, shape) in
            [("weight", &weight, vec![sizes[1], sizes[0]]), ("bias", &bias, vec![sizes[1]])]
        {
            if tensor.shape() != shape {
                let (want, got) = (format!("{shape:?}"), format!("{:?}", tensor.shape()));
                return Err(Error::shape(format!("{name}.{what}"), want, got));
            }
        }
        let function = if i + 2 == WIDTHS.len() { Function::Identity } else { Function::Relu };
        all.push(Layer { name, weight, packed, bias, function });
    }
    Ok(all)
}
