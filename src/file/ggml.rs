//! GGUF blocks <-> planes, bit for bit, for the scalar block types of [`Ggml`].
//!
//! ```text
//! row of a tensor = block block block ...     block = scales and codes of 32, 64, 128 or 256 values, interleaved
//!      unpack: each field of a block -> codes, scales, zeros, super-scale, super-minimum -> planes        pack: back
//! ```
//!
//! A block type is a list of [`Field`]s: data that says where each bit of each element lies, read in both directions. So the two
//! directions cannot disagree, and a type is a row of the table and no code. Only TQ1_0 has digits that are not bits.
//!
//! **Canonical blocks.** Every bit pattern unpacks and decodes. It packs back to the same bytes, but for TQ1_0: 243 of the
//! 256 values of a byte are what its encoder makes (242 is the largest), and in the 4 bytes of 4 digits only those with a fifth digit
//! of 0; others come back as the canonical byte of the same digits. Scales are moved as they are, NaN included.
//!
//! No block is encoded from weights here, and no container is read.

use crate::packed::RowsMut;
use crate::scheme::{Ggml, PlaneKind, Scheme, codes};
use crate::{Error, PackedTensor, Result, threads};
use std::ops::Range;

/// What a field's elements become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Codes,
    /// Bytes of the scale plane.
    Scales,
    /// Bytes of the zero plane.
    Zeros,
    SuperScale,
    SuperMin,
}

const PARTS: [Part; 5] = [Part::Codes, Part::Scales, Part::Zeros, Part::SuperScale, Part::SuperMin];
/// Rows that a thread takes at a time.
const TASK_ROWS: usize = 32;

/// What one element has in its byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digit {
    /// This many bits.
    Bits(u32),
    /// One of five base-3 digits of a byte that holds `ceil(v * 256 / 243)`; digit 0 is the most significant of v.
    Trit,
}

/// Some bits of the elements `first..` of a part. The elements are counted by three nested loops, the innermost first: `(extent, bytes,
/// bits)` to the next one (trits for [`Digit::Trit`]).
#[derive(Clone, Copy, Debug)]
struct Field {
    part: Part,
    first: usize,
    digit: Digit,
    /// Where the bits go in the element.
    shift: u32,
    /// Where the first element lies in the block.
    byte: usize,
    bit: u32,
    loops: [(usize, usize, u32); 3],
}

/// A block type.
struct Block {
    /// Bytes of a block.
    bytes: usize,
    fields: &'static [Field],
    /// Added to a stored code (modulo 256) to give the plane's.
    code_offset: u8,
    /// Added to a stored sub-scale.
    scale_offset: u8,
    /// Bits of a stored scale or zero byte.
    scale_bits: u32,
    /// Bytes at the start of the block that hold trits.
    trits: usize,
}

const ONE: (usize, usize, u32) = (1, 0, 0);

const fn bits(
    part: Part,
    width: u32,
    shift: u32,
    at: (usize, u32),
    loops: [(usize, usize, u32); 3],
) -> Field {
    Field { part, first: 0, digit: Digit::Bits(width), shift, byte: at.0, bit: at.1, loops }
}

/// `count` whole bytes.
const fn bytes(part: Part, byte: usize, count: usize) -> Field {
    bits(part, 8, 0, (byte, 0), [(count, 1, 0), ONE, ONE])
}

/// `count` codes of 4 bits in runs of twice `half`: the low nibbles of a run's bytes, then the high ones.
const fn nibbles(byte: usize, half: usize, runs: usize) -> Field {
    bits(Part::Codes, 4, 0, (byte, 0), [(half, 1, 0), (2, 0, 4), (runs, half, 0)])
}

/// 2 bits of 128 codes in each 32 bytes, twice, four codes per byte 32 apart.
const fn pairs(byte: usize, shift: u32) -> Field {
    bits(Part::Codes, 2, shift, (byte, 0), [(32, 1, 0), (4, 0, 2), (2, 32, 0)])
}

