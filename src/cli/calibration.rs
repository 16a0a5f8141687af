//! `--calibration`: what a file knows of the inputs of layers, whoever wrote it.
//!
//! ```text
//! statistics (lowbit calibrate)                    LAYER -> X^T X, rows                     one layer at a time is in memory
//! tensors by name: LAYER.moments [K, K]            X^T X                                    LAYER with or without `.weight`
//!                  LAYER.inputs, LAYER [T, K]      rows of X
//! importance matrix (llama.cpp's, either form)     LAYER -> the diagonal of X^T X alone
//! ```
//!
//! Also here: which layers may take back what AWQ does to another's columns. Methods are `quantize`'s.

use super::assign::Weights;
use crate::calibrate::{Inputs, Stored};
use crate::file::imatrix::Imatrix;
use crate::file::{Entry, Model};
use crate::quantize::Hessian;
use crate::quantize::smooth::column_ranges;
use crate::{Error, Result, Tensor};
use std::path::{Path, PathBuf};

/// A file of `--calibration`.
pub struct Calibration {
    pub path: PathBuf,
    source: Source,
}

enum Source {
    Statistics(Stored),
    Tensors(Model),
    Importance(Weights),
}

/// Ranges of the columns of an input `[K]`, and some of its rows `[T, K]`.
pub struct Seen {
    pub ranges: Vec<f32>,
    pub sample: Tensor,
}

/// Rows that are looked at where a file has them all.
const ROWS: usize = 512;
/// What a layer's name is followed by where a tensor is X^T X.
const MOMENTS: &str = "moments";
/// The same for rows of X.
const INPUTS: &str = "inputs";

impl Calibration {
    /// Opens a file of any of the kinds.
    ///
    /// # Errors
    /// As [`Model::open`] and [`Imatrix::open`]; [`Error::Nothing`] for a file without any tensor.
    pub fn open(path: &Path) -> Result<Self> {
        let source = match Imatrix::open(path) {
            Ok(imatrix) => Source::Importance(Weights { path: path.into(), imatrix }),
            Err(error @ Error::Io { .. }) => return Err(error),
            Err(_) => match Model::open(path)? {
                model if Stored::is_one(&model) => Source::Statistics(Stored::new(model, path)?),
                model if model.entries().is_empty() => {
                    let what = "its calibration is empty: not a single tensor".into();
                    return Err(Error::Nothing { path: path.into(), what });
                }
                model => Source::Tensors(model),
            },
        };
        Ok(Self { path: path.into(), source })
    }

    /// Whether there is something of the input of a layer.
    ///
    /// # Errors
    /// As [`Weights::of`].
    pub fn has(&self, entry: &Entry) -> Result<bool> {
        Ok(match &self.source {
            Source::Statistics(stored) => names(entry).iter().any(|name| stored.has(name)),
            Source::Tensors(model) => tensor_of(model, entry).is_some(),
            Source::Importance(weights) => weights.of(entry)?.is_some(),
        })
    }

    /// All that is known of the input of a layer, as static activations want it.
    ///
    /// # Errors
    /// As [`Stored::inputs`]; [`Error::Unsupported`] for files without histograms; [`Error::Shape`] for inputs of another width.
    pub fn inputs(&self, entry: &Entry) -> Result<Option<Inputs>> {
        let Source::Statistics(stored) = &self.source else {
            let why = "they want ranges and histograms: a file of lowbit calibrate";
            return Err(Error::unsupported(format!("static activations by {}", self.path.display()), why));
        };
        for name in names(entry) {
            let Some(inputs) = stored.inputs(name)? else { continue };
            let columns = entry.shape.last().copied().unwrap_or(0);
            if inputs.k != columns {
                let (expected, got) = (format!("K = {}", inputs.k), format!("{columns} columns"));
                return Err(Error::shape("weight for inputs", expected, got).in_tensor(&entry.name));
            }
            return Ok(Some(inputs));
        }
        Ok(None)
    }

    /// The name that layers with the same input have in common: the first of them, where that is known, else the layer's own; None if nothing is known of it.
    ///
    /// # Errors
    /// As [`Self::has`].
    pub fn shared(&self, entry: &Entry) -> Result<Option<String>> {
        if let Source::Statistics(stored) = &self.source {
            return Ok(names(entry).into_iter().find_map(|name| stored.first(name)).map(str::to_string));
        }
        Ok(self.has(entry)?.then(|| entry.name.clone()))
    }

