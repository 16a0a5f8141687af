//! The oracle of GGUF's searches for scales: the text of [`crate::scheme::search`], one group after the other.
//!
//! ```text
//! row x [k], importance c [k] or none -> super-groups (or groups) -> stored scales and minima, codes
//! ```
//!
//! Single f32 operations in the stated order. Codes are plain integers here, counted from the lowest one where they are returned.

use crate::scheme::{Encoder, Scale, Scheme};
use half::f16;

/// What a row consists of: a super-group, or a group of a scheme with one scale per group.
pub(super) struct Searched {
    /// The super-scale, or the scale.
    pub d: f16,
    /// The super-minimum, or the bias.
    pub dm: f16,
    /// `(sub-scale, sub-minimum)` of each group; empty without sub-scales.
    pub subs: Vec<(i32, i32)>,
    pub codes: Vec<u32>,
}

const TABLE: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// A scale, a minimum and codes (from the lowest one) of a group.
struct Fit {
    s: f32,
    m: f32,
    codes: Vec<i32>,
}

/// Encodes a row. `importance` has one number per column.
pub(super) fn row(x: &[f32], importance: Option<&[f32]>, scheme: &Scheme, group: usize) -> Vec<Searched> {
    let span =
        if let Scale::TwoLevel { super_group, .. } = scheme.scale { super_group as usize } else { group };
    let row_mean = sum(x.iter().map(|v| v * v)) / x.len() as f32;
    let mut all = Vec::new();
    for (i, part) in x.chunks(span).enumerate() {
        let c = importance.map(|c| &c[i * span..i * span + part.len()]);
        all.push(match scheme.scale {
            Scale::TwoLevel { .. } => super_group(part, c, scheme, group),
            _ => one_group(part, c, scheme, row_mean),
        });
    }
    all
}

/// A group with a scale of its own: IQ4_NL, and with importance Q4_0, Q4_1, Q5_0, Q5_1.
fn one_group(x: &[f32], c: Option<&[f32]>, scheme: &Scheme, row_mean: f32) -> Searched {
    let half = 1i32 << (scheme.bits - 1);
    if scheme.encoder == Encoder::GgmlIq4 {
        let w = table_weights(x, x, c);
        let s = table(x, &w);
        let codes = x.iter().map(|v| nearest(v * zero_or(1.0, s))).collect();
        return Searched { d: to_f16(s), dm: f16::ZERO, subs: Vec::new(), codes };
    }
    let c = c.expect("only IQ4_NL is searched without importance");
    let w = spread(x, c, row_mean);
    let fit = match scheme.encoder {
        Encoder::GgmlExtreme => symmetric(x, &w, half),
        _ => affine(x, &w, 2 * half - 1, Tries { first: -0.9, step: 0.05, last: 36, absolute: false }),
    };
    let codes = fit.codes.iter().map(|&l| l as u32).collect();
    Searched { d: to_f16(fit.s), dm: to_f16(fit.m), subs: Vec::new(), codes }
}

