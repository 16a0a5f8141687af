//! Wrong input, foreign operands, too little room and lost devices: errors that name the matter, never a panic, and an engine that
//! goes on afterwards where it can.

use super::*;
use lowbit::product::{Activation, Int8Group};
use lowbit::scheme::PlaneKind;
use lowbit::{Array, Error, PackedArray, Result};

fn shape<T: std::fmt::Debug>(name: &str, what: &str, result: Result<T>) {
    assert!(matches!(result, Err(Error::Shape { .. })), "{name}: {what}: {result:?}");
}

fn unsupported<T: std::fmt::Debug>(name: &str, what: &str, result: Result<T>) {
    assert!(matches!(result, Err(Error::Unsupported { .. })), "{name}: {what}: {result:?}");
}

#[test]
fn products_that_do_not_fit() {
    let case = Exact::new(&scheme("q8_0"), 3, 96, 64, 7);
    on_each(|name, engine| {
        let up = |s: &[usize]| engine.upload(&tensor(s, &vec![1.0; s.iter().product()])).unwrap();
        let w = engine.upload_packed(&case.w).unwrap();
        let x = up(&[3, 64]);
        let run = |x: &Array, options: MatmulOptions| engine.matmul(x, &w, &options);
        let plain = MatmulOptions::default;
        for s in [&[3, 63][..], &[64, 3], &[192], &[], &[3, 0], &[0, 64], &[2, 0, 64]] {
            shape(name, &format!("x {s:?}"), run(&up(s), plain()));
        }
        for s in [&[95][..], &[1], &[96, 1], &[3, 96], &[]] {
            shape(name, &format!("bias {s:?}"), run(&x, MatmulOptions { bias: Some(up(s)), ..plain() }));
        }
        for s in [&[96, 3][..], &[96], &[2, 96], &[288], &[3, 96, 2]] {
            let options = MatmulOptions { residual: Some(up(s)), ..plain() };
            shape(name, &format!("residual {s:?}"), run(&x, options));
        }
        shape(name, "expert", run(&x, MatmulOptions { expert: Some(1), ..plain() }));
        let both = |what, options: MatmulOptions| {
            unsupported(name, what, run(&x, options.clone()));
            unsupported(name, what, engine.plan(3, &w, &options));
        };
        both("bf16 output", MatmulOptions { output: DType::Bf16, ..plain() });
        let int8 = |group| MatmulOptions { activation: Activation::Int8(group), ..plain() };
        both("int8 groups of 7", int8(Int8Group::Cols(7)));
        match engine.is_cpu() {
            true => drop(run(&x, int8(Int8Group::Row)).unwrap()),
            false => {
                both("an unknown kernel", MatmulOptions { kernel: Some("matmul9000"), ..plain() });
                both("no product kernel", MatmulOptions { kernel: Some("dequantize"), ..plain() });
                // Without matrices, or with them and sums in f32.
                both("a kernel that rounds to f16", MatmulOptions { kernel: Some("coop"), ..plain() });
                let pinned = MatmulOptions { kernel: Some("matvec"), ..plain() };
                unsupported(name, "17 rows", run(&up(&[17, 64]), pinned));
            }
        }
        unsupported(name, "bf16", engine.dequantize(&w, DType::Bf16));
        if let Some(gpu) = engine.gpu() {
            let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for y in [up(&[96, 3]), up(&[288]), engine.upload(&half(&[3, 96], &[0.0; 288])).unwrap()] {
                shape(name, "y", engine.encode_matmul(&mut encoder, &x, &w, &y, &plain()));
            }
            shape(name, "y", engine.encode_dequantize(&mut encoder, &w, &up(&[64, 96])));
        }
        // None of this spoiled the engine.
        assert_exact(name, engine, &case, &plain());
    });
}

