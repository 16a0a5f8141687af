//! Every generated shader, without a device: what it declares against what it is, and what compilers make of it.
//!
//! ```text
//! KERNELS x samples() x Tier::ALL --> texts --(the same text once)--> CHECKS, on every core
//!   device         parses and validates in naga with exactly the features of `needs`, each of which it cannot do without
//!   bindings       the uniform at 0, `storage` at 1.., at most six
//!   uniform        `Params` has the members and the size of the host's struct
//!   limits         workgroup size and memory within WebGPU's defaults
//!   msl, hlsl      naga's back ends write them, as wgpu calls them
//!   spirv          naga writes it as wgpu calls it, and spirv-val accepts it
//! ```
//!
//! spirv-val is a process per module: by default it judges texts until every line of every kernel has been judged, with
//! LOWBIT_FULL=1 all of them, but for those with cooperative matrices, which Debian 12's does not know (RADV compiles them:
//! `scripts/check-shader-cost.sh`). Where it is missing the run says so, and fails under CI. Each check has a test that plants what it must find.
//! Not here: whether barriers are reached by all (naga does not ask; Tint does, in `scripts/check-tint.sh`), and whether a shader computes
//! the right thing (`tests/differential.rs`).
#![cfg(feature = "gpu")]

mod common;

use lowbit::Scheme;
use lowbit::gpu::{Access, template::SHADERS};
use lowbit::kernels::{KERNELS, Shader, Tier, Uniform};
use lowbit::scheme::preset::samples;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, ScalarKind, StorageAccess, TypeInner};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Instant;

/// Storage bindings of a kernel at most: WebGPU's default of eight less room for two more.
const MAX_STORAGE: usize = 6;
/// WebGPU's default limits.
const MAX_INVOCATIONS: u32 = 256;
const MAX_WORKGROUP_BYTES: u32 = 16384;
/// What every device with cooperative matrices has.
const MAX_COOP_WORKGROUP_BYTES: u32 = 32768;

/// A shader after naga's front end.
struct Parsed<'a> {
    shader: &'a Shader,
    module: naga::Module,
    info: ModuleInfo,
}

type Check = fn(&Parsed) -> Result<(), String>;
const CHECKS: &[(&str, Check)] = &[
    ("bindings", check_bindings),
    ("uniform", check_uniform),
    ("limits", check_limits),
    ("msl", check_msl),
    ("hlsl", check_hlsl),
];

/// A text and the scheme that it was first generated for.
struct Text {
    shader: Shader,
    scheme: Scheme,
}

struct Generated {
    /// How many shaders there were.
    total: usize,
    /// Each text once.
    texts: Vec<Text>,
    /// Rows of the table whose shaders contradict it or each other.
    wrong: Vec<String>,
}

static GENERATED: LazyLock<Generated> = LazyLock::new(|| {
    let schemes = samples();
    let mut jobs = Vec::new();
    for kernel in KERNELS {
        for scheme in schemes.iter().filter(|s| (kernel.takes)(s)) {
            let tiers = Tier::ALL.into_iter().filter(|tier| (kernel.runs)(*tier));
            jobs.extend(tiers.map(|tier| (kernel, *scheme, tier)));
        }
    }
    let rendered = parallel(&jobs, |(kernel, scheme, tier)| (kernel.shaders)(scheme, *tier));
    let mut all = Generated { total: 0, texts: Vec::new(), wrong: Vec::new() };
    let mut before = Before::default();
    for ((kernel, scheme, tier), shaders) in jobs.into_iter().zip(rendered) {
        let row = format!("{} {scheme} {tier}", kernel.name);
        let shaders = shaders.unwrap_or_else(|error| panic!("{row}: {error}"));
        if shaders.is_empty() {
            all.wrong.push(format!("{row}: taken, but there is no shader"));
        }
        for shader in shaders {
            all.total += 1;
            match before.check(&shader, kernel.name, tier) {
                Ok(true) => all.texts.push(Text { shader, scheme }),
                Ok(false) => {}
                Err(error) => all.wrong.push(format!("{row}: {error}")),
            }
        }
    }
    all
});

