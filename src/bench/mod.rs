//! How fast an engine is, and what its device allows: behind `lowbit bench`.
//!
//! ```text
//! engine -> ceilings (what reading, copying, multiplying cost here) ─┐
//! operations x schemes x shapes -> cases -> verify -> time ──────────┴-> File -> table | JSON | SVG | comparison of two
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `cases` | operations, shapes of models, which cases there are |
//! | `ceilings/` | small kernels that do one thing as fast as the device can, and their results |
//! | `run` | a case: operands, comparison with the reference, times |
//! | `sample` | medians and quartiles of a repeated run |
//! | `file` | the result file; which ceiling binds; comparing two files |
//! | `plot` | the roofline as SVG |
//!
//! A case whose result is wrong has no time. Nothing here prints or parses arguments.

pub mod cases;
#[cfg(feature = "cli")]
pub mod ceilings;
pub mod file;
#[cfg(feature = "cli")]
pub mod plot;
pub mod run;
pub mod sample;
