//! Reading GGUF: header and infos are parsed once and checked against the file, data is read when asked for.
//!
//! ```text
//! bytes -> Cursor -> version, counts -> key-values -> infos -> data ranges, checked: inside the file, aligned, apart
//! shard of several -> its sisters by name -> one list of tensors, the metadata of the first
//! ```
//!
//! Every field is checked where it is read, and its error names it and its byte. Nothing is allocated by a length before the file is
//! known to be that long.

use super::types::{self, Holds, Type};
use super::{ALIGNMENT, ALIGNMENT_KEY, FORMAT, MAGIC, MAX_KEY, MAX_LENGTH, MAX_RANK};
use crate::file::bytes::{Bytes, Cursor, bad, load};
use crate::file::metadata::{Array, Kind, Metadata, Value};
use crate::file::model::{Content, Entry, Parsed, Part, Shard};
use crate::{DType, Result};
use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A header, and where the data of its tensors lies.
struct Header {
    version: u32,
    alignment: u32,
    metadata: Metadata,
    tensors: Vec<Info>,
}

struct Info {
    name: String,
    /// Outermost first.
    shape: Vec<usize>,
    kind: &'static Type,
    range: Range<u64>,
}

/// Bytes of the shortest key-value: an empty key, a kind, one byte.
const LEAST_KEY_VALUE: u64 = 13;
/// Bytes of the shortest info: an empty name, rank, type, offset.
const LEAST_INFO: u64 = 24;
/// So many missing shards are named, the others counted.
const NAMED: usize = 5;

