//! Tensors of a model by methods that look at activations: which have statistics, what AWQ's scales do to the layers before, what was found on the way.
//!
//! ```text
//! chosen tensors, Calibration -> Calibrated: with statistics -> quantize::{gptq, awq} | without -> rounded to nearest, told
//! awq, no transform, a linear layer before: search -> s; columns of the one * s, rows and bias of the other / s, whatever becomes of that one otherwise
//! ```
//!
//! One layer's statistics are in memory at a time. No file is written here.

use super::assign::Chosen;
use super::calibration::{self, Calibration};
use super::print;
use super::transforms::{Read, Transforms};
use crate::calibrate::Inputs;
use crate::file::{Entry, Model};
use crate::quantize::gptq::{self, Settings};
use crate::quantize::{Algorithm, Hessian, Layer, awq};
use crate::transform::Transform;
use crate::{DType, Error, PackedTensor, Result, Tensor};
use half::{bf16, f16};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// What is multiplied.
#[derive(Clone, Debug, Default)]
struct Factors {
    rows: Option<Vec<f32>>,
    columns: Option<Vec<f32>>,
}

/// What is told of a tensor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Note {
    /// The damping of GPTQ, where it is not what was asked for.
    pub damping: Option<f32>,
    /// Channels that calibration never saw.
    pub dead: usize,
    /// The exponent of AWQ's scales, where there are any.
    pub alpha: Option<f32>,
}

/// Methods, statistics and factors of a run.
pub struct Calibrated {
    calibration: Rc<Calibration>,
    transforms: Rc<Transforms>,
    settings: Settings,
    factors: HashMap<String, Factors>,
    notes: RefCell<HashMap<String, Note>>,
}

