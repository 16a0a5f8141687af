//! Output files that appear whole or not at all.
//!
//! ```text
//! create: checks -> hidden temporary beside the target -> write ... -> commit: fsync, rename, fsync of the folder
//!                             | error, panic, Ctrl-C, SIGTERM, SIGHUP: removed
//! ```
//!
//! Only a killed process (SIGKILL, power) can leave the temporary, whose name says what it is: `.NAME.lowbit-XXXXXX.tmp`. An output
//! that is no regular file (`/dev/null`, a pipe) is written to directly. Not here: what is written.

use crate::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use tempfile::{NamedTempFile, TempPath};

/// Temporaries to be removed if the process is interrupted.
static PENDING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
/// The same for the files of [`super::partial`], and what to tell then.
static PARTIAL: Mutex<(Vec<PathBuf>, Option<&'static str>)> = Mutex::new((Vec::new(), None));

/// What the first signal does: interrupt (0), ask for an end, or it has asked.
static STOP: AtomicU8 = AtomicU8::new(0);
const BETWEEN: u8 = 1;
const ASKED: u8 = 2;

/// The exit code of an interrupted run, as shells report SIGINT.
const INTERRUPTED: i32 = 130;

fn pending() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn partials() -> std::sync::MutexGuard<'static, (Vec<PathBuf>, Option<&'static str>)> {
    PARTIAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets which files are removed when the process is interrupted (those of one output), and what is told then.
pub fn watch(files: Vec<PathBuf>, hint: Option<&'static str>) {
    watch_signals();
    *partials() = (files, hint);
}

/// From here on the first signal only asks for an end ([`is_to_stop`]), so that what is there so far is told; the second one interrupts as ever.
pub fn stop_between() {
    watch_signals();
    STOP.store(BETWEEN, Ordering::Relaxed);
}

/// Whether a signal has asked for an end.
pub fn is_to_stop() -> bool {
    STOP.load(Ordering::Relaxed) == ASKED
}

/// Ends the process as an interrupted one.
pub fn end_interrupted() -> ! {
    std::process::exit(INTERRUPTED)
}

/// Does something that no signal is to interrupt.
pub fn uninterrupted<T>(work: impl FnOnce() -> T) -> T {
    let _held = partials();
    work()
}

/// Where an output goes.
pub enum Place {
    /// A regular file, there or not yet, links followed.
    File(PathBuf),
    /// Something else (`/dev/null`, a pipe), open for writing.
    Direct(File),
}

/// Where an output named `path` goes, if it may.
///
/// # Errors
/// [`Error::Exists`] if there is such a file and `force` is not set; [`Error::Usage`] if it is an input or a folder; [`Error::Io`].
pub fn place(path: &Path, force: bool, inputs: &[&Path]) -> Result<Place> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    // A link is followed, so that the file behind it is replaced and not the link.
    let real = std::fs::canonicalize(path).ok();
    for input in inputs {
        let input = std::fs::canonicalize(input).ok();
        if real.is_some() && input == real {
            return Err(Error::Usage(format!("{} is the input; name another output", path.display())));
        }
        let of_model = |real: &Path, folder: &Path| {
            folder.is_dir() && real.starts_with(folder) && may_be_of_a_model(real)
        };
        if let (Some(real), Some(folder)) = (&real, &input)
            && of_model(real, folder)
        {
            return Err(Error::Usage(format!(
                "{} is in the input's folder; name another output",
                path.display()
            )));
        }
    }
    let full = real.unwrap_or_else(|| path.to_path_buf());
    // Not `real`: a link to a pipe has something behind it but no path of its own.
    if let Ok(info) = std::fs::metadata(path) {
        if info.is_dir() {
            return Err(Error::Usage(format!("{} is a folder; name a file", path.display())));
        }
        if !info.is_file() {
            return Ok(Place::Direct(File::options().write(true).open(path).map_err(io)?));
        }
        if !force {
            return Err(Error::Exists { path: path.to_path_buf() });
        }
    } else if std::fs::symlink_metadata(path).is_ok() {
        return Err(Error::Usage(format!("{} is a link to nothing; name a file", path.display())));
    }
    match full.file_name() {
        Some(_) => Ok(Place::File(full)),
        None => Err(Error::Usage(format!("{} names no file", path.display()))),
    }
}

