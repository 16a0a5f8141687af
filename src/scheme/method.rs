//! How the free numbers of a scheme, scales and zeros, are found from the weights: a method is a value, beside the scheme and independent of it.
//!
//! ```text
//! Method (a user's word) x Scheme --form--> Form { the scheme with the Encoder whose rules hold, Range }
//! group --Range--> low <= 0 <= high (or a byte, or a zero) --rule of the Encoder--> scale and zero as stored --> codes by the Encoder
//! ```
//!
//! Codes always follow from the stored scale and zero as [`Encoder`] says, so a method changes numbers and no format. Only the range differs that
//! the scale is made from:
//!
//! | method | the range |
//! |---|---|
//! | `absmax` | -amax to amax |
//! | `minmax` | min to max; without a zero the scale that just holds both, `amax = max(high, -low * (q_max / (q_max + 1)))` |
//! | `percentile` | with `cut = floor(n * (100 - P) / 100 + 10^-6)`: the magnitude that `cut` others exceed; with a zero the value that `cut / 2` (whole) are below, and that `cut / 2` are above |
//! | `mse` | of many ranges the one whose squared error is least: below |
//! | `hqq` | min to max, and a float zero by half-quadratic optimization; with an integer zero-point the range, trimmed by up to a step, of the least mean error: below |
//! | `kmeans` | the table by k-means; its groups' ranges as ever, one scale of a whole tensor by `mse`. Tables of groups are found by nothing else |
//!
//! Without a zero (`Absmax`, `Ternary`, `Nearest`) ranges are symmetric. The word for what the scheme does by itself is `default`. Formats without a name
//! for their own method here (GGUF's one-level types) are encoded by the rule that fits their grid, with scales that are not negative.
//!
//! **Search** ([`Range::Search`]): rounds of [`CANDIDATES`] ranges, factors (a, b) of (low, high), low = -amax and high = amax where ranges are symmetric:
//!
//! ```text
//! symmetric   round 1   a = b = STEPS[c]                            2 rounds
//!             then      a = b = f + ((c - 32) / 32) * d             f the best so far, d = STEPS[c'] - STEPS[c' + 1] of round 1's best c'
//! with a zero round 1   a = SHARES[c / 8], b = SHARES[c % 8]        4 rounds
//!             then      a = a' + ((c / 8 - 4) / 4) * da,  b = b' + ((c % 8 - 4) / 4) * db       da, db as d; a quarter of that in round 3, a sixteenth in round 4;
//!                     neither is below 0
//! byte scales           the encoder's own byte + 31 - c, clamped to the bytes there are        1 round
//! ```
//!
//! A candidate's scale s and zero are those of the encoder's rule, rounded as they are stored, i = 1/s. With z = the float zero, -(bias * i), or 0,
//! `t = x * i (+ z where there is one)`, `q = rint(clamp(t, first, last))` with the codes' bounds, less the zero-point, or `q` = the table's entry nearest to t,
//! `d = t - q`; squares `d * d` are summed in sequence over runs of [`RUN`] values of a row, f32; runs in sequence, then rows of a tensor, in f64. The error is that
//! sum times s * s in f64; the first of the least wins, a later round only if it is less. A scale of 0 never wins.
//!
//! **HQQ** ([`Range::HalfQuadratic`]): the scale s and first zero of the encoder's rule from the true extremes. Then z = -low * i and, up to [`HQQ_ROUNDS`] times, with
//! `t = x * i`, `q = rint(clamp(t + z, 0, last))`, `e = (t - (q - z)) * s`:
//!
//! ```text
//! shrunk    w = sign(e) * max(|e| - |e|^(p - 1) * (1 / beta), 0),  0 where |e| < HQQ_FLOOR      p = 0.7, beta = 10, times 1.01 after each round
//! next zero mean of q - (t - w * i);  stop where the mean of |e| has not fallen; the best z is that of the least
//! ```
//!
//! Stored is the best z, rounded as the scheme stores it, if its codes have a smaller mean of |e| than the encoder's own zero. Sums are formed in 16 lanes, value
//! j in lane j % 16, lanes in pairs (8 apart, then 4, 2, 1). `|e|^(p - 1) = 2^(-0.3 * log2 |e|)` by [`LOG2`] and [`EXP2`].
//!
//! **HQQ with an integer zero-point** ([`Range::Trimmed`]): the optimum above is rounded away, since under the scale of the extremes no other integer is better
//! (another one wastes a code at one end and clips at the other). So both move, and the mean of |e|, by which HQQ's loop stops, decides: one round of ranges
//!
//! ```text
//! u = ((high - low) * C(q)) * TRIM      low + (c / 8 - 2) * u, at most 0,      high - (c % 8 - 2) * u, at least 0
//! ```
//!
//! with scale, zero-point and `d` as in a search. `|d|` is summed in sequence over runs, as squares are, times s in f64. Neither end moves by a whole step: the mean error
//! would fall further (outliers are few), but the squared error would rise above that of the extremes.
//!
//! Source of HQQ: Badri and Shaji 2023, `optimize_weights_proximal`. Differs: groups stop by themselves, and the error is that of the stored zero. There zero-points are
//! floats too, and integer ones are not optimized.

