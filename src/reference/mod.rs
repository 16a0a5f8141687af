//! The oracle: one obvious loop per operation, written for reading.
//!
//! ```text
//! quantize    x f32 [rows, k]          -> PackedTensor        the Encoder definitions, in single f32 operations
//! dequantize  PackedTensor             -> w f32 [rows, k]     the decoding rule, in single f32 operations
//! matmul      x f32 [m, k], w [n, k]   -> y f64 [m, n]        products and epilogue in f64
//! embed, layer_norm, attention, mean_pool, normalize          what else a transformer encoder is made of, in f64
//! kv          k, v f32 [t, width]      -> the words of a cache, what they decode to, attention to it in f64
//! dense, fake_quantize, activate, cross_entropy, update       what training is made of, gradients among it
//! ```
//!
//! Every engine, kernel and transcoder is checked against these functions, so they share no arithmetic and no helper with
//! them: codes are cut out of the planes here by a second reading of the text of [`crate::scheme::layout`]. They are
//! compiled always, for the self-test and the demo are made of them. They are slow, and not for production.

pub mod activate;
pub mod attention;
pub mod cross_entropy;
pub mod dense;
pub mod dequantize;
pub mod embed;
pub mod fake_quantize;
pub mod gram;
pub mod histogram;
pub mod kv;
pub mod layer_norm;
pub mod matmul;
pub mod mean_pool;
mod method;
pub mod normalize;
pub mod quantize;
mod search;
pub mod transform;
pub mod update;

pub use activate::activate;
pub use attention::attention;
pub use cross_entropy::cross_entropy;
pub use dense::dense;
pub use dequantize::dequantize;
pub use embed::embed;
pub use fake_quantize::{fake_quantize, step_gradient};
pub use gram::gram;
pub use histogram::histogram;
pub use layer_norm::layer_norm;
pub use matmul::matmul;
pub use mean_pool::mean_pool;
pub use normalize::normalize;
pub use quantize::{quantize, quantize_by, quantize_weighted};
pub use transform::transform;
pub use update::update;

use crate::PackedTensor;
use crate::scheme::PlaneKind;

/// The code planes of a `bits`-bit code: kind, width in bits, and the bit of the code at which the plane begins.
fn code_planes(bits: u8) -> &'static [(PlaneKind, usize, usize)] {
    use PlaneKind::{CodesHigh, CodesLow};
    match bits {
        1 => &[(CodesLow, 1, 0)],
        2 => &[(CodesLow, 2, 0)],
        3 => &[(CodesLow, 2, 0), (CodesHigh, 1, 2)],
        4 => &[(CodesLow, 4, 0)],
        5 => &[(CodesLow, 4, 0), (CodesHigh, 1, 4)],
        6 => &[(CodesLow, 4, 0), (CodesHigh, 2, 4)],
        7 | 8 => &[(CodesLow, 8, 0)],
        16 => &[(CodesLow, 16, 0)],
        32 => &[(CodesLow, 32, 0)],
        _ => panic!("no scheme has {bits}-bit codes"),
    }
}

/// Where value `col` of a row lies in a plane of `width` bits: the 32-bit word of the row, and the bit in the word.
fn word_and_bit(col: usize, width: usize) -> (usize, usize) {
    let values_per_word = 32 / width;
    let (word, i) = (col / values_per_word, col % values_per_word);
    match width {
        32 => (word, 0),
        16 => (word, 16 * i),
        _ => (word, 8 * (i % 4) + width * (i / 4)),
    }
}

fn ones(width: usize) -> u32 {
    u32::MAX >> (32 - width)
}

/// The code of weight `(row, col)`.
fn load_code(w: &PackedTensor, row: usize, col: usize) -> u32 {
    let mut code = 0;
    for &(kind, width, first_bit) in code_planes(w.scheme().bits) {
        let (word, bit) = word_and_bit(col, width);
        let at = row * w.layout().plane(kind).map_or(0, |p| p.row_stride) + 4 * word;
        let b = &w.plane(kind)[at..at + 4];
        let word = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        code |= ((word >> bit) & ones(width)) << first_bit;
    }
    code
}

/// Stores the code of weight `(row, col)`, where the planes still hold zeros.
fn store_code(w: &mut PackedTensor, row: usize, col: usize, code: u32) {
    for &(kind, width, first_bit) in code_planes(w.scheme().bits) {
        let (word, bit) = word_and_bit(col, width);
        let at = row * w.layout().plane(kind).map_or(0, |p| p.row_stride) + 4 * word;
        let added = (((code >> first_bit) & ones(width)) << bit).to_le_bytes();
        for (byte, added) in w.plane_mut(kind)[at..at + 4].iter_mut().zip(added) {
            *byte |= added;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheme::preset::samples;

    #[test]
    fn codes_lie_where_the_packed_tensor_finds_them() {
        for scheme in samples().into_iter().filter(|s| s.bits <= 8) {
            let k = if scheme.ggml.is_some() { 512 } else { 77 };
            let mut w = PackedTensor::zeroed(scheme, [3, k]).unwrap();
            let code = |r: usize, c: usize| (r * 131 + c * 37 + c / 7) as u32 % (1 << scheme.bits);
            for (r, c) in (0..3).flat_map(|r| (0..k).map(move |c| (r, c))) {
                store_code(&mut w, r, c, code(r, c));
            }
            for (r, c) in (0..3).flat_map(|r| (0..k).map(move |c| (r, c))) {
                assert_eq!((load_code(&w, r, c), w.code(r, c)), (code(r, c), code(r, c)), "{scheme} {r} {c}");
            }
        }
    }
}
