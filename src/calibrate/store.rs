//! Statistics as a file: safetensors with what is large, JSON in its metadata with the rest.
//!
//! ```text
//! Statistics -> tensors "LAYER.moments" [K, K], ".low", ".high" [K], ".sample" [S, K] (LAYER: the first that has the input)
//!               metadata "lowbit.calibration": {"version", "sample_rows", "inputs": [{"layers", "k", "tokens", "runs", "histogram"}]}
//! ```

use super::{Histogram, Inputs, Statistics};
use crate::bins::bin;
use crate::file::{Dtype, Format, Metadata, Model, Plan, Value, Writer};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The key of the metadata.
const KEY: &str = "lowbit.calibration";
const VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    sample_rows: usize,
    inputs: Vec<Input>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Input {
    layers: Vec<String>,
    k: usize,
    tokens: u64,
    runs: Vec<Vec<[f32; 2]>>,
    histogram: Histogram,
}

/// What every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Statistics {
    /// Writes a file; `label` stands for it in errors.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write<W: Write>(&self, to: W, label: &Path) -> Result<W> {
        let header = Header {
            version: VERSION,
            sample_rows: self.sample_rows,
            inputs: self.inputs.iter().map(Input::of).collect(),
        };
        let header = serde_json::to_string(&header).map_err(|e| bad(label, e.to_string()))?;
        let mut metadata = Metadata::default();
        metadata.set(KEY, Value::String(header));
        let mut plan = Plan::new(metadata);
        for inputs in &self.inputs {
            for (name, shape, _) in parts(inputs) {
                plan.dense(&name, Dtype::F32, shape)?;
            }
        }
        let mut writer = Writer::new(to, label, Format::named("lowbit")?, plan)?;
        while let Some(item) = writer.next_item().cloned() {
            let found = self.inputs.iter().flat_map(parts).find(|(name, ..)| name == item.name());
            let (_, _, values) = found.ok_or_else(|| bad(label, format!("no tensor '{}'", item.name())))?;
            writer.dense(bytemuck::cast_slice(values))?;
        }
        writer.finish()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`Stored::new`] and [`Stored::inputs`]; as [`Model::open`].
    pub fn open(path: &Path) -> Result<Self> {
        let stored = Stored::new(Model::open(path)?, path)?;
        let inputs = stored
            .header
            .inputs
            .iter()
            .map(|input| input.read(&stored.model, path))
            .collect::<Result<_>>()?;
        Ok(Self { inputs, sample_rows: stored.header.sample_rows })
    }
}

/// A file of statistics of which the inputs are read one at a time.
pub struct Stored {
    model: Model,
    path: PathBuf,
    header: Header,
}

impl Stored {
    /// Whether a file holds statistics.
    pub fn is_one(model: &Model) -> bool {
        model.metadata().get(KEY).is_some()
    }

    /// The statistics in an open file.
    ///
    /// # Errors
    /// [`Error::Format`] for a file that has none, or of a version that is not known.
    pub fn new(model: Model, path: &Path) -> Result<Self> {
        let text = model.metadata().get(KEY).and_then(Value::as_str);
        let text =
            text.ok_or_else(|| bad(path, "no statistics of a calibration (lowbit calibrate writes them)"))?;
        let invalid = |e: serde_json::Error| bad(path, format!("'{KEY}': {e}"));
        match serde_json::from_str::<Version>(text).map_err(invalid)?.version {
            VERSION => {}
            1 => {
                let why = "its histograms are too coarse for ranges; run lowbit calibrate (or examples/capture.py) again";
                return Err(bad(path, format!("'{KEY}': version 1, {VERSION} is known: {why}")));
            }
            version => return Err(bad(path, format!("'{KEY}': version {version}, {VERSION} is known"))),
        }
        let header: Header = serde_json::from_str(text).map_err(invalid)?;
        Ok(Self { model, path: path.into(), header })
    }

    /// Whether there is something of the input of a layer.
    pub fn has(&self, layer: &str) -> bool {
        self.find(layer).is_some()
    }

    /// The first of the layers that share the input of this one.
    pub fn first(&self, layer: &str) -> Option<&str> {
        self.find(layer)?.layers.first().map(String::as_str)
    }