/// What is known of the shaders so far: the declarations of each text, the text of each key.
#[derive(Default)]
struct Before {
    texts: HashMap<String, (&'static str, Tier, Vec<Access>, Uniform)>,
    keys: HashMap<(&'static str, String), String>,
}

impl Before {
    /// Whether the text is new, or what is wrong with a shader of the row `kernel` generated for `tier`.
    fn check(&mut self, shader: &Shader, kernel: &str, tier: Tier) -> Result<bool, String> {
        let needs = shader.needs;
        if shader.kernel != kernel {
            return Err(format!("calls itself {}", shader.kernel));
        }
        let missing = |needed: u32, there: u32| needed != 0 && needed != there;
        if needs.f16 && !tier.f16 || missing(needs.subgroup, tier.subgroup) || missing(needs.coop, tier.coop)
        {
            return Err(format!("needs {needs}"));
        }
        // The cache of pipelines goes by name and key.
        let key = (shader.kernel, shader.key.clone());
        if *self.keys.entry(key).or_insert_with(|| shader.wgsl.clone()) != shader.wgsl {
            return Err(format!("a second text for the key {}", shader.key));
        }
        let declared = (shader.kernel, needs, shader.storage.clone(), shader.params.clone());
        match self.texts.entry(shader.wgsl.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(declared);
                Ok(true)
            }
            Entry::Occupied(entry) if *entry.get() == declared => Ok(false),
            Entry::Occupied(entry) => {
                Err(format!("declares {declared:?}, and {:?} for the same text", entry.get()))
            }
        }
    }
}

/// `f` of every item, in order, on every core.
fn parallel<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let i @ 0.. = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(item) = items.get(i)
                {
                    let result = f(item);
                    done.lock().unwrap().push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

/// What wgpu allows naga on a device with the features of `tier`. `unpack2x16float` is part of plain WebGPU.
fn capabilities(tier: Tier) -> Capabilities {
    let mut all = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    all.set(Capabilities::SHADER_FLOAT16, tier.f16);
    all.set(Capabilities::SUBGROUP, tier.subgroup > 0 || tier.coop > 0);
    all.set(Capabilities::COOPERATIVE_MATRIX, tier.coop > 0);
    all
}

fn front_end(wgsl: &str, tier: Tier) -> Result<(naga::Module, ModuleInfo), String> {
    let capabilities = capabilities(tier);
    let options = naga::front::wgsl::Options { parse_doc_comments: false, capabilities };
    let module = naga::front::wgsl::Frontend::new_with_options(options)
        .parse(wgsl)
        .map_err(|error| error.emit_to_string(wgsl))?;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .map_err(|error| error.emit_to_string(wgsl))?;
    Ok((module, info))
}

/// Parses with what the shader needs, and makes sure that it needs it.
fn check_device(shader: &Shader) -> Result<Parsed<'_>, String> {
    let needs = shader.needs;
    let (module, info) = front_end(&shader.wgsl, needs)?;
    if needs.f16 && front_end(&shader.wgsl.replace("enable f16;", ""), needs).is_ok() {
        return Err("declares f16 and uses none".into());
    }
    if needs.f16 && front_end(&shader.wgsl, Tier { f16: false, ..needs }).is_ok() {
        return Err("declares f16 and passes without".into());
    }
    // Where there are matrices there are subgroups, if of no fixed size.
    if needs.subgroup > 0 && needs.coop == 0 && front_end(&shader.wgsl, Tier { subgroup: 0, ..needs }).is_ok()
    {
        return Err("declares subgroups and passes without".into());
    }
    if needs.coop > 0 && front_end(&shader.wgsl, Tier { coop: 0, ..needs }).is_ok() {
        return Err("declares cooperative matrices and passes without".into());
    }
    Ok(Parsed { shader, module, info })
}

fn check_bindings(parsed: &Parsed) -> Result<(), String> {
    let mut found = BTreeMap::new();
    for (_, global) in parsed.module.global_variables.iter() {
        let Some(at) = &global.binding else { continue };
        let name = global.name.as_deref().unwrap_or("?");
        if at.group != 0 || found.insert(at.binding, global.space).is_some() {
            return Err(format!("{name} at group {} binding {}", at.group, at.binding));
        }
    }
    let read_write = StorageAccess::LOAD | StorageAccess::STORE;
    let storage = parsed.shader.storage.iter().map(|access| match access {
        Access::Read => AddressSpace::Storage { access: StorageAccess::LOAD },
        Access::ReadWrite => AddressSpace::Storage { access: read_write },
    });
    let declared: BTreeMap<u32, _> =
        (0..).zip(std::iter::once(AddressSpace::Uniform).chain(storage)).collect();
    if found != declared {
        return Err(format!("declares {declared:?}, has {found:?}"));
    }
    if declared.len() - 1 > MAX_STORAGE {
        return Err(format!("{} storage bindings, {MAX_STORAGE} at most", declared.len() - 1));
    }
    Ok(())
}

/// Names and kinds of the members in the `Debug` of a struct of numbers; those of structs inside it in place.
fn members(debug: &str) -> Vec<(&str, ScalarKind)> {
    let pairs = debug.split(['{', '}', ',']).filter_map(|piece| piece.split_once(": "));
    pairs
        .filter(|(_, value)| value.starts_with(|c: char| c.is_ascii_digit()))
        .map(|(name, value)| {
            (name.trim(), if value.contains('.') { ScalarKind::Float } else { ScalarKind::Uint })
        })
        .collect()
}

fn check_uniform(parsed: &Parsed) -> Result<(), String> {
    let module = &parsed.module;
    let mut uniforms = module.global_variables.iter().filter(|(_, g)| g.space == AddressSpace::Uniform);
    let (_, global) = uniforms.next().ok_or("no uniform")?;
    let TypeInner::Struct { members: found, span } = &module.types[global.ty].inner else {
        return Err("the uniform is no struct".into());
    };
    let mut scalars = Vec::new();
    for (i, member) in found.iter().enumerate() {
        let name = member.name.as_deref().unwrap_or("?");
        match module.types[member.ty].inner {
            // Rust lays four-byte numbers out one after the other.
            TypeInner::Scalar(scalar) if scalar.width == 4 && member.offset as usize == 4 * i => {
                scalars.push((name, scalar.kind));
            }
            _ => return Err(format!("{name} at {}: not the number at {}", member.offset, 4 * i)),
        }
    }
    let host = &parsed.shader.params;
    if scalars != members(&host.members) || *span as usize != host.size {
        return Err(format!("shader {scalars:?}, {span} bytes; host {}, {} bytes", host.members, host.size));
    }
    Ok(())
}

fn check_limits(parsed: &Parsed) -> Result<(), String> {
    let module = &parsed.module;
    let [entry] = module.entry_points.as_slice() else {
        return Err(format!("{} entry points", module.entry_points.len()));
    };
    if entry.name != "main" || entry.stage != naga::ShaderStage::Compute {
        return Err(format!("entry point {} of stage {:?}", entry.name, entry.stage));
    }
    let invocations: u32 = entry.workgroup_size.iter().product();
    if invocations > MAX_INVOCATIONS {
        return Err(format!("{invocations} invocations, {MAX_INVOCATIONS} at most"));
    }
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).map_err(|error| error.to_string())?;
    let bytes: u32 = module
        .global_variables
        .iter()
        .filter(|(_, global)| global.space == AddressSpace::WorkGroup)
        .map(|(_, global)| layouter[global.ty].size.next_multiple_of(16))
        .sum();
    let most = if parsed.shader.needs.coop > 0 { MAX_COOP_WORKGROUP_BYTES } else { MAX_WORKGROUP_BYTES };
    if bytes > most {
        return Err(format!("{bytes} bytes of workgroup memory, {most} at most"));
    }
    Ok(())
}

