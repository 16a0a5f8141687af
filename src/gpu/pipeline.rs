//! Compute pipelines: WGSL text to something that can be dispatched, once per name and key.
//!
//! ```text
//! PipelineSpec { name, key, accesses, .. } + || WGSL ──(cache miss)──> module -> layout -> pipeline
//!
//! group 0:  binding 0      uniform, the parameters
//!           binding 1..    storage, read or read_write as the spec says
//! entry point: main
//! ```
//!
//! Two threads that want the same pipeline compile it once; different ones compile at the same time. What fails to compile
//! is not remembered. Not here: what is in the WGSL.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::device::{Counters, Gpu};
use super::fault::lock;
use super::groups;
use super::template::PACKED;
use crate::error::{Error, Result};

/// How a kernel uses a storage binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    ReadWrite,
}

/// What identifies a pipeline, and what wgpu has to know besides its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PipelineSpec {
    /// The kernel, as errors and profilers show it.
    pub name: String,
    /// Everything that the text depends on. Two specs with the same name and key must have the same text.
    pub key: String,
    /// The storage bindings 1, 2, ... in order.
    pub accesses: Vec<Access>,
    /// Whether wgpu's run-time checks stay even on a trusted device: for kernels that use numbers of a caller's buffer as
    /// indices.
    pub checked: bool,
}

/// A compiled kernel.
#[derive(Debug)]
pub struct Pipeline {
    spec: PipelineSpec,
    /// See [`groups::number`].
    number: u64,
    raw: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

impl Pipeline {
    /// The kernel's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The specialization key.
    pub fn key(&self) -> &str {
        &self.spec.key
    }

    /// The storage bindings 1, 2, ... in order.
    pub fn accesses(&self) -> &[Access] {
        &self.spec.accesses
    }

    /// The number that bind groups know it by.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// wgpu's pipeline.
    pub fn raw(&self) -> &wgpu::ComputePipeline {
        &self.raw
    }

    /// The layout of bind group 0.
    pub fn layout(&self) -> &wgpu::BindGroupLayout {
        &self.layout
    }
}

type Slot = Arc<Mutex<Option<Arc<Pipeline>>>>;

/// The pipelines of a device.
#[derive(Default)]
pub(super) struct Pipelines {
    slots: Mutex<HashMap<PipelineSpec, Slot>>,
}

impl Gpu {
    /// The pipeline of `spec`; `wgsl` makes its text if it has not been compiled yet.
    ///
    /// # Errors
    /// [`Error::Shader`] with the compiler's message, [`Error::TooLarge`] if there are more storage bindings than the device
    /// allows, [`Error::DeviceLost`], and whatever `wgsl` fails with.
    pub fn pipeline(
        &self,
        spec: &PipelineSpec,
        wgsl: impl FnOnce() -> Result<String>,
    ) -> Result<Arc<Pipeline>> {
        let slot = {
            let mut slots = lock(&self.shared.pipelines.slots);
            match slots.get(spec) {
                Some(slot) => slot.clone(),
                None => slots.entry(spec.clone()).or_default().clone(),
            }
        };
        let mut slot = lock(&slot);
        if let Some(pipeline) = &*slot {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(self.compile(spec, wgsl()?)?);
        *slot = Some(pipeline.clone());
        Ok(pipeline)
    }

    fn compile(&self, spec: &PipelineSpec, wgsl: String) -> Result<Pipeline> {
        let shared = &self.shared;
        shared.faults.slot.check()?;
        let limit = self.limits().max_storage_buffers_per_shader_stage;
        if spec.accesses.len() > limit as usize {
            let what = format!("storage bindings of {}", spec.name);
            return Err(Error::TooLarge { what, need: spec.accesses.len() as u64, limit: limit.into() });
        }
        let as_shader_error = |error| match error {
            Error::Gpu { message } => {
                Error::Shader { kernel: format!("{} ({})", spec.name, spec.key), message }
            }
            other => other,
        };
        let unchecked = shared.trusted && !spec.checked;
        let module = self
            .scoped(&spec.name, 0, || self.module(&spec.name, wgsl, unchecked))
            .map_err(as_shader_error)?;
        let (raw, layout) = self
            .scoped(&spec.name, 0, || {
                let layout = shared.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                    label: Some(&spec.name),
                    entries: &layout_entries(&spec.accesses),
                });
                let pipeline_layout = shared.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                    label: Some(&spec.name),
                    bind_group_layouts: &[Some(&layout)],
                    immediate_size: 0,
                });
                let raw = shared.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                    label: Some(&spec.name),
                    layout: Some(&pipeline_layout),
                    module: &module,
                    entry_point: Some("main"),
                    compilation_options: wgpu::PipelineCompilationOptions {
                        constants: &[],
                        zero_initialize_workgroup_memory: !unchecked,
                    },
                    cache: None,
                });
                (raw, layout)
            })
            .map_err(as_shader_error)?;
        Counters::add(&shared.counters.pipelines_compiled);
        Ok(Pipeline { spec: spec.clone(), number: groups::number(), raw, layout })
    }

    /// A text as browsers want it, to whom wgpu hands it as it is: with the feature said that naga has no word for, and without what the
    /// language lacks there.
    fn for_browsers(&self, wgsl: String) -> String {
        let caps = self.capabilities();
        let enable = if caps.subgroups { "enable subgroups;\n" } else { "" };
        let packed = if caps.int_dot { "" } else { PACKED };
        format!("{enable}{wgsl}\n{packed}")
    }

    #[allow(unsafe_code)]
    fn module(&self, name: &str, wgsl: String, unchecked: bool) -> wgpu::ShaderModule {
        let wgsl = if cfg!(target_arch = "wasm32") { self.for_browsers(wgsl) } else { wgsl };
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(name), source: wgpu::ShaderSource::Wgsl(wgsl.into()) };
        if !unchecked {
            return self.shared.device.create_shader_module(descriptor);
        }
        // SAFETY: the text comes from lowbit's own templates. Before a dispatch the host checks shapes, plane lengths,
        // and that each binding lies in its buffer; kernels derive every index from those checked numbers, or from index
        // planes whose entries were checked when the tensor was made (and which kernels alone can write since); divisors
        // are non-zero constants or checked sizes; loops run over checked counts. A kernel that takes indices from a
        // buffer that a caller can write is compiled with `checked`. The owner of the device opts in with
        // `GpuOptions::trusted`.
        unsafe {
            self.shared
                .device
                .create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
        }
    }
}

fn layout_entries(accesses: &[Access]) -> Vec<wgpu::BindGroupLayoutEntry> {
    let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    let storage =
        accesses.iter().map(|&access| wgpu::BufferBindingType::Storage { read_only: access == Access::Read });
    std::iter::once(wgpu::BufferBindingType::Uniform)
        .chain(storage)
        .zip(0..)
        .map(|(ty, binding)| entry(binding, ty))
        .collect()
}
