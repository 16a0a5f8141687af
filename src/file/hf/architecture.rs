//! The architectures that are mapped: one row each, of tensor names, shapes, metadata. A new architecture is a row.
//!
//! ```text
//! config.json "architectures" -> Architecture -> Sizes (checked) -> the name and shape that each tensor must have, here and there
//! ```
//!
//! Source: llama.cpp `gguf-py/gguf/constants.py` and `tensor_mapping.py` (names, keys), `conversion/` (what is permuted, dropped, kept
//! in f32). Differs: shapes are checked against the config, and what is not in the row is an error.

use super::config::Config;
use crate::Result;

/// A number of the config that shapes and metadata are made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Size {
    Vocab,
    Hidden,
    /// Of the feed-forward network.
    Inner,
    Layers,
    Heads,
    KvHeads,
    HeadDim,
    /// Rows of the query projection: `Heads * HeadDim`.
    Query,
    /// Rows of the key and value projections: `KvHeads * HeadDim`.
    Key,
    Positions,
    /// Token types (segments).
    Types,
}

/// How rows are put.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    AsTheyAre,
    /// HuggingFace keeps the two numbers that rotate together half a head apart, ggml's `llama` side by side: of each of `Heads` or
    /// `KvHeads` heads, the halves are interleaved.
    Interleaved(Size),
}

/// One tensor of the map.
#[derive(Debug)]
pub struct Row {
    /// There, behind the prefix.
    pub from: &'static str,
    /// Here; of a layer, behind `blk.N.`.
    pub to: &'static str,
    pub shape: &'static [Size],
    pub order: Order,
    /// Models without it are whole.
    pub optional: bool,
    /// Always f32, and never quantized, though it is a matrix.
    pub fixed: bool,
}

impl Row {
    const fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    const fn fixed(self) -> Self {
        Self { fixed: true, ..self }
    }

    const fn interleaved(self, heads: Size) -> Self {
        Self { order: Order::Interleaved(heads), ..self }
    }
}

const fn row(from: &'static str, to: &'static str, shape: &'static [Size]) -> Row {
    Row { from, to, shape, order: Order::AsTheyAre, optional: false, fixed: false }
}

