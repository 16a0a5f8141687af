//! A model's files written as a stream that a later run goes on with: what `quantize` and `convert` share.
//!
//! ```text
//! Plan -> Files: plans of shards, names, index -> Partial (journal) -> Writer <- item by item, from the subcommand -> commit
//! ```
//!
//! One tensor at a time is in memory. What is put into a file is the subcommand's; how far a run was and which files are kept is
//! `partial`'s.

use super::partial::{Done, Partial, Request};
use super::print;
use crate::file::{Format, Item, Model, Plan, Writer};
use crate::{Error, Result};
use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

/// The options of outputs that may be large.
#[derive(clap::Args)]
pub struct Options {
    /// Write shards of so much data, as OUT-00001-of-00003 (with an index for safetensors): 4GB, 500MB, 2GiB. A model that fits stays one file
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub shard_size: Option<u64>,
    /// Go on with an interrupted run of the same command; if there is none, start one that Ctrl-C and errors leave for the next
    #[arg(long)]
    pub resume: bool,
    /// Overwrite an existing output
    #[arg(short, long)]
    pub force: bool,
}

/// Bytes as `4GB`, `512MiB`, `1000000`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" | "k" => 1e3,
        "mb" | "m" => 1e6,
        "gb" | "g" => 1e9,
        "tb" | "t" => 1e12,
        "kib" => 1024.0,
        "mib" => 1048576.0,
        "gib" => 1073741824.0,
        "tib" => 1099511627776.0,
        _ => f64::NAN,
    };
    match number.parse::<f64>().map(|n| n * factor) {
        Ok(bytes) if (1.0..1e18).contains(&bytes) => Ok(bytes as u64),
        _ => Err("a number of bytes is wanted, as in 4GB, 500MB or 2GiB".into()),
    }
}

/// The files that a plan becomes.
pub struct Files {
    format: &'static Format,
    pub plans: Vec<Plan>,
    /// Of the shards, in order.
    pub names: Vec<String>,
    /// Name and content of small files that appear with them: the index of shards, settings.
    pub beside: Vec<(String, Vec<u8>)>,
    /// Whether the folder around them is part of the output.
    pub folder: bool,
}

/// What a run wrote.
pub struct Written {
    /// Files of tensors together.
    pub bytes: u64,
    /// Weights replaced by 0.
    pub zeroed: usize,
    /// Tensors that an interrupted run had done.
    pub resumed: usize,
}

