//! Rows of packed tables, looked up and added. See `shaders/kernel/embed.wgsl`.

use super::context::{self, WeightParams};
use super::teams::{Rows, of_rows};
use super::weights::{DeviceWeights, dense_rows};
use super::{Columns, Scheme, Shader, Specialization, Tier};
use crate::Result;
use crate::gpu::{Access, Binding, Gpu, Target, fold_workgroups};
use bytemuck::{Pod, Zeroable};
use serde::Serialize;

const WORKGROUP: u32 = 64;

/// Specialization.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Embed {
    #[serde(rename = "s", serialize_with = "context::scheme")]
    scheme: Scheme,
    ragged: bool,
    /// To what is there.
    add: bool,
    workgroup: u32,
}

impl Specialization for Embed {
    const KERNEL: &'static str = "embed";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        vec![Access::Read, Access::Read, Access::Read, Access::ReadWrite]
    }
}

/// The uniform of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Params {
    pub weights: WeightParams,
    pub row0: u32,
    pub tokens: u32,
    pub token0: u32,
}

/// Records the rows `ids` of a table into y `[T, k]`, or with `add` adds them to what is there. Each is below the table's number of rows.
///
/// # Errors
/// [`crate::Error::TooLarge`] if a row of y is larger than a binding; those of the device.
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    (w, ids): (&DeviceWeights, &[u32]),
    y: Rows<'_>,
    add: bool,
) -> Result<()> {
    let ragged = Columns::of(w.k) == Columns::Ragged;
    let pipeline = Embed { scheme: w.scheme, ragged, add, workgroup: WORKGROUP }.pipeline(gpu)?;
    let places = gpu.constant(bytemuck::cast_slice(ids), "rows of a table")?;
    let most = dense_rows(gpu, ids.len(), w.k, 4)?;
    for token0 in (0..ids.len()).step_by(most) {
        let tokens = most.min(ids.len() - token0);
        let quads = tokens as u64 * w.k.div_ceil(4) as u64;
        let groups = fold_workgroups(quads.div_ceil(WORKGROUP.into()), gpu.limits())?;
        for part in &w.parts {
            if !ids[token0..token0 + tokens].iter().any(|&id| part.rows.contains(&(id as usize))) {
                continue;
            }
            let params = Params {
                weights: part.params,
                row0: part.rows.start as u32,
                tokens: tokens as u32,
                token0: token0 as u32,
            };
            let whole = Binding::whole(&part.buffer);
            let bindings = [whole, whole, Binding::whole(&places), of_rows(y, token0, tokens, w.k)];
            gpu.dispatch(target, &pipeline, &bindings, bytemuck::bytes_of(&params), groups)?;
        }
    }
    Ok(())
}

/// Every specialization of a scheme.
pub fn shaders(scheme: &Scheme, _: Tier) -> Result<Vec<Shader>> {
    let mut all = Vec::new();
    for ragged in [false, true].into_iter().filter(|ragged| !ragged || scheme.ggml.is_none()) {
        for add in [false, true] {
            all.push(Embed { scheme: *scheme, ragged, add, workgroup: WORKGROUP }.shader()?);
        }
    }
    Ok(all)
}
