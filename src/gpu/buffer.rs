//! Buffers of the device, and the pool from which scratch buffers come.
//!
//! ```text
//! alloc (scratch)      -> size class -> pool, or new -> Buffer ──drop──> pool
//! alloc_persistent     -> exact size -> new          -> Buffer ──drop──> freed
//! Buffer::from_wgpu    -> the caller's               -> Buffer ──drop──> the caller's
//! ```
//!
//! Why a dropped scratch buffer may be handed out at once, although the commands that use it have not run or are not even
//! submitted: there is one queue, all commands of a `Gpu` go through one recorder, and commands run in the order in
//! which they were recorded, with wgpu's barriers between them. The new owner's commands are recorded after the old
//! owner's, so they also run after them. Two uses do not go through the recorder:
//! - a host write (`Queue::write_buffer`) overtakes commands that are not submitted yet: each buffer notes the last
//!   recording that uses it, and a write submits that recording first;
//! - a caller's encoder is submitted whenever the caller likes: a buffer used there is never reused.
//!
//! Not here: moving data in and out (`transfer.rs`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::device::{Counters, Gpu};
use super::fault::lock;
use super::groups::{self, Groups};
use crate::error::{Error, Result};

/// Sizes are rounded up to this: the widest access of a shader is a `vec4<u32>`.
pub(super) const GRAIN: u64 = 16;

/// The smallest class of the pool, in bytes.
const SMALLEST_CLASS: u64 = 256;

/// A range of device memory. Clones share it; the last one gives it back.
#[derive(Clone, Debug)]
pub struct Buffer {
    shared: Arc<Allocation>,
}

#[derive(Debug)]
struct Allocation {
    raw: wgpu::Buffer,
    /// Bytes that were asked for.
    len: u64,
    /// See [`groups::number`]; None for a caller's.
    number: Option<u64>,
    /// Of the device; dangling for a caller's.
    pool: Weak<Pool>,
    /// Whether it goes back there when dropped.
    reused: bool,
    /// Recording (see [`Pool::recording`]) of the last use, 0 for none.
    last_use: AtomicU64,
    /// Whether commands outside of the recorder may use it.
    foreign: AtomicBool,
}

impl Buffer {
    /// Wraps a buffer of the caller's. It needs the usages of what is done with it: `STORAGE` for kernels, `COPY_SRC` to
    /// be read, `COPY_DST` to be written.
    pub fn from_wgpu(raw: wgpu::Buffer) -> Self {
        let (len, last_use, foreign) = (raw.size(), AtomicU64::new(0), AtomicBool::new(true));
        let pool = Weak::new();
        let shared = Allocation { raw, len, number: None, pool, reused: false, last_use, foreign };
        Self { shared: Arc::new(shared) }
    }

    fn new(idle: Idle, len: u64, pool: &Arc<Pool>, reused: bool) -> Self {
        let Idle { raw, number, last_use, .. } = idle;
        let (last_use, foreign) = (AtomicU64::new(last_use), AtomicBool::new(false));
        let (number, pool) = (Some(number), Arc::downgrade(pool));
        Self { shared: Arc::new(Allocation { raw, len, number, pool, reused, last_use, foreign }) }
    }

    /// The number that bind groups know it by; None for a caller's.
    pub(super) fn number(&self) -> Option<u64> {
        self.shared.number
    }

    /// Bytes asked for.
    pub fn len(&self) -> u64 {
        self.shared.len
    }

    /// Whether no bytes were asked for.
    pub fn is_empty(&self) -> bool {
        self.shared.len == 0
    }

    /// Bytes that may be bound: the length rounded up to 16, so that it can be read as `vec4<u32>`. Of a caller's buffer,
    /// its size rounded down to 4.
    pub fn padded_len(&self) -> u64 {
        self.shared.len.next_multiple_of(GRAIN).max(GRAIN).min(self.shared.raw.size() & !3)
    }

