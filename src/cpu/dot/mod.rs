//! The innermost loops of products, one version per [`Level`], chosen here.
//!
//! ```text
//! rows     few rows of x:   one weight row  x MR rows of x              lanes along K
//! direct   f32 weights:     NR weight rows  x MR rows of x              lanes along K, both as they lie
//! panel    many rows of x:  NR weight rows  x MR rows of x              lanes along N, one chain per output
//!
//! int      u8 codes * i8 codes, exact integer sums of 4 values (rows) or of a segment (panel), then f32
//! f32      f32 * f32
//! ```
//!
//! Integer kernels give the same bits on every level: the same lanes, no fused multiply-add. f32 kernels differ in their last bits, as
//! they fuse where the machine can. Layouts of operands are prepared by `integer` and `float`; nothing here knows schemes.

// Lanes and rows index several arrays at once.
#![allow(clippy::needless_range_loop)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
mod turn;

pub(super) use turn::{fields, map_bytes, transpose};

use super::level::Level;

/// A call of one of a kernel's versions: for AVX-512, for AVX2 with VNNI, for AVX2, or the portable one.
macro_rules! at_level {
    ($level:expr, [$avx512:path, $vnni:path, $avx2:path, $portable:path], $args:tt) => {
        match $level {
            // SAFETY: a level above `Portable` exists only where `Level::best` has found its features.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Level::Avx512 => unsafe { $avx512 $args },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Level::AvxVnni => unsafe { $vnni $args },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            Level::Avx2 => unsafe { $avx2 $args },
            _ => $portable $args,
        }
    };
}

/// Rows of x per call of a `rows` kernel, at most.
pub(super) const ROWS_MR: usize = 4;
/// Rows of x per call of [`int_sums`], at most.
pub(super) const SUMS_MR: usize = 6;
/// f32 lanes of the `rows` kernels.
pub(super) const LANES: usize = 16;
/// Accumulators of [`f32_rows`], each of [`LANES`].
pub(super) const F32_ACCUMULATORS: usize = 4;

/// Weight rows and rows of x of one `panel` call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile {
    pub nr: usize,
    pub mr: usize,
}

/// Whether [`int_sums`] has tiles of weight rows and rows of x in registers, so that no panel is faster.
pub(super) fn sums_many(level: Level) -> bool {
    level == Level::Avx512
}

/// The tile of [`int_panel`].
pub(super) fn int_tile(level: Level) -> Tile {
    match level {
        Level::Avx512 => Tile { nr: 32, mr: 6 },
        Level::AvxVnni | Level::Avx2 => Tile { nr: 16, mr: 2 },
        Level::Portable => Tile { nr: 8, mr: 4 },
    }
}

/// The tile of [`f32_direct`], where it is faster than a panel of weights that are f32 already: vectors of several rows of both sides have to fit in registers.
pub(super) fn direct_tile(level: Level) -> Option<Tile> {
    (level == Level::Avx512).then_some(Tile { nr: 4, mr: 6 })
}

/// The tile of [`f32_panel`].
pub(super) fn f32_tile(level: Level) -> Tile {
    match level {
        Level::Avx512 => Tile { nr: 32, mr: 12 },
        Level::AvxVnni | Level::Avx2 => Tile { nr: 16, mr: 6 },
        Level::Portable => Tile { nr: 8, mr: 4 },
    }
}

/// Weight rows for [`int_rows`], as they lie in their code plane: steps of [`LANES`] words. A word holds `fields` times four codes of `8 / fields` bits
/// in quad order, so a lane is `4 * fields` consecutive values.
#[derive(Clone, Copy)]
pub(super) struct IntRows<'a> {
    pub rows: usize,
    /// `[rows, 64 * steps]` bytes.
    pub codes: &'a [u8],
    /// 1, 2, 4 or 8.
    pub fields: usize,
    /// What a code is replaced by before it is multiplied.
    pub map: Option<&'a [u8; 16]>,
    /// Lanes that share a scale: 1, 2, 4, 8 or 16.
    pub lanes_per_scale: usize,
    /// `[rows, entries]`: one per so many lanes, and [`LANES`] more that do not matter.
    pub scale: &'a [f32],
    /// As `scale`, at most 255; empty where the zero-point is in [`IntX::init`].
    pub zero: &'a [i32],
    /// `[rows, biases]`: one per group, padded with zeros to a multiple of [`LANES`]; empty without biases.
    pub bias: &'a [f32],
}

