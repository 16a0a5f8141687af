//! What becomes of a model's weights, and of what they are multiplied with: schemes, methods and precisions of activations, by the names of layers.
//!
//! ```text
//! preset (w8a8-static, ...) ─┐
//! TOML file (text)          ─┼-> Configuration -> layer(name) -> Layer { weights: copy | scheme or mix, recipe;  activations: dynamic | static by a rule;  transform of its inputs }
//! calls of a program        ─┘                 -> check(names) -> patterns that match nothing | an error for those that contradict
//! static activations, statistics of the layer's input -> Activations::resolve -> an Activation with its scale
//! ```
//!
//! Nothing is quantized here: `quantize` in the command line does what is said, and a model runs with the activations that its file carries (`model::activations`).

#[cfg(feature = "configuration")]
mod text;

#[cfg(feature = "configuration")]
pub use text::exact_key;

use crate::calibrate::{Grid, Inputs, Rule};
use crate::product::{Activation, Int8Group};
use crate::quantize::{Recipe, TransformRecipe};
use crate::scheme::mix::Choice;
use crate::scheme::names::{Named, Role};
use crate::{Error, Result};
use regex::Regex;
use std::fmt;
use std::str::FromStr;

/// What becomes of a weight.
#[derive(Clone, Copy, Debug)]
pub enum Weights {
    /// Nothing.
    Copy,
    To(Choice, Recipe),
}

impl FromStr for Weights {
    type Err = Error;

    /// Parses `copy`, `SCHEME` or `SCHEME:METHOD` (`SCHEME:gptq:METHOD`); a scheme that does not take the method is found where it meets a tensor, as a mix has several.
    ///
    /// # Errors
    /// As [`Choice::from_str`] and [`Recipe::from_str`].
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("copy") {
            return Ok(Self::Copy);
        }
        let (name, recipe) = text.split_once(':').unwrap_or((text, "default"));
        Ok(Self::To(name.parse()?, recipe.parse()?))
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy => f.write_str("copy"),
            Self::To(choice, recipe) if *recipe == Recipe::default() => choice.fmt(f),
            Self::To(choice, recipe) => write!(f, "{choice}:{recipe}"),
        }
    }
}

/// What goes into a layer's product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activations {
    /// In a precision that needs no calibration: [`Activation::F32`], [`Activation::F16`], or int8 with scales that are worked out while the model runs.
    Dynamic(Activation),
    /// In int8 with one scale for all of a layer's inputs, found before by what a rule makes of their statistics; with a zero-point where it is not symmetric.
    Static { rule: Rule, symmetric: bool },
}

impl Default for Activations {
    fn default() -> Self {
        Self::Dynamic(Activation::F32)
    }
}

/// What static activations go by where no rule is named.
const STATIC_RULE: Rule = Rule::Mse;

impl Activations {
    /// The activation of a product: with a scale that the rule finds in what is known of the layer's inputs. None where that is nothing.
    ///
    /// # Errors
    /// As [`Inputs::range`]; [`Error::Unsupported`] for inputs whose scale is none of int8's, as where all are 0.
    pub fn resolve(self, inputs: Option<&Inputs>) -> Result<Option<Activation>> {
        match (self, inputs) {
            (Self::Dynamic(activation), _) => Ok(Some(activation)),
            (Self::Static { .. }, None) => Ok(None),
            (Self::Static { rule, symmetric }, Some(inputs)) => {
                let range = inputs.range(rule, Grid { bits: 8, symmetric })?;
                Ok(Some(Activation::Int8Static(range.int8()?)))
            }
        }
    }

    /// Whether statistics of a layer's inputs are needed.
    pub fn calibrates(self) -> bool {
        matches!(self, Self::Static { .. })
    }

    /// What is taken for static activations where nothing is known of a layer's inputs.
    pub const INSTEAD: Activation = Activation::Int8(Int8Group::Row);
}

/// What the names of static activations begin with.
const STATIC: &str = "int8-static";
const AFFINE: &str = "-asym";

impl FromStr for Activations {
    type Err = Error;

    /// Parses `f32`, `f16`, `int8` (a scale per token), `int8-g32`, `int8-g128`; `int8-static` and `int8-static-asym` (with a zero-point), either with the name of a rule behind a
    /// colon.
    ///
    /// # Errors
    /// [`Error::Usage`] with what there is; as [`Rule::from_str`].
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim().to_ascii_lowercase();
        let (name, rule) = text.split_once(':').map_or((&*text, None), |(name, rule)| (name, Some(rule)));
        if let Some(rest) = name.strip_prefix(STATIC).filter(|rest| ["", AFFINE].contains(rest)) {
            let rule = rule.map_or(Ok(STATIC_RULE), str::parse)?;
            return Ok(Self::Static { rule, symmetric: rest.is_empty() });
        }
        match text.parse() {
            Ok(activation) => Ok(Self::Dynamic(activation)),
            Err(Error::Usage(why)) => Err(Error::Usage(format!(
                "{why}; {STATIC} and {STATIC}{AFFINE} in a configuration, each with :RULE"
            ))),
            Err(other) => Err(other),
        }
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dynamic(activation) => activation.fmt(f),
            Self::Static { rule, symmetric } => {
                let affine = if *symmetric { "" } else { AFFINE };
                write!(f, "{STATIC}{affine}:{rule}")
            }
        }
    }
}

