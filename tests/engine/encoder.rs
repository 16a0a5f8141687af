//! The operations of a transformer encoder: recorded, in parts, for any batch, and errors. What they compute is `differential.rs`'s business.

use super::*;
use lowbit::{Array, Error, PackedArray, Result};

fn normal(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Random::new(seed);
    (0..n).map(|_| rng.normal()).collect()
}

/// Word and kind embeddings, a layer without its products, pooling: nothing runs before the read, which is one submit, and a second batch of the same shape makes no buffer.
#[test]
fn an_encoder_is_one_submit() {
    let (lengths, d, heads) = ([3, 1, 9], 64, 4);
    let mut rng = Random::new(40);
    let words = data::packed(&scheme("q8_0"), &[50, d], false, &mut rng).unwrap();
    let kinds = data::packed(&scheme("f16"), &[2, d], false, &mut rng).unwrap();
    let ids: Vec<u32> = (0..13).map(|t| t * 7 % 50).collect();
    let (gamma, beta) = (normal(d, 41), normal(d, 42));
    let mut all = Vec::new();
    let mut check = |name: &str, engine: &Engine| {
        let up = |shape: &[usize], v: &[f32]| engine.upload(&tensor(shape, v)).unwrap();
        let (words, kinds) = (engine.upload_packed(&words).unwrap(), engine.upload_packed(&kinds).unwrap());
        let (gamma, beta) = (up(&[d], &gamma), up(&[d], &beta));
        let encode = || -> Result<Array> {
            let mut x = engine.embed(&[(&words, &ids), (&kinds, &[1; 13])])?;
            for _ in 0..3 {
                x = engine.layer_norm(&x, &gamma, &beta, 1e-12)?;
                x = engine.attention(&x, &x, &x, &lengths, heads)?;
            }
            engine.normalize(&engine.mean_pool(&x, &lengths)?)
        };
        let first = read(&encode().unwrap());
        let before = engine.gpu().map(|g| g.stats());
        let y = encode().unwrap();
        assert_eq!(y.shape(), [3, d], "{name}");
        if let (Some(gpu), Some(before)) = (engine.gpu(), before) {
            let now = gpu.stats();
            assert_eq!((now.submits - before.submits, now.dispatches - before.dispatches), (0, 10), "{name}");
            assert_eq!(now.buffers_created, before.buffers_created, "{name}");
        }
        assert_eq!(bits(&read(&y)), bits(&first), "{name}: the same again");
        if let (Some(gpu), Some(before)) = (engine.gpu(), before) {
            assert_eq!(gpu.stats().submits - before.submits, 1, "{name}");
        }
        for row in first.chunks(d) {
            let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            assert!((norm - 1.0).abs() < 1e-5, "{name}: {norm}");
        }
        all.push(first);
    };
    check("CPU engine", &Engine::cpu());
    for found in adapters() {
        check(&found.info.summary(), &open(found));
    }
    for other in &all[1..] {
        let far = all[0].iter().zip(other).any(|(one, other)| (one - other).abs() > 1e-4);
        assert!(!far, "engines are of different minds: {:?} {other:?}", all[0]);
    }
}

/// A sentence comes out to the same bits in whatever company it is.
#[test]
fn sentences_do_not_meet() {
    let (lengths, d) = ([40, 1, 7, 33, 2], 96);
    let tokens: usize = lengths.iter().sum();
    let [q, k, v] = [43, 44, 45].map(|seed| normal(tokens * d, seed));
    on_each(|name, engine| {
        let up = |v: &[f32]| engine.upload(&tensor(&[v.len() / d, d], v)).unwrap();
        let together = engine.attention(&up(&q), &up(&k), &up(&v), &lengths, 3).unwrap();
        let (y, pooled) = (read(&together), read(&engine.mean_pool(&together, &lengths).unwrap()));
        let mut start = 0;
        for (length, pooled) in lengths.into_iter().zip(pooled.chunks(d)) {
            let range = start * d..(start + length) * d;
            let [q, k, v] = [&q, &k, &v].map(|all| up(&all[range.clone()]));
            let alone = engine.attention(&q, &k, &v, &[length], 3).unwrap();
            assert_eq!(first_difference(&read(&alone), &y[range]), None, "{name}: {length} tokens");
            let mean = read(&engine.mean_pool(&alone, &[length]).unwrap());
            assert_eq!(first_difference(&mean, pooled), None, "{name}: mean of {length} tokens");
            start += length;
        }
    });
}

