//! Activations as int8 in device memory, which any number of products share.
//!
//! ```text
//! x [M, K] f32 | f16  --int8_rows-->  | codes [M, K padded to 32] | scales f32 [M, groups] |  --int8_values-->  f32 [M, K]
//! ```
//!
//! Codes and scales lie in one buffer, codes beyond K are 0. With a static scale there are no scales in it.

use super::weights::binding_limit;
use crate::gpu::{Buffer, Gpu};
use crate::product::{Activation, Int8Group};
use crate::{Error, Result};
use bytemuck::{Pod, Zeroable};

/// Rows of codes are padded to this many.
const PAD: usize = 32;

/// int8 activations [rows, k] on a device.
#[derive(Clone, Debug)]
pub struct DeviceInt8 {
    pub rows: usize,
    pub k: usize,
    /// How they were quantized: one of int8.
    pub activation: Activation,
    pub buffer: Buffer,
}

/// Values per scale: K with a scale per row or a static one.
pub fn group(activation: Activation, k: usize) -> usize {
    match activation {
        Activation::Int8(Int8Group::Cols(g)) => g as usize,
        _ => k,
    }
}

/// Bytes from row to row of codes.
pub fn stride(k: usize) -> usize {
    k.next_multiple_of(PAD)
}

/// The static scale and the bits of its zero-point; 0 where scales are dynamic.
pub fn fixed(activation: Activation) -> (f32, u32) {
    match activation {
        Activation::Int8Static(s) => (s.scale(), i32::from(s.zero()) as u32),
        _ => (0.0, 0),
    }
}

/// Scales of a row in the buffer: none of a static one.
fn groups(activation: Activation, k: usize) -> usize {
    match activation {
        Activation::Int8Static(_) => 0,
        _ => k.div_ceil(group(activation, k)),
    }
}

impl DeviceInt8 {
    /// A buffer for them, its contents unspecified.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for activations other than int8 and groups of other sizes than 32 and 128; [`Error::TooLarge`] beyond a
    /// binding; [`Error::OutOfMemory`].
    pub fn alloc(gpu: &Gpu, rows: usize, k: usize, activation: Activation) -> Result<Self> {
        match activation {
            Activation::Int8(Int8Group::Cols(g)) if g != 32 && g != 128 => {
                return Err(Error::unsupported(
                    format!("int8 activations in groups of {g}"),
                    "32 and 128 are",
                ));
            }
            Activation::Int8(_) | Activation::Int8Static(_) => {}
            Activation::F32 | Activation::F16 => {
                return Err(Error::unsupported(format!("{activation:?} as int8"), "give a kind of int8"));
            }
        }
        let scales = rows.saturating_mul(groups(activation, k)).saturating_mul(4);
        let bytes = rows.saturating_mul(stride(k)).next_multiple_of(256).saturating_add(scales);
        let limit = binding_limit(gpu);
        if bytes > limit {
            let what = format!("int8 activations [{rows}, {k}]");
            return Err(Error::TooLarge { what, need: bytes as u64, limit: limit as u64 });
        }
        Ok(Self { rows, k, activation, buffer: gpu.alloc(bytes as u64, "int8 activations")? })
    }

    /// Words from row to row of codes, and the word where the scales begin.
    pub fn words(&self) -> (u32, u32) {
        let stride = stride(self.k);
        ((stride / 4) as u32, ((self.rows * stride).next_multiple_of(256) / 4) as u32)
    }

    /// Scales of a row in the buffer: none of a static one.
    pub fn groups(&self) -> usize {
        groups(self.activation, self.k)
    }

    /// Copies codes [rows, k] and scales [rows, groups] back.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] and other errors of the device.
    pub async fn read(&self, gpu: &Gpu) -> Result<(Vec<i8>, Vec<f32>)> {
        let bytes = gpu.read(&self.buffer).await?;
        let rows = bytes.chunks(stride(self.k)).take(self.rows);
        let codes = rows.flat_map(|row| row[..self.k].iter().map(|&q| q as i8)).collect();
        let scales = bytes[self.words().1 as usize * 4..].as_chunks::<4>().0;
        let count = self.rows * self.groups();
        Ok((codes, scales[..count].iter().map(|&b| f32::from_le_bytes(b)).collect()))
    }
}

/// The uniform of the passes to int8 and back, see `shaders/lib/int8_fields.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    rows: u32,
    row0: u32,
    k: u32,
    pub(super) stride: u32,
    scales: u32,
    groups: u32,
    group: u32,
    scale: f32,
    zero: u32,
    nan: u32,
}

impl Params {
    /// Of a dispatch over `rows` rows from `row0` on.
    pub(super) fn new(int8: &DeviceInt8, rows: usize, row0: usize) -> Self {
        let ((scale, zero), (stride, scales)) = (fixed(int8.activation), int8.words());
        Self {
            rows: rows as u32,
            row0: row0 as u32,
            k: int8.k as u32,
            stride,
            scales,
            groups: int8.groups() as u32,
            group: group(int8.activation, int8.k) as u32,
            scale,
            zero,
            nan: f32::NAN.to_bits(),
        }
    }
}
