//! What users call: one asynchronous API over the GPU kernels and the CPU engine.
//!
//! ```text
//! Engine::{auto, open, cpu, from_wgpu}
//!   upload(Tensor) -> Array            upload_packed(PackedTensor) -> PackedArray            quantize_activations(Array) -> Int8Array
//!   quantize[_weighted, _by](Tensor, scheme) -> PackedArray        dequantize(PackedArray) -> Array        matmul(Array, PackedArray) -> Array
//!   matmul_int8(Int8Array, PackedArray) -> Array            matmul_to_int8(Int8Array, PackedArray) -> Int8Array
//!   embed(PackedArrays, ids) -> Array            layer_norm, attention, mean_pool, normalize: Arrays -> Array
//!   dense, fake_quantize, activate, cross_entropy, their gradients, update: Arrays -> Array
//!   kv_cache(settings, capacity) -> KvCache        append(k, v), attention(q) -> Array, read
//!   Array::read / PackedArray::read            one submit, one wait
//! ```
//!
//! On a GPU operations are recorded; nothing runs until something is read (or [`Engine::submit`]). On the CPU they run at once. An
//! engine is a handle that clones cheaply and may be shared between threads. Which kernel runs when is decided here; how is
//! `kernels` and `cpu`.

mod array;
pub(crate) mod encoder;
mod int8;
pub(crate) mod kv;
pub(crate) mod plan;
pub(crate) mod training;
#[cfg(feature = "gpu")]
mod tuning;
mod weights;

pub use array::{Array, Counts, Int8Array, Int8Tensor, PackedArray, TransformArray};
pub use kv::KvCache;
pub use plan::{Explanation, Origin, Plan};
pub use training::{Quantizer, Teacher};

use crate::product::{Accumulate, Activation, Function, Int8Group, Product};
use crate::{DType, Error, Result, Tensor, cpu};
use array::{ArrayData, PackedData};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

#[cfg(feature = "gpu")]
use crate::{
    gpu::{self, Buffer, Disable, Gpu, GpuOptions, Target},
    kernels::choice::{self, Facts, Picked, Shape, Winner},
    kernels::product::{Input, Output},
    kernels::{self, Tier},
};
#[cfg(feature = "gpu")]
use tuning::Tuning;

/// How [`Engine::open`] chooses and opens a device.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// `cpu`, or part of an adapter's name (`llvmpipe`, `radeon`, `gl:llvmpipe`). None: the environment's `WGPU_ADAPTER_NAME`, else a
    /// real GPU, else the CPU engine.
    pub device: Option<String>,
    /// Capabilities to do without.
    #[cfg(feature = "gpu")]
    pub disable: Disable,
    /// Keep wgpu's run-time checks in shaders although shapes have been checked on the host.
    pub checked: bool,
    /// What decides which kernel runs where the call does not.
    #[cfg(feature = "gpu")]
    pub tune: Tune,
    /// Where measurements are remembered, instead of the folder `lowbit/tune` in the user's cache folder (`docs/TUNING.md`).
    #[cfg(feature = "gpu")]
    pub tune_folder: Option<std::path::PathBuf>,
}

/// What an engine makes of measurements of its kernels: see [`Engine::tune`]. Without any, `kernels::choice::DEFAULTS` decides.
#[cfg(feature = "gpu")]
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Tune {
    /// No file is read or written.
    Off,
    /// What `lowbit tune` or another engine left for this adapter, driver and version of lowbit. Nothing is timed.
    #[default]
    Load,
    /// The same, and what is not known yet of these shapes is timed while the engine is opened, and remembered: seconds for each.
    Now(Vec<Shape>),
}

/// A device with its kernels, or the CPU. Clones share it.
#[derive(Clone, Debug)]
pub struct Engine {
    backend: Backend,
    #[cfg(feature = "gpu")]
    tuning: Arc<Tuning>,
}

