//! The differential suite and the bench on a page: what `lowbit selftest --json` and `lowbit bench --json` give, of this engine.
//!
//! ```text
//! names, progress(text) -> selftest | bench -> JSON
//! ```
//!
//! The reference is in the same module. While the host computes, the page stands still; between the waits for the device it goes on.

use super::engine::RawEngine;
use super::promise;
use crate::bench::cases::{self, Call, Operation, Weight, parse_shape};
use crate::bench::kv;
use crate::bench::sample::Effort;
use crate::clock::now;
use crate::kernels::{self, choice};
use crate::product::Accumulate;
use crate::scheme::Method;
use crate::selftest;
use crate::{Error, Result, Scheme, bench};
use js_sys::{Function, Promise};
use serde::Deserialize;
use wasm_bindgen::prelude::*;

/// Tells a function of the page, if there is one, what is begun. What it throws is its own business.
fn tell(progress: &Function, what: &str) {
    let _ = progress.call1(&JsValue::NULL, &what.into());
}

fn schemes_named(names: &[String]) -> Result<Vec<Scheme>> {
    names.iter().map(|name| name.parse()).collect()
}

fn json_error(error: impl std::fmt::Display) -> Error {
    Error::Usage(format!("options: {error}"))
}

/// As `lowbit selftest`; without names all of them.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SelftestOptions {
    kernels: Vec<String>,
    schemes: Vec<String>,
    full: bool,
    seed: u64,
}

/// As `lowbit bench`; shapes are `MxNxK`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct BenchOptions {
    operations: Vec<String>,
    schemes: Vec<String>,
    shapes: Vec<String>,
    activation: String,
    accumulate: String,
    kernel: Option<String>,
    quick: bool,
}

impl Default for BenchOptions {
    fn default() -> Self {
        let texts = |all: &[&str]| all.iter().map(|text| text.to_string()).collect();
        Self {
            operations: texts(&["all"]),
            schemes: texts(&["q8_0", "q4_0"]),
            shapes: texts(&["1x2048x2048", "128x2048x2048"]),
            activation: "f32".into(),
            accumulate: "f32".into(),
            kernel: None,
            quick: false,
        }
    }
}

impl BenchOptions {
    fn cases(&self) -> Result<(Vec<cases::Case>, Vec<kv::KvCase>)> {
        let mut operations = Vec::new();
        for name in &self.operations {
            operations.extend(Operation::named(name)?);
        }
        let policy =
            || Error::Usage(format!("accumulate '{}': there are f32, f16 and f16-chunked", self.accumulate));
        let kernel = self
            .kernel
            .as_deref()
            .map(|name| choice::named(name).ok_or_else(|| Error::Usage(format!("no kernel '{name}'"))));
        let call = Call {
            activation: self.activation.parse()?,
            accumulate: Accumulate::named(&self.accumulate).ok_or_else(policy)?,
            kernel: kernel.transpose()?,
        };
        let mut shapes = Vec::new();
        for text in &self.shapes {
            let [m, n, k] = parse_shape(text, "shape")?;
            shapes.push((Weight::new(n, k), vec![m]));
        }
        let caches = kv::all(&operations, if self.quick { &kv::TOKENS[..1] } else { &kv::TOKENS });
        match cases::all(&operations, &schemes_named(&self.schemes)?, &shapes, call, &[Method::Own]) {
            none if none.is_empty() && caches.is_empty() => {
                Err(Error::Usage("no case is left to measure".into()))
            }
            all => Ok((all, caches)),
        }
    }
}

#[wasm_bindgen]
impl RawEngine {
    /// Runs the differential suite: a promise of its report as JSON.
    pub fn selftest(&self, options: &str, progress: Function) -> Promise {
        let (engine, options) = (self.0.clone(), serde_json::from_str(options).map_err(json_error));
        promise(async move {
            let SelftestOptions { kernels, schemes, full, seed } = options?;
            kernels::check_names(&kernels)?;
            let schemes = schemes_named(&schemes)?;
            let (info, start) = (engine.info(), now());
            let options = selftest::Options { full, schemes, kernels, seed };
            let report = selftest::run(&engine, &options, |kernel, scheme| {
                tell(&progress, &format!("{kernel} {scheme}"))
            })
            .await?;
            let device = format!("{} ({}; {})", info.name, info.backend, info.tier);
            Ok(report.to_json(&device, (now() - start).as_secs_f64()).to_string())
        })
    }

    /// Measures: a promise of the result file as JSON.
    pub fn bench(&self, options: &str, progress: Function) -> Promise {
        let (engine, options) =
            (self.0.clone(), serde_json::from_str::<BenchOptions>(options).map_err(json_error));
        promise(async move {
            let options = options?;
            let effort = if options.quick { Effort::QUICK } else { Effort::FULL };
            let (cases, caches) = options.cases()?;
            let file = bench::run(&engine, &cases, &caches, &effort, |what| tell(&progress, what)).await?;
            serde_json::to_string(&file).map_err(|e| Error::Check { what: e.to_string() })
        })
    }
}
