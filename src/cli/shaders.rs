//! `lowbit shaders`: the generated WGSL, for reading and for other compilers. Needs no GPU.

use super::print;
use crate::kernels::{KERNELS, Tier};
use crate::scheme::preset::samples;
use crate::{Error, Result, Scheme};
use serde_json::json;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Write the WGSL of every kernel, scheme and tier to files
///
/// One file for each text: KERNEL/SCHEME.TIER.N.wgsl, its specialization in the first line. A text that several tiers share is written
/// once, under the lowest of them.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lowbit shaders --dump wgsl\n  lowbit shaders --dump wgsl --kernel matvec --scheme q4_k --tier f16"
)]
pub struct Args {
    /// The folder to write to; made if need be
    #[arg(long, value_name = "DIR")]
    dump: PathBuf,
    /// Only this kernel (may be given several times)
    #[arg(long = "kernel", value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Only this scheme (may be given several times)
    #[arg(long = "scheme", value_name = "SCHEME")]
    schemes: Vec<String>,
    /// Only what a device of this tier runs, as `f16` or `f16+subgroups32` (may be given several times)
    #[arg(long = "tier", value_name = "TIER")]
    tiers: Vec<String>,
    /// Write into a folder that is not empty
    #[arg(short, long)]
    force: bool,
    /// Print the list of files as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let schemes = match args.schemes.as_slice() {
        [] => samples(),
        named => named.iter().map(|name| name.parse()).collect::<Result<Vec<Scheme>>>()?,
    };
    if let Some(unknown) = args.kernels.iter().find(|name| !KERNELS.iter().any(|k| k.name == **name)) {
        let names: Vec<&str> = KERNELS.iter().map(|k| k.name).collect();
        return Err(Error::Usage(format!("no kernel '{unknown}'; there are {}", names.join(", "))));
    }
    let tier = |name: &String| {
        Tier::ALL.into_iter().find(|tier| tier.to_string() == *name).ok_or_else(|| {
            let names = Tier::ALL.map(|tier| tier.to_string()).join(", ");
            Error::Usage(format!("no tier '{name}'; there are {names}"))
        })
    };
    let tiers = match args.tiers.as_slice() {
        [] => Tier::ALL.to_vec(),
        names => names.iter().map(tier).collect::<Result<_>>()?,
    };
    prepare(&args.dump, args.force)?;

    let kernels: Vec<_> = KERNELS
        .iter()
        .filter(|k| args.kernels.is_empty() || args.kernels.iter().any(|n| n == k.name))
        .collect();
    let bar = print::progress((kernels.len() * schemes.len()) as u64, "shaders");
    let mut files = Vec::new();
    let mut bytes = 0;
    for kernel in kernels {
        let folder = args.dump.join(kernel.name);
        for scheme in schemes.iter().filter(|s| (kernel.takes)(s)) {
            print::at(&bar, &format!("{} {scheme}", kernel.name));
            bar.inc(1);
            let mut seen: HashMap<String, ()> = HashMap::new();
            for &tier in tiers.iter().filter(|tier| (kernel.runs)(**tier)) {
                for (i, shader) in (kernel.shaders)(scheme, tier)?.into_iter().enumerate() {
                    if seen.insert(shader.wgsl.clone(), ()).is_some() {
                        continue;
                    }
                    let path = folder.join(format!("{scheme}.{tier}.{i}.wgsl"));
                    let text = format!("// {}\n{}", shader.key, shader.wgsl);
                    std::fs::create_dir_all(&folder).map_err(io(&folder))?;
                    std::fs::write(&path, &text).map_err(io(&path))?;
                    bytes += text.len() as u64;
                    files.push(json!({"file": path, "kernel": kernel.name, "scheme": scheme.to_string(),
                                      "tier": shader.needs.to_string(), "specialization": shader.key}));
                }
            }
        }
    }
    bar.finish_and_clear();
    if args.json {
        return print::json(&files);
    }
    let n = print::count(files.len(), "shader");
    print::stdout(&format!("{}: {n}, {}\n", args.dump.display(), print::bytes(bytes)))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { path, source }
}

/// Makes the folder, which must be empty unless forced.
fn prepare(folder: &Path, force: bool) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    let mut items = std::fs::read_dir(folder).map_err(io(folder))?;
    if !force && items.next().is_some() {
        return Err(Error::Exists { path: folder.to_path_buf() });
    }
    Ok(())
}