impl Files {
    /// One file at `path`, or shards beside it.
    ///
    /// # Errors
    /// As [`Format::check`] and [`Format::shards`].
    pub fn new(path: &Path, format: &'static Format, plan: Plan, shard_size: Option<u64>) -> Result<Self> {
        for item in plan.items() {
            format.check(item)?;
        }
        let plans = match shard_size {
            Some(limit) => format.shards(plan, limit, path)?,
            None => vec![plan],
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let names = format.files(&name, &plans)?;
        let beside = names.index.into_iter().collect();
        Ok(Self { format, plans, names: names.tensors, beside, folder: false })
    }

    /// The bytes of an item in these files.
    pub fn bytes(&self, item: &Item) -> u64 {
        // Counted when the plan was made.
        self.format.data_bytes(item).unwrap_or(0)
    }

    /// Starts the files at `path`, or goes on with those of an interrupted run that had the same `settings` (options and what they were) and
    /// the same model.
    ///
    /// # Errors
    /// As [`Partial::open`].
    pub fn open<'a>(
        &self,
        path: &'a Path,
        options: &Options,
        model: &'a Model,
        settings: Vec<(&str, String)>,
    ) -> Result<Partial> {
        let text = |(key, value): (&str, String)| (key.to_string(), value);
        let mut made_of = vec![text(("lowbit", env!("CARGO_PKG_VERSION").into()))];
        made_of.extend(settings.into_iter().map(text));
        made_of.push(text(("--shard-size", options.shard_size.map_or(String::new(), |n| n.to_string()))));
        for path in model.paths() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            made_of.push((format!("input {name}"), stamp(path)?));
        }
        made_of.push(text(("plan", hash(format_args!("{:?}", self.plans)))));
        for (name, bytes) in &self.beside {
            made_of.push((format!("file {name}"), hash(format_args!("{}", bytes.escape_ascii()))));
        }
        let beside = self.beside.iter().map(|(name, _)| name);
        let files: Vec<&str> = self.names.iter().chain(beside).map(String::as_str).collect();
        made_of.push(text(("files", files.join("\n"))));
        Partial::open(Request {
            path,
            folder: self.folder,
            force: options.force,
            resume: options.resume,
            inputs: model.paths().collect(),
            names: self.names.clone(),
            beside: self.beside.clone(),
            made_of,
        })
    }

    /// Writes all that is not done. `bytes` says how much of the input an item stands for, `put` writes the next item and says how many weights it
    /// replaced by 0; `what` is what the progress is called.
    ///
    /// # Errors
    /// Those of `put`; as [`Writer::new`], [`Writer::resume`] and [`Partial::reached`].
    pub fn write(
        &self,
        path: &Path,
        what: &str,
        partial: &mut Partial,
        bytes: &dyn Fn(&Item) -> u64,
        put: &mut dyn FnMut(&Item, &mut Writer<File>) -> Result<usize>,
    ) -> Result<Written> {
        let start = partial.done();
        let input_bytes = |items: &[Item]| -> u64 { items.iter().map(bytes).sum() };
        let of_plans = |plans: &[Plan]| -> u64 { plans.iter().map(|p| input_bytes(p.items())).sum() };
        let (total, mut ahead) = (of_plans(&self.plans), of_plans(&self.plans[start.shard..]));
        let before: usize = self.plans[..start.shard].iter().map(|p| p.items().len()).sum();
        let bar = print::progress_bytes(total, what);
        let mut written = Written { bytes: 0, zeroed: start.zeroed, resumed: before + start.items };
        let mut used = 0;
        for (shard, plan) in self.plans.iter().enumerate() {
            if shard < start.shard {
                written.bytes += partial.size(shard)?;
                continue;
            }
            let (file, plan) = (partial.shard(shard)?, plan.clone());
            let mut items = if shard == start.shard { start.items } else { 0 };
            let mut writer = match items {
                0 => Writer::new(file, path, self.format, plan)?,
                n => {
                    ahead -= input_bytes(plan.items());
                    let writer = Writer::resume(file, path, self.format, plan, n)?;
                    ahead += input_bytes(writer.left());
                    partial.trim(writer.out(), writer.written())?;
                    writer
                }
            };
            if shard == start.shard {
                print::begin_at(&bar, total - ahead);
            }
            while let Some(item) = writer.next_item().cloned() {
                print::at(&bar, item.name());
                written.zeroed += put(&item, &mut writer)?;
                used += bytes(&item);
                if self.folder && used >= GIVE_BACK_AFTER {
                    give_back();
                    used = 0;
                }
                items += 1;
                let done = Done { shard, items, zeroed: written.zeroed };
                partial.reached(writer.out(), writer.written(), done)?;
                bar.inc(bytes(&item));
            }
            written.bytes += writer.written();
            let size = writer.written();
            let file = writer.finish()?;
            partial.reached(&file, size, Done { shard: shard + 1, items: 0, zeroed: written.zeroed })?;
        }
        bar.finish_and_clear();
        Ok(written)
    }
}

/// Bytes of input of a checkpoint, whose layers take the most buffers, after which memory is given back: it has to be had again, which takes time.
const GIVE_BACK_AFTER: u64 = 16 << 20;

/// Gives memory that is free back to the system. glibc keeps the buffers of large tensors, of which a run frees many of several sizes in any order: a
/// stream that needs a few tensors at a time would grow to a dozen.
fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code)]
    // SAFETY: takes no pointers and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What a file is known again by: its size and when it was changed.
pub fn stamp(path: &Path) -> Result<String> {
    let io = |source| Error::Io { path: path.into(), source };
    let info = std::fs::metadata(path).map_err(io)?;
    let changed = info.modified().map_err(io)?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{} bytes, changed {}.{:09}", info.len(), changed.as_secs(), changed.subsec_nanos()))
}

/// The 64-bit hash FNV-1a of a text, which is not put together for it.
pub fn hash(text: std::fmt::Arguments) -> String {
    struct Fnv(u64);
    impl std::fmt::Write for Fnv {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0 = text.bytes().fold(self.0, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
            Ok(())
        }
    }
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    // Taking text cannot fail.
    let _ = std::fmt::write(&mut hash, text);
    format!("{:016x}", hash.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in
            [("4GB", 4_000_000_000), ("2GiB", 2 << 30), ("1.5 mb", 1_500_000), ("77", 77), ("3k", 3000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "-1GB", "0", "4XB", "1e99", "4G B"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