/// What becomes of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    pub weights: Weights,
    /// None where nothing is said: f32, or what a file carries already.
    pub activations: Option<Activations>,
    /// What becomes of its inputs before.
    pub transform: Option<TransformRecipe>,
}

/// What is said of layers; what is None is as for the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    pub weights: Option<Weights>,
    pub activations: Option<Activations>,
    /// Some(None): inputs stay as they are, whatever the others' do.
    pub transform: Option<Option<TransformRecipe>>,
}

/// A configuration with a name: so many bits of a weight, so many of an activation.
#[derive(Debug)]
pub struct Preset {
    pub name: &'static str,
    /// Of linear layers.
    weights: &'static str,
    activations: &'static str,
    /// One line for listings.
    pub about: &'static str,
}

/// All presets. Tables of embeddings get [`TABLES`] in each; norms, positions, routers and the like are copied.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "w8a8-dynamic",
        weights: "int8-row",
        activations: "int8",
        about: "int8 weights per channel, int8 activations per token",
    },
    Preset {
        name: "w8a8-static",
        weights: "int8-row",
        activations: "int8-static-asym",
        about: "int8 weights per channel, int8 activations of one scale and zero-point, by calibration",
    },
    Preset {
        name: "w8a16",
        weights: "int8-row",
        activations: "f16",
        about: "int8 weights per channel, f16 activations",
    },
    Preset {
        name: "w4a8",
        weights: "int4-g128:mse",
        activations: "int8",
        about: "int4 weights in groups of 128, int8 activations per token",
    },
    Preset {
        name: "w4a16",
        weights: "int4-g128-asym:mse",
        activations: "f16",
        about: "int4 weights with zero-points in groups of 128, f16 activations",
    },
    Preset {
        name: "w3a16",
        weights: "int3-g64-asym:mse",
        activations: "f16",
        about: "int3 weights with zero-points in groups of 64, f16 activations",
    },
    Preset {
        name: "w2a16",
        weights: "int2-g32-asym:mse",
        activations: "f16",
        about: "int2 weights with zero-points in groups of 32, f16 activations",
    },
];

/// The scheme of tables of embeddings in presets, from which rows are looked up.
const TABLES: &str = "int8-row";

impl Preset {
    /// The preset of a name, in lower or upper case.
    pub fn of(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name.eq_ignore_ascii_case(name.trim()))
    }

    fn weights(&self, name: &str) -> &'static str {
        let named = Named::of(name);
        if !named.weight {
            "copy"
        } else if is_table(&named, name) {
            TABLES
        } else {
            self.weights
        }
    }

    fn activations(&self, name: &str) -> &'static str {
        if multiplies(name) { self.activations } else { "f32" }
    }
}

/// Whether rows of a weight are looked up.
fn is_table(named: &Named, name: &str) -> bool {
    // GPT-2's and T5's names.
    let table = |part: &str| ["wte", "wpe", "shared"].contains(&part);
    named.role == Role::Embedding || name.contains("embeddings.") || name.split('.').any(table)
}

/// Whether a weight's name is one of a linear layer.
pub fn multiplies(name: &str) -> bool {
    let named = Named::of(name);
    named.weight && !is_table(&named, name)
}

/// A pattern, and what becomes of layers whose names it is found in.
#[derive(Clone, Debug)]
struct Override {
    pattern: Regex,
    /// In the file that it is from, from 1.
    line: Option<usize>,
    way: Way,
}

/// What becomes of each layer of a model: see the module.
///
/// ```
/// use lowbit::configuration::{Configuration, Way};
///
/// let mut configuration = Configuration::preset("w8a8-dynamic")?;
/// configuration.exclude("pooler")?;
/// configuration.set("ffn_down", Way { weights: Some("q8_0".parse()?), activations: Some("f16".parse()?), ..Way::default() })?;
/// assert_eq!(configuration.layer("blk.0.ffn_down.weight").activations, Some("f16".parse()?));
/// assert_eq!(configuration.layer("blk.0.attn_q.weight").weights.to_string(), "int8-row");
/// # Ok::<(), lowbit::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    preset: Option<&'static Preset>,
    /// Of layers of which nothing else is said.
    way: Way,
    exclusions: Vec<(Regex, Option<usize>)>,
    overrides: Vec<Override>,
}

