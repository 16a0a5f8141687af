//! The innermost loops of f32 with AVX-512.
//!
//! Every function needs the features that [`Level::Avx512`](crate::cpu::level::Level) stands for.

use super::{F32_ACCUMULATORS, LANES, NR, join, load_f32, store_f32};
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(in crate::cpu::dot) fn f32_rows(w: &[f32], x: &[f32], out: &mut [f32]) {
    match out {
        [a] => *a = f32_rows_of::<1>(w, x)[0],
        [a, b] => [*a, *b] = f32_rows_of(w, x),
        [a, b, c] => [*a, *b, *c] = f32_rows_of(w, x),
        [a, b, c, d] => [*a, *b, *c, *d] = f32_rows_of(w, x),
        _ => {}
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn f32_rows_of<const MR: usize>(w: &[f32], x: &[f32]) -> [f32; MR] {
    const STEP: usize = LANES * F32_ACCUMULATORS;
    let w_steps = w.as_chunks::<STEP>().0;
    let x: [&[[f32; STEP]]; MR] =
        std::array::from_fn(|m| &x[m * w.len()..].as_chunks::<STEP>().0[..w_steps.len()]);
    let mut sums = [[_mm512_setzero_ps(); F32_ACCUMULATORS]; MR];
    for (t, w) in w_steps.iter().enumerate() {
        for a in 0..F32_ACCUMULATORS {
            let w = load_f32(&w[a * LANES..]);
            for m in 0..MR {
                sums[m][a] = _mm512_fmadd_ps(w, load_f32(&x[m][t][a * LANES..]), sums[m][a]);
            }
        }
    }
    let mut out = [0f32; MR];
    for m in 0..MR {
        let [a, b, c, d] = sums[m];
        out[m] = join(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
    }
    out
}

#[target_feature(enable = "avx512f,avx512dq")]
pub(in crate::cpu::dot) fn f32_direct(w: &[&[f32]], x: &[&[f32]], out: &mut [f32], stride: usize) {
    match *x {
        [a] => f32_direct_of(w, [a], out, stride),
        [a, b] => f32_direct_of(w, [a, b], out, stride),
        [a, b, c] => f32_direct_of(w, [a, b, c], out, stride),
        [a, b, c, d] => f32_direct_of(w, [a, b, c, d], out, stride),
        [a, b, c, d, e] => f32_direct_of(w, [a, b, c, d, e], out, stride),
        [a, b, c, d, e, f] => f32_direct_of(w, [a, b, c, d, e, f], out, stride),
        _ => {}
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn f32_direct_of<const MR: usize>(w: &[&[f32]], x: [&[f32]; MR], out: &mut [f32], stride: usize) {
    let Some(last) = w.len().checked_sub(1) else { return };
    let k = w[0].len();
    // Rows beyond the last repeat it.
    let w = [w[0], w[last.min(1)], w[last.min(2)], w[last.min(3)]];
    let (mut w_lines, mut x_lines) = ([[].as_slice(); 4], [[].as_slice(); MR]);
    for n in 0..4 {
        w_lines[n] = w[n].as_chunks().0;
    }
    for m in 0..MR {
        x_lines[m] = x[m].as_chunks().0;
    }
    let mut sums = direct_sums(w_lines, x_lines, k / LANES);
    if !k.is_multiple_of(LANES) {
        add_rest(&w, &x, &mut sums);
    }
    for m in 0..MR {
        let out = &mut out[m * stride..];
        match out.first_chunk_mut::<4>() {
            Some(out) if last == 3 => (0..4).for_each(|n| out[n] += sums[m][n]),
            _ => out.iter_mut().zip(sums[m]).take(last + 1).for_each(|(out, sum)| *out += sum),
        }
    }
}

/// Adds the products of what is behind the last whole vector of each row, filled up with zeros.
#[cold]
#[target_feature(enable = "avx512f,avx512dq")]
fn add_rest<const MR: usize>(w: &[&[f32]; 4], x: &[&[f32]; MR], sums: &mut [[f32; 4]; MR]) {
    let last = |row: &[f32]| {
        let rest = row.as_chunks::<LANES>().1;
        let mut last = [[0f32; LANES]];
        last[0][..rest.len()].copy_from_slice(rest);
        last
    };
    let (w, x) = (w.map(last), x.map(last));
    let (w, x) = (w.each_ref().map(|r| r.as_slice()), x.each_ref().map(|r| r.as_slice()));
    for (sums, rest) in sums.iter_mut().zip(direct_sums(w, x, 1)) {
        sums.iter_mut().zip(rest).for_each(|(sum, rest)| *sum += rest);
    }
}

/// Four rows of w times MR rows of x.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn direct_sums<const MR: usize>(
    w: [&[[f32; LANES]]; 4],
    x: [&[[f32; LANES]]; MR],
    steps: usize,
) -> [[f32; 4]; MR] {
    let (mut w, mut x) = (w, x);
    for n in 0..4 {
        w[n] = &w[n][..steps];
    }
    for m in 0..MR {
        x[m] = &x[m][..steps];
    }
    let mut sums = [[_mm512_setzero_ps(); 4]; MR];
    for t in 0..steps {
        let w = [load_f32(&w[0][t]), load_f32(&w[1][t]), load_f32(&w[2][t]), load_f32(&w[3][t])];
        for m in 0..MR {
            let x = load_f32(&x[m][t]);
            for n in 0..4 {
                sums[m][n] = _mm512_fmadd_ps(w[n], x, sums[m][n]);
            }
        }
    }
    let mut joined = [[0f32; 4]; MR];
    for m in 0..MR {
        joined[m] = join_four(sums[m]);
    }
    joined
}

/// The sum of each vector's lanes, as [`super::reduce_four`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn join_four([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
    let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    let low = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
    let all = _mm512_add_ps(low, _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    let half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps::<1>(all));
    let sum = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
    let bits = _mm_castps_si128(sum);
    let [low, high] = [_mm_cvtsi128_si64(bits), _mm_extract_epi64::<1>(bits)];
    [low, low >> 32, high, high >> 32].map(|bits| f32::from_bits(bits as u32))
}

#[target_feature(enable = "avx512f")]
pub(in crate::cpu::dot) fn f32_panel(w: &[f32], x: &[f32], mr: usize, out: &mut [f32], stride: usize) {
    match mr {
        1 => f32_panel_of::<1>(w, x, out, stride),
        2 => f32_panel_of::<2>(w, x, out, stride),
        3 => f32_panel_of::<3>(w, x, out, stride),
        4 => f32_panel_of::<4>(w, x, out, stride),
        5 => f32_panel_of::<5>(w, x, out, stride),
        6 => f32_panel_of::<6>(w, x, out, stride),
        7 => f32_panel_of::<7>(w, x, out, stride),
        8 => f32_panel_of::<8>(w, x, out, stride),
        9 => f32_panel_of::<9>(w, x, out, stride),
        10 => f32_panel_of::<10>(w, x, out, stride),
        11 => f32_panel_of::<11>(w, x, out, stride),
        _ => f32_panel_of::<12>(w, x, out, stride),
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn f32_panel_of<const MR: usize>(w: &[f32], x: &[f32], out: &mut [f32], stride: usize) {
    let mut sums = [[_mm512_setzero_ps(); 2]; MR];
    for (w, x) in w.as_chunks::<NR>().0.iter().zip(x.as_chunks::<MR>().0) {
        let w = [load_f32(&w[..16]), load_f32(&w[16..])];
        for m in 0..MR {
            let x = _mm512_set1_ps(x[m]);
            for h in 0..2 {
                sums[m][h] = _mm512_fmadd_ps(w[h], x, sums[m][h]);
            }
        }
    }
    for m in 0..MR {
        for h in 0..2 {
            let out = &mut out[m * stride + h * 16..];
            let sum = _mm512_add_ps(load_f32(out), sums[m][h]);
            store_f32(out, sum);
        }
    }
}