impl Calibrated {
    /// Finds what AWQ multiplies where inputs are not transformed; tensors without statistics are none of this.
    ///
    /// # Errors
    /// [`Error::Nothing`] if the calibration has nothing of any tensor; as [`awq::search`].
    pub fn new(
        calibration: Rc<Calibration>,
        transforms: Rc<Transforms>,
        settings: Settings,
        model: &Model,
        chosen: &[Chosen],
        read: Read,
    ) -> Result<Self> {
        let of = |c: &&Chosen| c.recipe.calibrates();
        let mut known = false;
        for c in chosen.iter().filter(of) {
            known |= calibration.has(c.entry)?;
        }
        if let Some(first) = chosen.iter().find(of).filter(|_| !known) {
            let what = format!("nothing of the inputs of any tensor to quantize, as '{}'", first.entry.name);
            return Err(Error::Nothing { path: calibration.path.clone(), what });
        }
        let (factors, notes) = (HashMap::new(), RefCell::default());
        let mut made = Self { calibration, transforms: transforms.clone(), settings, factors, notes };
        let pairs: Vec<_> = chosen
            .iter()
            .filter(|c| c.recipe.algorithm == Algorithm::Awq && transforms.met(c.entry).is_none())
            .filter_map(|c| Some((c, calibration::before(model, c.entry)?)))
            // The layer before is written anew only if it is quantized itself; its bias has to be of plain numbers.
            .filter(|(_, (weight, bias))| {
                chosen.iter().any(|c| c.entry.name == weight.name) && bias.is_none_or(|b| b.float().is_some())
            })
            .collect();
        let bar = print::progress(pairs.len() as u64, "layers");
        for (c, (weight, bias)) in pairs {
            print::at(&bar, &c.entry.name);
            made.search((model, read), c, weight, bias)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(made)
    }

    /// The scales of a layer, and what they do to the one before.
    fn search(
        &mut self,
        (model, read): (&Model, Read),
        c: &Chosen,
        weight: &Entry,
        bias: Option<&Entry>,
    ) -> Result<()> {
        let Some(hessian) = self.calibration.of(c.entry)? else { return Ok(()) };
        let tensor = read(c.entry)?;
        let name = &c.entry.name;
        let layer = Layer { name, tensor: &tensor, scheme: &c.scheme, method: c.recipe.method };
        let found = awq::search(&[layer], &hessian)?;
        model.release(c.entry);
        if found.alpha == 0.0 {
            return Ok(());
        }
        let inverse: Vec<f32> = found.scales.iter().map(|s| 1.0 / s).collect();
        self.factors.entry(name.clone()).or_default().columns = Some(found.scales);
        for entry in [Some(weight), bias].into_iter().flatten() {
            self.factors.entry(entry.name.clone()).or_default().rows = Some(inverse.clone());
        }
        self.notes.get_mut().insert(name.clone(), Note { alpha: Some(found.alpha), ..Note::default() });
        Ok(())
    }

    /// A tensor as it is quantized, with what AWQ multiplies it by.
    ///
    /// # Errors
    /// As [`awq::scaled`].
    pub fn prepared(&self, entry: &Entry, tensor: Tensor) -> Result<Tensor> {
        let Some(Factors { rows, columns }) = self.factors.get(&entry.name) else { return Ok(tensor) };
        let tensor = match columns {
            Some(columns) => awq::scaled(&tensor, columns)?,
            None => tensor,
        };
        match rows {
            Some(rows) => awq::scaled_rows(&tensor, rows),
            None => Ok(tensor),
        }
    }

    /// The bytes of a copied tensor that AWQ multiplies, in its own type.
    ///
    /// # Errors
    /// As [`Self::prepared`].
    pub fn copied(&self, model: &Model, entry: &Entry) -> Result<Option<Vec<u8>>> {
        let Some(dtype) = entry.float().filter(|_| self.factors.contains_key(&entry.name)) else {
            return Ok(None);
        };
        let tensor = self.prepared(entry, model.tensor(entry)?)?;
        let values = tensor.to_f32();
        Ok(Some(match dtype {
            DType::F32 => bytemuck::cast_slice(&values).to_vec(),
            DType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            DType::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        }))
    }

    /// Quantizes a prepared tensor; None where nothing is known of its inputs.
    ///
    /// # Errors
    /// As [`gptq::quantize`] and [`awq::quantize`]; as [`Calibration::of`].
    pub fn quantize(&self, chosen: &Chosen, tensor: &Tensor) -> Result<Option<PackedTensor>> {
        let Chosen { entry, scheme, recipe, .. } = chosen;
        let known = if recipe.calibrates() { self.calibration.of(entry)? } else { None };
        let Some(mut hessian) = known else { return Ok(None) };
        if let Some(by) = self.before(entry)? {
            hessian = hessian.transformed(&by);
        }
        let name = &entry.name;
        if recipe.algorithm == Algorithm::Awq {
            let layer = Layer { name, tensor, scheme, method: recipe.method };
            return awq::quantize(&layer, &hessian).map(Some);
        }
        self.sweep(chosen, tensor, &hessian).map(Some)
    }

    fn sweep(&self, chosen: &Chosen, tensor: &Tensor, hessian: &Hessian) -> Result<PackedTensor> {
        let Chosen { entry, scheme, recipe, .. } = chosen;
        let outcome = gptq::quantize(tensor, &entry.name, scheme, recipe.method, hessian, &self.settings)?;
        let damping = Some(outcome.damping).filter(|d| *d != self.settings.damping);
        if let Some(damping) = damping {
            let why = "X^T X was not positive definite with less";
            print::note(&format!("lowbit: '{}': damping {damping}, as {why}", entry.name));
        }
        let note = Note { damping, dead: outcome.dead, alpha: None };
        self.notes.borrow_mut().insert(entry.name.clone(), note);
        Ok(outcome.packed)
    }

    /// What is known of a layer's inputs, as they will be.
    ///
    /// # Errors
    /// As [`Calibration::inputs`] and [`Inputs::transformed`].
    pub fn inputs(&self, entry: &Entry) -> Result<Option<Inputs>> {
        let Some(inputs) = self.calibration.inputs(entry)? else { return Ok(None) };
        match self.before(entry)? {
            Some(by) => inputs.transformed(&by).map(Some),
            None => Ok(Some(inputs)),
        }
    }

    /// What a layer's inputs will have met: the transform that the file will say, or what AWQ did to the layer before.
    fn before(&self, entry: &Entry) -> Result<Option<Cow<'_, Transform>>> {
        if let Some(by) = self.transforms.met(entry) {
            return Ok(Some(Cow::Borrowed(by)));
        }
        let columns = self.factors.get(&entry.name).and_then(|f| f.columns.as_ref());
        columns.map(|columns| Transform::dividing(columns).map(Cow::Owned)).transpose()
    }

    /// Whether something is known of a tensor's inputs.
    ///
    /// # Errors
    /// As [`Calibration::has`].
    pub fn knows(&self, entry: &Entry) -> Result<bool> {
        self.calibration.has(entry)
    }

    /// What was found of a tensor.
    pub fn note(&self, entry: &Entry) -> Note {
        self.notes.borrow().get(&entry.name).copied().unwrap_or_default()
    }

    /// The file.
    pub fn path(&self) -> &std::path::Path {
        &self.calibration.path
    }
}
