//! What every program that is timed does; the packages of peers include this file, ggml.c and onnxruntime-peer.py do the same.
//!
//! ```text
//! PROGRAM DEVICE M K N SCHEME ACTIVATION FOLDER Y      FOLDER: xM.f32 [M, K], w.f32 [N, K], SCHEME.gguf, SCHEME.onnx or SCHEME/
//!   operands -> product -> file Y [M, N], f32
//!   stdout: ready WHAT RAN
//!   stdin:  a line -> products for some ms that do not count, then one that does -> stdout: its wall time in ms
//! ```
//!
//! A run begins with the operands on the device and ends when y is complete: submit and wait count. What a program cannot do without beyond that
//! (copies of x and y), it says in its first line. Any error goes to stderr, and the program ends.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

/// Weights come back into the caches and threads awake in this time before a run that counts.
const WARM: Duration = Duration::from_millis(4);

/// The product to compute.
pub struct Job {
    /// `cpu`, or the adapter's name.
    pub device: String,
    pub m: usize,
    pub k: usize,
    pub n: usize,
    pub scheme: String,
    /// `f32` or `int8`.
    pub activation: String,
    pub folder: PathBuf,
    out: PathBuf,
}

impl Job {
    /// From the program's arguments.
    pub fn from_args() -> Anyhow<Self> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [device, m, k, n, scheme, activation, folder, out] = args.as_slice() else {
            return Err("arguments: DEVICE M K N SCHEME ACTIVATION FOLDER Y".into());
        };
        Ok(Self {
            device: device.clone(),
            m: m.parse()?,
            k: k.parse()?,
            n: n.parse()?,
            scheme: scheme.clone(),
            activation: activation.clone(),
            folder: folder.into(),
            out: out.into(),
        })
    }

    /// `[M, K]`.
    pub fn x(&self) -> Anyhow<Vec<f32>> {
        floats(&self.folder.join(format!("x{}.f32", self.m)))
    }

    /// `[N, K]`, for programs that have their own quantizer.
    pub fn w(&self) -> Anyhow<Vec<f32>> {
        floats(&self.folder.join("w.f32"))
    }

    /// Hands y over, then times `run` as often as asked. `what` says what computes.
    pub fn serve(&self, what: &str, y: &[f32], mut run: impl FnMut() -> Anyhow<()>) -> Anyhow<()> {
        write_floats(&self.out, y)?;
        println!("ready {what}");
        for line in std::io::stdin().lock().lines() {
            line?;
            let start = Instant::now();
            while start.elapsed() < WARM {
                run()?;
            }
            let start = Instant::now();
            run()?;
            println!("{:.6}", start.elapsed().as_secs_f64() * 1e3);
            std::io::stdout().flush()?;
        }
        Ok(())
    }
}

/// The numbers of a file of little-endian f32.
pub fn floats(path: &Path) -> Anyhow<Vec<f32>> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// The other way.
pub fn write_floats(path: &Path, values: &[f32]) -> Anyhow<()> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Ok(std::fs::write(path, bytes).map_err(|e| format!("{}: {e}", path.display()))?)
}
