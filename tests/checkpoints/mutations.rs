//! Random faults, many at a time: an error or a tensor, and no panic.

use crate::build::{Random, Tensor, file};
use crate::refused::{Good, good};
use lowbit::file::checkpoint::{Checkpoint, Config};
use lowbit::file::{Content, Dtype, Model};
use serde_json::Value;

/// Of each checkpoint of `good`.
const MUTATIONS: usize = 20_000;

const TYPES: [Dtype; 9] = [
    Dtype::U8,
    Dtype::I8,
    Dtype::F8_E4M3,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I32,
    Dtype::U32,
    Dtype::F32,
    Dtype::I64,
];

/// Bytes of the settings, types, shapes and bytes of tensors.
fn mutate(random: &mut Random, text: &mut Vec<u8>, tensors: &mut [Tensor]) {
    for _ in 0..1 + random.below(3) {
        match random.below(6) {
            0 | 1 => {
                let at = random.below(text.len());
                match random.below(4) {
                    0 => text[at] = b"0123456789-\"{}[],.nultrfase"[random.below(26)],
                    1 => drop(text.remove(at)),
                    2 => text.insert(at, b'0' + random.below(10) as u8),
                    _ => text[at] ^= 1 << random.below(8),
                }
            }
            2 => {
                let t = random.below(tensors.len());
                let dtype = TYPES[random.below(TYPES.len())];
                let n = tensors[t].3.len() / (dtype.bitsize() / 8);
                let (_, to, shape, bytes) = &mut tensors[t];
                bytes.truncate(n * dtype.bitsize() / 8);
                (*to, *shape) = (dtype, vec![n]);
            }
            3 => {
                let (_, dtype, shape, bytes) = {
                    let t = random.below(tensors.len());
                    &mut tensors[t]
                };
                for _ in 0..2 {
                    if !shape.is_empty() {
                        let d = random.below(shape.len());
                        shape[d] = [0, 1, shape[d] / 2, shape[d] + 1, shape[d] * 2][random.below(5)];
                    }
                }
                match random.below(4) {
                    0 => shape.push(1),
                    1 if shape.len() == 2 => shape.swap(0, 1),
                    _ => {}
                }
                bytes.resize(shape.iter().product::<usize>() * dtype.bitsize() / 8, 0x55);
            }
            _ => {
                let t = random.below(tensors.len());
                let bytes = &mut tensors[t].3;
                if !bytes.is_empty() {
                    let at = random.below(bytes.len());
                    bytes[at] = [0, 0x7f, 0x80, 0xff, random.below(256) as u8][random.below(5)];
                }
            }
        }
    }
}

#[test]
fn faults_do_not_panic() {
    let (mut accepted, mut refused) = (0, 0);
    for (f, (format, Good { settings, tensors })) in good().into_iter().enumerate() {
        let mut random = Random::new(f as u64 + 1);
        let root: Value = serde_json::json!({"quantization_config": settings});
        for _ in 0..MUTATIONS {
            let (mut text, mut tensors) = (root.to_string().into_bytes(), tensors.clone());
            mutate(&mut random, &mut text, &mut tensors);
            let opened = Config::parse(&[("config.json".into(), text)]).and_then(|config| {
                let model = Model::from_bytes("m", file(&tensors))?;
                config.map(|config| Checkpoint::new(config, model)).transpose()
            });
            let Ok(Some(checkpoint)) = opened else {
                refused += 1;
                continue;
            };
            for entry in checkpoint.entries() {
                match (&entry.content, checkpoint.packed(&entry.name)) {
                    (Content::Packed { scheme, .. }, Ok(w)) => {
                        assert_eq!((scheme, w.shape()), (w.scheme(), &entry.shape[..]), "{format}");
                        accepted += 1;
                    }
                    (Content::Packed { .. }, Err(_)) => refused += 1,
                    (Content::Dense(_) | Content::Listed { .. }, packed) => assert!(packed.is_err()),
                }
            }
        }
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(accepted > MUTATIONS && refused > 3 * MUTATIONS);
}

/// Headers of safetensors with bytes changed.
#[test]
fn headers_do_not_panic() {
    let mut refused = 0;
    for (f, (_, Good { settings, tensors })) in good().into_iter().enumerate() {
        let mut random = Random::new(f as u64 + 100);
        let root = serde_json::json!({"quantization_config": settings});
        let bytes = file(&tensors);
        let header = usize::from(bytes[0]) + 256 * usize::from(bytes[1]) + 8;
        for _ in 0..200 {
            let mut bytes = bytes.clone();
            for _ in 0..1 + random.below(3) {
                let at = random.below(header);
                bytes[at] = b"0123456789\"IFU_.lx"[random.below(18)];
            }
            let config = crate::build::config(&root);
            match Model::from_bytes("m", bytes).and_then(|model| Checkpoint::new(config, model)) {
                Err(_) => refused += 1,
                Ok(checkpoint) => {
                    for entry in checkpoint.entries() {
                        refused += usize::from(checkpoint.packed(&entry.name).is_err());
                    }
                }
            }
        }
    }
    println!("{refused} refused");
    assert!(refused > 1000);
}
