//! What `--config` says of activations, as a file carries it.
//!
//! ```text
//! preset | file -> Configuration -> (layer, Activations) -> --calibration: its inputs -> a scale -> file::Activations -> the output's metadata, a line of the summary
//! ```

use super::calibrated::Calibrated;
use super::print;
use crate::configuration::{Activations, Configuration, Preset};
use crate::file::{self, Entry, Model};
use crate::product::Activation;
use crate::{Error, Result};
use std::path::Path;

/// So many layers are named where the calibration does not know them.
const NAMED: usize = 3;

/// A preset, or what a file says.
///
/// # Errors
/// As [`Configuration::open`]; [`Error::Usage`] for what is neither.
pub fn configuration(path: &Path) -> Result<Configuration> {
    match path.to_str().and_then(Preset::of) {
        Some(preset) if !path.exists() => Configuration::preset(preset.name),
        // What looks like a file is missed as one.
        _ if path.exists() || path.extension().is_some() || path.components().count() > 1 => {
            Configuration::open(path)
        }
        _ => Configuration::preset(&path.display().to_string()).map_err(|e| match e {
            Error::Usage(why) => Error::Usage(format!("--config: {why}, and no such file")),
            other => other,
        }),
    }
}

/// What goes into the products of layers: what the model says already, and what is wanted, static scales found in a calibration, of inputs as they will be. Where that knows nothing of a
/// layer it gets [`Activations::INSTEAD`], which is told.
///
/// # Errors
/// As [`file::Activations::of`], [`Calibrated::inputs`] and [`Activations::resolve`]; [`Error::Nothing`] for a calibration that knows none of the layers.
pub fn resolved(
    model: &Model,
    wanted: &[(&Entry, Activations)],
    calibration: Option<&Calibrated>,
) -> Result<file::Activations> {
    let place = model.paths().next().unwrap_or(Path::new(""));
    let mut all = file::Activations::of(model.metadata(), place)?;
    let (mut found, mut unknown) = (0, Vec::new());
    for (entry, activations) in wanted {
        let inputs = match calibration.filter(|_| activations.calibrates()) {
            Some(calibration) => calibration.inputs(entry)?,
            None => None,
        };
        let made = activations.resolve(inputs.as_ref()).map_err(|e| e.in_tensor(&entry.name))?;
        match made {
            Some(_) => found += usize::from(activations.calibrates()),
            None => unknown.push(entry.name.as_str()),
        }
        all.set(&entry.name, made.unwrap_or(Activations::INSTEAD));
    }
    if let (Some(first), Some(calibration)) = (unknown.first(), calibration) {
        if found == 0 {
            let what = format!("nothing of the inputs of any layer with static activations, as '{first}'");
            return Err(Error::Nothing { path: calibration.path().into(), what });
        }
        let names: Vec<String> = unknown.iter().take(NAMED).map(|name| format!("'{name}'")).collect();
        let more = if unknown.len() > NAMED { ", .." } else { "" };
        print::note(&format!(
            "lowbit: the calibration knows nothing of the inputs of {}, which get int8 with a scale per token: {}{more}",
            print::count(unknown.len(), "layer"),
            names.join(", ")
        ));
    }
    Ok(all)
}

/// A line on activations, if there are any but f32.
pub fn told(activations: &file::Activations) -> String {
    let kinds = kinds(activations.iter().map(|(_, activation)| activation));
    let parts: Vec<String> =
        kinds.iter().map(|(name, n)| format!("{name} for {}", print::count(*n, "layer"))).collect();
    if parts.is_empty() { String::new() } else { format!("activations: {}\n", parts.join(", ")) }
}

/// The precisions of layers without their scales, and how many have each.
pub fn kinds(all: impl Iterator<Item = Activation>) -> Vec<(String, usize)> {
    let mut kinds: Vec<(String, usize)> = Vec::new();
    for activation in all {
        let name = match activation {
            Activation::Int8Static(_) => "int8-static".into(),
            other => other.to_string(),
        };
        match kinds.iter_mut().find(|(other, _)| *other == name) {
            Some((_, count)) => *count += 1,
            None => kinds.push((name, 1)),
        }
    }
    kinds
}
