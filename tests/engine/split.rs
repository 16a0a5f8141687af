//! Weights and activations larger than one binding: split silently, and right.
//!
//! ```text
//! the real limit     lavapipe, 128 MiB: 170 MB of q8_0
//! artificial limits  an application's device with bindings of KiBs: every kind of group, every operation, all adapters
//! ```

use super::own_device::{Theirs, small_bindings};
use super::*;

/// Every row of a weight of 170 MB is checked: it is put together from a few blocks whose products are known.
#[test]
fn weights_beyond_lavapipes_binding() {
    const BLOCK: usize = 64;
    let (n, k) = (40_000, 4096);
    let q8 = scheme("q8_0");
    let blocks: Vec<Exact> =
        (0..5).map(|i| Exact::new(&q8, 9, BLOCK, k, 0).with_weights(&q8, 100 + i)).collect();
    // In no regular order, so that rows that are off by anything show.
    let mut rng = Random::new(9);
    let order: Vec<usize> = (0..n / BLOCK).map(|_| rng.below(blocks.len())).collect();
    let mut w = PackedTensor::zeroed(q8, [n, k]).unwrap();
    for (i, &b) in order.iter().enumerate() {
        w.write_rows(i * BLOCK, &blocks[b].w);
    }
    for found in adapters().iter().filter(|f| is_lavapipe(f)) {
        let (name, engine) = (found.info.summary(), open(found));
        let limit = engine.gpu().unwrap().limits().max_storage_buffer_binding_size;
        assert!((w.data().len() as u64) > limit, "{name}: {limit}, nothing is split");
        let on_device = engine.upload_packed(&w).unwrap();
        for m in [1, 9] {
            let x = engine.upload(&tensor(&[m, k], &blocks[0].x[..m * k])).unwrap();
            let y = read(&engine.matmul(&x, &on_device, &MatmulOptions::default()).unwrap());
            for (row, y) in y.chunks(n).enumerate() {
                for (i, (&b, y)) in order.iter().zip(y.chunks(BLOCK)).enumerate() {
                    let want = &blocks[b].y[row * BLOCK..][..BLOCK];
                    assert_eq!(first_difference(y, want), None, "{name}: M = {m}, row {row}, block {i}");
                }
            }
        }
        assert!(block_on(on_device.read()).unwrap() == w, "{name}: read back");
    }
}

impl Exact {
    /// The same activations with other weights.
    fn with_weights(mut self, scheme: &Scheme, seed: u64) -> Self {
        let n = self.y.len() / self.m;
        self.w = data::packed(scheme, &[n, self.k], true, &mut Random::new(seed)).unwrap();
        self.y = exact_product(&self.x, self.m, &self.w, Added::default());
        self
    }
}

