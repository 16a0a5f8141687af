//! WGSL templates: the files under `shaders/`, rendered with numbers from Rust.
//!
//! ```text
//! //% for i in range(4)          a line statement: the line is still a comment to a WGSL reader
//! acc{{ i }} += x{{ i }};        an expression
//! //% endfor
//! //% include "lib/grid.wgsl"    another file, by its path under shaders/
//! ```
//!
//! `{% %}` blocks and `{# #}` comments work too. An undefined variable is an error, also in a condition. Filters for
//! literals: `f32` (exact for any finite value, in parentheses if negative), `f16`, `u32`.
//!
//! Line statements take the whitespace around them along, the newline included. Not here: which variables there are.

use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde::Serialize;

use crate::error::{Error, Result};

/// Functions that a language extension of WGSL has, for browsers that lack it.
pub(super) const PACKED: &str = include_str!("../../shaders/lib/packed.wgsl");

/// Every file under `shaders/`, by its path there.
pub const SHADERS: &[(&str, &str)] = &[
    ("kernel/activate.wgsl", include_str!("../../shaders/kernel/activate.wgsl")),
    ("kernel/attention.wgsl", include_str!("../../shaders/kernel/attention.wgsl")),
    ("kernel/convert.wgsl", include_str!("../../shaders/kernel/convert.wgsl")),
    ("kernel/coop.wgsl", include_str!("../../shaders/kernel/coop.wgsl")),
    ("kernel/cross_entropy.wgsl", include_str!("../../shaders/kernel/cross_entropy.wgsl")),
    ("kernel/dense.wgsl", include_str!("../../shaders/kernel/dense.wgsl")),
    ("kernel/dequantize.wgsl", include_str!("../../shaders/kernel/dequantize.wgsl")),
    ("kernel/direct.wgsl", include_str!("../../shaders/kernel/direct.wgsl")),
    ("kernel/dot_coop.wgsl", include_str!("../../shaders/kernel/dot_coop.wgsl")),
    ("kernel/dot_matmul.wgsl", include_str!("../../shaders/kernel/dot_matmul.wgsl")),
    ("kernel/dot_matvec.wgsl", include_str!("../../shaders/kernel/dot_matvec.wgsl")),
    ("kernel/embed.wgsl", include_str!("../../shaders/kernel/embed.wgsl")),
    ("kernel/fake_quantize.wgsl", include_str!("../../shaders/kernel/fake_quantize.wgsl")),
    ("kernel/gram.wgsl", include_str!("../../shaders/kernel/gram.wgsl")),
    ("kernel/histogram.wgsl", include_str!("../../shaders/kernel/histogram.wgsl")),
    ("kernel/transform.wgsl", include_str!("../../shaders/kernel/transform.wgsl")),
    ("kernel/int8_rows.wgsl", include_str!("../../shaders/kernel/int8_rows.wgsl")),
    ("kernel/int8_values.wgsl", include_str!("../../shaders/kernel/int8_values.wgsl")),
    ("kernel/kv_attention.wgsl", include_str!("../../shaders/kernel/kv_attention.wgsl")),
    ("kernel/kv_pack.wgsl", include_str!("../../shaders/kernel/kv_pack.wgsl")),
    ("kernel/kv_store.wgsl", include_str!("../../shaders/kernel/kv_store.wgsl")),
    ("kernel/layer_norm.wgsl", include_str!("../../shaders/kernel/layer_norm.wgsl")),
    ("kernel/matmul.wgsl", include_str!("../../shaders/kernel/matmul.wgsl")),
    ("kernel/matvec.wgsl", include_str!("../../shaders/kernel/matvec.wgsl")),
    ("kernel/mean_pool.wgsl", include_str!("../../shaders/kernel/mean_pool.wgsl")),
    ("kernel/normalize.wgsl", include_str!("../../shaders/kernel/normalize.wgsl")),
    ("kernel/quantize_codes.wgsl", include_str!("../../shaders/kernel/quantize_codes.wgsl")),
    ("kernel/quantize_range.wgsl", include_str!("../../shaders/kernel/quantize_range.wgsl")),
    ("kernel/quantize_scales.wgsl", include_str!("../../shaders/kernel/quantize_scales.wgsl")),
    ("kernel/quantize_search.wgsl", include_str!("../../shaders/kernel/quantize_search.wgsl")),
    ("kernel/step_gradient.wgsl", include_str!("../../shaders/kernel/step_gradient.wgsl")),
    ("kernel/sum_parts.wgsl", include_str!("../../shaders/kernel/sum_parts.wgsl")),
    ("kernel/update.wgsl", include_str!("../../shaders/kernel/update.wgsl")),
    ("lib/activations.wgsl", include_str!("../../shaders/lib/activations.wgsl")),
    ("lib/code.wgsl", include_str!("../../shaders/lib/code.wgsl")),
    ("lib/dot_bindings.wgsl", include_str!("../../shaders/lib/dot_bindings.wgsl")),
    ("lib/dot_end.wgsl", include_str!("../../shaders/lib/dot_end.wgsl")),
    ("lib/dot_fields.wgsl", include_str!("../../shaders/lib/dot_fields.wgsl")),
    ("lib/epilogue.wgsl", include_str!("../../shaders/lib/epilogue.wgsl")),
    ("lib/erf.wgsl", include_str!("../../shaders/lib/erf.wgsl")),
    ("lib/f16.wgsl", include_str!("../../shaders/lib/f16.wgsl")),
    ("lib/grid.wgsl", include_str!("../../shaders/lib/grid.wgsl")),
    ("lib/grid_code.wgsl", include_str!("../../shaders/lib/grid_code.wgsl")),
    ("lib/int8_fields.wgsl", include_str!("../../shaders/lib/int8_fields.wgsl")),
    ("lib/k_range.wgsl", include_str!("../../shaders/lib/k_range.wgsl")),
    ("lib/kv.wgsl", include_str!("../../shaders/lib/kv.wgsl")),
    ("lib/packed.wgsl", PACKED),
    ("lib/product_bindings.wgsl", include_str!("../../shaders/lib/product_bindings.wgsl")),
    ("lib/product_fields.wgsl", include_str!("../../shaders/lib/product_fields.wgsl")),
    ("lib/steps.wgsl", include_str!("../../shaders/lib/steps.wgsl")),
    ("lib/team.wgsl", include_str!("../../shaders/lib/team.wgsl")),
    ("lib/team_joins.wgsl", include_str!("../../shaders/lib/team_joins.wgsl")),
    ("lib/tiles.wgsl", include_str!("../../shaders/lib/tiles.wgsl")),
    ("lib/total.wgsl", include_str!("../../shaders/lib/total.wgsl")),
    ("lib/x_binding.wgsl", include_str!("../../shaders/lib/x_binding.wgsl")),
    ("scheme/byte_scales.wgsl", include_str!("../../shaders/scheme/byte_scales.wgsl")),
    ("scheme/bytes.wgsl", include_str!("../../shaders/scheme/bytes.wgsl")),
    ("scheme/chunks.wgsl", include_str!("../../shaders/scheme/chunks.wgsl")),
    ("scheme/encode.wgsl", include_str!("../../shaders/scheme/encode.wgsl")),
    ("scheme/fields.wgsl", include_str!("../../shaders/scheme/fields.wgsl")),
    ("scheme/scales.wgsl", include_str!("../../shaders/scheme/scales.wgsl")),
    ("scheme/weights.wgsl", include_str!("../../shaders/scheme/weights.wgsl")),
];