/// One bit of `8 * count` codes, lowest first.
const fn bit_row(byte: usize, shift: u32, count: usize) -> Field {
    bits(Part::Codes, 1, shift, (byte, 0), [(8, 0, 1), (count, 1, 0), ONE])
}

/// Q4_K's and Q5_K's eight 6-bit scales or minima in 12 bytes, from `byte` on: four bits of the first four, and `step` from them to
/// those of the last four; two more bits in the bytes of the first four.
const fn six_bits(part: Part, byte: usize, step: (usize, usize, u32)) -> [Field; 2] {
    [
        bits(part, 4, 0, (byte, 0), [(4, 1, 0), step, ONE]),
        bits(part, 2, 4, (byte, 4), [(4, 1, 0), (2, 0, 2), ONE]),
    ]
}

/// Scales in the low nibbles of the last four of the 12 bytes, minima in the high ones.
const SIX_BIT_SCALES: [Field; 2] = six_bits(Part::Scales, 4, (2, 8, 0));
const SIX_BIT_MINS: [Field; 2] = six_bits(Part::Zeros, 8, (2, 4, 4));

const fn trits(first: usize, byte: usize, count: usize, digits: usize) -> Field {
    Field {
        part: Part::Codes,
        first,
        digit: Digit::Trit,
        shift: 0,
        byte,
        bit: 0,
        loops: [(count, 1, 0), (digits, 0, 1), ONE],
    }
}

const fn block(bytes: usize, fields: &'static [Field]) -> Block {
    Block { bytes, fields, code_offset: 0, scale_offset: 0, scale_bits: 8, trits: 0 }
}

/// -32 modulo 256: six-bit sub-scales are stored plus 32.
const MINUS_32: u8 = 224;

