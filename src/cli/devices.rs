//! `lowbit devices`: what can compute here, and what a model of a given size would need of it.

use super::print::{self, Align, Table};
use super::products::CallArgs;
use super::{note_warnings, open_engine};
use crate::bench::cases::{Call, parse_shape};
use crate::engine::{Engine, EngineOptions, Explanation, MatmulOptions};
use crate::gpu::{Found, adapter};
use crate::kernels::Tier;
use crate::{Error, Result, Scheme};
use serde_json::{Value, json};

/// Schemes for which the need of a model is shown if none is named.
const USUAL: [&str; 7] = ["f16", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0", "q2_k"];
/// The matrix for which bits per weight are counted: large enough that one scale more or less does not show.
const LARGE: usize = 4096;

/// List adapters: driver, capabilities, limits, kernel tiers, and what a model would need
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  lowbit devices\n  lowbit devices --model-size 70B --scheme q4_k\n  \
lowbit devices --explain 1x4096x4096 q4_0\n  lowbit devices --explain 512x4096x11008 q4_k --accumulate f16 --device radeon\n  lowbit devices --json")]
pub struct Args {
    /// Count what a model of this many weights needs, as in 350M, 7B, 1.5T
    #[arg(long, value_name = "N", default_value = "7B")]
    model_size: String,
    /// In this scheme (may be given several times)
    #[arg(long = "scheme", value_name = "SCHEME")]
    schemes: Vec<String>,
    /// Say instead which kernel a product of M rows of x with a weight [N, K] in a scheme would run on each device, and why not the others
    #[arg(long, num_args = 2, value_names = ["MxNxK", "SCHEME"], conflicts_with_all = ["schemes", "model_size"])]
    explain: Vec<String>,
    #[command(flatten)]
    call: CallArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a model needs in a scheme.
struct Need {
    scheme: Scheme,
    bits: f64,
    bytes: u64,
}

/// Runs the subcommand.
pub fn run(args: &Args, device: Option<&str>) -> Result<()> {
    let call = args.call.parse()?;
    if let [size, scheme] = args.explain.as_slice() {
        return explain(size, scheme, call, device, args.json);
    }
    if call != Call::default() {
        return Err(Error::Usage("--activation and --accumulate go with --explain".into()));
    }
    let weights = parse_count(&args.model_size)?;
    let names: Vec<&str> = match args.schemes.as_slice() {
        [] => USUAL.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    let mut needs = Vec::new();
    for name in names {
        let scheme: Scheme = name.parse()?;
        // Learned tables and the like are nothing beside a model.
        let bits = scheme.bits_per_weight(LARGE, LARGE);
        needs.push(Need { scheme, bits, bytes: (weights * bits / 8.0).ceil() as u64 });
    }
    let found = match device {
        None | Some("auto") => pollster::block_on(adapter::list()),
        Some(name) if name.eq_ignore_ascii_case("cpu") => Vec::new(),
        Some(name) => vec![pollster::block_on(adapter::pick(Some(name), true))?],
    };
    if args.json {
        return print::json(&to_json(&found, weights, &needs));
    }
    let mut text = String::new();
    let cpu = Engine::cpu().info();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    text += &format!("cpu: {} ({}, {})\n", cpu.name, cpu.tier, print::count(threads, "thread"));
    for f in &found {
        text += &describe(f);
    }
    if found.is_empty() && device.is_none() {
        text +=
            "\nNo adapter was found: no Vulkan, Metal, DX12 or GL driver. The CPU engine does everything.\n";
    }
    text += &format!(
        "\nA model of {} weights needs (weights alone; activations come on top):\n",
        args.model_size
    );
    let mut table =
        Table::new(&[("scheme", Align::Left), ("bits/weight", Align::Right), ("memory", Align::Right)]);
    for need in &needs {
        table.row(vec![need.scheme.to_string(), format!("{:.3}", need.bits), print::bytes(need.bytes)]);
    }
    text += &table.render();
    for f in &found {
        let limit = binding_limit(f);
        let parts: Vec<String> =
            needs.iter().map(|n| format!("{} {}", n.scheme, n.bytes.div_ceil(limit.max(1)))).collect();
        text += &format!(
            "{}: a tensor up to {} is one binding, larger ones are split by rows; the whole would be {}\n",
            f.info.name,
            print::bytes(limit),
            parts.join(", "),
        );
    }
    print::stdout(&text)
}

/// What a product would run on each device, or on the one that is named.
fn explain(size: &str, scheme: &str, call: Call, device: Option<&str>, as_json: bool) -> Result<()> {
    let scheme: Scheme = scheme.parse()?;
    let named = |e: Error| Error::Usage(format!("--explain {size} {scheme}: {e}"));
    let sizes = parse_shape(size, "--explain")?;
    scheme.check_shape(&sizes[1..]).map_err(named)?;
    let engines = match device.filter(|device| *device != "auto") {
        Some(_) => vec![pollster::block_on(open_engine(device))?],
        None => pollster::block_on(async {
            let mut engines = vec![Engine::cpu()];
            for found in adapter::list().await {
                let engine = Engine::open_adapter(&found.adapter, &EngineOptions::default()).await?;
                note_warnings(&engine);
                engines.push(engine);
            }
            Ok::<_, Error>(engines)
        })?,
    };
    let options = MatmulOptions {
        activation: call.activation,
        accumulate: call.accumulate,
        ..MatmulOptions::default()
    };
    let explained = engines.iter().map(|engine| (engine, engine.explain(sizes, &scheme, &options)));
    if as_json {
        let list: Vec<Value> = explained.map(|(engine, said)| explained_json(engine, &said)).collect();
        return print::json(&list);
    }
    let [m, n, k] = sizes;
    let mut text = format!("y [{m}, {n}] = x [{m}, {k}] * w [{n}, {k}]^T, w in {scheme}{call}\n");
    explained.for_each(|(engine, said)| text += &explained_text(engine, &said));
    print::stdout(&text)
}

fn explained_text(engine: &Engine, said: &Result<Explanation>) -> String {
    let info = engine.info();
    let mut text = format!("\n{} ({} {}; {})\n", info.name, info.backend, info.driver, info.tier);
    let Explanation { plan, workgroups, others } = match said {
        Ok(explanation) => explanation,
        Err(why) => return text + &format!("  none           {why}\n"),
    };
    text += &format!("  kernel         {}\n", plan.variant);
    text += &format!("  {:<14} {}\n", plan.origin.to_string(), plan.why);
    text += &format!("  tile           {}\n", plan.detail);
    if let Some([x, y, z]) = workgroups {
        text += &format!("  workgroups     {x} x {y} x {z}\n");
    }
    let halves = if plan.halves { ", of operands rounded to f16" } else { "" };
    text += &format!("  sums           {}{halves}\n", plan.accumulate.name());
    others.iter().for_each(|(variant, why)| text += &format!("  not {variant:<18} {why}\n"));
    text
}

fn explained_json(engine: &Engine, said: &Result<Explanation>) -> Value {
    let info = engine.info();
    let device =
        json!({"name": info.name, "backend": info.backend, "driver": info.driver, "tier": info.tier});
    match said {
        Err(why) => json!({"device": device, "error": why.to_string()}),
        Ok(explanation) => {
            let mut json = explanation.to_json();
            json["device"] = device;
            json["warnings"] = json!(engine.warnings());
            json
        }
    }
}

/// Bytes that a kernel can see of one buffer.
fn binding_limit(f: &Found) -> u64 {
    let limits = &f.capabilities.limits;
    limits.max_storage_buffer_binding_size.min(limits.max_buffer_size)
}

/// A device in a paragraph.
fn describe(f: &Found) -> String {
    let (info, caps) = (&f.info, &f.capabilities);
    let limits = &caps.limits;
    let yes = |b: bool| if b { "yes" } else { "no" };
    let subgroups = match (caps.subgroups, caps.subgroup_min, caps.subgroup_max) {
        (false, ..) => "no".to_string(),
        (true, min, max) if min == max => format!("yes ({min})"),
        (true, min, max) => format!("yes ({min} to {max})"),
    };
    let coop = match caps.coop.as_slice() {
        [] => "no".to_string(),
        shapes => shapes.iter().map(coop_shape).collect::<Vec<_>>().join(", "),
    };
    let driver = [info.driver.as_str(), info.driver_info.as_str()].join(" ");
    let kind = if info.software { "software".to_string() } else { format!("{:?}", info.device_type) };
    [
        format!("\n{}\n", info.name),
        format!("  backend        {:?}, {kind}{}\n", info.backend, if info.vendor.is_empty() { String::new() } else { format!(", {}", info.vendor) }),
        format!("  driver         {}\n", if driver.trim().is_empty() { "unknown" } else { driver.trim() }),
        format!("  tiers          {}\n", tiers(f).join(", ")),
        format!("  f16            {}\n", yes(caps.f16)),
        format!("  subgroups      {subgroups}\n"),
        format!("  dot4I8Packed   {}\n", yes(caps.int_dot)),
        format!("  coop. matrix   {coop}\n"),
        format!("  timestamps     {}\n", yes(caps.timestamps)),
        format!(
            "  limits         buffer {}, binding {}, {} storage bindings, workgroup memory {}, {} invocations\n",
            print::bytes(limits.max_buffer_size),
            print::bytes(limits.max_storage_buffer_binding_size),
            limits.max_storage_buffers_per_shader_stage,
            print::bytes(limits.max_compute_workgroup_storage_size.into()),
            limits.max_compute_invocations_per_workgroup,
        ),
    ]
    .concat()
}

/// The tiers that kernels can be generated for on a device: from the portable one to the best.
fn tiers(f: &Found) -> Vec<String> {
    let best = Tier::of(&f.capabilities);
    let mut tiers = vec![Tier::PORTABLE.to_string()];
    for tier in [Tier { subgroup: 0, coop: 0, ..best }, Tier { coop: 0, ..best }, best] {
        if !tiers.contains(&tier.to_string()) {
            tiers.push(tier.to_string());
        }
    }
    tiers
}

/// A cooperative matrix shape as `16x16x16 F16->F32`.
fn coop_shape(p: &wgpu::CooperativeMatrixProperties) -> String {
    format!("{}x{}x{} {:?}->{:?}", p.m_size, p.n_size, p.k_size, p.ab_type, p.cr_type)
}

fn to_json(found: &[Found], weights: f64, needs: &[Need]) -> Value {
    let cpu = Engine::cpu().info();
    let adapters: Vec<Value> = found
        .iter()
        .map(|f| {
            let (info, caps) = (&f.info, &f.capabilities);
            let limits = &caps.limits;
            json!({
                "name": info.name, "backend": format!("{:?}", info.backend), "vendor": info.vendor,
                "type": format!("{:?}", info.device_type), "software": info.software,
                "driver": info.driver, "driver_info": info.driver_info, "tiers": tiers(f),
                "capabilities": {
                    "f16": caps.f16, "subgroups": caps.subgroups,
                    "subgroup_sizes": if caps.subgroups { json!([caps.subgroup_min, caps.subgroup_max]) } else { Value::Null },
                    "dot4i8packed": caps.int_dot,
                    "cooperative_matrix": caps.coop.iter().map(coop_shape).collect::<Vec<_>>(),
                    "timestamps": caps.timestamps,
                },
                "limits": {
                    "max_buffer_size": limits.max_buffer_size,
                    "max_storage_buffer_binding_size": limits.max_storage_buffer_binding_size,
                    "max_storage_buffers_per_shader_stage": limits.max_storage_buffers_per_shader_stage,
                    "max_compute_workgroup_storage_size": limits.max_compute_workgroup_storage_size,
                    "max_compute_invocations_per_workgroup": limits.max_compute_invocations_per_workgroup,
                },
            })
        })
        .collect();
    let needs: Vec<Value> = needs
        .iter()
        .map(|n| {
            let bindings: Vec<Value> = found
                .iter()
                .map(|f| json!({"adapter": f.info.name, "bindings": n.bytes.div_ceil(binding_limit(f).max(1))}))
                .collect();
            json!({"scheme": n.scheme.to_string(), "bits_per_weight": n.bits, "bytes": n.bytes, "bindings": bindings})
        })
        .collect();
    json!({
        "cpu": {"name": cpu.name, "instructions": cpu.tier,
                "threads": std::thread::available_parallelism().map_or(1, usize::from)},
        "adapters": adapters,
        "model": {"weights": weights, "needs": needs},
    })
}

/// A count of weights: `7B`, `350M`, `1.5T`, `12000`.
fn parse_count(text: &str) -> Result<f64> {
    let (digits, unit) = match text.trim().char_indices().last() {
        Some((at, c)) if c.is_ascii_alphabetic() => (&text.trim()[..at], c.to_ascii_uppercase()),
        _ => (text.trim(), ' '),
    };
    let factor = match unit {
        ' ' => Some(1.0),
        'K' => Some(1e3),
        'M' => Some(1e6),
        'B' | 'G' => Some(1e9),
        'T' => Some(1e12),
        _ => None,
    };
    let value = digits.parse::<f64>().ok().filter(|v| v.is_finite() && *v > 0.0);
    match (value, factor) {
        (Some(value), Some(factor)) if value * factor < 1e18 => Ok(value * factor),
        _ => Err(Error::Usage(format!(
            "--model-size '{text}': a number of weights is wanted, as in 350M or 7B"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read() {
        for (text, value) in
            [("7B", 7e9), ("350m", 350e6), ("1.5T", 1.5e12), ("12000", 12000.0), (" 2k ", 2000.0)]
        {
            assert_eq!(parse_count(text).unwrap(), value, "{text}");
        }
        for text in ["", "B", "x", "7X", "-1B", "0", "NaN", "inf", "1e300T", "7é"] {
            assert!(parse_count(text).is_err(), "{text}");
        }
    }
}
