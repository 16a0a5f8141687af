//! The named schemes: one table, and the text form of the parametric families.
//!
//! ```text
//! int{1,2,3,4,5,6,8}-{tensor,row,gN}[-asym]   nf4-gN   fp4-gN   codebook{1..6,8}-gN   e4m3-row   e5m2-row
//! mxfp4   mxfp8   nvfp4   f32   f16   bf16   q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs tq1_0 tq2_0 q1_0 q2_0
//! ```
//!
//! Text parses to a [`Scheme`] and prints back to the same text. Group sizes are multiples of 4.

use super::*;
use std::fmt;
use std::str::FromStr;

/// A named point of the space.
pub struct Preset {
    pub name: &'static str,
    pub scheme: Scheme,
}

#[allow(clippy::too_many_arguments)] // one argument per field, in the order of the fields
const fn ggml(
    name: &'static str,
    kind: Ggml,
    bits: u8,
    value: Value,
    group: u32,
    scale: Scale,
    zero: Zero,
    encoder: Encoder,
) -> Preset {
    Preset {
        name,
        scheme: Scheme { bits, value, group: Group::Cols(group), scale, zero, encoder, ggml: Some(kind) },
    }
}

const fn float(name: &'static str, bits: u8, kind: Float) -> Preset {
    Preset {
        name,
        scheme: Scheme {
            bits,
            value: Value::Float(kind),
            group: Group::Row,
            scale: Scale::None,
            zero: Zero::None,
            encoder: Encoder::Round,
            ggml: None,
        },
    }
}

const fn linear(offset: i32) -> Value {
    Value::Linear { step: 1, offset }
}

const F16: Scale = Scale::Direct(ScaleType::F16);
const fn two_level(sub: SubScale) -> Scale {
    Scale::TwoLevel { sub, super_group: 256 }
}

/// Every scheme that has a name of its own. The parametric families (`int4-g32`, ...) are parsed by rule; tests iterate
/// [`samples`], which holds both.
pub static PRESETS: &[Preset] = &[
    float("f32", 32, Float::F32),
    float("f16", 16, Float::F16),
    float("bf16", 16, Float::Bf16),
    ggml("q4_0", Ggml::Q4_0, 4, linear(8), 32, F16, Zero::None, Encoder::GgmlExtreme),
    ggml("q4_1", Ggml::Q4_1, 4, linear(0), 32, F16, Zero::Bias, Encoder::GgmlMinMax),
    ggml("q5_0", Ggml::Q5_0, 5, linear(16), 32, F16, Zero::None, Encoder::GgmlExtreme),
    ggml("q5_1", Ggml::Q5_1, 5, linear(0), 32, F16, Zero::Bias, Encoder::GgmlMinMax),
    ggml("q8_0", Ggml::Q8_0, 8, linear(128), 32, F16, Zero::None, Encoder::GgmlAbsmax),
    ggml("q2_k", Ggml::Q2_K, 2, linear(0), 16, two_level(SubScale::U4Min), Zero::None, Encoder::GgmlAffine),
    ggml("q3_k", Ggml::Q3_K, 3, linear(4), 16, two_level(SubScale::I8), Zero::None, Encoder::GgmlDescent),
    ggml("q4_k", Ggml::Q4_K, 4, linear(0), 32, two_level(SubScale::U8Min), Zero::None, Encoder::GgmlAffine),
    ggml("q5_k", Ggml::Q5_K, 5, linear(0), 32, two_level(SubScale::U8Min), Zero::None, Encoder::GgmlAffine),
    ggml("q6_k", Ggml::Q6_K, 6, linear(32), 16, two_level(SubScale::I8), Zero::None, Encoder::GgmlSymmetric),
    ggml("iq4_nl", Ggml::IQ4_NL, 4, Value::Codebook(Codebook::Iq4Nl), 32, F16, Zero::None, Encoder::GgmlIq4),
    ggml(
        "iq4_xs",
        Ggml::IQ4_XS,
        4,
        Value::Codebook(Codebook::Iq4Nl),
        32,
        two_level(SubScale::I8),
        Zero::None,
        Encoder::GgmlIq4,
    ),
    ggml("tq1_0", Ggml::TQ1_0, 2, linear(1), 256, F16, Zero::None, Encoder::GgmlTernary),
    ggml("tq2_0", Ggml::TQ2_0, 2, linear(1), 256, F16, Zero::None, Encoder::GgmlTernary),
    ggml(
        "q1_0",
        Ggml::Q1_0,
        1,
        Value::Linear { step: 2, offset: 1 },
        128,
        F16,
        Zero::None,
        Encoder::GgmlMeanAbs,
    ),
    ggml("q2_0", Ggml::Q2_0, 2, linear(1), 64, F16, Zero::None, Encoder::GgmlTernary),
    ggml(
        "mxfp4",
        Ggml::MXFP4,
        4,
        Value::Codebook(Codebook::E2M1Doubled),
        32,
        Scale::Direct(ScaleType::E8M0Half),
        Zero::None,
        Encoder::SharedExponent { emax: 2 },
    ),
    ggml(
        "nvfp4",
        Ggml::NVFP4,
        4,
        Value::Codebook(Codebook::E2M1),
        16,
        Scale::Direct(ScaleType::Ue4M3),
        Zero::None,
        Encoder::GgmlNvfp4,
    ),
    Preset {
        name: "mxfp8",
        scheme: Scheme {
            bits: 8,
            value: Value::Codebook(Codebook::E4M3),
            group: Group::Cols(32),
            scale: Scale::Direct(ScaleType::E8M0),
            zero: Zero::None,
            encoder: Encoder::SharedExponent { emax: 8 },
            ggml: None,
        },
    },
    Preset { name: "e4m3-row", scheme: nearest(8, Value::Codebook(Codebook::E4M3), Group::Row) },
    Preset { name: "e5m2-row", scheme: nearest(8, Value::Codebook(Codebook::E5M2), Group::Row) },
];

