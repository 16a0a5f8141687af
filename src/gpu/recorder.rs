//! Recording of dispatches, and their submission.
//!
//! ```text
//! dispatch(Target::Recorder)   -> one pending encoder, one open compute pass ──flush / read / every 256──> queue
//! dispatch(Target::Encoder(e)) -> a pass in the caller's encoder             ──the caller submits────────> queue
//! ```
//!
//! Parameters travel in uniform buffers that are written once, at their creation, and shared by content. Nothing ever
//! changes one, so it makes no difference in which order, or by whom, the commands that read it are submitted.
//!
//! Dispatches in one pass see each other's results: wgpu puts barriers between those that share a buffer.

use super::buffer::Buffer;
use super::device::{Counters, Gpu};
use super::fault::lock;
use super::groups::Key;
use super::pipeline::Pipeline;
use crate::error::{Error, Result};

/// Uniform buffers kept by content. An engine's products over a model of fixed shapes need a few dozen.
const UNIFORMS_KEPT: usize = 1024;

/// Whether timestamps are written between commands. Browsers have them at the ends of passes only.
pub(super) const BETWEEN_COMMANDS: bool = cfg!(not(target_arch = "wasm32"));

/// Where commands go.
pub enum Target<'a> {
    /// The pending recording of the [`Gpu`].
    Recorder,
    /// An encoder of the caller's, on the same device. The caller submits it to the same queue.
    Encoder(&'a mut wgpu::CommandEncoder),
}

/// A range of a buffer as a storage binding.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The buffer.
    pub buffer: &'a Buffer,
    /// First byte, a multiple of the device's `min_storage_buffer_offset_alignment` (at most 256).
    pub offset: u64,
    /// Bytes, a multiple of 4.
    pub size: u64,
}

impl<'a> Binding<'a> {
    /// All of a buffer, with the padding to 16 bytes that lets a kernel read it as `vec4<u32>`.
    pub fn whole(buffer: &'a Buffer) -> Self {
        Self { buffer, offset: 0, size: buffer.padded_len() }
    }

    /// `size` bytes from byte `offset` on.
    pub fn range(buffer: &'a Buffer, offset: u64, size: u64) -> Self {
        Self { buffer, offset, size }
    }
}

/// Commands that are recorded and not yet submitted.
#[derive(Default)]
pub(super) struct Recorder {
    // Declared (so dropped) before the encoder, which has to outlive it.
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: Option<wgpu::CommandEncoder>,
    /// Where the next passes leave the time: begun by the first of them in query 0, ended by each in query 1.
    measured: Option<Measured>,
    dispatches: u32,
}

impl Recorder {
    /// The pending encoder, with no pass open.
    pub(super) fn encoder(&mut self, device: &wgpu::Device) -> &mut wgpu::CommandEncoder {
        self.pass = None;
        self.encoder.get_or_insert_with(|| {
            device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("lowbit") })
        })
    }

    fn pass(&mut self, device: &wgpu::Device) -> &mut wgpu::ComputePass<'static> {
        if self.pass.is_none() {
            let mut measured = self.measured.take();
            let timestamp_writes = measured.as_mut().map(|measured| wgpu::ComputePassTimestampWrites {
                query_set: &measured.queries,
                beginning_of_pass_write_index: (!std::mem::replace(&mut measured.begun, true)).then_some(0),
                end_of_pass_write_index: Some(1),
            });
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
            self.pass = Some(self.encoder(device).begin_compute_pass(&descriptor).forget_lifetime());
            self.measured = measured;
        }
        self.pass.as_mut().expect("the pass was opened above")
    }
}

/// Queries 0 and 1 of a set.
struct Measured {
    queries: wgpu::QuerySet,
    begun: bool,
}

impl Recorder {
    /// Has the time from here to [`Recorder::end_time`] measured.
    pub(super) fn begin_time(&mut self, device: &wgpu::Device, queries: &wgpu::QuerySet) {
        if BETWEEN_COMMANDS {
            self.encoder(device).write_timestamp(queries, 0);
        } else {
            self.pass = None;
            self.measured = Some(Measured { queries: queries.clone(), begun: false });
        }
    }

    /// Ends what [`Recorder::begin_time`] began, and has both times written to a buffer.
    pub(super) fn end_time(
        &mut self,
        device: &wgpu::Device,
        queries: &wgpu::QuerySet,
        resolved: &wgpu::Buffer,
    ) {
        self.measured = None;
        let encoder = self.encoder(device);
        if BETWEEN_COMMANDS {
            encoder.write_timestamp(queries, 1);
        }
        encoder.resolve_query_set(queries, 0..2, resolved, 0);
    }
}

