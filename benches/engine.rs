//! The engine's operations, timed on the CPU and on every adapter: verified against the reference first.
//!
//! ```text
//! cargo bench --bench engine                     all of it
//! cargo bench --bench engine -- --quick          in about two minutes
//! cargo bench --bench engine -- matvec           those with this in their name: ADAPTER/OPERATION/SCHEME/SIZE
//! cargo bench --bench engine -- --test           each once, small
//! ```
//!
//! | operation | what | bytes counted |
//! |---|---|---|
//! | quantize | [N, K] f32 from the host, packed on the device; waits for its status (wall time) | dense + packed |
//! | dequantize | to dense f32 on the device | packed + dense |
//! | matvec1, matvec8, product128 | M = 1, 8, 128 rows of x, F32 sums | packed + x + y |
//!
//! On GPUs a timestamp before and after many recorded operations; without timestamps, and on the CPU, the host's clock. Normal
//! random data. N = K = 4096, on software adapters 1024. At the end one table: median time, GB/s, GFLOP/s, and GB/s as a share of
//! what copying memory reaches on the same device; it also goes to `target/tmp/engine-bench.json`. Figures of one run are to be
//! compared with each other, not with another day's.

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use lowbit::gpu::{Clock, Target, adapter};
use lowbit::product::Product;
use lowbit::reference::{self, matmul};
use lowbit::selftest::data::Random;
use lowbit::{Array, DType, Engine, EngineOptions, MatmulOptions, PackedArray, PackedTensor, Scheme, Tensor};
use pollster::block_on;
use std::cell::{LazyCell, RefCell};
use std::hint::black_box;
use std::time::{Duration, Instant};

const SCHEMES: [&str; 7] = ["f32", "f16", "q8_0", "q4_0", "q4_k", "nf4-g64", "int4-g128"];
/// Compiling shaders is what takes time on software adapters.
const SOFTWARE_SCHEMES: [&str; 3] = ["f32", "q4_0", "q4_k"];
const TABLE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/engine-bench.json");

#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Quantize,
    Dequantize,
    Product(usize),
}

impl Operation {
    const ALL: [Self; 5] =
        [Self::Quantize, Self::Dequantize, Self::Product(1), Self::Product(8), Self::Product(128)];

    fn name(self) -> String {
        match self {
            Self::Quantize => "quantize".into(),
            Self::Dequantize => "dequantize".into(),
            Self::Product(m) => format!("{}{m}", if m <= 8 { "matvec" } else { "product" }),
        }
    }
}

/// One line of the table.
struct Row {
    device: String,
    name: String,
    clock: &'static str,
    seconds: f64,
    bytes: u64,
    flops: u64,
    copies: f64,
}

fn main() {
    let small = std::env::args().any(|a| a == "--test");
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut rows = Vec::new();
    for engine in engines() {
        let info = engine.info();
        let device = match engine.is_cpu() {
            true => format!("CPU {}", info.tier),
            false => format!("{} {}", info.name, info.backend),
        };
        let (size, schemes) = match (small, info.software) {
            (true, _) => (256, &SOFTWARE_SCHEMES[2..]),
            (false, true) => (1024, &SOFTWARE_SCHEMES[..]),
            (false, false) => (4096, &SCHEMES[..]),
        };
        let copies = LazyCell::new(|| copy_speed(&engine, if info.software { 16 << 20 } else { 64 << 20 }));
        let mut group = criterion.benchmark_group(device.replace('/', " "));
        for name in schemes {
            let scheme: Scheme = name.parse().expect("a scheme's name");
            let layer = LazyCell::new(|| Layer::new(&engine, scheme, size));
            for operation in Operation::ALL {
                let name = format!("{}/{name}/{size}x{size}", operation.name());
                rows.extend(bench(&mut group, &engine, &layer, operation, scheme, size, &name).map(
                    |(clock, seconds, bytes, flops)| Row {
                        device: device.clone(),
                        name,
                        clock,
                        seconds,
                        bytes,
                        flops,
                        copies: *copies,
                    },
                ));
            }
        }
        group.finish();
    }
    print(&rows);
    let json: Vec<_> = rows.iter().map(Row::json).collect();
    let text = serde_json::to_string_pretty(&json).expect("numbers and names");
    std::fs::write(TABLE, text).expect("the table can be written");
    criterion.final_summary();
}

/// The CPU engine and one for every adapter.
fn engines() -> Vec<Engine> {
    let mut all = vec![Engine::cpu()];
    for found in block_on(adapter::list()) {
        match block_on(Engine::open_adapter(&found.adapter, &EngineOptions::default())) {
            Ok(engine) => all.push(engine),
            Err(e) => println!("left out: {}: {e}", found.info.summary()),
        }
    }
    all
}

