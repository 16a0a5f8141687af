//! Which product kernel runs: the one a call pins, the winner that tuning left, or the table of defaults.
//!
//! ```text
//! MatmulOptions::kernel ── pinned ───────────────────────────────┐
//! class of the product (ShapeClass) -> Winners, if one is there ─┼─> a name in `variants` of KERNELS -> form::Choice
//! device, M, sums -> DEFAULTS, the first row that fits ──────────┘
//! ```
//!
//! Here and nowhere else a kernel is decided on; [`Choice::new`] says what a name is on a device, or why it is none there. Nothing is timed here.

use super::form::{self, Choice};
use super::{KERNELS, Operation, Tier};
use crate::gpu::{AdapterInfo, Gpu};
use crate::product::{Accumulate, Activation, Int8Group, Product};
use crate::{Error, Result, Scheme};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{PoisonError, RwLock};

/// What a choice depends on besides the product.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub tier: Tier,
    pub info: &'a AdapterInfo,
}

impl<'a> Facts<'a> {
    pub fn of(gpu: &'a Gpu) -> Self {
        Self { tier: Tier::of(gpu.capabilities()), info: gpu.info() }
    }

    fn device(&self) -> Device {
        match self.info.vendor.as_str() {
            _ if self.info.software => Device::Software,
            "NVIDIA" => Device::Nvidia,
            "AMD" => Device::Amd,
            "Intel" => Device::Intel,
            "Apple" => Device::Apple,
            "Arm" | "Imagination" | "Qualcomm" => Device::Mobile,
            _ => Device::Other,
        }
    }
}

/// A product, as far as the choice of its kernel goes: y [m, n] of x [m, k] and w [n, k].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub scheme: Scheme,
    pub activation: Activation,
    pub accumulate: Accumulate,
}

impl Shape {
    pub fn new([m, n, k]: [usize; 3], scheme: Scheme, product: &Product) -> Self {
        Self { m, n, k, scheme, activation: product.activation, accumulate: product.accumulate }
    }

    /// Whether x is int8 and multiplied as such.
    pub fn in_integers(&self) -> bool {
        super::product::in_integers(&self.scheme, self.activation)
    }

    /// The products that share a winner with it.
    pub fn class(&self) -> ShapeClass {
        let Self { scheme, activation, accumulate, .. } = *self;
        let m = ROWS.iter().position(|rows| rows.contains(&self.m)).unwrap_or(ROWS.len() - 1);
        let power = |size: usize| size.max(1).ilog2();
        // A scale that is given is one for whole rows too.
        let activation = match activation {
            Activation::Int8Static(_) => Activation::Int8(Int8Group::Row),
            other => other,
        };
        ShapeClass { scheme, activation, accumulate, m, n: power(self.n), k: power(self.k) }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}x{}x{}", self.scheme, self.m, self.n, self.k)
    }
}

/// The classes of M. Kernels differ in how many rows of x they take at a time, so the classes are narrow where rows are few.
pub const ROWS: [RangeInclusive<usize>; 7] =
    [1..=1, 2..=4, 5..=8, 9..=16, 17..=64, 65..=256, 257..=usize::MAX];

/// Products that are taken to have the same best kernel: of one scheme, activation (static int8 scales count as scales of rows) and policy
/// of sums, M in one of [`ROWS`], N and K each between the same powers of two (4096 to 8191).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShapeClass {
    scheme: Scheme,
    pub activation: Activation,
    accumulate: Accumulate,
    /// Index in [`ROWS`].
    m: usize,
    /// Powers of two.
    n: u32,
    k: u32,
}

impl std::fmt::Display for ShapeClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (low, high) = (ROWS[self.m].start(), ROWS[self.m].end());
        match *high {
            usize::MAX => write!(f, "M from {low}")?,
            _ if low == high => write!(f, "M {low}")?,
            _ => write!(f, "M {low} to {high}")?,
        }
        let last = |power: u32| 1u64.checked_shl(power + 1).map_or(u64::MAX, |end| end - 1);
        for (name, power) in [("N", self.n), ("K", self.k)] {
            write!(f, ", {name} {} to {}", 1u64 << power, last(power))?;
        }
        Ok(())
    }
}

/// What kind of device a row of the defaults is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A CPU pretending to be a GPU, whoever made it.
    Software,
    Nvidia,
    Amd,
    Intel,
    Apple,
    /// Arm, Imagination, Qualcomm.
    Mobile,
    /// No vendor that is known, as in browsers.
    Other,
}

