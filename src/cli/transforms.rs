//! What the inputs of layers are transformed by: `--transform` and the key of a configuration, what a calibration says of the layers, what the file gets; and weights of files turned back.
//!
//! ```text
//! chosen layers, TransformRecipe, Calibration -> layers that share an input -> smooth | awq | rotation -> Transform
//!     -> weights as they are quantized, tensors v beside them, file::Transforms in the metadata
//! ```
//!
//! One input's layers are in memory at a time.

use super::assign::Chosen;
use super::calibration::{Calibration, Seen};
use super::print;
use crate::configuration::Activations;
use crate::file::{self, Entry, Model, Place};
use crate::product::{Activation, Int8Group};
use crate::quantize::{Layer, TransformRecipe, awq, smooth};
use crate::transform::Transform;
use crate::{Error, Result, Scheme, Tensor, cpu};
use std::collections::{BTreeMap, HashMap};

/// So many layers are named that the calibration does not know.
const NAMED: usize = 3;

/// Reads a weight as it will be quantized.
pub type Read<'a> = &'a dyn Fn(&Entry) -> Result<Tensor>;

/// A layer whose inputs are to be transformed.
pub struct Wanted<'a> {
    pub chosen: &'a Chosen<'a>,
    pub by: TransformRecipe,
    pub activations: Option<Activations>,
}

/// A tensor v, and the transform that it is part of.
#[derive(Clone)]
struct Found {
    tensor: String,
    transform: Transform,
    /// The way in which it was found, and the exponent where there is one.
    way: String,
    alpha: Option<f32>,
    /// The model has the tensor already.
    there: bool,
}

/// The transforms of a run.
#[derive(Clone, Default)]
pub struct Transforms {
    found: Vec<Found>,
    /// Which of them a weight has.
    of: HashMap<String, usize>,
    /// Those of weights that were transformed before.
    before: HashMap<String, Transform>,
    /// What the file says: of layers that were transformed before, too.
    pub stated: file::Transforms,
}

