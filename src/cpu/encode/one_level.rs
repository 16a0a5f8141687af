//! Rows whose groups have a searched f16 scale each: IQ4_NL, and with importance Q4_0, Q4_1, Q5_0, Q5_1.
//!
//! ```text
//! x [16 groups] -> search: s (and m) of each group -> f16 scale (and bias), codes
//! ```
//!
//! The text is that of [`crate::scheme::search`].

use super::group::last_byte;
use super::search::{AffineTries, Block, Iq4Table, LANES, square_sum};
use super::two_level::quotient;
use crate::cpu::half_float::f16_saturating;
use crate::scheme::{Encoder, Scheme};

/// Encodes a row of whole groups. `scales` has one f16 per group, `biases` too where the scheme has them; `importance` one number per column.
#[inline(always)]
pub fn encode_row(
    scheme: &Scheme,
    x: &[f32],
    importance: Option<&[f32]>,
    codes: &mut [u8],
    scales: &mut [u8],
    biases: &mut [u8],
) {
    let group = scheme.group_len(x.len());
    let span = LANES * group;
    let mut block = Block::new(group);
    let mean_square = square_sum(x) / x.len() as f32;
    let half_levels = (1u32 << (scheme.bits - 1)) as f32;
    for (i, (x, codes)) in x.chunks(span).zip(codes.chunks_mut(span)).enumerate() {
        block.load(x);
        match importance {
            Some(importance) => {
                block.load_importance(&importance[i * span..i * span + x.len()]);
                let mut variance = [mean_square; LANES];
                if scheme.encoder == Encoder::GgmlIq4 {
                    let groups = variance.iter_mut().zip(x.chunks(group));
                    groups.for_each(|(v, x)| *v = 2.0 * square_sum(x) / group as f32);
                }
                block.spread_importance(&variance);
            }
            None => block.weigh_by_squares(),
        }
        let scales = &mut scales[2 * i * LANES..];
        let groups = x.chunks(group).zip(codes.chunks_mut(group)).zip(scales.as_chunks_mut::<2>().0);
        match scheme.encoder {
            Encoder::GgmlIq4 => {
                let table = Iq4Table::shared();
                let found = block.table(table);
                for (((x, codes), stored), s) in groups.zip(found) {
                    *stored = f16_saturating(s).to_le_bytes();
                    let factor = quotient(1.0, s);
                    codes.iter_mut().zip(x).for_each(|(c, &v)| *c = table.nearest(factor * v));
                }
            }
            Encoder::GgmlExtreme => {
                let found = block.symmetric(half_levels);
                for (l, ((x, codes), stored)) in groups.enumerate() {
                    *stored = f16_saturating(found.scale[l]).to_le_bytes();
                    let code = |v| last_byte(found.code(l, v) + half_levels);
                    codes.iter_mut().zip(x).for_each(|(c, &v)| *c = code(v));
                }
            }
            _ => {
                let tries = AffineTries::of(scheme.bits, true);
                let found = block.affine(2.0 * half_levels - 1.0, &tries);
                let biases = biases[2 * i * LANES..].as_chunks_mut::<2>().0;
                for (l, (((x, codes), stored), bias)) in groups.zip(biases).enumerate() {
                    *stored = f16_saturating(found.scale[l]).to_le_bytes();
                    *bias = f16_saturating(found.min[l]).to_le_bytes();
                    codes.iter_mut().zip(x).for_each(|(c, &v)| *c = last_byte(found.code(l, v)));
                }
            }
        }
    }
}
