//! Counts of numbers in the bins of `bins`. See `shaders/kernel/histogram.wgsl`.

use super::teams::{Rows, of_rows};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::bins::{BINS, FIRST, LAST, ZERO};
use crate::gpu::{Access, Gpu, Target, fold_workgroups};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

const WORKGROUP: u32 = 256;
/// Numbers of a thread.
const ITEMS: u32 = 8;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Histogram {
    /// The pass that makes y what counts are added to.
    begin: bool,
    /// Whether that is another's counts, else zeros; of the pass `begin` alone.
    onto: bool,
    workgroup: u32,
    items: u32,
    first: u32,
    last: u32,
    zero: u32,
}

impl Histogram {
    fn new(begin: bool, onto: bool) -> Self {
        let [last, zero] = [LAST, ZERO].map(|n| n as u32);
        Self { begin, onto, workgroup: WORKGROUP, items: ITEMS, first: FIRST, last, zero }
    }
}

impl Specialization for Histogram {
    const KERNEL: &'static str = "histogram";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        let reads = usize::from(!self.begin || self.onto);
        let mut storage = vec![Access::Read; reads];
        storage.push(Access::ReadWrite);
        storage
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub n: u32,
}

/// Records the counts y `[BINS]` u32 of x `[n]` f32, and of what they are added to.
///
/// # Errors
/// [`crate::Error::TooLarge`] if one of them is larger than a binding; those of the device.
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    (x, n): (Rows<'_>, usize),
    y: Rows<'_>,
    onto: Option<Rows<'_>>,
) -> Result<()> {
    let counts = of_rows(y, 0, 1, BINS);
    let mut begin: Vec<_> = onto.map(|onto| of_rows(onto, 0, 1, BINS)).into_iter().collect();
    begin.push(counts);
    let mut pass = |kernel: Histogram, bindings: &[_], n: usize, numbers: u32| -> Result<()> {
        let pipeline = kernel.pipeline(gpu)?;
        let groups = fold_workgroups((n as u64).div_ceil(u64::from(numbers)), gpu.limits())?;
        gpu.dispatch(target, &pipeline, bindings, bytemuck::bytes_of(&Params { n: n as u32 }), groups)
    };
    pass(Histogram::new(true, onto.is_some()), &begin, BINS, WORKGROUP)?;
    pass(Histogram::new(false, false), &[of_rows(x, 0, 1, n), counts], n, WORKGROUP * ITEMS)
}

/// Both ways to begin, and the pass that counts; the scheme does not matter.
pub fn shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    let passes = [(true, false), (true, true), (false, false)];
    passes.map(|(begin, onto)| Histogram::new(begin, onto).shader()).into_iter().collect()
}