#[derive(Clone, Debug)]
enum Backend {
    Cpu,
    #[cfg(feature = "gpu")]
    Gpu(Gpu),
}

/// Who computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// The adapter's name, or `CPU`.
    pub name: String,
    /// `Vulkan`, `Metal`, ..., or `cpu`.
    pub backend: String,
    /// Driver and version.
    pub driver: String,
    /// A CPU pretending to be a GPU.
    pub software: bool,
    /// What kernels are generated for: `f32`, `f16+subgroups32`, ...; on the CPU the vector instructions.
    pub tier: String,
}

/// Options of a product. `Default` is f32 throughout, no epilogue.
#[derive(Clone, Debug)]
pub struct MatmulOptions {
    pub activation: Activation,
    pub accumulate: Accumulate,
    pub function: Function,
    /// Element type of y: f32 or f16.
    pub output: DType,
    /// [N], f32 or f16: added to every row.
    pub bias: Option<Array>,
    /// [M, N], f32 or f16: added to y.
    pub residual: Option<Array>,
    /// Of a weight with leading dimensions: which matrix [N, K] to multiply with, counted in row-major order. None: the weight has
    /// rank 2 (or all its rows count as N).
    pub expert: Option<usize>,
    /// Pins the kernel by its name in `KERNELS` instead of the engine's choice (GPU only). `coop`, on matrix units, rounds weights and
    /// activations to f16 and is for products whose sums may be f16.
    pub kernel: Option<&'static str>,
}

impl Default for MatmulOptions {
    fn default() -> Self {
        let Product { activation, accumulate, function, output } = Product::default();
        Self {
            activation,
            accumulate,
            function,
            output,
            bias: None,
            residual: None,
            expert: None,
            kernel: None,
        }
    }
}

impl MatmulOptions {
    /// The part that does not name operands.
    pub fn product(&self) -> Product {
        Product {
            activation: self.activation,
            accumulate: self.accumulate,
            function: self.function,
            output: self.output,
        }
    }

    /// Bias and residual in host memory, as f32.
    fn on_host(&self) -> Result<[Option<Cow<'_, [f32]>>; 2]> {
        let mut both = [None, None];
        for (host, array) in both.iter_mut().zip([&self.bias, &self.residual]) {
            *host = match array {
                None => None,
                Some(Array { data: ArrayData::Host(t), .. }) => Some(t.to_f32()),
                #[cfg(feature = "gpu")]
                Some(_) => return Err(foreign()),
            };
        }
        Ok(both)
    }

    /// Whether there is such a product on any engine.
    fn supported(&self) -> Result<()> {
        match (self.output, self.activation) {
            (DType::Bf16, _) => Err(Error::unsupported("bf16 output", "f32 and f16 are")),
            (_, Activation::Int8(Int8Group::Cols(g))) if g != 32 && g != 128 => {
                Err(Error::unsupported(format!("int8 activations in groups of {g}"), "32 and 128 are"))
            }
            _ => Ok(()),
        }
    }
}

impl Engine {
    /// The CPU engine.
    pub fn cpu() -> Self {
        Self {
            backend: Backend::Cpu,
            #[cfg(feature = "gpu")]
            tuning: Arc::default(),
        }
    }

    #[cfg(feature = "gpu")]
    fn of_gpu(gpu: Gpu, options: &EngineOptions) -> Self {
        let mut engine = Self { backend: Backend::Gpu(gpu), tuning: Arc::default() };
        if options.tune != Tune::Off {
            engine.tuning = Arc::new(Tuning::load(&engine.info(), options.tune_folder.as_deref()));
        }
        engine
    }

    /// A real GPU if there is one, else the CPU engine. Software adapters are taken only if `WGPU_ADAPTER_NAME` names one.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if the environment names an adapter that is not there; errors of the driver.
    pub async fn auto() -> Result<Self> {
        Self::open(&EngineOptions::default()).await
    }

