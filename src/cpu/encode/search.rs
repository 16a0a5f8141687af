//! GGUF's searches for scales, sixteen groups side by side.
//!
//! ```text
//! rows of x --Block::load--> x[i][l] = value i of group l --symmetric, descent, affine, table--> scales (and minima), what gives the codes
//! ```
//!
//! A group's sums are formed in sequence, as ggml forms them, so nothing within a group can be vectorised without changing bytes. Groups do not depend
//! on each other: each is a lane of a vector, and lanes that a try does not improve keep what they have. The definitions, and the names used here,
//! are those of [`crate::scheme::search`].

pub use crate::scheme::search::AffineTries;
use crate::scheme::search::{
    DESCENT_ROUNDS, POSITIVE_TRIES, SYMMETRIC_TRIES, TABLE_TRIES, TRY_STEP, ZERO_BELOW,
};
use crate::scheme::{Codebook, codebook::Sorted};
use std::array::from_fn;
use std::sync::OnceLock;

/// Groups side by side.
pub const LANES: usize = 16;
/// Longest group that is searched.
pub const MAX_GROUP: usize = 32;

/// One number of each group.
pub type Lanes<const N: usize = LANES> = [f32; N];

/// 1.5 * 2^23: added to a smaller number it leaves no room for a fraction, and the integer in the last bits.
pub const NO_FRACTION: f32 = 12_582_912.0;

/// The nearest integer, ties to even, of |v| <= 2^22.
#[inline(always)]
pub fn whole(v: f32) -> f32 {
    (v + NO_FRACTION) - NO_FRACTION
}

/// The nearest integer, ties to even, clamped; `low` for NaN. For |v| <= 2^22, and beyond where the clamp decides.
#[inline(always)]
pub fn rint(v: f32, low: f32, high: f32) -> f32 {
    let rounded = whole(v);
    let rounded = if rounded > low { rounded } else { low };
    if rounded < high { rounded } else { high }
}

/// Up to [`LANES`] groups of equal length with the weights of their values.
pub struct Block {
    x: [Lanes; MAX_GROUP],
    w: [Lanes; MAX_GROUP],
    /// Values of a group.
    len: usize,
}

impl Block {
    pub fn new(len: usize) -> Self {
        Self { x: [[0.0; LANES]; MAX_GROUP], w: [[0.0; LANES]; MAX_GROUP], len }
    }

    /// Takes groups of `x`; lanes past the last one hold zeros.
    #[inline(always)]
    pub fn load(&mut self, x: &[f32]) {
        if x.len() < LANES * self.len {
            self.x[..self.len].fill([0.0; LANES]);
        }
        for (l, group) in x.chunks_exact(self.len).enumerate() {
            for (lanes, &v) in self.x.iter_mut().zip(group) {
                lanes[l] = v;
            }
        }
    }

    /// Takes the importance of the columns of `load`, for now as it is.
    #[inline(always)]
    pub fn load_importance(&mut self, importance: &[f32]) {
        if importance.len() < LANES * self.len {
            self.w[..self.len].fill([0.0; LANES]);
        }
        for (l, group) in importance.chunks_exact(self.len).enumerate() {
            for (lanes, &v) in self.w.iter_mut().zip(group) {
                lanes[l] = v;
            }
        }
    }

    /// Multiplies the importance with `sqrt(variance + x * x)`, one variance per lane.
    #[inline(always)]
    pub fn spread_importance(&mut self, variance: &Lanes) {
        for (w, x) in self.w[..self.len].iter_mut().zip(&self.x) {
            for l in 0..LANES {
                w[l] *= (variance[l] + x[l] * x[l]).sqrt();
            }
        }
    }

    /// Weights `x * x`.
    #[inline(always)]
    pub fn weigh_by_squares(&mut self) {
        self.weigh(|_, x| x * x);
    }

    /// Weights `|x|`.
    #[inline(always)]
    pub fn weigh_by_magnitudes(&mut self) {
        self.weigh(|_, x| x.abs());
    }

    /// Weights `sqrt(mean x * x) + |x|`.
    #[inline(always)]
    pub fn weigh_around_root_mean_square(&mut self) {
        let n = self.len as f32;
        let root = sum(&self.x[..self.len], |x| x * x).map(|s| (s / n).sqrt());
        self.weigh(|l, x| root[l] + x.abs());
    }

