//! Checkpoints in memory, and what targets write of one tensor.

use half::f16;
use lowbit::file::checkpoint::{Checkpoint, Config, Data, Item, Target};
use lowbit::file::{Content, Dtype, Model};
use lowbit::scheme::{Codebook, PlaneKind, Scale, ScaleType, Zero};
use lowbit::{DType, PackedTensor, Result};
use safetensors::tensor::TensorView;
use serde_json::{Map, Value};

/// Name, type, shape, bytes.
pub type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

pub fn tensor(name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Tensor {
    (name.into(), dtype, shape.to_vec(), bytes)
}

pub fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub fn f16s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
}

pub fn file(tensors: &[Tensor]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

pub fn config(json: &Value) -> Config {
    Config::parse(&[("config.json".into(), json.to_string().into_bytes())]).unwrap().unwrap()
}

/// Opens tensors under `quantization_config`.
pub fn open(settings: &Value, tensors: &[Tensor]) -> Result<Checkpoint> {
    let root = serde_json::json!({"model_type": "test", "quantization_config": settings});
    Checkpoint::new(config(&root), Model::from_bytes("model.safetensors", file(tensors))?)
}

/// Numbers from a seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

/// A tensor of a scheme with random codes, scales, zeros up to the largest code, and columns in a random order.
pub fn random(scheme: &str, shape: &[usize], seed: u64) -> PackedTensor {
    let mut random = Random::new(seed);
    let mut w = PackedTensor::zeroed(scheme.parse().unwrap(), shape).unwrap();
    let (scheme, (rows, k)) = (*w.scheme(), w.matrix());
    for row in 0..rows {
        for col in 0..k {
            w.set_code(row, col, random.below(1 << scheme.bits) as u8);
        }
    }
    // Bytes of f16, bf16 or f32 with an exponent that is neither the smallest nor the largest, of either sign.
    let number = |random: &mut Random, bytes: &mut [u8]| {
        bytes.iter_mut().for_each(|b| *b = random.below(256) as u8);
        if let Some(last) = bytes.last_mut() {
            *last = *last & 0x83 | 0x20;
        }
    };
    let width = match scheme.scale {
        Scale::Direct(t) => t.size(),
        other => panic!("{other:?}"),
    };
    for scale in w.plane_mut(PlaneKind::Scales).chunks_mut(width) {
        number(&mut random, scale);
        if scheme.scale == Scale::Direct(ScaleType::Ue4M3) {
            scale[0] &= 0x7f;
        }
    }
    // Quotients of a global scale.
    for (entry, e4m3) in
        w.plane_mut(PlaneKind::ScaleTable).as_chunks_mut().0.iter_mut().zip(Codebook::E4M3.entries())
    {
        *entry = if e4m3.is_nan() { 0f32 } else { e4m3 / 1234.567 }.to_le_bytes();
    }
    let zeros = w.plane_mut(PlaneKind::Zeros);
    match scheme.zero {
        Zero::Point => zeros.iter_mut().for_each(|z| *z = random.below(1 << scheme.bits) as u8),
        _ => zeros.chunks_mut(width).for_each(|bytes| number(&mut random, bytes)),
    }
    if scheme.is_permuted() {
        let mut columns: Vec<u32> = (0..k as u32).collect();
        for i in (1..k).rev() {
            columns.swap(i, random.below(i + 1));
        }
        // Within a group the file has no order: ascending.
        let group = scheme.group_len(k);
        columns.chunks_mut(group).for_each(|c| c.sort_unstable());
        w.set_permutation(&columns).unwrap();
    }
    w
}

/// What a target writes of one tensor: names, bytes, settings.
pub fn written(target: &str, w: &PackedTensor) -> (Model, Map<String, serde_json::Value>) {
    let content = Content::Packed { scheme: *w.scheme(), source: DType::F16 };
    let items = [Item { name: "l.weight".into(), shape: w.shape().to_vec(), content }];
    let (bytes, config) = Target::named(target)
        .unwrap()
        .write(Vec::new(), "out".as_ref(), &Map::new(), &items, &mut |_| Ok(Data::Packed(w.clone())))
        .unwrap();
    (Model::from_bytes("out", bytes).unwrap(), config.as_object().cloned().unwrap())
}

pub fn reopen(model: Model, config: Map<String, serde_json::Value>) -> Checkpoint {
    let config = self::config(&config.into());
    Checkpoint::new(config, model).unwrap()
}

/// The tensors of a model that are no packed ones.
pub fn tensors_of(model: &Model) -> Vec<Tensor> {
    let dense = |e: &lowbit::file::Entry| match e.content {
        Content::Dense(dtype) => tensor(&e.name, dtype, &e.shape, model.raw(e).to_vec()),
        Content::Packed { .. } | Content::Listed { .. } => panic!("{e:?}"),
    };
    model.entries().iter().map(dense).collect()
}

pub fn raw(model: &Model, name: &str) -> Vec<u8> {
    model.raw(model.entry(name).unwrap_or_else(|| panic!("no {name}"))).to_vec()
}