/// Names of one member of each parametric family and group kind, and short last groups: with [`PRESETS`], what tests
/// and benches iterate.
pub const FAMILY_SAMPLES: &[&str] = &[
    "int1-tensor",
    "int1-row",
    "int1-g32",
    "int2-row",
    "int2-g16",
    "int2-g64-asym",
    "int3-tensor",
    "int3-g32",
    "int3-g128-asym",
    "int4-tensor",
    "int4-tensor-asym",
    "int4-row",
    "int4-row-asym",
    "int4-g20",
    "int4-g32",
    "int4-g32-asym",
    "int4-g128",
    "int4-g128-asym",
    "int5-g32",
    "int5-row-asym",
    "int6-g64",
    "int6-g64-asym",
    "int8-tensor",
    "int8-row",
    "int8-row-asym",
    "int8-g32",
    "int8-g128-asym",
    "nf4-g64",
    "nf4-g32",
    "fp4-g32",
    "codebook1-g32",
    "codebook2-g32",
    "codebook3-g64",
    "codebook4-g64",
    "codebook5-g64",
    "codebook6-g128",
    "codebook8-g128",
];

/// Every preset and family sample: the axis of schemes in the differential suite.
pub fn samples() -> Vec<Scheme> {
    let families = FAMILY_SAMPLES.iter().map(|n| n.parse().expect("a sample name parses"));
    PRESETS.iter().map(|p| p.scheme).chain(families).collect()
}

/// Scales per row or tensor are few, so they are f32; scales per group are f16.
const fn scale_for(group: Group) -> Scale {
    match group {
        Group::Tensor | Group::Row => Scale::Direct(ScaleType::F32),
        Group::Cols(_) => Scale::Direct(ScaleType::F16),
    }
}

const fn nearest(bits: u8, value: Value, group: Group) -> Scheme {
    Scheme {
        bits,
        value,
        group,
        scale: scale_for(group),
        zero: Zero::None,
        encoder: Encoder::Nearest,
        ggml: None,
    }
}

