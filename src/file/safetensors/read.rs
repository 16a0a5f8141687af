//! Reading safetensors: headers are parsed once and checked against the file, tensors are read when asked for.
//!
//! ```text
//! bytes of one file, or of the shards an index names -> headers -> entries, planes joined into packed tensors
//! ```

use super::header::{self, Header};
use super::{Described, FORMAT, METADATA_KEY, TENSORS_KEY, VERSION, VERSION_KEY};
use crate::file::bytes::{Bytes, bad, io, load};
use crate::file::model::{Content, Entry, Parsed, Part, Shard};
use crate::file::{Dtype, Metadata, float_type};
use crate::scheme::{Layout, PlaneKind};
use crate::{Error, Result, Scheme};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

/// Whether all of the header is in the bytes that are here.
///
/// # Errors
/// As [`header::end`].
pub fn is_whole(path: &Path, bytes: &Bytes) -> Result<bool> {
    let here = bytes.get().len();
    if here < header::LENGTH && bytes.file_len() > here as u64 {
        return Ok(false);
    }
    Ok(header::end(path, bytes.get(), bytes.file_len())? <= here as u64)
}

/// Opens the bytes of one file.
pub fn open(path: &Path, bytes: Bytes) -> Result<Parsed> {
    join(vec![Shard { path: path.to_path_buf(), bytes }], None)
}

/// Joins the shards. `wanted`: tensor -> shard, where an index says so.
fn join(shards: Vec<Shard>, wanted: Option<&HashMap<String, usize>>) -> Result<Parsed> {
    let mut parsed = Parsed::new(&FORMAT);
    let mut dense = Vec::new();
    let mut described = BTreeMap::new();
    let mut texts = BTreeMap::new();
    for (shard, Shard { path, bytes }) in shards.iter().enumerate() {
        let header = header::parse(path, bytes.get(), bytes.file_len())?;
        described.extend(take_own_metadata(path, &header, &mut texts, &mut parsed.metadata)?);
        for header::Tensor { name, info, range } in header.tensors {
            if wanted.and_then(|w| w.get(&name)).is_some_and(|&w| w != shard) {
                continue;
            }
            dense.push(Entry::new(
                name,
                info.shape,
                Content::Dense(info.dtype),
                &FORMAT,
                vec![Part { shard, range }],
            ));
        }
    }
    let first = shards.first().map(|s| s.path.clone()).unwrap_or_default();
    parsed.entries = join_planes(&first, dense, described)?;
    parsed.entries.sort_by(|a, b| natural(&a.name, &b.name));
    for (key, _) in parsed.metadata.iter() {
        texts.remove(key);
    }
    for (key, text) in texts {
        parsed.metadata.push(key, crate::file::Value::String(text));
    }
    parsed.shards = shards;
    Ok(parsed)
}

