//! Which vector instructions the machine has, and code compiled once per set of them.
//!
//! ```text
//! Level::best() -> Portable | Avx2 | AvxVnni | Avx512          asked of the machine at run time
//! vectorized(work)    runs it compiled for the best level: loops in it are vectorised accordingly
//! ```
//!
//! A level is a licence: the only way to get one other than `Portable` is to have asked the machine. Kernels are elsewhere.

/// Sets of instructions, each including those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) enum Level {
    /// What the compiler was told to build for.
    Portable,
    /// AVX2, FMA, F16C.
    Avx2,
    /// AVX2 and `vpdpbusd` on 256 bits.
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and VNNI.
    Avx512,
}

impl Level {
    /// The best level of this machine.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c") && has!("bmi2") && has!("popcnt");
            let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq");
            if avx2 && avx512 && has!("avx512vnni") {
                return Self::Avx512;
            }
            if avx2 && has!("avxvnni") {
                return Self::AvxVnni;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// All levels of this machine, `Portable` first: what tests force one after the other.
    #[cfg(test)]
    pub fn available() -> Vec<Self> {
        let best = Self::best();
        let has_vnni = cfg!(target_arch = "x86_64") && best >= Self::AvxVnni && Self::has_avx_vnni();
        [Self::Portable, Self::Avx2, Self::AvxVnni, Self::Avx512]
            .into_iter()
            .filter(|l| *l <= best && (*l != Self::AvxVnni || has_vnni))
            .collect()
    }

    #[cfg(test)]
    fn has_avx_vnni() -> bool {
        #[cfg(target_arch = "x86_64")]
        return std::arch::is_x86_feature_detected!("avxvnni");
        #[cfg(not(target_arch = "x86_64"))]
        false
    }
}

/// The vector instructions that the CPU engine uses on this machine.
pub fn instructions() -> &'static str {
    match Level::best() {
        Level::Portable if cfg!(target_arch = "x86_64") => "x86-64",
        Level::Portable if cfg!(target_feature = "simd128") => "wasm32 with SIMD",
        Level::Portable => std::env::consts::ARCH,
        Level::Avx2 => "AVX2",
        Level::AvxVnni => "AVX2 with VNNI",
        Level::Avx512 => "AVX-512 with VNNI",
    }
}

/// How wide f32 vectors are on the best level, and whether one instruction multiplies and adds.
#[cfg(any(feature = "cli", all(feature = "web", target_arch = "wasm32")))]
pub(crate) fn vectors() -> (usize, bool) {
    match Level::best() {
        Level::Avx512 => (16, true),
        Level::AvxVnni | Level::Avx2 => (8, true),
        Level::Portable => (4, cfg!(target_arch = "aarch64")),
    }
}

/// A piece of work whose loops profit from wide vectors. Implement `run` with `#[inline(always)]`, so that it becomes part of the
/// function that has the features.
pub(crate) trait Work {
    type Output;
    fn run(self) -> Self::Output;
}

/// Runs `work` compiled for the machine's best instructions. The arithmetic is the same on every level: the compiler never contracts
/// or reorders f32 operations.
pub(crate) fn vectorized<W: Work>(work: W) -> W::Output {
    vectorized_at(Level::best(), work)
}

/// [`vectorized`] for a level.
pub(super) fn vectorized_at<W: Work>(level: Level, work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c,bmi2,popcnt")]
        fn avx512<W: Work>(work: W) -> W::Output {
            work.run()
        }
        #[target_feature(enable = "avx2,fma,f16c,bmi2,popcnt")]
        fn avx2<W: Work>(work: W) -> W::Output {
            work.run()
        }
        match level {
            // SAFETY: `Level::Avx512` exists only where `Level::best` has found these features.
            #[allow(unsafe_code)]
            Level::Avx512 => return unsafe { avx512(work) },
            // SAFETY: as above, for the features of AVX2.
            #[allow(unsafe_code)]
            Level::AvxVnni | Level::Avx2 => return unsafe { avx2(work) },
            Level::Portable => {}
        }
    }
    let _ = level;
    work.run()
}
