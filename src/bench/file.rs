//! The result file: what ran where, which ceiling binds it, and two files beside each other.
//!
//! ```text
//! File { format, version, commit, device, ceilings [..], cases [..], left_out [..], failures [..] }   <-> JSON
//! a case needs at least max(bytes / bandwidth, operations / arithmetic): the larger one binds, and the time is a percentage of it
//! ```
//!
//! Rates are of medians. Not here: measuring.

use super::cases::{Call, Operation};
use super::sample::Times;
use crate::product::{Accumulate, Activation};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What the first member of a result file says.
const FORMAT: &str = "lowbit bench";
const VERSION: u32 = 1;

/// Results of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct File {
    pub format: String,
    pub version: u32,
    /// Of lowbit: the crate's version, and the commit if it is known (`-dirty` with changes that are not in it).
    pub lowbit: String,
    pub commit: Option<String>,
    pub device: Device,
    pub ceilings: Vec<Ceiling>,
    pub cases: Vec<Measured>,
    /// What could not run here, and why.
    pub left_out: Vec<Note>,
    /// What ran and was wrong; such cases have no times.
    pub failures: Vec<Note>,
}

/// Who computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    pub backend: String,
    pub driver: String,
    pub software: bool,
    pub tier: String,
    /// Threads of the CPU engine; null on a GPU.
    pub threads: Option<usize>,
}

/// A case and a line about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub case: String,
    pub why: String,
}

/// Whose clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// Timestamps of the device between commands.
    Gpu,
    /// The host's; on a GPU recording, submission and wait are included.
    Host,
}

impl Clock {
    fn name(self) -> &'static str {
        match self {
            Self::Gpu => "device",
            Self::Host => "host",
        }
    }
}

impl From<crate::gpu::Clock> for Clock {
    fn from(clock: crate::gpu::Clock) -> Self {
        match clock {
            crate::gpu::Clock::Gpu => Self::Gpu,
            crate::gpu::Clock::Wall => Self::Host,
        }
    }
}

/// Where operands are when a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Regime {
    /// In memory: copies take turns, more of them than caches hold.
    Dram,
    /// In whatever cache holds them: the same ones again and again.
    Cache,
}

impl Regime {
    pub fn name(self) -> &'static str {
        match self {
            Self::Dram => "dram",
            Self::Cache => "cache",
        }
    }
}

/// What a ceiling is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Bytes read per second.
    Read,
    /// Bytes read and written per second, half each.
    Copy,
    /// Multiplications and additions per second, in f32.
    F32,
    /// In f16.
    F16,
    /// Of int8 in i32, four at a time.
    IntDot,
    /// Of cooperative matrices, f16 in f32.
    CoopMatrix,
}

impl Limit {
    pub fn is_bandwidth(self) -> bool {
        matches!(self, Self::Read | Self::Copy)
    }
}

/// A limit of the device as measured, or why it was not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    pub limit: Limit,
    pub name: String,
    /// Of a bandwidth: where the data is, and how many bytes are walked over.
    pub regime: Option<Regime>,
    pub bytes: Option<u64>,
    /// Bytes or operations per second; null if absent.
    pub rate: Option<f64>,
    /// Of the rate: first and third quartile.
    pub quartiles: Option<[f64; 2]>,
    pub clock: Option<Clock>,
    /// Why there is no rate.
    pub absent: Option<String>,
}

impl Ceiling {
    /// `amount` bytes or operations per run.
    pub fn measured(limit: Limit, name: &str, amount: f64, times: &Times) -> Self {
        let [q1, q3] = times.quartiles;
        Self {
            limit,
            name: name.into(),
            regime: None,
            bytes: None,
            rate: Some(amount / times.median),
            quartiles: Some([amount / q3, amount / q1]),
            clock: Some(times.clock),
            absent: None,
        }
    }

    pub fn absent(limit: Limit, name: &str, why: impl Into<String>) -> Self {
        Self {
            limit,
            name: name.into(),
            regime: None,
            bytes: None,
            rate: None,
            quartiles: None,
            clock: None,
            absent: Some(why.into()),
        }
    }

