//! Quantization-aware training of multi-layer perceptrons, on the engine: the same code on a GPU and on the CPU.
//!
//! ```text
//! Network (host, f32) -> Trainer (engine): x -> [fake_quantize] -> dense with fake_quantize(w) -> f -> ... -> scores -> cross_entropy (targets, teacher)
//!                                          its gradients, layer by layer back to front -> update of the f32 weights, biases, steps, clips
//! Trainer -> Network | PackedTensors, an ordinary quantized model
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `network` | layers on the host |
//! | `trainer` | forward, backward, update |
//! | `quantizer` | the steps of a weight: where they begin, and the packed tensor they end in |
//! | `fit` | examples, batches, epochs, the bits of each stage |
//! | `loss_scale` | how far gradients are lifted above what f16 loses |
//!
//! The operations are `engine::training`'s. Nothing here reads files or prints.

mod fit;
mod loss_scale;
mod network;
mod quantizer;
mod trainer;

pub use fit::{Examples, Plan, Stage, fit};
pub use loss_scale::LossScale;
pub use network::{Layer, Network, answers};
pub use trainer::{Clipping, Optimizer, Settings, Trainer};
