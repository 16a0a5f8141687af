//! [`Gpu`]: one device and queue with everything that is kept per device.
//!
//! ```text
//! Gpu (clones share) = device + queue + Capabilities
//!                    + recorder (pending commands) + buffer pool + pipeline cache + uniform cache
//!                    + Faults (loss and stray errors, reported by the next call)
//! ```
//!
//! Not here: the operations. They are methods of `Gpu` in the files of their subjects.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::adapter::{AdapterInfo, Capabilities, Disable, requirements};
use super::buffer::{Buffer, Pool};
use super::fault::{Faults, lock, turn};
use super::pipeline::Pipelines;
use super::recorder::Recorder;
use crate::error::{Error, Result};

/// How a [`Gpu`] is opened.
#[derive(Clone, Debug)]
pub struct GpuOptions {
    /// Whether pipelines may leave out wgpu's run-time checks (bounds, loop limits, division by zero, zeroed workgroup
    /// memory), except those whose [`PipelineSpec`](super::PipelineSpec) asks for them.
    pub trusted: bool,
    /// Capabilities to do without.
    pub disable: Disable,
    /// Limits to ask for instead of the adapter's own. Not used with a device of the caller's.
    pub limits: Option<wgpu::Limits>,
    /// Bytes of unused scratch and readback buffers kept for reuse.
    pub pool_bytes: u64,
    /// Recorded dispatches after which they are submitted without waiting for a read.
    pub flush_after: u32,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self {
            trusted: true,
            disable: Disable::default(),
            limits: None,
            pool_bytes: 512 << 20,
            flush_after: 256,
        }
    }
}

/// What a [`Gpu`] has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Command buffers submitted.
    pub submits: u64,
    /// Dispatches recorded, into the caller's encoders too.
    pub dispatches: u64,
    /// Buffers created, uniform buffers not counted.
    pub buffers_created: u64,
    /// Buffers taken from the pool instead.
    pub buffers_reused: u64,
    /// Uniform buffers created.
    pub uniforms_created: u64,
    /// Bind groups created.
    pub groups_created: u64,
    /// Pipelines compiled.
    pub pipelines_compiled: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub submits: AtomicU64,
    pub dispatches: AtomicU64,
    pub buffers_created: AtomicU64,
    pub buffers_reused: AtomicU64,
    pub uniforms_created: AtomicU64,
    pub groups_created: AtomicU64,
    pub pipelines_compiled: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// An open device. Clones share it; natively it is `Send + Sync`.
#[derive(Clone)]
pub struct Gpu {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub capabilities: Capabilities,
    pub info: AdapterInfo,
    pub trusted: bool,
    pub flush_after: u32,
    pub faults: Faults,
    pub pool: Arc<Pool>,
    pub recorder: Mutex<Recorder>,
    pub pipelines: Pipelines,
    /// Immutable uniform buffers by their (padded) content.
    pub uniforms: Mutex<HashMap<Vec<u8>, wgpu::Buffer>>,
    /// Storage buffers of [`Gpu::constant`] by their content, the one used last at the end.
    pub constants: Mutex<Vec<(Vec<u8>, Buffer)>>,
    pub counters: Counters,
}

