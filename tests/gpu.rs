//! The layer between lowbit and wgpu, on every adapter that is there.
//!
//! Under `CI` the software adapters that CI pins must be there: a missing one is a failure. Elsewhere the tests take what
//! they find and print what that leaves uncovered.
#![cfg(feature = "gpu")]

mod common;

use common::under_ci;
use lowbit::gpu::{
    Access, Binding, Buffer, Clock, Disable, Found, Gpu, GpuOptions, PipelineSpec, Target, adapter,
    fold_workgroups, template,
};
use lowbit::{Error, Result};
use pollster::block_on;

const ADD: &str = r#"
struct Params { n: u32, add: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>; // x [n]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // y [n]
//% include "lib/grid.wgsl"
@compute @workgroup_size({{ threads }})
fn main(
    @builtin(workgroup_id) wg: vec3<u32>,
    @builtin(num_workgroups) wgs: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_workgroup(wg, wgs) * {{ threads }}u + lane;
    if (i < params.n) {
        y[i] = x[i] + params.add;
    }
}
"#;
const THREADS: u32 = 64;

fn adapters() -> Vec<Found> {
    let found = block_on(adapter::list());
    if found.is_empty() {
        assert!(!under_ci(), "CI needs an adapter and there is none");
        eprintln!("NOT COVERED: no adapter here, nothing of tests/gpu.rs ran on a device");
    }
    found
}

fn on_each(test: impl Fn(&str, Gpu)) {
    for found in adapters() {
        let name = found.info.summary();
        eprintln!("on {name}");
        let gpu = block_on(Gpu::open(&found.adapter, &GpuOptions::default())).expect(&name);
        test(&name, gpu);
    }
}

fn spec(name: &str, accesses: &[Access]) -> PipelineSpec {
    PipelineSpec { name: name.into(), key: "test".into(), accesses: accesses.to_vec(), checked: false }
}

fn params(n: usize, add: f32) -> [u8; 8] {
    bytemuck::cast([(n as u32).to_le_bytes(), add.to_le_bytes()])
}

/// Records y = x + add.
fn add(gpu: &Gpu, target: &mut Target<'_>, x: &Buffer, y: &Buffer, n: usize, by: f32) -> Result<()> {
    let pipeline = gpu.pipeline(&spec("add", &[Access::Read, Access::ReadWrite]), || {
        template::render_text("add.wgsl", ADD, serde_json::json!({ "threads": THREADS }))
    })?;
    let groups = fold_workgroups((n as u64).div_ceil(THREADS.into()), gpu.limits())?;
    gpu.dispatch(target, &pipeline, &[Binding::whole(x), Binding::whole(y)], &params(n, by), groups)
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32).collect()
}

fn upload(gpu: &Gpu, values: &[f32]) -> Buffer {
    gpu.upload(bytemuck::cast_slice(values), "x").unwrap()
}

fn alloc(gpu: &Gpu, n: usize) -> Buffer {
    gpu.alloc(4 * n as u64, "y").unwrap()
}

fn download(gpu: &Gpu, buffer: &Buffer) -> Vec<f32> {
    bytemuck::pod_collect_to_vec(&block_on(gpu.read(buffer)).unwrap())
}

#[test]
fn ci_has_its_adapters() {
    if !under_ci() {
        return eprintln!("not under CI: which adapters there are is the machine's business");
    }
    let names: Vec<String> = adapters().iter().map(|f| f.info.summary().to_lowercase()).collect();
    for wanted in ["llvmpipe", "swiftshader"] {
        assert!(names.iter().any(|n| n.contains(wanted)), "{wanted} is not among {names:?}");
    }
}

