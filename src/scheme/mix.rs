//! Mixes: the file types of llama.cpp (`Q4_K_M` and the like), in which the weights of a model have different schemes.
//!
//! ```text
//! names and shapes of all weights -> role, layer, rank among those of its role -> the rules of the mix, the first that holds -> scheme
//!     -> rows that its blocks do not divide: the next scheme that fits them ([`fallback`])
//! ```
//!
//! [`MIXES`] is the one table. A rule names a role, when it holds and the scheme; where none holds, the mix's own. Three things are said once for all
//! mixes, as in llama.cpp: the output (or the embedding, where there is no output) gets more bits; the values and keys of models of 8
//! experts are Q8_0; values that 8 heads share in a model of 80 layers have 5 bits. Source: llama.cpp `src/llama-quant.cpp`; its exceptions for Falcon are left out.

use super::names::{Named, Role};
use super::preset::{self, FAMILY_SAMPLES};
use super::{PRESETS, Scheme};
use crate::{Error, Result};
use std::str::FromStr;

/// When a rule holds. Layers and ranks count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    /// The first and last eighth, and every third layer between.
    More,
    /// The first so many.
    First(usize),
    /// The first of so many parts of the layers.
    FirstPart(usize),
    /// As `FirstPart`, with importance.
    Weighted(usize),
    /// As `FirstPart`, without importance.
    Unweighted(usize),
    /// Four or more heads share keys and values.
    Shared,
    /// The model has 8 experts.
    EightExperts,
    /// The tensor is not one of experts.
    NotOfExperts,
}

/// Where a scheme differs from the mix's own. Role None: any.
#[derive(Clone, Copy, Debug)]
struct Rule(Option<Role>, When, &'static str);

const fn v(when: When, scheme: &'static str) -> Rule {
    Rule(Some(Role::AttnV), when, scheme)
}

const fn qkv(scheme: &'static str) -> Rule {
    Rule(Some(Role::AttnQkv), When::Always, scheme)
}

const fn o(when: When, scheme: &'static str) -> Rule {
    Rule(Some(Role::AttnOutput), when, scheme)
}

const fn down(when: When, scheme: &'static str) -> Rule {
    Rule(Some(Role::FfnDown), when, scheme)
}

/// A choice of schemes for the weights of a model.
#[derive(Debug)]
pub struct Mix {
    pub name: &'static str,
    /// `general.file_type` in GGUF.
    pub file_type: u32,
    /// Of weights for which no rule holds.
    base: &'static str,
    rules: &'static [Rule],
}

const fn mix(name: &'static str, file_type: u32, base: &'static str, rules: &'static [Rule]) -> Mix {
    Mix { name, file_type, base, rules }
}

use When::{Always, EightExperts, First, FirstPart, More, NotOfExperts, Shared, Unweighted, Weighted};

/// With `_mix` behind it what would be the name of a scheme.
#[rustfmt::skip]
pub static MIXES: &[Mix] = &[
    mix("q2_k_mix", 10, "q2_k", &[
        v(Shared, "q4_k"), v(Always, "q3_k"), down(Always, "q3_k"), o(EightExperts, "q5_k"), o(Always, "q3_k"),
    ]),
    mix("q2_k_s", 21, "q2_k", &[v(Shared, "q4_k"), down(FirstPart(8), "q4_k")]),
    mix("q3_k_s", 11, "q3_k", &[o(EightExperts, "q5_k")]),
    mix("q3_k_m", 12, "q3_k", &[
        v(First(2), "q5_k"), v(Always, "q4_k"), qkv("q4_k"), down(FirstPart(16), "q5_k"), down(Always, "q4_k"),
        o(EightExperts, "q5_k"), o(Always, "q4_k"),
    ]),
    mix("q3_k_l", 13, "q3_k", &[
        v(Always, "q5_k"), qkv("q4_k"), down(Always, "q5_k"), o(EightExperts, "q3_k"), o(Always, "q5_k"),
    ]),
    mix("q4_k_s", 14, "q4_k", &[v(First(4), "q5_k"), down(FirstPart(8), "q5_k"), o(EightExperts, "q5_k")]),
    mix("q4_k_m", 15, "q4_k", &[v(More, "q6_k"), qkv("q5_k"), down(More, "q6_k"), o(EightExperts, "q5_k")]),
    mix("q5_k_s", 16, "q5_k", &[]),
    mix("q5_k_m", 17, "q5_k", &[v(More, "q6_k"), qkv("q6_k"), down(More, "q6_k")]),
    mix("q6_k_mix", 18, "q6_k", &[]),
    mix("q4_0_mix", 2, "q4_0", &[down(Weighted(8), "q4_1")]),
    mix("q4_1_mix", 3, "q4_1", &[]),
    mix("q5_0_mix", 8, "q5_0", &[down(Weighted(8), "q5_1")]),
    mix("q5_1_mix", 9, "q5_1", &[]),
    mix("q8_0_mix", 7, "q8_0", &[]),
    mix("iq4_nl_mix", 25, "iq4_nl", &[v(Shared, "q5_k"), down(Unweighted(8), "q5_k"), o(EightExperts, "q5_k")]),
    mix("iq4_xs_mix", 30, "iq4_xs", &[v(Shared, "q5_k"), down(Unweighted(8), "q5_k"), o(EightExperts, "q5_k")]),
    mix("tq1_0_mix", 36, "tq1_0", &[Rule(Some(Role::Embedding), Always, "q4_k")]),
    mix("tq2_0_mix", 37, "tq2_0", &[Rule(Some(Role::Embedding), Always, "q4_k")]),
    mix("mxfp4_moe", 38, "mxfp4", &[Rule(None, NotOfExperts, "q8_0")]),
];

/// Rows that the blocks of a scheme do not divide: the scheme they get instead. f16 where that does not fit either.
const FALLBACKS: &[(&str, &str)] = &[
    ("iq4_xs", "iq4_nl"),
    ("q2_k", "q4_0"),
    ("q3_k", "q4_0"),
    ("q2_0", "q4_0"),
    ("tq1_0", "q4_0"),
    ("tq2_0", "q4_0"),
    ("q4_k", "q5_0"),
    ("q5_k", "q5_1"),
    ("q6_k", "q8_0"),
];

/// A model of so many experts gets its own rules, and one of so many layers with shared values.
const EXPERTS: usize = 8;
const LAYERS_OF_70B: usize = 80;

/// A weight as a mix sees it.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
}