/// wgpu's checks and limits in the code, all on or all off (`ShaderRuntimeChecks::unchecked`).
fn policies(checked: bool) -> naga::proc::BoundsCheckPolicies {
    use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy::*};
    let policy = if checked { Restrict } else { Unchecked };
    BoundsCheckPolicies { index: policy, buffer: policy, image_load: policy, binding_array: Unchecked }
}

/// Apple's shading language of macOS 12 on, whose matrices are of 8 x 8.
fn check_msl(parsed: &Parsed) -> Result<(), String> {
    use naga::back::msl;
    if parsed.shader.needs.coop > 8 {
        return Ok(());
    }
    for checked in [true, false] {
        let mut resources = msl::EntryPointResources::default();
        for (slot, access) in (0..).zip(std::iter::once(&Access::Read).chain(&parsed.shader.storage)) {
            let at = naga::ResourceBinding { group: 0, binding: slot };
            let mutable = *access == Access::ReadWrite;
            let target = msl::BindTarget { buffer: Some(slot as u8), mutable, ..Default::default() };
            resources.resources.insert(at, target);
        }
        resources.sizes_buffer = Some(parsed.shader.storage.len() as u8 + 1);
        let options = msl::Options {
            lang_version: (2, 4),
            per_entry_point_map: [("main".to_owned(), resources)].into(),
            fake_missing_bindings: false,
            bounds_check_policies: policies(checked),
            zero_initialize_workgroup_memory: checked,
            force_loop_bounding: checked,
            emit_int_div_checks: checked,
            ..Default::default()
        };
        let pipeline = msl::PipelineOptions {
            entry_point: Some((naga::ShaderStage::Compute, "main".into())),
            ..Default::default()
        };
        let (text, info) = msl::write_string(&parsed.module, &parsed.info, &options, &pipeline)
            .map_err(|error| error.to_string())?;
        let names = info.entry_point_names.into_iter().collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|error| error.to_string())?;
        if !matches!(names.as_slice(), [name] if text.contains(&format!("kernel void {name}("))) {
            return Err(format!("entry points {names:?}"));
        }
    }
    Ok(())
}

