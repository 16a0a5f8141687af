//! Data between host and device.
//!
//! ```text
//! write:  host bytes -> Queue::write_buffer in chunks -> Buffer      (runs before all that is recorded later)
//! read:   Buffer -> recorded copy -> mappable buffer -> one submit -> one wait -> Vec<u8>
//! ```
//!
//! Reads are futures that any executor can run. Natively the future waits for the device inside of its first poll, because
//! nothing else would poll the device; in a browser it is woken by the event loop.

use std::ops::Range;

use futures::channel::oneshot;

use super::buffer::Buffer;
use super::device::Gpu;
use super::fault::lock;
use super::recorder::Target;
use crate::error::{Error, Result};

/// Bytes of one host write. wgpu stages each write in memory of its own until the device has copied it; writing in pieces
/// and submitting between them bounds that memory.
const WRITE_CHUNK: usize = 32 << 20;

/// Bytes of one mapped buffer. Longer reads go in several round trips.
const READ_CHUNK: u64 = 256 << 20;

/// Buffers of [`Gpu::constant`] that are kept: what the layers of a network ask for again and again, for a few networks.
const CONSTANTS_KEPT: usize = 16;

impl Gpu {
    /// A pooled buffer with `data` in it.
    ///
    /// # Errors
    /// As [`Gpu::alloc`].
    pub fn upload(&self, data: &[u8], what: &str) -> Result<Buffer> {
        let buffer = self.alloc(data.len() as u64, what)?;
        self.write(&buffer, 0, data)?;
        Ok(buffer)
    }

    /// A persistent buffer with `data` in it.
    ///
    /// # Errors
    /// As [`Gpu::alloc_persistent`].
    pub fn upload_persistent(&self, data: &[u8], what: &str) -> Result<Buffer> {
        let buffer = self.alloc_persistent(data.len() as u64, what)?;
        self.write(&buffer, 0, data)?;
        Ok(buffer)
    }

    /// A buffer with `data` in it that nobody writes again. The last few are kept by content, so that who asks for the same again gets the same.
    ///
    /// # Errors
    /// As [`Gpu::alloc_persistent`].
    pub fn constant(&self, data: &[u8], what: &str) -> Result<Buffer> {
        let mut kept = lock(&self.shared.constants);
        let entry = match kept.iter().position(|(content, _)| content == data) {
            Some(at) => kept.remove(at),
            None => (data.to_vec(), self.upload_persistent(data, what)?),
        };
        let buffer = entry.1.clone();
        kept.push(entry);
        if kept.len() > CONSTANTS_KEPT {
            kept.remove(0);
        }
        Ok(buffer)
    }

    /// Writes `data` at byte `offset` of `buffer`, after all that is recorded and before all that will be. If the length is
    /// not a multiple of 4, the rest of the last word becomes zero.
    ///
    /// # Errors
    /// [`Error::Shape`] if `offset` is not a multiple of 4 or the data does not fit; [`Error::OutOfMemory`] if it cannot
    /// be staged.
    pub fn write(&self, buffer: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        if !offset.is_multiple_of(4) {
            return Err(Error::shape("offset of a write", "a multiple of 4", offset));
        }
        let end = offset.saturating_add((data.len() as u64).next_multiple_of(4));
        if end > buffer.padded_len() {
            return Err(Error::shape("end of a write", format!("at most {}", buffer.padded_len()), end));
        }
        let shared = &self.shared;
        let mut recorder = lock(&shared.recorder);
        if buffer.last_use() == shared.pool.recording() {
            self.submit(&mut recorder)?;
        }
        let words = data.len() / 4 * 4;
        let (body, tail) = data.split_at(words);
        let mut at = offset;
        for chunk in body.chunks(WRITE_CHUNK) {
            self.scoped("staging a write", chunk.len() as u64, || {
                shared.queue.write_buffer(buffer.raw(), at, chunk);
                if body.len() > WRITE_CHUNK {
                    // Starts the copy, and frees the staging memory of earlier chunks that are done.
                    shared.queue.submit([]);
                }
            })?;
            at += chunk.len() as u64;
        }
        if !tail.is_empty() {
            let mut word = [0; 4];
            word[..tail.len()].copy_from_slice(tail);
            self.scoped("staging a write", 4, || shared.queue.write_buffer(buffer.raw(), at, &word))?;
        }
        shared.faults.slot.check()
    }

    /// Records a copy of `len` bytes into `target`. All three numbers are multiples of 4 and the buffers differ.
    ///
    /// # Errors
    /// [`Error::Shape`] if they are not or a range does not fit.
    pub fn copy(
        &self,
        target: &mut Target<'_>,
        (from, from_offset): (&Buffer, u64),
        (to, to_offset): (&Buffer, u64),
        len: u64,
    ) -> Result<()> {
        if !(from_offset | to_offset | len).is_multiple_of(4) {
            return Err(Error::shape("offsets and length of a copy", "multiples of 4", len));
        }
        for (buffer, offset) in [(from, from_offset), (to, to_offset)] {
            let end = offset.saturating_add(len);
            if end > buffer.padded_len() {
                return Err(Error::shape("end of a copy", format!("at most {}", buffer.padded_len()), end));
            }
        }
        if from.raw() == to.raw() {
            return Err(Error::shape("buffers of a copy", "two", "one"));
        }
        usable(from, wgpu::BufferUsages::COPY_SRC)?;
        usable(to, wgpu::BufferUsages::COPY_DST)?;
        let shared = &self.shared;
        shared.faults.slot.check()?;
        let mut recorder = lock(&shared.recorder);
        let recording = shared.pool.recording();
        let encode = |encoder: &mut wgpu::CommandEncoder| {
            encoder.copy_buffer_to_buffer(from.raw(), from_offset, to.raw(), to_offset, len);
        };
        match target {
            Target::Recorder => {
                from.used_in(recording);
                to.used_in(recording);
                encode(recorder.encoder(&shared.device));
            }
            Target::Encoder(encoder) => {
                if from.last_use() == recording || to.last_use() == recording {
                    self.submit(&mut recorder)?;
                }
                from.used_elsewhere();
                to.used_elsewhere();
                encode(encoder);
            }
        }
        Ok(())
    }

