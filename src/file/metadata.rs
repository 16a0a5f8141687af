//! What a file says beside its tensors: an ordered list of keys and typed values.
//!
//! ```text
//! GGUF key-values <-> Metadata <-> safetensors "__metadata__" (strings only; other kinds as one JSON text, see `safetensors`)
//! ```
//!
//! The kinds are those of GGUF; what safetensors has are strings. Order is kept, arrays stay in the bytes of the file.

use serde_json::{Number, Value as Json};
use std::collections::BTreeMap;
use std::fmt;

/// The kinds of values, with the ids they have in GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl Kind {
    /// All of them, each at its id.
    pub const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// The kind of an id.
    pub fn of(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == id)
    }

    /// Bytes of a value; none for strings and arrays, which say it themselves.
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }

    /// The name used in listings and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// Values of one kind, little-endian one behind the other; strings each behind its length in 8 bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    kind: Kind,
    len: usize,
    bytes: Vec<u8>,
}

impl Value {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::U8(_) => Kind::U8,
            Self::I8(_) => Kind::I8,
            Self::U16(_) => Kind::U16,
            Self::I16(_) => Kind::I16,
            Self::U32(_) => Kind::U32,
            Self::I32(_) => Kind::I32,
            Self::F32(_) => Kind::F32,
            Self::Bool(_) => Kind::Bool,
            Self::String(_) => Kind::String,
            Self::Array(_) => Kind::Array,
            Self::U64(_) => Kind::U64,
            Self::I64(_) => Kind::I64,
            Self::F64(_) => Kind::F64,
        }
    }

    /// The kind's name; `[u32]` for an array of u32.
    pub fn kind_name(&self) -> String {
        match self {
            Self::Array(a) => format!("[{}]", a.kind),
            other => other.kind().to_string(),
        }
    }

    /// The value of a fixed size that `bytes` start with; none for strings, arrays, too few bytes and a bool that is not 0 or 1.
    pub(super) fn fixed(kind: Kind, bytes: &[u8]) -> Option<Self> {
        Some(match kind {
            Kind::U8 => Self::U8(*bytes.first()?),
            Kind::I8 => Self::I8(i8::from_le_bytes(*bytes.first_chunk()?)),
            Kind::U16 => Self::U16(u16::from_le_bytes(*bytes.first_chunk()?)),
            Kind::I16 => Self::I16(i16::from_le_bytes(*bytes.first_chunk()?)),
            Kind::U32 => Self::U32(u32::from_le_bytes(*bytes.first_chunk()?)),
            Kind::I32 => Self::I32(i32::from_le_bytes(*bytes.first_chunk()?)),
            Kind::F32 => Self::F32(f32::from_le_bytes(*bytes.first_chunk()?)),
            Kind::Bool => match bytes.first()? {
                0 => Self::Bool(false),
                1 => Self::Bool(true),
                _ => return None,
            },
            Kind::U64 => Self::U64(u64::from_le_bytes(*bytes.first_chunk()?)),
            Kind::I64 => Self::I64(i64::from_le_bytes(*bytes.first_chunk()?)),
            Kind::F64 => Self::F64(f64::from_le_bytes(*bytes.first_chunk()?)),
            Kind::String | Kind::Array => return None,
        })
    }

    /// Appends the bytes of the value, the kind before it left out.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(v) => out.push(*v),
            Self::I8(v) => out.extend(v.to_le_bytes()),
            Self::U16(v) => out.extend(v.to_le_bytes()),
            Self::I16(v) => out.extend(v.to_le_bytes()),
            Self::U32(v) => out.extend(v.to_le_bytes()),
            Self::I32(v) => out.extend(v.to_le_bytes()),
            Self::F32(v) => out.extend(v.to_le_bytes()),
            Self::Bool(v) => out.push(u8::from(*v)),
            Self::String(v) => put_string(out, v),
            Self::Array(a) => {
                out.extend((a.kind as u32).to_le_bytes());
                out.extend((a.len as u64).to_le_bytes());
                out.extend(&a.bytes);
            }
            Self::U64(v) => out.extend(v.to_le_bytes()),
            Self::I64(v) => out.extend(v.to_le_bytes()),
            Self::F64(v) => out.extend(v.to_le_bytes()),
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// An integer of any kind that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::U64(v) => Some(v),
            Self::I8(v) => v.try_into().ok(),
            Self::I16(v) => v.try_into().ok(),
            Self::I32(v) => v.try_into().ok(),
            Self::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// As JSON: numbers (of NaN and infinities the bits as text, `"0x7fc00000"`), texts, lists.
    pub fn to_json(&self) -> Json {
        let float = |v: f64, bits: String| Number::from_f64(v).map_or(Json::String(bits), Json::Number);
        match self {
            Self::U8(v) => (*v).into(),
            Self::I8(v) => (*v).into(),
            Self::U16(v) => (*v).into(),
            Self::I16(v) => (*v).into(),
            Self::U32(v) => (*v).into(),
            Self::I32(v) => (*v).into(),
            Self::F32(v) => float((*v).into(), format!("{:#010x}", v.to_bits())),
            Self::Bool(v) => (*v).into(),
            Self::String(v) => v.as_str().into(),
            Self::Array(a) => a.values().map(|v| v.to_json()).collect(),
            Self::U64(v) => (*v).into(),
            Self::I64(v) => (*v).into(),
            Self::F64(v) => float(*v, format!("{:#018x}", v.to_bits())),
        }
    }

    /// What [`Self::to_json`] and [`Self::kind_name`] made; none where the two do not go together.
    pub(super) fn from_json(kind: &str, json: &Json) -> Option<Self> {
        if let Some(of) = kind.strip_prefix('[').and_then(|k| k.strip_suffix(']')) {
            let items = json.as_array()?.iter().map(|item| Self::from_json(of, item));
            return Array::new(Kind::named(of)?, &items.collect::<Option<Vec<_>>>()?).map(Self::Array);
        }
        let bits = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        Some(match Kind::named(kind)? {
            Kind::U8 => Self::U8(json.as_u64()?.try_into().ok()?),
            Kind::I8 => Self::I8(json.as_i64()?.try_into().ok()?),
            Kind::U16 => Self::U16(json.as_u64()?.try_into().ok()?),
            Kind::I16 => Self::I16(json.as_i64()?.try_into().ok()?),
            Kind::U32 => Self::U32(json.as_u64()?.try_into().ok()?),
            Kind::I32 => Self::I32(json.as_i64()?.try_into().ok()?),
            Kind::F32 => match json {
                Json::String(text) => Self::F32(f32::from_bits(bits(text)?.try_into().ok()?)),
                // Written from an f32, so that nothing is rounded.
                _ => Self::F32(json.as_f64()? as f32),
            },
            Kind::Bool => Self::Bool(json.as_bool()?),
            Kind::String => Self::String(json.as_str()?.into()),
            Kind::Array => return None,
            Kind::U64 => Self::U64(json.as_u64()?),
            Kind::I64 => Self::I64(json.as_i64()?),
            Kind::F64 => match json {
                Json::String(text) => Self::F64(f64::from_bits(bits(text)?)),
                _ => Self::F64(json.as_f64()?),
            },
        })
    }
}

