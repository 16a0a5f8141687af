//! Forward, backward and update of a network whose weights, and inputs of layers, are fake-quantized.
//!
//! ```text
//! for each layer   x' = fake_quantize(x, clip)    w' = fake_quantize(w, steps)    z = dense(x', w') + bias    x = f(z)
//! scores -> dz     for each layer, back to front  dz = f'(z) dx    db = dense(1, dz)    dw' = dense(dz, x')    dx' = dense(dz, w')
//!                                                 dw, d steps of dw'                    dx, d clip of dx'
//! all of them -> update            half: x', w' and dz are rounded to f16, the loss is scaled; weights and sums stay f32
//! ```
//!
//! Everything is recorded on the engine. A step waits for the device only with f16, where gradients may overflow.

use super::loss_scale::LossScale;
use super::network::{Layer, Network};
use super::quantizer::{self, LEAST, Start};
use crate::engine::{Engine, Quantizer};
use crate::learning::{Distillation, Learned, Rule, Update};
use crate::product::Function;
use crate::scheme::{Grid, Group};
use crate::{Array, Error, PackedTensor, Result, Scheme, Tensor};

/// How parameters follow their gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// SGD with this momentum.
    Momentum(f32),
    Adam,
}

impl Optimizer {
    fn rule(self, step: u32) -> Rule {
        match self {
            Self::Momentum(momentum) => Rule::Momentum { momentum },
            Self::Adam => Rule::adam(step),
        }
    }
}

/// Inputs of all layers but the first on a grid from 0 on, whose clip is learned (PACT).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clipping {
    /// 1 to 8.
    pub bits: u32,
    /// The clip to begin with.
    pub clip: f32,
    /// How the clip shrinks by itself.
    pub decay: f32,
}

/// What training is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    pub optimizer: Optimizer,
    /// Of weights and biases.
    pub rate: f32,
    /// Decay of the weights.
    pub decay: f32,
    /// The scheme of the weights; None: they stay f32.
    pub scheme: Option<Scheme>,
    /// The rate of steps and clips, as a part of `rate`.
    pub step_rate: f32,
    pub clipping: Option<Clipping>,
    /// Operands of products are f16.
    pub half: bool,
    /// What is learned from a teacher's scores where there are any.
    pub distillation: Option<Distillation>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            optimizer: Optimizer::Adam,
            rate: 2e-3,
            decay: 0.0,
            scheme: None,
            step_rate: 0.05,
            clipping: None,
            half: false,
            distillation: None,
        }
    }
}

/// Numbers that are learned, with what the optimizer remembers of them.
struct Parameter {
    shape: Vec<usize>,
    /// [states, n]
    state: Array,
    updates: u32,
}

impl Parameter {
    fn new(engine: &Engine, values: &[f32], shape: &[usize], optimizer: Optimizer) -> Result<Self> {
        let states = optimizer.rule(1).states();
        let mut state = values.to_vec();
        state.resize(states * values.len(), 0.0);
        let state = engine.upload(&Tensor::from_f32([states, values.len()], state)?)?;
        Ok(Self { shape: shape.to_vec(), state, updates: 0 })
    }

    fn value(&self) -> Result<Array> {
        self.state.first(self.shape.clone())
    }

    fn update(&mut self, engine: &Engine, gradient: &Array, optimizer: Optimizer, how: Update) -> Result<()> {
        self.updates += 1;
        let rule = optimizer.rule(self.updates);
        self.state = engine.update(&self.state, gradient, &Update { rule, ..how })?;
        Ok(())
    }
}

/// The steps of a weight or of a layer's input.
struct Steps {
    grid: Grid,
    steps: Parameter,
    zeros: Option<Array>,
    learned: Learned,
    /// Of the gradient: LSQ's.
    factor: f32,
}

impl Steps {
    fn new(
        engine: &Engine,
        start: &Start,
        learned: Learned,
        group: usize,
        optimizer: Optimizer,
    ) -> Result<Self> {
        let Start { grid, steps, zeros } = start;
        let zeros = zeros.as_ref().map(|z| engine.upload(&Tensor::from_f32([z.len()], z.clone())?));
        Ok(Self {
            grid: *grid,
            steps: Parameter::new(engine, steps, &[steps.len()], optimizer)?,
            zeros: zeros.transpose()?,
            learned,
            factor: 1.0 / (group as f32 * grid.last.max(1) as f32).sqrt(),
        })
    }

