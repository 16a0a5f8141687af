//! A configuration as TOML.
//!
//! ```text
//! preset = "w8a8-static"                       # what is not said otherwise
//! default = "q4_k_m"                           # weights: a scheme, a mix or "copy"; "copy" if nothing is said and there is no preset
//! default = { weights = "int8-row:mse", activations = "int8-static:entropy" }
//! exclude = ['pooler', 'layer\.0\.']           # regular expressions, found anywhere in the name: left as they are
//! [tensors]                                    # the same; the first that matches decides
//! 'attn_v|ffn_down' = "q6_k"
//! 'ffn_up' = "int4-g32:mse"                    # with a method, as --method
//! 'attn_output' = { activations = "f16" }      # weights as by default
//! 'attn_q' = { transform = "smooth" }           # what inputs meet before: smooth, smooth:ALPHA, awq, hadamard, hadamard:SEED, none
//! ```
//!
//! What is wrong in it is told with the file and the line.

use super::{Configuration, Override, Way, regex};
use crate::{Error, Result};
use std::path::Path;
use std::str::FromStr;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// The keys of a file.
const KEYS: &[&str] = &["preset", "default", "exclude", "tensors"];
/// The keys of a table that says what becomes of a layer.
const WAYS: &[&str] = &["weights", "activations", "transform"];

/// A file's text and how errors name it.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
    }

    fn bad(&self, at: usize, what: impl std::fmt::Display) -> Error {
        let what = format!("line {}: {what}", self.line(at));
        Error::Format { path: self.path.into(), what }
    }

    fn wrong(&self, value: &Spanned<DeValue>, key: &str, expected: &str) -> Error {
        let got = value.get_ref().type_str();
        self.bad(value.span().start, format!("'{key}': expected {expected}, got a value of type {got}"))
    }

    /// What a string stands for.
    fn parse<T: FromStr<Err = Error>>(&self, value: &Spanned<DeValue>, key: &str) -> Result<T> {
        let text = value.get_ref().as_str().ok_or_else(|| self.wrong(value, key, "a string"))?;
        text.parse().map_err(|e: Error| self.bad(value.span().start, e))
    }

    /// The entries of a table whose keys are known.
    fn known<'t>(
        &self,
        table: &'t DeTable,
        keys: &[&str],
    ) -> Result<impl Fn(&str) -> Option<&'t Spanned<DeValue<'t>>>> {
        for (key, _) in table {
            let name: &str = key.get_ref();
            if keys.contains(&name) {
                continue;
            }
            let near = |k: &&&str| (1e3 * strsim::jaro_winkler(k, name)) as u32;
            let nearest = keys.iter().max_by_key(near).filter(|k| near(k) > 750);
            let hint = match nearest {
                Some(nearest) => format!("did you mean '{nearest}'?"),
                None if keys == WAYS => {
                    format!("there are {} (a pattern with dots wants quotes)", keys.join(", "))
                }
                None => format!("there are {}", keys.join(", ")),
            };
            return Err(self.bad(key.span().start, format!("unknown key '{name}'; {hint}")));
        }
        Ok(|name: &str| table.get(name))
    }

    /// What becomes of a layer: weights alone, or a table.
    fn way(&self, value: &Spanned<DeValue>, key: &str) -> Result<Way> {
        let Some(table) = value.get_ref().as_table() else {
            if value.get_ref().is_str() {
                return Ok(Way { weights: Some(self.parse(value, key)?), ..Way::default() });
            }
            return Err(self.wrong(
                value,
                key,
                "a string, or a table with weights, activations and transform",
            ));
        };
        let get = self.known(table, WAYS)?;
        let weights = get("weights").map(|value| self.parse(value, "weights")).transpose()?;
        let activations = get("activations").map(|value| self.parse(value, "activations")).transpose()?;
        let transform = get("transform").map(|value| match value.get_ref().as_str() {
            Some("none") => Ok(None),
            _ => self.parse(value, "transform").map(Some),
        });
        Ok(Way { weights, activations, transform: transform.transpose()? })
    }

    fn pattern(&self, at: usize, pattern: &str) -> Result<(regex::Regex, Option<usize>)> {
        Ok((regex(pattern).map_err(|e| self.bad(at, e))?, Some(self.line(at))))
    }
}

