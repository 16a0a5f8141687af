//! What is timed: shapes, schemes, who computes them, and how near the f64 product each has to come.

/// M x K x N.
pub const SHAPES: [[usize; 3]; 4] = [[1, 4096, 4096], [1, 14336, 4096], [8, 14336, 4096], [128, 4096, 4096]];

/// Weights and activations on a device, and who computes them there.
pub struct Case {
    pub gpu: bool,
    pub scheme: &'static str,
    /// `f32`: a product of f32 activations, which engines round as they do by default. `int8`: rounded to int8 first.
    pub activation: &'static str,
    pub peers: &'static [&'static str],
}

const fn case(
    gpu: bool,
    scheme: &'static str,
    activation: &'static str,
    peers: &'static [&'static str],
) -> Case {
    Case { gpu, scheme, activation, peers }
}

pub const CASES: [Case; 10] = [
    case(true, "q4_0", "f32", &["ggml-vulkan", "onnxruntime-webgpu", "web-rwkv", "burn"]),
    case(true, "q4_0", "int8", &["onnxruntime-webgpu"]),
    case(true, "q8_0", "f32", &["ggml-vulkan", "onnxruntime-webgpu", "web-rwkv", "burn"]),
    case(true, "q8_0", "int8", &["onnxruntime-webgpu"]),
    case(false, "q4_0", "int8", &["ggml-cpu", "candle", "onnxruntime"]),
    case(false, "q8_0", "int8", &["ggml-cpu", "candle", "onnxruntime"]),
    case(false, "q4_k", "int8", &["ggml-cpu", "candle"]),
    case(false, "q4_0", "f32", &["onnxruntime"]),
    case(false, "q8_0", "f32", &["onnxruntime"]),
    case(false, "int8-row", "int8", &["onnxruntime"]),
];

/// The scheme of lowbit's that comes nearest to what a peer's own quantizer makes of w. None: the peer reads lowbit's bytes.
pub fn own_quantizer(peer: &str, scheme: &str) -> Option<&'static str> {
    match (peer, scheme) {
        ("web-rwkv", "q4_0") => Some("nf4-g64"),
        ("web-rwkv", "q8_0") => Some("int8-g128-asym"),
        ("burn", "q4_0") => Some("int4-g32"),
        ("burn", "q8_0") => Some("int8-g32"),
        _ => None,
    }
}

/// How far the root mean square of y may be from the product in f64, relative to it, without the error of weights.
///
/// - f32 throughout: 1e-5, far above 2^-24 times the root of K.
/// - int8 activations: amax / 127 is a step, its rounding has 1 / sqrt(12) of it. In a group of 32, amax is at most sqrt(32) times the root mean square,
///   in a row of normal values 5 times: 1.3 %.
/// - f16: a chain of K sums of relative error 2^-12 each, walking at random: 2^-12 sqrt(K / 3), and twice 2^-12 for the operands. Of ggml, web-rwkv and
///   burn on a GPU only that is known; ggml may take int8 activations there too.
pub fn tolerance(name: &str, activation: &str, k: usize) -> f64 {
    let int8 = 32f64.sqrt() / 127.0 / 12f64.sqrt();
    let f16 = ((k as f64 / 3.0).sqrt() + 2.0) / 4096.0;
    match name {
        "ggml-vulkan" => int8.max(f16),
        "web-rwkv" | "burn" => f16,
        _ if activation == "int8" => int8,
        _ => 1e-5,
    }
}