/// What a metadata value is made of.
#[derive(Debug)]
pub enum Source {
    /// As u32.
    Size(Size),
    /// A key of the config, as f32.
    Real(&'static str),
    Bool(bool),
}

/// A metadata value of the architecture: `NAME.KEY`.
pub type Field = (&'static str, Source);

/// What the layers compute where the config says it: a key, the values with which they are what llama.cpp computes.
pub type Expected = (&'static str, &'static [&'static str]);

/// How positions are rotated.
#[derive(Debug)]
pub struct Rope {
    /// Values of `rope_type` that are mapped.
    pub types: &'static [&'static str],
    /// Whether the number of rotated dimensions is stated.
    pub dimensions: bool,
}

/// An architecture.
#[derive(Debug)]
pub struct Architecture {
    /// In GGUF, and the first part of its metadata keys.
    pub name: &'static str,
    /// In `config.json`.
    pub classes: &'static [&'static str],
    /// What tensor names may begin with.
    pub prefix: &'static str,
    /// Older ends of names, and what they are called now.
    pub renamed: &'static [(&'static str, &'static str)],
    /// Tensors there is one of, before the layers.
    pub first: &'static [Row],
    /// Where the tensors of layer N are; `{}` stands for N.
    pub layer: &'static str,
    pub layers: &'static [Row],
    pub last: &'static [Row],
    /// Names that begin or end so are left out.
    pub dropped: &'static [Drop],
    /// Metadata, in lists that architectures share.
    pub fields: &'static [&'static [Field]],
    pub expected: &'static [Expected],
    pub rope: Option<Rope>,
    /// The width of a head where the config does not say it and the class has one of its own.
    pub head_dim: Option<usize>,
    /// Whether there is a second matrix of the embedding's shape for the output, which may be the embedding itself.
    pub output: Option<Output>,
}

/// Names of tensors that have no place in a GGUF file.
#[derive(Debug)]
pub enum Drop {
    /// Behind the prefix.
    Begins(&'static str),
    Ends(&'static str),
}

impl Drop {
    /// Whether a name is one of them.
    pub fn is(&self, name: &str) -> bool {
        match self {
            Self::Begins(start) => name.starts_with(start),
            Self::Ends(end) => name.ends_with(end),
        }
    }
}

/// The output matrix of a language model and what it may be tied to.
#[derive(Debug)]
pub struct Output {
    pub from: &'static str,
    pub tied_to: &'static str,
}

use Size::{HeadDim, Heads, Hidden, Inner, Key, KvHeads, Layers, Positions, Query, Types, Vocab};

const LANGUAGE_MODEL_FIRST: &[Row] =
    &[row("model.embed_tokens.weight", "token_embd.weight", &[Vocab, Hidden])];
const LANGUAGE_MODEL_LAST: &[Row] = &[
    row("model.norm.weight", "output_norm.weight", &[Hidden]),
    row("lm_head.weight", "output.weight", &[Vocab, Hidden]).optional(),
];
const LANGUAGE_MODEL_FIELDS: &[Field] = &[
    ("context_length", Source::Size(Positions)),
    ("embedding_length", Source::Size(Hidden)),
    ("block_count", Source::Size(Layers)),
    ("feed_forward_length", Source::Size(Inner)),
    ("attention.head_count", Source::Size(Heads)),
    ("attention.head_count_kv", Source::Size(KvHeads)),
    ("attention.key_length", Source::Size(HeadDim)),
    ("attention.value_length", Source::Size(HeadDim)),
    ("attention.layer_norm_rms_epsilon", Source::Real("rms_norm_eps")),
];
const LM_HEAD: Output = Output { from: "lm_head.weight", tied_to: "model.embed_tokens.weight" };
/// Buffers that older versions of transformers saved.
const ROTARY: &[Drop] = &[
    Drop::Ends(".rotary_emb.inv_freq"),
    Drop::Ends(".attention.masked_bias"),
    Drop::Ends(".attention.bias"),
];
const SILU: &[Expected] = &[("hidden_act", &["silu"])];

/// All of them.
pub static ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        classes: &["LlamaForCausalLM", "MistralForCausalLM"],
        prefix: "",
        renamed: &[],
        first: LANGUAGE_MODEL_FIRST,
        layer: "model.layers.{}.",
        layers: &[
            row("input_layernorm.weight", "attn_norm.weight", &[Hidden]),
            row("self_attn.q_proj.weight", "attn_q.weight", &[Query, Hidden]).interleaved(Heads),
            row("self_attn.q_proj.bias", "attn_q.bias", &[Query]).interleaved(Heads).optional(),
            row("self_attn.k_proj.weight", "attn_k.weight", &[Key, Hidden]).interleaved(KvHeads),
            row("self_attn.k_proj.bias", "attn_k.bias", &[Key]).interleaved(KvHeads).optional(),
            row("self_attn.v_proj.weight", "attn_v.weight", &[Key, Hidden]),
            row("self_attn.v_proj.bias", "attn_v.bias", &[Key]).optional(),
            row("self_attn.o_proj.weight", "attn_output.weight", &[Hidden, Query]),
            row("self_attn.o_proj.bias", "attn_output.bias", &[Hidden]).optional(),
            row("post_attention_layernorm.weight", "ffn_norm.weight", &[Hidden]),
            row("mlp.gate_proj.weight", "ffn_gate.weight", &[Inner, Hidden]),
            row("mlp.gate_proj.bias", "ffn_gate.bias", &[Inner]).optional(),
            row("mlp.up_proj.weight", "ffn_up.weight", &[Inner, Hidden]),
            row("mlp.up_proj.bias", "ffn_up.bias", &[Inner]).optional(),
            row("mlp.down_proj.weight", "ffn_down.weight", &[Hidden, Inner]),
            row("mlp.down_proj.bias", "ffn_down.bias", &[Hidden]).optional(),
        ],
        last: LANGUAGE_MODEL_LAST,
        dropped: ROTARY,
        fields: &[&[("vocab_size", Source::Size(Vocab))], LANGUAGE_MODEL_FIELDS],
        expected: SILU,
        rope: Some(Rope { types: &["default", "linear", "yarn", "llama3"], dimensions: true }),
        head_dim: None,
        output: Some(LM_HEAD),
    },
    Architecture {
        name: "qwen3",
        classes: &["Qwen3ForCausalLM"],
        prefix: "",
        renamed: &[],
        first: LANGUAGE_MODEL_FIRST,
        layer: "model.layers.{}.",
        layers: &[
            row("input_layernorm.weight", "attn_norm.weight", &[Hidden]),
            row("self_attn.q_proj.weight", "attn_q.weight", &[Query, Hidden]),
            row("self_attn.q_norm.weight", "attn_q_norm.weight", &[HeadDim]),
            row("self_attn.k_proj.weight", "attn_k.weight", &[Key, Hidden]),
            row("self_attn.k_norm.weight", "attn_k_norm.weight", &[HeadDim]),
            row("self_attn.v_proj.weight", "attn_v.weight", &[Key, Hidden]),
            row("self_attn.o_proj.weight", "attn_output.weight", &[Hidden, Query]),
            row("post_attention_layernorm.weight", "ffn_norm.weight", &[Hidden]),
            row("mlp.gate_proj.weight", "ffn_gate.weight", &[Inner, Hidden]),
            row("mlp.up_proj.weight", "ffn_up.weight", &[Inner, Hidden]),
            row("mlp.down_proj.weight", "ffn_down.weight", &[Hidden, Inner]),
        ],
        last: LANGUAGE_MODEL_LAST,
        dropped: ROTARY,
        fields: &[LANGUAGE_MODEL_FIELDS],
        expected: SILU,
        rope: Some(Rope { types: &["default", "linear", "yarn"], dimensions: false }),
        head_dim: Some(128),
        output: Some(LM_HEAD),
    },
    Architecture {
        name: "bert",
        classes: &["BertModel", "BertForMaskedLM"],
        prefix: "bert.",
        renamed: &[(".gamma", ".weight"), (".beta", ".bias")],
        first: &[
            row("embeddings.word_embeddings.weight", "token_embd.weight", &[Vocab, Hidden]),
            row("embeddings.position_embeddings.weight", "position_embd.weight", &[Positions, Hidden])
                .fixed(),
            row("embeddings.token_type_embeddings.weight", "token_types.weight", &[Types, Hidden]).fixed(),
            row("embeddings.LayerNorm.weight", "token_embd_norm.weight", &[Hidden]),
            row("embeddings.LayerNorm.bias", "token_embd_norm.bias", &[Hidden]),
        ],
        layer: "encoder.layer.{}.",
        layers: &[
            row("attention.self.query.weight", "attn_q.weight", &[Hidden, Hidden]),
            row("attention.self.query.bias", "attn_q.bias", &[Hidden]),
            row("attention.self.key.weight", "attn_k.weight", &[Hidden, Hidden]),
            row("attention.self.key.bias", "attn_k.bias", &[Hidden]),
            row("attention.self.value.weight", "attn_v.weight", &[Hidden, Hidden]),
            row("attention.self.value.bias", "attn_v.bias", &[Hidden]),
            row("attention.output.dense.weight", "attn_output.weight", &[Hidden, Hidden]),
            row("attention.output.dense.bias", "attn_output.bias", &[Hidden]),
            row("attention.output.LayerNorm.weight", "attn_output_norm.weight", &[Hidden]),
            row("attention.output.LayerNorm.bias", "attn_output_norm.bias", &[Hidden]),
            row("intermediate.dense.weight", "ffn_up.weight", &[Inner, Hidden]),
            row("intermediate.dense.bias", "ffn_up.bias", &[Inner]),
            row("output.dense.weight", "ffn_down.weight", &[Hidden, Inner]),
            row("output.dense.bias", "ffn_down.bias", &[Hidden]),
            row("output.LayerNorm.weight", "layer_output_norm.weight", &[Hidden]),
            row("output.LayerNorm.bias", "layer_output_norm.bias", &[Hidden]),
        ],
        last: &[],
        // What GGUF's bert computes are embeddings: the heads of training are not part of it.
        dropped: &[
            Drop::Begins("embeddings.position_ids"),
            Drop::Begins("pooler.dense."),
            Drop::Begins("cls.predictions."),
            Drop::Begins("cls.seq_relationship."),
        ],
        fields: &[&[
            ("context_length", Source::Size(Positions)),
            ("embedding_length", Source::Size(Hidden)),
            ("block_count", Source::Size(Layers)),
            ("feed_forward_length", Source::Size(Inner)),
            ("attention.head_count", Source::Size(Heads)),
            ("attention.layer_norm_epsilon", Source::Real("layer_norm_eps")),
            ("attention.causal", Source::Bool(false)),
        ]],
        expected: &[("hidden_act", &["gelu"]), ("position_embedding_type", &["absolute"])],
        rope: None,
        head_dim: None,
        output: None,
    },
];

impl Architecture {
    /// The row of `config.json`'s first class.
    ///
    /// # Errors
    /// [`crate::Error::Format`] if the config names none, or one that has no row.
    pub fn of(config: &Config) -> Result<&'static Self> {
        let key = "architectures";
        let class = config.get(key).and_then(|list| list.get(0)?.as_str());
        let class = class.ok_or_else(|| config.wrong(key, "expected a list with the class of the model"))?;
        ARCHITECTURES.iter().find(|a| a.classes.contains(&class)).ok_or_else(|| {
            let known: Vec<&str> = ARCHITECTURES.iter().flat_map(|a| a.classes).copied().collect();
            let known = known.join(", ");
            config.wrong(key, format!("no map to GGUF for {class}; there is one for {known}. A safetensors file by itself keeps its names"))
        })
    }