impl<'a> IntRows<'a> {
    /// One of them.
    #[inline(always)]
    fn row(&self, row: usize) -> Self {
        #[inline(always)]
        fn part<T>(all: &[T], rows: usize, row: usize) -> &[T] {
            let n = all.len() / rows;
            &all[row * n..(row + 1) * n]
        }
        let rows = self.rows;
        Self {
            rows: 1,
            codes: part(self.codes, rows, row),
            scale: part(self.scale, rows, row),
            zero: part(self.zero, rows, row),
            bias: part(self.bias, rows, row),
            ..*self
        }
    }
}

fn check_lane(fields: usize, lanes_per_scale: usize) {
    assert!([1, 2, 4, 8].contains(&fields) && [1, 2, 4, 8, 16].contains(&lanes_per_scale), "a lane's shape");
}

/// [`LANES`] words on a cache line of their own.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub(super) struct Words(pub [u32; LANES]);

/// Rows of x for [`int_rows`], consecutive, each of `steps`.
#[derive(Clone, Copy)]
pub(super) struct IntX<'a> {
    pub steps: usize,
    /// `[mr, steps, fields]`, for [`int_sums`] `[steps, fields, mr]`: the codes that meet a field, four to a word.
    pub codes: &'a [Words],
    /// `[mr, steps]`: what integer sums start from (i32), or with [`IntRows::zero`] what is multiplied with it to that end, which fits 16
    /// bits.
    pub init: &'a [Words],
    /// `[mr, entries]`: one per as many lanes as [`IntRows::scale`] has, and [`LANES`] more that do not matter.
    pub scale: &'a [f32],
    /// `[mr, biases]`: what biases are multiplied with.
    pub sum: &'a [f32],
}

/// `out[m * stride + n] = sum over lanes of scale_w * scale_x * (init + sum of products) + sum over groups of bias * sum`, for each weight row and
/// `mr` rows of x, at most [`ROWS_MR`].
///
/// Word `16 t + l` belongs to lane l; a lane adds its words in order, `f32(sum) * (scale_w * scale_x)`, then the products of the biases
/// of groups `16 i + l`; lanes are joined in pairs `l += l + 8`, then 4, 2, 1.
pub(super) fn int_rows(level: Level, w: IntRows, x: IntX, mr: usize, out: &mut [f32], stride: usize) {
    check_codes(&w, &x, mr, ROWS_MR, out.len(), stride);
    let entries = x.steps * LANES / w.lanes_per_scale + LANES;
    assert!(w.scale.len() == w.rows * entries && x.scale.len() == mr * entries, "a scale per lane");
    assert!(w.zero.is_empty() || w.zero.len() == w.rows * entries, "a zero per scale");
    assert!(x.init.len() == mr * x.steps, "what sums start from");
    let biases = w.bias.len() / w.rows;
    assert!(w.bias.len() == w.rows * biases && biases.is_multiple_of(LANES), "biases");
    assert!(x.sum.len() == mr * biases, "a sum per bias");
    at_level!(
        level,
        [avx512::int_rows, avx2::vnni::int_rows, avx2::plain::int_rows, portable::int_rows],
        (w, x, mr, out, stride)
    )
}

/// `out[m * stride + n] = sum of products` of codes: exact, modulo 2^32. Scales, zeros and biases of `w` do not count, nor does anything of `x` but codes.
/// At most [`SUMS_MR`] rows of x.
pub(super) fn int_sums(level: Level, w: IntRows, x: IntX, mr: usize, out: &mut [i32], stride: usize) {
    check_codes(&w, &x, mr, SUMS_MR, out.len(), stride);
    at_level!(
        level,
        [avx512::int_sums, avx2::vnni::int_sums, avx2::plain::int_sums, portable::int_sums],
        (w, x, mr, out, stride)
    )
}

fn check_codes(w: &IntRows, x: &IntX, mr: usize, most: usize, out: usize, stride: usize) {
    check_lane(w.fields, w.lanes_per_scale);
    assert!(w.rows > 0 && w.codes.len() == w.rows * 4 * LANES * x.steps, "whole steps");
    assert!((1..=most).contains(&mr) && x.codes.len() == mr * x.steps * w.fields, "rows of x");
    assert!(stride >= w.rows && out >= (mr - 1) * stride + w.rows, "output");
}

