//! Panels: a few weight rows turned so that lanes run over rows.
//!
//! ```text
//! code planes [nr rows][words] --dot::transpose--> [words][nr] --dot::fields--> codes [K / 4][nr], four bytes each
//! scales, zeros, biases [nr][groups] --dot::transpose--> [groups][nr]
//! codes --values--> w [K][nr] f32
//! ```
//!
//! Words are turned while the codes are still packed, so that a quarter-word of nibbles costs half of what a word of bytes does. Decoding is
//! that of [`super::decode`], bit for bit.

use super::decode::{Groups, Weights};
use super::dot;
use super::half_float::{bf16_to_f32, f16_to_f32};
use super::level::{Level, Work, vectorized_at};
use crate::scheme::layout::code_widths;
use crate::scheme::{Float, Value};
use std::ops::Range;

/// Codes and group parameters of `nr` weight rows. Reused from one block of rows to the next.
pub(super) struct Panel {
    nr: usize,
    /// Transposed planes.
    low: Vec<u32>,
    high: Vec<u32>,
    /// `[K / 4, nr]` for codes of at most 8 bits; the transposed plane itself for floats.
    pub codes: Vec<u32>,
    /// `[groups, nr]`; zero-points, float zeros and biases are empty where the scheme has none.
    pub scale: Vec<f32>,
    pub zero: Vec<i32>,
    pub float_zero: Vec<f32>,
    pub bias: Vec<f32>,
    /// `[nr, groups, 2^bits]`, and where in it the table of a group begins, `[groups, nr]`; empty where groups have no tables.
    tables: Vec<f32>,
    table_at: Vec<u32>,
    row: Groups,
    lines: [Vec<u32>; 4],
}

impl Panel {
    pub fn new(nr: usize) -> Self {
        Self {
            nr,
            low: Vec::new(),
            high: Vec::new(),
            codes: Vec::new(),
            scale: Vec::new(),
            zero: Vec::new(),
            float_zero: Vec::new(),
            bias: Vec::new(),
            tables: Vec::new(),
            table_at: Vec::new(),
            row: Groups::default(),
            lines: Default::default(),
        }
    }

    /// Fills the panel with at most `nr` rows; missing ones repeat the last.
    pub fn load<'w>(&mut self, level: Level, w: &Weights<'w>, rows: Range<usize>) {
        let nr = self.nr;
        let row = |i: usize| (rows.start + i).min(rows.end - 1);
        let (low_width, high_width) = code_widths(w.scheme.bits);
        let padded = w.k.next_multiple_of(32);
        let turn = |width: usize, plane: &dyn Fn(usize) -> &'w [u8], out: &mut Vec<u32>| {
            let words = padded * width / 32;
            let lines: Vec<&[u8]> = (0..nr).map(|i| plane(row(i))).collect();
            out.resize(words * nr, 0);
            dot::transpose(level, &lines, words, out);
        };
        if low_width >= 8 {
            turn(low_width, &|r| w.low(r), &mut self.codes);
        } else {
            turn(low_width, &|r| w.low(r), &mut self.low);
            if high_width > 0 {
                turn(high_width, &|r| w.high(r), &mut self.high);
            }
            self.codes.resize(padded / 4 * nr, 0);
            dot::fields(level, low_width, nr, 0, &self.low, &mut self.codes);
            if high_width > 0 {
                dot::fields(level, high_width, nr, low_width, &self.high, &mut self.codes);
            }
        }
        if w.scheme.is_float() {
            return;
        }
        let groups = w.groups_per_row;
        for line in &mut self.lines {
            line.clear();
        }
        self.tables.clear();
        let [scale, zero, float_zero, bias] = &mut self.lines;
        for i in 0..nr {
            vectorized_at(level, ReadGroups { w, row: row(i), out: &mut self.row });
            scale.extend(self.row.scale.iter().map(|v| v.to_bits()));
            zero.extend(self.row.zero.iter().map(|v| *v as u32));
            float_zero.extend(self.row.float_zero.iter().map(|v| v.to_bits()));
            bias.extend(self.row.bias.iter().map(|v| v.to_bits()));
            self.tables.extend(&self.row.table);
        }
        if w.scheme.has_group_tables() {
            self.table_at.clear();
            let places = (0..groups).flat_map(|g| (0..nr).map(move |n| (n * groups + g) << w.scheme.bits));
            // A row's tables take less room than its codes could, whose offsets fit.
            self.table_at.extend(places.map(|at| at as u32));
        }
        let turn = |lines: &[u32], out: &mut [u32]| {
            let lines: Vec<&[u8]> = lines.chunks(groups).map(bytemuck::cast_slice).collect();
            if !lines.is_empty() {
                dot::transpose(level, &lines, groups, out);
            }
        };
        self.scale.resize(scale.len(), 0.0);
        self.zero.resize(zero.len(), 0);
        self.float_zero.resize(float_zero.len(), 0.0);
        self.bias.resize(bias.len(), 0.0);
        turn(scale, bytemuck::cast_slice_mut(&mut self.scale));
        turn(zero, bytemuck::cast_slice_mut(&mut self.zero));
        turn(float_zero, bytemuck::cast_slice_mut(&mut self.float_zero));
        turn(bias, bytemuck::cast_slice_mut(&mut self.bias));
    }

    /// Decodes the values `range` of K, which begins on a multiple of 4, into `out` `[range.len(), nr]`.
    pub fn values(&self, level: Level, w: &Weights, range: Range<usize>, out: &mut [f32]) {
        match self.nr {
            32 => vectorized_at(level, Values::<32> { panel: self, w, range, out }),
            16 => vectorized_at(level, Values::<16> { panel: self, w, range, out }),
            _ => vectorized_at(level, Values::<8> { panel: self, w, range, out }),
        }
    }
}

