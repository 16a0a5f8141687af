//! Activations to int8 on the device: codes and scales of rows, groups, or by a scale that is given.

use super::int8::{DeviceInt8, Params};
use super::weights::dense_rows;
use super::{Columns, Scheme, Shader, Specialization, Tier};
use crate::gpu::{Access, Binding, Buffer, Gpu, Target, fold_workgroups};
use crate::product::{Activation, Int8Group};
use crate::{DType, Result};
use serde::Serialize;

/// How `int8_rows` finds scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Find {
    Row,
    Group(u32),
    Static,
}

/// Specialization.
#[derive(Clone, Copy, Debug)]
pub struct Quantize {
    find: Find,
    ragged: bool,
    x_f16: bool,
    f16: bool,
}

impl Serialize for Quantize {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        /// What `lib/activations.wgsl` asks of a scheme.
        #[derive(Serialize)]
        struct NoScheme {
            permuted: bool,
        }
        #[derive(Serialize)]
        struct Context {
            s: NoScheme,
            row: bool,
            #[serde(rename = "static")]
            fixed: bool,
            group: u32,
            ragged: bool,
            full: bool,
            x_f16: bool,
            f16: bool,
        }
        let &Self { find, ragged, x_f16, f16 } = self;
        let group = if let Find::Group(g) = find { g } else { 0 };
        let (row, fixed, s) = (find == Find::Row, find == Find::Static, NoScheme { permuted: false });
        Context { s, row, fixed, group, ragged, full: false, x_f16, f16 }.serialize(to)
    }
}

impl Quantize {
    fn new(tier: Tier, find: Find, ragged: bool, x_f16: bool) -> Self {
        // f16 that are read one by one are read as words.
        Self { find, ragged, x_f16, f16: tier.f16 && x_f16 && !ragged }
    }
}

impl Specialization for Quantize {
    const KERNEL: &'static str = "int8_rows";
    type Params = Params;

    fn storage(&self) -> Vec<Access> {
        vec![Access::Read, Access::ReadWrite]
    }

    fn needs(&self) -> Tier {
        Tier { f16: self.f16, ..Tier::PORTABLE }
    }
}

/// Records the quantization of x [rows, k], f32 or f16 from a byte that is a multiple of 256.
///
/// # Errors
/// [`crate::Error::TooLarge`] if a row of x is larger than a binding; those of the device.
pub fn record(
    gpu: &Gpu,
    target: &mut Target<'_>,
    (x, offset, dtype): (&Buffer, u64, DType),
    y: &DeviceInt8,
) -> Result<()> {
    let find = match y.activation {
        Activation::Int8(Int8Group::Cols(g)) => Find::Group(g),
        Activation::Int8Static(_) => Find::Static,
        _ => Find::Row,
    };
    let ragged = Columns::of(y.k) == Columns::Ragged;
    let tier = Tier::of(gpu.capabilities());
    let pipeline = Quantize::new(tier, find, ragged, dtype == DType::F16).pipeline(gpu)?;
    let row_bytes = y.k * dtype.size();
    let most = dense_rows(gpu, y.rows, y.k, dtype.size())?;
    for row0 in (0..y.rows).step_by(most) {
        let rows = most.min(y.rows - row0);
        let params = Params::new(y, rows, row0);
        let bytes = ((rows * row_bytes) as u64).next_multiple_of(16);
        let start = offset + (row0 * row_bytes) as u64;
        let bytes = bytes.min(x.padded_len() - start);
        let spans = if find == Find::Row { 1 } else { (params.stride as usize).div_ceil(64) };
        let groups = fold_workgroups((rows * spans) as u64, gpu.limits())?;
        let bindings = [Binding::range(x, start, bytes), Binding::whole(&y.buffer)];
        gpu.dispatch(target, &pipeline, &bindings, bytemuck::bytes_of(&params), groups)?;
    }
    Ok(())
}

/// Every way to find scales, for each reading of x; the scheme does not matter.
pub fn shaders(_: &Scheme, tier: Tier) -> Result<Vec<Shader>> {
    let mut all = Vec::new();
    for find in [Find::Row, Find::Group(32), Find::Group(128), Find::Static] {
        for (ragged, x_f16) in [(false, false), (false, true), (true, false), (true, true)] {
            all.push(Quantize::new(tier, find, ragged, x_f16).shader()?);
        }
    }
    Ok(all)
}
