//! The element types of ONNX: ids, sizes, the field that holds them where they are no raw bytes, and what each is here. A new type is a row.
//!
//! Source: `onnx.proto3` (`TensorProto.DataType`).

use crate::file::Dtype;

/// The field of a tensor that holds elements of a type as numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Field {
    Float,
    Int32,
    Int64,
    Double,
    Uint64,
    /// One byte string each.
    Strings,
}

/// An element type.
#[derive(Debug)]
pub struct Type {
    pub id: i32,
    /// As ONNX calls it.
    pub name: &'static str,
    /// None of strings.
    pub bits: usize,
    pub field: Field,
    /// Whether numbers of `field` may be negative.
    pub signed: bool,
    /// What it is here; none: it is listed and no more.
    pub dtype: Option<Dtype>,
}

const fn dense(id: i32, name: &'static str, bits: usize, field: Field, signed: bool, dtype: Dtype) -> Type {
    Type { id, name, bits, field, signed, dtype: Some(dtype) }
}

const fn listed(id: i32, name: &'static str, bits: usize, field: Field) -> Type {
    Type { id, name, bits, field, signed: false, dtype: None }
}

/// All types that occur in files.
pub static TYPES: &[Type] = &[
    dense(1, "FLOAT", 32, Field::Float, true, Dtype::F32),
    dense(2, "UINT8", 8, Field::Int32, false, Dtype::U8),
    dense(3, "INT8", 8, Field::Int32, true, Dtype::I8),
    dense(4, "UINT16", 16, Field::Int32, false, Dtype::U16),
    dense(5, "INT16", 16, Field::Int32, true, Dtype::I16),
    dense(6, "INT32", 32, Field::Int32, true, Dtype::I32),
    dense(7, "INT64", 64, Field::Int64, true, Dtype::I64),
    listed(8, "STRING", 0, Field::Strings),
    dense(9, "BOOL", 8, Field::Int32, false, Dtype::BOOL),
    dense(10, "FLOAT16", 16, Field::Int32, false, Dtype::F16),
    dense(11, "DOUBLE", 64, Field::Double, true, Dtype::F64),
    dense(12, "UINT32", 32, Field::Uint64, false, Dtype::U32),
    dense(13, "UINT64", 64, Field::Uint64, false, Dtype::U64),
    dense(14, "COMPLEX64", 64, Field::Float, true, Dtype::C64),
    listed(15, "COMPLEX128", 128, Field::Double),
    dense(16, "BFLOAT16", 16, Field::Int32, false, Dtype::BF16),
    dense(17, "FLOAT8E4M3FN", 8, Field::Int32, false, Dtype::F8_E4M3),
    dense(18, "FLOAT8E4M3FNUZ", 8, Field::Int32, false, Dtype::F8_E4M3FNUZ),
    dense(19, "FLOAT8E5M2", 8, Field::Int32, false, Dtype::F8_E5M2),
    dense(20, "FLOAT8E5M2FNUZ", 8, Field::Int32, false, Dtype::F8_E5M2FNUZ),
    listed(21, "UINT4", 4, Field::Int32),
    listed(22, "INT4", 4, Field::Int32),
    listed(23, "FLOAT4E2M1", 4, Field::Int32),
    dense(24, "FLOAT8E8M0", 8, Field::Int32, false, Dtype::F8_E8M0),
    listed(25, "UINT2", 2, Field::Int32),
    listed(26, "INT2", 2, Field::Int32),
];

/// The type of an id.
pub fn of_id(id: i32) -> Option<&'static Type> {
    TYPES.iter().find(|t| t.id == id)
}

/// The type of plain elements.
pub fn of_dense(dtype: Dtype) -> Option<&'static Type> {
    TYPES.iter().find(|t| t.dtype == Some(dtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_size_and_one_row() {
        for t in TYPES {
            assert_eq!(of_id(t.id).unwrap().name, t.name);
            if let Some(dtype) = t.dtype {
                assert_eq!(dtype.bitsize(), t.bits, "{}", t.name);
                assert_eq!(of_dense(dtype).unwrap().id, t.id);
            }
        }
        assert_eq!((TYPES.len(), of_id(0).is_none(), of_id(27).is_none()), (26, true, true));
    }
}
