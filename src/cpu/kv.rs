//! Caches of keys and values: the text of [`crate::kv`] on host memory.
//!
//! ```text
//! append      k, v [T, width] -> window, a piece at a time; a task per head packs the blocks that are complete then
//! attention   a task per head of k and v and up to 32 queries: a block is decoded once, [32, head_size] each, for all rows of q that see it;
//!             scores, weights and what is summed scaled down where a higher score comes, all in registers' reach
//! ```
//!
//! A row of q is a query and a head of it. What a row comes to does not depend on the others, nor on the number of threads.

use super::epilogue::exp;
use super::half_float::{f16_to_f32, f32_to_f16};
use super::level::{Work, vectorized};
use crate::kv::{GROUP, KvSettings, Layout, MAX_HEAD, NOT_FINITE, RECORD, SCALE_BASE, Side};
use crate::product::Summation;
use crate::threads;
use std::ops::Range;

/// Queries of a task.
const QUERIES: usize = 32;
/// Lanes of a score's sum.
const LANES: usize = 16;

/// How a score of a head of `head` columns is summed, the scaling of q among it.
pub fn kv_score_summation(head: usize) -> Summation {
    Summation { chain: head.div_ceil(LANES) + 2, depth: LANES.ilog2() as usize, folded: false }
}

/// How the weights and the weighted rows of `length` tokens are summed: a product and an addition for each, and the scaling down of each block.
pub fn kv_weighted_summation(length: usize) -> Summation {
    Summation { chain: length + length.div_ceil(GROUP) + 2, depth: 0, folded: false }
}

/// Exponentials that a weight is a product of at most: its own, and what each block behind it scales down by.
pub fn kv_powers(length: usize) -> usize {
    length.div_ceil(GROUP)
}

/// Appends k and v `[T, width]` to a cache of `length` tokens that has room for them.
pub fn kv_append(words: &mut [u32], layout: &Layout, length: usize, k: &[f32], v: &[f32]) {
    let width = layout.settings.width();
    for piece in layout.pieces(length, k.len() / width) {
        let numbers = piece.tokens.start * width..piece.tokens.end * width;
        for (window, x) in [(layout.window_keys, &k[numbers.clone()]), (layout.window_values, &v[numbers])] {
            for (t, row) in (piece.first..).zip(x.chunks_exact(width)) {
                let at = window + t % layout.window * width / 2;
                for (word, pair) in words[at..at + width / 2].iter_mut().zip(row.as_chunks::<2>().0) {
                    *word = pair.map(f32_to_f16).map(u32::from).into_iter().rfold(0, |all, v| all << 16 | v);
                }
            }
        }
        if !piece.blocks.is_empty() {
            pack(words, layout, piece.blocks);
        }
    }
}

/// A head's part of keys or values, of all blocks.
struct Part<'a> {
    head: usize,
    side: Side,
    /// Groups are channels, else tokens.
    keys: bool,
    /// The window of these.
    window: &'a [u32],
    codes: &'a mut [u32],
    groups: &'a mut [u32],
}

/// A block on its way: numbers `[head_size groups][32]`, their codes, what else the groups have.
struct Scratch {
    x: Vec<f32>,
    codes: Vec<u8>,
    heads: Vec<u32>,
}

/// Codes and scales of complete blocks, which are in the window.
fn pack(words: &mut [u32], layout: &Layout, blocks: Range<usize>) {
    let KvSettings { heads, head_size, key, value } = layout.settings;
    let (window, rest) = words.split_at_mut(layout.keys);
    let (window_keys, window_values) = window.split_at(layout.window_values);
    let (keys, rest) = rest.split_at_mut(layout.key_groups - layout.keys);
    let (key_groups, rest) = rest.split_at_mut(layout.values - layout.key_groups);
    let (values, value_groups) = rest.split_at_mut(layout.value_groups - layout.values);
    let mut parts = Vec::with_capacity(2 * heads);
    for (keys, side, window, codes, groups) in
        [(true, key, window_keys, keys, key_groups), (false, value, window_values, values, value_groups)]
    {
        let mut groups = groups.chunks_exact_mut((groups.len() / heads).max(1));
        for (head, codes) in codes.chunks_exact_mut(codes.len() / heads).enumerate() {
            let groups = groups.next().unwrap_or_default();
            parts.push(Part { head, side, keys, window, codes, groups });
        }
    }
    let numbers = GROUP * head_size;
    let scratch = || Scratch { x: vec![0.0; numbers], codes: vec![0; numbers], heads: vec![0; head_size] };
    let work = blocks.len() * numbers * heads * 16;
    threads::for_each_with(parts, work, scratch, |scratch, mut part| {
        for block in blocks.clone() {
            vectorized(PackBlock { layout, block, part: &mut part, scratch });
        }
    });
}