impl Configuration {
    /// The configuration of a preset.
    ///
    /// # Errors
    /// [`Error::Usage`] with the presets that there are.
    pub fn preset(name: &str) -> Result<Self> {
        let preset = Preset::of(name).ok_or_else(|| {
            let all: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
            Error::Usage(format!("no preset '{name}'; there are {}", all.join(", ")))
        })?;
        Ok(Self { preset: Some(preset), ..Self::default() })
    }

    /// Says what becomes of layers in whose names a regular expression is found. The first that matches decides.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is no regular expression.
    pub fn set(&mut self, pattern: &str, way: Way) -> Result<()> {
        self.overrides.push(Override { pattern: regex(pattern)?, line: None, way });
        Ok(())
    }

    /// Leaves layers in whose names a regular expression is found as they are: neither weights nor activations are quantized, whatever else is said.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn exclude(&mut self, pattern: &str) -> Result<()> {
        self.exclusions.push((regex(pattern)?, None));
        Ok(())
    }

    /// What becomes of a layer, by the name of its weight.
    pub fn layer(&self, name: &str) -> Layer {
        match self.decided(name) {
            By::Exclusion(_) => {
                Layer { weights: Weights::Copy, activations: Some(Activations::default()), transform: None }
            }
            By::Override(i) => self.overridden(self.overrides[i].way, name),
            By::Default => self.overridden(Way::default(), name),
        }
    }

    /// What becomes of the layers of which nothing else is said; of a preset, what becomes of linear layers.
    pub fn usual(&self) -> Layer {
        self.overridden(Way::default(), "linear.weight")
    }

    fn overridden(&self, by: Way, name: &str) -> Layer {
        let parse = "presets are parsed by a test";
        let preset = |of: fn(&Preset, &str) -> &'static str| self.preset.map(|preset| of(preset, name));
        let weights = by.weights.or(self.way.weights);
        // Where nothing is multiplied there is no activation; who names such a weight may know better.
        let usual = self.way.activations.filter(|_| multiplies(name));
        let activations = by.activations.or(usual);
        let transform = by.transform.or(self.way.transform.filter(|_| multiplies(name)));
        Layer {
            weights: weights
                .or_else(|| preset(Preset::weights).map(|words| words.parse().expect(parse)))
                .unwrap_or(Weights::Copy),
            activations: activations
                .or_else(|| preset(Preset::activations).map(|words| words.parse().expect(parse))),
            transform: transform.flatten(),
        }
    }

    fn decided(&self, name: &str) -> By {
        if let Some(i) = self.exclusions.iter().position(|(pattern, _)| pattern.is_match(name)) {
            return By::Exclusion(i);
        }
        let i = self.overrides.iter().position(|by| by.pattern.is_match(name));
        i.map_or(By::Default, By::Override)
    }

    /// The patterns that are found in none of the names of a model's weights.
    ///
    /// # Errors
    /// [`Error::Check`] for a pattern that others contradict: it is found in some names, and never decides, since one that comes before it is found in all of them and
    /// says something else.
    pub fn check<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Result<Vec<&str>> {
        let mut idle = Vec::new();
        for (pattern, _) in &self.exclusions {
            if !names.clone().any(|name| pattern.is_match(name)) {
                idle.push(pattern.as_str());
            }
        }
        for (i, by) in self.overrides.iter().enumerate() {
            let mut matched = names.clone().filter(|name| by.pattern.is_match(name)).peekable();
            let Some(first) = matched.peek().copied() else {
                idle.push(by.pattern.as_str());
                continue;
            };
            let wanted = |name: &str| {
                let layer = self.overridden(by.way, name);
                (layer.weights.to_string(), layer.activations, layer.transform)
            };
            let got = |name: &str| {
                let layer = self.layer(name);
                (layer.weights.to_string(), layer.activations, layer.transform)
            };
            if matched.all(|name| self.decided(name) != By::Override(i) && wanted(name) != got(name)) {
                let (other, line) = match self.decided(first) {
                    By::Exclusion(at) => (self.exclusions[at].0.as_str(), self.exclusions[at].1),
                    By::Override(at) => (self.overrides[at].pattern.as_str(), self.overrides[at].line),
                    By::Default => continue,
                };
                let at = |line: Option<usize>| line.map_or(String::new(), |line| format!(" of line {line}"));
                let what = format!(
                    "the pattern '{}'{} decides nothing: '{other}'{} comes first, for '{first}' and all that it matches, and says otherwise",
                    by.pattern,
                    at(by.line),
                    at(line),
                );
                return Err(Error::Check { what });
            }
        }
        Ok(idle)
    }
}

/// Who decides about a layer.
#[derive(PartialEq)]
enum By {
    Exclusion(usize),
    Override(usize),
    Default,
}