/// The block types. Source: ggml `ggml-common.h` (structs) and `ggml-quants.c` (order of the elements).
const fn block_of(kind: Ggml) -> Block {
    use Part::{Codes, Scales, SuperMin, SuperScale, Zeros};
    match kind {
        Ggml::Q4_0 | Ggml::IQ4_NL => block(18, const { &[bytes(Scales, 0, 2), nibbles(2, 16, 1)] }),
        Ggml::Q4_1 => block(20, const { &[bytes(Scales, 0, 2), bytes(Zeros, 2, 2), nibbles(4, 16, 1)] }),
        Ggml::Q5_0 => block(22, const { &[bytes(Scales, 0, 2), bit_row(2, 4, 4), nibbles(6, 16, 1)] }),
        Ggml::Q5_1 => block(
            24,
            const { &[bytes(Scales, 0, 2), bytes(Zeros, 2, 2), bit_row(4, 4, 4), nibbles(8, 16, 1)] },
        ),
        Ggml::Q8_0 => {
            let fields = const { &[bytes(Scales, 0, 2), bytes(Codes, 2, 32)] };
            Block { code_offset: 128, ..block(34, fields) }
        }
        Ggml::Q2_K => block(
            84,
            const { &[bytes(Scales, 0, 16), pairs(16, 0), bytes(SuperScale, 80, 2), bytes(SuperMin, 82, 2)] },
        ),
        Ggml::Q3_K => {
            let fields = const {
                &[
                    bits(Codes, 1, 2, (0, 0), [(32, 1, 0), (8, 0, 1), ONE]),
                    pairs(32, 0),
                    bits(Scales, 4, 0, (96, 0), [(8, 1, 0), (2, 0, 4), ONE]),
                    bits(Scales, 2, 4, (104, 0), [(4, 1, 0), (4, 0, 2), ONE]),
                    bytes(SuperScale, 108, 2),
                ]
            };
            Block { scale_offset: MINUS_32, scale_bits: 6, ..block(110, fields) }
        }
        Ggml::Q4_K => {
            let fields = const {
                let ([sc_low, sc_high], [m_low, m_high]) = (SIX_BIT_SCALES, SIX_BIT_MINS);
                let (d, dmin) = (bytes(SuperScale, 0, 2), bytes(SuperMin, 2, 2));
                &[d, dmin, sc_low, sc_high, m_low, m_high, nibbles(16, 32, 4)]
            };
            Block { scale_bits: 6, ..block(144, fields) }
        }
        Ggml::Q5_K => {
            let fields = const {
                let ([sc_low, sc_high], [m_low, m_high]) = (SIX_BIT_SCALES, SIX_BIT_MINS);
                let (d, dmin) = (bytes(SuperScale, 0, 2), bytes(SuperMin, 2, 2));
                let high = bits(Codes, 1, 4, (16, 0), [(32, 1, 0), (8, 0, 1), ONE]);
                &[d, dmin, sc_low, sc_high, m_low, m_high, high, nibbles(48, 32, 4)]
            };
            Block { scale_bits: 6, ..block(176, fields) }
        }
        Ggml::Q6_K => block(
            210,
            const { &[nibbles(0, 64, 2), pairs(128, 4), bytes(Scales, 192, 16), bytes(SuperScale, 208, 2)] },
        ),
        Ggml::IQ4_XS => {
            let fields = const {
                &[
                    bytes(SuperScale, 0, 2),
                    bits(Scales, 2, 4, (2, 0), [(4, 0, 2), (2, 1, 0), ONE]),
                    bits(Scales, 4, 0, (4, 0), [(2, 0, 4), (4, 1, 0), ONE]),
                    nibbles(8, 16, 8),
                ]
            };
            Block { scale_offset: MINUS_32, scale_bits: 6, ..block(136, fields) }
        }
        Ggml::MXFP4 => block(17, const { &[bytes(Scales, 0, 1), nibbles(1, 16, 1)] }),
        Ggml::NVFP4 => block(36, const { &[bytes(Scales, 0, 4), nibbles(4, 8, 4)] }),
        Ggml::TQ1_0 => {
            let fields = const {
                &[trits(0, 0, 32, 5), trits(160, 32, 16, 5), trits(240, 48, 4, 4), bytes(Scales, 52, 2)]
            };
            Block { trits: 52, ..block(54, fields) }
        }
        Ggml::TQ2_0 => block(66, const { &[pairs(0, 0), bytes(Scales, 64, 2)] }),
        Ggml::Q1_0 => block(18, const { &[bytes(Scales, 0, 2), bit_row(2, 0, 16)] }),
        Ggml::Q2_0 => {
            let fields = const {
                let codes = bits(Codes, 2, 0, (2, 0), [(4, 0, 2), (16, 1, 0), ONE]);
                &[bytes(Scales, 0, 2), codes]
            };
            block(18, fields)
        }
    }
}

/// Bytes of one block.
pub const fn block_bytes(kind: Ggml) -> usize {
    block_of(kind).bytes
}

/// Bytes of a tensor of `shape` as rows of blocks.
///
/// # Errors
/// [`Error::Unsupported`] for a scheme that is no GGUF type, and as [`Scheme::check_shape`].
pub fn tensor_bytes(scheme: &Scheme, shape: &[usize]) -> Result<usize> {
    let kind = kind_of(scheme)?;
    let (rows, k) = scheme.check_shape(shape)?;
    let blocks = k.checked_div(kind.block()).and_then(|b| b.checked_mul(rows));
    blocks.and_then(|b| b.checked_mul(block_bytes(kind))).ok_or_else(|| {
        Error::shape(format!("weight shape {shape:?} for {scheme}"), "[.., N, K]", "too many elements")
    })
}

fn kind_of(scheme: &Scheme) -> Result<Ggml> {
    scheme
        .ggml
        .ok_or_else(|| Error::unsupported(format!("{scheme} as a GGUF tensor"), "no block type is like it"))
}

/// Elements of a field that lie at the same bits of consecutive bytes.
struct Run {
    /// The first element, and how far it is to the next.
    element: usize,
    step: usize,
    /// How many there are.
    count: usize,
    byte: usize,
    bit: u32,
}

impl Run {
    fn bytes(&self) -> Range<usize> {
        self.byte..self.byte.saturating_add(self.count)
    }