    /// The same, of `bytes` bytes in memory or a cache.
    pub fn over(self, regime: Regime, bytes: u64) -> Self {
        Self { regime: Some(regime), bytes: Some(bytes), ..self }
    }
}

/// A case with its times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub operation: Operation,
    pub scheme: String,
    /// Rows of x, or heads of q over a cache; null without.
    pub m: Option<usize>,
    /// Of a cache: its tokens, and the columns of their keys.
    pub n: usize,
    pub k: usize,
    /// The model and its layers, or empty.
    pub label: String,
    /// How x enters a product, and what its sums may be; null without.
    pub activation: Option<String>,
    /// The method by which quantize finds scales, `default` for the scheme's own; null of the others.
    #[serde(default)]
    pub method: Option<String>,
    #[serde(default)]
    pub accumulate: Option<String>,
    pub regime: Regime,
    /// Copies of the operands that take turns.
    pub copies: usize,
    /// Kernels, and their tile and tier in words.
    pub kernel: String,
    pub tile: String,
    /// Bytes that a run has to touch: weights, x and y once each.
    pub bytes: u64,
    /// Multiplications and additions.
    pub flops: u64,
    pub median_s: f64,
    pub quartiles_s: [f64; 2],
    pub samples: usize,
    pub runs_per_sample: u64,
    pub clock: Clock,
    pub gb_per_s: f64,
    pub tflop_per_s: f64,
    /// Name of the ceiling that binds, and the share of it that is reached, in percent. Null if it is absent.
    pub ceiling: Option<String>,
    pub percent: Option<f64>,
    /// Values compared with the reference, and the largest error as a part of its bound (0 where results are equal).
    pub verified: usize,
    pub worst_error: f64,
}

/// What a case asks of a device.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    pub operation: Operation,
    pub call: Call,
    pub regime: Regime,
    pub bytes: u64,
    pub flops: u64,
}

impl Demand {
    /// The bandwidth that counts: products and attention read, the rest writes about as much as it reads or more.
    fn traffic(&self) -> Limit {
        if self.operation.is_product() || self.operation == Operation::KvAttention {
            Limit::Read
        } else {
            Limit::Copy
        }
    }

    /// The units that may compute it, whichever the engine takes: with f32 sums weights are not rounded, and so f16 units and cooperative
    /// matrices, which take f16, may not.
    fn units(&self) -> &'static [Limit] {
        match (self.call.activation, self.call.accumulate) {
            (Activation::F32 | Activation::F16, Accumulate::F32) => &[Limit::F32],
            (Activation::F32 | Activation::F16, _) => &[Limit::F32, Limit::F16, Limit::CoopMatrix],
            (Activation::Int8(_) | Activation::Int8Static(_), _) => {
                &[Limit::F32, Limit::IntDot, Limit::CoopMatrix]
            }
        }
    }
}

/// The ceiling that binds, and the seconds that it leaves at least. None if one that might is absent.
pub fn bound<'a>(ceilings: &'a [Ceiling], demand: &Demand) -> Option<(&'a Ceiling, f64)> {
    let traffic = demand.traffic();
    let of = |limit| ceilings.iter().filter(move |c| c.limit == limit);
    let seconds = |ceiling: &'a Ceiling, amount: u64| Some((ceiling, amount as f64 / ceiling.rate?));
    // Among caches the smallest walk that is as long as this one.
    let memory = of(traffic)
        .filter(|c| c.regime == Some(demand.regime))
        .filter(|c| demand.regime == Regime::Dram || c.bytes >= Some(demand.bytes))
        .min_by_key(|c| c.bytes)
        .and_then(|c| seconds(c, demand.bytes));
    if demand.flops == 0 {
        return memory;
    }
    let units = demand.units().iter().flat_map(|&limit| of(limit));
    let arithmetic = units.filter_map(|c| seconds(c, demand.flops)).min_by(|a, b| a.1.total_cmp(&b.1));
    let (memory, arithmetic) = (memory?, arithmetic?);
    Some(if memory.1 >= arithmetic.1 { memory } else { arithmetic })
}