struct PackBlock<'a, 'b> {
    layout: &'a Layout,
    block: usize,
    part: &'a mut Part<'b>,
    scratch: &'a mut Scratch,
}

impl Work for PackBlock<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { layout, block, part, scratch: Scratch { x, codes, heads } } = self;
        let KvSettings { heads: all, head_size, .. } = layout.settings;
        let row = all * head_size / 2;
        let slot = block * GROUP % layout.window;
        let own = |t: usize| &part.window[(slot + t) * row + part.head * head_size / 2..][..head_size / 2];
        let words = head_size * part.side.bits() / 32;
        let to = &mut part.codes[block * GROUP * words..][..GROUP * words];
        if part.side == Side::F16 {
            (0..GROUP).zip(to.chunks_exact_mut(words)).for_each(|(t, to)| to.copy_from_slice(own(t)));
            return;
        }
        // Where column c of token t is in the scratch memory.
        let place = |t: usize, c: usize| {
            if part.keys { c * GROUP + t } else { (c / GROUP * GROUP + t) * GROUP + c % GROUP }
        };
        for t in 0..GROUP {
            for (i, word) in own(t).iter().enumerate() {
                x[place(t, 2 * i)] = f16_to_f32(*word as u16);
                x[place(t, 2 * i + 1)] = f16_to_f32((word >> 16) as u16);
            }
        }
        let groups = x.as_chunks::<GROUP>().0.iter().zip(codes.as_chunks_mut::<GROUP>().0);
        for ((x, codes), head) in groups.zip(heads.iter_mut()) {
            *head = if part.side == Side::Int8 { int8(x, codes) } else { int4(x, codes) };
        }
        for (t, to) in to.chunks_exact_mut(words).enumerate() {
            let code = |c: usize| u32::from(codes[place(t, c)]);
            for (w, to) in to.iter_mut().enumerate() {
                *to = match part.side {
                    Side::Int8 => (0..4).fold(0, |all, i| all | code(4 * w + i) << (8 * i)),
                    _ => (0..8).fold(0, |all, i| all | code(8 * w + i) << (8 * (i % 4) + 4 * (i / 4))),
                };
            }
        }
        let record = part.side.record_words();
        let to = &mut part.groups[block * head_size / RECORD * record..][..head_size / RECORD * record];
        for (to, heads) in to.chunks_exact_mut(record).zip(heads.as_chunks::<RECORD>().0) {
            if part.side == Side::Int8 {
                to.copy_from_slice(heads);
            } else {
                for (to, pair) in to.iter_mut().zip(heads.as_chunks::<2>().0) {
                    *to = pair[0] & 0xffff | pair[1] << 16;
                }
                to[4] = (0..RECORD).fold(0, |all, i| all | (heads[i] >> 16) << (4 * i));
            }
        }
    }
}

/// Extremes of a group, a zero as +0, and whether all of it is finite.
#[inline(always)]
fn extremes(x: &[f32; GROUP]) -> (f32, f32, bool) {
    let (mut low, mut high, mut largest) = (x[0], x[0], 0);
    for &v in x {
        low = if v < low { v } else { low };
        high = if v > high { v } else { high };
        largest = largest.max(v.to_bits() & 0x7fff_ffff);
    }
    (low + 0.0, high + 0.0, largest < 0x7f80_0000)
}

/// Codes of a group in 8 bits; scale and minimum.
#[inline(always)]
fn int8(x: &[f32; GROUP], codes: &mut [u8; GROUP]) -> u32 {
    let (low, high, finite) = extremes(x);
    let wanted = (high - low) * (1.0 / 255.0);
    let near = f32_to_f16(wanted);
    let bits = near + u16::from(f16_to_f32(near) < wanted);
    let scale = f16_to_f32(bits);
    codes.fill(0);
    if !finite {
        return 0x7e00;
    }
    if scale > 0.0 {
        let inverse = 1.0 / scale;
        for (code, v) in codes.iter_mut().zip(x) {
            let t = v - low;
            // The product with the inverse is off by far less than one half: one step either way mends it.
            let guess = (t * inverse + 0.5).min(255.0) as i32 as f32;
            let up = if guess < 255.0 && (guess + 0.5) * scale <= t { guess + 1.0 } else { guess };
            *code = (if up > 0.0 && (up - 0.5) * scale > t { up - 1.0 } else { up }) as u8;
        }
    }
    u32::from(bits) | u32::from(f32_to_f16(low)) << 16
}