/// Direct3D 12: the oldest shader model wgpu uses where the shader needs nothing, else the first with f16. It has no matrices.
fn check_hlsl(parsed: &Parsed) -> Result<(), String> {
    use naga::back::hlsl;
    if parsed.shader.needs.coop > 0 {
        return Ok(());
    }
    let plain = parsed.shader.needs == Tier::PORTABLE;
    for checked in [true, false] {
        let mut options = hlsl::Options {
            shader_model: if plain { hlsl::ShaderModel::V5_1 } else { hlsl::ShaderModel::V6_2 },
            fake_missing_bindings: false,
            restrict_indexing: checked,
            zero_initialize_workgroup_memory: checked,
            force_loop_bounding: checked,
            ..Default::default()
        };
        let (mut b, mut t, mut u) = (0.., 0.., 0..);
        let mut bind = |binding, registers: &mut std::ops::RangeFrom<u32>| {
            let register = registers.next().unwrap();
            let target = hlsl::BindTarget { register, restrict_indexing: true, ..Default::default() };
            options.binding_map.insert(naga::ResourceBinding { group: 0, binding }, target);
        };
        bind(0, &mut b);
        for (binding, access) in (1..).zip(&parsed.shader.storage) {
            bind(binding, if *access == Access::Read { &mut t } else { &mut u });
        }
        let pipeline =
            hlsl::PipelineOptions { entry_point: Some((naga::ShaderStage::Compute, "main".into())) };
        let mut text = String::new();
        let written = hlsl::Writer::new(&mut text, &options, &pipeline)
            .write(&parsed.module, &parsed.info, None)
            .map_err(|error| error.to_string())?;
        let names = written.entry_point_names.into_iter().collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|error| error.to_string())?;
        if !matches!(names.as_slice(), [name] if text.contains(&format!("void {name}("))) {
            return Err(format!("entry points {names:?}"));
        }
    }
    Ok(())
}

/// What wgpu asks of naga on Vulkan: SPIR-V 1.3 on Vulkan 1.1, 1.6 on 1.3; the capabilities of its features; checks on or off.
const VULKAN: [((u8, u8), &str, bool); 4] = [
    ((1, 3), "vulkan1.1", true),
    ((1, 6), "vulkan1.3", false),
    ((1, 3), "vulkan1.1", false),
    ((1, 6), "vulkan1.3", true),
];

