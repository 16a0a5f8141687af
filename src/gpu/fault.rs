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

use std::sync::{Mutex, MutexGuard, PoisonError};

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
    state: Mutex<State>,
    #[cfg(target_arch = "wasm32")]
    pending: Mutex<Vec<PendingScope>>,
}

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

impl Faults {
    /// The device is gone for good.
    pub(super) fn lose(&self, reason: impl Into<String>) {
        lock(&self.state).lost.get_or_insert(reason.into());
    }

    /// An error that nobody was waiting for; the first one is kept.
    pub(super) fn record(&self, error: Error) {
        lock(&self.state).other.get_or_insert(error);
    }

    /// # Errors
    /// [`Error::DeviceLost`] from the loss on, and any other recorded error once.
    pub(super) fn check(&self) -> Result<()> {
        let mut state = lock(&self.state);
        if let Some(reason) = &state.lost {
            return Err(Error::DeviceLost { reason: reason.clone() });
        }
        match state.other.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
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
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let value = f();
        let mut error = None;
        for scope in [internal.pop(), validation.pop(), memory.pop()] {
            #[cfg(not(target_arch = "wasm32"))]
            if let Some(Some(found)) = futures::FutureExt::now_or_never(scope) {
                error = Some(found);
            }
            #[cfg(target_arch = "wasm32")]
            lock(&self.pending).push(PendingScope { what: what.into(), bytes, result: Box::pin(scope) });
        }
        match error.take() {
            None => Ok(value),
            Some(error) => Err(from_wgpu(error, what, bytes)),
        }
    }

    /// Waits for scopes whose result had not arrived, then [`Faults::check`].
    pub(super) async fn settle(&self) -> Result<()> {
        #[cfg(target_arch = "wasm32")]
        {
            let pending = std::mem::take(&mut *lock(&self.pending));
            for scope in pending {
                if let Some(error) = scope.result.await {
                    self.record(from_wgpu(error, &scope.what, scope.bytes));
                }
            }
        }
        self.check()
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
