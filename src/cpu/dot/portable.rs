//! The innermost loops in plain Rust, written over fixed-size arrays so that they vectorise for whatever the target has. They define what
//! the other versions of the integer kernels compute, bit for bit.

use super::{CodeRow, F32_ACCUMULATORS, IntPanel, IntRows, IntTile, IntX, LANES, Words, join_lanes};

const NR: usize = 8;

/// The sum of the four products of two words.
#[inline(always)]
fn dot4(w: [u8; 4], x: [i8; 4]) -> i32 {
    (0..4).map(|i| i32::from(w[i]) * i32::from(x[i])).sum()
}

/// The products of a step: `words` and what meets each of their fields, per lane.
#[inline(always)]
fn add_step<'a>(
    w: &IntRows,
    words: &[u8; 4 * LANES],
    x: impl Iterator<Item = &'a Words>,
    sums: &mut [i32; LANES],
) {
    let (width, words) = (8 / w.fields, words.as_chunks::<4>().0);
    let mask = ((1u32 << width) - 1) as u8;
    for (f, x) in x.enumerate() {
        for l in 0..LANES {
            let u = words[l].map(|b| (b >> (width * f)) & mask);
            let u = w.map.map_or(u, |map| u.map(|u| map[usize::from(u & 15)]));
            // Modulo 2^32 as in vectors: sums over a whole row end within it.
            sums[l] = sums[l].wrapping_add(dot4(u, x.0[l].to_le_bytes().map(|b| b as i8)));
        }
    }
}

pub(super) fn int_sums(w: IntRows, x: IntX, mr: usize, out: &mut [i32], stride: usize) {
    for n in 0..w.rows {
        let w = w.row(n);
        for m in 0..mr {
            let mut sums = [0i32; LANES];
            for (words, codes) in w.codes.as_chunks().0.iter().zip(x.codes.chunks(w.fields * mr)) {
                add_step(&w, words, codes[m..].iter().step_by(mr), &mut sums);
            }
            out[m * stride + n] = sums.iter().fold(0, |all, &sum| all.wrapping_add(sum));
        }
    }
}

pub(super) fn int_rows(w: IntRows, x: IntX, mr: usize, out: &mut [f32], stride: usize) {
    for n in 0..w.rows {
        for m in 0..mr {
            out[m * stride + n] = int_row(w.row(n), x, m);
        }
    }
}

/// One weight row and row `m` of x.
fn int_row(w: IntRows, x: IntX, m: usize) -> f32 {
    let per_step = LANES / w.lanes_per_scale;
    let entries = x.steps * per_step + LANES;
    let mut lanes = [0f32; LANES];
    for (t, words) in w.codes.as_chunks().0.iter().enumerate() {
        let at = m * x.steps + t;
        let init = &x.init[at].0;
        let entry = |l: usize| t * per_step + l / w.lanes_per_scale;
        let zero = |l: usize| w.zero.get(entry(l)).copied();
        let mut sums: [i32; LANES] = std::array::from_fn(|l| init[l] as i32 * zero(l).unwrap_or(1));
        add_step(&w, words, x.codes[at * w.fields..][..w.fields].iter(), &mut sums);
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += sums[l] as f32 * (w.scale[entry(l)] * x.scale[m * entries + entry(l)]);
        }
    }
    let sum = &x.sum[m * w.bias.len()..(m + 1) * w.bias.len()];
    for (bias, sum) in w.bias.as_chunks::<LANES>().0.iter().zip(sum.as_chunks::<LANES>().0) {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += bias[l] * sum[l];
        }
    }
    join_lanes(lanes)
}