/// A row of [`DEFAULTS`].
#[derive(Clone, Debug)]
pub struct Row {
    /// Whether it is for int8 activations that are multiplied as integers ([`Shape::in_integers`]), or for all others.
    pub integers: bool,
    pub devices: &'static [Device],
    pub m: RangeInclusive<usize>,
    pub n: RangeInclusive<usize>,
    pub k: RangeInclusive<usize>,
    pub accumulates: &'static [Accumulate],
    /// The name in [`KERNELS`].
    pub variant: &'static str,
    /// In a sentence.
    pub why: &'static str,
}

use Accumulate::{F16, F16Chunked};
use Device::{Amd, Apple, Intel, Mobile, Nvidia, Other, Software};

/// Everything, to be narrowed.
const ANY: Row = Row {
    integers: false,
    devices: ALL,
    m: 1..=usize::MAX,
    n: 1..=usize::MAX,
    k: 1..=usize::MAX,
    accumulates: SUMS,
    variant: "",
    why: "",
};
const ALL: &[Device] = &[Software, Nvidia, Amd, Intel, Apple, Mobile, Other];
const LARGE: &[Device] = &[Nvidia, Amd, Intel, Apple];
const FEW_TILES: &str = "sums may be f16, so matrix units may compute them, and so few outputs are too few large tiles unless K is split";
const SUMS: &[Accumulate] = &Accumulate::ALL;
const HALVES: &[Accumulate] = &[F16, F16Chunked];

/// What runs where nothing is pinned and nothing was tuned: the first row that is for the device, M and sums, and whose variant the device
/// runs (matrix units: where it lists matrices that the kernel has a form for).
pub const DEFAULTS: &[Row] = &[
    Row {
        integers: true,
        devices: &[Software],
        variant: "dot_matvec",
        why: "workgroup memory costs software more than reading the weights again",
        ..ANY
    },
    Row {
        integers: true,
        m: 1..=2 * super::dot_matvec::MAX_ROWS,
        variant: "dot_matvec",
        why: "so few rows of int8 are one pass over the weights, or two, the second of which a cache serves",
        ..ANY
    },
    Row {
        integers: true,
        variant: "dot_coop:large",
        why: "one scale for a row of weights and of x: matrix units sum the codes, and exactly",
        ..ANY
    },
    Row { integers: true, variant: "dot_matmul", why: "many rows of int8 share the codes of a tile", ..ANY },
    Row {
        devices: &[Software],
        variant: "direct",
        why: "software pays for loads and barriers, not for arithmetic",
        ..ANY
    },
    Row {
        m: 1..=super::matvec::MAX_ROWS,
        n: 1..=1024,
        k: 8192..=usize::MAX,
        variant: "matvec:split",
        why: "so few rows of weights are too few workgroups for a GPU, unless K is split",
        ..ANY
    },
    Row {
        m: 1..=super::matvec::MAX_ROWS,
        variant: "matvec",
        why: "so few rows of x are one pass over the weights",
        ..ANY
    },
    Row {
        devices: LARGE,
        m: 1..=128,
        n: 1..=8192,
        k: 2048..=usize::MAX,
        accumulates: HALVES,
        variant: "coop:large:split",
        why: FEW_TILES,
        ..ANY
    },
    Row {
        devices: LARGE,
        m: 1..=512,
        n: 1..=2048,
        k: 2048..=usize::MAX,
        accumulates: HALVES,
        variant: "coop:large:split",
        why: FEW_TILES,
        ..ANY
    },
    Row {
        accumulates: HALVES,
        variant: "coop:large",
        why: "sums may be f16, so matrix units may compute them",
        ..ANY
    },
    Row { variant: "matmul:64x64", why: "many rows of x share each decoded weight in a tile", ..ANY },
];

/// A measured choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Winner {
    /// What was measured.
    pub shape: Shape,
    /// The name in [`KERNELS`].
    pub variant: &'static str,
    /// Median seconds of it, and of the default.
    pub seconds: f64,
    pub default: &'static str,
    pub default_seconds: f64,
}

/// The winners of an engine, which its clones share.
#[derive(Debug, Default)]
pub struct Winners {
    all: RwLock<HashMap<ShapeClass, Winner>>,
}

