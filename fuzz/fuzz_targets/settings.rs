// A checkpoint of another quantizer as one run of bytes: the text of config.json, a zero byte, a safetensors file. Shared by the target and by
// tests/mutations.rs.

use lowbit::file::checkpoint::{Checkpoint, Config};
use lowbit::file::{Content, Model};

/// Opens the checkpoint and reads all of it.
pub fn read(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (Some(text), Some(tensors)) = (parts.next(), parts.next()) else { return false };
    let Ok(Some(config)) = Config::parse(&[("config.json".into(), text.to_vec())]) else { return false };
    let opened = Model::from_bytes("fuzz", tensors.to_vec()).and_then(|model| Checkpoint::new(config, model));
    let Ok(checkpoint) = opened else { return false };
    for entry in checkpoint.entries() {
        match entry.content {
            Content::Packed { .. } => drop(checkpoint.packed(&entry.name)),
            Content::Dense(_) => drop((checkpoint.raw(&entry.name), checkpoint.tensor(&entry.name))),
            Content::Listed { .. } => {}
        }
    }
    true
}