/// For people: texts quoted, of arrays the first values.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        const LONG: usize = 60;
        match self {
            Self::U8(v) => v.fmt(f),
            Self::I8(v) => v.fmt(f),
            Self::U16(v) => v.fmt(f),
            Self::I16(v) => v.fmt(f),
            Self::U32(v) => v.fmt(f),
            Self::I32(v) => v.fmt(f),
            Self::F32(v) => write!(f, "{v:?}"),
            Self::Bool(v) => v.fmt(f),
            Self::String(v) if v.chars().count() > LONG => {
                let start: String = v.chars().take(LONG).collect();
                write!(f, "{start:?}... ({} bytes)", v.len())
            }
            Self::String(v) => write!(f, "{v:?}"),
            Self::Array(a) => {
                let shown: Vec<String> = a.values().take(SHOWN).map(|v| v.to_string()).collect();
                let more = if a.len > SHOWN { format!(", ... {} values", a.len) } else { String::new() };
                write!(f, "[{}{more}]", shown.join(", "))
            }
            Self::U64(v) => v.fmt(f),
            Self::I64(v) => v.fmt(f),
            Self::F64(v) => write!(f, "{v:?}"),
        }
    }
}

/// A string behind its length.
pub(super) fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Array {
    /// An array of values of one kind; none if a value is of another kind, or an array.
    pub fn new(kind: Kind, values: &[Value]) -> Option<Self> {
        let mut bytes = Vec::new();
        for value in values {
            if value.kind() != kind || kind == Kind::Array {
                return None;
            }
            value.put(&mut bytes);
        }
        Some(Self { kind, len: values.len(), bytes })
    }

    /// An array from the bytes of `len` values, which the caller has checked.
    pub(super) fn from_checked(kind: Kind, len: usize, bytes: &[u8]) -> Self {
        Self { kind, len, bytes: bytes.to_vec() }
    }

    /// The kind of its values.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values in order.
    pub fn values(&self) -> impl Iterator<Item = Value> + '_ {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || match self.kind.size() {
            Some(size) => {
                let (value, tail) = rest.split_at_checked(size)?;
                rest = tail;
                Value::fixed(self.kind, value)
            }
            None => {
                let (len, tail) = rest.split_first_chunk::<8>()?;
                let (text, tail) = tail.split_at_checked(u64::from_le_bytes(*len).try_into().ok()?)?;
                rest = tail;
                Some(Value::String(std::str::from_utf8(text).ok()?.into()))
            }
        })
    }
}