static ENVIRONMENT: LazyLock<Result<Environment<'static>, minijinja::Error>> = LazyLock::new(|| {
    let mut env = Environment::new();
    env.set_syntax(
        SyntaxConfig::builder()
            .line_statement_prefix("//%")
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(true)
            .build()?,
    );
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.add_filter("f32", f32_literal);
    env.add_filter("f16", f16_literal);
    env.add_filter("u32", u32_literal);
    for (name, text) in SHADERS {
        env.add_template(name, text)?;
    }
    Ok(env)
});

/// Renders the file `name` of `shaders/`.
///
/// # Errors
/// [`Error::Template`] with the file and line, the engine's message, and the cause of a failed include.
pub fn render(name: &str, context: impl Serialize) -> Result<String> {
    let env = environment(name)?;
    env.get_template(name)
        .and_then(|template| template.render(Value::from(Serde(&context))))
        .map_err(|error| template_error(name, &error))
}

/// Renders `text`, which may include files of `shaders/`; `name` is for errors.
///
/// # Errors
/// As [`render`].
pub fn render_text(name: &str, text: &str, context: impl Serialize) -> Result<String> {
    let env = environment(name)?;
    env.render_named_str(name, text, Value::from(Serde(&context)))
        .map_err(|error| template_error(name, &error))
}

fn environment(name: &str) -> Result<&'static Environment<'static>> {
    ENVIRONMENT.as_ref().map_err(|error| template_error(name, error))
}

fn template_error(name: &str, error: &minijinja::Error) -> Error {
    // An error inside of an include is wrapped once per level; the innermost one says what is wrong.
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        message = format!("{message}: {inner}");
        cause = inner.source();
    }
    Error::Template { name: name.into(), message }
}

/// The shortest decimal that reads back as the same `f32`, subnormals included. NaN and infinities have no literal in WGSL.
fn f32_literal(value: f64) -> Result<String, minijinja::Error> {
    let value = value as f32;
    literal(value.is_finite(), value.is_sign_negative(), format!("{:e}f", value.abs()), value)
}

