//! What tuning left: read when an engine is opened, written when something was timed.
//!
//! ```text
//! <cache folder>/lowbit/tune/NAME-HASH.json   one per adapter, driver, tier and version of lowbit      (docs/TUNING.md)
//!     read:  what is not as it should be is left out, with a warning as a value
//!     write: read again, ours on top, a temporary beside it, renamed
//! ```
//!
//! Not here: timing. In browsers there is no such folder.

use super::EngineInfo;
use crate::kernels::choice::{self, Shape, Winner, Winners};
use crate::product::Accumulate;
use crate::{Error, Result, Scheme};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const FORMAT: &str = "lowbit tune";
const VERSION: u32 = 1;
/// A file of every class there is would be shorter.
const MOST_BYTES: u64 = 64 << 20;

/// What an engine knows by measurement. Clones of the engine share it.
#[derive(Debug, Default)]
pub(crate) struct Tuning {
    pub winners: Winners,
    /// What of the file was not used, and why.
    pub warnings: Vec<String>,
    /// Where winners are remembered; None where they are not.
    pub file: Option<PathBuf>,
}

impl Tuning {
    /// What is remembered of a device, in this folder or the user's.
    pub fn load(info: &EngineInfo, folder: Option<&Path>) -> Self {
        let folder = folder.map(Path::to_path_buf).or_else(user_folder);
        let Some(file) = folder.map(|folder| folder.join(name(info))) else { return Self::default() };
        let mut tuning = Self::default();
        match read(&file, info) {
            Ok(None) => {}
            Ok(Some((winners, warnings))) => {
                winners.into_iter().for_each(|winner| tuning.winners.set(winner));
                tuning.warnings = warnings;
            }
            Err(error) => tuning.warnings = vec![format!("{error}; it is ignored")],
        }
        tuning.file = Some(file);
        tuning
    }
}

/// Who a file is of, and which lowbit wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Device {
    name: String,
    backend: String,
    driver: String,
    tier: String,
}

impl From<&EngineInfo> for Device {
    fn from(info: &EngineInfo) -> Self {
        let EngineInfo { name, backend, driver, tier, .. } = info.clone();
        Self { name, backend, driver, tier }
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    format: String,
    version: u32,
    lowbit: String,
    device: Device,
    /// Entries one by one, so that one that is wrong does not take the others along.
    winners: Vec<serde_json::Value>,
}

/// A [`Winner`] in words.
#[derive(Serialize, Deserialize)]
struct Entry {
    scheme: String,
    activation: String,
    accumulate: String,
    m: usize,
    n: usize,
    k: usize,
    variant: String,
    ms: f64,
    default: String,
    default_ms: f64,
}

impl Entry {
    fn new(winner: &Winner) -> Self {
        let Shape { m, n, k, scheme, accumulate, .. } = winner.shape;
        Self {
            scheme: scheme.to_string(),
            // Of the class, which has no static scales.
            activation: winner.shape.class().activation.to_string(),
            accumulate: accumulate.name().into(),
            m,
            n,
            k,
            variant: winner.variant.into(),
            ms: winner.seconds * 1e3,
            default: winner.default.into(),
            default_ms: winner.default_seconds * 1e3,
        }
    }

    /// What is wrong with it, in words.
    fn parse(&self) -> Result<Winner, String> {
        let kernel = |name: &str| choice::named(name).ok_or(format!("there is no kernel '{name}'"));
        let scheme: Scheme = self.scheme.parse().map_err(|e: Error| e.to_string())?;
        let activation = self.activation.parse().map_err(|e: Error| e.to_string())?;
        let accumulate = Accumulate::named(&self.accumulate)
            .ok_or_else(|| format!("there are no sums '{}'", self.accumulate))?;
        let Self { m, n, k, .. } = *self;
        let ms = |ms: f64| ms > 0.0 && ms < 1e9;
        if [m, n, k].contains(&0) || !ms(self.ms) || !ms(self.default_ms) {
            return Err(format!("{m}x{n}x{k} in {} ms", self.ms));
        }
        Ok(Winner {
            shape: Shape { m, n, k, scheme, activation, accumulate },
            variant: kernel(&self.variant)?,
            seconds: self.ms * 1e-3,
            default: kernel(&self.default)?,
            default_seconds: self.default_ms * 1e-3,
        })
    }
}

/// The winners in a file, with warnings about those that were left out; None if there is no file.
fn read(path: &Path, info: &EngineInfo) -> Result<Option<(Vec<Winner>, Vec<String>)>> {
    let io = |source| Error::Io { path: path.into(), source };
    let format = |what: String| Error::Format { path: path.into(), what };
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
        Ok(data) if data.len() > MOST_BYTES => return Err(format(format!("{} bytes long", data.len()))),
        Ok(data) if !data.is_file() => return Err(format("not a regular file".into())),
        Ok(_) => {}
    }
    let text = std::fs::read(path).map_err(io)?;
    let file: File =
        serde_json::from_slice(&text).map_err(|e| format(format!("no result of tuning: {e}")))?;
    let ours = Device::from(info);
    let lowbit = env!("CARGO_PKG_VERSION");
    let foreign = [
        (file.format != FORMAT, format!("its format is '{}'", file.format)),
        (file.version != VERSION, format!("version {}, this lowbit reads {VERSION}", file.version)),
        (file.lowbit != lowbit, format!("written by lowbit {}, this is {lowbit}", file.lowbit)),
        (file.device != ours, format!("of another device: {} ({})", file.device.name, file.device.driver)),
    ];
    if let Some((_, why)) = foreign.into_iter().find(|(is, _)| *is) {
        return Err(format(why));
    }
    let (mut winners, mut warnings) = (Vec::new(), Vec::new());
    for (i, value) in file.winners.into_iter().enumerate() {
        let entry = serde_json::from_value::<Entry>(value).map_err(|e| e.to_string());
        match entry.and_then(|entry| entry.parse()) {
            Ok(winner) => winners.push(winner),
            Err(why) => warnings.push(format!("{}: winner {i}: {why}; it is ignored", path.display())),
        }
    }
    Ok(Some((winners, warnings)))
}

