//! A cache of keys and values where the engine computes: appended to, attended to as it is, read back as numbers.
//!
//! ```text
//! Engine::kv_cache(settings, capacity) -> KvCache
//!     append(k, v [T, heads * head_size])    attention(q [T, q_heads * head_size]) -> y of q's shape    read() -> k, v
//! ```
//!
//! What is stored and how is [`crate::kv`]'s text. Recorded on a GPU as products are.

use super::array::{Array, ArrayData};
use super::encoder::on_host;
use super::{Backend, Engine};
use crate::kv::{KvSettings, Layout};
use crate::tensor::element_count;
use crate::{DType, Error, Result, Tensor, cpu};
use std::sync::Arc;

#[cfg(feature = "gpu")]
use super::{encoder::on_device, foreign};
#[cfg(feature = "gpu")]
use crate::{
    gpu::{Buffer, Gpu, Target},
    kernels::{self, kv::Form},
};

/// Keys and values of the tokens so far, quantized: one layer of a decoder's.
///
/// ```
/// # fn main() -> lowbit::Result<()> { pollster::block_on(async {
/// use lowbit::kv::{KvSettings, Side};
/// use lowbit::{Engine, Tensor};
///
/// let engine = Engine::cpu();
/// // 2 heads of 64 columns, room for 4096 tokens: 4 bits a number, and what scales take.
/// let mut cache = engine.kv_cache(&KvSettings::new(2, 64, Side::Int4), 4096)?;
/// assert!(cache.bytes() * 10 <= 3 * (2 * 2 * 2 * 64 * 4096));
///
/// let tokens = engine.upload(&Tensor::from_f32([40, 128], vec![0.5; 40 * 128])?)?;
/// cache.append(&tokens, &tokens)?;
/// // A query of 4 heads, of the last token: two of them share a head of keys and values.
/// let q = engine.upload(&Tensor::from_f32([1, 256], vec![1.0; 256])?)?;
/// let y = cache.attention(&q)?.read().await?;
/// assert_eq!((cache.len(), y.shape()), (40, &[1, 256][..]));
/// assert!(y.to_f32().iter().all(|v| (v - 0.5).abs() < 1e-3));
/// # Ok(()) }) }
/// ```
#[derive(Debug)]
pub struct KvCache {
    layout: Layout,
    length: usize,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Host(Vec<u32>),
    #[cfg(feature = "gpu")]
    Device(Gpu, Buffer),
}

/// How threads share an attention; the CPU engine has one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Host,
    #[cfg(feature = "gpu")]
    Device(Form),
}

/// Roundings of an attention's sums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roundings {
    pub score: usize,
    pub weighted: usize,
    /// Exponentials that a weight is a product of.
    pub powers: usize,
}

impl Engine {
    /// An empty cache with room for `capacity` tokens, all of whose memory is taken now.
    ///
    /// # Errors
    /// [`Error::Shape`] for no heads, heads that are no multiple of 32 columns or of more than 256, and no capacity; [`Error::TooLarge`] beyond 2^32 bytes or a binding
    /// of the device; errors of the device.
    pub fn kv_cache(&self, settings: &KvSettings, capacity: usize) -> Result<KvCache> {
        let layout = Layout::new(*settings, capacity)?;
        let store = match &self.backend {
            Backend::Cpu => Store::Host(vec![0; layout.words]),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => Store::Device(gpu.clone(), kernels::kv::alloc(gpu, &layout)?),
        };
        Ok(KvCache { layout, length: 0, store })
    }
}

impl KvCache {
    /// What it was made with.
    pub fn settings(&self) -> &KvSettings {
        &self.layout.settings
    }

