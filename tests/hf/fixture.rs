//! HuggingFace folders made here: small random models with fixed seeds, and tokenizers made by hand.
//!
//! ```text
//! llama(), qwen3(), bert() -> Fixture (config, tokenizer, tensors by name), which a test may change -> write -> a folder
//! ```
//!
//! Weights are uniform with the standard deviation 1 / sqrt(K), so that activations keep their size from layer to layer. The package
//! `tests/readers` takes this file too.

use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Name -> shape, values.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub struct Fixture {
    pub config: Json,
    pub tokenizer: Json,
    pub tokenizer_config: Json,
    pub tensors: Tensors,
    /// Whether the file holds bf16 and not f32; values keep their upper half then.
    pub bf16: bool,
    seed: u64,
}

/// Marsaglia's xorshift64*: the upper bits as a number in [-1, 1).
fn next(seed: &mut u64) -> f32 {
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    let bits = seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40;
    bits as f32 / (1 << 23) as f32 - 1.0
}

impl Fixture {
    fn new(seed: u64, config: Json, tokenizer: Json, tokenizer_config: Json) -> Self {
        Self { config, tokenizer, tokenizer_config, tensors: Tensors::new(), bf16: false, seed }
    }

    /// Uniform values of a matrix `[.., K]`.
    pub fn matrix(&mut self, name: &str, shape: &[usize]) {
        let scale = (3.0 / *shape.last().unwrap() as f32).sqrt();
        self.uniform(name, shape, 0.0, scale);
    }

    /// Values of a norm, around 1.
    fn norm(&mut self, name: &str, n: usize) {
        self.uniform(name, &[n], 1.0, 0.5);
    }

    /// Values of a bias, around 0.
    fn bias(&mut self, name: &str, n: usize) {
        self.uniform(name, &[n], 0.0, 0.1);
    }

    fn uniform(&mut self, name: &str, shape: &[usize], middle: f32, scale: f32) {
        let n: usize = shape.iter().product();
        let values = (0..n).map(|_| middle + scale * next(&mut self.seed)).collect();
        self.tensors.insert(name.into(), (shape.to_vec(), values));
    }

    fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap() as usize
    }

    /// The tensors of a language model, by the config.
    fn language_model(&mut self, head_norms: bool) {
        let (hidden, inner) = (self.size("hidden_size"), self.size("intermediate_size"));
        let head = self.size("head_dim");
        let (query, key) = (self.size("num_attention_heads") * head, self.size("num_key_value_heads") * head);
        let vocab = self.size("vocab_size");
        self.matrix("model.embed_tokens.weight", &[vocab, hidden]);
        for n in 0..self.size("num_hidden_layers") {
            let layer = format!("model.layers.{n}");
            self.norm(&format!("{layer}.input_layernorm.weight"), hidden);
            self.matrix(&format!("{layer}.self_attn.q_proj.weight"), &[query, hidden]);
            self.matrix(&format!("{layer}.self_attn.k_proj.weight"), &[key, hidden]);
            self.matrix(&format!("{layer}.self_attn.v_proj.weight"), &[key, hidden]);
            self.matrix(&format!("{layer}.self_attn.o_proj.weight"), &[hidden, query]);
            if head_norms {
                self.norm(&format!("{layer}.self_attn.q_norm.weight"), head);
                self.norm(&format!("{layer}.self_attn.k_norm.weight"), head);
            }
            self.norm(&format!("{layer}.post_attention_layernorm.weight"), hidden);
            self.matrix(&format!("{layer}.mlp.gate_proj.weight"), &[inner, hidden]);
            self.matrix(&format!("{layer}.mlp.up_proj.weight"), &[inner, hidden]);
            self.matrix(&format!("{layer}.mlp.down_proj.weight"), &[hidden, inner]);
        }
        self.norm("model.norm.weight", hidden);
        if self.config["tie_word_embeddings"] != true {
            self.matrix("lm_head.weight", &[vocab, hidden]);
        }
    }

    /// Writes the folder's files.
    pub fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        let json = |name: &str, json: &Json| {
            std::fs::write(folder.join(name), serde_json::to_string_pretty(json).unwrap()).unwrap();
        };
        json("config.json", &self.config);
        json("tokenizer.json", &self.tokenizer);
        json("tokenizer_config.json", &self.tokenizer_config);
        let mut header = serde_json::Map::new();
        let mut data = Vec::new();
        for (name, (shape, values)) in &self.tensors {
            let start = data.len();
            for value in values {
                match self.bf16 {
                    true => data.extend(((value.to_bits() >> 16) as u16).to_le_bytes()),
                    false => data.extend(value.to_le_bytes()),
                }
            }
            let dtype = if self.bf16 { "BF16" } else { "F32" };
            header.insert(
                name.clone(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}),
            );
        }
        let header = Json::Object(header).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(data);
        std::fs::write(folder.join("model.safetensors"), file).unwrap();
    }
}

