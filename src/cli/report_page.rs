//! The page of `lowbit report`: measures as text and paths, filled into a template.
//!
//! ```text
//! Report -> words, numbers with their digits, paths of SVG -> report.html (minijinja, which escapes names) -> HTML in one file
//! ```
//!
//! The template is well-formed XML, so that a page can be parsed and checked. It has no script and asks for nothing from anywhere.

use super::print;
use super::report::{Layer, Report};
use super::{activations, transforms};
use crate::product::Activation;
use crate::report::distribution::Distribution;
use crate::{Error, Result};
use minijinja::value::{Serde, Value as Context};
use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Value, json};

const TEMPLATE: &str = include_str!("report.html");

/// Of the drawings of a layer, in their own units.
const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 90.0;
/// Of the drawing of all layers, between its margins.
const PLOT: (f64, f64) = (900.0, 180.0);

/// The page.
///
/// # Errors
/// [`Error::Template`], which would be a mistake of the template.
pub fn html(report: &Report) -> Result<String> {
    let wrong =
        |e: minijinja::Error| Error::Template { name: "report.html".into(), message: format!("{e:#}") };
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.add_template("report.html", TEMPLATE).map_err(wrong)?;
    let context = Context::from(Serde(context(report)));
    environment.get_template("report.html").and_then(|page| page.render(context)).map_err(wrong)
}

fn context(report: &Report) -> Value {
    let (before, after) = (report.original.bytes, report.quantized.bytes);
    let clips: Vec<Value> = report
        .layers
        .iter()
        .enumerate()
        .filter(|(_, layer)| layer.codes.clipped > 0)
        .map(|(rank, layer)| {
            let (weights, error) = layer.clipped();
            json!({"rank": rank, "name": shown(&layer.name), "weights": percent(weights), "error": percent(error)})
        })
        .collect();
    let suggestions: Vec<Value> = report
        .suggestions
        .iter()
        .map(|(name, what)| {
            let rank = report.layers.iter().position(|layer| layer.name == *name);
            json!({"rank": rank, "name": shown(name), "what": what})
        })
        .collect();
    let left: Vec<Value> = report
        .left
        .iter()
        .map(|(name, kind, bytes)| {
            let takes = takes(&report.activations.get(name));
            json!({"name": shown(name), "kind": kind, "takes": takes, "bytes": print::bytes(*bytes)})
        })
        .collect();
    let other_shape: Vec<String> = report
        .other_shape
        .iter()
        .map(|(name, before, after)| format!("{}: {before} and {after}", shown(name)))
        .collect();
    let names = |names: &[String]| names.iter().map(|name| shown(name)).collect::<Vec<_>>();
    let sides: Vec<Value> = [("original", &report.original), ("quantized", &report.quantized)]
        .map(|(role, side)| {
            let bits = side.bits.map_or("-".into(), |bits| format!("{bits:.3}"));
            json!({"role": role, "path": shown(&side.path), "format": side.format, "tensors": side.tensors,
                   "bytes": print::bytes(side.bytes), "bits": bits})
        })
        .into();
    let told = activations::told(&report.activations);
    json!({
        "activations": told.trim_end().trim_start_matches("activations: "),
        "transforms": transforms::stated(&report.transforms),
        "version": env!("CARGO_PKG_VERSION"), "device": shown(&report.device), "sides": sides,
        "metadata": report.metadata.iter().map(|(key, value)| [shown(key), shown(value)]).collect::<Vec<_>>(),
        "before": print::bytes(before), "after": print::bytes(after), "ratio": format!("{:.2}", before as f64 / after as f64),
        "sqnr": report.total.sqnr_text(), "cosine": format!("{:.6}", report.total.cosine()), "max_error": format!("{:.3e}", report.total.max_abs()),
        "schemes": schemes(report), "layers": report.layers.iter().map(layer).collect::<Vec<_>>(),
        "overview": overview(report), "clips": clips, "suggestions": suggestions, "rules": report.rules, "left": left,
        "different": names(&report.different), "only_original": names(&report.only_original),
        "only_quantized": names(&report.only_quantized), "other_shape": other_shape,
    })
}

/// Text without control characters, which a page may not have.
fn shown(text: &str) -> String {
    print::visible(text).replace('\n', "\\n")
}

fn percent(share: f64) -> String {
    match share {
        0.0 => "0".into(),
        small if small < 1e-4 => "< 0.01 %".into(),
        _ => format!("{:.2} %", 100.0 * share),
    }
}

/// A precision in words: `int8, scale 3.1e-2, zero-point -4`.
fn takes(activation: &Activation) -> String {
    match activation {
        Activation::Int8Static(s) => format!("int8, scale {:.4e}, zero-point {}", s.scale(), s.zero()),
        other => other.to_string(),
    }
}

fn layer(layer: &Layer) -> Value {
    let (clipped, clipped_error) = layer.clipped();
    let used = layer.codes.counts.iter().filter(|n| **n > 0).count();
    let reach = format!("{:.3e}", layer.distribution.reach);
    let [original, quantized] = weights(&layer.distribution);
    json!({
        "name": shown(&layer.name), "shape": print::shape(&layer.shape), "scheme": layer.scheme, "takes": takes(&layer.activation), "bits": format!("{:.3}", layer.bits),
        "sqnr": layer.errors.sqnr_text(), "cosine": format!("{:.6}", layer.errors.cosine()),
        "max_error": format!("{:.3e}", layer.errors.max_abs()), "mean_error": format!("{:.3e}", layer.errors.mean_abs()),
        "clipped": percent(clipped), "clipped_error": percent(clipped_error),
        "before": print::bytes(layer.bytes_before), "bytes": print::bytes(layer.bytes),
        "reach": reach, "original": original, "quantized": quantized,
        "codes": bars(&layer.codes.counts), "used": used, "of": layer.codes.counts.len(), "entropy": format!("{:.2}", layer.codes.entropy()),
    })
}

