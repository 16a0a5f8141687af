//! Planes: where codes, scales and zeros of a packed tensor lie in memory.
//!
//! ```text
//! one buffer:  | codes low | codes high | scales | zeros | super-scales | super-minima | tables | codebook | scale table | permutation |
//!              each plane starts on a multiple of 256 bytes; absent planes take no room
//! ```
//!
//! **Code planes.** A code of 3 bits is stored as 2 + 1, 5 as 4 + 1, 6 as 4 + 2 (low bits first), 7 as 8, others as
//! they are, so that a plane's width `w` is 1, 2, 4, 8, 16 or 32 bits. Rows are padded with zero codes to 32 values and start on
//! 16 bytes. Within a 32-bit word (little-endian) of a plane with `w <= 8`, the `32 / w` values lie in *quad order*: value `i` of
//! the word has its `w` bits at bit `8 * (i % 4) + w * (i / 4)`. So `(word >> (w * f)) & (mask repeated in each byte)` is
//! four consecutive values, one per byte: one shift, one mask and `unpack4xU8` in a shader. Plain 16-bit floats lie
//! two per word, the first in the low half.
//!
//! **Scales, zeros** `[rows, groups]`, super-scales and super-minima `[rows, super-groups]`: row-major without row padding. A
//! per-tensor scale is one entry. **Tables** `[rows, groups, 2^bits]` f16, those of groups. **Codebook**: `2^bits` f32, present for fixed and learned tables alike. **Scale table**: 256 f32, what
//! the bytes of the scales stand for. **Permutation**: K u32, the column that each stored position holds.

use super::{Group, Scale, ScaleType, Scheme, SubScale};

/// The kinds of planes, in buffer order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PlaneKind {
    CodesLow,
    CodesHigh,
    Scales,
    Zeros,
    SuperScales,
    SuperMins,
    Tables,
    Codebook,
    ScaleTable,
    Permutation,
}

impl PlaneKind {
    /// All kinds in buffer order.
    pub const ALL: [Self; 10] = [
        Self::CodesLow,
        Self::CodesHigh,
        Self::Scales,
        Self::Zeros,
        Self::SuperScales,
        Self::SuperMins,
        Self::Tables,
        Self::Codebook,
        Self::ScaleTable,
        Self::Permutation,
    ];

    /// The name used in files and errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CodesLow => "codes",
            Self::CodesHigh => "codes_high",
            Self::Scales => "scales",
            Self::Zeros => "zeros",
            Self::SuperScales => "super_scales",
            Self::SuperMins => "super_mins",
            Self::Tables => "tables",
            Self::Codebook => "codebook",
            Self::ScaleTable => "scale_table",
            Self::Permutation => "permutation",
        }
    }
}

/// One plane of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    pub kind: PlaneKind,
    /// Byte offset in the buffer; a multiple of 256.
    pub offset: usize,
    /// Bytes of the plane, padding of rows included.
    pub len: usize,
    /// Bytes from one row to the next; 0 where all rows share the plane (tables, permutation, per-tensor scale).
    pub row_stride: usize,
    /// Bits that carry the tensor: without padding, and 0 for tables.
    pub payload_bits: usize,
}

/// The planes of a `[rows, k]` tensor in a scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    planes: Vec<Plane>,
    len: usize,
}

/// Planes start on multiples of this many bytes.
pub const PLANE_ALIGN: usize = 256;
/// Code rows are padded to this many values.
pub const ROW_VALUES: usize = 32;
/// Code rows start on multiples of this many bytes.
pub const ROW_ALIGN: usize = 16;

/// Bytes of an entry of a group's table.
pub const TABLE_ENTRY: usize = 2;

/// Entries of a scale table.
pub const SCALE_TABLE: usize = 256;

/// Widths in bits of the code planes of a `bits`-bit code: low plane, high plane (0 if none).
pub const fn code_widths(bits: u8) -> (usize, usize) {
    match bits {
        3 => (2, 1),
        5 => (4, 1),
        6 => (4, 2),
        7 => (8, 0),
        b => (b as usize, 0),
    }
}

/// Bytes of one padded row of `k` codes of `width` bits.
pub const fn code_row_bytes(k: usize, width: usize) -> usize {
    (k.next_multiple_of(ROW_VALUES) * width / 8).next_multiple_of(ROW_ALIGN)
}

/// Where value `k` of a row lies in a plane of `width` bits: `(byte, bit)` from the start of the row, in quad order.
pub const fn code_position(k: usize, width: usize) -> (usize, usize) {
    if width >= 8 {
        return (k * width / 8, 0);
    }
    let per_word = 32 / width;
    let i = k % per_word;
    (k / per_word * 4 + i % 4, width * (i / 4))
}

impl Layout {
    /// The planes of `rows` x `k` values, sizes already checked by [`Scheme::check_shape`].
    pub fn new(scheme: &Scheme, rows: usize, k: usize) -> Self {
        use PlaneKind::*;
        let mut layout = Self { planes: Vec::with_capacity(4), len: 0 };
        let (low, high) = code_widths(scheme.bits);
        for (kind, width) in [(CodesLow, low), (CodesHigh, high)] {
            if width > 0 {
                let stride = code_row_bytes(k, width);
                layout.push(kind, rows * stride, stride, rows * k * width);
            }
        }
        let groups = scheme.groups_per_row(k);
        let scale_size = match scheme.scale {
            Scale::None => 0,
            Scale::Direct(t) => t.size(),
            Scale::TwoLevel { .. } => 1,
        };
        for (kind, size) in [(Scales, scale_size), (Zeros, scheme.zero_size())] {
            match scheme.group {
                _ if size == 0 => {}
                Group::Tensor => layout.push(kind, size, 0, size * 8),
                Group::Row | Group::Cols(_) => layout.push_rows(kind, rows, groups * size),
            }
        }
        if let Scale::TwoLevel { sub, super_group } = scheme.scale {
            let stride = k.div_ceil(super_group as usize) * 2;
            layout.push_rows(SuperScales, rows, stride);
            if sub != SubScale::I8 {
                layout.push_rows(SuperMins, rows, stride);
            }
        }
        if scheme.has_group_tables() {
            layout.push_rows(Tables, rows, (groups * TABLE_ENTRY) << scheme.bits);
        }
        if scheme.has_table() {
            layout.push(Codebook, 4 << scheme.bits, 0, 0);
        }
        if scheme.scale == Scale::Direct(ScaleType::Table) {
            layout.push(ScaleTable, 4 * SCALE_TABLE, 0, 0);
        }
        if scheme.is_permuted() {
            layout.push(Permutation, 4 * k, 0, 32 * k);
        }
        layout.len = layout.len.next_multiple_of(PLANE_ALIGN);
        layout
    }

    fn push_rows(&mut self, kind: PlaneKind, rows: usize, row_stride: usize) {
        self.push(kind, rows * row_stride, row_stride, rows * row_stride * 8);
    }

    fn push(&mut self, kind: PlaneKind, len: usize, row_stride: usize, payload_bits: usize) {
        let offset = self.len.next_multiple_of(PLANE_ALIGN);
        self.planes.push(Plane { kind, offset, len, row_stride, payload_bits });
        self.len = offset + len;
    }

    /// The planes in buffer order.
    pub fn planes(&self) -> &[Plane] {
        &self.planes
    }

    /// The plane of a kind, if the scheme has it.
    pub fn plane(&self, kind: PlaneKind) -> Option<&Plane> {
        self.planes.iter().find(|p| p.kind == kind)
    }

    /// Bytes of the buffer, a multiple of 256.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the buffer has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