fn super_group(x: &[f32], c: Option<&[f32]>, scheme: &Scheme, group: usize) -> Searched {
    let half = 1i32 << (scheme.bits - 1);
    let n = x.len() as f32;
    let square_mean = match scheme.bits {
        2 => sum(x.iter().map(|v| v * v)) / n,
        _ => 2.0 * sum(x.iter().map(|v| v * v)) / n,
    };
    let groups: Vec<&[f32]> = x.chunks(group).collect();
    // With importance: the weights of each group's values.
    let weights: Option<Vec<Vec<f32>>> = c.map(|c| {
        let parts = c.chunks(group).zip(&groups);
        parts
            .map(|(c, x)| {
                if scheme.encoder == Encoder::GgmlSymmetric { c.to_vec() } else { spread(x, c, square_mean) }
            })
            .collect()
    });
    let squares = |x: &[f32]| -> Vec<f32> { x.iter().map(|v| v * v).collect() };
    let fits: Vec<Fit> = groups
        .iter()
        .enumerate()
        .map(|(g, &x)| {
            let w = weights.as_ref().map(|w| &w[g]);
            match (scheme.encoder, w) {
                (Encoder::GgmlIq4, _) => {
                    let s = table(x, w.unwrap_or(&squares(x)));
                    Fit { s, m: 0.0, codes: Vec::new() }
                }
                (Encoder::GgmlDescent, None) => descent(x, half),
                (Encoder::GgmlDescent | Encoder::GgmlSymmetric, w) => {
                    symmetric(x, w.unwrap_or(&squares(x)), half)
                }
                (_, Some(w)) => {
                    affine(x, w, 2 * half - 1, Tries { first: -0.9, step: 0.05, last: 36, absolute: false })
                }
                (_, None) if scheme.bits == 2 => {
                    let w: Vec<f32> = x.iter().map(|v| v.abs()).collect();
                    affine(x, &w, 3, Tries { first: -0.5, step: 0.1, last: 15, absolute: true })
                }
                (_, None) => {
                    let root = (sum(x.iter().map(|v| v * v)) / 32.0).sqrt();
                    let w: Vec<f32> = x.iter().map(|v| root + v.abs()).collect();
                    let (first, last) = if scheme.bits == 4 { (-1.0, 20) } else { (-0.5, 15) };
                    affine(x, &w, 2 * half - 1, Tries { first, step: 0.1, last, absolute: false })
                }
            }
        })
        .collect();
    let totals: Option<Vec<f32>> = weights.map(|w| w.iter().map(|w| sum(w.iter().copied())).collect());
    let scales: Vec<f32> = fits.iter().map(|f| f.s).collect();
    let top = extreme(&scales);
    let (mut d, mut dm) = (f16::ZERO, f16::ZERO);
    let mut subs = vec![(0, 0); groups.len()];
    match scheme.encoder {
        Encoder::GgmlAffine => {
            let most = if scheme.bits == 2 { 15 } else { 63 };
            let minima: Vec<f32> = fits.iter().map(|f| -f.m).collect();
            let of = |v: &[f32]| match &totals {
                Some(w) => positive(v, w, most),
                None => by_largest(v, most),
            };
            let (s, sub_scales) = of(&scales);
            let (m, sub_mins) = of(&minima);
            (d, dm) = (to_f16(s), to_f16(m));
            subs = sub_scales.into_iter().zip(sub_mins).collect();
        }
        Encoder::GgmlDescent => {
            if let Some(w) = &totals {
                let fit = symmetric(&scales, w, 32);
                d = to_f16(fit.s);
                subs = fit.codes.iter().map(|l| (l - 32, 0)).collect();
            } else if top == 0.0 {
                subs = vec![(-32, 0); groups.len()];
            } else {
                let f = -32.0 / top;
                d = to_f16(1.0 / f);
                subs = scales.iter().map(|s| (rint(f * s, -32, 31), 0)).collect();
            }
        }
        Encoder::GgmlSymmetric => {
            if top.abs() < 1e-15 {
                return Searched { d, dm, subs, codes: vec![0; x.len()] };
            }
            let f = -128.0 / top;
            d = to_f16(1.0 / f);
            subs = scales.iter().map(|s| (rint(f * s, -128, 127), 0)).collect();
        }
        _ => {
            let big_d = -top / 32.0;
            let inverse = zero_or(1.0, big_d);
            subs = scales.iter().map(|s| (rint(inverse * s, -32, 31), 0)).collect();
            let mut codes = Vec::new();
            for (x, (sub, _)) in groups.iter().zip(&subs) {
                let inverse = zero_or(1.0, big_d * *sub as f32);
                codes.extend(x.iter().map(|v| nearest(inverse * v)));
            }
            return Searched { d: to_f16(big_d), dm, subs, codes };
        }
    }
    let lowest = if scheme.encoder == Encoder::GgmlAffine { 0 } else { -half };
    let highest = lowest + 2 * half - 1;
    let mut codes = Vec::new();
    for ((x, fit), (sub, sub_min)) in groups.iter().zip(&fits).zip(&subs) {
        let step = d.to_f32() * *sub as f32;
        let offset = dm.to_f32() * *sub_min as f32;
        for (v, &found) in x.iter().zip(&fit.codes) {
            let code = if step == 0.0 { found } else { rint((v + offset) / step, lowest, highest) - lowest };
            codes.push(code as u32);
        }
    }
    Searched { d, dm, subs, codes }
}

fn to_f16(x: f32) -> f16 {
    f16::from_f32(x.clamp(-65504.0, 65504.0))
}

fn zero_or(a: f32, b: f32) -> f32 {
    if b == 0.0 { 0.0 } else { a / b }
}

fn sum(terms: impl Iterator<Item = f32>) -> f32 {
    let mut total = 0.0;
    for term in terms {
        total += term;
    }
    total
}

fn rint(v: f32, low: i32, high: i32) -> i32 {
    let rounded = v.round_ties_even();
    if rounded.is_nan() { low } else { rounded.clamp(low as f32, high as f32) as i32 }
}