/// Whether a file in a model's folder may be one of the model's.
fn may_be_of_a_model(path: &Path) -> bool {
    const KINDS: [&str; 8] = ["safetensors", "json", "gguf", "onnx", "data", "txt", "model", "bin"];
    path.extension().is_none_or(|extension| KINDS.iter().any(|kind| extension.eq_ignore_ascii_case(kind)))
}

/// Gives a file its name, over one that is there only with `force`.
///
/// # Errors
/// [`Error::Exists`], [`Error::Io`].
pub fn rename(from: &Path, to: &Path, force: bool) -> Result<()> {
    let renamed = match force {
        true => std::fs::rename(from, to),
        false => TempPath::try_from_path(from).and_then(|temporary| {
            temporary.persist_noclobber(to).map_err(|e| {
                // Only what is committed or given up goes away.
                let _ = e.path.keep();
                e.error
            })
        }),
    };
    renamed.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Exists { path: to.to_path_buf() },
        _ => Error::Io { path: to.to_path_buf(), source },
    })
}

/// Makes what was renamed or made in the folder of `path` durable. Some file systems refuse to sync folders; the files are whole anyway.
pub fn sync_folder(path: &Path) {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let _ = File::open(folder).and_then(|f| f.sync_all());
    }
    #[cfg(not(unix))]
    let _ = path;
}

/// Removes temporaries on Ctrl-C, SIGTERM and SIGHUP, then ends the process.
fn watch_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler = || {
            let between = STOP.compare_exchange(BETWEEN, ASKED, Ordering::Relaxed, Ordering::Relaxed);
            if between.is_ok() {
                return crate::cli::print::note("lowbit: ending; interrupt again to leave at once");
            }
            // The lock is held to the end, so that no temporary appears and no output is renamed meanwhile.
            let paths = pending();
            let partial = partials();
            for path in paths.iter().chain(&partial.0) {
                give_up(path);
            }
            crate::cli::print::note("lowbit: interrupted");
            partial.1.iter().for_each(|hint| crate::cli::print::note(hint));
            std::process::exit(INTERRUPTED);
        };
        // It fails only if the program already has a handler, which then decides.
        let _ = ctrlc::set_handler(handler);
    });
}

/// Removes what an output that is given up has left: a file, or a folder if nothing is in it.
pub fn give_up(path: &Path) {
    let _ = if path.is_dir() { std::fs::remove_dir(path) } else { std::fs::remove_file(path) };
}

enum Target {
    Temporary(NamedTempFile),
    /// Not a regular file: written to as it is.
    Direct(File),
}

/// A file being written.
pub struct Output {
    path: PathBuf,
    force: bool,
    target: Target,
}

