//! The bytes of a file, mapped or loaded, and a cursor over them that names what it reads.
//!
//! ```text
//! path -> load -> Bytes ─┬─> Cursor: take, u32, string, ...  -> "FILE: FIELD at byte N: what is wrong"
//! first bytes of a file ─┘
//! ```
//!
//! With the feature `mmap` a file is mapped, so that only what is read takes memory; a file that another process shortens
//! meanwhile then ends the program (the operating system's rule for maps). Without it the file is loaded whole. Of a file whose parts are fetched when
//! they are asked for, as in a browser, only the beginning is here. No format is known here.

use crate::{Error, Result};
use std::borrow::Cow;
use std::fmt::Display;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The bytes of one file. Clones are of the same bytes.
#[derive(Clone)]
pub(super) enum Bytes {
    #[cfg(feature = "mmap")]
    Map(Arc<memmap2::Mmap>),
    Memory(Arc<Cow<'static, [u8]>>),
    /// The beginning of a file, and the length of all of it.
    Head(Arc<Vec<u8>>, u64),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self.get()
    }
}

impl Bytes {
    /// Bytes that are in memory already.
    pub fn memory(bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        Self::Memory(Arc::new(bytes.into()))
    }

    pub fn get(&self) -> &[u8] {
        match self {
            #[cfg(feature = "mmap")]
            Self::Map(map) => map,
            Self::Memory(bytes) => bytes,
            Self::Head(bytes, _) => bytes,
        }
    }

    /// Bytes of the whole file.
    pub fn file_len(&self) -> u64 {
        match self {
            Self::Head(_, len) => *len,
            _ => self.get().len() as u64,
        }
    }

    /// A part of them; nothing where there is no such part here.
    pub fn slice(&self, range: &Range<u64>) -> &[u8] {
        in_memory(range).and_then(|range| self.get().get(range)).unwrap_or(&[])
    }

    /// A part of them that outlives this, none of it copied; nothing where there is no such part here.
    pub fn share(&self, range: &Range<u64>) -> bytes::Bytes {
        match in_memory(range).filter(|range| self.get().get(range.clone()).is_some()) {
            Some(range) => bytes::Bytes::from_owner(self.clone()).slice(range),
            None => bytes::Bytes::new(),
        }
    }

    /// Lets the operating system take back the memory behind a part of a map that has been read and will not be soon: else a model that is gone through once
    /// would count as being in memory in the end. It stays readable.
    pub fn release(&self, range: &Range<u64>) {
        #[cfg(all(feature = "mmap", unix))]
        if let (Self::Map(map), Some(range)) = (self, in_memory(range)) {
            let len = range.end.saturating_sub(range.start);
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // Whether it helps is not looked at: only memory is at stake.
            // SAFETY: pages of a map of a file that is only read hold nothing of their own; a read after this finds the file's bytes again.
            #[allow(unsafe_code)]
            let _ = unsafe { map.unchecked_advise_range(advice, range.start, len) };
        }
        #[cfg(not(all(feature = "mmap", unix)))]
        let _ = range;
    }
}

/// A part of a file as one of memory, if it can be.
fn in_memory(range: &Range<u64>) -> Option<Range<usize>> {
    Some(range.start.try_into().ok()?..range.end.try_into().ok()?)
}

pub(super) fn bad(path: &Path, what: impl Into<String>) -> Error {
    Error::Format { path: path.to_path_buf(), what: what.into() }
}

pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { path, source }
}

/// Maps or loads a regular file.
pub(super) fn load(path: &Path) -> Result<Bytes> {
    // Asked before opening, which would wait for a writer at the other end of a pipe.
    if !std::fs::metadata(path).map_err(io(path))?.is_file() {
        return Err(bad(path, "not a regular file"));
    }
    let file = File::open(path).map_err(io(path))?;
    #[cfg(feature = "mmap")]
    {
        // SAFETY: the map is only read, through `&[u8]`. Another process that writes to the file changes what is read, which
        // no code here relies on (ranges are checked against the length at the time of mapping, values are plain numbers);
        // one that shortens it makes reads fault, which ends the process without undefined results. The module text says so.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io(path))?;
        Ok(Bytes::Map(Arc::new(map)))
    }
    #[cfg(not(feature = "mmap"))]
    {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut &file, &mut bytes).map_err(io(path))?;
        Ok(Bytes::memory(bytes))
    }
}

/// Reads little-endian fields one after the other; each error names the file, the field and the byte at which it starts.
pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    /// Of the file, which may go on behind `bytes`.
    len: u64,
    at: usize,
    short: bool,
}

impl<'a> Cursor<'a> {
    pub fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self::of_head(path, bytes, bytes.len() as u64)
    }

    /// Over the beginning of a file of `len` bytes.
    pub fn of_head(path: &'a Path, head: &'a [u8], len: u64) -> Self {
        Self { path, bytes: head, len, at: 0, short: false }
    }

    /// Whether what was asked for last is in the file but beyond its beginning here.
    pub fn short(&self) -> bool {
        self.short
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> u64 {
        self.len
    }

    /// The offset of the next byte.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes of the file that are left.
    pub fn left(&self) -> u64 {
        self.len.saturating_sub(self.at as u64)
    }

    /// Bytes that are left of those that are here: what may be allocated by a length that was read.
    pub fn left_here(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// The error of a field that starts at byte `at`.
    pub fn error(&self, field: impl Display, at: usize, what: impl Display) -> Error {
        bad(self.path, format!("{field} at byte {at}: {what}"))
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize, field: impl Display) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n);
        match end.and_then(|end| Some((end, self.bytes.get(self.at..end)?))) {
            Some((end, taken)) => {
                self.at = end;
                Ok(taken)
            }
            None => {
                self.short = n as u64 <= self.left();
                let what = format!("truncated: it takes {n} bytes, {} are left", self.left());
                Err(self.error(field, self.at, what))
            }
        }
    }

    fn array<const N: usize>(&mut self, field: impl Display) -> Result<[u8; N]> {
        let taken = self.take(N, field)?;
        // As long as was asked for.
        Ok(taken.first_chunk().copied().unwrap_or([0; N]))
    }

    pub fn u32(&mut self, field: impl Display) -> Result<u32> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub fn i32(&mut self, field: impl Display) -> Result<i32> {
        self.array(field).map(i32::from_le_bytes)
    }

    pub fn u64(&mut self, field: impl Display) -> Result<u64> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// `n` bytes of UTF-8 without NUL, as file names and metadata keys are.
    pub fn text(&mut self, n: usize, field: impl Display) -> Result<&'a str> {
        let at = self.at;
        let bytes = self.take(n, &field)?;
        std::str::from_utf8(bytes).map_err(|e| self.error(field, at, format!("not UTF-8: {e}")))
    }

    /// A string behind its length in 8 bytes, which must be at most `cap`.
    pub fn string(&mut self, cap: u64, field: impl Display) -> Result<&'a str> {
        let at = self.at;
        let len = self.u64(format_args!("length of {field}"))?;
        match usize::try_from(len).ok().filter(|_| len <= cap) {
            Some(n) => self.text(n, field),
            None => {
                let what = format!("{len} bytes are announced, at most {cap} are read");
                Err(self.error(format_args!("length of {field}"), at, what))
            }
        }
    }
}
