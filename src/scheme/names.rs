//! What the name of a weight says: its role in a transformer, its layer, its expert.
//!
//! ```text
//! blk.7.attn_v.weight                                  GGUF          -> attn_v of layer 7
//! model.layers.7.self_attn.v_proj.weight               HuggingFace   -> the same, and its name in GGUF
//! model.layers.7.block_sparse_moe.experts.3.w2.weight                -> ffn_down of layer 7, expert 3 of blk.7.ffn_down_exps.weight
//! ```
//!
//! Names of GGUF are read as llama.cpp reads them (`src/llama-quant.cpp`), those of HuggingFace for models like Llama: Mistral, Mixtral, Qwen, Phi and the
//! like. A name that says nothing is [`Role::Other`]; one that does not end in `weight` is none (experts in one tensor are [experts, in, out] there, whose
//! rows are no inputs). Nothing here knows formats.

/// What a weight does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Embedding,
    Output,
    AttnQ,
    AttnK,
    /// Also the part of a latent attention that makes keys and values.
    AttnV,
    /// Q, K and V in one.
    AttnQkv,
    AttnOutput,
    FfnGate,
    FfnUp,
    FfnDown,
    Other,
}

/// What a name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub role: Role,
    pub layer: Option<usize>,
    /// Which expert, where each has a tensor of its own.
    pub expert: Option<usize>,
    /// A weight of a linear layer or an embedding, and no norm, router, position or the like, which llama.cpp leaves as it is.
    pub weight: bool,
    /// The name in a GGUF file, where it is another one.
    pub gguf: Option<String>,
}

/// A role by a part of a GGUF name, the first that is found.
const GGUF: &[(&str, Role)] = &[
    ("attn_qkv.weight", Role::AttnQkv),
    ("attn_kv_b.weight", Role::AttnV),
    ("attn_v.weight", Role::AttnV),
    ("attn_k.weight", Role::AttnK),
    ("attn_q.weight", Role::AttnQ),
    ("attn_output.weight", Role::AttnOutput),
    ("ffn_up", Role::FfnUp),
    ("ffn_gate", Role::FfnGate),
    ("ffn_down", Role::FfnDown),
];

/// What llama.cpp does not quantize, by parts of GGUF names.
const GGUF_KEPT: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "position_embd",
    "token_types",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// A role by the last part of a HuggingFace name before `.weight`, and what GGUF calls it.
const HUGGING_FACE: &[(&str, Role, &str)] = &[
    ("embed_tokens", Role::Embedding, "token_embd"),
    ("lm_head", Role::Output, "output"),
    ("q_proj", Role::AttnQ, "attn_q"),
    ("k_proj", Role::AttnK, "attn_k"),
    ("v_proj", Role::AttnV, "attn_v"),
    ("kv_b_proj", Role::AttnV, "attn_kv_b"),
    ("qkv_proj", Role::AttnQkv, "attn_qkv"),
    ("query_key_value", Role::AttnQkv, "attn_qkv"),
    ("o_proj", Role::AttnOutput, "attn_output"),
    ("gate_proj", Role::FfnGate, "ffn_gate"),
    ("up_proj", Role::FfnUp, "ffn_up"),
    ("gate_up_proj", Role::FfnUp, "ffn_up"),
    ("down_proj", Role::FfnDown, "ffn_down"),
    ("w1", Role::FfnGate, "ffn_gate"),
    ("w3", Role::FfnUp, "ffn_up"),
    ("w2", Role::FfnDown, "ffn_down"),
];

/// Last parts of HuggingFace names that llama.cpp does not quantize: norms end in `norm`, and these are routers and positions.
const HUGGING_FACE_KEPT: &[&str] = &[
    "gate",
    "router",
    "shared_expert_gate",
    "position_embeddings",
    "token_type_embeddings",
    "embed_positions",
    "conv1d",
    "relative_attention_bias",
];

/// The part behind which a layer's number comes.
const LAYERS: &[&str] = &["blk", "layers", "layer", "h", "blocks"];