    /// The device that `options` ask for.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if a named one is not there; errors of the driver.
    pub async fn open(options: &EngineOptions) -> Result<Self> {
        let wanted = options.device.as_deref().filter(|d| *d != "auto");
        if wanted.is_some_and(|d| d.eq_ignore_ascii_case("cpu")) {
            return Ok(Self::cpu());
        }
        Self::open_gpu(wanted, options).await
    }

    #[cfg(feature = "gpu")]
    async fn open_gpu(wanted: Option<&str>, options: &EngineOptions) -> Result<Self> {
        let named = wanted.is_some() || std::env::var_os("WGPU_ADAPTER_NAME").is_some_and(|v| !v.is_empty());
        let found = match gpu::adapter::pick(wanted, named).await {
            Ok(found) => found,
            Err(Error::NoAdapter { .. }) if !named => return Ok(Self::cpu()),
            Err(e) => return Err(e),
        };
        Self::open_adapter(&found.adapter, options).await
    }

    #[cfg(not(feature = "gpu"))]
    async fn open_gpu(wanted: Option<&str>, _: &EngineOptions) -> Result<Self> {
        match wanted {
            None => Ok(Self::cpu()),
            Some(name) => Err(Error::NoAdapter {
                wanted: format!("named '{name}'"),
                found: "none (built without GPU)".into(),
            }),
        }
    }

    /// A device on this adapter, one of [`gpu::adapter::list`].
    ///
    /// # Errors
    /// Errors of the driver; with [`Tune::Now`] those of [`Engine::tune`].
    #[cfg(feature = "gpu")]
    pub async fn open_adapter(adapter: &wgpu::Adapter, options: &EngineOptions) -> Result<Self> {
        let gpu_options = GpuOptions {
            trusted: !options.checked,
            disable: options.disable.clone(),
            ..GpuOptions::default()
        };
        let engine = Self::of_gpu(Gpu::open(adapter, &gpu_options).await?, options);
        if let Tune::Now(shapes) = &options.tune {
            #[cfg(not(target_arch = "wasm32"))]
            engine.tune(shapes).await?;
            #[cfg(target_arch = "wasm32")]
            return Err(Error::unsupported(format!("timing {} shapes", shapes.len()), "not in a browser"));
        }
        Ok(engine)
    }

