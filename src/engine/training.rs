//! What training is made of: products of dense matrices, fake quantization, functions, the loss, their gradients, updates.
//!
//! ```text
//! forward   fake_quantize(w), dense(x, w, bias), activate(y)          cross_entropy(scores, targets) -> losses
//! backward  cross_entropy_backward -> activate_backward -> dense(dy, w) for x, dense(dy, x) for w -> fake_quantize_backward, step_gradient
//! update(state, gradient) -> state
//! ```
//!
//! Operands are f32 or f16, results f32 (but for [`Engine::half`]); everything is worked out in f32. Recorded on a GPU as products are. `train` puts them together.

use super::array::{Array, ArrayData};
use super::encoder::{Step, on_host, rows};
use super::{Backend, Engine};
use crate::learning::{Distillation, Learned, Update};
use crate::product::Function;
use crate::scheme::grid::Grid;
use crate::{DType, Error, Result, Tensor, cpu};
use half::f16;
use std::sync::Arc;

#[cfg(feature = "gpu")]
use super::{encoder::on_device, foreign};
#[cfg(feature = "gpu")]
use crate::{
    gpu::{Gpu, Target},
    kernels::{self, teams::Rows},
};

/// A fake quantizer: a step for each group of a tensor, positive, and a zero-point where codes have one, an integer from the grid's first to its last.
#[derive(Clone, Copy, Debug)]
pub struct Quantizer<'a> {
    pub grid: &'a Grid,
    /// [groups]
    pub steps: &'a Array,
    /// [groups]
    pub zeros: Option<&'a Array>,
}

/// What a student learns from: its teacher's scores, and how.
pub type Teacher<'a> = Option<(&'a Array, Distillation)>;

