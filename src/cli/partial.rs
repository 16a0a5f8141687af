//! Outputs that a later run goes on with: one file or several shards, written beside their names, and a journal of what of them is on the disk.
//!
//! ```text
//! OUT.journal     line 1: what the run is made of, as JSON         then a line for each point up to which the data is synced: "done SHARD ITEMS ZEROED"
//! NAME.partial    OUT, or shard after shard
//! all there -> "whole" -> each NAME.partial renamed to NAME, small files last (index of shards, settings) -> journal removed
//! ```
//!
//! A line of the journal counts once the data it speaks of was synced before it, beside the run, so that after a kill or a power cut what it says is there. A run that is
//! made of something else (inputs, options, device, lowbit) does not go on with it, and says what differs. On Ctrl-C and on errors everything is removed, unless
//! the run was asked to be resumable; a killed process leaves everything. Outputs that are no regular files are written to directly.

use super::output::{self, Place};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The journal's first key, which says that it is one, and the version of its form.
const MAGIC: &str = "lowbit journal";
const VERSION: u32 = 1;
/// The data is synced when so much is new, or after so long.
const SYNC_BYTES: u64 = 16 << 20;
const SYNC_AFTER: Duration = Duration::from_millis(250);

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The shards before this one are complete.
    pub shard: usize,
    /// Tensors in it.
    pub items: usize,
    /// Weights replaced by 0 so far.
    pub zeroed: usize,
}

/// What is to be written.
pub struct Request<'a> {
    /// As the user named it.
    pub path: &'a Path,
    /// Whether the folder around it is part of the output: made if it is not there, removed with the rest if nothing else is in it.
    pub folder: bool,
    pub force: bool,
    pub resume: bool,
    pub inputs: Vec<&'a Path>,
    /// The names of the files beside `path`, shards in order; one that is `path`'s own name if there are none.
    pub names: Vec<String>,
    /// Names and contents of small files that appear behind them, as an index of shards.
    pub beside: Vec<(String, Vec<u8>)>,
    /// What has to be the same in a run that goes on, and what it is called.
    pub made_of: Vec<(String, String)>,
}

/// An output in the making.
pub enum Partial {
    /// Not a regular file.
    Direct(File, PathBuf),
    Kept(Kept),
}

/// Files with a journal.
pub struct Kept {
    path: PathBuf,
    /// Shards, then the small files.
    names: Vec<PathBuf>,
    /// The contents of the last names.
    beside: Vec<Vec<u8>>,
    /// The folder that was made for them.
    made: Option<PathBuf>,
    force: bool,
    keep: bool,
    journal: File,
    journal_path: PathBuf,
    done: Done,
    /// Found, and not made by this run.
    resumed: bool,
    whole: bool,
    finished: bool,
    /// What the last sync had, and when it was.
    synced: (u64, Instant),
    /// A sync that goes on beside the run.
    syncing: Option<JoinHandle<Result<()>>>,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { path, source }
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn partial(name: &Path) -> PathBuf {
    with_end(name, ".partial")
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(path)(e)),
        _ => Ok(()),
    }
}

/// A journal that was found.
struct Found {
    made_of: Map<String, Value>,
    done: Done,
    whole: bool,
    /// Its bytes up to the last complete line.
    good: u64,
}