    /// The first [`Buffer::len`] bytes of `buffer`, after everything recorded before. One submit, one wait.
    ///
    /// Commands in an encoder of the caller's count from when the caller has submitted it.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], and whatever went wrong in commands recorded before.
    pub async fn read(&self, buffer: &Buffer) -> Result<Vec<u8>> {
        self.read_range(buffer, 0..buffer.len()).await
    }

    /// Bytes `range` of `buffer`; see [`Gpu::read`]. The range may start and end anywhere.
    ///
    /// # Errors
    /// As [`Gpu::read`]; [`Error::Shape`] if the range does not lie in the buffer.
    pub async fn read_range(&self, buffer: &Buffer, range: Range<u64>) -> Result<Vec<u8>> {
        let mut parts = self.read_many(&[(buffer, range)]).await?;
        Ok(parts.pop().unwrap_or_default())
    }

    /// Several ranges with one submit and one wait (more if they exceed 256 MiB together).
    ///
    /// # Errors
    /// As [`Gpu::read_range`].
    pub async fn read_many(&self, parts: &[(&Buffer, Range<u64>)]) -> Result<Vec<Vec<u8>>> {
        let mut out = Vec::with_capacity(parts.len());
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        for (index, (buffer, range)) in parts.iter().enumerate() {
            usable(buffer, wgpu::BufferUsages::COPY_SRC)?;
            let end = buffer.raw().size() & !3;
            if range.start > range.end || range.end > end {
                let got = format!("{}..{}", range.start, range.end);
                return Err(Error::shape("range of a read", format!("within 0..{end}"), got));
            }
            out.push(Vec::with_capacity((range.end - range.start) as usize));
            let mut start = range.start;
            while start < range.end {
                let stop = range.end.min((start & !3) + (READ_CHUNK - batch_bytes));
                batch.push(Piece { index, buffer, range: start..stop, at: batch_bytes });
                batch_bytes += stop.next_multiple_of(4) - (start & !3);
                start = stop;
                if batch_bytes == READ_CHUNK {
                    self.read_batch(&batch, batch_bytes, &mut out).await?;
                    batch.clear();
                    batch_bytes = 0;
                }
            }
        }
        self.read_batch(&batch, batch_bytes, &mut out).await?;
        Ok(out)
    }

    async fn read_batch(&self, batch: &[Piece<'_>], bytes: u64, out: &mut [Vec<u8>]) -> Result<()> {
        if batch.is_empty() {
            self.flush()?;
            return self.shared.faults.settle().await;
        }
        let (staging, mapped) = self.start_read(batch, bytes)?;
        if mapped.await != Ok(true) {
            self.shared.faults.settle().await?;
            let error = Error::Gpu { message: "a readback could not be mapped".into() };
            return Err(self.diagnose(error));
        }
        self.shared.faults.settle().await?;
        {
            let view = staging
                .raw()
                .get_mapped_range(..bytes)
                .map_err(|e| self.diagnose(Error::Gpu { message: e.to_string() }))?;
            for piece in batch {
                let lead = piece.range.start % 4;
                let from = (piece.at + lead) as usize;
                let len = (piece.range.end - piece.range.start) as usize;
                out[piece.index].extend_from_slice(&view[from..from + len]);
            }
        }
        staging.raw().unmap();
        staging.used_here_only();
        Ok(())
    }

    /// Records the copies, submits, asks for the mapping, and natively waits for it.
    fn start_read(&self, batch: &[Piece<'_>], bytes: u64) -> Result<(Buffer, oneshot::Receiver<bool>)> {
        let shared = &self.shared;
        let staging = self.alloc_readback(bytes)?;
        // Not for the pool while it may be mapped: the future may be dropped before it is unmapped.
        staging.used_elsewhere();
        let submission = {
            let mut recorder = lock(&shared.recorder);
            let encoder = recorder.encoder(&shared.device);
            for piece in batch {
                let start = piece.range.start & !3;
                let len = piece.range.end.next_multiple_of(4) - start;
                encoder.copy_buffer_to_buffer(piece.buffer.raw(), start, staging.raw(), piece.at, len);
                piece.buffer.used_in(shared.pool.recording());
            }
            self.submit(&mut recorder)?
        };
        let (send, receive) = oneshot::channel();
        self.scoped("mapping a readback", bytes, || {
            staging.raw().map_async(wgpu::MapMode::Read, ..bytes, move |result| {
                // Nobody listens if the future was dropped.
                let _ = send.send(result.is_ok());
            });
        })?;
        if cfg!(not(target_arch = "wasm32")) {
            self.poll(wgpu::PollType::Wait { submission_index: submission, timeout: None })?;
        }
        Ok((staging, receive))
    }
}

/// Checks a usage before the command is recorded: afterwards wgpu would refuse all that is recorded with it.
fn usable(buffer: &Buffer, usage: wgpu::BufferUsages) -> Result<()> {
    if buffer.raw().usage().contains(usage) {
        return Ok(());
    }
    Err(Error::Gpu { message: format!("a buffer was made without {usage:?}") })
}

/// A part of a read: `range` of `buffer` goes to byte `at` of the mapped buffer (from a word boundary on) and is appended
/// to result `index`.
struct Piece<'a> {
    index: usize,
    buffer: &'a Buffer,
    range: Range<u64>,
    at: u64,
}
