//! Activations as int8: prepared once, static with a zero-point, from layer to layer.
//!
//! ```text
//! x --quantize_activations--> int8 --matmul_to_int8--> int8 --matmul_int8--> f32        exact numbers, so codes are the reference's
//! ```

use super::own_device::{Theirs, small_bindings};
use super::*;
use lowbit::product::{Activation, Int8Group, Int8Scale};
use lowbit::reference::matmul::int8_static;
use lowbit::{Error, Int8Array};

fn fixed(scale: f32, zero: i8) -> Activation {
    Activation::Int8Static(Int8Scale::new(scale, zero).unwrap())
}

fn with(activation: Activation) -> MatmulOptions {
    MatmulOptions { activation, ..MatmulOptions::default() }
}

fn prepare(engine: &Engine, shape: &[usize], x: &[f32], activation: Activation) -> Int8Array {
    engine.quantize_activations(&engine.upload(&tensor(shape, x)).unwrap(), activation).unwrap()
}

/// Schemes that are multiplied in integers over all of K, per group, from a table; and one of other numbers, and one in another order,
/// whose activations are decoded. With them rows of x: each is a kernel to compile on every adapter.
const SCHEMES: [(&str, &[usize]); 6] = [
    ("int8-row", &[1, 70]),
    ("int4-row-asym", &[5]),
    ("q4_0", &[3, 70]),
    ("iq4_nl", &[1]),
    ("nf4-g64", &[2]),
    ("int4-g32-perm", &[9]),
];

#[test]
fn activations_are_prepared_once() {
    let (m, k) = (9, 128);
    on_each(|name, engine| {
        for activation in
            [Activation::Int8(Int8Group::Row), Activation::Int8(Int8Group::Cols(32)), fixed(0.03, -7)]
        {
            let x: Vec<f32> = (0..m * k).map(|i| ((i * 37) % 101) as f32 * 0.06 - 3.0).collect();
            let prepared = prepare(engine, &[3, 3, k], &x, activation);
            assert_eq!((prepared.shape(), prepared.activation()), (&[3, 3, k][..], activation));
            let x = engine.upload(&tensor(&[3, 3, k], &x)).unwrap();
            for s in ["int8-row", "nf4-g64"] {
                let w = data::packed(&scheme(s), &[20, k], false, &mut Random::new(3)).unwrap();
                let w = engine.upload_packed(&w).unwrap();
                let y = engine.matmul_int8(&prepared, &w, &MatmulOptions::default()).unwrap();
                assert_eq!(y.shape(), [3, 3, 20]);
                let at_once = read(&engine.matmul(&x, &w, &with(activation)).unwrap());
                assert_eq!(first_difference(&read(&y), &at_once), None, "{name}: {s} {activation:?}");
            }
        }
    });
}

/// Two layers: the first leaves codes, bias and ReLU included, that the second multiplies. All numbers are exact, so all codes are known.
#[test]
fn layers_chain_as_int8() {
    let (k, hidden, n) = (128, 67, 5);
    let (s_in, s_out) = (Int8Scale::new(1.0, 3).unwrap(), Int8Scale::new(2.0, -9).unwrap());
    let second = data::packed(&scheme("int8-row"), &[n, hidden], true, &mut Random::new(8)).unwrap();
    for (i, (s, rows)) in SCHEMES.into_iter().enumerate() {
        for &m in rows {
            let case = Exact::new(&scheme(s), m, hidden, k, 7 + i as u64);
            let bias: Vec<f32> = (0..hidden).map(|i| i as f32 - 30.0).collect();
            let product = Product { function: Function::Relu, ..Product::default() };
            let added = Added { bias: Some(&bias), residual: None };
            let y = matmul(&case.x, m, &case.w, added, &product).unwrap();
            let y: Vec<f32> = y.iter().map(|&v| v as f32).collect();
            let codes = int8_static(&y, s_out);
            let values: Vec<f32> = codes.iter().map(|&q| 2.0 * (f32::from(q) + 9.0)).collect();
            let want = exact_product(&values, m, &second, Added::default());
            on_each(|name, engine| {
                let x = prepare(engine, &[m, k], &case.x, Activation::Int8Static(s_in));
                let [w, second] = [&case.w, &second].map(|w| engine.upload_packed(w).unwrap());
                let options = MatmulOptions {
                    bias: Some(engine.upload(&tensor(&[hidden], &bias)).unwrap()),
                    function: Function::Relu,
                    ..MatmulOptions::default()
                };
                let y = engine.matmul_to_int8(&x, &w, &options, s_out).unwrap();
                let host = block_on(y.read()).unwrap();
                assert_eq!((host.shape, host.scales), (vec![m, hidden], vec![2.0]));
                assert!(host.codes == codes, "{name}: {s} M = {m}: codes differ");
                let y = engine.matmul_int8(&y, &second, &MatmulOptions::default()).unwrap();
                assert_eq!(first_difference(&read(&y), &want), None, "{name}: {s} M = {m}");
            });
        }
    }
}