    /// Tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.layout.capacity
    }

    /// Tokens in it.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Memory that it takes, however many tokens there are.
    pub fn bytes(&self) -> usize {
        self.layout.words * 4
    }

    /// Forgets all tokens; the memory stays.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// Appends the keys and values of T tokens, `[T, heads * head_size]` each, f32 or f16. What is stored does not depend on how many there are at a time.
    ///
    /// NaN and infinities make NaN of the numbers that share a scale with them, once their block of 32 tokens is complete; a cache in f16 keeps them. So do f32 beyond 65504.
    ///
    /// # Errors
    /// [`Error::Shape`] for other shapes; [`Error::TooLarge`] for more tokens than there is room for, of which none is appended then, and for arrays larger than a binding;
    /// [`Error::Unsupported`] for arrays of another engine; errors of the device.
    pub fn append(&mut self, k: &Array, v: &Array) -> Result<()> {
        let width = self.layout.settings.width();
        let tokens = match k.shape[..] {
            [tokens, columns] if tokens > 0 && columns == width => tokens,
            _ => {
                let expected = format!("[T, {width}] with T above 0");
                return Err(Error::shape("keys to append", expected, format!("{:?}", k.shape)));
            }
        };
        if v.shape != k.shape {
            let (expected, got) = (format!("{:?}", k.shape), format!("{:?}", v.shape));
            return Err(Error::shape("values to append", expected, got));
        }
        let capacity = self.layout.capacity;
        if tokens > capacity - self.length {
            let what = "tokens of a cache".into();
            let need = (self.length as u64).saturating_add(tokens as u64);
            return Err(Error::TooLarge { what, need, limit: capacity as u64 });
        }
        match &mut self.store {
            Store::Host(words) => {
                cpu::kv_append(words, &self.layout, self.length, &on_host(k)?, &on_host(v)?);
            }
            #[cfg(feature = "gpu")]
            Store::Device(gpu, cache) => {
                let target = &mut Target::Recorder;
                let (k, v) = (on_device(gpu, target, k)?, on_device(gpu, target, v)?);
                for piece in self.layout.pieces(self.length, tokens) {
                    let rows = [(&k.0, k.1), (&v.0, v.1)];
                    kernels::kv::append(gpu, target, &self.layout, cache, rows, tokens, &piece)?;
                }
            }
        }
        self.length += tokens;
        Ok(())
    }

    /// Attention of the last T tokens, whose q `[T, q_heads * head_size]` these are, f32 or f16: `softmax(q . k / sqrt(head_size)) v`, each token over itself and all before it. q_heads is a
    /// multiple of the cache's heads: as many in a row share one of them (grouped queries). The result has q's shape, in f32. Keys and values are read as they are stored: no
    /// decoded copy is made.
    ///
    /// # Errors
    /// [`Error::Shape`] for other shapes and for more queries than tokens; [`Error::Unsupported`] for arrays of another engine; [`Error::TooLarge`] if q is larger than a
    /// binding; errors of the device.
    pub fn attention(&self, q: &Array) -> Result<Array> {
        let [tokens, _] = self.queries(q)?;
        let data = match &self.store {
            Store::Host(words) => {
                let y = cpu::kv_attention(words, &self.layout, self.length, &on_host(q)?, tokens);
                ArrayData::Host(Arc::new(Tensor::from_f32(q.shape.clone(), y)?))
            }
            #[cfg(feature = "gpu")]
            Store::Device(gpu, _) => {
                let y = gpu.alloc(q.shape.iter().product::<usize>() as u64 * 4, "attention")?;
                let y = Array {
                    shape: q.shape.clone(),
                    dtype: DType::F32,
                    data: ArrayData::Device(gpu.clone(), y, 0),
                };
                self.attention_into(q, &y, Form::of(gpu))?;
                return Ok(y);
            }
        };
        Ok(Array { shape: q.shape.clone(), dtype: DType::F32, data })
    }

    /// As [`Self::attention`], in a form and into an array of q's shape in f32.
    ///
    /// # Errors
    /// Those of [`Self::attention`].
    #[cfg(feature = "gpu")]
    pub(crate) fn attention_into(&self, q: &Array, y: &Array, form: Form) -> Result<()> {
        let shape = self.queries(q)?;
        let (Store::Device(gpu, cache), ArrayData::Device(_, buffer, offset)) = (&self.store, &y.data) else {
            return Err(foreign());
        };
        let target = &mut Target::Recorder;
        let q = on_device(gpu, target, q)?;
        let of = (&self.layout, cache, self.length);
        kernels::kv::attention(gpu, target, form, of, shape, [(&q.0, q.1), (buffer, *offset)])
    }

    /// T and the heads of q.
    fn queries(&self, q: &Array) -> Result<[usize; 2]> {
        let KvSettings { heads, head_size, .. } = self.layout.settings;
        let width = heads * head_size;
        match q.shape[..] {
            [tokens, columns]
                if tokens > 0
                    && columns > 0
                    && columns % width == 0
                    && element_count(&q.shape).is_some()
                    && tokens <= self.length =>
            {
                Ok([tokens, columns / head_size])
            }
            _ => {
                let expected = format!("[T, a multiple of {width}] with T from 1 to {}", self.length);
                Err(Error::shape("queries to a cache", expected, format!("{:?}", q.shape)))
            }
        }
    }

    /// Submits everything recorded so far, waits, and returns keys and values as f32 `[len, heads * head_size]` as they are stored: the last ones, fewer than 32, rounded to f16, the others
    /// from their codes.
    ///
    /// # Errors
    /// As [`Array::read`]; [`Error::Shape`] for an empty cache.
    pub async fn read(&self) -> Result<[Tensor; 2]> {
        if self.is_empty() {
            return Err(Error::shape("a cache to read", "a token at least", "none"));
        }
        let words = self.words().await?;
        let [k, v] = cpu::kv_decode(&words, &self.layout, self.length);
        let shape = [self.length, self.layout.settings.width()];
        Ok([Tensor::from_f32(shape, k)?, Tensor::from_f32(shape, v)?])
    }

    /// All of its memory.
    ///
    /// # Errors
    /// As [`Array::read`].
    pub(crate) async fn words(&self) -> Result<Vec<u32>> {
        match &self.store {
            Store::Host(words) => Ok(words.clone()),
            #[cfg(feature = "gpu")]
            Store::Device(gpu, buffer) => {
                let bytes = gpu.read_range(buffer, 0..self.bytes() as u64).await?;
                Ok(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
            }
        }
    }

    /// Roundings of an attention over `length` tokens.
    pub(crate) fn roundings(&self, way: Way, length: usize) -> Roundings {
        let head = self.layout.settings.head_size;
        let (score, weighted, powers) = match way {
            Way::Host => {
                (cpu::kv_score_summation(head), cpu::kv_weighted_summation(length), cpu::kv_powers(length))
            }
            #[cfg(feature = "gpu")]
            Way::Device(form) => {
                use kernels::kv::{powers, score_summation, weighted_summation};
                (score_summation(head), weighted_summation(form, head, length), powers(form, length))
            }
        };
        Roundings { score: score.chain + score.depth, weighted: weighted.chain + weighted.depth, powers }
    }
}