/// A quantized layer with its operands, made when a benchmark of it runs.
struct Layer {
    dense: Tensor,
    packed: PackedTensor,
    w: PackedArray,
}

impl Layer {
    fn new(engine: &Engine, scheme: Scheme, size: usize) -> Self {
        let mut rng = Random::new(1);
        let values = (0..size * size).map(|_| rng.normal()).collect();
        let dense = Tensor::from_f32([size, size], values).expect("a square");
        let w = block_on(engine.quantize(&dense, &scheme)).expect("numbers that can be quantized");
        let packed = block_on(w.read()).expect("a read");
        Self { dense, packed, w }
    }

    fn x(&self, engine: &Engine, m: usize) -> (Vec<f32>, Array) {
        let (_, k) = self.packed.matrix();
        let mut rng = Random::new(m as u64);
        let x: Vec<f32> = (0..m * k).map(|_| rng.normal()).collect();
        let array = Tensor::from_f32([m, k], x.clone()).and_then(|t| engine.upload(&t)).expect("activations");
        (x, array)
    }

    /// First, middle and last rows: what is verified.
    fn samples(&self) -> [std::ops::Range<usize>; 3] {
        let (n, _) = self.packed.matrix();
        [0..4, n / 2..n / 2 + 4, n - 4..n]
    }
}

/// Median time of an operation, by which clock, the bytes it touches and its floating-point operations. None if it was not to be run.
fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    engine: &Engine,
    layer: &LazyCell<Layer, impl FnOnce() -> Layer>,
    operation: Operation,
    scheme: Scheme,
    size: usize,
    name: &str,
) -> Option<(&'static str, f64, u64, u64)> {
    let m = if let Operation::Product(m) = operation { m } else { 0 };
    let packed = lowbit::scheme::Layout::new(&scheme, size, size).len();
    let dense = if m == 0 { size * size * 4 } else { 2 * m * size * 4 };
    let bytes = (packed + dense) as u64;
    let operands = LazyCell::new(|| {
        let (x, array) = layer.x(engine, m.max(1));
        verify(engine, layer, operation, &x, &array, name);
        array
    });
    let samples = RefCell::new(Vec::new());
    let clock = RefCell::new("wall");
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function(name, |b| {
        b.iter_custom(|iterations| {
            let (elapsed, by) = time(engine, layer, operation, &operands, iterations);
            samples.borrow_mut().push(elapsed.as_secs_f64() / iterations as f64);
            clock.replace(by);
            elapsed
        });
    });
    let mut samples = samples.into_inner();
    samples.sort_by(f64::total_cmp);
    let median = *samples.get(samples.len() / 2)?;
    Some((clock.into_inner(), median, bytes, (2 * m * size * size) as u64))
}

fn time(engine: &Engine, layer: &Layer, operation: Operation, x: &Array, n: u64) -> (Duration, &'static str) {
    let run = || -> lowbit::Result<()> {
        match operation {
            Operation::Quantize => {
                drop(block_on(engine.quantize(black_box(&layer.dense), layer.packed.scheme()))?)
            }
            Operation::Dequantize => drop(engine.dequantize(black_box(&layer.w), DType::F32)?),
            Operation::Product(_) => {
                drop(engine.matmul(black_box(x), black_box(&layer.w), &MatmulOptions::default())?)
            }
        }
        Ok(())
    };
    match engine.gpu() {
        Some(gpu) if operation != Operation::Quantize => {
            let ((), elapsed) =
                block_on(gpu.time(|| (0..n).try_for_each(|_| run()))).expect("the device holds out");
            (elapsed.time, if elapsed.clock == Clock::Gpu { "gpu" } else { "wall" })
        }
        _ => {
            let start = Instant::now();
            (0..n).try_for_each(|_| run()).expect("the engine holds out");
            (start.elapsed(), "wall")
        }
    }
}