/// Weights in parts, whose sums of rows are part by part, and outputs that begin in one part and end in another.
#[test]
fn split_weights_meet_zero_points() {
    let (n, k) = (160, 64);
    let (s_in, s_out) = (Int8Scale::new(1.0, 5).unwrap(), Int8Scale::new(0.5, 1).unwrap());
    let case = Exact::new(&scheme("q8_0"), 7, n, k, 4);
    let codes = int8_static(&case.y, s_out);
    for found in adapters() {
        let (name, engine) = (found.info.summary(), small_bindings(found, 4 << 10));
        let w = engine.upload_packed(&case.w).unwrap();
        assert!(w.bytes() > 8 << 10, "nothing is split");
        assert_exact(&name, &engine, &case, &with(Activation::Int8Static(s_in)));
        let x = prepare(&engine, &[7, k], &case.x, Activation::Int8Static(s_in));
        let y = engine.matmul_to_int8(&x, &w, &MatmulOptions::default(), s_out).unwrap();
        assert!(block_on(y.read()).unwrap().codes == codes, "{name}: codes differ");
    }
}

/// Sums of rows are made by the engine and not in an encoder that the application throws away.
#[test]
fn an_encoder_that_is_dropped_takes_nothing_along() {
    let case = Exact::new(&scheme("int8-row"), 3, 20, 64, 5);
    on_each_gpu(|name, engine| {
        let gpu = engine.gpu().unwrap();
        let (x, w) = (engine.upload(&case.x()).unwrap(), engine.upload_packed(&case.w).unwrap());
        let y = Theirs::new(engine, &[3, 20], DType::F32);
        for submitted in [false, true] {
            let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            engine.encode_matmul(&mut encoder, &x, &w, &y.array, &with(fixed(1.0, 4))).unwrap();
            if submitted {
                gpu.queue().submit([encoder.finish()]);
            }
        }
        assert_eq!(first_difference(&y.values(name, gpu), &case.y), None, "{name}");
    });
}

/// A row with a NaN or an infinity is NaN, the others are what they were; with a static scale NaN counts as 0.
#[test]
fn numbers_that_are_none_stay_in_their_row() {
    let (m, k, n) = (4, 64, 6);
    let case = Exact::new(&scheme("int8-row"), m, n, k, 6);
    on_each(|name, engine| {
        let w = engine.upload_packed(&case.w).unwrap();
        for group in [Int8Group::Row, Int8Group::Cols(32)] {
            let mut x = case.x.clone();
            (x[5], x[2 * k + 40]) = (f32::NAN, f32::NEG_INFINITY);
            let x = engine.upload(&tensor(&[m, k], &x)).unwrap();
            let y = read(&engine.matmul(&x, &w, &with(Activation::Int8(group))).unwrap());
            for (row, y) in y.chunks(n).enumerate() {
                let nan = row % 2 == 0;
                assert!(y.iter().all(|v| v.is_nan() == nan), "{name}: {group:?} row {row}: {y:?}");
            }
        }
        let mut x = case.x.clone();
        let zeroed = x.iter_mut().step_by(9).map(|v| std::mem::replace(v, f32::NAN)).count();
        assert!(zeroed > 0);
        let as_zero: Vec<f32> = x.iter().map(|v| if v.is_nan() { 0.0 } else { *v }).collect();
        let x = engine.upload(&tensor(&[m, k], &x)).unwrap();
        let y = read(&engine.matmul(&x, &w, &with(fixed(1.0, 100))).unwrap());
        let want = exact_product(&as_zero, m, &case.w, Added::default());
        assert_eq!(first_difference(&y, &want), None, "{name}");
    });
}

#[test]
fn what_is_no_int8_is_an_error() {
    on_each(|name, engine| {
        let up = |shape: &[usize]| engine.upload(&tensor(shape, &vec![1.0; shape.iter().product()])).unwrap();
        for activation in [Activation::F32, Activation::F16, Activation::Int8(Int8Group::Cols(7))] {
            let result = engine.quantize_activations(&up(&[2, 32]), activation);
            assert!(matches!(result, Err(Error::Unsupported { .. })), "{name}: {activation:?} {result:?}");
        }
        let row = Activation::Int8(Int8Group::Row);
        for shape in [&[][..], &[0, 32], &[2, 0]] {
            let result = engine.quantize_activations(&up(shape), row);
            assert!(matches!(result, Err(Error::Shape { .. })), "{name}: {shape:?} {result:?}");
        }
        let case = Exact::new(&scheme("int8-row"), 2, 4, 64, 6);
        let w = engine.upload_packed(&case.w).unwrap();
        let x = prepare(engine, &[2, 32], &[1.0; 64], row);
        let options = MatmulOptions::default();
        assert!(matches!(engine.matmul_int8(&x, &w, &options), Err(Error::Shape { .. })), "{name}");
        let to = Int8Scale::new(1.0, 0).unwrap();
        assert!(matches!(engine.matmul_to_int8(&x, &w, &options, to), Err(Error::Shape { .. })), "{name}");
        if !engine.is_cpu() {
            let foreign = Engine::cpu();
            let x = prepare(&foreign, &[2, 64], &[1.0; 128], row);
            assert!(matches!(engine.matmul_int8(&x, &w, &options), Err(Error::Unsupported { .. })), "{name}");
            for kernel in ["dot_matvec", "dot_matmul", "coop"] {
                let options = MatmulOptions { kernel: Some(kernel), ..MatmulOptions::default() };
                let result = engine.matmul(&up(&[2, 64]), &w, &options);
                assert!(matches!(result, Err(Error::Unsupported { .. })), "{name}: {kernel} {result:?}");
            }
        }
    });
}
