//! What a recorded product costs the host: its time, and what is created for it.

use super::*;
use lowbit::gpu::Stats;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

const PRODUCTS: u32 = 1000;
const BATCHES: u32 = 20;

/// Once everything has run, products come without new buffers, uniforms, bind groups and pipelines, and each costs the host less than 10 us.
///
/// The time is that of recording and of the submissions in between (one every 256 dispatches), without the wait: the processor time of
/// this thread, because a software adapter computes on the same cores meanwhile. It holds for optimized builds, and not for OpenGL, whose
/// drivers carry out commands on the thread that submits them.
#[test]
fn a_recorded_product_costs_little_and_creates_nothing() {
    for found in adapters() {
        let (name, engine) = (found.info.summary(), open(found));
        let gpu = engine.gpu().unwrap();
        let case = Exact::new(&scheme("q4_0"), 1, 64, 64, 11);
        let w = engine.upload_packed(&case.w).unwrap();
        let x = engine.upload(&case.x()).unwrap();
        let options = MatmulOptions::default();
        let product = || engine.matmul(&x, &w, &options).unwrap();
        assert_eq!(first_difference(&read(&product()), &case.y), None, "{name}");
        let batch = || {
            let start = processor_time();
            (0..PRODUCTS).for_each(|_| drop(product()));
            let taken = processor_time() - start;
            engine.submit().unwrap();
            gpu.wait().unwrap();
            taken
        };
        batch();
        let before = gpu.stats();
        // Some systems count in steps of milliseconds.
        let each = (0..BATCHES).map(|_| batch()).sum::<Duration>() / (BATCHES * PRODUCTS);
        let now = gpu.stats();
        let created =
            |s: Stats| [s.buffers_created, s.uniforms_created, s.groups_created, s.pipelines_compiled];
        assert_eq!(created(now), created(before), "{name}: something is created for each product");
        assert_eq!(now.dispatches - before.dispatches, u64::from(PRODUCTS * BATCHES), "{name}");
        println!("{name}: a recorded product of 1x64x64 costs the host {each:?}");
        if !cfg!(debug_assertions) && found.info.backend != wgpu::Backend::Gl {
            assert!(each < Duration::from_micros(10), "{name}: {each:?}");
        }
    }
}

/// What this thread has computed so far; the time of day where the system does not tell in a file.
fn processor_time() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanoseconds.map_or_else(|| START.elapsed(), Duration::from_nanos)
}
