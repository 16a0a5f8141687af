//! The steps of a weight that is trained for a scheme: where they begin, and the packed tensor they end in.
//!
//! ```text
//! weight [N, K], scheme --search of the least squared error--> PackedTensor -> steps, zeros [groups]
//! weight, steps as trained -> steps as the scheme stores them -> fake_quantize -> codes -> PackedTensor
//! ```

use crate::engine::{Engine, Quantizer};
use crate::scheme::{Grid, Method, PlaneKind, Scale, ScaleType, Scheme};
use crate::{Array, Error, PackedTensor, Result, Tensor};
use half::{bf16, f16};

/// The least step: what a group of zeros has.
pub const LEAST: f32 = 1e-6;

/// A scheme's numbers for one weight, on the host.
#[derive(Clone, Debug)]
pub struct Start {
    pub grid: Grid,
    pub steps: Vec<f32>,
    /// Of schemes with zero-points.
    pub zeros: Option<Vec<f32>>,
}

/// The type of the scales of a scheme that can be trained for.
fn scale_type(scheme: &Scheme) -> Result<ScaleType> {
    match scheme.scale {
        Scale::Direct(kind @ (ScaleType::F32 | ScaleType::F16 | ScaleType::Bf16)) => Ok(kind),
        _ => Err(Error::unsupported(
            format!("training for {scheme}"),
            "scales of one level in f32, f16 or bf16 are, as int2-row or int4-g32 has them",
        )),
    }
}

/// Where training begins: steps and zero-points of least squared error.
///
/// # Errors
/// [`Error::Unsupported`] for schemes that are no integer grid; as [`Engine::quantize_by`].
pub async fn start(engine: &Engine, weight: &Tensor, name: &str, scheme: &Scheme) -> Result<Start> {
    let (grid, kind) = (Grid::of(scheme)?, scale_type(scheme)?);
    let packed = engine.quantize_by(weight, name, scheme, Method::Mse).await?.read().await?;
    let number = |bytes: &[u8]| match (kind, bytes) {
        (ScaleType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (ScaleType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
        (_, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
        _ => 0.0,
    };
    let scales = packed.plane(PlaneKind::Scales).chunks(kind.size());
    let zeros = packed.plane(PlaneKind::Zeros);
    Ok(Start {
        grid,
        steps: scales.map(|bytes| number(bytes).max(LEAST)).collect(),
        zeros: (!zeros.is_empty()).then(|| zeros.iter().map(|&z| f32::from(z)).collect()),
    })
}

/// The weight in its scheme.
///
/// # Errors
/// Those of the device; [`Error::NotRepresentable`] for a step beyond the type of the scheme's scales.
pub async fn pack(
    engine: &Engine,
    weight: &Array,
    name: &str,
    scheme: &Scheme,
    Start { grid, steps, zeros }: &Start,
) -> Result<PackedTensor> {
    let kind = scale_type(scheme)?;
    let mut bytes = Vec::with_capacity(steps.len() * kind.size());
    let mut stored = Vec::with_capacity(steps.len());
    for (index, &step) in steps.iter().enumerate() {
        let (value, limit) = match kind {
            ScaleType::F16 => (f16::from_f32(step).to_f32(), 65504.0),
            ScaleType::Bf16 => (bf16::from_f32(step).to_f32(), f32::MAX),
            _ => (step, f32::MAX),
        };
        if !value.is_finite() {
            let (tensor, scheme) = (name.to_string(), format!("a scale of {scheme}"));
            return Err(Error::NotRepresentable { tensor, index: index as u64, value: step, scheme, limit });
        }
        match kind {
            ScaleType::F16 => bytes.extend(f16::from_f32(step).to_le_bytes()),
            ScaleType::Bf16 => bytes.extend(bf16::from_f32(step).to_le_bytes()),
            _ => bytes.extend(step.to_le_bytes()),
        }
        stored.push(value);
    }
    let on = |values: &[f32]| engine.upload(&Tensor::from_f32([values.len()], values.to_vec())?);
    let (on_steps, on_zeros) = (on(&stored)?, zeros.as_deref().map(on).transpose()?);
    let by = Quantizer { grid, steps: &on_steps, zeros: on_zeros.as_ref() };
    let values = engine.fake_quantize(weight, by)?.read().await?;
    let mut packed = PackedTensor::zeroed(*scheme, weight.shape())?;
    packed.plane_mut(PlaneKind::Scales).copy_from_slice(&bytes);
    if let Some(zeros) = zeros {
        let plane = packed.plane_mut(PlaneKind::Zeros);
        plane.iter_mut().zip(zeros).for_each(|(byte, zero)| *byte = *zero as u8);
    }
    let (rows, k) = packed.matrix();
    let spans = grid.spans(rows, k);
    let values = values.to_f32();
    for group in 0..spans.count() {
        let zero = zeros.as_ref().map_or(0.0, |zeros| zeros[group]);
        for i in spans.of(group) {
            // A product of step and code, rounded once: the quotient is within half a code of it. A step that f16 rounds to 0 has no codes but that of 0.
            let q = if stored[group] > 0.0 { (values[i] / stored[group]).round() } else { 0.0 };
            packed.set_code(i / k, i % k, (q + zero - grid.first as f32) as u8);
        }
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use pollster::block_on;

    /// What is packed decodes to what was trained with.
    #[test]
    fn packed_weights_are_those_of_the_forward_pass() {
        let engine = Engine::cpu();
        let mut random = Random::new(5);
        let weight = Tensor::from_f32([6, 70], (0..420).map(|_| random.normal()).collect()).unwrap();
        for name in ["int2-row", "int8-tensor", "int4-g32", "int3-g32-asym", "int4-row-asym", "q4_0"] {
            let scheme: Scheme = name.parse().unwrap();
            let weight = match name {
                "q4_0" => Tensor::from_f32([6, 64], weight.to_f32()[..384].to_vec()).unwrap(),
                _ => weight.clone(),
            };
            block_on(async {
                let mut start = start(&engine, &weight, "w", &scheme).await.unwrap();
                start.steps.iter_mut().for_each(|s| *s = f16::from_f32(*s * 1.1).to_f32());
                let on = engine.upload(&weight).unwrap();
                let packed = pack(&engine, &on, "w", &scheme, &start).await.unwrap();
                let up =
                    |v: &[f32]| engine.upload(&Tensor::from_f32([v.len()], v.to_vec()).unwrap()).unwrap();
                let (steps, zeros) = (up(&start.steps), start.zeros.as_deref().map(up));
                let by = Quantizer { grid: &start.grid, steps: &steps, zeros: zeros.as_ref() };
                let trained = engine.fake_quantize(&on, by).unwrap().read().await.unwrap();
                let decoded = engine.upload_packed(&packed).unwrap();
                let decoded = engine.dequantize(&decoded, crate::DType::F32).unwrap().read().await.unwrap();
                assert_eq!(*decoded.to_f32(), *trained.to_f32(), "{name}");
                assert!(decoded.to_f32().iter().any(|v| *v != 0.0), "{name}");
            });
        }
        let why = block_on(start(&engine, &weight, "w", &"mxfp4".parse().unwrap())).unwrap_err();
        assert!(why.to_string().contains("training for mxfp4"), "{why}");
    }
}