    fn quantizer<'a>(&'a self, steps: &'a Array) -> Quantizer<'a> {
        Quantizer { grid: &self.grid, steps, zeros: self.zeros.as_ref() }
    }

    fn forward(&self, engine: &Engine, x: &Array) -> Result<Array> {
        engine.fake_quantize(x, self.quantizer(&self.steps.value()?))
    }

    /// The gradient of x, and that of the steps.
    fn backward(&self, engine: &Engine, x: &Array, dy: &Array) -> Result<[Array; 2]> {
        let steps = self.steps.value()?;
        let by = self.quantizer(&steps);
        let of_steps = engine.step_gradient(x, dy, by, self.learned, self.factor)?;
        Ok([engine.fake_quantize_backward(x, dy, by)?, of_steps])
    }
}

/// A layer on the engine.
struct Trained {
    name: String,
    function: Function,
    weight: Parameter,
    bias: Parameter,
    steps: Option<Steps>,
    clip: Option<Steps>,
}

/// What the backward pass needs of a layer.
struct Seen {
    /// What came in, before and after it was quantized.
    x: Array,
    quantized: Array,
    /// The weight as it was multiplied with.
    weight: Array,
    /// What came out before the function.
    z: Array,
}

/// The gradients of a layer.
struct Gradients {
    weight: Array,
    bias: Array,
    steps: Option<Array>,
    clip: Option<Array>,
}

/// A network that is trained on an engine.
pub struct Trainer {
    engine: Engine,
    settings: Settings,
    layers: Vec<Trained>,
    scale: LossScale,
}

impl Trainer {
    /// Brings a network to the engine.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a scheme that is no integer grid and for bits of inputs beyond 1 to 8; [`Error::NotRepresentable`]; errors of the device.
    pub async fn new(engine: &Engine, network: &Network, settings: Settings) -> Result<Self> {
        let optimizer = settings.optimizer;
        let mut layers = Vec::with_capacity(network.layers.len());
        for (i, Layer { name, weight, bias, function }) in network.layers.iter().enumerate() {
            let clip = match settings.clipping.filter(|_| i > 0) {
                None => None,
                Some(Clipping { bits, clip, .. }) => {
                    let fits = (1..=8).contains(&bits) && clip.is_finite() && clip > 0.0;
                    if !fits {
                        let what = format!("inputs of {bits} bits clipped at {clip}");
                        return Err(Error::unsupported(what, "1 to 8 bits and a positive clip are"));
                    }
                    let last = (1 << bits) - 1;
                    let grid = Grid::new(0, last, Group::Tensor)?;
                    let start = Start { grid, steps: vec![clip / last as f32], zeros: None };
                    Some(Steps::new(engine, &start, Learned::Clip, 1, optimizer)?)
                }
            };
            layers.push(Trained {
                name: name.clone(),
                function: *function,
                weight: Parameter::new(engine, &weight.to_f32(), weight.shape(), optimizer)?,
                bias: Parameter::new(engine, &bias.to_f32(), bias.shape(), optimizer)?,
                steps: None,
                clip,
            });
        }
        let mut trainer =
            Self { engine: engine.clone(), settings, layers, scale: LossScale::new(32768.0, 200) };
        trainer.set_scheme(settings.scheme).await?;
        Ok(trainer)
    }