/// What a model says of itself; what it does not say follows from names and shapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    pub layers: Option<usize>,
    /// Heads, and those of keys and values.
    pub heads: Option<(usize, usize)>,
    pub experts: Option<usize>,
}

/// What a mix gives a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    pub scheme: Scheme,
    /// The scheme it would have, did its rows fit.
    pub instead_of: Option<Scheme>,
}

/// The scheme for rows of `k`: this one, or what llama.cpp falls back to where its blocks do not divide them.
pub fn fallback(scheme: Scheme, k: usize) -> Scheme {
    let fits = |s: &Scheme| s.ggml.is_none_or(|g| k.is_multiple_of(g.block()));
    if fits(&scheme) {
        return scheme;
    }
    let name = scheme.to_string();
    let next = FALLBACKS.iter().find(|(from, _)| *from == name).map(|(_, to)| named(to));
    next.filter(fits).unwrap_or_else(|| named("f16"))
}

/// A scheme that the tables name.
fn named(name: &str) -> Scheme {
    name.parse().expect("the tables of mixes name presets")
}

/// What holds for all weights of a model.
struct Model {
    layers: usize,
    shared: usize,
    experts: usize,
    /// There is no output of its own: the embedding is it.
    tied: bool,
}

impl Model {
    fn of(weights: &[Weight], names: &[Named], stated: &Stated) -> Self {
        let largest =
            |of: fn(&Named) -> Option<usize>| names.iter().filter_map(of).max().map_or(0, |n| n + 1);
        let rows = |role: Role| {
            let first = names.iter().position(|n| n.role == role)?;
            weights[first].shape.len().checked_sub(2).map(|at| weights[first].shape[at])
        };
        let of_shapes = || Some((rows(Role::AttnQ)?, rows(Role::AttnK)?));
        let (heads, kv) = stated.heads.or_else(of_shapes).unwrap_or((1, 1));
        let stacked = || {
            let ffn = |n: &Named| matches!(n.role, Role::FfnGate | Role::FfnUp | Role::FfnDown);
            let of = weights.iter().zip(names).filter(|(w, n)| ffn(n) && w.shape.len() == 3);
            of.map(|(w, _)| w.shape[0]).max().unwrap_or(0)
        };
        let experts = stated.experts.unwrap_or_else(|| largest(|n| n.expert).max(stacked()));
        Self {
            layers: stated.layers.unwrap_or_else(|| largest(|n| n.layer)),
            shared: heads / kv.max(1),
            experts,
            tied: !names.iter().any(|n| n.role == Role::Output),
        }
    }
}

