//! Functions between layers, and their gradients. See `shaders/kernel/activate.wgsl`.

use super::training::{Operands, WORKGROUP, accesses};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Gpu, Target};
use crate::product::Function;
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Activate {
    /// A name of [`Function`].
    function: &'static str,
    /// The gradient of x instead of y.
    backward: bool,
    workgroup: u32,
}

impl Specialization for Activate {
    const KERNEL: &'static str = "activate";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        accesses(1 + usize::from(self.backward))
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub count: u32,
}

/// Records y of x, and dy if `backward`.
///
/// # Errors
/// As [`Operands::record`].
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    function: Function,
    backward: bool,
    operands: &Operands<'_>,
) -> Result<()> {
    let count = operands.y.1;
    let kernel = Activate { function: function.name(), backward, workgroup: WORKGROUP };
    let params = Params { count: count as u32 };
    operands.record(gpu, target, &kernel, params, count.div_ceil(WORKGROUP as usize))
}

/// Every function in both directions; the scheme does not matter.
pub fn shaders(_: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    let all = Function::ALL.into_iter().flat_map(|f| [false, true].map(|backward| (f.name(), backward)));
    all.map(|(function, backward)| Activate { function, backward, workgroup: WORKGROUP }.shader()).collect()
}
