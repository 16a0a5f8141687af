//! A BERT encoder on an engine.
//!
//! ```text
//! ids, lengths [B] -> embed (words + positions + kind 0) -> layer_norm -> x [T, D]
//!   for each layer:   q, k, v = x * W^T + b;  a = attention(q, k, v);  h = layer_norm(a * Wo^T + b + x)
//!                     u = gelu(h * W1^T + b);  x = layer_norm(u * W2^T + b + h)
//! x [T, D] -> mean of each sentence -> L2 norm 1 -> [B, D]
//! ```
//!
//! Sentences lie one after the other without padding, T tokens in all. Biases, GELU and residuals are part of the products; with int8 activations, what three products
//! share is quantized once. What a file's layers want their inputs transformed by is done before ([`Transforms`]).

use super::ARCHITECTURE;
use crate::engine::{Array, Engine, Int8Array, MatmulOptions, PackedArray, TransformArray};
use crate::file::{Activations, Content, Entry, Metadata, Model, Transforms};
use crate::product::{Activation, Function};
use crate::{DType, Error, Result, Tensor};
use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

/// The only architecture here.
const BERT: &str = "bert";
/// Mean of the tokens, as GGUF counts the kinds of pooling.
const MEAN: u64 = 1;

/// The sizes of an encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    pub layers: usize,
    /// Columns of the hidden state, and of an embedding.
    pub hidden: usize,
    pub heads: usize,
    /// Columns between the two products of a layer's second half.
    pub inner: usize,
    /// The most tokens of a sentence.
    pub positions: usize,
    /// Rows of the table of tokens.
    pub vocab: usize,
}

impl Sizes {
    /// The sizes of a model with GGUF's names ([`super::Source`]), of which only the header is read.
    ///
    /// # Errors
    /// As [`Encoder::load`], but for what is seen in the tensors only.
    pub fn of(model: &Model) -> Result<Self> {
        Header { model }.sizes()
    }
}

/// How an encoder computes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    /// The precision of what the linear layers' products take; none: that which the file has for each ([`Activations`]), f32 where it has none.
    pub activation: Option<Activation>,
}

/// A linear layer.
struct Linear {
    /// The weight's name where it was read.
    name: String,
    activation: Activation,
    /// What x meets before.
    transform: Option<Arc<Shared>>,
    weight: PackedArray,
    bias: Array,
}

/// A transform, by the name of its tensor: layers that share an input may share it.
struct Shared {
    name: String,
    by: TransformArray,
}

/// gamma and beta of a layer normalization.
struct Norm {
    gamma: Array,
    beta: Array,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    output_norm: Norm,
    up: Linear,
    down: Linear,
    down_norm: Norm,
}

/// A transformer encoder whose weights are where an engine computes.
pub struct Encoder {
    engine: Engine,
    sizes: Sizes,
    eps: f32,
    words: PackedArray,
    positions: PackedArray,
    kinds: PackedArray,
    norm: Norm,
    layers: Vec<Layer>,
}

/// Who is shown the input of linear layers: the names of the layers that share it, and x `[T, K]`.
pub type Tap<'a> = &'a mut dyn FnMut(&[&str], &Array) -> Result<()>;

impl Encoder {
    /// Brings the weights of a model with GGUF's names ([`super::Source`]) to an engine.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another architecture or pooling; [`Error::Format`] for keys that are missing; errors with the tensor's
    /// name for tensors that are missing or of other shapes; errors of the device.
    pub async fn load(engine: &Engine, model: &Model, settings: Settings) -> Result<Self> {
        Self::load_with(engine, model, settings, |_, _| Ok(None)).await
    }

    /// As [`Self::load`], with matrices that `other` makes of an entry instead of what the file holds.
    ///
    /// # Errors
    /// As [`Self::load`]; those of `other`.
    pub async fn load_with(
        engine: &Engine,
        model: &Model,
        settings: Settings,
        other: impl Fn(&Model, &Entry) -> Result<Option<PackedArray>>,
    ) -> Result<Self> {
        let header = Header { model };
        let activations = Activations::of(model.metadata(), header.path())?;
        let transforms = Transforms::of(model)?;
        let shared = RefCell::default();
        let from = Reader { engine, header, settings, activations, transforms, shared, other: &other };
        let sizes = header.sizes()?;
        let Sizes { layers, hidden, inner, positions, vocab, .. } = sizes;
        let kinds = header.shape("token_types.weight")?.first().copied().unwrap_or(1);
        let mut made = Vec::with_capacity(layers);
        for i in 0..layers {
            let name = |name: &str| format!("blk.{i}.{name}");
            made.push(Layer {
                query: from.linear(&name("attn_q"), hidden, hidden).await?,
                key: from.linear(&name("attn_k"), hidden, hidden).await?,
                value: from.linear(&name("attn_v"), hidden, hidden).await?,
                output: from.linear(&name("attn_output"), hidden, hidden).await?,
                output_norm: from.norm(&name("attn_output_norm"), hidden)?,
                up: from.linear(&name("ffn_up"), inner, hidden).await?,
                down: from.linear(&name("ffn_down"), hidden, inner).await?,
                down_norm: from.norm(&name("layer_output_norm"), hidden)?,
            });
        }
        Ok(Self {
            engine: engine.clone(),
            sizes,
            eps: header.real("attention.layer_norm_epsilon")?,
            words: from.table("token_embd.weight", vocab, hidden).await?,
            positions: from.table("position_embd.weight", positions, hidden).await?,
            kinds: from.table("token_types.weight", kinds, hidden).await?,
            norm: from.norm("token_embd_norm", hidden)?,
            layers: made,
        })
    }