    /// Ranges of columns and rows of the input of a layer, as smoothing wants them.
    ///
    /// # Errors
    /// As [`Self::inputs`]; [`Error::Unsupported`] for files that have no rows; [`Error::Check`] for a calibration without a sample.
    pub fn seen(&self, entry: &Entry) -> Result<Option<Seen>> {
        let (sample, ranges) = match &self.source {
            Source::Statistics(_) => {
                let Some(inputs) = self.inputs(entry)? else { return Ok(None) };
                let most = inputs.low.iter().zip(&inputs.high).map(|(low, high)| low.abs().max(high.abs()));
                let rows = inputs.sample.len() / inputs.k;
                (Tensor::from_f32([rows, inputs.k], inputs.sample)?, most.collect())
            }
            Source::Tensors(model) => match tensor_of(model, entry) {
                Some((found, false)) => {
                    let tensor = model.tensor(found).map_err(|e| e.in_tensor(&found.name))?;
                    let k = entry.shape.last().copied().unwrap_or(0);
                    if found.shape.len() != 2 || found.shape[1] != k {
                        let got = format!("{:?}", found.shape);
                        return Err(Error::shape("inputs", format!("[T, {k}]"), got).in_tensor(&entry.name));
                    }
                    // The same checks as for X^T X.
                    Hessian::of_rows(&entry.name, k, &tensor.to_f32())?;
                    let rows: Vec<f32> = tensor.to_f32().chunks(k).take(ROWS).flatten().copied().collect();
                    let ranges = column_ranges(&tensor);
                    (Tensor::from_f32([rows.len() / k, k], rows)?, ranges)
                }
                Some(_) => return Err(self.without_rows()),
                None => return Ok(None),
            },
            Source::Importance(_) => return Err(self.without_rows()),
        };
        if sample.is_empty() {
            let what = "the calibration has no sample of rows (lowbit calibrate --sample)".into();
            return Err(Error::Check { what }.in_tensor(&entry.name));
        }
        Ok(Some(Seen { ranges, sample }))
    }

    fn without_rows(&self) -> Error {
        let why = "it wants ranges and rows: a file of lowbit calibrate, or LAYER.inputs";
        Error::unsupported(format!("smoothing by {}", self.path.display()), why)
    }

    /// X^T X of the input of a layer, if there is any.
    ///
    /// # Errors
    /// As [`Hessian::new`], with the layer's name; [`Error::Shape`] for tensors that are neither X^T X nor rows of X.
    pub fn of(&self, entry: &Entry) -> Result<Option<Hessian>> {
        let name = &entry.name;
        match &self.source {
            Source::Statistics(stored) => {
                for other in names(entry) {
                    if let Some(inputs) = stored.inputs(other)? {
                        return Hessian::new(name, inputs.k, inputs.moments, inputs.tokens).map(Some);
                    }
                }
                Ok(None)
            }
            Source::Tensors(model) => {
                let Some((found, moments)) = tensor_of(model, entry) else { return Ok(None) };
                let &[rows, k] = found.shape.as_slice() else {
                    let got = format!("{:?}", found.shape);
                    return Err(Error::shape("shape of what is known of inputs", "[T, K]", got)
                        .in_tensor(&found.name));
                };
                let tensor = model.tensor(found).map_err(|e| e.in_tensor(&found.name))?;
                let values = tensor.to_f32();
                if !moments {
                    return Hessian::of_rows(name, k, &values).map(Some);
                }
                if rows != k {
                    let got = format!("{:?}", found.shape);
                    return Err(
                        Error::shape("shape of X^T X", format!("[{k}, {k}]"), got).in_tensor(&found.name)
                    );
                }
                Hessian::new(name, k, values.into_owned(), 1).map(Some)
            }
            Source::Importance(weights) => match weights.of(entry)? {
                Some(values) if entry.shape.len() == 2 => Hessian::of_importance(name, values).map(Some),
                _ => Ok(None),
            },
        }
    }
}

/// What a layer may be called: as the entry, and as where it was read.
fn names(entry: &Entry) -> [&str; 2] {
    [&entry.name, entry.name_in_file()]
}

/// The tensor that says something of a layer's input, and whether it is X^T X.
fn tensor_of<'a>(model: &'a Model, entry: &Entry) -> Option<(&'a Entry, bool)> {
    let named =
        names(entry).into_iter().flat_map(|name| [name, name.strip_suffix(".weight").unwrap_or(name)]);
    named.into_iter().find_map(|name| {
        let of = |ending: &str| model.entry(&format!("{name}.{ending}"));
        let moments = of(MOMENTS).map(|found| (found, true));
        moments.or_else(|| of(INPUTS).or_else(|| model.entry(name)).map(|found| (found, false)))
    })
}

/// Pairs of layers, by the parts of their names, with nothing but linear steps between the first one's rows and the second one's columns: values reach the output of an
/// attention by sums over tokens, and where there is a gate its product with the other half is linear in that.
const LINEAR: &[(&str, &str, Option<&str>)] = &[
    ("attention.self.value", "attention.output.dense", None),
    ("self_attn.v_proj", "self_attn.o_proj", None),
    ("attn_v", "attn_output", None),
    ("mlp.up_proj", "mlp.down_proj", Some("mlp.gate_proj")),
    ("ffn_up", "ffn_down", Some("ffn_gate")),
];

/// The layer before one, whose rows may be divided by what the one's columns are multiplied with, and its bias if it has one.
pub fn before<'a>(model: &'a Model, entry: &Entry) -> Option<(&'a Entry, Option<&'a Entry>)> {
    let layer = entry.name.strip_suffix(".weight")?;
    LINEAR.iter().find_map(|(first, second, gate)| {
        let start = layer.strip_suffix(second)?;
        let named = |part: &str, kind: &str| model.entry(&format!("{start}{part}.{kind}"));
        gate.is_none_or(|gate| named(gate, "weight").is_some()).then_some(())?;
        let weight = named(first, "weight")?;
        // As many rows as there are columns: heads of keys and values are not shared.
        (weight.shape.len() == 2 && Some(&weight.shape[0]) == entry.shape.last())
            .then(|| (weight, named(first, "bias")))
    })
}
