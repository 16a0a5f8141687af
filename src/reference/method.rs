//! The oracle of methods: the text of [`crate::scheme::method`], one group and one candidate after the other.
//!
//! ```text
//! x of a group -> the range, byte or zero that the method finds -> quantize.rs: scale, zero, codes by the encoder's rule
//! ```

use super::dequantize::direct_scale;
use super::quantize::{
    TINY, extremes, floor_log2, global_byte, largest_magnitude, reciprocal, round_to_type, steps,
    ue4m3_like_ggml,
};
use crate::scheme::method::{
    CANDIDATES, EXP2, Form, HQQ_BETA, HQQ_FLOOR, HQQ_POWER, HQQ_ROUNDS, LOG2, RUN, Range, SHARES, STEPS,
    TRIM, TRIM_OUTSIDE,
};
use crate::scheme::{Encoder, Scale, ScaleType};

/// What a scale and zero are made from.
pub(super) struct Found {
    pub min: f32,
    pub max: f32,
    /// The scale is 0.
    pub tiny: bool,
    /// The scale's byte, where that was searched for.
    pub byte: Option<u8>,
    /// The zero, instead of the one that follows from the range.
    pub zero: Option<f32>,
}

/// Finds the range of a group, or of a tensor whose rows have `k` values.
pub(super) fn find(x: &[f32], k: usize, form: &Form, table: &[(f32, u32)], scales: &[f32]) -> Found {
    let (min, max, amax) = extremes(x);
    let found =
        |min: f32, max: f32| Found { min, max, tiny: max < TINY && -min < TINY, byte: None, zero: None };
    let levels = (1i32 << form.scheme.bits) - 1;
    match form.range {
        Range::Own => found(min, max),
        Range::Symmetric => found(-amax, amax),
        Range::Whole => {
            let half = (levels + 1) as f32 / 2.0;
            let amax = max.max(-min * ((half - 1.0) / half));
            found(-amax, amax)
        }
        Range::Percentile(share) => {
            let cut = (x.len() as f64 * (100.0 - share) / 100.0 + 1e-6).floor() as usize;
            let mut sorted = x.to_vec();
            if with_zero(form.scheme.encoder) {
                sorted.sort_by(f32::total_cmp);
                found(sorted[cut / 2].min(0.0), sorted[x.len() - 1 - cut / 2].max(0.0))
            } else {
                sorted.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
                let amax = sorted[x.len() - 1 - cut].abs();
                found(-amax, amax)
            }
        }
        Range::Search if amax < TINY => found(min, max),
        Range::Search => search(x, k, form, table, scales),
        Range::HalfQuadratic | Range::Trimmed if amax < TINY => found(min, max),
        Range::Trimmed => {
            let (min, max) = trimmed(x, form, min, max);
            found(min, max)
        }
        Range::HalfQuadratic => {
            let (s, own) = numbers(form, table, min, max);
            let zero = (s > 0.0).then(|| half_quadratic(x, form, s, own, min)).flatten();
            Found { zero, ..found(min, max) }
        }
    }
}

fn with_zero(encoder: Encoder) -> bool {
    matches!(encoder, Encoder::MinMax | Encoder::MinMaxBias | Encoder::MinMaxZero)
}

fn kind(form: &Form) -> ScaleType {
    let Scale::Direct(kind) = form.scheme.scale else { panic!("{} has no scale per group", form.scheme) };
    kind
}

/// The stored scale, and the zero (zero-point, bias, float zero) as stored, of a range.
fn numbers(form: &Form, table: &[(f32, u32)], min: f32, max: f32) -> (f32, f32) {
    let (kind, half) = (kind(form), (1i32 << form.scheme.bits) / 2);
    let levels = 2 * half - 1;
    let amax = max.max(-min);
    let wanted = match form.scheme.encoder {
        Encoder::Absmax => amax * reciprocal((half - 1) as f32),
        Encoder::Ternary => amax,
        Encoder::Nearest => {
            let entries: Vec<f32> = table.iter().map(|e| e.0).collect();
            amax * reciprocal(largest_magnitude(&entries))
        }
        _ => (max - min) * reciprocal(levels as f32),
    };
    let s = round_to_type(wanted, kind).1;
    let zero = match form.scheme.encoder {
        _ if s == 0.0 => 0.0,
        Encoder::MinMax => steps(-min, s, levels) as f32,
        Encoder::MinMaxBias if min <= -TINY => round_to_type(min, kind).1,
        Encoder::MinMaxZero => round_to_type(steps(-min, s / 16.0, 16 * levels) as f32 / 16.0, kind).1,
        _ => 0.0,
    };
    (s, zero)
}