pub(super) fn code_rows(w: CodeRow, x: &[f32], out: &mut [f32]) {
    let width = 8 / w.fields;
    let per_step = LANES / w.lanes_per_scale;
    let positions = 4 * w.fields;
    let steps = w.codes.len() / (4 * LANES);
    for (m, out) in out.iter_mut().enumerate() {
        let x = &x.as_chunks::<LANES>().0[m * steps * positions..];
        let mut sums = [[0f32; LANES]; 2];
        for (t, words) in w.codes.as_chunks::<{ 4 * LANES }>().0.iter().enumerate() {
            let words: [u32; LANES] = std::array::from_fn(|l| {
                u32::from_le_bytes([words[4 * l], words[4 * l + 1], words[4 * l + 2], words[4 * l + 3]])
            });
            let entry = |all: &[f32], l: usize| all.get(t * per_step + l / w.lanes_per_scale).copied();
            let scale: [f32; LANES] = std::array::from_fn(|l| w.scale[t * per_step + l / w.lanes_per_scale]);
            let minus: [f32; LANES] = std::array::from_fn(|l| entry(w.minus, l).unwrap_or(0.0));
            let bias: Option<[f32; LANES]> =
                (!w.bias.is_empty()).then(|| std::array::from_fn(|l| entry(w.bias, l).unwrap_or(0.0)));
            for p in 0..positions {
                let shift = 8 * (p % 4) + width * (p / 4);
                let x = &x[t * positions + p];
                for l in 0..LANES {
                    let code = words[l] >> shift;
                    let value = w.table.map_or((code & 255) as f32, |table| table[code as usize & 15]);
                    let mut weight = scale[l] * (value - minus[l]);
                    if let Some(bias) = bias {
                        weight += bias[l];
                    }
                    sums[p % 2][l] += weight * x[l];
                }
            }
        }
        *out = join_lanes(std::array::from_fn(|l| sums[0][l] + sums[1][l]));
    }
}

pub(super) fn f32_rows(w: &[f32], x: &[f32], out: &mut [f32]) {
    for (x, out) in x.chunks(w.len().max(1)).zip(out) {
        let mut sums = [[0f32; LANES]; F32_ACCUMULATORS];
        const STEP: usize = LANES * F32_ACCUMULATORS;
        for (w, x) in w.as_chunks::<STEP>().0.iter().zip(x.as_chunks::<STEP>().0) {
            for a in 0..F32_ACCUMULATORS {
                for l in 0..LANES {
                    sums[a][l] += w[a * LANES + l] * x[a * LANES + l];
                }
            }
        }
        let mut lanes = [0f32; LANES];
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane = (sums[0][l] + sums[1][l]) + (sums[2][l] + sums[3][l]);
        }
        *out = join_lanes(lanes);
    }
}

pub(super) fn int_panel(ends: &[u32], w: IntPanel, x: IntTile, out: &mut [f32], stride: usize) {
    let w_rows = |values: &[f32], s: usize| -> [f32; NR] { std::array::from_fn(|n| values[s * NR + n]) };
    for m in 0..x.mr {
        let mut total = [0f32; NR];
        let mut word = 0;
        for (s, &end) in ends.iter().enumerate() {
            let init = x.init[s * x.mr + m];
            let mut sums = match w.zero.get(s * NR..(s + 1) * NR) {
                Some(zero) => std::array::from_fn(|n| init * zero[n]),
                None => [init; NR],
            };
            for i in word..end as usize {
                let four = x.codes[i * x.mr + m].to_le_bytes().map(|b| b as i8);
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = sum.wrapping_add(dot4(w.codes[i * NR + n].to_le_bytes(), four));
                }
            }
            word = end as usize;
            let (scale, x_scale) = (w_rows(w.scale, s), x.scale[s * x.mr + m]);
            for n in 0..NR {
                total[n] += sums[n] as f32 * (scale[n] * x_scale);
            }
            if !w.bias.is_empty() {
                let bias = w_rows(w.bias, s);
                for n in 0..NR {
                    total[n] += bias[n] * x.sum[s * x.mr + m];
                }
            }
        }
        out[m * stride..m * stride + NR].copy_from_slice(&total);
    }
}

pub(super) fn f32_panel(w: &[f32], x: &[f32], mr: usize, out: &mut [f32], stride: usize) {
    let k = x.len() / mr;
    for m in 0..mr {
        let mut total = [0f32; NR];
        for (i, w) in w.as_chunks::<NR>().0.iter().enumerate().take(k) {
            let v = x[i * mr + m];
            for n in 0..NR {
                total[n] += w[n] * v;
            }
        }
        out[m * stride..m * stride + NR].iter_mut().zip(total).for_each(|(o, t)| *o += t);
    }
}