struct ReadGroups<'a> {
    w: &'a Weights<'a>,
    row: usize,
    out: &'a mut Groups,
}

impl Work for ReadGroups<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.w.groups(self.row, self.out);
    }
}

struct Values<'a, const NR: usize> {
    panel: &'a Panel,
    w: &'a Weights<'a>,
    range: Range<usize>,
    out: &'a mut [f32],
}

impl<const NR: usize> Work for Values<'_, NR> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { panel, w, range, out } = self;
        let words = panel.codes.as_chunks::<NR>().0;
        let out = out.as_chunks_mut::<NR>().0;
        match w.scheme.value {
            Value::Float(Float::F32) => {
                for (words, out) in words[range].iter().zip(out) {
                    *out = words.map(f32::from_bits);
                }
            }
            Value::Float(kind) => {
                for (words, out) in words[range.start / 2..].iter().zip(out.chunks_mut(2)) {
                    for (half, out) in out.iter_mut().enumerate() {
                        for n in 0..NR {
                            let bits = (words[n] >> (16 * half)) as u16;
                            out[n] = if kind == Float::F16 { f16_to_f32(bits) } else { bf16_to_f32(bits) };
                        }
                    }
                }
            }
            Value::Linear { .. } if !panel.float_zero.is_empty() => {
                let zeros = panel.float_zero.as_chunks::<NR>().0;
                each_word(panel, w, range, out, zeros, |u, zero: f32| u as f32 - zero);
            }
            Value::Linear { step: 1, .. } => {
                let (offset, zeros) = (w.offset(), panel.zero.as_chunks::<NR>().0);
                each_word(panel, w, range, out, zeros, |u, zero: i32| (u as i32 - offset - zero) as f32);
            }
            Value::Linear { step, .. } => {
                let (offset, zeros) = (w.offset(), panel.zero.as_chunks::<NR>().0);
                each_word(panel, w, range, out, zeros, |u, zero: i32| {
                    (step * u as i32 - offset - zero) as f32
                });
            }
            Value::Codebook(_) | Value::Learned => {
                // A table of 256, so that no index is out of range.
                let mut table = [0f32; 256];
                table[..w.table.len()].copy_from_slice(&w.table);
                each_word(panel, w, range, out, &[], |u, _: i32| table[u as usize & 255]);
            }
            Value::Tables => {
                let at = panel.table_at.as_chunks::<NR>().0;
                each_word(panel, w, range, out, at, |u, at: u32| panel.tables[(at + u) as usize]);
            }
        }
    }
}

/// `scale * value(code, zero) (+ bias)` for the four codes of each word. `zeros` `[groups, NR]`, or empty for zeros of 0; of tables where they begin.
#[inline(always)]
fn each_word<const NR: usize, Z: Copy + Default>(
    panel: &Panel,
    w: &Weights,
    range: Range<usize>,
    out: &mut [[f32; NR]],
    zeros: &[[Z; NR]],
    value: impl Fn(u32, Z) -> f32,
) {
    let words = &panel.codes.as_chunks::<NR>().0[range.start / 4..range.end.div_ceil(4)];
    let (scales, biases) = (panel.scale.as_chunks::<NR>().0, panel.bias.as_chunks::<NR>().0);
    let none = [Z::default(); NR];
    let (whole, rest) = out.as_chunks_mut::<4>();
    let (whole_words, rest_word) = words.split_at(whole.len());
    let group = |word: usize| ((range.start + 4 * word) / w.group_len).min(w.groups_per_row - 1);
    let one = |codes: &[u32; NR], byte: usize, g: usize, zero: &[Z; NR], out: &mut [f32; NR]| {
        let scale = &scales[g];
        match biases.get(g) {
            Some(bias) => {
                for n in 0..NR {
                    out[n] = scale[n] * value((codes[n] >> (8 * byte)) & 255, zero[n]) + bias[n];
                }
            }
            None => {
                for n in 0..NR {
                    out[n] = scale[n] * value((codes[n] >> (8 * byte)) & 255, zero[n]);
                }
            }
        }
    };
    for (i, (codes, out)) in whole_words.iter().zip(whole).enumerate() {
        let g = group(i);
        let zero = zeros.get(g).unwrap_or(&none);
        out.iter_mut().enumerate().for_each(|(byte, out)| one(codes, byte, g, zero, out));
    }
    if let Some(codes) = rest_word.first() {
        let g = group(whole_words.len());
        let zero = zeros.get(g).unwrap_or(&none);
        rest.iter_mut().enumerate().for_each(|(byte, out)| one(codes, byte, g, zero, out));
    }
}