/// One of the operations and its operands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Training<'a> {
    Dense { a: &'a Array, b: &'a Array, turned: [bool; 2], bias: Option<&'a Array> },
    FakeQuantize { x: &'a Array, dy: Option<&'a Array>, by: Quantizer<'a> },
    StepGradient { x: &'a Array, dy: &'a Array, by: Quantizer<'a>, learned: Learned, factor: f32 },
    Activate { x: &'a Array, dy: Option<&'a Array>, function: Function },
    CrossEntropy { scores: &'a Array, targets: &'a Array, teacher: Teacher<'a>, scale: f32, gradient: bool },
    Update { state: &'a Array, gradient: &'a Array, how: &'a Update },
}

impl Engine {
    /// y `[M, N]`, the products of the rows of a `[M, T]` with those of b `[N, T]`, as `matmul` has them of packed weights. A turned operand is `[T, M]` or `[T, N]`: its
    /// columns are multiplied. `bias` `[N]` is added to each row.
    ///
    /// Forward `dense(x, w)`; the gradient of x is `dense(dy, w turned)`, that of w `dense(dy turned, x turned)`.
    ///
    /// # Errors
    /// [`Error::Shape`] for shapes that do not match; [`Error::Unsupported`] for arrays of another engine; [`Error::TooLarge`] if one is larger than a
    /// binding; errors of the device.
    pub fn dense(&self, a: &Array, b: &Array, turned: [bool; 2], bias: Option<&Array>) -> Result<Array> {
        self.run(Step::Training(Training::Dense { a, b, turned, bias }))
    }

    /// x `[.., K]` on the grid: `s * q` for each number.
    ///
    /// # Errors
    /// As [`Engine::dense`].
    pub fn fake_quantize(&self, x: &Array, by: Quantizer<'_>) -> Result<Array> {
        self.run(Step::Training(Training::FakeQuantize { x, dy: None, by }))
    }

    /// The gradient of x straight through: dy inside the clip range, 0 outside.
    ///
    /// # Errors
    /// As [`Engine::dense`].
    pub fn fake_quantize_backward(&self, x: &Array, dy: &Array, by: Quantizer<'_>) -> Result<Array> {
        self.run(Step::Training(Training::FakeQuantize { x, dy: Some(dy), by }))
    }

    /// The gradient `[groups]` of the steps, times `factor`. LSQ's factor is `1 / sqrt(N * last)` for groups of N numbers.
    ///
    /// # Errors
    /// As [`Engine::dense`].
    pub fn step_gradient(
        &self,
        x: &Array,
        dy: &Array,
        by: Quantizer<'_>,
        learned: Learned,
        factor: f32,
    ) -> Result<Array> {
        self.run(Step::Training(Training::StepGradient { x, dy, by, learned, factor }))
    }

    /// A function of every number.
    ///
    /// # Errors
    /// As [`Engine::dense`].
    pub fn activate(&self, x: &Array, function: Function) -> Result<Array> {
        self.run(Step::Training(Training::Activate { x, dy: None, function }))
    }

    /// The gradient of what went into a function.
    ///
    /// # Errors
    /// As [`Engine::dense`].
    pub fn activate_backward(&self, x: &Array, dy: &Array, function: Function) -> Result<Array> {
        self.run(Step::Training(Training::Activate { x, dy: Some(dy), function }))
    }

    /// The losses `[M]` of scores `[M, C]`, times `scale`. `targets` `[M, C]` are probabilities, 1 for the label of a row as a rule.
    ///
    /// # Errors
    /// As [`Engine::dense`]; [`Error::Unsupported`] for a temperature that is not positive and a share that is not in 0..=1.
    pub fn cross_entropy(
        &self,
        scores: &Array,
        targets: &Array,
        teacher: Teacher<'_>,
        scale: f32,
    ) -> Result<Array> {
        self.run(Step::Training(Training::CrossEntropy { scores, targets, teacher, scale, gradient: false }))
    }

    /// The gradient `[M, C]` of the sum of [`Engine::cross_entropy`]'s losses.
    ///
    /// # Errors
    /// As [`Engine::cross_entropy`].
    pub fn cross_entropy_backward(
        &self,
        scores: &Array,
        targets: &Array,
        teacher: Teacher<'_>,
        scale: f32,
    ) -> Result<Array> {
        self.run(Step::Training(Training::CrossEntropy { scores, targets, teacher, scale, gradient: true }))
    }

    /// The state `[states, n]` of a parameter of n numbers after a step by its gradient `[.., n]`: the parameter first, then what the rule remembers.
    ///
    /// # Errors
    /// As [`Engine::dense`].
    pub fn update(&self, state: &Array, gradient: &Array, how: &Update) -> Result<Array> {
        self.run(Step::Training(Training::Update { state, gradient, how }))
    }

    /// The numbers rounded to f16, to the nearest even.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for arrays of another engine; errors of the device.
    pub fn half(&self, x: &Array) -> Result<Array> {
        if x.dtype == DType::F16 {
            return Ok(x.clone());
        }
        let data = match &self.backend {
            Backend::Cpu => {
                let halves: Vec<f16> = on_host(x)?.iter().map(|&v| f16::from_f32(v)).collect();
                ArrayData::Host(Arc::new(Tensor::from_f16(x.shape.clone(), &halves)?))
            }
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => {
                let elements: usize = x.shape.iter().product();
                let target = &mut Target::Recorder;
                let (buffer, offset) = on_device(gpu, target, x)?;
                let y = gpu.alloc(elements as u64 * 2, "f32 as f16")?;
                kernels::convert::record(gpu, target, (&buffer, offset), (&y, 0), elements, true)?;
                ArrayData::Device(gpu.clone(), y, 0)
            }
        };
        Ok(Array { shape: x.shape.clone(), dtype: DType::F16, data })
    }
}

/// `[M, T]` of an operand of rank 2, which is there as `[T, M]` if `turned`.
fn matrix(what: &str, array: &Array, turned: bool) -> Result<[usize; 2]> {
    match array.shape[..] {
        [rows, columns] if rows * columns > 0 => Ok(if turned { [columns, rows] } else { [rows, columns] }),
        _ => Err(Error::shape(what, "[rows, columns], both above 0", format!("{:?}", array.shape))),
    }
}

/// Whether an operand has this shape.
fn shaped(what: &str, array: Option<&Array>, shape: &[usize]) -> Result<()> {
    match array.filter(|array| array.shape != shape) {
        Some(array) => Err(Error::shape(what, format!("{shape:?}"), format!("{:?}", array.shape))),
        None => Ok(()),
    }
}

impl Quantizer<'_> {
    /// Whether there is a step for each group of x.
    fn fits(&self, x: &Array) -> Result<usize> {
        let (rows, k) = rows(x)?;
        let Grid { first, last, group } = *self.grid;
        Grid::new(first, last, group)?;
        let groups = self.grid.spans(rows, k).count();
        shaped("steps", Some(self.steps), &[groups])?;
        shaped("zeros", self.zeros, &[groups])?;
        Ok(groups)
    }
}

impl Training<'_> {
    /// The shape of y, if the operands fit together.
    pub(super) fn shape(&self) -> Result<Vec<usize>> {
        match *self {
            Self::Dense { a, b, turned, bias } => {
                let [[m, t], [n, other]] = [matrix("a", a, turned[0])?, matrix("b", b, turned[1])?];
                if t != other {
                    return Err(Error::shape("terms of a and b", t, other));
                }
                shaped("bias", bias, &[n])?;
                Ok(vec![m, n])
            }
            Self::FakeQuantize { x, dy, by } => {
                by.fits(x)?;
                shaped("dy", dy, &x.shape)?;
                Ok(x.shape.clone())
            }
            Self::StepGradient { x, dy, by, .. } => {
                shaped("dy", Some(dy), &x.shape)?;
                Ok(vec![by.fits(x)?])
            }
            Self::Activate { x, dy, .. } => {
                rows(x)?;
                shaped("dy", dy, &x.shape)?;
                Ok(x.shape.clone())
            }
            Self::CrossEntropy { scores, targets, teacher, gradient, .. } => {
                let [m, _] = matrix("scores", scores, false)?;
                shaped("targets", Some(targets), &scores.shape)?;
                shaped("teacher", teacher.map(|(array, _)| array), &scores.shape)?;
                if let Some((_, Distillation { temperature, share })) = teacher {
                    if !(temperature.is_finite() && temperature > 0.0) {
                        let what = format!("a temperature of {temperature}");
                        return Err(Error::unsupported(what, "it is positive"));
                    }
                    if !(0.0..=1.0).contains(&share) {
                        return Err(Error::unsupported(format!("a share of {share}"), "it is in 0..=1"));
                    }
                }
                Ok(if gradient { scores.shape.clone() } else { vec![m] })
            }
            Self::Update { state, gradient, how } => {
                let n: usize = gradient.shape.iter().product();
                if n == 0 {
                    return Err(Error::shape("a gradient", "a number at least", 0));
                }
                shaped("state", Some(state), &[how.rule.states(), n])?;
                Ok(state.shape.clone())
            }
        }
    }

    pub(super) fn on_cpu(&self) -> Result<Vec<f32>> {
        let both = |array: Option<&Array>| array.map(on_host).transpose().map(|a| a.map(|a| a.into_owned()));
        Ok(match *self {
            Self::Dense { a, b, turned, bias } => {
                let [[m, t], [n, _]] = [matrix("a", a, turned[0])?, matrix("b", b, turned[1])?];
                let bias = bias.map(on_host).transpose()?;
                cpu::dense(&on_host(a)?, &on_host(b)?, [m, n, t], turned, bias.as_deref())
            }
            Self::FakeQuantize { x, dy, by } => {
                let dy = dy.map(on_host).transpose()?;
                let (k, steps, zeros) = (rows(x)?.1, on_host(by.steps)?, both(by.zeros)?);
                cpu::fake_quantize(&on_host(x)?, k, dy.as_deref(), &steps, zeros.as_deref(), by.grid)
            }
            Self::StepGradient { x, dy, by, learned, factor } => {
                let (k, steps, zeros) = (rows(x)?.1, on_host(by.steps)?, both(by.zeros)?);
                let (x, dy) = (on_host(x)?, on_host(dy)?);
                cpu::step_gradient(&x, k, &dy, &steps, zeros.as_deref(), by.grid, learned, factor)
            }
            Self::Activate { x, dy, function } => {
                let dy = dy.map(on_host).transpose()?;
                cpu::activate(&on_host(x)?, dy.as_deref(), function)
            }
            Self::CrossEntropy { scores, targets, teacher, scale, gradient } => {
                let classes = rows(scores)?.1;
                let given = teacher.map(|(array, how)| Ok::<_, Error>((on_host(array)?, how))).transpose()?;
                let given = given.as_ref().map(|(array, how)| (&**array, *how));
                cpu::cross_entropy(&on_host(scores)?, classes, &on_host(targets)?, given, scale, gradient)
            }
            Self::Update { state, gradient, how } => cpu::update(&on_host(state)?, &on_host(gradient)?, how),
        })
    }

    /// Records the operation, its operands checked, into y.
    #[cfg(feature = "gpu")]
    pub(super) fn record(&self, gpu: &Gpu, y: Rows<'_>) -> Result<()> {
        let target = &mut Target::Recorder;
        // Operands as f32, in the order of the kernel's bindings.
        let operands: Vec<Option<&Array>> = match *self {
            Self::Dense { a, b, bias, .. } => vec![Some(a), Some(b), bias],
            Self::FakeQuantize { x, dy, by } => vec![Some(x), dy, Some(by.steps), by.zeros],
            Self::StepGradient { x, dy, by, .. } => vec![Some(x), Some(dy), Some(by.steps), by.zeros],
            Self::Activate { x, dy, .. } => vec![Some(x), dy],
            Self::CrossEntropy { scores, targets, teacher, .. } => {
                vec![Some(scores), Some(targets), teacher.map(|(array, _)| array)]
            }
            Self::Update { state, gradient, .. } => vec![Some(state), Some(gradient)],
        };
        let mut held = Vec::new();
        for array in operands.into_iter().flatten() {
            if !matches!(&array.data, ArrayData::Device(owner, ..) if owner.same(gpu)) {
                return Err(foreign());
            }
            let elements: usize = array.shape.iter().product();
            held.push((on_device(gpu, target, array)?, elements));
        }
        let bindings: Vec<(Rows<'_>, usize)> =
            held.iter().map(|((buffer, offset), elements)| ((buffer, *offset), *elements)).collect();
        let elements = self.shape()?.iter().product();
        let to = kernels::training::Operands { read: &bindings, y: (y, elements) };
        match *self {
            Self::Dense { a, b, turned, bias } => {
                let [[m, t], [n, _]] = [matrix("a", a, turned[0])?, matrix("b", b, turned[1])?];
                kernels::dense::record(gpu, target, [m, n, t], turned, bias.is_some(), &to)
            }
            Self::FakeQuantize { x, dy, by } => {
                let (m, k) = rows(x)?;
                let spans = by.grid.spans(m, k);
                kernels::fake_quantize::record(
                    gpu,
                    target,
                    (by.grid, &spans),
                    dy.is_some(),
                    by.zeros.is_some(),
                    &to,
                )
            }
            Self::StepGradient { x, by, learned, factor, .. } => {
                let (m, k) = rows(x)?;
                let (spans, zeros) = (by.grid.spans(m, k), by.zeros.is_some());
                kernels::step_gradient::record(gpu, target, (by.grid, &spans), zeros, (learned, factor), &to)
            }
            Self::Activate { dy, function, .. } => {
                kernels::activate::record(gpu, target, function, dy.is_some(), &to)
            }
            Self::CrossEntropy { scores, teacher, scale, gradient, .. } => {
                let how = teacher.map(|(_, how)| how);
                kernels::cross_entropy::record(gpu, target, rows(scores)?, how, scale, gradient, &to)
            }
            Self::Update { how, .. } => kernels::update::record(gpu, target, how, &to),
        }
    }
}