impl File {
    /// A file without results.
    pub fn new(device: Device) -> Self {
        Self {
            format: FORMAT.into(),
            version: VERSION,
            lowbit: env!("CARGO_PKG_VERSION").into(),
            commit: commit(),
            device,
            ceilings: Vec::new(),
            cases: Vec::new(),
            left_out: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// A file from its text.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_str(text).map_err(|e| format!("no result of lowbit bench: {e}"))?;
        if head.format != FORMAT {
            return Err(format!("no result of lowbit bench: its format is '{}'", head.format));
        }
        if head.version != VERSION {
            return Err(format!("version {}, this lowbit reads {VERSION}", head.version));
        }
        let file: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        for case in &file.cases {
            let [low, high] = case.quartiles_s;
            let times = [low, case.median_s, high];
            if !(low > 0.0 && times.is_sorted() && high.is_finite()) {
                return Err(format!("{}: times of {times:?} s (quartile, median, quartile)", case.key()));
            }
        }
        Ok(file)
    }
}

/// The commit this was built from: what the build was told in `LOWBIT_COMMIT`, else that of the sources, if they are still there, git knows them, and
/// the program is younger than the last commit, checkout or merge in them.
fn commit() -> Option<String> {
    if let Some(told) = option_env!("LOWBIT_COMMIT").filter(|told| !told.is_empty()) {
        return Some(told.into());
    }
    let git = |args: &[&str]| {
        let out =
            std::process::Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(args).output();
        out.ok().filter(|out| out.status.success()).and_then(|out| String::from_utf8(out.stdout).ok())
    };
    // A copy of the sources inside another repository is not of that one's commit.
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    let moved =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(git(&["rev-parse", "--git-path", "logs/HEAD"])?.trim());
    let age = |path: &Path| std::fs::metadata(path).and_then(|data| data.modified()).ok();
    if age(&std::env::current_exe().ok()?)? < age(&moved)? {
        return None;
    }
    let head = git(&["rev-parse", "--short=12", "HEAD"])?;
    let dirty = if git(&["diff", "--quiet", "HEAD"]).is_none() { "-dirty" } else { "" };
    Some(format!("{}{dirty}", head.trim()))
}

/// Two results of one case or ceiling.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    pub what: String,
    /// Seconds of a run, or rates of a ceiling.
    pub a: f64,
    pub b: f64,
    /// Speed of b in terms of a: above 1 is faster.
    pub speed: f64,
    /// The quartiles of the two do not overlap.
    pub verdict: Verdict,
    /// `matmul 64x64 -> coop`: where another kernel or tile ran.
    pub kernels: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Faster,
    Slower,
    /// Within the spread.
    Same,
}

impl Verdict {
    /// Of quartiles of rates.
    fn of([a1, a3]: [f64; 2], [b1, b3]: [f64; 2]) -> Self {
        if b1 > a3 {
            Self::Faster
        } else if b3 < a1 {
            Self::Slower
        } else {
            Self::Same
        }
    }
}

/// Two files beside each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub ceilings: Vec<Change>,
    pub cases: Vec<Change>,
    /// In words, what only one of them has.
    pub only_a: Vec<String>,
    pub only_b: Vec<String>,
}