impl Winners {
    pub fn get(&self, class: &ShapeClass) -> Option<Winner> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        // Most engines have none, and a class takes longer to hash than to say so.
        if all.is_empty() { None } else { all.get(class).cloned() }
    }

    /// Makes it the winner of its class.
    pub fn set(&self, winner: Winner) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).insert(winner.shape.class(), winner);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Why a choice was made.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// The call names it.
    Pinned,
    /// It was the fastest of its class.
    Tuned(Winner),
    /// A row of [`DEFAULTS`], with what it says.
    Default(&'static str),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pinned => f.write_str("the call names it"),
            Self::Default(why) => f.write_str(why),
            Self::Tuned(Winner { shape, variant, seconds, default, default_seconds }) => {
                write!(f, "it took {:.4} ms for {}x{}x{}", seconds * 1e3, shape.m, shape.n, shape.k)?;
                match variant == default {
                    true => f.write_str(" and nothing was faster")?,
                    false => write!(f, ", the default ({default}) {:.4} ms", default_seconds * 1e3)?,
                }
                write!(f, "; its class has {}", shape.class())
            }
        }
    }
}

/// A choice that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Picked {
    pub choice: Choice,
    /// The name that pins it.
    pub variant: &'static str,
    pub reason: Reason,
}

/// The kernel for a product.
///
/// # Errors
/// As [`Choice::new`] for a pinned name.
pub fn pick(on: &Facts, shape: &Shape, pinned: Option<&str>, winners: &Winners) -> Result<Picked> {
    if let Some(name) = pinned {
        let choice = Choice::new(name, on, shape)?;
        let variant = named(name).unwrap_or(choice.kernel());
        return Ok(Picked { choice, variant, reason: Reason::Pinned });
    }
    if let Some(winner) = winners.get(&shape.class()) {
        // A class is wider than what a kernel may take.
        if let Ok(choice) = Choice::new(winner.variant, on, shape) {
            return Ok(Picked { choice, variant: winner.variant, reason: Reason::Tuned(winner) });
        }
    }
    by_default(on, shape)
}

/// The kernel for a product by the table alone.
///
/// # Errors
/// [`Error::Unsupported`] if there is none for the product.
pub fn by_default(on: &Facts, shape: &Shape) -> Result<Picked> {
    let device = on.device();
    let fits = |row: &&Row| {
        row.integers == shape.in_integers()
            && row.devices.contains(&device)
            && row.m.contains(&shape.m)
            && row.n.contains(&shape.n)
            && row.k.contains(&shape.k)
            && row.accumulates.contains(&shape.accumulate)
    };
    let mut why = None;
    for Row { variant, why: reason, .. } in DEFAULTS.iter().filter(fits) {
        match Choice::new(variant, on, shape) {
            Ok(choice) => return Ok(Picked { choice, variant, reason: Reason::Default(reason) }),
            Err(error) => why = Some(error),
        }
    }
    Err(why.unwrap_or_else(|| Error::unsupported("such a product", "no kernel takes it")))
}

/// Every name of a product kernel and its shapes.
pub fn variants() -> impl Iterator<Item = &'static str> {
    let of = |kernel: &'static super::Kernel| match &kernel.operation {
        Operation::Product { variants, .. } => *variants,
        _ => &[],
    };
    KERNELS.iter().flat_map(of).copied().flatten()
}

/// The entry of [`variants`] that is this text.
pub fn named(text: &str) -> Option<&'static str> {
    variants().find(|name| *name == text)
}