/// The character that stands for a byte in byte-level BPE: itself where it is visible in Latin-1, else one from U+0100 on.
pub fn byte_character(byte: u8) -> char {
    let visible = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    match visible(byte) {
        true => char::from(byte),
        false => char::from_u32(256 + (0..byte).filter(|b| !visible(*b)).count() as u32).unwrap(),
    }
}

/// Merges of the byte-level tokenizers.
pub const MERGES: [(&str, &str); 8] = [
    ("\u{120}", "t"),
    ("h", "e"),
    ("\u{120}t", "he"),
    ("l", "l"),
    ("i", "n"),
    ("\u{120}", "a"),
    ("\u{120}a", "nd"),
    ("n", "d"),
];

fn special(id: usize, text: &str, special: bool) -> Json {
    json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": special})
}

/// Byte-level BPE that cuts texts by one regular expression.
fn byte_level(pattern: &str, ignore_merges: bool, added: Json, post_processor: Json) -> Json {
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255 {
        vocab.insert(byte_character(byte).to_string(), Json::from(vocab.len()));
    }
    for (a, b) in MERGES {
        vocab.insert(format!("{a}{b}"), Json::from(vocab.len()));
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "post_processor": post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "ignore_merges": ignore_merges, "vocab": vocab,
                  "merges": MERGES.map(|(a, b)| format!("{a} {b}"))},
    })
}

/// As Llama 3 has it: numbers in groups of three.
pub const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As Qwen 2 and 3 have it: digits one by one.
pub const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Two layers with an output matrix of their own.
pub fn llama() -> Fixture {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 256,
        "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "rope_scaling": null, "tie_word_embeddings": false, "vocab_size": 320, "attention_bias": false,
        "mlp_bias": false, "bos_token_id": 264, "eos_token_id": [265, 266], "torch_dtype": "float32",
    });
    let begin = json!({"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}});
    let (a, b) =
        (json!({"Sequence": {"id": "A", "type_id": 0}}), json!({"Sequence": {"id": "B", "type_id": 1}}));
    let post_processor = json!({"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
        {"type": "TemplateProcessing", "single": [begin, a], "pair": [begin, a, begin, b],
         "special_tokens": {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [264],
                                                  "tokens": ["<|begin_of_text|>"]}}}]});
    let added = json!([
        special(264, "<|begin_of_text|>", true),
        special(265, "<|end_of_text|>", true),
        special(266, "<|eot_id|>", true),
        special(267, "\u{2581}tool", false)
    ]);
    let tokenizer_config = json!({
        "bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|eot_id|>", "special": true},
        "chat_template": "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    let tokenizer = byte_level(LLAMA_3, true, added, post_processor);
    let mut fixture = Fixture::new(1, config, tokenizer, tokenizer_config);
    fixture.language_model(false);
    fixture
}

/// Two layers whose heads are wider together than the model, with the output tied to the embedding.
pub fn qwen3() -> Fixture {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "hidden_size": 256,
        "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 128, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 1000000,
        "rope_scaling": null, "tie_word_embeddings": true, "vocab_size": 320, "attention_bias": false,
        "attention_dropout": 0.0, "sliding_window": null, "use_sliding_window": false, "max_window_layers": 2,
        "bos_token_id": 264, "eos_token_id": 265, "torch_dtype": "float32",
    });
    let added = json!([
        special(264, "<|endoftext|>", true),
        special(265, "<|im_end|>", true),
        special(266, "<think>", false)
    ]);
    let post_processor =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let tokenizer_config = json!({
        "add_bos_token": false, "bos_token": null, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "unk_token": null, "tokenizer_class": "Qwen2Tokenizer",
    });
    let tokenizer = byte_level(QWEN_2, false, added, post_processor);
    let mut fixture = Fixture::new(2, config, tokenizer, tokenizer_config);
    fixture.language_model(true);
    fixture
}

