//! What is measured: operations, shapes, and the shapes of models.
//!
//! ```text
//! {matvec, matmul, quantize x methods, dequantize} x schemes x {(M, N, K) by hand, layers of a model x M} -> Case, ...
//! ```
//!
//! M rows of x meet a weight [N, K]; quantize and dequantize have no M. Layers of one shape are one case with all their names. Only quantize has
//! methods; whether a scheme takes one is found when it is measured.

use crate::product::{Accumulate, Activation};
use crate::scheme::Method;
use crate::{Error, Result, Scheme};
use serde::{Deserialize, Serialize};

/// Largest M of a matrix-vector product.
pub const FEW_ROWS: usize = 16;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// A product with up to [`FEW_ROWS`] rows of x.
    Matvec,
    /// A product with more.
    Matmul,
    /// f32 to a scheme, by any method. On a GPU from f32 that are there already.
    Quantize,
    /// A scheme to f32.
    Dequantize,
    /// A token to a cache of keys and values: [`super::kv`]'s, as the next one.
    #[serde(rename = "kv_append")]
    KvAppend,
    /// One query token over a cache.
    #[serde(rename = "kv_attention")]
    KvAttention,
}

impl Operation {
    /// Those with a weight.
    pub const ALL: &'static [Self; 4] = &[Self::Matvec, Self::Matmul, Self::Quantize, Self::Dequantize];

    /// Those with a cache.
    pub const KV: &'static [Self; 2] = &[Self::KvAppend, Self::KvAttention];

    /// The operation of a name, `all` for all that have a weight, `kv` for those of a cache.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn named(name: &str) -> Result<&'static [Self]> {
        let at = Self::ALL.iter().position(|operation| operation.name() == name);
        match at {
            Some(at) => Ok(&Self::ALL[at..=at]),
            None if name == "all" => Ok(Self::ALL),
            None if name == "kv" => Ok(Self::KV),
            None => {
                let names = Self::ALL.map(Self::name).join(", ");
                Err(Error::Usage(format!("no operation '{name}'; there are {names}, all of these and kv")))
            }
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Matvec => "matvec",
            Self::Matmul => "matmul",
            Self::Quantize => "quantize",
            Self::Dequantize => "dequantize",
            Self::KvAppend => "kv_append",
            Self::KvAttention => "kv_attention",
        }
    }

    /// Whether it multiplies.
    pub fn is_product(self) -> bool {
        matches!(self, Self::Matvec | Self::Matmul)
    }

    /// Whether a product of M rows is this one.
    fn takes(self, m: usize) -> bool {
        match self {
            Self::Matvec => m <= FEW_ROWS,
            Self::Matmul => m > FEW_ROWS,
            Self::Quantize | Self::Dequantize | Self::KvAppend | Self::KvAttention => false,
        }
    }
}

/// A weight [n, k] and where it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    pub n: usize,
    pub k: usize,
    /// `llama-7b gate,up`; empty for shapes by hand.
    pub label: String,
}

impl Weight {
    pub fn new(n: usize, k: usize) -> Self {
        Self { n, k, label: String::new() }
    }
}

/// One thing to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    pub operation: Operation,
    pub scheme: Scheme,
    /// Rows of x; 0 where there is none.
    pub m: usize,
    pub weight: Weight,
    /// Of a product.
    pub call: Call,
    /// By which scales are found, of quantize; elsewhere the scheme's own.
    pub method: Method,
}

/// How a product is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    pub activation: Activation,
    pub accumulate: Accumulate,
    /// The variant that is pinned, on a GPU; else the engine's choice runs.
    pub kernel: Option<&'static str>,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.activation != Activation::F32 {
            write!(f, " x {}", self.activation)?;
        }
        if self.accumulate != Accumulate::F32 {
            write!(f, " sums {}", self.accumulate.name())?;
        }
        self.kernel.map_or(Ok(()), |kernel| write!(f, " by {kernel}"))
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Weight { n, k, .. } = self.weight;
        write!(f, "{} {} ", self.operation.name(), self.scheme)?;
        if self.method != Method::Own {
            write!(f, "by {} ", self.method)?;
        }
        if self.m == 0 { write!(f, "{n}x{k}") } else { write!(f, "{}x{n}x{k}{}", self.m, self.call) }
    }
}