/// The squared error of x under a scale and zero, in f64: in steps of the scale, runs of a row in f32.
fn squared_error(x: &[f32], k: usize, form: &Form, table: &[(f32, u32)], s: f32, zero: f32) -> f64 {
    sum_of_errors(x, k, form, table, (s, zero), |d| d * d) * (f64::from(s) * f64::from(s))
}

/// What `of` says of each difference, in steps of the scale, summed.
fn sum_of_errors(
    x: &[f32],
    k: usize,
    form: &Form,
    table: &[(f32, u32)],
    (s, zero): (f32, f32),
    of: impl Fn(f32) -> f32,
) -> f64 {
    let half = (1i32 << form.scheme.bits) / 2;
    let (first, last) = match form.scheme.encoder {
        Encoder::Absmax => (-half, half - 1),
        Encoder::Ternary => (-1, 1),
        Encoder::MinMax => (-zero as i32, 2 * half - 1 - zero as i32),
        _ => (0, 2 * half - 1),
    };
    let inverse = 1.0 / s;
    let error = |v: f32| {
        let t = match form.scheme.encoder {
            Encoder::MinMaxBias => v * inverse - zero * inverse,
            Encoder::MinMaxZero => v * inverse + zero,
            _ => v * inverse,
        };
        let q = if table.is_empty() {
            t.clamp(first as f32, last as f32).round_ties_even()
        } else {
            let above = table.windows(2).filter(|pair| t > (pair[0].0 + pair[1].0) * 0.5).count();
            table[above].0
        };
        of(t - q)
    };
    let mut all = 0.0;
    for row in x.chunks(k) {
        let mut of_row = 0.0;
        for run in row.chunks(RUN) {
            let mut sum = 0.0;
            for &v in run {
                sum += error(v);
            }
            of_row += f64::from(sum);
        }
        all += of_row;
    }
    all
}

/// The range of least mean error among those with ends moved by less than a step.
fn trimmed(x: &[f32], form: &Form, min: f32, max: f32) -> (f32, f32) {
    let levels = (1i32 << form.scheme.bits) - 1;
    let step = ((max - min) * reciprocal(levels as f32)) * TRIM;
    let by = |i: usize| (i as f32 - TRIM_OUTSIDE as f32) * step;
    let range = |c: usize| ((min + by(c / 8)).min(0.0), (max - by(c % 8)).max(0.0));
    let errors = (0..CANDIDATES).map(|c| {
        let (low, high) = range(c);
        let (s, zero) = numbers(form, &[], low, high);
        sum_of_errors(x, x.len(), form, &[], (s, zero), f32::abs) * f64::from(s)
    });
    best_of(errors, f64::INFINITY).map_or((min, max), |(c, _)| range(c))
}

/// The candidates of a round, the first of the least; one that is not less than `least` is none.
fn best_of(errors: impl Iterator<Item = f64>, least: f64) -> Option<(usize, f64)> {
    let mut best = (0, least);
    for (c, error) in errors.enumerate() {
        if error < best.1 {
            best = (c, error);
        }
    }
    (best.1 < least).then_some(best)
}