fn spirv(parsed: &Parsed, lang_version: (u8, u8), checked: bool) -> Result<Vec<u32>, String> {
    use naga::back::spv::{self, Capability::*, ZeroInitializeWorkgroupMemoryMode as Zero};
    let mut capabilities = vec![Shader, Matrix];
    if parsed.shader.needs.f16 {
        capabilities.push(Float16);
    }
    if parsed.shader.needs.subgroup > 0 || parsed.shader.needs.coop > 0 {
        capabilities.extend([
            GroupNonUniform,
            GroupNonUniformVote,
            GroupNonUniformArithmetic,
            GroupNonUniformBallot,
            GroupNonUniformShuffle,
            GroupNonUniformShuffleRelative,
            GroupNonUniformQuad,
        ]);
    }
    if parsed.shader.needs.coop > 0 {
        capabilities.extend([CooperativeMatrixKHR, VulkanMemoryModel]);
    }
    let options = spv::Options {
        lang_version,
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        capabilities: Some(capabilities.into_iter().collect()),
        bounds_check_policies: policies(checked),
        zero_initialize_workgroup_memory: if checked { Zero::Native } else { Zero::None },
        force_loop_bounding: checked,
        emit_int_div_checks: checked,
        ..Default::default()
    };
    let pipeline =
        spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".into() };
    spv::write_vec(&parsed.module, &parsed.info, &options, Some(&pipeline)).map_err(|error| error.to_string())
}

