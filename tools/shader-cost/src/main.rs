//! What WGSL compute shaders cost on AMD GPUs that are not here.
//!
//! ```text
//! *.wgsl -> naga, as wgpu lowers them with its checks off (`lower`) -> SPIR-V
//!        -> Mesa's RADV on a device that compiles and never runs (`radv`), one process per family -> statistics, ISA
//!        -> rows (`table`) -> printed | written to a table | checked against it
//! ```
//!
//! RADV opens a device of any family without a card where `RADV_FORCE_FAMILY` is set. Its compiler counts registers, spills and waves, and estimates
//! inverse throughput. Which rules a check has is in `table`.

mod lower;
mod radv;
mod table;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use table::{Row, Table};

const HELP: &str = "What WGSL compute shaders cost on AMD GPUs, by the compiler of Mesa's RADV driver. Needs no card.

Usage: shader-cost [OPTIONS] PATH...

  PATH              a .wgsl file with one compute entry point, or a folder of them
  --families LIST   which GPUs, by RADV's names, separated by commas [default: raven,navi21,navi31,gfx1151,gfx1201]
  --write TABLE     write the figures to a table
  --check TABLE     compare them with a table; exit status 1 if something got worse
  --asm             print the instructions too

Examples:
  shader-cost wgsl/matvec/q4_0.f16.0.wgsl --asm --families navi31
  shader-cost --check costs.tsv wgsl/

Columns: vector registers, spilled registers, bytes of workgroup memory, waves per SIMD, inverse throughput (the compiler's estimate,
in cycles), 16-byte loads, v_dot4 and v_wmma instructions.";

/// Vega, RDNA2, RDNA3, RDNA3.5 and RDNA4.
const FAMILIES: &str = "raven,navi21,navi31,gfx1151,gfx1201";

/// How the program calls itself, with a family in the environment.
const CHILD: &str = "--child";

#[derive(Default)]
struct Args {
    paths: Vec<PathBuf>,
    families: Option<String>,
    write: Option<PathBuf>,
    check: Option<PathBuf>,
    asm: bool,
}

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some(CHILD) => child(std::env::args().skip(2)),
        _ => parse().and_then(|args| args.map_or(Ok(true), |args| run(&args))),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("shader-cost: {error}");
            ExitCode::from(2)
        }
    }
}

/// The arguments; none where the help was asked for.
fn parse() -> Result<Option<Args>, String> {
    use lexopt::prelude::*;
    let mut args = Args::default();
    let mut parser = lexopt::Parser::from_env();
    let wrong = |e: lexopt::Error| format!("{e}; see --help");
    while let Some(arg) = parser.next().map_err(wrong)? {
        match arg {
            Long("families") => args.families = Some(parser.value().map_err(wrong)?.string().map_err(wrong)?),
            Long("write") => args.write = Some(parser.value().map_err(wrong)?.into()),
            Long("check") => args.check = Some(parser.value().map_err(wrong)?.into()),
            Long("asm") => args.asm = true,
            Long("help") | Short('h') => {
                println!("{HELP}");
                return Ok(None);
            }
            Value(path) => args.paths.push(path.into()),
            other => return Err(wrong(other.unexpected())),
        }
    }
    if args.paths.is_empty() {
        return Err("no shader named; see --help".into());
    }
    Ok(Some(args))
}

/// A shader and what it is called in tables: its path below the folder that was named.
struct Shader {
    name: String,
    path: PathBuf,
}

/// The shaders in a file or folder, by name.
fn collect(root: &Path) -> Result<Vec<Shader>, String> {
    let mut found = Vec::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let items = std::fs::read_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            for item in items {
                left.push(item.map_err(|e| format!("{}: {e}", path.display()))?.path());
            }
        } else if path == root || path.extension().is_some_and(|e| e == "wgsl") {
            let below = path.strip_prefix(root).ok().filter(|p| !p.as_os_str().is_empty());
            let name = below.unwrap_or(&path).with_extension("").to_string_lossy().into_owned();
            found.push(Shader { name, path });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    match found.is_empty() {
        true => Err(format!("{}: no .wgsl file in it", root.display())),
        false => Ok(found),
    }
}