impl Found {
    /// None if its first line is not complete: nothing has been done then.
    fn parse(path: &Path, text: &str) -> Result<Option<Self>> {
        let foreign =
            || Error::Check { what: format!("{} is in the way, and no journal of lowbit", path.display()) };
        let start = format!("{{\"{MAGIC}\":");
        if !text.starts_with(&start) && !start.starts_with(text) {
            return Err(foreign());
        }
        let Some((first, mut rest)) = text.split_once('\n') else { return Ok(None) };
        let made_of = serde_json::from_str(first).map_err(|_| foreign())?;
        let mut found = Self { made_of, done: Done::default(), whole: false, good: first.len() as u64 + 1 };
        // A line without an end was being written when the run was stopped.
        while let Some((line, behind)) = rest.split_once('\n') {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["whole"] => found.whole = true,
                ["done", numbers @ ..] => {
                    let numbers: Vec<usize> = numbers.iter().filter_map(|n| n.parse().ok()).collect();
                    let &[shard, items, zeroed] = numbers.as_slice() else { return Err(foreign()) };
                    found.done = Done { shard, items, zeroed };
                }
                _ => return Err(foreign()),
            }
            found.good += line.len() as u64 + 1;
            rest = behind;
        }
        Ok(Some(found))
    }

    /// What is not as it was, with both.
    fn differs(&self, made_of: &[(String, String)]) -> Option<String> {
        let shown = |text: &str| if text.is_empty() { "not there".to_string() } else { format!("'{text}'") };
        let was = |key: &str| self.made_of.get(key).and_then(Value::as_str).unwrap_or("");
        let differ = made_of.iter().find(|(key, now)| was(key) != now);
        let gone = || {
            let known = |key: &str| key == MAGIC || made_of.iter().any(|(k, _)| k == key);
            self.made_of.keys().find(|key| !known(key)).map(|key| (key.clone(), String::new()))
        };
        let (key, now) = differ.cloned().or_else(gone)?;
        Some(format!("{key} was {} and is {}", shown(was(&key)), shown(&now)))
    }
}

impl Partial {
    /// Starts an output, or goes on with one.
    ///
    /// # Errors
    /// As [`output::place`] for each file; [`Error::Check`] if there is an interrupted run that is not to be gone on with, or not with these options, or that
    /// goes on right now.
    pub fn open(request: Request) -> Result<Self> {
        let made = request.path.parent().filter(|folder| request.folder && !folder.exists());
        let made = made.map(Path::to_path_buf);
        if let Some(folder) = &made {
            std::fs::create_dir_all(folder).map_err(io(folder))?;
        }
        Self::start(request, made.clone()).inspect_err(|_| {
            made.iter().for_each(|folder| drop(std::fs::remove_dir(folder)));
        })
    }