    #[inline(always)]
    fn weigh(&mut self, f: impl Fn(usize, f32) -> f32) {
        for (w, x) in self.w[..self.len].iter_mut().zip(&self.x) {
            *w = from_fn(|l| f(l, x[l]));
        }
    }

    /// Sums of the weights.
    #[inline(always)]
    pub fn total_weights(&self) -> Lanes {
        sum(&self.w[..self.len], |w| w)
    }

    #[inline(always)]
    pub fn symmetric(&self, n: f32) -> Symmetric {
        symmetric(&self.x[..self.len], &self.w[..self.len], n)
    }

    #[inline(always)]
    pub fn affine(&self, n: f32, tries: &AffineTries) -> Affine {
        affine(&self.x[..self.len], &self.w[..self.len], n, tries)
    }

    #[inline(always)]
    pub fn descent(&self, n: f32) -> Descent {
        descent(&self.x[..self.len], n)
    }

    #[inline(always)]
    pub fn table(&self, table: &Iq4Table) -> Lanes {
        table.search(&self.x[..self.len], &self.w[..self.len])
    }
}

/// Sums of `f` over the values of each group, in sequence.
#[inline(always)]
fn sum<const N: usize>(x: &[Lanes<N>], f: impl Fn(f32) -> f32) -> Lanes<N> {
    let mut total = [0.0; N];
    for x in x {
        for l in 0..N {
            total[l] += f(x[l]);
        }
    }
    total
}

/// The sum of squares, in sequence.
#[inline(always)]
pub fn square_sum(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, &v| sum + v * v)
}

/// The value of largest magnitude with its sign, the first one.
#[inline(always)]
fn extremes<const N: usize>(x: &[Lanes<N>]) -> Lanes<N> {
    let mut extreme = [0f32; N];
    for x in x {
        for l in 0..N {
            extreme[l] = if x[l].abs() > extreme[l].abs() { x[l] } else { extreme[l] };
        }
    }
    extreme
}

/// What the symmetric search finds.
pub struct Symmetric<const N: usize = LANES> {
    pub scale: Lanes<N>,
    /// What x is multiplied with to get the codes.
    pub factor: Lanes<N>,
    n: f32,
}

impl<const N: usize> Symmetric<N> {
    /// The code of a value of group `l`, from `-n`; that of a group of zeros is `-n`.
    #[inline(always)]
    pub fn code(&self, l: usize, x: f32) -> f32 {
        if self.factor[l] == 0.0 { -self.n } else { rint(self.factor[l] * x, -self.n, self.n - 1.0) }
    }
}

/// Scales of codes `-n..n`.
#[inline(always)]
pub fn symmetric<const N: usize>(x: &[Lanes<N>], w: &[Lanes<N>], n: f32) -> Symmetric<N> {
    let extreme = extremes(x);
    let fit = |factor: &Lanes<N>| {
        let (mut a, mut b) = ([0f32; N], [0f32; N]);
        for (x, w) in x.iter().zip(w) {
            for l in 0..N {
                let code = rint(factor[l] * x[l], -n, n - 1.0);
                a[l] += w[l] * x[l] * code;
                b[l] += w[l] * code * code;
            }
        }
        (a, b)
    };
    let mut factor: Lanes<N> = from_fn(|l| -n / extreme[l]);
    let (a, b) = fit(&factor);
    let mut scale: Lanes<N> = from_fn(|l| if b[l] == 0.0 { 0.0 } else { a[l] / b[l] });
    let mut best: Lanes<N> = from_fn(|l| scale[l] * a[l]);
    for t in (-SYMMETRIC_TRIES..=SYMMETRIC_TRIES).filter(|&t| t != 0) {
        let near = -(n + TRY_STEP * t as f32);
        let tried: Lanes<N> = from_fn(|l| near / extreme[l]);
        let (a, b) = fit(&tried);
        for l in 0..N {
            let better = (b[l] > 0.0) & (a[l] * a[l] > best[l] * b[l]);
            let fitted = a[l] / b[l];
            scale[l] = if better { fitted } else { scale[l] };
            best[l] = if better { fitted * a[l] } else { best[l] };
            factor[l] = if better { tried[l] } else { factor[l] };
        }
    }
    for l in 0..N {
        let zero = extreme[l].abs() < ZERO_BELOW;
        scale[l] = if zero { 0.0 } else { scale[l] };
        factor[l] = if zero { 0.0 } else { factor[l] };
    }
    Symmetric { scale, factor, n }
}