    /// An engine on a device that the application made, with the features and limits it has; WebGPU's defaults are enough.
    /// [`Engine::requirements`] says what more is useful.
    #[cfg(feature = "gpu")]
    pub fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue, adapter: Option<&wgpu::Adapter>) -> Self {
        Self::of_gpu(
            Gpu::from_device(device, queue, adapter, &GpuOptions::default()),
            &EngineOptions::default(),
        )
    }

    /// Features and limits worth asking for when making a device on `adapter` for lowbit.
    #[cfg(feature = "gpu")]
    pub fn requirements(adapter: &wgpu::Adapter) -> (wgpu::Features, wgpu::Limits) {
        gpu::adapter::requirements(adapter)
    }

    /// The device underneath, None on the CPU.
    #[cfg(feature = "gpu")]
    pub fn gpu(&self) -> Option<&Gpu> {
        match &self.backend {
            Backend::Gpu(gpu) => Some(gpu),
            Backend::Cpu => None,
        }
    }

    /// What was not right about the file of [`Tune::Load`], in words; it is the table of defaults that decides there.
    #[cfg(feature = "gpu")]
    pub fn warnings(&self) -> &[String] {
        &self.tuning.warnings
    }

    /// Where tuned kernels are remembered, whether there are any or not. None with [`Tune::Off`], on the CPU engine and where there is no
    /// folder for it.
    #[cfg(feature = "gpu")]
    pub fn tuning_file(&self) -> Option<&std::path::Path> {
        self.tuning.file.as_deref()
    }

    /// Whether a winner is known for products like this one.
    #[cfg(feature = "gpu")]
    pub fn is_tuned(&self, shape: &Shape) -> bool {
        self.tuning.winners.get(&shape.class()).is_some()
    }

    /// Makes these the winners of their classes, here and, where winners are remembered, in the file.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written; the engine has the winners then all the same.
    #[cfg(feature = "gpu")]
    pub fn remember(&self, winners: &[Winner]) -> Result<()> {
        winners.iter().for_each(|winner| self.tuning.winners.set(winner.clone()));
        match &self.tuning.file {
            Some(path) => tuning::store(path, &self.info(), winners),
            None => Ok(()),
        }
    }

    /// Whether this is the CPU engine.
    pub fn is_cpu(&self) -> bool {
        matches!(self.backend, Backend::Cpu)
    }

    /// Who computes.
    pub fn info(&self) -> EngineInfo {
        match &self.backend {
            Backend::Cpu => EngineInfo {
                name: "CPU".into(),
                backend: "cpu".into(),
                driver: String::new(),
                software: false,
                tier: cpu::instructions().into(),
            },
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => {
                let info = gpu.info();
                EngineInfo {
                    name: info.name.clone(),
                    backend: format!("{:?}", info.backend),
                    driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
                    software: info.software,
                    tier: Tier::of(gpu.capabilities()).to_string(),
                }
            }
        }
    }

    /// Brings a tensor to the engine: f32 and f16 as they are, bf16 as f32.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn upload(&self, tensor: &Tensor) -> Result<Array> {
        let widened;
        let tensor = match tensor.dtype() {
            DType::Bf16 => {
                widened = Tensor::from_f32(tensor.shape(), tensor.to_f32().into_owned())?;
                &widened
            }
            _ => tensor,
        };
        let data = match &self.backend {
            Backend::Cpu => ArrayData::Host(Arc::new(tensor.clone())),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => ArrayData::Device(gpu.clone(), gpu.upload(tensor.bytes(), "tensor")?, 0),
        };
        Ok(Array { shape: tensor.shape().to_vec(), dtype: tensor.dtype(), data })
    }

    /// Wraps a buffer of the application's as a dense array that begins at byte `offset`, a multiple of 256, on an engine of the same
    /// device ([`Engine::from_wgpu`]). It needs `STORAGE`, and `COPY_SRC` to be read or to be a residual beside a bias. The array owns
    /// its bytes up to the next multiple of 16. No call may read and write one buffer, not even different parts of it: wgpu tracks whole
    /// buffers.
    ///
    /// # Errors
    /// [`Error::Shape`] if the buffer is smaller than that; [`Error::Unsupported`] on the CPU engine, for bf16 and without `STORAGE`.
    #[cfg(feature = "gpu")]
    pub fn wrap_buffer(
        &self,
        buffer: wgpu::Buffer,
        offset: u64,
        shape: impl Into<Vec<usize>>,
        dtype: DType,
    ) -> Result<Array> {
        let Backend::Gpu(gpu) = &self.backend else {
            return Err(Error::unsupported("wrapping a GPU buffer on the CPU engine", ""));
        };
        if dtype == DType::Bf16 {
            return Err(Error::unsupported("a bf16 array", "f32 and f16 are"));
        }
        if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return Err(Error::unsupported(
                "a buffer without STORAGE",
                format!("it has {:?}", buffer.usage()),
            ));
        }
        let shape = shape.into();
        let bytes = crate::tensor::element_count(&shape).and_then(|n| n.checked_mul(dtype.size()));
        let end =
            bytes.and_then(|n| n.checked_next_multiple_of(16)).and_then(|n| offset.checked_add(n as u64));
        if !offset.is_multiple_of(256) || end.is_none_or(|end| end > buffer.size()) {
            let got = format!("{} bytes, offset {offset}", buffer.size());
            let need = "an offset that is a multiple of 256 and room for the shape, rounded up to 16 bytes";
            return Err(Error::shape(format!("buffer for {dtype} {shape:?}"), need, got));
        }
        Ok(Array { shape, dtype, data: ArrayData::Device(gpu.clone(), Buffer::from_wgpu(buffer), offset) })
    }

    /// `y = function(x * w^T + bias + residual)`: x [.., K] (all but the last dimension count as M), w [N, K], y [.., N].
    ///
    /// # Errors
    /// [`Error::Shape`] for shapes that do not match; [`Error::Unsupported`] for arrays of another engine; errors of the device.
    pub fn matmul(&self, x: &Array, w: &PackedArray, options: &MatmulOptions) -> Result<Array> {
        let call = Call::new(&x.shape, w, options)?;
        match &self.backend {
            Backend::Cpu => {
                let (tensor, packed) = match (&x.data, &w.data) {
                    (ArrayData::Host(tensor), PackedData::Host(packed)) => (tensor, packed),
                    #[cfg(feature = "gpu")]
                    _ => return Err(foreign()),
                };
                let [bias, residual] = options.on_host()?;
                let y = cpu::matmul(
                    tensor,
                    packed,
                    call.rows,
                    &options.product(),
                    bias.as_deref(),
                    residual.as_deref(),
                )?;
                let y = Tensor::from_shared(call.shape.clone(), y.dtype(), y.into_bytes())?;
                Ok(Array { shape: call.shape, dtype: options.output, data: ArrayData::Host(Arc::new(y)) })
            }
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => {
                let bytes = call.m * call.rows.len() * options.output.size();
                let y = gpu.alloc(bytes as u64, "product")?;
                let input = self.input(gpu, x)?;
                self.encode(gpu, &mut Target::Recorder, input, w, Output::Dense(&y, 0), options, &call)?;
                let data = ArrayData::Device(gpu.clone(), y, 0);
                Ok(Array { shape: call.shape, dtype: options.output, data })
            }
        }
    }

    /// As [`Engine::matmul`], recorded into the caller's encoder and written to `y` [.., N]; the caller submits. GPU only.
    ///
    /// # Errors
    /// As [`Engine::matmul`]; [`Error::Shape`] if y has another shape or type.
    #[cfg(feature = "gpu")]
    pub fn encode_matmul(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        x: &Array,
        w: &PackedArray,
        y: &Array,
        options: &MatmulOptions,
    ) -> Result<()> {
        let call = Call::new(&x.shape, w, options)?;
        let (Backend::Gpu(gpu), ArrayData::Device(owner, buffer, offset)) = (&self.backend, &y.data) else {
            return Err(foreign());
        };
        if !owner.same(gpu) {
            return Err(foreign());
        }
        if y.shape != call.shape || y.dtype != options.output {
            let got = format!("{} {:?}", y.dtype, y.shape);
            return Err(Error::shape("y of a product", format!("{} {:?}", options.output, call.shape), got));
        }
        let (input, y) = (self.input(gpu, x)?, Output::Dense(buffer, *offset));
        self.encode(gpu, &mut Target::Encoder(encoder), input, w, y, options, &call)
    }

    /// x as the kernels take it.
    #[cfg(feature = "gpu")]
    fn input<'a>(&self, gpu: &Gpu, x: &'a Array) -> Result<Input<'a>> {
        match &x.data {
            ArrayData::Device(owner, buffer, offset) if owner.same(gpu) => {
                Ok(Input::Dense(buffer, *offset, x.dtype))
            }
            _ => Err(foreign()),
        }
    }

    #[cfg(feature = "gpu")]
    #[allow(clippy::too_many_arguments)]
    fn encode(
        &self,
        gpu: &Gpu,
        target: &mut Target<'_>,
        x: Input<'_>,
        w: &PackedArray,
        y: Output<'_>,
        options: &MatmulOptions,
        call: &Call,
    ) -> Result<()> {
        let PackedData::Device(maker, weights) = &w.data else {
            return Err(foreign());
        };
        if !maker.same(gpu) {
            return Err(foreign());
        }
        let mut widen = |a: &Option<Array>| {
            let Some(a) = a else { return Ok(None) };
            let (wide, offset) = encoder::on_device(gpu, target, a)?;
            if offset == 0 {
                return Ok(Some(wide));
            }
            let bytes = a.shape.iter().product::<usize>() as u64 * 4;
            let whole = gpu.alloc(bytes, "an operand of the epilogue")?;
            gpu.copy(target, (&wide, offset), (&whole, 0), bytes)?;
            Ok::<_, Error>(Some(whole))
        };
        let (bias, residual) = (widen(&options.bias)?, widen(&options.residual)?);
        let operands = kernels::product::Operands {
            x,
            m: call.m,
            w: weights,
            rows: call.rows.clone(),
            bias: bias.as_ref(),
            residual: residual.as_ref(),
            y,
        };
        let (on, product) = (Facts::of(gpu), options.product());
        let shape = Shape::new([call.m, call.rows.len(), weights.k], weights.scheme, &product);
        let Picked { choice, .. } = choice::pick(&on, &shape, options.kernel, &self.tuning.winners)?;
        kernels::product::record(gpu, on.tier, target, &operands, &product, choice)
    }

    /// Submits what is recorded without waiting. Needed only before commands of the application's own use results.
    ///
    /// # Errors
    /// What the device found wrong with the recorded commands; [`Error::DeviceLost`].
    pub fn submit(&self) -> Result<()> {
        match &self.backend {
            Backend::Cpu => Ok(()),
            #[cfg(feature = "gpu")]
            Backend::Gpu(gpu) => gpu.flush(),
        }
    }
}

