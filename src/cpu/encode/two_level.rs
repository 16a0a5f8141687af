//! Rows of super-groups, Q2_K to Q6_K and IQ4_XS: scales of sixteen groups by search, then super-scales, sub-scales and codes.
//!
//! ```text
//! x [16 groups] -> search: s (and m) of each group -> each super-group: d (and dm) f16, integer sub-scales -> codes
//! ```
//!
//! The text is that of [`crate::scheme::search`].

use super::group::last_byte;
use super::search::{
    Affine, AffineTries, Block, Descent, Iq4Table, LANES, Lanes, Symmetric, positive, rint, square_sum,
    symmetric,
};
use crate::cpu::half_float::{f16_saturating, f16_to_f32};
use crate::scheme::search::ZERO_BELOW;
use crate::scheme::{Encoder, Scale, Scheme, SubScale};

/// Where the parts of a row, or of one super-group, go.
pub struct SuperOut<'a> {
    /// One byte per group.
    pub scales: &'a mut [u8],
    /// One byte per group for `U8Min`, else empty.
    pub mins: &'a mut [u8],
    /// One f16 per super-group.
    pub super_scales: &'a mut [u8],
    /// One f16 per super-group where there are minima, else empty.
    pub super_mins: &'a mut [u8],
    /// One byte per value.
    pub codes: &'a mut [u8],
}

impl SuperOut<'_> {
    /// The part of super-group `i`, of `groups` groups.
    fn super_group(&mut self, i: usize, groups: usize, values: usize) -> SuperOut<'_> {
        fn part(plane: &mut [u8], i: usize, n: usize) -> &mut [u8] {
            plane.get_mut(i * n..(i + 1) * n).unwrap_or_default()
        }
        SuperOut {
            scales: part(self.scales, i, groups),
            mins: part(self.mins, i, groups),
            super_scales: part(self.super_scales, i, 2),
            super_mins: part(self.super_mins, i, 2),
            codes: part(self.codes, i, values),
        }
    }
}

/// Encodes a row of whole super-groups; `importance` has one number per column.
#[inline(always)]
pub fn encode_row(scheme: &Scheme, x: &[f32], importance: Option<&[f32]>, mut out: SuperOut) {
    let Scale::TwoLevel { super_group, .. } = scheme.scale else { unreachable!("{scheme} has two levels") };
    let (len, group) = (super_group as usize, scheme.group_len(x.len()));
    let groups = len / group;
    let span = LANES * group;
    let mut block = Block::new(group);
    for (i, x) in x.chunks(span).enumerate() {
        let importance = importance.map(|c| &c[i * span..i * span + x.len()]);
        block.load(x);
        weigh(&mut block, scheme, x, importance, len);
        let found = Found::of(&block, scheme, importance.is_some());
        // Where super-scales are searched for too, a group counts as much as its values.
        let totals = importance.map(|_| block.total_weights());
        for (s, x) in x.chunks(len).enumerate() {
            let lanes = s * groups..(s + 1) * groups;
            let weights = totals.as_ref().map(|t| &t[lanes.clone()]);
            let chosen = Chosen::of(scheme, &found, lanes.clone(), weights);
            let mut out = out.super_group(i * span / len + s, groups, len);
            for (g, (x, codes)) in x.chunks(group).zip(out.codes.chunks_mut(group)).enumerate() {
                chosen.codes(g, &found, lanes.start + g, x, codes);
            }
            chosen.store(scheme, groups, &mut out);
        }
    }
}

#[inline(always)]
fn weigh(block: &mut Block, scheme: &Scheme, x: &[f32], importance: Option<&[f32]>, super_group: usize) {
    match (scheme.encoder, importance) {
        (Encoder::GgmlSymmetric, Some(importance)) => block.load_importance(importance),
        (_, Some(importance)) => {
            block.load_importance(importance);
            let groups = super_group / scheme.group_len(x.len());
            let twice = if scheme.bits == 2 { 1.0 } else { 2.0 };
            let mut variance = [0.0; LANES];
            for (x, variance) in x.chunks(super_group).zip(variance.chunks_mut(groups)) {
                variance.fill(twice * square_sum(x) / super_group as f32);
            }
            block.spread_importance(&variance);
        }
        (Encoder::GgmlAffine, None) if scheme.bits == 2 => block.weigh_by_magnitudes(),
        (Encoder::GgmlAffine, None) => block.weigh_around_root_mean_square(),
        // Descent has squares for weights by itself.
        (Encoder::GgmlDescent, None) => {}
        _ => block.weigh_by_squares(),
    }
}

