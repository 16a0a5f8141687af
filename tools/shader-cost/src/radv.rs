//! Mesa's RADV: a device without hardware, and what its compiler says of a pipeline.

use super::lower::Shader;
use ash::vk;
use std::collections::HashMap;
use std::ffi::{CStr, CString};

/// Where distributions have the driver's manifest.
const MANIFESTS: [&str; 3] = [
    "/usr/share/vulkan/icd.d/radeon_icd.json",
    "/usr/share/vulkan/icd.d/radeon_icd.x86_64.json",
    "/usr/share/vulkan/icd.d/radeon_icd.aarch64.json",
];

/// The driver's manifest, if there is one.
pub fn manifest() -> Option<&'static str> {
    MANIFESTS.into_iter().find(|path| std::path::Path::new(path).exists())
}

/// What the compiler says.
pub struct Cost {
    /// By the driver's own names.
    pub statistics: HashMap<String, u64>,
    pub isa: String,
}

/// An open device of the family in `RADV_FORCE_FAMILY`. What is made of it lives until the process ends.
pub struct Device {
    device: ash::Device,
    query: ash::khr::pipeline_executable_properties::Device,
    driver: String,
    // Unloads the library when it is dropped.
    _entry: ash::Entry,
}

fn failed(what: &str) -> impl Fn(vk::Result) -> String {
    move |e| format!("{what}: {e}")
}

impl Device {
    /// Opens the first device.
    pub fn open() -> Result<Self, String> {
        // SAFETY: handles are made from the ones before them, which live until the process ends; structures point at locals of this
        // function, which outlive the calls.
        unsafe {
            let entry = ash::Entry::load().map_err(|e| format!("no Vulkan loader: {e}"))?;
            let app = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let info = vk::InstanceCreateInfo::default().application_info(&app);
            let instance = entry.create_instance(&info, None).map_err(failed("instance"))?;
            let gpus = instance.enumerate_physical_devices().map_err(failed("devices"))?;
            let &gpu = gpus.first().ok_or("RADV has no device of this family")?;

            let mut names = vk::PhysicalDeviceDriverProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut names);
            instance.get_physical_device_properties2(gpu, &mut properties);
            let driver = names.driver_info_as_c_str().unwrap_or_default().to_string_lossy().into_owned();

            let have = instance.enumerate_device_extension_properties(gpu).map_err(failed("extensions"))?;
            let has = |name: &&CStr| have.iter().any(|e| e.extension_name_as_c_str() == Ok(*name));
            let wanted = [ash::khr::cooperative_matrix::NAME, ash::khr::pipeline_executable_properties::NAME];
            let extensions: Vec<_> = wanted.into_iter().filter(has).map(CStr::as_ptr).collect();
            let mut v11 = vk::PhysicalDeviceVulkan11Features::default();
            let mut v12 = vk::PhysicalDeviceVulkan12Features::default();
            let mut v13 = vk::PhysicalDeviceVulkan13Features::default();
            let mut matrix = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
            let mut executable = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default();
            let mut features = vk::PhysicalDeviceFeatures2::default()
                .push_next(&mut v11)
                .push_next(&mut v12)
                .push_next(&mut v13)
                .push_next(&mut matrix)
                .push_next(&mut executable);
            // Everything there is.
            instance.get_physical_device_features2(gpu, &mut features);
            let queues =
                [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
            let info = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&extensions)
                .push_next(&mut features);
            let device = instance.create_device(gpu, &info, None).map_err(failed("device"))?;
            let query = ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Self { device, query, driver, _entry: entry })
        }
    }

    /// The driver's name and version.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Compiles a shader.
    pub fn compile(&self, shader: &Shader) -> Result<Cost, String> {
        let device = &self.device;
        let binding = |&(binding, uniform): &(u32, bool)| {
            let kind =
                if uniform { vk::DescriptorType::UNIFORM_BUFFER } else { vk::DescriptorType::STORAGE_BUFFER };
            vk::DescriptorSetLayoutBinding::default()
                .binding(binding)
                .descriptor_type(kind)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let bindings: Vec<_> = shader.bindings.iter().map(binding).collect();
        let name = CString::new(shader.entry.as_str()).map_err(|e| e.to_string())?;
        // SAFETY: as in `open`; handles are destroyed after their last use.
        unsafe {
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let set = device.create_descriptor_set_layout(&info, None).map_err(failed("set layout"))?;
            let sets = [set];
            let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = device.create_pipeline_layout(&info, None).map_err(failed("pipeline layout"))?;
            let info = vk::ShaderModuleCreateInfo::default().code(&shader.spirv);
            let module = device.create_shader_module(&info, None).map_err(failed("module"))?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(&name);
            let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(
                vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                    | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR,
            );
            let pipelines = device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None);
            let pipelines = pipelines.map_err(|(_, e)| format!("pipeline: {e}"))?;
            let cost = pipelines.first().map(|&pipeline| self.cost(pipeline));
            pipelines.iter().for_each(|&pipeline| device.destroy_pipeline(pipeline, None));
            device.destroy_shader_module(module, None);
            device.destroy_pipeline_layout(layout, None);
            device.destroy_descriptor_set_layout(set, None);
            cost.unwrap_or_else(|| Err("no pipeline".into()))
        }
    }

    fn cost(&self, pipeline: vk::Pipeline) -> Result<Cost, String> {
        let which = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        // SAFETY: the pipeline lives and was made with statistics and representations; the second and third call fill the arrays whose
        // lengths the one before them gave.
        unsafe {
            let found =
                self.query.get_pipeline_executable_statistics(&which).map_err(failed("statistics"))?;
            let text = |name: Result<&CStr, _>| name.unwrap_or_default().to_string_lossy().into_owned();
            let statistics =
                found.iter().map(|s| (text(s.name_as_c_str()), s.value.u64)).collect::<HashMap<_, _>>();
            let get = self.query.fp().get_pipeline_executable_internal_representations_khr;
            let device = self.device.handle();
            let mut count = 0;
            get(device, &which, &mut count, std::ptr::null_mut())
                .result()
                .map_err(failed("representations"))?;
            let mut all = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
            get(device, &which, &mut count, all.as_mut_ptr()).result().map_err(failed("representations"))?;
            let mut texts: Vec<Vec<u8>> = all.iter().map(|r| vec![0; r.data_size]).collect();
            all.iter_mut().zip(&mut texts).for_each(|(r, text)| r.p_data = text.as_mut_ptr().cast());
            get(device, &which, &mut count, all.as_mut_ptr()).result().map_err(failed("representations"))?;
            let assembly = all.iter().position(|r| text(r.name_as_c_str()).contains("Assembly"));
            let isa =
                assembly.map(|at| String::from_utf8_lossy(&texts[at]).trim_end_matches('\0').to_string());
            Ok(Cost { statistics, isa: isa.ok_or("the driver gives no assembly")? })
        }
    }
}