/// `c * sqrt(mean + x * x)`.
fn spread(x: &[f32], c: &[f32], mean: f32) -> Vec<f32> {
    x.iter().zip(c).map(|(v, c)| c * (mean + v * v).sqrt()).collect()
}

fn table_weights(x: &[f32], span: &[f32], c: Option<&[f32]>) -> Vec<f32> {
    match c {
        Some(c) => spread(x, c, 2.0 * sum(span.iter().map(|v| v * v)) / span.len() as f32),
        None => x.iter().map(|v| v * v).collect(),
    }
}

/// The value of largest magnitude with its sign, the first of equals.
fn extreme(x: &[f32]) -> f32 {
    let mut best: f32 = 0.0;
    for &v in x {
        if v.abs() > best.abs() {
            best = v;
        }
    }
    best
}

/// Codes of `f * x` and the sums of their least-squares fit.
fn fit(x: &[f32], w: &[f32], f: f32, n: i32) -> (Vec<i32>, f32, f32) {
    let codes: Vec<i32> = x.iter().map(|v| rint(f * v, -n, n - 1)).collect();
    let (mut a, mut b) = (0.0, 0.0);
    for ((x, w), &l) in x.iter().zip(w).zip(&codes) {
        a += w * x * l as f32;
        b += w * l as f32 * l as f32;
    }
    (codes, a, b)
}

fn symmetric(x: &[f32], w: &[f32], n: i32) -> Fit {
    let m = extreme(x);
    if m.abs() < 1e-15 {
        return Fit { s: 0.0, m: 0.0, codes: vec![0; x.len()] };
    }
    let (mut codes, a, b) = fit(x, w, -(n as f32) / m, n);
    let mut s = if b == 0.0 { 0.0 } else { a / b };
    let mut best = s * a;
    for t in -9..=9 {
        if t == 0 {
            continue;
        }
        let (tried, a, b) = fit(x, w, -(n as f32 + 0.1 * t as f32) / m, n);
        if b > 0.0 && a * a > best * b {
            s = a / b;
            best = s * a;
            codes = tried;
        }
    }
    Fit { s, m: 0.0, codes: codes.iter().map(|l| l + n).collect() }
}

fn descent(x: &[f32], n: i32) -> Fit {
    let m = extreme(x);
    if m.abs() < 1e-15 {
        return Fit { s: 0.0, m: 0.0, codes: vec![0; x.len()] };
    }
    let w: Vec<f32> = x.iter().map(|v| v * v).collect();
    let (mut codes, mut a, mut b) = fit(x, &w, -(n as f32) / m, n);
    for _ in 0..5 {
        for i in 0..x.len() {
            let l = codes[i] as f32;
            let rest_a = a - w[i] * x[i] * l;
            if rest_a <= 0.0 {
                continue;
            }
            let rest_b = b - w[i] * l * l;
            let moved = rint(x[i] * rest_b / rest_a, -n, n - 1);
            let l = moved as f32;
            let (new_a, new_b) = (rest_a + w[i] * x[i] * l, rest_b + w[i] * l * l);
            if moved != codes[i] && new_b > 0.0 && new_a * new_a * b > a * a * new_b {
                (codes[i], a, b) = (moved, new_a, new_b);
            }
        }
    }
    let s = if b > 0.0 { a / b } else { 0.0 };
    Fit { s, m: 0.0, codes: codes.iter().map(|l| l + n).collect() }
}

/// Which factors the affine search tries, and whether it counts magnitudes of errors instead of squares.
struct Tries {
    first: f32,
    step: f32,
    last: i32,
    absolute: bool,
}