/// Opens the bytes of `path`, and the other shards if it is one of several.
pub fn open(path: &Path, bytes: Bytes) -> Result<Parsed> {
    let first = parse_all(path, &bytes)?;
    let Some(split) = Split::of(path, &first)? else {
        return join(vec![(Shard { path: path.to_path_buf(), bytes }, first)], None);
    };
    let paths = split.paths(path)?;
    let missing: Vec<String> =
        paths.iter().filter(|p| !p.is_file()).map(|p| file_name(p).to_string()).collect();
    if !missing.is_empty() {
        let shown = missing.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        let more = match missing.len().saturating_sub(NAMED) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        return Err(bad(path, format!("one of {} shards; missing: {shown}{more}", split.count)));
    }
    let mut shards = Vec::with_capacity(paths.len());
    for (number, path) in (0u64..).zip(paths) {
        let bytes = load(&path)?;
        let header = parse_all(&path, &bytes)?;
        match Split::of(&path, &header)? {
            Some(s) if s.count == split.count && s.number == number => {}
            other => {
                let expected = format!("split.no {number} of split.count {}", split.count);
                let got = other.map_or("none".into(), |s| format!("{} of {}", s.number, s.count));
                return Err(bad(&path, format!("a shard of another file: expected {expected}, got {got}")));
            }
        }
        shards.push((Shard { path, bytes }, header));
    }
    join(shards, split.tensors)
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// What the metadata says of a shard.
struct Split {
    number: u64,
    count: u64,
    tensors: Option<u64>,
}

impl Split {
    /// None if the file stands for itself.
    fn of(path: &Path, header: &Header) -> Result<Option<Self>> {
        let int = |key: &str| match header.metadata.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(n) => Ok(Some(n)),
                None => {
                    let what = format!("{key}: {value} ({}) is no count", value.kind_name());
                    Err(bad(path, what))
                }
            },
        };
        let Some(count) = int("split.count")?.filter(|n| *n > 1) else { return Ok(None) };
        if count > u64::from(u16::MAX) {
            return Err(bad(path, format!("split.count: {count} shards; at most 65535 have numbers")));
        }
        let number =
            int("split.no")?.ok_or_else(|| bad(path, format!("one of {count} shards without split.no")))?;
        Ok(Some(Self { number, count, tensors: int("split.tensors.count")? }))
    }

    /// The shards in order, by the name of one: `STEM-00001-of-00003.gguf`.
    fn paths(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let name = file_name(path);
        let end = format!("-{:05}-of-{:05}.gguf", self.number.saturating_add(1), self.count);
        let stem = name.strip_suffix(&end).ok_or_else(|| {
            bad(path, format!("shard {} of {}: its name should end in '{end}'", self.number, self.count))
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let shard = |n: u64| folder.join(format!("{stem}-{n:05}-of-{:05}.gguf", self.count));
        Ok((1..=self.count).map(shard).collect())
    }
}

/// One model of all shards.
fn join(shards: Vec<(Shard, Header)>, tensors: Option<u64>) -> Result<Parsed> {
    let mut parsed = Parsed::new(&FORMAT);
    let several = shards.len() > 1;
    let first = shards.first().map(|(shard, _)| shard.path.clone()).unwrap_or_default();
    for (i, (shard, header)) in shards.into_iter().enumerate() {
        if i == 0 {
            parsed.details = vec![("version", header.version.into()), ("alignment", header.alignment.into())];
            parsed.metadata = header.metadata;
            if several {
                // True of this file, and not of what is made of the model.
                parsed.metadata.retain(|key| !key.starts_with("split."));
            }
        }
        for Info { name, shape, kind, range } in header.tensors {
            let content = match kind.holds {
                Holds::Dense(dtype) => Content::Dense(dtype),
                Holds::Listed => Content::Listed { name: kind.name },
                Holds::Blocks(block) => match types::scheme_of(block) {
                    // What the weights were before is not known, and f32 holds them all.
                    Some(scheme) => Content::Packed { scheme, source: DType::F32 },
                    None => Content::Listed { name: kind.name },
                },
            };
            let parts = vec![Part { shard: i, range }];
            parsed.entries.push(Entry::new(name, shape, content, &FORMAT, parts));
        }
        parsed.shards.push(shard);
    }
    match tensors.filter(|n| several && *n != parsed.entries.len() as u64) {
        None => Ok(parsed),
        Some(n) => {
            let got = parsed.entries.len();
            Err(bad(&first, format!("split.tensors.count: {n} tensors are announced, the shards have {got}")))
        }
    }
}

/// Whether all of the header is in the bytes that are here, or what is wrong with it.
pub fn is_whole(path: &Path, bytes: &Bytes) -> bool {
    let mut cursor = Cursor::of_head(path, bytes.get(), bytes.file_len());
    parse(&mut cursor).is_ok() || !cursor.short()
}

fn parse_all(path: &Path, bytes: &Bytes) -> Result<Header> {
    parse(&mut Cursor::of_head(path, bytes.get(), bytes.file_len()))
}

fn parse(cursor: &mut Cursor) -> Result<Header> {
    let magic = cursor.take(MAGIC.len(), "magic")?;
    if magic != MAGIC {
        return Err(cursor.error("magic", 0, format!("not a GGUF file: {magic:02x?} instead of \"GGUF\"")));
    }
    let at = cursor.at();
    let version = cursor.u32("version")?;
    match version {
        2 | 3 => {}
        v if v != 0 && v & 0xffff == 0 => {
            let what = format!("{v:#010x}: a big-endian file; only little-endian ones are read");
            return Err(cursor.error("version", at, what));
        }
        v => return Err(cursor.error("version", at, format!("version {v}; versions 2 and 3 are read"))),
    }
    let tensors_at = cursor.at();
    let n_tensors = cursor.u64("tensor count")?;
    let pairs_at = cursor.at();
    let n_pairs = cursor.u64("key-value count")?;
    for (field, at, n, least) in [
        ("tensor count", tensors_at, n_tensors, LEAST_INFO),
        ("key-value count", pairs_at, n_pairs, LEAST_KEY_VALUE),
    ] {
        let room = cursor.left().checked_div(least).unwrap_or(0);
        if n > room {
            let what =
                format!("{n} are announced, the {} bytes that follow have room for {room}", cursor.left());
            return Err(cursor.error(field, at, what));
        }
    }

    let (metadata, alignment) = key_values(cursor, n_pairs)?;
    let mut infos = Vec::new();
    let mut names = HashSet::new();
    for i in 0..n_tensors {
        infos.push(info(cursor, i, alignment, &mut names)?);
    }
    let data = (cursor.at() as u64).checked_next_multiple_of(alignment.into());
    let mut tensors = Vec::with_capacity(infos.len());
    for (at, offset, size, mut info) in infos {
        let field = format!("offset of tensor '{}'", info.name);
        let start = data.and_then(|d| d.checked_add(offset));
        let range = start.and_then(|s| Some((s, s.checked_add(size)?)));
        match range.filter(|(_, end)| size == 0 || *end <= cursor.file_len()) {
            // The data of a tensor without elements may lie anywhere.
            _ if size == 0 => info.range = 0..0,
            Some((start, end)) => info.range = start..end,
            None => {
                let data = data.map_or("beyond all files".into(), |d| format!("at byte {d}"));
                let what = format!(
                    "{offset} with {size} bytes of data, beyond the file's {} bytes (the data starts {data})",
                    cursor.file_len()
                );
                return Err(cursor.error(field, at, what));
            }
        }
        tensors.push((at, info));
    }
    apart(cursor, &tensors)?;
    let tensors = tensors.into_iter().map(|(_, info)| info).collect();
    Ok(Header { version, alignment, metadata, tensors })
}

/// No byte belongs to two tensors.
fn apart(cursor: &Cursor, tensors: &[(usize, Info)]) -> Result<()> {
    let mut sorted: Vec<_> = tensors.iter().filter(|(_, info)| !info.range.is_empty()).collect();
    sorted.sort_by_key(|(_, info)| info.range.start);
    for pair in sorted.windows(2) {
        if let [(_, a), (at, b)] = pair
            && b.range.start < a.range.end
        {
            let what = format!("its data overlaps that of tensor '{}'", a.name);
            return Err(cursor.error(format_args!("offset of tensor '{}'", b.name), *at, what));
        }
    }
    Ok(())
}

/// The metadata, and the alignment it gives.
fn key_values(cursor: &mut Cursor, n: u64) -> Result<(Metadata, u32)> {
    let mut metadata = Metadata::default();
    let mut keys = HashSet::new();
    let mut alignment = ALIGNMENT;
    for i in 0..n {
        let at = cursor.at();
        let key = cursor.string(MAX_KEY, format_args!("key {i}"))?;
        if key.is_empty() {
            return Err(cursor.error(format_args!("key {i}"), at, "an empty key"));
        }
        if !keys.insert(key) {
            return Err(cursor.error(format_args!("key {i}"), at, format!("'{key}' occurs twice")));
        }
        let field = format!("value of '{key}'");
        let kind = kind(cursor, &format!("kind of '{key}'"))?;
        let at = cursor.at();
        let value = match kind {
            Kind::Array => Value::Array(array(cursor, &field)?),
            Kind::String => Value::String(cursor.string(MAX_LENGTH, &field)?.into()),
            _ => fixed(cursor, kind, &field)?,
        };
        if key == ALIGNMENT_KEY {
            alignment = match value {
                Value::U32(n) if n.is_power_of_two() => n,
                Value::U32(n) => {
                    return Err(cursor.error(field, at, format!("{n}: an alignment is a power of two")));
                }
                _ => return Err(cursor.error(field, at, format!("{kind}: an alignment is a u32"))),
            };
        }
        metadata.push(key.into(), value);
    }
    Ok((metadata, alignment))
}

fn kind(cursor: &mut Cursor, field: &str) -> Result<Kind> {
    let at = cursor.at();
    let id = cursor.u32(field)?;
    Kind::of(id).ok_or_else(|| cursor.error(field, at, format!("no kind of value has the id {id}")))
}

/// A value of a fixed size.
fn fixed(cursor: &mut Cursor, kind: Kind, field: &str) -> Result<Value> {
    let at = cursor.at();
    let bytes = cursor.take(kind.size().unwrap_or(0), field)?;
    Value::fixed(kind, bytes)
        .ok_or_else(|| cursor.error(field, at, format!("{bytes:02x?} is no {kind}; a bool is 0 or 1")))
}

fn array(cursor: &mut Cursor, field: &str) -> Result<Array> {
    let at = cursor.at();
    let kind = kind(cursor, &format!("kind within the {field}"))?;
    let count_at = cursor.at();
    let count_field = format!("length of the {field}");
    let count = cursor.u64(&count_field)?;
    let start = cursor.at();
    let size = match kind {
        Kind::Array => {
            return Err(cursor.error(field, at, "an array of arrays, which GGUF readers do not take"));
        }
        Kind::String => 8,
        _ => kind.size().unwrap_or(1),
    };
    if count > MAX_LENGTH {
        let what = format!("{count} values are announced, at most {MAX_LENGTH} are read");
        return Err(cursor.error(count_field, count_at, what));
    }
    // At least so many bytes: a length that lies is seen before anything is read by it.
    let (least, left) = (count.saturating_mul(size as u64), cursor.left());
    let Some(least) = Some(least).filter(|n| *n <= left).and_then(|n| usize::try_from(n).ok()) else {
        let what = format!("truncated: {count} values take {least} bytes or more, {left} are left");
        return Err(cursor.error(count_field, count_at, what));
    };
    let count = count as usize;
    if kind == Kind::String {
        let mut bytes = Vec::with_capacity(least.min(cursor.left_here()));
        for i in 0..count {
            let text = cursor.string(MAX_LENGTH, format_args!("string {i} of the {field}"))?;
            crate::file::metadata::put_string(&mut bytes, text);
        }
        return Ok(Array::from_checked(kind, count, &bytes));
    }
    let bytes = cursor.take(least, field)?;
    if kind == Kind::Bool
        && let Some(i) = bytes.iter().position(|b| *b > 1)
    {
        return Err(cursor.error(field, start.saturating_add(i), "a bool is 0 or 1"));
    }
    Ok(Array::from_checked(kind, count, bytes))
}

/// The `i`-th info: where its offset stands, the offset, the bytes of data, and what it says.
fn info<'a>(
    cursor: &mut Cursor<'a>,
    i: u64,
    alignment: u32,
    names: &mut HashSet<&'a str>,
) -> Result<(usize, u64, u64, Info)> {
    let at = cursor.at();
    let name = cursor.string(MAX_KEY, format_args!("name of tensor {i}"))?;
    if !names.insert(name) {
        return Err(cursor.error(format_args!("name of tensor {i}"), at, format!("'{name}' occurs twice")));
    }
    let field = |what: &str| format!("{what} of tensor '{name}'");
    let rank_at = cursor.at();
    let rank = cursor.u32(field("rank"))? as usize;
    if rank > MAX_RANK {
        let what = format!("{rank} dimensions; at most {MAX_RANK} are read");
        return Err(cursor.error(field("rank"), rank_at, what));
    }
    let mut shape = Vec::with_capacity(rank);
    let mut elements = 1u64;
    for d in 0..rank {
        let at = cursor.at();
        let n = cursor.u64(field(&format!("dimension {d}")))?;
        // As ggml counts, in 63 bits; zeros must not hide a product that overflows.
        let product = elements.checked_mul(n.max(1)).filter(|p| *p <= i64::MAX as u64);
        elements = product.ok_or_else(|| {
            let what = format!("{n}: the product of the dimensions overflows");
            cursor.error(field(&format!("dimension {d}")), at, what)
        })?;
        let n = usize::try_from(n).map_err(|_| cursor.error(field("dimensions"), at, "too large here"))?;
        shape.push(n);
    }
    let type_at = cursor.at();
    let id = cursor.u32(field("type"))?;
    let kind = types::of_id(id).map_err(|why| cursor.error(field("type"), type_at, why))?;
    let row = shape.first().copied().unwrap_or(1);
    if row.checked_rem(kind.block) != Some(0) {
        let what = format!("{row}: blocks of {} have {} values", kind.name, kind.block);
        return Err(cursor.error(field("dimension 0"), rank_at.saturating_add(4), what));
    }
    let empty = shape.contains(&0);
    if empty && kind.block > 1 {
        let what = format!("a dimension of size 0 in a tensor of {}", kind.name);
        return Err(cursor.error(field("dimensions"), rank_at.saturating_add(4), what));
    }
    let blocks = elements.checked_div(kind.block as u64).filter(|_| !empty).unwrap_or(0);
    let size = blocks.checked_mul(kind.bytes as u64).ok_or_else(|| {
        cursor.error(field("dimensions"), rank_at.saturating_add(4), "the bytes of the data overflow")
    })?;
    let at = cursor.at();
    let offset = cursor.u64(field("offset"))?;
    if offset.checked_rem(alignment.into()) != Some(0) {
        let what = format!("{offset} is no multiple of the alignment, {alignment}");
        return Err(cursor.error(field("offset"), at, what));
    }
    shape.reverse();
    Ok((at, offset, size, Info { name: name.into(), shape, kind, range: 0..0 }))
}
