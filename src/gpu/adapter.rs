//! Adapters: which are there, what each can do, which one to take, what to ask a device for.
//!
//! ```text
//! environment (WGPU_BACKEND, WGPU_ADAPTER_NAME) -> list() -> [Found { info, capabilities, adapter }] -> pick()
//! ```
//!
//! wgpu's own variables select and no others exist: `WGPU_BACKEND` limits what is listed, `WGPU_ADAPTER_NAME` (a
//! case-insensitive part of the name) chooses where the caller named nothing. Not here: opening the device.

use crate::error::{Error, Result};

/// Names under which drivers that run on the CPU show themselves, for backends that do not report a device type.
const SOFTWARE_NAMES: [&str; 6] =
    ["llvmpipe", "lavapipe", "softpipe", "swiftshader", "microsoft basic render", "swrast"];

/// Who an adapter is, in words for people.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterInfo {
    /// The device's name, as its driver gives it.
    pub name: String,
    /// The vendor of known PCI ids, or the id in hexadecimal; empty where there is none (browsers).
    pub vendor: String,
    /// The driver's name; may be empty.
    pub driver: String,
    /// The driver's version and more; may be empty.
    pub driver_info: String,
    /// The graphics API through which wgpu reaches the device.
    pub backend: wgpu::Backend,
    /// What kind of device it is, as far as the backend knows.
    pub device_type: wgpu::DeviceType,
    /// Whether it computes on the CPU.
    pub software: bool,
}

impl AdapterInfo {
    /// Sums up wgpu's description.
    pub fn new(info: &wgpu::AdapterInfo) -> Self {
        let lower = info.name.to_lowercase();
        let vendor = match info.vendor {
            0 => String::new(),
            0x1002 => "AMD".into(),
            0x1010 => "Imagination".into(),
            0x106b => "Apple".into(),
            0x10de => "NVIDIA".into(),
            0x13b5 => "Arm".into(),
            0x1414 => "Microsoft".into(),
            0x1ae0 => "Google".into(),
            0x5143 => "Qualcomm".into(),
            0x8086 => "Intel".into(),
            0x10005 => "Mesa".into(),
            other => format!("{other:#06x}"),
        };
        Self {
            vendor,
            driver: info.driver.clone(),
            driver_info: info.driver_info.clone(),
            backend: info.backend,
            device_type: info.device_type,
            software: info.device_type == wgpu::DeviceType::Cpu
                || SOFTWARE_NAMES.iter().any(|name| lower.contains(name)),
            name: info.name.clone(),
        }
    }

    /// Sums up what an open device says of its adapter. Browsers have names in other places than wgpu looks in, where they have any.
    pub(super) fn of_device(device: &wgpu::Device) -> Self {
        let info = device.adapter_info();
        #[cfg(target_arch = "wasm32")]
        let info = wgpu::AdapterInfo { name: browser::name(device).unwrap_or(info.name), ..info };
        Self::new(&info)
    }

    /// One line: name, backend, driver.
    pub fn summary(&self) -> String {
        let driver = [self.driver.as_str(), self.driver_info.as_str()].join(" ");
        match driver.trim() {
            "" => format!("{} ({})", self.name, self.backend),
            driver => format!("{} ({}, {driver})", self.name, self.backend),
        }
    }
}

/// What kernels may use on a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Capabilities {
    /// `enable f16;`: half-precision storage and arithmetic.
    pub f16: bool,
    /// `enable subgroups;`: subgroup operations.
    pub subgroups: bool,
    /// The smallest subgroup a pipeline may be given. A kernel cannot choose: it works for any size from here to
    /// [`Capabilities::subgroup_max`].
    pub subgroup_min: u32,
    /// The largest subgroup a pipeline may be given.
    pub subgroup_max: u32,
    /// `dot4I8Packed` and its kin compile. Always so natively, where naga spells them out if the driver has no
    /// instruction for them; wgpu does not tell which of the two it is.
    pub int_dot: bool,
    /// Cooperative matrix shapes. Empty where the feature is absent or was not asked for.
    pub coop: Vec<wgpu::CooperativeMatrixProperties>,
    /// Timestamps around recorded commands ([`Gpu::time`](super::Gpu::time) uses wall time without them).
    pub timestamps: bool,
    /// The limits in force: the adapter's for a listed adapter, the device's own for an open one.
    pub limits: wgpu::Limits,
}

impl Capabilities {
    /// What a device allows, with the cooperative matrices that its adapter has.
    pub(super) fn of_device(device: &wgpu::Device, coop: Vec<wgpu::CooperativeMatrixProperties>) -> Self {
        let features = device.features();
        // wgpu does not know the feature of browsers.
        #[cfg(target_arch = "wasm32")]
        let features = features | browser::subgroups(device);
        Self::new(features, device.limits(), &device.adapter_info(), coop)
    }