#[test]
fn weights_that_cannot_be_quantized() {
    on_each(|name, engine| {
        let run = |t: &Tensor, s: &str| block_on(engine.quantize(t, &scheme(s)));
        for (at, bad) in [(0, f32::NAN), (70, f32::INFINITY), (127, f32::NEG_INFINITY)] {
            let mut x = vec![0.5; 128];
            x[at] = bad;
            match run(&tensor(&[2, 64], &x), "q8_0") {
                Err(Error::NotRepresentable { index, .. }) => assert_eq!(index, at as u64, "{name}"),
                other => panic!("{name}: {bad} gave {other:?}"),
            }
        }
        for s in [&[0, 64][..], &[4, 0], &[0]] {
            shape(name, &format!("{s:?}"), run(&tensor(s, &[]), "q8_0"));
        }
        shape(name, "a scalar", run(&tensor(&[], &[1.0]), "q8_0"));
        let mismatch = run(&tensor(&[1, 33], &[1.0; 33]), "q8_0");
        assert!(
            matches!(mismatch, Err(Error::GroupMismatch { k: 33, group: 32, .. })),
            "{name}: {mismatch:?}"
        );
    });
}

/// Importance has its own row for each matrix, is refused where it does not fit, and changes nothing where the scheme does not weigh.
#[test]
fn importance_of_columns() {
    let mut rng = Random::new(11);
    let x: Vec<f32> = (0..2 * 3 * 256).map(|_| rng.normal()).collect();
    let importance: Vec<f32> = (0..2 * 256).map(|_| rng.normal().exp()).collect();
    let x = tensor(&[2, 3, 256], &x);
    on_each(|name, engine| {
        let run = |s: &str, importance: &[f32]| {
            let packed = block_on(engine.quantize_weighted(&x, "w", &scheme(s), importance))?;
            block_on(packed.read())
        };
        let plain = |s: &str| block_on(block_on(engine.quantize(&x, &scheme(s))).unwrap().read()).unwrap();
        for s in ["q4_0", "q4_k"] {
            let got = run(s, &importance).unwrap();
            let want = lowbit::cpu::quantize_weighted(&x, "w", &scheme(s), &importance).unwrap();
            assert!(got == want && got != plain(s), "{name}: {s}");
        }
        assert!(run("int4-g32", &importance).unwrap() == plain("int4-g32"), "{name}");
        for s in ["q4_k", "int4-g32"] {
            shape(name, "one row for two matrices", run(s, &importance[..256]));
            for bad in [-1.0, f32::NAN, f32::INFINITY] {
                let mut importance = importance.clone();
                importance[300] = bad;
                shape(name, &format!("an importance of {bad}"), run(s, &importance));
            }
        }
    });
}

#[test]
fn sizes_that_overflow() {
    let q8 = scheme("q8_0");
    for s in [vec![usize::MAX, 64], vec![1 << 40, 1 << 20, 64], vec![usize::MAX - 31], vec![1 << 60, 32]] {
        shape("host", &format!("{s:?}"), PackedTensor::zeroed(q8, s.clone()));
        shape("host", &format!("{s:?}"), PackedTensor::from_data(q8, s.clone(), &[0; 64]));
        shape("host", &format!("{s:?}"), Tensor::from_f32(s, vec![0.0; 64]));
    }
    // Countable, but more than there is: refused by the lengths of what was given, before anything is allocated.
    let planes = [(PlaneKind::CodesLow, &[0u8; 64][..]), (PlaneKind::Scales, &[0; 4])];
    let result = PackedTensor::from_planes(q8, [1 << 33, 1 << 20], &planes);
    assert!(matches!(result, Err(Error::Plane { .. })), "{result:?}");
}

#[test]
fn operands_of_another_engine() {
    let case = Exact::new(&scheme("q8_0"), 3, 96, 64, 7);
    let mut engines = vec![("CPU".to_string(), Engine::cpu())];
    for found in adapters() {
        // Twice the same adapter: devices of their own all the same.
        engines.extend((0..2).map(|i| (format!("{} {i}", found.info.summary()), open(found))));
    }
    let upload = |e: &Engine| -> (Array, PackedArray, Array, Array) {
        let up = |s: &[usize]| e.upload(&tensor(s, &vec![1.0; s.iter().product()])).unwrap();
        (up(&[3, 64]), e.upload_packed(&case.w).unwrap(), up(&[96]), up(&[3, 96]))
    };
    let all: Vec<_> = engines.iter().map(|(_, e)| upload(e)).collect();
    for (i, (name, engine)) in engines.iter().enumerate() {
        let (x, w, _, y) = &all[i];
        for (j, (x2, w2, b2, y2)) in all.iter().enumerate().filter(|(j, _)| *j != i) {
            let what = format!("operand of {}", engines[j].0);
            let plain = MatmulOptions::default;
            unsupported(name, &what, engine.matmul(x2, w, &plain()));
            unsupported(name, &what, engine.matmul(x, w2, &plain()));
            let options = MatmulOptions { bias: Some(b2.clone()), ..plain() };
            unsupported(name, &what, engine.matmul(x, w, &options));
            let options = MatmulOptions { residual: Some(y2.clone()), ..plain() };
            unsupported(name, &what, engine.matmul(x, w, &options));
            unsupported(name, &what, engine.dequantize(w2, DType::F32));
            let device = [engine, &engines[j].1].into_iter().find_map(Engine::gpu).unwrap().device();
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            unsupported(name, &what, engine.encode_matmul(&mut encoder, x, w, y2, &plain()));
            unsupported(name, &what, engine.encode_dequantize(&mut encoder, w2, y));
        }
        assert_exact(name, engine, &case, &MatmulOptions::default());
    }
}