    /// A tensor's name as the rows have it.
    pub fn plain_name(&self, name: &str) -> String {
        let name = name.strip_prefix(self.prefix).unwrap_or(name);
        let old =
            self.renamed.iter().find_map(|(old, new)| Some(format!("{}{new}", name.strip_suffix(old)?)));
        old.unwrap_or_else(|| name.to_string())
    }

    /// The key of a metadata value.
    pub fn key(&self, of: &str) -> String {
        format!("{}.{of}", self.name)
    }

    /// Every tensor that the model may have: the row, the name behind the prefix, the name in GGUF.
    pub fn tensors(&self, layers: usize) -> impl Iterator<Item = (&'static Row, String, String)> {
        let once = |rows: &'static [Row]| rows.iter().map(|r| (r, r.from.to_string(), r.to.to_string()));
        let (layer, rows) = (self.layer, self.layers);
        let blocks = (0..layers).flat_map(move |n| {
            let there = layer.replace("{}", &n.to_string());
            rows.iter().map(move |r| (r, format!("{there}{}", r.from), format!("blk.{n}.{}", r.to)))
        });
        once(self.first).chain(blocks).chain(once(self.last))
    }
}

/// The numbers of a config.
#[derive(Debug)]
pub struct Sizes {
    vocab: usize,
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    positions: usize,
    types: usize,
}

