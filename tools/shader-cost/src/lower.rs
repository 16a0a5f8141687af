//! WGSL to SPIR-V, as wgpu does it for trusted shaders: without bounds checks, loop bounds and zeroed workgroup memory.

use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy::Unchecked};
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// A lowered shader.
pub struct Shader {
    pub spirv: Vec<u32>,
    pub entry: String,
    /// Numbers of bindings, and whether each is a uniform buffer; the others are storage buffers.
    pub bindings: Vec<(u32, bool)>,
}

/// Lowers a shader with one entry point.
pub fn lower(wgsl: &str) -> Result<Shader, String> {
    let capabilities = Capabilities::all();
    let options = naga::front::wgsl::Options { parse_doc_comments: false, capabilities };
    let module = naga::front::wgsl::Frontend::new_with_options(options).parse(wgsl);
    let module = module.map_err(|e| e.emit_to_string(wgsl))?;
    let info = Validator::new(ValidationFlags::all(), capabilities).validate(&module);
    let info = info.map_err(|e| e.emit_to_string(wgsl))?;
    let [entry] = module.entry_points.as_slice() else {
        return Err(format!("{} entry points instead of one", module.entry_points.len()));
    };
    let entry = entry.name.clone();
    let options = spv::Options {
        lang_version: (1, 6),
        bounds_check_policies: BoundsCheckPolicies {
            index: Unchecked,
            buffer: Unchecked,
            image_load: Unchecked,
            binding_array: Unchecked,
        },
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..Default::default()
    };
    let pipeline =
        spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: entry.clone() };
    let spirv = spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|e| e.to_string())?;
    let bindings = module.global_variables.iter().filter_map(|(_, variable)| {
        let binding = variable.binding.as_ref()?.binding;
        Some((binding, variable.space == naga::AddressSpace::Uniform))
    });
    Ok(Shader { spirv, entry, bindings: bindings.collect() })
}