impl Gpu {
    /// Records one dispatch of `pipeline`: `bindings` are its storage bindings 1, 2, ... in order, `params` the bytes of the
    /// uniform at binding 0 (padded with zeros to 16), `workgroups` the counts in x, y and z. A count of zero records
    /// nothing.
    ///
    /// Into a caller's encoder: what is pending here and shares a buffer with the dispatch is submitted first, so that
    /// the caller's commands, submitted later, find its results.
    ///
    /// # Errors
    /// [`Error::Shape`] if bindings and pipeline do not fit together or a range does not lie in its buffer,
    /// [`Error::TooLarge`] beyond a limit, [`Error::Gpu`] if a buffer is bound both for reading and for writing (wgpu
    /// tracks whole buffers), [`Error::DeviceLost`].
    pub fn dispatch(
        &self,
        target: &mut Target<'_>,
        pipeline: &Pipeline,
        bindings: &[Binding<'_>],
        params: &[u8],
        workgroups: [u32; 3],
    ) -> Result<()> {
        let shared = &self.shared;
        shared.faults.slot.check()?;
        self.check_dispatch(pipeline, bindings, workgroups)?;
        if workgroups.contains(&0) {
            return Ok(());
        }
        let group = self.bind_group(pipeline, bindings, params)?;
        let encode = |pass: &mut wgpu::ComputePass<'_>| {
            pass.set_pipeline(pipeline.raw());
            pass.set_bind_group(0, &group, &[]);
            let [x, y, z] = workgroups;
            pass.dispatch_workgroups(x, y, z);
        };
        let mut recorder = lock(&shared.recorder);
        let recording = shared.pool.recording();
        match target {
            Target::Recorder => {
                encode(recorder.pass(&shared.device));
                bindings.iter().for_each(|b| b.buffer.used_in(recording));
                recorder.dispatches += 1;
                if recorder.dispatches >= shared.flush_after {
                    self.submit(&mut recorder)?;
                }
            }
            Target::Encoder(encoder) => {
                if bindings.iter().any(|b| b.buffer.last_use() == recording) {
                    self.submit(&mut recorder)?;
                }
                drop(recorder);
                bindings.iter().for_each(|b| b.buffer.used_elsewhere());
                encode(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
            }
        }
        Counters::add(&shared.counters.dispatches);
        Ok(())
    }

    /// Submits what is pending; a no-op if nothing is. It does not wait.
    ///
    /// Needed only before commands that do not go through lowbit use its results, for instance an encoder of the
    /// caller's with copies of its own.
    ///
    /// # Errors
    /// What wgpu found wrong with the recorded commands; they are lost then. [`Error::DeviceLost`].
    pub fn flush(&self) -> Result<()> {
        let mut recorder = lock(&self.shared.recorder);
        self.submit(&mut recorder).map(|_| ())
    }

    pub(super) fn submit(&self, recorder: &mut Recorder) -> Result<Option<wgpu::SubmissionIndex>> {
        let shared = &self.shared;
        recorder.pass = None;
        recorder.dispatches = 0;
        let Some(encoder) = recorder.encoder.take() else {
            shared.faults.slot.check()?;
            return Ok(None);
        };
        shared.pool.next_recording();
        let index = self.scoped("the recorded commands", 0, || shared.queue.submit([encoder.finish()]))?;
        Counters::add(&shared.counters.submits);
        shared.faults.slot.check()?;
        Ok(Some(index))
    }

    fn check_dispatch(
        &self,
        pipeline: &Pipeline,
        bindings: &[Binding<'_>],
        workgroups: [u32; 3],
    ) -> Result<()> {
        let limits = self.limits();
        let accesses = pipeline.accesses();
        let name = pipeline.name();
        if bindings.len() != accesses.len() {
            return Err(Error::shape(format!("bindings of {name}"), accesses.len(), bindings.len()));
        }
        let largest = workgroups.into_iter().max().unwrap_or(0);
        let limit = limits.max_compute_workgroups_per_dimension;
        if largest > limit {
            let what = format!("workgroups of {name} in one dimension");
            return Err(Error::TooLarge { what, need: largest.into(), limit: limit.into() });
        }
        for (index, binding) in bindings.iter().enumerate() {
            let what = || format!("binding {} of {name}", index + 1);
            let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
            if !binding.offset.is_multiple_of(alignment) {
                let expected = format!("a multiple of {alignment}");
                return Err(Error::shape(format!("offset of {}", what()), expected, binding.offset));
            }
            if binding.size == 0 || !binding.size.is_multiple_of(4) {
                return Err(Error::shape(format!("size of {}", what()), "a multiple of 4", binding.size));
            }
            let end = binding.offset.saturating_add(binding.size);
            if end > binding.buffer.padded_len() {
                let expected = format!("at most {}", binding.buffer.padded_len());
                return Err(Error::shape(format!("end of {}", what()), expected, end));
            }
            if binding.size > limits.max_storage_buffer_binding_size {
                let limit = limits.max_storage_buffer_binding_size;
                return Err(Error::TooLarge { what: what(), need: binding.size, limit });
            }
        }
        for (i, a) in bindings.iter().enumerate() {
            for (j, b) in bindings.iter().enumerate().skip(i + 1) {
                if a.buffer.raw() == b.buffer.raw() && accesses[i] != accesses[j] {
                    let message = format!(
                        "{name} would read and write one buffer, at bindings {} and {}",
                        i + 1,
                        j + 1
                    );
                    return Err(Error::Gpu { message });
                }
            }
        }
        Ok(())
    }

    fn bind_group(
        &self,
        pipeline: &Pipeline,
        bindings: &[Binding<'_>],
        params: &[u8],
    ) -> Result<wgpu::BindGroup> {
        let groups = &self.shared.pool.groups;
        let key = Key::new(pipeline, bindings, params);
        if let Some(group) = key.as_ref().and_then(|key| groups.get(key)) {
            return Ok(group);
        }
        let uniform = self.uniform(params)?;
        let mut entries = Vec::with_capacity(1 + bindings.len());
        entries.push(wgpu::BindGroupEntry { binding: 0, resource: uniform.as_entire_binding() });
        for (binding, slot) in bindings.iter().zip(1..) {
            let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: binding.buffer.raw(),
                offset: binding.offset,
                size: wgpu::BufferSize::new(binding.size),
            });
            entries.push(wgpu::BindGroupEntry { binding: slot, resource });
        }
        let descriptor = wgpu::BindGroupDescriptor {
            label: Some(pipeline.name()),
            layout: pipeline.layout(),
            entries: &entries,
        };
        let group = self.scoped(pipeline.name(), 0, || self.shared.device.create_bind_group(&descriptor))?;
        Counters::add(&self.shared.counters.groups_created);
        if let Some(key) = key {
            groups.keep(key, &group);
        }
        Ok(group)
    }

    /// The uniform buffer that holds `params`.
    fn uniform(&self, params: &[u8]) -> Result<wgpu::Buffer> {
        let shared = &self.shared;
        let size = params.len().next_multiple_of(16).max(16);
        let limit = self.limits().max_uniform_buffer_binding_size;
        if size as u64 > limit {
            return Err(Error::TooLarge { what: "parameters of a kernel".into(), need: size as u64, limit });
        }
        let mut content = Vec::with_capacity(size);
        content.extend_from_slice(params);
        content.resize(size, 0);
        let mut uniforms = lock(&shared.uniforms);
        if let Some(buffer) = uniforms.get(&content) {
            return Ok(buffer.clone());
        }
        let buffer = self.scoped("parameters of a kernel", size as u64, || {
            let buffer = shared.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("lowbit parameters"),
                size: size as u64,
                usage: wgpu::BufferUsages::UNIFORM,
                mapped_at_creation: true,
            });
            let mapped = buffer.get_mapped_range_mut(..).map(|mut view| view.copy_from_slice(&content));
            buffer.unmap();
            mapped.map(|()| buffer)
        })?;
        let buffer = buffer.map_err(|e| self.diagnose(Error::Gpu { message: e.to_string() }))?;
        Counters::add(&shared.counters.uniforms_created);
        if uniforms.len() >= UNIFORMS_KEPT {
            // Commands that use them hold on to them; only the cache starts over.
            uniforms.clear();
        }
        uniforms.insert(content, buffer.clone());
        Ok(buffer)
    }
}

