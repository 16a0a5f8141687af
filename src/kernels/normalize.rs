//! Rows to an L2 norm of 1. See `shaders/kernel/normalize.wgsl`.

use super::teams::{Rows, Teams};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Gpu, Target};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Normalize {
    #[serde(flatten)]
    teams: Teams,
}

impl Specialization for Normalize {
    const KERNEL: &'static str = "normalize";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        vec![Access::Read, Access::ReadWrite]
    }

    fn needs(&self) -> Tier {
        self.teams.needs()
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub rows: u32,
    pub row_len: u32,
}

/// Records y `[rows, d]` of x `[rows, d]`.
///
/// # Errors
/// As [`Teams::record`].
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    [rows, d]: [usize; 2],
    [x, y]: [Rows<'_>; 2],
) -> Result<()> {
    let teams = Teams::new(Tier::of(gpu.capabilities()), d);
    let row_len = teams.row_len(d) as u32;
    teams.record(gpu, target, &Normalize { teams }, [rows, d], (x, &[], y), |rows| Params { rows, row_len })
}

/// Both kinds of rows; the scheme does not matter.
pub fn shaders(_: &Scheme, tier: Tier) -> Result<Vec<Shader>> {
    Teams::all(tier).map(|teams| Normalize { teams }.shader()).into_iter().collect()
}