/// Pieces of the tokenizer with bytes to fall back on; `\u{2581}` is a space.
pub const PIECES: [&str; 8] =
    ["\u{2581}", "t", "h", "e", "\u{2581}t", "he", "\u{2581}the", "\u{2581}\u{2581}"];

/// A tokenizer as those that were SentencePiece models have it.
pub fn with_byte_fallback(fixture: &mut Fixture) {
    let mut vocab = serde_json::Map::new();
    for text in ["<unk>", "<s>", "</s>"] {
        vocab.insert(text.into(), Json::from(vocab.len()));
    }
    for byte in 0..256 {
        vocab.insert(format!("<0x{byte:02X}>"), Json::from(vocab.len()));
    }
    for piece in PIECES {
        vocab.insert(piece.into(), Json::from(vocab.len()));
    }
    let begin = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    let (a, b) =
        (json!({"Sequence": {"id": "A", "type_id": 0}}), json!({"Sequence": {"id": "B", "type_id": 1}}));
    fixture.tokenizer = json!({
        "version": "1.0", "added_tokens": [special(0, "<unk>", true), special(1, "<s>", true), special(2, "</s>", true)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing", "single": [begin, a], "pair": [begin, a, begin, b],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
                  "merges": [["\u{2581}", "t"], ["h", "e"], ["\u{2581}t", "he"], ["\u{2581}", "\u{2581}"]]},
    });
    fixture.tokenizer_config = json!({
        "add_bos_token": true, "add_eos_token": false, "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "pad_token": null, "tokenizer_class": "LlamaTokenizer",
    });
    fixture.config["bos_token_id"] = 1.into();
    fixture.config["eos_token_id"] = 2.into();
}

/// Two layers with a head of training that is left out.
pub fn bert() -> Fixture {
    let config = json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 32, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "vocab_size": 16,
        "pad_token_id": 0, "position_embedding_type": "absolute",
    });
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "the", "##s", "low", "##bit"];
    let vocab: serde_json::Map<String, Json> =
        words.iter().enumerate().map(|(i, w)| (w.to_string(), Json::from(i))).collect();
    let added: Vec<Json> = words[..5].iter().enumerate().map(|(i, w)| special(i, w, true)).collect();
    let token = |text: &str, id: usize| json!({"SpecialToken": {"id": text, "type_id": id}});
    let (a, b) =
        (json!({"Sequence": {"id": "A", "type_id": 0}}), json!({"Sequence": {"id": "B", "type_id": 1}}));
    let (cls, sep) = (token("[CLS]", 0), token("[SEP]", 0));
    let tokenizer = json!({
        "version": "1.0", "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": [cls, a, sep],
                           "pair": [cls, a, sep, b, token("[SEP]", 1)], "special_tokens": {
                               "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                               "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab},
    });
    let tokenizer_config = json!({
        "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
        "mask_token": "[MASK]", "do_lower_case": true, "tokenizer_class": "BertTokenizer",
    });
    let mut f = Fixture::new(3, config, tokenizer, tokenizer_config);
    let (hidden, inner) = (64, 128);
    f.matrix("embeddings.word_embeddings.weight", &[16, hidden]);
    f.matrix("embeddings.position_embeddings.weight", &[32, hidden]);
    f.matrix("embeddings.token_type_embeddings.weight", &[2, hidden]);
    f.norm("embeddings.LayerNorm.weight", hidden);
    f.bias("embeddings.LayerNorm.bias", hidden);
    for n in 0..2 {
        for (name, rows, k) in [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ] {
            f.matrix(&format!("encoder.layer.{n}.{name}.weight"), &[rows, k]);
            f.bias(&format!("encoder.layer.{n}.{name}.bias"), rows);
        }
        for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
            f.norm(&format!("encoder.layer.{n}.{name}.weight"), hidden);
            f.bias(&format!("encoder.layer.{n}.{name}.bias"), hidden);
        }
    }
    f.matrix("pooler.dense.weight", &[hidden, hidden]);
    f.bias("pooler.dense.bias", hidden);
    f
}
