//! The innermost loops for AVX-512 with VNNI: `vpdpbusd` multiplies 64 codes at a time. Products of f32 are in `float`.
//!
//! Every function needs the features that [`Level::Avx512`](crate::cpu::level::Level) stands for. The numbers are those of `portable`, f32 sums
//! apart, which are fused here.

mod float;

pub(super) use float::{f32_direct, f32_panel, f32_rows};

use super::{CodeRow, F32_ACCUMULATORS, IntPanel, IntRows, IntTile, IntX, LANES, join_lanes};
use std::arch::x86_64::*;

#[inline]
#[target_feature(enable = "avx512f")]
fn load_i32<T: bytemuck::Pod>(from: &[T]) -> __m512i {
    assert!(size_of_val(from) >= 64, "a whole vector");
    // SAFETY: 64 readable bytes, just checked; the load needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_loadu_si512(from.as_ptr().cast())
    }
}

/// Asks for the line `ahead` bytes from `codes`.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch(codes: &[u8; 4 * LANES], ahead: usize) {
    // SAFETY: prefetching has no effect on memory and faults nowhere. (Safe to call in newer versions of Rust.)
    #[allow(unsafe_code, unused_unsafe)]
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(ahead).cast());
    }
}

/// Steps that codes are asked for ahead of, where one row of x meets them: the machine's own prefetching stops at the end of a page, which may be that of
/// a row. With more rows a step takes longer.
const AHEAD: usize = 32;