/// Folds `count` workgroups in a row into x and y within the device's limit per dimension. A kernel that uses it gets its
/// number from `linear_workgroup` of `lib/grid.wgsl` and must ignore numbers from its own count on: up to y - 1 are
/// too many.
///
/// # Errors
/// [`Error::TooLarge`] if two dimensions are not enough.
pub fn fold_workgroups(count: u64, limits: &wgpu::Limits) -> Result<[u32; 3]> {
    let limit = u64::from(limits.max_compute_workgroups_per_dimension);
    if count == 0 {
        return Ok([0, 1, 1]);
    }
    let y = count.div_ceil(limit);
    let x = count.div_ceil(y);
    // The linear number has to fit a u32 too.
    if y > limit || x * y > u64::from(u32::MAX) {
        let limit = limit.saturating_mul(limit).min(u64::from(u32::MAX));
        return Err(Error::TooLarge { what: "workgroups".into(), need: count, limit });
    }
    Ok([x as u32, y as u32, 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_counts_cover_with_little_waste() {
        let limits = wgpu::Limits::default();
        for count in [1, 2, 65535, 65536, 65537, 131_070, 131_071, 10_000_019, 65535 * 65535] {
            let [x, y, z] = fold_workgroups(count, &limits).unwrap();
            assert!(x <= 65535 && y <= 65535 && z == 1);
            let covered = u64::from(x) * u64::from(y);
            assert!(covered >= count && covered - count < u64::from(y), "{count}: {x} x {y}");
        }
        assert_eq!(fold_workgroups(0, &limits).unwrap(), [0, 1, 1]);
        for count in [65535 * 65535 + 1, u64::MAX] {
            let folded = fold_workgroups(count, &limits);
            assert!(matches!(folded, Err(Error::TooLarge { need, .. }) if need == count), "{folded:?}");
        }
    }
}
