//! The plan of the house, held by reading the source: who may import whom, where the parts of a kernel are, and what no source
//! file contains.
//!
//! ```text
//! scheme <- packed <- {reference, cpu, file, kernels}        gpu <- kernels
//! {cpu, kernels} <- engine <- {quantize, calibrate, train, model, selftest <- bench <- tune} <- {cli, web}
//! ```
//!
//! A file is cut into tokens, comments and literals left out; paths that begin at the crate's root (`crate::`, trees of it, chains of
//! `super::` that get there) are what it imports, in its unit tests too. Nothing is expanded: a macro could hide an import.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module and what it may import: itself, these, what these may, and [`ANYONE`]. A module that is not here fails the test.
const MODULES: &[(&str, &[&str])] = &[
    ("scheme", &[]),
    ("packed", &["scheme"]),
    ("kv", &[]),
    ("reference", &["packed", "kv"]),
    ("cpu", &["packed", "kv"]),
    ("file", &["packed"]),
    ("gpu", &[]),
    ("kernels", &["packed", "kv", "gpu"]),
    ("engine", &["cpu", "kernels"]),
    ("quantize", &["engine"]),
    ("calibrate", &["engine", "file"]),
    ("configuration", &["quantize", "calibrate"]),
    ("train", &["engine", "quantize", "calibrate"]),
    ("model", &["engine", "file", "quantize", "calibrate"]),
    ("report", &[]),
    ("selftest", &["engine", "quantize", "reference", "report"]),
    ("bench", &["selftest"]),
    ("tune", &["bench"]),
    ("cli", &["file", "calibrate", "configuration", "train", "model", "selftest", "bench", "tune"]),
    ("web", &["file", "train", "model", "selftest", "bench"]),
];

/// The error, host tensors, the words of a product and of training, what inputs are transformed by, bins, threads, the clock and random numbers: for everyone, and importing only each other.
const ANYONE: &[&str] =
    &["error", "tensor", "product", "learning", "bins", "threads", "clock", "recycle", "random", "transform"];

/// What single files may import on top: the table of kernels names the reference of each operation.
const EXCEPTIONS: &[(&str, &str)] = &[("kernels/mod.rs", "reference")];

/// A longer file is asked about.
const LONG: usize = 700;

/// A source file: its path in the package, its lines, its tokens with the (0-based) line of each.
struct Source {
    path: String,
    text: String,
    tokens: Vec<(usize, String)>,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into(), tokens: tokens(text) }
    }

    /// Path below src/, or nothing for other files and the two roots.
    fn in_module(&self) -> Option<&str> {
        self.path.strip_prefix("src/").filter(|path| !["lib.rs", "main.rs"].contains(path))
    }

    fn token(&self, i: usize) -> &str {
        self.tokens.get(i).map_or("", |(_, token)| token)
    }

    /// Where the tokens of `pattern` (separated by spaces) are: the line of each, from 1.
    fn find(&self, pattern: &str) -> Vec<usize> {
        let pattern: Vec<&str> = pattern.split(' ').collect();
        let windows = self.tokens.windows(pattern.len());
        windows
            .filter(|window| window.iter().map(|(_, token)| token).eq(pattern.iter()))
            .map(|window| window[0].0 + 1)
            .collect()
    }
}

