//! The operands of ONNX's MatMulNBits (domain com.microsoft), of 2, 4 and 8 bits <-> packed tensors. The files they lie in are
//! [`super::super::onnx`]'s.
//!
//! ```text
//! B           U8 [N, blocks, block_size * bits / 8]        a row is the stream of its codes, the last block filled up
//! scales      [N, blocks] of the type of A
//! zero_points U8 [N, ceil(blocks * bits / 8)], streams; or [N, blocks] of the type of A; or absent: 2^(bits - 1)
//! g_idx       I32 [K], the block of each column; deprecated, read where it is a permutation of whole blocks and not written
//!
//! w = (code - zero) * scale
//! ```
//!
//! What fills up a last block is no part of a weight: 0 where it is written here, anything where it is read. Source: onnxruntime `contrib_defs.cc`,
//! `matmul_nbits_quantizer.py`.

use super::bits::{pack_stream, stream_bytes, unpack_stream};
use super::parts::{Grouping, Integers, View, fill, group_of, of_codes, pack_rows, row_of, scheme};
use super::write::refuse;
use crate::file::Dtype;
use crate::scheme::{Group, PlaneKind, Scale, ScaleType, Value, Zero};
use crate::{DType, Error, PackedTensor, Result, Scheme};
use std::borrow::Cow;

/// The zero-points of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum ZeroPoints<'a> {
    /// No such operand.
    Middle,
    /// Codes, packed as those of B.
    Packed(Cow<'a, [u8]>),
    /// Numbers of the type of the scales.
    Float(Cow<'a, [u8]>),
}

/// Attributes and operands of a node, little-endian bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct MatMulNBits<'a> {
    pub n: usize,
    pub k: usize,
    pub bits: u32,
    pub block_size: usize,
    pub b: Cow<'a, [u8]>,
    /// The type of A and the scales.
    pub dtype: DType,
    pub scales: Cow<'a, [u8]>,
    pub zero_points: ZeroPoints<'a>,
    /// The block of each column; none: blocks follow each other.
    pub g_idx: Option<Cow<'a, [u8]>>,
}

const BITS: [u32; 3] = [2, 4, 8];

/// What of a node follows from a scheme.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::file) struct Form {
    pub bits: u32,
    pub block_size: usize,
    /// The type of A and the scales.
    pub dtype: DType,
    /// None, packed, or numbers of the type of the scales.
    pub zero: Zero,
}

/// Bytes of each row: of B, of scales, of zero-points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::file) struct Rows {
    pub b: usize,
    pub scales: usize,
    pub zeros: usize,
    pub blocks: usize,
}

impl Form {
    /// Of a scheme.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for those that a node does not hold.
    pub fn of(scheme: &Scheme) -> Result<Self> {
        let dtype = match scheme.scale {
            Scale::Direct(ScaleType::F32) => Some(DType::F32),
            Scale::Direct(ScaleType::F16) => Some(DType::F16),
            Scale::Direct(ScaleType::Bf16) => Some(DType::Bf16),
            _ => None,
        };
        let block_size = match scheme.group {
            Group::Cols(g) if g >= 16 && g.is_power_of_two() => Some(g as usize),
            _ => None,
        };
        let bits = u32::from(scheme.bits);
        let linear = matches!(scheme.value, Value::Linear { step: 1, .. }) && BITS.contains(&bits);
        let zero = match Integers::of(scheme) {
            Some(integers) if integers.symmetric() => Some(Zero::None),
            Some(_) => Some(Zero::Point),
            None => Some(Zero::Float).filter(|zero| *zero == scheme.zero),
        };
        let held = dtype.zip(block_size).zip(zero).filter(|_| linear && !scheme.is_permuted());
        held.map(|((dtype, block_size), zero)| Self { bits, block_size, dtype, zero })
            .ok_or_else(|| refuse(scheme, "2, 4 or 8 bits in groups of a power of two from 16 on"))
    }

    /// The scheme that it is read as.
    pub fn scheme(&self, permuted: bool) -> Result<Scheme> {
        let scale = match self.dtype {
            DType::F32 => ScaleType::F32,
            DType::F16 => ScaleType::F16,
            DType::Bf16 => ScaleType::Bf16,
        };
        let zero = match self.zero {
            Zero::Float => "-fzero",
            Zero::Point => "-asym",
            _ => "",
        };
        scheme(&format!("int{}", self.bits), group_of(Some(self.block_size)), zero, scale, permuted)
    }

    /// Bytes of the rows of a weight of `k` columns; none if they cannot be counted.
    pub fn rows(&self, k: usize) -> Option<Rows> {
        let blocks = k.div_ceil(self.block_size.max(1));
        let bytes = |codes: usize| Some(codes.checked_mul(self.bits as usize)?.div_ceil(8));
        let scales = blocks.checked_mul(self.dtype.size())?;
        let zeros = match self.zero {
            Zero::Float => scales,
            Zero::Point => bytes(blocks)?,
            _ => 0,
        };
        Some(Rows { b: bytes(blocks.checked_mul(self.block_size)?)?, scales, zeros, blocks })
    }
}

