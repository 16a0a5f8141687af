//! The named schemes: one table, and the text form of the parametric families.
//!
//! ```text
//! int{1..8}-{tensor,row,gN}[-asym|-bias|-fzero][-SCALE][-perm]
//! {nf4,fp4,bnbfp4,e4m3,e5m2}-{tensor,row,gN}[-SCALE][-perm]    codebook{1..6,8}-{tensor,gN}[-SCALE][-perm]
//! codebook{1..6,8}-{row,gN}-tables[-perm]
//! mxfp4   mxfp8   nvfp4   nvfp4-global   f32   f16   bf16
//! q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs tq1_0 tq2_0 q1_0 q2_0
//! ```
//!
//! | part | says |
//! |---|---|
//! | `-asym` | a zero-point, an integer of 8 bits |
//! | `-bias` | a bias added after scaling, of the scale's type (f16 or bf16) |
//! | `-fzero` | a zero of the scale's type, subtracted from the code before scaling |
//! | `-tables` | a table of f16 for each row or group, and no scale |
//! | `SCALE` | `f32`, `f16`, `bf16`, or for fp4, e4m3 and e5m2 in groups `e8m0`; f16 per group (always beside a bias) and f32 per row or tensor are not written |
//! | `-perm` | the columns are stored in an order of their own |
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
        scheme: Scheme {
            bits,
            value,
            group: Group::Cols(group),
            scale,
            zero,
            order: Order::Natural,
            encoder,
            ggml: Some(kind),
        },
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
            order: Order::Natural,
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
        Value::Codebook(Codebook::E2M1PlainZero),
        16,
        Scale::Direct(ScaleType::Ue4M3),
        Zero::None,
        Encoder::GgmlNvfp4,
    ),
    Preset {
        name: "mxfp8",
        scheme: table(
            8,
            Value::Codebook(Codebook::E4M3),
            Group::Cols(32),
            ScaleType::E8M0,
            Encoder::SharedExponent { emax: 8 },
        ),
    },
    Preset {
        name: "e4m3-row",
        scheme: table(8, Value::Codebook(Codebook::E4M3), Group::Row, ScaleType::F32, Encoder::Nearest),
    },
    Preset {
        name: "e5m2-row",
        scheme: table(8, Value::Codebook(Codebook::E5M2), Group::Row, ScaleType::F32, Encoder::Nearest),
    },
    Preset {
        name: "nvfp4-global",
        scheme: table(
            4,
            Value::Codebook(Codebook::E2M1),
            Group::Cols(16),
            ScaleType::Table,
            Encoder::GlobalScale,
        ),
    },
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
    "codebook4-tensor",
    "codebook1-g32",
    "codebook2-g32",
    "codebook3-g64",
    "codebook4-g64",
    "codebook5-g64",
    "codebook6-g128",
    "codebook8-g128",
    "codebook4-row-tables",
    "codebook3-g256-tables",
    "codebook2-g32-tables",
    "codebook4-g64-tables-perm",
    "int7-g32",
    "int4-g128-bf16",
    "nf4-g64-f32",
    "bnbfp4-g64",
    "e4m3-g128",
    "fp4-g32-e8m0",
    "int4-g64-bias",
    "int8-row-bias-bf16",
    "int4-g64-fzero",
    "int8-row-fzero",
    "int2-g16-fzero-bf16",
    "int4-g128-asym-perm",
    "int5-g32-perm",
];

/// Every preset and family sample: the axis of schemes in the differential suite.
pub fn samples() -> Vec<Scheme> {
    let families = FAMILY_SAMPLES.iter().map(|n| n.parse().expect("a sample name parses"));
    PRESETS.iter().map(|p| p.scheme).chain(families).collect()
}

/// The scale's type where the name of a family does not say it. Scales per row or tensor are few, so they are f32, but beside a bias,
/// where products have to be exact; scales per group are f16.
const fn default_scale(group: Group, zero: Zero) -> ScaleType {
    match (group, zero) {
        (Group::Cols(_), _) | (_, Zero::Bias) => ScaleType::F16,
        (Group::Tensor | Group::Row, _) => ScaleType::F32,
    }
}