impl Configuration {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`]; as [`Self::from_toml`].
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })?;
        Self::from_toml(path, &text)
    }

    /// Reads the text of a file; `path` stands in errors.
    ///
    /// # Errors
    /// [`Error::Format`] with the line: what is no TOML, keys that are not known, with the nearest that is, what no scheme, method, rule or preset is called.
    pub fn from_toml(path: &Path, text: &str) -> Result<Self> {
        let source = Source { path, text };
        let whole = DeTable::parse(text)
            .map_err(|e| source.bad(e.span().map_or(0, |s| s.start), e.message().trim_end()))?;
        let get = source.known(whole.get_ref(), KEYS)?;
        let mut made = Self::default();
        if let Some(value) = get("preset") {
            let name = value.get_ref().as_str().ok_or_else(|| source.wrong(value, "preset", "a string"))?;
            made = Self::preset(name).map_err(|e| source.bad(value.span().start, e))?;
        }
        if let Some(value) = get("default") {
            made.way = source.way(value, "default")?;
        }
        if let Some(value) = get("exclude") {
            let expected = "a list of regular expressions";
            let list = value.get_ref().as_array().ok_or_else(|| source.wrong(value, "exclude", expected))?;
            for value in list {
                let pattern = value.get_ref().as_str();
                let pattern = pattern.ok_or_else(|| source.wrong(value, "exclude", expected))?;
                made.exclusions.push(source.pattern(value.span().start, pattern)?);
            }
        }
        if let Some(value) = get("tensors") {
            let expected = "a table of patterns";
            let table = value.get_ref().as_table().ok_or_else(|| source.wrong(value, "tensors", expected))?;
            // In the order of the file.
            let mut entries: Vec<(&Spanned<DeString>, &Spanned<DeValue>)> = table.iter().collect();
            entries.sort_by_key(|(pattern, _)| pattern.span().start);
            for (pattern, value) in entries {
                let way = source.way(value, pattern.get_ref())?;
                let (pattern, line) = source.pattern(pattern.span().start, pattern.get_ref())?;
                made.overrides.push(Override { pattern, line, way });
            }
        }
        Ok(made)
    }
}

/// The key of an override: the regular expression that matches this name alone, as TOML has it.
pub fn exact_key(name: &str) -> String {
    let pattern = format!("^{}$", regex::escape(name));
    if pattern.contains(|c: char| c == '\'' || c.is_control()) {
        // The escapes of JSON are ones of TOML too, which wants one more.
        return serde_json::Value::from(pattern).to_string().replace('\u{7f}', "\\u007f");
    }
    format!("'{pattern}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Configuration> {
        Configuration::from_toml(Path::new("mix.toml"), text)
    }

    #[test]
    fn the_first_that_matches_decides() {
        let file = parse(
            "default = \"q4_k_m\"\n[tensors]\n'z\\.attn' = \"copy\"\n\"attn\" = \"Q6_K\"\n'a' = \"nf4-g64:percentile:99\"\n'g' = \"int4-g128:gptq:mse\"\n",
        );
        let file = file.unwrap();
        let shown = |name: &str| file.layer(name).weights.to_string();
        assert_eq!(
            ["z.attn", "x.attn", "a.w", "g", "b"].map(shown),
            ["copy", "q6_k", "nf4-g64:percentile:99", "int4-g128:gptq:mse", "q4_k_m"].map(String::from)
        );
        assert_eq!(parse("").unwrap().layer("x").weights.to_string(), "copy");
    }

    #[test]
    fn presets_defaults_and_overrides_go_over_each_other() {
        let transformed = parse(
            "preset = \"w8a8-static\"\ndefault = { transform = \"smooth:0.25\" }\nexclude = ['pooler']\n\
             [tensors]\n'down' = { transform = \"none\" }\n'up' = { transform = \"hadamard\" }\n",
        );
        let transformed = transformed.unwrap();
        let told = |name: &str| transformed.layer(name).transform.map_or("none".into(), |t| t.to_string());
        // Tables are looked up, and norms copied.
        for (name, by) in [
            ("b.1.q.weight", "smooth:0.25"),
            ("b.1.down.weight", "none"),
            ("b.1.up.weight", "hadamard"),
            ("pooler.q.weight", "none"),
            ("token_embd.weight", "none"),
            ("b.1.attn_norm.weight", "none"),
        ] {
            assert_eq!(told(name), by, "{name}");
        }
        let text = "preset = \"W8A8-static\"\nexclude = ['pooler', '\\.0\\.']\ndefault = { activations = \"int8-static-asym:entropy\" }\n\
                    [tensors]\n'down' = { activations = \"f16\" }\n'up' = { weights = \"q8_0\" }\n[tensors.'q']\nweights = \"int8-row:mse\"\nactivations = \"int8\"\n";
        let file = parse(text).unwrap();
        let told = |name: &str| {
            let layer = file.layer(name);
            format!("{} {}", layer.weights, layer.activations.unwrap())
        };
        assert_eq!(told("b.1.k.weight"), "int8-row int8-static-asym:entropy");
        assert_eq!(told("b.1.down.weight"), "int8-row f16");
        assert_eq!(told("b.1.up.weight"), "q8_0 int8-static-asym:entropy");
        assert_eq!(told("b.1.q.weight"), "int8-row:mse int8");
        assert_eq!(told("b.0.q.weight"), "copy f32");
        assert_eq!(told("pooler.q.weight"), "copy f32");
    }

    #[test]
    fn an_exact_key_matches_its_name_alone() {
        for name in ["a.b", "it's [one] (or)", "tab\tand \u{7f} \u{1b} \"quotes\" \\", "é\n'"] {
            let file = parse(&format!("[tensors]\n{} = \"q8_0\"\n", exact_key(name))).unwrap();
            let copied = |name: &str| matches!(file.layer(name).weights, crate::configuration::Weights::Copy);
            assert!(!copied(name), "{name:?}");
            for other in [format!("{name}x"), format!("x{name}"), name.replace('.', "x"), String::new()] {
                assert!(other == name || copied(&other), "{other:?}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line, word) in [
            ("default = \"q4_k\"\n[tensors\n", 2, ""),
            ("\n\ndefault = \"q4_k_n\"\n", 3, "did you mean 'q4_k_m'"),
            ("default = 3\n", 1, "expected a string"),
            ("[tensors]\n'a' = \"q4_k\"\n'(' = \"q4_k\"\n", 3, "regex"),
            ("[tensors]\n'a' = \"q4_k\"\n\n'b' = \"int9-g32\"\n", 4, "bits"),
            ("[tensors]\n'a' = \"q4_k\"\n'a' = \"q5_k\"\n", 3, "duplicate"),
            ("default = \"q4_k\"\ntensor = {}\n", 2, "unknown key 'tensor'; did you mean 'tensors'?"),
            ("colour = 1\n", 1, "there are preset, default, exclude, tensors"),
            ("[tensors]\na = ['x']\n", 2, "'a': expected a string, or a table"),
            (
                "[tensors]\n'a' = { weights = \"q4_k\",\n activation = \"int8\" }\n",
                3,
                "did you mean 'activations'",
            ),
            ("[tensors.'a']\nactivations = \"int4\"\n", 2, "int8-static"),
            ("[tensors.'a']\ntransform = \"smoth\"\n", 2, "hadamard:SEED"),
            ("default = { transfrom = \"smooth\" }\n", 1, "did you mean 'transform'"),
            ("default = { activations = \"int8-static:entrpy\" }\n", 1, "entropy"),
            ("default = \"int4-g32:msee\"\n", 1, "no method 'msee'"),
            ("\npreset = \"w8a8\"\n", 2, "w8a8-dynamic"),
            ("preset = 8\n", 1, "expected a string"),
            ("exclude = 'x'\n", 1, "expected a list"),
            ("exclude = [\n'x',\n 3]\n", 3, "expected a list"),
            ("exclude = [\n'x', '(']\n", 2, "regex"),
            ("tensors = 1\n", 1, "table of patterns"),
        ] {
            let message = parse(text).map(|_| String::new()).unwrap_or_else(|e| e.to_string());
            let start = format!("mix.toml: line {line}: ");
            assert!(message.starts_with(&start) && message.contains(word), "{text:?}: {message}");
        }
    }
}
