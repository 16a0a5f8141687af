//! `--scheme-file`: a TOML file that says which tensors get which scheme.
//!
//! ```text
//! default = "q4_k_m"                 # a scheme, a mix or "copy"; "copy" if nothing is said
//! [tensors]                          # regular expressions, found anywhere in the name; the first that matches decides
//! 'attn_v|ffn_down' = "q6_k"
//! 'ffn_up' = "int4-g32:mse"          # with a method, as --method
//! '^output\.' = "copy"
//! ```
//!
//! What is wrong in it is told with the file and the line.

use crate::quantize::Recipe;
use crate::scheme::mix::Choice;
use crate::{Error, Result};
use regex::Regex;
use std::collections::BTreeMap;
use std::path::Path;
use toml::Spanned;

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    Copy,
    To(Choice, Recipe),
}

/// Rules by name.
#[derive(Debug)]
pub struct SchemeFile {
    /// Of tensors that no rule matches.
    pub default: Wanted,
    rules: Vec<(Regex, Wanted)>,
    /// The file's text, which says what an output is made of.
    pub text: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Parsed {
    default: Option<Spanned<String>>,
    #[serde(default)]
    tensors: BTreeMap<Spanned<String>, Spanned<String>>,
}

impl SchemeFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] with the line.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })?;
        Self::parse(path, text)
    }

    fn parse(path: &Path, text: String) -> Result<Self> {
        let bad = |at: usize, what: String| {
            let line = text.bytes().take(at).filter(|b| *b == b'\n').count() + 1;
            Error::Format { path: path.into(), what: format!("line {line}: {what}") }
        };
        let parsed: Parsed = toml::from_str(&text)
            .map_err(|e| bad(e.span().map_or(0, |s| s.start), e.message().to_string()))?;
        let wanted = |value: &Spanned<String>| match value.get_ref().trim() {
            copy if copy.eq_ignore_ascii_case("copy") => Ok(Wanted::Copy),
            words => match to(words) {
                Ok((choice, method)) => Ok(Wanted::To(choice, method)),
                Err(e) => Err(bad(value.span().start, e.to_string())),
            },
        };
        let default = parsed.default.as_ref().map_or(Ok(Wanted::Copy), wanted)?;
        let mut lines: Vec<_> = parsed.tensors.iter().collect();
        lines.sort_by_key(|(pattern, _)| pattern.span().start);
        let rules = lines.into_iter().map(|(pattern, value)| {
            let regex =
                Regex::new(pattern.get_ref()).map_err(|e| bad(pattern.span().start, e.to_string()))?;
            Ok((regex, wanted(value)?))
        });
        let rules = rules.collect::<Result<Vec<_>>>()?;
        Ok(Self { default, rules, text })
    }

    /// The patterns that are found in none of these names.
    pub fn idle<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Vec<&str> {
        let found = |re: &Regex| names.clone().any(|name| re.is_match(name));
        self.rules.iter().map(|(re, _)| re).filter(|re| !found(re)).map(Regex::as_str).collect()
    }

    /// What the file wants of a tensor.
    pub fn wanted(&self, name: &str) -> Wanted {
        self.rules.iter().find(|(re, _)| re.is_match(name)).map_or(self.default, |(_, wanted)| *wanted)
    }
}

/// Parses `SCHEME` or `SCHEME:METHOD` (`SCHEME:gptq:METHOD`); a scheme that does not take the method is found where it meets a tensor, as a mix has several.
pub fn to(words: &str) -> Result<(Choice, Recipe)> {
    let (name, recipe) = words.split_once(':').unwrap_or((words, "default"));
    Ok((name.parse()?, recipe.parse()?))
}

/// The key of a rule: the regular expression that matches this name alone, as TOML has it.
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

    fn parse(text: &str) -> Result<SchemeFile> {
        SchemeFile::parse(Path::new("mix.toml"), text.into())
    }

    #[test]
    fn the_first_that_matches_decides() {
        let file = parse(
            "default = \"q4_k_m\"\n[tensors]\n'z\\.attn' = \"copy\"\n\"attn\" = \"Q6_K\"\n'a' = \"nf4-g64:percentile:99\"\n'g' = \"int4-g128:gptq:mse\"\n",
        );
        let file = file.unwrap();
        let shown = |name: &str| match file.wanted(name) {
            Wanted::Copy => "copy".to_string(),
            Wanted::To(choice, recipe) if recipe == Recipe::default() => choice.to_string(),
            Wanted::To(choice, recipe) => format!("{choice} by {recipe}"),
        };
        assert_eq!(
            ["z.attn", "x.attn", "a.w", "g", "b"].map(shown),
            ["copy", "q6_k", "nf4-g64 by percentile:99", "int4-g128 by gptq:mse", "q4_k_m"].map(String::from)
        );
        assert!(matches!(parse("").unwrap().wanted("x"), Wanted::Copy));
    }

    #[test]
    fn an_exact_key_matches_its_name_alone() {
        for name in ["a.b", "it's [one] (or)", "tab\tand \u{7f} \u{1b} \"quotes\" \\", "é\n'"] {
            let file = parse(&format!("[tensors]\n{} = \"q8_0\"\n", exact_key(name))).unwrap();
            assert!(matches!(file.wanted(name), Wanted::To(..)), "{name:?}");
            for other in [format!("{name}x"), format!("x{name}"), name.replace('.', "x"), String::new()] {
                assert!(other == name || matches!(file.wanted(&other), Wanted::Copy), "{other:?}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line, word) in [
            ("default = \"q4_k\"\n[tensors\n", 2, ""),
            ("\n\ndefault = \"q4_k_n\"\n", 3, "did you mean 'q4_k_m'"),
            ("default = 3\n", 1, "string"),
            ("[tensors]\n'a' = \"q4_k\"\n'(' = \"q4_k\"\n", 3, "regex"),
            ("[tensors]\n'a' = \"q4_k\"\n\n'b' = \"int9-g32\"\n", 4, "bits"),
            ("[tensors]\n'a' = \"q4_k\"\n'a' = \"q5_k\"\n", 3, "duplicate"),
            ("default = \"q4_k\"\ntensor = {}\n", 2, "tensor"),
            ("[tensors]\na = ['x']\n", 2, "string"),
            ("default = \"int4-g32:msee\"\n", 1, "no method 'msee'"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            let start = format!("mix.toml: line {line}: ");
            assert!(message.starts_with(&start) && message.contains(word), "{text:?}: {message}");
        }
    }
}