/// Identifiers (numbers among them), `::`, and single characters, without comments, strings and characters.
fn tokens(text: &str) -> Vec<(usize, String)> {
    let c: Vec<char> = text.chars().collect();
    let at = |i: usize| c.get(i).copied().unwrap_or('\0');
    let is_word = |ch: char| ch.is_alphanumeric() || ch == '_';
    let mut all: Vec<(usize, String)> = Vec::new();
    let (mut i, mut line) = (0, 0);
    while i < c.len() {
        let start = i;
        match (at(i), at(i + 1)) {
            ('/', '/') => i += c[i..].iter().take_while(|ch| **ch != '\n').count(),
            ('/', '*') => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= c.len() {
                        break;
                    }
                }
            }
            // A raw string: r, br or cr was taken for a word before its first # or quote.
            ('#' | '"', _) if all.last().is_some_and(|(_, w)| ["r", "br", "cr"].contains(&w.as_str())) => {
                let hashes = c[i..].iter().take_while(|ch| **ch == '#').count();
                let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                i += hashes + 1;
                i += c[i..].windows(end.len()).take_while(|w| *w != end).count() + end.len();
                all.pop();
            }
            ('"', _) => {
                i += 1;
                while i < c.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
            }
            // A character, not a lifetime.
            ('\'', '\\') => {
                i += 3 + c[(i + 3).min(c.len())..].iter().take_while(|ch| **ch != '\'').count() + 1
            }
            ('\'', _) if at(i + 2) == '\'' => i += 3,
            (':', ':') => {
                all.push((line, "::".into()));
                i += 2;
            }
            (ch, _) if is_word(ch) => {
                i += c[i..].iter().take_while(|ch| is_word(**ch)).count();
                all.push((line, c[start..i].iter().collect()));
            }
            (ch, _) => {
                if !ch.is_whitespace() {
                    all.push((line, ch.into()));
                }
                i += 1;
            }
        }
        line += c[start..i.min(c.len())].iter().filter(|ch| **ch == '\n').count();
    }
    all
}

/// What a file imports from the root of the crate, with the lines: first names of paths, `*` for all of it.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let path = source.path.trim_start_matches("src/").trim_end_matches(".rs");
    // Modules from the root to this one: `a.rs` and `a/mod.rs` are one level down, `a/b.rs` is two.
    let depth = path.split('/').filter(|part| !["lib", "main", "mod"].contains(part)).count();
    let mut inline: Vec<bool> = Vec::new();
    let mut all = Vec::new();
    let mut i = 0;
    while i < source.tokens.len() {
        match source.token(i) {
            "{" => inline.push(i >= 2 && source.token(i - 2) == "mod"),
            "}" => drop(inline.pop()),
            word @ ("crate" | "super") if source.token(i + 1) == "::" => {
                let mut levels = if word == "crate" { usize::MAX } else { 1 };
                while levels != usize::MAX && source.token(i + 2) == "super" && source.token(i + 3) == "::" {
                    levels += 1;
                    i += 2;
                }
                if levels >= depth + inline.iter().filter(|is_module| **is_module).count() {
                    first_names(source, i + 2, &mut all);
                }
            }
            _ => {}
        }
        i += 1;
    }
    all
}

/// The name at token `i`, or the first names of the paths in the braces that open there.
fn first_names(source: &Source, i: usize, all: &mut Vec<(usize, String)>) {
    let mut name = |i: usize| all.push((source.tokens[i].0 + 1, source.token(i).to_owned()));
    if source.token(i) != "{" {
        return name(i);
    }
    let mut depth = 0;
    for j in i..source.tokens.len() {
        match source.token(j) {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return;
        }
        if depth == 1 && (j == i || source.token(j) == ",") && !["}", "{"].contains(&source.token(j + 1)) {
            name(j + 1);
        }
    }
}

/// Modules that `module` may import.
fn allowed(module: &str) -> BTreeSet<&'static str> {
    let mut all: BTreeSet<&str> = ANYONE.iter().copied().collect();
    let mut next = vec![module];
    while let Some(name) = next.pop() {
        if let Some((name, direct)) = MODULES.iter().find(|(m, _)| *m == name)
            && all.insert(name)
        {
            next.extend(*direct);
        }
    }
    all
}

/// Names that the root re-exports, and the module that each is from.
fn reexports(lib: &Source) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for i in (0..lib.tokens.len()).filter(|&i| lib.token(i) == "use" && lib.token(i + 2) == "::") {
        let mut names = Vec::new();
        first_names(lib, i + 3, &mut names);
        all.extend(names.into_iter().map(|(_, name)| (name, lib.token(i + 1).to_owned())));
    }
    all
}

