//! Writing a model as a stream: the header follows from names, schemes and shapes, before any data exists.
//!
//! ```text
//! Plan (names, types, schemes, shapes, metadata) + Format -> header -> items one by one, in the order the writer asks for them
//! ```
//!
//! A file format is a row of [`FORMATS`]: what it can hold, its header, and the bytes of a packed tensor in both directions. Nothing
//! but the tensor at hand is in memory. Equal plans give equal bytes, so that a file that was cut behind an item is gone on with
//! ([`Writer::resume`]). A plan that is too large for one file is cut into those of shards ([`Format::shards`]). Where the bytes go, and whether a file is
//! replaced atomically, is up to the caller's `Write`.

use super::{Dtype, Metadata, gguf, onnx, safetensors};
use crate::{DType, Error, PackedTensor, Result, Scheme, threads};
use std::borrow::Cow;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The pieces of a packed tensor's data, in order.
type Pieces<'a> = Vec<Cow<'a, [u8]>>;

/// The tensor of a scheme and a shape from such pieces.
type Decode = fn(Scheme, &[usize], &[&[u8]]) -> Result<PackedTensor>;

/// A file format.
#[derive(Debug)]
pub struct Format {
    /// As `--to` takes it.
    pub name: &'static str,
    /// Of files that are in it, without the dot.
    pub extension: &'static str,
    /// Whether programs run files of it: the model in a HuggingFace folder is mapped to what they expect.
    pub runs: bool,
    /// Whether there is one way only to write a tensor's data, so that other bytes cannot be kept.
    pub(super) one_form: bool,
    /// Whether it can hold an item; the error says why not.
    pub(super) holds: fn(&Item) -> Result<()>,
    /// Brings the items into data order and gives the header.
    pub(super) lay_out: fn(&mut Plan, &Path) -> Result<Laid>,
    pub(super) encode: for<'a> fn(&'a PackedTensor) -> Result<Pieces<'a>>,
    /// The reverse of `encode`.
    pub(super) decode: Decode,
    /// Whether those are one piece, the data of row after row: then rows are worked on in blocks.
    pub(super) by_rows: bool,
    /// Of `rows` and `k`.
    pub(super) bits_per_weight: fn(&Scheme, usize, usize) -> f64,
    /// The bytes of an item's data, padding left out.
    pub(super) data_bytes: fn(&Item) -> Result<usize>,
    /// The plans of shards, by what each of them holds, in order.
    pub(super) split: Split,
    /// The file beside those of tensors that says what is where, if there is one.
    pub(super) index: Option<Index>,
}