    /// Its sizes.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Who computes.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Embeddings `[B, D]` of B sentences, of L2 norm 1: `ids` are the tokens of all, one sentence after the other, `lengths` how many each has. Recorded, not
    /// waited for.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn embed(&self, ids: &[u32], lengths: &[usize]) -> Result<Array> {
        let x = self.hidden(ids, lengths)?;
        self.engine.normalize(&self.engine.mean_pool(&x, lengths)?)
    }

    /// The hidden state `[T, D]` behind the last layer.
    ///
    /// # Errors
    /// [`Error::Shape`] for ids beyond the vocabulary, for lengths that do not sum to their number, that are 0 or beyond the
    /// positions; errors of the device.
    pub fn hidden(&self, ids: &[u32], lengths: &[usize]) -> Result<Array> {
        self.forward(ids, lengths, &mut |_, _| Ok(()))
    }

    /// As [`Self::hidden`], showing `tap` the input of each linear layer.
    ///
    /// # Errors
    /// As [`Self::hidden`]; those of `tap`.
    pub fn forward(&self, ids: &[u32], lengths: &[usize], tap: Tap<'_>) -> Result<Array> {
        let most = self.sizes.positions;
        if let Some(at) = lengths.iter().position(|&length| length > most) {
            return Err(Error::shape(
                format!("tokens of sentence {at}"),
                format!("at most {most}"),
                lengths[at],
            ));
        }
        let positions: Vec<u32> = lengths.iter().flat_map(|&length| 0..length as u32).collect();
        let kinds = vec![0u32; ids.len()];
        let tables = [(&self.words, ids), (&self.positions, &positions[..]), (&self.kinds, &kinds[..])];
        let engine = &self.engine;
        let mut x = self.normed(&engine.embed(&tables)?, &self.norm)?;
        for layer in &self.layers {
            let Layer { query, key, value, output, up, down, .. } = layer;
            tap(&[&query.name, &key.name, &value.name], &x)?;
            let [q, k, v] = self.products(&x, [query, key, value], Function::Identity, None)?;
            let a = engine.attention(&q, &k, &v, lengths, self.sizes.heads)?;
            tap(&[&output.name], &a)?;
            let [a] = self.products(&a, [output], Function::Identity, Some(&x))?;
            let h = self.normed(&a, &layer.output_norm)?;
            tap(&[&up.name], &h)?;
            let [u] = self.products(&h, [up], Function::Gelu, None)?;
            tap(&[&down.name], &u)?;
            let [y] = self.products(&u, [down], Function::Identity, Some(&h))?;
            x = self.normed(&y, &layer.down_norm)?;
        }
        Ok(x)
    }

    fn normed(&self, x: &Array, norm: &Norm) -> Result<Array> {
        self.engine.layer_norm(x, &norm.gamma, &norm.beta, self.eps)
    }

    /// The precision of what each linear layer takes.
    pub fn activations(&self) -> Vec<Activation> {
        let of = |l: &Layer| [&l.query, &l.key, &l.value, &l.output, &l.up, &l.down].map(|l| l.activation);
        self.layers.iter().flat_map(of).collect()
    }

    /// The products of layers that share an input, which is quantized once for all that take it in the same precision.
    fn products<const N: usize>(
        &self,
        x: &Array,
        layers: [&Linear; N],
        function: Function,
        residual: Option<&Array>,
    ) -> Result<[Array; N]> {
        let mut transformed: Vec<(&Arc<Shared>, Array)> = Vec::new();
        let mut int8: Vec<(Activation, Option<&Arc<Shared>>, Int8Array)> = Vec::new();
        let mut made = Vec::with_capacity(N);
        for linear in layers {
            let (activation, transform) = (linear.activation, linear.transform.as_ref());
            let x = match transform {
                None => x.clone(),
                Some(by) => match transformed.iter().find(|(other, _)| Arc::ptr_eq(other, by)) {
                    Some((_, x)) => x.clone(),
                    None => {
                        transformed.push((by, self.engine.transform(x, &by.by)?));
                        transformed[transformed.len() - 1].1.clone()
                    }
                },
            };
            let options = MatmulOptions {
                activation,
                function,
                bias: Some(linear.bias.clone()),
                residual: residual.cloned(),
                ..MatmulOptions::default()
            };
            if let Activation::F32 | Activation::F16 = activation {
                made.push(self.engine.matmul(&x, &linear.weight, &options)?);
                continue;
            }
            let same =
                |a: Option<&Arc<Shared>>, b: Option<&Arc<Shared>>| a.map(Arc::as_ptr) == b.map(Arc::as_ptr);
            let known = |of: &(Activation, Option<&Arc<Shared>>, Int8Array)| {
                of.0 == activation && same(of.1, transform)
            };
            let at = match int8.iter().position(known) {
                Some(at) => at,
                None => {
                    let quantized = self.engine.quantize_activations(&x, activation)?;
                    int8.push((activation, transform, quantized));
                    int8.len() - 1
                }
            };
            made.push(self.engine.matmul_int8(&int8[at].2, &linear.weight, &options)?);
        }
        let made: Result<[Array; N], _> = made.try_into();
        Ok(made.unwrap_or_else(|_| unreachable!("a product for each layer")))
    }
}

