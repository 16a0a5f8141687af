//! A factor for the loss that lifts gradients above what f16 loses, and falls where they overflow.
//!
//! ```text
//! gradients finite: after `patience` of them in a row twice the scale        else: the update is left out, half the scale
//! ```

/// The scale and how it moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScale {
    scale: f32,
    good: u32,
    patience: u32,
}

impl LossScale {
    const MOST: f32 = 16_777_216.0;

    /// A scale to begin with, from 2^-24 to 2^24, that doubles after so many good updates.
    pub fn new(scale: f32, patience: u32) -> Self {
        Self { scale: scale.clamp(1.0 / Self::MOST, Self::MOST), good: 0, patience: patience.max(1) }
    }

    /// What the loss is multiplied with.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Hears whether all gradients were finite; says whether to use them.
    pub fn hear(&mut self, finite: bool) -> bool {
        self.good = if finite { self.good + 1 } else { 0 };
        if !finite {
            self.scale = (self.scale / 2.0).max(1.0 / Self::MOST);
        } else if self.good.is_multiple_of(self.patience) {
            self.scale = (self.scale * 2.0).min(Self::MOST);
        }
        finite
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_after_patience_and_falls_at_once() {
        let mut scale = LossScale::new(1024.0, 3);
        let heard = [true, true, false, true, true, true, true].map(|f| (scale.hear(f), scale.scale()));
        assert_eq!(heard.map(|(used, _)| used), [true, true, false, true, true, true, true]);
        assert_eq!(heard.map(|(_, s)| s), [1024.0, 1024.0, 512.0, 512.0, 512.0, 1024.0, 1024.0]);
        let mut least = LossScale::new(0.0, 1);
        least.hear(false);
        assert_eq!(least.scale(), 2f32.powi(-24));
        assert!((0..60).all(|_| least.hear(true)));
        assert_eq!(least.scale(), 2f32.powi(24));
    }
}