/// A file that says what is where in others.
#[derive(Debug)]
pub(super) enum Index {
    /// Beside several shards: what its name has behind their stem, and its bytes.
    OfShards(&'static str, MakeIndex),
    /// Always, under the output's own name: what the names of the files of tensors have behind it, and its bytes.
    Always(&'static str, MakeIndex),
}

/// The files of an output, by their names in its folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Files {
    /// Of each plan.
    pub tensors: Vec<String>,
    /// Name and bytes of the file that says what is where.
    pub index: Option<(String, Vec<u8>)>,
}

/// The plans of shards of a plan, whose items are parted already.
type Split = fn(&Plan, Vec<Vec<Item>>, &Path) -> Result<Vec<Plan>>;

/// The bytes of an index, from the names of shards and their plans.
type MakeIndex = fn(&[(String, Plan)]) -> Result<Vec<u8>>;

/// The start of a file.
pub(super) struct Laid {
    pub header: Vec<u8>,
    /// The data of each item is padded to a multiple of it.
    pub alignment: usize,
}

/// The formats that are written. The first is taken where nothing says which.
pub static FORMATS: &[&Format] = &[&safetensors::FORMAT, &gguf::FORMAT, &onnx::FORMAT];

impl Format {
    /// The format of this name.
    ///
    /// # Errors
    /// [`Error::Usage`], with the names there are.
    pub fn named(name: &str) -> Result<&'static Self> {
        let found = FORMATS.iter().copied().find(|f| f.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let names: Vec<&str> = FORMATS.iter().map(|f| f.name).collect();
            Error::Usage(format!("no file format '{name}'; there are {}", names.join(", ")))
        })
    }

    /// The format that a file's name ends in.
    pub fn of_path(path: &Path) -> Option<&'static Self> {
        let extension = path.extension()?;
        FORMATS.iter().copied().find(|f| extension.eq_ignore_ascii_case(f.extension))
    }

    /// Whether a file in this format can hold an item.
    ///
    /// # Errors
    /// [`Error::Tensor`], with the tensor's name and the reason.
    pub fn check(&self, item: &Item) -> Result<()> {
        (self.holds)(item).map_err(|e| e.in_tensor(item.name()))
    }

    /// Bits per weight of a tensor in a file of this format; padding of rows and tables do not count.
    ///
    /// # Errors
    /// As [`Scheme::check_shape`].
    pub fn bits_per_weight(&self, scheme: &Scheme, shape: &[usize]) -> Result<f64> {
        let (rows, k) = scheme.check_shape(shape)?;
        Ok((self.bits_per_weight)(scheme, rows, k))
    }

    /// Whether metadata are keys with kinds, as those that llama.cpp writes.
    pub fn typed_metadata(&self) -> bool {
        std::ptr::eq(self, &gguf::FORMAT)
    }

    /// The bytes of an item's data in a file of this format.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn data_bytes(&self, item: &Item) -> Result<u64> {
        (self.data_bytes)(item).map(|n| n as u64).map_err(|e| e.in_tensor(item.name()))
    }

    /// Cuts a plan into those of shards with at most `limit` bytes of data each (more only where a single tensor has more), in the plan's
    /// order. One that fits stays whole. `path` is for errors.
    ///
    /// # Errors
    /// As [`Self::check`]; [`Error::Format`] for more shards than can be numbered.
    pub fn shards(&self, plan: Plan, limit: u64, path: &Path) -> Result<Vec<Plan>> {
        let mut parts: Vec<Vec<Item>> = Vec::new();
        let mut filled = u64::MAX;
        for item in &plan.items {
            self.check(item)?;
            let bytes = self.data_bytes(item)?;
            match parts.last_mut().filter(|_| filled.saturating_add(bytes) <= limit) {
                Some(part) => part.push(item.clone()),
                None => {
                    parts.push(vec![item.clone()]);
                    filled = 0;
                }
            }
            filled = filled.saturating_add(bytes);
        }
        if parts.len() <= 1 {
            return Ok(vec![plan]);
        }
        if parts.len() > MAX_SHARDS {
            let what = format!("{} shards of {limit} bytes; at most {MAX_SHARDS} have numbers", parts.len());
            return Err(Error::Format { path: path.to_path_buf(), what });
        }
        (self.split)(&plan, parts, path)
    }

    /// The files of an output called `name` with the tensors of these plans: one, or shards in order, and the file that says what is where if the format has
    /// one. That file is to appear last.
    ///
    /// # Errors
    /// [`Error::Format`] if it cannot be made.
    pub fn files(&self, name: &str, plans: &[Plan]) -> Result<Files> {
        let end = format!(".{}", self.extension);
        let stem = name.strip_suffix(&end).unwrap_or(name);
        let behind = match self.index {
            Some(Index::Always(data, _)) => data,
            _ => "",
        };
        let tensors: Vec<String> = match plans.len() {
            1 => vec![format!("{name}{behind}")],
            of => (1..=of).map(|n| format!("{stem}-{n:05}-of-{of:05}{end}{behind}")).collect(),
        };
        let index = match &self.index {
            Some(Index::Always(_, make)) => Some((name.to_string(), make)),
            Some(Index::OfShards(end, make)) if plans.len() > 1 => Some((format!("{stem}{end}"), make)),
            _ => None,
        };
        let shards = || tensors.iter().cloned().zip(plans.iter().cloned()).collect::<Vec<_>>();
        let index = index.map(|(name, make)| Ok::<_, Error>((name, make(&shards())?))).transpose()?;
        Ok(Files { tensors, index })
    }
}

