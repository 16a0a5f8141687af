//! `lowbit schemes`: the names that `--scheme` takes, schemes and mixes, and the presets of `--config`.

use super::print::{self, Align, Table};
use crate::configuration;
use crate::scheme::mix::MIXES;
use crate::scheme::preset::FAMILY_SAMPLES;
use crate::scheme::{Group, Method, PRESETS};
use crate::{Result, Scheme};
use serde_json::json;

/// List the weight formats with their bits per weight, the mixes of them, and presets
#[derive(clap::Args)]
#[command(after_help = "Example:\n  lowbit schemes")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The matrix for which bits per weight are counted.
const LARGE: usize = 4096;

/// What `quantize --method` takes for a scheme besides its own rule.
fn methods(scheme: &Scheme) -> Vec<String> {
    Method::of(scheme).map(|method| method.to_string()).collect()
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let samples = FAMILY_SAMPLES.iter().map(|name| name.parse::<Scheme>()).collect::<Result<Vec<_>>>()?;
    let schemes: Vec<Scheme> = PRESETS.iter().map(|p| p.scheme).chain(samples).collect();
    if args.json {
        let mut all: Vec<_> = schemes
            .iter()
            .map(|s| {
                json!({"scheme": s.to_string(), "bits": s.bits, "bits_per_weight": s.bits_per_weight(LARGE, LARGE),
                       "group": s.group.to_string(), "methods": methods(s), "k_multiple_of": s.ggml.map_or(1, |g| g.block())})
            })
            .collect();
        all.extend(
            MIXES
                .iter()
                .map(|m| json!({"mix": m.name, "base": m.base().to_string(), "file_type": m.file_type})),
        );
        all.extend(configuration::PRESETS.iter().map(|p| json!({"preset": p.name, "about": p.about})));
        return print::json(&all);
    }
    let mut table = Table::new(&[
        ("scheme", Align::Left),
        ("bits/weight", Align::Right),
        ("one scale or table per", Align::Left),
        ("K a multiple of", Align::Right),
        ("methods", Align::Left),
    ]);
    for s in &schemes {
        let group = match s.group {
            _ if s.is_float() => "-".to_string(),
            Group::Tensor => "tensor".to_string(),
            Group::Row => "row".to_string(),
            Group::Cols(n) => format!("{n} weights"),
        };
        let bits = format!("{:.3}", s.bits_per_weight(LARGE, LARGE));
        table.row(vec![
            s.to_string(),
            bits,
            group,
            s.ggml.map_or(1, |g| g.block()).to_string(),
            methods(s).join(" "),
        ]);
    }
    let families = "\nThe families are open: int{1..8}-{tensor,row,gN}[-asym|-bias|-fzero], {nf4,fp4,bnbfp4,e4m3,e5m2}-{tensor,row,gN},\n\
codebook{1..6,8}-{tensor,gN} (a learned table), codebook{1..6,8}-{row,gN}-tables (one for each row or group, and no scale), with any group size N that is a multiple of 4; then the type of the scales if it is not the usual one,\n\
-f32, -f16, -bf16 (-e8m0 for fp4, e4m3, e5m2), and -perm for columns in an order of their own. Bits per weight are those of a large matrix.\n";
    let mut mixes =
        Table::new(&[("mix", Align::Left), ("most weights", Align::Left), ("GGUF file type", Align::Right)]);
    for mix in MIXES {
        mixes.row(vec![mix.name.into(), mix.base().to_string(), mix.file_type.to_string()]);
    }
    let about = "\nMixes are llama.cpp's file types, for `quantize --scheme`: a scheme for each tensor, by its role and layer. Norms and routers stay as they are.\n";
    let mut presets = Table::new(&[("preset", Align::Left), ("what becomes of linear layers", Align::Left)]);
    for preset in configuration::PRESETS {
        presets.row(vec![preset.name.into(), preset.about.into()]);
    }
    let both = "\nPresets are for `quantize --config`.\n";
    print::stdout(
        &(table.render() + families + "\n" + &mixes.render() + about + "\n" + &presets.render() + both),
    )
}