/// What the variants are for a product on a device: what each would run, or why it does not. Of several names for the same the longest
/// stands, which says most; names of one kernel that fail alike are one.
pub fn candidates(on: &Facts, shape: &Shape) -> Vec<(&'static str, Result<Choice>)> {
    let stem = |name: &'static str| name.split(':').next();
    let mut all: Vec<(&'static str, Result<Choice>)> = Vec::new();
    for name in variants() {
        let choice = Choice::new(name, on, shape);
        if name.ends_with(form::SPLIT) && choice.as_ref().is_ok_and(|choice| choice.parts == 1) {
            continue;
        }
        let same = |(other, chosen): &&mut (&'static str, Result<Choice>)| match (chosen, &choice) {
            (Ok(a), Ok(b)) => a == b,
            (Err(Error::Unsupported { why: a, .. }), Err(Error::Unsupported { why: b, .. })) => {
                a == b && stem(other) == stem(name)
            }
            _ => false,
        };
        match all.iter_mut().find(same) {
            Some(known) if choice.is_ok() && known.0.len() < name.len() => known.0 = name,
            Some(_) => {}
            None => all.push((name, choice)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::{Backend, DeviceType};

    fn info(vendor: u32, device_type: DeviceType) -> AdapterInfo {
        let mut info = wgpu::AdapterInfo::new(device_type, Backend::Vulkan);
        info.vendor = vendor;
        AdapterInfo::new(&info)
    }

    fn gpu(vendor: u32) -> AdapterInfo {
        info(vendor, DeviceType::DiscreteGpu)
    }

    fn shape(m: usize, accumulate: Accumulate) -> Shape {
        let product = Product { accumulate, ..Product::default() };
        Shape::new([m, 4096, 4096], "q4_0".parse().unwrap(), &product)
    }

    const MATRICES: Tier = Tier { f16: true, subgroup: 32, coop: 16 };
    const PLAIN: Tier = Tier { coop: 0, ..MATRICES };
    const VENDORS: [(u32, Device); 9] = [
        (0x10de, Nvidia),
        (0x1002, Amd),
        (0x8086, Intel),
        (0x106b, Apple),
        (0x13b5, Mobile),
        (0x1010, Mobile),
        (0x5143, Mobile),
        (0x1ae0, Other),
        (0, Other),
    ];

    #[test]
    fn the_table_has_a_kernel_for_each_vendor_size_and_policy() {
        let default = |info: &AdapterInfo, tier, m, accumulate| {
            let picked = by_default(&Facts { tier, info }, &shape(m, accumulate)).unwrap();
            assert!(matches!(picked.reason, Reason::Default(why) if !why.is_empty()));
            assert_eq!(picked.choice.kernel(), picked.variant.split(':').next().unwrap());
            picked.variant
        };
        for (vendor, device) in VENDORS {
            let info = gpu(vendor);
            assert_eq!(Facts { tier: PLAIN, info: &info }.device(), device);
            for accumulate in Accumulate::ALL {
                let tiled = if accumulate == Accumulate::F32 { "matmul:64x64" } else { "coop:large" };
                for (m, variant) in [(1, "matvec"), (16, "matvec"), (300, tiled), (100_000, tiled)] {
                    assert_eq!(
                        default(&info, MATRICES, m, accumulate),
                        variant,
                        "{device:?} {m} {accumulate:?}"
                    );
                }
                assert_eq!(
                    default(&info, PLAIN, 512, accumulate),
                    "matmul:64x64",
                    "{device:?} without matrices"
                );
                assert_eq!(default(&info, Tier::PORTABLE, 512, accumulate), "matmul:64x64", "{device:?}");
            }
        }
        // Whoever made it.
        for vendor in [0x10de, 0x10005] {
            let software = info(vendor, DeviceType::Cpu);
            for accumulate in Accumulate::ALL {
                assert_eq!(default(&software, MATRICES, 1, accumulate), "direct");
                assert_eq!(default(&software, MATRICES, 512, accumulate), "direct");
            }
        }
    }

    #[test]
    fn int8_activations_have_kernels_of_their_own_where_weights_are_integers() {
        let int8 = |scheme: &str, m| Shape {
            activation: Activation::Int8(Int8Group::Row),
            scheme: scheme.parse().unwrap(),
            ..shape(m, Accumulate::F32)
        };
        let default = |info: &AdapterInfo, shape: &Shape| {
            by_default(&Facts { tier: MATRICES, info }, shape).unwrap().variant
        };
        for (vendor, _) in VENDORS {
            assert_eq!(default(&gpu(vendor), &int8("q4_0", 1)), "dot_matvec");
            assert_eq!(default(&gpu(vendor), &int8("q4_0", 512)), "dot_matmul");
            assert_eq!(default(&gpu(vendor), &int8("int8-row", 512)), "dot_coop:large");
            let long = Shape { k: 32769, ..int8("int8-row", 512) };
            assert_eq!(default(&gpu(vendor), &long), "dot_matmul");
            assert_eq!(default(&gpu(vendor), &int8("nf4-g64", 512)), "matmul:64x64");
        }
        let software = info(0x10005, DeviceType::Cpu);
        assert_eq!(default(&software, &int8("q4_0", 512)), "dot_matvec");
        assert_eq!(default(&software, &int8("nf4-g64", 512)), "direct");
        // A scale that is given shares the winners of one that is found.
        let scale = crate::product::Int8Scale::new(0.5, 3).unwrap();
        let given = Shape { activation: Activation::Int8Static(scale), ..int8("q4_0", 512) };
        assert_eq!(given.class(), int8("q4_0", 512).class());
        assert_ne!(given.class(), shape(512, Accumulate::F32).class());
    }

    /// (N, K), M -> the parts of the default.
    #[test]
    fn k_is_split_where_outputs_are_few() {
        let info = gpu(0x10de);
        let on = Facts { tier: MATRICES, info: &info };
        let picked = |m, [n, k]: [usize; 2], accumulate| {
            by_default(&on, &Shape { n, k, ..shape(m, accumulate) }).unwrap()
        };
        for (m, nk, accumulate, variant, parts) in [
            (1, [1024, 8192], Accumulate::F32, "matvec:split", 4),
            (16, [256, 65536], Accumulate::F32, "matvec:split", 8),
            (1, [256, 65536], Accumulate::F32, "matvec:split", 16),
            (1, [1025, 8192], Accumulate::F32, "matvec", 1),
            (1, [1024, 8191], Accumulate::F32, "matvec", 1),
            (128, [4096, 4096], F16, "coop:large:split", 8),
            (128, [4096, 2048], F16, "coop:large:split", 4),
            (512, [4096, 4096], F16, "coop:large", 1),
            (128, [4096, 4096], Accumulate::F32, "matmul:64x64", 1),
        ] {
            let Picked { choice, variant: got, .. } = picked(m, nk, accumulate);
            assert_eq!((got, choice.parts), (variant, parts), "{m} {nk:?} {accumulate:?}");
        }
        // No part is empty, whatever K, and one chunk has one.
        for k in 1..2000 {
            let parts = Choice::new("matvec:split", &on, &Shape { n: 1, k, ..shape(1, F16) }).unwrap().parts;
            let chunks = k.div_ceil(32);
            let part = chunks.div_ceil(parts as usize);
            assert!((parts as usize - 1) * part < chunks && (parts > 1) == (chunks > 1), "{k}: {parts}");
        }
        assert!(Choice::new("direct:split", &on, &shape(1, F16)).is_err());
    }

    #[test]
    fn rows_name_variants_and_end_with_one_for_everything() {
        for row in DEFAULTS {
            assert!(named(row.variant).is_some(), "{}", row.variant);
            assert!(!row.devices.is_empty() && !row.accumulates.is_empty() && !row.m.is_empty());
        }
        for integers in [true, false] {
            let last = DEFAULTS.iter().rfind(|row| row.integers == integers).unwrap();
            assert_eq!((last.devices, last.m.clone(), last.accumulates), (ALL, 1..=usize::MAX, SUMS));
        }
    }

    /// The table in docs/TUNING.md is this one.
    #[test]
    fn the_documented_table_is_the_table() {
        fn range(range: &RangeInclusive<usize>) -> String {
            match (*range.start(), *range.end()) {
                (1, usize::MAX) => "any".into(),
                (from, usize::MAX) => format!("from {from}"),
                (from, to) => format!("{from} to {to}"),
            }
        }
        let line = |row: &Row| {
            let activations = if row.integers { "int8" } else { "others" };
            let devices = match row.devices {
                all if all == ALL => "any".into(),
                some => some.iter().map(|d| format!("{d:?}")).collect::<Vec<_>>().join(", "),
            };
            let sums: Vec<_> = row.accumulates.iter().map(|a| a.name()).collect();
            let sums = if row.accumulates == SUMS { "any".into() } else { sums.join(", ") };
            let [m, n, k] = [&row.m, &row.n, &row.k].map(range);
            format!(
                "| {activations} | {devices} | {m} | {n} | {k} | {sums} | `{}` | {} |",
                row.variant, row.why
            )
        };
        let text = include_str!("../../docs/TUNING.md");
        let documented: Vec<&str> =
            text.lines().filter(|l| l.starts_with("| int8 |") || l.starts_with("| others |")).collect();
        let table: Vec<String> = DEFAULTS.iter().map(line).collect();
        assert_eq!(documented, table, "docs/TUNING.md should have\n{}", table.join("\n"));
    }

    #[test]
    fn a_pinned_name_is_before_a_winner_and_a_winner_before_the_table() {
        let info = gpu(0x10de);
        let on = Facts { tier: PLAIN, info: &info };
        let shape = shape(512, Accumulate::F32);
        let winners = Winners::default();
        let pick = |pinned, winners: &Winners| pick(&on, &shape, pinned, winners).unwrap();
        assert_eq!(pick(None, &winners).variant, "matmul:64x64");
        let winner = |variant| {
            let default = "matmul:64x64";
            Winner { shape, variant, seconds: 1e-3, default, default_seconds: 2e-3 }
        };
        winners.set(winner("matmul:32x32"));
        let picked = pick(None, &winners);
        assert_eq!(
            (picked.variant, &picked.reason),
            ("matmul:32x32", &Reason::Tuned(winner("matmul:32x32")))
        );
        let why = picked.reason.to_string();
        for words in
            ["1.0000 ms for 512x4096x4096", "matmul:64x64) 2.0000 ms", "M from 257", "N 4096 to 8191"]
        {
            assert!(why.contains(words), "{words}: {why}");
        }
        let picked = pick(Some("matmul:64x64"), &winners);
        assert_eq!((picked.variant, picked.reason), ("matmul:64x64", Reason::Pinned));
        // Another class, and a winner that the device does not run, are the table's.
        let few = self::shape(100, Accumulate::F32);
        assert_eq!(self::pick(&on, &few, None, &winners).unwrap().variant, "matmul:64x64");
        winners.set(winner("coop:small"));
        assert_eq!(pick(None, &winners).variant, "matmul:64x64");
        assert!(self::pick(&on, &shape, Some("coop:small"), &winners).is_err());
        assert!(self::pick(&on, &shape, Some("matmol"), &winners).is_err());
    }

    #[test]
    fn classes_are_of_like_products() {
        let of = |m, n, k| Shape { m, n, k, ..shape(1, Accumulate::F32) }.class();
        for (a, b) in [((2, 4096, 4096), (4, 8191, 8191)), ((257, 64, 1), (1 << 30, 127, 1))] {
            assert_eq!(of(a.0, a.1, a.2), of(b.0, b.1, b.2), "{a:?} {b:?}");
        }
        let first = of(4, 4096, 4096);
        for (m, n, k) in [(1, 4096, 4096), (5, 4096, 4096), (4, 4095, 4096), (4, 4096, 8192)] {
            assert_ne!(of(m, n, k), first, "{m} {n} {k}");
        }
        // Every M has one class.
        assert_eq!((*ROWS[0].start(), *ROWS[ROWS.len() - 1].end()), (1, usize::MAX));
        assert!(ROWS.windows(2).all(|pair| pair[0].end() + 1 == *pair[1].start()));
        assert_eq!(
            of(1, 1, usize::MAX).to_string(),
            format!("M 1, N 1 to 1, K {} to {}", 1u64 << 63, u64::MAX)
        );
        let half = Shape { accumulate: Accumulate::F16, ..shape(4, Accumulate::F32) };
        assert_ne!(half.class(), first);
    }

    #[test]
    fn candidates_are_all_that_differ() {
        let info = gpu(0x10de);
        let names = |tier, m, accumulate| {
            let (run, not): (Vec<_>, Vec<_>) =
                candidates(&Facts { tier, info: &info }, &shape(m, accumulate))
                    .into_iter()
                    .partition(|(_, choice)| choice.is_ok());
            [run, not].map(|list| list.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        };
        let tiles = ["matmul:64x64", "matmul:32x32", "direct"];
        let few = ["matvec", "dot_matvec", "dot_matmul", "dot_coop"];
        let split = ["matmul:64x64:split", "matmul:32x32:split"];
        let coop = ["coop:large", "coop:small", "coop:varying", "coop:large:split", "coop:small:split"];
        let sorted = |lists: &[&[&'static str]]| {
            let mut all = lists.concat();
            all.sort_unstable();
            all
        };
        let [run, not] = names(MATRICES, 512, F16);
        assert_eq!(sorted(&[&run]), sorted(&[&tiles, &split, &coop]));
        assert_eq!(sorted(&[&not]), sorted(&[&few]));
        // One scale for a row is not enough: x has to be int8.
        for activation in [Activation::F32, Activation::F16] {
            let rows =
                Shape { activation, scheme: "int8-row".parse().unwrap(), ..shape(512, Accumulate::F32) };
            let run = candidates(&Facts { tier: MATRICES, info: &info }, &rows);
            assert!(run.iter().all(|(name, choice)| !name.starts_with("dot_") || choice.is_err()), "{run:?}");
        }
        let [run, not] = names(MATRICES, 512, Accumulate::F32);
        assert_eq!(sorted(&[&run]), sorted(&[&tiles, &split]));
        assert!(not.len() == 5 && few.iter().chain(&["coop"]).all(|name| not.contains(name)), "{not:?}");
        let [run, _] = names(PLAIN, 1, F16);
        assert_eq!(sorted(&[&run]), sorted(&[&["matvec", "matvec:split"], &tiles, &split]));
    }
}
