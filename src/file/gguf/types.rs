//! The tensor types of GGUF: ids, block sizes, and what each is here. A new type is a row.
//!
//! Source: ggml `include/ggml.h` (`enum ggml_type`), `src/ggml.c` (sizes).

use crate::file::{Dtype, ggml};
use crate::scheme::{Float, Ggml, PRESETS, Value};
use crate::{DType, Scheme};

/// What lowbit makes of a type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Holds {
    /// Plain elements.
    Dense(Dtype),
    /// Blocks that are points in the space of schemes.
    Blocks(Ggml),
    /// Blocks of vectors from a lattice, which are listed and not decoded.
    Listed,
}

/// A tensor type.
#[derive(Debug)]
pub struct Type {
    pub id: u32,
    /// As ggml calls it.
    pub name: &'static str,
    /// Values per block.
    pub block: usize,
    /// Bytes per block.
    pub bytes: usize,
    pub holds: Holds,
}

const fn dense(id: u32, name: &'static str, bytes: usize, dtype: Dtype) -> Type {
    Type { id, name, block: 1, bytes, holds: Holds::Dense(dtype) }
}

const fn blocks(id: u32, name: &'static str, kind: Ggml) -> Type {
    Type { id, name, block: kind.block(), bytes: ggml::block_bytes(kind), holds: Holds::Blocks(kind) }
}

const fn listed(id: u32, name: &'static str, bytes: usize) -> Type {
    Type { id, name, block: 256, bytes, holds: Holds::Listed }
}

/// All types that occur in files.
pub static TYPES: &[Type] = &[
    dense(0, "F32", 4, Dtype::F32),
    dense(1, "F16", 2, Dtype::F16),
    blocks(2, "Q4_0", Ggml::Q4_0),
    blocks(3, "Q4_1", Ggml::Q4_1),
    blocks(6, "Q5_0", Ggml::Q5_0),
    blocks(7, "Q5_1", Ggml::Q5_1),
    blocks(8, "Q8_0", Ggml::Q8_0),
    blocks(10, "Q2_K", Ggml::Q2_K),
    blocks(11, "Q3_K", Ggml::Q3_K),
    blocks(12, "Q4_K", Ggml::Q4_K),
    blocks(13, "Q5_K", Ggml::Q5_K),
    blocks(14, "Q6_K", Ggml::Q6_K),
    listed(16, "IQ2_XXS", 66),
    listed(17, "IQ2_XS", 74),
    listed(18, "IQ3_XXS", 98),
    listed(19, "IQ1_S", 50),
    blocks(20, "IQ4_NL", Ggml::IQ4_NL),
    listed(21, "IQ3_S", 110),
    listed(22, "IQ2_S", 82),
    blocks(23, "IQ4_XS", Ggml::IQ4_XS),
    dense(24, "I8", 1, Dtype::I8),
    dense(25, "I16", 2, Dtype::I16),
    dense(26, "I32", 4, Dtype::I32),
    dense(27, "I64", 8, Dtype::I64),
    dense(28, "F64", 8, Dtype::F64),
    listed(29, "IQ1_M", 56),
    dense(30, "BF16", 2, Dtype::BF16),
    blocks(34, "TQ1_0", Ggml::TQ1_0),
    blocks(35, "TQ2_0", Ggml::TQ2_0),
    blocks(39, "MXFP4", Ggml::MXFP4),
    blocks(40, "NVFP4", Ggml::NVFP4),
    blocks(41, "Q1_0", Ggml::Q1_0),
    blocks(42, "Q2_0", Ggml::Q2_0),
];

/// Why an id is none of [`TYPES`].
fn why_not(id: u32) -> &'static str {
    match id {
        4 | 5 | 31..=33 | 36..=38 => "which was removed from GGUF",
        9 | 15 => "which is for activations and not for files",
        _ => "which is unknown",
    }
}

/// The type of an id.
///
/// # Errors
/// What is the matter with an id that is none.
pub fn of_id(id: u32) -> Result<&'static Type, String> {
    TYPES.iter().find(|t| t.id == id).ok_or_else(|| format!("type {id}, {}", why_not(id)))
}

/// The type of plain elements.
pub fn of_dense(dtype: Dtype) -> Option<&'static Type> {
    TYPES.iter().find(|t| t.holds == Holds::Dense(dtype))
}

/// The type of the blocks of a scheme, or of its elements where those are plain.
pub fn of_scheme(scheme: &Scheme) -> Option<&'static Type> {
    match (scheme.ggml, plain(scheme)) {
        (Some(kind), _) => TYPES.iter().find(|t| t.holds == Holds::Blocks(kind)),
        (None, Some(dtype)) => of_dense(crate::file::file_type(dtype)),
        (None, None) => None,
    }
}

/// The type of a scheme whose codes are plain floats.
pub fn plain(scheme: &Scheme) -> Option<DType> {
    match scheme.value {
        Value::Float(Float::F32) => Some(DType::F32),
        Value::Float(Float::F16) => Some(DType::F16),
        Value::Float(Float::Bf16) => Some(DType::Bf16),
        _ => None,
    }
}

/// The scheme of a block type.
pub fn scheme_of(kind: Ggml) -> Option<Scheme> {
    PRESETS.iter().map(|p| p.scheme).find(|s| s.ggml == Some(kind))
}

/// `general.file_type` of a file most of whose weights are of a type. Source: llama.cpp `include/llama.h`, the plainest of the mixes of a
/// type (`MOSTLY_Q4_K_S` for Q4_K).
pub fn file_type_id(name: &str) -> Option<u32> {
    const IDS: &[(&str, u32)] = &[
        ("F32", 0),
        ("F16", 1),
        ("Q4_0", 2),
        ("Q4_1", 3),
        ("Q8_0", 7),
        ("Q5_0", 8),
        ("Q5_1", 9),
        ("Q2_K", 10),
        ("Q3_K", 11),
        ("Q4_K", 14),
        ("Q5_K", 16),
        ("Q6_K", 18),
        ("IQ4_NL", 25),
        ("IQ4_XS", 30),
        ("BF16", 32),
        ("TQ1_0", 36),
        ("TQ2_0", 37),
        ("MXFP4", 38),
    ];
    IDS.iter().find(|(n, _)| *n == name).map(|(_, id)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_type_has_its_scheme_and_size() {
        let mut schemes = 0;
        for t in TYPES {
            assert_eq!(of_id(t.id).unwrap().name, t.name);
            match t.holds {
                Holds::Dense(dtype) => assert_eq!(t.bytes * 8, dtype.bitsize(), "{}", t.name),
                Holds::Blocks(kind) => {
                    let scheme = scheme_of(kind).unwrap();
                    assert_eq!(scheme.to_string().to_uppercase(), t.name);
                    assert_eq!(of_scheme(&scheme).unwrap().id, t.id);
                    schemes += 1;
                }
                Holds::Listed => assert!(t.name.starts_with("IQ"), "{}", t.name),
            }
        }
        assert_eq!((TYPES.len(), schemes), (33, 18));
        assert_eq!(PRESETS.iter().filter(|p| p.scheme.ggml.is_some()).count(), schemes);
        for float in [DType::F32, DType::F16, DType::Bf16] {
            let scheme: Scheme = float.to_string().parse().unwrap();
            assert_eq!(of_scheme(&scheme).unwrap().name, float.to_string().to_uppercase());
        }
        for (id, why) in
            [(4, "removed"), (33, "removed"), (38, "removed"), (9, "activations"), (43, "unknown")]
        {
            assert!(of_id(id).unwrap_err().contains(why), "{id}");
        }
    }
}
