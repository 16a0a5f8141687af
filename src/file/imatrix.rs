//! Importance matrices: for each weight, how much each input channel matters, as llama.cpp's `imatrix` measures it.
//!
//! ```text
//! GGUF form     general.type = "imatrix"; W.in_sum2 [n_mat, K] and W.counts [n_mat] in f32 -> in_sum2 / counts
//! older form    i32 entries, each: i32 length, name, i32 calls, i32 values, f32 values; i32 chunks, i32 length, dataset -> value / calls
//! ```
//!
//! The importance of a channel is the mean of its squared activations; 1 where nothing was counted. What encoders make of it is
//! their business. Source: llama.cpp `tools/imatrix/imatrix.cpp`.

use super::bytes::{Bytes, Cursor, load};
use super::metadata::Value;
use super::model::{Content, Entry, Model};
use super::{Dtype, gguf};
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The importance of the input channels of one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    /// Matrices of the weight: experts have one each. The older form does not say, so that all are one there.
    pub n_mat: usize,
    /// Input channels.
    pub k: usize,
    /// `[n_mat][k]`, finite and not negative.
    pub values: Vec<f32>,
}

/// An importance matrix file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// By the name of the weight.
    pub weights: BTreeMap<String, Importance>,
    /// What was run through the model.
    pub datasets: Vec<String>,
    /// Pieces of it, and tokens in each, where the file says so.
    pub chunk_count: Option<u32>,
    pub chunk_size: Option<u32>,
}

const TYPE_KEY: &str = "general.type";
const TYPE: &str = "imatrix";
/// Bytes of the shortest entry of the older form.
const LEAST_ENTRY: usize = 12;

impl Imatrix {
    /// Opens either form.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`], with field and byte, for a file that is cut or broken, is no importance matrix, or holds values that
    /// are no importance (NaN, infinite, negative).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_loaded(path, load(path)?)
    }

    /// As [`Self::open`], from the bytes of a file; `label` stands for the path in errors.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(label: impl Into<PathBuf>, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        Self::from_loaded(&label.into(), Bytes::memory(bytes))
    }

    fn from_loaded(path: &Path, bytes: Bytes) -> Result<Self> {
        if bytes.get().starts_with(gguf::MAGIC) {
            Self::from_model(&Model::from_loaded(path, bytes)?)
        } else {
            older(&mut Cursor::new(path, bytes.get()))
        }
    }

    /// Whether a model's file says that it is an importance matrix.
    pub fn is_one(model: &Model) -> bool {
        model.metadata().get(TYPE_KEY).and_then(Value::as_str) == Some(TYPE)
    }

    /// The importance matrix in a GGUF file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_model(model: &Model) -> Result<Self> {
        let path = model.paths().next().unwrap_or(Path::new(""));
        let bad = |what: String| Error::Format { path: path.to_path_buf(), what };
        if !Self::is_one(model) {
            let got = model.metadata().get(TYPE_KEY).map_or("missing".into(), Value::to_string);
            return Err(bad(format!("not an importance matrix: {TYPE_KEY} is {got} instead of \"{TYPE}\"")));
        }
        let number = |key: &str| match model.metadata().get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| n.try_into().ok()) {
                Some(n) => Ok(Some(n)),
                None => Err(bad(format!("{key}: {value} ({}) is no count", value.kind_name()))),
            },
        };
        let mut found = Self {
            chunk_count: number("imatrix.chunk_count")?,
            chunk_size: number("imatrix.chunk_size")?,
            ..Self::default()
        };
        match model.metadata().get("imatrix.datasets") {
            None => {}
            Some(Value::Array(names)) => {
                found.datasets = names.values().filter_map(|v| v.as_str().map(str::to_string)).collect();
            }
            Some(other) => return Err(bad(format!("imatrix.datasets: {} is no list", other.kind_name()))),
        }
        for sums in model.entries() {
            let Some(name) = sums.name.strip_suffix(".in_sum2") else { continue };
            let counts_name = format!("{name}.counts");
            let counts =
                model.entry(&counts_name).ok_or_else(|| bad(format!("'{name}' has no '{counts_name}'")))?;
            let k = sums.shape.last().copied().unwrap_or(1);
            let n_mat = counts.len();
            // ggml leaves trailing dimensions of 1 out, so that the sums of one matrix have one dimension.
            if k == 0 || n_mat == 0 || sums.len() != k.saturating_mul(n_mat) {
                let what = format!(
                    "'{}' {:?} and {n_mat} of '{counts_name}' do not go together",
                    sums.name, sums.shape
                );
                return Err(bad(what));
            }
            let counts = amounts(model, counts)?;
            let mut values = amounts(model, sums)?;
            for (of_mat, count) in values.chunks_mut(k).zip(counts) {
                of_mat.iter_mut().for_each(|v| *v = if count == 0.0 { 1.0 } else { *v / count });
            }
            found.weights.insert(name.into(), Importance { n_mat, k, values });
        }
        match model
            .entries()
            .iter()
            .find(|e| e.name.strip_suffix(".counts").is_some_and(|n| !found.weights.contains_key(n)))
        {
            None => Ok(found),
            Some(lone) => Err(bad(format!("'{}' has no '.in_sum2' beside it", lone.name))),
        }
    }
}