/// Every operation with every scheme and shape, a shape being a weight and the rows of x that its products have; quantize with every method, too.
pub fn all(
    operations: &[Operation],
    schemes: &[Scheme],
    shapes: &[(Weight, Vec<usize>)],
    call: Call,
    methods: &[Method],
) -> Vec<Case> {
    let mut all: Vec<Case> = Vec::new();
    for &operation in operations.iter().filter(|operation| Operation::ALL.contains(operation)) {
        for &scheme in schemes {
            for (weight, ms) in shapes {
                let rows: Vec<usize> = match operation.is_product() {
                    true => ms.iter().copied().filter(|&m| operation.takes(m)).collect(),
                    false => vec![0],
                };
                let methods = if operation == Operation::Quantize { methods } else { &[Method::Own] };
                for m in rows {
                    for &method in methods {
                        let case = Case { operation, scheme, m, weight: weight.clone(), call, method };
                        if !all.contains(&case) {
                            all.push(case);
                        }
                    }
                }
            }
        }
    }
    all
}

/// The sizes of a decoder that determine its layers.
struct Model {
    name: &'static str,
    hidden: usize,
    intermediate: usize,
    /// Rows of queries and of keys: heads times the size of a head.
    queries: usize,
    keys: usize,
    vocabulary: usize,
}

impl Model {
    const fn new(name: &'static str, sizes: [usize; 5]) -> Self {
        let [hidden, intermediate, queries, keys, vocabulary] = sizes;
        Self { name, hidden, intermediate, queries, keys, vocabulary }
    }
}

/// hidden_size, intermediate_size, num_attention_heads * head_dim, num_key_value_heads * head_dim and vocab_size of `config.json`.
///
/// Sources, on Hugging Face: huggyllama/llama-7b, meta-llama/Llama-2-70b-hf, meta-llama/Meta-Llama-3-8B and -70B,
/// mistralai/Mistral-7B-v0.1, Qwen/Qwen3-0.6B, -4B, -8B and -32B.
const MODELS: &[Model] = &[
    Model::new("llama-7b", [4096, 11008, 4096, 4096, 32000]),
    Model::new("llama-70b", [8192, 28672, 8192, 1024, 32000]),
    Model::new("llama-3-8b", [4096, 14336, 4096, 1024, 128256]),
    Model::new("llama-3-70b", [8192, 28672, 8192, 1024, 128256]),
    Model::new("mistral-7b", [4096, 14336, 4096, 1024, 32000]),
    Model::new("qwen3-0.6b", [1024, 3072, 2048, 1024, 151936]),
    Model::new("qwen3-4b", [2560, 9728, 4096, 1024, 151936]),
    Model::new("qwen3-8b", [4096, 12288, 4096, 1024, 151936]),
    Model::new("qwen3-32b", [5120, 25600, 8192, 1024, 151936]),
];

/// The weights of a model's layers, those of one shape together.
///
/// # Errors
/// [`Error::Usage`] with the names there are.
pub fn model(name: &str) -> Result<Vec<Weight>> {
    let Some(model) = MODELS.iter().find(|model| model.name == name) else {
        let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
        return Err(Error::Usage(format!("no model '{name}'; there are {}", names.join(", "))));
    };
    let &Model { hidden, intermediate, queries, keys, vocabulary, .. } = model;
    let layers = [
        ("q", queries, hidden),
        ("k", keys, hidden),
        ("v", keys, hidden),
        ("o", hidden, queries),
        ("gate", intermediate, hidden),
        ("up", intermediate, hidden),
        ("down", hidden, intermediate),
        ("lm_head", vocabulary, hidden),
    ];
    let mut all: Vec<Weight> = Vec::new();
    for (layer, n, k) in layers {
        match all.iter_mut().find(|weight| (weight.n, weight.k) == (n, k)) {
            Some(same) => same.label += &format!(",{layer}"),
            None => all.push(Weight { n, k, label: format!("{name} {layer}") }),
        }
    }
    Ok(all)
}

/// Elements of a matrix at most: 4 GiB of f32.
const MOST_ELEMENTS: usize = 1 << 30;