use super::{Encoder, Ggml, Group, Scale, ScaleType, Scheme, Value, Zero};
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Candidates of a round of the search.
pub const CANDIDATES: usize = 64;
/// Values whose squares are summed in f32, in sequence.
pub const RUN: usize = 256;
/// Factors of a symmetric range: by 1/32 from 36/32 to 5/32, then each 0.9 of the one before.
pub const STEPS: [f32; CANDIDATES] = {
    let mut all = [0.0; CANDIDATES];
    let mut c = 0;
    while c < CANDIDATES {
        all[c] = if c < 32 { (36 - c) as f32 / 32.0 } else { all[c - 1] * 0.9 };
        c += 1;
    }
    all
};
/// Factors of either end of a range with a zero.
pub const SHARES: [f32; 8] = [1.0, 0.92, 0.84, 0.74, 0.6, 0.4, 0.2, 0.06];
/// Rounds of the search, without a zero and with one.
pub const ROUNDS: [usize; 2] = [2, 4];

/// Rounds of HQQ.
pub const HQQ_ROUNDS: usize = 20;
/// beta at first, and its growth.
pub const HQQ_BETA: [f32; 2] = [10.0, 1.01];
/// p - 1 of the norm.
pub const HQQ_POWER: f32 = -0.3;
/// Smaller errors are shrunk to 0 without looking: |e|^1.3 is below 1 / beta.
pub const HQQ_FLOOR: f32 = 0.125;
/// Steps of the extremes' scale by which candidates of [`Range::Trimmed`] lie apart, and how many of eight lie outside of the extremes.
pub const TRIM: f32 = 0.1875;
pub const TRIM_OUTSIDE: usize = 2;
/// Coefficients of log2 on 1..2, within 2e-5, and of 2^v on -1/2..1/2, within 3e-6, from the constant on.
pub const LOG2: [f32; 6] = [-2.794_153_7, 5.069_756_3, -3.520_218_8, 1.610_177_5, -0.409_475_6, 0.043_928_63];
pub const EXP2: [f32; 5] = [1.0, 0.693_121, 0.240_221_1, 0.055_922_04, 0.009_676_04];

/// What a user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Method {
    /// The scheme's own: what [`Encoder`] says.
    #[default]
    Own,
    Absmax,
    MinMax,
    Mse,
    /// Of the values of a group, so many in a hundred are within the range.
    Percentile(f64),
    Hqq,
    Kmeans,
}

/// What is done: see the module's text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// As the encoder says.
    Own,
    Symmetric,
    /// What just holds the extremes, of a scheme without a zero.
    Whole,
    Percentile(f64),
    Search,
    HalfQuadratic,
    /// HQQ's for integer zero-points.
    Trimmed,
}

impl Range {
    /// Whether candidates are compared, of which a device may take another one near a tie.
    pub fn compares(self) -> bool {
        matches!(self, Self::Search | Self::HalfQuadratic | Self::Trimmed)
    }
}

/// A scheme with the encoder whose rules a method goes by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Form {
    pub scheme: Scheme,
    pub range: Range,
}

impl Method {
    /// One of each, in the order in which they are listed.
    pub const ALL: [Self; 7] = [
        Self::Own,
        Self::Absmax,
        Self::MinMax,
        Self::Mse,
        Self::Percentile(Self::USUAL),
        Self::Hqq,
        Self::Kmeans,
    ];

    /// The share of `percentile` without a number.
    const USUAL: f64 = 99.9;