/// Weights that a thread checks at a time.
const BLOCK: usize = 1 << 19;
/// Blocks that are in memory beside their tensor when it is read.
const BLOCKS: usize = 16;

/// The rows of a block, as ranges of a tensor's.
fn blocks(rows: usize, k: usize) -> Vec<Range<usize>> {
    threads::ranges(rows, BLOCK.checked_div(k).unwrap_or(1).max(1))
}

impl Format {
    /// The tensor in `data`, and with `exactly` the first byte of it that would not be made of the tensor again.
    ///
    /// # Errors
    /// Those of the format's reader and writer.
    pub(super) fn read(
        &self,
        scheme: Scheme,
        shape: &[usize],
        data: &[&[u8]],
        exactly: bool,
    ) -> Result<(PackedTensor, Option<usize>)> {
        let (rows, k) = scheme.check_shape(shape)?;
        let row = data
            .first()
            .and_then(|d| d.len().checked_div(rows).filter(|n| n.checked_mul(rows) == Some(d.len())));
        let (&[bytes], Some(row), true) = (data, row, self.by_rows) else {
            let tensor = (self.decode)(scheme, shape, data)?;
            let differs = if exactly { differs(&(self.encode)(&tensor)?, data) } else { None };
            return Ok((tensor, differs));
        };
        let read = |range: Range<usize>| {
            let at = range.start.saturating_mul(row);
            let bytes = bytes.get(at..range.end.saturating_mul(row)).unwrap_or(&[]);
            let part = (self.decode)(scheme, &[range.len(), k], &[bytes])?;
            let byte = if exactly { differs(&(self.encode)(&part)?, &[bytes]) } else { None };
            Ok((range.start, part, byte.map(|byte| byte.saturating_add(at))))
        };
        let mut tensor = PackedTensor::zeroed(scheme, shape)?;
        let mut first = None;
        for some in blocks(rows, k).chunks(BLOCKS) {
            for made in threads::map(some.to_vec(), rows.saturating_mul(k), read) {
                let (at, part, byte): (usize, PackedTensor, Option<usize>) = made?;
                tensor.write_rows(at, &part);
                first = first.or(byte);
            }
        }
        Ok((tensor, first))
    }

    /// The pieces of a tensor's data, which were read again and are the same; none if they are not.
    fn encode_checked<'t>(&self, tensor: &'t PackedTensor) -> Result<Option<Pieces<'t>>> {
        let (rows, k) = tensor.matrix();
        if !self.by_rows {
            let pieces = (self.encode)(tensor)?;
            return Ok(self.is_same(tensor, &pieces)?.then_some(pieces));
        }
        let made = threads::map(blocks(rows, k), tensor.len(), |range| {
            let part = tensor.slice_rows(range);
            let pieces = (self.encode)(&part)?;
            let same = self.is_same(&part, &pieces)?;
            let kept = pieces.into_iter().map(|p| p.into_owned().into());
            Ok(same.then(|| kept.collect::<Pieces>()))
        });
        let made: Option<Vec<Pieces>> = made.into_iter().collect::<Result<_>>()?;
        Ok(made.map(|all| all.into_iter().flatten().collect()))
    }

    /// Whether `pieces` are read as the tensor.
    fn is_same(&self, tensor: &PackedTensor, pieces: &[Cow<[u8]>]) -> Result<bool> {
        let data: Vec<&[u8]> = pieces.iter().map(|p| &**p).collect();
        Ok((self.decode)(*tensor.scheme(), tensor.shape(), &data)? == *tensor)
    }
}

