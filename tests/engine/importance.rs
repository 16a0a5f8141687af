//! Searches with an importance of columns: the devices beside ggml's bytes and the reference.
//!
//! A device may choose another scale near a tie, so codes that differ are counted and printed, and what they cost is bounded: the
//! signal-to-noise ratio, squares weighed by the importance, is within 0.02 dB.

use super::own_device::small_bindings;
use super::{adapters, block_on, is_lavapipe, on_each_gpu, scheme, tensor};
use lowbit::file::ggml;
use lowbit::reference::{dequantize, quantize_weighted};
use lowbit::selftest::data::{self, Random};
use lowbit::{Engine, PackedTensor};
use safetensors::SafeTensors;

/// Squared errors as a share of each row's squares, both weighed.
fn noise(x: &[f32], importance: &[f32], w: &PackedTensor) -> f64 {
    let (rows, k) = w.matrix();
    let decoded = dequantize(w);
    let of_matrix = rows * k / importance.len();
    let squares = |c: &[f32], at: &dyn Fn(usize) -> f64| -> f64 {
        c.iter().enumerate().map(|(i, c)| f64::from(*c) * at(i).powi(2)).sum()
    };
    let shares = (0..rows).map(|row| {
        let (x, w) = (&x[row * k..][..k], &decoded[row * k..][..k]);
        let c = &importance[row / of_matrix * k..][..k];
        let signal = squares(c, &|i| f64::from(x[i]));
        let error = squares(c, &|i| f64::from(x[i]) - f64::from(w[i]));
        if error == 0.0 { 0.0 } else { error / signal }
    });
    shares.sum()
}

/// Quantizes on the engine, compares with `want` and returns how many codes differ.
fn compare(engine: &Engine, what: &str, x: &[f32], importance: &[f32], want: &PackedTensor) -> usize {
    let dense = tensor(want.shape(), x);
    let got = block_on(engine.quantize_weighted(&dense, "w", want.scheme(), importance)).expect(what);
    let got = block_on(got.read()).expect(what);
    let (ours, theirs) = (noise(x, importance, &got), noise(x, importance, want));
    let decibels = 10.0 * (ours / theirs).log10();
    // Written so that NaN fails.
    assert!(decibels.abs() <= 0.02, "{what}: {decibels} dB");
    let (rows, k) = want.matrix();
    let differ =
        |w: &PackedTensor| (0..rows * k).filter(|i| w.code(i / k, i % k) != want.code(i / k, i % k)).count();
    let plain = block_on(block_on(engine.quantize(&dense, want.scheme())).expect(what).read()).expect(what);
    assert!(differ(&got) < differ(&plain), "{what}: as near without importance");
    differ(&got)
}

#[test]
fn devices_give_ggmls_blocks() {
    let read = |name: &str| std::fs::read(format!("tests/data/{name}.safetensors")).unwrap();
    let (plain, weighted) = (read("golden"), read("golden_importance"));
    let (plain, weighted) =
        (SafeTensors::deserialize(&plain).unwrap(), SafeTensors::deserialize(&weighted).unwrap());
    let f32s = |file: &SafeTensors, name: &str| -> Vec<f32> {
        file.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    };
    let importance = f32s(&weighted, "importance");
    on_each_gpu(|adapter, engine| {
        let (mut differ, mut codes) = (0, 0);
        for name in weighted.names().into_iter().filter(|name| name.ends_with(".packed")) {
            let (matrix, rest) = name.split_once('.').unwrap();
            let scheme = scheme(&rest.trim_end_matches(".packed").to_lowercase());
            let x = f32s(&plain, &format!("{matrix}.f32"));
            let golden = weighted.tensor(name).unwrap();
            let want = ggml::unpack(scheme, &[x.len() / 256, 256], golden.data()).unwrap();
            differ += compare(engine, &format!("{adapter}: {name}"), &x, &importance, &want);
            codes += x.len();
        }
        assert_eq!(codes, 2 * 11 * 8 * 256, "every type that weighs");
        println!("{adapter}: {differ} of {codes} codes are not ggml's");
    });
}

/// A part begins in the middle of a matrix.
#[test]
fn parts_find_their_rows_of_the_importance() {
    for found in adapters().iter().filter(|found| is_lavapipe(found)) {
        let engine = small_bindings(found, 64 << 10);
        for scheme in ["q4_0", "q4_k"].map(scheme) {
            let (matrices, rows, k) = (3, 50, 256);
            let mut rng = Random::new(7);
            let mut x = data::weights(&scheme, matrices * rows, k, &mut rng);
            data::off_the_edge(&mut x);
            let importance = data::importance(matrices, k, &mut rng);
            let mut want = PackedTensor::zeroed(scheme, [matrices, rows, k]).unwrap();
            for (i, (x, c)) in x.chunks(rows * k).zip(importance.chunks(k)).enumerate() {
                want.write_rows(i * rows, &quantize_weighted(x, rows, k, scheme, c).unwrap());
            }
            compare(&engine, &format!("{scheme} in parts"), &x, &importance, &want);
        }
    }
}