    /// What a set of features and limits allows. `coop` counts only if the feature is among them.
    pub fn new(
        features: wgpu::Features,
        limits: wgpu::Limits,
        info: &wgpu::AdapterInfo,
        coop: Vec<wgpu::CooperativeMatrixProperties>,
    ) -> Self {
        let timestamps = match super::recorder::BETWEEN_COMMANDS {
            true => wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS,
            false => wgpu::Features::TIMESTAMP_QUERY,
        };
        let cooperative = features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        Self {
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            subgroup_min: info.subgroup_min_size,
            subgroup_max: info.subgroup_max_size,
            int_dot: packed_dot_in_language(),
            coop: if cooperative { coop } else { Vec::new() },
            timestamps: features.contains(timestamps),
            limits,
        }
    }

    /// The same with what `off` names taken away.
    pub fn without(mut self, off: &Disable) -> Self {
        self.f16 &= !off.f16;
        self.subgroups &= !off.subgroups;
        self.int_dot &= !off.int_dot;
        self.timestamps &= !off.timestamps;
        if off.coop {
            self.coop.clear();
        }
        self
    }
}

/// Capabilities to do without although the adapter has them: for tests of the lower tiers and for broken drivers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disable {
    /// No half precision.
    pub f16: bool,
    /// No subgroup operations.
    pub subgroups: bool,
    /// No packed integer dot products.
    pub int_dot: bool,
    /// No cooperative matrices.
    pub coop: bool,
    /// No GPU timestamps.
    pub timestamps: bool,
}

impl Disable {
    /// Everything optional: the portable tier.
    pub fn all() -> Self {
        Self { f16: true, subgroups: true, int_dot: true, coop: true, timestamps: true }
    }

    /// The switch of the capability with this name: its field's.
    pub fn named(&mut self, name: &str) -> Option<&mut bool> {
        match name {
            "f16" => Some(&mut self.f16),
            "subgroups" => Some(&mut self.subgroups),
            "int_dot" => Some(&mut self.int_dot),
            "coop" => Some(&mut self.coop),
            "timestamps" => Some(&mut self.timestamps),
            _ => None,
        }
    }
}

/// One adapter of this machine.
#[derive(Clone, Debug)]
pub struct Found {
    /// Who it is.
    pub info: AdapterInfo,
    /// What a device opened with [`requirements`] can do.
    pub capabilities: Capabilities,
    /// wgpu's handle.
    pub adapter: wgpu::Adapter,
}

impl Found {
    /// Describes an adapter that the caller already has.
    pub fn new(adapter: wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let (features, limits) = requirements(&adapter);
        let capabilities =
            Capabilities::new(features, limits, &info, adapter.cooperative_matrix_properties());
        Self { info: AdapterInfo::new(&info), capabilities, adapter }
    }
}

/// The features and limits that lowbit asks of a device on `adapter`: of those it can use, the ones that are there, and
/// every limit as high as it goes (WebGPU's defaults are small: 128 MiB per binding, 16 KiB of workgroup memory).
///
/// With `EXPERIMENTAL_COOPERATIVE_MATRIX` among them, the device descriptor also needs
/// `wgpu::ExperimentalFeatures::enabled()`; an application that does not want that removes the feature.
pub fn requirements(adapter: &wgpu::Adapter) -> (wgpu::Features, wgpu::Limits) {
    let mut wanted = wgpu::Features::SHADER_F16
        | wgpu::Features::SUBGROUP
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS;
    if !adapter.cooperative_matrix_properties().is_empty() {
        wanted |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
    }
    (adapter.features() & wanted, adapter.limits())
}

/// Every adapter of the backends that `WGPU_BACKEND` names, or of all; in a browser the one that the page is given.
///
/// The order is that of preference: devices before software, discrete before integrated before virtual, Vulkan, Metal
/// and DX12 before OpenGL, and otherwise the order of the drivers.
pub async fn list() -> Vec<Found> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // Nothing here dispatches indirectly; the validation of it would cost pipelines on every device.
    descriptor.flags.remove(wgpu::InstanceFlags::VALIDATION_INDIRECT_CALL);
    let instance = wgpu::Instance::new(descriptor.with_env());
    let mut found: Vec<Found> =
        instance.enumerate_adapters(wgpu::Backends::all()).await.into_iter().map(Found::new).collect();
    found.sort_by_key(|f| rank(&f.info));
    found
}

/// The adapter to use.
///
/// `name` is a case-insensitive part of the adapter's name, with a backend before it if need be (`gl:llvmpipe`; `vulkan:`
/// alone takes the best of a backend). Without it `WGPU_ADAPTER_NAME` decides, and without that the best adapter that is not
/// software, or that is, if `allow_software`. An adapter asked for by name may always be software. Of several that
/// fit, the first in the order of [`list`] is taken.
///
/// # Errors
/// [`Error::NoAdapter`] with the names of those that are there; [`Error::Usage`] for an empty name.
pub async fn pick(name: Option<&str>, allow_software: bool) -> Result<Found> {
    let from_env = std::env::var("WGPU_ADAPTER_NAME").ok();
    let wanted = name.or(from_env.as_deref());
    if wanted.is_some_and(|w| w.trim().is_empty()) {
        return Err(Error::Usage("an adapter's name, or part of it, cannot be empty".into()));
    }
    choose(list().await, wanted, allow_software)
}

