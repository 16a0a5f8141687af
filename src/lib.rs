//! lowbit: quantized models and low-bit matrix products on any GPU, with a CPU engine beside it.