#[test]
fn two_operations_are_one_submit() {
    on_each(|name, gpu| {
        for n in [1, 63, 64, 65, 1000] {
            let x = upload(&gpu, &numbers(n));
            let (y, z) = (alloc(&gpu, n), alloc(&gpu, n));
            let before = gpu.stats();
            add(&gpu, &mut Target::Recorder, &x, &y, n, 1.0).unwrap();
            add(&gpu, &mut Target::Recorder, &y, &z, n, 0.5).unwrap();
            let want: Vec<f32> = numbers(n).iter().map(|v| v + 1.5).collect();
            assert_eq!(download(&gpu, &z), want, "{name}, n = {n}");
            let after = gpu.stats();
            assert_eq!(
                (after.submits - before.submits, after.dispatches - before.dispatches),
                (1, 2),
                "{name}"
            );
        }
        assert_eq!(gpu.stats().pipelines_compiled, 1, "{name}");
    });
}

#[test]
fn more_workgroups_than_one_dimension_holds() {
    on_each(|name, gpu| {
        let n = 65_600 * THREADS as usize + 7;
        let x = upload(&gpu, &numbers(n));
        let y = alloc(&gpu, n);
        add(&gpu, &mut Target::Recorder, &x, &y, n, 1.0).unwrap();
        let got = download(&gpu, &y);
        let wrong = got.iter().zip(numbers(n)).position(|(g, v)| *g != v + 1.0);
        assert_eq!((got.len(), wrong), (n, None), "{name}");
    });
}

#[test]
fn equal_parameters_share_a_uniform_buffer() {
    on_each(|name, gpu| {
        let n = 100;
        let x = upload(&gpu, &numbers(n));
        let outputs: Vec<Buffer> = (0..6).map(|_| alloc(&gpu, n)).collect();
        // The parameters alternate within one recording, so a shared buffer that was rewritten would show.
        for (i, y) in outputs.iter().enumerate() {
            add(&gpu, &mut Target::Recorder, &x, y, n, (i % 2) as f32).unwrap();
        }
        for (i, y) in outputs.iter().enumerate() {
            assert_eq!(download(&gpu, y)[7], 7.0 + (i % 2) as f32, "{name}, output {i}");
        }
        assert_eq!(gpu.stats().uniforms_created, 2, "{name}");
    });
}

/// The bind groups that are kept for another dispatch give their buffers' memory back: of buffers that stay, when they are dropped; of
/// scratch, when the pool lets go of it.
#[test]
fn kept_bind_groups_keep_no_memory() {
    for found in adapters() {
        let (name, options) =
            (found.info.summary(), GpuOptions { pool_bytes: 1 << 20, ..Default::default() });
        let gpu = block_on(Gpu::open(&found.adapter, &options)).expect(&name);
        let n = 4 << 20;
        let used = || gpu.device().generate_allocator_report().map(|report| report.total_allocated_bytes);
        let run = || {
            let (x, y) = (gpu.alloc_persistent(4 * n as u64, "x").unwrap(), alloc(&gpu, n));
            let small = alloc(&gpu, 64);
            let before = gpu.stats().groups_created;
            for _ in 0..2 {
                add(&gpu, &mut Target::Recorder, &x, &y, n, 1.0).unwrap();
                add(&gpu, &mut Target::Recorder, &x, &small, 64, 1.0).unwrap();
            }
            assert_eq!(gpu.stats().groups_created - before, 2, "{name}: kept for the second turn");
            gpu.flush().unwrap();
            gpu.wait().unwrap();
        };
        run();
        let Some(before) = used() else {
            println!("NOT COVERED: {name} does not tell how much memory is in use");
            continue;
        };
        (0..3).for_each(|_| run());
        // Freed memory is returned when the device is polled.
        gpu.wait().unwrap();
        assert!(used().is_some_and(|now| now < before + 4 * n as u64), "{name}: {before} -> {:?}", used());
    }
}

#[test]
fn many_dispatches_flush_by_themselves() {
    on_each(|name, gpu| {
        let n = 10;
        let (a, b) = (upload(&gpu, &numbers(n)), alloc(&gpu, n));
        for _ in 0..300 {
            add(&gpu, &mut Target::Recorder, &a, &b, n, 1.0).unwrap();
            add(&gpu, &mut Target::Recorder, &b, &a, n, 1.0).unwrap();
        }
        assert_eq!(gpu.stats().submits, 2, "{name}");
        assert_eq!(download(&gpu, &a), numbers(n).iter().map(|v| v + 600.0).collect::<Vec<_>>(), "{name}");
    });
}