/// `int{bits}-{group}[-asym]`.
const fn int(bits: u8, group: Group, asym: bool) -> Scheme {
    let (value, zero, encoder) = match (bits, asym) {
        (1, _) => (Value::Linear { step: 2, offset: 1 }, Zero::None, Encoder::MeanAbs),
        (_, true) => (linear(0), Zero::Point, Encoder::MinMax),
        (_, false) => (linear(1 << (bits - 1)), Zero::None, Encoder::Absmax),
    };
    Scheme { bits, value, group, scale: scale_for(group), zero, encoder, ggml: None }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor => f.write_str("tensor"),
            Self::Row => f.write_str("row"),
            Self::Cols(g) => write!(f, "g{g}"),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(p) = PRESETS.iter().find(|p| p.scheme == *self) {
            return f.pad(p.name);
        }
        let (bits, group) = (self.bits, self.group);
        f.pad(&match self.value {
            Value::Linear { .. } if self.zero == Zero::Point => format!("int{bits}-{group}-asym"),
            Value::Linear { .. } => format!("int{bits}-{group}"),
            Value::Codebook(Codebook::Nf4) => format!("nf4-{group}"),
            Value::Codebook(Codebook::E2M1 | Codebook::E2M1Doubled) => format!("fp4-{group}"),
            Value::Codebook(Codebook::Iq4Nl) => format!("iq4-{group}"),
            Value::Codebook(Codebook::E4M3) => format!("e4m3-{group}"),
            Value::Codebook(Codebook::E5M2) => format!("e5m2-{group}"),
            Value::Learned => format!("codebook{bits}-{group}"),
            Value::Float(_) => format!("float{bits}"),
        })
    }
}

/// Parses `tensor`, `row` or `gN`.
fn parse_group(name: &str, text: &str) -> Result<Group> {
    let bad = |why: &str| Error::BadScheme { name: name.into(), why: why.into() };
    match text {
        "tensor" => Ok(Group::Tensor),
        "row" => Ok(Group::Row),
        _ => {
            let digits =
                text.strip_prefix('g').filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
            let digits = digits.ok_or_else(|| unknown(name))?;
            match digits.parse::<u32>() {
                Ok(g) if g > 0 && g % 4 == 0 && g <= 1 << 20 && !digits.starts_with('0') => {
                    Ok(Group::Cols(g))
                }
                _ => Err(bad("the group size must be a multiple of 4, from 4 to 1048576")),
            }
        }
    }
}

/// The error for a name that is none, with the nearest name that is one.
fn unknown(name: &str) -> Error {
    // A family without its group: `int4`, `nf4`.
    let grouped = format!("{name}-g32");
    if !name.contains('-') && grouped.parse::<Scheme>().is_ok() {
        return Error::UnknownScheme { name: name.into(), suggestion: Some(grouped) };
    }
    let names = PRESETS.iter().map(|p| p.name).chain(FAMILY_SAMPLES.iter().copied());
    let best = names.map(|n| (edit_distance(name, n), n)).min();
    let suggestion = best.filter(|(d, n)| *d <= n.len().div_ceil(2)).map(|(_, n)| n.to_string());
    Error::UnknownScheme { name: name.into(), suggestion }
}