/// Compares two files.
///
/// # Errors
/// [`Error::Usage`] if they are of different devices or clocks and `force` is not set.
pub fn compare(a: &File, b: &File, force: bool) -> Result<Comparison> {
    let device = |file: &File| {
        let Device { name, backend, tier, threads, .. } = &file.device;
        let threads = threads.map_or(String::new(), |n| format!(", {n} threads"));
        format!("{name} ({backend}, {tier}{threads})")
    };
    if !force && device(a) != device(b) {
        let what = format!("A is of {}, B of {}; --force compares them all the same", device(a), device(b));
        return Err(Error::Usage(what));
    }
    let mut result = Comparison { ceilings: vec![], cases: vec![], only_a: vec![], only_b: vec![] };
    let measured = |file: &File| -> Vec<(String, f64, [f64; 2])> {
        let rates = file.ceilings.iter().filter_map(|c| Some((c.name.clone(), c.rate?, c.quartiles?)));
        rates.collect()
    };
    let (ceilings_a, ceilings_b) = (measured(a), measured(b));
    for (name, rate_a, quartiles_a) in &ceilings_a {
        match ceilings_b.iter().find(|(other, ..)| other == name) {
            None => result.only_a.push(format!("ceiling {name}")),
            Some((_, rate_b, quartiles_b)) => result.ceilings.push(Change {
                what: name.clone(),
                a: *rate_a,
                b: *rate_b,
                speed: rate_b / rate_a,
                verdict: Verdict::of(*quartiles_a, *quartiles_b),
                kernels: None,
            }),
        }
    }
    let is_new = |name: &String| !ceilings_a.iter().any(|(other, ..)| other == name);
    let new = ceilings_b.iter().map(|(name, ..)| name).filter(|name| is_new(name));
    result.only_b.extend(new.map(|name| format!("ceiling {name}")));
    for before in &a.cases {
        match b.cases.iter().find(|after| after.key() == before.key()) {
            None => result.only_a.push(before.key()),
            Some(after) if !force && after.clock != before.clock => {
                let what = format!(
                    "{} was timed by the clock of the {} in A and of the {} in B; --force compares them all the same",
                    before.key(),
                    before.clock.name(),
                    after.clock.name()
                );
                return Err(Error::Usage(what));
            }
            Some(after) => {
                let kernel = |case: &Measured| format!("{} ({})", case.kernel, case.tile);
                let rates = |case: &Measured| [1.0 / case.quartiles_s[1], 1.0 / case.quartiles_s[0]];
                let (ka, kb) = (kernel(before), kernel(after));
                result.cases.push(Change {
                    what: before.key(),
                    a: before.median_s,
                    b: after.median_s,
                    speed: before.median_s / after.median_s,
                    verdict: Verdict::of(rates(before), rates(after)),
                    kernels: (ka != kb).then(|| format!("{ka} -> {kb}")),
                });
            }
        }
    }
    let is_new = |after: &&Measured| !a.cases.iter().any(|before| before.key() == after.key());
    result.only_b.extend(b.cases.iter().filter(is_new).map(Measured::key));
    Ok(result)
}

impl Measured {
    /// `1x4096x4096`; without an M `4096x4096`.
    pub fn shape(&self) -> String {
        let m = self.m.map(|m| format!("{m}x")).unwrap_or_default();
        format!("{m}{}x{}", self.n, self.k)
    }

    /// What identifies a case among those of a file.
    pub fn key(&self) -> String {
        let other = |word: &str, name: &Option<String>| {
            let name = name.as_deref().filter(|name| *name != "f32");
            name.map(|name| format!(" {word} {name}")).unwrap_or_default()
        };
        let call = other("x", &self.activation) + &other("sums", &self.accumulate);
        let (operation, regime) = (self.operation.name(), self.regime.name());
        format!("{operation} {} {}{call} {regime}", self.scheme_and_method(), self.shape())
    }

    /// `int4-g32 by mse`; without another method than the scheme's own `int4-g32`.
    pub fn scheme_and_method(&self) -> String {
        let method = self.method.as_deref().filter(|name| *name != "default");
        method.map_or(self.scheme.clone(), |name| format!("{} by {name}", self.scheme))
    }

