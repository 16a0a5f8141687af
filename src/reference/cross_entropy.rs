//! The oracle of the loss of scores, by the formula of `learning`, in f64.
//!
//! ```text
//! loss[m] = scale * ((1 - share) H(targets, softmax(z)) + share T^2 KL(softmax(teacher / T) || softmax(z / T)))
//! gradient of z = scale * ((1 - share) (softmax(z) - targets) + share T (softmax(z / T) - softmax(teacher / T)))        targets sum to 1
//! ```

use crate::learning::Distillation;

/// Logarithms of the probabilities of `z / t`.
fn log_softmax(z: &[f32], t: f64) -> Vec<f64> {
    let scaled: Vec<f64> = z.iter().map(|&v| f64::from(v) / t).collect();
    let top = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scaled.iter().map(|v| (v - top).exp()).sum();
    scaled.iter().map(|v| v - top - sum.ln()).collect()
}

/// The losses `[M]` of scores `[M, C]`, or the gradient `[M, C]` of their sum.
pub fn cross_entropy(
    scores: &[f32],
    classes: usize,
    targets: &[f32],
    teacher: Option<(&[f32], Distillation)>,
    scale: f32,
    gradient: bool,
) -> Vec<f64> {
    let mut all = Vec::new();
    for (row, z) in scores.chunks(classes).enumerate() {
        let at = row * classes..(row + 1) * classes;
        let (p, targets) = (log_softmax(z, 1.0), &targets[at.clone()]);
        let share = teacher.map_or(0.0, |(_, how)| f64::from(how.share));
        let mut of_labels = 0.0;
        let mut d = Vec::new();
        for c in 0..classes {
            of_labels -= f64::from(targets[c]) * p[c];
            d.push((1.0 - share) * (p[c].exp() - f64::from(targets[c])));
        }
        let mut of_teacher = 0.0;
        if let Some((teacher, how)) = teacher {
            let t = f64::from(how.temperature);
            let (soft, wanted) = (log_softmax(z, t), log_softmax(&teacher[at], t));
            for c in 0..classes {
                of_teacher += t * t * wanted[c].exp() * (wanted[c] - soft[c]);
                d[c] += share * t * (soft[c].exp() - wanted[c].exp());
            }
        }
        let scale = f64::from(scale);
        match gradient {
            true => all.extend(d.iter().map(|v| scale * v)),
            false => all.push(scale * ((1.0 - share) * of_labels + share * of_teacher)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_worked_out_by_hand() {
        let ln = |v: f64| v.ln();
        // Scores 0 and ln 3: probabilities 1/4 and 3/4.
        let z = [0.0, ln(3.0) as f32];
        let loss = cross_entropy(&z, 2, &[1.0, 0.0], None, 2.0, false);
        assert!((loss[0] - 2.0 * ln(4.0)).abs() < 1e-6);
        let d = cross_entropy(&z, 2, &[1.0, 0.0], None, 2.0, true);
        assert!((d[0] + 1.5).abs() < 1e-6 && (d[1] - 1.5).abs() < 1e-6, "{d:?}");
        // A teacher that is the student costs nothing.
        let how = Distillation { temperature: 3.0, share: 0.5 };
        let half = cross_entropy(&z, 2, &[1.0, 0.0], Some((&z, how)), 2.0, false);
        assert!((half[0] - ln(4.0)).abs() < 1e-6);
    }

    #[test]
    fn gradients_are_those_of_the_losses() {
        let z = [0.3f32, -1.0, 2.0, 0.5, 0.25, -0.5];
        let (targets, teacher) = ([0.0, 1.0, 0.0, 0.2, 0.3, 0.5], [1.0, 0.5, -2.0, 0.0, 3.0, 1.0]);
        let how = Distillation { temperature: 2.5, share: 0.7 };
        for teacher in [None, Some((&teacher[..], how))] {
            let d = cross_entropy(&z, 3, &targets, teacher, 1.5, true);
            for i in 0..z.len() {
                let moved = |by: f32| {
                    let mut z = z;
                    z[i] += by;
                    cross_entropy(&z, 3, &targets, teacher, 1.5, false).iter().sum::<f64>()
                };
                let h = 1.0 / 1024.0;
                let wanted = (moved(h) - moved(-h)) / f64::from(2.0 * h);
                assert!((d[i] - wanted).abs() < 1e-5, "{i}: {} {wanted}", d[i]);
            }
        }
    }
}
