//! Memory of f32 that goes round: what large sums and tensors give back is there for the next ones.
//!
//! ```text
//! any(len), zeros(len) -> Vec<f32> -> tensor or sums -> dropped -> give -> any(len) ...
//! ```
//!
//! New memory of some megabytes comes from the operating system page by page, a fault each, and goes back with an interrupt of every thread's core: half of the
//! time of an encoder's layer. At most [`KEPT`] is kept. No arithmetic here.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Numbers that are kept, 32 MiB.
const KEPT: usize = 8 << 20;
/// Smaller buffers are the allocator's business.
const LEAST: usize = 16 << 10;

static FREE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

fn free() -> MutexGuard<'static, Vec<Vec<f32>>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer of `len` numbers, whatever they are.
pub fn any(len: usize) -> Vec<f32> {
    if len >= LEAST {
        let mut free = free();
        // The smallest that is large enough, unless most of it would lie idle.
        let fits = |buffer: &Vec<f32>| (len..=2 * len).contains(&buffer.capacity());
        let at = (0..free.len()).filter(|&i| fits(&free[i])).min_by_key(|&i| free[i].capacity());
        if let Some(at) = at {
            let mut buffer = free.swap_remove(at);
            drop(free);
            buffer.resize(len, 0.0);
            return buffer;
        }
    }
    vec![0.0; len]
}

/// A buffer of `len` zeros.
pub fn zeros(len: usize) -> Vec<f32> {
    if len < LEAST {
        return vec![0.0; len];
    }
    let mut buffer = any(len);
    buffer.fill(0.0);
    buffer
}

/// Takes a buffer back.
pub fn give(buffer: Vec<f32>) {
    if !(LEAST..=KEPT).contains(&buffer.capacity()) {
        return;
    }
    let mut free = free();
    let mut kept = buffer.capacity();
    free.push(buffer);
    // The newest ones are kept.
    let from = (0..free.len() - 1).rev().find(|&i| {
        kept += free[i].capacity();
        kept > KEPT
    });
    let old: Vec<_> = from.map_or(Vec::new(), |last| free.drain(..=last).collect());
    // Freed without the lock.
    drop(free);
    drop(old);
}

/// Numbers that are given back when nobody needs them any more.
#[derive(Debug, Default)]
pub struct Recycled(Vec<f32>);

impl From<Vec<f32>> for Recycled {
    fn from(buffer: Vec<f32>) -> Self {
        Self(buffer)
    }
}

impl Deref for Recycled {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Recycled {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl Drop for Recycled {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_round_up_to_a_bound() {
        // No other test has buffers of this size.
        let len = 1_234_567;
        let mut first = Recycled::from(zeros(len));
        first.fill(7.0);
        let at = first.as_ptr();
        drop(first);
        let again = any(len - 1000);
        assert_eq!((again.as_ptr(), again.len(), again[0]), (at, len - 1000, 7.0));
        give(again);
        let zeroed = zeros(len - 2000);
        assert!(zeroed.as_ptr() == at && zeroed.iter().all(|v| *v == 0.0));
        // A buffer of a tenth is not that one, nor is one larger than all that is kept.
        assert_ne!(any(len / 10).as_ptr(), at);
        give(zeroed);
        give(vec![0.0; KEPT + 1]);
        (0..9).for_each(|_| give(vec![0.0; KEPT / 4]));
        assert!(free().iter().map(Vec::capacity).sum::<usize>() <= KEPT);
    }
}
