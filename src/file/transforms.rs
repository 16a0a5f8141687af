//! What the inputs of linear layers are transformed by, as a file of weights carries it: weights that were transformed are stored so, and whoever multiplies with them transforms x first.
//!
//! ```text
//! metadata "lowbit.transforms": {"NAME": {"by": "TENSOR", "block": 128}, ...}      NAME: of the layer's weight; TENSOR: v [K], which layers may share
//! ```
//!
//! The vectors are tensors of the file, so that a reader that does not know them finds one too many and does not run the model without.

use super::metadata::{Metadata, Value};
use super::model::{Entry, Model};
use crate::transform::Transform;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The key of the metadata.
const KEY: &str = "lowbit.transforms";

/// The transform of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The name of the tensor v `[K]`.
    pub by: String,
    /// Columns of a block of the rotation, 1 for none.
    pub block: usize,
}

/// Transforms by the names of weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transforms {
    by_name: BTreeMap<String, Place>,
}

impl Transforms {
    /// What a model says, nothing if it has no such key.
    ///
    /// # Errors
    /// [`Error::Format`] for what is none of the above, for a layer that the model does not have or that is no matrix, and for a vector that is missing, no vector of plain numbers, or
    /// not of the layer's K.
    pub fn of(model: &Model) -> Result<Self> {
        let all = Self::in_metadata(model.metadata(), path(model))?;
        for (name, place) in all.iter() {
            let Some(entry) = model.entry(name) else {
                let what = format!("'{KEY}': the model has no '{name}'");
                return Err(Error::Format { path: path(model).into(), what });
            };
            Self::vector(model, entry, place)?;
        }
        Ok(all)
    }

    /// What the metadata of a file says; `path` stands in errors.
    pub(super) fn in_metadata(metadata: &Metadata, path: &Path) -> Result<Self> {
        let Some(value) = metadata.get(KEY) else { return Ok(Self::default()) };
        let bad = |what: String| Error::Format { path: path.into(), what: format!("'{KEY}': {what}") };
        let text = value.as_str().ok_or_else(|| bad("no string".into()))?;
        Ok(Self { by_name: serde_json::from_str(text).map_err(|e| bad(e.to_string()))? })
    }

    /// Puts this into the metadata of a file; a key that was there goes.
    ///
    /// # Errors
    /// [`Error::Check`], which does not happen: names are text.
    pub fn put(&self, metadata: &mut Metadata) -> Result<()> {
        if self.by_name.is_empty() {
            metadata.retain(|key| key != KEY);
            return Ok(());
        }
        let text = serde_json::to_string(&self.by_name);
        metadata.set(KEY, Value::String(text.map_err(|e| Error::Check { what: format!("'{KEY}': {e}") })?));
        Ok(())
    }

    /// Where the transform of a layer is, by the name of its weight.
    pub fn get(&self, name: &str) -> Option<&Place> {
        self.by_name.get(name)
    }

    /// Says where the transform of a layer is.
    pub fn set(&mut self, name: &str, place: Place) {
        self.by_name.insert(name.into(), place);
    }

    /// Takes a layer out.
    pub fn remove(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether a tensor of this name is the v of some layer.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.by_name.values().any(|place| place.by == name)
    }

    /// All layers.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Place)> {
        self.by_name.iter().map(|(name, place)| (name.as_str(), place))
    }

    /// The same with other names of weights; layers for which there is none are left out.
    pub fn renamed<'a>(&self, name: impl Fn(&str) -> Option<&'a str>) -> Self {
        let renamed = |(old, place): (&String, &Place)| Some((name(old)?.to_string(), place.clone()));
        Self { by_name: self.by_name.iter().filter_map(renamed).collect() }
    }

    /// The transform of a weight of `model`, None if it has none.
    ///
    /// # Errors
    /// [`Error::Format`] for a tensor that is missing or no vector of plain numbers; [`Error::Tensor`], with the name of the weight, for one that is not of its K and as
    /// [`Transform::new`].
    pub fn read(&self, model: &Model, entry: &Entry) -> Result<Option<Transform>> {
        let Some(place) = self.get(&entry.name) else { return Ok(None) };
        let by = model.tensor(Self::vector(model, entry, place)?)?.to_f32().into_owned();
        Transform::new(by, place.block).map(Some).map_err(|e| e.in_tensor(&entry.name))
    }

    /// The tensor v of a weight.
    fn vector<'a>(model: &'a Model, entry: &Entry, place: &Place) -> Result<&'a Entry> {
        let bad = |what: &str| Error::Format {
            path: path(model).into(),
            what: format!("'{KEY}': tensor '{}', which '{}' wants, {what}", place.by, entry.name),
        };
        let found = model.entry(&place.by).ok_or_else(|| bad("is missing"))?;
        if found.float().is_none() || found.shape.len() != 1 {
            return Err(bad("is no vector of plain numbers"));
        }
        if found.shape.last() != entry.shape.last() || entry.shape.len() != 2 {
            return Err(bad(&format!("is {:?}, and the weight {:?}", found.shape, entry.shape)));
        }
        Ok(found)
    }
}