/// A weight row for [`code_rows`]: words as in [`IntRows`], and what a code stands for. Per-lane entries as there.
#[derive(Clone, Copy)]
pub(super) struct CodeRow<'a> {
    /// `64 * steps` bytes.
    pub codes: &'a [u8],
    /// 1, 2, 4 or 8.
    pub fields: usize,
    /// The value by the last four bits at a code's place; None: the code is the value (`fields` is 1).
    pub table: Option<&'a [f32; 16]>,
    pub lanes_per_scale: usize,
    pub scale: &'a [f32],
    /// What is subtracted from the value; empty for nothing.
    pub minus: &'a [f32],
    /// What is added after scaling; empty for nothing.
    pub bias: &'a [f32],
}

/// `out[m] = sum of w * x` with `w = scale * (value - minus) + bias`, rounded as the scheme decodes it. `x` is `[out.len(), steps, 4 * fields, LANES]`: at position
/// `4 f + i` of a step what meets byte i of field f. At most [`ROWS_MR`] rows.
///
/// A lane adds its even and odd positions apart, in order; then the two, then lanes as [`int_rows`] does.
pub(super) fn code_rows(level: Level, w: CodeRow, x: &[f32], out: &mut [f32]) {
    let steps = w.codes.len() / (4 * LANES);
    let entries = steps * LANES / w.lanes_per_scale + LANES;
    check_lane(w.fields, w.lanes_per_scale);
    assert!(w.codes.len().is_multiple_of(4 * LANES) && w.scale.len() >= entries, "whole steps");
    assert!(w.table.is_some() || w.fields == 1, "a table for codes within bytes");
    assert!([w.minus, w.bias].iter().all(|e| e.is_empty() || e.len() >= entries), "an entry per scale");
    assert!(out.len() <= ROWS_MR && x.len() == out.len() * steps * 4 * w.fields * LANES, "rows of x");
    at_level!(level, [avx512::code_rows, avx2::code_rows, avx2::code_rows, portable::code_rows], (w, x, out))
}

/// `out[m] = sum of w * x`: `w` one row, `x` `[out.len(), w.len()]`, whole steps of `F32_ACCUMULATORS * LANES`.
pub(super) fn f32_rows(level: Level, w: &[f32], x: &[f32], out: &mut [f32]) {
    assert!(
        w.len().is_multiple_of(LANES * F32_ACCUMULATORS) && x.len() == out.len() * w.len(),
        "whole steps"
    );
    assert!(out.len() <= ROWS_MR, "rows of x");
    at_level!(level, [avx512::f32_rows, avx2::f32_rows, avx2::f32_rows, portable::f32_rows], (w, x, out))
}

/// `out[m * stride + n] += sum over k of w[n][k] * x[m][k]`: rows as they lie, at most [`direct_tile`]'s of each.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub(super) fn f32_direct(level: Level, w: &[&[f32]], x: &[&[f32]], out: &mut [f32], stride: usize) {
    let tile = direct_tile(level).unwrap_or(Tile { nr: 0, mr: 0 });
    assert!((1..=tile.nr).contains(&w.len()) && (1..=tile.mr).contains(&x.len()), "a tile");
    let k = w[0].len();
    assert!(w.iter().chain(x).all(|row| row.len() == k), "one k");
    assert!(stride >= w.len() && out.len() >= (x.len() - 1) * stride + w.len(), "output");
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 {
        // SAFETY: a level above `Portable` exists only where `Level::best` has found its features.
        #[allow(unsafe_code)]
        unsafe {
            avx512::f32_direct(w, x, out, stride);
        }
    }
}

/// `nr` weight rows for [`int_panel`].
#[derive(Clone, Copy)]
pub(super) struct IntPanel<'a> {
    /// `[words, nr]`, each four codes.
    pub codes: &'a [u32],
    /// `[segments, nr]`
    pub scale: &'a [f32],
    /// `[segments, nr]`, at most 255; empty where the zero-point is in [`IntTile::init`].
    pub zero: &'a [i32],
    /// `[segments, nr]`; empty without biases.
    pub bias: &'a [f32],
}

/// `mr` rows of x for [`int_panel`].
#[derive(Clone, Copy)]
pub(super) struct IntTile<'a> {
    pub mr: usize,
    /// `[words, mr]`, each four codes.
    pub codes: &'a [u32],
    /// `[segments, mr]`
    pub scale: &'a [f32],
    /// `[segments, mr]`: what integer sums start from; with [`IntPanel::zero`], what is multiplied with it to that end.
    pub init: &'a [i32],
    /// `[segments, mr]`: what biases are multiplied with.
    pub sum: &'a [f32],
}