#[test]
fn quantization_in_parts() {
    // Scales per group in a thread, of long groups, per row, per tensor (extremes, both extremes, means), two-level, learned; other zeros,
    // columns that could move; none.
    let all = [
        "mxfp4",
        "int4-g500",
        "int8-row-asym",
        "int4-tensor",
        "int4-tensor-asym",
        "int1-tensor",
        "q4_k",
        "codebook4-g64",
        "codebook3-g32-tables",
        "int8-tensor-bias-bf16",
        "int4-tensor-fzero",
        "int5-g32-perm",
        "f16",
    ];
    for found in adapters() {
        let name = found.info.summary();
        let engine = small_bindings(found, 64 << 10);
        // One scheme, whose scale all parts share, on the slower adapters.
        let names = if is_lavapipe(found) { &all[..] } else { &all[4..5] };
        for scheme in names.iter().map(|n| scheme(n)) {
            // Rows of an odd length where the scheme has them: parts begin on multiples of 128 rows.
            let (rows, k) = if scheme.ggml.is_some() { (150, 256) } else { (700, 37) };
            let x = data::weights(&scheme, rows, k, &mut Random::new(4));
            assert!(x.len() * 4 > 64 << 10, "nothing is split");
            let quantized = block_on(engine.quantize(&tensor(&[rows, k], &x), &scheme)).unwrap();
            let got = block_on(quantized.read()).unwrap();
            let tables = got.learned_tables();
            let want = lowbit::reference::quantize(&x, rows, k, scheme, tables.as_deref()).unwrap();
            assert!(got == want, "{name}: {scheme}");
            let decoded = lowbit::reference::dequantize(&want);
            let y = read(&engine.dequantize(&quantized, DType::F32).unwrap());
            assert_eq!(first_difference(&y, &decoded), None, "{name}: {scheme}");
            if scheme.to_string() == "int4-tensor-asym" || scheme.is_permuted() {
                let y = read(&engine.dequantize(&quantized, DType::F16).unwrap());
                let rounded: Vec<f32> = decoded.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect();
                assert_eq!(first_difference(&y, &rounded), None, "{name}: {scheme} to f16");
            }
        }
        // A value that cannot be quantized is named by its index in the whole tensor.
        let mut x = vec![1.0; 700 * 37];
        x[25_000] = f32::NAN;
        match block_on(engine.quantize_named(&tensor(&[700, 37], &x), "w7", &scheme("int4-tensor-asym"))) {
            Err(lowbit::Error::NotRepresentable { tensor, index: 25_000, value, .. }) => {
                assert!(tensor == "w7" && value.is_nan(), "{name}")
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// Bindings of 4 KiB: 20 rows and more of the weights below, 16 rows of x, 6 of y.
const SMALL: u64 = 4 << 10;
const N: usize = 160;
const K: usize = 64;

/// Runs a test on engines with such bindings, shared by the tests so that a pipeline is compiled once.
fn on_small(test: impl Fn(&str, &Engine)) {
    static ENGINES: OnceLock<Vec<(String, Engine)>> = OnceLock::new();
    let open = || adapters().iter().map(|f| (f.info.summary(), small_bindings(f, SMALL))).collect();
    ENGINES.get_or_init(open).iter().for_each(|(name, engine)| test(name, engine));
}

/// Every split of w, of x, of y and of the residual: of one row, of a matvec that cannot take all its rows at once (4 and 3), of the tiled
/// product, and of the device's default.
#[test]
fn products_in_parts() {
    let q8 = scheme("q8_0");
    let one = Exact::new(&q8, 1, N, K, 11);
    assert!(one.w.data().len() as u64 > 2 * SMALL, "nothing is split");
    on_small(|name, engine| assert_exact(name, engine, &one, &MatmulOptions::default()));
    for (m, kernel) in [(7, None), (7, Some("matvec")), (333, None), (333, Some("matmul"))] {
        let case = Exact::new(&q8, m, N, K, 12);
        let bias: Vec<f32> = (0..N).map(|i| i as f32 - 20.0).collect();
        let residual: Vec<f32> = (0..m * N).map(|i| (i % 7) as f32 * 0.5).collect();
        let y = exact_product(&case.x, m, &case.w, Added { bias: Some(&bias), residual: Some(&residual) });
        let case = Exact { y, ..case };
        on_small(|name, engine| {
            let options = MatmulOptions {
                bias: Some(engine.upload(&tensor(&[N], &bias)).unwrap()),
                residual: Some(engine.upload(&tensor(&[m, N], &residual)).unwrap()),
                kernel,
                ..MatmulOptions::default()
            };
            assert_exact(name, engine, &case, &options);
            // A block that writes more rows than it has would reach the guard, or the rows of the next block.
            let (x, w) = (engine.upload(&case.x()).unwrap(), engine.upload_packed(&case.w).unwrap());
            let gpu = engine.gpu().unwrap();
            let y = Theirs::new(engine, &[m, N], DType::F32);
            let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            engine.encode_matmul(&mut encoder, &x, &w, &y.array, &options).unwrap();
            gpu.queue().submit([encoder.finish()]);
            assert_eq!(first_difference(&y.values(name, gpu), &case.y), None, "{name}: M = {m}");
        });
    }
}

/// f16 in, f16 out (converted, for these devices have no f16): in blocks too.
#[test]
fn f16_products_in_parts() {
    let case = Exact::new(&scheme("q8_0"), 50, N, K, 12);
    on_small(|name, engine| {
        let w = engine.upload_packed(&case.w).unwrap();
        let x = engine.upload(&half(&[50, K], &case.x)).unwrap();
        let y = read(&engine.matmul(&x, &w, &f16_options()).unwrap());
        assert_eq!(first_difference(&y, &case.y), None, "{name}");
    });
}

/// Every part has the permutation.
#[test]
fn permuted_weights_in_parts() {
    let case = Exact::new(&scheme("int5-g32-perm"), 7, N, K, 15);
    assert!(case.w.data().len() as u64 > SMALL, "nothing is split");
    let columns = case.w.permutation().unwrap();
    assert!(columns.iter().enumerate().any(|(j, &c)| j != c as usize), "nothing is permuted");
    let decoded = lowbit::reference::dequantize(&case.w);
    on_small(|name, engine| {
        assert_exact(name, engine, &case, &MatmulOptions::default());
        let w = engine.upload_packed(&case.w).unwrap();
        assert!(block_on(w.read()).unwrap() == case.w, "{name}: read back");
        let x = engine.upload(&half(&[7, K], &case.x)).unwrap();
        let y = read(&engine.matmul(&x, &w, &f16_options()).unwrap());
        assert_eq!(first_difference(&y, &case.y), None, "{name}: f16");
        // These numbers are f16 already.
        for dtype in [DType::F32, DType::F16] {
            let y = read(&engine.dequantize(&w, dtype).unwrap());
            assert_eq!(first_difference(&y, &decoded), None, "{name}: {dtype}");
        }
    });
}

#[test]
fn experts_across_parts() {
    let q8 = scheme("q8_0");
    let e = 4;
    let whole = data::packed(&q8, &[e, N, K], true, &mut Random::new(13)).unwrap();
    let x = data::activations(1, K, Some(K), &mut Random::new(14));
    on_small(|name, engine| {
        let (w, x_array) =
            (engine.upload_packed(&whole).unwrap(), engine.upload(&tensor(&[1, K], &x)).unwrap());
        for expert in 0..e {
            let want =
                exact_product(&x, 1, &whole.slice_rows(expert * N..(expert + 1) * N), Added::default());
            let options = MatmulOptions { expert: Some(expert), ..MatmulOptions::default() };
            let y = engine.matmul(&x_array, &w, &options).unwrap();
            assert_eq!(first_difference(&read(&y), &want), None, "{name}: expert {expert}");
        }
    });
}

#[test]
fn what_cannot_be_split_says_so() {
    for found in adapters() {
        let name = found.info.summary();
        let engine = small_bindings(found, 2 << 10);
        let too_large = |what: &str, result: lowbit::Result<()>| {
            assert!(matches!(result, Err(lowbit::Error::TooLarge { .. })), "{name}: {what}: {result:?}");
        };
        let long = PackedTensor::zeroed(scheme("f32"), [2, 1024]).unwrap();
        too_large("a row of weights", engine.upload_packed(&long).map(drop));
        let rows = tensor(&[2, 1024], &[1.0; 2048]);
        too_large("a row to quantize", block_on(engine.quantize(&rows, &scheme("q8_0"))).map(drop));
        let packed = |n, k| PackedTensor::zeroed(scheme("int4-g32"), [n, k]).unwrap();
        let w = engine.upload_packed(&packed(1, 1024)).unwrap();
        too_large("dequantized rows", engine.dequantize(&w, DType::F32).map(drop));
        let x = engine.upload(&tensor(&[1, 1024], &[1.0; 1024])).unwrap();
        too_large("a row of x", engine.matmul(&x, &w, &MatmulOptions::default()).map(drop));
        let w = engine.upload_packed(&packed(1024, 8)).unwrap();
        let x = engine.upload(&tensor(&[1, 8], &[1.0; 8])).unwrap();
        too_large("a row of y", engine.matmul(&x, &w, &MatmulOptions::default()).map(drop));
        // Rows of odd length lie on 256 bytes only every 128 rows.
        let w = engine.upload_packed(&packed(200, 33)).unwrap();
        too_large("dequantized odd rows", engine.dequantize(&w, DType::F32).map(drop));
        let x = engine.upload(&tensor(&[100, 33], &[1.0; 3300])).unwrap();
        too_large("odd rows of x", engine.matmul(&x, &w, &MatmulOptions::default()).map(drop));
    }
}