/// Codes of a group in 4 bits; scale and z.
#[inline(always)]
fn int4(x: &[f32; GROUP], codes: &mut [u8; GROUP]) -> u32 {
    let (low, high, finite) = extremes(x);
    codes.fill(0);
    if !finite {
        return NOT_FINITE;
    }
    let field = |v: f32, rest: u32| ((v.to_bits() + rest) >> 19).saturating_sub(SCALE_BASE >> 19);
    let range = high - low;
    let nearest = field(range * (1.0 / 15.0), 1 << 18);
    let reaching = field(high.abs().max(low.abs()) * (1.0 / 128.0), (1 << 19) - 1);
    let s = nearest.max(reaching).min(NOT_FINITE - 1);
    let (scale, unit) = (scale_of(s), unit_of(s));
    let d = range - 15.0 * scale;
    let start = if d > -scale { low + d * 0.5 } else { low };
    let inverse = 1.0 / unit;
    let guess = (start * inverse + 0.5).floor().clamp(-1024.0, 1023.0);
    let z = if guess > -1024.0 && (guess - 0.5) * unit > start {
        guess - 1.0
    } else if guess < 1023.0 && (guess + 0.5) * unit <= start {
        guess + 1.0
    } else {
        guess
    };
    for (code, &v) in codes.iter_mut().zip(x) {
        let guess = ((v * inverse - z) * 0.125 + 0.5).clamp(0.0, 15.0) as i32 as f32;
        let up = if guess < 15.0 && (8.0 * guess + 4.0 + z) * unit <= v { guess + 1.0 } else { guess };
        *code = (if up > 0.0 && (8.0 * up - 4.0 + z) * unit > v { up - 1.0 } else { up }) as u8;
    }
    s | (z as i32 as u32 & 0x7ff) << 9
}

#[inline(always)]
fn scale_of(s: u32) -> f32 {
    f32::from_bits(SCALE_BASE + (s << 19))
}

/// An eighth of the scale; NaN for groups that are not finite.
#[inline(always)]
fn unit_of(s: u32) -> f32 {
    if s == NOT_FINITE { f32::NAN } else { f32::from_bits(SCALE_BASE - (3 << 23) + (s << 19)) }
}

/// Keys and values `[length, width]` of a cache.
pub fn kv_decode(words: &[u32], layout: &Layout, length: usize) -> [Vec<f32>; 2] {
    let KvSettings { heads, head_size, .. } = layout.settings;
    let width = layout.settings.width();
    let mut block = vec![0f32; GROUP * head_size];
    [true, false].map(|keys| {
        let mut all = vec![0f32; length * width];
        for (b, rows) in all.chunks_mut(GROUP * width).enumerate() {
            for head in 0..heads {
                let tokens = rows.len() / width;
                let side = Source { words, layout, head, keys, length };
                vectorized(Decode { of: &side, block: b, to: &mut block[..tokens * head_size] });
                for (row, from) in rows.chunks_exact_mut(width).zip(block.chunks_exact(head_size)) {
                    row[head * head_size..][..head_size].copy_from_slice(from);
                }
            }
        }
        all
    })
}

/// A head's keys or values.
struct Source<'a> {
    words: &'a [u32],
    layout: &'a Layout,
    head: usize,
    keys: bool,
    length: usize,
}

/// A block `[tokens, head_size]` of them, the last one of the cache if there are fewer than 32.
struct Decode<'a> {
    of: &'a Source<'a>,
    block: usize,
    to: &'a mut [f32],
}

impl Work for Decode<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.of.decode(self.block, self.to);
    }
}