/// Codes in a table, without zeros.
const fn table(bits: u8, value: Value, group: Group, scale: ScaleType, encoder: Encoder) -> Scheme {
    Scheme {
        bits,
        value,
        group,
        scale: Scale::Direct(scale),
        zero: Zero::None,
        order: Order::Natural,
        encoder,
        ggml: None,
    }
}

/// A table for each group.
const fn group_tables(bits: u8, group: Group) -> Scheme {
    Scheme { scale: Scale::None, ..table(bits, Value::Tables, group, ScaleType::F16, Encoder::Clusters) }
}

/// What a family name may say after the group, in this order; see the file's text.
const ZEROS: [(&str, Zero); 3] = [("asym", Zero::Point), ("bias", Zero::Bias), ("fzero", Zero::Float)];
const SCALES: [(&str, ScaleType); 4] =
    [("f32", ScaleType::F32), ("f16", ScaleType::F16), ("bf16", ScaleType::Bf16), ("e8m0", ScaleType::E8M0)];
const TABLE_WORDS: [(&str, Value); 1] = [("tables", Value::Tables)];
const ORDERS: [(&str, Order); 1] = [("perm", Order::Permuted)];

/// Families of a fixed table: name, bits, table, `emax` of its element type in microscaling formats.
const TABLES: [(&str, u8, Codebook, Option<i32>); 5] = [
    ("nf4", 4, Codebook::Nf4, None),
    ("fp4", 4, Codebook::E2M1, Some(2)),
    ("bnbfp4", 4, Codebook::BnbFp4, None),
    ("e4m3", 8, Codebook::E4M3, Some(8)),
    ("e5m2", 8, Codebook::E5M2, Some(15)),
];

/// Takes the first of `parts` if it is one of the words.
fn take<T: Copy>(parts: &mut &[&str], words: &[(&str, T)]) -> Option<T> {
    let (first, rest) = parts.split_first()?;
    let (_, meaning) = words.iter().find(|(word, _)| word == first)?;
    *parts = rest;
    Some(*meaning)
}

/// The word for a meaning, with its dash; empty for those without.
fn word<T: PartialEq>(words: &[(&str, T)], meaning: &T) -> String {
    words.iter().find(|(_, m)| m == meaning).map(|(word, _)| format!("-{word}")).unwrap_or_default()
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
        let Self { bits, group, .. } = *self;
        let family = match self.value {
            Value::Linear { .. } => format!("int{bits}"),
            Value::Codebook(Codebook::Nf4) => "nf4".into(),
            Value::Codebook(Codebook::E2M1 | Codebook::E2M1PlainZero | Codebook::E2M1Doubled) => "fp4".into(),
            Value::Codebook(Codebook::BnbFp4) => "bnbfp4".into(),
            Value::Codebook(Codebook::Iq4Nl) => "iq4".into(),
            Value::Codebook(Codebook::E4M3) => "e4m3".into(),
            Value::Codebook(Codebook::E5M2) => "e5m2".into(),
            Value::Learned | Value::Tables => format!("codebook{bits}"),
            Value::Float(_) => format!("float{bits}"),
        };
        let scale = match self.scale {
            Scale::Direct(t) if t != default_scale(group, self.zero) => word(&SCALES, &t),
            _ => String::new(),
        };
        let tables = word(&TABLE_WORDS, &self.value);
        let (zero, order) = (word(&ZEROS, &self.zero), word(&ORDERS, &self.order));
        f.pad(&format!("{family}-{group}{zero}{tables}{scale}{order}"))
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
    unknown_among(name, PRESETS.iter().map(|p| p.name).chain(FAMILY_SAMPLES.iter().copied()))
}