    /// Calls `f` with each element and its byte.
    #[inline(always)]
    fn each<E, B>(
        &self,
        elements: impl Iterator<Item = E>,
        bytes: impl Iterator<Item = B>,
        mut f: impl FnMut(E, B),
    ) {
        match self.step {
            // A loop of its own, as it vectorises.
            1 => elements.zip(bytes).for_each(|(element, byte)| f(element, byte)),
            step => elements.step_by(step.max(1)).zip(bytes).for_each(|(element, byte)| f(element, byte)),
        }
    }
}

impl Field {
    /// All elements: a run for each round of the two loops that do not go from byte to byte. Sums and products of the table's constants only,
    /// all below 256.
    fn runs(&self) -> Vec<Run> {
        let [(n0, ..), (n1, ..), _] = self.loops;
        let steps = [1, n0, n0.saturating_mul(n1)];
        let along = |(_, byte, bit): &(usize, usize, u32)| (*byte, *bit) == (1, 0);
        let loops: Vec<_> = self.loops.into_iter().zip(steps).collect();
        let inner = loops.iter().position(|(l, _)| along(l));
        // A field of one byte has no loop along bytes.
        let (count, step) = inner.and_then(|at| loops.get(at)).map_or((1, 1), |((n, ..), step)| (*n, *step));
        let mut runs = vec![Run { element: self.first, step, count, byte: self.byte, bit: self.bit }];
        for (at, ((n, byte, bit), step)) in loops.into_iter().enumerate() {
            if Some(at) == inner {
                continue;
            }
            let of_round = |i: usize| {
                let moved = move |run: &Run| Run {
                    element: i.saturating_mul(step).saturating_add(run.element),
                    byte: i.saturating_mul(byte).saturating_add(run.byte),
                    bit: (i as u32).saturating_mul(bit).saturating_add(run.bit),
                    ..*run
                };
                runs.iter().map(moved).collect::<Vec<_>>()
            };
            runs = (0..n).flat_map(of_round).collect();
        }
        runs
    }
}

/// A block type made ready: runs listed once per tensor, and not once per block.
struct Transcoder {
    block: Block,
    fields: Vec<(&'static Field, Vec<Run>)>,
    /// Elements of each part.
    lens: [usize; PARTS.len()],
}

impl Transcoder {
    fn new(kind: Ggml) -> Self {
        let block = block_of(kind);
        let fields: Vec<_> = block.fields.iter().map(|f| (f, f.runs())).collect();
        let mut lens = [0; PARTS.len()];
        for (field, runs) in &fields {
            for run in runs {
                let last = run.count.saturating_sub(1).saturating_mul(run.step);
                if let Some(len) = lens.get_mut(field.part as usize) {
                    *len = last.saturating_add(run.element).saturating_add(1).max(*len);
                }
            }
        }
        Self { block, fields, lens }
    }

    /// What is added to the stored elements of a part, and the largest of them.
    fn range(&self, part: Part) -> (u8, u8) {
        match part {
            Part::Codes if self.block.trits > 0 => (0, 2),
            Part::Codes => (self.block.code_offset, u8::MAX),
            Part::Scales => (self.block.scale_offset, mask(self.block.scale_bits)),
            Part::Zeros => (0, mask(self.block.scale_bits)),
            Part::SuperScale | Part::SuperMin => (0, u8::MAX),
        }
    }

    /// Fills the parts of one block, which are zeros before.
    fn unpack_block(&self, block: &[u8], mut parts: [&mut [u8]; PARTS.len()]) {
        for (field, runs) in &self.fields {
            let Some(part) = parts.get_mut(field.part as usize) else { continue };
            for run in runs {
                let to = part.get_mut(run.element..).unwrap_or_default().iter_mut();
                let from = block.get(run.bytes()).unwrap_or_default().iter();
                let (bit, shift) = (run.bit, field.shift);
                match field.digit {
                    Digit::Bits(width) => {
                        let mask = mask(width);
                        run.each(to, from, |to, from| {
                            *to |= (from.wrapping_shr(bit) & mask).wrapping_shl(shift);
                        });
                    }
                    Digit::Trit => {
                        let power = 3u8.wrapping_pow(bit);
                        run.each(to, from, |to, from| {
                            *to = (u16::from(from.wrapping_mul(power)).wrapping_mul(3) >> 8) as u8;
                        });
                    }
                }
            }
        }
        for (kind, part) in PARTS.into_iter().zip(parts) {
            let (offset, _) = self.range(kind);
            if offset != 0 {
                part.iter_mut().for_each(|value| *value = value.wrapping_add(offset));
            }
        }
    }

