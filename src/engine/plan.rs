//! What a product would run, and why: the choice of `kernels::choice` in words.
//!
//! ```text
//! [m, n, k], scheme, options -> plan: kernel, variant, origin, how it sums      explain: the same, workgroups, and why not the others
//! ```
//!
//! Nothing is recorded or compiled here.

use super::{Backend, Engine, MatmulOptions, PackedArray};
use crate::product::{Accumulate, Summation};
use crate::{Error, Result, Scheme, cpu};
use serde_json::{Value, json};

#[cfg(feature = "gpu")]
use crate::{
    kernels::choice::{self, Facts, Picked, Reason, Shape},
    product::Product,
};

/// Who chose a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The call, by [`MatmulOptions::kernel`].
    Pinned,
    /// A measurement.
    Tuned,
    /// The table of defaults.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pinned => "pinned",
            Self::Tuned => "tuned",
            Self::Default => "default",
        })
    }
}

/// What a product would run, and how it sums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The kernel's name in `KERNELS`; `cpu` on the CPU engine.
    pub kernel: &'static str,
    /// The name that pins kernel and tile in [`MatmulOptions::kernel`], so that the same runs wherever it runs at all.
    pub variant: &'static str,
    /// Who chose it, and why.
    pub origin: Origin,
    pub why: String,
    /// Tile, lanes and tier in words.
    pub detail: String,
    /// The policy that is carried out: F32 where the device has no f16 arithmetic.
    pub accumulate: Accumulate,
    /// Whether weights and activations are rounded to f16 first.
    pub halves: bool,
    pub summation: Summation,
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}), accumulates in {:?}", self.variant, self.detail, self.accumulate)?;
        write!(f, "; {}: {}", self.origin, self.why)
    }
}

/// A [`Plan`] beside what was not chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub plan: Plan,
    /// In x, y and z, of one dispatch for all rows of a weight that is one binding; None on the CPU engine.
    pub workgroups: Option<[u32; 3]>,
    /// Every other variant that could have been meant, and why it is not the one.
    pub others: Vec<(&'static str, String)>,
}

/// M, N and K of [`Engine::matmul`] for `m` rows of x.
pub(crate) fn size(m: usize, w: &PackedArray, options: &MatmulOptions) -> [usize; 3] {
    let (shape, k) = (w.shape(), w.shape().last().copied().unwrap_or(0));
    let n = match options.expert {
        Some(_) => shape.len().checked_sub(2).map_or(1, |at| shape[at]),
        None => shape[..shape.len().saturating_sub(1)].iter().product(),
    };
    [m, n, k]
}

impl Explanation {
    /// The object that `lowbit devices --explain --json` and the package for browsers give.
    pub fn to_json(&self) -> Value {
        let Self { plan, workgroups, others } = self;
        let others: Vec<_> =
            others.iter().map(|(variant, why)| json!({"variant": variant, "why": why})).collect();
        json!({
            "kernel": plan.kernel, "variant": plan.variant, "origin": plan.origin.to_string(), "why": plan.why,
            "tile": plan.detail, "workgroups": workgroups, "accumulate": plan.accumulate.name(),
            "halves": plan.halves, "others": others,
        })
    }
}

impl Engine {
    /// What [`Engine::matmul`] would run for `m` rows of x.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what [`Engine::matmul`] does not do, and if the options pin a kernel that does not take this product.
    pub fn plan(&self, m: usize, w: &PackedArray, options: &MatmulOptions) -> Result<Plan> {
        self.plan_of(size(m, w, options), w.scheme(), options)
    }

    /// What a product y [m, n] of x [m, k] and a weight [n, k] in a scheme would run.
    ///
    /// # Errors
    /// As [`Engine::plan`].
    pub fn plan_of(&self, size: [usize; 3], scheme: &Scheme, options: &MatmulOptions) -> Result<Plan> {
        options.supported()?;
        let [m, n, k] = size;
        let counts =
            [[m, k], [n, k], [m, n]].map(|matrix| crate::tensor::element_count(&matrix).unwrap_or(0));
        if counts.contains(&0) {
            let need = "sizes from 1 on, of matrices whose elements can be counted";
            return Err(Error::shape("a product", need, format!("M {m}, N {n}, K {k}")));
        }
        let product = options.product();
        match &self.backend {
            Backend::Cpu => Ok(Plan {
                kernel: "cpu",
                variant: "cpu",
                origin: Origin::Default,
                why: "the CPU engine has one way for each kind of activations".into(),
                detail: cpu::instructions().into(),
                accumulate: Accumulate::F32,
                halves: false,
                summation: cpu::summation(&product, scheme, size[2]),
            }),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => {
                let on = Facts::of(gpu);
                let shape = Shape::new(size, *scheme, &product);
                let Picked { choice, variant, reason } =
                    choice::pick(&on, &shape, options.kernel, &self.tuning.winners)?;
                let accumulate = choice.accumulate(product.accumulate, on.tier);
                Ok(Plan {
                    kernel: choice.kernel(),
                    variant,
                    origin: match reason {
                        Reason::Pinned => Origin::Pinned,
                        Reason::Tuned(_) => Origin::Tuned,
                        Reason::Default(_) => Origin::Default,
                    },
                    why: reason.to_string(),
                    detail: match choice.parts {
                        1 => format!("{}, {:?}", on.tier, choice.form),
                        parts => format!("{}, {:?}, K in {parts} parts", on.tier, choice.form),
                    },
                    accumulate,
                    halves: choice.halves(product.accumulate, on.tier),
                    summation: choice.summation(scheme, &Product { accumulate, ..product }, shape.k),
                })
            }
        }
    }

    /// What a product y [m, n] of x [m, k] and a weight [n, k] in a scheme would run, and why nothing else.
    ///
    /// # Errors
    /// As [`Engine::plan`].
    pub fn explain(&self, size: [usize; 3], scheme: &Scheme, options: &MatmulOptions) -> Result<Explanation> {
        let plan = self.plan_of(size, scheme, options)?;
        match &self.backend {
            Backend::Cpu => Ok(Explanation { plan, workgroups: None, others: Vec::new() }),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => {
                let on = Facts::of(gpu);
                let shape = Shape::new(size, *scheme, &options.product());
                let chosen = choice::pick(&on, &shape, options.kernel, &self.tuning.winners)?.choice;
                let mut others = Vec::new();
                for (variant, choice) in choice::candidates(&on, &shape) {
                    match choice {
                        Ok(choice) if choice == chosen => {}
                        Ok(_) => {
                            let other = match plan.origin {
                                Origin::Pinned => "the call names",
                                Origin::Tuned => "the winner of its class is",
                                Origin::Default => "the table of defaults has",
                            };
                            others.push((variant, format!("it would run too; {other} {}", plan.variant)));
                        }
                        Err(Error::Unsupported { what, why }) if why.is_empty() => {
                            others.push((variant, what))
                        }
                        Err(Error::Unsupported { why, .. }) => others.push((variant, why)),
                        Err(other) => return Err(other),
                    }
                }
                let workgroups = Some(chosen.workgroups(gpu, shape.m, shape.n)?);
                Ok(Explanation { plan, workgroups, others })
            }
        }
    }
}
