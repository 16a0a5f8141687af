//! Work on several threads, or on one without the feature `parallel`.
//!
//! ```text
//! tasks: Vec<T> (disjoint parts of the output) -> f(task) on whichever thread is free
//! ```
//!
//! Every task owns its part of the output and is computed alike wherever it runs, so results do not depend on the number
//! of threads. No arithmetic here.

/// Fewer operations than this are not worth waking a thread for (about 20 microseconds of work).
const SERIAL_BELOW: usize = 1 << 16;

/// Runs `f` on every task, in any order. `work` is the number of elementary operations of all tasks together.
pub fn for_each<T: Send>(tasks: Vec<T>, work: usize, f: impl Fn(T) + Sync + Send) {
    #[cfg(feature = "parallel")]
    if work >= SERIAL_BELOW && tasks.len() > 1 {
        use rayon::prelude::*;
        return tasks.into_par_iter().with_max_len(1).for_each(f);
    }
    let _ = (work, SERIAL_BELOW);
    tasks.into_iter().for_each(f);
}

/// `f` of every task, results in the order of the tasks.
pub fn map<T: Send, R: Send>(tasks: Vec<T>, work: usize, f: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
    #[cfg(feature = "parallel")]
    if work >= SERIAL_BELOW && tasks.len() > 1 {
        use rayon::prelude::*;
        return tasks.into_par_iter().with_max_len(1).map(f).collect();
    }
    let _ = (work, SERIAL_BELOW);
    tasks.into_iter().map(f).collect()
}

/// `0..n` in ranges of at most `step`.
pub fn ranges(n: usize, step: usize) -> Vec<std::ops::Range<usize>> {
    (0..n).step_by(step.max(1)).map(|start| start..(start + step.max(1)).min(n)).collect()
}
