//! Products as the command line names them: schemes, shapes or a model, precisions. What `bench` and `tune` share.
//!
//! ```text
//! --scheme --shape | --model --m --activation --accumulate -> Products -> what is usual on a device fills in the rest
//! ```

use crate::bench::cases::{self, Call, Weight};
use crate::kernels::choice;
use crate::product::{Accumulate, Activation};
use crate::{Error, Result, Scheme};

/// Which products.
#[derive(clap::Args)]
pub struct ProductArgs {
    /// Only this scheme (may be given several times)
    #[arg(long = "scheme", value_name = "SCHEME")]
    schemes: Vec<String>,
    /// This shape (may be given several times)
    #[arg(long = "shape", value_name = "MxNxK")]
    shapes: Vec<String>,
    /// The layers of a model: llama-7b, llama-70b, llama-3-8b, llama-3-70b, mistral-7b, qwen3-0.6b, qwen3-4b, qwen3-8b, qwen3-32b
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Rows of x, for a model or the usual shapes
    #[arg(long, value_name = "M,M,...", value_delimiter = ',')]
    m: Vec<String>,
    #[command(flatten)]
    call: CallArgs,
}

/// How products are asked for.
#[derive(clap::Args)]
pub struct CallArgs {
    /// How x enters products: f32, f16, int8 (a scale per row), int8-g32 or int8-g128
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    activation: String,
    /// What sums may be: f32, f16 or f16-chunked (f16 within a group). With the latter two matrix units may compute products
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    accumulate: String,
}

impl CallArgs {
    /// # Errors
    /// [`Error::Usage`].
    pub fn parse(&self) -> Result<Call> {
        let activation: Activation = self.activation.parse()?;
        let accumulate = Accumulate::named(&self.accumulate).ok_or_else(|| {
            Error::Usage(format!("--accumulate '{}': there are f32, f16 and f16-chunked", self.accumulate))
        })?;
        if !matches!(activation, Activation::F32 | Activation::F16) && accumulate != Accumulate::F32 {
            let what = format!("--accumulate {}: sums of int8 activations are f32", accumulate.name());
            return Err(Error::Usage(what));
        }
        Ok(Call { activation, accumulate, kernel: None })
    }

    fn is_empty(&self) -> bool {
        [&self.activation, &self.accumulate].iter().all(|name| *name == "f32")
    }
}

/// What the command line asks for, before there is a device.
pub struct Products {
    schemes: Vec<Scheme>,
    /// By hand and of a model. Rows of x are empty where they are the usual ones.
    shapes: Vec<(Weight, Vec<usize>)>,
    ms: Vec<usize>,
    pub call: Call,
}

impl ProductArgs {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        let lists = [&self.schemes, &self.shapes, &self.m];
        lists.iter().all(|list| list.is_empty()) && self.model.is_none() && self.call.is_empty()
    }

    /// # Errors
    /// [`Error::Usage`]; those of schemes.
    pub fn parse(&self) -> Result<Products> {
        let schemes = self.schemes.iter().map(|name| name.parse()).collect::<Result<Vec<Scheme>>>()?;
        let call = self.call.parse()?;
        let mut ms = Vec::new();
        for text in &self.m {
            match text.trim().parse() {
                Ok(m) if m > 0 => ms.push(m),
                _ => {
                    return Err(Error::Usage(format!(
                        "--m '{text}': expected numbers of rows, as in 1,8,128"
                    )));
                }
            }
        }
        if !ms.is_empty() && !self.shapes.is_empty() {
            return Err(Error::Usage("--m is for models and the usual shapes; a --shape has its M".into()));
        }
        let mut shapes = Vec::new();
        for text in &self.shapes {
            let [m, n, k] = cases::parse_shape(text, "--shape")?;
            for scheme in &schemes {
                let named = |e: Error| Error::Usage(format!("--shape '{text}': {e}"));
                scheme.check_shape(&[n, k]).map_err(named)?;
            }
            shapes.push((Weight::new(n, k), vec![m]));
        }
        if let Some(name) = &self.model {
            shapes.extend(cases::model(name)?.into_iter().map(|weight| (weight, Vec::new())));
        }
        Ok(Products { schemes, shapes, ms, call })
    }
}

impl Products {
    /// The schemes that are asked for; empty where the usual ones are meant.
    pub fn named(&self) -> &[Scheme] {
        &self.schemes
    }

    /// The schemes, or the usual ones.
    ///
    /// # Errors
    /// Those of schemes.
    pub fn schemes(&self, usual: &[&str]) -> Result<Vec<Scheme>> {
        match self.schemes.as_slice() {
            [] => usual.iter().map(|name| name.parse()).collect(),
            named => Ok(named.to_vec()),
        }
    }

    /// The weights [n, k] with their rows of x, or the usual ones.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn shapes(&self, usual: &[[usize; 2]], usual_ms: &[usize]) -> Result<Vec<(Weight, Vec<usize>)>> {
        let ms = if self.ms.is_empty() { usual_ms } else { &self.ms };
        let mut shapes = self.shapes.clone();
        if shapes.is_empty() {
            shapes.extend(usual.iter().map(|&[n, k]| (Weight::new(n, k), Vec::new())));
        }
        for (weight, own) in shapes.iter_mut().filter(|(_, own)| own.is_empty()) {
            own.extend(ms);
            own.iter().try_for_each(|&m| cases::check_sizes(m, weight.n, weight.k))?;
        }
        Ok(shapes)
    }
}

/// The variant of a kernel that `--kernel` names.
///
/// # Errors
/// [`Error::Usage`] with the names there are.
pub fn kernel(name: &str) -> Result<&'static str> {
    choice::named(name).ok_or_else(|| {
        let names: Vec<&str> = choice::variants().collect();
        Error::Usage(format!("--kernel '{name}': there are {}", names.join(", ")))
    })
}
