//! The precision of what linear layers take, as a file of weights carries it.
//!
//! ```text
//! metadata "lowbit.activations": {"NAME": "int8", "OTHER": {"scale": 0.031, "zero_point": -4}, ...}      NAME: of the layer's weight
//! ```
//!
//! A layer that is not named takes f32. Who runs the model decides whether it goes by this.

use super::{Metadata, Value};
use crate::product::{Activation, Int8Scale};
use crate::{Error, Result};
use serde_json::{Map, json};
use std::path::Path;

/// The key of the metadata.
const KEY: &str = "lowbit.activations";

/// Activations by the names of weights, in the order in which they were set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activations {
    by_name: Vec<(String, Activation)>,
}

impl Activations {
    /// What the metadata of a file says, nothing if it has no such key; `path` stands in errors.
    ///
    /// # Errors
    /// [`Error::Format`] for what is none of the above, with the name.
    pub fn of(metadata: &Metadata, path: &Path) -> Result<Self> {
        let bad = |what: String| Error::Format { path: path.into(), what: format!("'{KEY}': {what}") };
        let Some(value) = metadata.get(KEY) else { return Ok(Self::default()) };
        let text = value.as_str().ok_or_else(|| bad("no string".into()))?;
        let parsed: Map<String, serde_json::Value> =
            serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        let one = |(name, value): (String, serde_json::Value)| {
            let made = match (value.as_str(), value.get("scale"), value.get("zero_point")) {
                (Some(text), ..) => text.parse(),
                (None, Some(scale), Some(zero)) => {
                    let zero = zero.as_i64().and_then(|zero| i8::try_from(zero).ok());
                    let both = scale.as_f64().zip(zero);
                    both.ok_or_else(|| Error::Usage("a scale is a number, a zero-point one of int8".into()))
                        .and_then(|(scale, zero)| Int8Scale::new(scale as f32, zero))
                        .map(Activation::Int8Static)
                }
                _ => Err(Error::Usage("expected a precision, or scale and zero_point".into())),
            };
            made.map(|made| (name.clone(), made)).map_err(|e| bad(format!("'{name}': {e}")))
        };
        Ok(Self { by_name: parsed.into_iter().map(one).collect::<Result<_>>()? })
    }

    /// Puts this into the metadata of a file; a key that was there goes.
    pub fn put(&self, metadata: &mut Metadata) {
        if self.by_name.is_empty() {
            metadata.retain(|key| key != KEY);
            return;
        }
        let value = |activation: &Activation| match activation {
            Activation::Int8Static(s) => json!({ "scale": s.scale(), "zero_point": s.zero() }),
            other => other.to_string().into(),
        };
        let all: Map<_, _> = self.by_name.iter().map(|(name, a)| (name.clone(), value(a))).collect();
        metadata.set(KEY, Value::String(serde_json::Value::Object(all).to_string()));
    }

    /// What a layer takes, by the name of its weight.
    pub fn get(&self, name: &str) -> Activation {
        self.by_name.iter().find(|(other, _)| other == name).map_or(Activation::F32, |(_, a)| *a)
    }

    /// Says what a layer takes.
    pub fn set(&mut self, name: &str, activation: Activation) {
        self.by_name.retain(|(other, _)| other != name);
        if activation != Activation::F32 {
            self.by_name.push((name.into(), activation));
        }
    }

    /// The same with other names; layers for which there is none are left out.
    pub fn renamed<'a>(&self, name: impl Fn(&str) -> Option<&'a str>) -> Self {
        let renamed = |(old, a): &(String, Activation)| name(old).map(|new| (new.to_string(), *a));
        Self { by_name: self.by_name.iter().filter_map(renamed).collect() }
    }

    /// All that is said.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Activation)> {
        self.by_name.iter().map(|(name, a)| (name.as_str(), *a))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::Int8Group;

    #[test]
    fn what_is_put_is_read_back() {
        let mut all = Activations::default();
        let fixed = Activation::Int8Static(Int8Scale::new(0.012_345_679, -7).unwrap());
        all.set("b", Activation::F16);
        all.set("a \"x\"", fixed);
        all.set("b", Activation::Int8(Int8Group::Cols(32)));
        all.set("c", Activation::F32);
        let mut metadata = Metadata::default();
        all.put(&mut metadata);
        let read = Activations::of(&metadata, Path::new("f")).unwrap();
        assert_eq!(read, all);
        let got = ["a \"x\"", "b", "c"].map(|name| read.get(name));
        assert_eq!(got, [fixed, Activation::Int8(Int8Group::Cols(32)), Activation::F32]);
        let renamed = read.renamed(|name| (name == "b").then_some("n"));
        assert_eq!(renamed.iter().collect::<Vec<_>>(), [("n", Activation::Int8(Int8Group::Cols(32)))]);
        Activations::default().put(&mut metadata);
        assert!(metadata.get(KEY).is_none());
    }

    #[test]
    fn what_is_wrong_is_told_by_name() {
        for (text, word) in [
            ("", "EOF"),
            ("[]", "map"),
            ("{\"a\": 3}", "'a': expected a precision"),
            ("{\"a\": \"int4\"}", "'a': activations 'int4'"),
            ("{\"a\": {\"scale\": 0.1}}", "'a'"),
            ("{\"a\": {\"scale\": 0.1, \"zero_point\": 200}}", "int8"),
            ("{\"a\": {\"scale\": 0.0, \"zero_point\": 0}}", "an int8 scale of 0"),
            ("{\"a\": {\"scale\": -1, \"zero_point\": 0}}", "an int8 scale of -1"),
            ("{\"a\": {\"scale\": 1e300, \"zero_point\": 0}}", "an int8 scale of inf"),
            ("{\"a\": {\"scale\": \"1\", \"zero_point\": 0}}", "number"),
        ] {
            let mut metadata = Metadata::default();
            metadata.set(KEY, Value::String(text.into()));
            let error = Activations::of(&metadata, Path::new("f.x")).unwrap_err().to_string();
            assert!(error.contains("f.x") && error.contains(KEY) && error.contains(word), "{text}: {error}");
        }
    }
}
