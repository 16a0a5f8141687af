// What any bytes may be asked for once they are open. Shared by the targets and by tests/mutations.rs.

use lowbit::file::{Content, Model};

/// Opens the bytes as a model and reads all of it.
pub fn read(bytes: &[u8]) -> bool {
    let Ok(model) = Model::from_bytes("fuzz", bytes.to_vec()) else { return false };
    for entry in model.entries() {
        let _ = (entry.scheme_name(), entry.bits_per_weight(), entry.readable(), model.raw(entry).len());
        match entry.content {
            Content::Packed { .. } => drop(model.packed_exactly(entry)),
            Content::Dense(_) => drop(model.tensor(entry)),
            Content::Listed { .. } => {}
        }
    }
    for (_, value) in model.metadata().iter() {
        let _ = (value.to_string(), value.to_json());
    }
    true
}