impl Source<'_> {
    #[inline(always)]
    fn decode(&self, block: usize, to: &mut [f32]) {
        let Self { words, layout, head, keys, length } = *self;
        let KvSettings { heads, head_size, key, value } = layout.settings;
        let [side, window, codes, groups] = match keys {
            true => [key.bits(), layout.window_keys, layout.keys, layout.key_groups],
            false => [value.bits(), layout.window_values, layout.values, layout.value_groups],
        };
        let halves = |row: &[u32], to: &mut [f32]| {
            for (pair, word) in to.as_chunks_mut::<2>().0.iter_mut().zip(row) {
                *pair = [f16_to_f32(*word as u16), f16_to_f32((word >> 16) as u16)];
            }
        };
        if block >= length / GROUP {
            let slot = block * GROUP % layout.window;
            for (t, to) in to.chunks_exact_mut(head_size).enumerate() {
                let at = window + (slot + t) * heads * head_size / 2 + head * head_size / 2;
                halves(&words[at..at + head_size / 2], to);
            }
            return;
        }
        let per_token = head_size * side / 32;
        let first = head * layout.blocks + block;
        let codes = &words[codes + first * GROUP * per_token..][..GROUP * per_token];
        let rows = to.chunks_exact_mut(head_size).zip(codes.chunks_exact(per_token));
        match side {
            16 => rows.for_each(|(to, row)| halves(row, to)),
            8 => {
                let groups = &words[groups + first * head_size..][..head_size];
                let (mut scales, mut lows) = ([0f32; MAX_HEAD], [0f32; MAX_HEAD]);
                for ((scale, low), of) in scales.iter_mut().zip(&mut lows).zip(groups) {
                    (*scale, *low) = (f16_to_f32(*of as u16), f16_to_f32((of >> 16) as u16));
                }
                match keys {
                    true => int8_rows::<true>(rows, &scales, &lows),
                    false => int8_rows::<false>(rows, &scales, &lows),
                }
            }
            _ => {
                let record = Side::Int4.record_words();
                let first = groups + first * head_size / RECORD * record;
                let (mut units, mut zs) = ([0f32; MAX_HEAD], [0f32; MAX_HEAD]);
                let records = words[first..].chunks_exact(record).take(head_size / RECORD);
                for (i, of) in records.enumerate() {
                    for g in 0..RECORD {
                        let low = (of[g / 2] >> (16 * (g % 2))) & 0xffff;
                        let bits = low | ((of[4] >> (4 * g)) & 15) << 16;
                        units[i * RECORD + g] = unit_of(bits & 0x1ff);
                        // Eleven bits with a sign.
                        zs[i * RECORD + g] = ((bits << 12) as i32 >> 21) as f32;
                    }
                }
                match keys {
                    true => int4_rows::<true>(rows, &units, &zs),
                    false => int4_rows::<false>(rows, &units, &zs),
                }
            }
        }
    }
}

/// What 32 columns of a token have of their groups: keys a group each, values one of the token's own. An array in both cases, so that decoding is one loop of vectors.
#[inline(always)]
fn spread<const KEYS: bool>(of: &[f32; MAX_HEAD], t: usize, first: usize) -> [f32; GROUP] {
    if !KEYS {
        return [of[first + t]; GROUP];
    }
    let mut own = [0.0; GROUP];
    own.copy_from_slice(&of[first..first + GROUP]);
    own
}

/// Numbers of rows of codes of 8 bits.
#[inline(always)]
fn int8_rows<'a, const KEYS: bool>(
    rows: impl Iterator<Item = (&'a mut [f32], &'a [u32])>,
    scales: &[f32; MAX_HEAD],
    lows: &[f32; MAX_HEAD],
) {
    for (t, (to, row)) in rows.enumerate() {
        for (i, (to, words)) in to.as_chunks_mut::<GROUP>().0.iter_mut().zip(row.chunks_exact(8)).enumerate()
        {
            let mut codes = [0u8; GROUP];
            for (codes, word) in codes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                *codes = word.to_le_bytes();
            }
            let scales = spread::<KEYS>(scales, t, i * GROUP);
            let lows = spread::<KEYS>(lows, t, i * GROUP);
            for c in 0..GROUP {
                to[c] = f32::from(codes[c]) * scales[c] + lows[c];
            }
        }
    }
}

/// Numbers of rows of codes of 4 bits.
#[inline(always)]
fn int4_rows<'a, const KEYS: bool>(
    rows: impl Iterator<Item = (&'a mut [f32], &'a [u32])>,
    units: &[f32; MAX_HEAD],
    zs: &[f32; MAX_HEAD],
) {
    for (t, (to, row)) in rows.enumerate() {
        for (i, (to, words)) in to.as_chunks_mut::<GROUP>().0.iter_mut().zip(row.chunks_exact(4)).enumerate()
        {
            let mut codes = [0u8; GROUP];
            for (codes, word) in codes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                codes[..4].copy_from_slice(&(word & 0x0f0f_0f0f).to_le_bytes());
                codes[4..].copy_from_slice(&((word >> 4) & 0x0f0f_0f0f).to_le_bytes());
            }
            let units = spread::<KEYS>(units, t, i * GROUP);
            let zs = spread::<KEYS>(zs, t, i * GROUP);
            for c in 0..GROUP {
                to[c] = (8.0 * f32::from(codes[c]) + zs[c]) * units[c];
            }
        }
    }
}