    fn start(request: Request, made: Option<PathBuf>) -> Result<Self> {
        let Request { path, folder: _, force, resume, inputs, names, beside, made_of } = request;
        let sole = path.file_name().is_some_and(|own| names.iter().all(|name| own == name.as_str()));
        let full = match output::place(path, force || !sole || journal_of(path).is_file(), &inputs)? {
            Place::File(full) => full,
            Place::Direct(file) if sole && beside.is_empty() && !resume => {
                return Ok(Self::Direct(file, path.into()));
            }
            Place::Direct(_) => {
                let what = "is no regular file; it has no other files beside it and cannot be gone on with";
                return Err(Error::Usage(format!("{} {what}", path.display())));
            }
        };
        let placed = |name: &String| if sole { full.clone() } else { full.with_file_name(name) };
        let mut paths: Vec<PathBuf> = names.iter().map(placed).collect();
        let (beside_names, beside): (Vec<String>, Vec<Vec<u8>>) = beside.into_iter().unzip();
        paths.extend(beside_names.iter().map(|name| full.with_file_name(name)));
        let journal_path = journal_of(&full);
        let mut journal = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&journal_path)
            .map_err(io(path))?;
        if let Err(TryLockError::WouldBlock) = journal.try_lock() {
            return Err(Error::Check {
                what: format!("{} is being written by another process", path.display()),
            });
        }
        let mut text = String::new();
        journal.read_to_string(&mut text).map_err(io(&journal_path))?;
        let mut found = Found::parse(&journal_path, &text)?;
        if let Some(old) = &found {
            if resume {
                if let Some(what) = old.differs(&made_of) {
                    let (out, journal) = (path.display(), journal_path.display());
                    let what = format!(
                        "the interrupted run for {out} was another: {what}; repeat it as it was, or start over with --force and without --resume (it is described in {journal})"
                    );
                    return Err(Error::Check { what });
                }
            } else if force {
                for name in old.made_of.get("files").and_then(Value::as_str).unwrap_or("").split('\n') {
                    if Path::new(name).file_name().is_some_and(|n| n == name) {
                        remove(&partial(&full.with_file_name(name)))?;
                    }
                }
                found = None;
            } else {
                let what = format!(
                    "{} is left of an interrupted run for {}; --resume goes on with it, --force starts over",
                    journal_path.display(),
                    path.display()
                );
                return Err(Error::Check { what });
            }
        }
        let whole = found.as_ref().is_some_and(|f| f.whole);
        let checked = || {
            for name in &paths {
                // But for those that have their names already, where it was stopped while renaming.
                if !whole || partial(name).exists() {
                    output::place(name, force, &inputs)?;
                }
                if found.is_none() && partial(name).symlink_metadata().is_ok() {
                    let what =
                        format!("{} is in the way, and of no journal; remove it", partial(name).display());
                    return Err(Error::Check { what });
                }
            }
            Ok(())
        };
        if let Err(e) = checked() {
            if found.is_none() {
                remove(&journal_path)?;
            }
            return Err(e);
        }
        let (done, good) = found.as_ref().map_or((Done::default(), 0), |f| (f.done, f.good));
        let mut kept = Kept {
            path: path.into(),
            names: paths,
            beside,
            made,
            force,
            keep: resume,
            journal,
            journal_path,
            done,
            resumed: found.is_some(),
            whole,
            finished: false,
            synced: (0, Instant::now()),
            syncing: None,
        };
        let hint = "lowbit: the same command goes on from here";
        output::watch(if resume { Vec::new() } else { kept.unfinished() }, resume.then_some(hint));
        kept.journal.set_len(good).map_err(io(&kept.journal_path))?;
        kept.journal.seek(SeekFrom::End(0)).map_err(io(&kept.journal_path))?;
        if found.is_none() {
            let mut all = Map::from_iter([(MAGIC.to_string(), VERSION.into())]);
            all.extend(made_of.into_iter().map(|(key, value)| (key, value.into())));
            let line = serde_json::to_string(&all).map_err(|e| io(&kept.journal_path)(e.into()))?;
            log(&kept.journal, &kept.journal_path, &line)?;
        }
        Ok(Self::Kept(kept))
    }

    /// What an interrupted run has done.
    pub fn done(&self) -> Done {
        match self {
            Self::Direct(..) => Done::default(),
            Self::Kept(kept) => kept.done,
        }
    }

    /// The file of a shard: at its start, and with the tensors that are done.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn shard(&mut self, shard: usize) -> Result<File> {
        match self {
            Self::Direct(file, path) => file.try_clone().map_err(io(path)),
            Self::Kept(kept) => {
                let path = partial(&kept.names[shard]);
                let has_items = kept.done.shard == shard && kept.done.items > 0;
                let mut options = File::options();
                options.read(true).write(true);
                // Nothing is replaced that the journal does not know.
                let options = match (has_items, kept.resumed) {
                    (true, _) => &mut options,
                    (false, true) => options.create(true).truncate(true),
                    (false, false) => options.create_new(true),
                };
                // A signal finds the file or none, and removes it if it is to.
                let file = output::uninterrupted(|| options.open(&path)).map_err(io(&path))?;
                output::sync_folder(&path);
                kept.synced = (0, Instant::now());
                Ok(file)
            }
        }
    }

    /// Cuts off what was written behind the last point that the journal has.
    ///
    /// # Errors
    /// [`Error::Format`] if not even that is there; [`Error::Io`].
    pub fn trim(&mut self, file: &File, written: u64) -> Result<()> {
        let Self::Kept(kept) = self else { return Ok(()) };
        let path = partial(&kept.names[kept.done.shard]);
        let len = file.metadata().map_err(io(&path))?.len();
        if len < written {
            let what = format!("{len} bytes, and its journal says that {written} are done; remove both");
            return Err(Error::Format { path, what });
        }
        file.set_len(written).map_err(io(&path))?;
        kept.synced.0 = written;
        Ok(())
    }

    /// Says that a shard's file is good up to `written` bytes: once in a while that is synced and put down, on a thread of its own, but for the end of a shard.
    ///
    /// # Errors
    /// [`Error::Io`], also that of the sync before.
    pub fn reached(&mut self, file: &File, written: u64, done: Done) -> Result<()> {
        let Self::Kept(kept) = self else { return Ok(()) };
        let filled = done.shard > kept.done.shard;
        let (bytes, at) = kept.synced;
        let busy = kept.syncing.as_ref().is_some_and(|thread| !thread.is_finished());
        let due = written.saturating_sub(bytes) >= SYNC_BYTES || at.elapsed() >= SYNC_AFTER;
        if filled || due && !busy {
            kept.settle()?;
            let (file, path) = (file.try_clone().map_err(io(&kept.path))?, kept.path.clone());
            let (journal, journal_path) = (kept.journal.try_clone(), kept.journal_path.clone());
            let journal = journal.map_err(io(&journal_path))?;
            let line = format!("done {} {} {}", done.shard, done.items, done.zeroed);
            kept.syncing = Some(std::thread::spawn(move || {
                file.sync_data().map_err(io(&path))?;
                log(&journal, &journal_path, &line)
            }));
            kept.done = done;
            kept.synced = (written, Instant::now());
        }
        if filled { kept.settle() } else { Ok(()) }
    }

    /// Bytes of a complete shard.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn size(&self, shard: usize) -> Result<u64> {
        let Self::Kept(kept) = self else { return Ok(0) };
        let name = &kept.names[shard];
        let info = std::fs::metadata(partial(name)).or_else(|_| std::fs::metadata(name));
        Ok(info.map_err(io(name))?.len())
    }

    /// Makes all files appear under their names, durably.
    ///
    /// # Errors
    /// [`Error::Exists`] if one of that name has appeared meanwhile and is not to be overwritten; [`Error::Io`].
    pub fn commit(self) -> Result<()> {
        match self {
            Self::Direct(mut file, path) => file.flush().map_err(io(&path)),
            Self::Kept(kept) => kept.commit(),
        }
    }
}