impl Transforms {
    /// Finds what is wanted.
    ///
    /// # Errors
    /// As [`file::Transforms::of`], [`Calibration::seen`], [`smooth::search`] and [`awq::search`]; [`Error::Usage`] for a layer that is transformed already, and for smoothing without a
    /// calibration; [`Error::Nothing`] for a calibration that knows none of the layers.
    pub fn find(
        model: &Model,
        wanted: &[Wanted],
        calibration: Option<&Calibration>,
        read: Read,
    ) -> Result<Self> {
        let mut made = Self { stated: file::Transforms::of(model)?, ..Self::default() };
        for entry in model.entries() {
            let by = made.stated.read(model, entry)?;
            made.before.extend(by.map(|by| (entry.name.clone(), by)));
        }
        let (mut groups, mut unknown): (Vec<(String, Vec<&Wanted>)>, Vec<&str>) = (Vec::new(), Vec::new());
        let mut known = 0;
        for layer in wanted {
            let name = &layer.chosen.entry.name;
            if made.stated.get(name).is_some() {
                return Err(Error::Usage(format!(
                    "'{name}' is transformed already; `lowbit dequantize` turns it back"
                )));
            }
            let key = if layer.by.calibrates() {
                let Some(calibration) = calibration else {
                    let why = format!("'{name}' by the transform {} wants --calibration FILE", layer.by);
                    return Err(Error::Usage(format!("{why} (lowbit calibrate writes one)")));
                };
                let Some(first) = calibration.shared(layer.chosen.entry)? else {
                    unknown.push(name);
                    continue;
                };
                known += 1;
                format!("{} of {first}", layer.by)
            } else {
                format!("{} of {}", layer.by, layer.chosen.entry.shape.last().unwrap_or(&0))
            };
            match groups.iter_mut().find(|(other, _)| *other == key) {
                Some((_, layers)) => layers.push(layer),
                None => groups.push((key, vec![layer])),
            }
        }
        if let (Some(first), 0, Some(calibration)) = (unknown.first(), known, calibration) {
            let what = format!("nothing of the inputs of any layer to transform, as '{first}'");
            return Err(Error::Nothing { path: calibration.path.clone(), what });
        }
        if !unknown.is_empty() {
            let names: Vec<String> = unknown.iter().take(NAMED).map(|name| format!("'{name}'")).collect();
            let more = if unknown.len() > NAMED { ", .." } else { "" };
            let layers = print::count(unknown.len(), "layer");
            let what = "whose inputs stay as they are";
            print::note(&format!(
                "lowbit: the calibration knows nothing of {layers}, {what}: {}{more}",
                names.join(", ")
            ));
        }
        let bar = print::progress(groups.len() as u64, "transforms");
        for (_, layers) in &groups {
            print::at(&bar, &layers[0].chosen.entry.name);
            made.add(model, layers, calibration, read)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(made)
    }

    /// One transform, for layers that share it.
    fn add(
        &mut self,
        model: &Model,
        layers: &[&Wanted],
        calibration: Option<&Calibration>,
        read: Read,
    ) -> Result<()> {
        let (first, by) = (layers[0].chosen.entry, layers[0].by);
        let k = first.shape.last().copied().unwrap_or(0);
        let stem = first.name.strip_suffix(".weight").unwrap_or(&first.name);
        let (tensor, alpha, transform) = match (by, calibration) {
            (TransformRecipe::Hadamard(seed), _) => {
                (format!("{by}.{k}").replace(':', "."), None, Transform::rotation(k, seed)?)
            }
            (TransformRecipe::Smooth(_) | TransformRecipe::Awq, Some(calibration)) => {
                let tensors = layers.iter().map(|layer| read(layer.chosen.entry));
                let tensors: Vec<Tensor> = tensors.collect::<Result<_>>()?;
                let all = layers.iter().zip(&tensors).map(|(layer, tensor)| Layer {
                    name: &layer.chosen.entry.name,
                    tensor,
                    scheme: &layer.chosen.scheme,
                    method: layer.chosen.recipe.method,
                });
                let all: Vec<Layer> = all.collect();
                let (alpha, transform) = match by {
                    TransformRecipe::Smooth(alpha) => {
                        smoothed(calibration, first, &all, alpha, layers[0].activations)?
                    }
                    _ => scaled(calibration, first, &all)?,
                };
                layers.iter().for_each(|layer| model.release(layer.chosen.entry));
                (format!("{stem}.input_by"), Some(alpha), transform)
            }
            _ => return Ok(()),
        };
        // What changes nothing need not be carried.
        if transform.only_scales() && transform.by().iter().all(|v| *v == 1.0) {
            return Ok(());
        }
        let there = match model.entry(&tensor) {
            Some(other) if self.stated.has_tensor(&tensor) && other.shape == [k] => {
                model.tensor(other)?.to_f32()[..] == *transform.by()
            }
            _ => false,
        };
        if model.entry(&tensor).is_some() && !there {
            return Err(Error::Usage(format!(
                "the model has a tensor '{tensor}', as the transform would be called"
            )));
        }
        let at = self.found.len();
        for layer in layers {
            let name = &layer.chosen.entry.name;
            self.of.insert(name.clone(), at);
            self.stated.set(name, Place { by: tensor.clone(), block: transform.block() });
        }
        let way = match by {
            TransformRecipe::Smooth(_) => "smooth".into(),
            other => other.to_string(),
        };
        self.found.push(Found { tensor, transform, way, alpha, there });
        Ok(())
    }

    /// Takes a weight out, which is copied after all.
    pub fn forget(&mut self, name: &str) {
        if self.of.remove(name).is_some() {
            self.stated.remove(name);
        }
    }

    /// What the inputs of a layer will meet: the transform that its weight gets, or has already.
    pub fn met(&self, entry: &Entry) -> Option<&Transform> {
        self.of(entry).or_else(|| self.before.get(&entry.name))
    }

    /// The transform that a weight gets.
    pub fn of(&self, entry: &Entry) -> Option<&Transform> {
        self.of.get(&entry.name).and_then(|at| self.found.get(*at)).map(|found| &found.transform)
    }

    /// How it was found.
    pub fn told(&self, entry: &Entry) -> Option<String> {
        let found = self.of.get(&entry.name).and_then(|at| self.found.get(*at))?;
        Some(found.alpha.map_or(found.way.clone(), |alpha| format!("{}:{alpha}", found.way)))
    }

    /// The tensors v to be added to the file: names and numbers.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[f32])> {
        let new = |found: &&Found| !found.there && self.stated.has_tensor(&found.tensor);
        self.found.iter().filter(new).map(|found| (found.tensor.as_str(), found.transform.by()))
    }