impl Named {
    /// Reads a name.
    pub fn of(name: &str) -> Self {
        let parts: Vec<&str> = name.split('.').collect();
        let number_behind = |words: &[&str]| {
            let number = |pair: &[&str]| words.contains(&pair[0]).then(|| pair[1].parse().ok())?;
            parts.windows(2).find_map(number)
        };
        let layer = number_behind(LAYERS);
        let expert = number_behind(&["experts"]);
        let ends = name.ends_with("weight");
        let other = Self { role: Role::Other, layer, expert, weight: ends, gguf: None };
        let own = match name {
            "output.weight" => Some(Role::Output),
            "token_embd.weight" | "per_layer_token_embd.weight" => Some(Role::Embedding),
            _ => None,
        };
        if own.is_some() || parts.contains(&"blk") {
            let role = own.or_else(|| GGUF.iter().find(|(part, _)| name.contains(part)).map(|(_, r)| *r));
            let weight = ends && !GGUF_KEPT.iter().any(|part| name.contains(part));
            return Self { role: role.unwrap_or(Role::Other), weight, ..other };
        }
        let Some(stem) = name.strip_suffix(".weight") else {
            // Outside of layers and without a point before `weight`: GGUF or nothing known.
            return Self { weight: ends && !GGUF_KEPT.iter().any(|part| name.contains(part)), ..other };
        };
        let last = stem.rsplit('.').next().unwrap_or(stem);
        let kept = last.ends_with("norm")
            || last.contains("layernorm")
            || last.starts_with("ln_")
            || HUGGING_FACE_KEPT.contains(&last)
            || GGUF_KEPT.iter().any(|part| name.contains(part));
        let found = HUGGING_FACE.iter().find(|(part, ..)| *part == last);
        let gguf = found.map(|(_, role, called)| match (role, layer) {
            (Role::Embedding | Role::Output, _) => format!("{called}.weight"),
            (_, Some(n)) => {
                let shared = parts.iter().any(|p| p.starts_with("shared_expert"));
                let of = if expert.is_some() {
                    "_exps"
                } else if shared {
                    "_shexp"
                } else {
                    ""
                };
                format!("blk.{n}.{called}{of}.weight")
            }
            (_, None) => name.to_string(),
        });
        let role = found.map_or(Role::Other, |(_, role, _)| *role);
        Self { role, weight: !kept, gguf: gguf.filter(|g| g != name), ..other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_vocabularies_are_read() {
        let hf = "model.layers.7.";
        for (name, role, layer, gguf) in [
            ("output.weight", Role::Output, None, None),
            ("token_embd.weight", Role::Embedding, None, None),
            ("blk.7.attn_v.weight", Role::AttnV, Some(7), None),
            ("blk.7.attn_kv_b.weight", Role::AttnV, Some(7), None),
            ("blk.17.attn_qkv.weight", Role::AttnQkv, Some(17), None),
            ("blk.7.attn_output.weight", Role::AttnOutput, Some(7), None),
            ("blk.7.ffn_down_exps.weight", Role::FfnDown, Some(7), None),
            ("blk.7.attn_q_a.weight", Role::Other, Some(7), None),
            ("lm_head.weight", Role::Output, None, Some("output.weight")),
            ("model.embed_tokens.weight", Role::Embedding, None, Some("token_embd.weight")),
            (&format!("{hf}self_attn.q_proj.weight"), Role::AttnQ, Some(7), Some("blk.7.attn_q.weight")),
            (&format!("{hf}self_attn.k_proj.weight"), Role::AttnK, Some(7), Some("blk.7.attn_k.weight")),
            (&format!("{hf}self_attn.v_proj.weight"), Role::AttnV, Some(7), Some("blk.7.attn_v.weight")),
            (
                &format!("{hf}self_attn.o_proj.weight"),
                Role::AttnOutput,
                Some(7),
                Some("blk.7.attn_output.weight"),
            ),
            (
                &format!("{hf}self_attn.qkv_proj.weight"),
                Role::AttnQkv,
                Some(7),
                Some("blk.7.attn_qkv.weight"),
            ),
            (&format!("{hf}mlp.gate_proj.weight"), Role::FfnGate, Some(7), Some("blk.7.ffn_gate.weight")),
            (&format!("{hf}mlp.up_proj.weight"), Role::FfnUp, Some(7), Some("blk.7.ffn_up.weight")),
            (&format!("{hf}mlp.down_proj.weight"), Role::FfnDown, Some(7), Some("blk.7.ffn_down.weight")),
            (
                &format!("{hf}mlp.shared_expert.down_proj.weight"),
                Role::FfnDown,
                Some(7),
                Some("blk.7.ffn_down_shexp.weight"),
            ),
            ("classifier.weight", Role::Other, None, None),
            ("layers.x.w", Role::Other, None, None),
        ] {
            let named = Named::of(name);
            assert_eq!((named.role, named.layer, named.gguf.as_deref()), (role, layer, gguf), "{name}");
            assert_eq!((named.weight, named.expert), (name.ends_with("weight"), None), "{name}");
        }
        let expert = Named::of("model.layers.7.block_sparse_moe.experts.3.w2.weight");
        assert_eq!((expert.role, expert.layer, expert.expert), (Role::FfnDown, Some(7), Some(3)));
        assert_eq!(expert.gguf.as_deref(), Some("blk.7.ffn_down_exps.weight"));
    }

    #[test]
    fn norms_routers_and_positions_are_kept() {
        for name in [
            "blk.0.attn_norm.weight",
            "output_norm.weight",
            "blk.0.ffn_gate_inp.weight",
            "blk.0.attn_rel_b.weight",
            "position_embd.weight",
            "blk.0.ssm_conv1d.weight",
            "blk.0.attn_q.bias",
            "model.norm.weight",
            "model.layers.0.input_layernorm.weight",
            "model.layers.0.self_attn.q_norm.weight",
            "model.layers.0.block_sparse_moe.gate.weight",
            "model.layers.0.mlp.gate.weight",
            "model.layers.0.mlp.shared_expert_gate.weight",
            "model.layers.0.self_attn.q_proj.bias",
            "model.layers.0.mlp.experts.down_proj",
        ] {
            assert!(!Named::of(name).weight, "{name}");
        }
    }
}