/// What the search found for each lane.
#[allow(clippy::large_enum_variant)] // one at a time, on the stack
enum Found {
    Affine(Affine),
    Symmetric(Symmetric),
    Descent(Descent),
    Table(&'static Iq4Table, Lanes),
}

impl Found {
    #[inline(always)]
    fn of(block: &Block, scheme: &Scheme, importance: bool) -> Self {
        let half_levels = (1u32 << (scheme.bits - 1)) as f32;
        match scheme.encoder {
            Encoder::GgmlAffine => {
                let tries = AffineTries::of(scheme.bits, importance);
                Self::Affine(block.affine(2.0 * half_levels - 1.0, &tries))
            }
            Encoder::GgmlDescent if !importance => Self::Descent(block.descent(half_levels)),
            Encoder::GgmlIq4 => {
                let table = Iq4Table::shared();
                Self::Table(table, block.table(table))
            }
            _ => Self::Symmetric(block.symmetric(half_levels)),
        }
    }

    fn scales(&self) -> &Lanes {
        match self {
            Self::Affine(a) => &a.scale,
            Self::Symmetric(s) => &s.scale,
            Self::Descent(d) => &d.scale,
            Self::Table(_, scale) => scale,
        }
    }
}

/// The scales of a super-group.
struct Chosen {
    /// f16 bits.
    d: u16,
    dm: u16,
    /// What codes are counted from.
    d_wide: f32,
    dm_wide: f32,
    sub: Lanes,
    sub_min: Lanes,
    low: f32,
    high: f32,
    /// A super-group of zeros, whose codes are 0 whatever the search found.
    zeros: bool,
}

impl Chosen {
    /// From the groups in `lanes`; `weights` are theirs, with importance.
    #[inline(always)]
    fn of(scheme: &Scheme, found: &Found, lanes: std::ops::Range<usize>, weights: Option<&[f32]>) -> Self {
        let scales = &found.scales()[lanes.clone()];
        let half_levels = (1u32 << (scheme.bits - 1)) as f32;
        let mut chosen = Self {
            d: 0,
            dm: 0,
            d_wide: 0.0,
            dm_wide: 0.0,
            sub: [0.0; LANES],
            sub_min: [0.0; LANES],
            low: -half_levels,
            high: half_levels - 1.0,
            zeros: false,
        };
        let top = scales.iter().fold(0f32, |top, &s| if s.abs() > top.abs() { s } else { top });
        match found {
            Found::Affine(affine) => {
                let most = if scheme.bits == 2 { 15.0 } else { 63.0 };
                let mut minima = [0.0; LANES];
                minima.iter_mut().zip(&affine.min[lanes]).for_each(|(m, &v)| *m = -v);
                let minima = &minima[..scales.len()];
                let sub = &mut chosen.sub[..scales.len()];
                let sub_min = &mut chosen.sub_min[..scales.len()];
                (chosen.d, chosen.dm) = match weights {
                    Some(w) => (
                        f16_saturating(positive(scales, w, most, sub)),
                        f16_saturating(positive(minima, w, most, sub_min)),
                    ),
                    None => (by_largest(scales, most, sub), by_largest(minima, most, sub_min)),
                };
                (chosen.low, chosen.high) = (0.0, 2.0 * half_levels - 1.0);
            }
            Found::Symmetric(_) if scheme.encoder == Encoder::GgmlDescent => {
                let groups: &[Lanes<1>] = bytemuck::cast_slice(scales);
                let weights: &[Lanes<1>] = bytemuck::cast_slice(weights.unwrap_or_default());
                let super_scale = symmetric(groups, weights, 32.0);
                chosen.d = f16_saturating(super_scale.scale[0]);
                chosen.sub.iter_mut().zip(scales).for_each(|(c, &s)| *c = super_scale.code(0, s));
            }
            Found::Descent(_) if top == 0.0 => chosen.sub = [-32.0; LANES],
            Found::Symmetric(_) if top.abs() < ZERO_BELOW => chosen.zeros = true,
            Found::Descent(_) | Found::Symmetric(_) => {
                let most = if scheme.bits == 3 { 32.0 } else { 128.0 };
                let factor = -most / top;
                chosen.d = f16_saturating(1.0 / factor);
                let subs = chosen.sub.iter_mut().zip(scales);
                subs.for_each(|(c, &s)| *c = rint(factor * s, -most, most - 1.0));
            }
            Found::Table(..) => {
                chosen.d_wide = -top / 32.0;
                chosen.d = f16_saturating(chosen.d_wide);
                let factor = quotient(1.0, chosen.d_wide);
                let subs = chosen.sub.iter_mut().zip(scales);
                subs.for_each(|(c, &s)| *c = rint(factor * s, -32.0, 31.0));
                return chosen;
            }
        }
        (chosen.d_wide, chosen.dm_wide) = (f16_to_f32(chosen.d), f16_to_f32(chosen.dm));
        chosen
    }

