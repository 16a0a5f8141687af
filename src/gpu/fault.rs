//! Errors of the device, turned into values.
//!
//! ```text
//! error scope around a call of ours ──> the call's own Err
//! uncaptured-error and device-lost handlers (own devices only) ──> Faults ──> the next call's Err
//! ```
//!
//! wgpu's default handler panics, and an application's device has handlers of its own that are not ours to replace:
//! hence the scopes. Natively a scope belongs to the thread and its result is there as soon as it is popped; in a
//! browser the result arrives later and waits in [`Faults`] for the next read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Locks a mutex whose content stays valid even if a holder panicked.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One OpenGL call at a time, in the whole process: an adapter's devices share one context, and wgpu panics when it has waited for
/// it for some seconds, which a shader on a software adapter may take to compile. Other backends do without. Buffers that are
/// dropped do not come by here.
pub(super) fn turn(backend: wgpu::Backend) -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    (backend == wgpu::Backend::Gl).then(|| lock(&TURN))
}

/// What went wrong outside of the call that caused it.
#[derive(Default)]
pub(super) struct Faults {
    pub slot: Slot,
    #[cfg(target_arch = "wasm32")]
    pending: Mutex<Vec<PendingScope>>,
}

/// Where a device's handlers leave what they hear. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    lost: Option<String>,
    other: Option<Error>,
}

#[cfg(target_arch = "wasm32")]
struct PendingScope {
    what: String,
    bytes: u64,
    result: std::pin::Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>,
}

impl Slot {
    /// The device is gone for good.
    pub(super) fn lose(&self, reason: impl Into<String>) {
        lock(&self.0).lost.get_or_insert(reason.into());
    }

    /// An error that nobody was waiting for; the first one is kept.
    pub(super) fn record(&self, error: Error) {
        lock(&self.0).other.get_or_insert(error);
    }

    /// # Errors
    /// [`Error::DeviceLost`] from the loss on, and any other recorded error once.
    pub(super) fn check(&self) -> Result<()> {
        let mut state = lock(&self.0);
        if let Some(reason) = &state.lost {
            return Err(Error::DeviceLost { reason: reason.clone() });
        }
        match state.other.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl Faults {
    /// Takes the device's handler of errors outside of scopes.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn hear_errors(&self, device: &wgpu::Device) {
        let slot = self.slot.clone();
        device
            .on_uncaptured_error(Arc::new(move |error| slot.record(from_wgpu(error, "an earlier call", 0))));
    }

    /// Listens to errors outside of scopes beside whoever else does: wgpu's own handler panics at an internal error in a browser.
    #[cfg(target_arch = "wasm32")]
    pub(super) fn hear_errors(&self, device: &wgpu::Device) {
        use wgpu::web_sys::{
            Event, EventTarget, js_sys::Reflect, wasm_bindgen::JsCast, wasm_bindgen::closure::Closure,
        };
        let slot = self.slot.clone();
        let heard = Closure::<dyn FnMut(Event)>::new(move |event: Event| {
            // The page's console need not say it too.
            event.prevent_default();
            let error =
                Reflect::get(&event, &"error".into()).and_then(|e| Reflect::get(&e, &"message".into()));
            let message = error.ok().and_then(|m| m.as_string()).unwrap_or_default();
            slot.record(Error::Gpu { message: format!("an earlier call: {message}") });
        });
        if let Some(target) = device.as_webgpu() {
            let target: &EventTarget = target.unchecked_ref();
            // A type that the browser has: it cannot fail.
            let _ =
                target.add_event_listener_with_callback("uncapturederror", heard.as_ref().unchecked_ref());
        }
        // The browser owns it from here on.
        heard.forget();
    }

    /// Listens to the loss of the device. Natively there is one listener.
    pub(super) fn hear_loss(&self, device: &wgpu::Device) {
        let slot = self.slot.clone();
        device.set_device_lost_callback(move |reason, message| {
            slot.lose(if message.is_empty() { format!("{reason:?}") } else { message });
        });
    }

    /// Runs `f` with error scopes around it. `what` and `bytes` go into an [`Error::OutOfMemory`].
    pub(super) fn scoped<T>(
        &self,
        device: &wgpu::Device,
        what: &str,
        bytes: u64,
        f: impl FnOnce() -> T,
    ) -> Result<T> {
        let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        #[cfg(not(target_arch = "wasm32"))]
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let value = f();
        // An internal error in a browser is heard outside of scopes: wgpu panics at one within.
        #[cfg(target_arch = "wasm32")]
        for scope in [validation.pop(), memory.pop()] {
            lock(&self.pending).push(PendingScope { what: what.into(), bytes, result: Box::pin(scope) });
        }
        let error: Option<wgpu::Error> = None;
        #[cfg(not(target_arch = "wasm32"))]
        let error = [internal.pop(), validation.pop(), memory.pop()]
            .into_iter()
            .fold(error, |error, scope| futures::FutureExt::now_or_never(scope).flatten().or(error));
        match error {
            None => Ok(value),
            Some(error) => Err(from_wgpu(error, what, bytes)),
        }
    }

    /// Waits for scopes whose result had not arrived, then [`Slot::check`].
    pub(super) async fn settle(&self) -> Result<()> {
        #[cfg(target_arch = "wasm32")]
        {
            let pending = std::mem::take(&mut *lock(&self.pending));
            for scope in pending {
                if let Some(error) = scope.result.await {
                    self.slot.record(from_wgpu(error, &scope.what, scope.bytes));
                }
            }
        }
        self.slot.check()
    }
}

/// wgpu's error in ours.
pub(super) fn from_wgpu(error: wgpu::Error, what: &str, bytes: u64) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { what: what.into(), bytes },
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            Error::Gpu { message: format!("{what}: {}", description.trim()) }
        }
    }
}