/// The error for operands that belong to another engine.
#[cfg(feature = "gpu")]
fn foreign() -> Error {
    Error::unsupported("an operand of another engine", "upload it to this one")
}

/// A product's checked shapes.
struct Call {
    /// Rows of x, all but the last dimension of it.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code))]
    m: usize,
    /// Weight rows to multiply with.
    rows: Range<usize>,
    /// Of y.
    shape: Vec<usize>,
}

impl Call {
    fn new(x: &[usize], w: &PackedArray, options: &MatmulOptions) -> Result<Self> {
        let (shape, k) = (w.shape(), *w.shape().last().unwrap_or(&0));
        let all: usize = shape[..shape.len().saturating_sub(1)].iter().product();
        let rows = match options.expert {
            None => 0..all,
            Some(i) => {
                let n = if shape.len() >= 2 { shape[shape.len() - 2] } else { 1 };
                if i >= all / n {
                    return Err(Error::shape("expert", format!("below {}", all / n), i));
                }
                i * n..(i + 1) * n
            }
        };
        if x.last() != Some(&k) {
            return Err(Error::shape(
                "K of x and w",
                format!("x [.., {k}] for w {shape:?}"),
                format!("x {x:?}"),
            ));
        }
        if x.contains(&0) {
            return Err(Error::shape("x", "no dimension of size 0", format!("{x:?}")));
        }
        options.supported()?;
        let (m, n) = (x.iter().product::<usize>() / k, rows.len());
        let mut y_shape = x.to_vec();
        if let Some(last) = y_shape.last_mut() {
            *last = n;
        }
        if crate::tensor::element_count(&y_shape).and_then(|n| n.checked_mul(4)).is_none() {
            return Err(Error::shape("y", "a size that can be counted", format!("{y_shape:?}")));
        }
        let check = |what: &str, a: &Option<Array>, rows: usize| match a {
            Some(a) if a.shape.last() != y_shape.last() || a.shape.iter().product::<usize>() != rows * n => {
                let expected = if rows == 1 { format!("[{n}]") } else { format!("{y_shape:?}") };
                Err(Error::shape(what, expected, format!("{:?}", a.shape)))
            }
            _ => Ok(()),
        };
        check("bias", &options.bias, 1)?;
        check("residual", &options.residual, m)?;
        Ok(Self { m, rows, shape: y_shape })
    }
}
