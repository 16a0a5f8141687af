//! What could be done about a quantized model, from the measures of its layers.
//!
//! ```text
//! layers (SQNR, clipped, entropy of codes, size) -> far below the others? clipped? few codes used? large and left? -> Advice, the most telling first
//! ```

/// A layer is far below the others if its SQNR is so many dB below their median: it has twice their share of noise.
pub const FAR_BELOW: f64 = 3.0;
/// Clipping is told of where it makes so much of the error.
pub const CLIPPED: f64 = 0.25;
/// Few codes are used where they are worth so many bits less than they have.
pub const IDLE_BITS: f64 = 1.5;
/// What was left as it is is told of from this share of the file on.
pub const LARGE: f64 = 0.05;

/// What is known of a tensor.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    pub name: &'a str,
    pub weights: u64,
    /// Whether it is packed; else it was left as it is.
    pub packed: bool,
    pub bytes: u64,
    pub sqnr_db: f64,
    /// The share of the error that clipped weights make.
    pub clipped: f64,
    /// Bits of a code, and what they are worth.
    pub bits: f64,
    pub entropy: f64,
}

/// What to do about a tensor, and why.
#[derive(Clone, Debug, PartialEq)]
pub enum Advice {
    /// More bits: it is so many dB below the median; a bit more takes this share off the sum of relative errors of all, for so many bytes.
    Keep { below: f64, gain: f64, bytes: u64 },
    /// Another method: clipped weights make this share of the error.
    Clips { share: f64 },
    /// Smaller groups: its codes of so many bits are worth so many.
    Idle { bits: f64, entropy: f64 },
    /// A scheme that fits: it is this share of the file.
    Left { share: f64 },
}

/// The middle one of numbers, NaN left out.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut all: Vec<f64> = values.filter(|v| !v.is_nan()).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}

/// The relative error of an SQNR.
fn noise(db: f64) -> f64 {
    10f64.powf(-db / 10.0)
}

/// What is to be told, by place in `tensors`: layers to keep higher first, those with most to gain before others.
pub fn advice(tensors: &[Known]) -> Vec<(usize, Advice)> {
    let packed = || tensors.iter().enumerate().filter(|(_, t)| t.packed);
    let middle = median(packed().map(|(_, t)| t.sqnr_db));
    let all_noise: f64 = packed().map(|(_, t)| noise(t.sqnr_db)).filter(|n| n.is_finite()).sum();
    let all_bytes: u64 = tensors.iter().map(|t| t.bytes).sum();
    let mut keep: Vec<(usize, Advice)> = Vec::new();
    let mut other: Vec<(usize, Advice)> = Vec::new();
    for (at, t) in packed() {
        let below = middle.map_or(0.0, |middle| middle - t.sqnr_db);
        if below >= FAR_BELOW && below.is_finite() {
            // A bit more is 6 dB: three quarters of the noise go.
            let gain = 0.75 * noise(t.sqnr_db) / all_noise;
            keep.push((at, Advice::Keep { below, gain, bytes: t.weights / 8 }));
        }
        if t.clipped >= CLIPPED {
            other.push((at, Advice::Clips { share: t.clipped }));
        }
        if t.bits - t.entropy >= IDLE_BITS {
            other.push((at, Advice::Idle { bits: t.bits, entropy: t.entropy }));
        }
    }
    let gain = |advice: &Advice| if let Advice::Keep { gain, .. } = advice { *gain } else { 0.0 };
    keep.sort_by(|a, b| gain(&b.1).total_cmp(&gain(&a.1)));
    let left = tensors.iter().enumerate().filter(|(_, t)| !t.packed);
    let shares = left.map(|(at, t)| (at, t.bytes as f64 / all_bytes.max(1) as f64));
    other.extend(shares.filter(|(_, share)| *share >= LARGE).map(|(at, share)| (at, Advice::Left { share })));
    keep.into_iter().chain(other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, sqnr_db: f64) -> Known<'_> {
        Known {
            name,
            weights: 8000,
            packed: true,
            bytes: 4000,
            sqnr_db,
            clipped: 0.0,
            bits: 4.0,
            entropy: 3.5,
        }
    }

    #[test]
    fn what_stands_out_is_told_and_nothing_else() {
        let mut tensors =
            vec![layer("a", 20.0), layer("b", 16.9), layer("c", 20.1), layer("d", 10.0), layer("e", 17.1)];
        tensors.push(Known { clipped: 0.3, ..layer("f", 20.0) });
        tensors.push(Known { entropy: 2.4, ..layer("g", 20.2) });
        tensors.push(Known { packed: false, bytes: 2000, ..layer("h", f64::INFINITY) });
        tensors.push(Known { packed: false, bytes: 100, ..layer("i", f64::INFINITY) });
        let found = advice(&tensors);
        let shown: Vec<(&str, &str)> = found
            .iter()
            .map(|(at, advice)| {
                let kind = match advice {
                    Advice::Keep { .. } => "keep",
                    Advice::Clips { .. } => "clips",
                    Advice::Idle { .. } => "idle",
                    Advice::Left { .. } => "left",
                };
                (tensors[*at].name, kind)
            })
            .collect();
        assert_eq!(shown, [("d", "keep"), ("b", "keep"), ("f", "clips"), ("g", "idle"), ("h", "left")]);
        let Advice::Keep { below, gain, bytes } = found[0].1 else { panic!("{:?}", found[0]) };
        assert!((below - 10.0).abs() < 1e-9 && bytes == 1000);
        // 0.1 of 0.1 and six shares of 0.01 to 0.02, three quarters of it.
        assert!(
            gain > 0.75 * 0.1 / (0.1 + 6.0 * 0.021) && gain < 0.75 * 0.1 / (0.1 + 6.0 * 0.0095),
            "{gain}"
        );
        assert!(advice(&[]).is_empty() && advice(&[layer("a", f64::NAN), layer("b", 3.0)]).is_empty());
    }
}