#[test]
fn scratch_is_reused_and_a_write_waits_for_its_turn() {
    on_each(|name, gpu| {
        let n = 5000;
        let y = alloc(&gpu, n);
        let x = upload(&gpu, &numbers(n));
        add(&gpu, &mut Target::Recorder, &x, &y, n, 1.0).unwrap();
        drop(x);
        // Takes x's memory while the dispatch that reads it is still pending: the write must not overtake it.
        let before = gpu.stats();
        let zeros = upload(&gpu, &vec![-1.0; n]);
        assert_eq!(gpu.stats().buffers_reused, before.buffers_reused + 1, "{name}");
        assert_eq!(download(&gpu, &y), numbers(n).iter().map(|v| v + 1.0).collect::<Vec<_>>(), "{name}");
        assert_eq!(download(&gpu, &zeros), vec![-1.0; n], "{name}");

        // Output over reused scratch, all in one recording.
        let before = gpu.stats();
        let mut last = upload(&gpu, &numbers(n));
        for _ in 0..10 {
            let next = alloc(&gpu, n);
            add(&gpu, &mut Target::Recorder, &last, &next, n, 1.0).unwrap();
            last = next;
        }
        assert_eq!(download(&gpu, &last), numbers(n).iter().map(|v| v + 10.0).collect::<Vec<_>>(), "{name}");
        assert!(gpu.stats().buffers_created - before.buffers_created <= 3, "{name}: {:?}", gpu.stats());
    });
}

#[test]
fn writes_and_reads_of_any_length() {
    on_each(|name, gpu| {
        let bytes: Vec<u8> = (0..1003u32).map(|i| (i * 7) as u8).collect();
        for len in [0, 1, 2, 3, 4, 5, 15, 16, 17, 1003] {
            let buffer = gpu.upload(&bytes[..len], "bytes").unwrap();
            assert_eq!(block_on(gpu.read(&buffer)).unwrap(), &bytes[..len], "{name}, {len} bytes");
        }
        let buffer = gpu.upload(&bytes, "bytes").unwrap();
        let parts = block_on(gpu.read_many(&[(&buffer, 1..6), (&buffer, 9..9), (&buffer, 3..1003)])).unwrap();
        assert_eq!(parts, [&bytes[1..6], &[], &bytes[3..]], "{name}");
        gpu.write(&buffer, 8, &[1, 2, 3, 4, 5]).unwrap();
        assert_eq!(
            block_on(gpu.read_range(&buffer, 7..17)).unwrap()[..6],
            [bytes[7], 1, 2, 3, 4, 5],
            "{name}"
        );

        let other = gpu.alloc_persistent(100, "other").unwrap();
        assert_eq!(block_on(gpu.read(&other)).unwrap(), [0; 100], "{name}");
        gpu.copy(&mut Target::Recorder, (&buffer, 16), (&other, 4), 96).unwrap();
        assert_eq!(block_on(gpu.read(&other)).unwrap()[4..], bytes[16..112], "{name}");

        for bad in [
            gpu.write(&buffer, 2, &[0]),
            gpu.write(&buffer, 1000, &[0; 12]),
            gpu.copy(&mut Target::Recorder, (&buffer, 0), (&other, 0), 2),
            gpu.copy(&mut Target::Recorder, (&buffer, 0), (&other, 100), 100),
            gpu.copy(&mut Target::Recorder, (&buffer, 0), (&buffer, 100), 4),
            block_on(gpu.read_range(&buffer, 0..1 << 20)).map(drop),
        ] {
            assert!(matches!(bad, Err(Error::Shape { .. })), "{name}: {bad:?}");
        }
    });
}