    /// A line of the summary, if there is any.
    pub fn line(&self) -> String {
        // By the way in which they were found: layers, and the exponents from the least to the largest.
        let mut kinds: BTreeMap<&str, (usize, Vec<f32>)> = BTreeMap::new();
        for found in self.of.values().filter_map(|at| self.found.get(*at)) {
            let (layers, alphas) = kinds.entry(&found.way).or_default();
            *layers += 1;
            alphas.extend(found.alpha);
        }
        let parts = kinds.iter().map(|(way, (layers, alphas))| {
            let least = alphas.iter().copied().fold(f32::INFINITY, f32::min);
            let most = alphas.iter().copied().fold(0f32, f32::max);
            let alpha = match alphas.as_slice() {
                [] => String::new(),
                _ if least == most => format!(" (alpha {most})"),
                _ => format!(" (alpha {least} to {most})"),
            };
            format!("{way} for {}{alpha}", print::count(*layers, "layer"))
        });
        let parts: Vec<String> = parts.collect();
        if parts.is_empty() { String::new() } else { format!("inputs transformed: {}\n", parts.join(", ")) }
    }
}

/// What inputs are rounded to while the transform is searched for: int8 per token where nothing is said.
fn rounded(activations: Option<Activations>) -> Result<Option<Scheme>> {
    Ok(match activations {
        Some(Activations::Dynamic(Activation::F32 | Activation::F16)) => None,
        Some(Activations::Dynamic(Activation::Int8(Int8Group::Cols(g)))) => {
            Some(format!("int8-g{g}").parse()?)
        }
        Some(Activations::Static { .. } | Activations::Dynamic(Activation::Int8Static(_))) => {
            Some("int8-tensor".parse()?)
        }
        Some(Activations::Dynamic(Activation::Int8(Int8Group::Row))) | None => Some("int8-row".parse()?),
    })
}

fn smoothed(
    calibration: &Calibration,
    entry: &Entry,
    layers: &[Layer],
    alpha: Option<f32>,
    activations: Option<Activations>,
) -> Result<(f32, Transform)> {
    let Some(Seen { ranges, sample }) = calibration.seen(entry)? else {
        return Err(
            Error::Check { what: "the calibration has nothing of its inputs".into() }.in_tensor(&entry.name)
        );
    };
    if let Some(alpha) = alpha {
        return Ok((alpha, smooth::of_alpha(&ranges, layers, alpha)?));
    }
    let found = smooth::search(&ranges, &sample, layers, rounded(activations)?.as_ref())?;
    Ok((found.alpha, found.transform))
}

fn scaled(calibration: &Calibration, entry: &Entry, layers: &[Layer]) -> Result<(f32, Transform)> {
    let Some(hessian) = calibration.of(entry)? else {
        return Err(
            Error::Check { what: "the calibration has nothing of its inputs".into() }.in_tensor(&entry.name)
        );
    };
    let found = awq::search(layers, &hessian)?;
    Ok((found.alpha, Transform::dividing(&found.scales)?))
}

/// How many layers of a file have inputs that are multiplied, and that are rotated.
pub fn kinds(stated: &file::Transforms) -> (usize, usize) {
    let rotated = stated.iter().filter(|(_, place)| place.block > 1).count();
    (stated.iter().count() - rotated, rotated)
}

/// The same in words; nothing where there is none.
pub fn stated(stated: &file::Transforms) -> String {
    let (scaled, rotated) = kinds(stated);
    let part = |n: usize, what: &str| (n > 0).then(|| format!("{what} for {}", print::count(n, "layer")));
    let parts: Vec<String> =
        [part(scaled, "scaled"), part(rotated, "rotated")].into_iter().flatten().collect();
    parts.join(", ")
}

/// A weight of a file as it was before its inputs were transformed.
///
/// # Errors
/// As [`file::Transforms::read`].
pub fn restored(model: &Model, entry: &Entry, tensor: Tensor) -> Result<Tensor> {
    match file::Transforms::of(model)?.read(model, entry)? {
        Some(by) => cpu::restore_weight(&tensor, &by),
        None => Ok(tensor),
    }
}