#[test]
fn operands_of_any_rank_in_f16_too() {
    let (x, gamma, beta) = (normal(6 * 20, 46), normal(20, 47), normal(20, 48));
    let rounded = |v: &[f32]| v.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect::<Vec<_>>();
    on_each(|name, engine| {
        let up = |t: Tensor| engine.upload(&t).unwrap();
        let of_f16 = {
            let [x, gamma, beta] =
                [up(half(&[2, 3, 20], &x)), up(half(&[20], &gamma)), up(half(&[20], &beta))];
            engine.normalize(&engine.layer_norm(&x, &gamma, &beta, 1e-5).unwrap()).unwrap()
        };
        assert_eq!((of_f16.shape(), of_f16.dtype()), (&[2, 3, 20][..], DType::F32), "{name}");
        let of_f32 = {
            let wide = |shape: &[usize], v: &[f32]| up(tensor(shape, &rounded(v)));
            let [x, gamma, beta] = [wide(&[6, 20], &x), wide(&[20], &gamma), wide(&[20], &beta)];
            engine.normalize(&engine.layer_norm(&x, &gamma, &beta, 1e-5).unwrap()).unwrap()
        };
        assert_eq!(first_difference(&read(&of_f16), &read(&of_f32)), None, "{name}");
    });
}

