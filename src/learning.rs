//! The words of training: what a quantizer learns, what a student takes over from its teacher, how parameters are moved.
//!
//! ```text
//! step:  y = s * q          q = x / s rounded and clipped to the codes: fake quantization
//!        dy/dx = 1 inside the clip range, 0 outside        dy/ds = q - x / s inside (Learned::Clip: 0), q outside
//! loss:  (1 - share) * H(targets, softmax(z)) + share * T^2 * KL(softmax(teacher / T) || softmax(z / T))
//! update: Rule -> the parameters and what the rule remembers
//! ```
//!
//! No arithmetic on tensors here: engines have it.

/// Which gradient the step of a fake quantizer has inside its clip range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Learned {
    /// `q - x / s`: learned step size (LSQ, Esser and others 2020).
    Step,
    /// None, so that only what is clipped counts: the learned clip of PACT (Choi and others 2018), `alpha = s * last`.
    Clip,
}

/// What a student learns of its teacher's scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distillation {
    /// T: scores are divided by it before they become probabilities.
    pub temperature: f32,
    /// Of the loss, from 0 (labels alone) to 1 (the teacher alone).
    pub share: f32,
}

/// How a parameter follows its gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// `v = momentum * v + g`, `p = p - rate * v`.
    Momentum { momentum: f32 },
    /// `m = m + (1 - beta1) (g - m)`, `v = v + (1 - beta2) (g^2 - v)`, `p = p - rate * m' / (sqrt(v') + eps)` with
    /// `m' = m / (1 - beta1^step)`, `v' = v / (1 - beta2^step)`; the first step is 1.
    Adam { beta1: f32, beta2: f32, eps: f32, step: u32 },
}

impl Rule {
    /// Adam as it is mostly used.
    pub fn adam(step: u32) -> Self {
        Self::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, step }
    }

    /// Numbers that belong to a parameter, itself included.
    pub fn states(&self) -> usize {
        match self {
            Self::Momentum { .. } => 2,
            Self::Adam { .. } => 3,
        }
    }
}

/// One update of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    pub rule: Rule,
    pub rate: f32,
    /// The parameter is multiplied with `1 - rate * decay` first.
    pub decay: f32,
    /// The gradient is multiplied with this before anything else: what undoes a scale of the loss.
    pub unscale: f32,
    /// Where the result is smaller, this takes its place.
    pub floor: f32,
}

impl Update {
    /// Without decay, scale or floor.
    pub fn new(rule: Rule, rate: f32) -> Self {
        Self { rule, rate, decay: 0.0, unscale: 1.0, floor: f32::MIN }
    }

    /// What engines multiply with, worked out once for all of them: rate, `1 - rate * decay`, unscale, floor; then momentum, or `1 - beta1`, `1 - beta2`, the
    /// two corrections and eps.
    pub(crate) fn numbers(&self) -> [f32; 9] {
        let keep = 1.0 - self.rate * self.decay;
        let rest = match self.rule {
            Rule::Momentum { momentum } => [momentum, 0.0, 0.0, 0.0, 0.0],
            Rule::Adam { beta1, beta2, eps, step } => {
                let of = |beta: f32| 1.0 - f64::from(beta);
                let correction = |beta: f32| 1.0 / (1.0 - f64::from(beta).powi(step.max(1) as i32));
                let all = [of(beta1), of(beta2), correction(beta1), correction(beta2), f64::from(eps)];
                all.map(|v| v as f32)
            }
        };
        let [a, b, c, d, e] = rest;
        [self.rate, keep, self.unscale, self.floor, a, b, c, d, e]
    }
}
