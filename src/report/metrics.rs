//! How far a result is from its reference: sums in f64, taken chunk by chunk.
//!
//! ```text
//! Errors::default() --add(reference, got)*--> sums --merge--> sums --> sqnr_db, cosine, max_abs, mean_abs
//! ```
//!
//! A NaN or an infinity that is not matched by the same infinity shows in every measure it belongs to, as NaN; nothing is
//! filtered out. Bounds that results must keep are the tests' own.

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// Sums over pairs of values (reference `r`, result `g`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Errors {
    count: u64,
    /// Σ r²
    reference_power: f64,
    /// Σ g²
    result_power: f64,
    /// Σ (r - g)²
    error_power: f64,
    /// Σ r·g
    dot: f64,
    /// Σ |r - g|
    abs_sum: f64,
    /// max |r - g|, NaN once there was one
    abs_max: f64,
}

impl Errors {
    /// Takes in a chunk. Equal values, infinities too, have no error.
    ///
    /// # Panics
    /// If the chunks have different lengths.
    pub fn add<A: Into<f64> + Copy, B: Into<f64> + Copy>(&mut self, reference: &[A], got: &[B]) {
        assert_eq!(reference.len(), got.len(), "a result has as many values as its reference");
        for (&r, &g) in reference.iter().zip(got) {
            let (r, g): (f64, f64) = (r.into(), g.into());
            let error = if r == g { 0.0 } else { (r - g).abs() };
            self.count += 1;
            self.reference_power += r * r;
            self.result_power += g * g;
            self.error_power += error * error;
            self.dot += r * g;
            self.abs_sum += error;
            self.abs_max = max_or_nan(self.abs_max, error);
        }
    }

    /// The measures of one pair of slices.
    ///
    /// # Panics
    /// As [`Self::add`].
    pub fn of<A: Into<f64> + Copy, B: Into<f64> + Copy>(reference: &[A], got: &[B]) -> Self {
        let mut errors = Self::default();
        errors.add(reference, got);
        errors
    }

    /// Takes in what another part of the tensor, or another tensor, has summed up.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.reference_power += other.reference_power;
        self.result_power += other.result_power;
        self.error_power += other.error_power;
        self.dot += other.dot;
        self.abs_sum += other.abs_sum;
        self.abs_max = max_or_nan(self.abs_max, other.abs_max);
    }

    /// Pairs of values seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether every result equals its reference (as numbers: -0 equals 0).
    pub fn exact(&self) -> bool {
        self.abs_max == 0.0
    }

    /// Signal to quantization noise, `10 log10(Σ r² / Σ (r - g)²)`: +infinity if there is no error, -infinity if the reference is
    /// zero and the result is not, NaN if either has a NaN.
    pub fn sqnr_db(&self) -> f64 {
        if self.exact() { f64::INFINITY } else { 10.0 * (self.reference_power / self.error_power).log10() }
    }

    /// `Σ r·g / sqrt(Σ r² · Σ g²)`: 1 where both are zero, 0 where one is.
    pub fn cosine(&self) -> f64 {
        if self.reference_power == 0.0 && self.result_power == 0.0 {
            return 1.0;
        }
        // Roots apart: the product of two sums of squares leaves the range of f64 earlier.
        let norm = self.reference_power.sqrt() * self.result_power.sqrt();
        if norm == 0.0 { 0.0 } else { self.dot / norm }
    }

    /// `Σ (r - g)²`.
    pub fn error_power(&self) -> f64 {
        self.error_power
    }

    /// Largest `|r - g|`.
    pub fn max_abs(&self) -> f64 {
        self.abs_max
    }

    /// Mean `|r - g|`; 0 of no values.
    pub fn mean_abs(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.abs_sum / self.count as f64 }
    }

    /// [`Self::sqnr_db`] for a table: two decimals, or `exact`.
    pub fn sqnr_text(&self) -> String {
        let db = self.sqnr_db();
        if db == f64::INFINITY { "exact".into() } else { format!("{db:.2}") }
    }
}