/// Keys and values in order, each key once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    pairs: Vec<(String, Value)>,
}

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Sets a key where it stands, or at the end.
    pub fn set(&mut self, key: &str, value: Value) {
        match self.pairs.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.pairs.push((key.into(), value)),
        }
    }

    /// Appends a key that is not there, which the caller has made sure of.
    pub(super) fn push(&mut self, key: String, value: Value) {
        self.pairs.push((key, value));
    }

    /// Drops the keys for which `keep` is false.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.pairs.retain(|(key, _)| keep(key));
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Whether a sorted map of texts is all there is to it.
    pub(super) fn is_sorted_text(&self) -> bool {
        self.pairs.is_sorted_by(|(a, _), (b, _)| a < b)
            && self.pairs.iter().all(|(_, v)| v.as_str().is_some())
    }

    /// A JSON list of `[key, kind, value]`, from which [`Self::from_typed_json`] makes the same again.
    pub(super) fn to_typed_json(&self) -> Json {
        let triple = |(k, v): &(String, Value)| -> Json {
            vec![Json::from(k.as_str()), v.kind_name().into(), v.to_json()].into()
        };
        self.pairs.iter().map(triple).collect()
    }

    /// The reverse of [`Self::to_typed_json`]; the error says which entry is none.
    pub(super) fn from_typed_json(json: &Json) -> Result<Self, String> {
        let list = json.as_array().ok_or("not a list")?;
        let mut keys = std::collections::HashSet::new();
        let mut metadata = Self::default();
        for (i, entry) in list.iter().enumerate() {
            let value = match entry.as_array().map(Vec::as_slice) {
                Some([Json::String(key), Json::String(kind), json]) if keys.insert(key) => {
                    Value::from_json(kind, json).map(|value| (key, value))
                }
                _ => None,
            };
            let (key, value) = value.ok_or(format!("entry {i} is no [key, kind, value] of its own"))?;
            metadata.push(key.clone(), value);
        }
        Ok(metadata)
    }
}

impl From<BTreeMap<String, String>> for Metadata {
    fn from(map: BTreeMap<String, String>) -> Self {
        Self { pairs: map.into_iter().map(|(k, v)| (k, Value::String(v))).collect() }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    /// One of each kind, extremes among them.
    fn samples() -> Vec<Value> {
        let words = [Value::String("a\"é".into()), Value::String(String::new())];
        let numbers = [Value::F32(0.1), Value::F32(f32::from_bits(0x7fc0_1234)), Value::F32(-0.0)];
        vec![
            Value::U8(255),
            Value::I8(-128),
            Value::U16(65535),
            Value::I16(-32768),
            Value::U32(u32::MAX),
            Value::I32(i32::MIN),
            Value::F32(f32::MIN_POSITIVE / 3.0),
            Value::Bool(true),
            Value::String("llama".into()),
            Value::Array(Array::new(Kind::String, &words).unwrap()),
            Value::U64(u64::MAX),
            Value::I64(i64::MIN),
            Value::F64(0.1 + 0.2),
            Value::F64(f64::NEG_INFINITY),
            Value::Array(Array::new(Kind::F32, &numbers).unwrap()),
            Value::Array(Array::new(Kind::Bool, &[]).unwrap()),
        ]
    }

    #[test]
    fn json_brings_every_kind_back() {
        for value in samples() {
            let text = value.to_json().to_string();
            let json: Json = serde_json::from_str(&text).unwrap();
            let back = Value::from_json(&value.kind_name(), &json).unwrap_or_else(|| panic!("{value:?}"));
            let bytes = |v: &Value| {
                let mut out = Vec::new();
                v.put(&mut out);
                out
            };
            assert_eq!((bytes(&back), back.kind()), (bytes(&value), value.kind()), "{text}");
        }
        for (kind, json) in [
            ("u8", "256"),
            ("i8", "1.5"),
            ("bool", "1"),
            ("string", "1"),
            ("[u8]", "[1,256]"),
            ("[array]", "[[]]"),
            ("array", "[]"),
            ("f32", "\"0x1ffffffff\""),
            ("f32", "\"x\""),
            ("u128", "1"),
        ] {
            assert!(Value::from_json(kind, &serde_json::from_str(json).unwrap()).is_none(), "{kind} {json}");
        }
    }

    #[test]
    fn order_is_kept() {
        let mut m = Metadata::default();
        for (i, value) in samples().into_iter().enumerate() {
            m.set(&format!("k{}", 99 - i), value);
        }
        m.set("k95", Value::U8(1));
        assert_eq!(m.iter().nth(4).unwrap(), ("k95", &Value::U8(1)));
        let again = Metadata::from_typed_json(&m.to_typed_json()).unwrap();
        // NaN is not equal to itself.
        assert_eq!(again.to_typed_json(), m.to_typed_json());
        m.retain(|key| key != "k99");
        assert_eq!(m.iter().next().unwrap().0, "k98");
        assert!(!m.is_sorted_text());
        let doubled = serde_json::json!([["a", "u8", 1], ["a", "u8", 1]]);
        assert!(Metadata::from_typed_json(&doubled).unwrap_err().contains("entry 1"));
    }
}