/// What a model says of itself.
#[derive(Clone, Copy)]
struct Header<'a> {
    model: &'a Model,
}

impl<'a> Header<'a> {
    fn metadata(&self) -> &'a Metadata {
        self.model.metadata()
    }

    /// The file, for errors.
    fn path(&self) -> &'a Path {
        self.model.paths().next().unwrap_or(Path::new(""))
    }

    /// The error of a key of the metadata.
    fn wrong(&self, key: &str, what: &str) -> Error {
        Error::Format { path: self.path().into(), what: format!("'{key}': {what}") }
    }

    fn size(&self, key: &str) -> Result<usize> {
        let key = format!("{BERT}.{key}");
        let value = self.metadata().get(&key).ok_or_else(|| self.wrong(&key, "the key is missing"))?;
        let size = value.as_u64().filter(|n| (1..1 << 32).contains(n)).and_then(|n| usize::try_from(n).ok());
        size.ok_or_else(|| self.wrong(&key, &format!("expected a whole number above 0, got {value}")))
    }

    fn real(&self, key: &str) -> Result<f32> {
        let key = format!("{BERT}.{key}");
        let value = self.metadata().get(&key).ok_or_else(|| self.wrong(&key, "the key is missing"))?;
        let real = value.to_json().as_f64().map(|v| v as f32).filter(|v| v.is_finite() && *v > 0.0);
        real.ok_or_else(|| self.wrong(&key, &format!("expected a number above 0, got {value}")))
    }

    fn sizes(&self) -> Result<Sizes> {
        let architecture = self.metadata().get(ARCHITECTURE).and_then(|value| value.as_str());
        if architecture != Some(BERT) {
            let name = architecture.unwrap_or("none");
            return Err(Error::unsupported(
                format!("architecture '{name}'"),
                "lowbit runs encoders of BERT's",
            ));
        }
        let pooling = format!("{BERT}.pooling_type");
        if let Some(kind) = self.metadata().get(&pooling).filter(|kind| kind.as_u64() != Some(MEAN)) {
            let why = "lowbit takes the mean of the tokens (1)";
            return Err(Error::unsupported(format!("pooling of kind {kind} ({pooling})"), why));
        }
        let causal = format!("{BERT}.attention.causal");
        if self.metadata().get(&causal).is_some_and(|value| value.to_json().as_bool() == Some(true)) {
            let why = "in lowbit a token sees all tokens of its text";
            return Err(Error::unsupported(format!("causal attention ({causal})"), why));
        }
        let sizes = Sizes {
            layers: self.size("block_count")?,
            hidden: self.size("embedding_length")?,
            heads: self.size("attention.head_count")?,
            inner: self.size("feed_forward_length")?,
            positions: self.size("context_length")?,
            vocab: self.shape("token_embd.weight")?.first().copied().unwrap_or(0),
        };
        if !sizes.hidden.is_multiple_of(sizes.heads) {
            let what = format!("{} heads do not divide {} columns", sizes.heads, sizes.hidden);
            return Err(self.wrong(&format!("{BERT}.attention.head_count"), &what));
        }
        let more = format!("blk.{}.", sizes.layers);
        if let Some(entry) = self.model.entries().iter().find(|entry| entry.name.starts_with(&more)) {
            let what = format!("{} layers, and there is a tensor '{}'", sizes.layers, entry.name_in_file());
            return Err(self.wrong(&format!("{BERT}.block_count"), &what));
        }
        Ok(sizes)
    }

    fn entry(&self, name: &str) -> Result<&'a Entry> {
        let entry = self.model.entry(name);
        entry.ok_or_else(|| Error::Format {
            path: self.path().into(),
            what: format!("tensor '{name}' is missing"),
        })
    }

    fn shape(&self, name: &str) -> Result<&'a [usize]> {
        Ok(&self.entry(name)?.shape)
    }
}

