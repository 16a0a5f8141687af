//! Packed weights in device memory, split by rows where they are larger than one binding.
//!
//! ```text
//! PackedTensor [rows, k]  --split-->  Part { rows a..b, planes together in one buffer }, Part { rows b..c, .. }, ..
//! ```
//!
//! Every part is a packed tensor of its own for the kernels: its own copy of a codebook and a per-tensor scale.

use super::WeightParams;
use crate::gpu::{Buffer, Gpu};
use crate::scheme::Layout;
use crate::{Error, PackedTensor, Result, Scheme};
use std::ops::Range;
use std::sync::OnceLock;

/// Rows of a weight in one buffer.
#[derive(Clone, Debug)]
pub struct Part {
    /// Rows of the whole tensor that lie here.
    pub rows: Range<usize>,
    pub layout: Layout,
    pub params: WeightParams,
    pub buffer: Buffer,
    /// Sums of the rows, of integers and of weights, once they have been asked for.
    row_sums: [OnceLock<Buffer>; 2],
}

impl Part {
    /// The sums of its rows, if there are any yet: of integers before they are scaled (`whole`), or of weights.
    pub(super) fn row_sums(&self, whole: bool) -> Option<Buffer> {
        self.row_sums[usize::from(whole)].get().cloned()
    }

    /// Keeps them.
    pub(super) fn keep_row_sums(&self, whole: bool, sums: Buffer) {
        // Another thread may have been faster, with the same numbers.
        let _ = self.row_sums[usize::from(whole)].set(sums);
    }
}

/// A packed weight on a device.
#[derive(Clone, Debug)]
pub struct DeviceWeights {
    pub scheme: Scheme,
    /// [.., N, K].
    pub shape: Vec<usize>,
    pub rows: usize,
    pub k: usize,
    pub parts: Vec<Part>,
}

/// Bytes that one storage binding may have on this device.
pub fn binding_limit(gpu: &Gpu) -> usize {
    let limits = gpu.limits();
    // wgpu counts in u64; offsets in the kernels are 32-bit words.
    limits.max_storage_buffer_binding_size.min(limits.max_buffer_size).min(u64::from(u32::MAX)) as usize
}

/// Rows of `k` f32 or f16 values after which a dense matrix is on a multiple of 256 bytes again: where bindings may begin. A power
/// of two, at most 128. Parts start on multiples of it (where that many rows fit).
pub fn row_step(k: usize) -> usize {
    128 >> k.trailing_zeros().min(7)
}

/// Rows of `k` dense values of `size` bytes, out of `rows`, that a binding holds and after which the next ones are on 256 bytes.
///
/// # Errors
/// [`Error::TooLarge`] if there are none.
pub(super) fn dense_rows(gpu: &Gpu, rows: usize, k: usize, size: usize) -> Result<usize> {
    let (limit, row, step) = (binding_limit(gpu), k * size, row_step(k));
    match if rows * row <= limit { rows } else { limit / row / step * step } {
        0 => {
            let (need, limit) = ((step * row) as u64, limit as u64);
            Err(Error::TooLarge { what: format!("{step} dense rows of K = {k}"), need, limit })
        }
        most => Ok(most),
    }
}

/// Rows per part so that planes and, where `dense` is not 0, as many bytes of dense input per value fit into a binding.
fn rows_per_part(scheme: &Scheme, rows: usize, k: usize, dense: usize, limit: usize) -> Result<usize> {
    let fits = |n: usize| {
        Layout::new(scheme, n, k).len() <= limit && n.saturating_mul(k).saturating_mul(dense) <= limit
    };
    if fits(rows) {
        return Ok(rows);
    }
    if !fits(1) {
        let need = Layout::new(scheme, 1, k).len().max(k.saturating_mul(dense)) as u64;
        return Err(Error::TooLarge {
            what: format!("one row of K = {k} in {scheme}"),
            need,
            limit: limit as u64,
        });
    }
    let (mut low, mut high) = (1, rows);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    // Four, so that int8 outputs of a part are whole words.
    let step = row_step(k).max(4);
    Ok(if low >= step { low / step * step } else { low })
}

impl DeviceWeights {
    /// Buffers for a weight of `shape`, all zero. With `dense`, parts are small enough for f32 rows of the same number to be bound.
    ///
    /// # Errors
    /// As [`Scheme::check_shape`]; [`Error::TooLarge`] if not even one row fits; [`Error::OutOfMemory`].
    pub fn zeroed(gpu: &Gpu, scheme: Scheme, shape: &[usize], dense: bool) -> Result<Self> {
        let (rows, k) = scheme.check_shape(shape)?;
        let step = rows_per_part(&scheme, rows, k, if dense { 4 } else { 0 }, binding_limit(gpu))?;
        let parts = (0..rows)
            .step_by(step)
            .map(|start| {
                let range = start..(start + step).min(rows);
                let layout = Layout::new(&scheme, range.len(), k);
                let params = WeightParams::new(&scheme, &layout, range.len(), k);
                let buffer = gpu.alloc_persistent(layout.len() as u64, "packed weights")?;
                Ok(Part { rows: range, layout, params, buffer, row_sums: Default::default() })
            })
            .collect::<Result<_>>()?;
        Ok(Self { scheme, shape: shape.to_vec(), rows, k, parts })
    }

    /// Copies a packed tensor to the device.
    ///
    /// # Errors
    /// As [`DeviceWeights::zeroed`].
    pub fn upload(gpu: &Gpu, packed: &PackedTensor) -> Result<Self> {
        let weights = Self::zeroed(gpu, *packed.scheme(), packed.shape(), false)?;
        match weights.parts.as_slice() {
            [whole] => gpu.write(&whole.buffer, 0, packed.data())?,
            parts => {
                for part in parts {
                    gpu.write(&part.buffer, 0, packed.slice_rows(part.rows.clone()).data())?;
                }
            }
        }
        Ok(weights)
    }

    /// Copies the weights back.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] and other errors of the device.
    pub async fn read(&self, gpu: &Gpu) -> Result<PackedTensor> {
        let ranges: Vec<_> = self.parts.iter().map(|p| (&p.buffer, 0..p.layout.len() as u64)).collect();
        let mut datas = gpu.read_many(&ranges).await?;
        if datas.len() == 1 {
            return PackedTensor::from_data(self.scheme, self.shape.clone(), &datas.remove(0));
        }
        let mut packed = PackedTensor::zeroed(self.scheme, self.shape.clone())?;
        for (part, data) in self.parts.iter().zip(datas) {
            packed.write_rows(
                part.rows.start,
                &PackedTensor::from_data(self.scheme, [part.rows.len(), self.k], &data)?,
            );
        }
        Ok(packed)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|p| p.layout.len()).sum()
    }
}
