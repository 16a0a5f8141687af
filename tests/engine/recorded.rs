//! Operations are recorded and submitted by a read; what runs is what was planned, and gives the same bits each time.

use super::*;
use lowbit::Error;
use lowbit::engine::Origin;

/// x -> gelu(x w1 + b) -> + residual -> relu: three products and one submit.
#[test]
fn a_chain_of_products_is_one_submit() {
    let mut rng = Random::new(5);
    let (m, k, h, n) = (3, 64, 96, 32);
    let mut weights = |name: &str, n, k| data::packed(&scheme(name), &[n, k], false, &mut rng).unwrap();
    let (w1, w2, w3) = (weights("q8_0", h, k), weights("q4_0", n, h), weights("q4_0", h, n));
    let x = data::activations(m, k, None, &mut rng);
    let bias: Vec<f32> = (0..h).map(|_| rng.normal()).collect();
    let residual: Vec<f32> = (0..m * n).map(|_| rng.normal()).collect();

    let check = |name: &str, engine: &Engine| {
        let up = |shape: &[usize], v: &[f32]| engine.upload(&tensor(shape, v)).unwrap();
        let x_array = up(&[m, k], &x);
        let first = MatmulOptions {
            function: Function::Gelu,
            bias: Some(up(&[h], &bias)),
            ..MatmulOptions::default()
        };
        let second = MatmulOptions { residual: Some(up(&[m, n], &residual)), ..MatmulOptions::default() };
        let third = MatmulOptions { function: Function::Relu, ..MatmulOptions::default() };
        let packed = [&w1, &w2, &w3].map(|w| engine.upload_packed(w).unwrap());
        let before = engine.gpu().map(|g| g.stats());
        let y1 = engine.matmul(&x_array, &packed[0], &first).unwrap();
        let y2 = engine.matmul(&y1, &packed[1], &second).unwrap();
        let y3 = engine.matmul(&y2, &packed[2], &third).unwrap();
        if let (Some(gpu), Some(before)) = (engine.gpu(), before) {
            let now = gpu.stats();
            assert_eq!((now.submits - before.submits, now.dispatches - before.dispatches), (0, 3), "{name}");
        }
        let got = read(&y3);
        if let (Some(gpu), Some(before)) = (engine.gpu(), before) {
            assert_eq!(gpu.stats().submits - before.submits, 1, "{name}");
        }

        // Each layer's reference starts from the reference of the one before, so its bound carries that one's along.
        let mut reference = (x.clone(), 0.0, Vec::new(), Vec::new());
        for (i, (w, options, added)) in [
            (&w1, &first, Added { bias: Some(&bias), residual: None }),
            (&w2, &second, Added { bias: None, residual: Some(&residual) }),
            (&w3, &third, Added::default()),
        ]
        .into_iter()
        .enumerate()
        {
            let plan = engine.plan(m, &packed[i], options).unwrap();
            let product = options.product();
            let want = matmul(&reference.0, m, w, added, &product).unwrap();
            let bounds = bounds(&plan, &reference.0, m, w, added, &product, reference.1);
            // Rounding the reference to f32 for the next layer adds half a unit.
            let worst = bounds
                .iter()
                .zip(&want)
                .map(|(b, w)| b + w.abs() * f64::from(f32::EPSILON))
                .fold(0.0, f64::max);
            reference = (want.iter().map(|&v| v as f32).collect(), worst, want, bounds);
        }
        assert_within(name, &got, &reference.2, &reference.3);
    };
    check("CPU engine", &Engine::cpu());
    for found in adapters() {
        check(&found.info.summary(), &open(found));
    }
}

#[test]
fn the_same_inputs_give_the_same_bits() {
    let mut rng = Random::new(6);
    let q8 = scheme("q8_0");
    let w = data::packed(&q8, &[96, 64], false, &mut rng).unwrap();
    let dense = tensor(&[70, 64], &data::weights(&q8, 70, 64, &mut rng));
    for m in [3, 33] {
        let x = tensor(&[m, 64], &data::activations(m, 64, None, &mut rng));
        on_each(|name, engine| {
            let run = || {
                let (x, w) = (engine.upload(&x).unwrap(), engine.upload_packed(&w).unwrap());
                read(&engine.matmul(&x, &w, &MatmulOptions::default()).unwrap())
            };
            let first = bits(&run());
            (0..3).for_each(|_| assert_eq!(bits(&run()), first, "{name}, M = {m}"));
        });
    }
    on_each(|name, engine| {
        let run = || block_on(block_on(engine.quantize(&dense, &q8)).unwrap().read()).unwrap();
        let first = run();
        (0..3).for_each(|_| assert!(run() == first, "{name}"));
    });
}

