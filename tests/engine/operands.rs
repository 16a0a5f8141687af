//! Shapes, types and threads that meet in one engine.

use super::*;

const fn shared<T: Send + Sync + Clone>() {}
const _: () = shared::<Engine>();
const _: () = shared::<lowbit::Array>();
const _: () = shared::<lowbit::PackedArray>();

#[test]
fn experts_are_matrices_of_their_own() {
    let q8 = scheme("q8_0");
    let x = data::activations(3, 64, Some(64), &mut Random::new(21));
    // Two leading dimensions count in row-major order.
    for lead in [&[4][..], &[2, 2]] {
        let shape = [lead, &[96, 64]].concat();
        let whole = data::packed(&q8, &shape, true, &mut Random::new(22)).unwrap();
        on_each(|name, engine| {
            let w = engine.upload_packed(&whole).unwrap();
            assert_eq!(w.shape(), shape, "{name}");
            let x_array = engine.upload(&tensor(&[3, 64], &x)).unwrap();
            let product =
                |expert| engine.matmul(&x_array, &w, &MatmulOptions { expert, ..MatmulOptions::default() });
            for e in 0..4 {
                let want = exact_product(&x, 3, &whole.slice_rows(e * 96..(e + 1) * 96), Added::default());
                let y = product(Some(e)).unwrap();
                assert_eq!(
                    (y.shape(), first_difference(&read(&y), &want)),
                    (&[3, 96][..], None),
                    "{name} {e}"
                );
            }
            for e in [4, usize::MAX] {
                assert!(matches!(product(Some(e)), Err(lowbit::Error::Shape { .. })), "{name} {e}");
            }
            // Without an expert all rows count.
            let (y, want) = (product(None).unwrap(), exact_product(&x, 3, &whole, Added::default()));
            assert_eq!((y.shape(), first_difference(&read(&y), &want)), (&[3, 384][..], None), "{name}");
            let decoded = engine.dequantize(&w, DType::F32).unwrap();
            assert_eq!(decoded.shape(), shape, "{name}");
            assert!(block_on(w.read()).unwrap() == whole, "{name}");
        });
    }
}

#[test]
fn any_rank_of_x_and_a_weight_of_one_row() {
    let q8 = scheme("q8_0");
    let matrix = Exact::new(&q8, 6, 96, 64, 23);
    let row = data::packed(&q8, &[64], true, &mut Random::new(24)).unwrap();
    on_each(|name, engine| {
        let (w, one) = (engine.upload_packed(&matrix.w).unwrap(), engine.upload_packed(&row).unwrap());
        for (x_shape, y_shape) in
            [(vec![64], vec![96]), (vec![2, 3, 64], vec![2, 3, 96]), (vec![6, 64], vec![6, 96])]
        {
            let m = x_shape.iter().product::<usize>() / 64;
            let x = engine.upload(&tensor(&x_shape, &matrix.x[..m * 64])).unwrap();
            let y = engine.matmul(&x, &w, &MatmulOptions::default()).unwrap();
            assert_eq!(y.shape(), y_shape, "{name}");
            assert_eq!(first_difference(&read(&y), &matrix.y[..m * 96]), None, "{name}");
            let y =
                engine.matmul(&x, &one, &MatmulOptions { expert: Some(0), ..Default::default() }).unwrap();
            let want = exact_product(&matrix.x[..m * 64], m, &row, Added::default());
            assert_eq!(*y.shape().last().unwrap(), 1, "{name}");
            assert_eq!(first_difference(&read(&y), &want), None, "{name}");
        }
    });
}