/// Counts, tensors and sizes by scheme, in the order of the model.
fn schemes(report: &Report) -> Vec<Value> {
    let mut all: Vec<(&str, usize, u64, u64)> = Vec::new();
    let of_layers = report.order.iter().map(|&rank| &report.layers[rank]);
    let of_layers = of_layers.map(|layer| (layer.scheme.as_str(), layer.weights, layer.bytes));
    for (scheme, weights, bytes) in of_layers {
        match all.iter_mut().find(|(name, ..)| *name == scheme) {
            Some((_, tensors, sum, size)) => {
                (*tensors, *sum, *size) = (*tensors + 1, *sum + weights, *size + bytes);
            }
            None => all.push((scheme, 1, weights, bytes)),
        }
    }
    let row = |(scheme, tensors, weights, bytes): (&str, usize, u64, u64)| json!({"scheme": scheme, "tensors": tensors, "weights": weights, "bytes": print::bytes(bytes)});
    all.into_iter().map(row).collect()
}

/// Histograms before and after as areas under steps, on one scale.
fn weights(of: &Distribution) -> [String; 2] {
    let highest = of.original.iter().chain(&of.quantized).copied().max().unwrap_or(0);
    [&of.original, &of.quantized].map(|counts| steps(counts, highest))
}

/// The area under a histogram.
fn steps(counts: &[u64], highest: u64) -> String {
    let wide = WIDTH / counts.len().max(1) as f64;
    let mut path = format!("M0 {HEIGHT}");
    for (i, n) in counts.iter().enumerate() {
        let y = HEIGHT * (1.0 - *n as f64 / highest.max(1) as f64);
        path += &format!("L{:.1} {y:.1}H{:.1}", i as f64 * wide, (i + 1) as f64 * wide);
    }
    path + &format!("V{HEIGHT}Z")
}

/// Bars, with gaps where there is room for them.
fn bars(counts: &[u64]) -> String {
    let highest = counts.iter().copied().max().unwrap_or(0);
    let wide = WIDTH / counts.len().max(1) as f64;
    let gap = if wide > 4.0 { 1.0 } else { 0.0 };
    let bar = |(i, n): (usize, &u64)| {
        let high = HEIGHT * *n as f64 / highest.max(1) as f64;
        format!("M{:.1} {HEIGHT}v-{high:.1}h{:.1}v{high:.1}z", i as f64 * wide + gap / 2.0, wide - gap)
    };
    counts.iter().enumerate().filter(|(_, n)| **n > 0).map(bar).collect()
}

/// The SQNR of all layers in the order of the model: dots, and lines at whole numbers.
fn overview(report: &Report) -> Value {
    let db = |rank: usize| report.layers[rank].errors.sqnr_db();
    let finite = || report.order.iter().map(|&rank| db(rank)).filter(|db| db.is_finite());
    let (low, high) = finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), db| (l.min(db), h.max(db)));
    if low > high {
        return json!({"dots": [], "lines": []});
    }
    let step =
        [1.0, 2.0, 5.0, 10.0, 20.0, 50.0].into_iter().find(|s| (high - low) / s <= 6.0).unwrap_or(100.0);
    let (bottom, top) = ((low / step).floor() * step, (high / step).floor() * step + step);
    let y = |db: f64| format!("{:.1}", PLOT.1 * (top - db) / (top - bottom));
    let lines = (0..=((top - bottom) / step).round() as usize).map(|i| bottom + step * i as f64);
    let lines: Vec<Value> = lines.map(|db| json!({"y": y(db), "db": format!("{db:.0}")})).collect();
    let wide = PLOT.0 / report.order.len() as f64;
    let dots = report.order.iter().enumerate().filter(|(_, rank)| db(**rank).is_finite());
    let dots: Vec<Value> = dots
        .map(|(i, &rank)| {
            let x = format!("{:.1}", (i as f64 + 0.5) * wide);
            json!({"x": x, "y": y(db(rank)), "rank": rank, "name": shown(&report.layers[rank].name), "db": format!("{:.2}", db(rank))})
        })
        .collect();
    json!({"dots": dots, "lines": lines})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawings_are_as_high_as_their_counts() {
        assert_eq!(steps(&[1, 2], 2), "M0 90L0.0 45.0H160.0L160.0 0.0H320.0V90Z");
        assert_eq!(bars(&[0, 4]), "M160.5 90v-90.0h159.0v90.0z");
        assert_eq!((bars(&[]), bars(&[0, 0])), (String::new(), String::new()));
        let of_zeros = steps(&[0, 0], 0);
        assert!(!of_zeros.contains("NaN"), "{of_zeros}");
    }

    #[test]
    fn shares_are_short() {
        assert_eq!([0.0, 1e-6, 0.0123, 1.0].map(percent), ["0", "< 0.01 %", "1.23 %", "100.00 %"]);
    }
}