/// [`pick`] among given adapters, in their order.
pub fn choose(found: Vec<Found>, wanted: Option<&str>, allow_software: bool) -> Result<Found> {
    let names: Vec<String> = found.iter().map(|f| f.info.summary()).collect();
    let fits = |f: &Found| match wanted {
        Some(wanted) => matches_name(&f.info, wanted),
        None => allow_software || !f.info.software,
    };
    found.into_iter().find(fits).ok_or_else(|| Error::NoAdapter {
        wanted: match wanted {
            Some(wanted) => format!("with '{wanted}' in its name"),
            None if allow_software => "at all".into(),
            None => "that is not software".into(),
        },
        found: if names.is_empty() { "none".into() } else { names.join("; ") },
    })
}

fn matches_name(info: &AdapterInfo, wanted: &str) -> bool {
    let wanted = wanted.trim().to_lowercase();
    if let Some((backend, rest)) = wanted.split_once(':') {
        let backends = wgpu::Backends::from_comma_list(backend);
        if !backends.is_empty() {
            return backends.contains(info.backend.into()) && info.name.to_lowercase().contains(rest.trim());
        }
    }
    info.name.to_lowercase().contains(&wanted)
}

fn rank(info: &AdapterInfo) -> (bool, u8, u8) {
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    let backend = match info.backend {
        wgpu::Backend::Vulkan | wgpu::Backend::Metal | wgpu::Backend::BrowserWebGpu => 0,
        wgpu::Backend::Dx12 => 1,
        wgpu::Backend::Gl => 2,
        wgpu::Backend::Noop => 3,
    };
    (info.software, kind, backend)
}

#[cfg(not(target_arch = "wasm32"))]
fn packed_dot_in_language() -> bool {
    true
}

#[cfg(target_arch = "wasm32")]
fn packed_dot_in_language() -> bool {
    wgpu::Instance::default()
        .wgsl_language_features()
        .contains(wgpu::WgslLanguageFeatures::Packed4x8IntegerDotProduct)
}

/// What a browser's device says that wgpu does not ask for.
#[cfg(target_arch = "wasm32")]
mod browser {
    use wgpu::web_sys::js_sys::Reflect;

    /// `SUBGROUP` if the device was made with the feature `subgroups`.
    pub fn subgroups(device: &wgpu::Device) -> wgpu::Features {
        match device.as_webgpu().is_some_and(|device| device.features().has("subgroups")) {
            true => wgpu::Features::SUBGROUP,
            false => wgpu::Features::empty(),
        }
    }

    /// The adapter's description, or else its vendor and architecture, which browsers are less shy of.
    pub fn name(device: &wgpu::Device) -> Option<String> {
        let info = Reflect::get(device.as_webgpu()?, &"adapterInfo".into()).ok()?;
        let text =
            |key: &str| Reflect::get(&info, &key.into()).ok()?.as_string().filter(|text| !text.is_empty());
        let parts = [text("vendor"), text("architecture")].into_iter().flatten().collect::<Vec<_>>();
        text("description").or_else(|| Some(parts.join(" ")).filter(|name| !name.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, device_type: wgpu::DeviceType, backend: wgpu::Backend) -> AdapterInfo {
        let mut info = wgpu::AdapterInfo::new(device_type, backend);
        info.name = name.into();
        AdapterInfo::new(&info)
    }

    #[test]
    fn order_prefers_real_devices_and_vulkan() {
        use wgpu::{Backend::*, DeviceType::*};
        let mut all = [
            info("llvmpipe (LLVM 19)", Cpu, Vulkan),
            info("Radeon", DiscreteGpu, Gl),
            info("Virgl", VirtualGpu, Vulkan),
            info("Iris", IntegratedGpu, Vulkan),
            info("Radeon", DiscreteGpu, Vulkan),
            info("llvmpipe", Other, Gl),
        ];
        all.sort_by_key(rank);
        let order: Vec<_> = all.iter().map(|i| (i.name.as_str(), i.backend, i.software)).collect();
        assert_eq!(
            order,
            [
                ("Radeon", Vulkan, false),
                ("Radeon", Gl, false),
                ("Iris", Vulkan, false),
                ("Virgl", Vulkan, false),
                ("llvmpipe", Gl, true),
                ("llvmpipe (LLVM 19)", Vulkan, true),
            ]
        );
    }

    #[test]
    fn names_match_in_part_and_with_a_backend() {
        let gl = info("llvmpipe (LLVM 19.1.7, 256 bits)", wgpu::DeviceType::Cpu, wgpu::Backend::Gl);
        assert!(matches_name(&gl, "LLVMpipe"));
        assert!(matches_name(&gl, "gl:llvmpipe"));
        assert!(matches_name(&gl, "opengl:"));
        assert!(!matches_name(&gl, "vulkan:llvmpipe"));
        assert!(!matches_name(&gl, "swiftshader"));
    }

    #[test]
    fn no_adapter_is_an_error_that_lists_what_was_wanted() {
        let error = choose(Vec::new(), Some("RTX"), true).unwrap_err();
        assert_eq!(error.to_string(), "no adapter with 'RTX' in its name; found: none");
    }
}