/// x, bias and residual as f16, y as f16 of an odd size, which is then x of another product: on the best tier and on the portable one.
#[test]
fn f16_operands_of_odd_sizes() {
    let int4 = scheme("int4-g32-asym");
    let (m, n, k) = (3, 41, 70);
    let first = Exact::new(&int4, m, n, k, 25);
    let bias: Vec<f32> = (0..n).map(|i| i as f32 * 0.5 - 10.0).collect();
    let residual: Vec<f32> = (0..m * n).map(|i| (i % 7) as f32).collect();
    let y1 = exact_product(&first.x, m, &first.w, Added { bias: Some(&bias), residual: Some(&residual) });
    assert!(y1.iter().all(|v| half::f16::from_f32(*v).to_f32() == *v), "f16 holds the result");
    let second = data::packed(&int4, &[7, n], true, &mut Random::new(26)).unwrap();
    let y2 = exact_product(&y1, m, &second, Added::default());

    let check = |name: &str, engine: &Engine| {
        let up = |t: Tensor| engine.upload(&t).unwrap();
        let options = MatmulOptions {
            bias: Some(up(half(&[n], &bias))),
            residual: Some(up(half(&[m, n], &residual))),
            ..f16_options()
        };
        let (w1, w2) = (engine.upload_packed(&first.w).unwrap(), engine.upload_packed(&second).unwrap());
        let y = engine.matmul(&up(half(&[m, k], &first.x)), &w1, &options).unwrap();
        let z = engine.matmul(&y, &w2, &MatmulOptions::default()).unwrap();
        let host = block_on(y.read()).unwrap();
        assert_eq!((host.dtype(), host.shape()), (DType::F16, &[m, n][..]), "{name}");
        assert_eq!(first_difference(&host.to_f32(), &y1), None, "{name}");
        assert_eq!(first_difference(&read(&z), &y2), None, "{name}");
        // f32 activations that are to be rounded first.
        let rounded = MatmulOptions { activation: lowbit::product::Activation::F16, ..options.clone() };
        let y = engine.matmul(&up(first.x()), &w1, &rounded).unwrap();
        assert_eq!(first_difference(&read(&y), &y1), None, "{name}");
        let d = engine.dequantize(&w1, DType::F16).unwrap();
        let want = lowbit::reference::dequantize(&first.w);
        assert_eq!((d.dtype(), first_difference(&read(&d), &want)), (DType::F16, None), "{name}");
    };
    on_each(check);
    for found in adapters() {
        let engine = open_with(found, Disable::all());
        assert_eq!(engine.info().tier, "f32");
        check(&format!("{}, portable tier", found.info.summary()), &engine);
    }
}

#[test]
fn bf16_tensors_are_widened() {
    let values = [1.0f32, -2.5, 0.0, 65280.0];
    let bytes = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    let t = Tensor::from_bytes([2, 2], DType::Bf16, bytes).unwrap();
    on_each(|name, engine| {
        let a = engine.upload(&t).unwrap();
        assert_eq!((a.dtype(), read(&a)), (DType::F32, values.to_vec()), "{name}");
        let empty = engine.upload(&tensor(&[0, 5], &[])).unwrap();
        assert_eq!(block_on(empty.read()).unwrap(), tensor(&[0, 5], &[]), "{name}");
    });
}

/// Eight threads with all operations on one engine; what each reads is its own.
#[test]
fn threads_share_an_engine() {
    let q8 = scheme("q8_0");
    let cases: Vec<Exact> = (0..4).map(|i| Exact::new(&q8, [3, 33][i % 2], 96, 64, 30 + i as u64)).collect();
    let decoded: Vec<_> = cases.iter().map(|c| lowbit::reference::dequantize(&c.w)).collect();
    on_each(|name, engine| {
        let weights: Vec<_> = cases.iter().map(|c| engine.upload_packed(&c.w).unwrap()).collect();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (engine, cases, weights, decoded) = (engine.clone(), &cases, &weights, &decoded);
                scope.spawn(move || {
                    for round in 0..12 {
                        let i = (thread + round) % 4;
                        let case = &cases[i];
                        match (thread + round / 4) % 3 {
                            0 => assert_exact(name, &engine, case, &MatmulOptions::default()),
                            1 => {
                                let x = engine.upload(&case.x()).unwrap();
                                let y = engine.matmul(&x, &weights[i], &MatmulOptions::default()).unwrap();
                                let d = engine.dequantize(&weights[i], DType::F32).unwrap();
                                drop(x);
                                assert_eq!(first_difference(&read(&d), &decoded[i]), None, "{name}");
                                assert_eq!(first_difference(&read(&y), &case.y), None, "{name}");
                            }
                            _ => {
                                // Weights that are multiples of their scale come back as they are.
                                let dense = tensor(&[96, 64], &decoded[i]);
                                let f32_weights = block_on(engine.quantize(&dense, &scheme("f32"))).unwrap();
                                assert_eq!(
                                    lowbit::reference::dequantize(&block_on(f32_weights.read()).unwrap()),
                                    decoded[i],
                                    "{name}"
                                );
                            }
                        }
                    }
                });
            }
        });
    });
}