/// Bindings of 32 KiB: tables of several parts, and rows of y in several dispatches.
#[test]
fn tables_and_rows_in_parts() {
    for found in adapters() {
        let name = found.info.summary();
        let engine = super::own_device::small_bindings(found, 32 << 10);
        for (scheme_name, d) in [("int4-g32-asym", 36), ("q8_0", 64), ("int5-g32-perm", 37)] {
            let scheme = scheme(scheme_name);
            let table = data::packed(&scheme, &[3000, d], true, &mut Random::new(49)).unwrap();
            let w = engine.upload_packed(&table).unwrap();
            assert!(w.bytes() > 64 << 10, "{name}: {scheme_name} is not split");
            // 300 rows of y are more than a binding.
            let ids: Vec<u32> = (0..300u32).map(|t| t * 487 % 3000).collect();
            let decoded = lowbit::reference::dequantize(&table);
            let row = |id: &u32| decoded[*id as usize * d..][..d].iter();
            let want: Vec<f32> = ids.iter().flat_map(row).map(|v| 2.0 * v).collect();
            let y = engine.embed(&[(&w, &ids), (&w, &ids)]).unwrap();
            assert_eq!(first_difference(&read(&y), &want), None, "{name}: {scheme_name}");
            // Rows of norm 1, or of zeros.
            for row in read(&engine.normalize(&y).unwrap()).chunks(d) {
                let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
                assert!((norm - 1.0).abs() < 1e-5 || norm == 0.0, "{name}: {norm}");
            }
        }
        let x = engine.upload(&tensor(&[300, 32], &normal(300 * 32, 50))).unwrap();
        match engine.mean_pool(&x, &[300]) {
            Err(Error::TooLarge { .. }) => {}
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn operands_that_do_not_fit() {
    let table = data::packed(&scheme("q8_0"), &[10, 32], false, &mut Random::new(51)).unwrap();
    let narrow = data::packed(&scheme("q8_0"), &[10, 64], false, &mut Random::new(52)).unwrap();
    on_each(|name, engine| {
        let up = |s: &[usize]| engine.upload(&tensor(s, &vec![1.0; s.iter().product()])).unwrap();
        let (w, other) = (engine.upload_packed(&table).unwrap(), engine.upload_packed(&narrow).unwrap());
        let shape = |what: &str, result: Result<Array>| {
            assert!(matches!(result, Err(Error::Shape { .. })), "{name}: {what}: {result:?}");
        };
        let embed = |tables: &[(&PackedArray, &[u32])]| engine.embed(tables);
        shape("no table", embed(&[]));
        shape("no ids", embed(&[(&w, &[])]));
        shape("an id beyond", embed(&[(&w, &[0, 10])]));
        shape("other ids", embed(&[(&w, &[0, 1]), (&w, &[0])]));
        shape("other columns", embed(&[(&w, &[0]), (&other, &[0])]));

        let x = up(&[6, 32]);
        let norm =
            |x: &Array, gamma: &[usize], beta: &[usize]| engine.layer_norm(x, &up(gamma), &up(beta), 1e-5);
        for bad in [&[31][..], &[1, 32], &[], &[32, 32]] {
            shape("gamma", norm(&x, bad, &[32]));
            shape("beta", norm(&x, &[32], bad));
        }
        shape("nothing to normalize", norm(&up(&[0, 32]), &[32], &[32]));
        for bad in [&[][..], &[0], &[3, 0]] {
            shape("nothing to normalize", engine.normalize(&up(bad)));
        }
        for eps in [0.0, -1e-5, f32::NAN, f32::INFINITY] {
            let result = engine.layer_norm(&x, &up(&[32]), &up(&[32]), eps);
            assert!(matches!(result, Err(Error::Unsupported { .. })), "{name}: eps {eps}: {result:?}");
        }

        for lengths in [&[5][..], &[7], &[], &[6, 0], &[2, 2, 3], &[usize::MAX, 7]] {
            shape(&format!("lengths {lengths:?}"), engine.attention(&x, &x, &x, lengths, 4));
            shape(&format!("lengths {lengths:?}"), engine.mean_pool(&x, lengths));
        }
        for bad in [&[192][..], &[2, 3, 32], &[0, 32], &[6, 0]] {
            shape(&format!("{bad:?}"), engine.attention(&up(bad), &up(bad), &up(bad), &[6], 4));
            shape(&format!("{bad:?}"), engine.mean_pool(&up(bad), &[6]));
        }
        for heads in [0, 3, 64, usize::MAX] {
            shape(&format!("{heads} heads"), engine.attention(&x, &x, &x, &[6], heads));
        }
        let wide = up(&[2, 514]);
        shape("heads of 257", engine.attention(&wide, &wide, &wide, &[2], 2));
        shape("k", engine.attention(&x, &up(&[5, 32]), &x, &[6], 4));
        shape("v", engine.attention(&x, &x, &up(&[6, 16]), &[6], 4));

        // None of this spoiled the engine.
        let y = read(&engine.attention(&x, &x, &x, &[2, 4], 4).unwrap());
        assert_eq!(first_difference(&y, &vec![1.0; 6 * 32]), None, "{name}");
    });
    let (cpu, found) = (Engine::cpu(), adapters().first());
    if let Some(gpu) = found.map(open) {
        let x = |engine: &Engine| engine.upload(&tensor(&[2, 4], &[1.0; 8])).unwrap();
        for (one, other) in [(&cpu, &gpu), (&gpu, &cpu)] {
            let (theirs, ours) = (x(other), x(one));
            let foreign = |result: Result<Array>| {
                assert!(matches!(result, Err(Error::Unsupported { .. })), "{result:?}")
            };
            foreign(one.normalize(&theirs));
            foreign(one.mean_pool(&theirs, &[2]));
            foreign(one.attention(&ours, &ours, &theirs, &[2], 1));
            foreign(one.embed(&[(&other.upload_packed(&table).unwrap(), &[0])]));
        }
    }
}