    /// The reverse. The value that does not fit its field comes back as the error.
    fn pack_block(
        &self,
        parts: [&[u8]; PARTS.len()],
        block: &mut [u8],
    ) -> std::result::Result<(), (Part, u8)> {
        for (kind, part) in PARTS.into_iter().zip(parts) {
            let (offset, most) = self.range(kind);
            let fits = |value: &&u8| value.wrapping_sub(offset) <= most;
            if most < u8::MAX
                && let Some(value) = part.iter().find(|value| !fits(value))
            {
                return Err((kind, *value));
            }
        }
        block.fill(0);
        for (field, runs) in &self.fields {
            let Some(part) = parts.get(field.part as usize) else { continue };
            let (offset, _) = self.range(field.part);
            for run in runs {
                let from = part.get(run.element..).unwrap_or_default().iter();
                let to = block.get_mut(run.bytes()).unwrap_or_default().iter_mut();
                let (bit, shift) = (run.bit, field.shift);
                match field.digit {
                    Digit::Bits(width) => {
                        let mask = mask(width);
                        run.each(from, to, |from, to| {
                            let stored = from.wrapping_sub(offset);
                            *to |= (stored.wrapping_shr(shift) & mask).wrapping_shl(bit);
                        });
                    }
                    Digit::Trit => {
                        let weight = 3u8.wrapping_pow(4u32.saturating_sub(bit));
                        run.each(from, to, |from, to| *to = to.wrapping_add(from.wrapping_mul(weight)));
                    }
                }
            }
        }
        for byte in block.iter_mut().take(self.block.trits) {
            // ceil(v * 256 / 243) for v <= 242
            *byte = (u16::from(*byte).wrapping_mul(256).saturating_add(242) / 243) as u8;
        }
        Ok(())
    }
}

fn mask(width: u32) -> u8 {
    u8::MAX.wrapping_shr(8u32.saturating_sub(width))
}

/// A packed tensor of `shape` from `bytes`, its rows of GGUF blocks.
///
/// # Errors
/// As [`tensor_bytes`]; [`Error::Shape`] if there are more or fewer bytes than that.
pub fn unpack(scheme: Scheme, shape: &[usize], bytes: &[u8]) -> Result<PackedTensor> {
    let expected = tensor_bytes(&scheme, shape)?;
    if expected != bytes.len() {
        return Err(Error::shape(format!("bytes of a {scheme} tensor {shape:?}"), expected, bytes.len()));
    }
    let (rows, k) = scheme.check_shape(shape)?;
    let kind = kind_of(&scheme)?;
    let transcoder = Transcoder::new(kind);
    let row_bytes = expected.checked_div(rows).unwrap_or(expected).max(1);
    let mut packed = PackedTensor::zeroed(scheme, shape)?;
    let some_rows = |(rows, bytes): (RowsMut, &[u8])| {
        let mut codes = vec![0; k];
        for ([low, high, scales, zeros, super_scales, super_mins, ..], row) in
            rows.zip(bytes.chunks_exact(row_bytes))
        {
            codes.fill(0);
            let [n_codes, n_scales, n_zeros, n_super_scales, n_super_mins] = transcoder.lens;
            let mut of_blocks = [
                (codes.as_mut_slice(), n_codes),
                (scales, n_scales),
                (zeros, n_zeros),
                (super_scales, n_super_scales),
                (super_mins, n_super_mins),
            ]
            .map(|(plane, n)| plane.chunks_mut(n.max(1)));
            for block in row.chunks_exact(transcoder.block.bytes) {
                transcoder
                    .unpack_block(block, of_blocks.each_mut().map(|part| part.next().unwrap_or_default()));
            }
            codes::pack(scheme.bits, &codes, low, high);
        }
    };
    let tasks = packed.rows_mut(TASK_ROWS).into_iter().zip(bytes.chunks(row_bytes.saturating_mul(TASK_ROWS)));
    threads::for_each(tasks.collect(), expected, some_rows);
    Ok(packed)
}

/// The rows of GGUF blocks of a packed tensor.
///
/// # Errors
/// [`Error::Unsupported`] for a scheme that is no GGUF type, and for a value that the type's blocks have no room for: a
/// sub-scale beyond six bits, a ternary code of 3.
pub fn pack(tensor: &PackedTensor) -> Result<Vec<u8>> {
    let scheme = tensor.scheme();
    let kind = kind_of(scheme)?;
    let transcoder = Transcoder::new(kind);
    let (rows, k) = tensor.matrix();
    let mut out = vec![0; tensor_bytes(scheme, tensor.shape())?];
    let row_bytes = out.len().checked_div(rows).unwrap_or(0).max(1);
    let some_rows = |(range, out): (Range<usize>, &mut [u8])| {
        let rows_of = |kind| tensor.plane_rows(kind).skip(range.start);
        let (mut low, mut high) = (rows_of(PlaneKind::CodesLow), rows_of(PlaneKind::CodesHigh));
        let [_, scales_len, zeros_len, super_scale_len, super_min_len] = transcoder.lens;
        let mut of_rows = [
            (rows_of(PlaneKind::Scales), scales_len),
            (rows_of(PlaneKind::Zeros), zeros_len),
            (rows_of(PlaneKind::SuperScales), super_scale_len),
            (rows_of(PlaneKind::SuperMins), super_min_len),
        ];
        // A block has a multiple of four codes.
        let mut codes = vec![[0; 4]; k / 4];
        for out in out.chunks_mut(row_bytes) {
            codes::unpack(scheme.bits, low.next().unwrap_or(&[]), high.next().unwrap_or(&[]), &mut codes);
            let mut blocks =
                of_rows.each_mut().map(|(rows, len)| rows.next().unwrap_or(&[]).chunks((*len).max(1)));
            let codes = codes.as_flattened().chunks(kind.block());
            for (codes, block) in codes.zip(out.chunks_mut(transcoder.block.bytes)) {
                let [scales, zeros, supers, mins] = blocks.each_mut().map(|b| b.next().unwrap_or(&[]));
                transcoder.pack_block([codes, scales, zeros, supers, mins], block).map_err(
                    |(part, value)| {
                        Error::unsupported(
                            format!("byte {value} among the {part:?} of a {scheme} tensor"),
                            "a GGUF block has no room for it",
                        )
                    },
                )?;
            }
        }
        Ok(())
    };
    let tasks = threads::ranges(rows, TASK_ROWS)
        .into_iter()
        .zip(out.chunks_mut(row_bytes.saturating_mul(TASK_ROWS)))
        .collect();
    let work = rows.saturating_mul(k);
    threads::map(tasks, work, some_rows).into_iter().collect::<Result<()>>()?;
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::scheme::{Layout, PRESETS};

    /// The table is complete: each bit of each block belongs to one run, each element has all its bits, and the parts of a
    /// block fill its share of the planes.
    #[test]
    fn every_bit_of_a_block_is_in_one_run() {
        for scheme in PRESETS.iter().map(|p| p.scheme).filter(|s| s.ggml.is_some()) {
            let kind = scheme.ggml.unwrap();
            let transcoder = Transcoder::new(kind);
            let mut used = vec![0u8; transcoder.block.bytes];
            let mut trits = vec![0u8; transcoder.block.bytes];
            let mut filled = transcoder.lens.map(|len| vec![0u8; len]);
            let of_runs = |runs: &[Run]| -> Vec<(usize, usize, u32)> {
                let places = |run: &Run| {
                    (0..run.count).map(|i| (run.element + i * run.step, run.byte + i, run.bit)).collect()
                };
                runs.iter().flat_map::<Vec<_>, _>(places).collect()
            };
            for (field, runs) in &transcoder.fields {
                for (element, byte, bit) in of_runs(runs) {
                    let filled = &mut filled[field.part as usize][element];
                    let (width, taken) = match field.digit {
                        Digit::Bits(width) => (width, mask(width) << bit),
                        Digit::Trit => {
                            assert_eq!(trits[byte] & 1 << bit, 0);
                            trits[byte] |= 1 << bit;
                            (2, 0)
                        }
                    };
                    assert_eq!(*filled & mask(width) << field.shift, 0, "{scheme} element {element}");
                    *filled |= mask(width) << field.shift;
                    assert_eq!(used[byte] & taken, 0, "{scheme} byte {byte}");
                    used[byte] |= taken;
                }
            }
            for (byte, (used, trits)) in used.iter().zip(trits).enumerate() {
                let digits = if byte < 48 { 0b11111 } else { 0b1111 };
                let whole = if byte < transcoder.block.trits { trits == digits } else { *used == 0xff };
                assert!(whole, "{scheme} byte {byte}: {used:#x}");
            }
            assert_eq!(transcoder.lens[0], kind.block(), "{scheme}");
            let code = if scheme.bits == 8 { 0xff } else { (1 << scheme.bits) - 1 };
            assert!(filled[0].iter().all(|&b| b == code), "{scheme}");
            assert!(filled[1].iter().all(|&b| b == mask(transcoder.block.scale_bits)), "{scheme}");
            let layout = Layout::new(&scheme, 1, kind.block());
            let planes = [PlaneKind::Scales, PlaneKind::Zeros, PlaneKind::SuperScales, PlaneKind::SuperMins];
            for (part, plane) in planes.into_iter().enumerate() {
                assert_eq!(transcoder.lens[part + 1], layout.plane(plane).map_or(0, |p| p.len), "{scheme}");
            }
        }
    }

    #[test]
    fn lengths_and_schemes_are_checked() {
        let q: Scheme = "q4_k".parse().unwrap();
        assert_eq!(tensor_bytes(&q, &[2, 3, 512]).unwrap(), 2 * 3 * 2 * 144);
        let bytes = vec![7; 3 * 144];
        assert_eq!(unpack(q, &[3, 256], &bytes).unwrap().shape(), [3, 256]);
        for len in [0, 1, 143, 3 * 144 - 1] {
            assert!(matches!(unpack(q, &[3, 256], &bytes[..len]), Err(Error::Shape { .. })), "{len}");
        }
        assert!(matches!(unpack(q, &[2, 256], &bytes), Err(Error::Shape { .. })));
        assert!(matches!(unpack(q, &[3, 250], &bytes), Err(Error::GroupMismatch { .. })));
        assert!(matches!(unpack(q, &[usize::MAX, 256], &bytes), Err(Error::Shape { .. })));
        let own: Scheme = "int4-g32".parse().unwrap();
        assert!(matches!(unpack(own, &[1, 32], &bytes), Err(Error::Unsupported { .. })));
        assert!(matches!(pack(&PackedTensor::zeroed(own, [1, 32]).unwrap()), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn what_a_block_cannot_hold_is_refused() {
        for (name, kind, byte) in [
            ("q4_k", PlaneKind::Scales, 64),
            ("q4_k", PlaneKind::Zeros, 200),
            ("q3_k", PlaneKind::Scales, 32),
            ("iq4_xs", PlaneKind::Scales, (-33i8) as u8),
        ] {
            let mut t = PackedTensor::zeroed(name.parse().unwrap(), [1, 256]).unwrap();
            assert!(pack(&t).is_ok());
            t.plane_mut(kind)[1] = byte;
            assert!(matches!(pack(&t), Err(Error::Unsupported { .. })), "{name}");
        }
        let mut t = PackedTensor::zeroed("tq1_0".parse().unwrap(), [1, 256]).unwrap();
        t.set_code(0, 100, 2);
        assert!(pack(&t).is_ok());
        t.set_code(0, 101, 3);
        assert!(matches!(pack(&t), Err(Error::Unsupported { .. })));
    }
}