#[test]
fn large_transfers_go_in_pieces() {
    on_each(|name, gpu| {
        let bytes: Vec<u8> = (0..(65 << 20) + 5u32).map(|i| (i >> 3) as u8 ^ i as u8).collect();
        let buffer = gpu.upload_persistent(&bytes, "large").unwrap();
        assert!(block_on(gpu.read(&buffer)).unwrap() == bytes, "{name}");
    });
}

#[test]
fn what_is_too_large_says_so() {
    on_each(|name, gpu| {
        let limit = gpu.limits().max_buffer_size;
        for result in
            [gpu.alloc(limit + 1, "y"), gpu.alloc(u64::MAX, "y"), gpu.alloc_persistent(limit + 16, "w")]
        {
            match result {
                Err(Error::TooLarge { need, limit: l, .. }) => assert!(need > l && l == limit, "{name}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        let x = upload(&gpu, &[1.0]);
        let y = alloc(&gpu, 1);
        let pipeline = gpu
            .pipeline(&spec("add", &[Access::Read, Access::ReadWrite]), || {
                template::render_text("add.wgsl", ADD, serde_json::json!({ "threads": THREADS }))
            })
            .unwrap();
        let both = [Binding::whole(&x), Binding::whole(&y)];
        let dispatch = |bindings: &[Binding<'_>], groups| {
            gpu.dispatch(&mut Target::Recorder, &pipeline, bindings, &params(1, 0.0), groups)
        };
        let too_many = gpu.limits().max_compute_workgroups_per_dimension + 1;
        assert!(matches!(dispatch(&both, [1, too_many, 1]), Err(Error::TooLarge { .. })), "{name}");
        assert!(matches!(dispatch(&both[..1], [1, 1, 1]), Err(Error::Shape { .. })), "{name}");
        for bad in [
            Binding::range(&y, 0, 1024),
            Binding::range(&y, 4, 4),
            Binding::range(&y, 0, 0),
            Binding::range(&y, 0, 6),
        ] {
            assert!(
                matches!(dispatch(&[both[0], bad], [1, 1, 1]), Err(Error::Shape { .. })),
                "{name}: {bad:?}"
            );
        }
        assert!(matches!(dispatch(&[both[1], both[1]], [1, 1, 1]), Err(Error::Gpu { .. })), "{name}");
        // None of these refusals spoiled the recording.
        dispatch(&both, [1, 1, 1]).unwrap();
        assert_eq!(download(&gpu, &y), [1.0], "{name}");
    });
}

#[test]
fn a_shader_that_does_not_compile_is_an_error() {
    on_each(|name, gpu| {
        let cases = [
            ("syntax", "@compute @workgroup_size(1) fn main() { let x = ; }"),
            ("type", "@compute @workgroup_size(1) fn main() { let x: u32 = 1.5f; }"),
            ("entry", "@compute @workgroup_size(1) fn other() { }"),
            (
                "layout",
                "@group(0) @binding(5) var<storage, read> x: array<u32>;\n@compute @workgroup_size(1) fn main() { let y = x[0]; }",
            ),
            ("size", "@compute @workgroup_size(100000) fn main() { }"),
        ];
        for (case, text) in cases {
            match gpu.pipeline(&spec(case, &[Access::Read]), || Ok(text.into())) {
                Err(Error::Shader { kernel, message }) => {
                    assert!(kernel.contains(case) && !message.is_empty(), "{name}: {kernel}: {message}");
                    eprintln!("{case}: {message}");
                }
                other => panic!("{name}: {case} gave {other:?}"),
            }
        }
        // The device is none the worse, and the same spec compiles once its text does.
        gpu.pipeline(&spec("syntax", &[Access::Read]), || {
            Ok("@compute @workgroup_size(1) fn main() { }".into())
        })
        .unwrap();
    });
}

#[test]
fn into_the_callers_encoder() {
    for found in adapters() {
        let name = found.info.summary();
        // WebGPU's default limits and no features: what an application has that asked for nothing. OpenGL may have less.
        let defaults = wgpu::DeviceDescriptor {
            required_limits: wgpu::Limits::default().or_worse_values_from(&found.adapter.limits()),
            ..Default::default()
        };
        let (device, queue) = block_on(found.adapter.request_device(&defaults)).expect(&name);
        let gpu =
            Gpu::from_device(device.clone(), queue.clone(), Some(&found.adapter), &GpuOptions::default());
        let capabilities = gpu.capabilities();
        assert!(!capabilities.f16 && !capabilities.subgroups && capabilities.coop.is_empty(), "{name}");
        assert!(
            !capabilities.timestamps && capabilities.limits.max_storage_buffer_binding_size <= 128 << 20,
            "{name}"
        );

        let n = 1000;
        let x = upload(&gpu, &numbers(n));
        let y = alloc(&gpu, n);
        let theirs = Buffer::from_wgpu(device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 4 * n as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        }));
        // Recorded here, then used in the caller's encoder: submitted before it without being asked.
        add(&gpu, &mut Target::Recorder, &x, &y, n, 1.0).unwrap();
        let mut encoder = device.create_command_encoder(&Default::default());
        let scratch = alloc(&gpu, n);
        add(&gpu, &mut Target::Encoder(&mut encoder), &y, &scratch, n, 2.0).unwrap();
        add(&gpu, &mut Target::Encoder(&mut encoder), &scratch, &theirs, n, 4.0).unwrap();
        assert_eq!(gpu.stats().submits, 1, "{name}");
        // Dropped before it is submitted: it must not be given to somebody else.
        let raw = scratch.raw().clone();
        drop(scratch);
        assert!((0..4).map(|_| alloc(&gpu, n)).all(|b| *b.raw() != raw), "{name}");
        queue.submit([encoder.finish()]);
        let want: Vec<f32> = numbers(n).iter().map(|v| v + 7.0).collect();
        assert_eq!(download(&gpu, &theirs), want, "{name}");
    }
}

#[test]
fn threads_share_a_device() {
    on_each(|name, gpu| {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let gpu = gpu.clone();
                scope.spawn(move || {
                    for round in 0..10 {
                        let n = 100 + 37 * thread + round;
                        let x = upload(&gpu, &numbers(n));
                        let y = alloc(&gpu, n);
                        let z = alloc(&gpu, n);
                        add(&gpu, &mut Target::Recorder, &x, &y, n, thread as f32).unwrap();
                        add(&gpu, &mut Target::Recorder, &y, &z, n, round as f32).unwrap();
                        drop((x, y));
                        let want: Vec<f32> = numbers(n).iter().map(|v| v + (thread + round) as f32).collect();
                        assert_eq!(download(&gpu, &z), want, "{name}, thread {thread}, round {round}");
                    }
                });
            }
        });
        assert_eq!(gpu.stats().pipelines_compiled, 1, "{name}");
    });
}