/// What a file imports and may not.
fn wrong_imports(source: &Source, reexports: &BTreeMap<String, String>) -> Vec<String> {
    let Some(path) = source.in_module() else { return Vec::new() };
    let module = path.split('/').next().unwrap_or(path).trim_end_matches(".rs");
    if !ANYONE.contains(&module) && !MODULES.iter().any(|(name, _)| *name == module) {
        return vec![format!("{}: the module {module} is not in the table", source.path)];
    }
    let mut allowed = allowed(module);
    allowed.extend(EXCEPTIONS.iter().filter(|(file, _)| *file == path).map(|(_, module)| *module));
    let target = |name: String| reexports.get(&name).cloned().unwrap_or(name);
    let resolved = imports(source).into_iter().map(|(line, name)| (line, target(name)));
    resolved
        .filter(|(_, target)| !allowed.contains(target.as_str()))
        .map(|(line, target)| format!("{}:{line}: {module} imports {target}", source.path))
        .collect()
}

/// Code that is not finished, and tests that do not run.
const FORBIDDEN: &[&str] =
    &["todo !", "unimplemented !", "# [ ignore", "unreachable_unchecked (", "dbg !", "include ! ("];

fn forbidden(source: &Source) -> Vec<String> {
    let found = FORBIDDEN.iter().flat_map(|what| source.find(what).into_iter().map(move |line| (line, what)));
    found.map(|(line, what)| format!("{}:{line}: {}", source.path, what.replace(' ', ""))).collect()
}

/// Lines with `unsafe` that have no `// SAFETY:` in the comments and attributes right above them.
fn unexplained(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
    let is_above = |line: &&&str| line.starts_with("//") || line.starts_with("#[");
    source
        .find("unsafe")
        .into_iter()
        .filter(|line| {
            let mut above = lines[..line - 1].iter().rev().take_while(is_above);
            !above.any(|line| line.starts_with("// SAFETY:"))
        })
        .map(|line| format!("{}:{line}: unsafe without a // SAFETY: above it", source.path))
        .collect()
}

