//! Groups that have a table of their own: which one, and the codes of its entries.
//!
//! ```text
//! x [n], importance --clusters--> means --f16--> table [2^bits] --Nearest--> codes [n]
//! ```
//!
//! The text of [`Encoder::Clusters`](crate::scheme::Encoder::Clusters).

use crate::cpu::clusters::Clusters;
use crate::cpu::half_float::{f16_saturating, f16_to_f32};
use crate::scheme::Scheme;
use crate::scheme::layout::TABLE_ENTRY;

/// Entries that values are compared with one after the other; more are searched by halves.
const FEW: usize = 16;

/// Chooses tables and codes of groups; buffers are kept from group to group.
#[derive(Default)]
pub struct TableEncoder {
    clusters: Clusters,
}

/// A table in order: `codes[i]` has the i-th of its distinct finite values, and a number that exceeds `ends[i]` lies above it.
pub struct Ordered {
    len: usize,
    codes: [u8; 256],
    values: [f32; 256],
    ends: [f32; 256],
}

impl Ordered {
    /// Of at most 256 entries.
    #[inline(always)]
    pub fn new(entries: &[f32]) -> Self {
        let mut own = Self { len: 0, codes: [0; 256], values: [0.0; 256], ends: [f32::INFINITY; 256] };
        for (code, &v) in entries.iter().enumerate().filter(|(_, v)| v.is_finite()) {
            // Tables of our own are in order already.
            let at = match own.len {
                0 => 0,
                n if own.values[n - 1] < v => n,
                n => own.values[..n].partition_point(|other| *other < v),
            };
            // Of equal entries the lowest code.
            if at < own.len && own.values[at] == v {
                continue;
            }
            own.values.copy_within(at..own.len, at + 1);
            own.codes.copy_within(at..own.len, at + 1);
            (own.values[at], own.codes[at]) = (v, code as u8);
            own.len += 1;
        }
        for i in 1..own.len {
            let middle = (own.values[i - 1] + own.values[i]) * 0.5;
            // On the boundary the entry nearer to zero wins, the upper one where it is 0.
            own.ends[i - 1] = if middle > 0.0 { middle } else { middle.next_down() };
        }
        own
    }

    /// The codes of the entries nearest to `x`.
    #[inline(always)]
    pub fn nearest(&self, x: &[f32], codes: &mut [u8]) {
        if self.len > FEW {
            let ends = &self.ends[..self.len - 1];
            for (&v, code) in x.iter().zip(codes) {
                *code = self.codes[ends.partition_point(|end| v > *end)];
            }
            return;
        }
        // Counting ends below each value, end by end: the inner loop vectorises.
        codes.fill(0);
        for &end in &self.ends[..self.len.saturating_sub(1)] {
            codes.iter_mut().zip(x).for_each(|(code, &v)| *code += u8::from(v > end));
        }
        let order: [u8; FEW] = std::array::from_fn(|i| self.codes[i]);
        codes.iter_mut().for_each(|code| *code = order[usize::from(*code) & (FEW - 1)]);
    }
}

impl TableEncoder {
    /// Encodes a row. Its tables are found, or already stored in `tables` where they were `given`.
    #[inline(always)]
    pub fn row(
        &mut self,
        scheme: &Scheme,
        x: &[f32],
        importance: Option<&[f32]>,
        given: bool,
        codes: &mut [u8],
        tables: &mut [u8],
    ) {
        let mut entries = [0f32; 256];
        let entries = &mut entries[..1 << scheme.bits];
        let group = scheme.group_len(x.len());
        let groups =
            x.chunks(group).zip(codes.chunks_mut(group)).zip(tables.chunks_mut(entries.len() * TABLE_ENTRY));
        for (g, ((x, codes), table)) in groups.enumerate() {
            let stored = table.as_chunks_mut::<TABLE_ENTRY>().0;
            if !given {
                let weights = importance.map(|all| &all[g * group..][..x.len()]);
                self.clusters.find(x, weights, entries);
                for (to, entry) in stored.iter_mut().zip(&*entries) {
                    // A mean just below 0 is +0.
                    let bits = f16_saturating(*entry);
                    *to = if bits == 1 << 15 { 0u16 } else { bits }.to_le_bytes();
                }
            }
            entries
                .iter_mut()
                .zip(&*stored)
                .for_each(|(entry, from)| *entry = f16_to_f32(u16::from_le_bytes(*from)));
            Ordered::new(entries).nearest(x, codes);
        }
    }
}
