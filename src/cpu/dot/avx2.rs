//! The innermost loops for AVX2 with FMA, the integer ones twice: with `vpdpbusd` on 256 bits (`vnni`) and without (`plain`).
//!
//! Every function needs the features that its [`Level`](crate::cpu::level::Level) stands for. The numbers are those of `portable`, f32 sums
//! apart, which are fused here.

use super::{CodeRow, F32_ACCUMULATORS, LANES, join_lanes};
use std::arch::x86_64::*;

/// Lanes of one vector.
const HALF: usize = 8;
/// Weight rows of a panel.
const NR: usize = 16;

#[inline]
#[target_feature(enable = "avx2")]
fn load_i32<T: bytemuck::Pod>(from: &[T]) -> __m256i {
    assert!(size_of_val(from) >= 32, "a whole vector");
    // SAFETY: 32 readable bytes, just checked; the load needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm256_loadu_si256(from.as_ptr().cast())
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_f32(from: &[f32]) -> __m256 {
    _mm256_castsi256_ps(load_i32(from))
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_f32(to: &mut [f32], v: __m256) {
    assert!(to.len() >= HALF, "a whole vector");
    // SAFETY: 32 writable bytes, just checked; the store needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm256_storeu_ps(to.as_mut_ptr(), v);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn join(v: [__m256; 2]) -> f32 {
    let mut lanes = [0f32; LANES];
    store_f32(&mut lanes[..HALF], v[0]);
    store_f32(&mut lanes[HALF..], v[1]);
    join_lanes(lanes)
}

/// The integer kernels, given features, the dot product of four codes per lane, and that of four codes of seven bits.
macro_rules! integer_kernels {
    ($features:literal, $dot:path, $dot7:path) => {
        #[target_feature(enable = $features)]
        pub(in crate::cpu::dot) fn int_rows(
            w: IntRows,
            x: IntX,
            mr: usize,
            out: &mut [f32],
            stride: usize,
        ) {
            let steps = x.steps;
            let (entries, biases) = (x.scale.len() / mr, x.sum.len() / mr);
            for n in 0..w.rows {
                let w = w.row(n);
                for m in 0..mr {
                    let one = IntX {
                        steps,
                        codes: &x.codes[m * steps * w.fields..][..steps * w.fields],
                        init: &x.init[m * steps..][..steps],
                        scale: &x.scale[m * entries..][..entries],
                        sum: &x.sum[m * biases..][..biases],
                    };
                    out[m * stride + n] = match w.fields {
                        1 => int_row::<1>(w, one),
                        2 => int_row::<2>(w, one),
                        4 => int_row::<4>(w, one),
                        _ => int_row::<8>(w, one),
                    };
                }
            }
        }

        #[target_feature(enable = $features)]
        pub(in crate::cpu::dot) fn int_sums(
            w: IntRows,
            x: IntX,
            mr: usize,
            out: &mut [i32],
            stride: usize,
        ) {
            for n in 0..w.rows {
                let w = w.row(n);
                for m in 0..mr {
                    out[m * stride + n] = match w.fields {
                        1 => int_sum::<1>(w, x, (m, mr)),
                        2 => int_sum::<2>(w, x, (m, mr)),
                        4 => int_sum::<4>(w, x, (m, mr)),
                        _ => int_sum::<8>(w, x, (m, mr)),
                    };
                }
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn int_sum<const F: usize>(w: IntRows, x: IntX, (m, mr): (usize, usize)) -> i32 {
            let table = spread(w.map.unwrap_or(&[0; 16]));
            let mut sums = [_mm256_setzero_si256(); 2];
            for t in 0..x.steps {
                let codes = &x.codes[t * F * mr + m..];
                for h in 0..2 {
                    sums[h] = add_step::<F>(&w, table, (codes, mr), (t, h), sums[h]);
                }
            }
            let mut lanes = [0u32; HALF];
            store_i32(&mut lanes, _mm256_add_epi32(sums[0], sums[1]));
            lanes.iter().fold(0u32, |all, &sum| all.wrapping_add(sum)) as i32
        }

        /// Half `h` of step `t` added to `sum`; every so many words are those of this row of x.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_step<const F: usize>(
            w: &IntRows,
            table: __m256i,
            (x, every): (&[Words], usize),
            (t, h): (usize, usize),
            mut sum: __m256i,
        ) -> __m256i {
            let mask = _mm256_set1_epi8(((1u32 << (8 / F)) - 1) as i8);
            let at = t * LANES + h * HALF;
            let words = load_i32(&w.codes[4 * at..4 * at + 32]);
            for f in 0..F {
                let mut codes = words;
                if F > 1 {
                    let shift = _mm256_set1_epi32((f * 8 / F) as i32);
                    codes = _mm256_and_si256(_mm256_srlv_epi32(words, shift), mask);
                }
                if w.map.is_some() {
                    codes = _mm256_shuffle_epi8(table, codes);
                }
                sum = $dot(sum, codes, load_i32(&x[f * every].0[h * HALF..]));
            }
            sum
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn int_row<const F: usize>(w: IntRows, x: IntX) -> f32 {
            let per_step = LANES / w.lanes_per_scale;
            let lanes: [i32; HALF] = std::array::from_fn(|l| (l / w.lanes_per_scale) as i32);
            let lane_scale = load_i32(&lanes);
            let table = spread(w.map.unwrap_or(&[0; 16]));
            let mut total = [_mm256_setzero_ps(); 2];
            for t in 0..x.steps {
                let init = &x.init[t].0;
                for h in 0..2 {
                    let first = t * per_step + h * HALF / w.lanes_per_scale;
                    let scale = _mm256_mul_ps(load_f32(&w.scale[first..]), load_f32(&x.scale[first..]));
                    let factor = _mm256_permutevar8x32_ps(scale, lane_scale);
                    let mut sum = load_i32(&init[h * HALF..]);
                    if !w.zero.is_empty() {
                        let zero = _mm256_permutevar8x32_epi32(load_i32(&w.zero[first..]), lane_scale);
                        // Both factors fit 16 bits, and the upper half of a zero-point is 0.
                        sum = _mm256_madd_epi16(sum, zero);
                    }
                    sum = add_step::<F>(&w, table, (&x.codes[t * F..], 1), (t, h), sum);
                    let term = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), factor);
                    total[h] = _mm256_add_ps(total[h], term);
                }
            }
            for i in (0..w.bias.len()).step_by(HALF) {
                let (bias, sum) = (load_f32(&w.bias[i..i + HALF]), load_f32(&x.sum[i..i + HALF]));
                let h = i / HALF % 2;
                total[h] = _mm256_add_ps(total[h], _mm256_mul_ps(bias, sum));
            }
            join(total)
        }

        #[target_feature(enable = $features)]
        pub(in crate::cpu::dot) fn int_panel(
            ends: &[u32],
            w: IntPanel,
            x: IntTile,
            out: &mut [f32],
            stride: usize,
        ) {
            match x.mr {
                1 => int_panel_of::<1>(ends, w, x, out, stride),
                _ => int_panel_of::<2>(ends, w, x, out, stride),
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn int_panel_of<const MR: usize>(
            ends: &[u32],
            w: IntPanel,
            x: IntTile,
            out: &mut [f32],
            stride: usize,
        ) {
            let w_words = w.codes.as_chunks::<NR>().0;
            let x_words = x.codes.as_chunks::<MR>().0;
            let (w_scale, x_scale) = (w.scale.as_chunks::<NR>().0, x.scale.as_chunks::<MR>().0);
            let (zero, init) = (w.zero.as_chunks::<NR>().0, x.init.as_chunks::<MR>().0);
            let (bias, x_sum) = (w.bias.as_chunks::<NR>().0, x.sum.as_chunks::<MR>().0);
            let mut total = [[_mm256_setzero_ps(); 2]; MR];
            let mut word = 0;
            for (s, &end) in ends.iter().enumerate() {
                let mut sums = [[_mm256_setzero_si256(); 2]; MR];
                for m in 0..MR {
                    sums[m] = [_mm256_set1_epi32(init[s][m]); 2];
                }
                if let Some(zero) = zero.get(s) {
                    let zero = [load_i32(&zero[..HALF]), load_i32(&zero[HALF..])];
                    for sum in &mut sums {
                        for h in 0..2 {
                            sum[h] = _mm256_mullo_epi32(sum[h], zero[h]);
                        }
                    }
                }
                let range = word..end as usize;
                for (w, x) in w_words[range.clone()].iter().zip(&x_words[range]) {
                    let w = [load_i32(&w[..HALF]), load_i32(&w[HALF..])];
                    for m in 0..MR {
                        let x = _mm256_set1_epi32(x[m] as i32);
                        for h in 0..2 {
                            sums[m][h] = $dot(sums[m][h], w[h], x);
                        }
                    }
                }
                word = end as usize;
                let scale = [load_f32(&w_scale[s][..HALF]), load_f32(&w_scale[s][HALF..])];
                for m in 0..MR {
                    let x = _mm256_set1_ps(x_scale[s][m]);
                    for h in 0..2 {
                        let term = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[m][h]), _mm256_mul_ps(scale[h], x));
                        total[m][h] = _mm256_add_ps(total[m][h], term);
                    }
                }
                if let Some(bias) = bias.get(s) {
                    let bias = [load_f32(&bias[..HALF]), load_f32(&bias[HALF..])];
                    for m in 0..MR {
                        let x = _mm256_set1_ps(x_sum[s][m]);
                        for h in 0..2 {
                            total[m][h] = _mm256_add_ps(total[m][h], _mm256_mul_ps(bias[h], x));
                        }
                    }
                }
            }
            for m in 0..MR {
                for h in 0..2 {
                    store_f32(&mut out[m * stride + h * HALF..], total[m][h]);
                }
            }
        }

        /// See [`int_chains`](crate::cpu::dot::int_chains). Twelve vectors hide how long an instruction takes.
        #[cfg(feature = "cli")]
        #[target_feature(enable = $features)]
        pub(in crate::cpu::dot) fn int_chains(steps: usize) -> Vec<i32> {
            let one = _mm256_set1_epi8(std::hint::black_box(1));
            let mut v = std::hint::black_box([_mm256_setzero_si256(); 12]);
            for _ in 0..steps {
                for v in &mut v {
                    let mut w = one;
                    // SAFETY: no instruction; w is another value to the compiler, which would multiply before the loop otherwise.
                    #[allow(unsafe_code)]
                    unsafe {
                        std::arch::asm!("/* {0} */", inout(ymm_reg) w, options(nomem, nostack, preserves_flags));
                    }
                    *v = $dot7(*v, w, one);
                }
            }
            let mut ends = vec![0i32; v.len() * HALF];
            for (v, to) in v.into_iter().zip(ends.chunks_mut(HALF)) {
                store_f32(bytemuck::cast_slice_mut(to), _mm256_castsi256_ps(v));
            }
            ends
        }
    };
}

pub(super) mod vnni {
    use super::super::{IntPanel, IntRows, IntTile, IntX, Words};
    use super::*;

    integer_kernels!("avx2,fma,avxvnni", _mm256_dpbusd_avx_epi32, _mm256_dpbusd_avx_epi32);
}

pub(super) mod plain {
    use super::super::{IntPanel, IntRows, IntTile, IntX, Words};
    use super::*;

    /// `sum + four products per lane`, u8 times i8.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn dot(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // vpmaddubsw saturates at 2^15, which 255 * 127 * 2 exceeds: the top bit of w goes apart.
        let top = _mm256_set1_epi8(-128);
        let (low, high) = (_mm256_andnot_si256(top, w), _mm256_and_si256(top, w));
        let one = _mm256_set1_epi16(1);
        let low = _mm256_madd_epi16(_mm256_maddubs_epi16(low, x), one);
        let high = _mm256_madd_epi16(_mm256_maddubs_epi16(high, x), one);
        _mm256_add_epi32(sum, _mm256_add_epi32(low, high))
    }

    /// [`dot`] where w is below 128, so that nothing saturates.
    #[cfg(feature = "cli")]
    #[inline]
    #[target_feature(enable = "avx2")]
    fn dot7(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
        _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)))
    }

    integer_kernels!("avx2,fma", dot, dot7);
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn code_rows(w: CodeRow, x: &[f32], out: &mut [f32]) {
    let n = x.len() / out.len().max(1);
    for (m, out) in out.iter_mut().enumerate() {
        let x = &x[m * n..(m + 1) * n];
        *out = match w.fields {
            1 => code_row::<1>(w, x),
            2 => code_row::<2>(w, x),
            4 => code_row::<4>(w, x),
            _ => code_row::<8>(w, x),
        };
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn code_row<const F: usize>(w: CodeRow, x: &[f32]) -> f32 {
    let steps = w.codes.len() / (4 * LANES);
    let positions = 4 * F;
    let per_step = LANES / w.lanes_per_scale;
    let lanes: [i32; HALF] = std::array::from_fn(|l| (l / w.lanes_per_scale) as i32);
    let lane_scale = load_i32(&lanes);
    let table = w.table.unwrap_or(&[0.0; 16]);
    let (table_low, table_high) = (load_f32(&table[..HALF]), load_f32(&table[HALF..]));
    // By half of the lanes, then by even and odd positions.
    let mut sums = [[_mm256_setzero_ps(); 2]; 2];
    for t in 0..steps {
        for h in 0..2 {
            let at = t * LANES + h * HALF;
            let words = load_i32(&w.codes[4 * at..4 * at + 32]);
            let first = t * per_step + h * HALF / w.lanes_per_scale;
            let scale = _mm256_permutevar8x32_ps(load_f32(&w.scale[first..]), lane_scale);
            let (mut minus, mut bias) = (_mm256_setzero_ps(), _mm256_setzero_ps());
            if !w.minus.is_empty() {
                minus = _mm256_permutevar8x32_ps(load_f32(&w.minus[first..]), lane_scale);
            }
            if !w.bias.is_empty() {
                bias = _mm256_permutevar8x32_ps(load_f32(&w.bias[first..]), lane_scale);
            }
            for p in 0..positions {
                let shift = (8 * (p % 4) + (8 / F) * (p / 4)) as i32;
                let code = _mm256_srlv_epi32(words, _mm256_set1_epi32(shift));
                let mut value = if F > 1 || w.table.is_some() {
                    // The fourth bit, moved to the sign, chooses between the halves of the table.
                    let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(code));
                    let low = _mm256_permutevar8x32_ps(table_low, code);
                    _mm256_blendv_ps(low, _mm256_permutevar8x32_ps(table_high, code), upper)
                } else {
                    _mm256_cvtepi32_ps(_mm256_and_si256(code, _mm256_set1_epi32(255)))
                };
                if !w.minus.is_empty() {
                    value = _mm256_sub_ps(value, minus);
                }
                // Where there is a bias the product is exact, so that fusing changes nothing.
                let weight = if w.bias.is_empty() {
                    _mm256_mul_ps(scale, value)
                } else {
                    _mm256_fmadd_ps(scale, value, bias)
                };
                let x = load_f32(&x[(t * positions + p) * LANES + h * HALF..]);
                sums[h][p % 2] = _mm256_fmadd_ps(weight, x, sums[h][p % 2]);
            }
        }
    }
    join([_mm256_add_ps(sums[0][0], sums[0][1]), _mm256_add_ps(sums[1][0], sums[1][1])])
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn f32_rows(w: &[f32], x: &[f32], out: &mut [f32]) {
    match out {
        [a] => *a = f32_rows_of::<1>(w, x)[0],
        [a, b, rest @ ..] => {
            let n = 2 * w.len();
            [*a, *b] = f32_rows_of(w, &x[..n]);
            f32_rows(w, &x[n..], rest);
        }
        [] => {}
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn f32_rows_of<const MR: usize>(w: &[f32], x: &[f32]) -> [f32; MR] {
    const VECTORS: usize = 2 * F32_ACCUMULATORS;
    let mut sums = [[_mm256_setzero_ps(); VECTORS]; MR];
    for t in (0..w.len()).step_by(VECTORS * HALF) {
        for v in 0..VECTORS {
            let at = t + v * HALF;
            let w_v = load_f32(&w[at..at + HALF]);
            for m in 0..MR {
                let i = m * w.len() + at;
                sums[m][v] = _mm256_fmadd_ps(w_v, load_f32(&x[i..i + HALF]), sums[m][v]);
            }
        }
    }
    let mut out = [0f32; MR];
    for m in 0..MR {
        let s = &sums[m];
        // Vector 2a + h holds the lanes 8h..8h+8 of accumulator a.
        let half = |h: usize| [s[h], s[2 + h], s[4 + h], s[6 + h]];
        let add = |[a, b, c, d]: [__m256; 4]| _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
        out[m] = join([add(half(0)), add(half(1))]);
    }
    out
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn f32_panel(w: &[f32], x: &[f32], mr: usize, out: &mut [f32], stride: usize) {
    match mr {
        1 => f32_panel_of::<1>(w, x, out, stride),
        2 => f32_panel_of::<2>(w, x, out, stride),
        3 => f32_panel_of::<3>(w, x, out, stride),
        4 => f32_panel_of::<4>(w, x, out, stride),
        5 => f32_panel_of::<5>(w, x, out, stride),
        _ => f32_panel_of::<6>(w, x, out, stride),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn f32_panel_of<const MR: usize>(w: &[f32], x: &[f32], out: &mut [f32], stride: usize) {
    let mut sums = [[_mm256_setzero_ps(); 2]; MR];
    for (w, x) in w.as_chunks::<NR>().0.iter().zip(x.as_chunks::<MR>().0) {
        let w = [load_f32(&w[..HALF]), load_f32(&w[HALF..])];
        for m in 0..MR {
            let x = _mm256_set1_ps(x[m]);
            for h in 0..2 {
                sums[m][h] = _mm256_fmadd_ps(w[h], x, sums[m][h]);
            }
        }
    }
    for m in 0..MR {
        for h in 0..2 {
            let out = &mut out[m * stride + h * HALF..];
            let sum = _mm256_add_ps(load_f32(out), sums[m][h]);
            store_f32(out, sum);
        }
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn fields(width: usize, nr: usize, first_bit: usize, words: &[u32], out: &mut [u32]) {
    let quads = 8 / width;
    let mask = _mm256_set1_epi8(((1u32 << width) - 1) as i8);
    let up = _mm_cvtsi32_si128(first_bit as i32);
    for (words, out) in words.chunks_exact(nr).zip(out.chunks_exact_mut(quads * nr)) {
        for (h, words) in words.as_chunks::<HALF>().0.iter().enumerate() {
            let words = load_i32(words);
            for f in 0..quads {
                let shift = _mm_cvtsi32_si128((f * width) as i32);
                let mut four = _mm256_and_si256(_mm256_srl_epi32(words, shift), mask);
                let out = &mut out[f * nr + h * HALF..][..HALF];
                if first_bit > 0 {
                    four = _mm256_or_si256(_mm256_sll_epi32(four, up), load_i32(out));
                }
                store_i32(out, four);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_i32(to: &mut [u32], v: __m256i) {
    assert!(to.len() >= HALF, "a whole vector");
    // SAFETY: 32 writable bytes, just checked; the store needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm256_storeu_si256(to.as_mut_ptr().cast(), v);
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn map_bytes(map: &[u8; 16], words: &mut [u32]) {
    let table = spread(map);
    let (chunks, rest) = words.as_chunks_mut::<HALF>();
    for chunk in chunks {
        let v = _mm256_shuffle_epi8(table, load_i32(chunk));
        store_i32(chunk, v);
    }
    for word in rest {
        *word = u32::from_le_bytes(word.to_le_bytes().map(|b| map[usize::from(b & 15)]));
    }
}

/// The table in both 128-bit lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn spread(map: &[u8; 16]) -> __m256i {
    let [a, b, c, d] =
        [0, 4, 8, 12].map(|i| i32::from_le_bytes([map[i], map[i + 1], map[i + 2], map[i + 3]]));
    _mm256_broadcastsi128_si256(_mm_setr_epi32(a, b, c, d))
}