    /// wgpu's buffer. It may be longer than [`Buffer::len`]; what lies beyond is unspecified.
    pub fn raw(&self) -> &wgpu::Buffer {
        &self.shared.raw
    }

    /// Notes a use by commands of recording `recording`.
    pub(super) fn used_in(&self, recording: u64) {
        self.shared.last_use.fetch_max(recording, Ordering::Relaxed);
    }

    /// The last recording that uses it, 0 for none.
    pub(super) fn last_use(&self) -> u64 {
        self.shared.last_use.load(Ordering::Relaxed)
    }

    /// Notes a use by commands outside of the recorder, or by the host: it will not be reused.
    pub(super) fn used_elsewhere(&self) {
        self.shared.foreign.store(true, Ordering::Relaxed);
    }

    /// Takes [`Buffer::used_elsewhere`] back.
    pub(super) fn used_here_only(&self) {
        self.shared.foreign.store(false, Ordering::Relaxed);
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let (Some(pool), Some(number)) = (self.pool.upgrade(), self.number) else { return };
        match self.reused && !*self.foreign.get_mut() {
            true => pool.give(self.raw.clone(), number, *self.last_use.get_mut()),
            false => pool.groups.forget(number),
        }
    }
}

/// Free buffers by usage and size class.
#[derive(Debug)]
pub(super) struct Pool {
    free: Mutex<Free>,
    /// Of live buffers and of free ones.
    pub groups: Groups,
    limit: u64,
    /// Number of the recording that is pending. Recordings below it have been submitted.
    recording: AtomicU64,
}

#[derive(Debug, Default)]
struct Free {
    by_class: BTreeMap<(u32, u64), Vec<Idle>>,
    bytes: u64,
    /// Counts gifts, so that the oldest idle buffer is known.
    clock: u64,
}

#[derive(Debug)]
struct Idle {
    raw: wgpu::Buffer,
    number: u64,
    last_use: u64,
    since: u64,
}

impl Idle {
    fn new(raw: wgpu::Buffer) -> Self {
        Self { raw, number: groups::number(), last_use: 0, since: 0 }
    }
}

impl Pool {
    pub(super) fn new(limit: u64) -> Self {
        Self { free: Mutex::default(), groups: Groups::default(), limit, recording: AtomicU64::new(1) }
    }

    /// Number of the recording that is pending.
    pub(super) fn recording(&self) -> u64 {
        self.recording.load(Ordering::Relaxed)
    }

    /// The pending recording has been submitted. Called with the recorder locked.
    pub(super) fn next_recording(&self) {
        self.recording.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self, usage: wgpu::BufferUsages, class: u64) -> Option<Idle> {
        let mut free = lock(&self.free);
        let idle = free.by_class.get_mut(&(usage.bits(), class))?.pop()?;
        free.bytes -= class;
        Some(idle)
    }

    pub(super) fn give(&self, raw: wgpu::Buffer, number: u64, last_use: u64) {
        let (usage, class) = (raw.usage().bits(), raw.size());
        if class > self.limit {
            return self.groups.forget(number);
        }
        let mut free = lock(&self.free);
        free.clock += 1;
        let since = free.clock;
        free.by_class.entry((usage, class)).or_default().push(Idle { raw, number, last_use, since });
        free.bytes += class;
        while free.bytes > self.limit {
            free.drop_oldest().iter().for_each(|idle| self.groups.forget(idle.number));
        }
    }

    /// Frees everything idle.
    pub(super) fn clear(&self) {
        self.groups.clear();
        let mut free = lock(&self.free);
        free.by_class.clear();
        free.bytes = 0;
    }
}