/// `out[m * stride + n]`: one chain over segments in order, per segment `f32(sum of products) * (scale_w * scale_x)`, then
/// `bias * sum`. `ends` are the words at which segments end. `w` and `x` are those of [`int_tile`]'s size.
pub(super) fn int_panel(level: Level, ends: &[u32], w: IntPanel, x: IntTile, out: &mut [f32], stride: usize) {
    let Tile { nr, mr } = int_tile(level);
    let words = ends.last().map_or(0, |&e| e as usize);
    let segments = ends.len();
    assert!(ends.is_sorted() && w.codes.len() >= words * nr && w.scale.len() == segments * nr, "panel");
    assert!(
        [0, segments * nr].contains(&w.zero.len()) && [0, segments * nr].contains(&w.bias.len()),
        "panel"
    );
    assert!((1..=mr).contains(&x.mr) && x.codes.len() >= words * x.mr, "tile");
    let per_segment = [x.scale.len(), x.init.len(), x.sum.len()];
    assert!(per_segment.iter().all(|&n| n == segments * x.mr), "tile");
    assert!(stride >= nr && out.len() >= (x.mr - 1) * stride + nr, "output");
    #[cfg(target_arch = "x86_64")]
    match level {
        // SAFETY: a level above `Portable` exists only where `Level::best` has found its features.
        #[allow(unsafe_code)]
        Level::Avx512 => return unsafe { avx512::int_panel(ends, w, x, out, stride) },
        // SAFETY: as above.
        #[allow(unsafe_code)]
        Level::AvxVnni => return unsafe { avx2::vnni::int_panel(ends, w, x, out, stride) },
        // SAFETY: as above.
        #[allow(unsafe_code)]
        Level::Avx2 => return unsafe { avx2::plain::int_panel(ends, w, x, out, stride) },
        Level::Portable => {}
    }
    portable::int_panel(ends, w, x, out, stride);
}

/// `out[m * stride + n] += sum over k of w[k, n] * x[k, m]`, one chain from 0 per output: `w` `[k, nr]`, `x` `[k, mr]` of at most
/// [`f32_tile`]'s `mr`.
pub(super) fn f32_panel(level: Level, w: &[f32], x: &[f32], mr: usize, out: &mut [f32], stride: usize) {
    let tile = f32_tile(level);
    assert!((1..=tile.mr).contains(&mr) && w.len() / tile.nr == x.len() / mr, "one k");
    assert!(w.len().is_multiple_of(tile.nr) && x.len().is_multiple_of(mr), "whole rows");
    assert!(stride >= tile.nr && out.len() >= (mr - 1) * stride + tile.nr, "output");
    #[cfg(target_arch = "x86_64")]
    match level {
        // SAFETY: a level above `Portable` exists only where `Level::best` has found its features.
        #[allow(unsafe_code)]
        Level::Avx512 => return unsafe { avx512::f32_panel(w, x, mr, out, stride) },
        // SAFETY: as above.
        #[allow(unsafe_code)]
        Level::AvxVnni | Level::Avx2 => return unsafe { avx2::f32_panel(w, x, mr, out, stride) },
        Level::Portable => {}
    }
    portable::f32_panel(w, x, mr, out, stride);
}

/// Chains `v += 1 * 1 + 1 * 1 + 1 * 1 + 1 * 1` side by side in registers, `steps` long, by the fewest instructions that the machine has for a dot
/// product of bytes: what each lane ends at. None where there are no such instructions.
#[cfg(any(feature = "cli", all(feature = "web", target_arch = "wasm32")))]
pub(crate) fn int_chains(steps: usize) -> Option<Vec<i32>> {
    int_chains_at(Level::best(), steps)
}

/// [`int_chains`] for a level.
#[cfg(any(feature = "cli", all(feature = "web", target_arch = "wasm32")))]
fn int_chains_at(level: Level, steps: usize) -> Option<Vec<i32>> {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a level above `Portable` exists only where `Level::best` has found its features.
    #[allow(unsafe_code)]
    unsafe {
        match level {
            Level::Avx512 => return Some(avx512::int_chains(steps)),
            Level::AvxVnni => return Some(avx2::vnni::int_chains(steps)),
            Level::Avx2 => return Some(avx2::plain::int_chains(steps)),
            Level::Portable => {}
        }
    }
    let _ = (level, steps);
    None
}

/// Joins lanes in pairs `l += l + half`.
#[inline(always)]
pub(super) fn join_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;

    #[test]
    fn chains_count_their_steps() {
        for level in Level::available() {
            match int_chains_at(level, 1000) {
                None => assert_eq!(level, Level::Portable),
                Some(ends) => {
                    assert!(ends.len() >= 64 && ends.iter().all(|&v| v == 4000), "{level:?} {ends:?}")
                }
            }
        }
    }
}