/// Debian's validator, on a module in its standard input.
fn spirv_val(words: &[u32], environment: &str) -> Result<(), String> {
    let mut child = Command::new("spirv-val")
        .args(["--target-env", environment, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("spirv-val: {error}"))?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    // A validator that stops reading early has more to say on its standard error.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(&bytes));
    let output = child.wait_with_output().map_err(|error| format!("spirv-val: {error}"))?;
    match (output.status.success(), written) {
        (true, Some(Ok(()))) => Ok(()),
        _ => Err(format!("spirv-val: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

static SPIRV_VAL: LazyLock<bool> = LazyLock::new(|| {
    let found = Command::new("spirv-val").arg("--version").output().is_ok_and(|o| o.status.success());
    assert!(found || !common::under_ci(), "spirv-val is missing: install spirv-tools");
    if !found {
        println!("spirv-val is MISSING (package spirv-tools): no SPIR-V was judged");
    }
    found
});

/// Every check of one shader; with `judge` its SPIR-V goes to spirv-val. Returns what failed and why.
fn check_all(shader: &Shader, judge: bool) -> Vec<(&'static str, String)> {
    let parsed = match check_device(shader) {
        Ok(parsed) => parsed,
        Err(error) => return vec![("device", error)],
    };
    let checks = CHECKS.iter().map(|(name, check)| (*name, check(&parsed)));
    // Matrices are no part of Vulkan 1.1.
    let versions = VULKAN.iter().filter(|(version, ..)| shader.needs.coop == 0 || *version >= (1, 6));
    let spirv = versions.map(|&(version, environment, checked)| {
        let words = spirv(&parsed, version, checked);
        ("spirv", words.and_then(|words| if judge { spirv_val(&words, environment) } else { Ok(()) }))
    });
    checks.chain(spirv).filter_map(|(name, result)| result.err().map(|error| (name, error))).collect()
}

/// Which texts spirv-val gets: those with a line that no text of their kernel before them had, and the first one of each kernel,
/// scheme and set of needs; none with cooperative matrices.
fn judged(texts: &[Text]) -> Vec<bool> {
    let mut seen = HashSet::new();
    let mut first = HashSet::new();
    let mut is_new = |Text { shader, scheme }: &Text| {
        let lines = shader.wgsl.lines().filter(|line| seen.insert((shader.kernel, line.trim().to_owned())));
        lines.count() > 0 || first.insert((shader.kernel, *scheme, shader.needs))
    };
    texts.iter().map(|text| text.shader.needs.coop == 0 && is_new(text)).collect()
}

#[test]
fn every_shader_is_what_it_declares_and_translates() {
    let start = Instant::now();
    let Generated { total, texts, wrong } = &*GENERATED;
    println!("{total} shaders generated, {} distinct texts, {:.1?}", texts.len(), start.elapsed());
    assert!(wrong.is_empty(), "{} wrong rows:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));

    let full = std::env::var("LOWBIT_FULL").is_ok_and(|v| v == "1");
    let wanted = |(text, new): (&Text, bool)| *SPIRV_VAL && text.shader.needs.coop == 0 && (new || full);
    let jobs: Vec<_> = texts.iter().zip(texts.iter().zip(judged(texts)).map(wanted)).collect();
    let failures = parallel(&jobs, |(text, judge)| check_all(&text.shader, *judge));
    let mut by_check: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    for (Text { shader, .. }, errors) in texts.iter().zip(failures) {
        *counts.entry((shader.kernel, shader.needs)).or_default() += 1;
        for (name, error) in errors {
            by_check.entry(name).or_default().push(format!("{} {}\n{error}", shader.kernel, shader.key));
        }
    }
    for ((kernel, needs), n) in counts {
        println!("  {kernel:16} {needs:16} {n:5}", needs = needs.to_string());
    }
    let judged = jobs.iter().filter(|(_, judge)| *judge).count();
    println!(
        "naga: {n} texts validated, written as MSL and HLSL ({n} x 2) and SPIR-V ({n} x {v}); spirv-val: {judged} x {v} modules of \
         {n} x {v}{hint}; {time:.1?}",
        n = texts.len(),
        v = VULKAN.len(),
        hint = if full { "" } else { " (all with LOWBIT_FULL=1)" },
        time = start.elapsed()
    );
    for (name, errors) in &by_check {
        println!(
            "== {name}: {} texts fail; the first:\n{}",
            errors.len(),
            errors[..errors.len().min(3)].join("\n")
        );
    }
    let counts: Vec<_> = by_check.iter().map(|(name, errors)| (name, errors.len())).collect();
    assert!(counts.is_empty(), "{counts:?}");
}

/// The files that `name` includes, and those that they include, with `name`.
fn includes(name: &str, all: &mut BTreeSet<&'static str>) {
    let Some((name, text)) = SHADERS.iter().find(|(file, _)| *file == name) else {
        panic!("{name} is included and does not exist")
    };
    if all.insert(name) {
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("//% include \"")) {
            includes(line.trim_end_matches('"'), all);
        }
    }
}

/// Whether a template's line may have become part of one of `lines`: its text around expressions, in order.
fn emitted(line: &str, lines: &HashSet<&str>) -> bool {
    let pieces: Vec<&str> = line
        .split("{{")
        .enumerate()
        .map(|(i, piece)| if i == 0 { piece } else { piece.split_once("}}").map_or(piece, |(_, rest)| rest) })
        .collect();
    let contains = |text: &&str| {
        let mut rest = *text;
        pieces.iter().all(|piece| rest.find(piece).map(|at| rest = &rest[at + piece.len()..]).is_some())
    };
    lines.contains(line) || lines.iter().any(contains)
}

/// Lines of WGSL in `text` that no shader has. Statements of the template are no lines of WGSL.
fn dead_lines<'a>(text: &'a str, lines: &HashSet<&str>) -> Vec<&'a str> {
    let wgsl = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    wgsl.filter(|line| !emitted(line, lines)).collect()
}

#[test]
fn every_line_of_every_template_is_in_a_shader() {
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for kernel in KERNELS {
        let mut files = BTreeSet::new();
        includes(&format!("kernel/{}.wgsl", kernel.name), &mut files);
        files.into_iter().for_each(|file| users.entry(file).or_default().push(kernel.name));
    }
    let mut dead = Vec::new();
    for (name, text) in SHADERS {
        // What browsers without packed dot products have appended to every text that uses them.
        if *name == "lib/packed.wgsl" {
            continue;
        }
        let kernels = users.get(name).unwrap_or_else(|| panic!("no kernel uses shaders/{name}"));
        let texts = GENERATED.texts.iter().filter(|text| kernels.contains(&text.shader.kernel));
        let lines: HashSet<&str> = texts.flat_map(|text| text.shader.wgsl.lines().map(str::trim)).collect();
        dead.extend(dead_lines(text, &lines).into_iter().map(|line| format!("shaders/{name}: {line}")));
    }
    let lines: usize = SHADERS.iter().map(|(_, text)| text.lines().count()).sum();
    println!("{} templates, {lines} lines, {} kernels", SHADERS.len(), KERNELS.len());
    assert!(dead.is_empty(), "in no shader:\n{}", dead.join("\n"));
}

/// A shader of the table to break: of `kernel` for `scheme`, the first that needs exactly `needs`.
fn sample(kernel: &str, scheme: &str, needs: Tier) -> Shader {
    let scheme = scheme.parse().unwrap();
    let row = KERNELS.iter().find(|k| k.name == kernel).unwrap();
    let mut all = Tier::ALL.iter().flat_map(|tier| (row.shaders)(&scheme, *tier).unwrap());
    all.find(|shader| shader.needs == needs).unwrap()
}

/// The names of the checks that `shader` fails.
fn failed(shader: &Shader) -> Vec<&'static str> {
    let judge = *SPIRV_VAL && shader.needs.coop == 0;
    let mut names: Vec<_> = check_all(shader, judge).into_iter().map(|(name, _)| name).collect();
    names.dedup();
    names
}

/// `shader` with `from` replaced by `to` in its text, which must be there.
fn edited(shader: &Shader, from: &str, to: &str) -> Shader {
    assert!(shader.wgsl.contains(from), "{from} is not in the text");
    Shader { wgsl: shader.wgsl.replace(from, to), ..shader.clone() }
}

const F16: Tier = Tier { f16: true, subgroup: 0, coop: 0 };
const SUBGROUPS: Tier = Tier { f16: false, subgroup: 4, coop: 0 };
const BOTH: Tier = Tier { f16: true, subgroup: 8, coop: 0 };

#[test]
fn a_wrong_declaration_of_features_is_found() {
    for needs in [Tier::PORTABLE, F16, SUBGROUPS, BOTH] {
        let shader = sample("matvec", "q4_0", needs);
        assert_eq!(failed(&shader), [""; 0]);
        for declared in [Tier::PORTABLE, F16, SUBGROUPS, BOTH] {
            let is_wrong = declared.f16 != needs.f16 || (declared.subgroup > 0) != (needs.subgroup > 0);
            let found = failed(&Shader { needs: declared, ..shader.clone() });
            assert_eq!(found, ["device"][..usize::from(is_wrong)], "{needs} declared as {declared}");
        }
    }
    // A directive that nothing needs is no reason to declare it.
    let idle = sample("matvec", "q4_0", Tier::PORTABLE);
    let idle = Shader { wgsl: format!("enable f16;\n{}", idle.wgsl), needs: F16, ..idle };
    assert_eq!(failed(&idle), ["device"]);
    // What naga's validator finds, and its parser.
    let shader = sample("matmul", "int4-g32", Tier::PORTABLE);
    assert_eq!(failed(&edited(&shader, "var v = vec4<f32>();", "var v = vec4<u32>();")), ["device"]);
}

#[test]
fn a_wrong_binding_is_found() {
    let shader = sample("matvec", "q4_0", Tier::PORTABLE);
    let (read, write) = ("var<storage, read>", "var<storage, read_write>");
    for broken in [
        edited(&shader, "@binding(2)", "@binding(6)"),
        edited(&shader, "@group(0) @binding(2)", "@group(1) @binding(2)"),
        edited(&shader, &format!("{read} w4"), &format!("{write} w4")),
        Shader { storage: shader.storage.iter().map(|_| Access::Read).collect(), ..shader.clone() },
        Shader { storage: shader.storage[1..].to_vec(), ..shader.clone() },
    ] {
        assert!(failed(&broken).contains(&"bindings"), "{}", broken.wgsl);
    }
    let mut many = shader.clone();
    for binding in shader.storage.len() + 1..=MAX_STORAGE + 1 {
        assert_eq!(failed(&many), [""; 0]);
        many.wgsl += &format!("@group(0) @binding({binding}) {read} more{binding}: array<u32>;\n");
        many.storage.push(Access::Read);
    }
    assert_eq!(failed(&many), ["bindings"], "seven storage bindings");
}

#[test]
fn a_wrong_uniform_is_found() {
    for row in KERNELS {
        let scheme = samples().into_iter().find(|s| (row.takes)(s)).unwrap();
        let tier = Tier::ALL.into_iter().find(|tier| (row.runs)(*tier)).unwrap();
        let shader = (row.shaders)(&scheme, tier).unwrap().remove(0);
        assert_eq!(failed(&shader), [""; 0]);
        let longer = Shader {
            params: Uniform { size: shader.params.size + 4, ..shader.params.clone() },
            ..shader.clone()
        };
        assert_eq!(failed(&longer), ["uniform"], "{}", row.name);
        assert_eq!(failed(&edited(&shader, "struct Params {", "struct Params {\n extra: u32,")), ["uniform"]);
    }
    let shader = sample("quantize_scales", "int4-g32", Tier::PORTABLE);
    for (from, to) in [
        ("    low: u32,\n    low_stride: u32,", "    low_stride: u32,\n    low: u32,"),
        ("    inv_full: f32,\n", "    @align(16) inv_full: f32,\n"),
        ("    t_rows: u32,\n", "    t_rows: i32,\n"),
        ("    t_rows: u32,\n", "    t_rows: vec2<u32>,\n"),
    ] {
        assert!(["device", "uniform"].contains(&failed(&edited(&shader, from, to))[0]), "{to}");
    }
}

#[test]
fn what_exceeds_a_default_limit_is_found() {
    let shader = sample("matmul", "nf4-g64", Tier::PORTABLE);
    assert_eq!(failed(&edited(&shader, "@workgroup_size(256)", "@workgroup_size(257)")), ["limits"]);
    assert_eq!(failed(&edited(&shader, "@workgroup_size(256)", "@workgroup_size(2, 129)")), ["limits"]);
    assert_eq!(failed(&edited(&shader, "array<vec4<f32>, 320>", "array<vec4<f32>, 511>")), ["limits"]);
    assert_eq!(failed(&edited(&shader, "fn main(", "fn other(")), ["limits", "msl", "hlsl", "spirv"]);
}

#[test]
fn what_does_not_translate_is_found() {
    let shader = sample("convert", "f16", Tier::PORTABLE);
    let parsed = check_device(&shader).unwrap();
    // A back end that is not told of a binding.
    let fewer = Shader { storage: Vec::new(), ..shader.clone() };
    let parsed_fewer = check_device(&fewer).unwrap();
    assert!(check_hlsl(&parsed).is_ok() && check_hlsl(&parsed_fewer).is_err());
    assert!(check_msl(&parsed).is_ok() && check_msl(&parsed_fewer).is_err());
    // A capability that wgpu would not grant.
    let half = sample("matmul", "f16", F16);
    let mut parsed_half = check_device(&half).unwrap();
    assert!(spirv(&parsed_half, (1, 3), true).is_ok());
    parsed_half.shader = &shader;
    assert!(spirv(&parsed_half, (1, 3), true).is_err());
    if *SPIRV_VAL {
        let mut words = spirv(&parsed, (1, 3), true).unwrap();
        assert_eq!(spirv_val(&words, "vulkan1.1"), Ok(()));
        words[3] = 2;
        assert!(spirv_val(&words, "vulkan1.1").is_err(), "ids beyond the bound in the header");
        let newer = spirv(&parsed, (1, 6), true).unwrap();
        assert!(spirv_val(&newer, "vulkan1.1").is_err(), "SPIR-V 1.6 on Vulkan 1.1");
    }
}

#[test]
fn rows_that_contradict_each_other_are_found() {
    let shader = sample("matvec", "q4_0", F16);
    let other = Shader { wgsl: shader.wgsl.clone() + "// other\n", ..shader.clone() };
    let mut before = Before::default();
    assert_eq!(before.check(&shader, "matvec", F16), Ok(true));
    assert_eq!(before.check(&shader, "matvec", BOTH), Ok(false));
    assert!(before.check(&shader, "matvec", Tier::PORTABLE).is_err(), "a tier without what it needs");
    assert!(before.check(&shader, "matmul", F16).is_err(), "a shader of another kernel");
    assert!(before.check(&other, "matvec", F16).is_err(), "two texts with one key");
    let claims = Shader { storage: Vec::new(), ..shader.clone() };
    assert!(before.check(&claims, "matvec", F16).is_err(), "two declarations of one text");
}

#[test]
fn a_dead_line_is_found() {
    let lines = HashSet::from(["let i = tid + 64u;", "}"]);
    let text = "//% if x\n// a comment\nlet i = tid + {{ t }}u;\n}\nlet i = tid + {{ t }}u + 1u;\nreturn;\n";
    assert_eq!(dead_lines(text, &lines), ["let i = tid + {{ t }}u + 1u;", "return;"]);
}