/// What coordinate descent finds.
pub struct Descent {
    pub scale: Lanes,
    /// Codes from `-n`, by value and group.
    pub codes: [Lanes; MAX_GROUP],
}

/// Scales of codes `-n..n`, the codes being moved one after the other.
#[inline(always)]
pub fn descent(x: &[Lanes], n: f32) -> Descent {
    let extreme = extremes(x);
    let mut codes = [[0f32; LANES]; MAX_GROUP];
    let (mut a, mut b) = ([0f32; LANES], [0f32; LANES]);
    let factor: Lanes = from_fn(|l| -n / extreme[l]);
    for (x, codes) in x.iter().zip(&mut codes) {
        for l in 0..LANES {
            let code = rint(factor[l] * x[l], -n, n - 1.0);
            let w = x[l] * x[l];
            a[l] += w * x[l] * code;
            b[l] += w * code * code;
            codes[l] = code;
        }
    }
    for _ in 0..DESCENT_ROUNDS {
        let mut changes = 0;
        for (x, codes) in x.iter().zip(&mut codes) {
            for l in 0..LANES {
                let (x, code) = (x[l], codes[l]);
                let w = x * x;
                let rest = a[l] - w * x * code;
                let rest_squares = b[l] - w * code * code;
                let moved = rint(x * rest_squares / rest, -n, n - 1.0);
                let (new_a, new_b) = (rest + w * x * moved, rest_squares + w * moved * moved);
                let better = (rest > 0.0)
                    & (moved != code)
                    & (new_b > 0.0)
                    & (new_a * new_a * b[l] > a[l] * a[l] * new_b);
                a[l] = if better { new_a } else { a[l] };
                b[l] = if better { new_b } else { b[l] };
                codes[l] = if better { moved } else { code };
                changes |= i32::from(better);
            }
        }
        if changes == 0 {
            break;
        }
    }
    let zero: [bool; LANES] = from_fn(|l| extreme[l].abs() < ZERO_BELOW);
    for codes in &mut codes[..x.len()] {
        *codes = from_fn(|l| if zero[l] { -n } else { codes[l] });
    }
    let scale = from_fn(|l| if !zero[l] & (b[l] > 0.0) { a[l] / b[l] } else { 0.0 });
    Descent { scale, codes }
}

/// What the affine search finds: `x ~ scale * code + min`.
pub struct Affine {
    pub scale: Lanes,
    /// Not positive.
    pub min: Lanes,
    factor: Lanes,
    base: Lanes,
    n: f32,
}

impl Affine {
    /// The code of a value of group `l`.
    #[inline(always)]
    pub fn code(&self, l: usize, x: f32) -> f32 {
        rint(self.factor[l] * (x - self.base[l]), 0.0, self.n)
    }
}