    /// Codes of group `g`, which was searched in lane `l`.
    #[inline(always)]
    fn codes(&self, g: usize, found: &Found, l: usize, x: &[f32], codes: &mut [u8]) {
        let (step, offset) = (self.d_wide * self.sub[g], self.dm_wide * self.sub_min[g]);
        let out = codes.iter_mut().zip(x);
        match found {
            Found::Table(table, _) => {
                let factor = quotient(1.0, step);
                out.for_each(|(c, &v)| *c = table.nearest(factor * v));
            }
            _ if self.zeros => codes.fill(0),
            _ if step != 0.0 => out.for_each(|(c, &v)| {
                *c = last_byte(rint((v + offset) / step, self.low, self.high) - self.low);
            }),
            Found::Affine(affine) => out.for_each(|(c, &v)| *c = last_byte(affine.code(l, v))),
            Found::Symmetric(s) => out.for_each(|(c, &v)| *c = last_byte(s.code(l, v) - self.low)),
            Found::Descent(d) => {
                out.zip(&d.codes).for_each(|((c, _), found)| *c = last_byte(found[l] - self.low));
            }
        }
    }

    fn store(&self, scheme: &Scheme, groups: usize, out: &mut SuperOut) {
        out.super_scales.copy_from_slice(&self.d.to_le_bytes());
        if !out.super_mins.is_empty() {
            out.super_mins.copy_from_slice(&self.dm.to_le_bytes());
        }
        let nibbles = matches!(scheme.scale, Scale::TwoLevel { sub: SubScale::U4Min, .. });
        for g in 0..groups {
            let (sub, sub_min) = (last_byte(self.sub[g]), last_byte(self.sub_min[g]));
            out.scales[g] = if nibbles { sub | sub_min << 4 } else { sub };
            if let Some(min) = out.mins.get_mut(g) {
                *min = sub_min;
            }
        }
    }
}

/// Sub-scales `0..=most` of numbers that are not negative by the largest of them; returns the f16 bits of the super-scale.
#[inline(always)]
fn by_largest(x: &[f32], most: f32, sub: &mut [f32]) -> u16 {
    let top = x.iter().fold(0f32, |top, &s| if s > top { s } else { top });
    let factor = if top > 0.0 { most / top } else { 0.0 };
    sub.iter_mut().zip(x).for_each(|(c, &s)| *c = rint(factor * s, 0.0, most));
    f16_saturating(top / most)
}

/// A quotient, 0 where the divisor is.
#[inline(always)]
pub fn quotient(a: f32, b: f32) -> f32 {
    if b == 0.0 { 0.0 } else { a / b }
}
