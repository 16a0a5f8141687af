//! Products of two dense matrices, either of them turned or not. See `shaders/kernel/dense.wgsl`.

use super::training::{Operands, accesses};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Gpu, Target};
use crate::product::Summation;
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

/// Rows and columns of y that a workgroup has.
const TILE: usize = 32;
/// Terms in workgroup memory at a time.
const STEPS: usize = 16;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Dense {
    a_turned: bool,
    b_turned: bool,
    bias: bool,
    tile: usize,
    steps: usize,
}

impl Dense {
    fn new([a_turned, b_turned]: [bool; 2], bias: bool) -> Self {
        Self { a_turned, b_turned, bias, tile: TILE, steps: STEPS }
    }
}

impl Specialization for Dense {
    const KERNEL: &'static str = "dense";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        accesses(2 + usize::from(self.bias))
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub m: u32,
    pub n: u32,
    pub terms: u32,
}

/// How a number of y is summed over so many terms, the bias included.
pub fn summation(terms: usize) -> Summation {
    Summation { chain: terms + 1, depth: 0, folded: false }
}

/// Records y `[m, n]` of a `[m, t]` and b `[n, t]`, or turned `[t, m]` and `[t, n]`, and the bias `[n]` if there is one.
///
/// # Errors
/// As [`Operands::record`].
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    [m, n, t]: [usize; 3],
    turned: [bool; 2],
    bias: bool,
    operands: &Operands<'_>,
) -> Result<()> {
    let params = Params { m: m as u32, n: n as u32, terms: t as u32 };
    let tiles = m.div_ceil(TILE) * n.div_ceil(TILE);
    operands.record(gpu, target, &Dense::new(turned, bias), params, tiles)
}

/// Every way operands may lie; the scheme does not matter.
pub fn shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    let all = [[false, false], [false, true], [true, false], [true, true]];
    all.iter().flat_map(|turned| [false, true].map(|bias| Dense::new(*turned, bias).shader())).collect()
}
