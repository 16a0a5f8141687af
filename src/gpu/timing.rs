//! How long recorded commands take.
//!
//! ```text
//! time(|| record) = submit what is pending, [timestamp] recorded commands [timestamp], submit, wait
//! ```
//!
//! With timestamps between commands (Vulkan, DX12, OpenGL, Metal outside Apple's own GPUs), in browsers at the ends of passes, the device's clock is read; otherwise
//! the host's, from the recording to the end of the wait, which includes the way there and back: record many dispatches
//! then. Compile pipelines before, and do nothing but record in between; work of other threads is measured along.

use std::time::Duration;

use super::buffer::Buffer;
use super::device::Gpu;
use super::fault::lock;
use crate::clock::now;
use crate::error::{Error, Result};

/// Which clock measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The device's: time between commands.
    Gpu,
    /// The host's: recording, submission and wait included.
    Wall,
}

/// A measured time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed {
    /// How long.
    pub time: Duration,
    /// By which clock.
    pub clock: Clock,
}

impl Gpu {
    /// Runs `record`, which records commands, and measures their execution. What was pending before is submitted and waited
    /// for first.
    ///
    /// # Errors
    /// Those of `record`, and those of [`Gpu::read`].
    pub async fn time<T>(&self, record: impl FnOnce() -> Result<T>) -> Result<(T, Elapsed)> {
        // Natively the wait; in a browser, nothing to read still means that earlier errors arrive.
        self.flush()?;
        self.wait()?;
        if self.capabilities().timestamps {
            self.time_on_device(record).await
        } else {
            self.time_on_host(record).await
        }
    }

    async fn time_on_device<T>(&self, record: impl FnOnce() -> Result<T>) -> Result<(T, Elapsed)> {
        let shared = &self.shared;
        let (queries, resolved) = self.scoped("timestamps", 16, || {
            let queries = shared.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("lowbit timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            });
            let resolved = shared.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("lowbit timestamps"),
                size: 16,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            (queries, resolved)
        })?;
        lock(&shared.recorder).begin_time(&shared.device, &queries);
        let value = record();
        lock(&shared.recorder).end_time(&shared.device, &queries, &resolved);
        let value = value?;
        let bytes = self.read(&Buffer::from_wgpu(resolved)).await?;
        let ticks = |at: usize| {
            let word = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
            word.map(u64::from_le_bytes)
                .ok_or_else(|| Error::Gpu { message: "timestamps are missing".into() })
        };
        let (start, end) = (ticks(0)?, ticks(8)?);
        let nanoseconds = end.saturating_sub(start) as f64 * f64::from(shared.queue.get_timestamp_period());
        Ok((value, Elapsed { time: Duration::from_secs_f64(nanoseconds * 1e-9), clock: Clock::Gpu }))
    }

    async fn time_on_host<T>(&self, record: impl FnOnce() -> Result<T>) -> Result<(T, Elapsed)> {
        // A read of four bytes is the one wait that works everywhere.
        let word = self.alloc(4, "timing")?;
        self.write(&word, 0, &[0; 4])?;
        self.read(&word).await?;
        // From before the recording, because a long one is submitted in parts while it goes on.
        let start = now();
        let value = record()?;
        self.read(&word).await?;
        Ok((value, Elapsed { time: now() - start, clock: Clock::Wall }))
    }
}