fn search(x: &[f32], k: usize, form: &Form, table: &[(f32, u32)], scales: &[f32]) -> Found {
    let (min, max, amax) = extremes(x);
    let kind = kind(form);
    let own = match form.scheme.encoder {
        Encoder::SharedExponent { emax } => Some(((floor_log2(amax) - emax + 127).clamp(1, 254), 254)),
        Encoder::GgmlNvfp4 => Some((i32::from(ue4m3_like_ggml(amax / 6.0)), 0x7e)),
        Encoder::GlobalScale => Some((i32::from(global_byte(amax, scales)), 0x7e)),
        _ => None,
    };
    let nothing = Found { min, max, tiny: false, byte: None, zero: None };
    if let Some((own, most)) = own {
        let byte = |c: usize| (own + 31 - c as i32).clamp(1, most) as u8;
        let scale = |byte: u8| match kind {
            ScaleType::Table => scales[usize::from(byte)],
            _ => direct_scale(&[byte], kind, 0),
        };
        let errors = (0..CANDIDATES).map(|c| squared_error(x, k, form, table, scale(byte(c)), 0.0));
        return Found { byte: best_of(errors, f64::INFINITY).map(|(c, _)| byte(c)), ..nothing };
    }
    let distance =
        |of: &[f32], c: usize| if c + 1 < of.len() { of[c] - of[c + 1] } else { of[c - 1] - of[c] };
    let mut least = f64::INFINITY;
    let error = |low: f32, high: f32| {
        let (s, zero) = numbers(form, table, low, high);
        squared_error(x, k, form, table, s, zero)
    };
    if !with_zero(form.scheme.encoder) {
        let Some((c, found)) = best_of(STEPS.iter().map(|f| error(-amax * f, amax * f)), least) else {
            return nothing;
        };
        least = found;
        let near = |i: usize| STEPS[c] + ((i as f32 - 32.0) / 32.0) * distance(&STEPS, c);
        let again = best_of((0..CANDIDATES).map(|i| error(-amax * near(i), amax * near(i))), least);
        let f = again.map_or(STEPS[c], |(i, _)| near(i));
        return Found { min: -amax * f, max: amax * f, ..nothing };
    }
    let coarse = (0..CANDIDATES).map(|c| error(min * SHARES[c / 8], max * SHARES[c % 8]));
    let Some((c, found)) = best_of(coarse, least) else { return nothing };
    least = found;
    let (mut a, mut b) = (SHARES[c / 8], SHARES[c % 8]);
    let (mut da, mut db) = (distance(&SHARES, c / 8), distance(&SHARES, c % 8));
    for _ in 1..4 {
        let near = |c: usize| {
            let [i, j] = [c / 8, c % 8].map(|i| (i as f32 - 4.0) / 4.0);
            ((a + i * da).max(0.0), (b + j * db).max(0.0))
        };
        let fine = (0..CANDIDATES).map(|c| error(min * near(c).0, max * near(c).1));
        if let Some((c, found)) = best_of(fine, least) {
            least = found;
            (a, b) = near(c);
        }
        (da, db) = (da / 4.0, db / 4.0);
    }
    Found { min: min * a, max: max * b, ..nothing }
}

/// `a^(p - 1)`.
fn power(a: f32) -> f32 {
    let mantissa = f32::from_bits((a.to_bits() & 0x7f_ffff) | 0x3f80_0000);
    let mut log = 0.0;
    for c in LOG2.iter().rev() {
        log = log * mantissa + c;
    }
    let y = HQQ_POWER * (floor_log2(a) as f32 + log);
    let whole = y.round_ties_even();
    let mut power = 0.0;
    for c in EXP2.iter().rev() {
        power = power * (y - whole) + c;
    }
    power * 2f32.powi(whole as i32)
}

/// Sums in 16 lanes, then of the lanes.
fn lanes(terms: impl Iterator<Item = f32>) -> f32 {
    let mut lanes = [0.0; 16];
    for (j, term) in terms.enumerate() {
        lanes[j % 16] += term;
    }
    for distance in [8, 4, 2, 1] {
        for l in 0..distance {
            lanes[l] += lanes[l + distance];
        }
    }
    lanes[0]
}

/// A better zero than the own one, if there is one.
fn half_quadratic(x: &[f32], form: &Form, s: f32, own: f32, min: f32) -> Option<f32> {
    let levels = (1i32 << form.scheme.bits) - 1;
    let inverse = 1.0 / s;
    let code = |v: f32, z: f32| (v * inverse + z).round_ties_even().clamp(0.0, levels as f32);
    let error = |v: f32, z: f32| (v * inverse - (code(v, z) - z)) * s;
    let mut z = -min * inverse;
    let (mut best, mut least) = (z, f32::INFINITY);
    let mut beta = HQQ_BETA[0];
    for _ in 0..HQQ_ROUNDS {
        let mean = lanes(x.iter().map(|&v| error(v, z).abs()));
        if mean >= least {
            break;
        }
        (best, least) = (z, mean);
        let part = |&v: &f32| {
            let e = error(v, z);
            let mut shrunk = 0.0;
            if e.abs() >= HQQ_FLOOR {
                shrunk = (e.abs() - power(e.abs()) * (1.0 / beta)).max(0.0).copysign(e);
            }
            code(v, z) - (v * inverse - shrunk * inverse)
        };
        z = lanes(x.iter().map(part)) / x.len() as f32;
        beta *= HQQ_BETA[1];
    }
    let best = best.max(0.0);
    let stored = round_to_type(best, kind(form)).1;
    let mean = |z: f32| lanes(x.iter().map(|&v| error(v, z).abs()));
    (mean(stored) < mean(own)).then_some(stored)
}