impl Free {
    fn drop_oldest(&mut self) -> Option<Idle> {
        // Within a class the oldest is in front, since buffers are pushed and popped at the back.
        let oldest = self
            .by_class
            .iter()
            .filter_map(|(&key, idle)| idle.first().map(|first| (first.since, key)))
            .min()
            .map(|(_, key)| key);
        match oldest.and_then(|key| self.by_class.get_mut(&key).map(|idle| (key.1, idle))) {
            Some((class, idle)) => {
                self.bytes -= class;
                Some(idle.remove(0))
            }
            None => {
                self.bytes = 0;
                None
            }
        }
    }
}

/// The class of a length: eight to an octave, so that at most an eighth is wasted.
fn size_class(len: u64) -> u64 {
    let len = len.max(SMALLEST_CLASS);
    let step = (1u64 << len.ilog2()) / 8;
    len.next_multiple_of(step)
}

impl Gpu {
    /// A scratch or output buffer of `len` bytes from the pool. Its contents are unspecified.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond the device's largest buffer, [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn alloc(&self, len: u64, what: &str) -> Result<Buffer> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        self.take_pooled(len, usage, what)
    }

    /// A buffer of `len` bytes for data that stays, weights for instance: exactly as large as needed, and freed when
    /// dropped. Zero until written.
    ///
    /// # Errors
    /// As [`Gpu::alloc`].
    pub fn alloc_persistent(&self, len: u64, what: &str) -> Result<Buffer> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let size = self.checked_size(len, what)?;
        let raw = self.create(size, usage, what)?;
        Ok(Buffer::new(Idle::new(raw), len, &self.shared.pool, false))
    }

    /// A mappable buffer for the way back to the host.
    pub(super) fn alloc_readback(&self, len: u64) -> Result<Buffer> {
        self.take_pooled(len, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST, "a readback")
    }

    fn take_pooled(&self, len: u64, usage: wgpu::BufferUsages, what: &str) -> Result<Buffer> {
        let shared = &self.shared;
        let size = self.checked_size(len, what)?;
        let class = size_class(size).min(self.limits().max_buffer_size & !(GRAIN - 1)).max(size);
        if let Some(idle) = shared.pool.take(usage, class) {
            shared.faults.slot.check()?;
            Counters::add(&shared.counters.buffers_reused);
            return Ok(Buffer::new(idle, len, &shared.pool, true));
        }
        let raw = self.create(class, usage, what)?;
        Ok(Buffer::new(Idle::new(raw), len, &shared.pool, true))
    }

    fn checked_size(&self, len: u64, what: &str) -> Result<u64> {
        let limit = self.limits().max_buffer_size;
        match len.checked_next_multiple_of(GRAIN) {
            Some(size) if size <= limit => Ok(size.max(GRAIN)),
            _ => Err(Error::TooLarge { what: format!("{what} in bytes"), need: len, limit }),
        }
    }

    fn create(&self, size: u64, usage: wgpu::BufferUsages, what: &str) -> Result<wgpu::Buffer> {
        let create = || {
            let descriptor =
                wgpu::BufferDescriptor { label: Some(what), size, usage, mapped_at_creation: false };
            self.scoped(what, size, || self.shared.device.create_buffer(&descriptor))
        };
        let raw = match create() {
            // Idle buffers give way, once the commands that may still use them are through.
            Err(Error::OutOfMemory { .. }) => {
                self.shared.pool.clear();
                self.flush()?;
                self.wait()?;
                create()?
            }
            other => other?,
        };
        // On a lost device wgpu hands out an unusable buffer without a word; polling makes the loss known.
        self.poll(wgpu::PollType::Poll)?;
        Counters::add(&self.shared.counters.buffers_created);
        Ok(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_cover_and_waste_little() {
        for len in [1, 16, 256, 257, 1000, 4096, 4097, 1 << 20, (1 << 20) + 16, 3 << 30] {
            let class = size_class(len);
            assert!(class >= len && class.is_multiple_of(GRAIN), "{len} -> {class}");
            assert!(class <= (len + len / 8).max(SMALLEST_CLASS), "{len} -> {class}");
            assert_eq!(size_class(class), class);
        }
    }
}
