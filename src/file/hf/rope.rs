//! Rotary positions: what a config says of their base and of stretching them, as metadata, and as factors of the frequencies.
//!
//! ```text
//! rope_theta, rope_scaling (or rope_parameters) -> NAME.rope.* | rope_freqs.weight (rope_type "llama3")
//! ```
//!
//! Source: llama.cpp `conversion/base.py` (keys), `conversion/llama.py` (factors).

use super::architecture::{Architecture, Rope, Size, Sizes};
use super::config::Config;
use crate::Result;
use crate::file::metadata::{Metadata, Value};

/// The base where a config does not give one.
const BASE: f64 = 10_000.0;

/// The object that speaks of rotation: transformers renamed it in version 5.
fn place(config: &Config) -> &'static str {
    if config.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" }
}

/// The base, where the config gives one.
fn base(config: &Config) -> Result<Option<f64>> {
    let inside = config.real(&format!("{}.rope_theta", place(config)))?;
    Ok(inside.or(config.real("rope_theta")?))
}

/// The kind of stretching and the key that names it.
fn kind<'a>(config: &'a Config, architecture: &Architecture, rope: &Rope) -> Result<(String, &'a str)> {
    let (new, old) = (format!("{}.rope_type", place(config)), format!("{}.type", place(config)));
    let (key, kind) = match config.text(&new)? {
        Some(kind) => (new, kind),
        None => (old.clone(), config.text(&old)?.unwrap_or("default")),
    };
    if !rope.types.contains(&kind) {
        let (name, known) = (architecture.name, rope.types.join(", "));
        return Err(config.wrong(&key, format!("{kind} is not mapped for {name}; {known} are")));
    }
    Ok((key, kind))
}

/// Adds the metadata.
///
/// # Errors
/// [`crate::Error::Format`] for a kind that the architecture's row does not have, and for keys that are missing or no numbers.
pub fn describe(
    config: &Config,
    architecture: &Architecture,
    rope: &Rope,
    sizes: &Sizes,
    out: &mut Metadata,
) -> Result<()> {
    let mut set = |key: &str, value: Value| out.set(&architecture.key(&format!("rope.{key}")), value);
    if rope.dimensions {
        // A u32 when it was read.
        set("dimension_count", Value::U32(sizes.get(Size::HeadDim) as u32));
    }
    set("freq_base", Value::F32(base(config)?.unwrap_or(BASE) as f32));
    let (_, kind) = kind(config, architecture, rope)?;
    let inside = |key: &str| format!("{}.{key}", place(config));
    if matches!(kind, "linear" | "yarn") {
        let factor = inside("factor");
        let factor = config.real(&factor)?.ok_or_else(|| config.missing(&factor))?;
        set("scaling.type", Value::String(kind.into()));
        set("scaling.factor", Value::F32(factor as f32));
    }
    if kind == "yarn" {
        let length = inside("original_max_position_embeddings");
        let length = config.count(&length)?.ok_or_else(|| config.missing(&length))?;
        set("scaling.original_context_length", Value::U32(length as u32));
        for (from, to) in [
            ("extrapolation_factor", "yarn_ext_factor"),
            ("attention_factor", "yarn_attn_factor"),
            ("beta_fast", "yarn_beta_fast"),
            ("beta_slow", "yarn_beta_slow"),
        ] {
            if let Some(value) = config.real(&inside(from))? {
                set(&format!("scaling.{to}"), Value::F32(value as f32));
            }
        }
    }
    Ok(())
}

/// What each frequency is divided by (rope_type "llama3"): 1 for short waves, `factor` for long ones, in between on a line.
///
/// # Errors
/// As [`describe`].
pub fn factors(
    config: &Config,
    architecture: &Architecture,
    rope: &Rope,
    sizes: &Sizes,
) -> Result<Option<Vec<f32>>> {
    let (key, kind) = kind(config, architecture, rope)?;
    if kind != "llama3" {
        return Ok(None);
    }
    let inside = |key: &str| format!("{}.{key}", place(config));
    let need = |key: &str| {
        let key = inside(key);
        let found = config.real(&key)?.filter(|v| *v > 0.0);
        found.ok_or_else(|| config.wrong(&key, "expected a number above 0, as rope_type llama3 has it"))
    };
    let (factor, low, high) = (need("factor")?, need("low_freq_factor")?, need("high_freq_factor")?);
    let length = need("original_max_position_embeddings")?;
    if high <= low {
        return Err(
            config.wrong(&key, format!("high_freq_factor = {high} is not above low_freq_factor = {low}"))
        );
    }
    let (base, width) = (base(config)?.unwrap_or(BASE), sizes.get(Size::HeadDim));
    let of = |i: usize| {
        let wave = 2.0 * std::f64::consts::PI * base.powf(i as f64 / width as f64);
        if wave < length / high {
            1.0
        } else if wave > length / low {
            factor
        } else {
            let smooth = (length / wave - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Ok(Some((0..width).step_by(2).map(|i| of(i) as f32).collect()))
}
