//! GGUF's searches for scales: what they do, in single f32 operations, and their numbers.
//!
//! A group's extreme seldom gives its best scale, so these encoders try several, fit each by least squares and keep the best. The
//! bytes are those of ggml, built without fused multiply-add. `x`, `w`: values and weights of a group; every sum is
//! formed in sequence from +0; `w*x*l` is `(w*x)*l`; `rint(v, a, b)` is v rounded to nearest even and clamped to `a..=b` (`a` for NaN).
//! Where |v| > 2^22, ggml's own rounding is not defined and bytes may differ.
//!
//! ```text
//! symmetric(x, w, n) -> s, l      m = the value of largest magnitude with its sign, the first; |m| < 1e-15: s = 0, l = -n
//!   fit(f)      l = rint(f*x, -n, n-1),  a = sum w*x*l,  b = sum w*l*l
//!   first       f = -n / m;  s = a/b (0 where b is 0),  best = s*a
//!   then        for t in -9..=9 but 0: f = -(n + 0.1*t) / m; where b > 0 and a*a > best*b: s = a/b, best = s*a, l kept
//!
//! descent(x, n) -> s, l           w = x*x; m and zero groups as above; l, a, b of fit(-n / m)
//!   5 times     for each value in turn: a' = a - w*x*l, where a' > 0: b' = b - w*l*l,  l' = rint(x*b'/a', -n, n-1);
//!               where l' != l: a' += w*x*l', b' += w*l'*l'; where b' > 0 and a'*a'*b > a*a*b': l, a, b = l', a', b'
//!   s           a/b, 0 where b <= 0
//!
//! affine(x, w, n, tries, err) -> s, m, l        m <= 0:  x ~ s*l + m;  W = sum w, X = sum w*x
//!   first       m = min(x, 0), M = max x; M = m: s = 0, l = 0.   f = n / (M-m),  s = 1/f,  l = rint(f*(x-m), 0, n)
//!               best = sum w*err(s*l + m - x);    err(e) = |e| for Q2_K without importance, else e*e
//!   then        for t in 0..=last: f = ((first + step*t) + n) / (M-m) with the m of the best so far,  l = rint(f*(x-m), 0, n),
//!               L = sum w*l, Q = sum w*l*l, P = sum w*l*x,  D = W*Q - L*L;  where D > 0: s' = (W*P - X*L) / D,
//!               m' = (Q*X - L*P) / D; where m' > 0: m' = 0, s' = P/Q;  where the error of s', m' is below best: s, m, l, best = these
//!
//! positive(x, w, n) -> s, l       x >= 0; M = max x < 1e-15: s = 0, l = 0
//!   f           n / M, or of (0.1*t + n) / M, t in -4..=4 but 0, the first whose sum of w*e*e is lowest,  e = x - (1/f)*rint(f*x, 0, n)
//!   then        l = rint(f*x, 0, n) and up to 5 rounds as in descent, where also b' > 0 at first
//!
//! table(x, w) -> s                m and zero groups as above; K the table, nearest(v) = the entry nearest to v, of two the upper
//!   fit(f)      q = nearest(f*x),  a = sum w*q*x,  b = sum w*q*q
//!   first       f = 1 / (-m / K[0]);   then as symmetric, for t in -7..=7: f = (t + K[0]) / m
//! ```
//!
//! **Super-groups.** Without importance: `top` = the s of largest magnitude with its sign, the first; then sub-scales, stored `d`, `dm`:
//!
//! | type | s, m of a group | sub-scales | d, dm |
//! |---|---|---|---|
//! | Q2_K | affine, w = abs x | rint(15/top * s, 0, 15), same of -m | f16(top/15), same of -m |
//! | Q4_K, Q5_K | affine, w = sqrt(sum x*x / 32) + abs x | rint(63/top * s, 0, 63), same of -m | f16(top/63), same of -m |
//! | Q3_K | descent, n = 4 | f = -32/top: rint(f*s, -32, 31); -32 where top is 0 | f16(1/f); 0 where top is 0 |
//! | Q6_K | symmetric, n = 32, w = x*x | f = -128/top: rint(f*s, -128, 127); abs top < 1e-15: 0 | f16(1/f); +0, codes 0 |
//! | IQ4_XS | table, w = x*x | D = -top/32: rint(1/D * s, -32, 31), 1/D = 0 for D = 0 | f16(D) |
//! | IQ4_NL | table, w = x*x | | f16(s) |
//!
//! With `d` and `dm` as stored, codes are `rint((x + dm*m) / (d*s))` or `rint(x / (d*s))` in the range of codes, and those of the search where `d*s`
//! is 0. IQ4_XS: the code of nearest(x * (1/(D*s))) with the unrounded D, IQ4_NL: of nearest(x * (1/s)), quotients by 0 being 0.
//!
//! **With importance** `c` (one number per column), S2 = sum x*x over the row (Q4_0 to Q5_1), the super-group or, for IQ4_NL, the group, and N its length:
//!
//! | type | w | s, m of a group | super-group |
//! |---|---|---|---|
//! | Q4_0, Q5_0 | c * sqrt(S2/N + x*x) | symmetric, scale f16(s), its codes | |
//! | Q4_1, Q5_1 | c * sqrt(S2/N + x*x) | affine, scale f16(s), bias f16(m), its codes | |
//! | Q2_K | c * sqrt(S2/N + x*x) | affine | d and sub-scales positive(s, sums of w, 15), same of -m |
//! | Q4_K, Q5_K | c * sqrt(2*S2/N + x*x) | affine | positive(s, sums of w, 63), same of -m |
//! | Q3_K | c * sqrt(2*S2/N + x*x) | symmetric, n = 4 | symmetric(s, sums of w, 32) |
//! | Q6_K | c | symmetric, n = 32 | as without |
//! | IQ4_NL, IQ4_XS | c * sqrt(2*S2/N + x*x) | table | as without |
//!
//! Source: ggml's `ggml-quants.c`, `quantize_row_*_ref` and `quantize_row_*_impl`.

/// A group, or the scales of a super-group, whose largest magnitude is below counts as zero.
pub const ZERO_BELOW: f32 = 1e-15;
/// Factors tried on each side of the first one, and their distance: [`symmetric`](self).
pub const SYMMETRIC_TRIES: i32 = 9;
/// The same for positive numbers.
pub const POSITIVE_TRIES: i32 = 4;
/// The same for the table of IQ4, one entry apart.
pub const TABLE_TRIES: i32 = 7;
/// Distance of the factors of the symmetric and the positive search.
pub const TRY_STEP: f32 = 0.1;
/// Rounds of descent.
pub const DESCENT_ROUNDS: usize = 5;

/// The factors that the affine search tries, and its measure of error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AffineTries {
    pub first: f32,
    pub step: f32,
    /// The last try's number, counted from 0.
    pub last: u32,
    /// Magnitudes of errors instead of their squares.
    pub absolute: bool,
}

impl AffineTries {
    /// Those of codes of `bits` bits.
    pub const fn of(bits: u8, importance: bool) -> Self {
        match (importance, bits) {
            (true, _) => Self { first: -0.9, step: 0.05, last: 36, absolute: false },
            (false, 2) => Self { first: -0.5, step: 0.1, last: 15, absolute: true },
            (false, 4) => Self { first: -1.0, step: 0.1, last: 20, absolute: false },
            (false, _) => Self { first: -0.5, step: 0.1, last: 15, absolute: false },
        }
    }
}