fn run(args: &Args) -> Result<bool, String> {
    let mut shaders = Vec::new();
    for path in &args.paths {
        shaders.append(&mut collect(path)?);
    }
    let families: Vec<&str> = args.families.as_deref().unwrap_or(FAMILIES).split(',').collect();
    let driver =
        radv::manifest().ok_or("no RADV driver: install Mesa's Vulkan drivers (mesa-vulkan-drivers)")?;
    let queue = Mutex::new(families.iter().copied().collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::new());
    let work = || {
        let next = || queue.lock().expect("no panic").pop_front();
        while let Some(family) = next() {
            let output = compile(&shaders, family, driver, args.asm);
            done.lock().expect("no panic").push((family, output));
        }
    };
    std::thread::scope(|s| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads.min(families.len())).for_each(|_| drop(s.spawn(work)));
    });
    let mut done = done.into_inner().expect("no panic");
    done.sort_by_key(|(family, _)| families.iter().position(|f| f == family));
    let mut now = Table::default();
    for (family, output) in done {
        let output = output?;
        if args.asm {
            print!("{output}");
        }
        now.add(&output).map_err(|e| format!("{family}: {e}"))?;
    }
    now.sort();
    let mut good = true;
    for problem in
        now.rules(&shaders.iter().map(|s| (s.name.as_str(), s.path.as_path())).collect::<Vec<_>>())?
    {
        println!("{problem}");
        good = false;
    }
    if let Some(path) = &args.write {
        std::fs::write(path, now.to_string()).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("{}: {} rows, {}", path.display(), now.rows.len(), now.mesa);
    }
    if let Some(path) = &args.check {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let before = Table::parse(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let (problems, notes) = now.compare(&before, &families);
        problems.iter().chain(&notes).for_each(|line| println!("{line}"));
        println!(
            "{}: {} rows compared, {} worse ({})",
            path.display(),
            now.rows.len(),
            problems.len(),
            now.mesa
        );
        good &= problems.is_empty();
    }
    if args.write.is_none() && args.check.is_none() && !args.asm {
        print!("{now}");
    }
    Ok(good)
}

/// What a process of our own says of the shaders on a family.
fn compile(shaders: &[Shader], family: &str, driver: &str, asm: bool) -> Result<String, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(me);
    command.arg(CHILD).arg(if asm { "asm" } else { "rows" }).arg(family);
    for shader in shaders {
        command.arg(&shader.name).arg(&shader.path);
    }
    let output = command
        .env("RADV_FORCE_FAMILY", family)
        .env("VK_DRIVER_FILES", driver)
        .env_remove("VK_ICD_FILENAMES")
        // The driver's own cache would hide the compiler.
        .env("MESA_SHADER_CACHE_DISABLE", "true")
        .output()
        .map_err(|e| e.to_string())?;
    let (text, errors) =
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Ok(text);
    }
    let at =
        text.lines().filter(|line| line.starts_with("mesa") || line.contains('\t')).count().saturating_sub(1);
    let name = shaders.get(at).map_or("", |s| s.name.as_str());
    let why = match errors.trim().trim_start_matches("shader-cost: ") {
        "" => "the driver crashed",
        why => why,
    };
    Err(format!("{name} on {family}: {why}"))
}

/// The process for one family: arguments are `asm` or `rows`, the family, then a name and a path for each shader.
fn child(mut args: impl Iterator<Item = String>) -> Result<bool, String> {
    let asm = args.next().as_deref() == Some("asm");
    let family = args.next().ok_or("no family")?;
    let device = radv::Device::open()?;
    println!("mesa\t{}", device.driver());
    while let (Some(name), Some(path)) = (args.next(), args.next()) {
        let wgsl = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        if !table::compiles(&wgsl, &family) {
            continue;
        }
        let shader = lower::lower(&wgsl)?;
        let cost = device.compile(&shader)?;
        println!("{}", Row::new(&name, &family, &cost));
        if asm {
            println!("{}", cost.isa);
        }
    }
    Ok(true)
}