    /// How the method finds the numbers of a scheme.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the reason, and what to do, where it makes no sense for the scheme.
    pub fn form(self, scheme: &Scheme) -> Result<Form> {
        // A table of the tensor's own goes with one scale: that of the least error.
        let whole_table = scheme.value == Value::Learned && scheme.group == Group::Tensor;
        if self == Self::Own && !whole_table {
            return Ok(Form { scheme: *scheme, range: Range::Own });
        }
        let no = |why: &str| Err(Error::unsupported(format!("method {self} for {scheme}"), why));
        if scheme.has_group_tables() {
            return match self {
                Self::Kmeans => Ok(Form { scheme: *scheme, range: Range::Own }),
                _ => no(
                    "each group has a table of least squared error (k-means) and no scale that a range would be for; leave --method out",
                ),
            };
        }
        let Some(encoder) = grid(scheme) else {
            return match scheme.is_float() {
                true => no("plain floats have no scales; leave --method out"),
                false => no(
                    "its scales have two levels, which GGUF's own search finds together; leave --method out (an importance of columns weighs it), or take a scheme of one level, as int4-g32 or q4_0",
                ),
            };
        };
        let range = match (self, encoder) {
            (Self::Own, _) => Range::Search,
            (Self::Kmeans, _) if scheme.value == Value::Learned => {
                if whole_table {
                    Range::Search
                } else {
                    Range::Own
                }
            }
            (Self::Kmeans, _) => return no("its values are fixed; k-means is for codebookN schemes"),
            (Self::Hqq, Encoder::MinMax | Encoder::MinMaxZero) if scheme.group == Group::Tensor => {
                return no("one zero of a whole tensor is not optimized; take -row or -gN");
            }
            (Self::Hqq, Encoder::MinMax) => Range::Trimmed,
            (Self::Hqq, Encoder::MinMaxZero) => Range::HalfQuadratic,
            (Self::Hqq, _) => return no("it optimizes a zero; take a scheme with -fzero or -asym"),
            // The mean of magnitudes has the least squared error already.
            (Self::Mse, Encoder::MeanAbs) => Range::Own,
            (_, Encoder::MeanAbs) => {
                return no("the scale of one bit is the mean of magnitudes, the best there is");
            }
            (Self::Mse, _) => Range::Search,
            (Self::Percentile(share), _) => Range::Percentile(share),
            (Self::Absmax, Encoder::MinMax | Encoder::MinMaxBias | Encoder::MinMaxZero) => Range::Symmetric,
            (Self::Absmax, _) => Range::Own,
            (Self::MinMax, Encoder::MinMax | Encoder::MinMaxBias | Encoder::MinMaxZero) => Range::Own,
            (Self::MinMax, Encoder::Absmax) => Range::Whole,
            (Self::MinMax, _) => {
                return no("its codes reach as far up as down; take absmax, mse or percentile");
            }
        };
        Ok(Form { scheme: Scheme { encoder, ..*scheme }, range })
    }

    /// The methods that a scheme takes besides its own.
    pub fn of(scheme: &Scheme) -> impl Iterator<Item = Self> + use<> {
        let scheme = *scheme;
        Self::ALL.into_iter().skip(1).filter(move |method| method.form(&scheme).is_ok())
    }
}

/// lowbit's encoder for the numbers that a scheme can hold; None where a group has no scale of its own.
fn grid(scheme: &Scheme) -> Option<Encoder> {
    let Scale::Direct(scale) = scheme.scale else { return None };
    Some(match (scheme.value, scheme.zero, scale) {
        (Value::Float(_) | Value::Tables, ..) => return None,
        (Value::Linear { step: 2, .. }, ..) => Encoder::MeanAbs,
        (Value::Linear { .. }, Zero::Point, _) => Encoder::MinMax,
        (Value::Linear { .. }, Zero::Bias, _) => Encoder::MinMaxBias,
        (Value::Linear { .. }, Zero::Float, _) => Encoder::MinMaxZero,
        (Value::Linear { .. }, Zero::None, _) => match scheme.ggml {
            Some(Ggml::TQ1_0 | Ggml::TQ2_0 | Ggml::Q2_0) => Encoder::Ternary,
            _ => Encoder::Absmax,
        },
        (Value::Codebook(_) | Value::Learned, _, ScaleType::F32 | ScaleType::F16 | ScaleType::Bf16) => {
            Encoder::Nearest
        }
        (Value::Codebook(_) | Value::Learned, ..) => scheme.encoder,
    })
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.pad("default"),
            Self::Absmax => f.pad("absmax"),
            Self::MinMax => f.pad("minmax"),
            Self::Mse => f.pad("mse"),
            Self::Percentile(share) if *share == Self::USUAL => f.pad("percentile"),
            Self::Percentile(share) => f.pad(&format!("percentile:{share}")),
            Self::Hqq => f.pad("hqq"),
            Self::Kmeans => f.pad("kmeans"),
        }
    }
}