/// Levenshtein distance in bytes, one row of the table at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.bytes().enumerate() {
            let replace = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl FromStr for Scheme {
    type Err = Error;

    /// Parses a scheme name, in lower or upper case.
    ///
    /// # Errors
    /// [`Error::UnknownScheme`] with a suggestion, or [`Error::BadScheme`] for a parameter out of range.
    fn from_str(text: &str) -> Result<Self> {
        let name = text.trim().to_ascii_lowercase();
        if let Some(p) = PRESETS.iter().find(|p| p.name == name) {
            return Ok(p.scheme);
        }
        let bad = |why: &str| Err(Error::BadScheme { name: name.clone(), why: why.into() });
        let mut parts = name.split('-');
        let (Some(family), Some(group)) = (parts.next(), parts.next()) else { return Err(unknown(&name)) };
        let asym = match (parts.next(), parts.next()) {
            (None, _) => false,
            (Some("asym"), None) => true,
            _ => return Err(unknown(&name)),
        };
        let (kind, digits) = family.split_at(family.trim_end_matches(|c: char| c.is_ascii_digit()).len());
        if !matches!(kind, "int" | "nf" | "fp" | "codebook") || digits.len() != 1 {
            return Err(unknown(&name));
        }
        let bits = digits.as_bytes()[0] - b'0';
        let group = parse_group(&name, group)?;
        match (kind, bits) {
            ("int", 1) if asym => bad("one bit is plus or minus the scale and has no zero-point"),
            ("int", 1..=6 | 8) => Ok(int(bits, group, asym)),
            ("nf" | "fp" | "codebook", _) if asym => bad("a codebook has no zero-point"),
            ("nf" | "fp" | "codebook", _) if !matches!(group, Group::Cols(_)) => bad("the group must be gN"),
            ("nf", 4) => Ok(nearest(4, Value::Codebook(Codebook::Nf4), group)),
            ("fp", 4) => Ok(nearest(4, Value::Codebook(Codebook::E2M1), group)),
            ("codebook", 1..=6 | 8) => Ok(nearest(bits, Value::Learned, group)),
            ("int" | "codebook", _) => bad("the bits must be 1, 2, 3, 4, 5, 6 or 8"),
            _ => Err(unknown(&name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_print_back() {
        for p in PRESETS {
            assert_eq!(p.scheme.to_string(), p.name);
            assert_eq!(p.name.parse::<Scheme>().unwrap(), p.scheme);
        }
        for name in FAMILY_SAMPLES {
            assert_eq!(name.parse::<Scheme>().unwrap().to_string(), *name);
        }
        let all = samples();
        let distinct: std::collections::HashSet<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!("Q4_K".parse::<Scheme>().unwrap().to_string(), "q4_k");
    }

    #[test]
    fn wrong_names_are_explained() {
        for (name, hint) in [
            ("q4_9", "q4_0"),
            ("int4-g32-asm", "int4-g32-asym"),
            ("nf4_g64", "nf4-g64"),
            ("mxfp", "mxfp4"),
            ("int4", "int4-g32"),
            ("nf4", "nf4-g32"),
        ] {
            match name.parse::<Scheme>() {
                Err(Error::UnknownScheme { suggestion: Some(s), .. }) => {
                    assert!(s.starts_with(&hint[..3]), "{name} -> {s}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        for name in [
            "",
            "-",
            "int4",
            "int4-",
            "int4-g",
            "int4-g32-asym-x",
            "zzzzzzzzzzzzzzzzzzzzzz",
            "int44-g32",
            "ïnt4-g32",
        ] {
            assert!(matches!(name.parse::<Scheme>(), Err(Error::UnknownScheme { .. })), "{name}");
        }
        for name in [
            "int7-g32",
            "int9-row",
            "int0-row",
            "int4-g0",
            "int4-g6",
            "int4-g032",
            "int4-g99999999999",
            "int1-row-asym",
            "nf4-row",
            "nf4-g64-asym",
            "codebook7-g32",
        ] {
            assert!(matches!(name.parse::<Scheme>(), Err(Error::BadScheme { .. })), "{name}");
        }
    }

    #[test]
    fn bits_per_weight_are_the_formats_own() {
        for (name, k, bits) in [
            ("q4_0", 4096, 4.5),
            ("q4_1", 4096, 5.0),
            ("q5_0", 4096, 5.5),
            ("q8_0", 4096, 8.5),
            ("q2_k", 4096, 2.625),
            ("q6_k", 4096, 6.5625),
            ("tq2_0", 4096, 2.0625),
            ("q1_0", 4096, 1.125),
            ("mxfp4", 4096, 4.25),
            ("nvfp4", 4096, 4.5),
            ("int4-g128", 4096, 4.125),
            ("int4-g128-asym", 4096, 4.1875),
            ("nf4-g64", 4096, 4.25),
            ("f16", 4096, 16.0),
        ] {
            let s: Scheme = name.parse().unwrap();
            assert_eq!(s.bits_per_weight(16, k), bits, "{name}");
        }
    }

    #[test]
    fn shapes_are_checked() {
        let q: Scheme = "q4_k".parse().unwrap();
        assert_eq!(q.check_shape(&[3, 5, 512]).unwrap(), (15, 512));
        assert!(matches!(q.check_shape(&[5, 500]), Err(Error::GroupMismatch { k: 500, group: 256, .. })));
        assert!(matches!(q.check_shape(&[]), Err(Error::Shape { .. })));
        assert!(matches!(q.check_shape(&[0, 256]), Err(Error::Shape { .. })));
        assert!(matches!(q.check_shape(&[usize::MAX / 2, 256]), Err(Error::Shape { .. })));
        let own: Scheme = "int4-g32".parse().unwrap();
        assert_eq!(own.check_shape(&[7, 33]).unwrap(), (7, 33));
    }
}