fn path(model: &Model) -> &Path {
    model.paths().next().unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{Dtype, Format, Plan, Writer};

    /// A file with weights `a`, `b` [2, 4], of which `a` has a transform, whose v is `v`.
    fn model(place: &str, v: &[f32]) -> Model {
        let mut metadata = Metadata::default();
        metadata.set(KEY, Value::String(place.into()));
        let mut plan = Plan::new(metadata);
        for name in ["a", "b"] {
            plan.dense(name, Dtype::F32, [2, 4]).unwrap();
        }
        plan.dense("v", Dtype::F32, [v.len()]).unwrap();
        let mut writer = Writer::new(Vec::new(), "f", Format::named("lowbit").unwrap(), plan).unwrap();
        while let Some(item) = writer.next_item().cloned() {
            let values = if item.name() == "v" { v.to_vec() } else { vec![1.0; 8] };
            writer.dense(bytemuck::cast_slice(&values)).unwrap();
        }
        Model::from_bytes("f", writer.finish().unwrap()).unwrap()
    }

    #[test]
    fn what_is_put_is_read_back() {
        let v = [1.0, -2.0, 0.5, 4.0];
        let model = model(r#"{"a": {"by": "v", "block": 2}}"#, &v);
        let all = Transforms::of(&model).unwrap();
        let read = |name: &str| all.read(&model, model.entry(name).unwrap()).unwrap();
        assert_eq!(read("a"), Some(Transform::new(v.to_vec(), 2).unwrap()));
        assert_eq!(read("b"), None);
        assert!(all.has_tensor("v") && !all.has_tensor("a"));
        let mut metadata = Metadata::default();
        let renamed = all.renamed(|name| (name == "a").then_some("n"));
        renamed.put(&mut metadata).unwrap();
        assert_eq!(Transforms::in_metadata(&metadata, Path::new("f")).unwrap(), renamed);
        assert_eq!(renamed.iter().map(|(name, place)| (name, place.block)).collect::<Vec<_>>(), [("n", 2)]);
        Transforms::default().put(&mut metadata).unwrap();
        assert!(metadata.get(KEY).is_none());
    }

    #[test]
    fn what_is_wrong_is_told_by_name() {
        for (place, v, words) in [
            ("[]", &[1.0f32; 4][..], ["lowbit.transforms", "map"]),
            (r#"{"a": 1}"#, &[1.0; 4], ["lowbit.transforms", "invalid type"]),
            (r#"{"a": {"by": "v", "block": 1, "seed": 1}}"#, &[1.0; 4], ["lowbit.transforms", "seed"]),
            (r#"{"a": {"by": "w", "block": 1}}"#, &[1.0; 4], ["'w'", "missing"]),
            (r#"{"n": {"by": "v", "block": 1}}"#, &[1.0; 4], ["lowbit.transforms", "no 'n'"]),
            (r#"{"v": {"by": "v", "block": 1}}"#, &[1.0; 4], ["'v'", "[4]"]),
            (r#"{"a": {"by": "a", "block": 1}}"#, &[1.0; 4], ["'a'", "no vector"]),
            (r#"{"a": {"by": "b", "block": 1}}"#, &[1.0; 4], ["'b'", "no vector"]),
            (r#"{"a": {"by": "v", "block": 1}}"#, &[1.0; 3], ["'v'", "[3]"]),
            (r#"{"a": {"by": "v", "block": 3}}"#, &[1.0; 4], ["'a'", "power of two"]),
            (r#"{"a": {"by": "v", "block": 1}}"#, &[1.0, 0.0, 1.0, 1.0], ["'a'", "column 1"]),
        ] {
            let model = model(place, v);
            let read = Transforms::of(&model).and_then(|all| all.read(&model, model.entry("a").unwrap()));
            let error = read.unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{place}: {error}");
        }
    }
}