/// The numbers of a tensor of sums or counts.
fn amounts(model: &Model, entry: &Entry) -> Result<Vec<f32>> {
    let (path, start) = model.place(entry);
    let cursor = Cursor::new(path, &[]);
    let field = format!("data of tensor '{}'", entry.name);
    if entry.content != Content::Dense(Dtype::F32) {
        return Err(cursor.error(field, start, format!("{} instead of f32", entry.scheme_name())));
    }
    checked(&cursor, &field, start, model.raw(entry))
}

/// Numbers that are finite and not negative.
fn checked(cursor: &Cursor, field: &str, start: usize, bytes: &[u8]) -> Result<Vec<f32>> {
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    match values.iter().position(|v| !(v.is_finite() && *v >= 0.0)) {
        None => Ok(values),
        Some(i) => {
            let value = values.get(i).copied().unwrap_or(f32::NAN);
            let at = start.saturating_add(i.saturating_mul(4));
            Err(cursor.error(
                format_args!("value {i} in the {field}"),
                at,
                format!("{value} is no sum of squares"),
            ))
        }
    }
}

/// The form before GGUF.
fn older(cursor: &mut Cursor) -> Result<Imatrix> {
    let at = cursor.at();
    let n = cursor.i32("entry count")?;
    let room = cursor.left_here().checked_div(LEAST_ENTRY).unwrap_or(0);
    let Some(n) = usize::try_from(n).ok().filter(|n| (1..=room).contains(n)) else {
        let what = format!("{n} are announced, there is room for 1 to {room}: not an importance matrix");
        return Err(cursor.error("entry count", at, what));
    };
    let mut found = Imatrix::default();
    for i in 0..n {
        let at = cursor.at();
        let len = length(cursor, &format!("name length of entry {i}"))?;
        let name = cursor.text(len, format_args!("name of entry {i}"))?.to_string();
        if name.is_empty() || found.weights.contains_key(&name) {
            let what =
                if name.is_empty() { "an empty name".into() } else { format!("'{name}' occurs twice") };
            return Err(cursor.error(format_args!("name of entry {i}"), at, what));
        }
        let calls = length(cursor, &format!("call count of '{name}'"))?;
        let at = cursor.at();
        let k = length(cursor, &format!("value count of '{name}'"))?;
        if k == 0 {
            return Err(cursor.error(format_args!("value count of '{name}'"), at, "no values"));
        }
        let field = format!("values of '{name}'");
        let start = cursor.at();
        let bytes = cursor.take(k.saturating_mul(4), &field)?;
        let mut values = checked(cursor, &field, start, bytes)?;
        values.iter_mut().for_each(|v| *v = if calls == 0 { 1.0 } else { *v / calls as f32 });
        found.weights.insert(name, Importance { n_mat: 1, k, values });
    }
    // The first files of this form end here.
    if cursor.left() > 0 {
        found.chunk_count = u32::try_from(length(cursor, "chunk count")?).ok();
        let len = length(cursor, "length of the dataset's name")?;
        found.datasets = vec![cursor.text(len, "dataset's name")?.to_string()];
    }
    match cursor.left() {
        0 => Ok(found),
        n => Err(cursor.error("end", cursor.at(), format!("{n} bytes more than the entries take"))),
    }
}

/// An i32 that is not negative.
fn length(cursor: &mut Cursor, field: &str) -> Result<usize> {
    let at = cursor.at();
    let n = cursor.i32(field)?;
    usize::try_from(n).map_err(|_| cursor.error(field, at, format!("{n} is no count")))
}
