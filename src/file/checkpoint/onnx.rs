//! The operands of ONNX's MatMulNBits (domain com.microsoft), of 2, 4 and 8 bits <-> packed tensors. ONNX files themselves are not read here.
//!
//! ```text
//! B           U8 [N, blocks, block_size * bits / 8]        a row is the stream of its codes, the last block filled up with 0
//! scales      [N, blocks] of the type of A
//! zero_points U8 [N, ceil(blocks * bits / 8)], streams; or [N, blocks] of the type of A; or absent: 2^(bits - 1)
//!
//! w = (code - zero) * scale
//! ```
//!
//! Source: onnxruntime `contrib_defs.cc`, `matmul_nbits_quantizer.py`.

use super::bits::{pack_stream, unpack_stream};
use super::parts::{Integers, Planes, each_row, group_of, scheme};
use super::write::refuse;
use crate::scheme::{Group, PlaneKind, Scale, ScaleType, Value, Zero};
use crate::{DType, Error, PackedTensor, Result};
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
}

const BITS: [u32; 3] = [2, 4, 8];

/// Bytes of each row: of B, of scales, of packed zero-points.
struct Rows {
    b: usize,
    scales: usize,
    zeros: usize,
    blocks: usize,
}

impl MatMulNBits<'_> {
    fn rows(&self) -> Option<Rows> {
        let blocks = self.k.div_ceil(self.block_size.max(1));
        let bytes = |codes: usize| Some(codes.checked_mul(self.bits as usize)?.div_ceil(8));
        Some(Rows {
            b: bytes(blocks.checked_mul(self.block_size)?)?,
            scales: blocks.checked_mul(self.dtype.size())?,
            zeros: bytes(blocks)?,
            blocks,
        })
    }

    /// The weight [N, K].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for other bits and block sizes; [`Error::Shape`] for operands of other lengths.
    pub fn packed(&self) -> Result<PackedTensor> {
        if !BITS.contains(&self.bits) {
            return Err(Error::unsupported(format!("MatMulNBits of {} bits", self.bits), "2, 4 and 8 are"));
        }
        if self.block_size < 16 || !self.block_size.is_power_of_two() {
            let what = format!("MatMulNBits with block_size {}", self.block_size);
            return Err(Error::unsupported(what, "powers of two from 16 on are"));
        }
        let too_large =
            || Error::shape("MatMulNBits", "N and K that can be counted", format!("{} {}", self.n, self.k));
        let rows = self.rows().ok_or_else(too_large)?;
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
        let zero = match &self.zero_points {
            ZeroPoints::Middle => "",
            ZeroPoints::Packed(bytes) => {
                length("zero_points", bytes, rows.zeros)?;
                "-asym"
            }
            ZeroPoints::Float(bytes) => {
                length("zero_points", bytes, rows.scales)?;
                "-fzero"
            }
        };
        let scale = match self.dtype {
            DType::F32 => ScaleType::F32,
            DType::F16 => ScaleType::F16,
            DType::Bf16 => ScaleType::Bf16,
        };
        let family = format!("int{}", self.bits);
        let scheme = scheme(&family, group_of(Some(self.block_size)), zero, scale, false)?;
        let mut planes = Planes::new(scheme, &[self.n, self.k])?;
        let mut codes = vec![0; self.k];
        for row in self.b.chunks(rows.b.max(1)) {
            unpack_stream(row, self.bits, &mut codes);
            planes.row(&codes);
        }
        planes.plane(PlaneKind::Scales, self.scales.to_vec());
        match &self.zero_points {
            ZeroPoints::Middle => {}
            ZeroPoints::Float(bytes) => planes.plane(PlaneKind::Zeros, bytes.to_vec()),
            ZeroPoints::Packed(bytes) => {
                let mut zeros = Vec::with_capacity(self.n.saturating_mul(rows.blocks));
                let mut of_row = vec![0; rows.blocks];
                for row in bytes.chunks(rows.zeros.max(1)) {
                    unpack_stream(row, self.bits, &mut of_row);
                    zeros.extend_from_slice(&of_row);
                }
                planes.plane(PlaneKind::Zeros, zeros);
            }
        }
        planes.finish()
    }

    /// The operands that a weight becomes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for schemes that they do not hold, and zero-points that are no codes.
    pub fn of(tensor: &PackedTensor) -> Result<MatMulNBits<'static>> {
        let scheme = tensor.scheme();
        let (n, k) = tensor.matrix();
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
        let integers = Integers::of(scheme);
        let float_zero = scheme.zero == Zero::Float;
        let (dtype, block_size) = dtype
            .zip(block_size)
            .filter(|_| linear && !scheme.is_permuted() && (integers.is_some() || float_zero))
            .ok_or_else(|| refuse(scheme, "2, 4 or 8 bits in groups of a power of two from 16 on"))?;
        let mut b = Vec::new();
        let padded = k.div_ceil(block_size).saturating_mul(block_size);
        let mut row = Vec::with_capacity(padded);
        each_row(tensor, |codes| {
            row.clear();
            row.extend_from_slice(codes);
            row.resize(padded, 0);
            pack_stream(&row, bits, &mut b);
        });
        let zero_points = match integers {
            None => ZeroPoints::Float(tensor.plane(PlaneKind::Zeros).to_vec().into()),
            Some(integers) if integers.symmetric() => ZeroPoints::Middle,
            Some(integers) => {
                let zeros = integers.zeros(tensor)?;
                let mut packed = Vec::new();
                zeros.chunks(integers.groups(k).max(1)).for_each(|row| pack_stream(row, bits, &mut packed));
                ZeroPoints::Packed(packed.into())
            }
        };
        let scales = tensor.plane(PlaneKind::Scales).to_vec().into();
        Ok(MatMulNBits { n, k, bits, block_size, b: b.into(), dtype, scales, zero_points })
    }
}
