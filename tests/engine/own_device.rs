//! Devices, buffers and encoders that the application brings.

use super::*;
use lowbit::gpu::{Buffer, Gpu};

/// A device as an application makes one, on an adapter of its own: what tests do to OpenGL at the same time would be in its way, since
/// all devices of an adapter share one context there. OpenGL may have less than WebGPU's defaults.
pub(super) fn device(
    found: &Found,
    features: wgpu::Features,
    limits: wgpu::Limits,
) -> (wgpu::Device, wgpu::Queue) {
    let again = block_on(adapter::list());
    let adapter =
        again.into_iter().find(|f| f.info == found.info).expect("the adapter is still there").adapter;
    let descriptor = wgpu::DeviceDescriptor {
        required_features: features,
        required_limits: limits.or_worse_values_from(&adapter.limits()),
        ..wgpu::DeviceDescriptor::default()
    };
    block_on(adapter.request_device(&descriptor)).expect("the adapter opens")
}

/// A device with WebGPU's defaults and nothing else.
fn plain_device(found: &Found) -> (wgpu::Device, wgpu::Queue) {
    device(found, wgpu::Features::empty(), wgpu::Limits::default())
}

/// A device of the application's whose bindings are small.
pub(super) fn small_bindings(found: &Found, bytes: u64) -> Engine {
    let limits = wgpu::Limits { max_storage_buffer_binding_size: bytes, ..wgpu::Limits::default() };
    let (device, queue) = device(found, wgpu::Features::empty(), limits);
    Engine::from_wgpu(device, queue, Some(&found.adapter))
}

#[test]
fn webgpus_default_limits_are_enough() {
    let int4 = scheme("int4-g32-asym");
    for found in adapters() {
        let name = found.info.summary();
        let (device, queue) = plain_device(found);
        let engine = Engine::from_wgpu(device, queue, None);
        assert_eq!(engine.info().tier, "f32", "{name}");
        assert!(engine.gpu().unwrap().limits().max_storage_buffers_per_shader_stage <= 8, "{name}");

        let dense = data::weights(&int4, 40, 70, &mut Random::new(1));
        let quantized = block_on(engine.quantize(&tensor(&[40, 70], &dense), &int4)).unwrap();
        let want = lowbit::reference::quantize(&dense, 40, 70, int4, None).unwrap();
        assert!(block_on(quantized.read()).unwrap() == want, "{name}");
        let decoded = read(&engine.dequantize(&quantized, DType::F32).unwrap());
        assert_eq!(first_difference(&decoded, &lowbit::reference::dequantize(&want)), None, "{name}");
        for m in [1, 8, 33] {
            assert_exact(&name, &engine, &Exact::new(&int4, m, 40, 70, 2), &MatmulOptions::default());
        }
    }
}

#[test]
fn a_device_made_to_the_requirements_runs_the_best_tier() {
    for found in adapters() {
        let (features, limits) = Engine::requirements(&found.adapter);
        // Cooperative matrices are experimental: an application has to acknowledge that in its own words.
        let features = features - wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        let (device, queue) = device(found, features, limits);
        let (theirs, ours) = (Engine::from_wgpu(device, queue, Some(&found.adapter)), open(found));
        assert_eq!(theirs.info(), ours.info());
        assert_eq!(theirs.gpu().unwrap().limits(), ours.gpu().unwrap().limits());
    }
}

/// A buffer of the application's: poison, and the array from `OFFSET` on.
pub(super) struct Theirs {
    raw: wgpu::Buffer,
    pub array: lowbit::Array,
}

const OFFSET: usize = 512;
const TAIL: usize = 4096;
const POISON: u8 = 0xfd;

impl Theirs {
    pub fn new(engine: &Engine, shape: &[usize], dtype: DType) -> Self {
        let gpu = engine.gpu().unwrap();
        let bytes = (shape.iter().product::<usize>() * dtype.size()).next_multiple_of(16);
        let raw = gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: (OFFSET + bytes + TAIL) as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        gpu.queue().write_buffer(&raw, 0, &vec![POISON; raw.size() as usize]);
        let array = engine.wrap_buffer(raw.clone(), OFFSET as u64, shape, dtype).unwrap();
        Self { raw, array }
    }

    fn filled(engine: &Engine, tensor: &Tensor) -> Self {
        let theirs = Self::new(engine, tensor.shape(), tensor.dtype());
        let mut bytes = tensor.bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(4), POISON);
        engine.gpu().unwrap().queue().write_buffer(&theirs.raw, OFFSET as u64, &bytes);
        theirs
    }

    /// The array's values, once nothing around them has changed.
    pub fn values(&self, name: &str, gpu: &Gpu) -> Vec<f32> {
        let all = block_on(gpu.read(&Buffer::from_wgpu(self.raw.clone()))).unwrap();
        let bytes = self.array.shape().iter().product::<usize>() * self.array.dtype().size();
        let guards = all[..OFFSET].iter().chain(&all[OFFSET + bytes.next_multiple_of(16)..]);
        assert!(guards.into_iter().all(|b| *b == POISON), "{name}: wrote beside the array");
        let array = &all[OFFSET..OFFSET + bytes];
        let t = Tensor::from_bytes(self.array.shape(), self.array.dtype(), array.to_vec()).unwrap();
        t.to_f32().into_owned()
    }
}