fn affine(x: &[f32], w: &[f32], n: i32, tries: Tries) -> Fit {
    let (mut low, mut high) = (x[0], x[0]);
    for &v in x {
        if v < low {
            low = v;
        }
        if v > high {
            high = v;
        }
    }
    if low > 0.0 {
        low = 0.0;
    }
    if high == low {
        return Fit { s: 0.0, m: low, codes: vec![0; x.len()] };
    }
    let total_w = sum(w.iter().copied());
    let total_x = sum(x.iter().zip(w).map(|(x, w)| w * x));
    let error = |codes: &[i32], s: f32, m: f32| {
        let mut total = 0.0;
        for ((x, w), &l) in x.iter().zip(w).zip(codes) {
            let e = s * l as f32 + m - x;
            total += w * if tries.absolute { e.abs() } else { e * e };
        }
        total
    };
    let codes_of = |f: f32, m: f32| -> Vec<i32> { x.iter().map(|v| rint(f * (v - m), 0, n)).collect() };
    let f = n as f32 / (high - low);
    let mut best = Fit { s: 1.0 / f, m: low, codes: codes_of(f, low) };
    let mut best_error = error(&best.codes, best.s, best.m);
    for t in 0..=tries.last {
        let f = (tries.first + tries.step * t as f32 + n as f32) / (high - best.m);
        let codes = codes_of(f, best.m);
        let (mut l1, mut l2, mut lx) = (0.0, 0.0, 0.0);
        for ((x, w), &l) in x.iter().zip(w).zip(&codes) {
            l1 += w * l as f32;
            l2 += w * l as f32 * l as f32;
            lx += w * l as f32 * x;
        }
        let determinant = total_w * l2 - l1 * l1;
        if determinant > 0.0 {
            let mut s = (total_w * lx - total_x * l1) / determinant;
            let mut m = (l2 * total_x - l1 * lx) / determinant;
            if m > 0.0 {
                (s, m) = (lx / l2, 0.0);
            }
            let error = error(&codes, s, m);
            if error < best_error {
                best_error = error;
                best = Fit { s, m, codes };
            }
        }
    }
    best
}

/// A super-scale and sub-scales of numbers that are not negative, by the largest.
fn by_largest(x: &[f32], most: i32) -> (f32, Vec<i32>) {
    let mut top = 0.0;
    for &v in x {
        if v > top {
            top = v;
        }
    }
    let f = if top > 0.0 { most as f32 / top } else { 0.0 };
    (top / most as f32, x.iter().map(|v| rint(f * v, 0, most)).collect())
}

fn positive(x: &[f32], w: &[f32], n: i32) -> (f32, Vec<i32>) {
    let mut top = 0.0;
    for &v in x {
        if v > top {
            top = v;
        }
    }
    if top < 1e-15 {
        return (0.0, vec![0; x.len()]);
    }
    let error = |f: f32| {
        let mut total = 0.0;
        for (x, w) in x.iter().zip(w) {
            let e = x - (1.0 / f) * rint(f * x, 0, n) as f32;
            total += w * e * e;
        }
        total
    };
    let mut f = n as f32 / top;
    let mut best = error(f);
    for t in [-4, -3, -2, -1, 1, 2, 3, 4] {
        let tried = (0.1 * t as f32 + n as f32) / top;
        let e = error(tried);
        if e < best {
            best = e;
            f = tried;
        }
    }
    let mut codes: Vec<i32> = x.iter().map(|v| rint(f * v, 0, n)).collect();
    let (mut a, mut b) = (0.0, 0.0);
    for ((x, w), &l) in x.iter().zip(w).zip(&codes) {
        a += w * x * l as f32;
        b += w * l as f32 * l as f32;
    }
    for _ in 0..5 {
        for i in 0..x.len() {
            let l = codes[i] as f32;
            let (rest_a, rest_b) = (a - w[i] * x[i] * l, b - w[i] * l * l);
            if rest_a <= 0.0 || rest_b <= 0.0 {
                continue;
            }
            let moved = rint(x[i] * rest_b / rest_a, 0, n);
            let l = moved as f32;
            let (new_a, new_b) = (rest_a + w[i] * x[i] * l, rest_b + w[i] * l * l);
            if moved != codes[i] && new_a * new_a * b > a * a * new_b {
                (codes[i], a, b) = (moved, new_a, new_b);
            }
        }
    }
    (if b > 0.0 { a / b } else { 0.0 }, codes)
}

/// The code of the entry nearest to v, of two the upper one.
fn nearest(v: f32) -> u32 {
    let mut passed = 0;
    for pair in TABLE.windows(2) {
        if v >= (pair[0] + pair[1]) * 0.5 {
            passed += 1;
        }
    }
    passed
}

fn table(x: &[f32], w: &[f32]) -> f32 {
    let m = extreme(x);
    if m.abs() < 1e-15 {
        return 0.0;
    }
    let fit = |f: f32| {
        let (mut a, mut b) = (0.0, 0.0);
        for (x, w) in x.iter().zip(w) {
            let q = TABLE[nearest(f * x) as usize];
            a += w * q * x;
            b += w * q * q;
        }
        (a, b)
    };
    let (a, b) = fit(1.0 / (-m / TABLE[0]));
    let mut s = if b > 0.0 { a / b } else { 0.0 };
    let mut best = s * a;
    for t in -7..=7 {
        let (a, b) = fit((t as f32 + TABLE[0]) / m);
        if b > 0.0 && a * a > best * b {
            s = a / b;
            best = s * a;
        }
    }
    s
}