impl FromStr for Method {
    type Err = Error;

    /// Parses a method's name, in lower or upper case; `percentile:99.99` has a number.
    ///
    /// # Errors
    /// [`Error::Usage`] with the names there are, or with the numbers that are allowed.
    fn from_str(text: &str) -> Result<Self> {
        let name = text.trim().to_ascii_lowercase();
        if let Some(share) = name.strip_prefix("percentile:") {
            return match share.parse::<f64>() {
                Ok(share) if share > 50.0 && share <= 100.0 => Ok(Self::Percentile(share)),
                _ => Err(Error::Usage(format!("'{text}': a percentile is above 50 and at most 100"))),
            };
        }
        Self::ALL.into_iter().find(|method| method.to_string() == name).ok_or_else(|| {
            let names = Self::ALL.map(|method| method.to_string()).join(", ");
            Error::Usage(format!("no method '{text}'; there are {names} (percentile:99.99 with a number)"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::preset::samples;

    #[test]
    fn names_print_back() {
        for method in Method::ALL.into_iter().chain([Method::Percentile(99.99)]) {
            assert_eq!(method.to_string().parse::<Method>().unwrap(), method);
        }
        assert_eq!("MSE".parse::<Method>().unwrap(), Method::Mse);
        for wrong in ["", "ms", "percentile:", "percentile:50", "percentile:101", "percentile:nan", "mse:1"] {
            assert!(matches!(wrong.parse::<Method>(), Err(Error::Usage(_))), "{wrong}");
        }
    }

    /// What each scheme takes, and that the scheme's own method is what it was.
    #[test]
    fn methods_of_schemes() {
        let all = |name: &str| {
            let scheme = name.parse::<Scheme>().unwrap();
            Method::of(&scheme).map(|m| m.to_string()).collect::<Vec<_>>().join(" ")
        };
        for (name, methods) in [
            ("f16", ""),
            ("q4_k", ""),
            ("iq4_xs", ""),
            ("int1-g32", "mse"),
            ("q1_0", "mse"),
            ("tq2_0", "absmax mse percentile"),
            ("int4-g32", "absmax minmax mse percentile"),
            ("q4_0", "absmax minmax mse percentile"),
            ("int4-g32-asym", "absmax minmax mse percentile hqq"),
            ("int4-tensor-asym", "absmax minmax mse percentile"),
            ("q4_1", "absmax minmax mse percentile"),
            ("int4-row-fzero", "absmax minmax mse percentile hqq"),
            ("nf4-g64", "absmax mse percentile"),
            ("mxfp4", "absmax mse percentile"),
            ("nvfp4-global", "absmax mse percentile"),
            ("codebook4-g64", "absmax mse percentile kmeans"),
            ("codebook4-g64-tables", "kmeans"),
        ] {
            assert_eq!(all(name), methods, "{name}");
        }
        for scheme in samples() {
            let own = Method::Own.form(&scheme).unwrap();
            let whole_table = scheme.value == Value::Learned && scheme.group == Group::Tensor;
            assert_eq!(own.scheme, scheme);
            assert_eq!(own.range == Range::Search, whole_table, "{scheme}");
        }
        let why = Method::Mse.form(&"q4_k".parse().unwrap()).unwrap_err().to_string();
        assert!(why.contains("two levels") && why.contains("int4-g32"), "{why}");
    }

    #[test]
    fn numbers_of_the_search_are_in_order() {
        assert_eq!((STEPS[0], STEPS[4], STEPS[31]), (1.125, 1.0, 5.0 / 32.0));
        assert!(STEPS.windows(2).all(|w| w[0] > w[1]) && SHARES.windows(2).all(|w| w[0] > w[1]));
        // What HQQ_FLOOR leaves out would be shrunk to 0 whatever beta has become.
        let beta = f64::from(HQQ_BETA[0]) * f64::from(HQQ_BETA[1]).powi(HQQ_ROUNDS as i32);
        assert!(f64::from(HQQ_FLOOR).powf(1.0 - f64::from(HQQ_POWER)) < 1.0 / beta);
    }
}
