//! What a scheme costs a layer: the noise of its outputs beside their power.
//!
//! ```text
//! W [N, K] -> quantized, decoded -> D = W - decoded -> |D|^2 / |W|^2                          without statistics
//!                                                      tr(D H D^T) / tr(W H W^T), H = X^T X   with those of its inputs
//! ```
//!
//! H is what [`crate::calibrate`] calls moments: tr(D H D^T) is the squared error of the outputs, summed over all inputs that were seen. Without it inputs are taken for
//! independent numbers of one variance, H = I. Either is a share of the layer's own power, so that layers of both kinds, and of outputs of any size, have
//! errors of one unit: 10 log10 of its inverse is the SQNR of the outputs.

use crate::engine::{Engine, MatmulOptions, PackedArray};
use crate::scheme::Method;
use crate::{DType, Error, Result, Scheme, Tensor};

/// A layer whose errors are asked for.
pub struct Layer<'a> {
    engine: &'a Engine,
    name: &'a str,
    weights: &'a Tensor,
    values: Vec<f32>,
    /// X^T X `[K, K]`, on the device.
    moments: Option<PackedArray>,
    /// What errors are shares of.
    power: f64,
}

impl<'a> Layer<'a> {
    /// A layer of `weights` `[.., N, K]`, with X^T X `[K, K]` of its inputs if they are known.
    ///
    /// # Errors
    /// [`Error::Shape`] for moments of another width; [`Error::Check`] for those that make a power negative, which no X^T X does; errors of the device.
    pub async fn new(
        engine: &'a Engine,
        name: &'a str,
        weights: &'a Tensor,
        moments: Option<&[f32]>,
    ) -> Result<Self> {
        let (_, k) = weights.matrix();
        let moments = match moments {
            Some(moments) if moments.len() != k * k => {
                let got = format!("{} numbers", moments.len());
                return Err(Error::shape("X^T X", format!("[{k}, {k}]"), got).in_tensor(name));
            }
            Some(moments) => {
                let tensor = Tensor::from_f32([k, k], moments.to_vec())?;
                Some(engine.quantize_named(&tensor, name, &"f32".parse()?).await?)
            }
            None => None,
        };
        let values = weights.to_f32().into_owned();
        let mut layer = Self { engine, name, weights, values, moments, power: 0.0 };
        layer.power = layer.power_of(layer.values.clone()).await?;
        Ok(layer)
    }

    /// The error of a scheme, by a method: 0 is none, 1 is as much noise as signal.
    ///
    /// # Errors
    /// As [`Engine::quantize_by`]; [`Error::Check`] for an error that is no number.
    pub async fn error(&self, scheme: &Scheme, method: Method) -> Result<f64> {
        let packed = self.engine.quantize_by(self.weights, self.name, scheme, method).await?;
        let decoded = self.engine.dequantize(&packed, DType::F32)?.read().await?;
        let difference = self.values.iter().zip(decoded.to_f32().iter()).map(|(w, d)| w - d).collect();
        let noise = self.power_of(difference).await?;
        // Weights of zero, or inputs that never are anything else.
        let error = if noise == 0.0 { 0.0 } else { noise / self.power };
        match error.is_finite() {
            true => Ok(error),
            false => Err(self.wrong(format!("an error of {error} in {scheme}"))),
        }
    }

    /// tr(V H V^T), or the sum of squares.
    async fn power_of(&self, values: Vec<f32>) -> Result<f64> {
        let Some(moments) = &self.moments else {
            return Ok(values.iter().map(|v| f64::from(*v).powi(2)).sum());
        };
        let (n, k) = self.weights.matrix();
        let v = Tensor::from_f32([n, k], values)?;
        // X^T X is its own transpose.
        let product = self.engine.matmul(&self.engine.upload(&v)?, moments, &MatmulOptions::default())?;
        let product = product.read().await?;
        let pairs = v.to_f32();
        let sum: f64 =
            pairs.iter().zip(product.to_f32().iter()).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        match sum >= 0.0 {
            true => Ok(sum),
            false => Err(self.wrong(format!("a power of {sum} by its X^T X, which cannot be one"))),
        }
    }

    fn wrong(&self, what: String) -> Error {
        Error::Check { what }.in_tensor(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::wait;

    fn values(n: usize, mut state: u32) -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// The error of outputs X W^T worked out by themselves, and by X^T X.
    #[test]
    fn the_error_is_that_of_the_outputs() {
        let (n, k, t) = (6, 32, 50);
        let engine = Engine::cpu();
        let w = Tensor::from_f32([n, k], values(n * k, 1)).unwrap();
        // Columns of very different size.
        let x: Vec<f32> =
            values(t * k, 2).iter().enumerate().map(|(i, v)| v * (1 + i % k * (i % k)) as f32).collect();
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let column = |i: usize| x.iter().skip(i).step_by(k).copied().collect::<Vec<f32>>();
        let moments: Vec<f32> = (0..k * k).map(|i| dot(&column(i / k), &column(i % k)) as f32).collect();
        let scheme: Scheme = "int3-g32".parse().unwrap();
        let packed = crate::cpu::quantize(&w, "w", &scheme, None).unwrap();
        let decoded = crate::cpu::dequantize(&packed, DType::F32);
        let (w_values, decoded) = (w.to_f32(), decoded.to_f32());
        let (mut noise, mut signal, mut plain) = (0.0, 0.0, [0.0; 2]);
        for (w, d) in w_values.chunks(k).zip(decoded.chunks(k)) {
            for x in x.chunks(k) {
                noise += (dot(x, w) - dot(x, d)).powi(2);
                signal += dot(x, w).powi(2);
            }
            let difference: Vec<f32> = w.iter().zip(d).map(|(w, d)| w - d).collect();
            plain = [plain[0] + dot(&difference, &difference), plain[1] + dot(w, w)];
        }
        let by = |moments: Option<&[f32]>| {
            let layer = wait(Layer::new(&engine, "w", &w, moments)).unwrap();
            wait(layer.error(&scheme, Method::Own)).unwrap()
        };
        let (with, without) = (by(Some(&moments)), by(None));
        assert!((with / (noise / signal) - 1.0).abs() < 1e-4, "{with} {}", noise / signal);
        assert!((without / (plain[0] / plain[1]) - 1.0).abs() < 1e-6, "{without}");
        assert!((with / without - 1.0).abs() > 0.05, "the two are told apart");
    }

    #[test]
    fn zeros_have_no_error_and_wrong_moments_are_refused() {
        let engine = Engine::cpu();
        let zeros = Tensor::from_f32([2, 4], vec![0.0; 8]).unwrap();
        let scheme: Scheme = "int4-g32".parse().unwrap();
        let layer = wait(Layer::new(&engine, "w", &zeros, None)).unwrap();
        assert_eq!(wait(layer.error(&scheme, Method::Own)).unwrap(), 0.0);
        let w = Tensor::from_f32([2, 4], values(8, 1)).unwrap();
        let dead = wait(Layer::new(&engine, "w", &w, Some(&[0.0; 16]))).unwrap();
        assert_eq!(wait(dead.error(&scheme, Method::Own)).unwrap(), 0.0);
        let refused = |moments: &[f32]| {
            wait(Layer::new(&engine, "w", &w, Some(moments))).map(|_| ()).unwrap_err().to_string()
        };
        assert_eq!(refused(&[1.0; 9]), "tensor 'w': X^T X: expected [4, 4], got 9 numbers");
        assert!(refused(&[-1.0; 16]).contains("cannot be one"), "{}", refused(&[-1.0; 16]));
    }
}