/// The larger one; NaN if one is NaN, unlike [`f64::max`].
fn max_or_nan(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// `{"sqnr_db", "cosine", "max_abs_error", "mean_abs_error", "exact"}`: numbers, or `null` for what is not finite, as JSON has no
/// other word for it. `"exact"` tells the SQNR without error (infinite) from one that a NaN spoiled.
impl Serialize for Errors {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // serde_json writes `null` for NaN and infinities.
        let mut fields = to.serialize_struct("Errors", 5)?;
        fields.serialize_field("sqnr_db", &self.sqnr_db())?;
        fields.serialize_field("cosine", &self.cosine())?;
        fields.serialize_field("max_abs_error", &self.max_abs())?;
        fields.serialize_field("mean_abs_error", &self.mean_abs())?;
        fields.serialize_field("exact", &self.exact())?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(e: &Errors) -> String {
        serde_json::to_string(e).unwrap()
    }

    #[test]
    fn worked_out_by_hand() {
        let e = Errors::of(&[3.0f32, -4.0, 0.0], &[3.0f64, -4.5, 0.5]);
        assert!((e.sqnr_db() - 10.0 * (25.0f64 / 0.5).log10()).abs() < 1e-12);
        assert!((e.cosine() - 27.0 / (25.0f64 * 29.5).sqrt()).abs() < 1e-12);
        assert_eq!((e.max_abs(), e.mean_abs(), e.count()), (0.5, 1.0 / 3.0, 3));
        assert_eq!(e.sqnr_text(), "16.99");
    }

    #[test]
    fn exact_and_zero_references() {
        let exact = Errors::of(&[1.0f32, 0.0, f32::INFINITY], &[1.0f32, -0.0, f32::INFINITY]);
        assert_eq!((exact.sqnr_db(), exact.sqnr_text().as_str()), (f64::INFINITY, "exact"));
        assert!(
            json(&exact).starts_with(r#"{"sqnr_db":null,"#) && json(&exact).ends_with(r#""exact":true}"#)
        );
        let zeros = Errors::of(&[0.0f32; 4], &[0.0f32; 4]);
        assert_eq!((zeros.sqnr_db(), zeros.cosine()), (f64::INFINITY, 1.0));
        let from_zero = Errors::of(&[0.0f32; 2], &[0.0f32, 1.0]);
        assert_eq!((from_zero.sqnr_db(), from_zero.cosine()), (f64::NEG_INFINITY, 0.0));
        assert_eq!(
            json(&from_zero),
            r#"{"sqnr_db":null,"cosine":0.0,"max_abs_error":1.0,"mean_abs_error":0.5,"exact":false}"#
        );
        assert_eq!((Errors::default().sqnr_db(), Errors::default().mean_abs()), (f64::INFINITY, 0.0));
    }

    #[test]
    fn a_nan_shows_in_every_measure_and_stays() {
        for (reference, got) in
            [([1.0, 2.0, 3.0], [1.0, f32::NAN, 4.0]), ([1.0, f32::NAN, 3.0], [1.0, f32::NAN, 3.0])]
        {
            let mut e = Errors::of(&reference, &got);
            let mut other = Errors::of(&[1.0f32], &[1.5f32]);
            other.merge(&e);
            e.add(&[1.0f32], &[1.0f32]);
            for e in [e, other] {
                assert!(!e.exact());
                let all = [e.sqnr_db(), e.cosine(), e.max_abs(), e.mean_abs()];
                assert!(all.iter().all(|v| v.is_nan()), "{all:?}");
                assert_eq!(json(&e).matches("null").count(), 4, "{}", json(&e));
                assert!(json(&e).ends_with(r#""exact":false}"#));
                assert_eq!(e.sqnr_text(), "NaN");
            }
        }
        let lost = Errors::of(&[f32::INFINITY], &[1.0f32]);
        assert_eq!((lost.max_abs(), lost.exact()), (f64::INFINITY, false));
    }

    #[test]
    fn chunks_in_any_split_give_one_sum() {
        let r: Vec<f32> = (0..1000).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0).collect();
        let g: Vec<f32> = r.iter().map(|v| (v * 2.0).round() / 2.0).collect();
        let whole = Errors::of(&r, &g);
        let mut parts = Errors::default();
        for (r, g) in r.chunks(77).zip(g.chunks(77)) {
            parts.merge(&Errors::of(r, g));
        }
        // All values are multiples of 1/8: the sums are exact in any order.
        assert_eq!(parts, whole);
        assert!(whole.sqnr_db() > 10.0 && whole.sqnr_db() < 40.0);
    }
}