/// The first byte in which pieces and data differ.
fn differs(pieces: &[Cow<[u8]>], data: &[&[u8]]) -> Option<usize> {
    if pieces.iter().map(|p| &**p).eq(data.iter().copied()) {
        return None;
    }
    let (made, there) = (|| pieces.iter().flat_map(|p| p.iter()), || data.iter().copied().flatten());
    let at = made().zip(there()).position(|(a, b)| a != b);
    Some(at.unwrap_or_else(|| made().count().min(there().count())))
}

/// Shards have numbers of five digits, and of 16 bits in GGUF.
const MAX_SHARDS: usize = u16::MAX as usize;

/// One tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// Plain elements: `bytes` of them will follow.
    Dense { name: String, dtype: Dtype, shape: Vec<usize>, bytes: usize },
    /// Planes of a scheme; `source` is the type the weights had before.
    Packed { name: String, scheme: Scheme, shape: Vec<usize>, source: DType },
}

impl Item {
    /// The tensor's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Dense { name, .. } | Self::Packed { name, .. } => name,
        }
    }

    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Dense { shape, .. } | Self::Packed { shape, .. } => shape,
        }
    }
}

/// What a file will hold.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub(super) items: Vec<Item>,
    pub(super) metadata: Metadata,
    pub(super) changed: bool,
    /// `general.file_type` of GGUF, where it is not what most weights say.
    pub(super) file_type: Option<u32>,
    /// One of several, with its metadata complete.
    pub(super) shard: bool,
}

impl Plan {
    /// A plan with the user's metadata; keys of the format's own are added by the writer.
    pub fn new(metadata: Metadata) -> Self {
        Self { metadata, ..Self::default() }
    }

    /// As [`Self::new`], where tensors will not have the types that the metadata was written for: what it says of types is made anew.
    pub fn changing(metadata: Metadata) -> Self {
        Self { changed: true, ..Self::new(metadata) }
    }

    /// Says which mix of types the file is, in the numbers of llama.cpp.
    pub fn set_file_type(&mut self, id: u32) {
        self.file_type = Some(id);
    }

    /// The metadata, to be added to.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// What is planned so far.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Adds a dense tensor.
    ///
    /// # Errors
    /// [`Error::Shape`] if its bytes cannot be counted.
    pub fn dense(
        &mut self,
        name: impl Into<String>,
        dtype: Dtype,
        shape: impl Into<Vec<usize>>,
    ) -> Result<()> {
        let (name, shape) = (name.into(), shape.into());
        let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        let bits = elements.and_then(|n| n.checked_mul(dtype.bitsize() as u64));
        let bytes =
            bits.filter(|b| b % 8 == 0).and_then(|b| usize::try_from(b / 8).ok()).ok_or_else(|| {
                Error::shape(
                    format!("tensor '{name}' of type {dtype}"),
                    "a whole number of bytes",
                    format!("{shape:?}"),
                )
            })?;
        self.items.push(Item::Dense { name, dtype, shape, bytes });
        Ok(())
    }

    /// Adds a packed tensor of `shape` [.., N, K].
    ///
    /// # Errors
    /// As [`Scheme::check_shape`].
    pub fn packed(
        &mut self,
        name: impl Into<String>,
        scheme: Scheme,
        shape: impl Into<Vec<usize>>,
        source: DType,
    ) -> Result<()> {
        let shape = shape.into();
        scheme.check_shape(&shape)?;
        self.items.push(Item::Packed { name: name.into(), scheme, shape, source });
        Ok(())
    }
}

/// A file being written.
pub struct Writer<W> {
    out: W,
    path: PathBuf,
    format: &'static Format,
    alignment: usize,
    written: u64,
    /// In data order, reversed: the next is the last.
    left: Vec<Item>,
}

