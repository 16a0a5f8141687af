//! Layer normalization of rows. See `shaders/kernel/layer_norm.wgsl`.

use super::teams::{Rows, Teams, of_rows};
use super::{Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Gpu, Target};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LayerNorm {
    #[serde(flatten)]
    teams: Teams,
}

impl Specialization for LayerNorm {
    const KERNEL: &'static str = "layer_norm";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        vec![Access::Read, Access::Read, Access::Read, Access::ReadWrite]
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
    pub share: f32,
    pub eps: f32,
}

/// Records y `[rows, d]` of x `[rows, d]`, gamma and beta `[d]`.
///
/// # Errors
/// As [`Teams::record`].
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    [rows, d]: [usize; 2],
    [x, gamma, beta, y]: [Rows<'_>; 4],
    eps: f32,
) -> Result<()> {
    let teams = Teams::new(Tier::of(gpu.capabilities()), d);
    let (row_len, share) = (teams.row_len(d) as u32, 1.0 / d as f32);
    let weights = [of_rows(gamma, 0, 1, d), of_rows(beta, 0, 1, d)];
    let params = |rows| Params { rows, row_len, share, eps };
    teams.record(gpu, target, &LayerNorm { teams }, [rows, d], (x, &weights, y), params)
}

/// Both kinds of rows; the scheme does not matter.
pub fn shaders(_: &Scheme, tier: Tier) -> Result<Vec<Shader>> {
    Teams::all(tier).map(|teams| LayerNorm { teams }.shader()).into_iter().collect()
}