/// The place of a weight among those that a rule counts.
fn ranks(names: &[Named], counted: impl Fn(&Named) -> bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..names.len()).filter(|&i| counted(&names[i])).collect();
    order.sort_by_key(|&i| (names[i].layer, i));
    let mut ranks = vec![0; names.len()];
    order.into_iter().enumerate().for_each(|(rank, i)| ranks[i] = rank);
    ranks
}

impl Mix {
    /// The mix of this name.
    pub fn of(name: &str) -> Option<&'static Self> {
        let name = name.trim();
        MIXES.iter().find(|m| m.name.eq_ignore_ascii_case(name))
    }

    /// The scheme of most weights.
    pub fn base(&self) -> Scheme {
        named(self.base)
    }

    /// The scheme that its first layers get only with importance, if they get one.
    pub fn guard(&self) -> Option<Scheme> {
        let rule = self.rules.iter().find(|r| matches!(r.1, Weighted(_)));
        rule.map(|r| named(r.2))
    }

    /// The scheme of each weight of a model, all of them given in the model's order; None for those that stay as they are: norms, routers, positions,
    /// and what has fewer than two dimensions. `weighted`: there is an importance of columns.
    pub fn assign(&self, weights: &[Weight], stated: &Stated, weighted: bool) -> Vec<Option<Given>> {
        let names: Vec<Named> = weights.iter().map(|w| Named::of(w.name)).collect();
        let model = Model::of(weights, &names, stated);
        let values = |n: &Named| matches!(n.role, Role::AttnV | Role::AttnQkv);
        let (of_values, of_down) = (ranks(&names, values), ranks(&names, |n| n.role == Role::FfnDown));
        let n_values = names.iter().filter(|n| values(n)).count();
        let given = |i: usize| {
            let (weight, name) = (&weights[i], &names[i]);
            let &k = weight.shape.last().filter(|_| name.weight && weight.shape.len() >= 2)?;
            let (at, of) = match name.role {
                Role::FfnDown if model.experts > 1 => (name.layer.unwrap_or(0), model.layers),
                Role::FfnDown => (of_down[i], model.layers),
                _ => (of_values[i], n_values),
            };
            let holds = |when: When| match when {
                Always => true,
                More => at < of / 8 || at >= 7 * of / 8 || (at - of / 8) % 3 == 2,
                First(n) => at < n,
                FirstPart(n) => at < of / n,
                Weighted(n) => weighted && at < of / n,
                Unweighted(n) => !weighted && at < of / n,
                Shared => model.shared >= 4,
                EightExperts => model.experts == EXPERTS,
                NotOfExperts => name.expert.is_none() && weight.shape.len() < 3,
            };
            let rule = |r: &&Rule| r.0.is_none_or(|role| role == name.role) && holds(r.1);
            let scheme = if name.role == Role::Output || (model.tied && name.role == Role::Embedding) {
                self.output(k)
            } else {
                let scheme = self.rules.iter().find(rule).map_or(self.base, |r| r.2);
                let large = model.layers == LAYERS_OF_70B && model.shared > 1;
                match name.role {
                    Role::AttnV | Role::AttnK if model.experts == EXPERTS => "q8_0",
                    Role::AttnV if large && matches!(scheme, "q3_k" | "q4_k") => "q5_k",
                    _ => scheme,
                }
            };
            let wanted = named(scheme);
            let scheme = fallback(wanted, k);
            Some(Given { scheme, instead_of: Some(wanted).filter(|w| *w != scheme) })
        };
        (0..weights.len()).map(given).collect()
    }

    /// The scheme of the output layer.
    fn output(&self, k: usize) -> &'static str {
        let divides = self.base().ggml.is_none_or(|g| k.is_multiple_of(g.block()));
        if divides && !["mxfp4", "q8_0"].contains(&self.base) { "q6_k" } else { "q8_0" }
    }
}