/// Every Rust file of the package.
fn sources() -> Vec<Source> {
    fn walk(root: &Path, dir: &Path, all: &mut Vec<Source>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                walk(root, &path, all);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                all.push(Source::new(&name, &std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    for dir in
        ["src", "tests", "benches", "examples"].map(|dir| root.join(dir)).iter().filter(|dir| dir.is_dir())
    {
        walk(root, dir, &mut all);
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

fn assert_none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn imports_go_one_way() {
    let sources = sources();
    let lib = sources.iter().find(|s| s.path == "src/lib.rs").unwrap();
    let reexports = reexports(lib);
    assert!(reexports.contains_key("Scheme") && reexports.contains_key("Error"), "{reexports:?}");
    let files = sources.iter().filter(|s| s.in_module().is_some());
    let paths: usize = files.map(|s| imports(s).len()).sum();
    println!("{paths} paths from the crate's root");
    assert!(paths > 100, "the reader of imports has gone blind");
    assert_none(sources.iter().flat_map(|s| wrong_imports(s, &reexports)).collect());
    // The binary calls the command line and knows its error, nothing else.
    let main = sources.iter().find(|s| s.path == "src/main.rs").unwrap();
    for i in (0..main.tokens.len()).filter(|&i| main.token(i) == "lowbit" && main.token(i + 1) == "::") {
        let mut names = Vec::new();
        first_names(main, i + 2, &mut names);
        for (line, name) in names {
            assert!(
                ["cli", "error", "Error", "Result"].contains(&name.as_str()),
                "src/main.rs:{line}: {name}"
            );
        }
    }
}

#[test]
fn the_table_has_no_cycle_and_says_what_it_means() {
    for (module, direct) in MODULES {
        for import in *direct {
            assert!(!allowed(import).contains(module), "{module} <-> {import}");
        }
        assert!(!ANYONE.contains(module));
        assert!(!direct.contains(&"cli") && !direct.contains(&"web"), "{module}");
    }
    let none = |module: &str, others: &[&str]| {
        let all = allowed(module);
        assert!(others.iter().all(|other| !all.contains(other)), "{module}: {all:?}");
    };
    none("gpu", &["scheme", "packed", "kernels"]);
    none("file", &["gpu", "kernels", "engine"]);
    none("reference", &["gpu", "kernels", "cpu"]);
    none("cpu", &["gpu", "kernels", "reference"]);
    none("kernels", &["cpu", "reference", "engine"]);
}

#[test]
fn the_reference_reads_the_planes_by_itself() {
    let sources = sources();
    let layout = sources.iter().find(|s| s.path == "src/scheme/layout.rs").unwrap();
    let free =
        layout.text.lines().filter(|line| line.starts_with("pub fn ") || line.starts_with("pub const fn "));
    let helpers: Vec<&str> =
        free.filter_map(|line| line.split("fn ").nth(1)?.split(['(', '<']).next()).collect();
    assert!(!helpers.is_empty(), "no helpers found in src/scheme/layout.rs");
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|s| s.path.starts_with("src/reference")) {
        for what in helpers.iter().copied().chain(["scheme :: layout"]) {
            wrong.extend(source.find(what).iter().map(|line| format!("{}:{line}: {what}", source.path)));
        }
    }
    assert_none(wrong);
}

/// One stem, three places. `quantize_scales`, `quantize_search` and `quantize_codes` are passes of one operation and share the file of the part up to
/// the underscore.
#[cfg(feature = "gpu")]
#[test]
fn every_kernel_has_its_three_files() {
    use lowbit::kernels::{KERNELS, Operation};
    let sources = sources();
    let source = |path: &str| sources.iter().find(|s| s.path == path);
    let mut names = BTreeSet::new();
    for kernel in KERNELS {
        let name = kernel.name;
        assert!(names.insert(name), "two rows are called {name}");
        let stem = name.split('_').next().unwrap_or(name);
        let [own, shared] = [name, stem].map(|stem| source(&format!("src/kernels/{stem}.rs")));
        let host = own.or(shared).unwrap_or_else(|| panic!("no src/kernels/{name}.rs"));
        let constant = format!("const KERNEL: &'static str = \"{name}\";");
        assert!(host.text.contains(&constant), "{}: {constant} is not there", host.path);
        let template = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("shaders/kernel/{name}.wgsl"));
        assert!(template.is_file(), "no {}", template.display());
        let (file, reference) = match kernel.operation {
            Operation::Dequantize { .. } => ("dequantize", "dequantize"),
            Operation::Product { .. } => ("matmul", "matmul"),
            Operation::Quantize { .. } => ("quantize", "quantize"),
            Operation::Int8Rows { .. } => ("matmul", "int8"),
            Operation::Int8Values { .. } => ("matmul", "int8_values"),
            Operation::Embed { .. } => ("embed", "embed"),
            Operation::LayerNorm { .. } => ("layer_norm", "layer_norm"),
            Operation::Attention { .. } => ("attention", "attention"),
            Operation::MeanPool { .. } => ("mean_pool", "mean_pool"),
            Operation::Gram { .. } => ("gram", "gram"),
            Operation::Histogram { .. } => ("histogram", "histogram"),
            Operation::Transform { .. } => ("transform", "transform"),
            Operation::Normalize { .. } => ("normalize", "normalize"),
            Operation::KvStore { .. } | Operation::KvPack { .. } => ("kv", "cache"),
            Operation::KvAttention { .. } => ("kv", "attention"),
            Operation::Dense { .. } => ("dense", "dense"),
            Operation::FakeQuantize { .. } => ("fake_quantize", "fake_quantize"),
            Operation::StepGradient { .. } => ("fake_quantize", "step_gradient"),
            Operation::Activate { .. } => ("activate", "activate"),
            Operation::CrossEntropy { .. } => ("cross_entropy", "cross_entropy"),
            Operation::Update { .. } => ("update", "update"),
            // One function of the crate `half`.
            Operation::Convert { .. } => continue,
        };
        let file =
            source(&format!("src/reference/{file}.rs")).unwrap_or_else(|| panic!("no reference/{file}.rs"));
        assert!(!file.find(&format!("pub fn {reference}")).is_empty(), "{}: no {reference}", file.path);
    }
    println!("{} kernels", names.len());
}

#[test]
fn nothing_is_unfinished_or_unexplained() {
    let sources = sources();
    let lines: usize = sources.iter().map(|s| s.text.lines().count()).sum();
    let n_unsafe: usize = sources.iter().map(|s| s.find("unsafe").len()).sum();
    println!("{} files, {lines} lines, {n_unsafe} times unsafe", sources.len());
    for source in sources.iter().filter(|s| s.path.starts_with("src") && s.text.lines().count() > LONG) {
        println!("long: {} has {} lines", source.path, source.text.lines().count());
    }
    for source in sources.iter().filter(|s| s.path.starts_with("src")) {
        assert!(source.text.starts_with("//!"), "{} does not say what it is", source.path);
    }
    assert_none(sources.iter().flat_map(|s| [forbidden(s), unexplained(s)].concat()).collect());
}

#[test]
fn tokens_leave_out_comments_and_literals() {
    let text = "a::b // crate::x\n/* crate::y /* */ \n */ \"crate::z \\\" todo!()\" r#\"unsafe \" {\"# 'c' '\\'' &'a str b'{' br\"}\" '\\u{7b}' é_1";
    let words: Vec<_> = tokens(text).into_iter().map(|(line, word)| format!("{line}:{word}")).collect();
    assert_eq!(words, ["0:a", "0:::", "0:b", "2:&", "2:'", "2:a", "2:str", "2:b", "2:é_1"]);
}

#[test]
fn wrong_imports_are_found() {
    let lib =
        Source::new("src/lib.rs", "pub mod cpu;\npub use error::{Error, Result};\npub use engine::Engine;");
    let reexports = reexports(&lib);
    let wrong = |path: &str, text: &str| wrong_imports(&Source::new(path, text), &reexports);
    for (path, text) in [
        ("src/gpu/device.rs", "use crate::scheme::Scheme;"),
        ("src/gpu/device.rs", "fn f(p: &crate::packed::PackedTensor) {}"),
        ("src/file/a.rs", "use crate::{Error,\n error::Result, engine::{Engine, Array}};"),
        ("src/file/a.rs", "use crate::Engine;"),
        ("src/reference/mod.rs", "use super::cpu;"),
        ("src/reference/a.rs", "use super::super::cpu;"),
        ("src/reference/a.rs", "mod tests { use super::super::super::{cpu}; }"),
        ("src/cpu/a.rs", "mod tests {\n use crate::reference; }"),
        ("src/kernels/matvec.rs", "use crate::reference::matmul;"),
        ("src/engine.rs", "pub(in crate::cli) fn f() {}"),
        ("src/engine.rs", "use crate::*;"),
        ("src/error.rs", "use crate::scheme::Scheme;"),
        ("src/helpers.rs", ""),
    ] {
        assert_eq!(wrong(path, text).len(), 1, "{path}: {text}: {:?}", wrong(path, text));
    }
    for (path, text) in [
        ("src/kernels/mod.rs", "use crate::{reference::{self, matmul::Added}, Result};"),
        ("src/reference/a.rs", "use super::cpu; mod tests { use super::super::cpu; }"),
        ("src/cpu/a.rs", "// use crate::gpu;\nconst S: &str = \"crate::gpu\"; use crate::packed;"),
        ("src/cli/a.rs", "use crate::{engine, Engine, kernels::KERNELS, selftest};"),
    ] {
        assert_eq!(wrong(path, text), [""; 0], "{path}: {text}");
    }
}

#[test]
fn unfinished_and_unexplained_code_is_found() {
    let source = |text: &str| Source::new("src/a.rs", text);
    for text in ["fn f() { todo!() }", "unimplemented! {}", "#[ignore]\nfn f() {}", "#[ignore = \"slow\"]"] {
        assert_eq!(forbidden(&source(text)).len(), 1, "{text}");
    }
    assert_eq!(forbidden(&source("// todo!()\nlet s = \"unimplemented!()\"; ignore(todo);")), [""; 0]);
    let good = "// SAFETY: checked above,\n// twice.\n#[allow(unsafe_code)]\nlet x = unsafe { y };";
    assert_eq!(unexplained(&source(good)), [""; 0]);
    for text in [
        "unsafe {}",
        "// SAFETY: long ago\n\nunsafe {}",
        "// Safe.\nunsafe {}",
        "#[allow(unsafe_code)]\nunsafe fn f() {}",
    ] {
        assert_eq!(unexplained(&source(text)).len(), 1, "{text}");
    }
}