fn regex(pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|e| Error::Usage(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(weights: Option<Weights>, activations: Option<Activations>) -> Way {
        Way { weights, activations, transform: None }
    }

    fn told(layer: Layer) -> (String, String) {
        (layer.weights.to_string(), layer.activations.map_or("nothing".into(), |a| a.to_string()))
    }

    #[test]
    fn presets_say_what_becomes_of_linear_layers_tables_and_the_rest() {
        for preset in PRESETS {
            let configuration = Configuration::preset(&preset.name.to_uppercase()).unwrap();
            let of = |name: &str| told(configuration.layer(name));
            let linear = (preset.weights.to_string(), told(configuration.usual()).1);
            for name in [
                "encoder.layer.3.attention.self.query.weight",
                "blk.0.ffn_up.weight",
                "model.layers.9.mlp.down_proj.weight",
            ] {
                assert_eq!(of(name), linear, "{}: {name}", preset.name);
            }
            assert!(linear.1.starts_with(preset.activations), "{linear:?}");
            let table = ("int8-row".to_string(), "f32".to_string());
            for name in
                ["embeddings.word_embeddings.weight", "token_embd.weight", "model.embed_tokens.weight"]
            {
                assert_eq!(of(name), table, "{}: {name}", preset.name);
            }
            let copied = ("copy".to_string(), "f32".to_string());
            for name in [
                "embeddings.position_embeddings.weight",
                "model.norm.weight",
                "blk.1.attn_norm.weight",
                "layer.0.bias",
            ] {
                assert_eq!(of(name), copied, "{}: {name}", preset.name);
            }
        }
        let error = Configuration::preset("w8a4").unwrap_err().to_string();
        assert!(error.contains("w8a4") && error.contains("w8a8-static"), "{error}");
    }

    #[test]
    fn activations_print_back() {
        for text in [
            "f32",
            "f16",
            "int8",
            "int8-g32",
            "int8-static:mse",
            "int8-static-asym:percentile:99.9",
            "int8-static:minmax",
        ] {
            assert_eq!(text.parse::<Activations>().unwrap().to_string(), text);
        }
        assert_eq!("INT8-static".parse::<Activations>().unwrap().to_string(), "int8-static:mse");
        for wrong in ["int4", "int8-static:", "int8-static-row", "int8-static:msee", "int8:mse", ""] {
            assert!(matches!(wrong.parse::<Activations>(), Err(Error::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn the_first_pattern_decides_and_exclusions_before_it() {
        let mut c = Configuration::preset("w8a8-static").unwrap();
        c.exclude("pooler").unwrap();
        c.set("layer.0.*query", way(None, Some("f32".parse().unwrap()))).unwrap();
        c.set("query", way(Some("q8_0".parse().unwrap()), None)).unwrap();
        let of = |name: &str| told(c.layer(name));
        let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
        assert_eq!(of("layer.0.self.query.weight"), pair("int8-row", "f32"));
        assert_eq!(of("layer.1.self.query.weight"), pair("q8_0", "int8-static-asym:mse"));
        assert_eq!(of("layer.1.self.key.weight"), pair("int8-row", "int8-static-asym:mse"));
        assert_eq!(of("pooler.query.weight"), pair("copy", "f32"));
        assert!(matches!(c.set("(", way(None, None)), Err(Error::Usage(_))));
        assert!(matches!(c.exclude("("), Err(Error::Usage(_))));
    }

    #[test]
    fn idle_patterns_are_told_and_contradictions_are_errors() {
        let names = ["a.query.weight", "a.key.weight", "b.query.weight"];
        let check = |c: &Configuration| {
            c.check(names.into_iter()).map(|idle| idle.join(" ")).map_err(|e| e.to_string())
        };
        let mut c = Configuration::default();
        c.exclude("nothing").unwrap();
        c.set("query", way(Some("q8_0".parse().unwrap()), None)).unwrap();
        c.set("value", way(Some("q8_0".parse().unwrap()), None)).unwrap();
        assert_eq!(check(&c).unwrap(), "nothing value");
        // Part of what it matches is left to it, or it says the same.
        c.set("a\\.", way(Some("q4_0".parse().unwrap()), None)).unwrap();
        c.set("b\\.query", way(Some("q8_0".parse().unwrap()), None)).unwrap();
        assert_eq!(check(&c).unwrap(), "nothing value");
        c.set("b", way(Some("q4_0".parse().unwrap()), None)).unwrap();
        let error = check(&c).unwrap_err();
        assert!(
            error.contains("'b'") && error.contains("'query'") && error.contains("'b.query.weight'"),
            "{error}"
        );
        let mut c = Configuration::default();
        c.exclude("key").unwrap();
        c.set("a.key", way(Some("q8_0".parse().unwrap()), None)).unwrap();
        assert!(check(&c).unwrap_err().contains("'a.key'"));
    }
}