/// Adds the user's metadata to `texts` and `typed` and returns what lowbit's own says of packed tensors.
fn take_own_metadata(
    path: &Path,
    header: &Header,
    texts: &mut BTreeMap<String, String>,
    typed: &mut Metadata,
) -> Result<BTreeMap<String, Described>> {
    let mut described = BTreeMap::new();
    let own = |key: &str| header.metadata.iter().find(|(k, _)| k == key).map(|(_, text)| text.as_str());
    match own(VERSION_KEY).map(|v| (v, v.parse::<u32>())) {
        None => {}
        Some((_, Ok(1..=VERSION))) => {
            let text = own(TENSORS_KEY).unwrap_or("{}");
            described =
                serde_json::from_str(text).map_err(|e| bad(path, format!("metadata {TENSORS_KEY}: {e}")))?;
            if let Some(text) = own(METADATA_KEY)
                && typed.is_empty()
            {
                let json = serde_json::from_str(text).map_err(|e| e.to_string());
                *typed = json
                    .and_then(|json| Metadata::from_typed_json(&json))
                    .map_err(|e| bad(path, format!("metadata {METADATA_KEY}: {e}")))?;
            }
        }
        Some((v, _)) => {
            let what = format!("version '{v}' of lowbit's packed layout; this lowbit reads up to {VERSION}");
            return Err(bad(path, what));
        }
    }
    for (key, value) in &header.metadata {
        let own = [VERSION_KEY, TENSORS_KEY, METADATA_KEY].contains(&key.as_str());
        if !own {
            texts.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    Ok(described)
}

/// Replaces the planes among `dense` by the packed tensors they belong to.
fn join_planes(path: &Path, dense: Vec<Entry>, described: BTreeMap<String, Described>) -> Result<Vec<Entry>> {
    let index: HashMap<&str, &Entry> = dense.iter().map(|e| (e.name.as_str(), e)).collect();
    let mut used = HashSet::new();
    let mut entries = Vec::with_capacity(dense.len());
    for (name, Described { scheme, shape, dtype }) in described {
        let wrong = |what: String| bad(path, format!("packed tensor '{name}': {what}"));
        let scheme: Scheme = scheme.parse().map_err(|e: Error| wrong(e.to_string()))?;
        let (rows, k) = scheme.check_shape(&shape).map_err(|e| wrong(e.to_string()))?;
        let source = float_type(dtype).ok_or_else(|| wrong(format!("original type {dtype}")))?;
        let layout = Layout::new(&scheme, rows, k);
        let mut parts = Vec::new();
        for plane in layout.planes().iter().filter(|p| super::write::stored(&scheme, p.kind)) {
            let plane_name = format!("{name}.{}", plane.kind.name());
            let entry =
                index.get(plane_name.as_str()).ok_or_else(|| wrong(format!("no plane '{plane_name}'")))?;
            if entry.content != Content::Dense(Dtype::U8) || entry.bytes != plane.len as u64 {
                let got = format!("{} bytes of {}", entry.bytes, entry.scheme_name());
                return Err(wrong(format!(
                    "plane '{plane_name}': expected {} bytes of u8, got {got}",
                    plane.len
                )));
            }
            parts.extend(entry.parts.first().cloned());
            used.insert(plane_name);
        }
        // A plane that the scheme does not have: the tensor is of another one.
        let foreign = PlaneKind::ALL.iter().map(|kind| format!("{name}.{}", kind.name()));
        if let Some(plane) = foreign.into_iter().find(|n| index.contains_key(n.as_str()) && !used.contains(n))
        {
            return Err(wrong(format!("'{plane}' is no plane of {scheme}")));
        }
        entries.push(Entry::new(name, shape, Content::Packed { scheme, source }, &FORMAT, parts));
    }
    entries.extend(dense.into_iter().filter(|e| !used.contains(&e.name)));
    Ok(entries)
}

/// The part of an index that is used.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens the shards that an index names.
pub fn open_index(path: &Path) -> Result<Parsed> {
    let text = std::fs::read(path).map_err(io(path))?;
    let index: Index = serde_json::from_slice(&text).map_err(|e| bad(path, format!("index: {e}")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files: Vec<&str> = index.weight_map.values().map(String::as_str).collect();
    files.sort_unstable();
    files.dedup();
    if files.is_empty() {
        return Err(bad(path, "index: weight_map is empty"));
    }
    let mut shards = Vec::with_capacity(files.len());
    for file in &files {
        // A downloaded index must not reach files outside its folder.
        let plain = !file.is_empty() && Path::new(file).file_name().is_some_and(|n| n == *file);
        if !plain {
            return Err(bad(path, format!("index: '{file}' is not a plain file name")));
        }
        let path = folder.join(file);
        let bytes = load(&path)?;
        shards.push(Shard { path, bytes });
    }
    let wanted: HashMap<String, usize> = index
        .weight_map
        .iter()
        .filter_map(|(name, file)| Some((name.clone(), files.binary_search(&file.as_str()).ok()?)))
        .collect();
    let mut parsed = join(shards, Some(&wanted))?;
    parsed.index = Some(path.to_path_buf());
    let names: HashSet<&str> = parsed.entries.iter().map(|e| e.name.as_str()).collect();
    let planes = |name: &str| parsed.entries.iter().any(|e| is_plane_of(e, name));
    match wanted.keys().filter(|name| !names.contains(name.as_str()) && !planes(name)).min() {
        None => Ok(parsed),
        Some(name) => {
            let file = index.weight_map.get(name).map_or("", String::as_str);
            Err(bad(path, format!("index: tensor '{name}' is not in '{file}'")))
        }
    }
}

/// Whether `name` is that of a plane of a packed entry.
fn is_plane_of(entry: &Entry, name: &str) -> bool {
    let Content::Packed { scheme, .. } = &entry.content else { return false };
    let suffix = name.strip_prefix(entry.name.as_str()).and_then(|rest| rest.strip_prefix('.'));
    let planes = scheme.check_shape(&entry.shape).map(|(rows, k)| Layout::new(scheme, rows, k));
    suffix.is_some_and(|s| planes.is_ok_and(|l| l.planes().iter().any(|p| p.kind.name() == s)))
}

/// Order of names with runs of digits compared as numbers.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let key = |s: &str| -> Vec<(String, Option<(usize, String)>)> {
        let mut parts = Vec::new();
        let mut rest = s;
        while !rest.is_empty() {
            let (text, tail) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
            let (digits, tail) =
                tail.split_at(tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len()));
            let digits = digits.trim_start_matches('0');
            // Without leading zeros, a longer number is the larger one.
            let number = (text.len() < rest.len()).then(|| (digits.len(), digits.to_string()));
            parts.push((text.to_string(), number));
            rest = tail;
        }
        parts
    };
    key(a).cmp(&key(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::file::Model;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn open(bytes: Vec<u8>) -> Result<Model> {
        Model::from_bytes("x.safetensors", bytes)
    }

    fn refused(bytes: Vec<u8>) -> String {
        match open(bytes) {
            Err(e @ Error::Format { .. }) => e.to_string(),
            Err(e) => panic!("{e:?}"),
            Ok(m) => panic!("accepted {:?}", m.entries()),
        }
    }

    #[test]
    fn lying_headers_are_refused_with_the_path() {
        let good = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        assert_eq!(open(file(good, &[0; 8])).unwrap().entries().len(), 1);
        for (what, bytes) in [
            ("empty", vec![]),
            ("seven bytes", vec![1; 7]),
            ("a huge header", u64::MAX.to_le_bytes().to_vec()),
            ("a header longer than the file", 1000u64.to_le_bytes().to_vec()),
            ("data cut", file(good, &[0; 7])),
            ("data too long", file(good, &[0; 9])),
            ("not json", file("{", &[])),
            ("not utf-8", [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat()),
            ("no map", file("[]", &[])),
            ("a short extent", file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#, &[0; 4])),
            ("a gap", file(r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#, &[0; 4])),
            ("backwards", file(r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[4,2]}}"#, &[0; 4])),
            ("a type of no kind", file(r#"{"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8])),
            ("negative", file(r#"{"a":{"dtype":"U8","shape":[-2],"data_offsets":[0,8]}}"#, &[0; 8])),
            (
                "an overflowing shape",
                file(
                    r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
                    &[0; 8],
                ),
            ),
        ] {
            let message = refused(bytes);
            assert!(message.starts_with("x.safetensors: "), "{what}: {message}");
        }
        // Eight extents of 2^61 bytes: the sum of all overflows when the header is added.
        let size = usize::MAX / 8;
        let extents: Vec<String> = (0..8usize)
            .map(|i| {
                let (from, to) = (i * size, (i + 1) * size);
                format!(r#""t{i}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{from},{to}]}}"#)
            })
            .collect();
        refused(file(&format!("{{{}}}", extents.join(",")), &[]));
    }

    #[test]
    fn packed_metadata_is_checked() {
        let meta = |version: &str, tensors: &str| {
            let meta =
                serde_json::json!({"lowbit.version": version, "lowbit.tensors": tensors, "mine": "kept"});
            let planes = r#""w.codes":{"dtype":"U8","shape":[2,16],"data_offsets":[0,32]},
                            "w.scales":{"dtype":"U8","shape":[2,2],"data_offsets":[32,36]}"#;
            file(&format!(r#"{{"__metadata__":{meta},{planes}}}"#), &[0; 36])
        };
        let good = r#"{"w":{"scheme":"q4_0","shape":[2,32],"dtype":"F16"}}"#;
        let model = open(meta("1", good)).unwrap();
        assert_eq!(model.entries().len(), 1);
        let entry = model.entry("w").unwrap();
        assert_eq!((entry.bytes, entry.scheme_name().as_str(), entry.bits_per_weight()), (36, "q4_0", 4.5));
        assert_eq!(model.packed(entry).unwrap().shape(), &[2, 32]);
        assert_eq!(model.metadata().len(), 1);
        for (version, tensors) in [
            ("2", good),
            ("x", good),
            ("1", "{"),
            ("1", r#"{"w":{"scheme":"q4_9","shape":[2,32],"dtype":"F16"}}"#),
            ("1", r#"{"w":{"scheme":"q4_0","shape":[2,33],"dtype":"F16"}}"#),
            ("1", r#"{"w":{"scheme":"q4_0","shape":[3,32],"dtype":"F16"}}"#),
            ("1", r#"{"w":{"scheme":"q4_0","shape":[],"dtype":"F16"}}"#),
            ("1", r#"{"w":{"scheme":"q4_0","shape":[18446744073709551615,32],"dtype":"F16"}}"#),
            ("1", r#"{"w":{"scheme":"q4_0","shape":[2,32],"dtype":"I8"}}"#),
            ("1", r#"{"w":{"scheme":"q4_1","shape":[2,32],"dtype":"F16"}}"#),
            // Its codes would be the same bytes, but it has no scales.
            ("1", r#"{"w":{"scheme":"f32","shape":[1,8],"dtype":"F16"}}"#),
            ("1", r#"{"v":{"scheme":"q4_0","shape":[2,32],"dtype":"F16"}}"#),
        ] {
            refused(meta(version, tensors));
        }
    }

    #[test]
    fn names_are_ordered_as_people_do() {
        let mut names = ["l.10.w", "l.2.w", "l.2.b", "l.02.w", "a", "l", "l.2", "10", "9"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["9", "10", "a", "l", "l.2", "l.2.b", "l.02.w", "l.2.w", "l.10.w"]);
    }
}