impl MatMulNBits<'_> {
    fn form(&self) -> Form {
        let zero = match self.zero_points {
            ZeroPoints::Middle => Zero::None,
            ZeroPoints::Packed(_) => Zero::Point,
            ZeroPoints::Float(_) => Zero::Float,
        };
        Form { bits: self.bits, block_size: self.block_size, dtype: self.dtype, zero }
    }

    /// Bytes of rows, once bits, block size and the lengths of all operands are what they should be.
    fn checked(&self) -> Result<Rows> {
        if !BITS.contains(&self.bits) {
            return Err(Error::unsupported(format!("MatMulNBits of {} bits", self.bits), "2, 4 and 8 are"));
        }
        if self.block_size < 16 || !self.block_size.is_power_of_two() {
            let what = format!("MatMulNBits with block_size {}", self.block_size);
            return Err(Error::unsupported(what, "powers of two from 16 on are"));
        }
        let too_large =
            || Error::shape("MatMulNBits", "N and K that can be counted", format!("{} {}", self.n, self.k));
        let rows = self.form().rows(self.k).ok_or_else(too_large)?;
        let length = |operand: &str, bytes: &[u8], row: usize| {
            let expected = row.checked_mul(self.n).filter(|e| *e > 0).ok_or_else(too_large)?;
            if bytes.len() == expected {
                return Ok(());
            }
            let got = format!("{} bytes", bytes.len());
            Err(Error::shape(format!("{operand} of MatMulNBits"), format!("{expected} bytes"), got))
        };
        length("B", &self.b, rows.b)?;
        length("scales", &self.scales, rows.scales)?;
        match &self.zero_points {
            ZeroPoints::Middle => {}
            ZeroPoints::Packed(bytes) | ZeroPoints::Float(bytes) => length("zero_points", bytes, rows.zeros)?,
        }
        Ok(rows)
    }

    /// The columns in the order of their blocks, where that is not their own.
    fn order(&self, rows: &Rows) -> Result<Option<Vec<u32>>> {
        let Some(data) = &self.g_idx else { return Ok(None) };
        let shape = [self.k];
        let view = View { name: "g_idx", dtype: Dtype::I32, shape: &shape, data, place: None };
        let mut indices = view.integers()?;
        // Some writers fill it up with the last block.
        let padded = rows.blocks.saturating_mul(self.block_size);
        if ![self.k, padded].contains(&indices.len()) {
            let got = format!("{} numbers", indices.len());
            return Err(Error::shape("g_idx of MatMulNBits", format!("{} numbers", self.k), got));
        }
        indices.truncate(self.k);
        let found = Grouping::of_indices(view, &indices, Some(self.block_size), rows.blocks)?;
        if found.size == Some(self.block_size) && found.from.iter().copied().eq(0..rows.blocks) {
            return Ok(found.order);
        }
        Err(Error::unsupported("g_idx of MatMulNBits", "only blocks of block_size columns each are held"))
    }

    /// The scheme of the weight.
    ///
    /// # Errors
    /// As [`Self::packed`].
    pub fn scheme(&self) -> Result<Scheme> {
        let rows = self.checked()?;
        self.form().scheme(self.order(&rows)?.is_some())
    }

    /// The weight [N, K].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for other bits and block sizes; [`Error::Shape`] for operands of other lengths.
    pub fn packed(&self) -> Result<PackedTensor> {
        let rows = self.checked()?;
        let order = self.order(&rows)?;
        let scheme = self.form().scheme(order.is_some())?;
        let mut tensor = of_codes(scheme, &[self.n, self.k], order.as_deref(), |row, codes| {
            unpack_stream(row_of(&self.b, rows.b, row), self.bits, codes);
        })?;
        fill(&mut tensor, PlaneKind::Scales, &self.scales)?;
        match &self.zero_points {
            ZeroPoints::Middle => {}
            ZeroPoints::Float(bytes) => fill(&mut tensor, PlaneKind::Zeros, bytes)?,
            ZeroPoints::Packed(bytes) => {
                let mut zeros = Vec::with_capacity(self.n.saturating_mul(rows.blocks));
                let mut of_row = vec![0; rows.blocks];
                for row in bytes.chunks(rows.zeros.max(1)) {
                    unpack_stream(row, self.bits, &mut of_row);
                    zeros.extend_from_slice(&of_row);
                }
                fill(&mut tensor, PlaneKind::Zeros, &zeros)?;
            }
        }
        Ok(tensor)
    }

    /// The operands that a weight becomes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for schemes that they do not hold, and zero-points that are no codes.
    pub fn of(tensor: &PackedTensor) -> Result<MatMulNBits<'static>> {
        let Form { bits, block_size, dtype, zero } = Form::of(tensor.scheme())?;
        let (n, k) = tensor.matrix();
        // Blocks fill bytes, and a stream is filled up with 0.
        let padded = k.div_ceil(block_size).saturating_mul(block_size);
        let b =
            pack_rows(tensor, 1, stream_bytes(padded, bits), |_, codes, out| pack_stream(codes, bits, out));
        let zero_points = match Integers::of(tensor.scheme()).filter(|_| zero != Zero::None) {
            None if zero == Zero::None => ZeroPoints::Middle,
            None => ZeroPoints::Float(tensor.plane(PlaneKind::Zeros).to_vec().into()),
            Some(integers) => {
                let zeros = integers.zeros(tensor)?;
                let (groups, of_row) = (integers.groups(k), stream_bytes(integers.groups(k), bits));
                let mut packed = vec![0; n.saturating_mul(of_row)];
                for (to, zeros) in packed.chunks_mut(of_row.max(1)).zip(zeros.chunks(groups.max(1))) {
                    pack_stream(zeros, bits, to);
                }
                ZeroPoints::Packed(packed.into())
            }
        };
        let scales = tensor.plane(PlaneKind::Scales).to_vec().into();
        Ok(MatMulNBits { n, k, bits, block_size, b: b.into(), dtype, scales, zero_points, g_idx: None })
    }
}