impl Sizes {
    /// Reads them, and checks them against each other.
    ///
    /// # Errors
    /// [`crate::Error::Format`] with the key that is missing, is no count or contradicts another.
    pub fn of(config: &Config, architecture: &Architecture) -> Result<Self> {
        let need = |key: &str| config.count(key)?.ok_or_else(|| config.missing(key));
        let hidden = need("hidden_size")?;
        let heads = need("num_attention_heads")?;
        let kv_heads = config.count("num_key_value_heads")?.unwrap_or(heads);
        if heads.checked_rem(kv_heads) != Some(0) {
            let what = format!("{kv_heads} does not divide num_attention_heads = {heads}");
            return Err(config.wrong("num_key_value_heads", what));
        }
        let head_dim = match config.count("head_dim")?.or(architecture.head_dim) {
            Some(n) => n,
            None if hidden.checked_rem(heads) == Some(0) => hidden.checked_div(heads).unwrap_or(0),
            None => {
                let what = format!("{heads} does not divide hidden_size = {hidden}");
                return Err(config.wrong("num_attention_heads", what));
            }
        };
        if architecture.rope.is_some() && head_dim.checked_rem(2) != Some(0) {
            return Err(config.wrong("head_dim", format!("{head_dim} is odd; numbers rotate in pairs")));
        }
        Ok(Self {
            vocab: need("vocab_size")?,
            hidden,
            inner: need("intermediate_size")?,
            layers: need("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            positions: need("max_position_embeddings")?,
            types: config.count("type_vocab_size")?.unwrap_or(1),
        })
    }

    /// One of them.
    pub fn get(&self, size: Size) -> usize {
        match size {
            Size::Vocab => self.vocab,
            Size::Hidden => self.hidden,
            Size::Inner => self.inner,
            Size::Layers => self.layers,
            Size::Heads => self.heads,
            Size::KvHeads => self.kv_heads,
            Size::HeadDim => self.head_dim,
            Size::Query => self.heads.saturating_mul(self.head_dim),
            Size::Key => self.kv_heads.saturating_mul(self.head_dim),
            Size::Positions => self.positions,
            Size::Types => self.types,
        }
    }
}