#[test]
fn the_plan_is_what_runs() {
    let q8 = scheme("q8_0");
    for found in adapters() {
        let (name, engine) = (found.info.summary(), open(found));
        let gpu = engine.gpu().unwrap();
        for m in [3, 33] {
            let case = Exact::new(&q8, m, 96, 64, 7);
            let w = engine.upload_packed(&case.w).unwrap();
            assert_exact(&name, &engine, &case, &MatmulOptions::default());
            let plan = engine.plan(m, &w, &MatmulOptions::default()).unwrap();
            let expected = match found.info.software {
                true => "direct",
                false if m <= 8 => "matvec",
                false => "matmul",
            };
            assert_eq!(plan.kernel, expected, "{name}: {plan}");
            // Pinning the planned kernel compiles nothing: it is the pipeline that has just run.
            let compiled = gpu.stats().pipelines_compiled;
            let pinned = MatmulOptions { kernel: Some(plan.variant), ..MatmulOptions::default() };
            assert_exact(&name, &engine, &case, &pinned);
            let again = engine.plan(m, &w, &pinned).unwrap();
            assert_eq!((plan.origin, again.origin), (Origin::Default, Origin::Pinned), "{name}");
            assert_eq!(again.detail, plan.detail, "{name}");
            assert_eq!(
                again,
                Plan { origin: again.origin, why: again.why.clone(), ..plan.clone() },
                "{name}"
            );
            assert_eq!(gpu.stats().pipelines_compiled, compiled, "{name}, {plan}");
            // Another kernel is another pipeline.
            let other = MatmulOptions {
                kernel: Some(if found.info.software { "matmul:64x64" } else { "matmul:32x32" }),
                ..MatmulOptions::default()
            };
            assert_exact(&name, &engine, &case, &other);
            let now = gpu.stats().pipelines_compiled;
            assert_eq!(now, compiled + u64::from(m == 3), "{name}: compiled once for both M");
            assert_ne!(engine.plan(m, &w, &other).unwrap().detail, plan.detail, "{name}");
        }
    }
}

/// An expert is a matrix of its own, and what has no elements, or more than can be counted, is no product.
#[test]
fn plans_are_of_the_matrix_that_is_multiplied() {
    let q4 = scheme("q4_0");
    let of_expert = MatmulOptions { expert: Some(1), ..MatmulOptions::default() };
    let split = MatmulOptions { kernel: Some("matvec:split"), ..MatmulOptions::default() };
    for found in adapters() {
        let (name, engine) = (found.info.summary(), open(found));
        let experts = PackedTensor::zeroed(q4, [128, 16, 8192]).unwrap();
        let experts = engine.upload_packed(&experts).unwrap();
        let options = MatmulOptions { expert: of_expert.expert, ..split.clone() };
        let one = engine.plan_of([1, 16, 8192], &q4, &split).unwrap();
        let all = engine.plan_of([1, 128 * 16, 8192], &q4, &split).unwrap();
        assert_eq!(engine.plan(1, &experts, &options).unwrap(), one, "{name}");
        assert_eq!(engine.plan(1, &experts, &split).unwrap(), all, "{name}");
        assert_ne!(one.detail, all.detail, "{name}: the number of parts follows from N");
        for kernel in [None, Some("direct"), Some("matvec:split"), Some("matmul:64x64:split")] {
            let options = MatmulOptions { kernel, ..MatmulOptions::default() };
            for size in [[0, 64, 64], [1, 0, 64], [1, 64, 0], [usize::MAX, usize::MAX, 64]] {
                assert!(matches!(engine.plan_of(size, &q4, &options), Err(Error::Shape { .. })), "{size:?}");
                assert!(engine.explain(size, &q4, &options).is_err(), "{size:?}");
            }
        }
    }
}

#[test]
fn the_cpu_plans_itself() {
    let engine = Engine::cpu();
    let w = engine.upload_packed(&PackedTensor::zeroed(scheme("q4_0"), [4, 64]).unwrap()).unwrap();
    let plan = engine.plan(5, &w, &MatmulOptions::default()).unwrap();
    assert_eq!((plan.kernel, plan.origin), ("cpu", Origin::Default));
    assert!(engine.is_cpu() && engine.gpu().is_none() && engine.info().backend == "cpu");
    engine.submit().unwrap();
}