#[test]
fn a_read_that_is_dropped_does_no_harm() {
    on_each(|name, gpu| {
        let x = upload(&gpu, &numbers(100));
        drop(gpu.read(&x));
        for _ in 0..3 {
            let mut read = Box::pin(gpu.read(&x));
            let _ = futures::FutureExt::now_or_never(&mut read);
            drop(read);
        }
        assert_eq!(download(&gpu, &x), numbers(100), "{name}");
    });
}

#[test]
fn a_lost_device_is_an_error_everywhere() {
    for found in adapters() {
        for own in [true, false] {
            let name = format!("{} (own device: {own})", found.info.summary());
            let options = GpuOptions::default();
            let gpu = match own {
                true => block_on(Gpu::open(&found.adapter, &options)).expect(&name),
                false => {
                    let descriptor = wgpu::DeviceDescriptor {
                        required_limits: found.adapter.limits(),
                        ..Default::default()
                    };
                    let (device, queue) = block_on(found.adapter.request_device(&descriptor)).expect(&name);
                    Gpu::from_device(device, queue, None, &options)
                }
            };
            let x = upload(&gpu, &numbers(10));
            let y = alloc(&gpu, 10);
            add(&gpu, &mut Target::Recorder, &x, &y, 10, 1.0).unwrap();
            gpu.device().destroy();
            let lost = |what: &str, result: Result<()>| {
                assert!(matches!(result, Err(Error::DeviceLost { .. })), "{name}: {what} gave {result:?}");
            };
            lost("read", block_on(gpu.read(&y)).map(drop));
            lost("alloc", gpu.alloc(1 << 20, "z").map(drop));
            lost("alloc from the pool", gpu.alloc(40, "z").map(drop));
            lost("upload", gpu.upload(&[0; 10], "z").map(drop));
            lost("write", gpu.write(&x, 0, &[0; 4]));
            lost("dispatch", add(&gpu, &mut Target::Recorder, &x, &y, 10, 2.0));
            lost("pipeline", gpu.pipeline(&spec("new", &[]), || Ok(ADD.into())).map(drop));
            lost("flush", gpu.flush());
            lost("wait", gpu.wait());
            lost("check", gpu.check());
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            lost("encode", add(&gpu, &mut Target::Encoder(&mut encoder), &x, &y, 10, 2.0));
            lost("time", block_on(gpu.time(|| add(&gpu, &mut Target::Recorder, &x, &y, 10, 1.0))).map(drop));
        }
    }
}