/// y `[T, q_heads * head_size]` of the last T tokens of a cache of `length`, whose q these are.
pub fn kv_attention(words: &[u32], layout: &Layout, length: usize, q: &[f32], tokens: usize) -> Vec<f32> {
    let KvSettings { heads, head_size, .. } = layout.settings;
    let q_width = q.len() / tokens;
    let shared = q_width / layout.settings.width();
    let mut tasks = Vec::new();
    for queries in threads::ranges(tokens, QUERIES) {
        tasks.extend((0..heads).map(|head| (queries.clone(), head)));
    }
    let work = 4 * q.len() * length;
    let parts = threads::map(tasks.clone(), work, |(queries, head)| {
        let mut rows =
            Rows { size: head_size, q: Vec::new(), seen: Vec::new(), state: Vec::new(), y: Vec::new() };
        let scale = 1.0 / (head_size as f32).sqrt();
        for t in queries {
            let own = &q[t * q_width + head * shared * head_size..][..shared * head_size];
            rows.q.extend(own.iter().map(|v| v * scale));
            rows.seen.extend(std::iter::repeat_n(length - tokens + t + 1, shared));
        }
        rows.state = vec![State::default(); rows.seen.len()];
        rows.y = vec![0.0; rows.q.len()];
        let [keys, values] = [true, false].map(|keys| Source { words, layout, head, keys, length });
        vectorized(Attend { rows: &mut rows, keys, values });
        rows.y
    });
    let mut y = vec![0f32; q.len()];
    for ((queries, head), part) in tasks.into_iter().zip(parts) {
        for (t, from) in queries.zip(part.chunks_exact(shared * head_size)) {
            y[t * q_width + head * shared * head_size..][..shared * head_size].copy_from_slice(from);
        }
    }
    y
}

/// The highest score so far, and the sum of the weights.
#[derive(Clone, Copy, Default)]
struct State {
    top: f32,
    sum: f32,
}

/// Queries and heads of one head of k and v, in the order of tokens.
struct Rows {
    size: usize,
    /// Scaled.
    q: Vec<f32>,
    /// Tokens that each sees.
    seen: Vec<usize>,
    state: Vec<State>,
    y: Vec<f32>,
}

struct Attend<'a> {
    rows: &'a mut Rows,
    keys: Source<'a>,
    values: Source<'a>,
}

impl Work for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { rows: Rows { size, q, seen, state, y }, keys, values } = self;
        let size = *size;
        let last = seen.last().copied().unwrap_or(0);
        let [mut k, mut v] = [(); 2].map(|()| vec![0f32; GROUP * size]);
        let mut scores = [0f32; GROUP];
        for block in 0..last.div_ceil(GROUP) {
            let first = block * GROUP;
            // Of the cache, not of what is seen: a block may be complete that not every query sees all of.
            let tokens = GROUP.min(keys.length - first);
            keys.decode(block, &mut k[..tokens * size]);
            values.decode(block, &mut v[..tokens * size]);
            let rows =
                q.chunks_exact(size).zip(y.chunks_exact_mut(size)).zip(seen.iter()).zip(state.iter_mut());
            for (((q, y), seen), state) in rows.filter(|((_, seen), _)| **seen > first) {
                let scores = &mut scores[..GROUP.min(seen - first)];
                for (score, k) in scores.iter_mut().zip(k.chunks_exact(size)) {
                    *score = dot(q, k);
                }
                let mut top = if block == 0 { scores[0] } else { state.top };
                for &s in scores.iter() {
                    top = if s > top { s } else { top };
                }
                let down = if block == 0 { 1.0 } else { exp(state.top - top) };
                state.sum *= down;
                y.iter_mut().for_each(|y| *y *= down);
                for (s, v) in scores.iter().zip(v.chunks_exact(size)) {
                    let weight = exp(s - top);
                    state.sum += weight;
                    y.iter_mut().zip(v).for_each(|(y, v)| *y += weight * v);
                }
                state.top = top;
            }
        }
        for (y, state) in y.chunks_exact_mut(size).zip(state.iter()) {
            let share = 1.0 / state.sum;
            y.iter_mut().for_each(|y| *y *= share);
        }
    }
}

/// Lanes side by side, then joined in pairs.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        for l in 0..LANES {
            lanes[l] += a[l] * b[l];
        }
    }
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
    }
    lanes[0]
}