impl Output {
    /// Starts an output at `path`, which must not be one of `inputs`.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is such a file and `force` is not set; [`Error::Usage`] if it is an input or a folder;
    /// [`Error::Io`] if it cannot be written.
    pub fn create<'a>(path: &Path, force: bool, inputs: impl IntoIterator<Item = &'a Path>) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_path_buf(), source };
        let full = match place(path, force, &inputs.into_iter().collect::<Vec<_>>())? {
            Place::File(full) => full,
            Place::Direct(file) => {
                return Ok(Self { path: path.to_path_buf(), force, target: Target::Direct(file) });
            }
        };
        let name = full.file_name().unwrap_or_default();
        let folder = match full.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        watch_signals();
        let mut builder = tempfile::Builder::new();
        // The temporary's name must not be longer than a legal target's.
        let stem: String = name.to_string_lossy().chars().take(50).collect();
        let prefix = format!(".{stem}.lowbit-");
        builder.prefix(&prefix).suffix(".tmp");
        #[cfg(unix)]
        {
            // As any new file: what the umask leaves of rw-rw-rw-.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        // Created and listed under one lock: a signal finds either both or neither.
        let mut list = pending();
        let file = builder.tempfile_in(folder).map_err(|e| {
            // The path in the library's own message is that of the temporary, which means nothing to the user.
            let text = e.to_string();
            let cause = text.split(" at path ").next().unwrap_or(&text).to_string();
            io(std::io::Error::new(e.kind(), cause))
        })?;
        list.push(file.path().to_path_buf());
        drop(list);
        Ok(Self { path: full, force, target: Target::Temporary(file) })
    }

    /// Makes the output appear under its name, durably.
    ///
    /// # Errors
    /// [`Error::Exists`] if a file of that name has appeared meanwhile and `force` is not set; [`Error::Io`].
    pub fn commit(self) -> Result<()> {
        let Self { path, force, target } = self;
        let io = |path: &Path, source| Error::Io { path: path.to_path_buf(), source };
        let file = match target {
            Target::Temporary(file) => file,
            Target::Direct(mut file) => return file.flush().map_err(|e| io(&path, e)),
        };
        file.as_file().sync_all().map_err(|e| io(&path, e))?;
        let temporary = file.path().to_path_buf();
        let mut list = pending();
        let renamed = if force { file.persist(&path) } else { file.persist_noclobber(&path) };
        list.retain(|p| *p != temporary);
        drop(list);
        renamed.map_err(|e| match e.error.kind() {
            std::io::ErrorKind::AlreadyExists => Error::Exists { path: path.clone() },
            _ => io(&path, e.error),
        })?;
        sync_folder(&path);
        Ok(())
    }
}

/// Writes a text and has it appear.
///
/// # Errors
/// As [`Output::commit`].
pub fn write_text(mut output: Output, text: &str) -> Result<()> {
    output.write_all(text.as_bytes()).map_err(|source| Error::Io { path: output.path.clone(), source })?;
    output.commit()
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut self.target {
            Target::Temporary(file) => file.as_file_mut().write(bytes),
            Target::Direct(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &mut self.target {
            Target::Temporary(file) => file.as_file_mut().flush(),
            Target::Direct(file) => file.flush(),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// All names in a folder, hidden ones too.
    pub fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_appears_before_commit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut out = Output::create(&path, false, []).unwrap();
        out.write_all(b"half").unwrap();
        let seen = names(folder.path());
        assert!(
            seen.len() == 1 && seen[0].starts_with(".out.lowbit-") && seen[0].ends_with(".tmp"),
            "{seen:?}"
        );
        drop(out);
        assert!(names(folder.path()).is_empty());

        let mut out = Output::create(&path, false, []).unwrap();
        out.write_all(b"whole").unwrap();
        out.commit().unwrap();
        assert_eq!(
            (names(folder.path()), std::fs::read(&path).unwrap()),
            (vec!["out".into()], b"whole".to_vec())
        );
    }

    #[test]
    fn existing_files_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let late = Output::create(&path, false, []).unwrap();
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(late.commit(), Err(Error::Exists { .. })));
        assert!(matches!(Output::create(&path, false, []), Err(Error::Exists { .. })));
        assert!(matches!(Output::create(&path, true, [path.as_path()]), Err(Error::Usage(_))));
        assert!(matches!(Output::create(folder.path(), true, []), Err(Error::Usage(_))));
        assert!(matches!(Output::create(&folder.path().join("no/such"), true, []), Err(Error::Io { .. })));
        assert_eq!(
            (names(folder.path()), std::fs::read(&path).unwrap()),
            (vec!["out".into()], b"mine".to_vec())
        );
        Output::create(&path, true, []).unwrap().commit().unwrap();
        assert_eq!((names(folder.path()), std::fs::read(&path).unwrap()), (vec!["out".into()], vec![]));
    }
}
