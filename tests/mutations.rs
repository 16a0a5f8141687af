//! What reads bytes from outside neither panics nor allocates wildly: 20,000 mutations of the fuzzer's seeds for each reader, with a
//! fixed seed. `fuzz/` has the same targets for cargo-fuzz.
//!
//! ```text
//! fuzz/corpus/READER/* -> bits flipped, bytes set, numbers put in, runs cut, doubled, moved -> reader -> Ok | Err
//!                         allocator that counts -> bytes asked for <= a multiple of the file's
//! ```

#[path = "../fuzz/fuzz_targets/model.rs"]
mod model;
#[path = "../fuzz/fuzz_targets/settings.rs"]
mod settings;

use lowbit::file::imatrix::Imatrix;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::PathBuf;

thread_local! {
    /// Bytes that this thread has asked for, freed ones too.
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: usize) {
    // Not in a thread that ends, whose locals are gone.
    let _ = ASKED.try_with(|asked| asked.set(asked.get().saturating_add(bytes)));
}

// SAFETY: every call goes to the system's allocator with the arguments it came with; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as for the system's allocator.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are the system's conditions.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as for the system's allocator.
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system's conditions.
        unsafe { System.dealloc(at, layout) }
    }

    // SAFETY: as for the system's allocator.
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promises are the system's conditions.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const MUTATIONS: usize = 20_000;
/// Bytes that reading may ask for, in all, per byte of the file: a tensor is copied, unpacked, packed again and its codes take a byte
/// each (1 bit in the file); a name is kept in several places. An unchecked length asks for millions.
const PER_BYTE: usize = 64;
/// And for what does not depend on it: tables of a block type, messages, maps.
const FIXED: usize = 1 << 17;

/// Numbers that lengths, counts and offsets are wrong with.
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    31,
    32,
    255,
    65535,
    1 << 30,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 62,
    i64::MAX as u64,
    u64::MAX,
];

/// Bytes that a file of `len` may make a reader ask for.
fn allowed(len: usize) -> usize {
    len * PER_BYTE + FIXED
}

fn seeds(reader: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(reader);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 2, "{} seeds in {}", paths.len(), folder.display());
    paths.into_iter().map(|p| (p.clone(), std::fs::read(p).unwrap())).collect()
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    for _ in 0..rng.random_range(1..=4) {
        if bytes.is_empty() {
            return;
        }
        // Headers are where readers decide; half of the changes are in the first bytes.
        let reach = if rng.random_bool(0.5) { bytes.len().min(128) } else { bytes.len() };
        let at = rng.random_range(0..reach);
        let len = rng.random_range(1..=16).min(bytes.len() - at);
        match rng.random_range(0..7) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => {
                let number = NUMBERS[rng.random_range(0..NUMBERS.len())].to_le_bytes();
                let len = if rng.random_bool(0.5) { 4 } else { 8 }.min(bytes.len() - at);
                bytes[at..at + len].copy_from_slice(&number[..len]);
            }
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..at + len)),
            5 => {
                let run = bytes[at..at + len].to_vec();
                let to = rng.random_range(0..=bytes.len());
                bytes.splice(to..to, run);
            }
            _ => {
                let from = rng.random_range(0..=bytes.len() - len);
                bytes.copy_within(from..from + len, at);
            }
        }
    }
}

/// `read` says whether the bytes were accepted.
fn smoke(reader: &str, read: impl Fn(&[u8]) -> bool) {
    let seeds = seeds(reader);
    let asked = |bytes: &[u8]| {
        let before = ASKED.get();
        let accepted = read(bytes);
        (accepted, ASKED.get() - before)
    };
    for (path, seed) in &seeds {
        assert!(read(seed), "{} is no good seed", path.display());
    }
    let mut rng = StdRng::seed_from_u64(20_261_121);
    let mut accepted = 0;
    let mut worst = 0f64;
    for i in 0..MUTATIONS {
        let mut bytes = seeds[i % seeds.len()].1.clone();
        mutate(&mut bytes, &mut rng);
        let (ok, asked) = asked(&bytes);
        accepted += usize::from(ok);
        let allowed = allowed(bytes.len());
        worst = worst.max(asked as f64 / allowed as f64);
        assert!(
            asked <= allowed,
            "{reader}, mutation {i}: {asked} bytes asked for by a file of {}",
            bytes.len()
        );
    }
    println!(
        "{reader}: {MUTATIONS} mutations of {} seeds, {accepted} accepted, at most {worst:.2} of the bytes allowed",
        seeds.len()
    );
    // Neither all nothing but noise, nor all untouched.
    assert!(accepted > MUTATIONS / 100 && accepted < MUTATIONS * 9 / 10, "{accepted}");
}

#[test]
fn gguf() {
    smoke("gguf", model::read);
}

#[test]
fn safetensors() {
    smoke("safetensors", model::read);
}

#[test]
fn onnx() {
    smoke("onnx", model::read);
}

#[test]
fn imatrix() {
    smoke("imatrix", |bytes| Imatrix::from_bytes("fuzz", bytes.to_vec()).is_ok());
}

/// Settings and tensors of other quantizers; more of them, whose types and shapes are changed, are in `tests/checkpoints/mutations.rs`.
#[test]
fn checkpoint() {
    smoke("checkpoint", settings::read);
}

#[test]
fn an_unchecked_length_would_be_seen() {
    let before = ASKED.get();
    drop(std::hint::black_box(Vec::<u8>::with_capacity(10_000_000)));
    let readers = ["gguf", "safetensors", "onnx", "imatrix", "checkpoint"];
    let longest = readers.into_iter().flat_map(seeds).map(|(_, bytes)| bytes.len()).max();
    assert!(ASKED.get() - before > allowed(2 * longest.unwrap()));
}