/// Compares what is about to be timed with the reference, in first, middle and last rows of the weight.
///
/// Quantized codes are equal, or, in GGUF's formats (which divide), at most 1 of 200 is off by one, or off at all where the format searches. Dense weights are equal to the bit.
/// Products keep the bound of the self-test: `|y - ref| <= (chain + depth + 4) * 2^-24 * (sum of the magnitudes added up)`.
fn verify(engine: &Engine, layer: &Layer, operation: Operation, x: &[f32], x_array: &Array, name: &str) {
    let (n, k) = layer.packed.matrix();
    let scheme = layer.packed.scheme();
    let want_w = |rows: &std::ops::Range<usize>| layer.packed.slice_rows(rows.clone());
    match operation {
        Operation::Quantize => {
            let dense = layer.dense.to_f32();
            let (mut off, mut all) = (0, 0);
            for rows in layer.samples() {
                let part = &dense[rows.start * k..rows.end * k];
                let want = reference::quantize(part, rows.len(), k, *scheme, None).expect("finite numbers");
                let got = want_w(&rows);
                if got == want {
                    all += rows.len() * k;
                    continue;
                }
                assert!(scheme.ggml.is_some(), "{name}: rows {rows:?} differ from the reference");
                for at in 0..rows.len() * k {
                    let by = got.code(at / k, at % k).abs_diff(want.code(at / k, at % k));
                    assert!(by <= 1 || scheme.encoder.searches(), "{name}: a code is {by} off");
                    off += usize::from(by > 0);
                    all += 1;
                }
            }
            assert!(off * 200 <= all, "{name}: {off} of {all} codes are off");
        }
        Operation::Dequantize => {
            let y = engine.dequantize(&layer.w, DType::F32).and_then(|y| block_on(y.read())).expect("a read");
            let y = y.to_f32();
            for rows in layer.samples() {
                let want = reference::dequantize(&want_w(&rows));
                let same = want.iter().zip(&y[rows.start * k..]).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{name}: rows {rows:?} differ from the reference");
            }
        }
        Operation::Product(m) => {
            let options = MatmulOptions::default();
            let y =
                engine.matmul(x_array, &layer.w, &options).and_then(|y| block_on(y.read())).expect("a read");
            let (y, sum) = (y.to_f32(), engine.plan(m, &layer.w, &options).expect("it ran").summation);
            let steps = (sum.chain + sum.depth + 4) as f64 * f64::from(f32::EPSILON) / 2.0;
            for rows in layer.samples() {
                let (w, product) = (want_w(&rows), Product::default());
                let want = matmul::matmul(x, m, &w, Default::default(), &product).expect("operands that fit");
                let size =
                    matmul::magnitude(x, m, &w, Default::default(), &product).expect("operands that fit");
                for (i, (want, size)) in want.iter().zip(&size).enumerate() {
                    let got = f64::from(y[i / rows.len() * n + rows.start + i % rows.len()]);
                    let bound = 1.001 * steps * size;
                    // Written so that NaN fails.
                    assert!((got - want).abs() <= bound, "{name}: {got} instead of {want} +- {bound:e}");
                }
            }
        }
    }
}

/// Bytes per second, read and written, of copies on the device; on the CPU by all threads.
fn copy_speed(engine: &Engine, bytes: usize) -> f64 {
    const TIMES: usize = 8;
    let seconds = match engine.gpu() {
        Some(gpu) => {
            let [from, to] = [0, 1].map(|_| gpu.alloc_persistent(bytes as u64, "a copy").expect("memory"));
            let copy = || gpu.copy(&mut Target::Recorder, (&from, 0), (&to, 0), bytes as u64);
            block_on(gpu.time(copy)).expect("the device holds out");
            let many = || (0..TIMES).try_for_each(|_| copy());
            block_on(gpu.time(many)).expect("the device holds out").1.time.as_secs_f64()
        }
        None => {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let from = vec![1u8; bytes];
            let mut to = vec![0u8; bytes];
            let part = bytes.div_ceil(threads);
            let mut copy = || {
                std::thread::scope(|scope| {
                    for (to, from) in to.chunks_mut(part).zip(from.chunks(part)) {
                        scope.spawn(|| black_box(to).copy_from_slice(black_box(from)));
                    }
                })
            };
            copy();
            let start = Instant::now();
            (0..TIMES).for_each(|_| copy());
            start.elapsed().as_secs_f64()
        }
    };
    (2 * bytes * TIMES) as f64 / seconds
}

impl Row {
    fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "device": self.device,
            "benchmark": self.name,
            "clock": self.clock,
            "median_seconds": self.seconds,
            "bytes": self.bytes,
            "flops": self.flops,
            "gb_per_s": self.bytes_per_second() * 1e-9,
            "gflop_per_s": self.flops as f64 / self.seconds * 1e-9,
            "copy_gb_per_s": self.copies * 1e-9,
        })
    }
}

fn print(rows: &[Row]) {
    let mut device = "";
    for row in rows {
        if row.device != device {
            device = &row.device;
            println!("\n{device}: copies at {:.1} GB/s", row.copies * 1e-9);
            println!(
                "{:34} {:>5} {:>11} {:>9} {:>8} {:>9}",
                "benchmark", "clock", "ms", "GB/s", "of copy", "GFLOP/s"
            );
        }
        let rate = row.bytes_per_second();
        let flops = match row.flops {
            0 => String::new(),
            n => format!("{:.1}", n as f64 / row.seconds * 1e-9),
        };
        println!(
            "{:34} {:>5} {:11.4} {:9.3} {:7.0}% {flops:>9}",
            row.name,
            row.clock,
            row.seconds * 1e3,
            rate * 1e-9,
            rate / row.copies * 100.0
        );
    }
}