/// Scales and minima of codes `0..=n`.
#[inline(always)]
fn affine(x: &[Lanes], w: &[Lanes], n: f32, tries: &AffineTries) -> Affine {
    let (mut min, mut high) = (x[0], x[0]);
    let (mut total, mut total_x) = ([0f32; LANES], [0f32; LANES]);
    for (x, w) in x.iter().zip(w) {
        for l in 0..LANES {
            min[l] = if x[l] < min[l] { x[l] } else { min[l] };
            high[l] = if x[l] > high[l] { x[l] } else { high[l] };
            total[l] += w[l];
            total_x[l] += w[l] * x[l];
        }
    }
    min = min.map(|v| if v > 0.0 { 0.0 } else { v });
    let flat: [bool; LANES] = from_fn(|l| high[l] == min[l]);
    let mut codes = [[0f32; LANES]; MAX_GROUP];
    let codes = &mut codes[..x.len()];
    // Errors of codes with these scales and minima, weighted and summed.
    let error_of = |codes: &[Lanes], scale: &Lanes, min: &Lanes| {
        let mut error = [0f32; LANES];
        for ((x, w), codes) in x.iter().zip(w).zip(codes) {
            for l in 0..LANES {
                let e = scale[l] * codes[l] + min[l] - x[l];
                error[l] += w[l] * if tries.absolute { e.abs() } else { e * e };
            }
        }
        error
    };
    let mut factor: Lanes = from_fn(|l| n / (high[l] - min[l]));
    let mut base = min;
    let mut scale: Lanes = factor.map(|f| 1.0 / f);
    for (x, codes) in x.iter().zip(codes.iter_mut()) {
        *codes = from_fn(|l| rint(factor[l] * (x[l] - min[l]), 0.0, n));
    }
    let mut best = error_of(codes, &scale, &min);
    for t in 0..=tries.last {
        let near = tries.first + tries.step * t as f32 + n;
        let tried: Lanes = from_fn(|l| near / (high[l] - min[l]));
        let (mut linear, mut squares, mut product) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
        for ((x, w), codes) in x.iter().zip(w).zip(codes.iter_mut()) {
            for l in 0..LANES {
                let code = rint(tried[l] * (x[l] - min[l]), 0.0, n);
                codes[l] = code;
                let weighted = w[l] * code;
                linear[l] += weighted;
                squares[l] += weighted * code;
                product[l] += weighted * x[l];
            }
        }
        let determinant: Lanes = from_fn(|l| total[l] * squares[l] - linear[l] * linear[l]);
        let (mut new_scale, mut new_min) = ([0f32; LANES], [0f32; LANES]);
        for l in 0..LANES {
            let fitted = (squares[l] * total_x[l] - linear[l] * product[l]) / determinant[l];
            let with_min = (total[l] * product[l] - total_x[l] * linear[l]) / determinant[l];
            let without = product[l] / squares[l];
            new_min[l] = if fitted > 0.0 { 0.0 } else { fitted };
            new_scale[l] = if fitted > 0.0 { without } else { with_min };
        }
        let error = error_of(codes, &new_scale, &new_min);
        for l in 0..LANES {
            let better = (determinant[l] > 0.0) & (error[l] < best[l]);
            factor[l] = if better { tried[l] } else { factor[l] };
            base[l] = if better { min[l] } else { base[l] };
            best[l] = if better { error[l] } else { best[l] };
            scale[l] = if better { new_scale[l] } else { scale[l] };
            min[l] = if better { new_min[l] } else { min[l] };
        }
    }
    for l in 0..LANES {
        // Both are as they were before the first try, whose comparisons NaN has failed.
        scale[l] = if flat[l] { 0.0 } else { scale[l] };
        factor[l] = if flat[l] { 0.0 } else { factor[l] };
    }
    Affine { scale, min, factor, base, n }
}

/// A super-scale for scales (or magnitudes of minima) that are not negative, and their codes `0..=n`.
#[inline(always)]
pub fn positive(x: &[f32], w: &[f32], n: f32, codes: &mut [f32]) -> f32 {
    let max = x.iter().fold(0f32, |m, &v| if v > m { v } else { m });
    if max < ZERO_BELOW {
        codes.fill(0.0);
        return 0.0;
    }
    let error_of = |factor: f32| {
        let scale = 1.0 / factor;
        x.iter().zip(w).fold(0f32, |error, (&x, &w)| {
            let e = x - scale * rint(factor * x, 0.0, n);
            error + w * e * e
        })
    };
    let mut factor = n / max;
    let mut best = error_of(factor);
    for t in (-POSITIVE_TRIES..=POSITIVE_TRIES).filter(|&t| t != 0) {
        let tried = (TRY_STEP * t as f32 + n) / max;
        let error = error_of(tried);
        if error < best {
            (best, factor) = (error, tried);
        }
    }
    let (mut a, mut b) = (0f32, 0f32);
    for ((&x, &w), code) in x.iter().zip(w).zip(codes.iter_mut()) {
        *code = rint(factor * x, 0.0, n);
        a += w * x * *code;
        b += w * *code * *code;
    }
    for _ in 0..DESCENT_ROUNDS {
        let mut changed = false;
        for ((&x, &w), code) in x.iter().zip(w).zip(codes.iter_mut()) {
            let rest = a - w * x * *code;
            let rest_squares = b - w * *code * *code;
            if rest > 0.0 && rest_squares > 0.0 {
                let moved = rint(x * rest_squares / rest, 0.0, n);
                let (new_a, new_b) = (rest + w * x * moved, rest_squares + w * moved * moved);
                if moved != *code && new_a * new_a * b > a * a * new_b {
                    (a, b, *code, changed) = (new_a, new_b, moved, true);
                }
            }
        }
        if !changed {
            break;
        }
    }
    if b > 0.0 { a / b } else { 0.0 }
}