/// Adds a line to a journal, durably.
fn log(mut journal: &File, path: &Path, line: &str) -> Result<()> {
    let written = journal.write_all(format!("{line}\n").as_bytes());
    written.and_then(|()| journal.sync_data()).map_err(io(path))
}

/// The journal of an output.
fn journal_of(path: &Path) -> PathBuf {
    with_end(path, ".journal")
}

impl Kept {
    /// What is removed if the output is given up.
    fn unfinished(&self) -> Vec<PathBuf> {
        let files = self.names.iter().map(|n| partial(n)).chain([self.journal_path.clone()]);
        files.chain(self.made.clone()).collect()
    }

    /// Waits for the sync that goes on.
    fn settle(&mut self) -> Result<()> {
        self.syncing
            .take()
            .map_or(Ok(()), |thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    fn commit(mut self) -> Result<()> {
        self.settle()?;
        let shards = self.names.len() - self.beside.len();
        for (name, bytes) in self.names[shards..].iter().zip(&self.beside).filter(|_| !self.whole) {
            let path = partial(name);
            let mut file = File::create(&path).map_err(io(&path))?;
            file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io(&path))?;
        }
        if !self.whole {
            log(&self.journal, &self.journal_path, "whole")?;
        }
        // Between the first name and the last no signal is heard.
        output::uninterrupted(|| {
            for name in &self.names {
                let from = partial(name);
                if self.whole && !from.exists() && name.exists() {
                    continue;
                }
                output::rename(&from, name, self.force)?;
            }
            self.names.iter().for_each(|name| output::sync_folder(name));
            remove(&self.journal_path)
        })?;
        self.finished = true;
        output::watch(Vec::new(), None);
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Where this fails the run has failed before, or its journal says less than there is.
        let _ = self.settle();
        if !self.keep && !self.finished {
            self.unfinished().iter().for_each(|path| output::give_up(path));
            output::watch(Vec::new(), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::names;

    fn request<'a>(path: &'a Path, resume: bool, scheme: &str) -> Request<'a> {
        Request {
            path,
            folder: false,
            force: false,
            resume,
            inputs: Vec::new(),
            names: vec!["a".into(), "b".into()],
            beside: vec![("index".into(), b"a b".to_vec())],
            made_of: vec![("--scheme".into(), scheme.into()), ("files".into(), "a\nb\nindex".into())],
        }
    }

    /// Writes a byte for each item, and a line for each.
    fn write(partial: &mut Partial, shard: usize, items: std::ops::Range<usize>) {
        let mut file = partial.shard(shard).unwrap();
        partial.trim(&file, items.start as u64).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        for item in items {
            file.write_all(&[item as u8]).unwrap();
            if let Partial::Kept(kept) = partial {
                kept.settle().unwrap();
                kept.synced.0 = 0;
                kept.synced.1 = Instant::now().checked_sub(SYNC_AFTER).unwrap();
            }
            partial.reached(&file, item as u64 + 1, Done { shard, items: item + 1, zeroed: 7 }).unwrap();
        }
    }

    #[test]
    fn a_run_goes_on_where_the_journal_ends() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let mut first = Partial::open(request(&out, true, "x")).unwrap();
        write(&mut first, 0, 0..3);
        // Not in the journal, and half a line that is not whole.
        std::fs::write(folder.path().join("a.partial"), [0, 1, 2, 9, 9]).unwrap();
        drop(first);
        let mut journal = File::options().append(true).open(folder.path().join("out.journal")).unwrap();
        journal.write_all(b"done 0 4").unwrap();
        drop(journal);
        assert_eq!(names(folder.path()), ["a.partial", "out.journal"]);

        let message = |r: Request| Partial::open(r).err().unwrap().to_string();
        assert!(message(request(&out, false, "x")).contains("--resume goes on with it"));
        assert!(message(request(&out, true, "y")).contains("--scheme was 'x' and is 'y'"));
        let mut more = request(&out, true, "x");
        more.made_of.push(("--imatrix".into(), "z".into()));
        assert!(message(more).contains("--imatrix was not there and is 'z'"));
        let mut less = request(&out, true, "x");
        less.made_of.remove(0);
        assert!(message(less).contains("--scheme was 'x' and is not there"));

        let mut second = Partial::open(request(&out, true, "x")).unwrap();
        assert_eq!(second.done(), Done { shard: 0, items: 3, zeroed: 7 });
        let message = Partial::open(request(&out, true, "x")).err().unwrap().to_string();
        assert!(message.contains("another process"), "{message}");
        write(&mut second, 0, 3..5);
        let file = File::open(folder.path().join("a.partial")).unwrap();
        second.reached(&file, 5, Done { shard: 1, items: 0, zeroed: 7 }).unwrap();
        write(&mut second, 1, 0..2);
        assert_eq!((second.size(0).unwrap(), second.size(1).unwrap()), (5, 2));
        second.commit().unwrap();
        assert_eq!(names(folder.path()), ["a", "b", "index"]);
        assert_eq!(std::fs::read(folder.path().join("a")).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(std::fs::read(folder.path().join("index")).unwrap(), b"a b");
        assert!(matches!(Partial::open(request(&out, true, "x")), Err(Error::Exists { .. })));
        assert_eq!(names(folder.path()), ["a", "b", "index"]);
    }

    #[test]
    fn renaming_goes_on_too() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let mut first = Partial::open(request(&out, true, "x")).unwrap();
        write(&mut first, 0, 0..1);
        write(&mut first, 1, 0..1);
        let Partial::Kept(kept) = &mut first else { panic!() };
        log(&kept.journal, &kept.journal_path, "whole").unwrap();
        drop(first);
        std::fs::rename(folder.path().join("a.partial"), folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("index.partial"), "a b").unwrap();
        Partial::open(request(&out, true, "x")).unwrap().commit().unwrap();
        assert_eq!(names(folder.path()), ["a", "b", "index"]);
    }

    #[test]
    fn nothing_of_others_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let mut dropped = Partial::open(request(&out, false, "x")).unwrap();
        write(&mut dropped, 0, 0..1);
        assert_eq!(names(folder.path()), ["a.partial", "out.journal"]);
        drop(dropped);
        assert_eq!(names(folder.path()), [""; 0]);
        for (name, text) in [("out.journal", "mine"), ("a.partial", "mine"), ("b", "mine"), ("index", "mine")]
        {
            std::fs::write(folder.path().join(name), text).unwrap();
            for resume in [false, true] {
                assert!(Partial::open(request(&out, resume, "x")).is_err(), "{name}");
                assert_eq!(names(folder.path()), [name]);
                assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), b"mine");
            }
            std::fs::remove_file(folder.path().join(name)).unwrap();
        }
        // Killed before the first line was whole: nothing to lose.
        std::fs::write(journal_of(&out), "{\"lowbit jour").unwrap();
        drop(Partial::open(request(&out, false, "x")).unwrap());
        // --force starts over.
        let mut first = Partial::open(request(&out, true, "x")).unwrap();
        write(&mut first, 0, 0..3);
        drop(first);
        let again = Partial::open(Request { force: true, ..request(&out, false, "y") }).unwrap();
        assert_eq!(again.done(), Done::default());
        assert_eq!(names(folder.path()), ["out.journal"]);
    }
}