/// Makes a matrix of an entry, or leaves it to the reader.
type Other<'a> = &'a dyn Fn(&Model, &Entry) -> Result<Option<PackedArray>>;

/// What weights are read from and brought to.
struct Reader<'a> {
    engine: &'a Engine,
    header: Header<'a>,
    settings: Settings,
    activations: Activations,
    transforms: Transforms,
    /// Those that were read already.
    shared: RefCell<Vec<Arc<Shared>>>,
    other: Other<'a>,
}

impl Reader<'_> {
    /// An entry of this shape.
    fn shaped(&self, name: &str, shape: &[usize]) -> Result<&Entry> {
        let entry = self.header.entry(name)?;
        if entry.shape != shape {
            let (expected, got) = (format!("{shape:?}"), format!("{:?}", entry.shape));
            return Err(Error::shape("shape", expected, got).in_tensor(entry.name_in_file()));
        }
        Ok(entry)
    }

    /// A matrix: packed as it is, or plain numbers in the scheme of their own.
    async fn weight(&self, name: &str, n: usize, k: usize) -> Result<PackedArray> {
        let entry = self.shaped(name, &[n, k])?;
        let made = async {
            if let Some(made) = (self.other)(self.header.model, entry)? {
                return Ok(made);
            }
            if let Content::Packed { .. } = entry.content {
                return self.engine.take_packed(self.header.model.packed(entry)?);
            }
            let tensor = self.header.model.tensor(entry)?;
            let scheme = tensor.dtype().to_string().to_lowercase().parse()?;
            self.engine.quantize_named(&tensor, &entry.name, &scheme).await
        };
        let weight = made.await.map_err(|e| e.in_tensor(entry.name_in_file()))?;
        self.header.model.release(entry);
        Ok(weight)
    }

    /// A matrix whose rows are looked up.
    async fn table(&self, name: &str, n: usize, k: usize) -> Result<PackedArray> {
        if self.transforms.get(name).is_some() {
            let why = "rows of it are looked up, and their columns are transformed";
            let of = self.header.entry(name)?.name_in_file();
            return Err(Error::unsupported("a transformed table", why).in_tensor(of));
        }
        self.weight(name, n, k).await
    }

    async fn linear(&self, name: &str, n: usize, k: usize) -> Result<Linear> {
        let weight = format!("{name}.weight");
        Ok(Linear {
            name: self.header.entry(&weight)?.name_in_file().into(),
            activation: self.settings.activation.unwrap_or_else(|| self.activations.get(&weight)),
            transform: self.transform(&weight)?,
            weight: self.weight(&weight, n, k).await?,
            bias: self.vector(&format!("{name}.bias"), n)?,
        })
    }

    /// The transform of the inputs of a weight, if the file has one.
    fn transform(&self, weight: &str) -> Result<Option<Arc<Shared>>> {
        let entry = self.header.entry(weight)?;
        let Some(place) = self.transforms.get(weight) else { return Ok(None) };
        let Some(by) = self.transforms.read(self.header.model, entry)? else { return Ok(None) };
        let same = |other: &&Arc<Shared>| other.name == place.by && *other.by.transform() == by;
        if let Some(known) = self.shared.borrow().iter().find(same) {
            return Ok(Some(known.clone()));
        }
        let by = self.engine.upload_transform(&by)?;
        let made = Arc::new(Shared { name: place.by.clone(), by });
        self.shared.borrow_mut().push(made.clone());
        Ok(Some(made))
    }

    fn norm(&self, name: &str, d: usize) -> Result<Norm> {
        let part = |part: &str| self.vector(&format!("{name}.{part}"), d);
        Ok(Norm { gamma: part("weight")?, beta: part("bias")? })
    }

    /// A vector as f32.
    fn vector(&self, name: &str, n: usize) -> Result<Array> {
        let entry = self.shaped(name, &[n])?;
        let made = || {
            let tensor = match entry.content {
                Content::Packed { .. } => {
                    crate::cpu::dequantize(&self.header.model.packed(entry)?, DType::F32)
                }
                _ => self.header.model.tensor(entry)?,
            };
            let values = tensor.to_f32();
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                return Err(Error::Check { what: format!("element {at} is {}", values[at]) });
            }
            self.engine.upload(&Tensor::from_f32([n], values.into_owned())?)
        };
        made().map_err(|e| e.in_tensor(entry.name_in_file()))
    }
}