impl Gpu {
    /// Opens a device on `adapter` with all that [`requirements`] lists, less what `options` disables.
    ///
    /// # Errors
    /// [`Error::Gpu`] if the driver refuses.
    #[allow(unsafe_code)]
    pub async fn open(adapter: &wgpu::Adapter, options: &GpuOptions) -> Result<Self> {
        let (mut features, adapter_limits) = requirements(adapter);
        let off = &options.disable;
        for (disabled, feature) in [
            (off.f16, wgpu::Features::SHADER_F16),
            (off.subgroups, wgpu::Features::SUBGROUP),
            (off.coop, wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            (
                off.timestamps,
                wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS,
            ),
        ] {
            if disabled {
                features.remove(feature);
            }
        }
        let experimental = if features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            // SAFETY: the token is only an acknowledgement that experimental APIs may have bugs. The one that is
            // requested is cooperative matrices, in shaders that are generated here and not taken from outside.
            unsafe { wgpu::ExperimentalFeatures::enabled() }
        } else {
            wgpu::ExperimentalFeatures::disabled()
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("lowbit"),
            required_features: features,
            required_limits: options.limits.clone().unwrap_or(adapter_limits),
            experimental_features: experimental,
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let opening = {
            // Natively all the work is done in this call.
            let _turn = turn(adapter.get_info().backend);
            adapter.request_device(&descriptor)
        };
        let (device, queue) = opening
            .await
            .map_err(|e| Error::Gpu { message: format!("opening {}: {e}", adapter.get_info().name) })?;

        let faults = Faults::default();
        faults.hear_errors(&device);
        faults.hear_loss(&device);
        Ok(Self::assemble(device, queue, adapter.cooperative_matrix_properties(), options, faults))
    }

    /// Takes a device that the caller made, with the features and limits it has, WebGPU's defaults included.
    ///
    /// The caller's error and loss handlers stay in place: lowbit looks at its own calls only. `adapter` is needed for
    /// cooperative matrices alone, whose shapes only the adapter knows.
    pub fn from_device(
        device: wgpu::Device,
        queue: wgpu::Queue,
        adapter: Option<&wgpu::Adapter>,
        options: &GpuOptions,
    ) -> Self {
        let coop = adapter.map(|a| a.cooperative_matrix_properties()).unwrap_or_default();
        let faults = Faults::default();
        // In a browser any number may listen.
        #[cfg(target_arch = "wasm32")]
        faults.hear_loss(&device);
        Self::assemble(device, queue, coop, options, faults)
    }

    fn assemble(
        device: wgpu::Device,
        queue: wgpu::Queue,
        coop: Vec<wgpu::CooperativeMatrixProperties>,
        options: &GpuOptions,
        faults: Faults,
    ) -> Self {
        let info = AdapterInfo::of_device(&device);
        let capabilities = Capabilities::of_device(&device, coop);
        Self {
            shared: Arc::new(Shared {
                device,
                queue,
                capabilities: capabilities.without(&options.disable),
                info,
                trusted: options.trusted,
                flush_after: options.flush_after.max(1),
                faults,
                pool: Arc::new(Pool::new(options.pool_bytes)),
                recorder: Mutex::default(),
                pipelines: Pipelines::default(),
                uniforms: Mutex::default(),
                constants: Mutex::default(),
                counters: Counters::default(),
            }),
        }
    }

    /// Whether both are clones of one.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// wgpu's device.
    pub fn device(&self) -> &wgpu::Device {
        &self.shared.device
    }

    /// wgpu's queue. What is submitted to it directly runs before commands that are still pending here; see
    /// [`Gpu::flush`].
    pub fn queue(&self) -> &wgpu::Queue {
        &self.shared.queue
    }

    /// What kernels may use.
    pub fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    /// The device's limits.
    pub fn limits(&self) -> &wgpu::Limits {
        &self.shared.capabilities.limits
    }

    /// Who computes.
    pub fn info(&self) -> &AdapterInfo {
        &self.shared.info
    }

    /// Whether unchecked pipelines are allowed.
    pub fn trusted(&self) -> bool {
        self.shared.trusted
    }

    /// Counts since the device was opened.
    pub fn stats(&self) -> Stats {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let c = &self.shared.counters;
        Stats {
            submits: get(&c.submits),
            dispatches: get(&c.dispatches),
            buffers_created: get(&c.buffers_created),
            buffers_reused: get(&c.buffers_reused),
            uniforms_created: get(&c.uniforms_created),
            groups_created: get(&c.groups_created),
            pipelines_compiled: get(&c.pipelines_compiled),
        }
    }

    /// Whether the device still works, as far as is known without asking it for anything.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], or an error of an earlier call that nobody has been told yet.
    pub fn check(&self) -> Result<()> {
        self.shared.faults.slot.check()
    }

    /// Waits until everything submitted so far is done. A no-op in browsers, where waiting is a read's business.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn wait(&self) -> Result<()> {
        self.poll(wgpu::PollType::wait_indefinitely())
    }

    /// Polls the device: callbacks that are due run in here, the one that reports a loss among them.
    pub(super) fn poll(&self, how: wgpu::PollType) -> Result<()> {
        let shared = &self.shared;
        // wgpu panics in here when the driver reports a loss while it waits (`Device::poll` has no error for it). Its own
        // loss callback has run by then, its locks do not poison, and the device is only dropped after that.
        let polled = {
            let _turn = turn(shared.info.backend);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shared.device.poll(how)))
        };
        match polled {
            Err(_) => shared.faults.slot.lose("the driver failed while it was waited for"),
            // The submission waited for was refused, which only a lost device does.
            Ok(Err(wgpu::PollError::WrongSubmissionIndex(..))) => {
                shared.faults.slot.lose("the driver refused a submission");
            }
            Ok(Err(error @ wgpu::PollError::Timeout)) => {
                return Err(Error::Gpu { message: error.to_string() });
            }
            Ok(Ok(_)) => {}
        }
        shared.faults.slot.check()
    }

    /// Runs `f` in error scopes; an error that follows from a lost device is reported as that.
    pub(super) fn scoped<T>(&self, what: &str, bytes: u64, f: impl FnOnce() -> T) -> Result<T> {
        let shared = &self.shared;
        let result = {
            let _turn = turn(shared.info.backend);
            shared.faults.scoped(&shared.device, what, bytes, f)
        };
        result.map_err(|error| self.diagnose(error))
    }

    /// `error`, or the loss of the device if that is behind it.
    ///
    /// wgpu reports calls on a lost device as "invalid object", or not at all; the loss callback is not ours on a
    /// caller's device. There a tiny mapped buffer tells: it has no memory to show if the device is gone.
    pub(super) fn diagnose(&self, error: Error) -> Error {
        if let Err(lost @ Error::DeviceLost { .. }) = self.poll(wgpu::PollType::Poll) {
            return lost;
        }
        match self.alive() {
            true => error,
            false => {
                let reason = format!("it no longer answers ({error})");
                self.shared.faults.slot.lose(reason.clone());
                Error::DeviceLost { reason }
            }
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn alive(&self) -> bool {
        let shared = &self.shared;
        let _turn = turn(shared.info.backend);
        let probe = shared.faults.scoped(&shared.device, "a probe", 4, || {
            let buffer = shared.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("lowbit probe"),
                size: 4,
                usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::MAP_WRITE,
                mapped_at_creation: true,
            });
            buffer.get_mapped_range(..).is_ok()
        });
        // An error in words (no memory, say) comes from a device that is there.
        probe.unwrap_or(true)
    }

    #[cfg(target_arch = "wasm32")]
    fn alive(&self) -> bool {
        true
    }

    /// Drops the caches of uniform buffers, bind groups and free buffers. Pipelines stay.
    pub fn trim(&self) {
        lock(&self.shared.uniforms).clear();
        lock(&self.shared.constants).clear();
        self.shared.pool.clear();
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("info", &self.shared.info).finish_non_exhaustive()
    }
}
