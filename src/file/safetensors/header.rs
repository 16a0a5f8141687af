//! The header of a safetensors file: names, types, shapes, extents and metadata, in its order, and checked against each other.
//!
//! ```text
//! | u64 length | {"__metadata__": {KEY: TEXT}, NAME: {dtype, shape, data_offsets: [from, to]}, ...} | data |
//! ```
//!
//! The crate `safetensors` knows the types. The list is read here: the crate keeps the last of several tensors of one name, its errors name neither
//! tensor nor byte, and it counts bytes in words of the machine, which are short ones in a browser.

use super::MAX_HEADER;
use crate::Result;
use crate::file::Dtype;
use crate::file::bytes::bad;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;

const METADATA: &str = "__metadata__";
/// Bytes of the length before the header.
pub const LENGTH: usize = size_of::<u64>();

/// What a header says.
#[derive(Debug, Default)]
pub struct Header {
    /// In the order of their data.
    pub tensors: Vec<Tensor>,
    /// In the header's order.
    pub metadata: Vec<(String, String)>,
}

/// What a header says of one tensor.
#[derive(Debug, serde::Deserialize)]
pub struct TensorInfo {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Where its bytes begin and end, counted from the end of the header.
    pub data_offsets: (u64, u64),
}

/// One tensor of a header.
#[derive(Debug)]
pub struct Tensor {
    pub name: String,
    pub info: TensorInfo,
    /// Its bytes in the file.
    pub range: Range<u64>,
}

/// A JSON object as a list.
struct Pairs<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct All<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for All<T> {
            type Value = Pairs<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let (mut all, mut seen) = (Vec::new(), HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(M::Error::custom(format!("'{name}' occurs twice")));
                    }
                    all.push((name, map.next_value()?));
                }
                Ok(Pairs(all))
            }
        }
        from.deserialize_map(All(std::marker::PhantomData))
    }
}

/// Where a part of the header lies in the file.
fn byte_of(header: &[u8], part: &str) -> usize {
    let at = (part.as_ptr() as usize).wrapping_sub(header.as_ptr() as usize);
    LENGTH.saturating_add(at)
}

/// What is wrong with JSON that begins at byte `at` of the file.
fn json_error(path: &Path, at: usize, what: &str, error: &serde_json::Error) -> crate::Error {
    // Of a text in one line the column is the byte.
    let text = error.to_string();
    let (text, place) = match text.rsplit_once(" at line 1 column ") {
        Some((text, column)) => (text, column.parse().unwrap_or(0)),
        None => (text.as_str(), 0),
    };
    bad(path, format!("header, byte {}: {what}{text}", at.saturating_add(place)))
}

/// The byte at which the header ends, from the first bytes of a file of `file_len`.
///
/// # Errors
/// [`crate::Error::Format`] if there is no such header in the file.
pub fn end(path: &Path, head: &[u8], file_len: u64) -> Result<u64> {
    let Some((len, _)) = head.split_first_chunk::<LENGTH>() else {
        let what = format!("not a safetensors file: {file_len} bytes, the header length alone takes 8");
        return Err(bad(path, what));
    };
    let len = u64::from_le_bytes(*len);
    if len > MAX_HEADER {
        return Err(bad(path, format!("not a safetensors file: a header of {len} bytes is announced")));
    }
    let follow = file_len.saturating_sub(LENGTH as u64);
    if len > follow {
        let what = format!("truncated: a header of {len} bytes is announced, {follow} bytes follow");
        return Err(bad(path, what));
    }
    Ok(len.saturating_add(LENGTH as u64))
}

/// Reads the header in the first bytes of a file of `file_len`.
///
/// # Errors
/// [`crate::Error::Format`] with the file, the tensor and the byte.
pub fn parse(path: &Path, head: &[u8], file_len: u64) -> Result<Header> {
    let data = end(path, head, file_len)?;
    let header = usize::try_from(data).ok().and_then(|data| head.get(LENGTH..data)).unwrap_or(&[]);
    let list: Pairs<&RawValue> =
        serde_json::from_slice(header).map_err(|e| json_error(path, LENGTH, "", &e))?;
    let mut parsed = Header::default();
    for (name, value) in list.0 {
        let (at, text) = (byte_of(header, value.get()), value.get());
        let wrong = |e: serde_json::Error| json_error(path, at, &format!("'{name}': "), &e);
        if name == METADATA {
            parsed.metadata = serde_json::from_str::<Pairs<String>>(text).map_err(wrong)?.0;
        } else {
            let info = serde_json::from_str(text).map_err(wrong)?;
            parsed.tensors.push(Tensor { name, info, range: at as u64..at as u64 });
        }
    }
    place(path, &mut parsed.tensors, data, file_len.saturating_sub(data))?;
    Ok(parsed)
}

