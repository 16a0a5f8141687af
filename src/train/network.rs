//! A multi-layer perceptron on the host: what training begins with and ends in.
//!
//! ```text
//! x [M, K] -> function(x * weight^T + bias) [M, N] -> ...
//! ```

use crate::product::Function;
use crate::random::Random;
use crate::{Error, Result, Tensor};

/// One layer: `function(x * weight^T + bias)`.
#[derive(Clone, Debug)]
pub struct Layer {
    pub name: String,
    /// [N, K]
    pub weight: Tensor,
    /// [N]
    pub bias: Tensor,
    pub function: Function,
}

/// Layers, each of which takes what the one before gives.
#[derive(Clone, Debug)]
pub struct Network {
    pub layers: Vec<Layer>,
}

impl Network {
    /// A network of these layers.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are none, or if one does not fit on the one before it.
    pub fn new(layers: Vec<Layer>) -> Result<Self> {
        let mut before = None;
        for Layer { name, weight, bias, .. } in &layers {
            let &[n, k] = weight.shape() else {
                return Err(Error::shape(
                    format!("{name}: weight"),
                    "[N, K]",
                    format!("{:?}", weight.shape()),
                ));
            };
            if let Some(before) = before.filter(|before| *before != k) {
                return Err(Error::shape(format!("{name}: K of the weight"), before, k));
            }
            if bias.shape() != [n] || n * k == 0 {
                return Err(Error::shape(
                    format!("{name}: bias of a weight [{n}, {k}]"),
                    format!("[{n}], nothing of size 0"),
                    format!("{:?}", bias.shape()),
                ));
            }
            before = Some(n);
        }
        match before {
            Some(_) => Ok(Self { layers }),
            None => Err(Error::shape("layers of a network", "one at least", 0)),
        }
    }

    /// Random weights whose squares have the mean 2 / K (He and others 2015), biases of 0; `function` after each layer but the last. The layers are called fc1, fc2, ...
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn random(widths: &[usize], function: Function, random: &mut Random) -> Result<Self> {
        let last = widths.len().saturating_sub(1);
        let layer = |(i, pair): (usize, &[usize])| {
            let (k, n) = (pair[0], pair[1]);
            let size = (2.0 / k as f32).sqrt();
            let values = (0..n * k).map(|_| random.normal() * size).collect();
            Ok(Layer {
                name: format!("fc{}", i + 1),
                weight: Tensor::from_f32([n, k], values)?,
                bias: Tensor::from_f32([n], vec![0.0; n])?,
                function: if i + 1 == last { Function::Identity } else { function },
            })
        };
        Self::new(widths.windows(2).enumerate().map(layer).collect::<Result<_>>()?)
    }

    /// Numbers that go in, and scores that come out.
    pub fn widths(&self) -> (usize, usize) {
        let of = |layer: Option<&Layer>, at: usize| layer.map_or(0, |layer| layer.weight.shape()[at]);
        (of(self.layers.first(), 1), of(self.layers.last(), 0))
    }
}

/// For each row of scores `[M, C]` the class of the highest.
pub fn answers(scores: &Tensor) -> Vec<u8> {
    let (_, classes) = scores.matrix();
    let highest = |row: &[f32]| {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        best.map_or(0, |(i, _)| i as u8)
    };
    scores.to_f32().chunks(classes).map(highest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_fit_on_each_other() {
        let network = Network::random(&[5, 4, 3], Function::Gelu, &mut Random::new(1)).unwrap();
        assert_eq!(network.widths(), (5, 3));
        assert_eq!(network.layers[0].function, Function::Gelu);
        assert_eq!((network.layers[1].function, &network.layers[1].name[..]), (Function::Identity, "fc2"));
        let mut layers = network.layers;
        layers.swap(0, 1);
        let why = Network::new(layers.clone()).unwrap_err().to_string();
        assert!(why.contains("fc1: K of the weight: expected 3, got 5"), "{why}");
        layers.truncate(1);
        layers[0].bias = Tensor::from_f32([2], vec![0.0; 2]).unwrap();
        assert!(Network::new(layers).is_err() && Network::new(Vec::new()).is_err());
    }
}