    /// What is known of the input of a layer.
    ///
    /// # Errors
    /// [`Error::Format`] and [`Error::Shape`] for tensors that are missing, or others than the file says.
    pub fn inputs(&self, layer: &str) -> Result<Option<Inputs>> {
        self.find(layer).map(|input| input.read(&self.model, &self.path)).transpose()
    }

    fn find(&self, layer: &str) -> Option<&Input> {
        self.header.inputs.iter().find(|input| input.layers.iter().any(|name| name == layer))
    }
}

/// The tensors of an input: name, shape, values.
fn parts(inputs: &Inputs) -> [(String, Vec<usize>, &[f32]); 4] {
    let name = |part: &str| format!("{}.{part}", inputs.layers[0]);
    let k = inputs.k;
    [
        (name("moments"), vec![k, k], &inputs.moments),
        (name("low"), vec![k], &inputs.low),
        (name("high"), vec![k], &inputs.high),
        (name("sample"), vec![inputs.sample.len() / k, k], &inputs.sample),
    ]
}

impl Input {
    fn of(inputs: &Inputs) -> Self {
        let Inputs { layers, k, tokens, runs, histogram, .. } = inputs;
        let (layers, runs, histogram) = (layers.clone(), runs.clone(), histogram.clone());
        Self { layers, k: *k, tokens: *tokens, runs, histogram }
    }

    fn read(&self, model: &Model, path: &Path) -> Result<Inputs> {
        let Self { layers, k, tokens, runs, histogram } = self.clone();
        let first = self.layers.first().ok_or_else(|| bad(path, format!("'{KEY}': an input of no layer")))?;
        let no = |what: &str| Err(bad(path, format!("'{KEY}': the input of '{first}' has {what}")));
        if k == 0 {
            return no("no column");
        }
        if tokens.checked_mul(k as u64) != Some(histogram.count()) {
            return no("not as many numbers in its histogram as in its rows");
        }
        if runs.iter().flatten().any(|[low, high]| !(low.is_finite() && high.is_finite() && low <= high)) {
            return no("a batch without a range");
        }
        let part = |part: &str, rows: Option<usize>| -> Result<Vec<f32>> {
            let name = format!("{first}.{part}");
            let entry = model.entry(&name).ok_or_else(|| bad(path, format!("tensor '{name}' is missing")))?;
            let fits = match rows {
                Some(0) => entry.shape == [k],
                Some(rows) => entry.shape == [rows, k],
                None => entry.shape.len() == 2 && entry.shape[1] == k,
            };
            if !fits {
                let got = format!("{:?}", entry.shape);
                return Err(Error::shape("shape", format!("columns of K = {k}"), got).in_tensor(&name));
            }
            let values = model.tensor(entry)?.to_f32().into_owned();
            match values.iter().position(|v| !v.is_finite()) {
                Some(at) => Err(bad(path, format!("tensor '{name}': {} at {at}", values[at]))),
                None => Ok(values),
            }
        };
        let moments = part("moments", Some(k))?;
        let (low, high, sample) = (part("low", Some(0))?, part("high", Some(0))?, part("sample", None)?);
        if let Some(at) = (0..k).find(|&at| low[at] > high[at]) {
            return Err(bad(path, format!("tensor '{first}.low': column {at} is above '{first}.high'")));
        }
        let inputs = Inputs { layers, k, tokens, moments, low, high, histogram, runs, sample };
        // The same extremes three times: of the columns, of the batches, of the histogram.
        let extremes = inputs.extremes();
        let (at, counts) = inputs.histogram.span();
        if extremes.map(bin) != [at, at + counts.len().max(1) - 1] {
            return no("a histogram that does not reach from its least to its largest number");
        }
        let (low, high): (Vec<f32>, Vec<f32>) =
            inputs.runs.iter().flatten().map(|[low, high]| (low, high)).unzip();
        if super::extremes(&low, &high) != extremes {
            return no("batches of other extremes");
        }
        Ok(inputs)
    }
}

fn bad(path: &Path, what: impl Into<String>) -> Error {
    Error::Format { path: path.to_path_buf(), what: what.into() }
}