/// A device that allows little: what is too large says what it needs, and the engine goes on.
#[test]
fn more_than_the_device_allows() {
    for found in adapters() {
        let name = found.info.summary();
        let limits = wgpu::Limits {
            max_buffer_size: 1 << 20,
            max_storage_buffer_binding_size: 1 << 20,
            ..wgpu::Limits::default()
        };
        let (device, queue) = own_device::device(found, wgpu::Features::empty(), limits);
        let engine = Engine::from_wgpu(device, queue, None);
        let too_large = |what: &str, result: Result<()>| match result {
            Err(Error::TooLarge { need, limit, .. }) => {
                assert!(need > limit && limit == 1 << 20, "{name}: {what}")
            }
            other => panic!("{name}: {what}: {other:?}"),
        };
        let big = tensor(&[600, 512], &vec![1.0; 600 * 512]);
        too_large("upload", engine.upload(&big).map(drop));
        let w = engine.upload_packed(&PackedTensor::zeroed(scheme("q8_0"), [600, 512]).unwrap()).unwrap();
        too_large("dequantize", engine.dequantize(&w, DType::F32).map(drop));
        let x = engine.upload(&tensor(&[500, 512], &vec![1.0; 500 * 512])).unwrap();
        too_large("matmul", engine.matmul(&x, &w, &MatmulOptions::default()).map(drop));
        assert_exact(&name, &engine, &Exact::new(&scheme("q8_0"), 3, 96, 64, 7), &MatmulOptions::default());
    }
}

#[test]
fn a_lost_device() {
    let case = Exact::new(&scheme("q8_0"), 3, 96, 64, 7);
    for found in adapters() {
        for own in [true, false] {
            let name = format!("{}, own device: {own}", found.info.summary());
            let engine = if own { open(found) } else { own_device::small_bindings(found, 1 << 20) };
            let (x, w) = (engine.upload(&case.x()).unwrap(), engine.upload_packed(&case.w).unwrap());
            let y = engine.matmul(&x, &w, &MatmulOptions::default()).unwrap();
            let other = engine.matmul(&x, &w, &MatmulOptions::default()).unwrap();
            assert_eq!(first_difference(&read(&other), &case.y), None, "{name}");
            let gpu = engine.gpu().unwrap();
            gpu.device().destroy();
            let lost = |what: &str, result: Result<()>| {
                assert!(matches!(result, Err(Error::DeviceLost { .. })), "{name}: {what}: {result:?}");
            };
            lost("read", block_on(y.read()).map(drop));
            lost("matmul", engine.matmul(&x, &w, &MatmulOptions::default()).map(drop));
            lost("dequantize", engine.dequantize(&w, DType::F32).map(drop));
            lost("quantize", block_on(engine.quantize(&case.x(), &scheme("q8_0"))).map(drop));
            lost("upload", engine.upload(&case.x()).map(drop));
            lost("upload_packed", engine.upload_packed(&case.w).map(drop));
            lost("read of weights", block_on(w.read()).map(drop));
            lost("submit", engine.submit());
            let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let options = MatmulOptions::default();
            lost("encode", engine.encode_matmul(&mut encoder, &x, &w, &y, &options));
            // Another device is none the worse.
            assert_exact(&name, &open(found), &case, &MatmulOptions::default());
        }
    }
}
