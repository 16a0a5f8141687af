//! Where to run what every engine has to do.

use crate::common::under_ci;
use lowbit::engine::Tune;
use lowbit::gpu::adapter;
use lowbit::{Engine, EngineOptions};
use pollster::block_on;

/// The CPU engine, and the first adapter there is.
pub fn engines() -> Vec<Engine> {
    let mut all = vec![Engine::cpu()];
    let found = block_on(adapter::list());
    match found.first() {
        Some(first) => {
            let options = EngineOptions { tune: Tune::Off, ..EngineOptions::default() };
            all.push(block_on(Engine::open_adapter(&first.adapter, &options)).unwrap());
        }
        None => {
            assert!(!under_ci(), "no adapter under CI");
            println!("NOT COVERED: there is no adapter on this machine");
        }
    }
    all
}