#[test]
fn checked_and_unchecked_pipelines_are_different_ones() {
    on_each(|name, gpu| {
        let mut spec = spec("add", &[Access::Read, Access::ReadWrite]);
        let text = || template::render_text("add.wgsl", ADD, serde_json::json!({ "threads": THREADS }));
        gpu.pipeline(&spec, text).unwrap();
        spec.checked = true;
        gpu.pipeline(&spec, text).unwrap();
        gpu.pipeline(&spec, || panic!("{name}: compiled twice")).unwrap();
        assert_eq!(gpu.stats().pipelines_compiled, 2, "{name}");
    });
}

#[test]
fn disabled_capabilities_are_gone() {
    for found in adapters() {
        let options = GpuOptions { disable: Disable::all(), trusted: false, ..Default::default() };
        let gpu = block_on(Gpu::open(&found.adapter, &options)).unwrap();
        let c = gpu.capabilities();
        assert!(!(c.f16 || c.subgroups || c.int_dot || c.timestamps) && c.coop.is_empty());
        assert!(!gpu.trusted() && !gpu.device().features().contains(wgpu::Features::SHADER_F16));
        eprintln!("{}: {:?}", found.info.summary(), (found.capabilities.f16, found.capabilities.subgroups));
    }
}

#[test]
fn time_is_taken_and_says_by_which_clock() {
    for found in adapters() {
        for timestamps in [true, false] {
            let options = GpuOptions {
                disable: Disable { timestamps: !timestamps, ..Default::default() },
                ..Default::default()
            };
            let gpu = block_on(Gpu::open(&found.adapter, &options)).unwrap();
            let n = 1 << 18;
            let x = upload(&gpu, &numbers(n));
            let y = alloc(&gpu, n);
            add(&gpu, &mut Target::Recorder, &x, &y, n, 1.0).unwrap();
            let time = |count: u32| {
                let record = || (0..count).try_for_each(|_| add(&gpu, &mut Target::Recorder, &x, &y, n, 1.0));
                block_on(gpu.time(record)).unwrap().1
            };
            let (one, many) = (time(1), time(300));
            let name = found.info.summary();
            eprintln!("{name}: 1 dispatch {one:?}, 300 dispatches {many:?}");
            let want = if timestamps && found.capabilities.timestamps { Clock::Gpu } else { Clock::Wall };
            assert_eq!((one.clock, many.clock), (want, want), "{name}");
            assert!(one.time.as_nanos() > 0 && many.time > 10 * one.time, "{name}: {one:?}, {many:?}");
        }
    }
}
