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

/// Begins `f` beside what the caller does next; what is returned waits for its value. With one thread it is `f` that is returned.
#[cfg(feature = "tokenizer")]
pub fn beside<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> impl FnOnce() -> T {
    #[cfg(feature = "parallel")]
    {
        let thread = std::thread::spawn(f);
        move || thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
    #[cfg(not(feature = "parallel"))]
    f
}

#[cfg(feature = "parallel")]
thread_local! {
    /// Whether this thread is at a task: what that divides up again is done by it alone, for the other threads are at tasks too.
    static AT_TASK: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A thread's time at tasks, over when it is dropped, in a panic too.
#[cfg(feature = "parallel")]
struct AtTask;

#[cfg(feature = "parallel")]
impl AtTask {
    fn begin() -> Self {
        AT_TASK.set(true);
        Self
    }
}

#[cfg(feature = "parallel")]
impl Drop for AtTask {
    fn drop(&mut self) {
        AT_TASK.set(false);
    }
}

/// How many threads there are for tasks.
pub fn count() -> usize {
    #[cfg(feature = "parallel")]
    return if AT_TASK.get() { 1 } else { rayon::current_num_threads() };
    #[cfg(not(feature = "parallel"))]
    1
}

/// Runs `f` on every task, in any order. `work` is the number of elementary operations of all tasks together.
pub fn for_each<T: Send>(tasks: Vec<T>, work: usize, f: impl Fn(T) + Sync + Send) {
    for_each_with(tasks, work, || (), |(), task| f(task));
}

/// Runs `f` on every task, with scratch memory made once per thread.
///
/// Threads take the next task whenever they are done with one: on a busy machine they do not get equally far.
pub fn for_each_with<T: Send, S>(
    tasks: Vec<T>,
    work: usize,
    scratch: impl Fn() -> S + Sync,
    f: impl Fn(&mut S, T) + Sync + Send,
) {
    #[cfg(feature = "parallel")]
    if work >= SERIAL_BELOW && tasks.len() > 1 && count() > 1 {
        let helpers = count().min(tasks.len()) - 1;
        let queue = std::sync::Mutex::new(tasks.into_iter());
        let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
        let worker = || {
            let Some(mut task) = next() else { return };
            let _at_task = AtTask::begin();
            let mut scratch = scratch();
            loop {
                f(&mut scratch, task);
                match next() {
                    Some(following) => task = following,
                    None => return,
                }
            }
        };
        // In place: the calling thread works from the start instead of sleeping until another one wakes up.
        return rayon::in_place_scope(|s| {
            (0..helpers).for_each(|_| s.spawn(|_| worker()));
            worker();
        });
    }
    let _ = (work, SERIAL_BELOW);
    let mut scratch = scratch();
    tasks.into_iter().for_each(|task| f(&mut scratch, task));
}

/// `f` of every task, results in the order of the tasks.
pub fn map<T: Send, R: Send>(tasks: Vec<T>, work: usize, f: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
    #[cfg(feature = "parallel")]
    if work >= SERIAL_BELOW && tasks.len() > 1 && count() > 1 {
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

/// What a future of the CPU engine comes to, which never waits.
#[cfg(test)]
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => unreachable!("the CPU engine never waits"),
    }
}