impl<W: Write> Writer<W> {
    /// Writes the header. `path` is for error messages.
    ///
    /// # Errors
    /// As [`Format::check`]; [`Error::Format`] if two tensors have one name or the header is too large for readers; [`Error::Io`].
    pub fn new(out: W, path: impl Into<PathBuf>, format: &'static Format, plan: Plan) -> Result<Self> {
        let (mut writer, header) = Self::start(out, path.into(), format, plan)?;
        writer.write(&header)?;
        Ok(writer)
    }

    /// The writer before its header.
    fn start(out: W, path: PathBuf, format: &'static Format, mut plan: Plan) -> Result<(Self, Vec<u8>)> {
        for item in &plan.items {
            format.check(item)?;
        }
        let Laid { header, alignment } = (format.lay_out)(&mut plan, &path)?;
        plan.items.reverse();
        Ok((Self { out, path, format, alignment, written: 0, left: plan.items }, header))
    }

    /// Goes on with a file of the same plan behind its first `done` items. `out` is read from its start, where the plan's header must be, and is then
    /// left where the next item goes; what is behind that is to be cut off ([`Self::written`] bytes are good).
    ///
    /// # Errors
    /// As [`Self::new`]; [`Error::Format`] if the file starts otherwise or the plan has fewer items.
    pub fn resume(
        out: W,
        path: impl Into<PathBuf>,
        format: &'static Format,
        plan: Plan,
        done: usize,
    ) -> Result<Self>
    where
        W: Read + Seek,
    {
        let (mut writer, header) = Self::start(out, path.into(), format, plan)?;
        let bad = |path: &Path, what: &str| Error::Format { path: path.to_path_buf(), what: what.into() };
        let mut start = Vec::new();
        let read = Read::by_ref(&mut writer.out).take(header.len() as u64).read_to_end(&mut start);
        read.map_err(|source| Error::Io { path: writer.path.clone(), source })?;
        if start != header {
            return Err(bad(&writer.path, "does not start with the header of what is to be written"));
        }
        writer.written = header.len() as u64;
        for _ in 0..done {
            let item =
                writer.left.pop().ok_or_else(|| bad(&writer.path, "has fewer tensors than are done"))?;
            let end = writer.written.checked_add(format.data_bytes(&item)?);
            let end = end.and_then(|end| end.checked_next_multiple_of(writer.alignment as u64));
            writer.written = end.ok_or_else(|| bad(&writer.path, "more bytes than can be counted"))?;
        }
        let at = writer.out.seek(SeekFrom::Start(writer.written));
        at.map_err(|source| Error::Io { path: writer.path.clone(), source })?;
        Ok(writer)
    }

    /// Where it is written to.
    pub fn out(&self) -> &W {
        &self.out
    }

    /// Bytes written so far, header included.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The tensor to be written now.
    pub fn next_item(&self) -> Option<&Item> {
        self.left.last()
    }

    /// All that are to be written, the next one last.
    pub fn left(&self) -> &[Item] {
        &self.left
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|source| Error::Io { path: self.path.clone(), source })?;
        self.written = self.written.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Writes the next tensor, a dense one.
    ///
    /// # Errors
    /// [`Error::Shape`] if the next item is packed or has another length; [`Error::Io`].
    pub fn dense(&mut self, data: &[u8]) -> Result<()> {
        match self.left.last() {
            Some(Item::Dense { bytes, .. }) if *bytes == data.len() => {}
            other => return Err(unexpected(other, format!("{} bytes", data.len()))),
        }
        self.write(data)?;
        self.next()
    }

    /// Pads, and goes on to the next item.
    fn next(&mut self) -> Result<()> {
        let over = self.written.checked_rem(self.alignment as u64).unwrap_or(0);
        if over > 0 {
            self.write(&vec![0; self.alignment.saturating_sub(over as usize)])?;
        }
        self.left.pop();
        Ok(())
    }