/// The table of IQ4 with its entry for every half of an integer: its boundaries are multiples of a half.
pub struct Iq4Table {
    /// Codes and entries for `2 * v` rounded down, from `LOWEST` on.
    codes: [u8; Self::CELLS],
    entries: [f32; Self::CELLS],
    first: f32,
}

impl Iq4Table {
    const CELLS: usize = 512;
    /// Twice a number below the first boundary; the last one is within the cells.
    const LOWEST: f32 = -256.0;

    /// The table, made once.
    pub fn shared() -> &'static Self {
        static TABLE: OnceLock<Iq4Table> = OnceLock::new();
        TABLE.get_or_init(Self::new)
    }

    fn new() -> Self {
        let entries = Codebook::Iq4Nl.entries();
        let mids = Sorted::new(entries).mids;
        let code_at = |cell: usize| {
            let v = (cell as f32 + Self::LOWEST) * 0.5;
            mids.iter().filter(|&&mid| mid <= v).count()
        };
        Self {
            codes: from_fn(|cell| code_at(cell) as u8),
            entries: from_fn(|cell| entries[code_at(cell)]),
            first: entries[0],
        }
    }

    #[inline(always)]
    fn cell(v: f32) -> usize {
        let last = Self::LOWEST + (Self::CELLS - 1) as f32;
        let twice = 2.0 * v;
        let twice = if twice > Self::LOWEST { twice } else { Self::LOWEST };
        let twice = if twice < last { twice } else { last };
        let truncated = twice as i32;
        let floor = truncated - i32::from(truncated as f32 > twice);
        // Within the cells, which the remainder tells the compiler.
        (floor - Self::LOWEST as i32) as usize % Self::CELLS
    }

    /// The code of the entry nearest to v.
    #[inline(always)]
    pub fn nearest(&self, v: f32) -> u8 {
        self.codes[Self::cell(v)]
    }

    #[inline(always)]
    fn search(&self, x: &[Lanes], w: &[Lanes]) -> Lanes {
        let extreme = extremes(x);
        let fit = |factor: &Lanes| {
            let (mut a, mut b) = ([0f32; LANES], [0f32; LANES]);
            for (x, w) in x.iter().zip(w) {
                for l in 0..LANES {
                    let q = self.entries[Self::cell(factor[l] * x[l])];
                    let weighted = w[l] * q;
                    a[l] += weighted * x[l];
                    b[l] += weighted * q;
                }
            }
            (a, b)
        };
        let factor: Lanes = from_fn(|l| 1.0 / (-extreme[l] / self.first));
        let (a, b) = fit(&factor);
        let mut scale: Lanes = from_fn(|l| if b[l] > 0.0 { a[l] / b[l] } else { 0.0 });
        let mut best: Lanes = from_fn(|l| scale[l] * a[l]);
        for t in -TABLE_TRIES..=TABLE_TRIES {
            let near = t as f32 + self.first;
            let tried: Lanes = from_fn(|l| near / extreme[l]);
            let (a, b) = fit(&tried);
            for l in 0..LANES {
                let better = (b[l] > 0.0) & (a[l] * a[l] > best[l] * b[l]);
                let fitted = a[l] / b[l];
                scale[l] = if better { fitted } else { scale[l] };
                best[l] = if better { fitted * a[l] } else { best[l] };
            }
        }
        from_fn(|l| if extreme[l].abs() < ZERO_BELOW { 0.0 } else { scale[l] })
    }
}