    /// Operations per byte.
    pub fn intensity(&self) -> f64 {
        self.flops as f64 / self.bytes as f64
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::cases::{Case, Weight};
    use crate::scheme::Method;

    fn times(median: f64, spread: f64) -> Times {
        let quartiles = [median * (1.0 - spread), median * (1.0 + spread)];
        Times { median, quartiles, samples: 5, runs: 2, clock: Clock::Gpu }
    }

    fn case(operation: Operation, activation: Activation, accumulate: Accumulate) -> Case {
        let call = Call { activation, accumulate, kernel: None };
        let (scheme, method) = ("q4_0".parse().unwrap(), Method::Own);
        Case { operation, scheme, m: 1, weight: Weight::new(64, 64), call, method }
    }

    /// A file with a few ceilings and cases, as of a made-up device.
    pub fn sample_file() -> File {
        let device = Device {
            name: "Some <GPU> & more".into(),
            backend: "Vulkan".into(),
            driver: "driver 1".into(),
            software: false,
            tier: "f16+subgroups32".into(),
            threads: None,
        };
        let mut file = File::new(device);
        let bandwidth = |limit, name: &str, regime, bytes: u64, rate: f64| {
            Ceiling::measured(limit, name, rate, &times(1.0, 0.01)).over(regime, bytes)
        };
        file.ceilings = vec![
            bandwidth(Limit::Read, "read, DRAM", Regime::Dram, 1 << 28, 1e12),
            bandwidth(Limit::Read, "read, 1 MiB", Regime::Cache, 1 << 20, 8e12),
            bandwidth(Limit::Read, "read, 8 MiB", Regime::Cache, 8 << 20, 4e12),
            bandwidth(Limit::Copy, "copy, DRAM", Regime::Dram, 1 << 28, 9e11),
            Ceiling::measured(Limit::F32, "f32 FMA", 5e13, &times(1.0, 0.01)),
            Ceiling::measured(Limit::CoopMatrix, "coop. matrix 16x16x16", 5e14, &times(1.0, 0.01)),
            Ceiling::absent(Limit::F16, "f16 FMA", "no f16 in shaders"),
        ];
        for (m, regime, median) in
            [(1, Regime::Dram, 2e-5), (1, Regime::Cache, 1e-5), (512, Regime::Dram, 8e-4)]
        {
            let flops = 2 * m as u64 * 4096 * 4096;
            file.cases.push(Measured {
                operation: if m == 1 { Operation::Matvec } else { Operation::Matmul },
                scheme: "q4_0".into(),
                m: Some(m),
                n: 4096,
                k: 4096,
                label: "llama-7b q,k,v,o".into(),
                activation: Some("f32".into()),
                accumulate: Some("f32".into()),
                method: None,
                regime,
                copies: 3,
                kernel: "matvec".into(),
                tile: "32 lanes".into(),
                bytes: 4096 * 4096 * 9 / 16,
                flops,
                median_s: median,
                quartiles_s: [median * 0.95, median * 1.05],
                samples: 9,
                runs_per_sample: 4,
                clock: Clock::Gpu,
                gb_per_s: 1.0,
                tflop_per_s: flops as f64 / median * 1e-12,
                ceiling: Some("read, DRAM".into()),
                percent: Some(47.0),
                verified: 12,
                worst_error: 0.1,
            });
        }
        file.cases.push(Measured {
            operation: Operation::Dequantize,
            m: None,
            flops: 0,
            tflop_per_s: 0.0,
            activation: None,
            accumulate: None,
            ..file.cases[0].clone()
        });
        file
    }

    #[test]
    fn the_slower_of_memory_and_arithmetic_binds() {
        let ceilings = sample_file().ceilings;
        let matmul = |activation, accumulate| case(Operation::Matmul, activation, accumulate);
        let x32 = matmul(Activation::F32, Accumulate::F32);
        let decode = case(Operation::Dequantize, Activation::F32, Accumulate::F32);
        let demand = |case: &Case, regime, bytes, flops| {
            let demand = Demand { operation: case.operation, call: case.call, regime, bytes, flops };
            bound(&ceilings, &demand).map(|(c, seconds)| (c.name.clone(), seconds))
        };
        let is = |name: &str, seconds: f64| Some((name.to_string(), seconds));
        // 1 GB at 1 TB/s is 1 ms; at 50 TFLOP/s 5e10 operations are 1 ms too.
        assert_eq!(demand(&x32, Regime::Dram, 1_000_000_000, 1 << 20), is("read, DRAM", 1e-3));
        assert_eq!(demand(&x32, Regime::Dram, 1000, 100_000_000_000), is("f32 FMA", 2e-3));
        // Cooperative matrices round weights to f16, which f32 sums do not allow, whatever the activations are.
        for (activation, accumulate, units) in [
            (Activation::F16, Accumulate::F32, is("f32 FMA", 2e-3)),
            (Activation::F32, Accumulate::F16, is("coop. matrix 16x16x16", 2e-4)),
            (Activation::F16, Accumulate::F16Chunked, is("coop. matrix 16x16x16", 2e-4)),
        ] {
            let case = matmul(activation, accumulate);
            assert_eq!(demand(&case, Regime::Dram, 1000, 100_000_000_000), units);
        }
        assert_eq!(demand(&decode, Regime::Dram, 900_000_000, 0), is("copy, DRAM", 1e-3));
        // The smallest walk that is long enough; nothing was measured for longer ones.
        assert_eq!(demand(&x32, Regime::Cache, 800_000, 1), is("read, 1 MiB", 1e-7));
        assert_eq!(demand(&x32, Regime::Cache, 4_000_000, 1), is("read, 8 MiB", 1e-6));
        assert_eq!(demand(&x32, Regime::Cache, 1 << 30, 1), None);
        assert_eq!(demand(&decode, Regime::Cache, 1000, 0), None);
    }

    #[test]
    fn a_file_comes_back_and_others_are_refused() {
        let file = sample_file();
        let text = serde_json::to_string(&file).unwrap();
        assert_eq!(File::parse(&text).unwrap(), file);
        for (from, to, why) in [
            ("lowbit bench", "something", "its format is 'something'"),
            ("\"version\":1", "\"version\":2", "version 2, this lowbit reads 1"),
            ("\"matvec\"", "\"matvac\"", "matvac"),
            ("\"cases\"", "\"kases\"", "kases"),
            ("{", "[", "no result of lowbit bench"),
        ] {
            let error = File::parse(&text.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(why) || why == "kases" && error.contains("cases"), "{error}");
        }
    }

    #[test]
    fn changes_beyond_the_spread_are_marked() {
        let a = sample_file();
        let mut b = a.clone();
        let scale = |case: &mut Measured, by: f64| {
            case.median_s *= by;
            case.quartiles_s = case.quartiles_s.map(|q| q * by);
        };
        scale(&mut b.cases[0], 0.5);
        scale(&mut b.cases[1], 1.02);
        scale(&mut b.cases[2], 1.5);
        b.cases[2].tile = "128x128".into();
        b.cases[3].k = 2048;
        let mut halves = b.cases[1].clone();
        halves.accumulate = Some("f16".into());
        b.cases.push(halves);
        b.ceilings[0].rate = Some(2e12);
        b.ceilings[0].quartiles = Some([1.9e12, 2.1e12]);
        let result = compare(&a, &b, false).unwrap();
        let verdicts: Vec<_> = result.cases.iter().map(|c| c.verdict).collect();
        assert_eq!(verdicts, [Verdict::Faster, Verdict::Same, Verdict::Slower]);
        assert!((result.cases[0].speed - 2.0).abs() < 1e-12);
        assert_eq!(result.cases[2].kernels.as_deref(), Some("matvec (32 lanes) -> matvec (128x128)"));
        assert_eq!(result.cases[0].kernels, None);
        assert_eq!(result.only_a, ["dequantize q4_0 4096x4096 dram"]);
        assert_eq!(
            result.only_b,
            ["dequantize q4_0 4096x2048 dram", "matvec q4_0 1x4096x4096 sums f16 cache"]
        );
        let verdicts: Vec<_> = result.ceilings.iter().map(|c| c.verdict).collect();
        assert_eq!((verdicts.len(), verdicts[0], verdicts[1]), (6, Verdict::Faster, Verdict::Same));
        let mut fewer = a.clone();
        let missing = format!("ceiling {}", fewer.ceilings.remove(0).name);
        assert_eq!(compare(&a, &fewer, false).unwrap().only_a, [missing.as_str()]);
        assert_eq!(compare(&fewer, &a, false).unwrap().only_b, [missing.as_str()]);
        let mut by_host = a.clone();
        by_host.cases[1].clock = Clock::Host;
        let mut threads = a.clone();
        threads.device.threads = Some(64);
        b.device.name = "another".into();
        for other in [b, by_host, threads] {
            assert!(matches!(compare(&a, &other, false), Err(Error::Usage(_))));
            assert!(compare(&a, &other, true).is_ok());
        }
        // Times that nothing takes.
        for quartiles in [[0.0, 1.0], [-1.0, 1.0], [1.0, 1e-9]] {
            let mut wrong = a.clone();
            wrong.cases[0].quartiles_s = quartiles;
            assert!(File::parse(&serde_json::to_string(&wrong).unwrap()).is_err(), "{quartiles:?}");
        }
    }
}