    /// Writes the next tensor, a packed one.
    ///
    /// # Errors
    /// [`Error::Shape`] if the next item is dense, or of another scheme or shape; [`Error::Unsupported`] for values that the format has no
    /// room for; [`Error::Io`].
    pub fn packed(&mut self, tensor: &PackedTensor) -> Result<()> {
        self.pieces(tensor, false)
    }

    /// As [`Self::packed`], once it is sure that the same tensor can be read from what is written.
    ///
    /// # Errors
    /// [`Error::Check`] if it cannot; as [`Self::packed`].
    pub fn packed_exactly(&mut self, tensor: &PackedTensor) -> Result<()> {
        self.pieces(tensor, true)
    }

    fn pieces(&mut self, tensor: &PackedTensor, exactly: bool) -> Result<()> {
        match self.left.last() {
            Some(Item::Packed { scheme, shape, .. })
                if scheme == tensor.scheme() && *shape == tensor.shape() => {}
            other => return Err(unexpected(other, format!("{} {:?}", tensor.scheme(), tensor.shape()))),
        }
        let pieces = match exactly {
            true => self.format.encode_checked(tensor)?,
            false => Some((self.format.encode)(tensor)?),
        };
        let pieces = pieces.ok_or_else(|| {
            let name = self.left.last().map_or("", Item::name);
            let what = format!("tensor '{name}': read back from {} it would be another", self.format.name);
            Error::Check { what }
        })?;
        for piece in pieces {
            self.write(&piece)?;
        }
        self.next()
    }

    /// Writes the next tensor, a packed one, as a file of the same format has it: `data` as [`super::Model::blocks`] gives it.
    ///
    /// # Errors
    /// [`Error::Shape`] if the next item is dense or has another length; [`Error::Io`].
    pub fn blocks(&mut self, data: &[u8]) -> Result<()> {
        match self.left.last() {
            Some(item @ Item::Packed { .. }) if self.format.data_bytes(item)? == data.len() as u64 => {}
            other => return Err(unexpected(other, format!("blocks of {} bytes", data.len()))),
        }
        self.write(data)?;
        self.next()
    }

    /// Ends the file and gives the output back, flushed.
    ///
    /// # Errors
    /// [`Error::Shape`] if tensors of the plan are missing; [`Error::Io`].
    pub fn finish(mut self) -> Result<W> {
        if let Some(item) = self.left.last() {
            return Err(unexpected(Some(item), "the end".into()));
        }
        self.out.flush().map_err(|source| Error::Io { path: self.path.clone(), source })?;
        Ok(self.out)
    }
}

