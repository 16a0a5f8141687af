//! The host's clock, natively and in browsers, where `std::time::Instant` is not.

use std::time::Duration;

/// The time since some moment that stays the same.
#[cfg(not(target_arch = "wasm32"))]
pub fn now() -> Duration {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

/// The time since the page was opened, by `performance.now`; to the millisecond where there is none.
#[cfg(target_arch = "wasm32")]
pub fn now() -> Duration {
    use wgpu::web_sys::js_sys::{Date, Function, Reflect, global};
    use wgpu::web_sys::wasm_bindgen::JsCast;
    let milliseconds = || {
        let performance = Reflect::get(&global(), &"performance".into()).ok()?;
        let now = Reflect::get(&performance, &"now".into()).ok()?;
        now.dyn_ref::<Function>()?.call0(&performance).ok()?.as_f64()
    };
    Duration::from_secs_f64(milliseconds().unwrap_or_else(Date::now) * 1e-3)
}