/// As [`unknown`], with the names that may be suggested.
pub(super) fn unknown_among(name: &str, names: impl Iterator<Item = &'static str>) -> Error {
    // A family without its group: `int4`, `nf4`.
    let grouped = format!("{name}-g32");
    if !name.contains('-') && grouped.parse::<Scheme>().is_ok() {
        return Error::UnknownScheme { name: name.into(), suggestion: Some(grouped) };
    }
    let best = names.map(|n| (strsim::levenshtein(name, n), n)).min();
    let suggestion = best.filter(|(d, n)| *d <= n.len().div_ceil(2)).map(|(_, n)| n.to_string());
    Error::UnknownScheme { name: name.into(), suggestion }
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
        let parts: Vec<&str> = name.split('-').collect();
        let [family, group, rest @ ..] = parts.as_slice() else { return Err(unknown(&name)) };
        let mut rest = rest;
        let zero = take(&mut rest, &ZEROS).unwrap_or(Zero::None);
        let tables = take(&mut rest, &TABLE_WORDS);
        let scale = take(&mut rest, &SCALES);
        let order = take(&mut rest, &ORDERS).unwrap_or(Order::Natural);
        let fixed = TABLES.iter().find(|t| t.0 == *family);
        let (kind, digits) = family.split_at(family.trim_end_matches(|c: char| c.is_ascii_digit()).len());
        let known = fixed.is_some() || matches!(kind, "int" | "codebook" | "nf" | "fp") && digits.len() == 1;
        if !rest.is_empty() || !known {
            return Err(unknown(&name));
        }
        let group = parse_group(&name, group)?;
        if tables.is_some() {
            let digit = digits.bytes().next().map_or(0, |d| d - b'0');
            return match (kind, digit, group) {
                ("codebook", _, _) if zero != Zero::None => bad("a table has no zeros"),
                ("codebook", _, _) if scale.is_some() => bad("a group's own table has no scale beside it"),
                ("codebook", 1..=6 | 8, Group::Tensor) => bad(
                    "a table of the whole tensor is learned in codebookN-tensor; tables are of rows (-row) or groups (-gN)",
                ),
                // 2^bits entries of 16 bits beside g codes: with fewer values a group would be no smaller than in f16.
                ("codebook", bits @ (1..=6 | 8), Group::Cols(g))
                    if g * (16 - u32::from(bits)) <= 16 << bits =>
                {
                    bad(
                        "the table of such a group would take more than its codes save; take a larger group or fewer bits",
                    )
                }
                ("codebook", bits @ (1..=6 | 8), _) => Ok(Scheme { order, ..group_tables(bits, group) }),
                ("codebook", ..) => bad("the bits must be 1, 2, 3, 4, 5, 6 or 8"),
                _ => bad("tables of groups are learned: codebookN-gN-tables or codebookN-row-tables"),
            };
        }
        let scale = scale.unwrap_or(default_scale(group, zero));
        if let Some(&(_, bits, codebook, emax)) = fixed {
            let encoder = match (scale, emax, group) {
                _ if zero != Zero::None => return bad("a table has no zeros"),
                (ScaleType::E8M0, Some(emax), Group::Cols(_)) => Encoder::SharedExponent { emax },
                (ScaleType::E8M0, Some(_), _) => return bad("e8m0 scales are per group"),
                (ScaleType::E8M0, None, _) => return bad("fp4, e4m3 and e5m2 have e8m0 scales"),
                _ => Encoder::Nearest,
            };
            return Ok(Scheme { order, ..table(bits, Value::Codebook(codebook), group, scale, encoder) });
        }
        if scale == ScaleType::E8M0 {
            return bad("fp4, e4m3 and e5m2 have e8m0 scales");
        }
        let bits = digits.as_bytes()[0] - b'0';
        let linear = |offset, encoder| Scheme {
            zero,
            order,
            ..table(bits, Value::Linear { step: 1, offset }, group, scale, encoder)
        };
        match (kind, bits, zero) {
            ("int", 1, Zero::None) => Ok(Scheme {
                order,
                ..table(bits, Value::Linear { step: 2, offset: 1 }, group, scale, Encoder::MeanAbs)
            }),
            ("int", 1, Zero::Point) => bad("one bit is plus or minus the scale and has no zero-point"),
            ("int", 1..=8, Zero::Bias) if scale == ScaleType::F32 => {
                bad("a bias needs f16 or bf16 scales, with which products are exact")
            }
            ("int", 1..=8, Zero::None) => Ok(linear(1 << (bits - 1), Encoder::Absmax)),
            ("int", 1..=8, Zero::Point) => Ok(linear(0, Encoder::MinMax)),
            ("int", 1..=8, Zero::Bias) => Ok(linear(0, Encoder::MinMaxBias)),
            ("int", 1..=8, Zero::Float) => Ok(linear(0, Encoder::MinMaxZero)),
            ("int", ..) => bad("the bits must be 1 to 8"),
            ("codebook", _, Zero::Point | Zero::Bias | Zero::Float) => bad("a table has no zeros"),
            ("codebook", ..) if group == Group::Row => {
                bad("the group must be gN or tensor; -row-tables gives each row a table")
            }
            ("codebook", 1..=6 | 8, _) => {
                Ok(Scheme { order, ..table(bits, Value::Learned, group, scale, Encoder::Nearest) })
            }
            ("codebook", ..) => bad("the bits must be 1, 2, 3, 4, 5, 6 or 8"),
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
        // A scale type that is the default is not repeated, and a preset keeps its name.
        for (typed, name) in [
            ("int4-g128-f16-perm", "int4-g128-perm"),
            ("int8-row-f32", "int8-row"),
            ("int4-row-bias-f16", "int4-row-bias"),
            ("int8-row-f16", "int8-row-f16"),
            ("e4m3-row-f32", "e4m3-row"),
            ("e4m3-g32-e8m0", "mxfp8"),
            ("int1-g32-fzero-f32", "int1-g32-fzero-f32"),
            ("codebook4-g64-f32-perm", "codebook4-g64-f32-perm"),
            ("codebook8-row-tables-perm", "codebook8-row-tables-perm"),
            ("codebook4-g24-tables", "codebook4-g24-tables"),
            ("codebook1-g4-tables", "codebook1-g4-tables"),
        ] {
            assert_eq!(typed.parse::<Scheme>().unwrap().to_string(), name);
        }
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
            "int4-g32-perm-bf16",
            "int4-g32-bf16-asym",
            "int4-g32-f16-bf16",
            "nf5-g32",
            "q4_0-perm",
            "zzzzzzzzzzzzzzzzzzzzzz",
            "int44-g32",
            "ïnt4-g32",
        ] {
            assert!(matches!(name.parse::<Scheme>(), Err(Error::UnknownScheme { .. })), "{name}");
        }
        for name in [
            "int9-row",
            "int0-row",
            "int4-g0",
            "int4-g6",
            "int4-g032",
            "int4-g99999999999",
            "int1-row-asym",
            "nf4-g64-asym",
            "e4m3-row-fzero",
            "codebook7-g32",
            "codebook4-row",
            "codebook4-g32-bias",
            "codebook7-g512-tables",
            "codebook4-tensor-tables",
            "codebook4-g64-tables-f16",
            "codebook4-g64-asym-tables",
            "codebook4-g20-tables",
            "codebook8-g256-tables",
            "int4-g64-tables",
            "nf4-g64-tables",
            "int4-g32-bias-f32",
            "int4-g32-e8m0",
            "nf4-g32-e8m0",
            "e4m3-row-e8m0",
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
            ("nvfp4-global", 4096, 4.5),
            ("int7-g32", 4096, 8.5),
            ("int4-g64-bias-bf16", 4096, 4.5),
            ("int4-g64-fzero-f32", 4096, 5.0),
            ("int4-g128-perm", 4096, 6.125),
            ("codebook4-row-tables", 4096, 4.0625),
            ("codebook4-g256-tables", 4096, 5.0),
            ("codebook3-g256-tables", 4096, 3.5),
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