/// Dequantize and product in one encoder of the application's, between its own commands, from and to its own buffers.
#[test]
fn into_the_applications_encoder() {
    let int4 = scheme("int4-g32-asym");
    let (m, n, k) = (3, 41, 70);
    let case = Exact::new(&int4, m, n, k, 3);
    let bias: Vec<f32> = (0..n).map(|i| i as f32 - 20.0).collect();
    let residual: Vec<f32> = (0..m * n).map(|i| (i % 7) as f32 * 0.5).collect();
    let added = Added { bias: Some(&bias), residual: Some(&residual) };
    let want = exact_product(&case.x, m, &case.w, added);
    let decoded = lowbit::reference::dequantize(&case.w);
    for found in adapters() {
        for output in [DType::F32, DType::F16] {
            let name = format!("{}, {output}", found.info.summary());
            let (device, queue) = plain_device(found);
            let engine = Engine::from_wgpu(device.clone(), queue.clone(), None);
            let gpu = engine.gpu().unwrap();
            let w = engine.upload_packed(&case.w).unwrap();
            let (x, b, r) = (
                Theirs::filled(&engine, &case.x()),
                Theirs::filled(&engine, &tensor(&[n], &bias)),
                Theirs::filled(&engine, &half(&[m, n], &residual)),
            );
            let (y, d) = (Theirs::new(&engine, &[m, n], output), Theirs::new(&engine, &[n, k], output));
            let options = MatmulOptions {
                output,
                bias: Some(b.array.clone()),
                residual: Some(r.array.clone()),
                ..MatmulOptions::default()
            };
            let before = gpu.stats();
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            engine.encode_matmul(&mut encoder, &x.array, &w, &y.array, &options).unwrap();
            engine.encode_dequantize(&mut encoder, &w, &d.array).unwrap();
            assert_eq!(gpu.stats().submits, before.submits, "{name}");
            queue.submit([encoder.finish()]);
            assert_eq!(first_difference(&y.values(&name, gpu), &want), None, "{name}");
            // Weights of exact cases are small multiples of 1/8: f16 holds them.
            assert_eq!(first_difference(&d.values(&name, gpu), &decoded), None, "{name}");
            // Reading through the array gives the same as the application's own copy.
            assert_eq!(first_difference(&read(&y.array), &want), None, "{name}");
            x.values(&name, gpu);
        }
    }
}

#[test]
fn buffers_that_cannot_be_wrapped_are_refused() {
    use lowbit::Error;
    on_each_gpu(|name, engine| {
        let make = |size, usage| {
            engine.gpu().unwrap().device().create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        let storage = || make(1024, wgpu::BufferUsages::STORAGE);
        let wrap = |b, offset, shape: &[usize], dtype| engine.wrap_buffer(b, offset, shape, dtype);
        assert!(wrap(storage(), 512, &[128], DType::F32).is_ok(), "{name}");
        for (offset, shape) in [
            (0, vec![257]),
            (768, vec![65]),
            (4, vec![1]),
            (1024, vec![1]),
            (u64::MAX - 255, vec![64]),
            (0, vec![usize::MAX, 2]),
            (0, vec![usize::MAX / 4 + 1]),
        ] {
            let wrapped = wrap(storage(), offset, &shape, DType::F32);
            assert!(matches!(wrapped, Err(Error::Shape { .. })), "{name}: {offset} {shape:?}: {wrapped:?}");
        }
        let wrapped = wrap(storage(), 0, &[4], DType::Bf16);
        assert!(matches!(wrapped, Err(Error::Unsupported { .. })), "{name}");
        let no_storage = make(1024, wgpu::BufferUsages::COPY_SRC);
        assert!(matches!(wrap(no_storage, 0, &[4], DType::F32), Err(Error::Unsupported { .. })), "{name}");

        // Not readable: an error, and the recording goes on.
        let unreadable = wrap(storage(), 0, &[4], DType::F32).unwrap();
        assert!(matches!(block_on(unreadable.read()), Err(Error::Gpu { .. })), "{name}");
        let array = engine.upload(&tensor(&[2], &[1.0, 2.0])).unwrap();
        assert_eq!(read(&array), [1.0, 2.0], "{name}");
        // The same buffer as x and y.
        let w = engine.upload_packed(&Exact::new(&scheme("q8_0"), 3, 96, 64, 7).w).unwrap();
        let both = make(16384, wgpu::BufferUsages::STORAGE);
        let (x, y) = (wrap(both.clone(), 0, &[3, 64], DType::F32), wrap(both, 4096, &[3, 96], DType::F32));
        let mut encoder = engine.gpu().unwrap().device().create_command_encoder(&Default::default());
        let result =
            engine.encode_matmul(&mut encoder, &x.unwrap(), &w, &y.unwrap(), &MatmulOptions::default());
        assert!(matches!(result, Err(Error::Gpu { .. })), "{name}: {result:?}");
    });
    let refused = adapters().first().map(|found| {
        let buffer = open(found).gpu().unwrap().alloc(64, "y").unwrap().raw().clone();
        Engine::cpu().wrap_buffer(buffer, 0, [4], DType::F32)
    });
    assert!(refused.is_none_or(|r| matches!(r, Err(Error::Unsupported { .. }))));
}
