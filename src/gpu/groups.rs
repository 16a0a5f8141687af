//! Bind groups, kept for the next dispatch with the same pipeline, parameters and ranges of buffers.
//!
//! ```text
//! dispatch: (pipeline, params, [(buffer, offset, size)]) -> kept? -> clone
//!                                                           no: uniform + wgpu bind group -> kept
//! a buffer's memory goes back to the driver -> forget: its groups go first, since a bind group holds on to its buffers
//! ```
//!
//! Making a group is most of what a recorded dispatch costs the host. Results come from the pool, which hands out what was given back last, so a
//! program that repeats its steps meets the same buffers again. Buffers of a caller are not followed, and so their groups are not kept.

use super::fault::lock;
use super::pipeline::Pipeline;
use super::recorder::Binding;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Groups kept. An engine's products over a model of fixed shapes need one per weight, or a few.
const KEPT: usize = 1024;

/// A number for a buffer or pipeline of this process that no other one has; never 0.
pub(super) fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What a group is made of.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pipeline: u64,
    params: Vec<u8>,
    /// Number of the buffer, first byte, bytes.
    ranges: Vec<[u64; 3]>,
}

impl Key {
    /// None if a buffer is not followed.
    pub(super) fn new(pipeline: &Pipeline, bindings: &[Binding<'_>], params: &[u8]) -> Option<Self> {
        let range = |b: &Binding<'_>| Some([b.buffer.number()?, b.offset, b.size]);
        let ranges = bindings.iter().map(range).collect::<Option<Vec<_>>>()?;
        Some(Self { pipeline: pipeline.number(), params: params.to_vec(), ranges })
    }
}

/// The groups of a device.
#[derive(Debug, Default)]
pub(super) struct Groups {
    kept: Mutex<HashMap<Key, wgpu::BindGroup>>,
}

impl Groups {
    pub(super) fn get(&self, key: &Key) -> Option<wgpu::BindGroup> {
        lock(&self.kept).get(key).cloned()
    }

    pub(super) fn keep(&self, key: Key, group: &wgpu::BindGroup) {
        let mut kept = lock(&self.kept);
        if kept.len() >= KEPT {
            // Commands that use them hold on to them; only the cache starts over.
            kept.clear();
        }
        kept.insert(key, group.clone());
    }

    /// Lets go of the groups of a buffer.
    pub(super) fn forget(&self, buffer: u64) {
        lock(&self.kept).retain(|key, _| key.ranges.iter().all(|range| range[0] != buffer));
    }

    pub(super) fn clear(&self) {
        lock(&self.kept).clear();
    }
}