/// Whether a product of these sizes is one that memory could hold.
///
/// # Errors
/// [`Error::Usage`].
pub fn check_sizes(m: usize, n: usize, k: usize) -> Result<()> {
    let fits = |a: usize, b: usize| a.checked_mul(b).is_some_and(|n| n > 0 && n <= MOST_ELEMENTS);
    match fits(m, k) && fits(n, k) && fits(m, n) {
        true => Ok(()),
        false => Err(Error::Usage(format!("{m}x{n}x{k}: matrices have 1 to {MOST_ELEMENTS} elements"))),
    }
}

/// M, N and K of a text like `1x4096x14336`, which is of this option.
///
/// # Errors
/// [`Error::Usage`].
pub fn parse_shape(text: &str, option: &str) -> Result<[usize; 3]> {
    let numbers: Vec<Option<usize>> = text.split(['x', 'X']).map(|n| n.trim().parse().ok()).collect();
    let [Some(m), Some(n), Some(k)] = *numbers else {
        return Err(Error::Usage(format!("{option} '{text}': expected MxNxK, as in 1x4096x11008")));
    };
    check_sizes(m, n, k)?;
    Ok([m, n, k])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_one_shape_are_one_weight() {
        let weights = model("llama-7b").unwrap();
        let shapes: Vec<_> = weights.iter().map(|w| (w.n, w.k, w.label.as_str())).collect();
        assert_eq!(
            shapes,
            [
                (4096, 4096, "llama-7b q,k,v,o"),
                (11008, 4096, "llama-7b gate,up"),
                (4096, 11008, "llama-7b down"),
                (32000, 4096, "llama-7b lm_head"),
            ]
        );
        // 8 query heads share a key head; heads are wider than hidden / heads.
        let weights = model("qwen3-0.6b").unwrap();
        assert!(weights.iter().any(|w| (w.n, w.k, w.label.as_str()) == (1024, 1024, "qwen3-0.6b k,v")));
        assert!(weights.iter().any(|w| (w.n, w.k, w.label.as_str()) == (1024, 2048, "qwen3-0.6b o")));
        assert!(model("llama-8b").unwrap_err().to_string().contains("llama-3-8b"));
    }

    /// All weights of a block times the number of blocks, and the embedding (twice where it is not tied), are what the model is known for.
    #[test]
    fn the_sizes_make_the_models() {
        for (name, blocks, embeddings, billions) in [
            ("llama-7b", 32.0, 2.0, 6.74),
            ("llama-70b", 80.0, 2.0, 68.98),
            ("llama-3-8b", 32.0, 2.0, 8.03),
            ("llama-3-70b", 80.0, 2.0, 70.55),
            ("mistral-7b", 32.0, 2.0, 7.24),
            ("qwen3-0.6b", 28.0, 1.0, 0.596),
            ("qwen3-4b", 36.0, 1.0, 4.02),
            ("qwen3-8b", 36.0, 2.0, 8.19),
            ("qwen3-32b", 64.0, 2.0, 32.76),
        ] {
            let mut total = 0.0;
            for Weight { n, k, label } in model(name).unwrap() {
                let layers = label.split(',').count() as f64;
                total +=
                    (n * k) as f64 * if label.ends_with("lm_head") { embeddings } else { layers * blocks };
            }
            assert!((total * 1e-9 / billions - 1.0).abs() < 3e-3, "{name}: {total}");
        }
        assert_eq!(MODELS.len(), 9);
    }

    #[test]
    fn few_rows_are_matvec_and_more_are_matmul() {
        let scheme = "q4_0".parse().unwrap();
        let weight = || Weight::new(64, 32);
        let shapes = [(weight(), vec![1, 16, 17]), (weight(), vec![1])];
        let cases = all(Operation::ALL, &[scheme], &shapes, Call::default(), &[Method::Own, Method::Mse]);
        let names: Vec<_> = cases.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "matvec q4_0 1x64x32",
                "matvec q4_0 16x64x32",
                "matmul q4_0 17x64x32",
                "quantize q4_0 64x32",
                "quantize q4_0 by mse 64x32",
                "dequantize q4_0 64x32"
            ]
        );
    }

    #[test]
    fn shapes_are_three_sizes() {
        assert_eq!(parse_shape("1x4096x11008", "--shape").unwrap(), [1, 4096, 11008]);
        for text in ["", "4096x4096", "1x2x3x4", "ax4x4", "1x-4x4", "0x4x4", "1x32768x32769", "65536x65536x4"]
        {
            assert!(matches!(parse_shape(text, "--shape"), Err(Error::Usage(_))), "{text}");
        }
    }
}