    /// Goes on with the weights in another scheme, whose steps begin where the squared error is least.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub async fn set_scheme(&mut self, scheme: Option<Scheme>) -> Result<()> {
        self.settings.scheme = scheme;
        for layer in &mut self.layers {
            layer.steps = match scheme {
                None => None,
                Some(scheme) => {
                    let weight = layer.weight.value()?.read().await?;
                    let start = quantizer::start(&self.engine, &weight, &layer.name, &scheme).await?;
                    let (rows, k) = weight.matrix();
                    let group = start.grid.spans(rows, k).longest();
                    let optimizer = self.settings.optimizer;
                    Some(Steps::new(&self.engine, &start, Learned::Step, group, optimizer)?)
                }
            };
        }
        Ok(())
    }

    /// What training is like.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where it is trained.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What the loss is multiplied with in f16.
    pub fn loss_scale(&self) -> f32 {
        if self.settings.half { self.scale.scale() } else { 1.0 }
    }

    /// Scores `[M, C]` of x `[M, K]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for another K; errors of the device.
    pub fn scores(&self, x: &Array) -> Result<Array> {
        self.forward(x, None)
    }

    /// An operand of a product.
    fn operand(&self, x: Array) -> Result<Array> {
        if self.settings.half { self.engine.half(&x) } else { Ok(x) }
    }

    fn forward(&self, x: &Array, mut seen: Option<&mut Vec<Seen>>) -> Result<Array> {
        let engine = &self.engine;
        let mut x = x.clone();
        for layer in &self.layers {
            let quantized = match &layer.clip {
                Some(clip) => clip.forward(engine, &x)?,
                None => x.clone(),
            };
            let weight = layer.weight.value()?;
            let weight = match &layer.steps {
                Some(steps) => steps.forward(engine, &weight)?,
                None => weight,
            };
            let (quantized, weight) = (self.operand(quantized)?, self.operand(weight)?);
            let z = engine.dense(&quantized, &weight, [false, false], Some(&layer.bias.value()?))?;
            let y = match layer.function {
                Function::Identity => z.clone(),
                function => engine.activate(&z, function)?,
            };
            if let Some(seen) = seen.as_deref_mut() {
                seen.push(Seen { x, quantized, weight, z });
            }
            x = y;
        }
        Ok(x)
    }

    /// The gradients of all layers.
    fn gradients(
        &self,
        x: &Array,
        targets: &Array,
        teacher: Option<&Array>,
        scale: f32,
    ) -> Result<Vec<Gradients>> {
        let engine = &self.engine;
        let mut seen = Vec::with_capacity(self.layers.len());
        let scores = self.forward(x, Some(&mut seen))?;
        let teacher = teacher.zip(self.settings.distillation);
        let m = scores.shape()[0];
        let ones = engine.upload(&Tensor::from_f32([m, 1], vec![1.0; m])?)?;
        let mut d = engine.cross_entropy_backward(&scores, targets, teacher, scale / m as f32)?;
        let mut all = Vec::with_capacity(self.layers.len());
        for (i, (layer, seen)) in self.layers.iter().zip(&seen).enumerate().rev() {
            if layer.function != Function::Identity {
                d = engine.activate_backward(&seen.z, &d, layer.function)?;
            }
            let dz = self.operand(d)?;
            let bias = engine.dense(&ones, &dz, [true, true], None)?;
            let of_weight = engine.dense(&dz, &seen.quantized, [true, true], None)?;
            let (weight, steps) = match &layer.steps {
                None => (of_weight, None),
                Some(steps) => {
                    let [weight, steps] = steps.backward(engine, &layer.weight.value()?, &of_weight)?;
                    (weight, Some(steps))
                }
            };
            let mut of_clip = None;
            d = dz;
            if i > 0 {
                d = engine.dense(&d, &seen.weight, [false, true], None)?;
                if let Some(clip) = &layer.clip {
                    let [of_x, of_step] = clip.backward(engine, &seen.x, &d)?;
                    (d, of_clip) = (of_x, Some(of_step));
                }
            }
            all.push(Gradients { weight, bias, steps, clip: of_clip });
        }
        all.reverse();
        Ok(all)
    }

    /// Whether all gradients are finite: their sum is.
    async fn finite(&self, gradients: &[Gradients]) -> Result<bool> {
        let engine = &self.engine;
        let one = engine.upload(&Tensor::from_f32([1], vec![0.0])?)?;
        let mut sum = one;
        for gradients in gradients {
            let some = [Some(&gradients.weight), gradients.steps.as_ref(), gradients.clip.as_ref()];
            for gradient in some.into_iter().flatten().chain([&gradients.bias]) {
                let n = gradient.shape().iter().product::<usize>();
                let k = *gradient.shape().last().unwrap_or(&1);
                let ones = |n: usize| engine.upload(&Tensor::from_f32([1, n], vec![1.0; n])?);
                let rows = gradient.first([n / k, k])?;
                let columns = engine.dense(&ones(n / k)?, &rows, [false, true], None)?;
                sum = engine.dense(&columns, &ones(k)?, [false, false], Some(&sum))?.first([1])?;
            }
        }
        Ok(sum.read().await?.to_f32()[0].is_finite())
    }

    /// One update by x `[M, K]` and targets `[M, C]`, probabilities; `teacher` has the teacher's scores `[M, C]` where the settings distil. Rates are multiplied with `rate`. Says
    /// whether there was an update: not if gradients overflowed in f16.
    ///
    /// # Errors
    /// [`Error::Shape`] for shapes that do not match; errors of the device.
    pub async fn step(
        &mut self,
        x: &Array,
        targets: &Array,
        teacher: Option<&Array>,
        rate: f32,
    ) -> Result<bool> {
        let scale = self.loss_scale();
        let gradients = self.gradients(x, targets, teacher, scale)?;
        if self.settings.half {
            let finite = self.finite(&gradients).await?;
            if !self.scale.hear(finite) {
                return Ok(false);
            }
        }
        let Settings { optimizer, decay, step_rate, clipping, .. } = self.settings;
        let rate = rate * self.settings.rate;
        let plain = Update { unscale: 1.0 / scale, ..Update::new(optimizer.rule(1), rate) };
        let steps = Update { rate: rate * step_rate, floor: LEAST, ..plain };
        let engine = &self.engine;
        for (layer, gradients) in self.layers.iter_mut().zip(gradients) {
            layer.weight.update(engine, &gradients.weight, optimizer, Update { decay, ..plain })?;
            layer.bias.update(engine, &gradients.bias, optimizer, plain)?;
            if let (Some(own), Some(gradient)) = (&mut layer.steps, &gradients.steps) {
                own.steps.update(engine, gradient, optimizer, steps)?;
            }
            if let (Some(own), Some(gradient)) = (&mut layer.clip, &gradients.clip) {
                let decay = clipping.map_or(0.0, |clipping| clipping.decay);
                own.steps.update(engine, gradient, optimizer, Update { decay, ..steps })?;
            }
        }
        Ok(true)
    }

    /// The losses `[M]` of x and targets, from labels and a teacher as in training.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn losses(&self, x: &Array, targets: &Array, teacher: Option<&Array>) -> Result<Array> {
        let teacher = teacher.zip(self.settings.distillation);
        self.engine.cross_entropy(&self.scores(x)?, targets, teacher, 1.0)
    }

    /// The clips of the layers' inputs, where they are learned.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn clips(&self) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for clip in self.layers.iter().filter_map(|layer| layer.clip.as_ref()) {
            let step = clip.steps.value()?.read().await?;
            all.push(step.to_f32()[0] * clip.grid.last as f32);
        }
        Ok(all)
    }

    /// The network as it is, weights in f32.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn network(&self) -> Result<Network> {
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            layers.push(Layer {
                name: layer.name.clone(),
                weight: layer.weight.value()?.read().await?,
                bias: layer.bias.value()?.read().await?,
                function: layer.function,
            });
        }
        Network::new(layers)
    }

    /// The weights in the scheme that they are trained for.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without a scheme; errors of the device.
    pub async fn packed(&self) -> Result<Vec<PackedTensor>> {
        let Some(scheme) = self.settings.scheme else {
            return Err(Error::unsupported("packing weights that are trained in f32", "set a scheme"));
        };
        let mut all = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let Some(Steps { grid, steps, zeros, .. }) = &layer.steps else { continue };
            let zeros = match zeros {
                Some(zeros) => Some(zeros.read().await?.to_f32().into_owned()),
                None => None,
            };
            let steps = steps.value()?.read().await?.to_f32().into_owned();
            let end = Start { grid: *grid, steps, zeros };
            let weight = layer.weight.value()?;
            all.push(quantizer::pack(&self.engine, &weight, &layer.name, &scheme, &end).await?);
        }
        Ok(all)
    }
}