fn unexpected(item: Option<&Item>, got: String) -> Error {
    let expected = match item {
        None => "nothing more".to_string(),
        Some(Item::Dense { name, bytes, .. }) => format!("'{name}', {bytes} bytes"),
        Some(Item::Packed { name, scheme, shape, .. }) => format!("'{name}', {scheme} {shape:?}"),
    };
    Error::shape("next tensor of the file", expected, got)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// GGUF's blocks with one bit wrong.
    fn flipped(tensor: &PackedTensor) -> Result<Pieces<'_>> {
        let mut pieces = (gguf::FORMAT.encode)(tensor)?;
        pieces[0].to_mut()[7] ^= 16;
        Ok(pieces)
    }

    static FLIPPED: Format = Format {
        name: "flipped",
        extension: "flipped",
        runs: false,
        one_form: true,
        holds: |item| (gguf::FORMAT.holds)(item),
        lay_out: |plan, path| (gguf::FORMAT.lay_out)(plan, path),
        encode: flipped,
        decode: |scheme, shape, data| (gguf::FORMAT.decode)(scheme, shape, data),
        by_rows: true,
        bits_per_weight: Scheme::bits_per_weight,
        data_bytes: |item| (gguf::FORMAT.data_bytes)(item),
        split: |plan, parts, path| (gguf::FORMAT.split)(plan, parts, path),
        index: None,
    };

    #[test]
    fn a_tensor_that_would_come_back_changed_is_not_written() {
        let scheme: Scheme = "q4_0".parse().unwrap();
        let tensor = PackedTensor::zeroed(scheme, [2, 32]).unwrap();
        let mut plan = Plan::default();
        plan.packed("w", scheme, [2, 32], DType::F32).unwrap();
        let mut writer = Writer::new(Vec::new(), "out", &FLIPPED, plan.clone()).unwrap();
        let before = writer.written();
        let message = writer.packed_exactly(&tensor).unwrap_err().to_string();
        assert!(message.contains("'w'") && message.contains("flipped"), "{message}");
        assert_eq!(writer.written(), before);
        Writer::new(Vec::new(), "out", &gguf::FORMAT, plan).unwrap().packed_exactly(&tensor).unwrap();
    }

    #[test]
    fn a_cut_file_is_gone_on_with() {
        let mut plan = Plan::default();
        for (name, n) in [("a", 5), ("b", 40), ("c", 1)] {
            plan.dense(name, Dtype::I8, [n]).unwrap();
        }
        for format in FORMATS {
            let mut writer = Writer::new(Cursor::new(Vec::new()), "out", format, plan.clone()).unwrap();
            let mut ends = Vec::new();
            while let Some(item) = writer.next_item().cloned() {
                ends.push(writer.written());
                writer.dense(&vec![7; item.shape()[0]]).unwrap();
            }
            let whole = writer.finish().unwrap().into_inner();
            for (done, end) in ends.iter().enumerate() {
                // What lies behind the items that are done is written over.
                let mut cut = whole[..*end as usize].to_vec();
                cut.push(9);
                let mut writer = Writer::resume(Cursor::new(cut), "out", format, plan.clone(), done).unwrap();
                assert_eq!((writer.written(), writer.left().len()), (*end, 3 - done));
                while let Some(item) = writer.next_item().cloned() {
                    writer.dense(&vec![7; item.shape()[0]]).unwrap();
                }
                assert_eq!(writer.finish().unwrap().into_inner(), whole, "{} {done}", format.name);
            }
            let resume =
                |bytes: Vec<u8>, done| Writer::resume(Cursor::new(bytes), "out", format, plan.clone(), done);
            let mut other = whole.clone();
            other[9] ^= 1;
            assert!(matches!(resume(other, 1), Err(Error::Format { .. })));
            assert!(matches!(resume(whole[..9].to_vec(), 1), Err(Error::Format { .. })));
            assert!(matches!(resume(whole.clone(), 4), Err(Error::Format { .. })));
        }
    }

    #[test]
    fn shards_take_what_fits_in_order() {
        let mut plan = Plan::default();
        for (name, n) in [("a", 5), ("b", 40), ("c", 1), ("d", 9), ("e", 1)] {
            plan.dense(name, Dtype::I8, [n]).unwrap();
        }
        for format in FORMATS {
            let shards = |limit| -> String {
                let plans = format.shards(plan.clone(), limit, Path::new("out")).unwrap();
                let names = |p: &Plan| p.items().iter().map(Item::name).collect::<String>();
                plans.iter().map(names).collect::<Vec<_>>().join(" ")
            };
            assert_eq!([56, 45, 10, 1].map(shards), ["abcde", "ab cde", "a b cd e", "a b c d e"]);
        }
    }

    #[test]
    fn formats_are_found_by_name_and_extension() {
        for format in FORMATS {
            assert_eq!(Format::named(&format.name.to_uppercase()).unwrap().name, format.name);
            let path = PathBuf::from(format!("a.b.{}", format.extension));
            assert_eq!(Format::of_path(&path).unwrap().name, format.name);
        }
        assert!(Format::of_path(Path::new("gguf")).is_none());
        assert!(matches!(Format::named("pt"), Err(Error::Usage(_))));
    }
}