/// The shortest decimal that reads back as the same `f16`.
fn f16_literal(value: f64) -> Result<String, minijinja::Error> {
    let value = half::f16::from_f64(value);
    let exact = f32::from(value);
    literal(value.is_finite(), value.is_sign_negative(), format!("{:e}h", exact.abs()), exact)
}

fn literal(finite: bool, negative: bool, digits: String, value: f32) -> Result<String, minijinja::Error> {
    match (finite, negative) {
        (false, _) => {
            let message = format!("{value} has no literal in WGSL");
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        }
        (true, false) => Ok(digits),
        (true, true) => Ok(format!("(-{digits})")),
    }
}

fn u32_literal(value: u32) -> String {
    format!("{value}u")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_table_holds_every_shader_file() {
        fn walk(dir: &Path, root: &Path, out: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, root, out);
                } else {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                    out.push(name.replace(std::path::MAIN_SEPARATOR, "/"));
                }
            }
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
        let mut files = Vec::new();
        walk(&root, &root, &mut files);
        files.sort();
        let mut table: Vec<_> = SHADERS.iter().map(|(name, _)| name.to_string()).collect();
        table.sort();
        assert_eq!(files, table);
    }

    #[test]
    fn line_statements_expressions_and_includes() {
        let text = "\
//% for i in range(n)
let a{{ i }} = {{ i | u32 }};
//% endfor
//% if wide
enable f16;
//% endif
//% include \"lib/grid.wgsl\"
// a comment, 100% WGSL
";
        let out = render_text("t", text, serde_json::json!({ "n": 2, "wide": false })).unwrap();
        assert!(out.starts_with("let a0 = 0u;\nlet a1 = 1u;\n"), "{out}");
        assert!(out.contains("fn linear_workgroup(") && !out.contains("enable"), "{out}");
        assert!(out.ends_with("}\n// a comment, 100% WGSL\n"), "{out}");
    }

    #[test]
    fn what_is_undefined_or_missing_is_an_error_with_its_place() {
        for text in ["x\n{{ nope }}\n", "x\n//% if nope\n//% endif\n", "x\n//% include \"lib/nope.wgsl\"\n"] {
            match render_text("broken.wgsl", text, ()) {
                Err(Error::Template { name, message }) => {
                    assert_eq!(name, "broken.wgsl");
                    assert!(message.contains("broken.wgsl:2"), "{message}");
                }
                other => panic!("{text:?} gave {other:?}"),
            }
        }
        assert!(matches!(render("lib/nope.wgsl", ()), Err(Error::Template { .. })));
    }

    #[test]
    fn float_literals_read_back_bit_for_bit() {
        let parse = |literal: String| {
            let digits = literal.trim_matches(['(', ')']).trim_end_matches(['f', 'h']).to_owned();
            digits.parse::<f32>().unwrap()
        };
        let mut state = 1u32;
        let mut values =
            vec![0.0, -0.0, 1.0, f32::MAX, f32::MIN_POSITIVE, f32::from_bits(1), -f32::from_bits(0x7f_ffff)];
        for _ in 0..10_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            values.push(f32::from_bits(state));
        }
        for value in values.into_iter().filter(|v| v.is_finite()) {
            let literal = f32_literal(value.into()).unwrap();
            assert_eq!(parse(literal.clone()).to_bits(), value.to_bits(), "{literal}");
        }
        for bits in (0..=u16::MAX).map(half::f16::from_bits).filter(|v| v.is_finite()) {
            let literal = f16_literal(bits.into()).unwrap();
            assert_eq!(half::f16::from_f32(parse(literal.clone())).to_bits(), bits.to_bits(), "{literal}");
        }
        assert_eq!(f32_literal(-1.5).unwrap(), "(-1.5e0f)");
        assert!(
            f32_literal(f64::NAN).is_err() && f32_literal(1e39).is_err() && f16_literal(65520.0).is_err()
        );
    }

    #[test]
    fn literals_mean_the_same_to_naga() {
        let values = [1.5f32, -1.5, f32::from_bits(1), f32::MAX, -0.0, 0.1];
        let text = "const a = array<f32, 6>({% for v in values %}{{ v | f32 }}, {% endfor %});\n\
                    const h = 1.0;\n@compute @workgroup_size(1) fn main() { let b = a[0]; }";
        let wgsl = render_text("t", text, serde_json::json!({ "values": values })).unwrap();
        let module = naga::front::wgsl::parse_str(&wgsl).unwrap();
        let read: Vec<u32> = module
            .global_expressions
            .iter()
            .filter_map(|(_, e)| match e {
                naga::Expression::Literal(naga::Literal::F32(v)) => Some(v.to_bits()),
                _ => None,
            })
            .collect();
        for value in values {
            assert!(read.contains(&value.to_bits()), "{value:e} not among {read:x?}");
        }
    }
}