/// How far ahead of step `t` codes are asked for, in bytes, where `rows` rows are read side by side, followed by as many others, and meet `mr` rows of x.
#[inline(always)]
fn ahead(t: usize, steps: usize, rows: usize, mr: usize) -> usize {
    let next = if t + AHEAD / mr < steps { 0 } else { (rows - 1) * steps };
    (AHEAD / mr + next) * 4 * LANES
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_f32(from: &[f32]) -> __m512 {
    _mm512_castsi512_ps(load_i32(from))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_f32(to: &mut [f32], v: __m512) {
    assert!(to.len() >= LANES, "a whole vector");
    // SAFETY: 64 writable bytes, just checked; the store needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_storeu_ps(to.as_mut_ptr(), v);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn join(v: __m512) -> f32 {
    let mut lanes = [0f32; LANES];
    store_f32(&mut lanes, v);
    join_lanes(lanes)
}

/// `$all` goes over the rows of a weight with `$block`, several at a time, for they share what is done about x: `$nw` with `$mr` rows of x, as many as
/// registers hold.
macro_rules! over_rows {
    ($all:ident, $of_fields:ident, $of_x:ident, $block:ident, $sum:ty, $($mr:literal => $nw:literal),*) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        pub(super) fn $all(w: IntRows, x: IntX, mr: usize, out: &mut [$sum], stride: usize) {
            match w.fields {
                1 => $of_fields::<1>(w, x, mr, out, stride),
                2 => $of_fields::<2>(w, x, mr, out, stride),
                4 => $of_fields::<4>(w, x, mr, out, stride),
                _ => $of_fields::<8>(w, x, mr, out, stride),
            }
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        fn $of_fields<const F: usize>(w: IntRows, x: IntX, mr: usize, out: &mut [$sum], stride: usize) {
            match mr {
                $($mr => $of_x::<F, $nw, $mr>(w, x, out, stride),)*
                _ => unreachable!("{mr} rows of x"),
            }
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        fn $of_x<const F: usize, const NW: usize, const MR: usize>(
            w: IntRows,
            x: IntX,
            out: &mut [$sum],
            stride: usize,
        ) {
            let mut n = 0;
            while n + NW <= w.rows {
                $block::<F, NW, MR>(w, n, x, &mut out[n..], stride);
                n += NW;
            }
            while n < w.rows {
                $block::<F, 1, MR>(w, n, x, &mut out[n..], stride);
                n += 1;
            }
        }
    };
}

over_rows!(int_rows, int_rows_of_fields, int_rows_of_x, int_rows_of, f32, 1 => 4, 2 => 4, 3 => 2, 4 => 2);
over_rows!(int_sums, int_sums_of_fields, int_sums_of_x, int_sums_of, i32, 1 => 4, 2 => 4, 3 => 4, 4 => 4, 5 => 4, 6 => 4);

/// Lane l of the result is `l / lanes_per_scale`, a power of two.
#[inline]
#[target_feature(enable = "avx512f")]
fn spread_scales(lanes_per_scale: usize) -> __m512i {
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_srlv_epi32(lanes, _mm512_set1_epi32(lanes_per_scale.trailing_zeros() as i32))
}

/// The codes of `NW` weight rows, step by step.
struct Codes<'a, const F: usize, const NW: usize> {
    w: [&'a [[u8; 4 * LANES]]; NW],
    mapped: bool,
    table: __m512i,
}

impl<'a, const F: usize, const NW: usize> Codes<'a, F, NW> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(w: &[IntRows<'a>; NW], steps: usize) -> Self {
        let mut codes = Self {
            w: [&[]; NW],
            mapped: w[0].map.is_some(),
            table: w[0].map.map_or(_mm512_setzero_si512(), |map| spread(map)),
        };
        for n in 0..NW {
            codes.w[n] = &w[n].codes.as_chunks().0[..steps];
        }
        codes
    }

    /// The bytes of field `f` in step `t` of weight row `n`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn field(&self, n: usize, t: usize, f: usize) -> __m512i {
        let mut codes = load_i32(&self.w[n][t]);
        if F > 1 {
            let shift = _mm512_set1_epi32((f * 8 / F) as i32);
            let mask = _mm512_set1_epi8(((1u32 << (8 / F)) - 1) as i8);
            codes = _mm512_and_si512(_mm512_srlv_epi32(codes, shift), mask);
        }
        if self.mapped {
            codes = _mm512_shuffle_epi8(self.table, codes);
        }
        codes
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn int_rows_of<const F: usize, const NW: usize, const MR: usize>(
    rows: IntRows,
    first: usize,
    x: IntX,
    out: &mut [f32],
    stride: usize,
) {
    let steps = x.steps;
    let mut w = [rows; NW];
    for n in 0..NW {
        w[n] = rows.row(first + n);
    }
    let codes = Codes::<F, NW>::new(&w, steps);
    // A vector of scales lasts for so many steps, each taking `per_step` of it.
    let lasts = w[0].lanes_per_scale;
    let per_step = _mm512_set1_epi32((LANES / lasts) as i32);
    let first_scale = spread_scales(lasts);
    let has_zero = !w[0].zero.is_empty();
    let entries = steps * LANES / lasts + LANES;
    let (mut x_codes, mut x_init) = ([[].as_slice(); MR], [x.init; MR]);
    for m in 0..MR {
        x_codes[m] = &x.codes.as_chunks::<F>().0[m * steps..][..steps];
        x_init[m] = &x.init[m * steps..][..steps];
    }
    let mut total = [[_mm512_setzero_ps(); MR]; NW];
    for (chunk, first) in (0..steps).step_by(lasts).enumerate() {
        let mut scales = [[_mm512_setzero_ps(); MR]; NW];
        let mut zeros = [_mm512_setzero_si512(); NW];
        for n in 0..NW {
            let scale = load_f32(&w[n].scale[chunk * LANES..]);
            for m in 0..MR {
                scales[n][m] = _mm512_mul_ps(scale, load_f32(&x.scale[m * entries + chunk * LANES..]));
            }
            if has_zero {
                zeros[n] = load_i32(&w[n].zero[chunk * LANES..]);
            }
        }
        let mut lane_scale = first_scale;
        for t in first..(first + lasts).min(steps) {
            let ahead = ahead(t, steps, NW, MR);
            for n in 0..NW {
                let mut sums = [_mm512_setzero_si512(); MR];
                for m in 0..MR {
                    sums[m] = load_i32(&x_init[m][t].0);
                }
                if has_zero {
                    let zero = _mm512_permutexvar_epi32(lane_scale, zeros[n]);
                    for m in 0..MR {
                        // Both factors fit 16 bits, and the upper half of a zero-point is 0.
                        sums[m] = _mm512_madd_epi16(sums[m], zero);
                    }
                }
                prefetch(&codes.w[n][t], ahead);
                for f in 0..F {
                    let codes = codes.field(n, t, f);
                    for m in 0..MR {
                        sums[m] = _mm512_dpbusd_epi32(sums[m], codes, load_i32(&x_codes[m][t][f].0));
                    }
                }
                for m in 0..MR {
                    let factor = _mm512_permutexvar_ps(lane_scale, scales[n][m]);
                    let term = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[m]), factor);
                    total[n][m] = _mm512_add_ps(total[n][m], term);
                }
            }
            lane_scale = _mm512_add_epi32(lane_scale, per_step);
        }
    }
    let biases = w[0].bias.len();
    for i in (0..biases).step_by(LANES) {
        for n in 0..NW {
            let bias = load_f32(&w[n].bias[i..]);
            for m in 0..MR {
                let sum = load_f32(&x.sum[m * biases + i..]);
                total[n][m] = _mm512_add_ps(total[n][m], _mm512_mul_ps(bias, sum));
            }
        }
    }
    for n in 0..NW {
        for m in 0..MR {
            out[m * stride + n] = join(total[n][m]);
        }
    }
}

/// The sum of each vector's lanes, for a quarter of the shuffles that one after the other takes.
#[inline]
#[target_feature(enable = "avx512f")]
fn reduce_four([a, b, c, d]: [__m512i; 4]) -> [i32; 4] {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    // Each quarter holds a part of every sum, in order.
    let all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
    let sum = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
    let [low, high] = [_mm_cvtsi128_si64(sum), _mm_extract_epi64::<1>(sum)];
    [low as i32, (low >> 32) as i32, high as i32, (high >> 32) as i32]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn int_sums_of<const F: usize, const NW: usize, const MR: usize>(
    rows: IntRows,
    first: usize,
    x: IntX,
    out: &mut [i32],
    stride: usize,
) {
    let mut w = [rows; NW];
    for n in 0..NW {
        w[n] = rows.row(first + n);
    }
    let rows = Codes::<F, NW>::new(&w, x.steps);
    let x_codes = x.codes.as_chunks::<MR>().0.as_chunks::<F>().0;
    let mut sums = [[_mm512_setzero_si512(); MR]; NW];
    for (t, x_codes) in x_codes[..x.steps].iter().enumerate() {
        let ahead = ahead(t, x.steps, NW, MR);
        for n in 0..NW {
            prefetch(&rows.w[n][t], ahead);
        }
        for f in 0..F {
            let mut codes = [_mm512_setzero_si512(); NW];
            for n in 0..NW {
                codes[n] = rows.field(n, t, f);
            }
            // What is loaded of x meets all weight rows.
            for m in 0..MR {
                let x = load_i32(&x_codes[f][m].0);
                for n in 0..NW {
                    sums[n][m] = _mm512_dpbusd_epi32(sums[n][m], codes[n], x);
                }
            }
        }
    }
    for m in 0..MR {
        let out = &mut out[m * stride..];
        let mut n = 0;
        while n + 4 <= NW {
            let sum = reduce_four([sums[n][m], sums[n + 1][m], sums[n + 2][m], sums[n + 3][m]]);
            out[n..n + 4].copy_from_slice(&sum);
            n += 4;
        }
        while n < NW {
            out[n] = _mm512_reduce_add_epi32(sums[n][m]);
            n += 1;
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn code_rows(w: CodeRow, x: &[f32], out: &mut [f32]) {
    match w.fields {
        1 => code_rows_of_fields::<1>(w, x, out),
        2 => code_rows_of_fields::<2>(w, x, out),
        4 => code_rows_of_fields::<4>(w, x, out),
        _ => code_rows_of_fields::<8>(w, x, out),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn code_rows_of_fields<const F: usize>(w: CodeRow, x: &[f32], out: &mut [f32]) {
    match out {
        [a] => *a = code_rows_of::<F, 1>(w, x)[0],
        [a, b] => [*a, *b] = code_rows_of::<F, 2>(w, x),
        [a, b, c] => [*a, *b, *c] = code_rows_of::<F, 3>(w, x),
        [a, b, c, d] => [*a, *b, *c, *d] = code_rows_of::<F, 4>(w, x),
        _ => {}
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn code_rows_of<const F: usize, const MR: usize>(w: CodeRow, x: &[f32]) -> [f32; MR] {
    let w_codes = w.codes.as_chunks::<{ 4 * LANES }>().0;
    let steps = w_codes.len();
    let positions = 4 * F;
    let x_all = x.as_chunks::<LANES>().0;
    let mut x = [x_all; MR];
    for m in 0..MR {
        x[m] = &x_all[m * steps * positions..][..steps * positions];
    }
    let per_step = LANES / w.lanes_per_scale;
    let lane_scale = spread_scales(w.lanes_per_scale);
    let table = w.table.map_or(_mm512_setzero_ps(), |table| load_f32(table));
    let mut sums = [[_mm512_setzero_ps(); 2]; MR];
    for t in 0..steps {
        let words = load_i32(&w_codes[t]);
        prefetch(&w_codes[t], ahead(t, steps, 1, MR));
        let scale = _mm512_permutexvar_ps(lane_scale, load_f32(&w.scale[t * per_step..]));
        let (mut minus, mut bias) = (_mm512_setzero_ps(), _mm512_setzero_ps());
        if !w.minus.is_empty() {
            minus = _mm512_permutexvar_ps(lane_scale, load_f32(&w.minus[t * per_step..]));
        }
        if !w.bias.is_empty() {
            bias = _mm512_permutexvar_ps(lane_scale, load_f32(&w.bias[t * per_step..]));
        }
        for p in 0..positions {
            let shift = _mm512_set1_epi32((8 * (p % 4) + (8 / F) * (p / 4)) as i32);
            let code = _mm512_srlv_epi32(words, shift);
            let mut value = if F > 1 || w.table.is_some() {
                _mm512_permutexvar_ps(code, table)
            } else {
                _mm512_cvtepi32_ps(_mm512_and_si512(code, _mm512_set1_epi32(255)))
            };
            if !w.minus.is_empty() {
                value = _mm512_sub_ps(value, minus);
            }
            // Where there is a bias the product is exact, so that fusing changes nothing.
            let weight = if w.bias.is_empty() {
                _mm512_mul_ps(scale, value)
            } else {
                _mm512_fmadd_ps(scale, value, bias)
            };
            for m in 0..MR {
                sums[m][p % 2] = _mm512_fmadd_ps(weight, load_f32(&x[m][t * positions + p]), sums[m][p % 2]);
            }
        }
    }
    let mut out = [0f32; MR];
    for m in 0..MR {
        out[m] = join(_mm512_add_ps(sums[m][0], sums[m][1]));
    }
    out
}

/// Weight rows of a panel.
const NR: usize = 32;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) fn int_panel(ends: &[u32], w: IntPanel, x: IntTile, out: &mut [f32], stride: usize) {
    match x.mr {
        1 => int_panel_of::<1>(ends, w, x, out, stride),
        2 => int_panel_of::<2>(ends, w, x, out, stride),
        3 => int_panel_of::<3>(ends, w, x, out, stride),
        4 => int_panel_of::<4>(ends, w, x, out, stride),
        5 => int_panel_of::<5>(ends, w, x, out, stride),
        _ => int_panel_of::<6>(ends, w, x, out, stride),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn int_panel_of<const MR: usize>(ends: &[u32], w: IntPanel, x: IntTile, out: &mut [f32], stride: usize) {
    let w_words = w.codes.as_chunks::<NR>().0;
    let x_words = x.codes.as_chunks::<MR>().0;
    let (w_scale, x_scale) = (w.scale.as_chunks::<NR>().0, x.scale.as_chunks::<MR>().0);
    let (zero, init) = (w.zero.as_chunks::<NR>().0, x.init.as_chunks::<MR>().0);
    let (bias, x_sum) = (w.bias.as_chunks::<NR>().0, x.sum.as_chunks::<MR>().0);
    let mut total = [[_mm512_setzero_ps(); 2]; MR];
    let mut word = 0;
    for (s, &end) in ends.iter().enumerate() {
        let mut sums = [[_mm512_setzero_si512(); 2]; MR];
        for m in 0..MR {
            sums[m] = [_mm512_set1_epi32(init[s][m]); 2];
        }
        if let Some(zero) = zero.get(s) {
            let zero = [load_i32(&zero[..16]), load_i32(&zero[16..])];
            for sum in &mut sums {
                for h in 0..2 {
                    sum[h] = _mm512_mullo_epi32(sum[h], zero[h]);
                }
            }
        }
        let range = word..end as usize;
        for (w, x) in w_words[range.clone()].iter().zip(&x_words[range]) {
            let w = [load_i32(&w[..16]), load_i32(&w[16..])];
            for m in 0..MR {
                let x = _mm512_set1_epi32(x[m] as i32);
                for h in 0..2 {
                    sums[m][h] = _mm512_dpbusd_epi32(sums[m][h], w[h], x);
                }
            }
        }
        word = end as usize;
        let scale = [load_f32(&w_scale[s][..16]), load_f32(&w_scale[s][16..])];
        for m in 0..MR {
            let x = _mm512_set1_ps(x_scale[s][m]);
            for h in 0..2 {
                let term = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[m][h]), _mm512_mul_ps(scale[h], x));
                total[m][h] = _mm512_add_ps(total[m][h], term);
            }
        }
        if let Some(bias) = bias.get(s) {
            let bias = [load_f32(&bias[..16]), load_f32(&bias[16..])];
            for m in 0..MR {
                let x = _mm512_set1_ps(x_sum[s][m]);
                for h in 0..2 {
                    total[m][h] = _mm512_add_ps(total[m][h], _mm512_mul_ps(bias[h], x));
                }
            }
        }
    }
    for m in 0..MR {
        for h in 0..2 {
            store_f32(&mut out[m * stride + h * 16..], total[m][h]);
        }
    }
}

/// See [`super::int_chains`]. Twelve vectors hide how long an instruction takes.
#[cfg(feature = "cli")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn int_chains(steps: usize) -> Vec<i32> {
    let one = _mm512_set1_epi8(std::hint::black_box(1));
    // Nobody may see that all chains are the same.
    let mut v = std::hint::black_box([_mm512_setzero_si512(); 12]);
    for _ in 0..steps {
        for v in &mut v {
            *v = _mm512_dpbusd_epi32(*v, one, one);
        }
    }
    let mut ends = vec![0i32; v.len() * LANES];
    for (v, to) in v.into_iter().zip(ends.chunks_mut(LANES)) {
        store_i32(bytemuck::cast_slice_mut(to), v);
    }
    ends
}

/// 16 x 16 words at a time; `rows` are a multiple of 16, and so are `words`.
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: &[&[u8]], words: usize, out: &mut [u32]) {
    let n = rows.len();
    for (h, rows) in rows.as_chunks::<16>().0.iter().enumerate() {
        for start in (0..words).step_by(16) {
            // Not by closures, which would not have this function's features.
            let mut v = [_mm512_setzero_si512(); 16];
            for r in 0..16 {
                v[r] = load_i32(&rows[r][4 * start..4 * start + 64]);
            }
            // Pairs of rows, then pairs of pairs: v[4q + j] comes to hold words j, 4 + j, 8 + j, 12 + j of rows 4q..4q+4.
            let mut pairs = [_mm512_setzero_si512(); 16];
            for i in 0..8 {
                pairs[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
                pairs[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
            }
            let mut fours = [_mm512_setzero_si512(); 16];
            for q in 0..4 {
                for h in 0..2 {
                    let (a, b) = (pairs[4 * q + h], pairs[4 * q + 2 + h]);
                    fours[4 * q + 2 * h] = _mm512_unpacklo_epi64(a, b);
                    fours[4 * q + 2 * h + 1] = _mm512_unpackhi_epi64(a, b);
                }
            }
            for j in 0..4 {
                // 128-bit lane l of fours[4q + j] is word 4l + j of rows 4q..: gather the lanes of one word.
                let (a, b, c, d) = (fours[j], fours[4 + j], fours[8 + j], fours[12 + j]);
                let (ab_even, ab_odd) =
                    (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
                let (cd_even, cd_odd) =
                    (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
                let turned = [
                    _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even),
                    _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd),
                    _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even),
                    _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd),
                ];
                for l in 0..4 {
                    store_i32(&mut out[(start + 4 * l + j) * n + 16 * h..], turned[l]);
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_i32(to: &mut [u32], v: __m512i) {
    assert!(to.len() >= LANES, "a whole vector");
    // SAFETY: 64 writable bytes, just checked; the store needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_storeu_si512(to.as_mut_ptr().cast(), v);
    }
}

/// The table in each 128-bit lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn spread(map: &[u8; 16]) -> __m512i {
    let [a, b, c, d] =
        [0, 4, 8, 12].map(|i| i32::from_le_bytes([map[i], map[i + 1], map[i + 2], map[i + 3]]));
    _mm512_broadcast_i32x4(_mm_setr_epi32(a, b, c, d))
}

#[target_feature(enable = "avx512f")]
pub(super) fn fields(width: usize, nr: usize, first_bit: usize, words: &[u32], out: &mut [u32]) {
    match width {
        4 => fields_of::<4, 2>(nr, first_bit, words, out),
        2 => fields_of::<2, 4>(nr, first_bit, words, out),
        _ => fields_of::<1, 8>(nr, first_bit, words, out),
    }
}

/// Written for vectors because a compiler that is left to itself takes words of several rows at once, by gathering and scattering.
#[inline]
#[target_feature(enable = "avx512f")]
fn fields_of<const WIDTH: usize, const QUADS: usize>(
    nr: usize,
    first_bit: usize,
    words: &[u32],
    out: &mut [u32],
) {
    let mask = _mm512_set1_epi8(((1u32 << WIDTH) - 1) as i8);
    let up = _mm_cvtsi32_si128(first_bit as i32);
    for (words, out) in words.chunks_exact(nr).zip(out.chunks_exact_mut(QUADS * nr)) {
        for (h, words) in words.as_chunks::<LANES>().0.iter().enumerate() {
            let words = load_i32(words);
            for f in 0..QUADS {
                let shift = _mm512_set1_epi32((f * WIDTH) as i32);
                let mut four = _mm512_and_si512(_mm512_srlv_epi32(words, shift), mask);
                let out = &mut out[f * nr + h * LANES..][..LANES];
                if first_bit > 0 {
                    four = _mm512_or_si512(_mm512_sll_epi32(four, up), load_i32(out));
                }
                store_i32(out, four);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn map_bytes(map: &[u8; 16], words: &mut [u32]) {
    let table = spread(map);
    let (chunks, rest) = words.as_chunks_mut::<LANES>();
    for chunk in chunks {
        let v = _mm512_shuffle_epi8(table, load_i32(chunk));
        store_i32(chunk, v);
    }
    for word in rest {
        *word = u32::from_le_bytes(word.to_le_bytes().map(|b| map[usize::from(b & 15)]));
    }
}