/// What the option `--scheme` names: a scheme for all weights, or a mix.
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    Scheme(Scheme),
    Mix(&'static Mix),
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scheme(scheme) => scheme.fmt(f),
            Self::Mix(mix) => f.write_str(mix.name),
        }
    }
}

impl FromStr for Choice {
    type Err = Error;

    /// Parses the name of a scheme or a mix, in lower or upper case.
    ///
    /// # Errors
    /// As for [`Scheme`]; the name that is suggested may be one of a mix.
    fn from_str(text: &str) -> Result<Self> {
        if let Some(mix) = Mix::of(text) {
            return Ok(Self::Mix(mix));
        }
        text.parse().map(Self::Scheme).map_err(|e| match e {
            Error::UnknownScheme { name, .. } => {
                let mixes = MIXES.iter().map(|m| m.name);
                let names = PRESETS.iter().map(|p| p.name).chain(FAMILY_SAMPLES.iter().copied());
                preset::unknown_among(&name, names.chain(mixes))
            }
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model of `layers` with the given rows of keys, as GGUF calls its weights.
    fn llama(layers: usize, kv_rows: usize) -> Vec<(String, Vec<usize>)> {
        let mut all = vec![("token_embd.weight".to_string(), vec![1000, 512])];
        for n in 0..layers {
            let mut push =
                |name: &str, shape: &[usize]| all.push((format!("blk.{n}.{name}.weight"), shape.to_vec()));
            push("attn_norm", &[512]);
            push("attn_q", &[512, 512]);
            push("attn_k", &[kv_rows, 512]);
            push("attn_v", &[kv_rows, 512]);
            push("attn_output", &[512, 512]);
            push("ffn_norm", &[512]);
            push("ffn_gate", &[1024, 512]);
            push("ffn_up", &[1024, 512]);
            push("ffn_down", &[512, 1024]);
        }
        all.push(("output_norm.weight".into(), vec![512]));
        all.push(("output.weight".into(), vec![1000, 512]));
        all
    }

    fn assigned(
        mix: &str,
        model: &[(String, Vec<usize>)],
        stated: &Stated,
        weighted: bool,
    ) -> Vec<(String, String)> {
        let weights: Vec<Weight> = model.iter().map(|(name, shape)| Weight { name, shape }).collect();
        let given = Mix::of(mix).unwrap().assign(&weights, stated, weighted);
        let text = |g: &Option<Given>| g.map_or("-".to_string(), |g| g.scheme.to_string());
        model.iter().zip(&given).map(|((name, _), g)| (name.clone(), text(g))).collect()
    }

    /// The schemes of one role, layer by layer.
    fn of(mix: &str, model: &[(String, Vec<usize>)], role: &str) -> String {
        of_weighted(mix, model, role, false)
    }

    fn of_weighted(mix: &str, model: &[(String, Vec<usize>)], role: &str, weighted: bool) -> String {
        let all = assigned(mix, model, &Stated::default(), weighted);
        let found = all.iter().filter(|(name, _)| name.ends_with(&format!("{role}.weight")));
        found.map(|(_, scheme)| scheme.as_str()).collect::<Vec<_>>().join(" ")
    }

    fn repeated(parts: &[(usize, &str)]) -> String {
        let all: Vec<&str> = parts.iter().flat_map(|(n, s)| std::iter::repeat_n(*s, *n)).collect();
        all.join(" ")
    }

    /// Worked by hand for 32 layers: n/8 = 4, so more bits for 0 to 3, 28 to 31, and 6, 9, ... 27.
    #[test]
    fn q4_k_m_of_32_layers() {
        let model = llama(32, 512);
        let more = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
        let expected: Vec<&str> = (0..32).map(|n| if more.contains(&n) { "q6_k" } else { "q4_k" }).collect();
        for role in ["attn_v", "ffn_down"] {
            assert_eq!(of("q4_k_m", &model, role), expected.join(" "), "{role}");
            let five: Vec<&str> = expected.iter().map(|s| if *s == "q4_k" { "q5_k" } else { s }).collect();
            assert_eq!(of("q5_k_m", &model, role), five.join(" "), "{role}");
        }
        for role in ["attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"] {
            assert_eq!(of("q4_k_m", &model, role), repeated(&[(32, "q4_k")]), "{role}");
        }
        let all = assigned("q4_k_m", &model, &Stated::default(), false);
        let scheme = |name: &str| all.iter().find(|(n, _)| n == name).unwrap().1.as_str();
        assert_eq!((scheme("token_embd.weight"), scheme("output.weight")), ("q4_k", "q6_k"));
        assert_eq!((scheme("output_norm.weight"), scheme("blk.3.attn_norm.weight")), ("-", "-"));
    }

    #[test]
    fn the_other_mixes_of_32_layers() {
        let model = llama(32, 512);
        for (mix, role, parts) in [
            ("q4_k_s", "attn_v", &[(4, "q5_k"), (28, "q4_k")][..]),
            ("q4_k_s", "ffn_down", &[(4, "q5_k"), (28, "q4_k")]),
            ("q4_k_s", "attn_output", &[(32, "q4_k")]),
            ("q5_k_s", "attn_v", &[(32, "q5_k")]),
            ("q5_k_s", "ffn_down", &[(32, "q5_k")]),
            ("q3_k_s", "attn_v", &[(32, "q3_k")]),
            ("q3_k_s", "attn_output", &[(32, "q3_k")]),
            ("q3_k_m", "attn_v", &[(2, "q5_k"), (30, "q4_k")]),
            ("q3_k_m", "ffn_down", &[(2, "q5_k"), (30, "q4_k")]),
            ("q3_k_m", "attn_output", &[(32, "q4_k")]),
            ("q3_k_m", "attn_k", &[(32, "q3_k")]),
            ("q3_k_l", "attn_v", &[(32, "q5_k")]),
            ("q3_k_l", "ffn_down", &[(32, "q5_k")]),
            ("q3_k_l", "attn_output", &[(32, "q5_k")]),
            ("q2_k_mix", "attn_v", &[(32, "q3_k")]),
            ("q2_k_mix", "ffn_down", &[(32, "q3_k")]),
            ("q2_k_mix", "attn_output", &[(32, "q3_k")]),
            ("q2_k_mix", "ffn_up", &[(32, "q2_k")]),
            ("q2_k_s", "attn_v", &[(32, "q2_k")]),
            ("q2_k_s", "ffn_down", &[(4, "q4_k"), (28, "q2_k")]),
            ("q2_k_s", "attn_output", &[(32, "q2_k")]),
            ("q6_k_mix", "ffn_down", &[(32, "q6_k")]),
            ("iq4_xs_mix", "ffn_down", &[(4, "q5_k"), (28, "iq4_xs")]),
            ("tq2_0_mix", "token_embd", &[(1, "q4_k")]),
            ("tq2_0_mix", "attn_v", &[(32, "tq2_0")]),
            ("mxfp4_moe", "ffn_down", &[(32, "q8_0")]),
            ("q8_0_mix", "output", &[(1, "q8_0")]),
            ("q4_0_mix", "output", &[(1, "q6_k")]),
        ] {
            let role = if role == "output" { "t.output" } else { role };
            let found = match role {
                "t.output" => {
                    let all = assigned(mix, &model, &Stated::default(), false);
                    all.iter().find(|(n, _)| n == "output.weight").unwrap().1.clone()
                }
                role => of(mix, &model, role),
            };
            assert_eq!(found, repeated(parts), "{mix} {role}");
        }
        // The smallest model with an eighth of its own: 8 layers.
        assert_eq!(of("q4_k_m", &llama(8, 512), "ffn_down"), "q6_k q4_k q4_k q6_k q4_k q4_k q6_k q6_k");
        // Three layers: no eighths (7 * 3 / 8 = 2), every third from the start.
        assert_eq!(of("q4_k_m", &llama(3, 512), "ffn_down"), "q4_k q4_k q6_k");
    }

    #[test]
    fn importance_changes_the_first_layers() {
        let model = llama(16, 512);
        for (mix, base, first) in [("q4_0_mix", "q4_0", "q4_1"), ("q5_0_mix", "q5_0", "q5_1")] {
            assert_eq!(of(mix, &model, "ffn_down"), repeated(&[(16, base)]));
            assert_eq!(of_weighted(mix, &model, "ffn_down", true), repeated(&[(2, first), (14, base)]));
        }
        assert_eq!(
            (Mix::of("q4_0_mix").unwrap().guard(), Mix::of("q4_k_m").unwrap().guard()),
            (Some(named("q4_1")), None)
        );
        assert_eq!(of_weighted("iq4_nl_mix", &model, "ffn_down", true), repeated(&[(16, "iq4_nl")]));
    }

    #[test]
    fn shared_heads_and_experts_count() {
        // 512 rows of Q and 128 of K: four heads share.
        let shared = llama(8, 128);
        assert_eq!(of("q2_k_mix", &shared, "attn_v"), repeated(&[(8, "q4_k")]));
        assert_eq!(of("q2_k_s", &shared, "attn_v"), repeated(&[(8, "q4_k")]));
        assert_eq!(of("iq4_xs_mix", &shared, "attn_v"), repeated(&[(8, "q5_k")]));
        // What the model says goes before its shapes.
        let stated = Stated { heads: Some((8, 4)), ..Stated::default() };
        let all = assigned("q2_k_mix", &shared, &stated, false);
        assert!(all.iter().any(|(n, s)| n == "blk.0.attn_v.weight" && s == "q3_k"));
        // 80 layers and shared values.
        let large = llama(80, 64);
        let values = of("q4_k_m", &large, "attn_v");
        assert!(!values.contains("q4_k") && values.contains("q5_k") && values.contains("q6_k"), "{values}");
        assert!(of("q4_k_m", &llama(80, 512), "attn_v").contains("q4_k"));
    }

    /// Mixtral: 8 experts, each a matrix of its own in HuggingFace, one tensor of all in GGUF.
    #[test]
    fn eight_experts() {
        let mut hf = vec![("model.embed_tokens.weight".to_string(), vec![100, 256])];
        let mut gguf = vec![("token_embd.weight".to_string(), vec![100, 256])];
        for n in 0..16 {
            for (theirs, name, rows) in
                [("q", "attn_q", 256), ("k", "attn_k", 64), ("v", "attn_v", 64), ("o", "attn_output", 256)]
            {
                hf.push((format!("model.layers.{n}.self_attn.{theirs}_proj.weight"), vec![rows, 256]));
                gguf.push((format!("blk.{n}.{name}.weight"), vec![rows, 256]));
            }
            hf.push((format!("model.layers.{n}.block_sparse_moe.gate.weight"), vec![8, 256]));
            gguf.push((format!("blk.{n}.ffn_gate_inp.weight"), vec![8, 256]));
            for e in 0..8 {
                hf.push((format!("model.layers.{n}.block_sparse_moe.experts.{e}.w2.weight"), vec![256, 512]));
            }
            gguf.push((format!("blk.{n}.ffn_down_exps.weight"), vec![8, 256, 512]));
        }
        for (mix, v, o, first, rest) in [
            ("q4_k_s", "q8_0", "q5_k", "q5_k", "q4_k"),
            ("q3_k_l", "q8_0", "q3_k", "q5_k", "q5_k"),
            ("q5_k_s", "q8_0", "q5_k", "q5_k", "q5_k"),
            ("mxfp4_moe", "q8_0", "q8_0", "mxfp4", "mxfp4"),
        ] {
            let all = assigned(mix, &gguf, &Stated::default(), false);
            let scheme = |name: &str| all.iter().find(|(n, _)| n == name).unwrap().1.as_str();
            assert_eq!(scheme("blk.9.attn_v.weight"), v, "{mix}");
            assert_eq!(scheme("blk.9.attn_k.weight"), v, "{mix}");
            assert_eq!(scheme("blk.9.attn_output.weight"), o, "{mix}");
            assert_eq!(scheme("blk.9.ffn_gate_inp.weight"), "-", "{mix}");
            assert_eq!(
                (scheme("blk.1.ffn_down_exps.weight"), scheme("blk.2.ffn_down_exps.weight")),
                (first, rest),
                "{mix}"
            );
            // The embedding is the output too.
            assert_eq!(scheme("token_embd.weight"), if mix == "mxfp4_moe" { "q8_0" } else { "q6_k" });
            // By the other names the same.
            let theirs = assigned(mix, &hf, &Stated::default(), false);
            let named: Vec<(String, &String)> = theirs
                .iter()
                .filter(|(n, _)| !n.contains("experts.") || n.contains("experts.5."))
                .map(|(n, s)| {
                    (
                        Named::of(n).gguf.unwrap_or_else(|| {
                            n.replace("model.layers", "blk").replace("block_sparse_moe.gate", "ffn_gate_inp")
                        }),
                        s,
                    )
                })
                .collect();
            let ours: Vec<(String, &String)> = all.iter().map(|(n, s)| (n.clone(), s)).collect();
            assert_eq!(named, ours, "{mix}");
        }
    }

    #[test]
    fn fused_attention() {
        let model: Vec<(String, Vec<usize>)> =
            (0..8).map(|n| (format!("model.layers.{n}.self_attn.qkv_proj.weight"), vec![768, 256])).collect();
        for (mix, scheme) in [
            ("q3_k_m", "q4_k"),
            ("q3_k_l", "q4_k"),
            ("q4_k_m", "q5_k"),
            ("q5_k_m", "q6_k"),
            ("q4_k_s", "q4_k"),
        ] {
            let all = assigned(mix, &model, &Stated::default(), false);
            assert!(all.iter().all(|(_, s)| s == scheme), "{mix}: {all:?}");
        }
    }

    #[test]
    fn rows_that_do_not_divide_fall_back() {
        for (from, k, to) in [
            ("q4_k", 256, "q4_k"),
            ("q4_k", 320, "q5_0"),
            ("q5_k", 320, "q5_1"),
            ("q6_k", 320, "q8_0"),
            ("q2_k", 320, "q4_0"),
            ("q3_k", 320, "q4_0"),
            ("tq1_0", 320, "q4_0"),
            ("tq2_0", 320, "q4_0"),
            ("iq4_xs", 320, "iq4_nl"),
            ("q4_k", 100, "f16"),
            ("q4_0", 100, "f16"),
            ("mxfp4", 48, "f16"),
        ] {
            assert_eq!(fallback(named(from), k).to_string(), to, "{from} {k}");
        }
        let shape = [64, 320];
        let weights = [
            Weight { name: "blk.0.ffn_up.weight", shape: &shape },
            Weight { name: "output.weight", shape: &shape },
        ];
        let given = Mix::of("q4_k_m").unwrap().assign(&weights, &Stated::default(), false);
        assert_eq!(given[0], Some(Given { scheme: named("q5_0"), instead_of: Some(named("q4_k")) }));
        assert_eq!(given[1], Some(Given { scheme: named("q8_0"), instead_of: None }));
    }

    #[test]
    fn the_table_names_presets_and_no_scheme() {
        let mut file_types = std::collections::HashSet::new();
        for mix in MIXES {
            assert!(mix.name.parse::<Scheme>().is_err(), "{} is a scheme too", mix.name);
            assert!(file_types.insert(mix.file_type), "{}", mix.name);
            assert_eq!(mix.base().to_string(), mix.base);
            mix.rules.iter().for_each(|r| assert_eq!(named(r.2).to_string(), r.2));
            assert!(matches!(mix.name.to_uppercase().parse(), Ok(Choice::Mix(m)) if m.name == mix.name));
        }
        FALLBACKS.iter().for_each(|(a, b)| assert_ne!(named(a), named(b)));
        for (name, hint) in [
            ("q4_k_n", "q4_k_m"),
            ("q5_k_mm", "q5_k_m"),
            ("mxfp4_mo", "mxfp4_moe"),
            ("q4_9", "q4_0"),
            ("int4", "int4-g32"),
        ] {
            match name.parse::<Choice>() {
                Err(Error::UnknownScheme { suggestion: Some(s), .. }) => assert_eq!(s, hint, "{name}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        assert!(matches!("int9-g32".parse::<Choice>(), Err(Error::BadScheme { .. })));
    }
}