/// Brings tensors into the order of their data and sets their places, where until now those of their descriptions are.
fn place(path: &Path, tensors: &mut [Tensor], start: u64, len: u64) -> Result<()> {
    tensors.sort_by(|a, b| (a.info.data_offsets, &a.name).cmp(&(b.info.data_offsets, &b.name)));
    let (mut end, mut before) = (0, String::new());
    for Tensor { name, info, range } in tensors.iter_mut() {
        let at = range.start;
        let wrong = |what: String| bad(path, format!("header, byte {at}: tensor '{name}': {what}"));
        let (from, to) = info.data_offsets;
        let Some(bytes) = to.checked_sub(from) else {
            return Err(wrong(format!("data_offsets [{from}, {to}] end before they begin")));
        };
        // In 64 bits everywhere: in words of 32 a tensor of half a gigabyte could not be counted.
        let elements = info.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        let bits = elements.and_then(|n| n.checked_mul(info.dtype.bitsize() as u64));
        let (dtype, shape) = (info.dtype, &info.shape);
        match bits {
            None => return Err(wrong(format!("{dtype} {shape:?} has more bytes than can be counted"))),
            Some(bits) if bits % 8 != 0 => {
                return Err(wrong(format!("{dtype} {shape:?} takes {bits} bits, which are no whole bytes")));
            }
            Some(bits) if bits / 8 != bytes => {
                let need = bits / 8;
                let what =
                    format!("data_offsets [{from}, {to}] are {bytes} bytes, {dtype} {shape:?} takes {need}");
                return Err(wrong(what));
            }
            Some(_) => {}
        }
        if from < end {
            return Err(wrong(format!(
                "its data begins at {from}, inside that of '{before}', which ends at {end}"
            )));
        }
        if from > end {
            return Err(wrong(format!("its data begins at {from}; bytes {end} to {from} are of no tensor")));
        }
        if to > len {
            let file = start.saturating_add(len);
            return Err(wrong(format!(
                "truncated: its data ends at {to} of {len} bytes of data, the file at byte {file}"
            )));
        }
        *range = start.saturating_add(from)..start.saturating_add(to);
        (end, before) = (to, name.clone());
    }
    if end < len {
        let what = format!("the header describes {end} bytes of data, {len} follow");
        return Err(bad(path, what));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
    }

    #[test]
    fn order_and_places_are_kept() {
        let text = r#"{"__metadata__":{"z":"1","a":"2"},"w":{"dtype":"F16","shape":[2],"data_offsets":[8,12]},"e":{"dtype":"F32","shape":[0,3],"data_offsets":[8,8]},"v":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}} "#;
        let bytes = file(text, 12);
        // The data need not be here.
        let header = parse(Path::new("f"), &bytes[..bytes.len() - 12], bytes.len() as u64).unwrap();
        assert_eq!(header.metadata, [("z", "1"), ("a", "2")].map(|(k, v)| (k.to_string(), v.to_string())));
        let start = 8 + text.len() as u64;
        let tensors: Vec<_> = header.tensors.iter().map(|t| (t.name.as_str(), t.range.clone())).collect();
        assert_eq!(
            tensors,
            [("v", start..start + 8), ("e", start + 8..start + 8), ("w", start + 8..start + 12)]
        );
        assert!(parse(Path::new("f"), &file("{}", 0), 10).unwrap().tensors.is_empty());
    }

    #[test]
    fn each_fault_has_its_own_error_with_tensor_and_byte() {
        let v = r#""v":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}"#;
        for (header, data, words) in [
            (format!("{{{v},{v}}}"), 8, &["byte ", "'v' occurs twice"][..]),
            (r#"{"__metadata__":{"a":"1","a":"2"}}"#.into(), 0, &["'__metadata__'", "'a' occurs twice"]),
            (r#"{"__metadata__":5}"#.into(), 0, &["byte 25", "'__metadata__'", "expected an object"]),
            (r#"{"__metadata__":{"a":5}}"#.into(), 0, &["'__metadata__'", "expected a string"]),
            ("[]".into(), 0, &["byte 8", "expected an object"]),
            ("{".into(), 0, &["byte 9", "EOF"]),
            (
                r#"{"w":{"dtype":"U8","shape":[8],"data_offsets":[8,0]}}"#.into(),
                8,
                &["byte 13", "'w'", "[8, 0]", "before"],
            ),
            (
                format!(r#"{{{v},"w":{{"dtype":"U8","shape":[8],"data_offsets":[4,12]}}}}"#),
                12,
                &["byte 65", "'w'", "begins at 4", "inside", "'v'", "ends at 8"],
            ),
            (
                format!(r#"{{{v},"w":{{"dtype":"U8","shape":[4],"data_offsets":[12,16]}}}}"#),
                16,
                &["'w'", "begins at 12", "8 to 12 are of no tensor"],
            ),
            (
                r#"{"w":{"dtype":"F32","shape":[2,32],"data_offsets":[0,8]}}"#.into(),
                8,
                &["'w'", "8 bytes", "F32 [2, 32] takes 256"],
            ),
            (
                r#"{"w":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8]}}"#.into(),
                8,
                &["'w'", "more bytes than can be counted"],
            ),
            (
                r#"{"w":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#.into(),
                2,
                &["'w'", "12 bits", "no whole bytes"],
            ),
            (
                r#"{"w":{"dtype":"F128","shape":[2],"data_offsets":[0,8]}}"#.into(),
                8,
                &["byte ", "'w'", "unknown variant `F128`"],
            ),
            (
                r#"{"w":{"dtype":"U8","shape":[-8],"data_offsets":[0,8]}}"#.into(),
                8,
                &["byte ", "'w'", "invalid value: integer `-8`"],
            ),
            (r#"{"w":{"dtype":"U8","shape":[8]}}"#.into(), 8, &["'w'", "missing field `data_offsets`"]),
            (format!("{{{v}}}"), 7, &["'v'", "truncated", "ends at 8 of 7 bytes"]),
            (format!("{{{v}}}"), 9, &["describes 8 bytes of data, 9 follow"]),
        ] {
            let bytes = file(&header, data);
            let message = parse(Path::new("f.st"), &bytes, bytes.len() as u64).unwrap_err().to_string();
            assert!(message.starts_with("f.st: "), "{message}");
            for word in words {
                assert!(message.contains(word), "{header}: no '{word}' in: {message}");
            }
        }
    }
}