/// Adds winners to the file of a device: those of the same class are replaced, a file that cannot be used too.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn store(path: &Path, info: &EngineInfo, new: &[Winner]) -> Result<()> {
    let io = |source| Error::Io { path: path.into(), source };
    let mut all = read(path, info).ok().flatten().map(|(winners, _)| winners).unwrap_or_default();
    all.retain(|old| new.iter().all(|winner| winner.shape.class() != old.shape.class()));
    all.extend(new.iter().cloned());
    // Equal contents are equal files.
    all.sort_by_cached_key(|w| {
        (w.shape.to_string(), w.shape.activation.to_string(), w.shape.accumulate.name())
    });
    let winners = all.iter().map(|winner| serde_json::to_value(Entry::new(winner)));
    let file = File {
        format: FORMAT.into(),
        version: VERSION,
        lowbit: env!("CARGO_PKG_VERSION").into(),
        device: info.into(),
        winners: winners.collect::<Result<_, _>>().map_err(|e| io(e.into()))?,
    };
    let text = serde_json::to_string_pretty(&file).map_err(|e| io(e.into()))? + "\n";
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    // Two processes that tune write two temporaries; the later one's winners stay.
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        io(e)
    })
}

/// Of the file of a device.
fn name(info: &EngineInfo) -> String {
    let device = Device::from(info);
    let parts = [&device.name, &device.backend, &device.driver, &device.tier, env!("CARGO_PKG_VERSION")];
    // FNV-1a, the parts apart from each other.
    let hash = parts
        .iter()
        .flat_map(|part| part.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = format!("{} {}", device.backend, device.name).chars().take(48).map(plain).collect();
    let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
    format!("{}-{hash:016x}.json", words.join("-"))
}

/// The user's folder for what can be made again, as the platform has it: `$XDG_CACHE_HOME`, if it is an absolute path, anywhere; else
/// `~/Library/Caches` on macOS and iOS, `%LOCALAPPDATA%` on Windows, `~/.cache` elsewhere; none in browsers.
fn user_folder() -> Option<PathBuf> {
    if cfg!(target_arch = "wasm32") {
        return None;
    }
    folder_of(|name| std::env::var_os(name), std::env::home_dir())
}

fn folder_of(var: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    let named = |name| var(name).map(PathBuf::from).and_then(absolute);
    let home = home.and_then(absolute);
    let base = named("XDG_CACHE_HOME").or_else(|| {
        if cfg!(windows) {
            named("LOCALAPPDATA")
        } else if cfg!(target_vendor = "apple") {
            home.map(|home| home.join("Library/Caches"))
        } else {
            home.map(|home| home.join(".cache"))
        }
    });
    base.map(|base| base.join("lowbit").join("tune"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::{Activation, Product};

    fn info() -> EngineInfo {
        EngineInfo {
            name: "Some GPU (TM)".into(),
            backend: "Vulkan".into(),
            driver: "driver 1.2".into(),
            software: false,
            tier: "f16+subgroups32".into(),
        }
    }

    fn winner(m: usize, variant: &'static str) -> Winner {
        let shape = Shape::new([m, 4096, 4096], "q4_0".parse().unwrap(), &Product::default());
        Winner { shape, variant, seconds: 1e-3, default: "matmul:64x64", default_seconds: 2e-3 }
    }

    #[test]
    fn winners_come_back_and_later_ones_replace_their_class() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c.json");
        assert!(read(&path, &info()).unwrap().is_none());
        let [one, many, other] =
            [winner(1, "matvec"), winner(100, "matmul:64x64"), winner(200, "matmul:32x32")];
        store(&path, &info(), &[one.clone(), many]).unwrap();
        // 100 and 200 rows are of one class, 1 is not.
        store(&path, &info(), std::slice::from_ref(&other)).unwrap();
        let (all, warnings) = read(&path, &info()).unwrap().unwrap();
        assert_eq!((all, warnings), (vec![one.clone(), other], vec![]));
        let names: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "no temporary is left: {names:?}");
        // Scales that are given are no part of a class, and come back as those of rows.
        let given = crate::product::Int8Scale::new(0.5, 3).unwrap();
        let int8 = Winner { shape: Shape { activation: Activation::Int8Static(given), ..one.shape }, ..one };
        store(&path, &info(), std::slice::from_ref(&int8)).unwrap();
        let (all, warnings) = read(&path, &info()).unwrap().unwrap();
        assert!(
            all.iter().any(|w| w.shape.class() == int8.shape.class()) && warnings.is_empty(),
            "{warnings:?}"
        );
    }

    #[test]
    fn what_cannot_be_used_is_left_out_with_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.json");
        store(&path, &info(), &[winner(1, "matvec"), winner(100, "matmul:32x32")]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        // The whole file.
        for (from, to, why) in [
            ("{", "[", "no result of tuning"),
            ("\"lowbit tune\"", "\"lowbit bench\"", "its format is 'lowbit bench'"),
            ("\"version\": 1", "\"version\": 2", "version 2"),
            (env!("CARGO_PKG_VERSION"), "0.0.7", "written by lowbit 0.0.7"),
            ("driver 1.2", "driver 1.3", "of another device"),
            ("f16+subgroups32", "f32", "of another device"),
            ("\"winners\"", "\"losers\"", "winners"),
        ] {
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let error = read(&path, &info()).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("c.json"), "{from}: {error}");
        }
        for cut in [0, 1, text.len() / 2, text.len() - 3] {
            std::fs::write(&path, &text[..cut]).unwrap();
            assert!(read(&path, &info()).is_err(), "{cut}");
        }
        // One entry: the other stays.
        for (from, to, why) in [
            ("\"matvec\"", "\"matvac\"", "no kernel 'matvac'"),
            ("\"q4_0\"", "\"q4_9\"", "q4_9"),
            ("\"activation\": \"f32\"", "\"activation\": \"f31\"", "'f31'"),
            ("\"accumulate\": \"f32\"", "\"accumulate\": \"f31\"", "'f31'"),
            ("\"m\": 1,", "\"m\": 0,", "0x4096x4096"),
            ("\"m\": 1,", "\"m\": -1,", "-1"),
            ("\"ms\": 1.0", "\"ms\": -1.0", "-1"),
            ("\"ms\": 1.0", "\"mz\": 1.0", "ms"),
        ] {
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let (winners, warnings) = read(&path, &info()).unwrap().unwrap();
            assert_eq!((winners.len(), warnings.len()), (1, 1), "{from}: {warnings:?}");
            assert!(warnings[0].contains(why) && warnings[0].contains("ignored"), "{from}: {warnings:?}");
        }
    }

    #[test]
    fn each_device_driver_and_tier_has_a_file() {
        let first = name(&info());
        assert!(first.starts_with("vulkan-some-gpu-tm-") && first.ends_with(".json"), "{first}");
        for change in [
            |i: &mut EngineInfo| i.driver.push('0'),
            |i: &mut EngineInfo| i.tier.push('0'),
            |i: &mut EngineInfo| i.backend = "Gl".into(),
            |i: &mut EngineInfo| i.name.push('x'),
        ] {
            let mut other = info();
            change(&mut other);
            assert_ne!(name(&other), first);
        }
        let mut odd = info();
        odd.name = "../../\u{1b}[2J é".repeat(100);
        assert!(name(&odd).len() < 80 && name(&odd).is_ascii());
    }

    #[cfg(unix)]
    #[test]
    fn the_folder_is_the_platforms() {
        let from = |xdg: Option<&str>, home: Option<&str>| {
            let var = |name: &str| (name == "XDG_CACHE_HOME").then(|| xdg.map(OsString::from)).flatten();
            folder_of(var, home.map(PathBuf::from))
        };
        let default = if cfg!(target_vendor = "apple") {
            "/u/Library/Caches/lowbit/tune"
        } else {
            "/u/.cache/lowbit/tune"
        };
        assert_eq!(from(Some("/c"), Some("/u")), Some("/c/lowbit/tune".into()));
        assert_eq!(from(Some("relative"), Some("/u")), Some(default.into()));
        assert_eq!(from(None, Some("/u")), Some(default.into()));
        assert_eq!(from(None, Some("")), None);
        assert_eq!(from(None, None), None);
    }
}
